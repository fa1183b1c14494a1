//! What is known about one request. It is filled in along the way and read once, at the end: the
//! access log line and the metrics both come from here, and nothing else touches a counter.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_auth::{Mechanism, Permit, Refusal};
use http::Method;

/// One request, from its head to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) started: Instant,
    pub(crate) method: Option<Method>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) identity: Option<String>,
    pub(crate) mechanism: Option<Mechanism>,
    /// What came of asking the policy, and how long it took.
    pub(crate) judged: Option<(Mechanism, &'static str, Duration)>,
    pub(crate) refusal: Option<&'static str>,
    /// What the operator should know about a failure; never shown to a client.
    pub(crate) detail: Option<String>,
    pub(crate) status: u16,
    pub(crate) upstream: Option<UpstreamTime>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// How long the upstream took to answer.
#[derive(Debug)]
pub(crate) enum UpstreamTime {
    /// Asked at this time, not answered yet.
    Waiting(Instant),
    /// Answered after this time.
    Answered(Duration),
}

impl Record {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            method: None,
            route: None,
            client: None,
            identity: None,
            mechanism: None,
            judged: None,
            refusal: None,
            detail: None,
            status: 0,
            upstream: None,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    pub(crate) fn permitted(&mut self, permit: &Permit) {
        self.identity = permit.subject().identity();
        self.mechanism = permit.subject().mechanism();
    }

    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.refusal = Some(refusal.reason());
        self.status = refusal.status().as_u16();
    }

    pub(crate) fn upstream_asked(&mut self) {
        self.upstream = Some(UpstreamTime::Waiting(Instant::now()));
    }

    pub(crate) fn upstream_answered(&mut self) {
        if let Some(UpstreamTime::Waiting(since)) = self.upstream {
            self.upstream = Some(UpstreamTime::Answered(since.elapsed()));
        }
    }

    /// Writes the access log line. The subscriber quotes and escapes text fields in either format, so
    /// no user name can begin a line or a field of its own.
    pub(crate) fn log(&self) {
        let took = self.started.elapsed();
        let upstream_ms = match self.upstream {
            Some(UpstreamTime::Answered(took)) => Some(milliseconds(took)),
            Some(UpstreamTime::Waiting(_)) | None => None,
        };
        tracing::info!(
            target: "access",
            method = self.method.as_ref().map(Method::as_str),
            route = self.route.as_deref(),
            status = self.status,
            client = self.client.map(tracing::field::display),
            identity = self.identity.as_deref(),
            mechanism = self.mechanism.map(Mechanism::as_str),
            refusal = self.refusal,
            detail = self.detail.as_deref(),
            ms = milliseconds(took),
            policy_ms = self.judged.map(|(_, _, took)| milliseconds(took)),
            upstream_ms,
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            "request"
        );
    }
}

/// With microseconds behind the point, and nothing beyond.
fn milliseconds(time: Duration) -> f64 {
    f64::from(u32::try_from(time.as_micros()).unwrap_or(u32::MAX)) / 1e3
}
