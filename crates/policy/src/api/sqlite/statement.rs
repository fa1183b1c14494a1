//! One statement: its parameters, its rows, and the words for what went wrong. Runs on a blocking thread, so what goes
//! in and comes out is plain data.

use std::path::PathBuf;

use mlua::{Lua, Value};
use rusqlite::types::{Value as SqlValue, ValueRef};
use rusqlite::{Connection, ErrorCode};

use super::super::bad_argument;

/// What one statement may give. More is a mistake in an authentication handler. A worker's Lua has a memory limit, but
/// what waits to be handed to it has only this one.
const MOST_ROWS: usize = 100_000;
const MOST_BYTES: usize = 16 << 20;

/// Why a statement did not work. Says what `SQLite` says, and never a parameter or a piece of the statement.
#[derive(Debug, thiserror::Error)]
pub(super) enum SqlFault {
    #[error("sqlite: cannot open `{}`: {}", path.display(), cause(source))]
    Open {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("sqlite: {}", cause(.0))]
    Statement(#[from] rusqlite::Error),
    #[error("sqlite: the call is over")]
    GivenUp,
    #[error("sqlite: the connection is closed")]
    Closed,
    #[error(
        "sqlite: {0} connections are open, and no more may be: close some, or open one outside of the handler"
    )]
    TooManyOpen(usize),
    #[error("sqlite: the statement gives more than {MOST_ROWS} rows")]
    TooManyRows,
    #[error("sqlite: the statement gives more than {} MiB", MOST_BYTES >> 20)]
    TooManyBytes,
}

/// `SQLite`'s words without what they repeat of the statement, since a careless handler writes a user name or a
/// password into that: `near "tiger"` and `no such column: tiger` are what becomes of it. Where in the statement the
/// mistake is says as much to its author. Kept are keywords, as in `near "FROM"`, and the names of tables and
/// functions, which are in places where no handler writes a value.
fn cause(fault: &rusqlite::Error) -> String {
    const SCHEMA: [&str; 3] = ["UNIQUE", "NOT NULL", "FOREIGN KEY"];
    if let rusqlite::Error::SqlInputError { msg, offset, .. } = fault {
        return format!("{} at offset {offset} of the statement", spoken(msg));
    }
    let rusqlite::Error::SqliteFailure(error, message) = fault else {
        return fault.to_string();
    };
    let message = message.as_deref().unwrap_or_default();
    // These name columns of the schema. A trigger's own words may say anything.
    let of_schema = |kind| message.starts_with(&format!("{kind} constraint failed"));
    if error.code == ErrorCode::ConstraintViolation && SCHEMA.into_iter().any(of_schema) {
        return message.to_owned();
    }
    if error.code == ErrorCode::Unknown && !message.is_empty() {
        return spoken(message);
    }
    error.to_string()
}

/// The words before anything that is quoted from the statement.
fn spoken(message: &str) -> String {
    const KEYWORDS: [&str; 24] = [
        "AND", "AS", "BY", "DELETE", "FROM", "GROUP", "HAVING", "IN", "INSERT", "INTO", "JOIN",
        "LIMIT", "NOT", "ON", "OR", "ORDER", "SELECT", "SET", "TABLE", "UNION", "UPDATE", "VALUES",
        "WHERE", "WITH",
    ];
    let near = message.strip_prefix("near \"");
    if let Some((token, rest)) = near.and_then(|near| near.rsplit_once("\": ")) {
        if KEYWORDS.contains(&token.to_ascii_uppercase().as_str()) {
            return message.to_owned();
        }
        return spoken(rest);
    }
    let plain = |name: &str| {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "_.".contains(letter);
        name.chars().all(fits)
    };
    if ["no such table: ", "no such function: "]
        .iter()
        .any(|words| message.strip_prefix(words).is_some_and(plain))
    {
        return message.to_owned();
    }
    let words = message
        .split([':', '"', '\'', '`'])
        .next()
        .unwrap_or_default();
    let words = words.trim_end().trim_end_matches(" near");
    if words.is_empty() {
        "the statement is not valid".to_owned()
    } else {
        words.to_owned()
    }
}

pub(super) enum Parameters {
    Positional(Vec<SqlValue>),
    Named(Vec<(String, SqlValue)>),
}

impl Parameters {
    /// Positional parameters, or one table of named ones.
    pub(super) fn from_lua(values: &[Value]) -> mlua::Result<Self> {
        if let [Value::Table(table)] = values {
            let named = table.pairs::<String, Value>().map(|pair| {
                let (name, value) = pair?;
                Ok((name, to_sql(&value)?))
            });
            return Ok(Self::Named(named.collect::<mlua::Result<_>>()?));
        }
        let positional = values.iter().map(to_sql).collect::<mlua::Result<_>>()?;
        Ok(Self::Positional(positional))
    }

    fn bind(&self, statement: &mut rusqlite::Statement<'_>) -> rusqlite::Result<()> {
        match self {
            Self::Positional(values) => {
                // Fewer than the statement has is a mistake that SQLite would take for NULL.
                if values.len() != statement.parameter_count() {
                    let (given, wanted) = (values.len(), statement.parameter_count());
                    return Err(rusqlite::Error::InvalidParameterCount(given, wanted));
                }
                for (index, value) in values.iter().enumerate() {
                    statement.raw_bind_parameter(index + 1, value)?;
                }
            }
            Self::Named(values) => {
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
        Ok(())
    }
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
pub(super) enum Answer {
    Changed(u64),
    Column(Vec<SqlValue>),
    Rows {
        names: Vec<String>,
        rows: Vec<Vec<SqlValue>>,
    },
}

pub(super) fn execute(
    connection: &Connection,
    sql: &str,
    parameters: &Parameters,
) -> Result<Answer, SqlFault> {
    let before = connection.total_changes();
    let mut statement = connection.prepare_cached(sql)?;
    parameters.bind(&mut statement)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    if names.is_empty() {
        statement.raw_execute()?;
        // SQLite's count stays that of the last statement which could change rows, whatever runs after it.
        let changed = connection.total_changes() != before;
        return Ok(Answer::Changed(if changed {
            connection.changes()
        } else {
            0
        }));
    }
    let mut rows = statement.raw_query();
    let (mut taken, mut bytes) = (Vec::new(), 0_usize);
    while let Some(row) = rows.next()? {
        if taken.len() >= MOST_ROWS {
            return Err(SqlFault::TooManyRows);
        }
        bytes = bytes.saturating_add(size_of::<Vec<SqlValue>>());
        let mut values = Vec::with_capacity(names.len());
        for index in 0..names.len() {
            let value = row.get_ref(index)?;
            bytes = bytes.saturating_add(size(value));
            if bytes > MOST_BYTES {
                return Err(SqlFault::TooManyBytes);
            }
            values.push(owned(value));
        }
        taken.push(values);
    }
    Ok(if names.len() == 1 {
        Answer::Column(taken.into_iter().flatten().collect())
    } else {
        Answer::Rows { names, rows: taken }
    })
}

/// What a value takes here: itself, and what it points to.
fn size(value: ValueRef<'_>) -> usize {
    let beside = match value {
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
    };
    size_of::<SqlValue>().saturating_add(beside)
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

impl Answer {
    pub(super) fn into_lua(self, lua: &Lua) -> mlua::Result<Value> {
        match self {
            Self::Changed(count) => Ok(Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))),
            Self::Column(values) => {
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
            Self::Rows { names, rows } => {
                let list = lua.create_table()?;
                let names = names.iter().map(|name| lua.create_string(name));
                let names = names.collect::<mlua::Result<Vec<_>>>()?;
                for row in rows {
                    let table = lua.create_table()?;
                    for (name, value) in names.iter().zip(row) {
                        table.set(name, value_to_lua(lua, value)?)?;
                    }
                    list.push(table)?;
                }
                Ok(Value::Table(list))
            }
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
