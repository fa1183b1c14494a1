//! How the upstream's addresses fare.

use std::sync::atomic::Ordering::Relaxed;

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::registered;
use crate::endpoints::Endpoints;
use crate::health::State;

/// The upstream's addresses. They know no registry, and come and go; what they count is fetched when somebody looks.
#[derive(Clone)]
pub(crate) struct UpstreamMetrics {
    pub(crate) up: IntGaugeVec,
    pub(crate) circuit_open: IntGaugeVec,
    pub(crate) in_flight: IntGaugeVec,
    pub(crate) requests: IntCounterVec,
    pub(crate) failures: IntCounterVec,
    pub(crate) circuits_opened: IntCounterVec,
    pub(crate) checks: IntCounterVec,
    pub(crate) resolutions: IntCounterVec,
}

impl UpstreamMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
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

    pub(crate) fn update(&self, endpoints: &Endpoints) {
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
