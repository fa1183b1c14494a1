//! From a finished record to spans, in the words of OpenTelemetry's semantic conventions for HTTP.
//!
//! No value here is a credential, a query or a path that a client chose: of a path only the route's pattern is said.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use gatepost_auth::Mechanism;
use http::{Method, Version};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, SpanData, SpanEvents, SpanLinks,
};

use crate::addresses::UpstreamTarget;
use crate::record::{Record, UpstreamTime};
use crate::trace::Link;

static SCOPE: LazyLock<InstrumentationScope> = LazyLock::new(|| {
    InstrumentationScope::builder("gatepost")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
});

/// The span of the request, and those of what it waited for.
pub(super) fn spans(record: &Record, link: Link, identity: bool) -> Vec<SpanData> {
    let making = Making::new(link);
    let mut spans = vec![request(record, &making, identity)];
    spans.extend(judging(record, &making));
    spans.extend(inspecting(record, &making));
    spans.extend(upstream(record, &making));
    spans
}

/// What the spans of one request have in common.
struct Making {
    link: Link,
    /// The same moment on both clocks. Records measure on one that nobody sets.
    now: (Instant, SystemTime),
}

/// From when to when.
type Stretch = (Instant, Instant);

impl Making {
    fn new(link: Link) -> Self {
        let now = (Instant::now(), SystemTime::now());
        Self { link, now }
    }

    fn time(&self, moment: Instant) -> SystemTime {
        let ago = self.now.0.saturating_duration_since(moment);
        self.now.1.checked_sub(ago).unwrap_or(self.now.1)
    }

    fn span(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        (from, to): Stretch,
        attributes: Vec<KeyValue>,
    ) -> SpanData {
        let id = match kind {
            SpanKind::Server => SpanId::from(self.link.request),
            SpanKind::Client => SpanId::from(self.link.upstream),
            SpanKind::Internal | SpanKind::Producer | SpanKind::Consumer => {
                RandomIdGenerator::default().new_span_id()
            }
        };
        let (trace, flags) = (TraceId::from(self.link.trace), self.link.flags);
        let (flags, state) = (TraceFlags::new(flags), TraceState::NONE);
        SpanData {
            span_context: SpanContext::new(trace, id, flags, false, state),
            parent_span_id: SpanId::from(self.link.request),
            parent_span_is_remote: false,
            span_kind: kind,
            name: name.into(),
            start_time: self.time(from),
            end_time: self.time(to),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: SCOPE.clone(),
        }
    }
}

fn attribute(key: &'static str, value: impl Into<Value>) -> KeyValue {
    KeyValue::new(key, value)
}

fn request(record: &Record, making: &Making, identity: bool) -> SpanData {
    let mut attributes = vec![
        attribute("http.request.method", method(record)),
        attribute("gatepost.request_id", record.request_id.clone()),
    ];
    if let Some(route) = &record.route {
        attributes.push(attribute("http.route", route.to_string()));
    }
    if let Some((version, secure)) = record.spoken {
        let scheme = if secure { "https" } else { "http" };
        attributes.push(attribute("url.scheme", scheme));
        attributes.push(attribute("network.protocol.version", spoken(version)));
    }
    attributes.extend(record.client.and_then(|it| address("client.address", it)));
    let peer = record.peer.filter(|it| Some(*it) != record.client);
    attributes.extend(peer.and_then(|it| address("network.peer.address", it)));
    if record.status > 0 {
        let status = i64::from(record.status);
        attributes.push(attribute("http.response.status_code", status));
    }
    if let Some(mechanism) = record.mechanism {
        attributes.push(attribute(
            "gatepost.mechanism",
            Mechanism::as_str(mechanism),
        ));
    }
    if let Some(identity) = record.identity.as_ref().filter(|_| identity) {
        attributes.push(attribute("enduser.id", identity.clone()));
    }
    if let Some(refusal) = record.refusal {
        attributes.push(attribute("gatepost.refusal", refusal));
    }
    // That a client is refused is no error of this server (semantic conventions for HTTP, "Status").
    let failed = record.status >= 500;
    if failed {
        attributes.push(error_type(record));
    }
    let name = match &record.route {
        Some(route) => format!("{} {route}", method(record)),
        None => method(record).to_owned(),
    };
    let stretch = (record.started, making.now.0);
    let mut span = making.span(name, SpanKind::Server, stretch, attributes);
    let parent = record
        .parent
        .map_or(SpanId::INVALID, |it| SpanId::from(it.span));
    span.parent_span_id = parent;
    span.parent_span_is_remote = record.parent.is_some();
    if failed {
        span.status = Status::error("");
    }
    span
}

fn judging(record: &Record, making: &Making) -> Option<SpanData> {
    let outcome = record.authentication.map(|it| it.outcome);
    part(record.since.judging, record.judged, |stretch| {
        let attributes = outcome.map(|it| attribute("gatepost.policy.outcome", it));
        let attributes = attributes.into_iter().collect();
        making.span("policy", SpanKind::Internal, stretch, attributes)
    })
}

fn inspecting(record: &Record, making: &Making) -> Option<SpanData> {
    part(record.since.inspecting, record.inspected, |stretch| {
        let outcome = record
            .message
            .map(|it| attribute("gatepost.policy.outcome", it));
        let recipients = record.recipients.and_then(|it| i64::try_from(it).ok());
        let recipients = recipients.map(|it| attribute("gatepost.message.recipients", it));
        let attributes = outcome.into_iter().chain(recipients).collect();
        making.span("message", SpanKind::Internal, stretch, attributes)
    })
}

/// To the upstream and back, up to the head of its answer.
fn upstream(record: &Record, making: &Making) -> Option<SpanData> {
    let since = record.since.upstream?;
    let answered = match record.upstream {
        Some(UpstreamTime::Answered(took)) => Some(since + took),
        Some(UpstreamTime::Waiting(_)) | None => None,
    };
    let mut attributes = vec![attribute("http.request.method", method(record))];
    match record.server.as_ref().map(|it| &it.target) {
        Some(UpstreamTarget::Tcp(server)) => {
            attributes.push(attribute("server.address", server.ip().to_string()));
            attributes.push(attribute("server.port", i64::from(server.port())));
        }
        Some(UpstreamTarget::Unix(path)) => {
            attributes.push(attribute("server.address", path.display().to_string()));
        }
        None => {}
    }
    // An answer of the upstream's own is what the client gets.
    if answered.is_some() && record.refusal.is_none() {
        let status = i64::from(record.status);
        attributes.push(attribute("http.response.status_code", status));
    }
    let failed = answered.is_none() || record.status >= 500;
    if failed {
        attributes.push(error_type(record));
    }
    let stretch = (since, answered.unwrap_or(making.now.0));
    let mut span = making.span(method(record), SpanKind::Client, stretch, attributes);
    if failed {
        span.status = Status::error("");
    }
    Some(span)
}

fn part(
    since: Option<Instant>,
    took: Option<Duration>,
    make: impl FnOnce(Stretch) -> SpanData,
) -> Option<SpanData> {
    let (since, took) = (since?, took?);
    Some(make((since, since + took)))
}

/// gatepost's word where it has one, else the status; the client's going away where there is neither.
fn error_type(record: &Record) -> KeyValue {
    let status = (record.status > 0).then(|| record.status.to_string());
    let word = record.refusal.map(str::to_owned).or(status);
    attribute(
        "error.type",
        word.unwrap_or_else(|| "client_gone".to_owned()),
    )
}

/// Those of RFC 9110 and RFC 5789; what else a client makes up would make as many names of spans.
fn method(record: &Record) -> &'static str {
    const KNOWN: [(Method, &str); 9] = [
        (Method::GET, "GET"),
        (Method::POST, "POST"),
        (Method::PUT, "PUT"),
        (Method::DELETE, "DELETE"),
        (Method::HEAD, "HEAD"),
        (Method::OPTIONS, "OPTIONS"),
        (Method::PATCH, "PATCH"),
        (Method::TRACE, "TRACE"),
        (Method::CONNECT, "CONNECT"),
    ];
    let known = KNOWN
        .iter()
        .find(|it| Some(&it.0) == record.method.as_ref());
    known.map_or("_OTHER", |it| it.1)
}

fn spoken(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// A peer on a Unix socket has none.
fn address(key: &'static str, address: IpAddr) -> Option<KeyValue> {
    (!address.is_unspecified()).then(|| attribute(key, address.to_string()))
}
