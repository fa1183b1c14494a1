//! What a policy can call: the sandboxed standard library and the modules `kumo` and `gatepost`.
//!
//! One file for each module. A function that has to wait is asynchronous, so it never keeps the other
//! calls of its worker waiting.

mod gatepost;
mod json;
mod kumo;
mod password;
mod sandbox;

use std::path::Path;

use mlua::{Lua, Value};

pub(crate) use password::HashPool;

use crate::vm::Registry;

/// Makes everything available to the state.
pub(crate) fn install(
    lua: &Lua,
    registry: &Registry,
    folder: &Path,
    hashes: &HashPool,
) -> mlua::Result<()> {
    sandbox::install(lua, folder)?;
    lua.register_module("kumo", kumo::module(lua, registry)?)?;
    lua.register_module("gatepost", gatepost::module(lua, hashes)?)?;
    Ok(())
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
