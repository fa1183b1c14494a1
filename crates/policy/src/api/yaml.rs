//! `kumo.serde.yaml_*`.

use mlua::serde::ser::Options;
use mlua::{Lua, LuaSerdeExt as _, Table, Value};

use super::{Host, reading};

pub(super) fn install(lua: &Lua, host: &Host<'_>, module: &Table) -> mlua::Result<()> {
    reading(lua, host, module, "yaml", parse)?;
    module.set(
        "yaml_encode",
        lua.create_function(|_, value: Value| {
            serde_saphyr::to_string(&value).map_err(|fault| {
                mlua::Error::runtime(format!("bad argument #1 to 'yaml_encode' ({fault})"))
            })
        })?,
    )
}

/// The parser bounds depth, size and what aliases expand to.
fn parse(lua: &Lua, it: &str) -> mlua::Result<Value> {
    let value: serde_json::Value = serde_saphyr::from_str(it).map_err(|fault| {
        let fault = fault.without_snippet().to_string();
        mlua::Error::runtime(format!(
            "not valid YAML: {}",
            fault.lines().next().unwrap_or_default()
        ))
    })?;
    let options = Options::new()
        .set_array_metatable(false)
        .serialize_none_to_null(false)
        .serialize_unit_to_null(false);
    lua.to_value_with(&value, options)
}

#[cfg(test)]
mod tests {
    use crate::tests::check_body;

    #[test]
    fn yaml_goes_both_ways() {
        for body in [
            "local t = kumo.serde.yaml_parse 'a: 1\\nb: [1.5, x, null]\\nc:\\n  d: true\\n  e: null\\n' return t.a == 1 and t.b[2] == 'x' and t.c.d and t.c.e == nil",
            "return kumo.serde.yaml_parse(kumo.serde.yaml_encode { a = { b = 'x: y' } }).a.b == 'x: y'",
            "local ok, fault = pcall(kumo.serde.yaml_parse, 'a: [') return not ok and tostring(fault):find 'not valid YAML' ~= nil",
            "return not pcall(kumo.serde.yaml_parse) and not pcall(kumo.serde.yaml_encode, print) and not pcall(kumo.serde.yaml_load, 'absent.yaml')",
            "return not pcall(kumo.serde.yaml_parse, ('['):rep(100000))",
        ] {
            check_body(body);
        }
    }
}
