//! Lua values as plain data, which may leave their Lua state: from one worker to another, or into a cache.

use mlua::{Lua, Value};

/// Deeper tables are most likely cyclic.
const DEEPEST: usize = 32;

/// A value without functions, coroutines or anything else that belongs to one Lua state.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Plain {
    Nil,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    String(Vec<u8>),
    Table(Vec<(Plain, Plain)>),
}

impl Plain {
    /// `None` where the value is no plain data, or is nested too deeply.
    pub(super) fn from_lua(value: &Value) -> Option<Self> {
        Self::at_depth(value, 0)
    }

    fn at_depth(value: &Value, depth: usize) -> Option<Self> {
        if depth > DEEPEST {
            return None;
        }
        if value.is_nil() {
            return Some(Self::Nil);
        }
        if let Value::Boolean(truth) = value {
            return Some(Self::Boolean(*truth));
        }
        if let Value::Integer(number) = value {
            return Some(Self::Integer(*number));
        }
        if let Value::Number(number) = value {
            return Some(Self::Number(*number));
        }
        if let Value::String(string) = value {
            return Some(Self::String(string.as_bytes().to_vec()));
        }
        let Value::Table(table) = value else {
            return None;
        };
        let mut entries = Vec::new();
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair.ok()?;
            entries.push((
                Self::at_depth(&key, depth + 1)?,
                Self::at_depth(&value, depth + 1)?,
            ));
        }
        Some(Self::Table(entries))
    }

    /// A fresh value of the state: who changes a table that was remembered changes only a copy.
    pub(super) fn to_lua(&self, lua: &Lua) -> mlua::Result<Value> {
        Ok(match self {
            Self::Nil => Value::Nil,
            Self::Boolean(truth) => Value::Boolean(*truth),
            Self::Integer(number) => Value::Integer(*number),
            Self::Number(number) => Value::Number(*number),
            Self::String(bytes) => Value::String(lua.create_string(bytes)?),
            Self::Table(entries) => {
                let table = lua.create_table()?;
                for (key, value) in entries {
                    table.raw_set(key.to_lua(lua)?, value.to_lua(lua)?)?;
                }
                Value::Table(table)
            }
        })
    }

    /// The bytes that it takes here, about.
    pub(super) fn size(&self) -> usize {
        let beside = match self {
            Self::Nil | Self::Boolean(_) | Self::Integer(_) | Self::Number(_) => 0,
            Self::String(bytes) => bytes.len(),
            Self::Table(entries) => entries
                .iter()
                .map(|(key, value)| key.size() + value.size())
                .sum(),
        };
        size_of::<Self>() + beside
    }

    /// Writes the value so that no two values read alike: its kind, its length, itself.
    pub(super) fn write(&self, to: &mut dyn FnMut(&[u8])) {
        match self {
            Self::Nil => to(b"0"),
            Self::Boolean(truth) => to(if *truth { b"t" } else { b"f" }),
            Self::Integer(number) => {
                to(b"i");
                to(&number.to_be_bytes());
            }
            Self::Number(number) => {
                to(b"n");
                to(&number.to_bits().to_be_bytes());
            }
            Self::String(bytes) => {
                to(b"s");
                to(&length(bytes.len()));
                to(bytes);
            }
            Self::Table(entries) => {
                // The order of a table's keys says nothing, so they are sorted by how they are written.
                let mut written: Vec<Vec<u8>> = entries
                    .iter()
                    .map(|(key, value)| {
                        let mut one = Vec::new();
                        key.write(&mut |bytes| one.extend_from_slice(bytes));
                        value.write(&mut |bytes| one.extend_from_slice(bytes));
                        one
                    })
                    .collect();
                written.sort_unstable();
                to(b"{");
                to(&length(written.len()));
                for one in written {
                    to(&one);
                }
            }
        }
    }
}

fn length(length: usize) -> [u8; 8] {
    u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes()
}
