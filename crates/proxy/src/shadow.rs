//! Asks a second policy the same, without effect, so that an operator sees what a change would do before it does it.
//!
//! It has its own workers and queue, and is asked behind the live decision on a task of its own: no request waits for
//! it, and where it has no room the question is dropped.

use std::sync::Arc;

use gatepost_auth::{AuthInfo, Credentials, Judgement};
use gatepost_policy::{MessageJudgement, MessageQuestion, Policy};

use crate::metrics::{Counted, ShadowMetrics};

/// What came of a question, as far as it can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// In, or sent; with what makes two yeses differ: identities and groups, or metas.
    Allowed(String),
    Denied(&'static str),
    /// Nothing that says what it would have decided.
    Open(&'static str),
}

impl Answer {
    pub(crate) fn to_credentials(judgement: &Judgement) -> Self {
        match judgement {
            Judgement::Accepted(info) => Self::Allowed(described(info)),
            Judgement::Rejected | Judgement::NoHandler | Judgement::Failed => {
                Self::Denied(judgement.outcome())
            }
            Judgement::TimedOut | Judgement::Overloaded => Self::Open(judgement.outcome()),
        }
    }

    pub(crate) fn to_message(judgement: &MessageJudgement) -> Self {
        match judgement {
            MessageJudgement::Accepted { meta } => Self::Allowed(format!("{meta:?}")),
            MessageJudgement::NoHandler => Self::Allowed("[]".to_owned()),
            MessageJudgement::Rejected { .. } | MessageJudgement::Failed => {
                Self::Denied(judgement.outcome())
            }
            MessageJudgement::TimedOut | MessageJudgement::Overloaded => {
                Self::Open(judgement.outcome())
            }
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "allowed",
            Self::Denied(_) => "denied",
            Self::Open(_) => "open",
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "accepted",
            Self::Denied(outcome) | Self::Open(outcome) => outcome,
        }
    }
}

fn described(info: &AuthInfo) -> String {
    let mut groups = info.groups().to_vec();
    groups.sort();
    format!("{} {groups:?}", info.http_auth())
}

/// Questions that may be under way at once. Nobody waits for them, so nobody who waits bounds them.
const MOST: i64 = 1024;

/// A place among them; given back when the question is over. `None` where there is none: then it stays open.
fn place(metrics: &ShadowMetrics, event: &'static str, live: &Answer) -> Option<Counted> {
    let place = Counted::new(&metrics.in_flight);
    if metrics.in_flight.get() > MOST {
        metrics.count(event, live.word(), "open");
        return None;
    }
    Some(place)
}

/// Asks about credentials. `user` is as logs may show it.
pub(crate) fn ask_credentials(
    policy: &Arc<Policy>,
    metrics: &ShadowMetrics,
    credentials: Credentials,
    live: Answer,
    request_id: String,
    user: Option<String>,
) {
    let Some(place) = place(metrics, "authentication", &live) else {
        return;
    };
    let (policy, metrics) = (policy.clone(), metrics.clone());
    tokio::spawn(async move {
        let _place = place;
        let shadow = Answer::to_credentials(&policy.judge(credentials).await);
        compare(
            &metrics,
            "authentication",
            &live,
            &shadow,
            &request_id,
            user.as_deref(),
        );
    });
}

/// Asks about a message.
pub(crate) fn ask_message(
    policy: &Arc<Policy>,
    metrics: &ShadowMetrics,
    question: MessageQuestion,
    live: Answer,
    request_id: String,
) {
    let Some(place) = place(metrics, "message", &live) else {
        return;
    };
    let (policy, metrics) = (policy.clone(), metrics.clone());
    let user = question.http_auth.clone();
    tokio::spawn(async move {
        let _place = place;
        let shadow = Answer::to_message(&policy.judge_message(question).await);
        compare(
            &metrics,
            "message",
            &live,
            &shadow,
            &request_id,
            Some(&user),
        );
    });
}

fn compare(
    metrics: &ShadowMetrics,
    event: &'static str,
    live: &Answer,
    shadow: &Answer,
    request_id: &str,
    user: Option<&str>,
) {
    metrics.count(event, live.word(), shadow.word());
    if live != shadow && live.word() != "open" {
        tracing::warn!(
            target: "shadow",
            event,
            request_id,
            user,
            live = live.outcome(),
            shadow = shadow.outcome(),
            "the shadow policy decides otherwise"
        );
    }
}
