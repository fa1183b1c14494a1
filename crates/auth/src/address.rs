//! Client addresses and the lists of networks that trust hangs on.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderValue;
use ipnet::{IpNet, Ipv4Net};

use crate::refusal::Refusal;

/// A set of networks, made once and asked often.
///
/// Kept as sorted, disjoint ranges: a look-up is one binary search, so 10,000 networks cost no more
/// than fourteen comparisons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Networks {
    /// Whether the address lies in one of the networks. An IPv4-mapped IPv6 address is the IPv4
    /// address that it maps (RFC 4291 §2.5.5.2).
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => holds(&self.v4, address.to_bits()),
            IpAddr::V6(address) => holds(&self.v6, address.to_bits()),
        }
    }

    /// Whether there is no network at all. An empty set trusts nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match canonical(network) {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self {
            v4: disjoint(v4),
            v6: disjoint(v6),
        }
    }
}

/// An IPv6 network inside `::ffff:0:0/96` is the IPv4 network that it maps.
fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(net) = network
        && let Some(mapped) = net.network().to_ipv4_mapped()
        && let Some(length) = net.prefix_len().checked_sub(96)
        && let Ok(net) = Ipv4Net::new(mapped, length)
    {
        return IpNet::V4(net);
    }
    network
}

fn disjoint<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(open) if first <= open.1 => open.1 = open.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.into_boxed_slice()
}

fn holds<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after
        .checked_sub(1)
        .and_then(|index| ranges.get(index))
        .is_some_and(|(_, last)| address <= *last)
}

/// Reads a network as people write it: `10.0.0.0/8`, or a single address.
///
/// # Errors
///
/// [`NetworkFault`] where it is neither, or where bits are set behind the prefix: `10.0.0.1/8` may
/// mean one host or sixteen million, and this is a trust list.
pub fn parse_network(text: &str) -> Result<IpNet, NetworkFault> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text
        .parse()
        .map_err(|_| NetworkFault::Malformed(text.to_owned()))?;
    if network.addr() == network.network() {
        Ok(network)
    } else {
        Err(NetworkFault::HostBits {
            written: text.to_owned(),
            network: network.trunc(),
            host: network.addr(),
        })
    }
}

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkFault {
    /// Neither an address nor `address/prefix`.
    #[error("`{0}` is not an address or network such as 10.0.0.0/8")]
    Malformed(String),
    /// Bits are set behind the prefix.
    #[error(
        "`{written}` has bits set behind its prefix: write `{network}` for the network or `{host}` for the host"
    )]
    HostBits {
        /// The text as written.
        written: String,
        /// The network that it may mean.
        network: IpNet,
        /// The host that it may mean.
        host: IpAddr,
    },
}

/// Whose request it is: the peer, or what a trusted proxy says of it.
///
/// `X-Forwarded-For` is believed only when the peer is a trusted proxy, and then from the right: each
/// proxy appends the address that it saw, so the first hop from the right that is no trusted proxy is
/// the last one that nobody could forge. Hops to its left are the client's own words.
///
/// # Errors
///
/// [`Refusal::ForwardedFor`] where a hop that has to be looked at cannot be read. Guessing past it
/// could only raise trust.
pub fn client_address<'a>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a HeaderValue>,
    trusted_proxies: &Networks,
) -> Result<IpAddr, Refusal> {
    let mut client = peer.to_canonical();
    if !trusted_proxies.contains(client) {
        return Ok(client);
    }
    for line in forwarded_for.rev() {
        for hop in line.as_bytes().rsplit(|byte| *byte == b',') {
            client = parse_hop(hop).ok_or(Refusal::ForwardedFor)?;
            if !trusted_proxies.contains(client) {
                return Ok(client);
            }
        }
    }
    Ok(client)
}

/// An address with or without brackets and port; proxies write all of these.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop.trim_ascii()).ok()?;
    let bracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = match bracketed {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text
            .parse::<IpAddr>()
            .ok()
            .or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip())),
    };
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Networks {
        list.iter()
            .map(|text| parse_network(text).unwrap())
            .collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_empty_list_trusts_nobody() {
        let nobody = Networks::default();
        assert!(nobody.is_empty());
        assert!(!nobody.contains(address("127.0.0.1")));
        assert!(!nobody.contains(address("::1")));
    }

    #[test]
    fn ranges_are_inclusive_and_may_overlap() {
        let set = networks(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7", "2001:db8::/32"]);
        for inside in ["10.0.0.0", "10.255.255.255", "192.0.2.7", "2001:db8::1"] {
            assert!(set.contains(address(inside)), "{inside}");
        }
        for outside in [
            "9.255.255.255",
            "11.0.0.0",
            "192.0.2.6",
            "192.0.2.8",
            "2001:db9::",
        ] {
            assert!(!set.contains(address(outside)), "{outside}");
        }
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        let set = networks(&["127.0.0.0/8"]);
        assert!(set.contains(address("::ffff:127.0.0.1")));
        let mapped = networks(&["::ffff:10.0.0.0/104"]);
        assert!(mapped.contains(address("10.9.9.9")));
        assert!(!mapped.contains(address("11.0.0.1")));
    }

    #[test]
    fn all_of_ipv6_does_not_hold_ipv4() {
        let set = networks(&["::/0"]);
        assert!(set.contains(address("2001:db8::1")));
        assert!(!set.contains(address("192.0.2.1")));
        assert!(!set.contains(address("::ffff:192.0.2.1")));
    }

    #[test]
    fn ten_thousand_networks_agree_with_the_plain_definition() {
        let nets: Vec<IpNet> = (0u32..10_000)
            .map(|i| parse_network(&format!("10.{}.{}.0/25", i / 256, i % 256)).unwrap())
            .collect();
        let set: Networks = nets.iter().copied().collect();
        for i in (0..u32::from(u16::MAX)).step_by(7) {
            let candidate = IpAddr::from((0x0a00_0000 + i * 61).to_be_bytes());
            assert_eq!(
                set.contains(candidate),
                nets.iter().any(|net| net.contains(&candidate)),
                "{candidate}"
            );
        }
    }

    #[test]
    fn a_network_with_host_bits_is_refused() {
        assert!(matches!(
            parse_network("10.0.0.1/8"),
            Err(NetworkFault::HostBits { .. })
        ));
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "localhost",
            "10.0.0.0/-1",
            "1.2.3.4.5",
            "01.2.3.4",
        ] {
            assert!(
                matches!(parse_network(bad), Err(NetworkFault::Malformed(_))),
                "{bad}"
            );
        }
    }

    fn check_client(peer: &str, lines: &[&str], expected: Option<&str>) {
        let values: Vec<HeaderValue> = lines
            .iter()
            .map(|line| HeaderValue::from_str(line).unwrap())
            .collect();
        let proxies = networks(&["10.0.0.0/8", "::1"]);
        let got = client_address(address(peer), values.iter(), &proxies);
        assert_eq!(got.ok(), expected.map(address), "{peer} {lines:?}");
    }

    #[test]
    fn forwarded_for_is_read_from_the_right_and_only_from_trusted_proxies() {
        check_client("192.0.2.1", &["127.0.0.1"], Some("192.0.2.1"));
        check_client("10.0.0.1", &[], Some("10.0.0.1"));
        check_client("10.0.0.1", &["203.0.113.9"], Some("203.0.113.9"));
        check_client("10.0.0.1", &["127.0.0.1, 203.0.113.9"], Some("203.0.113.9"));
        check_client(
            "10.0.0.1",
            &["127.0.0.1", "203.0.113.9, 10.3.3.3"],
            Some("203.0.113.9"),
        );
        check_client("10.0.0.1", &["10.1.1.1, 10.2.2.2"], Some("10.1.1.1"));
        check_client(
            "::ffff:10.0.0.1",
            &["::ffff:203.0.113.9"],
            Some("203.0.113.9"),
        );
        check_client("10.0.0.1", &["203.0.113.9:4711"], Some("203.0.113.9"));
        check_client("::1", &["[2001:db8::7]:80"], Some("2001:db8::7"));
        check_client("::1", &["[2001:db8::7]"], Some("2001:db8::7"));
    }

    #[test]
    fn a_hop_that_cannot_be_read_is_never_guessed() {
        check_client("10.0.0.1", &["unknown"], None);
        check_client("10.0.0.1", &["203.0.113.9,"], None);
        check_client("10.0.0.1", &[""], None);
        // To the left of the answer anything goes: those are the client's own words.
        check_client("10.0.0.1", &["garbage, 203.0.113.9"], Some("203.0.113.9"));
    }
}
