//! What must hold whatever comes in. Each [`Target`] takes bytes, gives them to a part of gatepost, and holds what comes of
//! it against a second, simpler notion of what may come of it: not panicking is the least.
//!
//! libFuzzer brings the bytes in `make fuzz`, `tests/smoke.rs` a few of them in `make test`. The first are in `corpus`.

mod config;
mod credentials;
mod forwarded;
mod framing;
mod message;
mod path;
mod proxy_header;
mod requests;
mod routes;

use std::fmt;
use std::path::{Path, PathBuf};

/// A part of gatepost that reads what others write.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in `corpus`.
    pub name: &'static str,
    /// Tries these bytes.
    ///
    /// # Errors
    ///
    /// A [`Finding`].
    pub run: fn(&[u8]) -> Outcome,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "credentials",
        run: credentials::run,
    },
    Target {
        name: "path",
        run: path::run,
    },
    Target {
        name: "proxy_header",
        run: proxy_header::run,
    },
    Target {
        name: "forwarded",
        run: forwarded::run,
    },
    Target {
        name: "routes",
        run: routes::run,
    },
    Target {
        name: "framing",
        run: framing::run,
    },
    Target {
        name: "config",
        run: config::run,
    },
    Target {
        name: "message",
        run: message::run,
    },
    Target {
        name: "requests",
        run: requests::run,
    },
];

impl Target {
    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|it| it.name == name)
    }

    /// The folder of what it is given first.
    #[must_use]
    pub fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name)
    }
}

/// What became of the bytes.
pub type Outcome = Result<Verdict, Finding>;

/// Whether they were taken for what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They were, and all that must hold of that does.
    Accepted,
    /// They were not.
    Refused,
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding(String);

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Finding {}

fn finding<T>(what: impl Into<String>) -> Result<T, Finding> {
    Err(Finding(what.into()))
}

fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Finding> {
    if holds { Ok(()) } else { finding(otherwise()) }
}
