//! What holds for every input, not only for those that somebody thought of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gatepost_auth::address::{Arrival, HopHeader, Origin, parse_network};
use gatepost_auth::path::Target;
use gatepost_auth::proxy_header::{LONGEST, ProxyHeader};
use gatepost_auth::route::{Route, Routes};
use gatepost_auth::wire::{HeadLimits, HeadScanner};
use gatepost_auth::{Allow, AuthInfo, CredentialRules, Credentials, Networks};
use http::{HeaderMap, HeaderValue, Method};
use ipnet::IpNet;
use proptest::prelude::*;

/// Bytes that look a little like what they should be, since pure noise is refused at the first byte.
fn bytes_like(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => proptest::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

fn head() -> impl Strategy<Value = Vec<u8>> {
    bytes_like(&[
        "POST ",
        "GET ",
        "/a",
        "/",
        "..",
        "%2e",
        " ",
        "HTTP/1.1",
        "HTTP/1.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: ",
        "5",
        ",",
        "Transfer-Encoding: chunked\r\n",
        "X: y\r\n",
        ":",
        "\0",
    ])
}

/// Addresses of both kinds, IPv4 also as IPv6 writes it, with so few different bits that they meet.
fn address() -> impl Strategy<Value = IpAddr> {
    let bits = (0u32..8, 0u32..4, 0u32..30).prop_map(|(high, low, at)| (high << 29) | (low << at));
    (bits, 0u8..3).prop_map(|(bits, kind)| {
        let v4 = Ipv4Addr::from_bits(bits);
        match kind {
            0 => v4.into(),
            1 => v4.to_ipv6_mapped().into(),
            _ => Ipv6Addr::from_bits(u128::from(bits) << 90).into(),
        }
    })
}

fn network() -> impl Strategy<Value = IpNet> {
    (address(), 0u8..=128).prop_filter_map("a network", |(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        // Half of the IPv6 networks are those that IPv4 is in.
        let length = if most == 128 && length % 2 == 0 {
            96 + length % 33
        } else {
            length % (most + 1)
        };
        IpNet::new(address, length).ok().map(|it| it.trunc())
    })
}

/// One network after the other. IPv4 is in those of IPv6 that hold nothing else.
fn holds(network: &IpNet, address: IpAddr) -> bool {
    match (network, address.to_canonical()) {
        (IpNet::V6(network), IpAddr::V4(address)) => {
            network.prefix_len() >= 96 && network.contains(&address.to_ipv6_mapped())
        }
        (network, address) => network.contains(&address),
    }
}

proptest! {
    /// A set says of every address what its networks say one by one, also of those beside their ends.
    #[test]
    fn a_set_of_networks_holds_what_they_hold(
        networks in proptest::collection::vec(network(), 0..20),
        others in proptest::collection::vec(address(), 10),
    ) {
        let set: Networks = networks.iter().copied().collect();
        let beside = |address: IpAddr| match address {
            IpAddr::V4(it) => [it.to_bits().wrapping_sub(1), it.to_bits(), it.to_bits().wrapping_add(1)]
                .map(|it| IpAddr::from(Ipv4Addr::from_bits(it))),
            IpAddr::V6(it) => [it.to_bits().wrapping_sub(1), it.to_bits(), it.to_bits().wrapping_add(1)]
                .map(|it| IpAddr::from(Ipv6Addr::from_bits(it))),
        };
        let ends = networks.iter().flat_map(|it| [it.network(), it.broadcast()]);
        for address in ends.flat_map(beside).chain(others) {
            let expected = networks.iter().any(|it| holds(it, address));
            prop_assert_eq!(set.contains(address), expected, "{} in {:?}", address, &networks);
        }
        // What is shown is the same set.
        prop_assert_eq!(set.cover().collect::<Networks>(), set);
    }

    /// It makes no difference where the network cuts a head into pieces.
    #[test]
    fn a_head_reads_the_same_in_pieces(head in head(), cuts in proptest::collection::vec(0usize..400, 0..4)) {
        let whole = HeadScanner::new(HeadLimits::default()).advance(&head);
        let mut scanner = HeadScanner::new(HeadLimits::default());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(head.len())).collect();
        cuts.sort_unstable();
        cuts.push(head.len());
        let mut got = Ok(None);
        for cut in cuts {
            got = scanner.advance(&head[..cut]);
            if got != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(got, whole);
    }

    /// A head that passes has one Host at the most, one framing, and ends where its first empty line is.
    #[test]
    fn a_head_that_passes_has_one_meaning(head in head()) {
        if let Ok(Some(end)) = HeadScanner::new(HeadLimits::default()).advance(&head) {
            let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
            prop_assert!(text.ends_with("\r\n\r\n"));
            prop_assert!(text.matches("content-length:").count() <= 1, "{text}");
            prop_assert!(!(text.contains("content-length:") && text.contains("transfer-encoding:")), "{text}");
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text}");
        }
    }

    /// A path that passes cannot be spelt in another way: decoding and resolving it changes nothing.
    #[test]
    fn a_path_that_passes_is_its_own_normal_form(
        target in bytes_like(&["/", "a", ".", "..", "%2e", "%2F", "%41", "%c3%a9", "?", ";", "//", "\\", "%", "#", "api", "%00"])
    ) {
        if let Ok(parsed) = Target::parse(&target) {
            let path = parsed.path();
            prop_assert!(path.starts_with('/'));
            prop_assert!(!path.contains("//") && !path.contains('\\') && path.is_ascii());
            prop_assert!(path.split('/').all(|segment| !segment.ends_with('.')));
            let mut rest = path;
            while let Some((_, behind)) = rest.split_once('%') {
                let byte = u8::from_str_radix(&behind[..2], 16).unwrap();
                prop_assert!(!byte.is_ascii_alphanumeric() && !b"-._~/\\%\0 ".contains(&byte), "{path}");
                rest = &behind[2..];
            }
        }
    }

    /// Whatever a client sends as credentials: a user name that comes out can be forwarded and logged.
    #[test]
    fn a_user_name_that_passes_is_harmless(text in ".{0,40}", scheme in proptest::sample::select(vec!["Basic", "basic", "Bearer"])) {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(&text);
        let header = format!("{scheme} {encoded}");
        if let Ok(Credentials::Basic { user, .. }) = Credentials::parse(header.as_bytes(), &CredentialRules::default()) {
            prop_assert!(!user.is_empty() && user.len() <= 256 && user.trim() == user);
            prop_assert!(!user.contains(['/', '\\', '\r', '\n', '\0', ':']));
            prop_assert!(user.parse::<std::net::IpAddr>().is_err());
            prop_assert!(http::HeaderValue::from_bytes(user.as_bytes()).is_ok());
            prop_assert!(AuthInfo::basic(&user).is_ok());
        }
    }

    /// The attack: a path that no route names is written in another way, so that a route names it here while the
    /// upstream reads what was refused. Whatever passes is of the same route for an upstream that decodes,
    /// collapses and resolves as much as any does.
    #[test]
    fn no_rewriting_of_a_refused_path_becomes_an_allowed_one(
        target in bytes_like(&[
            "/", "/api/inject/v1", "/api/", "admin", "/messages/", "7", "..", ".", "%2e", "%2E%2e", "%2f", "%5c", "\\", "//", ";", ";x=1",
            "%00", "%61pi", "inject", "%3f", "?", "%23", "%252f", "v1", "%20", "*",
        ])
    ) {
        let routes = Routes::new(
            ["/api/inject/v1", "/messages/*"]
                .map(|path| Route {
                    path: path.parse().unwrap(),
                    methods: vec![Method::POST],
                    allow: vec![Allow::Authenticated],
                    message: None,
                    quota: false,
                    body_limit: None,
                })
                .into(),
        );
        if let Ok(parsed) = Target::parse(&target)
            && let Ok(route) = routes.find(&Method::POST, &parsed)
        {
            let read = lenient(parsed.path());
            let again = match &**route.path.label() {
                "/messages/*" => read.starts_with(b"/messages/") && read.len() > 10,
                exact => read == exact.as_bytes(),
            };
            prop_assert!(again, "{} {}", parsed.path(), read.escape_ascii());
        }
    }

    /// A PROXY header is where it is, and as long as it says, however it arrives.
    #[test]
    fn a_proxy_header_ends_where_it_says(
        bytes in bytes_like(&[
            "PROXY ", "TCP4 ", "TCP6 ", "UNKNOWN", "192.0.2.1 ", "::1 ", "1 2", "\r\n", "\r\n\r\n\0\r\nQUIT\n", "\x21\x11\0\x0c",
            "\x20\0\0\0", "\x21\x21\0\x24", "\x7f\0\0\x01", " ",
        ])
    ) {
        match ProxyHeader::parse(&bytes) {
            Ok(Some(header)) => {
                prop_assert!(header.length <= bytes.len() && header.length <= LONGEST);
                prop_assert_eq!(ProxyHeader::parse(&bytes[..header.length]), Ok(Some(header)));
                for end in 0..header.length {
                    prop_assert_eq!(ProxyHeader::parse(&bytes[..end]), Ok(None));
                }
            }
            Ok(None) => prop_assert!(bytes.len() <= LONGEST),
            Err(fault) => {
                // What is wrong stays wrong, whatever follows.
                let more = [&bytes[..], b"PROXY UNKNOWN\r\n"].concat();
                prop_assert_eq!(ProxyHeader::parse(&more), Err(fault));
            }
        }
    }

    /// The attack: whatever a client writes into the header before its proxy appends the client's address.
    #[test]
    fn what_a_client_says_of_itself_never_counts(
        said in "[-a-z0-9.,:;=\"\\\\ \\[\\]_]{0,60}",
        same_line: bool,
        believed in proptest::sample::select(vec![HopHeader::XForwardedFor, HopHeader::Forwarded]),
    ) {
        let proxies: Networks = [parse_network("10.0.0.0/8").unwrap()].into_iter().collect();
        let real = "203.0.113.9";
        let (name, appended) = match believed {
            HopHeader::XForwardedFor => ("x-forwarded-for", real.to_owned()),
            HopHeader::Forwarded => ("forwarded", format!("for={real}")),
        };
        let lines = if same_line {
            vec![format!("{said}, {appended}")]
        } else {
            vec![said, appended]
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_str(&line).unwrap());
        }
        let arrival = |peer: [u8; 4]| Arrival::direct(IpAddr::from(peer));
        if let Ok(origin) = Origin::find(arrival([10, 0, 0, 1]), &headers, believed, &proxies) {
            prop_assert_eq!(origin.client, real.parse::<IpAddr>().unwrap());
        }
        let stranger = Origin::find(arrival([192, 0, 2, 1]), &headers, believed, &proxies).unwrap();
        prop_assert_eq!(stranger.client, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    }
}

/// A path as an upstream may read it that does everything that some upstream does: decodes escapes, until
/// there are none, ends at NUL, reads `\\` as `/`, drops path parameters and trailing dots, collapses slashes and
/// resolves dot segments.
fn lenient(path: &str) -> Vec<u8> {
    let mut bytes = path.as_bytes().to_vec();
    loop {
        let decoded = decode(&bytes);
        if decoded == bytes {
            break;
        }
        bytes = decoded;
    }
    let end = bytes
        .iter()
        .position(|byte| matches!(byte, 0 | b'?' | b'#'));
    bytes.truncate(end.unwrap_or(bytes.len()));
    let trailing = matches!(bytes.last(), Some(b'/' | b'\\'));
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in bytes.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        match name.trim_ascii() {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            name => {
                let end = name.iter().rposition(|byte| *byte != b'.');
                segments.push(name.get(..=end.unwrap_or(0)).unwrap_or_default());
            }
        }
    }
    let mut read = Vec::new();
    for segment in segments {
        read.push(b'/');
        read.extend_from_slice(segment);
    }
    if trailing || read.is_empty() {
        read.push(b'/');
    }
    read
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = bytes;
    while let Some((byte, behind)) = rest.split_first() {
        let escaped = behind
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .filter(|_| *byte == b'%');
        decoded.push(escaped.unwrap_or(*byte));
        let skipped = if escaped.is_some() { 2 } else { 0 };
        rest = behind.get(skipped..).unwrap_or_default();
    }
    decoded
}
