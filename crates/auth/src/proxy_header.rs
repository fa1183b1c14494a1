//! The PROXY protocol's header, versions 1 and 2, by which a proxy that forwards bytes says whose
//! connection it forwards (haproxy's proxy-protocol.txt, 2020-03-05).
//!
//! It is read here rather than by a library, since it decides about trust: only a header that is there
//! as a whole is taken apart, line ends and separators are the ones of the specification and no others,
//! and what does not name a client is said to be just that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a version 2 header begins with (§2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a version 1 header begins with (§2.1).
const PREFIX: &[u8] = b"PROXY ";

/// The longest version 1 header, its line end included (§2.1).
const V1_LONGEST: usize = 107;

/// The fixed part of a version 2 header.
const V2_FIXED: usize = 16;

/// The longest rest of a version 2 header. Addresses take 36 bytes, a checksum and the names of a TLS
/// connection some hundreds; a client certificate is not expected.
const V2_LONGEST: usize = 4096;

/// How many bytes have to be there at most before [`ProxyHeader::parse`] knows.
pub const LONGEST: usize = V2_FIXED + V2_LONGEST;

/// A header that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// How many bytes it takes. What follows is the client's.
    pub length: usize,
    /// The client's address. `None` where the header names none: `UNKNOWN`, another address family,
    /// or the proxy's own connection (`LOCAL`).
    pub source: Option<IpAddr>,
}

impl ProxyHeader {
    /// Reads a header from the beginning of what a proxy sent. `Ok(None)` asks for more bytes.
    ///
    /// # Errors
    ///
    /// [`ProxyHeaderFault`] for what is no header, or one that contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ProxyHeaderFault> {
        if begins_like(bytes, SIGNATURE) {
            version_2(bytes)
        } else if begins_like(bytes, PREFIX) {
            version_1(bytes)
        } else {
            Err(ProxyHeaderFault::Missing)
        }
    }
}

/// Whether the bytes are the beginning, or begin with the whole of it.
fn begins_like(bytes: &[u8], beginning: &[u8]) -> bool {
    bytes.iter().zip(beginning).all(|(a, b)| a == b)
}

fn version_1(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderFault> {
    let window = bytes.get(..V1_LONGEST).unwrap_or(bytes);
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < V1_LONGEST {
            Ok(None)
        } else {
            Err(ProxyHeaderFault::TooLong)
        };
    };
    let line = window.get(PREFIX.len()..end).unwrap_or_default();
    let length = end + 2;
    // Whatever stands behind UNKNOWN is to be ignored (§2.1).
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Some(ProxyHeader {
            length,
            source: None,
        }));
    }
    let source = addresses(line).ok_or(ProxyHeaderFault::Malformed)?;
    Ok(Some(ProxyHeader {
        length,
        source: Some(source),
    }))
}

/// `TCP4 source destination port port`, single spaces between them.
fn addresses(line: &[u8]) -> Option<IpAddr> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let family = words.next()?;
    let (source, destination): (IpAddr, IpAddr) = match family {
        "TCP4" => (
            words.next()?.parse::<Ipv4Addr>().ok()?.into(),
            words.next()?.parse::<Ipv4Addr>().ok()?.into(),
        ),
        "TCP6" => (
            words.next()?.parse::<Ipv6Addr>().ok()?.into(),
            words.next()?.parse::<Ipv6Addr>().ok()?.into(),
        ),
        _ => return None,
    };
    let (_, _) = (port(words.next()?)?, port(words.next()?)?);
    // The destination is of no use, but a header with a bad one was not written by a proxy.
    let _ = destination;
    words.next().is_none().then_some(source.to_canonical())
}

/// Decimal, without sign or leading zeros (§2.1).
fn port(text: &str) -> Option<u16> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn version_2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderFault> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED) else {
        return Ok(None);
    };
    let [command, family, high, low] =
        *fixed.last_chunk::<4>().ok_or(ProxyHeaderFault::Malformed)?;
    let announced = usize::from(u16::from_be_bytes([high, low]));
    if announced > V2_LONGEST {
        return Err(ProxyHeaderFault::TooLong);
    }
    // High half: the version. Low half: the command.
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyHeaderFault::Malformed),
    };
    // High half: the address family. Low half: the protocol, of which only streams make sense here;
    // an unspecified family or a Unix socket names no client whatever the protocol is.
    let needed = match family {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ if local => 0,
        _ => return Err(ProxyHeaderFault::Malformed),
    };
    if !local && announced < needed {
        return Err(ProxyHeaderFault::Malformed);
    }
    let Some(rest) = rest.get(..announced) else {
        return Ok(None);
    };
    // The addresses of a LOCAL connection are to be ignored, its length is not (§2.2).
    let source = match (local, family) {
        (false, 0x11) => rest
            .first_chunk::<4>()
            .map(|address| IpAddr::from(*address)),
        (false, 0x21) => rest
            .first_chunk::<16>()
            .map(|address| IpAddr::from(*address).to_canonical()),
        _ => None,
    };
    Ok(Some(ProxyHeader {
        length: V2_FIXED + announced,
        source,
    }))
}

/// Why what a proxy sent is no PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderFault {
    /// It begins with something else.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// Longer than a header is.
    #[error("the PROXY header is too long")]
    TooLong,
    /// It was written by a proxy that is not trusted any more.
    #[error("the proxy of this connection is not trusted any more")]
    Distrusted,
    /// It contradicts the specification, or itself.
    #[error("the PROXY header is malformed")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Ok(None)`: a header without a source. The rest of the line is the client's.
    fn check(bytes: &[u8], expected: Result<Option<&str>, ProxyHeaderFault>) {
        let client = b"GET / HTTP/1.1\r\n\r\n";
        let sent = [bytes, client].concat();
        let got = ProxyHeader::parse(&sent);
        let shown = bytes.escape_ascii();
        match expected {
            Ok(source) => {
                let source = source.map(|text| text.parse().unwrap());
                let length = bytes.len();
                assert_eq!(got, Ok(Some(ProxyHeader { length, source })), "{shown}");
                for end in 0..length {
                    assert_eq!(ProxyHeader::parse(&bytes[..end]), Ok(None), "{shown} {end}");
                }
            }
            Err(fault) => assert_eq!(got, Err(fault), "{shown}"),
        }
    }

    fn v2(command: u8, family: u8, announced: u16, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(announced.to_be_bytes());
        bytes.extend_from_slice(rest);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    #[test]
    fn version_1_is_read_to_the_letter() {
        check(
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n",
            Ok(Some("192.0.2.1")),
        );
        check(
            b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n",
            Ok(Some("2001:db8::1")),
        );
        check(
            b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
            Ok(Some("192.0.2.1")),
        );
        check(
            b"PROXY TCP4 192.0.2.1 10.0.0.1 0 0\r\n",
            Ok(Some("192.0.2.1")),
        );
        check(b"PROXY UNKNOWN\r\n", Ok(None));
        check(b"PROXY UNKNOWN ffff:f:f anything 1\r\n", Ok(None));
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(91));
        check(longest.as_bytes(), Ok(None));
        for malformed in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.1 10.0.0.1 1 2\r\n",
            "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 01 2\r\n",
            "PROXY TCP4 192.0.2.1  10.0.0.1 1 2\r\n",
            "PROXY  TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.01 10.0.0.1 1 2\r\n",
            "PROXY TCP4\t192.0.2.1 10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY tcp4 192.0.2.1 10.0.0.1 1 2\r\n",
        ] {
            check(malformed.as_bytes(), Err(ProxyHeaderFault::Malformed));
        }
    }

    #[test]
    fn an_endless_version_1_header_is_cut_off() {
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'f'; 200]].concat();
        assert_eq!(ProxyHeader::parse(&endless[..106]), Ok(None));
        assert_eq!(
            ProxyHeader::parse(&endless[..107]),
            Err(ProxyHeaderFault::TooLong)
        );
    }

    #[test]
    fn what_is_no_header_is_known_at_the_first_byte_that_differs() {
        for other in [
            "GET / HTTP/1.1\r\n",
            "PROXX",
            "proxy ",
            "\r\n\r\nG",
            "\n",
            "\0",
        ] {
            assert_eq!(
                ProxyHeader::parse(other.as_bytes()),
                Err(ProxyHeaderFault::Missing),
                "{other:?}"
            );
        }
        assert_eq!(ProxyHeader::parse(b""), Ok(None));
    }

    #[test]
    fn version_2_is_read_to_the_letter() {
        check(&v2(0x21, 0x11, 12, &V4), Ok(Some("192.0.2.1")));
        let tlvs = [&V4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        check(&v2(0x21, 0x11, 18, &tlvs), Ok(Some("192.0.2.1")));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        check(&v2(0x21, 0x21, 36, &v6), Ok(Some("2001:db8::")));
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
        check(&v2(0x21, 0x21, 36, &mapped), Ok(Some("127.0.0.1")));
        check(&v2(0x20, 0x00, 0, &[]), Ok(None));
        check(&v2(0x20, 0x11, 12, &V4), Ok(None));
        check(&v2(0x20, 0x11, 3, &[1, 2, 3]), Ok(None));
        check(&v2(0x20, 0x41, 3, &[1, 2, 3]), Ok(None));
        check(&v2(0x21, 0x00, 5, &[0; 5]), Ok(None));
        check(&v2(0x21, 0x31, 216, &[0; 216]), Ok(None));
    }

    /// The attack: a length that does not hold the addresses makes a parser read the client's bytes
    /// as an address.
    #[test]
    fn a_version_2_length_that_lies_is_refused() {
        use ProxyHeaderFault::{Malformed, TooLong};
        check(&v2(0x21, 0x11, 0, &V4), Err(Malformed));
        check(&v2(0x21, 0x11, 11, &V4), Err(Malformed));
        check(&v2(0x21, 0x21, 12, &V4), Err(Malformed));
        check(&v2(0x21, 0x11, 0xffff, &V4), Err(TooLong));
        check(&v2(0x11, 0x11, 12, &V4), Err(Malformed));
        check(&v2(0x22, 0x11, 12, &V4), Err(Malformed));
        check(&v2(0x21, 0x12, 12, &V4), Err(Malformed));
        check(&v2(0x21, 0x41, 12, &V4), Err(Malformed));
        // Whoever reads has to have room for the longest.
        let longest = v2(0x20, 0x00, 4096, &[0; 4096]);
        assert_eq!(longest.len(), LONGEST);
        check(&longest, Ok(None));
        // Announced but not sent: asks for more, and the deadline of the connection ends it.
        assert_eq!(ProxyHeader::parse(&v2(0x21, 0x11, 4096, &V4)), Ok(None));
    }
}
