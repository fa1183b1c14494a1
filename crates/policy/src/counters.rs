//! What happened since the process began, and how many of something there are now.
//!
//! Counters outlive the policy that they are about, so a reload does not set them back. Gauges go with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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

/// How many of something there are now. Clones are the same thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    /// One more, for as long as the result lives.
    pub(crate) fn one(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    pub(crate) fn value(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One that is counted, also where it is given up in the middle.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
