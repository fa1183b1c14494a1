//! Callers who want the same value at the same time: one of them, the pilot, computes it and the others wait.
//!
//! If the pilot fails or goes away, one of those who wait takes over. A pilot may also be stuck, in code that nothing
//! interrupts: it counts for as long as its call may take, and not a moment longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Kept, Key};
use crate::hook::Caller;

#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Arc<Flight>>>);

#[derive(Default)]
struct Flight {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    pilot: Option<Caller>,
    /// For those who wait, since the cache need not have kept it.
    landed: Option<Kept>,
}

/// What comes of wanting a value.
pub(super) enum Boarding<'a> {
    /// The caller is to compute it.
    Pilot(Pilot<'a>),
    /// It is there.
    Landed(Kept),
    /// The call is computing it already, and would wait for itself.
    Itself,
    TooLate,
}

impl Flights {
    pub(super) fn seat(&self, key: Key) -> Seat<'_> {
        Seat {
            flights: self,
            key,
            flight: lock(&self.0).entry(key).or_default().clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One caller's place among those who want the same value.
pub(super) struct Seat<'a> {
    flights: &'a Flights,
    key: Key,
    flight: Arc<Flight>,
}

impl Seat<'_> {
    /// Waits until the value is there, or until it is this caller's turn to compute it. `stale` is what may be given
    /// meanwhile.
    pub(super) async fn board(
        &self,
        me: Caller,
        patience: Duration,
        fresh: impl Fn() -> Option<Kept>,
        stale: impl Fn() -> Option<Kept>,
    ) -> Boarding<'_> {
        let until = Instant::now() + patience;
        loop {
            // Made before the look, so that no change in between is missed.
            let changed = self.flight.changed.notified();
            let now = Instant::now();
            let overdue = {
                let mut state = lock(&self.flight.state);
                let landed = state.landed.clone().filter(Kept::is_fresh);
                if let Some(kept) = landed.or_else(&fresh) {
                    return Boarding::Landed(kept);
                }
                match state.pilot.filter(|pilot| now < pilot.deadline) {
                    Some(pilot) if pilot == me => return Boarding::Itself,
                    Some(pilot) => pilot.deadline,
                    None => {
                        state.pilot = Some(me);
                        let flight = &self.flight;
                        return Boarding::Pilot(Pilot { flight, me });
                    }
                }
            };
            if let Some(kept) = stale() {
                return Boarding::Landed(kept);
            }
            if now >= until {
                return Boarding::TooLate;
            }
            // Either way, the next look tells.
            let _ = tokio::time::timeout_at(overdue.min(until).into(), changed).await;
        }
    }
}

/// The last one turns off the light.
impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut flights = lock(&self.flights.0);
        // One reference is the table's, one is this one.
        if Arc::strong_count(&self.flight) <= 2 {
            flights.remove(&self.key);
        }
    }
}

/// The one who computes.
pub(super) struct Pilot<'a> {
    flight: &'a Flight,
    me: Caller,
}

impl Pilot<'_> {
    pub(super) fn land(self, kept: Kept) {
        lock(&self.flight.state).landed = Some(kept);
    }
}

impl Drop for Pilot<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.flight.state);
        // One that was given up may come back while another one computes.
        if state.pilot == Some(self.me) {
            state.pilot = None;
        }
        drop(state);
        self.flight.changed.notify_waiters();
    }
}
