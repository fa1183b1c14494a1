//! When the threads that hash get the processor.
//!
//! A hash takes a core for milliseconds. The kernel lets whoever has a core finish its turn, milliseconds again, also where a thread wakes up that
//! needs it for microseconds: in a flood of guesses every request of everybody waits for that. A thread that is `SCHED_IDLE` (sched(7)) has no turn
//! to finish, so whoever else wakes up goes first, at once.
//!
//! But where others never rest, as an MTA that takes every core, such a thread hardly runs at all, and nobody could log in. So a hash that
//! does not get on is begun once more with a share of the processor, at nice 5, and those that come after it have one from the beginning, for a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use preempt_rt::sched::{Pid, Scheduler, SchedulerParams, set_scheduler};
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use rustix::time::{ClockId, clock_gettime};

/// How much a hash that has its share leaves to others: a guesser's work must not make those wait who are known. At this value a thread has a third
/// of the share of one that it competes with, and all of what nobody wants.
const NICE: i32 = 5;

/// How long hashes have their share before it is tried without one again: first, and at most. Each time that fails it is twice as long.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// A hash that takes so many times what it costs does not get on.
const SLOW: u32 = 4;
/// What is no reason to think so, whatever it costs. Some take this long for themselves.
const NOT_SLOW: Duration = Duration::from_millis(250);

/// How a hash is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// When nobody else wants to run.
    Idle,
    /// With a small share.
    Share,
}

/// Which turn is the next hash's.
#[derive(Debug)]
pub(super) struct Turns(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Until when they have their share.
    share_until: Option<Instant>,
    /// For how long, the next time.
    next: Duration,
    /// What a dear hash costs of late.
    cost: Duration,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Mutex::new(State {
            share_until: None,
            next: SHORTEST,
            cost: Duration::ZERO,
        }))
    }
}

impl Turns {
    /// The turn of a hash that begins now, and how long it may take until it is said not to get on.
    pub(super) fn next(&self, now: Instant) -> (Turn, Duration) {
        let state = self.state();
        let shares = state.share_until.is_some_and(|until| now < until);
        let turn = if shares { Turn::Share } else { Turn::Idle };
        (turn, NOT_SLOW.max(state.cost * SLOW))
    }

    /// One that was [`Turn::Idle`] does not get on.
    pub(super) fn starves(&self, now: Instant) {
        let mut state = self.state();
        // Others of the same moment change nothing.
        if state.share_until.is_none_or(|until| until <= now) {
            state.share_until = Some(now + state.next);
            state.next = (state.next * 2).min(LONGEST);
        }
    }

    /// One was done in time.
    pub(super) fn got_on(&self, turn: Turn) {
        if turn == Turn::Idle {
            self.state().next = SHORTEST;
        }
    }

    /// One is done that cost so much of the processor. The dearest of late counts: policies may keep hashes of several kinds.
    pub(super) fn cost(&self, cost: Duration) {
        let mut state = self.state();
        state.cost = cost.max(state.cost - state.cost / 8);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // It is whole after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Schedules this thread so, until it ends: one that is idle may not change back. Where the system forbids it, what is left is
    /// what works, only less smoothly.
    pub(super) fn take(self) {
        let idle = || {
            let params = SchedulerParams { priority: 0 };
            set_scheduler(Pid::current_thread(), Scheduler::SCHED_IDLE, params)
        };
        if self == Self::Share || idle().is_err() {
            let _ = setpriority_process(Some(gettid()), NICE);
        }
    }
}

/// What this thread has had of the processor.
pub(super) fn cost() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_starves_has_a_share_for_longer_each_time() {
        let turns = Turns::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(turns.next(at(0)).0, Turn::Idle);
        turns.starves(at(0));
        turns.starves(at(1));
        assert_eq!(turns.next(at(9)).0, Turn::Share);
        assert_eq!(turns.next(at(10)).0, Turn::Idle);
        turns.starves(at(11));
        assert_eq!(turns.next(at(30)).0, Turn::Share);
        // One that gets on with its share says nothing about those without.
        turns.got_on(Turn::Share);
        turns.starves(at(31));
        assert_eq!(turns.next(at(70)).0, Turn::Share);
        turns.got_on(Turn::Idle);
        turns.starves(at(71));
        assert_eq!(turns.next(at(80)).0, Turn::Share);
        assert_eq!(turns.next(at(81)).0, Turn::Idle);
        let mut now = 100;
        for _ in 0..20 {
            turns.starves(at(now));
            now += 1000;
        }
        turns.starves(at(now));
        assert_eq!(turns.next(at(now + 599)).0, Turn::Share);
        assert_eq!(turns.next(at(now + 600)).0, Turn::Idle);
    }

    #[test]
    fn what_is_slow_depends_on_what_it_costs() {
        let turns = Turns::default();
        assert_eq!(turns.next(Instant::now()).1, NOT_SLOW);
        turns.cost(Duration::from_secs(1));
        turns.cost(Duration::ZERO);
        let (_, slow) = turns.next(Instant::now());
        assert_eq!(slow, Duration::from_millis(3500));
    }

    #[test]
    fn a_thread_is_scheduled_as_it_is_said() {
        use preempt_rt::sched::get_scheduler;
        use rustix::process::getpriority_process;
        let on = |turn: Turn| {
            let thread = std::thread::spawn(move || {
                turn.take();
                let nice = getpriority_process(Some(gettid())).unwrap();
                (get_scheduler(Pid::current_thread()).unwrap() as i32, nice)
            });
            thread.join().unwrap()
        };
        assert_eq!(on(Turn::Idle).0, Scheduler::SCHED_IDLE as i32);
        assert_ne!(on(Turn::Share).0, Scheduler::SCHED_IDLE as i32);
        assert_eq!(on(Turn::Share).1, NICE);
    }
}
