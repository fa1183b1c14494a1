//! YAML as written to settings as used.
//!
//! The one promise: every fault of a file at once, each with its line and column and in words that an
//! operator can act on. So a file is first read into a tree in which everything knows its place
//! (`node`), then walked section by section (`read`) by a reader that records faults and goes on
//! (`section`). What that reader asks for is also the schema that editors read (`schema`).

mod endpoints;
mod fault;
mod kind;
mod limits;
mod listeners;
mod node;
mod read;
mod reference;
mod routes;
mod schema;
mod secret;
mod section;
mod settings;
mod traces;
mod trust;
mod upstream;
mod value;

use std::path::Path;

pub use fault::{Fault, Faults};
pub use schema::{reference_page, schema};
pub use settings::{
    Admin, Audit, AuditNames, AuditOutput, Balance, Balancing, CertificateName, CircuitBreaker,
    ClientCertificates, Companions, DecisionCache, HealthCheck, Http, IdentityForm, Listen,
    Listener, ListenerTls, Log, LogFormat, Metrics, Policy, QuotaRule, Quotas, Reload, Settings,
    Signature, Throttle, Traces, Upstream, UpstreamAddress, UpstreamTls, WhenDown,
};

/// Ten thousand networks take a quarter of this. In bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads a file. Relative paths in it are relative to its folder.
///
/// # Errors
///
/// [`Faults`], every one of them.
pub fn load(path: &Path) -> Result<Settings, Faults> {
    let whole = |message: String| Faults::new(vec![Fault::new(path, None, message)], None);
    // Asked first, since opening a named pipe would wait for a writer.
    let metadata = std::fs::metadata(path).map_err(|fault| whole(fault.to_string()))?;
    if !metadata.is_file() {
        return Err(whole("this is not a file".to_owned()));
    }
    if metadata.len() > MAX_BYTES {
        return Err(whole("the file is larger than 1 MiB".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|fault| whole(fault.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|fault| {
        let good = fault
            .as_bytes()
            .iter()
            .take(fault.utf8_error().valid_up_to());
        let line = 1 + good.filter(|byte| **byte == b'\n').count();
        whole(format!("the file is not UTF-8: see line {line}"))
    })?;
    parse(&text, path)
}

/// Reads a text; `source` is its file, for messages and as the base of relative paths.
///
/// # Errors
///
/// [`Faults`], every one of them.
pub fn parse(text: &str, source: &Path) -> Result<Settings, Faults> {
    let tree = match node::parse(text) {
        Ok(tree) => tree,
        Err((place, message)) => {
            let fault = Fault::new(source, place, message);
            return Err(Faults::new(vec![fault], None));
        }
    };
    let folder = source.parent().unwrap_or(Path::new(""));
    let reader = section::Reader::new(source);
    let mut policy = None;
    let settings = reader
        .document(&tree)
        .and_then(|root| read::settings(root, folder, &mut policy));
    let (faults, warnings, _) = reader.finish();
    // INVARIANT: where the walk leaves something out it has recorded a fault, so faults are never empty.
    match settings {
        Some(settings) if faults.is_empty() => Ok(Settings {
            warnings,
            ..settings
        }),
        _ => Err(Faults::new(faults, policy)),
    }
}

#[cfg(test)]
mod tests;
