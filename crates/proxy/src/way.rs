//! How a connection came in: what every request on it has to know, of HTTP/1 and HTTP/2 alike.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use gatepost_auth::Refusal;
use gatepost_auth::address::Arrival;
use pingora_core::protocols::l4::stream::Stream as TcpOrUnix;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::TlsStream;
use pingora_core::protocols::{GetProxyDigest as _, Ssl as _};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use rustls::pki_types::CertificateDer;

use crate::snapshot::Snapshot;
use crate::tls::NoName;

/// Of one connection.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) arrival: Arrival,
    /// Which listener it came in by.
    listener: usize,
    /// What came of the handshake, once there was one.
    handshake: OnceLock<Handshake>,
}

#[derive(Debug)]
struct Handshake {
    /// The client's certificate and those that vouch for it; empty where there is none.
    chain: Vec<CertificateDer<'static>>,
    /// By which snapshot's authorities it was verified last.
    verified: AtomicU64,
}

impl Way {
    pub(crate) fn new(arrival: Arrival, listener: usize) -> Arc<Self> {
        Arc::new(Self {
            arrival,
            listener,
            handshake: OnceLock::new(),
        })
    }

    /// Notes what the handshake brought, made with the TLS of this snapshot.
    pub(crate) fn secured(&self, stream: &TlsStream<TcpOrUnix>, snapshot: &Snapshot) {
        let chain = stream.get_ssl().and_then(|it| it.peer_cert_chain_der());
        // A connection has one handshake, so the cell is empty.
        let _ = self.handshake.set(Handshake {
            chain: chain.unwrap_or_default().to_vec(),
            verified: AtomicU64::new(snapshot.generation),
        });
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.handshake.get().is_some()
    }

    /// The identity in the client's certificate. `None` where there is no certificate, or they are no identities here.
    ///
    /// A connection may outlive the trust in its certificate, so it is looked at again when something was
    /// reloaded, and whether it is over at every request.
    pub(crate) fn identity(&self, snapshot: &Snapshot) -> Option<Result<String, NoName>> {
        let handshake = self.handshake.get()?;
        let certificate = handshake.chain.first()?;
        let tls = snapshot.tls(self.listener)?;
        let identity = tls.identity(certificate)?;
        if handshake.verified.load(Ordering::Relaxed) != snapshot.generation {
            if !tls.still_counts(&handshake.chain) {
                return Some(Err(NoName::Distrusted));
            }
            handshake
                .verified
                .store(snapshot.generation, Ordering::Relaxed);
        }
        Some(identity)
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
