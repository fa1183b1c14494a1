//! What the upstream gets to see: where it is, and the request's head as gatepost rewrites it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_auth::headers::ProtectedNames;
use gatepost_auth::{Origin, Permit};
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderName, HeaderValue, StatusCode, Version};
use pingora_error::ErrorType::InvalidHTTPHeader;
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::endpoints::{Endpoint, Endpoints, Lease, NoEndpoint};
use crate::telling::Telling;
use crate::trace::Link;

/// The upstream, ready to be asked for.
pub(crate) struct Upstream {
    endpoints: Endpoints,
    telling: Telling,
    /// From asking it to the end of its answer.
    pub(crate) total_timeout: Option<Duration>,
}

impl Upstream {
    pub(crate) fn new(
        endpoints: Endpoints,
        telling: Telling,
        total_timeout: Option<Duration>,
    ) -> Self {
        Self {
            endpoints,
            telling,
            total_timeout,
        }
    }

    /// The same address once more.
    ///
    /// # Errors
    ///
    /// Where it may not be asked any more.
    pub(crate) fn lease_again(
        &self,
        _proof: &Permit,
        endpoint: &Arc<Endpoint>,
    ) -> Result<Lease, NoEndpoint> {
        self.endpoints.again(endpoint)
    }

    /// Whether there is another address than these to try.
    pub(crate) fn has_other(&self, tried: &[Arc<Endpoint>]) -> bool {
        self.endpoints.has_other(tried)
    }

    /// For those who look after them.
    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// An address of the upstream, for a request that may pass and was tried at these already.
    ///
    /// INVARIANT: there is no other way to it than with a permit.
    ///
    /// # Errors
    ///
    /// Where no address may be asked.
    pub(crate) fn lease(
        &self,
        _proof: &Permit,
        tried: &[Arc<Endpoint>],
        now: Instant,
    ) -> Result<Lease, NoEndpoint> {
        self.endpoints.choose(tried, now)
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
        lease: &Lease,
        protected: &ProtectedNames,
        said: &Said<'_>,
    ) -> Result<()> {
        let forwarded = Forwarded::of(request, permit.origin(), said.over_tls);
        let client_said: Vec<HeaderName> = request
            .headers
            .keys()
            .filter(|name| protected.contains(name))
            .cloned()
            .collect();
        for name in &client_said {
            request.remove_header(name);
        }
        one_cookie(request)?;
        plain_length(request)?;
        self.telling.tell(request, permit, said.meta)?;
        if !request.headers.contains_key(HOST) {
            request.insert_header("Host", lease.endpoint().host.clone())?;
        }
        request.insert_header("X-Forwarded-For", permit.origin().forwarded_for())?;
        request.insert_header("X-Forwarded-Proto", forwarded.proto)?;
        if let Some(host) = forwarded.host {
            request.insert_header("X-Forwarded-Host", host)?;
        }
        request.insert_header("X-Request-Id", said.request_id)?;
        if !said.is_traced {
            // Whoever is unknown does not write into the operator's traces, nor decide which of them are kept.
            for name in &TRACE_CONTEXT {
                request.remove_header(name);
            }
        }
        if let Some(link) = said.link {
            request.insert_header("traceparent", link.traceparent())?;
        }
        if said.expects_nothing {
            request.remove_header(&EXPECT);
        }
        if said.answer_is_read {
            request.remove_header(&ACCEPT_ENCODING);
        }
        Ok(())
    }
}

/// What is known of one request, beside its permit.
pub(crate) struct Said<'a> {
    pub(crate) request_id: &'a str,
    /// Whether the trace that it names is believed.
    pub(crate) is_traced: bool,
    /// gatepost's own place in the trace.
    pub(crate) link: Option<Link>,
    /// What the policy noted about the message, by name.
    pub(crate) meta: &'a [(String, String)],
    /// Whether the client does not wait for `100 Continue`, whatever its head says.
    pub(crate) expects_nothing: bool,
    /// Whether the answer is to be understood here, so that it must not be compressed.
    pub(crate) answer_is_read: bool,
    /// Whether the client spoke TLS.
    pub(crate) over_tls: bool,
}

/// Cookies that came in several fields, as HTTP/2 may send them, in one (RFC 9113 §8.2.3); HTTP/1 has one (RFC 6265 §5.4).
fn one_cookie(request: &mut RequestHeader) -> Result<()> {
    let pieces: Vec<&[u8]> = request
        .headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if pieces.len() < 2 {
        return Ok(());
    }
    let whole = pieces.join(&b"; "[..]);
    request.insert_header("Cookie", whole)
}

/// The length in its shortest spelling: zeros in front are legal (RFC 9110 §8.6), and an octal number to some.
fn plain_length(request: &mut RequestHeader) -> Result<()> {
    let length = request
        .headers
        .get(CONTENT_LENGTH)
        .filter(|it| it.len() > 1 && it.as_bytes().starts_with(b"0"));
    let length = length.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) => request.insert_header("Content-Length", length.to_string()),
        None => Ok(()),
    }
}

/// What the client's connection was like: as gatepost sees it, or as a trusted proxy says.
struct Forwarded {
    proto: HeaderValue,
    host: Option<HeaderValue>,
}

impl Forwarded {
    fn of(request: &RequestHeader, origin: &Origin, over_tls: bool) -> Self {
        let said = |name: &str| {
            if !origin.is_by_proxy() {
                return None;
            }
            let mut values = request.headers.get_all(name).iter();
            let value = values.next()?;
            // A list is the word of several, of whom the first need not be a proxy.
            let single = values.next().is_none() && !value.as_bytes().contains(&b',');
            single.then(|| value.clone())
        };
        let own_host = || {
            let authority = request.uri.authority().map(|it| it.as_str());
            let authority = authority.and_then(|it| HeaderValue::from_str(it).ok());
            request.headers.get(HOST).cloned().or(authority)
        };
        Self {
            proto: said("x-forwarded-proto")
                .filter(|proto| proto == "http" || proto == "https")
                .unwrap_or(HeaderValue::from_static(if over_tls {
                    "https"
                } else {
                    "http"
                })),
            host: said("x-forwarded-host")
                .filter(|host| is_plain_host(host.as_bytes()))
                .or_else(own_host),
        }
    }
}

/// A name or address with or without a port, and nothing that somebody could take for more.
fn is_plain_host(host: &[u8]) -> bool {
    !host.is_empty()
        && host.len() <= 255
        && host
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte))
}

/// Makes the head that the client gets. The library removes hop-by-hop fields from requests only.
///
/// # Errors
///
/// Where the upstream switches protocols, which no request here asks for: what follows is not HTTP. And where the end
/// of the answer is a matter of opinion.
pub(crate) fn pass_back(response: &mut ResponseHeader) -> Result<()> {
    let fault = |what: &'static str| Error::explain(InvalidHTTPHeader, what).into_up();
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(fault("unasked switch of protocols"));
    }
    if response.status.as_u16() > 599 {
        return Err(fault("a status that there is none of"));
    }
    if !has_one_end(response) {
        return Err(fault("an answer with more than one end"));
    }
    // Each hop speaks for itself (RFC 9112 §2.3): what is chunked for the client is no HTTP/1.0.
    response.set_version(Version::HTTP_11);
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
    for name in &HOP_BY_HOP {
        response.remove_header(name);
    }
    Ok(())
}

/// Whether chunks are the only coding, in a version that has them (RFC 9112 §6.1), and there is one length at most. The
/// library has removed a length beside chunks; those count then, here and for the client.
fn has_one_end(response: &ResponseHeader) -> bool {
    let mut codings = response.headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = response.headers.get_all(CONTENT_LENGTH).iter();
    let is_chunked = |it: &HeaderValue| it.as_bytes().eq_ignore_ascii_case(b"chunked");
    let is_number = |it: &HeaderValue| it.as_bytes().iter().all(u8::is_ascii_digit);
    codings
        .next()
        .is_none_or(|it| is_chunked(it) && response.version == Version::HTTP_11)
        && codings.next().is_none()
        && lengths.next().is_none_or(is_number)
        && lengths.next().is_none()
}

/// What belongs to one connection whether `Connection` says so or not (RFC 9110 §7.6.1).
static HOP_BY_HOP: [HeaderName; 4] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    UPGRADE,
    TRAILER,
];

/// By what a trace is handed on (W3C Trace Context §3).
static TRACE_CONTEXT: [HeaderName; 2] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// What the library itself reads from an answer to know where it ends.
const FRAMING: [&str; 4] = ["", "connection", "content-length", "transfer-encoding"];
