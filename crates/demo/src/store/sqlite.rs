//! The messages in an `SQLite` file.
//!
//! One table, one row for each message. What the messages of a request share stands in the row of
//! the first of them; the others name that row. Rows are never deleted, so it stays there.
//!
//! Everything here blocks.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::DemoError;
use crate::store::{Batch, Stored, Summary};

/// Marks a file as the demo's, in `SQLite`'s `application_id`: "gpd1". A later layout of the table
/// gets another number.
const APPLICATION_ID: i64 = 0x6770_6431;

/// How long to wait for another process that writes to the file.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

const TABLE: &str = "CREATE TABLE messages (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    time      TEXT NOT NULL,
    sender    TEXT NOT NULL,
    recipient TEXT NOT NULL,
    http_auth TEXT,
    size      INTEGER NOT NULL,
    own       TEXT NOT NULL,
    first     INTEGER,  -- the row with what this request's messages share; null: this one
    common    TEXT      -- what they share; null: in the other row
) STRICT";

/// Opens the file at `path`, or creates it with an empty table.
///
/// # Errors
///
/// When the file cannot be used, or belongs to another program.
pub(crate) fn open(path: PathBuf) -> Result<Connection, DemoError> {
    let opened = Connection::open(&path).and_then(|mut connection| {
        connection.busy_timeout(BUSY_LIMIT)?;
        let ours = claim(&mut connection)?;
        if ours {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
        }
        Ok(ours.then_some(connection))
    });
    match opened {
        Ok(Some(connection)) => Ok(connection),
        Ok(None) => Err(DemoError::ForeignStore { path }),
        Err(source) => Err(DemoError::Store { path, source }),
    }
}

/// Creates the table if the file is new. Whether the file is the demo's.
fn claim(connection: &mut Connection) -> rusqlite::Result<bool> {
    // Two demos that start on the same new file at the same time must not both create the table.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = |sql| transaction.query_row(sql, [], |row| row.get::<_, i64>(0));
    if number("SELECT application_id FROM pragma_application_id")? == APPLICATION_ID {
        return Ok(true);
    }
    if number("SELECT count(*) FROM sqlite_schema")? > 0 {
        return Ok(false);
    }
    transaction.execute_batch(TABLE)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    Ok(true)
}

/// Stores all messages of a batch, or none.
///
/// # Errors
///
/// When the database fails.
pub(crate) fn add(connection: &mut Connection, batch: &Batch) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO messages (time, sender, recipient, http_auth, size, own, first, common)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        let mut first = None;
        for message in &batch.messages {
            let id = insert.insert(params![
                batch.time,
                batch.sender,
                message.recipient,
                batch.http_auth,
                batch.size,
                message.own,
                first,
                first.is_none().then_some(&batch.common),
            ])?;
            first = first.or(Some(id));
        }
    }
    transaction.commit()
}

/// The newest messages, newest first.
///
/// # Errors
///
/// When the database fails.
pub(crate) fn newest(connection: &mut Connection, limit: usize) -> rusqlite::Result<Vec<Summary>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "SELECT id, time, sender, recipient, http_auth, size
             FROM messages ORDER BY id DESC LIMIT ?",
        )?
        .query_map([limit], summary)?
        .collect()
}

/// The message with that number.
///
/// # Errors
///
/// When the database fails.
pub(crate) fn message(connection: &mut Connection, id: i64) -> rusqlite::Result<Option<Stored>> {
    connection
        .prepare_cached(
            "SELECT m.id, m.time, m.sender, m.recipient, m.http_auth, m.size, m.own, f.common
             FROM messages m JOIN messages f ON f.id = coalesce(m.first, m.id)
             WHERE m.id = ?",
        )?
        .query_row([id], |row| {
            Ok(Stored {
                summary: summary(row)?,
                own: row.get(6)?,
                common: row.get(7)?,
            })
        })
        .optional()
}

fn summary(row: &Row<'_>) -> rusqlite::Result<Summary> {
    Ok(Summary {
        id: row.get(0)?,
        time: row.get(1)?,
        sender: row.get(2)?,
        recipient: row.get(3)?,
        http_auth: row.get(4)?,
        size: row.get(5)?,
    })
}
