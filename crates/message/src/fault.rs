//! Why a body cannot be read in one way only.

use std::fmt;

/// How much of a JSON pointer is told, in bytes.
const LONGEST_POINTER: usize = 256;

/// What is wrong with a body, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageFault {
    /// What kind of fault it is.
    pub kind: FaultKind,
    /// Where in the body, as a JSON pointer (RFC 6901), where there is such a place; cut
    /// where it is long.
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

impl MessageFault {
    pub(crate) fn malformed(words: &'static str) -> Self {
        Self::new(FaultKind::Malformed, words)
    }

    pub(crate) fn too_large(words: &'static str) -> Self {
        Self::new(FaultKind::TooLarge, words)
    }

    pub(crate) fn unsupported(words: &'static str) -> Self {
        Self::new(FaultKind::Unsupported, words)
    }

    pub(crate) fn ambiguous(words: &'static str) -> Self {
        Self::new(FaultKind::Ambiguous, words)
    }

    fn new(kind: FaultKind, words: &'static str) -> Self {
        Self {
            kind,
            pointer: None,
            words,
        }
    }

    /// The same fault, at a place of the JSON.
    #[must_use]
    pub(crate) fn at(mut self, pointer: impl Into<String>) -> Self {
        let mut pointer = pointer.into();
        // It becomes part of an answer, so names that a client made long must not make that long.
        pointer.truncate(pointer.floor_char_boundary(LONGEST_POINTER));
        self.pointer = Some(pointer);
        self
    }
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
