//! What a policy can call: the sandboxed standard library and the modules `kumo`, `gatepost`, `sqlite`
//! and `redis`.
//!
//! One file for each module. A function that has to wait is asynchronous, so it never keeps the other
//! calls of its worker waiting; one that blocks runs on a bounded pool beside it.

mod cidr;
mod digest;
mod encode;
mod fs;
mod gatepost;
pub(crate) mod hashes;
mod htpasswd;
pub(crate) mod http;
mod json;
mod kumo;
mod memoize;
pub(crate) mod message;
pub(crate) mod misc;
pub(crate) mod password;
mod plain;
mod redis;
mod regex;
mod sandbox;
mod secrets;
mod sqlite;
mod string;
mod throttle;
mod toml;
mod yaml;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mlua::{Lua, LuaString, Table, Value};

use crate::PolicyCounters;
use crate::counters::Gauge;
use crate::hook::Turn;
use crate::sources::Sources;
use crate::vm::{LoadTime, Registry};

/// What all workers of a policy share. Clones are the same thing.
#[derive(Clone, Default)]
pub(crate) struct Common {
    pub(crate) load_time: LoadTime,
    pub(crate) counters: Arc<PolicyCounters>,
    /// Calls that workers have begun and not ended.
    pub(crate) in_flight: Gauge,
    pub(crate) hashes: password::HashPool,
    pub(crate) memos: memoize::Memos,
    pub(crate) throttles: throttle::Throttles,
    pub(crate) databases: sqlite::DatabasePool,
    pub(crate) roots: http::Roots,
    pub(crate) user_files: htpasswd::UserFiles,
    pub(crate) sources: Sources,
}

/// What a module is installed with.
pub(crate) struct Host<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) turn: &'a Turn,
    pub(crate) common: &'a Common,
    pub(crate) clients: &'a http::Clients,
    /// The policy's folder.
    pub(crate) folder: &'a Path,
}

/// Makes everything available to the state.
pub(crate) fn install(lua: &Lua, host: &Host<'_>) -> mlua::Result<()> {
    sandbox::install(lua, host)?;
    let kumo = kumo::module(lua, host)?;
    for install in [
        cidr::install,
        digest::install,
        encode::install,
        fs::install,
        http::install,
        memoize::install,
        misc::install,
        regex::install,
        secrets::install,
        string::install,
        throttle::install,
    ] {
        install(lua, host, &kumo)?;
    }
    kumo::stand_in_for_unknown(lua, host.registry, &kumo, "kumo")?;
    lua.register_module("kumo", kumo)?;
    lua.register_module("sqlite", sqlite::module(lua, host)?)?;
    lua.register_module("redis", redis::module(lua, host)?)?;
    lua.register_module("gatepost", gatepost::module(lua, host)?)?;
    Ok(())
}

/// A part of `kumo`, such as `kumo.http`. Names in it that do not exist are stand-ins, as in `kumo` itself.
fn submodule(lua: &Lua, host: &Host<'_>, kumo: &Table, name: &'static str) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    kumo::stand_in_for_unknown(lua, host.registry, &table, name)?;
    kumo.raw_set(name.trim_start_matches("kumo."), &table)?;
    Ok(table)
}

/// A path as the policy writes it: relative to the policy's folder, as `dofile` takes it.
fn resolve(folder: &Path, path: &str) -> PathBuf {
    folder.join(path)
}

/// `NAME_parse` and `NAME_load` of a format.
fn reading(
    lua: &Lua,
    host: &Host<'_>,
    module: &Table,
    format: &str,
    parse: fn(&Lua, &str) -> mlua::Result<Value>,
) -> mlua::Result<()> {
    let name = format!("{format}_parse");
    let called = name.clone();
    let parsing = lua.create_function(move |lua, it: Value| parse(lua, &text(&it, 1, &called)?))?;
    module.set(name, parsing)?;
    let name = format!("{format}_load");
    let (folder, called) = (host.folder.to_owned(), name.clone());
    let loading = lua.create_async_function(move |lua, path: Value| {
        let path = text(&path, 1, &called).map(|path| resolve(&folder, &path));
        async move { parse(&lua, &read_file(path?).await?) }
    })?;
    module.set(name, loading)
}

/// Refuses an option that does not exist: a misspelt one would silently do nothing.
fn only_options(table: &Table, function: &str, known: &[&str]) -> mlua::Result<()> {
    for pair in table.pairs::<Value, Value>() {
        let key = pair?.0.to_string()?;
        if !known.contains(&key.as_str()) {
            return Err(mlua::Error::runtime(format!(
                "{function} has no option '{key}'"
            )));
        }
    }
    Ok(())
}

/// The content of a file, read beside the worker.
async fn read_file(path: PathBuf) -> mlua::Result<String> {
    /// Far more than data that a worker could hold.
    const LONGEST: u64 = 64 * 1024 * 1024;
    let reading = tokio::task::spawn_blocking(move || {
        let content = read_regular(&path, LONGEST)?;
        String::from_utf8(content).map_err(|_| format!("{}: not UTF-8", path.display()))
    });
    reading
        .await
        .map_err(mlua::Error::external)?
        .map_err(mlua::Error::runtime)
}

/// The content of a file of `longest` bytes at the most. A pipe would block whoever opens it, and a device never end.
fn read_regular(path: &Path, longest: u64) -> Result<Vec<u8>, String> {
    let unfit = |fault: &dyn std::fmt::Display| format!("{}: {fault}", path.display());
    let metadata = std::fs::metadata(path).map_err(|fault| unfit(&fault))?;
    if !metadata.is_file() {
        return Err(unfit(&"not a regular file"));
    }
    if metadata.len() > longest {
        return Err(unfit(&"too large"));
    }
    std::fs::read(path).map_err(|fault| unfit(&fault))
}

/// A text argument; the error names function and argument, as Lua's own do.
fn text(value: &Value, position: usize, function: &str) -> mlua::Result<mlua::BorrowedStr> {
    let Value::String(text) = value else {
        return Err(bad_argument(position, function, "string", value));
    };
    text.to_str().map_err(|_| {
        mlua::Error::runtime(format!(
            "bad argument #{position} to '{function}' (not valid UTF-8)"
        ))
    })
}

/// Any bytes, or a number as Lua writes it where it wants a text.
fn bytes(lua: &Lua, value: &Value, position: usize, function: &str) -> mlua::Result<LuaString> {
    let text = if value.is_string() || value.is_integer() || value.is_number() {
        lua.coerce_string(value.clone())?
    } else {
        None
    };
    text.ok_or_else(|| bad_argument(position, function, "string", value))
}

/// A number, whole or not.
fn number(value: &Value) -> Option<f64> {
    if let Value::Integer(whole) = value {
        // Every whole number of seconds or items that makes sense here fits.
        return i32::try_from(*whole).ok().map(f64::from);
    }
    if let Value::Number(number) = value {
        Some(*number)
    } else {
        None
    }
}

/// A time span as an option: a text such as `5 minutes`, or a number of seconds. `None` where it is absent.
fn duration(value: &Value, function: &str, option: &str) -> mlua::Result<Option<Duration>> {
    /// Long enough for anything that a policy waits for or remembers.
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
    if value.is_nil() {
        return Ok(None);
    }
    let span = if let Value::String(text) = value {
        // The parser takes `1 30s` for 130 s and overflows for long texts; neither is meant.
        let text = text.to_string_lossy();
        let plain = text.len() <= 64
            && text
                .split(' ')
                .filter(|word| !word.is_empty())
                .enumerate()
                .all(|(index, word)| {
                    let number = word.bytes().all(|byte| byte.is_ascii_digit());
                    !number || (index == 0 && text.split_whitespace().count() == 2)
                });
        plain
            .then(|| humantime::parse_duration(&text).ok())
            .flatten()
    } else {
        number(value).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    };
    span.filter(|span| *span <= LONGEST)
        .map(Some)
        .ok_or_else(|| {
            mlua::Error::runtime(format!(
                "{function}: '{option}' is a time span such as '5 minutes' or a number of seconds"
            ))
        })
}

fn bad_argument(position: usize, function: &str, expected: &str, got: &Value) -> mlua::Error {
    mlua::Error::runtime(format!(
        "bad argument #{position} to '{function}' ({expected} expected, got {})",
        if got.is_nil() {
            "no value"
        } else {
            got.type_name()
        }
    ))
}

/// Where the policy called from: `policy.lua:12`.
fn caller(lua: &Lua) -> String {
    // Level 0 is the function that asks.
    lua.inspect_stack(1, |frame| {
        let source = frame.source();
        let file = source.short_src.as_deref().unwrap_or("?").to_owned();
        frame
            .current_line()
            .map_or(file.clone(), |line| format!("{file}:{line}"))
    })
    .unwrap_or_else(|| "?".to_owned())
}

/// A service on loopback that answers after a while.
#[cfg(test)]
pub(crate) fn slow_service(after: Duration) -> String {
    http::tests::serve(move |_| {
        std::thread::sleep(after);
        ("200 OK", String::new())
    })
}
