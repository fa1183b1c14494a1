//! How many connections the admin listener holds. It has no limits of clients, since everything that looks after gatepost has to come in; so
//! whoever reaches it could take every file descriptor there is. Where there are too many, the oldest is cut: probes come anew each time,
//! and who sits there for long is hardly one of them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::descriptors::Seldom;

/// Connections at once.
const MOST: usize = 256;

/// Accepts, and cuts the oldest where there are too many.
pub(crate) struct Bounded {
    socket: TcpListener,
    /// Oldest first. One that is dropped cuts its connection.
    open: VecDeque<oneshot::Sender<()>>,
    seldom: Seldom,
}

impl Bounded {
    pub(crate) fn new(socket: TcpListener) -> Self {
        Self {
            socket,
            open: VecDeque::new(),
            seldom: Seldom::default(),
        }
    }

    fn place(&mut self) -> oneshot::Receiver<()> {
        self.open.retain(|it| !it.is_closed());
        if self.open.len() >= MOST {
            self.open.pop_front();
            if let Some(times) = self.seldom.now(Instant::now()) {
                let words = "too many connections to the admin listener: the oldest is cut";
                tracing::warn!(most = MOST, times, "{words}");
            }
        }
        let (keep, cut) = oneshot::channel();
        self.open.push_back(keep);
        cut
    }
}

impl Listener for Bounded {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.socket).await;
        let cut = Some(self.place());
        (Visit { stream, cut }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection, until it is cut.
pub(crate) struct Visit {
    stream: TcpStream,
    /// `None` once it is.
    cut: Option<oneshot::Receiver<()>>,
}

impl Visit {
    fn stream(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if let Some(cut) = &mut self.cut
            && Pin::new(cut).poll(context).is_ready()
        {
            self.cut = None;
        }
        if self.cut.is_none() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(Pin::new(&mut self.stream))
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream(context)?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream(context)?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream(context)?.poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
