//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::node::Place;
use crate::settings::Policy;

/// One fault or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    source: PathBuf,
    place: Option<Place>,
    message: String,
}

impl Fault {
    pub(crate) fn new(source: &Path, place: Option<Place>, message: impl Into<String>) -> Self {
        Self {
            source: source.to_owned(),
            place,
            message: message.into(),
        }
    }
}

/// `config/gatepost.yaml:12:5: unknown key `listners`, did you mean `listeners`?`
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.source.display())?;
        if let Some(place) = self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        write!(f, " {}", self.message)
    }
}

/// Every fault of one file, in the order of their places; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    faults: Vec<Fault>,
    policy: Option<Policy>,
}

impl Faults {
    pub(crate) fn new(mut faults: Vec<Fault>, policy: Option<Policy>) -> Self {
        faults.sort_by_key(|fault| fault.place);
        Self { faults, policy }
    }

    /// The faults.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }

    /// The policy section where it could be read, so that the policy can be checked as well.
    #[must_use]
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }
}

/// A line for each.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
