//! gatepost's own module: what every handler that keeps hashes needs.

use mlua::{Lua, Table, Value};
use subtle::ConstantTimeEq as _;

use super::hashes::HashAlgorithm;
use super::password::HashPool;
use super::{Host, bad_argument, htpasswd, text};

pub(super) fn module(lua: &Lua, host: &Host<'_>) -> mlua::Result<Table> {
    let module = lua.create_table()?;
    module.set("password", password(lua, &host.common.hashes)?)?;
    htpasswd::install(lua, host, &module)?;
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
                    .map_err(|fault| fault.raised_by(NAME))
            }
        })?,
    )?;
    let pool = hashes.clone();
    module.set(
        "hash",
        lua.create_async_function(move |_, (password, options): (Value, Value)| {
            let pool = pool.clone();
            async move {
                const NAME: &str = "gatepost.password.hash";
                let password = text(&password, 1, NAME)?.to_owned();
                let algorithm = algorithm(&options, NAME)?;
                pool.hash(password, algorithm)
                    .await
                    .map_err(|fault| fault.raised_by(NAME))
            }
        })?,
    )?;
    Ok(module)
}

/// The option `algorithm`, and no other.
fn algorithm(options: &Value, function: &str) -> mlua::Result<HashAlgorithm> {
    if options.is_nil() {
        return Ok(HashAlgorithm::default());
    }
    let Value::Table(options) = options else {
        return Err(bad_argument(2, function, "table", options));
    };
    let mut algorithm = HashAlgorithm::default();
    for pair in options.pairs::<String, Value>() {
        let (key, value) = pair?;
        if key != "algorithm" {
            return Err(mlua::Error::runtime(format!(
                "{function} has no option '{key}'"
            )));
        }
        let name = text(&value, 2, function)?;
        algorithm = name.parse().map_err(|fault| named(function, fault))?;
    }
    Ok(algorithm)
}

fn named(function: &str, fault: impl std::fmt::Display) -> mlua::Error {
    mlua::Error::runtime(format!("{function}: {fault}"))
}
