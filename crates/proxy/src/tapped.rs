//! A stream with somebody between it and the library: who sees what comes and goes, and may have a word in it.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
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

    /// Learns what was written.
    fn wrote(&mut self, _bytes: &[u8], _cx: &mut Context<'_>) {}
}

/// A stream with that in it.
#[derive(Debug)]
pub(crate) struct Tapped<T: Tap> {
    stream: Stream,
    pub(crate) tap: T,
}

impl<T: Tap> Tapped<T> {
    pub(crate) fn new(stream: Stream, tap: T) -> Self {
        Self { stream, tap }
    }
}

/// What it has kept is sent as far as the socket takes it at once: the half of an answer that there was, for one.
impl<T: Tap> Drop for Tapped<T> {
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.tap.poll_settle(&mut self.stream, &mut cx);
    }
}

impl<T: Tap> AsyncRead for Tapped<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.tap.poll_read(&mut this.stream, cx, buf)
    }
}

impl<T: Tap> AsyncWrite for Tapped<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.tap.poll_write(&mut this.stream, cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.tap.poll_write_vectored(&mut this.stream, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.tap.poll_settle(&mut this.stream, cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.tap.poll_settle(&mut this.stream, cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

// What else the library wants to know of a stream is as it was.

#[async_trait]
impl<T: Tap> Shutdown for Tapped<T> {
    async fn shutdown(&mut self) {
        // What cannot be written any more is lost with the connection.
        let _ = poll_fn(|cx| self.tap.poll_settle(&mut self.stream, cx)).await;
        Shutdown::shutdown(&mut *self.stream).await;
    }
}

/// Not asked: the connection was recognised before.
impl<T: Tap> Peek for Tapped<T> {}

impl<T: Tap> UniqueID for Tapped<T> {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl<T: Tap> Ssl for Tapped<T> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl<T: Tap> GetTimingDigest for Tapped<T> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }
}

impl<T: Tap> GetProxyDigest for Tapped<T> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl<T: Tap> GetSocketDigest for Tapped<T> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}
