//! A configuration.
//!
//! One that is accepted says the same when it is read twice, and with a comment before it; one that is refused says why, and where in the
//! text. It is read as a file of a folder that there is none of, so files that it names are not there.

use std::path::Path;

use gatepost_config::{Settings, parse};

use crate::{Outcome, Verdict, must};

/// What is longer takes long to read, and says nothing new.
const LONGEST: usize = 32 << 10;

pub(crate) fn run(data: &[u8]) -> Outcome {
    let source = Path::new("/nonexistent/gatepost/fuzzed.yaml");
    let Ok(text) = std::str::from_utf8(data) else {
        return Ok(Verdict::Refused);
    };
    if text.len() > LONGEST {
        return Ok(Verdict::Refused);
    }
    let again = parse(text, source);
    match (parse(text, source), again) {
        (Ok(settings), Ok(again)) => {
            let said = said(settings);
            must(said == self::said(again), || {
                "two readings, two configurations".to_owned()
            })?;
            // A directive or a byte order mark has to come first.
            if !text.starts_with(['%', '\u{feff}']) {
                let with_comment = parse(&format!("# nothing\n{text}"), source).map(self::said);
                must(with_comment.as_ref() == Ok(&said), || {
                    format!("a comment changes {said} to {with_comment:?}")
                })?;
            }
            Ok(Verdict::Accepted)
        }
        (Err(faults), Err(again)) => {
            must(faults == again, || format!("{faults}, and then {again}"))?;
            must(faults.iter().next().is_some(), || {
                "refused without a fault".to_owned()
            })?;
            let lines = text
                .split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
                .count();
            for fault in faults.iter().map(ToString::to_string) {
                let place = fault.strip_prefix("/nonexistent/gatepost/fuzzed.yaml:");
                must(place.is_some(), || format!("nobody's fault: {fault}"))?;
                let line = place.and_then(|it| it.split(':').next()?.parse::<usize>().ok());
                must(line.is_none_or(|line| line <= lines + 1), || {
                    format!("a fault behind the end of {lines} lines: {fault}")
                })?;
            }
            Ok(Verdict::Refused)
        }
        (one, other) => {
            must(false, || format!("{one:?}, and then {other:?}"))?;
            Ok(Verdict::Refused)
        }
    }
}

/// All of it. Where warnings stand may change.
fn said(settings: Settings) -> String {
    let warnings = settings.warnings.len();
    let settings = Settings {
        warnings: Vec::new(),
        ..settings
    };
    format!("{settings:?}, {warnings} warnings")
}
