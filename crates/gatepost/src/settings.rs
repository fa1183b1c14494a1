//! From settings to the parts that are started with them.

use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;

use anyhow::{Result, anyhow};
use gatepost_config::Settings;
use gatepost_policy::{LoadError, Policy, PolicySettings};

/// Reads the configuration. The error lists every fault, a line each.
pub(crate) fn load(config: &Path) -> Result<Settings> {
    gatepost_config::load(config).map_err(|faults| anyhow!("{faults}"))
}

/// Loads the policy that the configuration names.
pub(crate) fn load_policy(policy: &gatepost_config::Policy) -> Result<Policy, LoadError> {
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Policy::load(PolicySettings {
        file: policy.file.clone(),
        workers: policy.workers.map_or_else(cores, NonZeroUsize::get),
        queue: policy.queue,
        callback_timeout: policy.callback_timeout,
        memory_limit: usize::try_from(policy.memory_limit).unwrap_or(usize::MAX),
    })
}
