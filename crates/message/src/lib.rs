//! What a request's body says: who the envelope is from and to, what `From` shows, and the other headers.
//!
//! A message policy decides by this, and the MTA behind gatepost reads the same bytes with a parser of its own.
//! So the rule of the whole crate: what two parsers could read in two ways is refused. Nothing is
//! repaired, guessed or skipped.
//!
//! Pure functions and values: no I/O, no clock, no Lua, no proxy library.

mod address;
mod fault;

pub use address::{Address, AddressFault};
pub use fault::{FaultKind, MessageFault};

/// How a body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `KumoMTA`'s `POST /api/inject/v1`: JSON.
    KumoMta,
    /// `ZoneMTA`'s `POST /send`: JSON with an `envelope`.
    ZoneMta,
    /// The message itself (`message/rfc822`), its envelope in the headers `X-Envelope-From` and `X-Envelope-To`, as
    /// `ZoneMTA`'s `POST /send-raw` takes it.
    Rfc822,
}

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of the body once it is inflated, in bytes.
    pub max_bytes: usize,
    /// Of the message's header section, in bytes.
    pub max_header_bytes: usize,
    /// Of the recipients.
    pub max_recipients: usize,
}

/// What a body says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who the envelope is from; `None` for the null sender.
    pub sender: Option<Address>,
    /// Who the envelope is to, as it stands there; at least one.
    pub recipients: Vec<Address>,
    /// The addresses of `From` (RFC 5322 §3.6.2); empty where there is no such header.
    pub from: Vec<Address>,
    /// The headers in their order, unfolded, as they are written: names in any case, values not decoded.
    pub headers: Vec<(String, String)>,
    /// The names of the body's own top-level members, for formats that are JSON.
    pub fields: Vec<String>,
    /// The size of the body once it is inflated, in bytes.
    pub size: usize,
}

impl Message {
    /// The values of a header, whatever the case of its name.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}
