//! Reads the head of an HTTP/1 request before the proxy library sees it.
//!
//! The library bounds each read but not the whole head, repairs what it should refuse, and keeps no
//! word about what it repaired. Here the bytes are collected under one deadline and held against
//! [`HeadScanner`]; only a head that passed is handed on, byte for byte.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use gatepost_auth::Refusal;
use gatepost_auth::chunks::ChunkScanner;
use gatepost_auth::wire::{HeadLimits, HeadScanner};
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// RFC 9113 §3.4: what a client sends that knows to be talking to an HTTP/2 server.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is read at once, in bytes. An ordinary message fits, head and body: what comes in one piece can leave in one.
const AT_ONCE: usize = 8 * 1024;

/// How long a connection on which nothing is under way stays open when gatepost stops. A client that sends just then has not
/// been told `Connection: close` yet; what it sends is answered, and says so. Whoever sends oftener than this loses nothing.
const GRACE: Duration = Duration::from_secs(1);

/// What came in on a connection.
pub(crate) enum Incoming {
    /// A head that passed, and whatever of the body came with it.
    Request {
        bytes: BytesMut,
        /// The client sent more than this request without waiting for its answer. The rest was
        /// dropped; the connection must close after the answer.
        last: bool,
        /// What is to follow the chunks of a body that is not all there.
        chunks: Option<ChunkScanner>,
    },
    /// The beginning of an HTTP/2 connection.
    Http2(BytesMut),
    /// The client went away, or stayed silent between two requests.
    Closed,
    /// A head that did not pass.
    Refused(Refusal),
}

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadTimes {
    /// For the first byte.
    pub(crate) idle: Duration,
    /// From the first byte to the end of the head.
    pub(crate) head: Duration,
}

/// Whether a connection may still turn out to be HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The first bytes of a connection.
    First,
    /// The same where TLS has said already that it is HTTP/1.
    FirstOverTls,
    /// A further request on it.
    Later,
}

/// What a connection waits for beside its client, from its first request to its last.
///
/// There is one timer for all of them: where each head had its own, each would wake the runtime to be taken into account (a system call), though
/// it nearly always ends later than the one before.
pub(crate) struct Patience {
    alarm: Pin<Box<Sleep>>,
    silent: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Patience {
    pub(crate) fn new(shutdown: &ShutdownWatch) -> Self {
        Self {
            alarm: Box::pin(sleep(Duration::ZERO)),
            silent: Box::pin(silent_after(shutdown)),
        }
    }

    /// Lets this time pass. False where gatepost stops meanwhile, and the connection is to be closed.
    #[must_use]
    pub(crate) async fn wait(&mut self, time: Option<Duration>) -> bool {
        let Some(time) = time else {
            return true;
        };
        self.alarm.as_mut().reset(Instant::now() + time);
        tokio::select! {
            () = self.alarm.as_mut() => true,
            () = self.silent.as_mut() => false,
        }
    }
}

/// Reads up to the end of the next head.
pub(crate) async fn next_head(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    turn: Turn,
    limits: HeadLimits,
    times: HeadTimes,
    patience: &mut Patience,
) -> Incoming {
    let Patience { alarm, silent } = patience;
    let mut bytes = BytesMut::new();
    let mut scanner = HeadScanner::new(limits);
    alarm.as_mut().reset(Instant::now() + times.idle);
    loop {
        let waiting = bytes.is_empty();
        let read = tokio::select! {
            biased;
            read = more(stream, &mut bytes) => read,
            () = alarm.as_mut() => {
                return if waiting { Incoming::Closed } else { Incoming::Refused(Refusal::HeadTimedOut) };
            }
            // Within a request the client waits for its answer; before one nothing is lost by closing.
            () = silent.as_mut(), if waiting => return Incoming::Closed,
        };
        match read {
            // Half a head is answered by closing: there is nobody to read an answer, or nothing to
            // answer to.
            Ok(0) | Err(_) => return Incoming::Closed,
            Ok(_) => {}
        }
        if turn == Turn::First && may_be_http2(&bytes) {
            if bytes.len() >= HTTP2_PREFACE.len() {
                return Incoming::Http2(bytes);
            }
        } else {
            match scanner.advance(&bytes) {
                Ok(None) => {}
                Ok(Some(end)) => return request(bytes, end, scanner.body_length()),
                Err(fault) => return Incoming::Refused(Refusal::Head(fault)),
            }
        }
        if waiting {
            // Most heads are there at once, and never come here.
            alarm.as_mut().reset(Instant::now() + times.head);
        }
    }
}

/// Reads what comes. Nothing is set aside before it does: connections idle for hours, and there may be thousands of them.
async fn more(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    bytes: &mut BytesMut,
) -> io::Result<usize> {
    poll_fn(|context| {
        let mut scratch = [MaybeUninit::uninit(); AT_ONCE];
        let mut read = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut read))?;
        bytes.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
    .await
}

/// Ends when a connection that says nothing may be closed since gatepost stops.
pub(crate) fn silent_after(shutdown: &ShutdownWatch) -> impl Future<Output = ()> + Send + use<> {
    // A copy: what it has seen counts as seen for whoever gets the original next, and the proxy library would never send GOAWAY.
    let mut shutdown = shutdown.clone();
    async move {
        if shutdown.wait_for(|stop| *stop).await.is_ok() {
            sleep(GRACE).await;
        }
    }
}

fn may_be_http2(bytes: &[u8]) -> bool {
    bytes.iter().zip(HTTP2_PREFACE).all(|(a, b)| a == b)
}

/// Requests are answered one at a time. A client that does not wait for its answer has the rest of
/// what it sent dropped, and is told so by `Connection: close`.
fn request(mut bytes: BytesMut, end: usize, body_length: Option<u64>) -> Incoming {
    let mut chunks = None;
    let length = match body_length {
        Some(length) => usize::try_from(length).ok(),
        None => {
            let mut scanner = ChunkScanner::default();
            let Ok(length) = scanner.advance(bytes.get(end..).unwrap_or_default()) else {
                return Incoming::Refused(Refusal::Body);
            };
            chunks = length.is_none().then_some(scanner);
            length
        }
    };
    let whole = length
        .and_then(|length| end.checked_add(length))
        .unwrap_or(usize::MAX);
    let last = bytes.len() > whole;
    bytes.truncate(whole);
    Incoming::Request {
        bytes,
        last,
        chunks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_auth::wire::HeadFault;

    const HEAD: &[u8] = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";

    fn read(pieces: &[&[u8]], turn: Turn) -> Incoming {
        let mut builder = tokio_test::io::Builder::new();
        for piece in pieces {
            builder.read(piece);
        }
        let mut stream = builder.build();
        let (_keep, shutdown) = tokio::sync::watch::channel(false);
        let times = HeadTimes {
            idle: Duration::from_secs(5),
            head: Duration::from_secs(5),
        };
        let limits = HeadLimits::default();
        tokio_test::block_on(async {
            let mut patience = Patience::new(&shutdown);
            next_head(&mut stream, turn, limits, times, &mut patience).await
        })
    }

    fn check(pieces: &[&[u8]], expected: &[u8], expected_last: bool) {
        let Incoming::Request { bytes, last, .. } = read(pieces, Turn::First) else {
            panic!("no request in {pieces:?}");
        };
        assert_eq!((&bytes[..], last), (expected, expected_last));
    }

    #[test]
    fn a_head_may_come_in_pieces_and_bring_its_body() {
        let with_body = [HEAD, b"abc"].concat();
        check(&[HEAD], HEAD, false);
        check(&[&with_body], &with_body, false);
        check(&[b"P", &HEAD[1..20], &HEAD[20..]], HEAD, false);
    }

    #[test]
    fn what_follows_a_request_is_dropped() {
        let with_body = [HEAD, b"abc"].concat();
        check(
            &[&[HEAD, b"abcGET / HTTP/1.1\r\n"].concat()],
            &with_body,
            true,
        );
    }

    #[test]
    fn http2_is_recognised_by_its_whole_preface() {
        assert!(matches!(
            read(&[HTTP2_PREFACE], Turn::First),
            Incoming::Http2(_)
        ));
        assert!(matches!(
            read(&[b"PRI * HTTP", &HTTP2_PREFACE[10..]], Turn::First),
            Incoming::Http2(_)
        ));
        for (pieces, turn) in [
            (&[HTTP2_PREFACE][..], Turn::Later),
            (
                &[b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".as_slice()][..],
                Turn::First,
            ),
        ] {
            assert!(matches!(
                read(pieces, turn),
                Incoming::Refused(Refusal::Head(HeadFault::BadVersion))
            ));
        }
    }

    #[test]
    fn half_a_head_is_no_request() {
        assert!(matches!(
            read(&[&HEAD[..30]], Turn::First),
            Incoming::Closed
        ));
        assert!(matches!(read(&[], Turn::First), Incoming::Closed));
    }

    /// A connection that was accepted just when gatepost stopped: what it sends is read, and whoever gets the watch next (for
    /// HTTP/2 the proxy library, which sends GOAWAY by it) still sees that there is something to see.
    #[tokio::test(start_paused = true)]
    async fn a_stop_is_left_to_be_seen() {
        let (stop, shutdown) = tokio::sync::watch::channel(false);
        stop.send_replace(true);
        for (wait, closed) in [(GRACE / 2, false), (GRACE * 2, true)] {
            let mut builder = tokio_test::io::Builder::new();
            let mut stream = builder.wait(wait).read(HEAD).build();
            let times = HeadTimes {
                idle: Duration::from_secs(60),
                head: Duration::from_secs(10),
            };
            let limits = HeadLimits::default();
            let mut patience = Patience::new(&shutdown);
            let got = next_head(&mut stream, Turn::First, limits, times, &mut patience).await;
            assert_eq!(matches!(got, Incoming::Closed), closed);
            assert!(shutdown.has_changed().unwrap());
            // The mock insists that everything is read.
            std::mem::forget(stream);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_drips_is_cut_off() {
        let mut builder = tokio_test::io::Builder::new();
        for byte in HEAD {
            builder
                .wait(Duration::from_secs(1))
                .read(std::slice::from_ref(byte));
        }
        let mut stream = builder.build();
        let (_keep, shutdown) = tokio::sync::watch::channel(false);
        let times = HeadTimes {
            idle: Duration::from_secs(60),
            head: Duration::from_secs(10),
        };
        let begin = Instant::now();
        let got = next_head(
            &mut stream,
            Turn::First,
            HeadLimits::default(),
            times,
            &mut Patience::new(&shutdown),
        )
        .await;
        assert!(matches!(got, Incoming::Refused(Refusal::HeadTimedOut)));
        assert!(begin.elapsed() < Duration::from_secs(12));
        // The mock insists that everything is read; the rest of the drip does not matter here.
        std::mem::forget(stream);
    }
}
