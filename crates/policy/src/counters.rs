//! What happened since the process began. Counters outlive the policy that they are about, so a reload does
//! not set them back.

use std::sync::atomic::{AtomicU64, Ordering};

/// Every counter of the policy host.
#[derive(Debug, Default)]
pub struct PolicyCounters {
    /// Credentials that were found in the decision cache.
    pub cache_hits: Count,
    /// Credentials that were not.
    pub cache_misses: Count,
    /// Entries of the decision cache that had to make room for others.
    pub cache_evictions: Count,
    /// Workers given up because a call did not let go of them.
    pub abandoned_workers: Count,
    /// Lua states replaced because a call had spoilt them.
    pub replaced_states: Count,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
