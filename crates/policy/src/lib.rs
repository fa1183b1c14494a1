//! Runs the operator's Lua policy.
//!
//! A policy is loaded into several Lua states, each on a worker thread of its own ([`worker`]), fed
//! from one bounded queue ([`pool`]). Whatever a handler does (loop, wait, raise, hoard, answer
//! nonsense), its call ends within its deadline, the others go on, and the answer is a [`Judgement`] of the
//! credentials or a [`MessageJudgement`] of the message.

mod api;
mod cache;
mod convert;
mod counters;
mod hook;
mod message;
mod pool;
mod redact;
mod sources;
mod testing;
mod traps;
mod vm;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gatepost_auth::{Credentials, Judgement};

pub use crate::api::hashes::{HashAlgorithm, HashFault, hash_password};
pub use crate::counters::{Count, PolicyCounters};
pub use crate::message::{MessageJudgement, MessageQuestion};
pub use crate::testing::{TestCase, run_tests};
pub use crate::traps::{Trap, lets_missing_password_in, paths_made_from_user};

use crate::cache::DecisionCache;
use crate::pool::Pool;
use crate::vm::LoadTime;

/// How a policy is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySettings {
    /// The file.
    pub file: PathBuf,
    /// Worker threads, at least one.
    pub workers: usize,
    /// How many calls may wait for a worker.
    pub queue: usize,
    /// Longest time for one call, waiting included.
    pub callback_timeout: Duration,
    /// Memory of one worker's Lua state, in bytes.
    pub memory_limit: usize,
    /// How long accepted credentials are remembered; zero for not at all.
    pub cache_ttl: Duration,
    /// How many accepted credentials are remembered.
    pub cache_capacity: usize,
}

/// A loaded policy. Dropping it lets the workers finish the calls that they are in, and does not wait
/// for them.
pub struct Policy {
    pool: Pool,
    cache: DecisionCache,
    report: LoadReport,
}

/// Shows what was found in the file, and nothing of what is remembered.
impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("pool", &self.pool)
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// What was found while a policy was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LoadReport {
    pub(crate) warnings: Vec<String>,
    pub(crate) handles_basic: bool,
    pub(crate) handles_bearer: bool,
    pub(crate) handles_messages: bool,
}

/// Figures about the workers, as they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyStats {
    /// Workers that take calls.
    pub workers: usize,
    /// Calls that wait for a worker.
    pub queued: usize,
    /// Calls that workers have begun and not ended, those of stuck workers too.
    pub in_flight: usize,
    /// Password hashes that wait for a core, in calls that are in flight.
    pub hashes_waiting: usize,
}

/// Why a policy cannot be used. One line, with file and line of the fault where there is one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: cannot read the policy: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's word on it.
        source: std::io::Error,
    },
    /// Lua does not like it: a syntax error, an error raised while loading, or too much memory used.
    #[error("{0}")]
    Lua(String),
    /// The file did not finish loading in time.
    #[error("{}: the policy did not finish loading within {} s", file.display(), limit.as_secs())]
    TooSlow {
        /// The file.
        file: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// Nothing could ever be judged.
    #[error("{}: the policy registers no handler: it needs kumo.on('http_server_validate_auth_basic', …), kumo.on('http_server_validate_auth_bearer', …) or kumo.on('http_message_generated', …)", file.display())]
    NoHandler {
        /// The file.
        file: PathBuf,
    },
    /// The system gives no randomness.
    #[error("cannot get random bytes for the decision cache")]
    Random,
    /// The system gives no more threads.
    #[error("cannot start a policy worker: {0}")]
    Thread(#[from] std::io::Error),
}

impl Policy {
    /// Compiles and runs the file, checks its handlers and starts the workers. Blocks meanwhile. The
    /// counters go on from one policy to the next.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; nothing is left running then, but for a thread that the file does not let go of.
    pub fn load(
        settings: PolicySettings,
        counters: &Arc<PolicyCounters>,
    ) -> Result<Self, LoadError> {
        Self::load_within(LoadTime::default(), settings, counters)
    }

    fn load_within(
        load_time: LoadTime,
        settings: PolicySettings,
        counters: &Arc<PolicyCounters>,
    ) -> Result<Self, LoadError> {
        let mut key = [0; 64];
        getrandom::fill(&mut key).map_err(|_| LoadError::Random)?;
        let (ttl, capacity) = (settings.cache_ttl, settings.cache_capacity);
        let cache = DecisionCache::new(ttl, capacity, &key, counters.clone());
        let (pool, report) = Pool::start(settings, counters.clone(), load_time)?;
        Ok(Self {
            pool,
            cache,
            report,
        })
    }

    /// What an operator should know: handlers that are missing or registered twice, functions that do
    /// not exist here.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.report.warnings
    }

    /// Whether there is a handler for Basic credentials.
    #[must_use]
    pub fn handles_basic(&self) -> bool {
        self.report.handles_basic
    }

    /// Whether there is a handler for bearer tokens.
    #[must_use]
    pub fn handles_bearer(&self) -> bool {
        self.report.handles_bearer
    }

    /// Whether there is a handler for messages.
    #[must_use]
    pub fn handles_messages(&self) -> bool {
        self.report.handles_messages
    }

    /// Asks the handler for these credentials. Returns within `callback_timeout`, whatever the handler
    /// does. Runs on any tokio runtime with a clock.
    pub async fn judge(&self, credentials: Credentials) -> Judgement {
        let handled = match &credentials {
            Credentials::Basic { .. } => self.report.handles_basic,
            Credentials::Bearer { .. } => self.report.handles_bearer,
        };
        if !handled {
            return Judgement::NoHandler;
        }
        self.cache
            .judge(credentials, |credentials| self.pool.judge(credentials))
            .await
    }

    /// Asks the handler for messages, once for each request: nothing of the answer is remembered. Within
    /// `callback_timeout`, as [`Policy::judge`].
    pub async fn judge_message(&self, asked: MessageQuestion) -> MessageJudgement {
        if !self.report.handles_messages {
            return MessageJudgement::NoHandler;
        }
        self.pool.judge_message(asked).await
    }

    /// Figures about the workers.
    #[must_use]
    pub fn stats(&self) -> PolicyStats {
        self.pool.stats()
    }
}

#[cfg(test)]
mod tests;
