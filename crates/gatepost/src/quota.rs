//! `gatepost quota`: what an identity has used of its quotas, asked of the gatepost that runs.

use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use gatepost_config::Admin;

use crate::settings::load;

/// Longest wait for the gatepost that runs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints a line for each limit, or forgets what was sent.
pub(crate) fn run(
    config: &Path,
    identity: &str,
    reset: bool,
    out: &mut impl Write,
) -> Result<ExitCode> {
    let settings = load(config)?;
    let admin = settings
        .admin
        .context("`admin` is off, so nobody can be asked")?;
    let method = if reset { "DELETE" } else { "GET" };
    let answer = ask(&admin, method, &format!("/quota/{}", escaped(identity)))?;
    if reset {
        writeln!(out, "{identity}: what was sent is forgotten")?;
        return Ok(ExitCode::SUCCESS);
    }
    let limits: Vec<Limit> =
        serde_json::from_str(&answer).context("the answer is not understood")?;
    if limits.is_empty() {
        writeln!(out, "no quotas are configured")?;
    }
    for Limit {
        counted,
        limit,
        period_seconds,
        used,
    } in limits
    {
        writeln!(out, "{counted:<10} {used} of {limit} in {period_seconds} s")?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(serde::Deserialize)]
struct Limit {
    counted: String,
    limit: u32,
    period_seconds: u64,
    used: u32,
}

/// One request to the admin listener. It is HTTP/1.0 to loopback, so that a connection's end is an answer's end
/// and no client library is needed.
fn ask(admin: &Admin, method: &str, path: &str) -> Result<String> {
    let mut connection = TcpStream::connect_timeout(&admin.listen, PATIENCE)
        .with_context(|| format!("no gatepost answers at {}", admin.listen))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    write!(connection, "{method} {path} HTTP/1.0\r\n")?;
    if let Some(token) = &admin.token {
        write!(connection, "Authorization: Bearer {}\r\n", token.expose())?;
    }
    connection.write_all(b"\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is not understood")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{}", body.trim());
    }
    Ok(body.to_owned())
}

/// Everything but letters and digits, so that a name is one segment of a path (RFC 3986 §2.1).
fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
