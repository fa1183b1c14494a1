//! What the policy, its handler for messages and the shadow policy come to.

use std::sync::Arc;

use gatepost_policy::{PolicyCounters, PolicyStats};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::registered;

/// The policy host's figures. It knows no registry; they are fetched from it when somebody looks.
#[derive(Clone)]
pub(crate) struct PolicyMetrics {
    pub(crate) workers: IntGauge,
    pub(crate) queue: IntGauge,
    pub(crate) in_flight: IntGauge,
    pub(crate) hashes_waiting: IntGauge,
    pub(crate) cache_hits: IntCounter,
    pub(crate) cache_misses: IntCounter,
    pub(crate) cache_evictions: IntCounter,
    pub(crate) workers_abandoned: IntCounter,
    pub(crate) states_replaced: IntCounter,
    pub(crate) source: Arc<PolicyCounters>,
}

impl PolicyMetrics {
    pub(crate) fn new(
        registry: &Registry,
        source: Arc<PolicyCounters>,
    ) -> prometheus::Result<Self> {
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

    pub(crate) fn update(&self, now: &PolicyStats) {
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

/// What message policies come to.
#[derive(Clone)]
pub(crate) struct MessageMetrics {
    pub(crate) decisions: IntCounterVec,
    pub(crate) time: Histogram,
}

impl MessageMetrics {
    pub(crate) fn new(
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
    pub(crate) allowed: IntCounterVec,
    pub(crate) denied: IntCounterVec,
    pub(crate) open: IntCounterVec,
    pub(crate) in_flight: IntGauge,
}

impl ShadowMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
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
