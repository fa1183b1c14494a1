//! Password hashes: the slow part of a handler that keeps hashes, done beside the worker.
//!
//! Hashing is meant to cost time and memory, so it runs on threads of its own, as many at once as there
//! are cores, and never on the worker's, whose other calls would wait. Whoever needs no hash goes first (`hash_turns.rs`), and what would wait too
//! long is refused at once.
//!
//! Each hash has a new thread, which costs a hundredth of it: a thread that has once said that it needs no turn cannot take that back.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::counters::Gauge;

use super::hash_turns::{Turn, Turns, cost};
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
    turns: Arc<Turns>,
    /// The longest that one may be expected to wait.
    patience: Duration,
}

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
            turns: Arc::default(),
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
        self.run(move || match &stored {
            Some(stored) => verify(stored, &password),
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
        work: impl Fn() -> Result<T, HashFault> + Send + Sync + 'static,
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
        let (tell, told) = oneshot::channel();
        // The place is held until the work is done, also where the call that asked for it is gone by then.
        tokio::spawn(self.clone().see_through(Arc::new(work), place, tell));
        told.await.map_err(|_| HashFault::Ended)?
    }

    /// Has it done. Where it does not get on, it is begun once more with a share of the processor, and the first that is done counts.
    async fn see_through<T: Send + 'static>(
        self,
        work: Arc<impl Fn() -> Result<T, HashFault> + Send + Sync + 'static>,
        place: OwnedSemaphorePermit,
        tell: oneshot::Sender<Result<T, HashFault>>,
    ) {
        let (turn, slow) = self.turns.next(Instant::now());
        // Nor so long that there is no time left for another try.
        let slow = slow.min(self.patience);
        let mut first = match begin(work.clone(), turn) {
            Ok(first) => first,
            Err(fault) => return answer(tell, Err(fault)),
        };
        let done = match timeout(slow, &mut first).await {
            Ok(done) => {
                self.turns.got_on(turn);
                done
            }
            Err(_) if turn == Turn::Share => first.await,
            Err(_) => {
                self.turns.starves(Instant::now());
                if tell.is_closed() {
                    // It goes on as it can, and nobody waits for it.
                    return;
                }
                match begin(work, Turn::Share) {
                    Ok(second) => tokio::select! {
                        done = first => done,
                        done = second => done,
                    },
                    Err(_) => first.await,
                }
            }
        };
        if let Ok(done) = &done {
            self.note(done.took);
            self.turns.cost(done.cost);
        }
        drop(place);
        // Without an answer it panicked.
        answer(tell, done.map_or(Err(HashFault::Ended), |it| it.result));
    }
}

/// A hash that was made.
struct Done<T> {
    result: Result<T, HashFault>,
    /// From its beginning to its end.
    took: Duration,
    /// What it had of the processor.
    cost: Duration,
}

/// Tells whoever asked, who may be gone.
fn answer<T>(tell: oneshot::Sender<Result<T, HashFault>>, result: Result<T, HashFault>) {
    let _ = tell.send(result);
}

fn begin<T: Send + 'static>(
    work: Arc<impl Fn() -> Result<T, HashFault> + Send + Sync + 'static>,
    turn: Turn,
) -> Result<oneshot::Receiver<Done<T>>, HashFault> {
    let (tell, told) = oneshot::channel();
    let hashing = move || {
        turn.take();
        let began = Instant::now();
        let result = work();
        // Of two that were begun, one is late.
        let _ = tell.send(Done {
            result,
            took: began.elapsed(),
            cost: cost(),
        });
    };
    let thread = thread::Builder::new().name("hash".to_owned());
    thread.spawn(hashing).map_err(|_| HashFault::Busy)?;
    Ok(told)
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
    /// The need: others take every core, so that a hash without a turn hardly runs. Nobody is kept out by that, and who comes next has a share
    /// from the beginning.
    #[tokio::test]
    async fn a_hash_that_does_not_get_on_is_begun_anew_with_a_share() {
        let pool = HashPool::new(Duration::from_secs(60));
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (wait, begun) = (std::sync::Mutex::new(wait), AtomicU64::new(0));
        let done = pool.run(move || {
            let nth = begun.fetch_add(1, Ordering::SeqCst);
            if nth == 0 {
                // Until the sender is gone.
                let _ = wait.lock().unwrap().recv();
            }
            Ok(nth)
        });
        assert_eq!(done.await, Ok(1));
        assert_eq!(pool.turns.next(Instant::now()).0, Turn::Share);
        assert_eq!(pool.run(|| Ok(5)).await, Ok(5));
        assert_eq!(pool.places.available_permits(), pool.cores);
        drop(go_on);
    }

    /// The attack: to leave before the hash is made, and ask for the next one.
    #[tokio::test]
    async fn whoever_leaves_does_not_make_room_for_more() {
        let pool = HashPool::new(Duration::from_secs(60));
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let mut asked = Box::pin(pool.run(move || {
            let _ = wait.lock().unwrap().recv();
            Ok(())
        }));
        assert!(poll_once(asked.as_mut()).await.is_pending());
        drop(asked);
        assert_eq!(pool.places.available_permits(), pool.cores - 1);
        drop(go_on);
        while pool.places.available_permits() < pool.cores {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_hash_that_panics_leaves_its_place() {
        let pool = HashPool::default();
        for _ in 0..pool.cores * 2 {
            let done = pool.run(|| -> Result<(), HashFault> { panic!("on purpose") });
            assert_eq!(done.await, Err(HashFault::Ended));
        }
        assert_eq!(pool.run(|| Ok(())).await, Ok(()));
    }
}
