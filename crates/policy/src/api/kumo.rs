//! The module `kumo`: registering handlers, logging, JSON; and stand-ins for everything of `KumoMTA`'s
//! that has no meaning here, so that an operator's whole file loads.

use mlua::{Function, Lua, Table, Value, Variadic};

use super::{Host, bad_argument, caller, json, submodule, text, toml, yaml};
use crate::vm::{MESSAGE, Registry, is_asked};

pub(super) fn module(lua: &Lua, host: &Host<'_>) -> mlua::Result<Table> {
    let kumo = lua.create_table()?;
    kumo.set("on", on(lua, host.registry)?)?;
    for (name, level) in [
        ("log_error", Level::Error),
        ("log_warn", Level::Warn),
        ("log_info", Level::Info),
        ("log_debug", Level::Debug),
    ] {
        kumo.set(name, log(lua, level)?)?;
    }
    let serde = submodule(lua, host, &kumo, "kumo.serde")?;
    json::install(lua, host, &serde)?;
    toml::install(lua, host, &serde)?;
    yaml::install(lua, host, &serde)?;
    // The old names, which many policies still use.
    json::install(lua, host, &kumo)?;
    toml::install(lua, host, &kumo)?;
    Ok(kumo)
}

fn on(lua: &Lua, registry: &Registry) -> mlua::Result<Function> {
    let registry = registry.clone();
    lua.create_function(move |lua, (event, handler): (Value, Value)| {
        let event = text(&event, 1, "kumo.on")?;
        if let Value::Table(helper) = &handler
            && (!is_asked(&event) || &*event == MESSAGE)
            && helper.metatable().is_some()
        {
            // `kumo.on('get_egress_path_config', shaper.get_egress_path_config)`: nobody will call it. For messages a
            // whole file of KumoMTA's may have a helper that signs, which is the MTA's business.
            if &*event == MESSAGE {
                registry.warn(format!(
                    "{}: the handler for {MESSAGE} is a helper that does not exist here; it is not called",
                    caller(lua)
                ));
            }
            return Ok(());
        }
        let Value::Function(handler) = handler else {
            return Err(bad_argument(2, "kumo.on", "function", &handler));
        };
        if registry.is_serving() {
            return Err(mlua::Error::runtime(
                "kumo.on cannot be called during a request",
            ));
        }
        registry.register(&event, handler, &caller(lua));
        Ok(())
    })
}

#[derive(Clone, Copy)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

fn log(lua: &Lua, level: Level) -> mlua::Result<Function> {
    lua.create_function(move |_, words: Variadic<Value>| {
        let words: Vec<String> = words
            .iter()
            .map(|word| {
                // A text that is not UTF-8 is no reason to refuse a request.
                let text = word.as_string().map(mlua::LuaString::to_string_lossy);
                text.map_or_else(|| word.to_string(), Ok)
            })
            .collect::<mlua::Result<_>>()?;
        let text = printable(&words.join("\t"));
        match level {
            Level::Error => tracing::error!(target: "policy", "{text}"),
            Level::Warn => tracing::warn!(target: "policy", "{text}"),
            Level::Info => tracing::info!(target: "policy", "{text}"),
            Level::Debug => tracing::debug!(target: "policy", "{text}"),
        }
        Ok(())
    })
}

/// A text that stays on its line, whatever a client put into it.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() && c != '\t';
            let escaped = escape.then(|| c.escape_default());
            escaped.into_iter().flatten().chain((!escape).then_some(c))
        })
        .collect()
}

/// Unknown names of a module become stand-ins: they can be called while the file loads, where they do
/// nothing, and raise when they are called or looked into for a request, which is then refused. A stand-in
/// is true as Lua sees it, so a handler that got one out of `kumo.users[user]` would let everybody in.
pub(super) fn stand_in_for_unknown(
    lua: &Lua,
    registry: &Registry,
    module: &Table,
    name: &'static str,
) -> mlua::Result<()> {
    let registry = registry.clone();
    let meta = lua.create_table()?;
    meta.set(
        "__index",
        lua.create_function(move |lua, (_, key): (Value, Value)| {
            let Value::String(key) = key else {
                return Ok(Value::Nil);
            };
            let name = format!("{name}.{}", key.to_string_lossy());
            if registry.is_serving() {
                return Err(absent(&name));
            }
            registry.warn(format!(
                "{}: {name} does not exist here; a request that uses it is refused",
                caller(lua)
            ));
            stand_in(lua, &registry, name).map(Value::Table)
        })?,
    )?;
    module.set_metatable(Some(meta))
}

pub(super) fn stand_in(lua: &Lua, registry: &Registry, name: String) -> mlua::Result<Table> {
    let meta = lua.create_table()?;
    let (nested, named) = (registry.clone(), name.clone());
    meta.set(
        "__index",
        lua.create_function(move |lua, (_, key): (Value, Value)| {
            let name = format!("{named}.{}", key.to_string()?);
            if nested.is_serving() {
                return Err(absent(&name));
            }
            stand_in(lua, &nested, name)
        })?,
    )?;
    let registry = registry.clone();
    meta.set(
        "__call",
        lua.create_function(move |lua, _: Variadic<Value>| {
            if registry.is_serving() {
                return Err(absent(&name));
            }
            // Helpers are set up in steps: `shaping:setup{…}` gives an object whose functions are handlers.
            // An unknown function of `kumo` gives nothing: its answer may be asked for a yes.
            if name.starts_with("policy-extras.") {
                return stand_in(lua, &registry, format!("{name}()")).map(Some);
            }
            Ok(None)
        })?,
    )?;
    let stand_in = lua.create_table()?;
    stand_in.set_metatable(Some(meta))?;
    Ok(stand_in)
}

fn absent(name: &str) -> mlua::Error {
    mlua::Error::runtime(format!("{name} is not available in gatepost"))
}
