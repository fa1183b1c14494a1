//! What one request carries with it from hook to hook of the proxy library.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gatepost_auth::Permit;
use http::Method;
use http::header::CONTENT_LENGTH;
use pingora_error::ErrorType::ReadTimedout;
use pingora_error::{Error, Result};
use pingora_http::ResponseHeader;
use tokio::sync::OwnedSemaphorePermit;

use crate::body::Pace;
use crate::endpoints::{Endpoint, Lease};
use crate::fault::{BODY_TOO_LARGE, TOTAL_TIMEOUT};
use crate::metrics::Counted;
use crate::quota::{Charge, Refund, failed_recipients};
use crate::record::Record;
use crate::snapshot::Snapshot;

/// What one request carries with it.
pub(crate) struct Passage {
    pub(crate) record: Record,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) permit: Option<Permit>,
    /// The largest body that may pass, in bytes.
    pub(crate) body_limit: u64,
    /// The body, where it was read to be looked into.
    pub(crate) body: Option<Bytes>,
    /// What the policy noted about the message.
    pub(crate) meta: Vec<(String, String)>,
    /// What was charged, until it is known what the MTA took.
    pub(crate) charge: Option<Charge>,
    /// Whether an upstream was given the request's head. From then on it may have acted on it.
    pub(crate) handed_over: bool,
    /// How many interim answers (1xx) there were.
    pub(crate) interim: u32,
    /// The status of the upstream's own answer.
    pub(crate) upstream_status: Option<u16>,
    /// The beginning of that answer, where something was charged.
    pub(crate) answer: Vec<u8>,
    /// The upstream address that was chosen when it was let in, until it is asked.
    pub(crate) first: Option<Lease>,
    /// The upstream address that works on it.
    pub(crate) lease: Option<Lease>,
    /// Those that no connection could be made to.
    pub(crate) tried: Vec<Arc<Endpoint>>,
    /// The one that gets it once more, since its pooled connection was dead.
    pub(crate) again: Option<Arc<Endpoint>>,
    /// Whether that has happened.
    pub(crate) is_second: bool,
    /// When the upstream has to be done with it.
    pub(crate) deadline: Option<Instant>,
    /// Its share of the memory for bodies.
    pub(crate) room: Option<OwnedSemaphorePermit>,
    /// Whether anything of the body has been given to an upstream connection.
    pub(crate) body_begun: bool,
    /// How fast it comes.
    pub(crate) pace: Pace,
    _in_flight: Counted,
}

impl Passage {
    pub(crate) fn new(snapshot: Arc<Snapshot>, in_flight: Counted) -> Self {
        Self {
            record: Record::new(Instant::now(), snapshot.generation),
            snapshot,
            permit: None,
            body_limit: u64::MAX,
            body: None,
            meta: Vec::new(),
            charge: None,
            handed_over: false,
            interim: 0,
            upstream_status: None,
            answer: Vec::new(),
            first: None,
            lease: None,
            tried: Vec::new(),
            again: None,
            is_second: false,
            deadline: None,
            room: None,
            body_begun: false,
            pace: Pace::default(),
            _in_flight: in_flight,
        }
    }

    /// What is left of the upstream's time; `None` where that has no end.
    pub(crate) fn time_left(&self, now: Instant) -> Option<Duration> {
        /// The library takes no time for no limit.
        const LEAST: Duration = Duration::from_millis(1);
        let left = self.deadline?.saturating_duration_since(now);
        Some(left.max(LEAST))
    }

    pub(crate) fn is_late(&self) -> bool {
        self.deadline.is_some_and(|it| Instant::now() >= it)
    }

    /// # Errors
    ///
    /// Where the upstream's time is over. Asked with every piece of a body, so that one that trickles is cut off, too.
    pub(crate) fn in_time(&self) -> Result<()> {
        if self.is_late() {
            return Err(Error::explain(TOTAL_TIMEOUT, "upstream.total_timeout is over").into_up());
        }
        Ok(())
    }

    /// Counts a piece of the body.
    ///
    /// # Errors
    ///
    /// Where the body is larger than the route takes, or comes too slowly.
    pub(crate) fn takes(&mut self, piece: usize, is_last: bool) -> Result<()> {
        self.record.bytes_in += u64::try_from(piece).unwrap_or(u64::MAX);
        if self.record.bytes_in > self.body_limit {
            return Err(Error::explain(BODY_TOO_LARGE, "more than the route takes").into_down());
        }
        let http = &self.snapshot.http;
        if let Some(rate) = http.min_body_rate
            && !self.pace.keeps_up(piece, rate, http.body_timeout)
            && !is_last
        {
            return Err(Error::explain(ReadTimedout, "slower than http.min_body_rate").into_down());
        }
        Ok(())
    }

    /// What the MTA did not take, by its own word. What it did with a request that it got and did not answer, or not in
    /// time, nobody knows; a client could break off on purpose. So that counts.
    pub(crate) fn refund(&self) -> Option<Refund> {
        match self.upstream_status {
            Some(400..) => Some(Refund::All),
            Some(200..300) => failed_recipients(&self.answer)
                .filter(|failed| *failed > 0)
                .map(Refund::Recipients),
            None if !self.handed_over => Some(Refund::All),
            Some(_) | None => None,
        }
    }
}

/// Whether nothing follows the head (RFC 9112 §6.3).
pub(crate) fn is_whole(method: &Method, response: &ResponseHeader) -> bool {
    let length = response.headers.get(CONTENT_LENGTH);
    method == Method::HEAD
        || matches!(response.status.as_u16(), 204 | 304)
        || length.is_some_and(|it| it == "0")
}

/// How much of the MTA's answer is kept to find `fail_count` in, in bytes. It lists failed recipients.
pub(crate) const MAX_ANSWER: usize = 1024 * 1024;

/// Interim answers of one request. Each of them starts the wait for an answer anew.
pub(crate) const MAX_INTERIM: u32 = 16;
