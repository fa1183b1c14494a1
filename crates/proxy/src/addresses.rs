//! From the upstream's addresses as configured to what a connection is made to.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gatepost_config::UpstreamAddress;
use http::HeaderValue;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};

use crate::corked::Corkable;
use crate::endpoints::Endpoints;
use crate::names::{self, Answer};
use crate::server::StartError;
use crate::upstream_tls::UpstreamTls;

/// Where the upstream listens, once names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamTarget {
    /// TCP.
    Tcp(SocketAddr),
    /// Plain HTTP over a Unix domain socket.
    Unix(PathBuf),
}

/// An address as configured, and what it stands for: several, where it is a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) configured: UpstreamAddress,
    pub(crate) targets: Vec<UpstreamTarget>,
}

/// What connections to every address have in common.
pub(crate) struct Manner {
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) tls: Option<UpstreamTls>,
}

/// The host of an address, where it is a name.
pub(crate) fn host_to_resolve(address: &UpstreamAddress) -> Option<&str> {
    match address {
        UpstreamAddress::Tcp { host, .. } if host.parse::<IpAddr>().is_err() => Some(host),
        UpstreamAddress::Tcp { .. } | UpstreamAddress::Unix(_) | UpstreamAddress::Demo { .. } => {
            None
        }
    }
}

impl Resolved {
    /// A name with these addresses.
    pub(crate) fn new(configured: UpstreamAddress, answer: &Answer) -> Self {
        let port = match &configured {
            UpstreamAddress::Tcp { port, .. } => *port,
            UpstreamAddress::Unix(_) | UpstreamAddress::Demo { .. } => 0,
        };
        let target = |ip: &IpAddr| UpstreamTarget::Tcp(SocketAddr::new(*ip, port));
        Self {
            targets: answer.addresses.iter().map(target).collect(),
            configured,
        }
    }
}

/// What the configured addresses stand for. Names that are known already are not asked for again, so that no reload depends on
/// a name server.
///
/// # Errors
///
/// [`StartError::Resolve`].
pub(crate) fn resolve(
    upstream: &gatepost_config::Upstream,
    demo: Option<&UpstreamTarget>,
    running: Option<&Endpoints>,
) -> Result<Vec<Resolved>, StartError> {
    let known = running.map(Endpoints::names).unwrap_or_default();
    let resolved = |configured: &UpstreamAddress| {
        let target = match configured {
            UpstreamAddress::Unix(path) => UpstreamTarget::Unix(path.clone()),
            UpstreamAddress::Demo { .. } => demo.cloned().ok_or_else(|| {
                StartError::Upstream("the embedded injection API was not started".to_owned())
            })?,
            UpstreamAddress::Tcp { host, port } => match host.parse() {
                Ok(ip) => UpstreamTarget::Tcp(SocketAddr::new(ip, *port)),
                Err(_) => {
                    if let Some(known) = known.iter().find(|it| it.configured == *configured) {
                        return Ok(known.clone());
                    }
                    let answer = lookup(host, *port, upstream)?;
                    return Ok(Resolved::new(configured.clone(), &answer));
                }
            },
        };
        Ok(Resolved {
            configured: configured.clone(),
            targets: vec![target],
        })
    };
    upstream.addresses.iter().map(resolved).collect()
}

fn lookup(
    host: &str,
    port: u16,
    upstream: &gatepost_config::Upstream,
) -> Result<Answer, StartError> {
    let fault = |fault: String| StartError::Resolve {
        host: host.to_owned(),
        port,
        fault,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| fault(error.to_string()))?;
    runtime
        .block_on(names::lookup(host, &upstream.balancing.nameservers))
        .map_err(|error| fault(error.to_string()))
}

pub(crate) fn name(target: &UpstreamTarget) -> String {
    match target {
        UpstreamTarget::Tcp(address) => address.to_string(),
        UpstreamTarget::Unix(path) => format!("unix:{}", path.display()),
    }
}

pub(crate) fn host(target: &UpstreamTarget) -> Result<HeaderValue, StartError> {
    let host = match target {
        UpstreamTarget::Tcp(address) => address.to_string(),
        UpstreamTarget::Unix(_) => "localhost".to_owned(),
    };
    HeaderValue::try_from(host).map_err(|fault| StartError::Upstream(fault.to_string()))
}

impl Manner {
    pub(crate) fn peer(
        &self,
        configured: &UpstreamAddress,
        target: &UpstreamTarget,
    ) -> Result<HttpPeer, StartError> {
        let mut peer = match (target, &self.tls) {
            (UpstreamTarget::Tcp(address), Some(tls)) => {
                let host = match configured {
                    UpstreamAddress::Tcp { host, .. } => host,
                    UpstreamAddress::Unix(_) | UpstreamAddress::Demo { .. } => "",
                };
                tls.peer(*address, host).map_err(StartError::Upstream)?
            }
            (UpstreamTarget::Tcp(address), None) => HttpPeer::new(*address, false, String::new()),
            (UpstreamTarget::Unix(path), _) => {
                let fault =
                    |fault: &str| StartError::Upstream(format!("{}: {fault}", path.display()));
                let path = path.to_str().ok_or_else(|| fault("not UTF-8"))?;
                HttpPeer::new_uds(path, false, String::new())
                    .map_err(|error| fault(&error.to_string()))?
            }
        };
        if matches!(target, UpstreamTarget::Tcp(_)) {
            peer.options.custom_l4 = Some(Arc::new(Corkable));
        }
        peer.options.connection_timeout = Some(self.connect_timeout);
        peer.options.total_connection_timeout = Some(self.connect_timeout);
        peer.options.read_timeout = Some(self.response_timeout);
        peer.options.write_timeout = Some(self.response_timeout);
        peer.options.idle_timeout = Some(self.idle_timeout);
        // Removes hop-by-hop headers and whatever Connection nominates before the head is rewritten, so a
        // client cannot make anybody drop what gatepost sets.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        Ok(peer)
    }
}
