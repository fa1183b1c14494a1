//! What a request tells about itself besides its body: who gatepost says it is, where it came from,
//! and its headers.

use std::net::SocketAddr;
use std::time::SystemTime;

use axum::http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

/// The header in which gatepost names the identity.
const IDENTITY_HEADER: &str = "x-http-auth";

/// Stands in for credentials, which are never kept.
const REDACTED: &str = "[redacted]";

/// The identity of a request, as `KumoMTA`'s `http_auth` meta.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The value of `X-Http-Auth`. None if there is no such header, more than one, or if it is not
    /// UTF-8.
    pub(crate) http_auth: Option<String>,
    /// The header came more than once. Picking one of them would hide that somebody's proxy lets
    /// a client add its own. Left out when false, so that the meta is otherwise just `KumoMTA`'s.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) http_auth_conflict: bool,
}

impl Identity {
    /// Reads the identity that the request's headers claim.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(IDENTITY_HEADER).iter();
        let first = values.next();
        let http_auth_conflict = values.next().is_some();
        // The value is taken as bytes because `HeaderValue::to_str` knows ASCII only.
        let http_auth = first
            .filter(|_| !http_auth_conflict)
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
            .map(str::to_owned);
        Self {
            http_auth,
            http_auth_conflict,
        }
    }
}

/// The meta of a message, with `KumoMTA`'s names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Who injected the message.
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// Address and port of the peer of the TCP connection: gatepost's, if it stands in between.
    pub(crate) received_from: String,
    /// Always `HTTP`.
    pub(crate) reception_protocol: String,
}

/// Everything about a request but its body.
#[derive(Debug)]
pub(crate) struct Reception {
    /// When it came, RFC 3339 in UTC.
    pub(crate) time: String,
    /// What its messages' meta will be.
    pub(crate) meta: Meta,
    /// All headers, names in lower case as hyper gives them, several of one name side by side.
    pub(crate) headers: Vec<(String, String)>,
}

impl Reception {
    /// Notes the request of `peer` that came at `now`.
    pub(crate) fn new(peer: SocketAddr, headers: &HeaderMap, now: SystemTime) -> Self {
        // On a listener for both families an IPv4 peer looks like ::ffff:192.0.2.1.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        Self {
            time: humantime::format_rfc3339_millis(now).to_string(),
            meta: Meta {
                identity: Identity::from_headers(headers),
                received_from: peer.to_string(),
                reception_protocol: "HTTP".to_owned(),
            },
            headers: headers
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), shown(name, value)))
                .collect(),
        }
    }
}

fn shown(name: &HeaderName, value: &HeaderValue) -> String {
    if [AUTHORIZATION, PROXY_AUTHORIZATION].contains(name) {
        REDACTED.to_owned()
    } else {
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    }
}
