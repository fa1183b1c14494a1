//! Where the upstream is: its addresses, and which of several gets a request.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::kind::{self, Kind};
use crate::node::Node;
use crate::read::{HOUR, MILLISECOND};
use crate::section::{Complaint, Section, describe};
use crate::settings::{Balance, Balancing, CircuitBreaker, HealthCheck, UpstreamAddress};
use crate::value;

/// Longer than the largest message takes on a slow line.
pub(crate) const TOTAL_TIMEOUT: Duration = Duration::from_secs(600);

/// Whether the upstream is spoken to over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// `upstream.address`: one, or a list. `None` is a fault that has been recorded.
pub(crate) fn addresses(
    section: &mut Section<'_>,
    folder: &Path,
) -> Option<(Vec<UpstreamAddress>, Scheme)> {
    const PATTERN: &str = "^(?:demo|unix:/.+|[Hh][Tt][Tt][Pp][Ss]://[^/]+|[^/]+:[0-9]+)$";
    let words = "`host:port`, `https://host:port`, `unix:/path` or `demo`";
    let kind = Kind::text(words, PATTERN, address);
    let found = section.required_one_or_list("address", "[10.0.0.1:8000, 10.0.0.2:8000]", kind);
    let place = section.peek("address").map(|node| node.place);
    let (mut addresses, schemes): (Vec<_>, Vec<_>) = found.unwrap_or_default().into_iter().unzip();
    with_store(section, &mut addresses, folder);
    let scheme = schemes.first().copied()?;
    let demo = |address: &UpstreamAddress| matches!(address, UpstreamAddress::Demo { .. });
    let complaint = if schemes.iter().any(|it| *it != scheme) {
        "all addresses are `https://`, or none is: who may be told an identity in clear may be told all of them"
    } else if addresses.len() > 1 && addresses.iter().any(demo) {
        "`demo` stands alone"
    } else {
        return Some((addresses, scheme));
    };
    section.reader().fault(place?, complaint);
    None
}

/// How requests are shared out between the addresses.
pub(crate) fn balancing(section: &mut Section<'_>) -> Balancing {
    let ways = [
        ("least_connections", Balance::LeastConnections),
        ("round_robin", Balance::RoundRobin),
    ];
    Balancing {
        balance: section.or("balance", Balance::LeastConnections, kind::word(&ways)),
        nameservers: section.list(
            "nameservers",
            "[10.0.0.53]",
            Kind::text("an address, with or without a port", kind::TEXT, nameserver),
        ),
        max_connections: section.or(
            "max_connections",
            None,
            kind::or_off(kind::integer(1..=1_000_000_usize)),
        ),
        circuit_breaker: circuit_breaker(section),
        health_check: health_check(section),
    }
}

fn circuit_breaker(section: &mut Section<'_>) -> Option<CircuitBreaker> {
    let (mut section, is_off) = section.section_or_off("circuit_breaker");
    let breaker = CircuitBreaker {
        max_failures: section.or("max_failures", 5, kind::integer(1..=1000_u32)),
        open_for: section.or(
            "open_for",
            Duration::from_secs(10),
            kind::duration(MILLISECOND..=HOUR),
        ),
    };
    section.finish();
    (!is_off).then_some(breaker)
}

fn health_check(section: &mut Section<'_>) -> Option<HealthCheck> {
    let is_absent = section.peek("health_check").is_none() && !section.reader().looks_around();
    let (mut section, is_off) = section.section_or_off("health_check");
    let time = || kind::duration(MILLISECOND..=HOUR);
    let threshold = || kind::integer(1..=100_u32);
    let path = Kind::text("a path such as `/health`", "^/[!-\"$-~]{0,1023}$", path);
    let path = if is_absent || is_off {
        section.optional("path", path)
    } else {
        section.required("path", path)
    };
    let interval = section.or("interval", Duration::from_secs(5), time());
    let timeout = section.or("timeout", Duration::from_secs(2), time());
    let healthy_threshold = section.or("healthy_threshold", 2, threshold());
    let unhealthy_threshold = section.or("unhealthy_threshold", 3, threshold());
    if timeout > interval {
        section.reader().fault(
            section.place(),
            "`upstream.health_check.timeout` is longer than `interval`: an address that hangs would hold up the checks of others",
        );
    }
    section.finish();
    Some(HealthCheck {
        path: path?,
        interval,
        timeout,
        healthy_threshold,
        unhealthy_threshold,
    })
}

fn path(node: &Node) -> Result<String, Complaint> {
    let text = value::text(node)?;
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if text.starts_with('/') && text.bytes().all(plain) && text.len() <= 1024 {
        Ok(text)
    } else {
        let found = describe(&node.value);
        Err(format!("expected a path such as `/health`, found {found}"))
    }
}

fn nameserver(node: &Node) -> Result<SocketAddr, Complaint> {
    const PORT: u16 = 53;
    let text = value::text(node)?;
    let with_port = text.parse();
    with_port
        .or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, PORT)))
        .map_err(|_| {
            let found = describe(&node.value);
            format!("expected an IP address, with or without a port, found {found}")
        })
}

fn address(node: &Node) -> Result<(UpstreamAddress, Scheme), Complaint> {
    let text = value::text(node)?;
    if text == "demo" {
        return Ok((UpstreamAddress::Demo { store: None }, Scheme::Http));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_socket(path).map(|path| (UpstreamAddress::Unix(path), Scheme::Http));
    }
    // Schemes are written in any case (RFC 3986 §3.1).
    let scheme = |scheme: &str| {
        let (start, rest) = text.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    if let Some(rest) = scheme("https://") {
        return tcp(rest)
            .or_else(|| tcp(&format!("{rest}:443")))
            .map(|address| (address, Scheme::Https))
            .ok_or_else(|| {
                let found = describe(&node.value);
                format!("expected `https://host:port` without a path, found {found}")
            });
    }
    if scheme("http://").is_some() {
        return Err("write `host:port` without `http://` and without a path".to_owned());
    }
    tcp(&text)
        .map(|address| (address, Scheme::Http))
        .ok_or_else(|| {
            format!(
                "expected `host:port`, `https://host:port`, `unix:/path` or `demo`, found {}",
                describe(&node.value)
            )
        })
}

fn tcp(text: &str) -> Option<UpstreamAddress> {
    let (host, port) = match text.parse::<SocketAddr>() {
        Ok(address) => (address.ip().to_string(), address.port()),
        Err(_) => {
            let (host, port) = text.rsplit_once(':')?;
            // `parse` would take `+80`.
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            if !is_host(host) || !digits {
                return None;
            }
            (host.to_owned(), port.parse().ok()?)
        }
    };
    (port != 0).then_some(UpstreamAddress::Tcp { host, port })
}

/// A name that somebody could be asked about (RFC 1123 §2.1, and underscores, as hosts of containers have them). One that is but numbers is
/// an address that nobody reads alike.
fn is_host(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |it: &str| {
        (1..=63).contains(&it.len())
            && !it.starts_with('-')
            && !it.ends_with('-')
            && it.bytes().all(plain)
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|it| it.is_ascii_digit())
}

pub(crate) fn unix_socket(path: &str) -> Result<PathBuf, Complaint> {
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
    Ok(PathBuf::from(path))
}

/// Adds `demo_store` to the demo's address, and refuses it beside any other.
fn with_store(section: &mut Section<'_>, addresses: &mut [UpstreamAddress], folder: &Path) {
    let written = section.optional("demo_store", kind::path().placed());
    let Some((file, place)) = written else {
        return;
    };
    for address in addresses {
        match address {
            UpstreamAddress::Demo { store } => *store = Some(folder.join(&file)),
            UpstreamAddress::Tcp { .. } | UpstreamAddress::Unix(_) => {
                section
                    .reader()
                    .fault(place, "`upstream.demo_store` is for `address: demo` alone");
                return;
            }
        }
    }
}
