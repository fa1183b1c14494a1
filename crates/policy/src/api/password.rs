//! Password hashes: the slow part of a handler that keeps hashes, done beside the worker.
//!
//! Hashing is meant to cost time and memory, so it runs on blocking threads, as many at once as there
//! are cores, and never on the worker's own, whose other calls would wait. Whoever needs no hash goes first: those threads
//! leave the processor to others, and what would wait too long is refused at once.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::sync::Semaphore;

use crate::counters::Gauge;

use super::hashes::{HashAlgorithm, HashFault, hash_password, verify};

/// What the password of a user is compared with who does not exist. Nothing depends on whether a password belongs to it,
/// only on that it costs what a hash costs which is made here; so it need not be a secret, and the first unknown user
/// costs what the next one does.
const DECOY: &str = "$argon2id$v=19$m=7168,t=5,p=1$z2fv+874hb6tLT+0UIC1XA$bG8TPR51Fyntld8216WbdycLle/x6OaRAr/DTstvOMQ";

/// Shared by all workers.
#[derive(Debug, Clone)]
pub(crate) struct HashPool {
    places: Arc<Semaphore>,
    cores: usize,
    waiting: Gauge,
    /// What a hash took of late, in nanoseconds.
    took: Arc<AtomicU64>,
    /// The longest that one may be expected to wait.
    patience: Duration,
}

/// How much the threads that hash leave to others: a guesser's work must not make those wait who are known. At this value
/// a thread has a third of the share of one that it competes with, and all of what nobody wants.
const NICE: i32 = 5;

impl Default for HashPool {
    fn default() -> Self {
        Self::new(Duration::MAX)
    }
}

impl HashPool {
    /// One that refuses what would wait longer than this.
    pub(crate) fn new(patience: Duration) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            places: Arc::new(Semaphore::new(cores)),
            cores,
            waiting: Gauge::default(),
            took: Arc::default(),
            patience,
        }
    }

    /// What the next one would wait, by what the last ones took. Nothing where none was made yet.
    fn expected_wait(&self) -> Duration {
        let took = Duration::from_nanos(self.took.load(Ordering::Relaxed));
        let before = u32::try_from(self.waiting.value() / self.cores).unwrap_or(u32::MAX);
        took.saturating_mul(before)
    }

    /// An average in which the last eight or so count.
    fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.took.load(Ordering::Relaxed);
        let now = if before == 0 {
            took
        } else {
            before - before / 8 + took / 8
        };
        // Two at once may lose one of theirs, which changes nothing.
        self.took.store(now, Ordering::Relaxed);
    }

    /// How many hashes wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.value()
    }

    /// Whether the password belongs to the stored hash. Without a stored hash the answer is no, after
    /// as much work as for a wrong password, so that time does not tell which users exist.
    pub(crate) async fn verify(
        &self,
        stored: Option<String>,
        password: String,
    ) -> Result<bool, HashFault> {
        self.run(move || match stored {
            Some(stored) => verify(&stored, &password),
            None => verify(DECOY, &password).map(|_| false),
        })
        .await
    }

    /// A fresh hash.
    pub(crate) async fn hash(
        &self,
        password: String,
        algorithm: HashAlgorithm,
    ) -> Result<String, HashFault> {
        self.run(move || hash_password(&password, algorithm)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HashFault> + Send + 'static,
    ) -> Result<T, HashFault> {
        if self.expected_wait() > self.patience {
            return Err(HashFault::Busy);
        }
        let waiting = self.waiting.one();
        let place = self
            .places
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| HashFault::Ended)?;
        drop(waiting);
        let pool = self.clone();
        tokio::task::spawn_blocking(move || {
            // Without it everything works, only less smoothly.
            let _ = setpriority_process(Some(gettid()), NICE);
            let began = Instant::now();
            let done = work();
            pool.note(began.elapsed());
            // Held until the work is done, also where the call that asked for it is gone by then.
            drop(place);
            done
        })
        .await
        .map_err(|_| HashFault::Ended)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attack: the time that a refusal takes tells which users exist.
    #[test]
    fn an_unknown_user_costs_what_a_wrong_password_costs() {
        let fresh = hash_password("tiger", HashAlgorithm::default()).unwrap();
        let shape = |hash: &str| {
            let parts: Vec<&str> = hash.split('$').collect();
            let [_, kind, version, costs, salt, sum] = parts[..] else {
                panic!("{hash}");
            };
            let costs = format!("{kind} {version} {costs}");
            (costs, salt.len(), sum.len())
        };
        assert_eq!(shape(DECOY), shape(&fresh));
        assert_eq!(verify(DECOY, "tiger"), Ok(false));
    }

    async fn poll_once<F: Future>(mut it: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        std::future::poll_fn(|context| std::task::Poll::Ready(it.as_mut().poll(context))).await
    }

    /// The need: ten times more logins than the cores can hash. Those who would be served too late are told at once.
    #[tokio::test]
    async fn what_would_wait_too_long_is_refused_at_once() {
        let pool = HashPool::new(Duration::from_secs(1));
        let work = Duration::from_millis(100);
        let hash = || {
            pool.run(move || {
                thread::sleep(work);
                Ok(())
            })
        };
        // Until one was made, nobody knows how long it takes.
        assert_eq!(hash().await, Ok(()));
        assert!(pool.expected_wait().is_zero());
        let asked = Instant::now();
        let mut all: Vec<_> = (0..pool.cores * 100).map(|_| Box::pin(hash())).collect();
        let mut refused = 0;
        for it in &mut all {
            if let std::task::Poll::Ready(done) = poll_once(it.as_mut()).await {
                assert_eq!(done, Err(HashFault::Busy));
                refused += 1;
            }
        }
        assert!(asked.elapsed() < Duration::from_secs(1));
        // Ten for each core wait a second; those at work, and one more for each, do not count.
        assert!(refused >= pool.cores * 80, "{refused}");
        assert!(refused < pool.cores * 100, "{refused}");
        drop(all);
        assert_eq!(pool.waiting(), 0);
        assert_eq!(hash().await, Ok(()));
    }
}
