//! Names to addresses, and how long they hold. The system's own function says no word about the second.
//!
//! Where requests go depends on the answer, so it is taken as it is meant: "there is no such name" leads on (to the next domain of the
//! search list, or to IPv6), "I cannot say" does not. A name server that fails for a moment must not send identities to another
//! host that happens to have the name in another domain.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::time::timeout;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) until: Instant,
}

/// Why there are no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// Name servers say that there are none.
    #[error("there is no such name, or it has no address")]
    None,
    /// Nobody could say.
    #[error("{0}")]
    Unknown(String),
}

/// How many addresses one name may have.
const MOST: usize = 64;

/// How long all tries together may take.
const TIME: Duration = Duration::from_secs(10);

/// How long an answer holds, whatever it says itself. `/etc/hosts` says nothing; a record that holds no time would be asked for
/// without end.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Looks a name up: `/etc/hosts` first, then these name servers, or the system's where there are none. IPv6 where it has no IPv4.
///
/// Everything is read anew each time, so that a changed `/etc/resolv.conf` counts.
///
/// # Errors
///
/// [`NoAnswer`].
pub(crate) async fn lookup(host: &str, nameservers: &[SocketAddr]) -> Result<Answer, NoAnswer> {
    let unknown = |fault: String| NoAnswer::Unknown(fault);
    // Not `from_utf8`, which takes no underscore: hosts of containers have them.
    let mut name = Name::from_ascii(host).map_err(|fault| unknown(fault.to_string()))?;
    if let Some(found) = in_hosts(host, &read_hosts()) {
        return answer(host, found, LONGEST);
    }
    if is_localhost(host) {
        // RFC 6761 §6.3: nobody else is asked about it.
        return answer(host, vec![Ipv4Addr::LOCALHOST.into()], LONGEST);
    }
    let (config, mut options) = if nameservers.is_empty() {
        read_system_conf()
            .map_err(|fault| unknown(format!("/etc/resolv.conf cannot be used: {fault}")))?
    } else {
        (asking(nameservers), ResolverOpts::default())
    };
    let candidates = candidates(&mut name, &config, options.ndots);
    options.use_hosts_file = ResolveHosts::Never;
    // What the system's file does not say would take all of the time for one try.
    options.timeout = options.timeout.min(Duration::from_secs(2));
    // One after the other: whose answer counts must not depend on who is quicker.
    let servers = config.name_servers().iter().map(|server| {
        let alone = ResolverConfig::from_name_servers(vec![server.clone()]);
        TokioResolver::builder_with_config(alone, TokioRuntimeProvider::default())
            .with_options(options.clone())
            .build()
            .map_err(|fault| unknown(fault.to_string()))
    });
    let servers = servers.collect::<Result<Vec<_>, _>>()?;
    let asking = async {
        for candidate in candidates {
            for kind in [RecordType::A, RecordType::AAAA] {
                let Some(found) = ask(&servers, &candidate, kind).await? else {
                    continue;
                };
                let ips = ips(found.answers().iter().map(|it| &it.data));
                let holds = found.valid_until();
                if !ips.is_empty() {
                    let holds = holds.saturating_duration_since(Instant::now());
                    return answer(host, ips, holds);
                }
            }
        }
        Err(NoAnswer::None)
    };
    timeout(TIME, asking)
        .await
        .unwrap_or_else(|_| Err(unknown("no name server answered in time".to_owned())))
}

/// The word of the first server that has one; `None` where it says that there is nothing.
async fn ask(
    servers: &[TokioResolver],
    name: &Name,
    kind: RecordType,
) -> Result<Option<Lookup>, NoAnswer> {
    let mut last = "there is no name server".to_owned();
    for server in servers {
        match server.lookup(name.clone(), kind).await {
            Ok(found) => return Ok(Some(found)),
            Err(fault) if fault.is_no_records_found() || fault.is_nx_domain() => return Ok(None),
            Err(fault) => last = fault.to_string(),
        }
    }
    Err(NoAnswer::Unknown(last))
}

fn asking(nameservers: &[SocketAddr]) -> ResolverConfig {
    let servers = nameservers.iter().map(|server| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut it| {
            it.port = server.port();
            it
        });
        NameServerConfig::new(server.ip(), true, connections.to_vec())
    });
    ResolverConfig::from_name_servers(servers.collect())
}

fn read_hosts() -> String {
    /// In bytes. Lists of blocked names are this large.
    const MOST: u64 = 16 << 20;
    let mut text = String::new();
    let read = File::open("/etc/hosts").and_then(|it| it.take(MOST).read_to_string(&mut text));
    // One that is not there, or no text, has no names.
    read.map(|_| text).unwrap_or_default()
}

/// hosts(5): an address and its names on each line. IPv4 before IPv6, as with name servers.
fn in_hosts(host: &str, text: &str) -> Option<Vec<IpAddr>> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words.any(|it| it.eq_ignore_ascii_case(host)).then_some(ip)
    });
    let (ipv4, ipv6): (Vec<_>, Vec<_>) = lines.partition(IpAddr::is_ipv4);
    [ipv4, ipv6].into_iter().find(|it| !it.is_empty())
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

fn ips<'a>(data: impl Iterator<Item = &'a RData>) -> Vec<IpAddr> {
    data.filter_map(|it| it.ip_addr()).collect()
}

/// The whole names to ask for, in their order (resolv.conf(5), `search` and `ndots`).
fn candidates(name: &mut Name, config: &ResolverConfig, ndots: usize) -> Vec<Name> {
    if name.is_fqdn() {
        return vec![name.clone()];
    }
    let dots = usize::from(name.num_labels()).saturating_sub(1);
    // The host's own domain only where there is no list (resolv.conf(5), `domain`).
    let own = config.domain().filter(|_| config.search().is_empty());
    let search = config.search().iter().chain(own);
    let mut all: Vec<Name> = Vec::new();
    for domain in search {
        if let Ok(mut whole) = name.clone().append_domain(domain) {
            whole.set_fqdn(true);
            if !all.contains(&whole) {
                all.push(whole);
            }
        }
    }
    name.set_fqdn(true);
    let place = if dots >= ndots { 0 } else { all.len() };
    all.insert(place, name.clone());
    all
}

/// What is no address of a host is left out, and what is left is in one order, so that the same answer looks the same.
fn answer(host: &str, found: Vec<IpAddr>, holds: Duration) -> Result<Answer, NoAnswer> {
    let mut addresses: Vec<IpAddr> = found.into_iter().map(|it| it.to_canonical()).collect();
    addresses.retain(|it| {
        let is_host = match it {
            IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_multicast() && !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
        };
        if !is_host {
            tracing::warn!(host, address = %it, "a name stands for what is no host");
        }
        is_host
    });
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > MOST {
        let found = addresses.len();
        tracing::warn!(host, found, used = MOST, "too many addresses");
        addresses.truncate(MOST);
    }
    if addresses.is_empty() {
        return Err(NoAnswer::Unknown(
            "none of its addresses is a host's".to_owned(),
        ));
    }
    let until = Instant::now() + holds.clamp(SHORTEST, LONGEST);
    Ok(Answer { addresses, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, search: &[&str], ndots: usize, expected: &[&str]) {
        let search = search.iter().map(|it| Name::from_utf8(it).unwrap());
        let config = ResolverConfig::from_parts(None, search.collect(), Vec::new());
        let mut name = Name::from_utf8(host).unwrap();
        let got: Vec<String> = candidates(&mut name, &config, ndots)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(got, expected, "{host}");
    }

    #[test]
    fn names_are_completed_as_resolv_conf_says() {
        let search = ["mail.svc.test.", "svc.test."];
        check(
            "mta",
            &search,
            1,
            &["mta.mail.svc.test.", "mta.svc.test.", "mta."],
        );
        check(
            "mta.x",
            &search,
            1,
            &["mta.x.", "mta.x.mail.svc.test.", "mta.x.svc.test."],
        );
        check(
            "mta.x",
            &search,
            5,
            &["mta.x.mail.svc.test.", "mta.x.svc.test.", "mta.x."],
        );
        check("mta.x.", &search, 5, &["mta.x."]);
        check("mta", &[], 1, &["mta."]);
    }

    #[test]
    fn hosts_are_read_as_they_are_written() {
        let text = "# 10.0.0.9 mta\n10.0.0.1 mta.test MTA my_mta # not_me\nfd00::1 mta six\n10.0.0.2\tmta\nx mta\n";
        let of = |host: &str| {
            let found = in_hosts(host, text).unwrap_or_default();
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of("mta"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(of("my_mta."), ["10.0.0.1"]);
        assert_eq!(of("six"), ["fd00::1"]);
        assert_eq!((of("not_me"), of("ta")), (vec![], vec![]));
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost.", true),
            ("mta.localhost", true),
            ("localhost.test", false),
            ("notlocalhost", false),
        ] {
            assert_eq!(is_localhost(host), expected, "{host}");
        }
    }

    #[test]
    fn the_hosts_own_domain_is_for_want_of_a_list() {
        let domain = Name::from_ascii("own.test.").unwrap();
        let with = |search: Vec<Name>| {
            let config = ResolverConfig::from_parts(Some(domain.clone()), search, Vec::new());
            candidates(&mut Name::from_ascii("mta").unwrap(), &config, 1).len()
        };
        assert_eq!(with(Vec::new()), 2);
        assert_eq!(with(vec![Name::from_ascii("a.test.").unwrap()]), 2);
    }

    #[test]
    fn what_is_no_host_is_no_address() {
        let of = |found: &[&str]| {
            let found = found.iter().map(|it| it.parse().unwrap()).collect();
            answer("x", found, Duration::ZERO).map(|it| it.addresses)
        };
        let ips = |all: &[&str]| Ok(all.iter().map(|it| it.parse().unwrap()).collect());
        assert_eq!(
            of(&["10.0.0.2", "10.0.0.1", "::ffff:10.0.0.2"]),
            ips(&["10.0.0.1", "10.0.0.2"])
        );
        assert_eq!(
            of(&["0.0.0.0", "224.0.0.1", "255.255.255.255", "fd00::1"]),
            ips(&["fd00::1"])
        );
        assert!(matches!(of(&["::", "ff02::1"]), Err(NoAnswer::Unknown(_))));
    }
}
