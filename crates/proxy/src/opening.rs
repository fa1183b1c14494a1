//! The PROXY header at the beginning of a connection from a trusted proxy.

use std::time::Duration;

use bytes::BytesMut;
use gatepost_auth::Refusal;
use gatepost_auth::address::Told;
use gatepost_auth::proxy_header::{LONGEST, ProxyHeader};
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, sleep_until};

use crate::head::silent_after;

/// How the connections of a listener begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// With a request.
    Request,
    /// With a PROXY header, where they come from a trusted proxy.
    ProxyHeader,
}

/// What a connection begins with.
pub(crate) enum Opened {
    /// What the header says. What follows it is still to be read.
    Told(Told),
    /// The proxy went away, or gatepost stops.
    Closed,
    /// No header, a malformed one, or one that took too long.
    Refused(Refusal),
}

/// Reads the header, within a total time.
pub(crate) async fn proxy_header(
    stream: &mut Stream,
    time: Duration,
    shutdown: &mut ShutdownWatch,
) -> Opened {
    let mut bytes = BytesMut::with_capacity(256);
    let deadline = Instant::now() + time;
    loop {
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut bytes) => read,
            () = sleep_until(deadline) => return Opened::Refused(Refusal::HeadTimedOut),
            () = silent_after(shutdown), if bytes.is_empty() => return Opened::Closed,
        };
        if matches!(read, Ok(0) | Err(_)) {
            return Opened::Closed;
        }
        match ProxyHeader::parse(&bytes) {
            Ok(Some(header)) => {
                stream.rewind(bytes.get(header.length..).unwrap_or_default());
                return Opened::Told(header.source.map_or(Told::NoSource, Told::Source));
            }
            // INVARIANT: the parser knows before there are more bytes than this, so the buffer is bounded.
            Ok(None) if bytes.len() <= LONGEST => {}
            Ok(None) => return Opened::Refused(Refusal::Internal),
            Err(fault) => return Opened::Refused(Refusal::ProxyHeader(fault)),
        }
    }
}
