//! Password hashes: the slow part of a handler that keeps hashes, done beside the worker.
//!
//! Hashing is meant to cost time and memory, so it runs on blocking threads, as many at once as there
//! are cores, and never on the worker's own, whose other calls would wait.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::thread;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

/// Costs that a stored hash may ask for. More would let one hash occupy the machine.
const MOST_MEMORY_KIB: u32 = 1024 * 1024;
const MOST_PASSES: u32 = 100;
const MOST_LANES: u32 = 16;

/// The parameters of new hashes: of OWASP's equally strong choices for argon2id (Password Storage Cheat
/// Sheet) the one that needs the least memory, since a sidecar has little.
const MEMORY_KIB: u32 = 7168;
const PASSES: u32 = 5;
const LANES: u32 = 1;

/// Shared by all workers.
#[derive(Debug, Clone)]
pub(crate) struct HashPool {
    places: Arc<Semaphore>,
    /// What the password of a user is compared with who does not exist.
    decoy: Arc<OnceLock<String>>,
}

/// Why a password cannot be checked. Never shows the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HashFault {
    #[error("the stored hash has an unknown format")]
    Format,
    #[error("the stored hash asks for more work than is allowed")]
    Costs,
    #[error("the password cannot be hashed")]
    Hashing,
    #[error("the hash pool has ended")]
    Ended,
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
                        let fresh = hash("no user has this password")?;
                        decoy.get_or_init(|| fresh)
                    }
                };
                verify(decoy, &password).map(|_| false)
            }
        })
        .await
    }

    /// A fresh argon2id hash in PHC form.
    pub(crate) async fn hash(&self, password: String) -> Result<String, HashFault> {
        self.run(move || hash(&password)).await
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

fn verify(stored: &str, password: &str) -> Result<bool, HashFault> {
    if stored.starts_with("$argon2") {
        return verify_argon2(stored, password);
    }
    Err(HashFault::Format)
}

fn verify_argon2(stored: &str, password: &str) -> Result<bool, HashFault> {
    let hash = PasswordHash::new(stored).map_err(|_| HashFault::Format)?;
    let params = Params::try_from(&hash).map_err(|_| HashFault::Format)?;
    if params.m_cost() > MOST_MEMORY_KIB
        || params.t_cost() > MOST_PASSES
        || params.p_cost() > MOST_LANES
    {
        return Err(HashFault::Costs);
    }
    match Argon2::default().verify_password(password.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(_) => Err(HashFault::Format),
    }
}

fn hash(password: &str) -> Result<String, HashFault> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| HashFault::Hashing)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash: PasswordHash = argon2
        .hash_password(password.as_bytes())
        .map_err(|_| HashFault::Hashing)?;
    Ok(hash.to_string())
}
