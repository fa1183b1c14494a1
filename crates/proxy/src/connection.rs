//! One client connection, from accept to close.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use gatepost_auth::Refusal;
use pingora_core::apps::{HttpServerApp as _, ServerApp as _};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream as TcpOrUnix;
use pingora_core::protocols::{GetSocketDigest as _, SocketDigest, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::net::TcpStream;

use crate::answer;
use crate::door::Door;
use crate::head::{HeadTimes, Incoming, Turn, next_head};
use crate::metrics::{Counted, Metrics};
use crate::record::Record;
use crate::snapshot::Snapshot;

/// What every connection needs.
pub(crate) struct Connections {
    pub(crate) proxy: Arc<HttpProxy<Door>>,
    pub(crate) metrics: Metrics,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
}

impl Connections {
    /// Serves one connection until it closes.
    pub(crate) async fn serve(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        mut shutdown: ShutdownWatch,
    ) {
        let _open = Counted::new(&self.metrics.connections);
        let mut stream = prepare(tcp, peer);
        let first = self.head(&mut stream, Turn::First, &mut shutdown).await;
        if let Incoming::Http2(preface) = first {
            stream.rewind(&preface);
            self.proxy.process_new(Box::new(stream), &shutdown).await;
            return;
        }
        self.serve_http1(Box::new(stream), first, peer, shutdown)
            .await;
    }

    async fn serve_http1(
        &self,
        mut stream: Stream,
        mut incoming: Incoming,
        peer: SocketAddr,
        mut shutdown: ShutdownWatch,
    ) {
        loop {
            let (bytes, last) = match incoming {
                Incoming::Request { bytes, last } => (bytes, last),
                Incoming::Refused(refusal) => {
                    self.record_refusal(peer, &refusal);
                    return answer::refuse_raw(stream, &refusal).await;
                }
                Incoming::Http2(_) | Incoming::Closed => return,
            };
            let mut session = ServerSession::new_http1(stream);
            session.set_read_timeout(Some(self.snapshot.load().http.body_timeout));
            // A client that shuts its sending side after the request still gets its answer.
            session.set_abort_on_close(false);
            // Bytes that arrive ahead of the answer must not break the request that is under way;
            // the door turns this off before the connection could be used again.
            session.set_pipelining_enabled(true);
            session.set_keepalive_reuses_remaining(last.then_some(0));
            session.set_pipelined_prefix(bytes);
            let Some(reused) = self.proxy.process_new_http(session, &shutdown).await else {
                return;
            };
            (stream, _) = reused.consume();
            incoming = self.head(&mut *stream, Turn::Later, &mut shutdown).await;
        }
    }

    async fn head(
        &self,
        stream: &mut (impl tokio::io::AsyncRead + Unpin + ?Sized),
        turn: Turn,
        shutdown: &mut ShutdownWatch,
    ) -> Incoming {
        let http = self.snapshot.load().http;
        let idle = match turn {
            Turn::First => http.head_timeout,
            Turn::Later => http.keepalive_timeout,
        };
        let times = HeadTimes {
            idle,
            head: http.head_timeout,
        };
        next_head(stream, turn, http.head_limits, times, shutdown).await
    }

    /// A head that did not pass is a request too, as far as counting goes.
    fn record_refusal(&self, peer: SocketAddr, refusal: &Refusal) {
        let mut record = Record::new(Instant::now());
        record.client = Some(peer.ip().to_canonical());
        record.refused(refusal);
        record.detail = Some(refusal.message().into_owned());
        self.metrics.count(&record);
        record.log();
    }
}

/// Wraps a socket for the proxy library, with the peer's address where the door looks for it.
fn prepare(tcp: TcpStream, peer: SocketAddr) -> TcpOrUnix {
    let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
    // A new cell is empty, so this cannot fail.
    let _ = digest.peer_addr.set(Some(peer.into()));
    let mut stream = TcpOrUnix::from(tcp);
    stream.set_socket_digest(digest);
    if let Err(fault) = stream.set_nodelay() {
        tracing::debug!(%fault, "cannot set TCP_NODELAY");
    }
    stream
}
