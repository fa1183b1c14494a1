//! `gatepost verify`: whether a signature is what gatepost says about a request.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use gatepost_auth::signature::Claim;

use crate::settings::load;

/// Prints VALID or INVALID, and why. The exit status is 0 for VALID alone.
pub(crate) fn run(
    config: &Path,
    signature: &str,
    claim: &Claim<'_>,
    at: Option<u64>,
    tolerance: Duration,
    out: &mut impl Write,
) -> Result<ExitCode> {
    let settings = load(config)?;
    let keys = settings
        .upstream
        .signature
        .context("`upstream.signature` names no keys")?
        .keys;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = at.unwrap_or(now.as_secs());
    match keys.verify(signature, claim, now, tolerance.as_secs()) {
        Ok(key) => {
            writeln!(out, "VALID, signed with the key {key}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(fault) => {
            writeln!(out, "INVALID: {fault}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
