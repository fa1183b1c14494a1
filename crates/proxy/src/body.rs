//! Reads a request's body whole, for routes that look into it, and hands it on as it came.
//!
//! The proxy library forwards what it reads itself. A body that was read before is given back to it in its
//! own body filter, which it calls for a read body only if it finds something of it in its buffer for retries. That
//! buffer holds 64 KiB and takes part in every read once it is turned on, and it is given up when more comes. So it is
//! turned on when what is left fits; a body that does not say how long it is has to fit as a whole.

use std::time::{Duration, Instant};

use bytes::Bytes;
use gatepost_auth::Refusal;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora_error::ErrorType::ReadTimedout;
use pingora_proxy::Session;
use tokio::time::timeout;

/// The library's buffer for retries, in bytes.
const RETRY_BUFFER: usize = 64 * 1024;

/// A body that comes more slowly than this, in bytes a second, is given up.
const SLOWEST: u64 = 16 * 1024;

/// How much memory the body will take, as far as its head says.
///
/// # Errors
///
/// [`Refusal::BodyTooLarge`].
pub(crate) fn size(session: &Session, limit: u64) -> Result<u64, Refusal> {
    let announced = announced_length(session).map(|length| length as u64);
    if announced.is_some_and(|length| length > limit) {
        return Err(Refusal::BodyTooLarge);
    }
    Ok(announced.unwrap_or(RETRY_BUFFER as u64))
}

/// The whole body. `pause` is the longest wait for any part of it.
///
/// # Errors
///
/// [`Refusal::BodyTooLarge`], [`Refusal::LengthNeeded`], or what became of the client.
pub(crate) async fn read(
    session: &mut Session,
    limit: u64,
    pause: Duration,
) -> Result<Bytes, Refusal> {
    let whole = pause + Duration::from_secs(size(session, limit)? / SLOWEST);
    timeout(whole, read_all(session, limit))
        .await
        .unwrap_or(Err(Refusal::BodyTimedOut))
}

async fn read_all(session: &mut Session, limit: u64) -> Result<Bytes, Refusal> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let announced = announced_length(session);
    if session.req_header().headers.contains_key(EXPECT) {
        // Everything that could be decided without the body is decided.
        let said = session.as_mut().write_continue_response().await;
        said.map_err(|_| Refusal::Body)?;
    }
    let mut body = Vec::with_capacity(announced.unwrap_or(0));
    loop {
        let left = announced.map_or(0, |length| length.saturating_sub(body.len()));
        if left <= RETRY_BUFFER {
            session.as_mut().enable_retry_buffering();
        }
        match session.read_request_body().await {
            Ok(Some(piece)) => {
                if body.len() + piece.len() > limit {
                    return Err(Refusal::BodyTooLarge);
                }
                body.extend_from_slice(&piece);
            }
            Ok(None) => break,
            Err(fault) if *fault.etype() == ReadTimedout => return Err(Refusal::BodyTimedOut),
            Err(_) => return Err(Refusal::Body),
        }
        if announced.is_none() && session.as_mut().retry_buffer_truncated() {
            return Err(Refusal::LengthNeeded);
        }
    }
    // INVARIANT: what the library finds nothing of, it would not forward.
    if !body.is_empty() && session.as_mut().get_retry_buffer().is_none() {
        return Err(Refusal::Internal);
    }
    Ok(Bytes::from(body))
}

/// How fast a body comes that is forwarded as it comes. The wait for its next piece is bounded elsewhere; but a byte a
/// minute is no wait.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the stretch began that is looked at, and what came in it.
    stretch: Option<(Instant, usize)>,
}

impl Pace {
    /// Whether the stretch that this piece ends was as fast as `rate` bytes a second; true where it is shorter than
    /// `period`. What came earlier does not count: who was fast at first may not be slow for long.
    pub(crate) fn keeps_up(&mut self, piece: usize, rate: u64, period: Duration) -> bool {
        let now = Instant::now();
        let (since, before) = self.stretch.unwrap_or((now, 0));
        let bytes = before.saturating_add(piece);
        let took = now.saturating_duration_since(since);
        if took < period {
            self.stretch = Some((since, bytes));
            return true;
        }
        self.stretch = Some((now, 0));
        bytes as u128 * 1000 >= u128::from(rate) * took.as_millis()
    }
}

/// Heads were checked to hold one plain length at the most.
fn announced_length(session: &Session) -> Option<usize> {
    let value = session.req_header().headers.get(CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}
