//! `X-Forwarded-For` and `Forwarded`, a line of the input for each line of the header. The first byte says which of them is believed
//! (its lowest bit), whether the peer is a trusted proxy (the next), and what a PROXY header said (two more).
//!
//! Nobody is believed but trusted proxies, and of them only what stands to the right of the first who is none: what a client puts in front
//! changes nothing, nor does the other header.

use std::net::{IpAddr, Ipv4Addr};

use gatepost_auth::address::{Arrival, HopHeader, Told};
use gatepost_auth::{Networks, Origin};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use crate::{Finding, Outcome, Verdict, must};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
/// In nobody's list.
const CLAIMED: &str = "6.6.6.6";

pub(crate) fn run(data: &[u8]) -> Outcome {
    let Some((control, lines)) = data.split_first() else {
        return Ok(Verdict::Refused);
    };
    let believed = if control & 1 == 0 {
        HopHeader::XForwardedFor
    } else {
        HopHeader::Forwarded
    };
    let peer = if control & 2 == 0 { PROXY } else { STRANGER };
    let told = match control >> 2 & 3 {
        0 => Told::Nothing,
        1 => Told::Source(PROXY),
        2 => Told::SourceByFile(STRANGER),
        _ => Told::NoSource,
    };
    let arrival = Arrival { peer, told };
    let mut values = Vec::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            return Ok(Verdict::Refused);
        };
        values.push(value);
    }
    let found = find(arrival, believed, &values, &[]);
    let claim = match believed {
        HopHeader::XForwardedFor => CLAIMED.to_owned(),
        HopHeader::Forwarded => format!("for={CLAIMED}"),
    };
    let Ok(claim) = HeaderValue::from_str(&claim) else {
        return Ok(Verdict::Refused);
    };
    let mut in_front = vec![claim.clone()];
    in_front.extend(values.iter().cloned());
    let with_claim = find(arrival, believed, &in_front, &[]);
    let with_other = find(arrival, believed, &values, &[claim]);
    must(with_other == found, || {
        format!("{found:?}, and with the other header {with_other:?}")
    })?;
    let Ok(origin) = found else {
        must(with_claim.is_err(), || {
            format!("what cannot be read is {with_claim:?} with a claim before it")
        })?;
        return Ok(Verdict::Refused);
    };
    let is_believed = match told {
        Told::NoSource | Told::Unasked => false,
        Told::Nothing | Told::Source(_) | Told::SourceByFile(_) => is_proxy(arrival.client()),
    };
    // Where all are proxies, the last of them may still name somebody.
    if !is_believed || !is_proxy(origin.client) {
        must(with_claim.as_ref() == Ok(&origin), || {
            format!("{origin:?}, and with a claim before it {with_claim:?}")
        })?;
    }
    check_chain(&origin, arrival, is_believed)?;
    if believed == HopHeader::XForwardedFor && is_believed {
        let lines = values.iter().map(HeaderValue::as_bytes);
        let client = rightmost(arrival.client(), lines, is_proxy);
        must(client == Some(origin.client), || {
            format!("{origin:?} instead of {client:?}")
        })?;
    }
    Ok(Verdict::Accepted)
}

fn find(
    arrival: Arrival,
    believed: HopHeader,
    values: &[HeaderValue],
    others: &[HeaderValue],
) -> Result<Origin, String> {
    let (name, other) = match believed {
        HopHeader::XForwardedFor => ("x-forwarded-for", "forwarded"),
        HopHeader::Forwarded => ("forwarded", "x-forwarded-for"),
    };
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(name, value.clone());
    }
    for value in others {
        headers.append(other, value.clone());
    }
    let proxies: Networks = ["192.0.2.0/24", "2001:db8::/32"]
        .iter()
        .filter_map(|it| it.parse::<IpNet>().ok())
        .collect();
    Origin::find(arrival, &headers, believed, &proxies).map_err(|it| format!("{it:?}"))
}

fn is_proxy(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => it.octets().starts_with(&[192, 0, 2]),
        IpAddr::V6(it) => it.segments().starts_with(&[0x2001, 0xdb8]),
    }
}

/// What is said to the next hop: the client, and behind it proxies up to the one that the connection came from.
fn check_chain(origin: &Origin, arrival: Arrival, is_believed: bool) -> Result<(), Finding> {
    let said = origin.forwarded_for();
    let mut hops = Vec::new();
    for word in said.split(", ") {
        let hop = word.parse::<IpAddr>();
        hops.extend(hop.ok());
    }
    must(hops.first() == Some(&origin.client), || {
        format!("{said} does not begin with {}", origin.client)
    })?;
    must(hops.last() == Some(&arrival.client()), || {
        format!("{said} does not end with {}", arrival.client())
    })?;
    must(hops.iter().skip(1).all(|it| is_proxy(*it)), || {
        format!("{said} has somebody in it who is no proxy")
    })?;
    must(is_believed || hops.len() == 1, || {
        format!("{said} from somebody who is not believed")
    })?;
    must(
        (origin.trustworthy().is_none()) == (arrival.told == Told::NoSource),
        || "somebody without a name has one".to_owned(),
    )
}

/// The first from the right who is no proxy, and the last of all where all are; `None` where one of those cannot be read.
pub(crate) fn rightmost<'a>(
    peer: IpAddr,
    lines: impl Iterator<Item = &'a [u8]>,
    is_proxy: fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let lines: Vec<&[u8]> = lines.collect();
    let mut client = peer;
    if lines.is_empty() {
        return Some(client);
    }
    let joined = lines.join(&b',');
    let mut hops: Vec<&[u8]> = joined.split(|byte| *byte == b',').collect();
    while is_proxy(client)
        && let Some(hop) = hops.pop()
    {
        client = address(std::str::from_utf8(hop).ok()?.trim_ascii())?;
    }
    Some(client)
}

/// An address, in brackets or not, with a port or not.
fn address(text: &str) -> Option<IpAddr> {
    let is_port = |it: &str| {
        !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()) && it.parse::<u16>().is_ok()
    };
    let address: IpAddr = if let Some(rest) = text.strip_prefix('[') {
        let (inner, port) = rest.split_once(']')?;
        let inner = match port.strip_prefix(':') {
            None if port.is_empty() => inner,
            // With a port there may be a zone, too.
            Some(port) if is_port(port) => inner.split('%').next()?,
            _ => return None,
        };
        IpAddr::V6(inner.parse().ok()?)
    } else if let Some((host, port)) = text.split_once(':').filter(|it| !it.1.contains(':')) {
        if !is_port(port) {
            return None;
        }
        IpAddr::V4(host.parse().ok()?)
    } else {
        text.parse().ok()?
    };
    Some(address.to_canonical())
}
