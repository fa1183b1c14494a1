//! The addresses of the upstream, and which of them gets a request.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gatepost_config::{Balance, Balancing, CircuitBreaker, UpstreamAddress};
use http::HeaderValue;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};

use crate::health::{Change, Health};
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

/// One address of the upstream.
pub(crate) struct Endpoint {
    /// As logs and metrics call it.
    pub(crate) name: Arc<str>,
    pub(crate) target: UpstreamTarget,
    peer: HttpPeer,
    /// For the clients of HTTP/1.0 that name no host; HTTP/1.1 wants one (RFC 9112 §3.2).
    pub(crate) host: HeaderValue,
    pub(crate) health: Arc<Health>,
}

/// What connections to every address have in common.
pub(crate) struct Manner {
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) tls: Option<UpstreamTls>,
}

/// All addresses. Which they are may change while gatepost runs.
pub(crate) struct Endpoints {
    list: ArcSwap<Vec<Arc<Endpoint>>>,
    /// What that is made of. Whoever changes one holds this.
    resolved: Mutex<Vec<Resolved>>,
    manner: Manner,
    pub(crate) balancing: Balancing,
    /// Where the search for the next one begins.
    turn: AtomicUsize,
}

/// An address that works on a request, for as long as this lives.
pub(crate) struct Lease {
    endpoint: Arc<Endpoint>,
    breaker: Option<CircuitBreaker>,
}

/// Why no address gets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoEndpoint {
    /// Health checks say that all are down.
    Down,
    /// All have as much to do as they may.
    Busy,
}

impl Endpoints {
    /// # Errors
    ///
    /// Where an address cannot be used at all.
    pub(crate) fn new(
        resolved: Vec<Resolved>,
        manner: Manner,
        balancing: Balancing,
        running: Option<&Self>,
    ) -> Result<Self, StartError> {
        let known = running.map(Self::list);
        let known = known.as_deref().map_or(&[][..], Vec::as_slice);
        let list = build(&resolved, &manner, known)?;
        if balancing.health_check.is_none() {
            list.iter().for_each(|it| it.health.unchecked());
        }
        Ok(Self {
            list: ArcSwap::from_pointee(list),
            resolved: Mutex::new(resolved),
            manner,
            balancing,
            turn: AtomicUsize::new(0),
        })
    }

    pub(crate) fn list(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.list.load_full()
    }

    /// The names among the configured addresses, with what they stand for.
    pub(crate) fn names(&self) -> Vec<Resolved> {
        let resolved = self.resolved();
        let names = resolved.iter();
        let names = names.filter(|it| host_to_resolve(&it.configured).is_some());
        names.cloned().collect()
    }

    /// Puts new addresses of a name in the place of its old ones. Requests that are under way go on. True where that changes anything.
    ///
    /// # Errors
    ///
    /// Where an address cannot be used at all; then nothing changes.
    pub(crate) fn renamed(&self, new: Resolved) -> Result<bool, StartError> {
        let mut resolved = self.resolved();
        let mut all = resolved.clone();
        let old = all.iter_mut().find(|it| it.configured == new.configured);
        let Some(old) = old.filter(|it| it.targets != new.targets) else {
            return Ok(false);
        };
        *old = new;
        let list = build(&all, &self.manner, &self.list())?;
        self.list.store(Arc::new(list));
        *resolved = all;
        Ok(true)
    }

    fn resolved(&self) -> MutexGuard<'_, Vec<Resolved>> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address for a request that was tried at these.
    pub(crate) fn choose(
        &self,
        tried: &[Arc<Endpoint>],
        now: Instant,
    ) -> Result<Lease, NoEndpoint> {
        let list = self.list.load();
        let able = |it: &&Arc<Endpoint>| !it.health.is_down() && !it.is_one_of(tried);
        let breaker = self.balancing.circuit_breaker;
        let turn = self.turn.fetch_add(1, Relaxed) % list.len().max(1);
        let (before, after) = list.split_at_checked(turn).unwrap_or((&[], &list));
        let in_turn = || after.iter().chain(before).filter(able);
        let mut due = in_turn().filter(|it| it.health.begin_trial(now, breaker));
        if let Some(lease) = due.find_map(|it| self.lease(it)) {
            return Ok(lease);
        }
        let closed = || in_turn().filter(|it| it.health.is_circuit_closed());
        self.pick(closed)
            .or_else(|| self.pick(in_turn))
            .ok_or_else(|| match in_turn().next() {
                Some(_) => NoEndpoint::Busy,
                None => NoEndpoint::Down,
            })
    }

    /// Whether there is another address than these to try.
    pub(crate) fn has_other(&self, tried: &[Arc<Endpoint>]) -> bool {
        let list = self.list.load();
        list.iter()
            .any(|it| !it.health.is_down() && !it.is_one_of(tried))
    }

    fn pick<'a, I>(&self, in_turn: impl Fn() -> I) -> Option<Lease>
    where
        I: Iterator<Item = &'a Arc<Endpoint>>,
    {
        let best = match self.balancing.balance {
            Balance::RoundRobin => in_turn().next(),
            // Of equals the first, so one after the other.
            Balance::LeastConnections => {
                in_turn().min_by_key(|it| it.health.in_flight.load(Relaxed))
            }
        };
        // The best may have been taken meanwhile, or be full.
        self.lease(best?)
            .or_else(|| in_turn().find_map(|it| self.lease(it)))
    }

    fn lease(&self, endpoint: &Arc<Endpoint>) -> Option<Lease> {
        let most = self.balancing.max_connections.unwrap_or(usize::MAX);
        if endpoint.health.in_flight.fetch_add(1, Relaxed) >= most {
            endpoint.health.in_flight.fetch_sub(1, Relaxed);
            return None;
        }
        endpoint.health.requests.fetch_add(1, Relaxed);
        Some(Lease {
            endpoint: endpoint.clone(),
            breaker: self.balancing.circuit_breaker,
        })
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.name).finish()
    }
}

impl Endpoint {
    fn is_one_of(self: &Arc<Self>, others: &[Arc<Self>]) -> bool {
        others.iter().any(|it| Arc::ptr_eq(it, self))
    }

    /// For a connection that carries no request of a client.
    pub(crate) fn peer_for_check(&self, time: Duration) -> HttpPeer {
        let mut peer = self.peer.clone();
        peer.options.total_connection_timeout = Some(time);
        peer.options.read_timeout = Some(time);
        peer
    }
}

impl Lease {
    /// For a connection, of which the next bytes have to come within the configured time, and within this one.
    pub(crate) fn peer(&self, most: Option<Duration>) -> Box<HttpPeer> {
        let mut peer = Box::new(self.endpoint.peer.clone());
        if let Some(most) = most {
            let shorter = |time: Option<Duration>| time.map(|it| it.min(most));
            let options = &mut peer.options;
            options.total_connection_timeout = shorter(options.total_connection_timeout);
            options.read_timeout = shorter(options.read_timeout);
            options.write_timeout = shorter(options.write_timeout);
        }
        peer
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The address answered, whatever it answered.
    pub(crate) fn answered(&self) {
        self.endpoint.tell(self.endpoint.health.answered());
    }

    /// The address failed.
    pub(crate) fn failed(&self, now: Instant, fault: String) {
        let change = self.endpoint.health.failed(now, self.breaker, fault);
        self.endpoint.tell(change);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.health.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Endpoint {
    /// Says in the log what changed.
    pub(crate) fn tell(&self, change: Change) {
        let address = &*self.name;
        let fault = self.health.last_fault().map(|it| it.text);
        match change {
            Change::None => {}
            Change::CircuitOpened => tracing::warn!(
                address,
                fault,
                "the upstream failed too often in a row: others are asked before it"
            ),
            Change::CircuitClosed => tracing::info!(address, "the upstream answers again"),
            Change::WentDown => {
                tracing::error!(
                    address,
                    fault,
                    "the upstream is down, as its health check says"
                );
            }
            Change::CameUp => tracing::info!(address, "the upstream is up again"),
        }
    }
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
    let fault = |fault| StartError::Resolve {
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
        .map_err(fault)
}

/// Addresses that were known keep their health. Two names for one address are one address.
fn build(
    resolved: &[Resolved],
    manner: &Manner,
    known: &[Arc<Endpoint>],
) -> Result<Vec<Arc<Endpoint>>, StartError> {
    let mut list: Vec<Arc<Endpoint>> = Vec::new();
    for Resolved {
        configured,
        targets,
    } in resolved
    {
        for target in targets {
            if list.iter().any(|it| it.target == *target) {
                continue;
            }
            let known = known.iter().find(|it| it.target == *target);
            let health = known.map_or_else(
                || Arc::new(Health::new(Instant::now())),
                |it| it.health.clone(),
            );
            list.push(Arc::new(Endpoint {
                name: name(target).into(),
                target: target.clone(),
                peer: manner.peer(configured, target)?,
                host: host(target)?,
                health,
            }));
        }
    }
    Ok(list)
}

fn name(target: &UpstreamTarget) -> String {
    match target {
        UpstreamTarget::Tcp(address) => address.to_string(),
        UpstreamTarget::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn host(target: &UpstreamTarget) -> Result<HeaderValue, StartError> {
    let host = match target {
        UpstreamTarget::Tcp(address) => address.to_string(),
        UpstreamTarget::Unix(_) => "localhost".to_owned(),
    };
    HeaderValue::try_from(host).map_err(|fault| StartError::Upstream(fault.to_string()))
}

impl Manner {
    fn peer(
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
