//! Why a body cannot be read in one way only.

use std::fmt;

/// What is wrong with a body, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageFault {
    /// What kind of fault it is.
    pub kind: FaultKind,
    /// Where in the body, as a JSON pointer (RFC 6901), where there is such a place.
    pub pointer: Option<String>,
    /// What is wrong, in words that a client can act on. Repeats nothing of the message's content.
    pub words: &'static str,
}

/// Kinds of faults: each is a status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Not of the format: 400.
    Malformed,
    /// Larger than is read: 413.
    TooLarge,
    /// A content type or encoding that is not read: 415.
    Unsupported,
    /// Of the format, but it does not mean one thing: 422.
    Ambiguous,
}

impl fmt::Display for MessageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words)?;
        if let Some(pointer) = &self.pointer {
            write!(f, " (at `{pointer}`)")?;
        }
        Ok(())
    }
}

impl std::error::Error for MessageFault {}
