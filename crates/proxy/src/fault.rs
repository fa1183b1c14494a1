//! Whose fault it is that a request came to no good end, by the proxy library's word, and how it is answered.

use std::fmt::{self, Write as _};

use gatepost_auth::Refusal;
use gatepost_auth::wire::HeadFault;
use pingora_error::ErrorType::{
    self, BindError, ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout,
    ConnectionClosed, Custom, H1Error, HandshakeError, InvalidCert, InvalidHTTPHeader, ReadError,
    ReadTimedout, SocketError, TLSHandshakeFailure, TLSHandshakeTimedout, WriteError,
    WriteTimedout,
};
use pingora_error::{Error, ErrorSource};

/// A body that did not say how long it is turned out to be too long.
pub(crate) const BODY_TOO_LARGE: ErrorType = Custom("BodyTooLarge");

/// Every address of the upstream is down.
pub(crate) const UPSTREAM_DOWN: ErrorType = Custom("UpstreamDown");

/// Every address of the upstream has as much to do as it may.
pub(crate) const UPSTREAM_BUSY: ErrorType = Custom("UpstreamBusy");

/// The upstream's time for a request is over.
pub(crate) const TOTAL_TIMEOUT: ErrorType = Custom("TotalTimeout");

/// Whose fault a failure is, and how it is answered.
pub(crate) fn classify(e: &Error) -> Refusal {
    let timed_out = matches!(
        e.etype(),
        ConnectTimedout | ReadTimedout | WriteTimedout | TLSHandshakeTimedout
    );
    match e.esource() {
        _ if *e.etype() == UPSTREAM_DOWN => Refusal::UpstreamDown,
        _ if *e.etype() == UPSTREAM_BUSY => Refusal::UpstreamBusy,
        _ if *e.etype() == TOTAL_TIMEOUT => Refusal::UpstreamTimedOut,
        ErrorSource::Upstream if timed_out => Refusal::UpstreamTimedOut,
        ErrorSource::Upstream => of_upstream(e.etype()),
        ErrorSource::Downstream if timed_out => Refusal::BodyTimedOut,
        // The library refuses some Connection fields itself.
        ErrorSource::Downstream if *e.etype() == InvalidHTTPHeader => {
            Refusal::Head(HeadFault::BadField)
        }
        ErrorSource::Downstream if *e.etype() == BODY_TOO_LARGE => Refusal::BodyTooLarge,
        ErrorSource::Downstream => Refusal::Body,
        ErrorSource::Internal | ErrorSource::Unset => Refusal::Internal,
    }
}

/// Whether it says something about the upstream's address: that nobody can work with it. Not the end of gatepost's own time or sockets, nor a
/// client that is slower than the upstream waits for.
pub(crate) fn speaks_against_upstream(e: &Error, body_is_done: bool) -> bool {
    let ours = [SocketError, BindError, TOTAL_TIMEOUT].contains(e.etype());
    *e.esource() == ErrorSource::Upstream && !ours && body_is_done
}

/// What the upstream did, as far as it can be told.
fn of_upstream(kind: &ErrorType) -> Refusal {
    /// The library's words for chunks that are none.
    const INVALID_CHUNK: ErrorType = Custom("InvalidChunk");
    let no_connection = matches!(
        kind,
        ConnectRefused
            | ConnectNoRoute
            | ConnectError
            | TLSHandshakeFailure
            | HandshakeError
            | InvalidCert
            | SocketError
    );
    let no_http = matches!(kind, InvalidHTTPHeader | H1Error) || *kind == INVALID_CHUNK;
    if no_connection {
        Refusal::UpstreamRefused
    } else if no_http {
        Refusal::UpstreamBadAnswer
    } else if matches!(kind, ConnectionClosed | ReadError | WriteError) {
        Refusal::UpstreamClosed
    } else {
        Refusal::UpstreamFailed
    }
}

/// What the library says of it, up to a length, and without what it quotes: an answer that it does not understand, all of it.
pub(crate) fn in_short(e: &Error) -> String {
    /// Writes the beginning, and says no to more.
    struct Beginning(String);
    impl fmt::Write for Beginning {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            /// In bytes.
            const MOST: usize = 400;
            let room = MOST.saturating_sub(self.0.len());
            let end = text.floor_char_boundary(room);
            let (fits, over) = text.split_at_checked(end).unwrap_or_default();
            self.0.push_str(fits);
            if over.is_empty() {
                Ok(())
            } else {
                Err(fmt::Error)
            }
        }
    }
    let mut short = Beginning(String::new());
    let mut is_cut = write!(short, "{e}").is_err();
    // An upstream that gives back what it was told would put the secret that it knows gatepost by into the log.
    if let Some(quoted) = short.0.find(" buf: ") {
        short.0.truncate(quoted);
        is_cut = true;
    }
    if is_cut {
        short.0.push('…');
    }
    short.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_short() {
        let said = |what: String| in_short(&Error::explain(H1Error, what));
        assert!(said("short".to_owned()).ends_with("short"));
        assert!(!said("no HTTP, buf: Authorization: Basic Zz".to_owned()).contains("Basic"));
        let long = said("ü".repeat(1_000_000));
        assert!(
            long.ends_with("ü…") && (390..=410).contains(&long.len()),
            "{long}"
        );
    }
}
