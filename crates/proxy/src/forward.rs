//! What the upstream gets to see: where it is, and the request's head as gatepost rewrites it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use gatepost_auth::Permit;
use gatepost_auth::headers::ProtectedNames;
use http::header::{CONNECTION, HOST};
use http::{HeaderName, HeaderValue, StatusCode};
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_error::ErrorType::{InternalError, InvalidHTTPHeader};
use pingora_error::{Error, OrErr as _, Result};
use pingora_http::{RequestHeader, ResponseHeader};

/// The upstream, ready to be asked for.
pub(crate) struct Upstream {
    peer: HttpPeer,
    /// As people write it: `X-Http-Auth`.
    identity_header: Bytes,
    /// For the clients of HTTP/1.0 that name no host; HTTP/1.1 wants one (RFC 9112 §3.2).
    host: HeaderValue,
}

/// Where the upstream listens, once names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamTarget {
    /// Plain HTTP over TCP.
    Tcp(SocketAddr),
    /// Plain HTTP over a Unix domain socket.
    Unix(PathBuf),
}

/// Time limits towards the upstream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpstreamTimes {
    pub(crate) connect: Duration,
    pub(crate) response: Duration,
    pub(crate) idle: Duration,
}

impl Upstream {
    /// # Errors
    ///
    /// Where the path of a Unix socket is too long for the system.
    pub(crate) fn new(
        target: &UpstreamTarget,
        times: UpstreamTimes,
        identity_header: &HeaderName,
    ) -> Result<Self> {
        let mut peer = match target {
            UpstreamTarget::Tcp(address) => HttpPeer::new(*address, false, String::new()),
            UpstreamTarget::Unix(path) => {
                let path = path
                    .to_str()
                    .ok_or_else(|| Error::explain(InternalError, "socket path is not UTF-8"))?;
                HttpPeer::new_uds(path, false, String::new())?
            }
        };
        peer.options.connection_timeout = Some(times.connect);
        peer.options.total_connection_timeout = Some(times.connect);
        peer.options.read_timeout = Some(times.response);
        peer.options.write_timeout = Some(times.response);
        peer.options.idle_timeout = Some(times.idle);
        // Removes hop-by-hop headers and whatever Connection nominates before `rewrite` runs, so a
        // client cannot make anybody drop what `rewrite` sets.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        let host = match target {
            UpstreamTarget::Tcp(address) => address.to_string(),
            UpstreamTarget::Unix(_) => "localhost".to_owned(),
        };
        Ok(Self {
            peer,
            identity_header: Bytes::from(in_capitals(identity_header)),
            host: HeaderValue::try_from(host)
                .or_err(InternalError, "address is no header value")?,
        })
    }

    /// The upstream's address, for a request that may pass.
    ///
    /// INVARIANT: there is no other way to it than with a permit.
    pub(crate) fn peer(&self, _proof: &Permit) -> Box<HttpPeer> {
        Box::new(self.peer.clone())
    }

    /// Makes the head that the upstream gets: nothing that only gatepost may say comes from the
    /// client, and what gatepost says is there exactly once. Runs on a fresh copy of the client's
    /// head at every try.
    ///
    /// # Errors
    ///
    /// Where the identity cannot be written as a header value; it has been checked to be one.
    pub(crate) fn rewrite(
        &self,
        request: &mut RequestHeader,
        permit: &Permit,
        protected: &ProtectedNames,
    ) -> Result<()> {
        let client_said: Vec<HeaderName> = request
            .headers
            .keys()
            .filter(|name| protected.contains(name))
            .cloned()
            .collect();
        for name in &client_said {
            request.remove_header(name);
        }
        // RFC 9110 §5.5 calls bytes above 127 opaque; a UTF-8 name goes out as UTF-8.
        if let Some(identity) = permit.subject().identity() {
            let value = HeaderValue::from_bytes(identity.as_bytes())
                .or_err(InternalError, "identity is no header value")?;
            request.insert_header(self.identity_header.clone(), value)?;
        }
        if !request.headers.contains_key(HOST) {
            request.insert_header("Host", self.host.clone())?;
        }
        request.insert_header("X-Forwarded-For", permit.client().to_string())?;
        request.insert_header("X-Forwarded-Proto", "http")?;
        Ok(())
    }
}

/// Makes the head that the client gets. The library removes hop-by-hop fields from requests only.
///
/// # Errors
///
/// Where the upstream switches protocols, which no request here asks for: what follows is not HTTP.
pub(crate) fn pass_back(response: &mut ResponseHeader) -> Result<()> {
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::explain(InvalidHTTPHeader, "unasked switch of protocols").into_up());
    }
    // RFC 9110 §7.6.1: what Connection nominates is meant for this hop, as are these.
    let nominated: Vec<String> = response
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !FRAMING.contains(&name.as_str()))
        .collect();
    for name in &nominated {
        response.remove_header(name.as_str());
    }
    for name in ["keep-alive", "proxy-connection", "upgrade", "trailer"] {
        response.remove_header(name);
    }
    Ok(())
}

/// What the library itself reads from an answer to know where it ends.
const FRAMING: [&str; 4] = ["", "connection", "content-length", "transfer-encoding"];

/// Header names are the same in any case, but people compare them with what they read in manuals.
fn in_capitals(name: &HeaderName) -> String {
    let capitalize = |word: &str| {
        let mut letters = word.chars();
        letters.next().map_or(String::new(), |first| {
            first.to_ascii_uppercase().to_string() + letters.as_str()
        })
    };
    name.as_str()
        .split('-')
        .map(capitalize)
        .collect::<Vec<_>>()
        .join("-")
}
