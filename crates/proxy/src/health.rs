//! Whether an address of the upstream can be used, and what it is doing. Outlives reloads.
//!
//! Two things take an address out. A health check, where one is configured, says that it is down; then it gets
//! nothing. And failures of requests open its circuit; then others are asked before it. Clients have a say in the second (a
//! message can make an MTA fail), so it alone never leaves a request without an upstream.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use gatepost_config::{CircuitBreaker, HealthCheck};

/// Of one address.
pub(crate) struct Health {
    born: Instant,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) circuits_opened: AtomicU64,
    pub(crate) checks_passed: AtomicU64,
    pub(crate) checks_failed: AtomicU64,
    /// Of requests.
    failures_in_a_row: AtomicU32,
    /// Until when its circuit is open, in milliseconds since `born`; 0 where it is closed.
    open_until: AtomicU64,
    /// By word of the health check.
    down: AtomicBool,
    /// Health checks in a row that say the opposite of `down`.
    contradictions: AtomicU32,
    last_fault: Mutex<Option<LastFault>>,
}

/// What went wrong last.
#[derive(Debug, Clone)]
pub(crate) struct LastFault {
    pub(crate) time: SystemTime,
    pub(crate) text: String,
}

/// Whether an address gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It does.
    Up,
    /// It does, and failed at the last one.
    Failing,
    /// Its circuit is open: others are asked before it.
    CircuitOpen,
    /// A health check says that it is down.
    Down,
}

/// What changed with what was just found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    CircuitOpened,
    CircuitClosed,
    WentDown,
    CameUp,
}

impl State {
    /// A stable word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Failing => "failing",
            Self::CircuitOpen => "circuit_open",
            Self::Down => "down",
        }
    }
}

impl Health {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            born: now,
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            circuits_opened: AtomicU64::new(0),
            checks_passed: AtomicU64::new(0),
            checks_failed: AtomicU64::new(0),
            failures_in_a_row: AtomicU32::new(0),
            open_until: AtomicU64::new(0),
            down: AtomicBool::new(false),
            contradictions: AtomicU32::new(0),
            last_fault: Mutex::default(),
        }
    }

    /// Whether the last request failed, and not long ago.
    pub(crate) fn has_just_failed(&self) -> bool {
        const RECENT: Duration = Duration::from_secs(30);
        let recent = |it: LastFault| it.time.elapsed().is_ok_and(|it| it < RECENT);
        self.failures_in_a_row.load(Relaxed) > 0 && self.last_fault().is_some_and(recent)
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    pub(crate) fn is_circuit_closed(&self) -> bool {
        self.open_until.load(Relaxed) == 0
    }

    /// What it did wrong last.
    pub(crate) fn last_fault(&self) -> Option<LastFault> {
        let last = self.last_fault.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it was left alone for long enough.
    pub(crate) fn is_trial_due(&self, now: Instant) -> bool {
        let until = self.open_until.load(Relaxed);
        until != 0 && self.milliseconds(now) >= until
    }

    /// Whether the one who asks is the one to try it. Everybody else finds the circuit as open as it was, for another while.
    pub(crate) fn begin_trial(&self, now: Instant, breaker: CircuitBreaker) -> bool {
        let until = self.open_until.load(Relaxed);
        let at = self.milliseconds(now);
        if until == 0 || at < until {
            return false;
        }
        let next = at.saturating_add(milliseconds(breaker.open_for)).max(1);
        let won = self
            .open_until
            .compare_exchange(until, next, Relaxed, Relaxed);
        won.is_ok()
    }

    /// Notes that it answered a request.
    pub(crate) fn answered(&self) -> Change {
        // Looked at before it is written: the cores would take this memory from each other at every request.
        if self.failures_in_a_row.load(Relaxed) != 0 {
            self.failures_in_a_row.store(0, Relaxed);
        }
        if self.is_circuit_closed() {
            return Change::None;
        }
        match self.open_until.swap(0, Relaxed) {
            0 => Change::None,
            _ => Change::CircuitClosed,
        }
    }

    /// Notes that a request failed there.
    pub(crate) fn failed(
        &self,
        now: Instant,
        breaker: Option<CircuitBreaker>,
        fault: String,
    ) -> Change {
        self.failures.fetch_add(1, Relaxed);
        self.note(fault);
        let in_a_row = self.failures_in_a_row.fetch_add(1, Relaxed);
        let Some(breaker) = breaker else {
            return Change::None;
        };
        if in_a_row.saturating_add(1) < breaker.max_failures {
            return Change::None;
        }
        let until = self.milliseconds(now) + milliseconds(breaker.open_for);
        match self.open_until.swap(until.max(1), Relaxed) {
            0 => {
                self.circuits_opened.fetch_add(1, Relaxed);
                Change::CircuitOpened
            }
            _ => Change::None,
        }
    }

    /// Notes what a health check came to. Called by one thread only.
    pub(crate) fn checked(&self, check: &HealthCheck, result: Result<(), String>) -> Change {
        let good = result.is_ok();
        let counter = if good {
            &self.checks_passed
        } else {
            &self.checks_failed
        };
        counter.fetch_add(1, Relaxed);
        if let Err(fault) = result {
            self.note(fault);
        }
        let down = self.is_down();
        if good != down {
            self.contradictions.store(0, Relaxed);
            return Change::None;
        }
        let enough = if good {
            check.healthy_threshold
        } else {
            check.unhealthy_threshold
        };
        if self.contradictions.fetch_add(1, Relaxed) + 1 < enough {
            return Change::None;
        }
        self.contradictions.store(0, Relaxed);
        self.down.store(!good, Relaxed);
        if good {
            // It is not what it was when its circuit opened.
            self.failures_in_a_row.store(0, Relaxed);
            self.open_until.store(0, Relaxed);
            Change::CameUp
        } else {
            Change::WentDown
        }
    }

    fn note(&self, mut fault: String) {
        /// In bytes.
        const LONGEST: usize = 1000;
        fault.truncate(fault.floor_char_boundary(LONGEST));
        let last = self.last_fault.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = Some(LastFault {
            time: SystemTime::now(),
            text: fault,
        });
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        milliseconds(now.saturating_duration_since(self.born))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BREAKER: CircuitBreaker = CircuitBreaker {
        max_failures: 3,
        open_for: Duration::from_secs(10),
    };

    fn fail(health: &Health, now: Instant) -> Change {
        health.failed(now, Some(BREAKER), "no".to_owned())
    }

    #[test]
    fn a_circuit_opens_after_failures_in_a_row_and_is_tried_by_one() {
        let start = Instant::now();
        let health = Health::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(fail(&health, start), Change::None);
        assert_eq!(fail(&health, start), Change::None);
        assert_eq!(health.answered(), Change::None);
        assert_eq!(fail(&health, start), Change::None);
        assert_eq!(fail(&health, start), Change::None);
        assert!(health.is_circuit_closed() && health.has_just_failed());
        assert_eq!(fail(&health, start), Change::CircuitOpened);
        assert!(!health.is_circuit_closed());
        assert!(!health.begin_trial(at(9), BREAKER));
        assert!(health.begin_trial(at(10), BREAKER));
        assert!(!health.begin_trial(at(10), BREAKER), "one at a time");
        assert_eq!(fail(&health, at(11)), Change::None, "it was open already");
        assert!(!health.begin_trial(at(20), BREAKER));
        assert!(health.begin_trial(at(21), BREAKER));
        assert_eq!(health.answered(), Change::CircuitClosed);
        assert!(health.is_circuit_closed() && !health.is_down());
        assert!(!health.begin_trial(at(99), BREAKER), "it is closed");
        assert_eq!(health.circuits_opened.load(Relaxed), 1);
        assert_eq!(health.failures.load(Relaxed), 6);
        assert_eq!(health.last_fault().unwrap().text, "no");
    }

    #[test]
    fn without_a_breaker_nothing_opens() {
        let now = Instant::now();
        let health = Health::new(now);
        for _ in 0..1000 {
            assert_eq!(health.failed(now, None, String::new()), Change::None);
        }
        assert!(health.is_circuit_closed() && health.has_just_failed());
    }

    #[test]
    fn checks_have_to_agree_before_they_count() {
        let health = Health::new(Instant::now());
        let check = HealthCheck {
            path: "/".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        };
        let said: Vec<Change> = "ggbbgbbbbgbgg"
            .chars()
            .map(|it| {
                let result = if it == 'g' {
                    Ok(())
                } else {
                    Err("bad".to_owned())
                };
                health.checked(&check, result)
            })
            .collect();
        let mut expected = [Change::None; 13];
        expected[7] = Change::WentDown;
        expected[12] = Change::CameUp;
        assert_eq!(said, expected);
    }

    #[test]
    fn who_came_up_has_a_closed_circuit() {
        let now = Instant::now();
        let health = Health::new(now);
        let check = HealthCheck {
            path: "/".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_threshold: 1,
            unhealthy_threshold: 1,
        };
        for _ in 0..3 {
            fail(&health, now);
        }
        assert_eq!(health.checked(&check, Err(String::new())), Change::WentDown);
        assert!(health.is_down());
        assert_eq!(health.checked(&check, Ok(())), Change::CameUp);
        assert!(health.is_circuit_closed() && !health.is_down());
    }
}
