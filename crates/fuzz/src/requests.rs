//! All of gatepost behind its listeners: a connection that is no socket, real settings, a policy in Lua, and an upstream that writes down
//! what it gets. The first byte of the input says from where the connection comes (its two lowest bits, see [`Entrance`]) and in pieces
//! of which size (the next two); the rest is what the client sends. At `FF FF` it waits for an answer (until there was none), unless it speaks HTTP/2.
//!
//! No byte reaches the upstream without a permit, no client chooses its identity, and one request in is at most one request out: what the
//! upstream got is held against what another reader ([`reference`]) finds in the client's bytes, and who that may be is found out anew.

mod judge;
pub(crate) mod reference;
mod world;

use std::net::{IpAddr, Ipv4Addr};

use crate::{Outcome, Verdict, finding};
use world::World;

/// What is longer takes long, and says nothing new.
const LONGEST: usize = 16 << 10;

pub(crate) fn run(data: &[u8]) -> Outcome {
    let Some((control, bytes)) = data.split_first().filter(|_| data.len() <= LONGEST) else {
        return Ok(Verdict::Refused);
    };
    let entrance = Entrance::of(*control);
    let client = Client::new(bytes, *control);
    let seen = World::with(|world| world.talk(&client, entrance));
    let seen = match seen {
        Ok(seen) => seen,
        Err(fault) => return finding(fault),
    };
    judge::check(entrance, &client.parts.concat(), &seen)?;
    Ok(if seen.iter().any(|it| it.is_whole) {
        Verdict::Accepted
    } else {
        Verdict::Refused
    })
}

/// From where a connection comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entrance {
    /// From somebody.
    Stranger,
    /// From somebody who needs no credentials.
    TrustedHost,
    /// From a trusted proxy, which names its clients in `X-Forwarded-For`.
    Proxy,
    /// From a trusted proxy, which begins with a PROXY header.
    ProxyHeader,
}

impl Entrance {
    fn of(control: u8) -> Self {
        match control & 3 {
            0 => Self::Stranger,
            1 => Self::TrustedHost,
            2 => Self::Proxy,
            _ => Self::ProxyHeader,
        }
    }

    fn peer(self) -> IpAddr {
        IpAddr::V4(match self {
            Self::Stranger => Ipv4Addr::new(198, 51, 100, 1),
            Self::TrustedHost => Ipv4Addr::new(10, 1, 1, 1),
            Self::Proxy | Self::ProxyHeader => Ipv4Addr::new(192, 0, 2, 1),
        })
    }
}

/// What a client sends, and how.
struct Client<'a> {
    /// Between them it waits for an answer.
    parts: Vec<&'a [u8]>,
    /// How much it sends at once, in bytes.
    step: usize,
    /// Whether it waits for all answers before it closes its side.
    stays: bool,
}

impl<'a> Client<'a> {
    fn new(bytes: &'a [u8], control: u8) -> Self {
        const PAUSE: &[u8] = &[0xff, 0xff];
        let mut parts = Vec::new();
        let mut rest = bytes;
        let stays = is_http2(bytes);
        if !stays {
            while let Some(at) = rest.windows(PAUSE.len()).position(|it| it == PAUSE) {
                parts.push(rest.get(..at).unwrap_or_default());
                rest = rest.get(at + PAUSE.len()..).unwrap_or_default();
            }
        }
        parts.push(rest);
        let step = match control >> 2 & 3 {
            0 => usize::MAX,
            1 => 1,
            2 => 13,
            _ => 200,
        };
        Self { parts, step, stays }
    }
}

/// What an HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether there is one, perhaps behind a PROXY header.
fn is_http2(bytes: &[u8]) -> bool {
    bytes.windows(PREFACE.len()).any(|it| it == PREFACE)
}
