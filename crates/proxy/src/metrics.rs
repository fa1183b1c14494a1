//! The metrics, all filled from a finished [`Record`].
//!
//! Labels are bounded: a route is the pattern from the configuration, never a path that a client
//! chose, and no label holds a user, except where the operator asks for some (`identities.rs`).

mod operation;
mod policy;
mod upstream;

use std::sync::Arc;

use gatepost_auth::{Mechanism, Refusal};
use gatepost_config::Listener;
use gatepost_policy::{PolicyCounters, PolicyStats};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

pub(crate) use self::operation::{ConnectionMetrics, QuotaMetrics, SpanMetrics, ThrottleMetrics};
pub(crate) use self::policy::ShadowMetrics;
pub(crate) use self::upstream::UpstreamMetrics;

use self::operation::{CertificateMetrics, ReloadMetrics};
use self::policy::{MessageMetrics, PolicyMetrics};
use crate::descriptors::DescriptorMetrics;
use crate::endpoints::Endpoints;
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
        for reason in Refusal::REASONS {
            // There from the start, so that the first refusal is a change.
            self.refusals.with_label_values(&[reason]);
        }
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
        ready: bool,
    ) -> prometheus::Result<String> {
        let gathered = self.gather(policy, endpoints, log_lines_lost, ready);
        prometheus::TextEncoder::new().encode_to_string(&gathered)
    }

    /// Every figure, with those that others count brought up to date.
    pub(crate) fn gather(
        &self,
        policy: &PolicyStats,
        endpoints: &Endpoints,
        log_lines_lost: u64,
        ready: bool,
    ) -> Vec<MetricFamily> {
        self.connections.ready.set(i64::from(ready));
        self.policy.update(policy);
        self.upstream.update(endpoints);
        let lost = &self.log_lines_lost;
        lost.inc_by(log_lines_lost.saturating_sub(lost.get()));
        self.registry.gather()
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
