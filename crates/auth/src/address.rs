//! Client addresses and the lists of networks that trust hangs on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Subnets};

use crate::proxy_header::ProxyHeaderFault;
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

    /// Networks that hold the same addresses and do not overlap, to be shown.
    pub fn cover(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.iter().flat_map(|&(first, last)| {
            Ipv4Subnets::new(Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last), 0)
        });
        let v6 = self.v6.iter().flat_map(|&(first, last)| {
            Ipv6Subnets::new(Ipv6Addr::from_bits(first), Ipv6Addr::from_bits(last), 0)
        });
        v4.map(IpNet::V4).chain(v6.map(IpNet::V6))
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
pub(crate) fn canonical(network: IpNet) -> IpNet {
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

/// A binary search whose steps are no branches, as nobody can foresee which way they would go: of two and of sixteen bytes, half of them
/// being foreseen wrongly costs several times as much as the steps.
fn holds<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let begins_before = |index: usize| {
        ranges
            .get(index)
            .is_some_and(|(first, _)| *first <= address)
    };
    let (mut at, mut left) = (0, ranges.len());
    while left > 1 {
        let half = left / 2;
        // All ones or all zeros.
        at += half & 0_usize.wrapping_sub(usize::from(begins_before(at + half)));
        left -= half;
    }
    ranges
        .get(at)
        .is_some_and(|(first, last)| *first <= address && address <= *last)
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

/// How a connection reached gatepost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The address at the other end of the TCP connection; unspecified where there is none.
    pub peer: IpAddr,
    /// What a PROXY header said, where one was required of the peer.
    pub told: Told,
}

/// What a PROXY header says about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// None is asked for on this listener.
    Nothing,
    /// None is asked for of this peer, but it is of proxies. Whoever is one by now, after a reload, was none
    /// when its connection began, so what its requests say of others is not believed.
    Unasked,
    /// Its client's address.
    Source(IpAddr),
    /// Its client's address, said on a Unix socket: who may say it is a matter of who may open that.
    SourceByFile(IpAddr),
    /// There was one, but it names no client: the proxy's own connection, or one that it cannot name.
    NoSource,
}

impl Arrival {
    /// A connection on a Unix socket. It has no address, so nothing may be believed for one.
    #[must_use]
    pub fn local() -> Self {
        Self {
            peer: Ipv4Addr::UNSPECIFIED.into(),
            told: Told::NoSource,
        }
    }

    /// The address by which logs know it.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        match self.told {
            Told::Source(source) | Told::SourceByFile(source) => source.to_canonical(),
            Told::Nothing | Told::Unasked | Told::NoSource => self.peer.to_canonical(),
        }
    }

    /// A connection without a PROXY header.
    #[must_use]
    pub fn direct(peer: IpAddr) -> Self {
        Self {
            peer: peer.to_canonical(),
            told: Told::Nothing,
        }
    }
}

/// The header in which trusted proxies name their clients. Only one is believed: a proxy that writes the
/// one hands on the other as its client sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HopHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Whose request it is, and by whom it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The client's address.
    pub client: IpAddr,
    /// The address at the other end of the TCP connection.
    pub peer: IpAddr,
    /// Whether nobody knows whose request it is: a proxy's, or that of a client whom the proxy cannot name.
    nameless: bool,
    /// The trusted HTTP proxies between the two, the client's own first. Empty where it came directly.
    hops: Vec<IpAddr>,
}

impl Origin {
    /// A client that is the peer.
    #[must_use]
    pub fn direct(peer: IpAddr) -> Self {
        Self {
            client: peer.to_canonical(),
            peer: peer.to_canonical(),
            nameless: false,
            hops: Vec::new(),
        }
    }

    /// Whose request it is: the peer, or what trusted proxies say of it.
    ///
    /// A header is believed only when the connection comes from a trusted proxy, and then from the
    /// right: each proxy appends the address that it saw, so the first hop from the right that is no
    /// trusted proxy is the last one that nobody could forge. Hops to its left are the client's own
    /// words, and are dropped.
    ///
    /// # Errors
    ///
    /// [`Refusal::ForwardedFor`] where a hop that has to be looked at cannot be read. Guessing past it
    /// could only raise trust.
    pub fn find(
        arrival: Arrival,
        headers: &HeaderMap,
        believed: HopHeader,
        trusted_proxies: &Networks,
    ) -> Result<Self, Refusal> {
        let peer = arrival.peer.to_canonical();
        let mut origin = Self {
            client: arrival.client(),
            peer,
            nameless: arrival.told == Told::NoSource,
            hops: Vec::new(),
        };
        match arrival.told {
            // Where a PROXY header names nobody, whose words the headers are is not known.
            Told::NoSource | Told::Unasked => return Ok(origin),
            // Trusted when the connection began, and not any more.
            Told::Source(_) if !trusted_proxies.contains(peer) => {
                return Err(Refusal::ProxyHeader(ProxyHeaderFault::Distrusted));
            }
            Told::Nothing | Told::Source(_) | Told::SourceByFile(_) => {
                if !trusted_proxies.contains(origin.client) {
                    return Ok(origin);
                }
            }
        }
        match believed {
            HopHeader::XForwardedFor => {
                let lines = headers.get_all("x-forwarded-for").iter().rev();
                let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
                origin.walk(hops.map(parse_hop), trusted_proxies)?;
            }
            HopHeader::Forwarded => {
                let mut hops = Vec::new();
                for line in headers.get_all("forwarded") {
                    forwarded::hops(line.as_bytes(), &mut hops).ok_or(Refusal::ForwardedFor)?;
                }
                origin.walk(hops.into_iter().rev(), trusted_proxies)?;
            }
        }
        Ok(origin)
    }

    fn walk(
        &mut self,
        hops: impl Iterator<Item = Option<IpAddr>>,
        trusted_proxies: &Networks,
    ) -> Result<(), Refusal> {
        for hop in hops {
            let hop = hop.ok_or(Refusal::ForwardedFor)?;
            self.hops.push(self.client);
            self.client = hop;
            if !trusted_proxies.contains(hop) {
                break;
            }
        }
        self.hops.reverse();
        Ok(())
    }

    /// The address that trust may hang on. None where nobody knows whose request it is.
    #[must_use]
    pub fn trustworthy(&self) -> Option<IpAddr> {
        (!self.nameless).then_some(self.client)
    }

    /// Whether a trusted HTTP proxy named the client.
    #[must_use]
    pub fn is_by_proxy(&self) -> bool {
        !self.hops.is_empty()
    }

    /// What `X-Forwarded-For` says to the next hop: the client, and the proxies that vouch for it.
    #[must_use]
    pub fn forwarded_for(&self) -> String {
        let mut text = self.client.to_string();
        for hop in &self.hops {
            text.push_str(", ");
            text.push_str(&hop.to_string());
        }
        text
    }
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

/// The address that rate limits go by: an IPv6 client has a whole /64 to itself (RFC 6177 §2).
#[must_use]
pub fn limited_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        // Behind 64:ff9b::/96 lies all of IPv4 (RFC 6052 §2.1).
        IpAddr::V6(address) if address.segments().starts_with(&[0x64, 0xff9b, 0, 0, 0, 0]) => {
            let [.., a, b, c, d] = address.octets();
            IpAddr::from([a, b, c, d])
        }
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

/// The header `Forwarded` (RFC 7239 §4).
mod forwarded {
    use std::net::IpAddr;

    /// Adds the hops of one header line, from the left; `None` among them for a hop that names no
    /// address. The whole gives `None` where the line is not of the grammar: a quote that the client
    /// left open would make the proxy's own words a part of it.
    pub(super) fn hops(line: &[u8], hops: &mut Vec<Option<IpAddr>>) -> Option<()> {
        let mut rest = line.trim_ascii();
        loop {
            let mut named: Option<Option<IpAddr>> = None;
            loop {
                let (name, after) = split_at(rest, b'=')?;
                let (value, after) = value(after)?;
                if name.eq_ignore_ascii_case(b"for") {
                    // Twice in one element is two answers to one question.
                    if named.is_some() {
                        return None;
                    }
                    named = Some(super::parse_hop(&value));
                } else if !is_token(name) {
                    return None;
                }
                rest = after.trim_ascii_start();
                match rest.split_first() {
                    Some((b';', after)) => rest = after,
                    _ => break,
                }
            }
            hops.push(named.flatten());
            match rest.split_first() {
                None => return Some(()),
                Some((b',', after)) => rest = after.trim_ascii_start(),
                Some(_) => return None,
            }
        }
    }

    fn split_at(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
        let at = bytes.iter().position(|byte| *byte == separator)?;
        let (before, after) = bytes.split_at(at);
        Some((before, after.get(1..)?))
    }

    /// A token, or a quoted string with its escapes resolved; and what follows it.
    fn value(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
        let Some((b'"', quoted)) = bytes.split_first() else {
            let end = bytes
                .iter()
                .position(|byte| matches!(byte, b';' | b',' | b' ' | b'\t'))
                .unwrap_or(bytes.len());
            let (token, after) = bytes.split_at(end);
            // An address with a port needs quotes, but is often written without.
            let plain = |byte: &u8| is_token(&[*byte]) || matches!(byte, b':' | b'[' | b']');
            return (!token.is_empty() && token.iter().all(plain)).then(|| (token.to_vec(), after));
        };
        let mut text = Vec::new();
        let mut rest = quoted;
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            match byte {
                b'"' => return Some((text, rest)),
                b'\\' => {
                    let (escaped, after) = rest.split_first()?;
                    text.push(*escaped);
                    rest = after;
                }
                other => text.push(*other),
            }
        }
    }

    /// RFC 9110 §5.6.2.
    fn is_token(bytes: &[u8]) -> bool {
        !bytes.is_empty()
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

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
        for one in ["192.0.2.1", "2001:db8::1"] {
            assert!(!networks(&[one]).is_empty(), "{one}");
        }
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
    fn a_set_is_shown_without_overlaps() {
        let shown: Vec<_> = networks(&[
            "10.0.0.0/9",
            "10.1.2.0/24",
            "10.128.0.0/9",
            "::ffff:192.0.2.1/128",
            "2001:db8::/32",
        ])
        .cover()
        .map(|it| it.to_string())
        .collect();
        assert_eq!(
            shown,
            [
                "10.0.0.0/9",
                "10.128.0.0/9",
                "192.0.2.1/32",
                "2001:db8::/32"
            ]
        );
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

    /// `None`: refused.
    fn check(arrival: Arrival, believed: HopHeader, lines: &[&str], expected: Option<&str>) {
        let name = match believed {
            HopHeader::XForwardedFor => "x-forwarded-for",
            HopHeader::Forwarded => "forwarded",
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_str(line).unwrap());
        }
        let proxies = networks(&["10.0.0.0/8", "::1"]);
        let got = Origin::find(arrival, &headers, believed, &proxies);
        let got = got.ok().map(|origin| origin.forwarded_for());
        assert_eq!(got.as_deref(), expected, "{arrival:?} {lines:?}");
    }

    /// The expected text is what goes on to the upstream; its first address is the client's.
    fn check_client(peer: &str, lines: &[&str], expected: Option<&str>) {
        let arrival = Arrival::direct(address(peer));
        check(arrival, HopHeader::XForwardedFor, lines, expected);
    }

    #[test]
    fn forwarded_for_is_read_from_the_right_and_only_from_trusted_proxies() {
        check_client("192.0.2.1", &["127.0.0.1"], Some("192.0.2.1"));
        check_client("10.0.0.1", &[], Some("10.0.0.1"));
        check_client("10.0.0.1", &["203.0.113.9"], Some("203.0.113.9, 10.0.0.1"));
        check_client(
            "10.0.0.1",
            &["127.0.0.1, 203.0.113.9"],
            Some("203.0.113.9, 10.0.0.1"),
        );
        check_client(
            "10.0.0.1",
            &["127.0.0.1", "203.0.113.9, 10.3.3.3"],
            Some("203.0.113.9, 10.3.3.3, 10.0.0.1"),
        );
        check_client(
            "10.0.0.1",
            &["10.1.1.1, 10.2.2.2"],
            Some("10.1.1.1, 10.2.2.2, 10.0.0.1"),
        );
        check_client(
            "::ffff:10.0.0.1",
            &["::ffff:203.0.113.9"],
            Some("203.0.113.9, 10.0.0.1"),
        );
        check_client(
            "10.0.0.1",
            &["203.0.113.9:4711"],
            Some("203.0.113.9, 10.0.0.1"),
        );
        check_client("::1", &["[2001:db8::7]:80"], Some("2001:db8::7, ::1"));
        check_client("::1", &["[2001:db8::7]"], Some("2001:db8::7, ::1"));
    }

    #[test]
    fn a_hop_that_cannot_be_read_is_never_guessed() {
        for unreadable in [
            "unknown",
            "203.0.113.9,",
            "",
            "203.0.113.9:x",
            "[::1",
            "_hidden",
        ] {
            check_client("10.0.0.1", &[unreadable], None);
        }
        // To the left of the answer anything goes: those are the client's own words.
        check_client(
            "10.0.0.1",
            &["garbage, 203.0.113.9"],
            Some("203.0.113.9, 10.0.0.1"),
        );
        let thousand = "1.2.3.4, ".repeat(1000) + "203.0.113.9";
        check_client("10.0.0.1", &[&thousand], Some("203.0.113.9, 10.0.0.1"));
    }

    #[test]
    fn forwarded_is_read_like_it() {
        let check_forwarded = |lines: &[&str], expected| {
            let arrival = Arrival::direct(address("10.0.0.1"));
            check(arrival, HopHeader::Forwarded, lines, expected);
        };
        let real = Some("203.0.113.9, 10.0.0.1");
        check_forwarded(&["for=203.0.113.9"], real);
        check_forwarded(&["For=\"203.0.113.9:80\";proto=http;by=10.0.0.1"], real);
        check_forwarded(&["proto=https; FOR=203.0.113.9 , for=10.2.2.2"], None);
        check_forwarded(
            &["proto=https;FOR=203.0.113.9 , for=10.2.2.2"],
            Some("203.0.113.9, 10.2.2.2, 10.0.0.1"),
        );
        check_forwarded(&["for=127.0.0.1", "for=203.0.113.9"], real);
        check_forwarded(&["for=127.0.0.1, for=203.0.113.9"], real);
        check_forwarded(
            &["for=\"[2001:db8::17]:4711\""],
            Some("2001:db8::17, 10.0.0.1"),
        );
        check_forwarded(&["for=unknown, for=203.0.113.9"], real);
        for refused in [
            "",
            "for",
            "for=",
            "for=unknown",
            "for=_secret",
            "proto=http",
            "for=1.2.3.4;for=203.0.113.9",
            "for=203.0.113.9,",
            "for=203.0.113.9 for=1.2.3.4",
            "for=\"203.0.113.9",
            "for=\"203.0.113.9\"x",
            // Around the one that could be read, something that is not of the grammar.
            "x=;for=203.0.113.9",
            "x=();for=203.0.113.9",
            "=x;for=203.0.113.9",
            "(=x;for=203.0.113.9",
        ] {
            check_forwarded(&[refused], None);
        }
    }

    /// The attack: a quote that the client leaves open swallows what the proxy appends to the line.
    #[test]
    fn an_open_quote_does_not_swallow_the_proxys_own_words() {
        let arrival = Arrival::direct(address("10.0.0.1"));
        for (client, proxy) in [
            ("for=127.0.0.1;x=\"", "for=203.0.113.9"),
            ("for=127.0.0.1;x=\"", "for=\"[2001:db8::1]:80\""),
            ("for=127.0.0.1;x=\"a\\\"", "for=\"[2001:db8::1]:80\""),
            ("for=127.0.0.1;x=\"\\", "for=\"[2001:db8::1]:80\""),
        ] {
            let line = format!("{client}, {proxy}");
            check(arrival, HopHeader::Forwarded, &[&line], None);
        }
    }

    #[test]
    fn a_proxy_header_names_the_peer_of_the_http_hops() {
        let arrival = |told| Arrival {
            peer: address("10.0.0.1"),
            told,
        };
        let check_told = |told, lines: &[&str], expected: &str| {
            check(
                arrival(told),
                HopHeader::XForwardedFor,
                lines,
                Some(expected),
            );
        };
        let client = Told::Source(address("203.0.113.9"));
        check_told(client, &["127.0.0.1"], "203.0.113.9");
        let inner = Told::Source(address("10.7.7.7"));
        check_told(inner, &["203.0.113.9"], "203.0.113.9, 10.7.7.7");
        // It was no proxy when its connection began.
        check_told(Told::Unasked, &["203.0.113.9"], "10.0.0.1");
        // Whose words the header is cannot be known.
        check_told(Told::NoSource, &["203.0.113.9"], "10.0.0.1");
        // Trusted when its connection began, and not any more.
        let gone = Arrival {
            peer: address("192.0.2.1"),
            told: client,
        };
        let proxies = networks(&["10.0.0.0/8"]);
        assert_eq!(
            Origin::find(gone, &HeaderMap::new(), HopHeader::XForwardedFor, &proxies),
            Err(Refusal::ProxyHeader(ProxyHeaderFault::Distrusted))
        );
    }

    /// The attack: whoever may open a Unix socket names a trusted host, or is in a list that holds every address.
    #[test]
    fn a_unix_socket_has_no_address() {
        let headers = |value| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", HeaderValue::from_static(value));
            headers
        };
        let find = |arrival, value, proxies: &[&str]| {
            let proxies = proxies.iter().map(|it| parse_network(it).unwrap());
            let believed = HopHeader::XForwardedFor;
            Origin::find(arrival, &headers(value), believed, &proxies.collect()).unwrap()
        };
        let origin = find(Arrival::local(), "127.0.0.1", &["0.0.0.0/0", "::/0"]);
        assert_eq!(origin.trustworthy(), None);
        assert_eq!(origin.client, address("0.0.0.0"));
        // A PROXY header is believed, as the file's permissions say; headers of HTTP only behind a trusted proxy.
        let told = |source| Arrival {
            told: Told::SourceByFile(address(source)),
            ..Arrival::local()
        };
        let origin = find(told("192.0.2.7"), "127.0.0.1", &["192.0.2.9"]);
        assert_eq!(origin.trustworthy(), Some(address("192.0.2.7")));
        let origin = find(told("192.0.2.9"), "192.0.2.8", &["192.0.2.9"]);
        assert_eq!(origin.trustworthy(), Some(address("192.0.2.8")));
    }

    #[test]
    fn an_ipv6_client_is_limited_by_its_network() {
        let check = |from: &str, expected: &str| {
            assert_eq!(limited_as(address(from)), address(expected));
        };
        check("192.0.2.1", "192.0.2.1");
        check("::ffff:192.0.2.1", "192.0.2.1");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
        check("64:ff9b::192.0.2.1", "192.0.2.1");
    }

    /// What goes on to the upstream beside the address hangs on it.
    #[test]
    fn whether_a_proxy_named_the_client_is_known() {
        let proxies = networks(&["10.0.0.1"]);
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
        for (peer, expected) in [("10.0.0.1", true), ("192.0.2.1", false)] {
            let arrival = Arrival::direct(address(peer));
            let origin = Origin::find(arrival, &headers, HopHeader::XForwardedFor, &proxies);
            assert_eq!(origin.unwrap().is_by_proxy(), expected, "{peer}");
        }
    }
}
