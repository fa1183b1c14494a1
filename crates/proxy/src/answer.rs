//! Turns a refusal into bytes, and sees to it that the client can read them.
//!
//! Closing a socket while the client still sends makes its kernel throw away what it has received but
//! not read, the refusal included: the client sees a reset where it should see a 401. So what is still
//! coming is read and dropped for a while (bounded in bytes and time), and then the connection closes.

use std::time::Duration;

use bytes::Bytes;
use gatepost_auth::Refusal;
use http::{HeaderValue, Method};
use pingora_core::protocols::Stream;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};
use tokio::time::timeout;

/// How much of a refused body is read and dropped. A message with attachments fits.
const DRAIN_BYTES: usize = 32 * 1024 * 1024;

/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Answers a request that the proxy library has parsed.
///
/// # Errors
///
/// Where the client cannot be written to.
pub(crate) async fn refuse(
    session: &mut Session,
    refusal: &Refusal,
    challenge: Option<&HeaderValue>,
) -> pingora_error::Result<()> {
    if session
        .response_written()
        .is_some_and(|head| !head.status.is_informational())
    {
        // The upstream's answer has begun; all that is left is not to finish it.
        session.set_keepalive(None);
        return Ok(());
    }
    read_what_is_there(session).await;
    let body = Bytes::from(refusal.body());
    let mut head = ResponseHeader::build(refusal.status(), Some(8))?;
    for (name, value) in fields(refusal, challenge, body.len()) {
        head.append_header(name, value)?;
    }
    // This says `Connection: close` by itself where the request's body is still coming.
    session.set_write_timeout(Some(DRAIN_TIME));
    let bodiless = session.req_header().method == Method::HEAD;
    session
        .write_response_header(Box::new(head), bodiless)
        .await?;
    if !bodiless {
        session.write_response_body(Some(body), true).await?;
    }
    drain(session).await;
    Ok(())
}

/// Takes the rest of a body that has arrived already, so that a small refused request does not cost
/// its client the connection.
async fn read_what_is_there(session: &mut Session) {
    let mut left = DRAIN_BYTES;
    while left > 0 && !session.is_body_done() {
        let read = tokio::select! {
            biased;
            read = session.read_request_body() => read,
            () = std::future::ready(()) => return,
        };
        match read {
            Ok(Some(bytes)) => left = left.saturating_sub(bytes.len()),
            Ok(None) => return,
            Err(_) => return session.set_keepalive(None),
        }
    }
}

async fn drain(session: &mut Session) {
    let mut left = DRAIN_BYTES;
    let reading = async {
        while left > 0
            && !session.is_body_done()
            && let Ok(Some(bytes)) = session.read_request_body().await
        {
            left = left.saturating_sub(bytes.len());
        }
    };
    // Whether the client stopped sending or the time is up: what follows is the same.
    let _ = timeout(DRAIN_TIME, reading).await;
}

/// Answers a connection that there is no room for, and closes it at once: to wait for what it sends would be to
/// make room for it.
pub(crate) async fn turn_away(mut stream: Stream, refusal: &Refusal) {
    let speaking = async {
        stream.write_all(&raw(refusal)).await?;
        stream.flush().await?;
        AsyncWriteExt::shutdown(&mut stream).await
    };
    // Whoever does not read it is gone all the same.
    let _ = timeout(Duration::from_secs(1), speaking).await;
}

/// Answers a request whose head did not pass, and closes the connection.
pub(crate) async fn refuse_raw(mut stream: Stream, refusal: &Refusal) {
    let answer = raw(refusal);
    let speaking = async {
        stream.write_all(&answer).await?;
        stream.flush().await?;
        AsyncWriteExt::shutdown(&mut stream).await?;
        let mut scratch = vec![0; 16 * 1024];
        let mut left = DRAIN_BYTES;
        while left > 0 {
            match stream.read(&mut scratch).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        std::io::Result::Ok(())
    };
    // A client that went away or never stops sending: the connection closes either way.
    let _ = timeout(DRAIN_TIME, speaking).await;
}

/// The whole answer, for a connection that the proxy library has not seen.
fn raw(refusal: &Refusal) -> Vec<u8> {
    let status = refusal.status();
    let body = refusal.body();
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\n",
        status.as_str(),
        status.canonical_reason().unwrap_or_default()
    )
    .into_bytes();
    let close = ("Connection", HeaderValue::from_static("close"));
    for (name, value) in fields(refusal, None, body.len()).into_iter().chain([close]) {
        answer.extend_from_slice(name.as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(body.as_bytes());
    answer
}

fn fields(
    refusal: &Refusal,
    challenge: Option<&HeaderValue>,
    body_bytes: usize,
) -> Vec<(&'static str, HeaderValue)> {
    let mut fields = vec![
        ("Content-Type", HeaderValue::from_static("application/json")),
        ("Content-Length", HeaderValue::from(body_bytes)),
        ("Cache-Control", HeaderValue::from_static("no-store")),
    ];
    if refusal.challenges()
        && let Some(challenge) = challenge
    {
        fields.push(("WWW-Authenticate", challenge.clone()));
    }
    if let Some(wait) = refusal.retry_after() {
        // Whole seconds (RFC 9110 §10.2.3), and not a moment too early.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        fields.push(("Retry-After", HeaderValue::from(seconds.max(1))));
    }
    for (name, value) in refusal.rate_limit().into_iter().flatten() {
        if let Ok(value) = HeaderValue::from_str(&value) {
            fields.push((name, value));
        }
    }
    if let Some(Ok(methods)) = refusal.allow().map(HeaderValue::from_str) {
        fields.push(("Allow", methods));
    }
    fields
}
