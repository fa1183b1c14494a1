//! The door: the one place where a request is let through or turned away.
//!
//! [`Door::decide`] is the whole way of a request, top to bottom. It ends in a permit or in a refusal;
//! without a permit there is no upstream address, so whatever goes wrong on the way, nothing passes.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use gatepost_auth::path::Target;
use gatepost_auth::route::Route;
use gatepost_auth::wire::{HeadLimits, check_http2};
use gatepost_auth::{Credentials, Judgement, Mechanism, Origin, Permit, Refusal, Subject};
use http::Version;
use http::header::TRANSFER_ENCODING;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::ErrorType::{
    ConnectTimedout, InternalError, InvalidHTTPHeader, TLSHandshakeTimedout,
};
use pingora_error::{Error, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::answer;
use crate::audit::{Audit, shown_name};
use crate::body::{self, Pace};
use crate::corked::Cork;
use crate::endpoints::NoEndpoint;
use crate::fault::{UPSTREAM_BUSY, UPSTREAM_DOWN, classify, in_short, speaks_against_upstream};
use crate::forward;
use crate::inspect::Bodies;
use crate::lifecycle::Phase;
use crate::metrics::{Counted, Metrics};
use crate::passage::{MAX_ANSWER, MAX_INTERIM, Passage, is_whole};
use crate::quota::QuotaStore;
use crate::record::{Authentication, Record};
use crate::shadow::{Answer, ask_credentials};
use crate::snapshot::Snapshot;
use crate::throttle::{Attempt, Throttle};
use crate::tls::Presented;
use crate::way::{Way, way};

/// Shared by all requests.
pub(crate) struct Door {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) metrics: Metrics,
    pub(crate) throttle: Throttle,
    pub(crate) audit: Arc<Audit>,
    pub(crate) quota: Arc<QuotaStore>,
    pub(crate) bodies: Bodies,
    pub(crate) phase: Arc<Phase>,
}

impl Door {
    /// An answer that is written while gatepost is about to stop says `Connection: close`, so that the client goes elsewhere before
    /// it sends again. (HTTP/2 has GOAWAY for it.)
    fn part_from_client(&self, session: &mut Session) {
        if self.phase.is_parting() {
            session.set_keepalive(None);
        }
    }

    /// The way of one request.
    pub(crate) async fn decide(
        &self,
        session: &mut Session,
        passage: &mut Passage,
    ) -> Result<Permit, Refusal> {
        let snapshot = passage.snapshot.clone();
        let record = &mut passage.record;
        let (permit, route) = self.admit(session, &snapshot, record).await?;
        passage.body_limit = route.body_limit.unwrap_or(u64::MAX);
        let mut recipients = 0;
        if let Some(format) = route.message {
            passage.room = Some(self.bodies.room(session, &snapshot)?);
            let inspected = self
                .inspect(session, format, &snapshot, &permit, record)
                .await?;
            recipients = inspected.recipients;
            passage.body = Some(inspected.body);
            passage.meta = inspected.meta;
        }
        if route.quota {
            let quotas = &snapshot.quotas;
            passage.charge = self.quota.charge(quotas, &permit, recipients).await?;
        }
        Ok(permit)
    }

    /// Who it is, and whether that opens the route.
    async fn admit<'a>(
        &self,
        session: &Session,
        snapshot: &'a Snapshot,
        record: &mut Record,
    ) -> Result<(Permit, &'a Route), Refusal> {
        let gate = &snapshot.gate;
        let request = session.req_header();
        record.method = Some(request.method.clone());
        let target = plain_target(request, &snapshot.http.head_limits)?;
        let way = way(session)?;
        let arrival = way.arrival;
        record.came_by(arrival);
        record.spoken = Some((request.version, way.is_secure()));
        let (headers, proxies) = (&request.headers, &gate.trusted_proxies);
        let origin = Origin::find(arrival, headers, gate.hop_header, proxies)?;
        record.came_from(&origin, headers);
        let presented = way.presented(snapshot).inspect_err(|refusal| {
            record.detail = Some(refusal.message().into_owned());
        })?;
        let route = gate.routes.find(&request.method, &target)?;
        record.route = Some(route.path.label().clone());
        let limit = route.body_limit.unwrap_or(u64::MAX);
        body::size(session, limit)?;
        let subject = match record.read(Credentials::from_headers(headers, &gate.credentials))? {
            Some(credentials) => self.judge(credentials, &origin, snapshot, record).await?,
            None => {
                let by_certificate = by_certificate(way, presented, snapshot, record);
                let subject =
                    by_certificate.map_or_else(|| gate.without_credentials(route, &origin), Ok);
                record.found(subject)?
            }
        };
        record.known(&subject, headers);
        Ok((gate.permit(route, origin, subject)?, route))
    }

    /// Asks the policy. Wrong credentials end the request here, wherever it comes from.
    async fn judge(
        &self,
        credentials: Credentials,
        origin: &Origin,
        snapshot: &Snapshot,
        record: &mut Record,
    ) -> Result<Subject, Refusal> {
        let (mechanism, user) = match &credentials {
            Credentials::Basic { user, .. } => (Mechanism::Basic, Some(user.clone())),
            Credentials::Bearer { .. } => (Mechanism::Bearer, None),
        };
        let attempt = Attempt {
            client: origin.client,
            user: user.as_deref(),
        };
        let asked = Instant::now();
        let shadow = snapshot.shadow.as_ref().map(|it| (it, credentials.clone()));
        let throttle = |judgement: &Judgement| {
            if *judgement == Judgement::Rejected {
                return self.throttle.failed(&snapshot.throttle, attempt);
            }
            // Others may have failed meanwhile, and a right guess among them must not stand out.
            self.throttle.check(&snapshot.throttle, attempt)
        };
        let judgement = match self.throttle.check(&snapshot.throttle, attempt) {
            Ok(()) => {
                let judgement = snapshot.policy.judge(credentials).await;
                record.since.judging = Some(asked);
                record.judged = Some(asked.elapsed());
                throttle(&judgement).map(|()| judgement)
            }
            Err(throttled) => Err(throttled),
        };
        record.authentication = Some(Authentication::of(mechanism, judgement.as_ref()));
        let live = judgement.as_ref().ok().filter(|_| shadow.is_some());
        let live = live.map(Answer::to_credentials);
        let subject = judgement.and_then(|it| it.into_subject(mechanism));
        if subject.is_err() {
            record.user = user
                .as_deref()
                .map(|user| shown_name(user, snapshot.audit.names));
        }
        if let (Some((policy, credentials)), Some(live)) = (shadow, live) {
            let (shadow, id) = (&self.metrics.shadow, record.request_id.clone());
            let user = record.user.clone().or(user);
            ask_credentials(policy, shadow, credentials, live, id, user);
        }
        subject
    }
}

/// Who the client's certificate says it is. One that names nobody is none, and the log says why.
fn by_certificate(
    way: &Way,
    presented: Presented<'_>,
    snapshot: &Snapshot,
    record: &mut Record,
) -> Option<Subject> {
    let named = match way.identity(presented, snapshot)? {
        Ok(name) => {
            let subject = snapshot.gate.by_certificate(&name);
            subject.map_err(|fault| format!("the client certificate names nobody: {fault}"))
        }
        Err(fault) => Err(fault.to_string()),
    };
    named.map_err(|fault| record.detail = Some(fault)).ok()
}

/// The path and query, if they have one meaning. HTTP/1 heads were checked before they were parsed.
fn plain_target<'a>(
    request: &'a RequestHeader,
    limits: &HeadLimits,
) -> Result<Target<'a>, Refusal> {
    if request.version == Version::HTTP_2 {
        let authority = request.uri.authority().map(http::uri::Authority::as_str);
        check_http2(authority, &request.headers, limits)?;
    }
    Ok(Target::parse(request.raw_path())?)
}

#[async_trait]
impl ProxyHttp for Door {
    type CTX = Passage;

    fn new_ctx(&self) -> Passage {
        let in_flight = Counted::new(&self.metrics.in_flight);
        Passage::new(self.snapshot.load_full(), in_flight)
    }

    /// No module is used; the default would run one that compresses nothing.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, passage: &mut Passage) -> Result<bool> {
        // A client that does not read must not hold its request for ever.
        session.set_write_timeout(Some(passage.snapshot.http.body_timeout));
        if session.req_header().version == Version::HTTP_10 {
            // Interim answers came with HTTP/1.1 (RFC 9110 §15.2).
            session.as_mut().set_ignore_info_resp(true);
        }
        let decision = self.decide(session, passage).await;
        if let Err(refusal) = &decision {
            passage.record.refused(refusal);
        }
        if let Some(traces) = &passage.snapshot.traces {
            traces.join(&mut passage.record);
        }
        self.audit
            .decided(&passage.record, &passage.snapshot.audit.output);
        // Before the library takes the request over: it would give up the connection of a client that is only told to come back.
        let leased = decision.and_then(|permit| {
            let lease = passage
                .snapshot
                .upstream
                .lease(&permit, &[], Instant::now());
            let lease = lease.map_err(|none| match none {
                NoEndpoint::Down => Refusal::UpstreamDown,
                NoEndpoint::Busy => Refusal::UpstreamBusy,
            });
            let lease = lease.inspect_err(|refusal| passage.record.refused(refusal))?;
            Ok((permit, lease))
        });
        match leased {
            Ok((permit, lease)) => {
                if permit.identity().is_some() {
                    way(session).iter().for_each(|it| it.pause.passed());
                }
                passage.permit = Some(permit);
                passage.first = Some(lease);
                Ok(false)
            }
            Err(refusal) => {
                way(session)
                    .iter()
                    .for_each(|it| it.refused(&refusal, &passage.snapshot));
                self.part_from_client(session);
                if matches!(refusal, Refusal::Body | Refusal::BodyTimedOut) {
                    // Where the body ends is in doubt, whatever the library believes: what follows must not become a request.
                    session.set_keepalive(None);
                }
                if refusal.ends_connection() {
                    session.set_keepalive(None);
                    // HTTP/2 knows no such header.
                    way(session).iter().for_each(|it| it.end());
                }
                answer::refuse(session, &refusal, Some(&passage.snapshot.challenge)).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        passage: &mut Passage,
    ) -> Result<Box<HttpPeer>> {
        let permit = passage.permit.as_ref();
        let permit = permit.ok_or_else(|| Error::explain(InternalError, "no permit"))?;
        let upstream = &passage.snapshot.upstream;
        let now = Instant::now();
        // The one from before, if this is another try, has nothing to do with it any more.
        passage.lease = None;
        let lease = match (passage.first.take(), passage.again.take()) {
            (Some(lease), _) => Ok(lease),
            (None, Some(endpoint)) => upstream.lease_again(permit, &endpoint),
            (None, None) => upstream.lease(permit, &passage.tried, now),
        };
        let lease = lease.map_err(|none| {
            let why = match none {
                NoEndpoint::Down => UPSTREAM_DOWN,
                NoEndpoint::Busy => UPSTREAM_BUSY,
            };
            Error::new(why)
        })?;
        passage.record.upstream_asked(lease.endpoint(), now);
        if passage.deadline.is_none() {
            passage.deadline = upstream.total_timeout.map(|it| now + it);
        }
        let peer = lease.peer(passage.time_left(now));
        passage.lease = Some(lease);
        Ok(peer)
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _socket: RawFd,
        digest: Option<&Digest>,
        _passage: &mut Passage,
    ) -> Result<()> {
        // Streams of HTTP/2 are many on a connection, and nobody sees when they wait.
        if session.req_header().version != Version::HTTP_2
            && !session.is_body_empty()
            && let (Ok(way), Some(cork)) = (way(session), Cork::of(digest))
        {
            way.held_back.begin(cork);
        }
        Ok(())
    }

    /// Nothing of the request has been sent, so another address may get it.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        passage: &mut Passage,
        mut e: Box<Error>,
    ) -> Box<Error> {
        let Some(lease) = passage.lease.take() else {
            return e;
        };
        let is_late = passage.is_late();
        if !is_late && speaks_against_upstream(&e, true) {
            lease.failed(Instant::now(), in_short(&e));
        }
        passage.tried.push(lease.endpoint().clone());
        let has_other = passage.snapshot.upstream.has_other(&passage.tried);
        // Where a pooled connection had been given the head, nobody else gets it.
        e.set_retry(has_other && !is_late && !passage.is_second);
        e.more_context(format!("upstream {}", lease.endpoint().name))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        passage: &mut Passage,
    ) -> Result<()> {
        let permit = passage.permit.as_ref();
        let permit = permit.ok_or_else(|| Error::explain(InternalError, "no permit"))?;
        passage.handed_over = true;
        let lease = passage.lease.as_ref();
        let lease = lease.ok_or_else(|| Error::explain(InternalError, "no upstream"))?;
        let snapshot = &passage.snapshot;
        let said = forward::Said {
            request_id: &passage.record.request_id,
            is_traced: passage.record.parent.is_some(),
            link: passage.record.link,
            meta: &passage.meta,
            // Where the body is here gatepost has said `100 Continue` itself; HTTP/1.0 has no such thing.
            expects_nothing: passage.body.is_some()
                || session.req_header().version == Version::HTTP_10,
            answer_is_read: passage.charge.is_some(),
            over_tls: way(session).is_ok_and(|it| it.is_secure()),
        };
        snapshot
            .upstream
            .rewrite(request, permit, lease, &snapshot.gate.protected, &said)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        passage: &mut Passage,
    ) -> Result<()> {
        passage.body_begun = true;
        passage.in_time()?;
        if let Some(kept) = &passage.body {
            // What the library has is the end of it, kept so that it asks here at all (`body.rs`).
            *body = Some(kept.clone());
        } else {
            passage.takes(body.as_ref().map_or(0, Bytes::len), end_of_stream)?;
        }
        if end_of_stream {
            // INVARIANT: a body has one end. For a piece of nothing the library would write the chunk that ends it, and then end it once
            // more; what is one too many would stay on the connection, in front of somebody's next request.
            body.take_if(|it| it.is_empty());
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        passage: &mut Passage,
    ) -> Result<()> {
        if response.status.is_informational() {
            passage.interim += 1;
            if passage.interim > MAX_INTERIM {
                return Err(Error::explain(InvalidHTTPHeader, "interim answers only").into_up());
            }
        } else {
            passage.record.upstream_answered();
            passage.upstream_status = Some(response.status.as_u16());
            if let Some(lease) = &passage.lease {
                lease.answered(response.status);
            }
            if is_whole(&session.req_header().method, response) {
                passage.lease = None;
            }
        }
        forward::pass_back(response)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _passage: &mut Passage,
    ) -> Result<()> {
        if session.req_header().version == Version::HTTP_10 {
            // It knows no chunks (RFC 9112 §6.1); the end of the connection ends the answer.
            response.remove_header(&TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        self.part_from_client(session);
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        passage: &mut Passage,
    ) -> Result<Option<Duration>> {
        passage.in_time()?;
        if end_of_stream {
            // Before the client has its answer and can send the next one.
            passage.lease = None;
        }
        if let (Some(_), Some(body)) = (&passage.charge, body) {
            let room = MAX_ANSWER.saturating_sub(passage.answer.len());
            passage.answer.extend(body.iter().take(room));
        }
        Ok(None)
    }

    /// A pooled connection may turn out to be dead when it is used. The request is sent again only
    /// where the upstream cannot have acted on it: its head could not be written whole, or its method
    /// is idempotent and the body is still at hand. A body that was sent is never sent twice.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        passage: &mut Passage,
        client_reused: bool,
    ) -> Box<Error> {
        // A pooled connection that was closed meanwhile says nothing about the address.
        let is_stale = client_reused && e.retry == RetryType::ReusedOnly;
        let body_is_done = session.is_body_done();
        if let Some(lease) = &passage.lease
            && passage.upstream_status.is_none()
            && !is_stale
            && !passage.is_late()
            && speaks_against_upstream(&e, body_is_done)
        {
            lease.failed(Instant::now(), in_short(&e));
        }
        let mut e = e.more_context(format!("upstream {}", peer._address));
        let harmless = !passage.body_begun
            || (session.req_header().method.is_idempotent()
                && !session.as_ref().retry_buffer_truncated());
        let once_more = harmless && is_stale && !passage.is_second;
        e.set_retry(once_more);
        if once_more {
            passage.is_second = true;
            // The body is counted anew, and where there was none yet, nobody had anything of the request.
            passage.record.bytes_in = 0;
            passage.pace = Pace::default();
            passage.handed_over &= passage.body_begun;
            passage.again = passage.lease.as_ref().map(|it| it.endpoint().clone());
        }
        e
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        e: &Error,
        passage: &mut Passage,
    ) -> FailToProxy {
        // What comes now is between gatepost and the client.
        passage.lease = None;
        let mut refusal = classify(e);
        let connecting = matches!(e.etype(), ConnectTimedout | TLSHandshakeTimedout);
        if matches!(refusal, Refusal::UpstreamTimedOut) && !connecting && !session.is_body_done() {
            // The upstream waits for the rest of the body, as gatepost does.
            refusal = Refusal::BodyTimedOut;
        }
        passage.record.refused(&refusal);
        passage.record.detail = Some(in_short(e));
        // What is left of the exchange is in doubt, so the connection is not used again.
        session.set_keepalive(None);
        let answered = answer::refuse(session, &refusal, None).await;
        let error_code = if answered.is_ok() {
            refusal.status().as_u16()
        } else {
            0
        };
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    /// The record says it, once.
    fn suppress_error_log(&self, _session: &Session, _passage: &Passage, _error: &Error) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, _e: Option<&Error>, passage: &mut Passage) {
        // Bytes that a client sent ahead of its answer must not become the next request unseen.
        session.set_pipelining_enabled(false);
        let record = &mut passage.record;
        if let Some(head) = session.response_written()
            && !head.status.is_informational()
        {
            record.status = head.status.as_u16();
        }
        record.bytes_out = u64::try_from(session.body_bytes_sent()).unwrap_or(u64::MAX);
        self.metrics.count(record);
        record.log();
        if let Some(traces) = &passage.snapshot.traces {
            traces.export(record);
        }
        if let Some(charge) = passage.charge.take()
            && let Some(refund) = passage.refund()
        {
            let quota = self.quota.clone();
            // Nobody waits for it.
            tokio::spawn(async move { quota.refund(charge, refund).await });
        }
    }
}
