//! `kumo.secrets.load`: a key from a file, from the policy's text, or from a Vault (KV version 2).

use std::path::{Path, PathBuf};
use std::time::Duration;

use mlua::{Lua, Table, Value};

use super::http::Clients;
use super::{Host, bad_argument, only_options, read_regular, resolve, submodule, text};

/// Keys are short. In bytes.
const LONGEST: u64 = 1024 * 1024;

const VAULT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let module = submodule(lua, host, kumo, "kumo.secrets")?;
    let (folder, clients) = (host.folder.to_owned(), host.clients.clone());
    module.set(
        "load",
        lua.create_async_function(move |lua, source: Value| {
            let (folder, clients) = (folder.clone(), clients.clone());
            async move {
                let key = KeySource::read(&source, "kumo.secrets.load")?
                    .load(&folder, &clients)
                    .await?;
                lua.create_string(key)
            }
        })?,
    )
}

/// Where a key comes from.
pub(super) enum KeySource {
    File(String),
    Data(Vec<u8>),
    Vault(Vault),
}

pub(super) struct Vault {
    address: String,
    token: String,
    mount: String,
    path: String,
    key: String,
}

impl KeySource {
    pub(super) fn read(value: &Value, function: &str) -> mlua::Result<Self> {
        if value.is_string() {
            return Ok(Self::File(text(value, 1, function)?.to_owned()));
        }
        let Value::Table(table) = value else {
            return Err(bad_argument(1, function, "path or table", value));
        };
        let known = [
            "key_data",
            "vault_mount",
            "vault_path",
            "vault_key",
            "vault_address",
            "vault_token",
        ];
        only_options(table, function, &known)?;
        if let Value::String(data) = table.get::<Value>("key_data")? {
            return Ok(Self::Data(data.as_bytes().to_vec()));
        }
        let field = |name: &str, otherwise: Option<String>| -> mlua::Result<String> {
            let given = table.get::<Option<String>>(name)?.or(otherwise);
            given.ok_or_else(|| {
                mlua::Error::runtime(format!("{function}: the key source needs '{name}'"))
            })
        };
        Ok(Self::Vault(Vault {
            mount: field("vault_mount", None)?,
            path: field("vault_path", None)?,
            key: field("vault_key", Some("key".to_owned()))?,
            address: field("vault_address", std::env::var("VAULT_ADDR").ok())?,
            token: field("vault_token", std::env::var("VAULT_TOKEN").ok())?,
        }))
    }

    /// The key as it is kept: a file's last line end belongs to it, as for `KumoMTA`.
    pub(super) async fn load(self, folder: &Path, clients: &Clients) -> mlua::Result<Vec<u8>> {
        match self {
            Self::Data(data) => Ok(data),
            Self::File(path) => read_key(resolve(folder, &path)).await,
            Self::Vault(vault) => vault.load(clients).await,
        }
    }
}

async fn read_key(path: PathBuf) -> mlua::Result<Vec<u8>> {
    let reading = tokio::task::spawn_blocking(move || read_regular(&path, LONGEST));
    reading
        .await
        .map_err(mlua::Error::external)?
        .map_err(mlua::Error::runtime)
}

impl Vault {
    async fn load(&self, clients: &Clients) -> mlua::Result<Vec<u8>> {
        let fault = |what: String| {
            mlua::Error::runtime(format!("vault {}/{}: {what}", self.mount, self.path))
        };
        let (address, mount, path) = (
            self.address.trim_end_matches('/'),
            self.mount.trim_matches('/'),
            self.path.trim_matches('/'),
        );
        // A name out of a request must not reach another place in the vault.
        let is_plain = |segment: &str| {
            !["", ".", ".."].contains(&segment) && !segment.contains(['?', '#', '%', '\\'])
        };
        if !mount.split('/').chain(path.split('/')).all(is_plain) {
            return Err(fault("the path is not plain".to_owned()));
        }
        let client = clients.direct().map_err(|it| fault(it.to_string()))?;
        let asking = client
            .get(format!("{address}/v1/{mount}/data/{path}"))
            .header("X-Vault-Token", &self.token)
            .timeout(VAULT_TIMEOUT)
            .send();
        // The address may hold credentials.
        let response = asking
            .await
            .map_err(|it| fault(it.without_url().to_string()))?;
        let status = response.status();
        if !status.is_success() {
            return Err(fault(format!("the vault answered {status}")));
        }
        let body = super::http::bounded_body(response, &mut clients.hold())
            .await
            .map_err(|it| fault(it.to_string()))?;
        let answer: serde_json::Value = serde_json::from_slice(&body)
            .map_err(|_| fault("the vault's answer is no JSON".to_owned()))?;
        let value = answer
            .pointer("/data/data")
            .and_then(|data| data.get(&self.key));
        let value = value.and_then(serde_json::Value::as_str);
        value
            .map(|value| value.as_bytes().to_vec())
            .ok_or_else(|| fault(format!("there is no text under '{}'", self.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::tests::serve;
    use crate::tests::check_body;

    #[test]
    fn keys_come_from_files_and_tables() {
        check_body(
            "return kumo.secrets.load('data.json'):find '^{' ~= nil and kumo.secrets.load { key_data = '\\0\\xff' } == '\\0\\xff'",
        );
        for (call, words) in [
            (
                "kumo.secrets.load()",
                "bad argument #1 to 'kumo.secrets.load'",
            ),
            ("kumo.secrets.load 'absent'", "absent: No such file"),
            ("kumo.secrets.load '/dev/zero'", "not a regular file"),
            ("kumo.secrets.load {}", "needs 'vault_mount'"),
            (
                "kumo.secrets.load { surprise = 1 }",
                "has no option 'surprise'",
            ),
        ] {
            check_body(&format!(
                "local ok, fault = pcall(function() {call} end) return not ok and tostring(fault):find([[{words}]], 1, true) ~= nil or error(fault)"
            ));
        }
    }

    /// A server that speaks as a Vault does.
    #[test]
    fn keys_come_from_a_vault() {
        let vault = serve(|head| {
            if !head.to_ascii_lowercase().contains("x-vault-token: right") {
                return (
                    "403 Forbidden",
                    "{\"errors\":[\"permission denied\"]}".to_owned(),
                );
            }
            if head.starts_with("GET /v1/secret/data/moved ") {
                return (
                    "307 Moved\r\nLocation: /v1/secret/data/mail/scott",
                    String::new(),
                );
            }
            if head.starts_with("GET /v1/secret/data/mail/scott ") {
                return (
                    "200 OK",
                    "{\"data\":{\"data\":{\"key\":\"tiger\",\"other\":\"lion\",\"n\":1}}}"
                        .to_owned(),
                );
            }
            if head.starts_with("GET /v1/secret/data/broken ") {
                return ("200 OK", "no json".to_owned());
            }
            ("404 Not Found", "{\"errors\":[]}".to_owned())
        });
        let source = |more: &str| {
            format!(
                "kumo.secrets.load {{ vault_address = '{vault}', vault_token = 'right', vault_mount = 'secret', {more} }}"
            )
        };
        check_body(&format!(
            "return {} == 'tiger' and {} == 'lion'",
            source("vault_path = 'mail/scott'"),
            source("vault_path = 'mail/scott', vault_key = 'other'")
        ));
        for (more, words) in [
            ("vault_path = 'absent'", "the vault answered 404"),
            ("vault_path = 'moved'", "redirect"),
            ("vault_path = 'mail/../../other'", "not plain"),
            ("vault_path = 'mail?version=1'", "not plain"),
            (
                "vault_path = 'mail/scott', vault_key = 'absent'",
                "no text under 'absent'",
            ),
            (
                "vault_path = 'mail/scott', vault_key = 'n'",
                "no text under 'n'",
            ),
            ("vault_path = 'broken'", "no JSON"),
        ] {
            check_body(&format!(
                "local ok, fault = pcall(function() {} end) return not ok and tostring(fault):find([[{words}]], 1, true) ~= nil or error(fault)",
                source(more)
            ));
        }
        check_body(&format!(
            "local ok, fault = pcall(function() {} end) fault = tostring(fault) return not ok and fault:find '403' ~= nil and not fault:find 'wrong'",
            source("vault_path = 'mail/scott'").replace("right", "wrong")
        ));
    }
}
