//! `kumo.serde.json_*` and the old `kumo.json_*`.

use mlua::serde::ser::Options;
use mlua::{Lua, LuaSerdeExt as _, Table, Value};

use super::{Host, reading};

pub(super) fn install(lua: &Lua, host: &Host<'_>, module: &Table) -> mlua::Result<()> {
    reading(lua, host, module, "json", parse)?;
    module.set(
        "json_encode",
        lua.create_function(|_, value: Value| {
            serde_json::to_string(&value).map_err(|fault| unfit("json_encode", &fault))
        })?,
    )?;
    module.set(
        "json_encode_pretty",
        lua.create_function(|_, value: Value| {
            serde_json::to_string_pretty(&value)
                .map_err(|fault| unfit("json_encode_pretty", &fault))
        })?,
    )
}

fn parse(lua: &Lua, json: &str) -> mlua::Result<Value> {
    let value: serde_json::Value = serde_json::from_str(json)
        .map_err(|fault| mlua::Error::runtime(format!("not valid JSON: {fault}")))?;
    // `null` is nil, as in KumoMTA; arrays are plain tables.
    let options = Options::new()
        .set_array_metatable(false)
        .serialize_none_to_null(false)
        .serialize_unit_to_null(false);
    lua.to_value_with(&value, options)
}

fn unfit(function: &str, fault: &serde_json::Error) -> mlua::Error {
    mlua::Error::runtime(format!("bad argument #1 to '{function}' ({fault})"))
}
