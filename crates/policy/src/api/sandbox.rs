//! The standard library as a policy sees it. The work is done in Lua, in `sandbox.lua`.

use mlua::{BorrowedStr, Lua};

use super::{Host, kumo};

pub(super) fn install(lua: &Lua, host: &Host<'_>) -> mlua::Result<()> {
    let log = lua.create_function(|_, text: BorrowedStr| {
        tracing::info!(target: "policy", "{}", kumo::printable(&text));
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
    lua.load(source)
        .set_name("=gatepost")
        .call::<()>((folder, log, extras))
}
