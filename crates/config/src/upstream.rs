//! The section `upstream`: where requests go, and how the identity goes with them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;

use crate::node::Node;
use crate::read::{HOUR, MILLISECOND};
use crate::section::{Complaint, Section, describe, shorten};
use crate::settings::{IdentityForm, Upstream, UpstreamAddress};
use crate::value;

/// Reads the section. `None` where a fault left something out; it has been recorded.
pub(crate) fn upstream(mut section: Section<'_>, folder: &Path) -> Option<Upstream> {
    let address = section.required("address", address);
    let address = with_store(&mut section, address, folder);
    section.optional("identity", value::word(&[("header", ())]));
    let identity_header = section.or(
        "identity_header",
        HeaderName::from_static("x-http-auth"),
        identity_header,
    );
    let timeout = || value::duration(MILLISECOND..=HOUR);
    let connect_timeout = section.or("connect_timeout", Duration::from_secs(5), timeout());
    let response_timeout = section.or("response_timeout", Duration::from_secs(60), timeout());
    let idle_timeout = section.or("idle_timeout", Duration::from_secs(30), timeout());
    let max_idle_connections = section.or(
        "max_idle_connections",
        128,
        value::integer(1..=100_000_usize),
    );
    section.finish();
    Some(Upstream {
        address: address?,
        identity: IdentityForm::Header(identity_header),
        connect_timeout,
        response_timeout,
        idle_timeout,
        max_idle_connections,
    })
}

fn address(node: &Node) -> Result<UpstreamAddress, Complaint> {
    let text = value::text(node)?;
    if text == "demo" {
        return Ok(UpstreamAddress::Demo { store: None });
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_socket(path);
    }
    // Schemes are written in any case (RFC 3986 §3.1).
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("https://") {
        return Err(
            "an upstream over TLS is not supported yet; write `host:port` for plain HTTP"
                .to_owned(),
        );
    }
    if lower.starts_with("http://") {
        return Err("write `host:port` without `http://` and without a path".to_owned());
    }
    tcp(&text).ok_or_else(|| {
        format!(
            "expected `host:port`, `unix:/path` or `demo`, found {}",
            describe(&node.value)
        )
    })
}

fn tcp(text: &str) -> Option<UpstreamAddress> {
    let (host, port) = match text.parse::<SocketAddr>() {
        Ok(address) => (address.ip().to_string(), address.port()),
        Err(_) => {
            let (host, port) = text.rsplit_once(':')?;
            let plain =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            // `parse` would take `+80`.
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            if host.is_empty() || !host.bytes().all(plain) || !digits {
                return None;
            }
            (host.to_owned(), port.parse().ok()?)
        }
    };
    (port != 0).then_some(UpstreamAddress::Tcp { host, port })
}

fn unix_socket(path: &str) -> Result<UpstreamAddress, Complaint> {
    // `sun_path` of unix(7) has 108 bytes, of which one ends it.
    const LONGEST: usize = 107;
    if !path.starts_with('/') {
        return Err("a Unix socket's path must be absolute: `unix:/run/mta.sock`".to_owned());
    }
    if path.len() > LONGEST {
        return Err(format!(
            "a Unix socket's path has at most {LONGEST} bytes, this has {}",
            path.len()
        ));
    }
    Ok(UpstreamAddress::Unix(PathBuf::from(path)))
}

/// Adds `demo_store` to the demo's address, and refuses it beside any other.
fn with_store(
    section: &mut Section<'_>,
    address: Option<UpstreamAddress>,
    folder: &Path,
) -> Option<UpstreamAddress> {
    let written = section.optional("demo_store", |node| Ok((value::text(node)?, node.place)));
    let Some((file, place)) = written else {
        return address;
    };
    match address? {
        UpstreamAddress::Demo { .. } => Some(UpstreamAddress::Demo {
            store: Some(folder.join(file)),
        }),
        other @ (UpstreamAddress::Tcp { .. } | UpstreamAddress::Unix(_)) => {
            section
                .reader()
                .fault(place, "`upstream.demo_store` is for `address: demo` alone");
            Some(other)
        }
    }
}

/// Names with a meaning of their own. To set one of these would change how a request is read or where
/// it seems to come from, not say who sent it. Folded as [`gatepost_auth::headers`] does.
const TAKEN: [&str; 24] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];

fn identity_header(node: &Node) -> Result<HeaderName, Complaint> {
    let text = value::text(node)?;
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("`{}` is not a header name", shorten(&text)))?;
    if TAKEN.contains(&name.as_str().replace('_', "-").as_str()) {
        return Err(format!(
            "`{text}` has a meaning of its own and cannot carry the identity"
        ));
    }
    Ok(name)
}
