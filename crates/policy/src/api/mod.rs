//! What a policy can call: the sandboxed standard library and the modules `kumo` and
//! `gatepost`.
//!
//! One file for each module. A function that has to wait is asynchronous, so it never keeps the other
//! calls of its worker waiting; one that blocks runs on a bounded pool beside it.

mod gatepost;
mod json;
mod kumo;
mod password;
mod sandbox;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlua::{Lua, Table, Value};

use crate::PolicyCounters;
use crate::vm::Registry;

/// What all workers of a policy share. Clones are the same thing.
#[derive(Clone, Default)]
pub(crate) struct Common {
    pub(crate) counters: Arc<PolicyCounters>,
    pub(crate) hashes: password::HashPool,
}

/// What a module is installed with.
pub(crate) struct Host<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) common: &'a Common,
    /// The policy's folder.
    pub(crate) folder: &'a Path,
}

/// Makes everything available to the state.
pub(crate) fn install(lua: &Lua, host: &Host<'_>) -> mlua::Result<()> {
    sandbox::install(lua, host)?;
    let kumo = kumo::module(lua, host)?;
    kumo::stand_in_for_unknown(lua, host.registry, &kumo, "kumo")?;
    lua.register_module("kumo", kumo)?;
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

/// The content of a file, read beside the worker.
async fn read_file(path: PathBuf) -> mlua::Result<String> {
    let reading = tokio::task::spawn_blocking(move || {
        std::fs::read_to_string(&path).map_err(|fault| format!("{}: {fault}", path.display()))
    });
    reading
        .await
        .map_err(mlua::Error::external)?
        .map_err(mlua::Error::runtime)
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
