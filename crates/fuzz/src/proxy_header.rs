//! A PROXY header at the beginning of a connection.
//!
//! One that is accepted is as long as it says, is not recognised before it is there as a whole, and is the same whatever follows it; the
//! address is the one that stands there. What is refused is refused whatever follows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gatepost_auth::proxy_header::{LONGEST, ProxyHeader};

use crate::{Outcome, Verdict, must};

pub(crate) fn run(data: &[u8]) -> Outcome {
    let read = ProxyHeader::parse(data);
    let longer = [data, b"GET / HTTP/1.1\r\n\r\n"].concat();
    let header = match read {
        Ok(Some(header)) => header,
        Ok(None) => {
            must(data.len() < LONGEST, || {
                "it would wait for more than the longest header".to_owned()
            })?;
            return Ok(Verdict::Refused);
        }
        Err(_) => {
            let again = ProxyHeader::parse(&longer);
            must(again == read, || {
                format!("{read:?}, and with more {again:?}")
            })?;
            return Ok(Verdict::Refused);
        }
    };
    must(ProxyHeader::parse(&longer) == read, || {
        "what follows it changes it".to_owned()
    })?;
    let whole = data.get(..header.length).unwrap_or_default();
    must(whole.len() == header.length, || {
        format!("{} bytes of {}", header.length, data.len())
    })?;
    must(ProxyHeader::parse(whole) == read, || {
        "it needs what follows it".to_owned()
    })?;
    for end in 0..whole.len() {
        let early = ProxyHeader::parse(whole.get(..end).unwrap_or_default());
        must(early == Ok(None), || {
            format!("of {end} bytes it is {early:?}")
        })?;
    }
    must(split(whole) == Some((header.source, header.length)), || {
        format!("{header:?} was read, {:?} stands there", split(whole))
    })?;
    Ok(Verdict::Accepted)
}

/// The client and the length, in the most obvious way. Believes that there is a header.
pub(crate) fn split(bytes: &[u8]) -> Option<(Option<IpAddr>, usize)> {
    if let Some(rest) = bytes.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n") {
        let length = 16 + usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
        let addresses = bytes.get(16..length)?;
        let source = match (*rest.first()?, *rest.get(1)?) {
            (0x21, 0x11) => Some(Ipv4Addr::from(*addresses.first_chunk::<4>()?).into()),
            (0x21, 0x21) => Some(Ipv6Addr::from(*addresses.first_chunk::<16>()?).into()),
            _ => None,
        };
        return Some((source.map(|it: IpAddr| it.to_canonical()), length));
    }
    let end = bytes.windows(2).position(|it| it == b"\r\n")?;
    // Whatever follows UNKNOWN may be anything.
    if bytes.get(6..13) == Some(b"UNKNOWN") {
        return Some((None, end + 2));
    }
    let line = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let words: Vec<&str> = line.split(' ').collect();
    let ["PROXY", family, source, destination, from, to] = words.as_slice() else {
        return None;
    };
    let (source, destination): (IpAddr, IpAddr) = (source.parse().ok()?, destination.parse().ok()?);
    let is_v4 = *family == "TCP4";
    let fits = (is_v4 || *family == "TCP6") && source.is_ipv4() == is_v4;
    let ports = [from, to].map(|it| it.parse::<u16>().ok().map(|number| number.to_string()));
    (fits
        && destination.is_ipv4() == is_v4
        && ports == [Some((*from).to_owned()), Some((*to).to_owned())])
    .then_some((Some(source.to_canonical()), end + 2))
}
