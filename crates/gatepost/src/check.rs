//! `gatepost check`: what would go wrong, without starting anything.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::settings;

/// Prints faults and warnings to `out`. Only a fault makes the exit status 1.
pub(crate) fn run(config: &Path, out: &mut impl Write) -> Result<ExitCode> {
    let settings = match settings::load(config) {
        Ok(settings) => settings,
        Err(faults) => {
            writeln!(out, "{faults:#}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    for warning in &settings.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    match settings::load_policy(&settings) {
        Ok(policy) => {
            for warning in policy.warnings() {
                writeln!(out, "warning: {warning}")?;
            }
            writeln!(out, "{}: ok", config.display())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(fault) => {
            writeln!(out, "{fault:#}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
