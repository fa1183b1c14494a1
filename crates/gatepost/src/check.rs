//! `gatepost check`: what would go wrong, without starting anything.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use gatepost_auth::MissingPassword;
use gatepost_config::Settings;
use gatepost_policy::{Policy, lets_missing_password_in, paths_made_from_user};
use gatepost_proxy::check_certificates;

use crate::settings::try_policy;

/// Prints faults and warnings to `out`. Only a fault makes the exit status 1.
pub(crate) fn run(config: &Path, out: &mut impl Write) -> Result<ExitCode> {
    let loaded = gatepost_config::load(config);
    let policy_section = match &loaded {
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
    if let Some(section) = policy_section {
        match try_policy(section) {
            Ok(policy) => {
                for warning in policy.warnings() {
                    writeln!(out, "warning: {warning}")?;
                }
                good &= check_traps(&policy, &section.file, loaded.as_ref().ok(), out)?;
            }
            Err(fault) => {
                good = false;
                writeln!(out, "{fault}")?;
            }
        }
        if let Some(file) = &section.shadow {
            let shadow = gatepost_config::Policy {
                file: file.clone(),
                ..section.clone()
            };
            if let Err(fault) = try_policy(&shadow) {
                good = false;
                writeln!(out, "{fault}")?;
            }
        }
        if let Ok(settings) = &loaded {
            let certificates = check_certificates(settings);
            good &= certificates.faults.is_empty();
            for warning in &certificates.warnings {
                writeln!(out, "warning: {warning}")?;
            }
            for line in certificates.faults.iter().chain(&certificates.ends) {
                writeln!(out, "{line}")?;
            }
        }
        check_messages(loaded.as_ref().ok(), section, out)?;
    }
    if good {
        writeln!(out, "{}: ok", config.display())?;
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::FAILURE)
    }
}

/// A route that looks into messages, and nothing that judges them, was not meant.
fn check_messages(
    settings: Option<&Settings>,
    section: &gatepost_config::Policy,
    out: &mut impl Write,
) -> Result<()> {
    let Some(settings) = settings else {
        return Ok(());
    };
    let looks = settings.gate.routes.iter().find(|it| it.message.is_some());
    let judged = !settings.gate.message_rules.is_empty() || !settings.quotas.rules.is_empty();
    if let (Some(route), false) = (looks, judged)
        && try_policy(section).is_ok_and(|policy| !policy.handles_messages())
    {
        writeln!(
            out,
            "warning: {}: the route {} looks into messages, but there are no `message_rules`, no `quotas` and no handler for http_message_generated",
            section.file.display(),
            route.path.label()
        )?;
    }
    Ok(())
}

/// The mistakes that handlers are known for. Gives false where one of them is open to clients.
fn check_traps(
    policy: &Policy,
    file: &Path,
    settings: Option<&Settings>,
    out: &mut impl Write,
) -> Result<bool> {
    let mut good = true;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if policy.handles_basic() && runtime.block_on(lets_missing_password_in(policy)) {
        let lets =
            "the handler lets an unknown user without a password in: it compares nil with nil";
        let open =
            settings.is_some_and(|it| it.gate.credentials.missing_password == MissingPassword::Nil);
        if open {
            good = false;
            writeln!(
                out,
                "{}: {lets}, and `basic.missing_password: nil` lets such credentials through",
                file.display()
            )?;
        } else {
            writeln!(
                out,
                "warning: {}: {lets} (gatepost refuses such credentials before, other servers may not)",
                file.display()
            )?;
        }
    }
    for trap in std::fs::read_to_string(file).map_or(Vec::new(), |text| paths_made_from_user(&text))
    {
        writeln!(
            out,
            "warning: {}:{}: {}",
            file.display(),
            trap.line,
            trap.message
        )?;
    }
    Ok(good)
}
