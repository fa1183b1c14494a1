//! When the threads that hash get the processor.
//!
//! A hash takes a core for milliseconds. The kernel lets whoever has a core finish its turn, milliseconds again, also where a thread wakes up that
//! needs it for microseconds: in a flood of guesses every request of everybody waits for that. A thread that is `SCHED_IDLE` (sched(7)) has no turn
//! to finish, so whoever else wakes up goes first, at once.
//!
//! But where others never rest, as an MTA that takes every core, such a thread hardly runs at all, and nobody could log in. So a hash
//! that does not get on is no reason for others to wait, and those have their share for a while, at nice 5.

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
    /// What a hash costs of late.
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
    /// The turn of a hash that begins now, and what it may take. Beyond that, [`Turns::starves`] is to be told.
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

    /// One is done that cost so much of the processor.
    pub(super) fn done(&self, turn: Turn, got_on: bool, cost: Duration) {
        let mut state = self.state();
        state.cost = cost;
        if turn == Turn::Idle && got_on {
            state.next = SHORTEST;
        }
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
        turns.done(Turn::Share, true, Duration::ZERO);
        turns.starves(at(31));
        assert_eq!(turns.next(at(70)).0, Turn::Share);
        turns.done(Turn::Idle, true, Duration::ZERO);
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
        turns.done(Turn::Idle, true, Duration::from_secs(1));
        assert_eq!(turns.next(Instant::now()).1, Duration::from_secs(4));
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
