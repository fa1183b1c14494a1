//! Who presented wrong credentials too often lately. Counted by address and by address and user, never by
//! user alone: that would let anybody shut a user out.
//!
//! Only failures cost anything, so the way of a good request is a few look-ups. The limit is looked at before
//! the policy is asked and again when it has answered: of many guesses at one moment, no more than the limit
//! learn whether they were right.

mod shared;
mod table;

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_auth::Refusal;
use gatepost_auth::address::limited_as;
use gatepost_auth::throttle::Rate;
use gatepost_config::Throttle as Limits;

use self::shared::{Failure, Shared};
use self::table::Table;
use crate::metrics::ThrottleMetrics;

/// What is remembered of failures. It outlives reloads; the limits come with each request's snapshot.
pub(crate) struct Throttle {
    memory: Arc<Memory>,
    shared: Option<Shared>,
}

/// The part that the thread which talks to Redis shares.
struct Memory {
    table: Table,
    /// Random for each process: nobody can choose names that fall into one place.
    hasher: RandomState,
    began: Instant,
}

/// Who presents credentials.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub(crate) client: IpAddr,
    /// `None` for a bearer token, which names nobody.
    pub(crate) user: Option<&'a str>,
}

impl Throttle {
    /// # Errors
    ///
    /// Where Redis is to be used and its URL is none, or its thread cannot be started.
    pub(crate) fn new(limits: &Limits, metrics: &ThrottleMetrics) -> std::io::Result<Self> {
        let memory = Arc::new(Memory {
            table: Table::new(limits.entries),
            hasher: RandomState::new(),
            began: Instant::now(),
        });
        let shared = limits
            .redis
            .as_ref()
            .map(|url| Shared::start(url, memory.clone(), metrics.clone()))
            .transpose()?;
        Ok(Self { memory, shared })
    }

    /// Whether these credentials may be judged at all.
    ///
    /// # Errors
    ///
    /// [`Refusal::Throttled`] with the time to wait.
    pub(crate) fn check(&self, limits: &Limits, attempt: Attempt<'_>) -> Result<(), Refusal> {
        if limits.exempt.contains(attempt.client) {
            return Ok(());
        }
        let now = self.memory.now();
        if self.memory.table.largest() <= now {
            // Everybody is at rest, as ever where nobody guesses.
            return Ok(());
        }
        let wait = keys(limits, attempt)
            .filter_map(|(kind, rate)| {
                let key = self.memory.key(kind, attempt);
                rate.wait(self.memory.table.get(key)?, now)
            })
            .max();
        wait.map_or(Ok(()), |wait| Err(Refusal::Throttled(wait)))
    }

    /// Counts wrong credentials.
    ///
    /// # Errors
    ///
    /// [`Refusal::Throttled`] where the limit was reached by now, by others that were judged at the same moment.
    pub(crate) fn failed(&self, limits: &Limits, attempt: Attempt<'_>) -> Result<(), Refusal> {
        if limits.exempt.contains(attempt.client) {
            return Ok(());
        }
        let now = self.memory.now();
        let mut wait = None;
        for (kind, rate) in keys(limits, attempt) {
            let key = self.memory.key(kind, attempt);
            let change = |arrival| {
                wait = wait.max(rate.wait(arrival, now));
                rate.charge(arrival, now)
            };
            self.memory.table.update(key, now, change);
            if let Some(shared) = &self.shared {
                shared.tell(Failure::new(kind, attempt, rate, key));
            }
        }
        wait.map_or(Ok(()), |wait| Err(Refusal::Throttled(wait)))
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Address,
    AddressAndUser,
}

/// The limits that hold for this attempt.
fn keys(limits: &Limits, attempt: Attempt<'_>) -> impl Iterator<Item = (Kind, Rate)> {
    let by_user = limits
        .per_address_and_user
        .filter(|_| attempt.user.is_some());
    [
        (Kind::Address, limits.per_address),
        (Kind::AddressAndUser, by_user),
    ]
    .into_iter()
    .filter_map(|(kind, rate)| Some((kind, rate?)))
}

impl Memory {
    /// Nanoseconds since the beginning, on a clock that is never set.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn key(&self, kind: Kind, attempt: Attempt<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        kind.hash(&mut hasher);
        limited_as(attempt.client).hash(&mut hasher);
        if kind == Kind::AddressAndUser {
            // Many policies do not tell the cases of a name apart.
            attempt.user.map(str::to_lowercase).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// What another replica knows: the key is at rest only after this time.
    fn raise(&self, key: u64, ahead: Duration) {
        let now = self.now();
        let ahead = u64::try_from(ahead.as_nanos()).unwrap_or(u64::MAX);
        let arrival = now.saturating_add(ahead);
        self.table.update(key, now, |old| old.max(arrival));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_auth::Networks;
    use gatepost_auth::address::parse_network;

    fn limits(per_address: Option<&str>, per_user: Option<&str>) -> Limits {
        let rate = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        Limits {
            per_address: rate(per_address),
            per_address_and_user: rate(per_user),
            exempt: [parse_network("10.0.0.0/8").unwrap()]
                .into_iter()
                .collect::<Networks>(),
            longest_pause: Duration::from_secs(1),
            entries: 4096,
            redis: None,
        }
    }

    fn throttle(limits: &Limits) -> Throttle {
        Throttle::new(
            limits,
            &ThrottleMetrics::new(&prometheus::Registry::new()).unwrap(),
        )
        .unwrap()
    }

    fn attempt<'a>(client: &str, user: &'a str) -> Attempt<'a> {
        Attempt {
            client: client.parse().unwrap(),
            user: Some(user),
        }
    }

    #[test]
    fn an_address_is_stopped_and_others_are_not() {
        let limits = limits(Some("5/hour"), Some("2/hour"));
        let throttle = throttle(&limits);
        let guess = |client: &str, user: &str| {
            let attempt = attempt(client, user);
            let passed = throttle.check(&limits, attempt).is_ok();
            if passed {
                throttle.failed(&limits, attempt).unwrap();
            }
            passed
        };
        assert_eq!(
            [(); 3].map(|()| guess("192.0.2.1", "scott")),
            [true, true, false]
        );
        // The same user from elsewhere, and another user from there.
        assert!(guess("192.0.2.2", "scott"));
        assert_eq!(
            ["a", "b", "c", "d"].map(|user| guess("192.0.2.1", user)),
            [true, true, true, false]
        );
        let wait = throttle.check(&limits, attempt("192.0.2.1", "scott"));
        let Err(Refusal::Throttled(wait)) = wait else {
            panic!("{wait:?}")
        };
        assert!(
            wait > Duration::from_secs(1700) && wait <= Duration::from_secs(1800),
            "{wait:?}"
        );
        assert!(!guess("192.0.2.1", "anybody"));
        assert!((0..20).all(|_| guess("10.1.1.1", "scott")), "exempt");
    }

    /// The attack: guesses are sent at one moment, so that all are let through before any has failed.
    #[test]
    fn of_guesses_at_one_moment_no_more_than_the_limit_learn_anything() {
        let limits = limits(None, Some("3/hour"));
        let throttle = throttle(&limits);
        let attempts =
            ["scott", "SCOTT", "Scott", "scotT", "scott"].map(|it| attempt("192.0.2.1", it));
        assert!(
            attempts
                .iter()
                .all(|it| throttle.check(&limits, *it).is_ok())
        );
        let learnt = attempts.map(|it| throttle.failed(&limits, it).is_ok());
        assert_eq!(learnt, [true, true, true, false, false]);
        assert!(
            throttle.check(&limits, attempts[0]).is_err(),
            "nor does one that was right"
        );
    }

    /// The attack: an IPv6 client changes its address at will.
    #[test]
    fn an_ipv6_network_is_one_client() {
        let limits = limits(Some("2/hour"), None);
        let throttle = throttle(&limits);
        for last in 0..2 {
            let attempt_at = format!("2001:db8::{last}");
            throttle.failed(&limits, attempt(&attempt_at, "x")).unwrap();
        }
        assert!(
            throttle
                .check(&limits, attempt("2001:db8::ffff", "y"))
                .is_err()
        );
        assert!(
            throttle
                .check(&limits, attempt("2001:db8:0:1::1", "y"))
                .is_ok()
        );
    }

    /// The attack: a million addresses fail, so that memory runs out or somebody else is kept out.
    #[test]
    fn a_million_addresses_cost_bounded_memory_and_keep_nobody_else_out() {
        let limits = Limits {
            entries: 262_144,
            ..limits(Some("100/min"), Some("10/min"))
        };
        let throttle = throttle(&limits);
        for index in 0..1_000_000_u32 {
            let client = IpAddr::from((0x0b00_0000 + index).to_be_bytes());
            let attempt = Attempt {
                client,
                user: Some("scott"),
            };
            let _ = throttle.failed(&limits, attempt);
        }
        assert!(throttle.memory.table.bytes() <= 8 << 20);
        let refused = (0..10_000_u32)
            .filter(|index| {
                let client = IpAddr::from((0xcb00_7100 + index).to_be_bytes());
                throttle
                    .check(
                        &limits,
                        Attempt {
                            client,
                            user: Some("scott"),
                        },
                    )
                    .is_err()
            })
            .count();
        assert_eq!(refused, 0);
    }
}
