//! The metrics, all filled from a finished [`Record`].
//!
//! Labels are bounded: a route is the pattern from the configuration, never a path that a client
//! chose, and no label holds a user.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::record::{Record, UpstreamTime};

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
    pub(crate) connections: IntGauge,
    policy_workers: IntGaugeVec,
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
    ) -> prometheus::Result<Self> {
        // From a fraction of a Lua call to the longest deadline that makes sense for an HTTP client.
        let times = vec![
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
            2.5, 5.0, 10.0, 30.0, 60.0,
        ];
        let histogram = |name, help| HistogramOpts::new(name, help).buckets(times.clone());
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
            in_flight: IntGauge::new("gatepost_requests_in_flight", "Requests being worked on")?,
            connections: IntGauge::new("gatepost_connections", "Client connections that are open")?,
            policy_workers: IntGaugeVec::new(
                Opts::new(
                    "gatepost_policy_workers",
                    "Policy workers by state: serving, or abandoned inside a call that cannot be interrupted",
                ),
                &["state"],
            )?,
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
        registry.register(Box::new(self.in_flight.clone()))?;
        registry.register(Box::new(self.connections.clone()))?;
        registry.register(Box::new(self.policy_workers.clone()))?;
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
        }
        if let Some((mechanism, outcome, took)) = record.judged {
            self.decisions
                .with_label_values(&[mechanism.as_str(), outcome])
                .inc();
            self.policy_time
                .with_label_values(&[outcome])
                .observe(took.as_secs_f64());
        } else if let Some(mechanism) = record.mechanism {
            self.decisions
                .with_label_values(&[mechanism.as_str(), "accepted"])
                .inc();
        }
        if let Some(UpstreamTime::Answered(took)) = record.upstream {
            self.upstream_time.observe(took.as_secs_f64());
        }
        self.request_time
            .observe(record.started.elapsed().as_secs_f64());
    }

    /// The registry in Prometheus' text format, with the policy's own figures brought up to date.
    pub(crate) fn render(
        &self,
        policy: &gatepost_policy::PolicyStats,
    ) -> prometheus::Result<String> {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.policy_workers
            .with_label_values(&["serving"])
            .set(gauge(policy.workers));
        self.policy_workers
            .with_label_values(&["abandoned"])
            .set(gauge(policy.abandoned));
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// A status code as three digits, without allocating.
fn status_text(status: u16, digits: &mut [u8; 3]) -> &str {
    let digit = |value: u16| b'0' + u8::try_from(value % 10).unwrap_or(0);
    *digits = [digit(status / 100), digit(status / 10), digit(status)];
    std::str::from_utf8(digits).unwrap_or("000")
}
