//! An HTTP/2 connection, watched: its frames are counted on their way to the library, which takes as many as come.
//!
//! The library bounds streams, headers and abandoned requests that wait. What it only answers or drops it does not
//! bound (PING, SETTINGS, requests abandoned under way), and it tells nobody why it closed a connection. Both can be
//! seen from nine bytes of each frame (`auth::frames`), so this stands between the socket and the library.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use gatepost_auth::Refusal;
use gatepost_auth::frames::{Flood, FrameAllowance, FrameScanner, RST_STREAM, Stragglers};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Sleep, sleep_until};

use crate::tapped::Tap;
use crate::way::Way;

/// Counts the frames of a connection.
#[derive(Debug)]
pub(crate) struct Watch {
    way: Arc<Way>,
    since: Instant,
    incoming: FrameScanner,
    outgoing: FrameScanner,
    allowance: FrameAllowance,
    stragglers: Stragglers,
    /// What is still to come of the preface, in bytes, and by when.
    preface: (usize, Duration),
    /// How long a body is waited for that goes on behind its answer.
    patience: Duration,
    /// Ends at the stragglers' deadline, or before.
    alarm: Option<Pin<Box<Sleep>>>,
    /// What the library still gets to see, once there was too much.
    rest: Option<Rest>,
    verdict: Verdict,
}

/// The length of what a client begins with (RFC 9113 §3.4), in bytes.
const PREFACE: usize = 24;

#[derive(Debug)]
struct Rest {
    /// By when it has to be there.
    by: Duration,
    /// Of the last frame, in bytes.
    payload: usize,
    words: &'static [u8],
}

/// Why a connection was closed; empty where there is nothing to say.
pub(crate) type Verdict = Arc<OnceLock<Refusal>>;

/// What the library reads last: a header block in pieces of nothing (HEADERS and CONTINUATION without an end), on
/// which it says GOAWAY with ENHANCE_YOUR_CALM to the client by itself. It alone knows where a frame of ours ends. With a
/// header list of 64 KiB it puts up with five pieces.
const LAST_WORDS: &[u8] = b"\0\0\0\x01\0\0\0\0\x01\
    \0\0\0\x09\0\0\0\0\x01\0\0\0\x09\0\0\0\0\x01\
    \0\0\0\x09\0\0\0\0\x01\0\0\0\x09\0\0\0\0\x01\
    \0\0\0\x09\0\0\0\0\x01\0\0\0\x09\0\0\0\0\x01\
    \0\0\0\x09\0\0\0\0\x01\0\0\0\x09\0\0\0\0\x01";

impl Watch {
    /// The library waits for the preface as long as its client likes; so it has the time for a head.
    pub(crate) fn new(
        way: Arc<Way>,
        head_timeout: Duration,
        patience: Duration,
    ) -> (Self, Verdict) {
        let verdict = Verdict::default();
        let watch = Self {
            way,
            since: Instant::now(),
            incoming: FrameScanner::of_client(),
            outgoing: FrameScanner::of_server(),
            allowance: FrameAllowance::default(),
            stragglers: Stragglers::default(),
            preface: (PREFACE, head_timeout),
            patience,
            alarm: None,
            rest: None,
            verdict: verdict.clone(),
        };
        (watch, verdict)
    }

    /// Counts what came. Where it is too much, gives how many of the bytes the library may see: up to the end of the
    /// frame that was one too many, as far as it is there.
    fn received(&mut self, bytes: &[u8]) -> Option<usize> {
        let now = self.since.elapsed();
        self.preface.0 = self.preface.0.saturating_sub(bytes.len());
        let mut left = bytes;
        while let Some(frame) = self.incoming.next(&mut left) {
            // Who gives up a body behind its answer gives up nothing.
            let is_over = frame.kind == RST_STREAM && self.stragglers.is_answered(frame.stream);
            self.stragglers.received(frame, now, self.patience);
            if is_over {
                continue;
            }
            if let Err(flood) = self.allowance.received(frame, now) {
                // The first reason is the one that counts.
                let _ = self.verdict.set(Refusal::Flood(flood));
                let here = frame.length.min(left.len());
                self.rest = Some(Rest {
                    by: now + self.patience,
                    payload: frame.length - here,
                    words: LAST_WORDS,
                });
                return Some(bytes.len() - left.len() + here);
            }
        }
        None
    }

    /// Notes what was sent, and the library's reason where it says goodbye.
    fn sent(&mut self, mut bytes: &[u8]) {
        const GOAWAY: u8 = 7;
        const ENHANCE_YOUR_CALM: u8 = 11;
        self.allowance.sent(bytes.len());
        let now = self.since.elapsed();
        while let Some(frame) = self.outgoing.next(&mut bytes) {
            self.stragglers.sent(frame, now, self.patience);
            // Its last stream and its reason, four bytes each; the library writes its small frames in one piece.
            if frame.kind == GOAWAY && bytes.get(4..8) == Some(&[0, 0, 0, ENHANCE_YOUR_CALM]) {
                // What was found here came first.
                let _ = self.verdict.set(Refusal::Flood(Flood::Library));
            }
        }
    }
}

impl Watch {
    /// Waits for the next straggler to run out of time. The library is told that its client has given it up, which is the
    /// one way to make it do the same.
    fn poll_straggler(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<[u8; 13]>> {
        loop {
            let Some(deadline) = self.stragglers.deadline() else {
                return Poll::Pending;
            };
            if self.since.elapsed() >= deadline {
                if !self.incoming.is_between_frames() {
                    // Nobody can say anything more on this connection.
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                if let Some(stream) = self.stragglers.overdue(deadline) {
                    return Poll::Ready(Ok(cancel(stream)));
                }
            }
            ready!(self.poll_alarm(deadline, cx));
        }
    }

    /// The end of the connection, at this time.
    fn poll_end(&mut self, by: Duration, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.since.elapsed() < by {
            ready!(self.poll_alarm(by, cx));
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ends at the deadline, or before.
    fn poll_alarm(&mut self, deadline: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let by = (self.since + deadline).into();
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(by)));
        if alarm.deadline() > by || alarm.is_elapsed() {
            alarm.as_mut().reset(by);
        }
        alarm.as_mut().poll(cx)
    }

    /// A deadline that a write has brought wakes the reader, which waits already.
    fn set_alarm(&mut self, cx: &mut Context<'_>) {
        if let Some(deadline) = self.stragglers.deadline()
            && self.poll_alarm(deadline, cx).is_ready()
        {
            cx.waker().wake_by_ref();
        }
    }
}

/// RST_STREAM with CANCEL (RFC 9113 §6.4).
fn cancel(stream: u32) -> [u8; 13] {
    let [a, b, c, d] = stream.to_be_bytes();
    [0, 0, 4, 3, 0, a, b, c, d, 0, 0, 0, 8]
}

impl Tap for Watch {
    fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(rest) = &mut self.rest {
            let reading = rest.poll_read(stream, cx, buf);
            if reading.is_pending() {
                let by = rest.by;
                return self.poll_end(by, cx);
            }
            return reading;
        }
        while let Some(pause) = self.way.pause.left() {
            let by = self.since.elapsed() + pause;
            ready!(self.poll_alarm(by, cx));
        }
        let before = buf.filled().len();
        let reading = Pin::new(stream).poll_read(cx, buf);
        if reading.is_pending() && self.preface.0 > 0 {
            let ending = self.poll_end(self.preface.1, cx);
            if ending.is_ready() {
                let _ = self.verdict.set(Refusal::HeadTimedOut);
            }
            return ending;
        }
        if reading.is_pending() {
            let words = ready!(self.poll_straggler(cx))?;
            if buf.remaining() < words.len() {
                // The library reads with room for whole frames.
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            buf.put_slice(&words);
            return Poll::Ready(Ok(()));
        }
        ready!(reading)?;
        let new = buf.filled().get(before..).unwrap_or_default();
        if let Some(length) = self.received(new) {
            buf.set_filled(before + length);
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, bytes: &[u8], cx: &mut Context<'_>) {
        self.sent(bytes);
        self.set_alarm(cx);
    }
}

impl Rest {
    fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.payload > 0 {
            let mut scratch = [0; 1024];
            let length = scratch.len().min(self.payload).min(buf.remaining());
            let mut piece = ReadBuf::new(scratch.get_mut(..length).unwrap_or_default());
            ready!(Pin::new(stream).poll_read(cx, &mut piece))?;
            self.payload -= piece.filled().len();
            buf.put_slice(piece.filled());
            return Poll::Ready(Ok(()));
        }
        // Behind them it is as if the client had closed.
        let length = self.words.len().min(buf.remaining());
        let (words, left) = self.words.split_at_checked(length).unwrap_or_default();
        buf.put_slice(words);
        self.words = left;
        Poll::Ready(Ok(()))
    }
}
