//! How a connection came in: what every request on it has to know, of HTTP/1 and HTTP/2 alike.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use gatepost_auth::Refusal;
use gatepost_auth::address::{Arrival, Told};
use pingora_core::protocols::l4::stream::Stream as TcpOrUnix;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::TlsStream;
use pingora_core::protocols::{GetProxyDigest as _, Ssl as _};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::corked::HeldBack;
use crate::pause::Pause;
use crate::pem;
use crate::snapshot::Snapshot;
use crate::tls::{NoName, Presented, ServerTls};

/// Of one connection.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) arrival: Arrival,
    /// Which listener it came in by.
    listener: usize,
    /// What came of the handshake, once there was one.
    handshake: OnceLock<Handshake>,
    /// Ends the connection when its requests are over. There for those of HTTP/2 over TLS; HTTP/1 says `Connection: close`.
    end: OnceLock<watch::Sender<bool>>,
    /// For HTTP/1.
    pub(crate) held_back: HeldBack,
    /// Before its next request is read.
    pub(crate) pause: Pause,
}

#[derive(Debug)]
struct Handshake {
    /// The client's certificate and those that vouch for it; empty where there is none.
    chain: Vec<CertificateDer<'static>>,
    /// By which snapshot's authorities it was verified last, and in the lowest bit what came of it: see [`verdict`].
    verified: AtomicU64,
    /// Until when that holds, in Unix time: then one of the certificates ends.
    until: AtomicI64,
}

/// A snapshot's number with what was found by it, as one value, so that nobody sees the one without the other.
fn verdict(generation: u64, counts: bool) -> u64 {
    generation << 1 | u64::from(counts)
}

impl Way {
    pub(crate) fn new(arrival: Arrival, listener: usize) -> Arc<Self> {
        Arc::new(Self {
            arrival,
            listener,
            handshake: OnceLock::new(),
            end: OnceLock::new(),
            held_back: HeldBack::default(),
            pause: Pause::default(),
        })
    }

    /// A refusal for credentials, or for want of room, makes the connection wait. Where it is a proxy's, who sends the next request is somebody
    /// else, who must not wait for it. Other refusals change nothing: between two guesses they cost nothing to get.
    pub(crate) fn refused(&self, refusal: &Refusal, snapshot: &Snapshot) {
        let has_no_room = matches!(refusal, Refusal::UpstreamBusy);
        if !has_no_room && !refusal.is_about_credentials() {
            return;
        }
        let client = self.arrival.client();
        let is_proxy =
            self.arrival.told == Told::NoSource || snapshot.gate.trusted_proxies.contains(client);
        if is_proxy || snapshot.throttle.exempt.contains(client) {
            return;
        }
        let longest = snapshot.throttle.longest_pause;
        if has_no_room {
            self.pause.told_to_come_back(longest);
        } else {
            self.pause.refused(longest);
        }
    }

    /// Notes what the handshake brought, made with the TLS of this snapshot.
    pub(crate) fn secured(&self, stream: &TlsStream<TcpOrUnix>, snapshot: &Snapshot) {
        let chain = stream.get_ssl().and_then(|it| it.peer_cert_chain_der());
        let chain = chain.unwrap_or_default().to_vec();
        // A connection has one handshake, so the cell is empty.
        let _ = self.handshake.set(Handshake {
            verified: AtomicU64::new(verdict(snapshot.generation, true)),
            until: AtomicI64::new(pem::next_end(&chain, pem::seconds_since_epoch())),
            chain,
        });
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.handshake.get().is_some()
    }

    /// The connection takes no more requests.
    pub(crate) fn end(&self) {
        if let Some(end) = self.end.get() {
            end.send_replace(true);
        }
    }

    /// Whether it takes no more requests.
    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        let end = self.end.get_or_init(|| watch::channel(false).0);
        end.subscribe()
    }

    /// The client's certificate, held against what the listener asks for by now.
    ///
    /// A connection may outlive the trust in its certificate, or have begun before one was asked for. So it is verified
    /// again when something was reloaded, and when a certificate of it ends. In between that costs a comparison of two numbers each.
    ///
    /// # Errors
    ///
    /// Where a handshake would not let the client in any more.
    pub(crate) fn presented(&self, snapshot: &Snapshot) -> Result<Presented<'_>, Refusal> {
        let Some(tls) = snapshot.tls(self.listener) else {
            return Ok(Presented::Nothing);
        };
        let handshake = self.handshake.get();
        let chain = handshake.map_or(&[][..], |it| it.chain.as_slice());
        let counts = handshake.is_some_and(|it| it.counts(tls, snapshot.generation));
        tls.presented(chain, counts)
    }

    /// The identity in the client's certificate. `None` where certificates are no identities here.
    pub(crate) fn identity(
        &self,
        presented: Presented<'_>,
        snapshot: &Snapshot,
    ) -> Option<Result<String, NoName>> {
        snapshot.tls(self.listener)?.identity(presented)
    }
}

impl Handshake {
    fn counts(&self, tls: &ServerTls, generation: u64) -> bool {
        let known = self.verified.load(Ordering::Relaxed);
        let now = pem::seconds_since_epoch();
        if known >> 1 == generation && now <= self.until.load(Ordering::Relaxed) {
            return known & 1 == 1;
        }
        let counts = tls.still_counts(&self.chain);
        self.until
            .store(pem::next_end(&self.chain, now), Ordering::Relaxed);
        self.verified
            .store(verdict(generation, counts), Ordering::Relaxed);
        counts
    }
}

/// Lets every request of the connection know. The library carries what it was told about the proxy in front to its
/// requests, and has a place there for data of others.
///
/// False where it cannot be noted: then the connection must not be served.
#[must_use]
pub(crate) fn carry(stream: &mut TcpOrUnix, way: &Arc<Way>) -> bool {
    // There was no CONNECT and so no answer to one; the field has to be filled.
    let Ok(answer) = ResponseHeader::build(200, Some(0)) else {
        return false;
    };
    let way = Box::new(way.clone());
    stream.set_proxy_digest(ProxyDigest::new(Box::new(answer), Some(way)));
    true
}

/// How the connection of a request came in, as [`carry`] noted it.
///
/// # Errors
///
/// Where nothing was noted, which does not happen; a request of nowhere must not pass.
pub(crate) fn way(session: &Session) -> Result<&Arc<Way>, Refusal> {
    let digest = session.digest().and_then(|it| it.proxy_digest.as_ref());
    digest
        .and_then(|it| it.user_data.as_ref()?.downcast_ref::<Arc<Way>>())
        .ok_or(Refusal::Internal)
}
