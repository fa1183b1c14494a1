//! The head of an answer waits for its body, so that both leave together.
//!
//! Each send costs the kernel's whole way down to the network, whatever its size: where a proxy writes the head and the body of a small answer
//! apart, that is a good tenth of all that the request costs.
//!
//! What waits leaves when the library flushes, when there is much of it, and when the request waits for something: by then the library has
//! written all that there was, and the upstream may take its time with the rest.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pingora_core::protocols::Stream;
use tokio::io::AsyncWrite as _;

/// How much may wait, in bytes: an MTA's answer to an injection. More is not copied, but written as it comes.
const MOST: usize = 4096;

/// Room for the body of a small answer, set aside with its head.
const ROOM: usize = 256;

/// More pieces than the library ever writes at once: a chunk's are three.
const PIECES: usize = 8;

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    waiting: Vec<u8>,
    /// Whether the stream may have taken what waited and still keep it: over TLS it does where the socket is full.
    unflushed: bool,
}

impl Gather {
    pub(crate) fn has_something(&self) -> bool {
        self.unflushed || !self.waiting.is_empty()
    }

    /// Writes what waits, and then of these what there is room for.
    fn poll_all(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        while !self.waiting.is_empty() {
            let waited = self.waiting.len();
            let mut all = [IoSlice::new(&[]); PIECES];
            let pieces = std::iter::once(&*self.waiting).chain(bufs.iter().map(|it| &**it));
            for (place, piece) in all.iter_mut().zip(pieces) {
                *place = IoSlice::new(piece);
            }
            let all = all.get(..=bufs.len()).unwrap_or(&all);
            let written = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, all))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            if written < waited {
                self.waiting.drain(..written);
                continue;
            }
            // The connection may idle for hours now.
            self.waiting = Vec::new();
            if written > waited {
                return Poll::Ready(Ok(written - waited));
            }
        }
        if bufs.iter().all(|it| it.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        Pin::new(stream).poll_write_vectored(cx, bufs)
    }

    /// Keeps this, or writes it with what waits where that is too much.
    pub(crate) fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let more = bufs.iter().map(|it| it.len()).sum();
        if self.waiting.len() + more > MOST {
            return self.poll_all(stream, cx, bufs);
        }
        if self.waiting.is_empty() {
            self.waiting.reserve_exact(more + ROOM);
        }
        for buf in bufs {
            self.waiting.extend_from_slice(buf);
        }
        Poll::Ready(Ok(more))
    }

    /// Writes what waits.
    pub(crate) fn poll_settle(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_all(stream, cx, &[]))?;
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_stream::ClientStream;
    use crate::tapped::{Tap, Tapped};
    use pingora_core::protocols::l4::stream::Stream as TcpOrUnix;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
    use tokio::net::UnixStream;

    /// A socket that takes this much at once, and notes what each write took.
    #[derive(Debug)]
    struct Socket {
        at_once: usize,
        writes: Arc<Mutex<Vec<usize>>>,
    }

    impl Tap for Socket {
        fn poll_read(
            &mut self,
            stream: &mut Stream,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(stream).poll_read(cx, buf)
        }

        fn poll_write(
            &mut self,
            stream: &mut Stream,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let some = &buf[..buf.len().min(self.at_once)];
            let written = ready!(Pin::new(stream).poll_write(cx, some))?;
            self.writes.lock().unwrap().push(written);
            Poll::Ready(Ok(written))
        }

        fn poll_write_vectored(
            &mut self,
            stream: &mut Stream,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = bufs.iter().flat_map(|it| it.iter().copied()).collect();
            self.poll_write(stream, cx, &all)
        }
    }

    /// What arrives of these pieces, and how large the writes were that it took.
    async fn send(pieces: &[&[u8]], at_once: usize) -> (Vec<u8>, Vec<usize>) {
        let (near, mut far) = UnixStream::pair().unwrap();
        let writes = Arc::default();
        let tap = Socket {
            at_once,
            writes: Arc::clone(&writes),
        };
        let stream: Stream = Box::new(TcpOrUnix::from(near));
        let mut stream = ClientStream::around(Box::new(Tapped::new(stream, tap)));
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got
        });
        for piece in pieces {
            stream.write_all(piece).await.unwrap();
        }
        stream.flush().await.unwrap();
        let writes = writes.lock().unwrap().clone();
        drop(stream);
        (reading.await.unwrap(), writes)
    }

    #[tokio::test]
    async fn head_and_body_leave_together() {
        let (got, writes) = send(&[b"head", b"body"], usize::MAX).await;
        assert_eq!((&*got, &*writes), (&b"headbody"[..], &[8][..]));
        assert_eq!(send(&[b"", b""], usize::MAX).await, (vec![], vec![]));
    }

    #[tokio::test]
    async fn a_large_body_is_not_copied_and_takes_the_head_along() {
        let body = vec![b'x'; 100_000];
        let (got, writes) = send(&[b"head", &body, b"end"], usize::MAX).await;
        assert_eq!(got, [b"head", &*body, b"end"].concat());
        assert_eq!(writes, [100_004, 3]);
    }

    /// As the library writes a chunk: its size, its data, its end.
    #[tokio::test]
    async fn a_large_chunk_leaves_with_its_frame() {
        let data = vec![b'x'; 5000];
        let chunk: &[&[u8]] = &[b"1388\r\n", &data, b"\r\n"];
        let (near, mut far) = UnixStream::pair().unwrap();
        let writes = Arc::default();
        let tap = Socket {
            at_once: usize::MAX,
            writes: Arc::clone(&writes),
        };
        let stream: Stream = Box::new(TcpOrUnix::from(near));
        let mut stream = ClientStream::around(Box::new(Tapped::new(stream, tap)));
        stream.write_all(b"head").await.unwrap();
        let pieces: Vec<IoSlice<'_>> = chunk.iter().map(|it| IoSlice::new(it)).collect();
        assert_eq!(stream.write_vectored(&pieces).await.unwrap(), 5008);
        assert_eq!(*writes.lock().unwrap(), [5012]);
        drop(stream);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [b"head", &*chunk.concat()].concat());
    }

    /// What the library does not flush leaves when the one who runs it says so, and nothing is left to be said when it is gone.
    #[tokio::test]
    async fn the_rest_is_sent_from_outside() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut stream = ClientStream::around(Box::new(TcpOrUnix::from(near)));
        let rest = stream.rest();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        stream.write_all(b"head").await.unwrap();
        rest.send(&mut cx);
        let mut got = [0; 4];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"head");
        drop(stream);
        rest.send(&mut cx);
        assert_eq!(far.read(&mut got).await.unwrap(), 0);
    }

    /// The network takes what it likes. Nothing is lost, doubled or in another order, wherever it stops.
    #[tokio::test]
    async fn a_socket_may_take_little_at_once() {
        let pieces = [MOST - 3, 2, 1, 1, MOST, 5, 2 * MOST, 1, 1];
        let mut next = 0_u8;
        let pieces = pieces.map(|length| {
            let mut piece = vec![0; length];
            for byte in &mut piece {
                *byte = next;
                next = next.wrapping_add(1);
            }
            piece
        });
        let pieces = pieces.each_ref().map(|it| &**it);
        for at_once in [1, 2, 5, 1000, MOST - 1, MOST, MOST + 1] {
            let (got, _) = send(&pieces, at_once).await;
            assert!(got == pieces.concat(), "{at_once}");
        }
    }

    #[tokio::test]
    async fn what_waits_is_sent_before_the_end() {
        for whole in [true, false] {
            let (near, mut far) = UnixStream::pair().unwrap();
            let mut stream = ClientStream::around(Box::new(TcpOrUnix::from(near)));
            stream.write_all(b"bye").await.unwrap();
            if whole {
                pingora_core::protocols::Shutdown::shutdown(&mut *stream).await;
            } else {
                drop(stream);
            }
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"bye", "{whole}");
        }
    }
}
