//! What identities have sent lately, and whether more fits.
//!
//! Here, or in a Redis that replicas share. There the count of all is kept, and each replica keeps its own
//! beside it, so that it can go on by itself when Redis is gone.

mod shared;

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gatepost_auth::quota::{Excess, Quota, Usage};
use gatepost_auth::{OverQuota, Permit, Refusal};
use gatepost_config::{Quotas, WhenDown};
use serde::Serialize;

use self::shared::{Shared, Unreachable};
use crate::metrics::{self, QuotaMetrics};

/// Locks, so that identities seldom meet.
const SHARDS: usize = 64;

/// Refunds that Redis may be told of at once. Nobody waits for them, so nobody who waits bounds them.
const MOST_REFUNDS: i64 = 1024;

/// What is remembered. It outlives reloads; the limits come with each request's snapshot.
pub(crate) struct QuotaStore {
    shards: Box<[Mutex<Shard>]>,
    /// Stands in for a shard that is not there, which does not happen.
    spare: Mutex<Shard>,
    /// How many identities are remembered.
    known: AtomicUsize,
    began: Instant,
    shared: Option<Shared>,
    metrics: QuotaMetrics,
}

/// By identity.
type Shard = HashMap<String, Vec<Entry>>;

struct Entry {
    counted: Counted,
    quota: Quota,
    usage: Usage,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Requests,
    Recipients,
}

impl Counted {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Recipients => "recipients",
        }
    }
}

/// One limit that holds for a request, and how much of it the request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Take {
    counted: Counted,
    quota: Quota,
    amount: u32,
}

/// What a request was charged, to be given back where the MTA did not take it.
#[derive(Debug)]
pub(crate) struct Charge {
    identity: String,
    takes: Vec<Take>,
    /// On this replica's clock.
    at: u64,
    /// On Redis' clock, where it was charged there too.
    shared_at: Option<u64>,
}

/// How much of a charge is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refund {
    /// All of it: the MTA took nothing.
    All,
    /// So many recipients: the MTA took the others.
    Recipients(u32),
}

/// A limit and what is used of it, for whoever asks.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    counted: &'static str,
    limit: u32,
    period_seconds: u64,
    used: u32,
}

impl QuotaStore {
    /// # Errors
    ///
    /// Where the URL of Redis is none.
    pub(crate) fn new(quotas: &Quotas, metrics: QuotaMetrics) -> std::io::Result<Self> {
        Ok(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            spare: Mutex::default(),
            known: AtomicUsize::new(0),
            began: Instant::now(),
            shared: quotas.redis.as_ref().map(Shared::new).transpose()?,
            metrics,
        })
    }

    /// Charges one request for so many recipients, if all limits that hold for it have room. `None` where there are none.
    ///
    /// # Errors
    ///
    /// [`Refusal::OverQuota`]; [`Refusal::QuotaUnknown`] where what was sent cannot be found out.
    pub(crate) async fn charge(
        &self,
        quotas: &Quotas,
        permit: &Permit,
        recipients: u32,
    ) -> Result<Option<Charge>, Refusal> {
        let identity = permit.identity().unwrap_or_default();
        let takes = takes(quotas, permit, identity, recipients);
        if takes.is_empty() {
            return Ok(None);
        }
        if let Some(take) = takes.iter().find(|it| it.amount > it.quota.largest()) {
            return Err(over(*take, Excess::Never));
        }
        let mut charge = Charge {
            // Whoever need not say who they are is counted by address.
            identity: permit
                .identity()
                .map_or_else(|| permit.origin().client.to_string(), str::to_owned),
            takes,
            at: self.now(),
            shared_at: None,
        };
        if let Some(shared) = &self.shared {
            match shared.charge(&charge.identity, &charge.takes).await {
                Ok(Ok(at)) => {
                    self.reached(true);
                    charge.shared_at = Some(at);
                    // Redis has counted it; that this replica has no room for it beside is no reason to refuse.
                    let _ = self.charge_here(quotas, &charge, Room::Made);
                    return Ok(Some(charge));
                }
                Ok(Err((take, wait))) => {
                    self.reached(true);
                    return Err(over(take, Excess::Wait(wait)));
                }
                Err(Unreachable(fault)) => {
                    if self.reached(false) {
                        tracing::warn!(fault, "quotas cannot be counted together through Redis");
                    }
                    if quotas.when_down == WhenDown::Refuse {
                        return Err(Refusal::QuotaUnknown);
                    }
                }
            }
        }
        self.charge_here(quotas, &charge, Room::Asked)?;
        Ok(Some(charge))
    }

    /// Notes whether Redis was reached; true where that is news.
    fn reached(&self, up: bool) -> bool {
        let news = (self.metrics.redis_up.get() == 1) != up;
        self.metrics.redis_up.set(i64::from(up));
        if news && up {
            tracing::info!("quotas are counted together through Redis again");
        }
        news
    }

    fn charge_here(&self, quotas: &Quotas, charge: &Charge, room: Room) -> Result<(), Refusal> {
        let now = charge.at;
        let mut shard = self.shard(&charge.identity);
        if !shard.contains_key(&charge.identity) {
            let known = &self.known;
            if known.load(Ordering::Relaxed) >= quotas.entries {
                known.fetch_sub(forget_those_at_rest(&mut shard, now), Ordering::Relaxed);
            }
            // Forgetting somebody who is not at rest would let them begin anew.
            if known.load(Ordering::Relaxed) >= quotas.entries {
                return Err(Refusal::QuotaUnknown);
            }
            known.fetch_add(1, Ordering::Relaxed);
        }
        let entries = shard.entry(charge.identity.clone()).or_default();
        // Limits that are no longer, or not yet, configured.
        entries.retain(|it| {
            it.usage.used(it.quota, now) > 0 || charge.takes.iter().any(|take| take.is_of(it))
        });
        for take in &charge.takes {
            if !entries.iter().any(|entry| take.is_of(entry)) {
                entries.push(Entry {
                    counted: take.counted,
                    quota: take.quota,
                    usage: Usage::default(),
                });
            }
        }
        let find = |entries: &[Entry], take: &Take| entries.iter().position(|it| take.is_of(it));
        if room == Room::Asked {
            for take in &charge.takes {
                let entry = find(entries, take).and_then(|index| entries.get(index));
                let fits = entry.map_or(Ok(()), |it| it.usage.fits(take.quota, take.amount, now));
                fits.map_err(|excess| over(*take, excess))?;
            }
        }
        for take in &charge.takes {
            let entry = find(entries, take).and_then(|index| entries.get_mut(index));
            if let Some(entry) = entry {
                entry.usage.charge(take.quota, take.amount, now);
            }
        }
        Ok(())
    }

    /// Gives back what the MTA did not take.
    pub(crate) async fn refund(&self, charge: Charge, refund: Refund) {
        let takes: Vec<Take> = charge
            .takes
            .iter()
            .filter_map(|it| it.given_back(refund))
            .collect();
        {
            let now = self.now();
            let mut shard = self.shard(&charge.identity);
            let entries = shard.get_mut(&charge.identity).into_iter().flatten();
            for entry in entries {
                if let Some(take) = takes.iter().find(|take| take.is_of(entry)) {
                    entry.usage.refund(take.quota, take.amount, charge.at, now);
                }
            }
        }
        let (Some(shared), Some(at)) = (&self.shared, charge.shared_at) else {
            return;
        };
        let _place = metrics::Counted::new(&self.metrics.refunds_in_flight);
        if self.metrics.refunds_in_flight.get() > MOST_REFUNDS {
            self.metrics.refunds_lost.inc();
        } else if let Err(Unreachable(fault)) = shared.refund(&charge.identity, &takes, at).await {
            self.metrics.refunds_lost.inc();
            tracing::debug!(fault, "a quota could not be given back through Redis");
        }
    }

    /// What this identity has used of each limit that may hold for it.
    pub(crate) async fn show(&self, quotas: &Quotas, identity: &str) -> Result<Vec<Shown>, String> {
        let takes = all_takes(quotas);
        let used: Vec<u32> = if let Some(shared) = &self.shared {
            let used = shared.used(identity, &takes).await;
            used.map_err(|Unreachable(fault)| fault)?
        } else {
            let now = self.now();
            let shard = self.shard(identity);
            let entries = shard.get(identity);
            let used = |take: &Take| {
                let entry = entries?.iter().find(|it| take.is_of(it))?;
                Some(entry.usage.used(entry.quota, now))
            };
            takes.iter().map(|take| used(take).unwrap_or(0)).collect()
        };
        let shown = takes.iter().zip(used).map(|(take, used)| Shown {
            counted: take.counted.as_str(),
            limit: take.quota.limit(),
            period_seconds: take.quota.period().as_secs(),
            used,
        });
        Ok(shown.collect())
    }

    /// Forgets what this identity has sent.
    pub(crate) async fn reset(&self, quotas: &Quotas, identity: &str) -> Result<(), String> {
        if self.shard(identity).remove(identity).is_some() {
            self.known.fetch_sub(1, Ordering::Relaxed);
        }
        match &self.shared {
            Some(shared) => {
                let done = shared.reset(identity, &all_takes(quotas)).await;
                done.map_err(|Unreachable(fault)| fault)
            }
            None => Ok(()),
        }
    }

    /// Nanoseconds since the beginning, on a clock that is never set.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn shard(&self, identity: &str) -> MutexGuard<'_, Shard> {
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0);
        let shard = self.shards.get(index).unwrap_or(&self.spare);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a charge has to fit, or has been found to elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Asked,
    Made,
}

/// Lets go of identities that have nothing left to remember; says of how many.
fn forget_those_at_rest(shard: &mut Shard, now: u64) -> usize {
    let before = shard.len();
    shard.retain(|_, entries| entries.iter().any(|it| it.usage.used(it.quota, now) > 0));
    before - shard.len()
}

impl Take {
    fn is_of(&self, entry: &Entry) -> bool {
        self.counted == entry.counted && self.quota == entry.quota
    }

    fn given_back(&self, refund: Refund) -> Option<Self> {
        let amount = match (refund, self.counted) {
            (Refund::All, _) => self.amount,
            (Refund::Recipients(failed), Counted::Recipients) => failed.min(self.amount),
            (Refund::Recipients(_), Counted::Requests) => 0,
        };
        (amount > 0).then_some(Self { amount, ..*self })
    }
}

/// The limits that hold for this request. Two that are the same are one.
fn takes(quotas: &Quotas, permit: &Permit, identity: &str, recipients: u32) -> Vec<Take> {
    let mut takes = Vec::new();
    let rules = quotas.rules.iter();
    for rule in rules.filter(|it| {
        it.whom
            .iter()
            .any(|it| it.means(permit.subject(), identity))
    }) {
        add(&mut takes, Counted::Requests, &rule.requests, 1);
        add(
            &mut takes,
            Counted::Recipients,
            &rule.recipients,
            recipients,
        );
    }
    takes
}

/// All that are configured, whomever they are for.
fn all_takes(quotas: &Quotas) -> Vec<Take> {
    let mut takes = Vec::new();
    for rule in &quotas.rules {
        add(&mut takes, Counted::Requests, &rule.requests, 0);
        add(&mut takes, Counted::Recipients, &rule.recipients, 0);
    }
    takes
}

fn add(takes: &mut Vec<Take>, counted: Counted, quotas: &[Quota], amount: u32) {
    for quota in quotas {
        let take = Take {
            counted,
            quota: *quota,
            amount,
        };
        if !takes.contains(&take) {
            takes.push(take);
        }
    }
}

fn over(take: Take, excess: Excess) -> Refusal {
    Refusal::OverQuota(OverQuota {
        counted: take.counted.as_str(),
        limit: take.quota.limit(),
        period: take.quota.period(),
        wait: match excess {
            Excess::Wait(wait) => Some(wait),
            Excess::Never => None,
        },
    })
}

/// How many recipients the MTA's answer says it did not take. Injection APIs answer 200 also where some failed.
pub(crate) fn failed_recipients(answer: &[u8]) -> Option<u32> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    u32::try_from(answer.get("fail_count")?.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_how_many_failed() {
        for (answer, failed) in [
            (
                r#"{"success_count":3,"fail_count":2,"failed_recipients":["a","b"],"errors":[]}"#,
                Some(2),
            ),
            (r#"{"fail_count":0}"#, Some(0)),
            (r#"{"fail_count":-1}"#, None),
            (r#"{"success_count":3}"#, None),
            ("", None),
            ("ok", None),
            ("[5]", None),
            (r#"{"fail_count":4294967296}"#, None),
        ] {
            assert_eq!(failed_recipients(answer.as_bytes()), failed, "{answer}");
        }
    }

    /// The attack: names are made up so that somebody's count is forgotten.
    #[test]
    fn nobody_is_forgotten_who_is_not_at_rest() {
        let quota = Quota::parse("10/min", None).unwrap();
        let now = 1_000_000_000_000;
        let entry = |used: u32| {
            let mut usage = Usage::default();
            usage.charge(quota, used, now);
            vec![Entry {
                counted: Counted::Requests,
                quota,
                usage,
            }]
        };
        let mut shard = Shard::new();
        shard.insert("busy".to_owned(), entry(5));
        shard.insert("rest".to_owned(), entry(0));
        assert_eq!(forget_those_at_rest(&mut shard, now), 1);
        assert_eq!(shard.keys().collect::<Vec<_>>(), ["busy"]);
    }
}
