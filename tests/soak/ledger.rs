//! Reads the log as it comes, keeps the sums of its access lines, and holds them against the metrics and what the upstream saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::upstream::{Ids, Seen};

/// The sums.
#[derive(Default, Clone)]
pub(crate) struct Sums {
    /// Requests that have a line.
    pub(crate) requests: Ids,
    /// Those of them whose line says why they did not reach the upstream, or did in vain: a refusal, or a client that was gone.
    explained: Ids,
    pub(crate) by_status: BTreeMap<u16, u64>,
    pub(crate) by_refusal: BTreeMap<String, u64>,
    /// Lines of level ERROR, by what they say.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) warnings: BTreeMap<String, u64>,
    /// What is no line of the log: words of a panic.
    pub(crate) foreign: Vec<String>,
}

#[derive(Default, Clone)]
pub(crate) struct Ledger(Arc<Mutex<Sums>>);

/// A field of a line. Text that clients sent has its quotes escaped, so it cannot hold such a name.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.split_once(&format!("\"{name}\":"))?.1;
    match value.strip_prefix('"') {
        Some(text) => text.split('"').next(),
        None => value.split([',', '}']).next(),
    }
}

impl Ledger {
    /// Notes a line. True where it has to be kept for who waits for it.
    pub(crate) fn note(&self, line: &str) -> bool {
        let mut sums = self.0.lock().unwrap();
        let Some(level) = field(line, "level").filter(|_| line.starts_with('{')) else {
            if sums.foreign.len() < 100 {
                sums.foreign.push(line.to_owned());
            }
            return true;
        };
        let message = field(line, "message").unwrap_or_default();
        // Has a line of its own for each failed password, beside that of the request.
        let guessed = message.starts_with("auth_failed");
        match level {
            "ERROR" => *sums.errors.entry(message.to_owned()).or_default() += 1,
            "WARN" if !guessed => *sums.warnings.entry(message.to_owned()).or_default() += 1,
            _ => {}
        }
        if !line.contains("\"target\":\"access\"") {
            return !guessed;
        }
        if message != "request" {
            return false;
        }
        let id = field(line, "request_id").unwrap();
        sums.requests.note(id);
        let status = field(line, "status").unwrap().parse().unwrap();
        *sums.by_status.entry(status).or_default() += 1;
        let refusal = field(line, "refusal");
        if refusal.is_some() || status == 0 {
            sums.explained.note(id);
        }
        if let Some(refusal) = refusal {
            *sums.by_refusal.entry(refusal.to_owned()).or_default() += 1;
        }
        false
    }

    pub(crate) fn sums(&self) -> Sums {
        self.0.lock().unwrap().clone()
    }
}

/// The sum of a counter's series that have this label, by its value.
pub(crate) fn by_label(metrics: &str, counter: &str, label: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in metrics.lines().filter(|it| it.starts_with(counter)) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let of = series.split_once(&format!("{label}=\"")).unwrap().1;
        let of = of.split('"').next().unwrap().to_owned();
        *sums.entry(of).or_default() += value.parse::<u64>().unwrap();
    }
    sums.retain(|_, count| *count > 0);
    sums
}

impl Sums {
    /// What does not add up: requests in the metrics, lines, outcomes, what the upstream got and what was refused.
    pub(crate) fn faults(&self, metrics: &str, seen: &Seen) -> Vec<String> {
        let statuses = by_label(metrics, "gatepost_requests_total{", "status");
        let refusals = by_label(metrics, "gatepost_refusals_total{", "reason");
        let lines = self.by_status.iter();
        let lines: BTreeMap<_, _> = lines.map(|(it, n)| (format!("{it:03}"), *n)).collect();
        let mut faults = Vec::new();
        let mut hold = |holds: bool, words: String| {
            if !holds {
                faults.push(words);
            }
        };
        hold(
            statuses == lines,
            format!("by status, metrics say {statuses:?} and the log {lines:?}"),
        );
        hold(
            refusals == self.by_refusal,
            format!(
                "by refusal, metrics say {refusals:?} and the log {:?}",
                self.by_refusal
            ),
        );
        for (count, what) in [
            (self.requests.again, "requests have two lines"),
            (
                seen.heads.without(&self.requests),
                "requests came to the upstream and have no line",
            ),
            (
                self.requests.without(&{
                    let mut known = seen.heads.clone();
                    known.add(&self.explained);
                    known
                }),
                "requests have a line, did not come to the upstream, and nothing says why",
            ),
            (seen.wholes.again, "bodies were delivered twice"),
            (seen.forged, "forged identities came to the upstream"),
        ] {
            hold(count == 0, format!("{count} {what}"));
        }
        faults
    }

    /// Requests that did not come to the upstream.
    pub(crate) fn kept_back(&self, seen: &Seen) -> u64 {
        self.requests.without(&seen.heads)
    }
}
