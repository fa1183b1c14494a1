//! The question whether a message may be sent, and its answer.
//!
//! It is about one request, not about one recipient: what it is asked about has been authenticated, and its body read,
//! before the MTA sees anything of it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use gatepost_auth::AuthInfo;
use gatepost_message::Message;

/// What the handler of `http_message_generated` is asked.
#[derive(Clone, PartialEq, Eq)]
pub struct MessageQuestion {
    /// What the request's body says.
    pub message: Arc<Message>,
    /// What the policy said of the credentials; `None` for a trusted host and for nobody.
    pub auth: Option<AuthInfo>,
    /// The identity as it is forwarded; empty where there is none.
    pub http_auth: String,
    /// The client.
    pub received_from: IpAddr,
}

/// Shows who asks and how large it is, and nothing of what the message says: this goes into the log.
impl fmt::Debug for MessageQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageQuestion")
            .field("http_auth", &self.http_auth)
            .field("received_from", &self.received_from)
            .field("recipients", &self.message.recipients.len())
            .field("size", &self.message.size)
            .finish_non_exhaustive()
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageJudgement {
    /// The handler came to its end.
    Accepted {
        /// What it set with `set_meta`, by name: at most 64 values, each one line of at most 1024 bytes.
        meta: Vec<(String, String)>,
    },
    /// The handler called `kumo.reject`.
    Rejected {
        /// From 400 to 599; a reply code of SMTP, not a status of HTTP.
        code: u16,
        /// What the client is told: one line of at most 512 bytes.
        text: String,
    },
    /// The policy has no handler for messages.
    NoHandler,
    /// The handler raised an error, or ran out of memory. Why is in the log: the first 1024 bytes of the error, with the
    /// message's addresses, their users and domains, and its header values taken out where they stand as they are and are
    /// not shorter than three bytes. What a handler made of them, such as a part or other letters, stays.
    Failed,
    /// The deadline passed.
    TimedOut,
    /// Too many calls are waiting already.
    Overloaded,
}

impl MessageJudgement {
    /// The word used in the decision metrics.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Rejected { .. } => "rejected",
            Self::NoHandler => "no_handler",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Overloaded => "overloaded",
        }
    }
}
