//! What the status page says: one document of everything that an operator asks first, made when somebody asks.
//!
//! It is read from the metrics registry, from the snapshot and from what the reloader noted, so the request path knows
//! nothing of it. INVARIANT: it holds no secret, and what clients chose (addresses) is data for the page, never markup.

mod figures;
mod last_reload;
mod page;
mod refused;
mod settings;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gatepost_config::Listen;
use prometheus::proto::MetricFamily;
use serde::Serialize;

pub(crate) use self::last_reload::LastReload;
pub(crate) use self::page::{Page, guarded};
pub(crate) use self::refused::Refused;
pub(crate) use self::settings::{Shown, shown};

use self::figures::{Figures, Times};
use self::last_reload::Reloaded;
use self::refused::RefusedClient;
use crate::endpoints::Endpoint;
use crate::snapshot::Snapshot;

/// What stays the same from one document to the next.
pub(crate) struct Standing {
    pub(crate) began: Instant,
    pub(crate) version: String,
    pub(crate) revision: String,
    /// Where clients connect, in the order of the snapshot's.
    pub(crate) listeners: Vec<Option<Listen>>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) last_reload: Arc<LastReload>,
    pub(crate) refused: Arc<Refused>,
}

/// The document. Times are in seconds; points in time are Unix time.
#[derive(Serialize)]
pub(crate) struct Status {
    now: f64,
    phase: &'static str,
    build: Build,
    process: Process,
    policy: Policy,
    cache: Cache,
    reload: Reload,
    requests: Requests,
    /// By reason.
    refusals: BTreeMap<String, u64>,
    latency: Latency,
    refused_clients: RefusedClients,
    upstream: Vec<UpstreamStatus>,
    connections: Connections,
    listeners: Vec<ListenerStatus>,
    admin: Option<SocketAddr>,
    throttle: Shared,
    quotas: Shared,
    /// `None` where there is no shadow policy.
    shadow: Option<Vec<Compared>>,
    lost: Lost,
    config: Vec<Shown>,
}

#[derive(Serialize)]
struct Build {
    version: String,
    revision: String,
}

#[derive(Serialize)]
struct Process {
    id: u32,
    uptime: f64,
    memory_bytes: u64,
    cpu_seconds: f64,
    open_files: u64,
    max_files: u64,
}

#[derive(Serialize)]
struct Policy {
    /// Counts what was loaded, from 1.
    generation: u64,
    /// When that was.
    loaded: u64,
    workers: u64,
    queue: u64,
    calls_in_flight: u64,
    hashes_waiting: u64,
    workers_abandoned: u64,
    states_replaced: u64,
}

#[derive(Serialize)]
struct Cache {
    hits: u64,
    misses: u64,
    evictions: u64,
}

#[derive(Serialize)]
struct Reload {
    /// Whether the files as they are now are in use, as far as is known.
    good: bool,
    succeeded: u64,
    failed: u64,
    /// `None` where there was none since the start.
    last: Option<Reloaded>,
}

#[derive(Serialize)]
struct Requests {
    in_flight: u64,
    by_status: BTreeMap<String, u64>,
    decisions: Vec<Decided>,
}

#[derive(Serialize)]
struct Decided {
    mechanism: String,
    outcome: String,
    count: u64,
}

#[derive(Serialize)]
struct Latency {
    request: Times,
    policy: Times,
    upstream: Times,
}

#[derive(Serialize)]
struct RefusedClients {
    window: u64,
    top: Vec<RefusedClient>,
}

/// How one address of the upstream fares.
#[derive(Serialize)]
struct UpstreamStatus {
    address: String,
    /// `up`, `failing`, `circuit_open` or `down`.
    state: &'static str,
    in_flight: usize,
    requests: u64,
    failures: u64,
    last_error: Option<LastError>,
}

#[derive(Serialize)]
struct LastError {
    time: f64,
    error: String,
}

#[derive(Serialize)]
struct Connections {
    open: u64,
    http1: u64,
    http2: u64,
    handshakes_failed: u64,
}

#[derive(Serialize)]
struct ListenerStatus {
    address: String,
    tls: Option<Certificate>,
}

#[derive(Serialize)]
struct Certificate {
    expires: i64,
}

/// What replicas tell each other.
#[derive(Serialize)]
struct Shared {
    /// `off` where replicas do not, else `up` or `down`.
    redis: &'static str,
    /// How often that had to be left out.
    untold: Option<u64>,
}

#[derive(Serialize)]
struct Compared {
    event: String,
    live: String,
    shadow: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct Lost {
    log_lines: u64,
    audit_lines: u64,
}

impl Standing {
    /// Makes the document.
    pub(crate) fn status(
        &self,
        gathered: Vec<MetricFamily>,
        snapshot: &Snapshot,
        ready: bool,
    ) -> Status {
        let figures = Figures::new(gathered);
        let endpoints = snapshot.upstream.endpoints().list();
        Status {
            now: unix(SystemTime::now()),
            phase: if ready { "ready" } else { "stopping" },
            build: Build {
                version: self.version.clone(),
                revision: self.revision.clone(),
            },
            process: process(&figures, self.began.elapsed()),
            policy: policy(&figures, snapshot.generation),
            cache: Cache {
                hits: figures.count("gatepost_decision_cache_hits_total"),
                misses: figures.count("gatepost_decision_cache_misses_total"),
                evictions: figures.count("gatepost_decision_cache_evictions_total"),
            },
            reload: reload(&figures, &self.last_reload),
            requests: requests(&figures),
            refusals: refusals(&figures),
            latency: Latency {
                request: figures.times("gatepost_request_seconds"),
                policy: figures.times("gatepost_policy_call_seconds"),
                upstream: figures.times("gatepost_upstream_seconds"),
            },
            refused_clients: RefusedClients {
                window: Refused::WINDOW_SECONDS,
                top: self.refused.top(),
            },
            upstream: endpoints.iter().map(upstream).collect(),
            connections: connections(&figures),
            listeners: self.listeners(snapshot),
            admin: self.admin,
            throttle: Shared {
                redis: redis(
                    snapshot.throttle.redis.is_some(),
                    figures.count("gatepost_throttle_redis_up"),
                ),
                untold: Some(figures.count("gatepost_throttle_untold_total")),
            },
            quotas: Shared {
                redis: redis(
                    snapshot.quotas.redis.is_some(),
                    figures.count("gatepost_quota_redis_up"),
                ),
                untold: None,
            },
            shadow: snapshot.shadow.as_ref().map(|_| shadow(&figures)),
            lost: Lost {
                log_lines: figures.count("gatepost_log_lines_lost_total"),
                audit_lines: figures.count("gatepost_audit_lines_lost_total"),
            },
            config: snapshot.shown.clone(),
        }
    }

    fn listeners(&self, snapshot: &Snapshot) -> Vec<ListenerStatus> {
        let all = self.listeners.iter().enumerate();
        all.map(|(index, address)| ListenerStatus {
            address: address.as_ref().map(Listen::to_string).unwrap_or_default(),
            tls: snapshot
                .tls(index)
                .map(|it| Certificate { expires: it.ends() }),
        })
        .collect()
    }
}

fn upstream(endpoint: &Arc<Endpoint>) -> UpstreamStatus {
    let health = &endpoint.health;
    UpstreamStatus {
        address: endpoint.name.to_string(),
        state: endpoint.state().as_str(),
        in_flight: health.in_flight.load(Relaxed),
        requests: health.requests.load(Relaxed),
        failures: health.failures.load(Relaxed),
        last_error: health.last_fault().map(|it| LastError {
            time: unix(it.time),
            error: it.text,
        }),
    }
}

fn process(figures: &Figures, uptime: Duration) -> Process {
    Process {
        id: std::process::id(),
        uptime: uptime.as_secs_f64(),
        memory_bytes: figures.count("process_resident_memory_bytes"),
        cpu_seconds: figures.value("process_cpu_seconds_total"),
        open_files: figures.count("process_open_fds"),
        max_files: figures.count("process_max_fds"),
    }
}

fn policy(figures: &Figures, generation: u64) -> Policy {
    Policy {
        generation,
        loaded: figures.count("gatepost_reload_timestamp_seconds"),
        workers: figures.count("gatepost_policy_workers"),
        queue: figures.count("gatepost_policy_queue"),
        calls_in_flight: figures.count("gatepost_policy_calls_in_flight"),
        hashes_waiting: figures.count("gatepost_policy_hashes_waiting"),
        workers_abandoned: figures.count("gatepost_policy_workers_abandoned_total"),
        states_replaced: figures.count("gatepost_policy_states_replaced_total"),
    }
}

fn reload(figures: &Figures, last: &LastReload) -> Reload {
    let results = figures.by("gatepost_reloads_total", "result");
    let of = |result: &str| results.get(result).copied().unwrap_or(0);
    Reload {
        good: figures.count("gatepost_reload_success") == 1,
        succeeded: of("success"),
        failed: of("failure"),
        last: last.latest(),
    }
}

fn requests(figures: &Figures) -> Requests {
    let decisions = figures.by_both("gatepost_decisions_total", ["mechanism", "outcome"]);
    let decided = |(mechanism, outcome, count)| Decided {
        mechanism,
        outcome,
        count,
    };
    Requests {
        in_flight: figures.count("gatepost_requests_in_flight"),
        by_status: figures.by("gatepost_requests_total", "status"),
        decisions: decisions.into_iter().map(decided).collect(),
    }
}

/// Those that there were; `/metrics` has all, at 0.
fn refusals(figures: &Figures) -> BTreeMap<String, u64> {
    let mut refusals = figures.by("gatepost_refusals_total", "reason");
    refusals.retain(|_, count| *count > 0);
    refusals
}

fn connections(figures: &Figures) -> Connections {
    let open = figures.count("gatepost_connections");
    let http2 = figures.count("gatepost_http2_connections");
    Connections {
        open,
        http1: open.saturating_sub(http2),
        http2,
        handshakes_failed: figures.count("gatepost_tls_handshakes_failed_total"),
    }
}

fn shadow(figures: &Figures) -> Vec<Compared> {
    let mut all = Vec::new();
    for (name, shadow) in [
        ("gatepost_shadow_allowed_total", "allowed"),
        ("gatepost_shadow_denied_total", "denied"),
        ("gatepost_shadow_open_total", "open"),
    ] {
        let counts = figures.by_both(name, ["event", "live"]);
        all.extend(counts.into_iter().map(|(event, live, count)| Compared {
            event,
            live,
            shadow,
            count,
        }));
    }
    all
}

fn redis(wanted: bool, up: u64) -> &'static str {
    match (wanted, up) {
        (false, _) => "off",
        (true, 1) => "up",
        (true, _) => "down",
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
