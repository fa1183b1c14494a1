//! Password hashes: the slow part of a handler that keeps hashes, done beside the worker.
//!
//! Hashing is meant to cost time and memory, so it runs on blocking threads, as many at once as there
//! are cores, and never on the worker's own, whose other calls would wait.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

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
    waiting: Gauge,
}

impl Default for HashPool {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            places: Arc::new(Semaphore::new(cores)),
            waiting: Gauge::default(),
        }
    }
}

impl HashPool {
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
        let waiting = self.waiting.one();
        let place = self
            .places
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| HashFault::Ended)?;
        drop(waiting);
        tokio::task::spawn_blocking(move || {
            let done = work();
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
}
