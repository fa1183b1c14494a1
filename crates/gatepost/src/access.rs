//! `gatepost access`: which route and which rule decide about a request, without sending one.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use gatepost_auth::path::Target;
use gatepost_auth::{
    AuthInfo, Credentials, Gate, Identity, IdentityContext, Judgement, Mechanism, Origin, Refusal,
    Subject,
};
use http::Method;

use crate::settings::load;

/// What is asked.
pub(crate) struct Question<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Taken to be accepted by the policy.
    pub(crate) user: Option<&'a str>,
    pub(crate) groups: &'a [String],
    pub(crate) from: IpAddr,
}

/// Prints ALLOW or DENY, and why. The exit status is 0 for ALLOW alone.
pub(crate) fn run(
    config: &Path,
    question: &Question<'_>,
    out: &mut impl Write,
) -> Result<ExitCode> {
    let settings = load(config)?;
    let mut why = Vec::new();
    let decided = decide(&settings.gate, question, &mut why)?;
    let Question { method, path, .. } = question;
    match &decided {
        Ok(()) => writeln!(out, "ALLOW {method} {path}")?,
        Err(refusal) => {
            let (status, reason) = (refusal.status().as_u16(), refusal.reason());
            let message = refusal.message();
            writeln!(out, "DENY {method} {path}: {status} {reason}, {message}")?;
        }
    }
    for (what, text) in why {
        writeln!(out, "  {what:<9} {text}")?;
    }
    Ok(if decided.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The way of a request through the gate, as `proxy::door` goes it, but for the policy. Every step says
/// what it found.
fn decide(
    gate: &Gate,
    question: &Question<'_>,
    why: &mut Vec<(&'static str, String)>,
) -> Result<Result<(), Refusal>> {
    let client = question.from.to_canonical();
    let trusted = if gate.trusted_hosts.contains(client) {
        " (a trusted host)"
    } else {
        ""
    };
    why.push(("client", format!("{client}{trusted}")));
    let method = Method::from_bytes(question.method.as_bytes()).context("this is not a method")?;
    let target = match Target::parse(question.path.as_bytes()) {
        Ok(target) => target,
        Err(fault) => return Ok(Err(fault.into())),
    };
    let route = match gate.routes.find(&method, &target) {
        Ok(route) => route,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let number = 1 + gate
        .routes
        .iter()
        .take_while(|it| !std::ptr::eq(*it, route))
        .count();
    why.push(("route", format!("{} (number {number})", route.path.label())));
    let subject = match question.user {
        Some(user) => match accepted(gate, user, question.groups)? {
            Ok(subject) => subject,
            Err(refusal) => return Ok(Err(refusal)),
        },
        None if !question.groups.is_empty() => bail!("--group needs --user"),
        None => match gate.without_credentials(route, &Origin::direct(client)) {
            Ok(subject) => subject,
            Err(refusal) => {
                why.push(("identity", "none".to_owned()));
                return Ok(Err(refusal));
            }
        },
    };
    let mechanism = subject
        .mechanism()
        .map_or("nobody asked", Mechanism::as_str);
    let identity = subject.identity().unwrap_or("none".to_owned());
    why.push(("identity", format!("{identity} ({mechanism})")));
    for (rule, lets_in) in gate.rules(route, client, &subject) {
        let verdict = if lets_in { "yes" } else { "no" };
        why.push(("rule", format!("{rule}: {verdict}")));
    }
    Ok(gate
        .permit(route, Origin::direct(client), subject)
        .map(|_| ()))
}

/// Who it is if the policy says yes.
fn accepted(gate: &Gate, user: &str, groups: &[String]) -> Result<Result<Subject, Refusal>> {
    if let Err(fault) = Credentials::basic(user, Some("x"), &gate.credentials) {
        return Ok(Err(fault.into()));
    }
    let identity = Identity {
        identity: user.to_owned(),
        context: IdentityContext::HttpBasicAuth,
    };
    let info = AuthInfo::new(vec![identity], groups.to_vec())?;
    Ok(Judgement::Accepted(info).into_subject(Mechanism::Basic))
}
