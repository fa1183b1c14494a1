//! The standard library as a policy sees it. The work is done in Lua, in `sandbox.lua`.

use std::path::{Path, PathBuf};

use mlua::{Function, Lua, LuaString, Table};

use super::{Host, kumo};

pub(super) fn install(lua: &Lua, host: &Host<'_>) -> mlua::Result<()> {
    let log = lua.create_function(|_, text: LuaString| {
        tracing::info!(target: "policy", "{}", kumo::printable(&text.to_string_lossy()));
        Ok(())
    })?;
    // Helpers that KumoMTA ships beside its server; whoever copies a whole file has them required.
    let registry = host.registry.clone();
    let extras = lua.create_function(move |lua, name: String| {
        if !registry.is_serving() {
            registry.warn(format!(
                "{name} does not exist here; a request that calls it is refused"
            ));
        }
        kumo::stand_in(lua, &registry, name)
    })?;
    let source = include_str!("sandbox.lua");
    let folder = host.folder.display().to_string();
    let globals = lua.load(source).set_name("=gatepost").call::<Table>((
        folder,
        log,
        extras,
        reader(lua, host)?,
        Lua::poll_pending(),
        out_of_time(lua, host)?,
        is_serving(lua, host)?,
    ))?;
    lua.set_globals(globals)
}

/// Reads a source file; nil and the reason where it cannot. What is read while the policy loads is read
/// once for all workers, so that one which starts later runs the same policy, whatever has become of the
/// file meanwhile. A handler that runs a file itself wants it as it is.
fn reader(lua: &Lua, host: &Host<'_>) -> mlua::Result<Function> {
    let registry = host.registry.clone();
    let sources = host.common.sources.clone();
    lua.create_function(move |lua, path: LuaString| {
        let path = PathBuf::from(path.to_str()?.to_owned());
        let read = if registry.is_serving() {
            std::fs::read(&path).map(Into::into)
        } else {
            sources.read(&path)
        };
        match read {
            Ok(text) => Ok((Some(lua.create_string(text)?), None)),
            Err(fault) => Ok((None, Some(reason(&path, &fault)))),
        }
    })
}

fn reason(path: &Path, fault: &std::io::Error) -> String {
    format!("{}: {fault}", path.display())
}

fn out_of_time(lua: &Lua, host: &Host<'_>) -> mlua::Result<Function> {
    let turn = host.turn.clone();
    lua.create_function(move |_, ()| Ok(turn.is_over()))
}

fn is_serving(lua: &Lua, host: &Host<'_>) -> mlua::Result<Function> {
    let registry = host.registry.clone();
    lua.create_function(move |_, ()| Ok(registry.is_serving()))
}
