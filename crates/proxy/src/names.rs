//! Names to addresses, and how long they hold. The system's own function says no word about the second.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::time::timeout;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) until: Instant,
}

/// How many addresses one name may have.
const MOST: usize = 64;

/// How long all tries together may take.
const TIME: Duration = Duration::from_secs(10);

/// How long an answer holds, whatever it says itself. `/etc/hosts` says a day; a record without any time would be asked for
/// without end.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Looks a name up: `/etc/hosts` first, then these name servers, or the system's where there are none.
///
/// Everything is read anew each time, so that a changed `/etc/resolv.conf` counts.
///
/// # Errors
///
/// What went wrong.
pub(crate) async fn lookup(host: &str, nameservers: &[SocketAddr]) -> Result<Answer, String> {
    let resolver = resolver(nameservers)?;
    let found = timeout(TIME, resolver.lookup_ip(host)).await;
    let found = found.map_err(|_| "no name server answered in time".to_owned())?;
    let found = found.map_err(|fault| fault.to_string())?;
    let mut addresses: Vec<IpAddr> = found.iter().collect();
    // In one order, so that the same answer looks the same.
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > MOST {
        tracing::warn!(
            host,
            found = addresses.len(),
            used = MOST,
            "too many addresses"
        );
        addresses.truncate(MOST);
    }
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    let now = Instant::now();
    let holds = found.valid_until().saturating_duration_since(now);
    let until = now + holds.clamp(SHORTEST, LONGEST);
    Ok(Answer { addresses, until })
}

fn resolver(nameservers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let mut builder = if nameservers.is_empty() {
        TokioResolver::builder_tokio()
            .map_err(|fault| format!("/etc/resolv.conf cannot be used: {fault}"))?
    } else {
        let servers = nameservers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut it| {
                it.port = server.port();
                it
            });
            NameServerConfig::new(server.ip(), true, connections.to_vec())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        // As others have it in /etc/resolv.conf, it would take all of the time for one try.
        builder.options_mut().timeout = Duration::from_secs(2);
        builder
    };
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    builder.build().map_err(|fault| fault.to_string())
}
