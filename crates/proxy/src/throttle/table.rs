//! A number for each of very many keys, in memory whose size is fixed. Where nobody guesses it is not taken at all.
//!
//! The keys are hashes, so the table is one of places: a key has eight in which it may be, and where all
//! are taken, the one closest to rest makes room. Nothing is ever swept or moved. What is forgotten is
//! what mattered least, and an attacker cannot choose whose places a name falls into.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// In how many places a key may be.
const WAYS: usize = 8;

/// Locks, so that threads seldom meet.
const STRIPES: usize = 256;

pub(super) struct Table {
    stripes: Box<[Mutex<Stripe>]>,
    sets_per_stripe: u64,
    /// The largest number that any key ever had.
    largest: AtomicU64,
}

/// Empty until a key comes that falls into it.
type Stripe = Box<[[Place; WAYS]]>;

/// Key 0 with arrival 0 is an empty place; a key that is 0 by itself does no harm.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    key: u64,
    arrival: u64,
}

impl Table {
    /// Room for this many keys, at least.
    pub(super) fn new(entries: usize) -> Self {
        let sets = entries.div_ceil(WAYS * STRIPES).max(1);
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            sets_per_stripe: sets as u64,
            largest: AtomicU64::new(0),
        }
    }

    /// No key's number is larger than this.
    pub(super) fn largest(&self) -> u64 {
        self.largest.load(SeqCst)
    }

    /// The key's number, if it is remembered.
    pub(super) fn get(&self, key: u64) -> Option<u64> {
        let mut stripe = self.stripe(key)?;
        let set = self.set(&mut stripe, key)?;
        let place = set.iter().find(|place| place.key == key)?;
        Some(place.arrival)
    }

    /// Changes the key's number; `start` is where it begins.
    pub(super) fn update(&self, key: u64, start: u64, change: impl FnOnce(u64) -> u64) {
        let Some(mut stripe) = self.stripe(key) else {
            return;
        };
        if stripe.is_empty() {
            let sets = usize::try_from(self.sets_per_stripe).unwrap_or(1);
            *stripe = vec![[Place::default(); WAYS]; sets].into_boxed_slice();
        }
        let Some(set) = self.set(&mut stripe, key) else {
            return;
        };
        let known = set.iter().position(|place| place.key == key);
        let index = known.or_else(|| {
            let by_rest = set
                .iter()
                .enumerate()
                .min_by_key(|(_, place)| place.arrival);
            by_rest.map(|(index, _)| index)
        });
        if let Some(place) = index.and_then(|index| set.get_mut(index)) {
            let old = if place.key == key {
                place.arrival
            } else {
                start
            };
            let arrival = change(old);
            self.largest.fetch_max(arrival, SeqCst);
            *place = Place { key, arrival };
        }
    }

    fn stripe(&self, key: u64) -> Option<MutexGuard<'_, Stripe>> {
        // The low bits choose the stripe, the high ones the set, so that the two do not go together.
        let index = usize::try_from(key % STRIPES as u64).ok()?;
        let stripe = self.stripes.get(index)?;
        // Whoever panicked here left numbers, and every number is a good one.
        Some(stripe.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set<'a>(&self, stripe: &'a mut Stripe, key: u64) -> Option<&'a mut [Place; WAYS]> {
        let index = usize::try_from((key >> 16) % self.sets_per_stripe).ok()?;
        stripe.get_mut(index)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let sets = usize::try_from(self.sets_per_stripe).unwrap() * STRIPES;
        sets * WAYS * size_of::<Place>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closest_to_rest_makes_room() {
        let table = Table::new(1);
        // All of one set: the same stripe, and there is one set in each.
        let key = |index: u64| (index + 1) * STRIPES as u64;
        for index in 0..8 {
            table.update(key(index), 100, |start| start + index);
        }
        assert_eq!(table.get(key(3)), Some(103));
        table.update(key(8), 100, |start| start + 50);
        assert_eq!(table.get(key(0)), None);
        assert_eq!(table.get(key(1)), Some(101));
        assert_eq!(table.get(key(8)), Some(150));
        table.update(key(8), 200, |old| old + 1);
        assert_eq!(table.get(key(8)), Some(151));
    }
}
