//! gatepost's own module: what every handler that keeps hashes needs.

use mlua::{Lua, Table, Value};
use subtle::ConstantTimeEq as _;

use super::password::HashPool;
use super::{Host, text};

pub(super) fn module(lua: &Lua, host: &Host<'_>) -> mlua::Result<Table> {
    let module = lua.create_table()?;
    module.set("password", password(lua, &host.common.hashes)?)?;
    module.set(
        "equal",
        lua.create_function(|_, (a, b): (Value, Value)| {
            // Two absent values are not equal: a user without a password is not one with none.
            if a.is_nil() || b.is_nil() {
                return Ok(false);
            }
            let (a, b) = (
                text(&a, 1, "gatepost.equal")?,
                text(&b, 2, "gatepost.equal")?,
            );
            Ok(bool::from(a.as_bytes().ct_eq(b.as_bytes())))
        })?,
    )?;
    Ok(module)
}

fn password(lua: &Lua, hashes: &HashPool) -> mlua::Result<Table> {
    let module = lua.create_table()?;
    let pool = hashes.clone();
    module.set(
        "verify",
        lua.create_async_function(move |_, (stored, password): (Value, Value)| {
            let pool = pool.clone();
            async move {
                const NAME: &str = "gatepost.password.verify";
                let given = |value: &Value, position| -> mlua::Result<Option<String>> {
                    if value.is_nil() {
                        return Ok(None);
                    }
                    Ok(Some(text(value, position, NAME)?.to_owned()))
                };
                let (stored, password) = (given(&stored, 1)?, given(&password, 2)?);
                // No password is a wrong one, at the same price.
                let stored = stored.filter(|_| password.is_some());
                pool.verify(stored, password.unwrap_or_default())
                    .await
                    .map_err(|fault| named(NAME, fault))
            }
        })?,
    )?;
    let pool = hashes.clone();
    module.set(
        "hash",
        lua.create_async_function(move |_, password: Value| {
            let pool = pool.clone();
            async move {
                const NAME: &str = "gatepost.password.hash";
                let password = text(&password, 1, NAME)?.to_owned();
                pool.hash(password)
                    .await
                    .map_err(|fault| named(NAME, fault))
            }
        })?,
    )?;
    Ok(module)
}

fn named(function: &str, fault: impl std::fmt::Display) -> mlua::Error {
    mlua::Error::runtime(format!("{function}: {fault}"))
}
