//! One client connection, from accept to close.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use gatepost_auth::Refusal;
use gatepost_auth::address::{Arrival, Told};
use pingora_core::apps::{HttpServerApp as _, ServerApp as _};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream as TcpOrUnix;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{GetProxyDigest as _, GetSocketDigest as _, SocketDigest, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use pingora_proxy::{HttpProxy, Session};
use tokio::net::TcpStream;

use crate::answer;
use crate::crowd::{Crowd, Place};
use crate::door::Door;
use crate::head::{HeadTimes, Incoming, Turn, next_head};
use crate::metrics::{Counted, Metrics};
use crate::opening::{Opened, Opening, proxy_header};
use crate::record::Record;
use crate::snapshot::Snapshot;

/// What every connection needs.
pub(crate) struct Connections {
    pub(crate) proxy: Arc<HttpProxy<Door>>,
    pub(crate) metrics: Metrics,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) crowd: Arc<Crowd>,
}

impl Connections {
    /// Serves one connection until it closes.
    pub(crate) async fn serve(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        opening: Opening,
        mut shutdown: ShutdownWatch,
    ) {
        let _open = Counted::new(&self.metrics.connections);
        let mut stream = prepare(tcp, peer);
        let mut arrival = Arrival::direct(peer.ip());
        let _place = match self.enter(arrival.peer) {
            Ok(place) => place,
            Err(refusal) => {
                self.record_refusal(arrival, &refusal);
                return answer::turn_away(Box::new(stream), &refusal).await;
            }
        };
        if opening == Opening::ProxyHeader {
            arrival.told = Told::Unasked;
            if self.is_proxy(arrival.peer) {
                let time = self.snapshot.load().http.head_timeout;
                match proxy_header(&mut stream, time, &mut shutdown).await {
                    Opened::Told(told) => arrival.told = told,
                    Opened::Closed => return,
                    Opened::Refused(refusal) => {
                        self.record_refusal(arrival, &refusal);
                        return answer::refuse_raw(Box::new(stream), &refusal).await;
                    }
                }
            }
            if !carry(&mut stream, arrival) {
                return;
            }
        }
        let first = self.head(&mut stream, Turn::First, &mut shutdown).await;
        if let Incoming::Http2(preface) = first {
            let _http2 = Counted::new(&self.metrics.http2_connections);
            stream.rewind(&preface);
            self.proxy.process_new(Box::new(stream), &shutdown).await;
            return;
        }
        self.serve_http1(Box::new(stream), first, arrival, shutdown)
            .await;
    }

    fn enter(&self, peer: IpAddr) -> Result<Place, Refusal> {
        let snapshot = self.snapshot.load();
        let http = &snapshot.http;
        let limits = (http.max_connections, http.max_connections_per_address);
        self.crowd
            .enter(peer, limits, &snapshot.gate.trusted_proxies)
    }

    fn is_proxy(&self, peer: IpAddr) -> bool {
        self.snapshot.load().gate.trusted_proxies.contains(peer)
    }

    async fn serve_http1(
        &self,
        mut stream: Stream,
        mut incoming: Incoming,
        arrival: Arrival,
        mut shutdown: ShutdownWatch,
    ) {
        loop {
            let (bytes, last) = match incoming {
                Incoming::Request { bytes, last } => (bytes, last),
                Incoming::Refused(refusal) => {
                    self.record_refusal(arrival, &refusal);
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
    fn record_refusal(&self, arrival: Arrival, refusal: &Refusal) {
        let mut record = Record::new(Instant::now(), self.snapshot.load().generation);
        record.peer = Some(arrival.peer);
        record.client = Some(match arrival.told {
            Told::Source(source) => source,
            Told::Nothing | Told::Unasked | Told::NoSource => arrival.peer,
        });
        record.refused(refusal);
        record.detail = Some(refusal.message().into_owned());
        self.metrics.count(&record);
        record.log();
    }
}

/// Lets every request of the connection know how it arrived. The library carries what it was told about the
/// proxy in front to its requests, of HTTP/1 and HTTP/2 alike, and has a place there for data of others.
///
/// False where it cannot be noted: then the connection must not be served, since without the note it would be taken
/// for one that came directly.
#[must_use]
fn carry(stream: &mut TcpOrUnix, arrival: Arrival) -> bool {
    // There was no CONNECT and so no answer to one; the field has to be filled.
    let Ok(answer) = ResponseHeader::build(200, Some(0)) else {
        return false;
    };
    stream.set_proxy_digest(ProxyDigest::new(Box::new(answer), Some(Box::new(arrival))));
    true
}

/// How the connection of a request arrived, as [`carry`] noted it.
pub(crate) fn arrival(session: &Session) -> Result<Arrival, Refusal> {
    let digest = session.digest().ok_or(Refusal::Internal)?;
    let carried = digest.proxy_digest.as_ref();
    let carried = carried.and_then(|it| it.user_data.as_ref()?.downcast_ref::<Arrival>());
    if let Some(arrival) = carried {
        return Ok(*arrival);
    }
    session
        .client_addr()
        .and_then(|address| address.as_inet())
        .map(|address| Arrival::direct(address.ip()))
        .ok_or(Refusal::Internal)
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
