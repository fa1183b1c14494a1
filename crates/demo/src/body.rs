//! Takes a request's body in without ever holding it.
//!
//! A body may be 100 MB long and is JSON, for which serde wants a blocking reader. So the frames go
//! through a short channel to a thread that parses them as they arrive: what is held is a few frames
//! and what the parser makes of them, never the body beside its parsed form.

use std::future::poll_fn;
use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use tokio::sync::mpsc;

use crate::refusal::Refusal;

/// The longest body that is read, in bytes.
pub(crate) const BODY_LIMIT: u64 = 128 * 1024 * 1024;

/// How much of a body beyond the limit is still read and dropped, in bytes. A server that closes
/// while the client is sending makes the client see a reset instead of the 413.
const DRAIN_LIMIT: u64 = 64 * 1024 * 1024;

/// How long the next piece of a body may take. A stalled one holds a thread.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// How many frames may wait for the parser.
const FRAMES_IN_FLIGHT: usize = 4;

/// Gives the body to `consume`, which runs on a thread where it may block, and returns what that
/// makes of it.
///
/// # Errors
///
/// What `consume` says; but when the body breaks off, stalls or exceeds `limit`, that comes first,
/// whatever `consume` made of the part that arrived.
pub(crate) async fn read<T: Send + 'static>(
    body: Body,
    headers: &HeaderMap,
    limit: u64,
    consume: impl FnOnce(BodyReader) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    if announced_length(headers).is_some_and(|length| length > limit) {
        // Who asked first whether to send the body is told at once. Reading would say `yes, do`.
        if !headers.contains_key(EXPECT) {
            drain_rest(body).await?;
        }
        return Err(Refusal::TooLong { limit });
    }
    let (frames, received) = mpsc::channel(FRAMES_IN_FLIGHT);
    let consumer = tokio::task::spawn_blocking(move || {
        consume(BodyReader {
            frames: received,
            current: Bytes::new(),
        })
    });
    let fed = feed(body, limit, frames).await;
    let consumed = consumer.await.map_err(|_| Refusal::Internal)?;
    fed.and(consumed)
}

/// Reads a body of any length to its end, dropping it, and returns its length in bytes.
///
/// # Errors
///
/// When it breaks off or stalls.
pub(crate) async fn discard(mut body: Body) -> Result<u64, Refusal> {
    let mut length = 0;
    while let Some(data) = next_data(&mut body).await? {
        length += length_of(&data);
    }
    Ok(length)
}

/// Sends the body's frames to the reader. Goes on to the body's end when the reader has given up,
/// so that the client gets to see why.
async fn feed(mut body: Body, limit: u64, frames: mpsc::Sender<Bytes>) -> Result<(), Refusal> {
    let mut length = 0;
    while let Some(data) = next_data(&mut body).await? {
        length += length_of(&data);
        if length > limit {
            drop(frames);
            drain_rest(body).await?;
            return Err(Refusal::TooLong { limit });
        }
        // The reader gives up at the first fault; what follows is read and dropped.
        drop(frames.send(data).await);
    }
    Ok(())
}

async fn drain_rest(mut body: Body) -> Result<(), Refusal> {
    let mut length = 0;
    while length <= DRAIN_LIMIT {
        match next_data(&mut body).await? {
            None => break,
            Some(data) => length += length_of(&data),
        }
    }
    Ok(())
}

/// The next piece of the body; none at its proper end. Trailers count as empty pieces.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    let next = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
    match tokio::time::timeout(STALL_LIMIT, next).await {
        Err(_) => Err(Refusal::StalledBody),
        Ok(None) => Ok(None),
        Ok(Some(Err(_))) => Err(Refusal::BrokenBody),
        Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
    }
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn length_of(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

/// A body as it arrives, for a thread that may block.
///
/// It ends where the frames end, also when the body broke off: [`read`] sees to that.
#[derive(Debug)]
pub(crate) struct BodyReader {
    frames: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.frames.blocking_recv() {
                Some(data) => self.current = data,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        let taken = self.current.split_to(length);
        if let Some(room) = buffer.get_mut(..length) {
            room.copy_from_slice(&taken);
        }
        Ok(length)
    }
}
