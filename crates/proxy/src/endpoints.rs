//! The addresses of the upstream, and which of them gets a request.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gatepost_config::{Balance, Balancing, CircuitBreaker, UpstreamAddress};
use http::{HeaderValue, StatusCode};
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};

use crate::health::{Change, Health, State};
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
    breaker: Option<CircuitBreaker>,
    /// Whether anybody looks after its health; otherwise nobody could say that it is up again.
    is_checked: bool,
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
    made_of: Mutex<MadeOf>,
    manner: Manner,
    pub(crate) balancing: Balancing,
    /// Where the search for the next one begins.
    turn: AtomicUsize,
    /// Counts connections that are not to be reused ones.
    fresh: AtomicU64,
}

#[derive(Clone)]
struct MadeOf {
    resolved: Vec<Resolved>,
    remembered: Remembered,
}

/// The health of addresses, also of those that a name does not stand for just now: some name servers name a few of many, in turn.
#[derive(Clone, Default)]
struct Remembered(Vec<(UpstreamTarget, Arc<Health>, Instant)>);

impl Remembered {
    /// How many that are not there any more are remembered, and for how long.
    const MOST: usize = 256;
    const TIME: Duration = Duration::from_secs(600);

    fn health(&mut self, target: &UpstreamTarget, now: Instant) -> Arc<Health> {
        if let Some((_, health, seen)) = self.0.iter_mut().find(|it| it.0 == *target) {
            *seen = now;
            return health.clone();
        }
        let health = Arc::new(Health::new(now));
        self.0.push((target.clone(), health.clone(), now));
        health
    }

    /// Those that were seen now stay; of the others the ones that were seen last.
    fn forget(&mut self, now: Instant) {
        self.0.sort_by_key(|it| std::cmp::Reverse(it.2));
        let mut gone = 0;
        self.0.retain(|(_, _, seen)| {
            gone += usize::from(*seen != now);
            gone <= Self::MOST && now.saturating_duration_since(*seen) < Self::TIME
        });
    }
}

/// An address that works on a request, for as long as this lives.
pub(crate) struct Lease {
    endpoint: Arc<Endpoint>,
    reuse: Reuse,
}

/// Whether a connection may be one that was used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Allowed,
    /// Holds a number that no other has.
    Never(u64),
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
        let remembered = running.map(|it| it.made_of().remembered.clone());
        let mut made_of = MadeOf {
            resolved,
            remembered: remembered.unwrap_or_default(),
        };
        let list = build(&mut made_of, &manner, &balancing)?;
        Ok(Self {
            list: ArcSwap::from_pointee(list),
            made_of: Mutex::new(made_of),
            manner,
            balancing,
            turn: AtomicUsize::new(0),
            fresh: AtomicU64::new(0),
        })
    }

    pub(crate) fn list(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.list.load_full()
    }

    /// The names among the configured addresses, with what they stand for.
    pub(crate) fn names(&self) -> Vec<Resolved> {
        let made_of = self.made_of();
        let names = made_of.resolved.iter();
        let names = names.filter(|it| host_to_resolve(&it.configured).is_some());
        names.cloned().collect()
    }

    /// Puts new addresses of a name in the place of its old ones. Requests that are under way go on. True where that changes anything.
    ///
    /// # Errors
    ///
    /// Where an address cannot be used at all; then nothing changes.
    pub(crate) fn renamed(&self, new: Resolved) -> Result<bool, StartError> {
        let mut made_of = self.made_of();
        let mut all = made_of.clone();
        let mut resolved = all.resolved.iter_mut();
        let old = resolved.find(|it| it.configured == new.configured);
        let Some(old) = old.filter(|it| it.targets != new.targets) else {
            return Ok(false);
        };
        *old = new;
        let list = build(&mut all, &self.manner, &self.balancing)?;
        self.list.store(Arc::new(list));
        *made_of = all;
        Ok(true)
    }

    fn made_of(&self) -> MutexGuard<'_, MadeOf> {
        self.made_of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address for a request that was tried at these.
    ///
    /// # Errors
    ///
    /// Where none may be asked.
    pub(crate) fn choose(
        &self,
        tried: &[Arc<Endpoint>],
        now: Instant,
    ) -> Result<Lease, NoEndpoint> {
        let list = self.list.load();
        // Another try is of the same turn: it would come back to the same address at every request otherwise.
        let turn = if tried.is_empty() {
            self.turn.fetch_add(1, Relaxed)
        } else {
            self.turn.load(Relaxed)
        };
        let able = || list.iter().filter(|it| it.may_be_asked(tried));
        for endpoint in able().filter(|it| it.health.is_trial_due(now)) {
            if let (Some(breaker), Some(lease)) = (endpoint.breaker, self.lease(endpoint))
                && endpoint.health.begin_trial(now, breaker)
            {
                return Ok(lease);
            }
        }
        let closed = || able().filter(|it| it.is_circuit_closed());
        if closed().next().is_some() {
            return self.pick(closed, turn).ok_or(NoEndpoint::Busy);
        }
        let none = || match able().next() {
            Some(_) => NoEndpoint::Busy,
            None => NoEndpoint::Down,
        };
        self.pick(able, turn).ok_or_else(none)
    }

    /// The same address once more and on a new connection, for a request whose pooled one turned out to be dead.
    ///
    /// # Errors
    ///
    /// Where it may not be asked any more.
    pub(crate) fn again(&self, endpoint: &Arc<Endpoint>) -> Result<Lease, NoEndpoint> {
        if endpoint.is_down() {
            return Err(NoEndpoint::Down);
        }
        let mut lease = self.lease(endpoint).ok_or(NoEndpoint::Busy)?;
        lease.reuse = Reuse::Never(self.fresh.fetch_add(1, Relaxed));
        Ok(lease)
    }

    /// Whether there is another address than these to try.
    pub(crate) fn has_other(&self, tried: &[Arc<Endpoint>]) -> bool {
        self.list.load().iter().any(|it| it.may_be_asked(tried))
    }

    /// Of these the one whose turn it is. The turn is taken among them alone, so that those that are left out leave no gap that falls
    /// to their neighbour.
    fn pick<'a, I>(&self, all: impl Fn() -> I, turn: usize) -> Option<Lease>
    where
        I: Iterator<Item = &'a Arc<Endpoint>>,
    {
        let count = all().count();
        let first = turn.checked_rem(count)?;
        let in_turn = || all().skip(first).chain(all().take(first));
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
        let one_more = |count: usize| (count < most).then_some(count + 1);
        let in_flight = &endpoint.health.in_flight;
        in_flight.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        endpoint.health.requests.fetch_add(1, Relaxed);
        Some(Lease {
            endpoint: endpoint.clone(),
            reuse: Reuse::Allowed,
        })
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.name).finish()
    }
}

impl Endpoint {
    /// Whether a request may go there that was tried at these.
    fn may_be_asked(&self, tried: &[Arc<Self>]) -> bool {
        // It is the same address also where it has been resolved anew meanwhile.
        let same = |it: &Arc<Self>| Arc::ptr_eq(&it.health, &self.health);
        !self.is_down() && !tried.iter().any(same)
    }

    fn is_down(&self) -> bool {
        self.is_checked && self.health.is_down()
    }

    fn is_circuit_closed(&self) -> bool {
        self.breaker.is_none() || self.health.is_circuit_closed()
    }

    /// How it fares.
    pub(crate) fn state(&self) -> State {
        if self.is_down() {
            State::Down
        } else if !self.is_circuit_closed() {
            State::CircuitOpen
        } else if self.health.has_failed_last() {
            State::Failing
        } else {
            State::Up
        }
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
        if let Reuse::Never(number) = self.reuse {
            // No pool has connections of this key, and whoever asks for it once more has another number.
            peer.group_key = peer.group_key.wrapping_add(number).wrapping_add(1);
            peer.options.idle_timeout = Some(Duration::from_millis(1));
        }
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

    /// The address answered with this status.
    pub(crate) fn answered(&self, status: StatusCode) {
        // What says that it cannot, quickly, would otherwise seem to be the one with the least to do.
        let cannot = matches!(status.as_u16(), 502..=504);
        if cannot {
            self.failed(Instant::now(), format!("it answered {status}"));
        } else {
            self.endpoint.tell(self.endpoint.health.answered());
        }
    }

    /// The address failed.
    pub(crate) fn failed(&self, now: Instant, fault: String) {
        let change = self
            .endpoint
            .health
            .failed(now, self.endpoint.breaker, fault);
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

/// Addresses that were known keep their health. Two names for one address are one address.
fn build(
    made_of: &mut MadeOf,
    manner: &Manner,
    balancing: &Balancing,
) -> Result<Vec<Arc<Endpoint>>, StartError> {
    let now = Instant::now();
    let MadeOf {
        resolved,
        remembered,
    } = made_of;
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
            list.push(Arc::new(Endpoint {
                name: name(target).into(),
                target: target.clone(),
                peer: manner.peer(configured, target)?,
                host: host(target)?,
                health: remembered.health(target, now),
                breaker: balancing.circuit_breaker,
                is_checked: balancing.health_check.is_some(),
            }));
        }
    }
    remembered.forget(now);
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use gatepost_config::HealthCheck;
    use std::collections::BTreeMap;

    /// The address 127.0.0.1 with this port.
    pub(crate) fn tcp(port: u16) -> Resolved {
        let ip = IpAddr::from([127, 0, 0, 1]);
        Resolved {
            configured: UpstreamAddress::Tcp {
                host: ip.to_string(),
                port,
            },
            targets: vec![UpstreamTarget::Tcp((ip, port).into())],
        }
    }

    pub(crate) fn endpoints(
        resolved: Vec<Resolved>,
        change: impl FnOnce(&mut Balancing),
    ) -> Endpoints {
        after(None, resolved, change)
    }

    fn after(
        running: Option<&Endpoints>,
        resolved: Vec<Resolved>,
        change: impl FnOnce(&mut Balancing),
    ) -> Endpoints {
        let second = Duration::from_secs(1);
        let manner = Manner {
            connect_timeout: second,
            response_timeout: second,
            idle_timeout: second,
            tls: None,
        };
        let mut balancing = Balancing {
            balance: Balance::RoundRobin,
            nameservers: Vec::new(),
            max_connections: None,
            circuit_breaker: Some(CircuitBreaker {
                max_failures: 1,
                open_for: Duration::from_secs(3600),
            }),
            health_check: None,
        };
        change(&mut balancing);
        Endpoints::new(resolved, manner, balancing, running).unwrap()
    }

    fn port(lease: &Lease) -> u16 {
        match &lease.endpoint.target {
            UpstreamTarget::Tcp(address) => address.port(),
            UpstreamTarget::Unix(_) => 0,
        }
    }

    fn shares(endpoints: &Endpoints, requests: usize) -> BTreeMap<u16, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..requests {
            let lease = endpoints.choose(&[], Instant::now()).unwrap();
            *shares.entry(port(&lease)).or_default() += 1;
        }
        shares
    }

    /// The circuit of one of them opens.
    fn fail(endpoints: &Endpoints, port: u16) {
        let list = endpoints.list();
        let endpoint = list.iter().find(|it| it.target == tcp(port).targets[0]);
        let lease = endpoints.lease(endpoint.unwrap()).unwrap();
        lease.failed(Instant::now(), "no".to_owned());
    }

    fn all(ports: std::ops::RangeInclusive<u16>) -> Vec<Resolved> {
        ports.map(tcp).collect()
    }

    #[test]
    fn those_that_are_out_leave_no_gap() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections] {
            let endpoints = endpoints(all(1..=4), |it| it.balance = balance);
            assert_eq!(shares(&endpoints, 40), (1..=4).map(|it| (it, 10)).collect());
            fail(&endpoints, 2);
            assert_eq!(shares(&endpoints, 30), [1, 3, 4].map(|it| (it, 10)).into());
            fail(&endpoints, 3);
            assert_eq!(shares(&endpoints, 30), [1, 4].map(|it| (it, 15)).into());
        }
    }

    /// Another try does not take the next one's turn, or a dead address would come first at every request.
    #[test]
    fn another_try_is_of_the_same_turn() {
        let endpoints = endpoints(all(1..=2), |it| it.circuit_breaker = None);
        let mut first = BTreeMap::<u16, usize>::new();
        for _ in 0..20 {
            let now = Instant::now();
            let lease = endpoints.choose(&[], now).unwrap();
            *first.entry(port(&lease)).or_default() += 1;
            if port(&lease) == 1 {
                let tried = [lease.endpoint.clone()];
                assert_eq!(port(&endpoints.choose(&tried, now).unwrap()), 2);
            }
        }
        assert_eq!(first, [(1, 10), (2, 10)].into());
    }

    /// One that is only full is better waited for than one that is broken.
    #[test]
    fn a_full_address_is_no_reason_to_ask_a_broken_one() {
        let endpoints = endpoints(all(1..=2), |it| it.max_connections = Some(1));
        let now = Instant::now();
        fail(&endpoints, 2);
        let busy = endpoints.choose(&[], now).unwrap();
        assert_eq!(port(&busy), 1);
        assert_eq!(endpoints.choose(&[], now).err(), Some(NoEndpoint::Busy));
        fail_all(&endpoints, busy);
        assert!(endpoints.choose(&[], now).is_ok(), "nobody else is left");
    }

    fn fail_all(endpoints: &Endpoints, lease: Lease) {
        lease.failed(Instant::now(), "no".to_owned());
        drop(lease);
        assert!(endpoints.list().iter().all(|it| !it.is_circuit_closed()));
    }

    fn check() -> HealthCheck {
        HealthCheck {
            path: "/".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_threshold: 1,
            unhealthy_threshold: 1,
        }
    }

    /// What is taken out of the configuration has no effect any more, whatever it found out before, and while it went on.
    #[test]
    fn a_reload_ends_checks_and_circuits() {
        let running = endpoints(all(1..=2), |it| it.health_check = Some(check()));
        fail(&running, 1);
        let list = running.list();
        list[1].health.checked(&check(), Err("no".to_owned()));
        let now = Instant::now();
        assert_eq!(
            list.iter().map(|it| it.state()).collect::<Vec<_>>(),
            [State::CircuitOpen, State::Down]
        );
        let next = after(Some(&running), all(1..=2), |it| it.circuit_breaker = None);
        // The check that was under way comes to its end.
        list[1].health.checked(&check(), Err("no".to_owned()));
        assert_eq!(shares(&next, 10), [(1, 5), (2, 5)].into());
        assert!(next.has_other(&[list[0].clone()]));
        assert!(!next.has_other(&list[..]));
        let back = after(Some(&next), all(1..=2), |it| {
            it.health_check = Some(check())
        });
        assert_eq!(
            shares(&back, 10),
            [(1, 10)].into(),
            "it is known to be down"
        );
        assert!(back.choose(&[list[0].clone()], now).is_err());
    }

    /// Name servers that name a few of many in turn do not make a sick one healthy.
    #[test]
    fn health_is_remembered_while_an_address_is_not_named() {
        let named = |ports: &[u16]| Resolved {
            configured: UpstreamAddress::Tcp {
                host: "mta.test".to_owned(),
                port: 1,
            },
            targets: ports.iter().map(|it| tcp(*it).targets[0].clone()).collect(),
        };
        let endpoints = endpoints(vec![named(&[1, 2])], |_| {});
        fail(&endpoints, 2);
        assert!(endpoints.renamed(named(&[1, 3])).unwrap());
        assert!(!endpoints.renamed(named(&[1, 3])).unwrap());
        assert!(endpoints.renamed(named(&[1, 2])).unwrap());
        assert_eq!(shares(&endpoints, 10), [(1, 10)].into());
        for port in 1000..2000 {
            endpoints.renamed(named(&[port])).unwrap();
        }
        assert!(endpoints.made_of().remembered.0.len() <= 1 + Remembered::MOST);
        assert!(endpoints.renamed(named(&[])).unwrap());
        assert_eq!(
            endpoints.choose(&[], Instant::now()).err(),
            Some(NoEndpoint::Down)
        );
    }

    #[test]
    fn no_more_than_there_may_be() {
        let endpoints = endpoints(all(1..=2), |it| it.max_connections = Some(2));
        let now = Instant::now();
        let mut leases: Vec<_> = (0..4)
            .map(|_| endpoints.choose(&[], now).unwrap())
            .collect();
        assert_eq!(endpoints.choose(&[], now).err(), Some(NoEndpoint::Busy));
        leases.pop();
        assert!(endpoints.choose(&[], now).is_ok());
        drop(leases);
        let idle = |it: &Arc<Endpoint>| it.health.in_flight.load(Relaxed) == 0;
        assert!(endpoints.list().iter().all(idle));
    }

    /// A connection that is not to be a reused one is none that any other request could find.
    #[test]
    fn a_second_try_has_a_connection_of_its_own() {
        use pingora_core::upstreams::peer::Peer as _;
        let endpoints = endpoints(all(1..=1), |_| {});
        let first = endpoints.choose(&[], Instant::now()).unwrap();
        let usual = first.peer(None).reuse_hash();
        let again = || {
            endpoints
                .again(&first.endpoint)
                .unwrap()
                .peer(None)
                .reuse_hash()
        };
        let (one, other) = (again(), again());
        assert!(one != usual && other != usual && one != other);
    }
}
