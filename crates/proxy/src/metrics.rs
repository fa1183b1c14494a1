//! The metrics, all filled from a finished [`Record`].
//!
//! Labels are bounded: a route is the pattern from the configuration, never a path that a client
//! chose, and no label holds a user, except where the operator asks for some (`identities.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use gatepost_auth::Mechanism;
use gatepost_config::{Listen, Listener};
use gatepost_policy::{PolicyCounters, PolicyStats};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::descriptors::DescriptorMetrics;
use crate::endpoints::Endpoints;
use crate::health::State;
use crate::identities::TopIdentities;
use crate::record::{Record, UpstreamTime};
use crate::status::Refused;
use crate::tls::ServerTls;

/// Every metric of the request path.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    refusals: IntCounterVec,
    decisions: IntCounterVec,
    request_time: Histogram,
    policy_time: HistogramVec,
    upstream_time: Histogram,
    pub(crate) in_flight: IntGauge,
    pub(crate) connections: ConnectionMetrics,
    pub(crate) upstream: UpstreamMetrics,
    pub(crate) descriptors: DescriptorMetrics,
    pub(crate) identities: TopIdentities,
    pub(crate) audit_lines_lost: IntCounter,
    log_lines_lost: IntCounter,
    pub(crate) throttle: ThrottleMetrics,
    pub(crate) quota: QuotaMetrics,
    pub(crate) shadow: ShadowMetrics,
    messages: MessageMetrics,
    policy: PolicyMetrics,
    reloads: ReloadMetrics,
    certificates: CertificateMetrics,
    /// Whom the refusals are of; no metric, since an address is no label.
    pub(crate) refused: Arc<Refused>,
    pub(crate) spans: SpanMetrics,
}

impl Metrics {
    /// Makes and registers them all.
    ///
    /// # Errors
    ///
    /// Only where two of them have one name.
    pub(crate) fn new(
        registry: Registry,
        version: &str,
        revision: &str,
        policy_counters: Arc<PolicyCounters>,
    ) -> prometheus::Result<Self> {
        // From a fraction of a Lua call to the longest deadline that makes sense for an HTTP client.
        let times = vec![
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
            2.5, 5.0, 10.0, 30.0, 60.0,
        ];
        let histogram = |name, help| HistogramOpts::new(name, help).buckets(times.clone());
        let gauge = |name, help| registered(&registry, IntGauge::new(name, help)?);
        let counter = |name, help| registered(&registry, IntCounter::new(name, help)?);
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "gatepost_requests_total",
                    "Requests answered, by route and status; route is empty where no route was found",
                ),
                &["route", "status"],
            )?,
            refusals: IntCounterVec::new(
                Opts::new(
                    "gatepost_refusals_total",
                    "Requests that gatepost itself refused, by reason",
                ),
                &["reason"],
            )?,
            decisions: IntCounterVec::new(
                Opts::new(
                    "gatepost_decisions_total",
                    "Who requests were found to be, by mechanism and outcome",
                ),
                &["mechanism", "outcome"],
            )?,
            request_time: Histogram::with_opts(histogram(
                "gatepost_request_seconds",
                "Time from the end of a request's head to the end of its answer",
            ))?,
            policy_time: HistogramVec::new(
                histogram(
                    "gatepost_policy_call_seconds",
                    "Time that the policy took to judge credentials, waiting included",
                ),
                &["outcome"],
            )?,
            upstream_time: Histogram::with_opts(histogram(
                "gatepost_upstream_seconds",
                "Time from choosing the upstream to the head of its answer",
            ))?,
            in_flight: gauge("gatepost_requests_in_flight", "Requests being worked on")?,
            connections: ConnectionMetrics::new(&registry)?,
            upstream: UpstreamMetrics::new(&registry)?,
            descriptors: DescriptorMetrics::new(&registry)?,
            identities: registered(&registry, TopIdentities::new()?)?,
            audit_lines_lost: counter(
                "gatepost_audit_lines_lost_total",
                "Lines of the audit log that could not be taken in time",
            )?,
            log_lines_lost: counter(
                "gatepost_log_lines_lost_total",
                "Lines of the log that could not be written, or not be taken in time",
            )?,
            throttle: ThrottleMetrics::new(&registry)?,
            quota: QuotaMetrics::new(&registry)?,
            shadow: ShadowMetrics::new(&registry)?,
            messages: MessageMetrics::new(&registry, histogram)?,
            policy: PolicyMetrics::new(&registry, policy_counters)?,
            reloads: ReloadMetrics::new(&registry)?,
            certificates: CertificateMetrics::new(&registry)?,
            refused: Arc::new(Refused::new()),
            spans: SpanMetrics::new(&registry)?,
            registry,
        };
        metrics.register(version, revision)?;
        Ok(metrics)
    }

    fn register(&self, version: &str, revision: &str) -> prometheus::Result<()> {
        let build = IntGaugeVec::new(
            Opts::new(
                "gatepost_build_info",
                "Always 1; the labels tell which build this is",
            ),
            &["version", "revision"],
        )?;
        build.with_label_values(&[version, revision]).set(1);
        let registry = &self.registry;
        registry.register(Box::new(build))?;
        registry.register(Box::new(self.requests.clone()))?;
        registry.register(Box::new(self.refusals.clone()))?;
        registry.register(Box::new(self.decisions.clone()))?;
        registry.register(Box::new(self.request_time.clone()))?;
        registry.register(Box::new(self.policy_time.clone()))?;
        registry.register(Box::new(self.upstream_time.clone()))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(())
    }

    /// Counts one finished request.
    pub(crate) fn count(&self, record: &Record) {
        let route = record.route.as_deref().unwrap_or("");
        let mut digits = [0; 3];
        let status = status_text(record.status, &mut digits);
        self.requests.with_label_values(&[route, status]).inc();
        if let Some(reason) = record.refusal {
            self.refusals.with_label_values(&[reason]).inc();
            self.note_refusal(record, reason);
        }
        if let Some(authentication) = record.authentication {
            let mechanism = authentication.mechanism.map_or("none", Mechanism::as_str);
            let outcome = authentication.outcome;
            self.decisions
                .with_label_values(&[mechanism, outcome])
                .inc();
            if let Some(took) = record.judged {
                self.policy_time
                    .with_label_values(&[outcome])
                    .observe(took.as_secs_f64());
            }
        }
        if let Some(identity) = &record.identity {
            self.identities.count(identity);
        }
        if let Some(outcome) = record.message {
            self.messages.decisions.with_label_values(&[outcome]).inc();
        }
        if let Some(took) = record.inspected {
            self.messages.time.observe(took.as_secs_f64());
        }
        if let Some(UpstreamTime::Answered(took)) = record.upstream {
            self.upstream_time.observe(took.as_secs_f64());
        }
        self.request_time
            .observe(record.started.elapsed().as_secs_f64());
    }

    /// Notes who was refused, unless it was no doing of theirs.
    fn note_refusal(&self, record: &Record, reason: &'static str) {
        if let Some(client) = record.client
            && record.status < 500
        {
            self.refused.note(client, reason);
        }
    }

    /// Notes what came of a reload.
    pub(crate) fn reloaded(&self, good: bool) {
        self.reloads.note(good);
    }

    /// Notes the certificates that are in use from now on.
    pub(crate) fn certificates(&self, listeners: &[Listener], tls: &[Option<Arc<ServerTls>>]) {
        for (listener, tls) in listeners.iter().zip(tls) {
            if let Some(tls) = tls {
                self.certificates.note(&listener.listen, tls.ends());
            }
        }
    }

    /// The registry in Prometheus' text format.
    pub(crate) fn render(
        &self,
        policy: &PolicyStats,
        endpoints: &Endpoints,
        log_lines_lost: u64,
    ) -> prometheus::Result<String> {
        let gathered = self.gather(policy, endpoints, log_lines_lost);
        prometheus::TextEncoder::new().encode_to_string(&gathered)
    }

    /// Every figure, with those that others count brought up to date.
    pub(crate) fn gather(
        &self,
        policy: &PolicyStats,
        endpoints: &Endpoints,
        log_lines_lost: u64,
    ) -> Vec<MetricFamily> {
        self.policy.update(policy);
        self.upstream.update(endpoints);
        let lost = &self.log_lines_lost;
        lost.inc_by(log_lines_lost.saturating_sub(lost.get()));
        self.registry.gather()
    }
}

/// The policy host's figures. It knows no registry; they are fetched from it when somebody looks.
#[derive(Clone)]
struct PolicyMetrics {
    workers: IntGauge,
    queue: IntGauge,
    in_flight: IntGauge,
    hashes_waiting: IntGauge,
    cache_hits: IntCounter,
    cache_misses: IntCounter,
    cache_evictions: IntCounter,
    workers_abandoned: IntCounter,
    states_replaced: IntCounter,
    source: Arc<PolicyCounters>,
}

impl PolicyMetrics {
    fn new(registry: &Registry, source: Arc<PolicyCounters>) -> prometheus::Result<Self> {
        let gauge = |name, help| registered(registry, IntGauge::new(name, help)?);
        let counter = |name, help| registered(registry, IntCounter::new(name, help)?);
        Ok(Self {
            workers: gauge("gatepost_policy_workers", "Policy workers that take calls")?,
            queue: gauge(
                "gatepost_policy_queue",
                "Calls that wait for a policy worker",
            )?,
            in_flight: gauge(
                "gatepost_policy_calls_in_flight",
                "Calls that policy workers have begun and not ended",
            )?,
            hashes_waiting: gauge(
                "gatepost_policy_hashes_waiting",
                "Password hashes that wait for a core",
            )?,
            cache_hits: counter(
                "gatepost_decision_cache_hits_total",
                "Credentials that passed because the policy had accepted them a while before",
            )?,
            cache_misses: counter(
                "gatepost_decision_cache_misses_total",
                "Credentials that were not in the decision cache",
            )?,
            cache_evictions: counter(
                "gatepost_decision_cache_evictions_total",
                "Entries of the decision cache that had to make room for others",
            )?,
            workers_abandoned: counter(
                "gatepost_policy_workers_abandoned_total",
                "Policy workers given up since Lua did not let go of them and could not be interrupted",
            )?,
            states_replaced: counter(
                "gatepost_policy_states_replaced_total",
                "Lua states replaced because a call had spoilt them",
            )?,
            source,
        })
    }

    fn update(&self, now: &PolicyStats) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.workers.set(gauge(now.workers));
        self.queue.set(gauge(now.queued));
        self.in_flight.set(gauge(now.in_flight));
        self.hashes_waiting.set(gauge(now.hashes_waiting));
        for (counter, count) in [
            (&self.cache_hits, &self.source.cache_hits),
            (&self.cache_misses, &self.source.cache_misses),
            (&self.cache_evictions, &self.source.cache_evictions),
            (&self.workers_abandoned, &self.source.abandoned_workers),
            (&self.states_replaced, &self.source.replaced_states),
        ] {
            counter.inc_by(count.value().saturating_sub(counter.get()));
        }
    }
}

/// How the throttle of failures fares with Redis.
#[derive(Clone)]
pub(crate) struct ThrottleMetrics {
    pub(crate) redis_up: IntGauge,
    pub(crate) untold: IntCounter,
}

impl ThrottleMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let up = IntGauge::new(
            "gatepost_throttle_redis_up",
            "0 where the throttle is to be shared through Redis and cannot be, else 1",
        )?;
        up.set(1);
        let untold = IntCounter::new(
            "gatepost_throttle_untold_total",
            "Wrong credentials that other replicas could not be told of",
        )?;
        Ok(Self {
            redis_up: registered(registry, up)?,
            untold: registered(registry, untold)?,
        })
    }
}

/// Connections of clients.
#[derive(Clone)]
pub(crate) struct ConnectionMetrics {
    pub(crate) open: IntGauge,
    pub(crate) http2: IntGauge,
    pub(crate) handshakes_failed: IntCounter,
}

impl ConnectionMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| registered(registry, IntGauge::new(name, help)?);
        let failed = IntCounter::new(
            "gatepost_tls_handshakes_failed_total",
            "Connections that ended before there was TLS",
        )?;
        Ok(Self {
            open: gauge("gatepost_connections", "Client connections that are open")?,
            http2: gauge(
                "gatepost_http2_connections",
                "Client connections that are open and speak HTTP/2",
            )?,
            handshakes_failed: registered(registry, failed)?,
        })
    }
}

/// The upstream's addresses. They know no registry, and come and go; what they count is fetched when somebody looks.
#[derive(Clone)]
pub(crate) struct UpstreamMetrics {
    up: IntGaugeVec,
    circuit_open: IntGaugeVec,
    in_flight: IntGaugeVec,
    requests: IntCounterVec,
    failures: IntCounterVec,
    circuits_opened: IntCounterVec,
    checks: IntCounterVec,
    pub(crate) resolutions: IntCounterVec,
}

impl UpstreamMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["address"])?;
            registered(registry, gauge)
        };
        let counter = |name, help, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registered(registry, counter)
        };
        let metrics = Self {
            up: gauge(
                "gatepost_upstream_up",
                "1 where the upstream's address gets requests, 0 where its health check says that it is down or its circuit is open",
            )?,
            circuit_open: gauge(
                "gatepost_upstream_circuit_open",
                "1 where requests failed too often in a row at the upstream's address, else 0",
            )?,
            in_flight: gauge(
                "gatepost_upstream_requests_in_flight",
                "Requests that the upstream's address works on",
            )?,
            requests: counter(
                "gatepost_upstream_requests_total",
                "Requests that went to the upstream's address, tries included",
                &["address"],
            )?,
            failures: counter(
                "gatepost_upstream_failures_total",
                "Requests that the upstream's address did not answer, or not in time",
                &["address"],
            )?,
            circuits_opened: counter(
                "gatepost_upstream_circuits_opened_total",
                "How often the circuit of the upstream's address was opened",
                &["address"],
            )?,
            checks: counter(
                "gatepost_upstream_health_checks_total",
                "Health checks of the upstream's address, by result",
                &["address", "result"],
            )?,
            resolutions: counter(
                "gatepost_upstream_resolutions_total",
                "How often names of the upstream were looked up after the start, by result",
                &["result"],
            )?,
        };
        for result in ["success", "failure"] {
            // There from the start, so that the first failure is a change.
            metrics.resolutions.with_label_values(&[result]);
        }
        Ok(metrics)
    }

    fn update(&self, endpoints: &Endpoints) {
        for gauge in [&self.up, &self.circuit_open, &self.in_flight] {
            gauge.reset();
        }
        let counters = [
            &self.requests,
            &self.failures,
            &self.circuits_opened,
            &self.checks,
        ];
        counters.iter().for_each(|it| it.reset());
        for endpoint in endpoints.list().iter() {
            let (health, address) = (&endpoint.health, &*endpoint.name);
            let set = |gauge: &IntGaugeVec, value: usize| {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                gauge.with_label_values(&[address]).set(value);
            };
            let (is_down, is_open) = match endpoint.state() {
                State::Down => (true, false),
                State::CircuitOpen => (false, true),
                State::Up | State::Failing => (false, false),
            };
            set(&self.up, usize::from(!is_down && !is_open));
            set(&self.circuit_open, usize::from(is_open));
            set(&self.in_flight, health.in_flight.load(Relaxed));
            for (counter, labels, value) in [
                (&self.requests, &[address][..], &health.requests),
                (&self.failures, &[address], &health.failures),
                (&self.circuits_opened, &[address], &health.circuits_opened),
                (&self.checks, &[address, "success"], &health.checks_passed),
                (&self.checks, &[address, "failure"], &health.checks_failed),
            ] {
                counter
                    .with_label_values(labels)
                    .inc_by(value.load(Relaxed));
            }
        }
    }
}

/// What message policies come to.
#[derive(Clone)]
struct MessageMetrics {
    decisions: IntCounterVec,
    time: Histogram,
}

impl MessageMetrics {
    fn new(
        registry: &Registry,
        histogram: impl Fn(&'static str, &'static str) -> HistogramOpts,
    ) -> prometheus::Result<Self> {
        let decisions = Opts::new(
            "gatepost_message_decisions_total",
            "What the policy's handler for messages came to, by outcome",
        );
        let time = histogram(
            "gatepost_message_seconds",
            "Time to read and judge a message, from its last byte on",
        );
        Ok(Self {
            decisions: registered(registry, IntCounterVec::new(decisions, &["outcome"])?)?,
            time: registered(registry, Histogram::with_opts(time)?)?,
        })
    }
}

/// What the shadow policy would have decided.
#[derive(Clone)]
pub(crate) struct ShadowMetrics {
    allowed: IntCounterVec,
    denied: IntCounterVec,
    open: IntCounterVec,
    pub(crate) in_flight: IntGauge,
}

impl ShadowMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help| {
            let counter = IntCounterVec::new(Opts::new(name, help), &["event", "live"])?;
            registered(registry, counter)
        };
        Ok(Self {
            allowed: counter(
                "gatepost_shadow_allowed_total",
                "What the shadow policy would let through, by what is asked and by what the live policy decided",
            )?,
            denied: counter(
                "gatepost_shadow_denied_total",
                "What the shadow policy would refuse, by what is asked and by what the live policy decided",
            )?,
            open: counter(
                "gatepost_shadow_open_total",
                "What the shadow policy did not decide in time, by what is asked and by what the live policy decided",
            )?,
            in_flight: registered(
                registry,
                IntGauge::new(
                    "gatepost_shadow_in_flight",
                    "Questions that the shadow policy is asked now",
                )?,
            )?,
        })
    }

    pub(crate) fn count(&self, event: &str, live: &str, shadow: &str) {
        let counter = match shadow {
            "allowed" => &self.allowed,
            "denied" => &self.denied,
            _ => &self.open,
        };
        counter.with_label_values(&[event, live]).inc();
    }
}

/// How quotas fare with Redis.
#[derive(Clone)]
pub(crate) struct QuotaMetrics {
    pub(crate) redis_up: IntGauge,
    pub(crate) refunds_in_flight: IntGauge,
    pub(crate) refunds_lost: IntCounter,
}

impl QuotaMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let up = IntGauge::new(
            "gatepost_quota_redis_up",
            "0 where quotas are to be counted together through Redis and cannot be, else 1",
        )?;
        up.set(1);
        let in_flight = IntGauge::new(
            "gatepost_quota_refunds_in_flight",
            "Refunds that Redis is being told of",
        )?;
        let lost = IntCounter::new(
            "gatepost_quota_refunds_lost_total",
            "Refunds that Redis could not be told of, so that replicas count too much",
        )?;
        Ok(Self {
            redis_up: registered(registry, up)?,
            refunds_in_flight: registered(registry, in_flight)?,
            refunds_lost: registered(registry, lost)?,
        })
    }
}

/// What came of reloads.
#[derive(Clone)]
struct ReloadMetrics {
    total: IntCounterVec,
    success: IntGauge,
    time: IntGauge,
}

impl ReloadMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| registered(registry, IntGauge::new(name, help)?);
        let total = Opts::new(
            "gatepost_reloads_total",
            "Reloads of configuration and policy, by result",
        );
        let metrics = Self {
            total: registered(registry, IntCounterVec::new(total, &["result"])?)?,
            success: gauge(
                "gatepost_reload_success",
                "1 where the last reload went well, 0 where it failed and the old goes on",
            )?,
            time: gauge(
                "gatepost_reload_timestamp_seconds",
                "When configuration and policy were last loaded, in Unix time",
            )?,
        };
        metrics.loaded();
        Ok(metrics)
    }

    fn note(&self, good: bool) {
        let result = if good { "success" } else { "failure" };
        self.total.with_label_values(&[result]).inc();
        if good {
            self.loaded();
        } else {
            self.success.set(0);
        }
    }

    fn loaded(&self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.success.set(1);
        self.time
            .set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
}

/// gatepost's own certificates.
#[derive(Clone)]
struct CertificateMetrics {
    expiry: IntGaugeVec,
}

impl CertificateMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let expiry = Opts::new(
            "gatepost_tls_certificate_expiry_timestamp_seconds",
            "When the certificate of a listener ends, in Unix time",
        );
        Ok(Self {
            expiry: registered(registry, IntGaugeVec::new(expiry, &["listener"])?)?,
        })
    }

    fn note(&self, listener: &Listen, ends: i64) {
        let listener = listener.to_string();
        self.expiry.with_label_values(&[&listener]).set(ends);
    }
}

/// What becomes of spans.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "otlp"),
    expect(dead_code, reason = "nobody makes spans then")
)]
pub(crate) struct SpanMetrics {
    pub(crate) exported: IntCounter,
    pub(crate) lost: IntCounter,
}

impl SpanMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help| registered(registry, IntCounter::new(name, help)?);
        Ok(Self {
            exported: counter(
                "gatepost_spans_exported_total",
                "Spans that the collector has taken",
            )?,
            lost: counter(
                "gatepost_spans_lost_total",
                "Spans that the collector has not taken, or not in time",
            )?,
        })
    }
}

/// The metric, once the registry knows it.
pub(crate) fn registered<T: Collector + Clone + 'static>(
    registry: &Registry,
    metric: T,
) -> prometheus::Result<T> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Counts something for as long as it lives, also when it is dropped in the middle.
pub(crate) struct Counted(IntGauge);

impl Counted {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A status code as three digits, without allocating.
fn status_text(status: u16, digits: &mut [u8; 3]) -> &str {
    let digit = |value: u16| b'0' + u8::try_from(value % 10).unwrap_or(0);
    *digits = [digit(status / 100), digit(status / 10), digit(status)];
    std::str::from_utf8(digits).unwrap_or("000")
}
