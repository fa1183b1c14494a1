//! Password hashes: the slow part of a handler that keeps hashes, done beside the worker.
//!
//! Hashing is meant to cost time and memory, so it runs on blocking threads, as many at once as there
//! are cores, and never on the worker's own, whose other calls would wait.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::thread;

use tokio::sync::Semaphore;

use super::hashes::{HashAlgorithm, HashFault, hash_password, verify};

/// Shared by all workers.
#[derive(Debug, Clone)]
pub(crate) struct HashPool {
    places: Arc<Semaphore>,
    /// What the password of a user is compared with who does not exist.
    decoy: Arc<OnceLock<String>>,
}

impl Default for HashPool {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            places: Arc::new(Semaphore::new(cores)),
            decoy: Arc::default(),
        }
    }
}

impl HashPool {
    /// Whether the password belongs to the stored hash. Without a stored hash the answer is no, after
    /// as much work as for a wrong password, so that time does not tell which users exist.
    pub(crate) async fn verify(
        &self,
        stored: Option<String>,
        password: String,
    ) -> Result<bool, HashFault> {
        let decoy = self.decoy.clone();
        self.run(move || match stored {
            Some(stored) => verify(&stored, &password),
            None => {
                let decoy = match decoy.get() {
                    Some(decoy) => decoy,
                    None => {
                        let fresh =
                            hash_password("no user has this password", HashAlgorithm::default())?;
                        decoy.get_or_init(|| fresh)
                    }
                };
                verify(decoy, &password).map(|_| false)
            }
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
        let place = self
            .places
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| HashFault::Ended)?;
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
