//! `gatepost auth`: what the policy says about a user, without a request.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use gatepost_auth::{AuthInfo, Credentials, Judgement};
use gatepost_config::{Log, LogFormat};

use crate::settings::{load, try_policy};
use crate::{logging, password};

/// Prints ALLOW or DENY, and why. The exit status is 0 for ALLOW alone.
pub(crate) fn run(config: &Path, user: &str, out: &mut impl Write) -> Result<ExitCode> {
    let settings = load(config)?;
    // What the policy logs belongs to the answer: the reason of a failure is there alone.
    let _last_lines = logging::init(&Log {
        format: LogFormat::Text,
        level: "warn".to_owned(),
    })?;
    let policy = try_policy(&settings.policy)?;
    let password = password::read(&format!("Password for {user}: "))?;
    let rules = &settings.gate.credentials;
    let credentials = match Credentials::basic(user, Some(password.expose()), rules) {
        Ok(credentials) => credentials,
        Err(fault) => {
            writeln!(out, "DENY: refused before the policy is asked: {fault}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    if !policy.handles_basic() {
        bail!("the policy has no handler for Basic credentials");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let begin = Instant::now();
    let judgement = runtime.block_on(policy.judge(credentials));
    let took = begin.elapsed();
    if let Judgement::Accepted(info) = &judgement {
        describe(info, out)?;
    } else {
        writeln!(out, "DENY: {}", words(&judgement))?;
    }
    writeln!(out, "  took      {:.1} ms", took.as_secs_f64() * 1e3)?;
    Ok(if matches!(judgement, Judgement::Accepted(_)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn describe(info: &AuthInfo, out: &mut impl Write) -> Result<()> {
    writeln!(out, "ALLOW")?;
    writeln!(out, "  identity  {}", info.http_auth())?;
    for other in info.identities() {
        writeln!(
            out,
            "  from      {} ({})",
            other.context.as_str(),
            other.identity
        )?;
    }
    let groups = if info.groups().is_empty() {
        "none".to_owned()
    } else {
        info.groups().join(", ")
    };
    writeln!(out, "  groups    {groups}")?;
    Ok(())
}

fn words(judgement: &Judgement) -> &'static str {
    match judgement {
        Judgement::Accepted(_) => "",
        Judgement::Rejected => "the handler said no (a client gets 401)",
        Judgement::NoHandler => "there is no handler (a client gets 401)",
        Judgement::Failed => "the handler failed (a client gets 500)",
        Judgement::TimedOut => "the handler took too long (a client gets 503)",
        Judgement::Overloaded => "too many calls wait (a client gets 503)",
    }
}
