//! The module `sqlite`, as `KumoMTA` has it.
//!
//! `SQLite` blocks, so statements run on blocking threads, a bounded number at once for all workers. What waits for
//! its connection or for a busy database waits without such a thread, so one stuck database does not keep the others
//! waiting. A call that is given up interrupts its statement: a slow query does not go on for nobody.

mod statement;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use mlua::{Lua, MultiValue, Table, UserData, UserDataMethods, Value};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::statement::{Parameters, SqlFault, execute};
use super::{Host, resolve, text};

/// Statements that run at once.
const AT_ONCE: usize = 16;

/// Of these, those of one database file. The rest is for the others where this one is stuck: on a lock, or on a disk
/// that does not answer.
const AT_ONCE_IN_ONE: usize = AT_ONCE / 2;

/// Connections that are open at once, for all workers. Each is a file or two and up to 2 MB of pages.
const MOST_OPEN: usize = 128;

/// How often `SQLite` looks whether anybody still waits, in instructions of its own: some tens of microseconds.
const INSTRUCTIONS: i32 = 1000;

const BUSY_TIMEOUT_MS: i64 = 500;

/// The turns of one database file.
type Turns = Arc<Semaphore>;

/// What the databases of a policy may use, for all workers together. Clones are the same thing.
#[derive(Debug, Clone)]
pub(crate) struct DatabasePool {
    threads: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// The turns of each file that is open. Gone with its last connection.
    files: Arc<Mutex<HashMap<PathBuf, Weak<Semaphore>>>>,
    /// One for each Lua state, which keeps the other reference.
    states: Arc<Mutex<Vec<Weak<()>>>>,
}

impl Default for DatabasePool {
    fn default() -> Self {
        Self {
            threads: Arc::new(Semaphore::new(AT_ONCE)),
            connections: Arc::new(Semaphore::new(MOST_OPEN)),
            files: Arc::default(),
            states: Arc::default(),
        }
    }
}

impl DatabasePool {
    /// Does the work on a blocking thread, once the database has a turn for it.
    async fn run<T: Send + 'static>(
        &self,
        turns: Option<Turns>,
        work: impl FnOnce() -> Result<T, SqlFault> + Send + 'static,
    ) -> mlua::Result<T> {
        // In this order: who waits for the database keeps no thread from the others.
        let turn = match turns {
            Some(turns) => Some(turns.acquire_owned().await.map_err(mlua::Error::external)?),
            None => None,
        };
        let thread = self.threads.clone().acquire_owned().await;
        let thread = thread.map_err(mlua::Error::external)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((turn, thread));
            done
        });
        done.await
            .map_err(mlua::Error::external)?
            .map_err(|fault| raise(&fault))
    }

    /// The turns of a database; one in memory has a single connection and needs none.
    fn turns(&self, path: &Path) -> Option<Turns> {
        if path.as_os_str() == ":memory:" {
            return None;
        }
        let mut files = lock(&self.files);
        files.retain(|_, turns| turns.strong_count() > 0);
        if let Some(turns) = files.get(path).and_then(Weak::upgrade) {
            return Some(turns);
        }
        let turns = Arc::new(Semaphore::new(AT_ONCE_IN_ONE));
        files.insert(path.to_owned(), Arc::downgrade(&turns));
        Some(turns)
    }

    fn states(&self) -> usize {
        let mut states = lock(&self.states);
        states.retain(|state| state.strong_count() > 0);
        states.len().max(1)
    }
}

/// The connections of one Lua state.
struct State {
    pool: DatabasePool,
    /// Opened since Lua last collected.
    opened: Cell<usize>,
    _counted: Arc<()>,
}

impl State {
    fn new(pool: DatabasePool) -> Self {
        let counted = Arc::new(());
        lock(&pool.states).push(Arc::downgrade(&counted));
        Self {
            pool,
            opened: Cell::new(0),
            _counted: counted,
        }
    }

    /// A place among the connections. Policies open one for each call and leave it to Lua to close it, which knows
    /// nothing of files and is in no hurry, so it is told to: when there is no place, and often enough that what the
    /// other states have yet to collect cannot take every place from this one.
    fn place(&self, lua: &Lua) -> mlua::Result<OwnedSemaphorePermit> {
        let share = (MOST_OPEN / self.pool.states()).max(1);
        if self.opened.get() >= share || self.pool.connections.available_permits() == 0 {
            lua.gc_collect()?;
            self.opened.set(0);
        }
        let place = self.pool.connections.clone().try_acquire_owned();
        let place = place.map_err(|_| raise(&SqlFault::TooManyOpen(MOST_OPEN)))?;
        self.opened.set(self.opened.get() + 1);
        Ok(place)
    }
}

fn raise(fault: &SqlFault) -> mlua::Error {
    mlua::Error::runtime(fault.to_string())
}

pub(super) fn module(lua: &Lua, host: &Host<'_>) -> mlua::Result<Table> {
    let module = lua.create_table()?;
    let folder = host.folder.to_owned();
    let state = Rc::new(State::new(host.common.databases.clone()));
    module.set(
        "open",
        lua.create_async_function(move |lua, (path, busy): (Value, Option<i64>)| {
            let (folder, state) = (folder.clone(), state.clone());
            async move {
                let path = text(&path, 1, "sqlite.open")?.to_owned();
                let path = if path == ":memory:" {
                    PathBuf::from(path)
                } else {
                    resolve(&folder, &path)
                };
                let busy = u64::try_from(busy.unwrap_or(BUSY_TIMEOUT_MS)).unwrap_or(0);
                let (place, pool) = (state.place(&lua)?, state.pool.clone());
                let turns = pool.turns(&path);
                let its = turns.clone();
                let work = move || {
                    Ok(Opened {
                        connection: open(path, Duration::from_millis(busy))?,
                        turns: its,
                        _place: place,
                    })
                };
                let opened = pool.run(turns, work).await?;
                Ok(Database {
                    connection: Arc::new(tokio::sync::Mutex::new(Some(opened))),
                    pool,
                })
            }
        })?,
    )?;
    Ok(module)
}

fn open(path: PathBuf, busy: Duration) -> Result<Connection, SqlFault> {
    let opened = Connection::open(&path).and_then(|connection| {
        connection.busy_timeout(busy)?;
        Ok(connection)
    });
    opened.map_err(|source| SqlFault::Open { path, source })
}

/// A connection and its place, which is free once the connection is closed.
struct Opened {
    connection: Connection,
    turns: Option<Turns>,
    _place: OwnedSemaphorePermit,
}

impl Opened {
    /// What its next statement has to wait for. Nothing within a transaction: those who have the turns may be waiting
    /// for its end.
    fn turns(&self) -> Option<Turns> {
        let turns = self.turns.as_ref();
        turns.filter(|_| self.connection.is_autocommit()).cloned()
    }
}

struct Database {
    /// `None` once it is closed. Waited for without a thread, and held by one statement at a time.
    connection: Arc<tokio::sync::Mutex<Option<Opened>>>,
    pool: DatabasePool,
}

impl UserData for Database {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_async_method("execute", async |lua, this, arguments: MultiValue| {
            let mut arguments = arguments.into_iter();
            let sql = arguments.next().unwrap_or(Value::Nil);
            let sql = text(&sql, 1, "execute")?.to_owned();
            let parameters = Parameters::from_lua(&arguments.collect::<Vec<_>>())?;
            let (connection, pool) = (this.connection.clone(), this.pool.clone());
            drop(this);
            let mut connection = connection.lock_owned().await;
            let turns = connection.as_ref().and_then(Opened::turns);
            let given_up = Arc::<AtomicBool>::default();
            let _on_drop = GiveUpOnDrop(given_up.clone());
            let work = move || {
                let opened = connection.as_mut().ok_or(SqlFault::Closed)?;
                run(&mut opened.connection, &given_up, &sql, &parameters)
            };
            pool.run(turns, work).await?.into_lua(&lua)
        });
        methods.add_async_method("close", async |_, this, ()| {
            let connection = this.connection.clone();
            let pool = this.pool.clone();
            drop(this);
            let mut connection = connection.lock_owned().await;
            let Some(opened) = connection.take() else {
                return Ok(());
            };
            let turns = opened.turns();
            let work = move || {
                drop(opened);
                Ok(())
            };
            pool.run(turns, work).await
        });
    }
}

/// Says that nobody waits any more. It is a flag of the one statement, not `SQLite`'s interrupt of the connection, which
/// would hit whatever runs there by then, and is lost where the statement has yet to begin.
struct GiveUpOnDrop(Arc<AtomicBool>);

impl Drop for GiveUpOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(
    connection: &mut Connection,
    given_up: &Arc<AtomicBool>,
    sql: &str,
    parameters: &Parameters,
) -> Result<statement::Answer, SqlFault> {
    if given_up.load(Ordering::Relaxed) {
        return Err(SqlFault::GivenUp);
    }
    let stop = given_up.clone();
    connection.progress_handler(INSTRUCTIONS, Some(move || stop.load(Ordering::Relaxed)))?;
    let answer = execute(connection, sql, parameters);
    connection.progress_handler(0, None::<fn() -> bool>)?;
    answer
}

#[cfg(test)]
mod tests;
