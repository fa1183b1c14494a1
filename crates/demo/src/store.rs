//! Keeps the messages, in memory or in a file.
//!
//! What all messages of a request share (its content above all) is stored once, so a request with a
//! thousand recipients does not take a thousand times its size. Both stores keep the parts of a
//! message as JSON text: its length is its size, which is what bounds the memory.

mod memory;
mod sqlite;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use serde::Serialize;
use serde_json::Value;

use crate::DemoError;
use crate::prepare::{Common, Own};
use crate::store::memory::Memory;

/// The messages of one request, to be stored.
#[derive(Debug)]
pub(crate) struct Batch {
    /// When the request came.
    pub(crate) time: String,
    /// The envelope sender.
    pub(crate) sender: String,
    /// Who injected them.
    pub(crate) http_auth: Option<String>,
    /// The content's length in bytes, before it was cut.
    pub(crate) size: i64,
    /// A [`Common`] as JSON.
    pub(crate) common: String,
    /// One for each recipient.
    pub(crate) messages: Vec<Addressed>,
}

/// What one message of a [`Batch`] has of its own.
#[derive(Debug)]
pub(crate) struct Addressed {
    /// The recipient's address.
    pub(crate) recipient: String,
    /// An [`Own`] as JSON.
    pub(crate) own: String,
}

/// A message in a list.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Its number. Later messages have higher ones.
    pub(crate) id: i64,
    /// When it came, RFC 3339 in UTC.
    pub(crate) time: String,
    /// The envelope sender.
    pub(crate) sender: String,
    /// The recipient's address.
    pub(crate) recipient: String,
    /// Who injected it.
    pub(crate) http_auth: Option<String>,
    /// The content's length in bytes, before it was cut.
    pub(crate) size: i64,
}

/// A whole message.
#[derive(Debug, Serialize)]
pub(crate) struct Message {
    /// What a list shows of it.
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// What it has of its own.
    #[serde(flatten)]
    pub(crate) own: Own,
    /// What it shares with the other messages of its request.
    #[serde(flatten)]
    pub(crate) common: Common<Value>,
}

/// A message as it is stored.
#[derive(Debug)]
pub(crate) struct Stored {
    /// What a list shows of it.
    pub(crate) summary: Summary,
    /// An [`Own`] as JSON.
    pub(crate) own: String,
    /// A [`Common`] as JSON.
    pub(crate) common: String,
}

/// Why a message cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// `SQLite` failed.
    #[error("the database failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// What is stored is not what was stored.
    #[error("a stored message cannot be read: {0}")]
    Damaged(#[from] serde_json::Error),
    /// The task ended before its time.
    #[error("the task that uses the database ended")]
    Task(#[from] tokio::task::JoinError),
}

/// The messages. A clone is the same store.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    /// In memory, bounded, gone when the process ends.
    Memory(Arc<Mutex<Memory>>),
    /// In a file, bounded by the disk.
    File(Arc<Mutex<Connection>>),
}

impl Store {
    /// An empty store in memory.
    pub(crate) fn in_memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// The store in the file at `path`.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, or belongs to another program.
    pub(crate) fn in_file(path: PathBuf) -> Result<Self, DemoError> {
        let connection = sqlite::open(path)?;
        Ok(Self::File(Arc::new(Mutex::new(connection))))
    }

    /// Stores all messages of a batch, or none.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub(crate) async fn add(&self, batch: Batch) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => {
                lock(memory).add(batch);
                Ok(())
            }
            Self::File(file) => blocking(file, move |file| sqlite::add(file, &batch)).await,
        }
    }

    /// The newest messages, newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub(crate) async fn newest(&self, limit: usize) -> Result<Vec<Summary>, StoreError> {
        match self {
            Self::Memory(memory) => Ok(lock(memory).newest(limit)),
            Self::File(file) => blocking(file, move |file| sqlite::newest(file, limit)).await,
        }
    }

    /// The message with that number, if there is one.
    ///
    /// # Errors
    ///
    /// When the database fails, or somebody else changed what it holds.
    pub(crate) async fn message(&self, id: i64) -> Result<Option<Message>, StoreError> {
        let stored = match self {
            Self::Memory(memory) => lock(memory).message(id),
            Self::File(file) => blocking(file, move |file| sqlite::message(file, id)).await?,
        };
        stored.map(Message::read).transpose()
    }
}

impl Message {
    fn read(stored: Stored) -> Result<Self, StoreError> {
        Ok(Self {
            summary: stored.summary,
            own: serde_json::from_str(&stored.own)?,
            common: serde_json::from_str(&stored.common)?,
        })
    }
}

/// Uses the database on a thread that may block.
async fn blocking<T: Send + 'static>(
    file: &Arc<Mutex<Connection>>,
    work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let file = Arc::clone(file);
    Ok(tokio::task::spawn_blocking(move || work(&mut lock(&file))).await??)
}

/// A panic while the lock was held leaves either store whole: the database rolls back, and the
/// memory's messages are complete before they are added.
fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
