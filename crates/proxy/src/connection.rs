//! One client connection, from accept to close.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gatepost_auth::Refusal;
use gatepost_auth::address::{Arrival, Told};
use gatepost_auth::wire::HeadFault;
use pingora_core::apps::{HttpServerApp as _, ServerApp as _};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream as TcpOrUnix;
use pingora_core::protocols::tls::TlsStream;
use pingora_core::protocols::{ALPN, GetSocketDigest as _, SocketDigest, Ssl as _, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use crate::answer;
use crate::client_stream::ClientStream;
use crate::crowd::{Crowd, Place};
use crate::door::Door;
use crate::head::{HeadTimes, Incoming, Patience, Turn, next_head, silent_after};
use crate::http2::Watch;
use crate::metrics::{Counted, Metrics};
use crate::opening::{Opened, Opening, proxy_header};
use crate::record::Record;
use crate::snapshot::Snapshot;
use crate::tapped::Tapped;
use crate::tls::ServerTls;
use crate::way::{Way, carry};

/// Which way a connection came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entrance {
    /// Which of the listeners, as configured at the start.
    pub(crate) listener: usize,
    pub(crate) opening: Opening,
}

/// What every connection needs.
pub(crate) struct Connections {
    pub(crate) proxy: Arc<HttpProxy<Door>>,
    pub(crate) metrics: Metrics,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) crowd: Arc<Crowd>,
}

impl Connections {
    /// Serves one connection until it closes.
    ///
    /// Its phases are boxed: as parts of one future each connection would hold, while it idles, the room of all of them (12 KB).
    pub(crate) async fn serve(
        &self,
        socket: Accepted,
        entrance: Entrance,
        mut shutdown: ShutdownWatch,
    ) {
        let _open = Counted::new(&self.metrics.connections.open);
        let mut arrival = socket.arrival();
        let local = matches!(socket, Accepted::Unix(_));
        let mut stream = socket.prepare();
        let _place = match self.enter((!local).then_some(arrival.peer)) {
            Ok(place) => place,
            Err(refusal) => {
                self.record_refusal(arrival, &refusal);
                // Over TLS words would cost a handshake, of which there would be too many.
                if self.snapshot.load().tls(entrance.listener).is_none() {
                    answer::turn_away(Box::new(stream), &refusal).await;
                }
                return;
            }
        };
        if entrance.opening == Opening::ProxyHeader {
            if local || self.is_proxy(arrival.peer) {
                let time = self.snapshot.load().http.head_timeout;
                arrival.told = match proxy_header(&mut stream, time, &mut shutdown).await {
                    Opened::Told(Told::Source(source)) if local => Told::SourceByFile(source),
                    Opened::Told(told) => told,
                    Opened::Closed => return,
                    Opened::Refused(refusal) => {
                        self.record_refusal(arrival, &refusal);
                        return answer::refuse_raw(Box::new(stream), &refusal).await;
                    }
                };
            } else {
                arrival.told = Told::Unasked;
            }
        }
        let way = Way::new(arrival, entrance.listener);
        if !carry(&mut stream, &way) {
            return;
        }
        let snapshot = self.snapshot.load_full();
        if let Some(tls) = snapshot.tls(entrance.listener).cloned() {
            let securing = self.secure(&tls, stream, &way, &snapshot, &mut shutdown);
            let Some(stream) = Box::pin(securing).await else {
                return;
            };
            drop(snapshot);
            return Box::pin(self.serve_secure(stream, &way, shutdown)).await;
        }
        drop(snapshot);
        let mut patience = Patience::new(&shutdown);
        let first = self.head(&mut stream, Turn::First, &mut patience).await;
        if let Incoming::Http2(preface) = first {
            // The connection may live for hours.
            drop(patience);
            stream.rewind(&preface);
            return Box::pin(self.serve_http2(Box::new(stream), &way, shutdown)).await;
        }
        Box::pin(self.serve_http1(Box::new(stream), first, &way, patience, shutdown)).await;
    }

    /// A peer on a Unix socket has no address to be counted by.
    fn enter(&self, peer: Option<IpAddr>) -> Result<Place, Refusal> {
        let snapshot = self.snapshot.load();
        let http = &snapshot.http;
        let limits = (http.max_connections, http.max_connections_per_address);
        self.crowd
            .enter(peer, limits, &snapshot.gate.trusted_proxies)
    }

    /// The handshake, within the time for a head. Before a client has begun one, nothing is lost by closing.
    async fn secure(
        &self,
        tls: &ServerTls,
        mut stream: TcpOrUnix,
        way: &Way,
        snapshot: &Snapshot,
        shutdown: &mut ShutdownWatch,
    ) -> Option<Box<TlsStream<TcpOrUnix>>> {
        let handshake = async {
            let mut byte = [0];
            tokio::select! {
                biased;
                read = stream.read(&mut byte) => {
                    // Without one, the handshake meets the same and says it.
                    stream.rewind(byte.get(..read.unwrap_or(0)).unwrap_or_default());
                }
                () = silent_after(shutdown) => return Ok(Begun::Not),
            }
            // A method, as everything else that begins so is none of TLS either.
            if byte[0].is_ascii_uppercase() {
                return Ok(Begun::Plain(Box::new(stream)));
            }
            let secure = tls.handshake(stream).await?;
            Ok::<_, Box<pingora_error::Error>>(Begun::Secure(Box::new(secure)))
        };
        let fault = match timeout(snapshot.http.head_timeout, handshake).await {
            Ok(Ok(Begun::Not)) => return None,
            Ok(Ok(Begun::Secure(stream))) => {
                way.secured(&stream, snapshot);
                return Some(stream);
            }
            Ok(Ok(Begun::Plain(stream))) => {
                self.metrics.connections.handshakes_failed.inc();
                let refusal = Refusal::Head(HeadFault::NoTls);
                self.record_refusal(way.arrival, &refusal);
                answer::refuse_raw(stream, &refusal).await;
                return None;
            }
            // What the library puts before it says nothing more.
            Ok(Err(fault)) => {
                let said = fault.to_string();
                let last = said.rsplit("tls connect error: ").next();
                last.unwrap_or_default().to_owned()
            }
            Err(_) => "it took too long".to_owned(),
        };
        self.metrics.connections.handshakes_failed.inc();
        let client = way.arrival.client();
        tracing::info!(target: "access", %client, detail = fault, "no TLS connection");
        None
    }

    /// Over TLS the handshake says which HTTP it is (RFC 9113 §3.2): HTTP/2 that was not agreed on is a bad head.
    async fn serve_secure(
        &self,
        mut stream: Box<TlsStream<TcpOrUnix>>,
        way: &Arc<Way>,
        shutdown: ShutdownWatch,
    ) {
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            return self.serve_http2(stream, way, shutdown).await;
        }
        let mut patience = Patience::new(&shutdown);
        let first = self
            .head(&mut *stream, Turn::FirstOverTls, &mut patience)
            .await;
        self.serve_http1(stream, first, way, patience, shutdown)
            .await;
    }

    async fn serve_http2(&self, stream: Stream, way: &Arc<Way>, mut shutdown: ShutdownWatch) {
        let _http2 = Counted::new(&self.metrics.connections.http2);
        let http = self.snapshot.load().http;
        let (tap, verdict) = Watch::new(way.clone(), http.head_timeout, http.body_timeout);
        let stream = Tapped::new(stream, tap);
        // A stop of the whole, or an end of this one: the client is told by GOAWAY in either case.
        let ending = way.ending();
        let mut serving = std::pin::pin!(self.proxy.process_new(Box::new(stream), &ending));
        let is_over = tokio::select! {
            _ = &mut serving => true,
            _ = shutdown.wait_for(|stop| *stop) => false,
            () = self.outstays(way) => true,
        };
        if !is_over {
            way.end();
            serving.await;
        }
        if let Some(refusal) = verdict.get() {
            self.record_refusal(way.arrival, refusal);
        }
    }

    /// Ends when a client has been told to go, and has not for as long as gatepost itself would take to end. The library waits for its
    /// answer to GOAWAY without limit.
    async fn outstays(&self, way: &Way) {
        if way.ending().wait_for(|end| *end).await.is_err() {
            // Nobody can say it any more.
            std::future::pending::<()>().await;
        }
        let most = self.snapshot.load().drain_timeout;
        sleep(most).await;
    }

    fn is_proxy(&self, peer: IpAddr) -> bool {
        self.snapshot.load().gate.trusted_proxies.contains(peer)
    }

    async fn serve_http1(
        &self,
        stream: Stream,
        mut incoming: Incoming,
        way: &Way,
        mut patience: Patience,
        shutdown: ShutdownWatch,
    ) {
        let mut stream = ClientStream::around(stream);
        let mut requests = 0_usize;
        loop {
            let (bytes, last, chunks) = match incoming {
                Incoming::Request {
                    bytes,
                    last,
                    chunks,
                } => (bytes, last, chunks),
                Incoming::Refused(refusal) => {
                    self.record_refusal(way.arrival, &refusal);
                    return answer::refuse_raw(stream, &refusal).await;
                }
                Incoming::Http2(_) | Incoming::Closed => return say_goodbye(stream).await,
            };
            stream.expect(chunks);
            let rest = stream.rest();
            let mut session = ServerSession::new_http1(stream);
            let http = self.snapshot.load().http;
            session.set_read_timeout(Some(http.body_timeout));
            // A client that shuts its sending side after the request still gets its answer.
            session.set_abort_on_close(false);
            // Bytes that arrive ahead of the answer must not break the request that is under way;
            // the door turns this off before the connection could be used again.
            session.set_pipelining_enabled(true);
            requests += 1;
            let most = http.max_requests_per_connection;
            let last = last || most.is_some_and(|most| requests >= most);
            session.set_keepalive_reuses_remaining(last.then_some(0));
            session.set_pipelined_prefix(bytes);
            let serving = self.proxy.process_new_http(session, &shutdown);
            let Some(reused) = way.held_back.with(serving, |cx| rest.send(cx)).await else {
                return;
            };
            let Ok(same) = reused.consume().0.into_any().downcast() else {
                return;
            };
            stream = same;
            incoming = if patience.wait(way.pause.left()).await {
                self.head(&mut *stream, Turn::Later, &mut patience).await
            } else {
                Incoming::Closed
            };
        }
    }

    async fn head(
        &self,
        stream: &mut (impl tokio::io::AsyncRead + Unpin + ?Sized),
        turn: Turn,
        patience: &mut Patience,
    ) -> Incoming {
        let http = self.snapshot.load().http;
        let idle = match turn {
            Turn::First | Turn::FirstOverTls => http.head_timeout,
            Turn::Later => http.keepalive_timeout,
        };
        let times = HeadTimes {
            idle,
            head: http.head_timeout,
        };
        next_head(stream, turn, http.head_limits, times, patience).await
    }

    /// A head that did not pass is a request too, as far as counting goes.
    fn record_refusal(&self, arrival: Arrival, refusal: &Refusal) {
        let mut record = Record::new(Instant::now(), self.snapshot.load().generation);
        record.peer = Some(arrival.peer);
        record.client = Some(arrival.client());
        record.refused(refusal);
        record.detail = Some(refusal.message().into_owned());
        self.metrics.count(&record);
        record.log();
    }
}

/// What a client of a listener with TLS begins with.
enum Begun {
    Not,
    Plain(Box<TcpOrUnix>),
    Secure(Box<TlsStream<TcpOrUnix>>),
}

/// Over TLS a connection that just ends could have been cut off by somebody (RFC 8446 §6.1).
async fn say_goodbye(mut stream: Stream) {
    /// A client that does not take a few bytes is gone.
    const TIME: Duration = Duration::from_secs(1);
    if stream.get_ssl_digest().is_some() {
        // Whether it was told or is gone: the connection closes.
        let _ = timeout(TIME, AsyncWriteExt::shutdown(&mut stream)).await;
    }
}

/// A socket as it was accepted.
pub(crate) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
    #[cfg(feature = "fuzz")]
    Memory(crate::in_memory::Pipe, SocketAddr),
}

impl Accepted {
    fn arrival(&self) -> Arrival {
        match self {
            Self::Tcp(_, peer) => Arrival::direct(peer.ip()),
            Self::Unix(_) => Arrival::local(),
            #[cfg(feature = "fuzz")]
            Self::Memory(_, peer) => Arrival::direct(peer.ip()),
        }
    }

    /// Wraps it for the proxy library, with the peer's address where that looks for it.
    fn prepare(self) -> TcpOrUnix {
        let (mut stream, digest) = match self {
            Self::Tcp(tcp, peer) => {
                let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
                // A new cell is empty, so this cannot fail.
                let _ = digest.peer_addr.set(Some(peer.into()));
                (TcpOrUnix::from(tcp), digest)
            }
            Self::Unix(unix) => {
                let digest = SocketDigest::from_raw_fd(unix.as_raw_fd());
                (TcpOrUnix::from(unix), digest)
            }
            #[cfg(feature = "fuzz")]
            Self::Memory(pipe, peer) => pipe.prepare(peer),
        };
        stream.set_socket_digest(digest);
        if let Err(fault) = stream.set_nodelay() {
            tracing::debug!(%fault, "cannot set TCP_NODELAY");
        }
        stream
    }
}
