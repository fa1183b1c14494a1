//! `kumo.serde.toml_*` and the old `kumo.toml_*`.

use mlua::serde::ser::Options;
use mlua::{Lua, LuaSerdeExt as _, Table, Value};

use super::{Host, reading};

pub(super) fn install(lua: &Lua, host: &Host<'_>, module: &Table) -> mlua::Result<()> {
    reading(lua, host, module, "toml", parse)?;
    let unfit = |fault: toml::ser::Error| {
        mlua::Error::runtime(format!("bad argument #1 to 'toml_encode' ({fault})"))
    };
    module.set(
        "toml_encode",
        lua.create_function(move |_, value: Value| toml::to_string(&value).map_err(unfit))?,
    )?;
    module.set(
        "toml_encode_pretty",
        lua.create_function(move |_, value: Value| toml::to_string_pretty(&value).map_err(unfit))?,
    )
}

fn parse(lua: &Lua, it: &str) -> mlua::Result<Value> {
    let value: toml::Table = it.parse().map_err(|fault: toml::de::Error| {
        mlua::Error::runtime(format!("not valid TOML: {}", fault.message()))
    })?;
    let plain = without_dates(toml::Value::Table(value));
    lua.to_value_with(&plain, Options::new().set_array_metatable(false))
}

/// Lua has no dates; they are texts, as they are written.
fn without_dates(value: toml::Value) -> toml::Value {
    match value {
        toml::Value::Datetime(date) => toml::Value::String(date.to_string()),
        toml::Value::Array(items) => {
            toml::Value::Array(items.into_iter().map(without_dates).collect())
        }
        toml::Value::Table(table) => toml::Value::Table(
            table
                .into_iter()
                .map(|(key, value)| (key, without_dates(value)))
                .collect(),
        ),
        plain @ (toml::Value::String(_)
        | toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)) => plain,
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::check_body;

    #[test]
    fn toml_goes_both_ways() {
        for body in [
            "local t = kumo.serde.toml_parse 'a = 1\\nb = [1.5, 2]\\n[c]\\nd = \"x\"\\ne = true\\nf = 2026-01-02T03:04:05Z' return t.a == 1 and t.b[2] == 2 and t.c.d == 'x' and t.c.e and t.c.f == '2026-01-02T03:04:05Z'",
            "return kumo.toml_parse(kumo.toml_encode { a = { b = 'x' } }).a.b == 'x'",
            "return kumo.serde.toml_encode_pretty({ a = 1 }) == 'a = 1\\n'",
            "local ok, fault = pcall(kumo.serde.toml_parse, 'a = ') return not ok and tostring(fault):find 'not valid TOML' ~= nil",
            "return not pcall(kumo.serde.toml_parse) and not pcall(kumo.serde.toml_encode, 1) and not pcall(kumo.serde.toml_load, 'absent.toml')",
            "return not pcall(kumo.serde.toml_parse, 'a = ' .. ('['):rep(100000))",
        ] {
            check_body(body);
        }
    }
}
