//! The module `sqlite`, as `KumoMTA` has it.
//!
//! `SQLite` blocks, so statements run on blocking threads, a bounded number at once for all workers. A call
//! that is given up interrupts its statement: a slow query does not go on for nobody.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mlua::{Lua, MultiValue, Table, UserData, UserDataMethods, Value};
use rusqlite::types::{Value as SqlValue, ValueRef};
use rusqlite::{Connection, InterruptHandle};
use tokio::sync::Semaphore;

use super::{Host, bad_argument, resolve, text};

/// Statements that run at once.
const AT_ONCE: usize = 16;

/// Rows that one statement may give. More is a mistake in an authentication handler.
const MOST_ROWS: usize = 100_000;

const BUSY_TIMEOUT_MS: i64 = 500;

/// The blocking threads that databases may use, for all workers together.
#[derive(Debug, Clone)]
pub(crate) struct DatabasePool(Arc<Semaphore>);

impl Default for DatabasePool {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl DatabasePool {
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SqlFault> + Send + 'static,
    ) -> mlua::Result<T> {
        let place = self
            .0
            .clone()
            .acquire_owned()
            .await
            .map_err(mlua::Error::external)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        done.await
            .map_err(mlua::Error::external)?
            .map_err(|fault| mlua::Error::runtime(fault.to_string()))
    }
}

/// Why a statement did not work. Says what `SQLite` says, and never a parameter.
#[derive(Debug, thiserror::Error)]
enum SqlFault {
    #[error("sqlite: cannot open `{}`: {source}", path.display())]
    Open {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("sqlite: {0}")]
    Statement(#[from] rusqlite::Error),
    #[error("sqlite: the call is over")]
    GivenUp,
    #[error("sqlite: the connection is closed")]
    Closed,
    #[error("sqlite: the statement gives more than {MOST_ROWS} rows")]
    TooManyRows,
}

pub(super) fn module(lua: &Lua, host: &Host<'_>) -> mlua::Result<Table> {
    let module = lua.create_table()?;
    let (folder, pool) = (host.folder.to_owned(), host.common.databases.clone());
    module.set(
        "open",
        lua.create_async_function(move |_, (path, busy): (Value, Option<i64>)| {
            let (folder, pool) = (folder.clone(), pool.clone());
            async move {
                let path = text(&path, 1, "sqlite.open")?.to_owned();
                let path = if path == ":memory:" {
                    PathBuf::from(path)
                } else {
                    resolve(&folder, &path)
                };
                let busy = u64::try_from(busy.unwrap_or(BUSY_TIMEOUT_MS)).unwrap_or(0);
                let connection = pool
                    .run(move || open(path, Duration::from_millis(busy)))
                    .await?;
                let interrupt = Arc::new(connection.get_interrupt_handle());
                Ok(Database {
                    connection: Arc::new(Mutex::new(Some(connection))),
                    interrupt,
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

struct Database {
    /// `None` once it is closed.
    connection: Arc<Mutex<Option<Connection>>>,
    interrupt: Arc<InterruptHandle>,
    pool: DatabasePool,
}

impl UserData for Database {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_async_method("execute", async |lua, this, arguments: MultiValue| {
            let mut arguments = arguments.into_iter();
            let sql = arguments.next().unwrap_or(Value::Nil);
            let sql = text(&sql, 1, "execute")?.to_owned();
            let parameters = parameters(&arguments.collect::<Vec<_>>())?;
            let (connection, interrupt) = (this.connection.clone(), this.interrupt.clone());
            let pool = this.pool.clone();
            drop(this);
            let stage = Arc::new(Mutex::new(Stage::Waiting));
            let _given_up = GiveUpOnDrop {
                stage: stage.clone(),
                interrupt,
            };
            let answer = pool
                .run(move || run(&connection, &stage, &sql, &parameters))
                .await;
            to_lua(&lua, answer?)
        });
        methods.add_async_method("close", async |_, this, ()| {
            let connection = this.connection.clone();
            let pool = this.pool.clone();
            drop(this);
            pool.run(move || {
                lock(&connection).take();
                Ok(())
            })
            .await
        });
    }
}

/// How far a statement is. It has its connection to itself exactly while it is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Running,
    Over,
}

/// Stops the statement where the call that asked for it is gone, and no other one: an interrupt is for whatever its
/// connection runs.
struct GiveUpOnDrop {
    stage: Arc<Mutex<Stage>>,
    interrupt: Arc<InterruptHandle>,
}

impl Drop for GiveUpOnDrop {
    fn drop(&mut self) {
        // Held over the interrupt, so that the next statement cannot begin before it.
        let mut stage = lock(&self.stage);
        if *stage == Stage::Running {
            self.interrupt.interrupt();
        } else {
            *stage = Stage::Over;
        }
    }
}

enum Parameters {
    Positional(Vec<SqlValue>),
    Named(Vec<(String, SqlValue)>),
}

/// Positional parameters, or one table of named ones.
fn parameters(values: &[Value]) -> mlua::Result<Parameters> {
    if let [Value::Table(table)] = values {
        let named = table.pairs::<String, Value>().map(|pair| {
            let (name, value) = pair?;
            Ok((name, to_sql(&value)?))
        });
        return Ok(Parameters::Named(named.collect::<mlua::Result<_>>()?));
    }
    let positional = values.iter().map(to_sql).collect::<mlua::Result<_>>()?;
    Ok(Parameters::Positional(positional))
}

fn to_sql(value: &Value) -> mlua::Result<SqlValue> {
    if value.is_nil() {
        return Ok(SqlValue::Null);
    }
    if let Value::Boolean(truth) = value {
        return Ok(SqlValue::Integer(i64::from(*truth)));
    }
    if let Value::Integer(number) = value {
        return Ok(SqlValue::Integer(*number));
    }
    if let Value::Number(number) = value {
        return Ok(SqlValue::Real(*number));
    }
    if let Value::String(string) = value {
        return Ok(match string.to_str() {
            Ok(text) => SqlValue::Text(text.to_owned()),
            Err(_) => SqlValue::Blob(string.as_bytes().to_vec()),
        });
    }
    Err(bad_argument(
        2,
        "execute",
        "nil, boolean, number or string",
        value,
    ))
}

/// What a statement gave.
enum Answer {
    Changed(usize),
    Column(Vec<SqlValue>),
    Rows(Vec<Vec<(String, SqlValue)>>),
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(
    connection: &Mutex<Option<Connection>>,
    stage: &Mutex<Stage>,
    sql: &str,
    parameters: &Parameters,
) -> Result<Answer, SqlFault> {
    let guard = lock(connection);
    let connection = guard.as_ref().ok_or(SqlFault::Closed)?;
    {
        let mut stage = lock(stage);
        if *stage == Stage::Over {
            return Err(SqlFault::GivenUp);
        }
        *stage = Stage::Running;
    }
    let answer = execute(connection, sql, parameters);
    *lock(stage) = Stage::Over;
    answer
}

fn execute(
    connection: &Connection,
    sql: &str,
    parameters: &Parameters,
) -> Result<Answer, SqlFault> {
    let mut statement = connection.prepare_cached(sql)?;
    match parameters {
        Parameters::Positional(values) => {
            // Fewer than the statement has is a mistake that SQLite would take for NULL.
            if values.len() != statement.parameter_count() {
                let (given, wanted) = (values.len(), statement.parameter_count());
                return Err(rusqlite::Error::InvalidParameterCount(given, wanted).into());
            }
            for (index, value) in values.iter().enumerate() {
                statement.raw_bind_parameter(index + 1, value)?;
            }
        }
        Parameters::Named(values) => {
            for (name, value) in values {
                let index = [":", "@", "$"]
                    .iter()
                    .find_map(|sign| {
                        statement
                            .parameter_index(&format!("{sign}{name}"))
                            .ok()
                            .flatten()
                    })
                    .ok_or_else(|| rusqlite::Error::InvalidParameterName(name.clone()))?;
                statement.raw_bind_parameter(index, value)?;
            }
        }
    }
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    if names.is_empty() {
        return Ok(Answer::Changed(statement.raw_execute()?));
    }
    let mut rows = statement.raw_query();
    let (mut column, mut table) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        if column.len() + table.len() >= MOST_ROWS {
            return Err(SqlFault::TooManyRows);
        }
        if names.len() == 1 {
            column.push(owned(row.get_ref(0)?));
        } else {
            let row = names
                .iter()
                .enumerate()
                .map(|(index, name)| Ok((name.clone(), owned(row.get_ref(index)?))));
            table.push(row.collect::<rusqlite::Result<Vec<_>>>()?);
        }
    }
    Ok(if names.len() == 1 {
        Answer::Column(column)
    } else {
        Answer::Rows(table)
    })
}

fn owned(value: ValueRef<'_>) -> SqlValue {
    match value {
        ValueRef::Null => SqlValue::Null,
        ValueRef::Integer(number) => SqlValue::Integer(number),
        ValueRef::Real(number) => SqlValue::Real(number),
        ValueRef::Text(text) => SqlValue::Blob(text.to_vec()),
        ValueRef::Blob(blob) => SqlValue::Blob(blob.to_vec()),
    }
}

fn to_lua(lua: &Lua, answer: Answer) -> mlua::Result<Value> {
    match answer {
        Answer::Changed(count) => Ok(Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))),
        Answer::Column(values) => {
            let list = lua.create_table()?;
            // NULL is nil, which a list cannot hold; it is left out.
            for value in values {
                let value = value_to_lua(lua, value)?;
                if !value.is_nil() {
                    list.push(value)?;
                }
            }
            Ok(Value::Table(list))
        }
        Answer::Rows(rows) => {
            let list = lua.create_table()?;
            for row in rows {
                let table = lua.create_table()?;
                for (name, value) in row {
                    table.set(name, value_to_lua(lua, value)?)?;
                }
                list.push(table)?;
            }
            Ok(Value::Table(list))
        }
    }
}

fn value_to_lua(lua: &Lua, value: SqlValue) -> mlua::Result<Value> {
    Ok(match value {
        SqlValue::Null => Value::Nil,
        SqlValue::Integer(number) => Value::Integer(number),
        SqlValue::Real(number) => Value::Number(number),
        SqlValue::Text(text) => Value::String(lua.create_string(text)?),
        SqlValue::Blob(blob) => Value::String(lua.create_string(blob)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::check_body;

    /// The attack: calls that are given up while another one's statement has the connection they wait for.
    #[test]
    fn a_call_that_is_given_up_stops_its_own_statement_alone() {
        let connection = Connection::open_in_memory().unwrap();
        let interrupt = Arc::new(connection.get_interrupt_handle());
        let connection = Mutex::new(Some(connection));
        let count = |stage: &Mutex<Stage>, rows: u32| {
            let sql = format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT count(*) FROM n"
            );
            run(
                &connection,
                stage,
                &sql,
                &Parameters::Positional(Vec::new()),
            )
        };
        let call = || GiveUpOnDrop {
            stage: Arc::new(Mutex::new(Stage::Waiting)),
            interrupt: interrupt.clone(),
        };
        let (running, waiting, endless) = (call(), call(), call());
        let own = waiting.stage.clone();
        std::thread::scope(|scope| {
            let counting = scope.spawn(|| count(&running.stage, 1_000_000));
            while *lock(&running.stage) == Stage::Waiting {
                std::thread::yield_now();
            }
            drop(waiting);
            assert!(counting.join().unwrap().is_ok());
        });
        assert!(matches!(count(&own, 1), Err(SqlFault::GivenUp)));
        let own = endless.stage.clone();
        std::thread::scope(|scope| {
            let counting = scope.spawn(|| count(&own, u32::MAX));
            while *lock(&own) == Stage::Waiting {
                std::thread::yield_now();
            }
            drop(endless);
            assert!(matches!(
                counting.join().unwrap(),
                Err(SqlFault::Statement(_))
            ));
        });
        assert!(count(&running.stage, 1).is_err(), "a call runs once");
        assert!(count(&call().stage, 1).is_ok());
    }

    /// A database in the policy's folder.
    const OPEN: &str = "local sqlite = require 'sqlite'
        local db = sqlite.open 'x.db'
        db:execute 'CREATE TABLE IF NOT EXISTS t (name TEXT, n INTEGER)'
        db:execute('DELETE FROM t')
        db:execute('INSERT INTO t VALUES (?, ?)', 'a', 1)
        db:execute('INSERT INTO t VALUES (:name, @n)', { name = 'b', n = 2 })\n";

    #[test]
    fn statements_give_what_they_say() {
        for body in [
            "local r = db:execute 'SELECT name FROM t ORDER BY n' return #r == 2 and r[1] == 'a' and r[2] == 'b'",
            "local r = db:execute 'SELECT * FROM t ORDER BY n' return #r == 2 and r[2].name == 'b' and r[2].n == 2",
            "local r = db:execute('SELECT * FROM t WHERE name = ?', 'c') return #r == 0",
            "local r = db:execute('SELECT name FROM t WHERE name = ?', 'c') return #r == 0 and r[1] == nil",
            "return db:execute('UPDATE t SET n = n + 1') == 2",
            "local r = db:execute('SELECT ?, ?', 1.5, true) return r[1]['?'] ~= 0",
            "local r = db:execute('SELECT ? AS x', 'jürgen\\0\\xff') return r[1] == 'jürgen\\0\\xff'",
            "local r = db:execute('SELECT ? AS a, ? AS b', nil, 'x') return r[1].a == nil and r[1].b == 'x'",
            "local r = db:execute(\"SELECT name FROM t WHERE name = ?\", \"' OR 1=1 --\") return #r == 0",
        ] {
            check_body(&format!("{OPEN}{body}"));
        }
    }

    #[test]
    fn mistakes_raise_and_say_what_is_wrong_but_no_parameter() {
        for (call, words) in [
            ("db:execute 'SELEKT 1'", "syntax error"),
            ("db:execute 'SELECT * FROM absent'", "no such table: absent"),
            ("db:execute('SELECT ?', 'hidden', 'hidden')", "parameter"),
            ("db:execute 'SELECT ?'", "parameter"),
            ("db:execute('SELECT :a', { b = 'hidden' })", "parameter"),
            (
                "db:execute('SELECT ?', print)",
                "bad argument #2 to 'execute'",
            ),
            ("db:execute()", "bad argument #1 to 'execute'"),
            ("db:close() db:execute 'SELECT 1'", "closed"),
            ("sqlite.open()", "bad argument #1 to 'sqlite.open'"),
            ("sqlite.open '/nonexistent/x.db'", "cannot open"),
            (
                "sqlite.open('compiled.lua'):execute 'CREATE TABLE t (x)'",
                "not a database",
            ),
        ] {
            check_body(&format!(
                "{OPEN}local ok, fault = pcall(function() {call} end) fault = tostring(fault)
                 return not ok and fault:find([[{words}]], 1, true) ~= nil and not fault:find 'hidden' or error(fault)"
            ));
        }
    }

    #[test]
    fn a_locked_database_is_an_error_in_time() {
        check_body(&format!(
            "{OPEN}db:execute 'BEGIN EXCLUSIVE'
             local begin = os.time()
             local ok, fault = pcall(function() sqlite.open('x.db', 50):execute 'SELECT * FROM t' end)
             db:execute 'COMMIT'
             return not ok and tostring(fault):find 'locked' ~= nil and os.time() - begin < 3"
        ));
    }
}
