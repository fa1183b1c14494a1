//! `gatepost check`: what would go wrong, without starting anything.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::settings::load_policy;

/// Prints faults and warnings to `out`. Only a fault makes the exit status 1.
pub(crate) fn run(config: &Path, out: &mut impl Write) -> Result<ExitCode> {
    let loaded = gatepost_config::load(config);
    let policy = match &loaded {
        Ok(settings) => {
            for warning in &settings.warnings {
                writeln!(out, "warning: {warning}")?;
            }
            Some(&settings.policy)
        }
        Err(faults) => {
            writeln!(out, "{faults}")?;
            faults.policy()
        }
    };
    let mut good = loaded.is_ok();
    match policy.map(load_policy) {
        Some(Ok(policy)) => {
            for warning in policy.warnings() {
                writeln!(out, "warning: {warning}")?;
            }
        }
        Some(Err(fault)) => {
            good = false;
            writeln!(out, "{fault}")?;
        }
        None => {}
    }
    if good {
        writeln!(out, "{}: ok", config.display())?;
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::FAILURE)
    }
}
