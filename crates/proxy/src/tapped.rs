//! A stream with somebody between it and the library: who sees what comes and goes, and may have a word in it.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Who stands between.
pub(crate) trait Tap: fmt::Debug + Unpin + Send + Sync + 'static {
    /// Reads for the library.
    fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>;

    /// Writes for the library.
    fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(stream).poll_write(cx, buf))?;
        self.wrote(buf.get(..written).unwrap_or_default(), cx);
        Poll::Ready(Ok(written))
    }

    /// The same with several pieces at once.
    fn poll_write_vectored(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(stream).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let here = left.min(buf.len());
            self.wrote(buf.get(..here).unwrap_or_default(), cx);
            left -= here;
        }
        Poll::Ready(Ok(written))
    }

    /// Writes what it has kept, before a flush and before the end.
    fn poll_settle(&mut self, _stream: &mut Stream, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Whether there is something that it has kept.
    fn keeps_something(&self) -> bool {
        false
    }

    /// Learns what was written.
    fn wrote(&mut self, _bytes: &[u8], _cx: &mut Context<'_>) {}
}

/// A stream with that in it.
#[derive(Debug)]
pub(crate) struct Tapped<T: Tap>(Arc<Mutex<Both<T>>>);

#[derive(Debug)]
struct Both<T: Tap> {
    stream: Stream,
    tap: T,
}

impl<T: Tap> Tapped<T> {
    pub(crate) fn new(stream: Stream, tap: T) -> Self {
        Self(Arc::new(Mutex::new(Both { stream, tap })))
    }

    /// The library has the stream and does not show it. This still gets at what is kept, for as long as the library has it.
    pub(crate) fn rest(&self) -> Rest<T> {
        Rest(Arc::downgrade(&self.0))
    }

    /// For the one who stands between.
    pub(crate) fn with_tap<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        act(&mut self.both().tap)
    }

    /// Nobody waits here: all is done by one task.
    fn both(&self) -> MutexGuard<'_, Both<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Tap> Both<T> {
    /// Writes what is kept, and what the stream keeps of it.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.tap.poll_settle(&mut self.stream, cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.tap.poll_settle(&mut self.stream, cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What is kept of a stream that somebody else has.
pub(crate) struct Rest<T: Tap>(Weak<Mutex<Both<T>>>);

impl<T: Tap> Rest<T> {
    /// Sends it as far as the socket takes it now; where it does not take all of it, the task is woken when it would take more. What
    /// is wrong with the stream whoever has it learns by itself.
    pub(crate) fn send(&self, cx: &mut Context<'_>) {
        if let Some(both) = self.0.upgrade() {
            let mut both = both.lock().unwrap_or_else(PoisonError::into_inner);
            let Both { stream, tap } = &mut *both;
            if tap.keeps_something() {
                let _ = tap.poll_settle(stream, cx);
            }
        }
    }
}

/// What it has kept is sent as far as the socket takes it at once: the half of an answer that there was, for one.
impl<T: Tap> Drop for Tapped<T> {
    fn drop(&mut self) {
        let Both { stream, tap } = &mut *self.both();
        let mut cx = Context::from_waker(Waker::noop());
        let _ = tap.poll_settle(stream, &mut cx);
    }
}

impl<T: Tap> AsyncRead for Tapped<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Both { stream, tap } = &mut *self.both();
        tap.poll_read(stream, cx, buf)
    }
}

impl<T: Tap> AsyncWrite for Tapped<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Both { stream, tap } = &mut *self.both();
        tap.poll_write(stream, cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Both { stream, tap } = &mut *self.both();
        tap.poll_write_vectored(stream, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.both().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.both().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.both().poll_shutdown(cx)
    }
}

// What else the library wants to know of a stream is as it was.

#[async_trait]
impl<T: Tap> Shutdown for Tapped<T> {
    async fn shutdown(&mut self) {
        // What cannot be written any more is lost with the connection.
        let _ = poll_fn(|cx| self.both().poll_shutdown(cx)).await;
    }
}

/// Not asked: the connection was recognised before.
impl<T: Tap> Peek for Tapped<T> {}

impl<T: Tap> UniqueID for Tapped<T> {
    fn id(&self) -> UniqueIDType {
        self.both().stream.id()
    }
}

impl<T: Tap> Ssl for Tapped<T> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.both().stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.both().stream.selected_alpn_proto()
    }
}

impl<T: Tap> GetTimingDigest for Tapped<T> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.both().stream.get_timing_digest()
    }
}

impl<T: Tap> GetProxyDigest for Tapped<T> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.both().stream.get_proxy_digest()
    }
}

impl<T: Tap> GetSocketDigest for Tapped<T> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.both().stream.get_socket_digest()
    }
}
