//! From settings to the parts that are started with them, now and at every reload.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use gatepost_config::{DecisionCache, Settings};
use gatepost_policy::{LoadError, Policy, PolicyCounters, PolicySettings};
use gatepost_proxy::{Loaded, Source};

/// A configuration file, to be read as often as it changes.
#[derive(Clone)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    counters: Arc<PolicyCounters>,
}

impl ConfigFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            counters: Arc::default(),
        }
    }

    /// What its policies count, from one to the next.
    pub(crate) fn counters(&self) -> Arc<PolicyCounters> {
        self.counters.clone()
    }

    /// Reads the file. The error lists every fault, a line each.
    pub(crate) fn settings(&self) -> Result<Settings> {
        load(&self.path)
    }

    /// Loads the policies that the configuration names, and logs the warnings about all.
    pub(crate) fn load_policies(&self, settings: Settings) -> Result<Loaded, LoadError> {
        let policy = self.load_policy(&settings)?;
        let shadow = settings.policy.shadow.as_ref().map(|file| {
            let policy = gatepost_config::Policy {
                file: file.clone(),
                ..settings.policy.clone()
            };
            // What it counts is its own, and nobody asks for it.
            load_policy(&policy, settings.decision_cache, &Arc::default())
        });
        let shadow = shadow.transpose()?;
        for warning in shadow.iter().flat_map(Policy::warnings) {
            tracing::warn!("{warning}");
        }
        Ok(Loaded {
            settings,
            policy,
            shadow,
        })
    }

    fn load_policy(&self, settings: &Settings) -> Result<Policy, LoadError> {
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let policy = load_policy(&settings.policy, settings.decision_cache, &self.counters)?;
        for warning in policy.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(policy)
    }
}

impl Source for ConfigFile {
    fn load(&self) -> Result<Loaded, String> {
        let settings = self.settings().map_err(|faults| faults.to_string())?;
        self.load_policies(settings)
            .map_err(|fault| fault.to_string())
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.path.clone()];
        // A configuration that cannot be read names no policy; its own repair will be noticed.
        if let Ok(settings) = self.settings() {
            for file in [Some(settings.policy.file), settings.policy.shadow]
                .into_iter()
                .flatten()
            {
                if let Some(folder) = file.parent() {
                    lua_files(folder, &mut files);
                }
                files.push(file);
            }
            files.extend(settings.files);
        }
        files.sort();
        files.dedup();
        files
    }
}

/// The Lua files beside the policy, which it may `require`. Folders below hold modules too, two levels
/// down at the most; the links by which Kubernetes keeps its versions are left out.
fn lua_files(folder: &Path, files: &mut Vec<PathBuf>) {
    const MOST: usize = 1000;
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let hidden = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden || files.len() >= MOST {
                continue;
            }
            if path.is_dir() {
                if depth < 2 {
                    folders.push((path, depth + 1));
                }
            } else if path.extension().is_some_and(|extension| extension == "lua") {
                files.push(path);
            }
        }
    }
}

/// Reads the configuration. The error lists every fault, a line each.
pub(crate) fn load(config: &Path) -> Result<Settings> {
    gatepost_config::load(config).map_err(|faults| anyhow!("{faults}"))
}

/// Loads a policy.
pub(crate) fn load_policy(
    policy: &gatepost_config::Policy,
    cache: DecisionCache,
    counters: &Arc<PolicyCounters>,
) -> Result<Policy, LoadError> {
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let settings = PolicySettings {
        file: policy.file.clone(),
        workers: policy.workers.map_or_else(cores, NonZeroUsize::get),
        queue: policy.queue,
        callback_timeout: policy.callback_timeout,
        memory_limit: usize::try_from(policy.memory_limit).unwrap_or(usize::MAX),
        cache_ttl: cache.ttl,
        cache_capacity: cache.capacity,
    };
    Policy::load(settings, counters)
}

/// Loads a policy to look at it: one worker, nothing remembered.
pub(crate) fn try_policy(policy: &gatepost_config::Policy) -> Result<Policy, LoadError> {
    let one = gatepost_config::Policy {
        workers: Some(NonZeroUsize::MIN),
        ..policy.clone()
    };
    let off = DecisionCache {
        ttl: Duration::ZERO,
        capacity: 1,
    };
    load_policy(&one, off, &Arc::default())
}
