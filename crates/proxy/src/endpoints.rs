//! The addresses of the upstream, and which of them gets a request.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gatepost_config::{Balance, Balancing, CircuitBreaker};
use http::{HeaderValue, StatusCode};
use pingora_core::upstreams::peer::HttpPeer;

use crate::addresses::{Manner, Resolved, UpstreamTarget, host, host_to_resolve, name};
use crate::health::{Change, Health, State};
use crate::server::StartError;

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

    /// These are there until now.
    fn touch(&mut self, list: &[Arc<Endpoint>], now: Instant) {
        for (target, _, seen) in &mut self.0 {
            if list.iter().any(|it| it.target == *target) {
                *seen = now;
            }
        }
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
        let remembered = running.map(|it| {
            let mut remembered = it.made_of().remembered.clone();
            remembered.touch(&it.list(), Instant::now());
            remembered
        });
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
        all.remembered.touch(&self.list(), Instant::now());
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
        } else if self.health.has_just_failed() {
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

#[cfg(test)]
pub(crate) mod tests;
