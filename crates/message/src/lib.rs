//! What a request's body says: who the envelope is from and to, what `From` shows, and the other headers.
//!
//! A message policy decides by this, and the MTA behind gatepost reads the same bytes with a parser of its own.
//! So the rule of the whole crate: what two parsers could read in two ways is refused. Nothing is
//! repaired, guessed or skipped.
//!
//! Pure functions and values: no I/O, no clock, no Lua, no proxy library.

mod address;
mod encoded_word;
mod encoding;
mod fault;
mod from;
mod header;
mod json;
mod kumomta;
mod media;
mod rfc822;
mod template;
#[cfg(test)]
mod tests;
mod zonemta;
mod zonemta_raw;

pub use address::{Address, AddressFault};
pub use fault::{FaultKind, MessageFault};

/// Reads the body of a request, as it came, together with the request's headers.
///
/// # Errors
///
/// When the body is not of this format, larger than the limits allow, encoded in a way that is not read, or could be
/// read in two ways.
pub fn read(
    format: Format,
    headers: &http::HeaderMap,
    body: &[u8],
    limits: &Limits,
) -> Result<Message, MessageFault> {
    // What it is comes first: a body of another type is not worth inflating.
    media::check(format, headers)?;
    let body = encoding::inflate(headers, body, limits.max_bytes)?;
    let request = Request {
        headers,
        body: &body,
        limits,
    };
    // A further format is a file with such a function, and a line here and in `media::check`.
    match format {
        Format::KumoMta => kumomta::read(&request),
        Format::ZoneMta => zonemta::read(&request),
        Format::Rfc822 => rfc822::read(&request),
        Format::ZoneMtaRaw => zonemta_raw::read(&request),
    }
}

/// What a format's reader is given.
struct Request<'a> {
    headers: &'a http::HeaderMap,
    /// Inflated, and within `max_bytes`.
    body: &'a [u8],
    limits: &'a Limits,
}

/// How a body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `KumoMTA`'s `POST /api/inject/v1`: JSON.
    KumoMta,
    /// `ZoneMTA`'s `POST /send`: JSON with an `envelope`.
    ZoneMta,
    /// The message itself (`message/rfc822`), its envelope in the headers `X-Envelope-From` and `X-Envelope-To` of the
    /// request.
    Rfc822,
    /// `ZoneMTA`'s `POST /send-raw`: the message itself (`message/rfc822`), of whose `From`, `To`, `Cc` and `Bcc` the MTA
    /// makes the envelope.
    ZoneMtaRaw,
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
    /// Whether the MTA expands what is read here as a template: `KumoMTA` does, unless the dialect is `Static`. A value
    /// may then be sent with other words than it has here.
    pub template: bool,
}

impl Message {
    /// The values of a header, whatever the case of its name.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether the MTA will fill in a part of this value of a header.
    #[must_use]
    pub fn fills_in(&self, value: &str) -> bool {
        self.template && template::holds_marker(value)
    }
}
