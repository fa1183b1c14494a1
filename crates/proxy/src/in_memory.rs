//! Connections that are no sockets, for `crates/fuzz`: whatever comes is served as it would be for a client on the network.
//!
//! Only with the feature `fuzz`, which no release has.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use gatepost_policy::PolicyCounters;
use pingora_core::protocols::SocketDigest;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;

use crate::bench::server;
use crate::connection::{Accepted, Connections, Entrance};
use crate::opening::Opening;
use crate::reload::Loaded;
use crate::server::StartError;

/// All of gatepost behind its listeners.
pub struct Proxy {
    connections: Connections,
    /// Never told to stop.
    stop: watch::Sender<bool>,
}

impl Proxy {
    /// With these settings and this policy.
    ///
    /// # Errors
    ///
    /// As [`crate::Server::bind`], by which it is made.
    pub fn new(loaded: Loaded, counters: Arc<PolicyCounters>) -> Result<Self, StartError> {
        Ok(Self {
            connections: server(loaded, counters)?.into_connections(),
            stop: watch::channel(false).0,
        })
    }

    /// Serves one connection of the first listener until it closes. To be called within a tokio runtime.
    pub async fn serve(&self, client: DuplexStream, peer: SocketAddr, begins: Begins) {
        let opening = match begins {
            Begins::WithRequest => Opening::Request,
            Begins::WithProxyHeader => Opening::ProxyHeader,
        };
        let entrance = Entrance {
            listener: 0,
            opening,
        };
        let socket = Accepted::Memory(Pipe(client), peer);
        self.connections
            .serve(socket, entrance, self.stop.subscribe())
            .await;
    }
}

/// How connections begin, as a listener's `proxy_protocol` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// With a request.
    WithRequest,
    /// With a PROXY header, where the peer is a trusted proxy.
    WithProxyHeader,
}

/// gatepost's end of a connection, as the library takes it.
#[derive(Debug)]
pub(crate) struct Pipe(DuplexStream);

impl Pipe {
    /// Wraps it, with the peer's address where the library looks for it.
    pub(crate) fn prepare(self, peer: SocketAddr) -> (Stream, SocketDigest) {
        // There is no descriptor, and nobody asks it for anything but this.
        let digest = SocketDigest::from_raw_fd(-1);
        // A new cell is empty, so this cannot fail.
        let _ = digest.peer_addr.set(Some(peer.into()));
        let stream = VirtualSocketStream::new(Box::new(self));
        (Stream::from(stream), digest)
    }
}

impl VirtualSocket for Pipe {
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
