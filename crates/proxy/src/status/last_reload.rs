//! What came of the last reload: the reloader writes it, the status page reads it.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::unix;

/// The longest fault that is shown, in bytes.
const LONGEST: usize = 16 * 1024;

/// The last reload, if there was one.
#[derive(Default)]
pub(crate) struct LastReload(Mutex<Option<Reloaded>>);

/// One reload.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Reloaded {
    /// In Unix time.
    time: f64,
    /// What it was for: `signal`, `admin` or `files changed`.
    why: &'static str,
    /// Why it failed, if it did.
    error: Option<String>,
}

impl LastReload {
    pub(crate) fn note(&self, why: &'static str, done: &Result<(), String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Reloaded {
            time: unix(SystemTime::now()),
            why,
            error: done.as_ref().err().map(|fault| presentable(fault)),
        });
    }

    pub(super) fn latest(&self) -> Option<Reloaded> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A fault without what it repeats of the files: where a value is misplaced or a quote is missing, that may be a secret. The
/// place is still there, and the log has the words.
fn presentable(fault: &str) -> String {
    // Lua shows the token at which it gave up, which may be a text of many lines.
    let (fault, more) = match fault.split_once(" near '") {
        Some((before, _)) => (before, " near …"),
        None => (fault, ""),
    };
    let lines = fault.lines().map(|line| {
        let repeated = ["found ", "unsupported tag "]
            .into_iter()
            .filter_map(|words| Some(line.find(words)? + words.len()));
        match repeated.min().and_then(|end| line.get(..end)) {
            Some(line) => format!("{line}…"),
            None => line.to_owned(),
        }
    });
    let mut text = lines.collect::<Vec<_>>().join("\n") + more;
    text.truncate(text.floor_char_boundary(LONGEST));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_keeps_its_place_and_not_what_stands_there() {
        for (fault, expected) in [
            (
                "a.yaml:4:12: expected `https://host:port` without a path, found `https://u:hidden@h:1`\na.yaml:8:1: unknown key `a`",
                "a.yaml:4:12: expected `https://host:port` without a path, found …\na.yaml:8:1: unknown key `a`",
            ),
            (
                "a.yaml:1:2: unsupported tag `!hidden`",
                "a.yaml:1:2: unsupported tag …",
            ),
            (
                "p.lua:1: '}' expected near ''hidden''",
                "p.lua:1: '}' expected near …",
            ),
            (
                "p.lua:2: '}' expected near '[[hidden\nhidden]]'",
                "p.lua:2: '}' expected near …",
            ),
            (
                "p.lua:1: syntax error near <eof>",
                "p.lua:1: syntax error near <eof>",
            ),
        ] {
            assert_eq!(presentable(fault), expected);
        }
        assert!(presentable(&"ü".repeat(LONGEST)).len() <= LONGEST);
    }
}
