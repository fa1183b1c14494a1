//! Which clients are refused most.
//!
//! Touched only where a request is refused, and of a fixed size: an attacker with a million addresses costs no more
//! memory than one. A minute is a sketch of its own (space-saving: Metwally, Agrawal, El Abbadi, 2005), so what is old
//! goes by itself, and a client that comes often is found however many others come once.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gatepost_auth::address::limited_as;
use serde::Serialize;

/// How many clients a minute remembers. Whoever has more than one in this many of its refusals is among them.
const PLACES: usize = 64;

/// How many minutes count, the one that runs included.
const MINUTES: usize = 10;

/// How many clients are shown.
const SHOWN: usize = 20;

/// What is remembered of refusals.
pub(crate) struct Refused {
    began: Instant,
    minutes: Mutex<[Minute; MINUTES]>,
}

/// One minute.
#[derive(Debug, Clone, Copy)]
struct Minute {
    /// Since the beginning.
    number: u64,
    places: [Place; PLACES],
}

#[derive(Debug, Clone, Copy)]
struct Place {
    client: Option<IpAddr>,
    /// At most so often: who takes a place over begins with its count.
    count: u64,
    /// How much of it may be others'.
    inherited: u64,
    reason: &'static str,
}

/// A client that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RefusedClient {
    /// Its address, or the network that it may choose addresses from.
    pub(crate) address: IpAddr,
    /// Whether that is a /64.
    pub(crate) network: bool,
    /// How often in the window, at least.
    pub(crate) count: u64,
    /// Why, the last time.
    pub(crate) reason: &'static str,
}

impl Refused {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            minutes: Mutex::new([Minute::empty(u64::MAX); MINUTES]),
        }
    }

    /// How far back it is remembered, in seconds.
    pub(crate) const WINDOW_SECONDS: u64 = MINUTES as u64 * 60;

    /// Notes that this client was refused by its own doing.
    pub(crate) fn note(&self, client: IpAddr, reason: &'static str) {
        self.note_at(self.minute(), client, reason);
    }

    /// Those who were refused most, the worst first.
    pub(crate) fn top(&self) -> Vec<RefusedClient> {
        self.top_at(self.minute())
    }

    fn minute(&self) -> u64 {
        self.began.elapsed().as_secs() / 60
    }

    fn note_at(&self, number: u64, client: IpAddr, reason: &'static str) {
        let client = limited_as(client);
        let mut minutes = unpoisoned(&self.minutes);
        let slot = usize::try_from(number % MINUTES as u64).unwrap_or(0);
        if let Some(minute) = minutes.get_mut(slot) {
            if minute.number != number {
                *minute = Minute::empty(number);
            }
            minute.note(client, reason);
        }
    }

    fn top_at(&self, now: u64) -> Vec<RefusedClient> {
        // Copied, so that nobody who is refused meanwhile waits for the sorting.
        let mut minutes = *unpoisoned(&self.minutes);
        minutes.sort_by_key(|it| it.number);
        let recent = minutes
            .iter()
            .filter(|it| it.number <= now && now - it.number < MINUTES as u64);
        let mut all: Vec<RefusedClient> = Vec::new();
        for place in recent.flat_map(|it| it.places) {
            let Some(address) = place.client else {
                continue;
            };
            let (count, reason) = (place.count - place.inherited, place.reason);
            if let Some(known) = all.iter_mut().find(|it| it.address == address) {
                known.count += count;
                known.reason = reason;
            } else {
                let network = address.is_ipv6();
                all.push(RefusedClient {
                    address,
                    network,
                    count,
                    reason,
                });
            }
        }
        all.sort_by_key(|it| (std::cmp::Reverse(it.count), it.address));
        all.truncate(SHOWN);
        all
    }
}

impl Minute {
    const fn empty(number: u64) -> Self {
        let place = Place {
            client: None,
            count: 0,
            inherited: 0,
            reason: "",
        };
        Self {
            number,
            places: [place; PLACES],
        }
    }

    fn note(&mut self, client: IpAddr, reason: &'static str) {
        let known = self
            .places
            .iter()
            .position(|it| it.client == Some(client))
            .or_else(|| {
                let least = self.places.iter().enumerate().min_by_key(|it| it.1.count);
                least.map(|(index, _)| index)
            });
        let Some(place) = known.and_then(|index| self.places.get_mut(index)) else {
            return;
        };
        if place.client != Some(client) {
            place.client = Some(client);
            place.inherited = place.count;
        }
        place.count += 1;
        place.reason = reason;
    }
}

/// What is in it is whole between any two lines.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn shown(refused: &Refused, now: u64) -> Vec<(String, u64)> {
        let top = refused.top_at(now).into_iter();
        top.map(|it| (it.address.to_string(), it.count)).collect()
    }

    #[test]
    fn the_worst_come_first_and_what_is_old_goes() {
        let refused = Refused::new();
        for (minute, client, times) in [
            (0, "192.0.2.1", 5),
            (3, "192.0.2.2", 3),
            (9, "192.0.2.1", 1),
        ] {
            for _ in 0..times {
                refused.note_at(minute, address(client), "unauthorized");
            }
        }
        let seen = |now: u64| shown(&refused, now);
        let row = |text: &str, count: u64| (text.to_owned(), count);
        assert_eq!(seen(9), [row("192.0.2.1", 6), row("192.0.2.2", 3)]);
        assert_eq!(seen(10), [row("192.0.2.2", 3), row("192.0.2.1", 1)]);
        assert_eq!(seen(13), [row("192.0.2.1", 1)]);
        assert_eq!(seen(19), []);
        // The place of an old minute is taken over by a new one.
        refused.note_at(23, address("192.0.2.9"), "no_route");
        assert_eq!(seen(23), [row("192.0.2.9", 1)]);
    }

    /// An IPv6 client changes its address at will; a mapped one is an IPv4 client.
    #[test]
    fn a_network_is_one_client() {
        let refused = Refused::new();
        for client in [
            "2001:db8::1",
            "2001:db8::2",
            "::ffff:192.0.2.1",
            "192.0.2.1",
        ] {
            refused.note_at(0, address(client), "unauthorized");
        }
        let top = refused.top_at(0);
        let seen: Vec<_> = top
            .iter()
            .map(|it| (it.address.to_string(), it.network, it.count))
            .collect();
        assert_eq!(
            seen,
            [
                ("192.0.2.1".to_owned(), false, 2),
                ("2001:db8::".to_owned(), true, 2)
            ]
        );
    }

    /// The attack: a million addresses, so that memory runs out or the one that matters is not seen.
    #[test]
    fn a_million_addresses_cost_nothing_and_hide_nobody() {
        let refused = Refused::new();
        let culprit = address("192.0.2.1");
        for index in 0..1_000_000_u32 {
            refused.note_at(
                0,
                IpAddr::from((0x0b00_0000 + index).to_be_bytes()),
                "no_route",
            );
            if index % 20 == 0 {
                refused.note_at(0, culprit, "unauthorized");
            }
        }
        let top = refused.top_at(0);
        assert_eq!(top.len(), SHOWN);
        assert_eq!((top[0].address, top[0].reason), (culprit, "unauthorized"));
        assert!((40_000..=50_000).contains(&top[0].count), "{top:?}");
        // Nobody is said to have been refused more often than they were.
        assert!(top[1..].iter().all(|it| it.count <= 1), "{top:?}");
        assert!(size_of::<Refused>() < 64 * 1024);
    }
}
