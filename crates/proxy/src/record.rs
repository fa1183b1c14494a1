//! What is known about one request. It is filled in along the way and read once, at the end: the
//! access log line and the metrics both come from here, and nothing else touches a counter.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use gatepost_auth::address::Arrival;
use gatepost_auth::{CredentialFault, Judgement, Mechanism, Origin, Refusal, Subject};
use gatepost_message::{Address, Message};
use http::{HeaderMap, Method};
use serde::Serialize;

use crate::endpoints::Endpoint;
use crate::trace::{Link, Parent};

/// One request, from its head to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) started: Instant,
    pub(crate) request_id: String,
    /// The trace that it belongs to: one that is believed, or one that gatepost begins.
    pub(crate) trace_id: Option<String>,
    /// The span that it says it is a child of, where that is believed.
    pub(crate) parent: Option<Parent>,
    /// gatepost's own place in the trace.
    pub(crate) link: Option<Link>,
    /// Since when it waited for what.
    pub(crate) since: Since,
    /// HTTP's version, and whether over TLS.
    pub(crate) spoken: Option<(http::Version, bool)>,
    /// Which of the upstream's addresses was asked last.
    pub(crate) server: Option<Arc<Endpoint>>,
    /// Which reload of configuration and policy it met; the first load is 1.
    pub(crate) generation: u64,
    pub(crate) method: Option<Method>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) peer: Option<IpAddr>,
    /// The name that was presented and not accepted, as logs may show it.
    pub(crate) user: Option<String>,
    pub(crate) identity: Option<String>,
    pub(crate) mechanism: Option<Mechanism>,
    /// What came of finding out who it is.
    pub(crate) authentication: Option<Authentication>,
    /// How long the policy took.
    pub(crate) judged: Option<Duration>,
    /// What the policy said of the message.
    pub(crate) message: Option<&'static str>,
    /// How long it took to read and judge it.
    pub(crate) inspected: Option<Duration>,
    /// How many recipients it has.
    pub(crate) recipients: Option<usize>,
    /// What the audit log says of it, where it is to.
    pub(crate) facts: Option<Facts>,
    pub(crate) refusal: Option<&'static str>,
    /// What the operator should know about a failure; never shown to a client.
    pub(crate) detail: Option<String>,
    pub(crate) status: u16,
    pub(crate) upstream: Option<UpstreamTime>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// What the audit log says of a message, so that another policy can be asked about it later.
#[derive(Debug, Serialize)]
pub(crate) struct Facts {
    sender: String,
    from: Vec<String>,
    /// The first of them, no more than [`Facts::MOST`].
    recipients: Vec<String>,
    recipients_total: usize,
    groups: Vec<String>,
    size: usize,
}

impl Facts {
    /// Recipients of one line. Lines wait in memory to be written.
    const MOST: usize = 1000;

    pub(crate) fn of(message: &Message, subject: &Subject) -> Self {
        let text = |address: &Address| address.email().to_owned();
        Self {
            sender: message.sender.as_ref().map(text).unwrap_or_default(),
            from: message.from.iter().map(text).collect(),
            recipients: message
                .recipients
                .iter()
                .take(Self::MOST)
                .map(text)
                .collect(),
            recipients_total: message.recipients.len(),
            groups: subject.groups().to_vec(),
            size: message.size,
        }
    }
}

/// What came of finding out who a request is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Authentication {
    /// `None` where the credentials could not be read.
    pub(crate) mechanism: Option<Mechanism>,
    pub(crate) outcome: &'static str,
    /// Why the client is to blame, if it is.
    pub(crate) failure: Option<&'static str>,
}

impl Authentication {
    /// What the policy said, or that it was not asked.
    pub(crate) fn of(mechanism: Mechanism, judgement: Result<&Judgement, &Refusal>) -> Self {
        let outcome = judgement.map_or("throttled", Judgement::outcome);
        let failure = match judgement {
            Err(_) => Some("throttled"),
            Ok(Judgement::Rejected | Judgement::NoHandler) => Some("rejected"),
            // gatepost's own fault, or the policy's: nothing to ban anybody for.
            Ok(
                Judgement::Accepted(_)
                | Judgement::Failed
                | Judgement::TimedOut
                | Judgement::Overloaded,
            ) => None,
        };
        Self {
            mechanism: Some(mechanism),
            outcome,
            failure,
        }
    }
}

/// When the parts of a request began.
#[derive(Debug, Default)]
pub(crate) struct Since {
    /// The policy was asked about credentials.
    pub(crate) judging: Option<Instant>,
    /// The message was there.
    pub(crate) inspecting: Option<Instant>,
    /// The upstream was chosen.
    pub(crate) upstream: Option<Instant>,
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
    pub(crate) fn new(started: Instant, generation: u64) -> Self {
        Self {
            started,
            request_id: new_request_id(),
            trace_id: None,
            parent: None,
            link: None,
            since: Since::default(),
            spoken: None,
            server: None,
            generation,
            method: None,
            route: None,
            client: None,
            peer: None,
            user: None,
            identity: None,
            mechanism: None,
            authentication: None,
            judged: None,
            message: None,
            inspected: None,
            recipients: None,
            facts: None,
            refusal: None,
            detail: None,
            status: 0,
            upstream: None,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    pub(crate) fn came_by(&mut self, arrival: Arrival) {
        self.peer = Some(arrival.peer);
    }

    /// Notes whose request it is. A name that a trusted proxy gave it is kept, so that the logs of both
    /// can be held together; a client's own is not, since it could repeat another's.
    pub(crate) fn came_from(&mut self, origin: &Origin, headers: &HeaderMap) {
        self.client = Some(origin.client);
        if origin.is_by_proxy() {
            self.traced_by(headers);
        }
        let mut names = headers.get_all("x-request-id").iter();
        if origin.is_by_proxy()
            && let (Some(name), None) = (names.next(), names.next())
            && let Ok(name) = name.to_str()
            && (1..=128).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_graphic())
        {
            name.clone_into(&mut self.request_id);
        }
    }

    /// Notes credentials that could not be read.
    pub(crate) fn read<T>(
        &mut self,
        credentials: Result<T, CredentialFault>,
    ) -> Result<T, Refusal> {
        if credentials.is_err() {
            self.authentication = Some(Authentication {
                mechanism: None,
                outcome: "malformed",
                failure: Some("malformed"),
            });
        }
        Ok(credentials?)
    }

    /// Notes a trusted host, or whom a certificate names.
    pub(crate) fn found(&mut self, subject: Result<Subject, Refusal>) -> Result<Subject, Refusal> {
        let mechanism = subject.as_ref().ok().and_then(Subject::mechanism);
        if mechanism.is_some() {
            self.authentication = Some(Authentication {
                mechanism,
                outcome: "accepted",
                failure: None,
            });
        }
        subject
    }

    /// Notes who it is, also where that opens nothing.
    pub(crate) fn known(&mut self, subject: &Subject, headers: &HeaderMap) {
        self.identity = subject.identity();
        self.mechanism = subject.mechanism();
        if self.identity.is_some() {
            self.traced_by(headers);
        }
    }

    fn traced_by(&mut self, headers: &HeaderMap) {
        self.parent = Parent::of(headers);
        self.trace_id = self.parent.map(Parent::trace_id);
    }

    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.refusal = Some(refusal.reason());
        self.status = refusal.status().as_u16();
    }

    pub(crate) fn upstream_asked(&mut self, endpoint: &Arc<Endpoint>, now: Instant) {
        self.server = Some(endpoint.clone());
        self.since.upstream = Some(now);
        self.upstream = Some(UpstreamTime::Waiting(now));
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
            request_id = self.request_id,
            trace_id = self.trace_id.as_deref(),
            method = self.method.as_ref().map(Method::as_str),
            route = self.route.as_deref(),
            status = self.status,
            client = self.client.map(tracing::field::display),
            peer = self.peer.filter(|it| Some(*it) != self.client).map(tracing::field::display),
            user = self.user.as_deref(),
            identity = self.identity.as_deref(),
            mechanism = self.mechanism.map(Mechanism::as_str),
            refusal = self.refusal,
            detail = self.detail.as_deref(),
            ms = milliseconds(took),
            policy_ms = self.judged.map(milliseconds),
            recipients = self.recipients,
            message_ms = self.inspected.map(milliseconds),
            upstream = self.server.as_ref().map(|it| &*it.name),
            upstream_ms,
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            "request"
        );
    }
}

/// A name for a request that no other has: random for this process, and counted.
fn new_request_id() -> String {
    static PROCESS: LazyLock<String> =
        LazyLock::new(|| format!("{:016x}", RandomState::new().build_hasher().finish()));
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let digits = if count >> 32 == 0 { 8 } else { 16 };
    let digit = |place| char::from_digit((count >> (4 * place) & 0xf) as u32, 16).unwrap_or('0');
    // `format!` takes ten times as long, and every request has one.
    let mut id = String::with_capacity(PROCESS.len() + digits);
    id.push_str(&PROCESS);
    id.extend((0..digits).rev().map(digit));
    id
}

/// With microseconds behind the point, and nothing beyond.
fn milliseconds(time: Duration) -> f64 {
    f64::from(u32::try_from(time.as_micros()).unwrap_or(u32::MAX)) / 1e3
}
