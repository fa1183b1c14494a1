//! A client's side of a connection that speaks HTTP/1, as the library gets it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use gatepost_auth::chunks::ChunkScanner;
use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::chunked::Chunks;
use crate::gathered::Gather;
use crate::tapped::{Tap, Tapped};

/// A client's connection with what stands between it and the library.
pub(crate) type ClientStream = Tapped<Client>;

/// Looks at what comes, where that is due, and sends answers in one piece.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// Of the request that is under way.
    chunks: Option<Chunks>,
    gather: Gather,
}

impl ClientStream {
    pub(crate) fn around(stream: Stream) -> Box<Self> {
        Box::new(Tapped::new(stream, Client::default()))
    }

    /// A request begins, of whose body these chunks are still to come.
    pub(crate) fn expect(&self, chunks: Option<ChunkScanner>) {
        self.with_tap(|tap| tap.chunks = chunks.map(Chunks::after));
    }
}

impl Tap for Client {
    fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.chunks {
            Some(chunks) => chunks.poll_read(stream, cx, buf),
            None => Pin::new(stream).poll_read(cx, buf),
        }
    }

    fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.gather.poll_write(stream, cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.gather.poll_write(stream, cx, bufs)
    }

    fn poll_settle(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gather.poll_settle(stream, cx)
    }

    fn keeps_something(&self) -> bool {
        self.gather.has_something()
    }
}
