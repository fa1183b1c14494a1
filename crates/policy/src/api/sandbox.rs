//! The standard library as a policy sees it. The work is done in Lua, in `sandbox.lua`.

use std::path::Path;

use mlua::{BorrowedStr, Lua};

pub(super) fn install(lua: &Lua, folder: &Path) -> mlua::Result<()> {
    let log = lua.create_function(|_, text: BorrowedStr| {
        tracing::info!(target: "policy", "{}", super::kumo::printable(&text));
        Ok(())
    })?;
    let source = include_str!("sandbox.lua");
    lua.load(source)
        .set_name("=gatepost")
        .call::<()>((folder.display().to_string(), log))
}
