//! `kumo.http`: calls to services over HTTP and HTTPS.
//!
//! Answers are bounded in size and time, and together in what they take, so a service that sends without end costs a
//! handler its answer and nobody else anything. Redirects do not carry credentials to another host (the client library
//! sees to it).

mod client;
mod request;
mod response;
#[cfg(test)]
pub(super) mod tests;

use mlua::{Lua, Table, Value};

pub(crate) use client::{Clients, Roots};
pub(super) use response::bounded_body;

use super::{Host, bad_argument, submodule, text};
use client::HttpClient;

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let module = submodule(lua, host, kumo, "kumo.http")?;
    let clients = host.clients.clone();
    module.set(
        "build_client",
        lua.create_function(move |_, options: Value| HttpClient::new(&clients, &options))?,
    )?;
    module.set(
        "build_url",
        lua.create_function(|_, (base, parameters): (Value, Value)| build_url(&base, &parameters))?,
    )
}

fn build_url(base: &Value, parameters: &Value) -> mlua::Result<String> {
    const NAME: &str = "kumo.http.build_url";
    let base = text(base, 1, NAME)?;
    let mut url = reqwest::Url::parse(&base)
        .map_err(|fault| mlua::Error::runtime(format!("{NAME}: {fault}")))?;
    let Value::Table(parameters) = parameters else {
        return Err(bad_argument(2, NAME, "table", parameters));
    };
    let pairs = sorted(parameters)?;
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    Ok(url.to_string())
}

/// A table of texts, in an order that does not change from run to run.
fn sorted(table: &Table) -> mlua::Result<Vec<(String, String)>> {
    let pairs = table.pairs::<String, Value>().map(|pair| {
        let (key, value) = pair?;
        Ok((key, value.to_string()?))
    });
    let mut pairs = pairs.collect::<mlua::Result<Vec<_>>>()?;
    pairs.sort();
    Ok(pairs)
}
