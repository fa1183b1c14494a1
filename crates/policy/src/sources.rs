//! The policy's source files as they were when it was loaded.
//!
//! Workers are replaced while requests go on, and each runs the policy's files anew. The files may have
//! changed by then: half-written, or refused by a reload. What was accepted is what runs.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Clones are the same thing; it lives as long as its policy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources(Arc<Mutex<HashMap<PathBuf, Arc<[u8]>>>>);

impl Sources {
    /// The content of a file at the first time that it was read.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Arc<[u8]>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = known.get(path) {
            return Ok(text.clone());
        }
        let text: Arc<[u8]> = std::fs::read(path)?.into();
        known.insert(path.to_owned(), text.clone());
        Ok(text)
    }
}
