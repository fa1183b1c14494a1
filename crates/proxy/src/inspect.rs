//! Looks into a message: reads the body, holds it against the rules, asks the policy.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use gatepost_auth::{Permit, Refusal};
use gatepost_message::{Format, Limits, Message, MessageFault};
use gatepost_policy::{MessageJudgement, MessageQuestion};
use http::HeaderMap;
use pingora_proxy::Session;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body;
use crate::door::Door;
use crate::metrics::ShadowMetrics;
use crate::record::{Facts, Record};
use crate::shadow::{Answer, ask_message};
use crate::snapshot::Snapshot;

/// A body of more than this is read on a thread of its own, so that others are served meanwhile. In bytes; it
/// takes about a millisecond.
const LARGE: usize = 256 * 1024;

/// The header section of a message, in bytes.
const MAX_HEADER_BYTES: usize = 256 * 1024;

/// Recipients of one request.
const MAX_RECIPIENTS: usize = 100_000;

/// What is known of a message that may be sent.
pub(crate) struct Inspected {
    /// The body as it came, to be sent on.
    pub(crate) body: Bytes,
    /// What the policy noted, by name.
    pub(crate) meta: Vec<(String, String)>,
    pub(crate) recipients: u32,
}

/// The memory and the threads that bodies may take, all together.
pub(crate) struct Bodies {
    /// In units of [`UNIT`].
    memory: Arc<Semaphore>,
    /// For those that are read on threads of their own; each may inflate to the limit of a body.
    readers: Semaphore,
}

/// Of memory, in bytes.
const UNIT: u64 = 1024;

impl Bodies {
    pub(crate) fn new(bytes: u64, threads: usize) -> Self {
        let units = usize::try_from(bytes / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            memory: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            readers: Semaphore::new(threads),
        }
    }

    /// Room for a request's body, before any of it is read.
    ///
    /// # Errors
    ///
    /// [`Refusal::MemoryFull`], or that it is too large in any case.
    pub(crate) fn room(
        &self,
        session: &Session,
        snapshot: &Snapshot,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        let size = body::size(session, snapshot.http.request_body_limit)?;
        let units = u32::try_from(size.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let room = self.memory.clone().try_acquire_many_owned(units);
        room.map_err(|_| Refusal::MemoryFull)
    }
}

impl Door {
    /// # Errors
    ///
    /// Why the message may not be sent.
    pub(crate) async fn inspect(
        &self,
        session: &mut Session,
        format: Format,
        snapshot: &Snapshot,
        permit: &Permit,
        record: &mut Record,
    ) -> Result<Inspected, Refusal> {
        let http = &snapshot.http;
        let body = body::read(session, http.request_body_limit, http.body_timeout).await?;
        record.bytes_in = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let began = Instant::now();
        let headers = &session.req_header().headers;
        let message = read(headers, &body, format, snapshot, &self.bodies.readers).await;
        let judged = match message {
            Ok(message) => {
                judge(
                    message,
                    body,
                    snapshot,
                    permit,
                    record,
                    &self.metrics.shadow,
                )
                .await
            }
            Err(refusal) => Err(refusal),
        };
        record.since.inspecting = Some(began);
        record.inspected = Some(began.elapsed());
        judged
    }
}

async fn judge(
    message: Message,
    body: Bytes,
    snapshot: &Snapshot,
    permit: &Permit,
    record: &mut Record,
    shadow: &ShadowMetrics,
) -> Result<Inspected, Refusal> {
    let recipients = message.recipients.len();
    record.recipients = Some(recipients);
    let (subject, identity) = (permit.subject(), permit.identity().unwrap_or_default());
    if snapshot.audit.messages {
        record.facts = Some(Facts::of(&message, subject));
    }
    let rules = &snapshot.gate.message_rules;
    rules
        .check(subject, identity, &message)
        .map_err(Refusal::Rule)?;
    let question = MessageQuestion {
        message: Arc::new(message),
        auth: subject.auth_info().cloned(),
        http_auth: identity.to_owned(),
        received_from: permit.origin().client,
    };
    let asked_too = snapshot.shadow.as_ref().map(|it| (it, question.clone()));
    let judgement = snapshot.policy.judge_message(question).await;
    if let Some((policy, question)) = asked_too {
        let live = Answer::to_message(&judgement);
        ask_message(policy, shadow, question, live, record.request_id.clone());
    }
    record.message = Some(judgement.outcome());
    let meta = match judgement {
        MessageJudgement::Accepted { meta } => meta,
        MessageJudgement::NoHandler => Vec::new(),
        MessageJudgement::Rejected { code, text } => {
            return Err(Refusal::PolicyRejected {
                code,
                text,
                recipients,
            });
        }
        MessageJudgement::Failed => return Err(Refusal::MessageFailed),
        MessageJudgement::TimedOut => return Err(Refusal::PolicyTimedOut),
        MessageJudgement::Overloaded => return Err(Refusal::PolicyOverloaded),
    };
    Ok(Inspected {
        body,
        meta,
        recipients: u32::try_from(recipients).unwrap_or(u32::MAX),
    })
}

async fn read(
    headers: &HeaderMap,
    body: &Bytes,
    format: Format,
    snapshot: &Snapshot,
    readers: &Semaphore,
) -> Result<Message, Refusal> {
    let limit = snapshot.http.request_body_limit;
    let limits = Limits {
        max_bytes: usize::try_from(limit).unwrap_or(usize::MAX),
        max_header_bytes: MAX_HEADER_BYTES,
        max_recipients: MAX_RECIPIENTS,
    };
    let small = body.len() <= LARGE && !headers.contains_key(http::header::CONTENT_ENCODING);
    let read: Result<Message, MessageFault> = if small {
        gatepost_message::read(format, headers, body, &limits)
    } else {
        let _turn = readers.acquire().await.map_err(|_| Refusal::Internal)?;
        let (headers, body) = (headers.clone(), body.clone());
        let reading = move || gatepost_message::read(format, &headers, &body, &limits);
        let done = tokio::task::spawn_blocking(reading).await;
        done.map_err(|_| Refusal::Internal)?
    };
    read.map_err(Refusal::Message)
}
