//! Remembers for a while which credentials were accepted, so that a client which sends its password with
//! every message does not cost a handler call, or a password hash, each time.
//!
//! Only successes are kept: a failure that is kept would lock out a user whose password was just set, and
//! let anybody fill the cache. The key is a keyed hash, so no password stays in memory. The cache belongs to
//! one policy and goes with it when that is replaced.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gatepost_auth::{AuthInfo, Credentials, Judgement};
use hmac::{Hmac, KeyInit as _, Mac as _};
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};
use sha2::Sha256;
use tokio::sync::OnceCell;

use crate::PolicyCounters;

type Key = [u8; 32];

pub(crate) struct DecisionCache {
    /// `None` where the cache is off; then calls for the same credentials are still made once at a time.
    accepted: Option<Accepted>,
    ttl: Duration,
    keyed: Hmac<Sha256>,
    /// Calls that are being made, so that a burst of the same credentials is one call.
    flights: Mutex<HashMap<Key, Arc<OnceCell<Judgement>>>>,
    counters: Arc<PolicyCounters>,
}

type Accepted = Cache<Key, Entry, UnitWeighter, DefaultHashBuilder, CountEvictions>;

#[derive(Clone)]
struct Entry {
    info: AuthInfo,
    until: Instant,
}

impl DecisionCache {
    /// `ttl` zero turns it off. `key` must be random and known to nobody;
    /// it has the block size of SHA-256, which is what HMAC takes as it is (RFC 2104 §2).
    pub(crate) fn new(
        ttl: Duration,
        capacity: usize,
        key: &[u8; 64],
        counters: Arc<PolicyCounters>,
    ) -> Self {
        let accepted = (!ttl.is_zero()).then(|| {
            let lifecycle = CountEvictions(counters.clone());
            let capacity_weight = u64::try_from(capacity).unwrap_or(u64::MAX);
            Cache::with(
                capacity,
                capacity_weight,
                UnitWeighter,
                DefaultHashBuilder::default(),
                lifecycle,
            )
        });
        Self {
            accepted,
            ttl,
            keyed: Hmac::new(key.into()),
            flights: Mutex::default(),
            counters,
        }
    }

    /// The judgement from memory, or from `ask`, once for all who want the same at the same time.
    pub(crate) async fn judge<F: Future<Output = Judgement>>(
        &self,
        credentials: Credentials,
        ask: impl FnOnce(Credentials) -> F,
    ) -> Judgement {
        let key = self.key(&credentials);
        if let Some(accepted) = &self.accepted {
            match accepted.get(&key) {
                Some(entry) if Instant::now() < entry.until => {
                    self.counters.cache_hits.add(1);
                    return Judgement::Accepted(entry.info);
                }
                _ => self.counters.cache_misses.add(1),
            }
        }
        let flight = Flight {
            cache: self,
            key,
            cell: self.flights().entry(key).or_default().clone(),
        };
        // If the first caller goes away in the middle, the next one that waits takes over.
        let judgement = flight.cell.get_or_init(|| async {
            let judgement = ask(credentials).await;
            self.keep(key, &judgement);
            // Whoever comes from now on asks anew, or finds what was kept.
            self.flights().remove(&key);
            judgement
        });
        judgement.await.clone()
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<OnceCell<Judgement>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, key: Key, judgement: &Judgement) {
        if let (Some(accepted), Judgement::Accepted(info)) = (&self.accepted, judgement) {
            let until = Instant::now() + self.ttl;
            accepted.insert(
                key,
                Entry {
                    info: info.clone(),
                    until,
                },
            );
        }
    }

    /// A keyed hash over parts that say how long they are: `ab` with `c` is not `a` with `bc`, and a
    /// password that is missing is not an empty one.
    fn key(&self, credentials: &Credentials) -> Key {
        let mut mac = self.keyed.clone();
        let mut part = |part: Option<&str>| {
            let part = part.map(str::as_bytes);
            let length = part.map_or(u64::MAX, |part| {
                u64::try_from(part.len()).unwrap_or(u64::MAX)
            });
            mac.update(&length.to_be_bytes());
            mac.update(part.unwrap_or_default());
        };
        match credentials {
            Credentials::Basic { user, password } => {
                part(Some("basic"));
                part(Some(user));
                part(password.as_ref().map(gatepost_auth::Secret::expose));
            }
            Credentials::Bearer { token } => {
                part(Some("bearer"));
                part(Some(token.expose()));
            }
        }
        mac.finalize().into_bytes().into()
    }
}

/// One caller's part in a call that is being made.
struct Flight<'a> {
    cache: &'a DecisionCache,
    key: Key,
    cell: Arc<OnceCell<Judgement>>,
}

/// A caller that goes away before the answer, with nobody else waiting, leaves nothing behind.
impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if self.cell.initialized() {
            return;
        }
        let mut flights = self.cache.flights();
        // One reference is the table's, one is this one.
        if Arc::strong_count(&self.cell) <= 2 {
            flights.remove(&self.key);
        }
    }
}

/// Counts entries that had to make room.
#[derive(Clone)]
struct CountEvictions(Arc<PolicyCounters>);

impl Lifecycle<Key, Entry> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, _state: &mut (), _key: Key, _entry: Entry) {
        self.0.cache_evictions.add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use gatepost_auth::Secret;

    use super::*;

    fn cache(ttl: Duration, capacity: usize) -> (DecisionCache, Arc<PolicyCounters>) {
        let counters = Arc::<PolicyCounters>::default();
        (
            DecisionCache::new(ttl, capacity, &[7; 64], counters.clone()),
            counters,
        )
    }

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic {
            user: user.to_owned(),
            password: Some(Secret::from(password)),
        }
    }

    fn yes() -> Judgement {
        Judgement::Accepted(AuthInfo::basic("scott").unwrap())
    }

    #[tokio::test]
    async fn a_success_is_remembered_until_its_time_is_up() {
        let (cache, counters) = cache(Duration::from_millis(50), 10);
        let calls = AtomicUsize::new(0);
        let ask = async || {
            cache
                .judge(basic("a", "b"), async |_| {
                    calls.fetch_add(1, Ordering::SeqCst);
                    yes()
                })
                .await
        };
        assert_eq!(ask().await, yes());
        assert_eq!(ask().await, yes());
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!(
            (counters.cache_hits.value(), counters.cache_misses.value()),
            (1, 1)
        );
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(ask().await, yes());
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn nothing_but_a_success_is_remembered() {
        let (cache, _) = cache(Duration::from_secs(60), 10);
        for judgement in [
            Judgement::Rejected,
            Judgement::NoHandler,
            Judgement::Failed,
            Judgement::TimedOut,
            Judgement::Overloaded,
        ] {
            let asked = cache
                .judge(basic("a", "b"), async |_| judgement.clone())
                .await;
            assert_eq!(asked, judgement);
        }
        assert_eq!(cache.judge(basic("a", "b"), async |_| yes()).await, yes());
        assert!(cache.flights().is_empty());
    }

    #[tokio::test]
    async fn a_ttl_of_zero_turns_it_off() {
        let (cache, counters) = cache(Duration::ZERO, 10);
        assert_eq!(cache.judge(basic("a", "b"), async |_| yes()).await, yes());
        let second = cache
            .judge(basic("a", "b"), async |_| Judgement::Rejected)
            .await;
        assert_eq!(second, Judgement::Rejected);
        assert_eq!(
            (counters.cache_hits.value(), counters.cache_misses.value()),
            (0, 0)
        );
    }

    /// The attack: credentials that differ, but whose parts put together read the same.
    #[test]
    fn no_two_credentials_share_a_key() {
        let (cache, _) = cache(Duration::from_secs(60), 10);
        let all = [
            basic("ab", "c"),
            basic("a", "bc"),
            basic("abc", ""),
            basic("", "abc"),
            basic("basic", "abc"),
            basic("a", "b\0c"),
            Credentials::Basic {
                user: "abc".to_owned(),
                password: None,
            },
            Credentials::Bearer {
                token: Secret::from("abc"),
            },
        ];
        let keys: std::collections::HashSet<Key> = all
            .iter()
            .map(|credentials| cache.key(credentials))
            .collect();
        assert_eq!(keys.len(), all.len());
        let other = DecisionCache::new(Duration::ZERO, 1, &[8; 64], Arc::default());
        assert_ne!(cache.key(&all[0]), other.key(&all[0]), "the hash is keyed");
    }

    #[tokio::test]
    async fn it_holds_no_more_than_its_capacity() {
        let (cache, counters) = cache(Duration::from_secs(60), 100);
        for i in 0..1000 {
            cache
                .judge(basic(&i.to_string(), "x"), async |_| yes())
                .await;
        }
        assert!(cache.accepted.as_ref().unwrap().len() <= 100);
        assert!(counters.cache_evictions.value() >= 900);
    }

    /// A burst of the same credentials is one call, also where the answer is no; and a caller that goes
    /// away in the middle leaves nobody waiting.
    #[tokio::test]
    async fn concurrent_callers_share_one_call() {
        let (cache, _) = cache(Duration::from_secs(60), 10);
        let calls = AtomicUsize::new(0);
        let (cache, calls) = (&cache, &calls);
        let ask = || {
            cache.judge(basic("a", "b"), async move |_| {
                calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                Judgement::Rejected
            })
        };
        let gone = tokio::time::timeout(Duration::from_millis(5), ask()).await;
        assert!(gone.is_err());
        assert!(cache.flights().is_empty());
        let (a, b, c, d) = tokio::join!(ask(), ask(), ask(), ask());
        assert_eq!([a, b, c, d], [const { Judgement::Rejected }; 4]);
        assert_eq!(
            calls.load(Ordering::SeqCst),
            2,
            "one was given up, one served all four"
        );
        assert!(cache.flights().is_empty());
    }
}
