//! What came of asking the policy about credentials.

use crate::identity::{AuthInfo, Mechanism, Subject, SubjectKind};
use crate::refusal::Refusal;

/// The policy's answer, already held against the contract: whatever is not plainly a yes or a no is
/// [`Judgement::Failed`]. The details of a failure are in the log of the one who ran the policy; they
/// are not carried here, so they cannot reach a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The handler returned `true`, or an auth info with at least one identity.
    Accepted(AuthInfo),
    /// The handler returned `false`.
    Rejected,
    /// The policy has no handler for this scheme.
    NoHandler,
    /// The handler raised an error, ran out of memory, or returned anything else.
    Failed,
    /// The deadline passed.
    TimedOut,
    /// Too many calls are waiting already.
    Overloaded,
}

impl Judgement {
    /// The word used in the decision metrics.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Rejected => "rejected",
            Self::NoHandler => "no_handler",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Overloaded => "overloaded",
        }
    }

    /// Who the request is, or why it goes no further.
    ///
    /// # Errors
    ///
    /// Everything but [`Judgement::Accepted`] is a [`Refusal`].
    pub fn into_subject(self, mechanism: Mechanism) -> Result<Subject, Refusal> {
        match self {
            Self::Accepted(info) => Ok(Subject(SubjectKind::Authenticated(info, mechanism))),
            Self::Rejected | Self::NoHandler => Err(Refusal::Unauthorized),
            Self::Failed => Err(Refusal::PolicyFailed),
            Self::TimedOut => Err(Refusal::PolicyTimedOut),
            Self::Overloaded => Err(Refusal::PolicyOverloaded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words are labels of a metric; the refusals are what a client sees of each.
    #[test]
    fn each_judgement_has_its_word_and_its_refusal() {
        let scott = AuthInfo::basic("scott").unwrap();
        for (judgement, word, refusal) in [
            (Judgement::Accepted(scott), "accepted", None),
            (Judgement::Rejected, "rejected", Some(Refusal::Unauthorized)),
            (
                Judgement::NoHandler,
                "no_handler",
                Some(Refusal::Unauthorized),
            ),
            (Judgement::Failed, "failed", Some(Refusal::PolicyFailed)),
            (
                Judgement::TimedOut,
                "timed_out",
                Some(Refusal::PolicyTimedOut),
            ),
            (
                Judgement::Overloaded,
                "overloaded",
                Some(Refusal::PolicyOverloaded),
            ),
        ] {
            assert_eq!(judgement.outcome(), word);
            assert_eq!(judgement.into_subject(Mechanism::Basic).err(), refusal);
        }
    }
}
