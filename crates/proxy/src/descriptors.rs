//! File descriptors: whether there are enough for as many connections as the configuration allows, and what is said where they run out.
//!
//! Where there are too few, a connection waits in the kernel's backlog until its client gives up, or a request finds no way to the upstream:
//! both look like a network that is broken. So it is said at the start, with the numbers, and nothing is lowered behind anybody's back.

use std::time::{Duration, Instant};

use gatepost_config::Settings;
use prometheus::{IntCounter, IntGauge, Registry};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::metrics::registered;

/// What is needed beside connections: listeners, runtimes, logs, files that are read again, and what a policy opens.
const BESIDE: u64 = 128;

/// What is needed, and what could not be had.
#[derive(Clone)]
pub(crate) struct DescriptorMetrics {
    needed: IntGauge,
    pub(crate) accept_failures: IntCounter,
}

impl DescriptorMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let needed = IntGauge::new(
            "gatepost_file_descriptors_needed",
            "File descriptors for as many connections as the configuration allows",
        )?;
        let failures = IntCounter::new(
            "gatepost_accept_failures_total",
            "How often a connection could not be accepted, most likely since there are no more file descriptors",
        )?;
        Ok(Self {
            needed: registered(registry, needed)?,
            accept_failures: registered(registry, failures)?,
        })
    }
}

/// Raises the soft limit to the hard one where what the settings allow needs more than it. Says so where that is not enough.
pub(crate) fn provide(settings: &Settings, metrics: &DescriptorMetrics) {
    let needed = needed(
        settings.http.max_connections,
        settings.upstream.max_idle_connections,
    );
    metrics
        .needed
        .set(i64::try_from(needed).unwrap_or(i64::MAX));
    let limit = getrlimit(Resource::Nofile);
    if suffices(limit.current, needed) {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(fault) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%fault, "the limit of file descriptors cannot be raised");
    }
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return;
    };
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            max_connections = settings.http.max_connections,
            enough_for = connections(limit),
            "too few file descriptors for `http.max_connections`: beyond what they are enough for, new connections wait without an answer \
             and requests do not reach the upstream; raise the hard limit (LimitNOFILE=, ulimit -n) or lower `http.max_connections`"
        );
    }
}

/// Three for each connection: itself, and the one to the upstream that its request takes, which takes two (`corked.rs`). Idle ones to the upstream
/// are kept beside those.
fn needed(max_connections: usize, idle: usize) -> u64 {
    let count = |it: usize| u64::try_from(it).unwrap_or(u64::MAX);
    let connections = count(max_connections).saturating_mul(3);
    connections
        .saturating_add(count(idle).saturating_mul(2))
        .saturating_add(BESIDE)
}

/// For how many connections so many descriptors are enough.
fn connections(limit: u64) -> u64 {
    limit.saturating_sub(BESIDE) / 3
}

/// A limit that is `None` is none.
fn suffices(limit: Option<u64>, needed: u64) -> bool {
    limit.is_none_or(|it| it >= needed)
}

/// How often something that goes on and on is said.
const EVERY: Duration = Duration::from_secs(10);

/// Says at most every ten seconds what may happen many times a second.
#[derive(Default)]
pub(crate) struct Seldom {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// How often it happened since it was said last, this time included; `None` where it is to be said later.
    pub(crate) fn now(&mut self, now: Instant) -> Option<u64> {
        self.unsaid += 1;
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < EVERY)
        {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_for_each_connection_and_some_beside() {
        for (connections, idle, expected) in [
            (0, 0, 128),
            (10_000, 100, 30_328),
            (usize::MAX, usize::MAX, u64::MAX),
        ] {
            assert_eq!(needed(connections, idle), expected);
        }
        assert!(suffices(None, u64::MAX));
        assert!(suffices(Some(20), 20));
        assert!(!suffices(Some(19), 20));
        assert_eq!((connections(1128), connections(5)), (333, 0));
    }

    #[test]
    fn what_goes_on_is_said_seldom_and_counted() {
        let mut seldom = Seldom::default();
        let begin = Instant::now();
        let mut at = |seconds| seldom.now(begin + Duration::from_secs(seconds));
        let got = [0, 1, 5, 9, 10, 11, 30].map(&mut at);
        let expected = [Some(1), None, None, None, Some(4), None, Some(2)];
        assert_eq!(got, expected);
    }
}
