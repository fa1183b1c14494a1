//! `gatepost replay`: asks a policy about what an audit log holds, and says where it would have decided otherwise.
//!
//! A message is asked about by its addresses, its size and the identity; the log holds no headers but From and no
//! content. Credentials can be asked about only where somebody hands in the passwords.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use gatepost_auth::{AuthInfo, CredentialRules, Credentials, Identity, IdentityContext, Judgement};
use gatepost_config::{DecisionCache, Log, LogFormat};
use gatepost_message::{Address, Message};
use gatepost_policy::{MessageJudgement, MessageQuestion, Policy};

use crate::logging;
use crate::settings::load_policy;

/// What is replayed with what.
pub(crate) struct Replay {
    pub(crate) audit: PathBuf,
    pub(crate) policy: PathBuf,
    /// Lines `user:password`.
    pub(crate) passwords: Option<PathBuf>,
}

/// What of an audit line is needed.
#[derive(serde::Deserialize)]
struct Line {
    #[serde(default)]
    time: String,
    event: String,
    #[serde(default)]
    request_id: String,
    client: Option<IpAddr>,
    mechanism: Option<String>,
    user: Option<String>,
    outcome: String,
    reason: Option<String>,
    message: Option<Facts>,
}

#[derive(serde::Deserialize)]
struct Facts {
    sender: String,
    from: Vec<String>,
    recipients: Vec<String>,
    groups: Vec<String>,
    size: usize,
}

#[derive(Default)]
struct Count {
    asked: u64,
    differ: u64,
    left_out: u64,
}

impl Count {
    fn report(&self, what: &str, out: &mut impl Write) -> Result<()> {
        let Self {
            asked,
            differ,
            left_out,
        } = self;
        writeln!(
            out,
            "{what}: {asked} asked about, {differ} decided otherwise, {left_out} left out"
        )?;
        Ok(())
    }
}

/// The exit status where nothing could be asked: 1 says that something would be decided otherwise.
const UNREADABLE: u8 = 2;

/// Prints each difference, and how many there are. The exit status is 0 where there is none, and 2 where the audit log,
/// the policy or the passwords cannot be read.
pub(crate) fn run(replay: &Replay, out: &mut impl Write) -> ExitCode {
    ask(replay, out).unwrap_or_else(|fault| {
        // If even this cannot be written, the exit status still says it.
        let _ = writeln!(std::io::stderr(), "{fault:#}");
        ExitCode::from(UNREADABLE)
    })
}

fn ask(replay: &Replay, out: &mut impl Write) -> Result<ExitCode> {
    let _last_lines = logging::init(&Log {
        format: LogFormat::Text,
        level: "error".to_owned(),
    })?;
    let policy = load(&replay.policy)?;
    let passwords = replay.passwords.as_deref().map(passwords).transpose()?;
    let passwords = passwords.unwrap_or_default();
    let file = File::open(&replay.audit)
        .with_context(|| format!("cannot read {}", replay.audit.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut messages, mut logins) = (Count::default(), Count::default());
    let (mut understood, mut strange) = (0_u64, 0_u64);
    for text in BufReader::new(file).split(b'\n') {
        let text = text.with_context(|| format!("cannot read {}", replay.audit.display()))?;
        // A log that was cut, rotated or is being written has such lines, and the others still say something.
        let Ok(line) = serde_json::from_slice::<Line>(&text) else {
            strange += 1;
            continue;
        };
        understood += 1;
        let (count, now) = match line.event.as_str() {
            "message" => (&mut messages, runtime.block_on(message(&policy, &line))),
            "authentication" => {
                let asked = login(&policy, &line, &passwords);
                (&mut logins, runtime.block_on(asked))
            }
            _ => continue,
        };
        let Some(now) = now else {
            count.left_out += 1;
            continue;
        };
        count.asked += 1;
        let before = yes(&line.outcome);
        if before != now {
            count.differ += 1;
            writeln!(
                out,
                "{} {} {} {}: was {}, would be {}",
                line.time,
                line.request_id,
                line.event,
                line.user.as_deref().unwrap_or("-"),
                word(before),
                word(now)
            )?;
        }
    }
    messages.report("messages", out)?;
    logins.report("authentications", out)?;
    if strange > 0 {
        writeln!(out, "{strange} lines not understood")?;
        if understood == 0 {
            anyhow::bail!("{} is no audit log", replay.audit.display());
        }
    }
    Ok(if messages.differ + logins.differ == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn load(file: &Path) -> Result<Policy> {
    let section = gatepost_config::Policy {
        file: file.to_owned(),
        shadow: None,
        workers: Some(NonZeroUsize::MIN),
        queue: 16,
        callback_timeout: Duration::from_secs(5),
        memory_limit: 256 << 20,
    };
    let off = DecisionCache {
        ttl: Duration::ZERO,
        capacity: 1,
    };
    Ok(load_policy(&section, off, &Arc::default())?)
}

fn passwords(file: &Path) -> Result<HashMap<String, String>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines
        .map(|(user, password)| (user.to_owned(), password.to_owned()))
        .collect())
}

/// Refused for a reason of the policy's own; what the rules or a quota refused, the policy was not asked about.
async fn message(policy: &Policy, line: &Line) -> Option<bool> {
    let asked = matches!(
        line.reason.as_deref(),
        None | Some("rejected" | "message_policy_failed")
    );
    let facts = line.message.as_ref().filter(|_| asked)?;
    let address = |text: &String| text.parse::<Address>().ok();
    // No From is not an empty one: a policy asks whether there is one.
    let from = (!facts.from.is_empty()).then(|| ("From".to_owned(), facts.from.join(", ")));
    let message = Message {
        sender: address(&facts.sender),
        recipients: facts.recipients.iter().filter_map(address).collect(),
        from: facts.from.iter().filter_map(address).collect(),
        headers: from.into_iter().collect(),
        fields: Vec::new(),
        size: facts.size,
        template: false,
    };
    let user = line.user.clone().unwrap_or_default();
    let known = line.mechanism.as_deref() != Some("trusted_host") && !user.is_empty();
    let auth = known.then(|| auth_info(&user, &facts.groups)).flatten();
    let question = MessageQuestion {
        message: Arc::new(message),
        auth,
        http_auth: user,
        received_from: line.client.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
    };
    match policy.judge_message(question).await {
        MessageJudgement::Accepted { .. } | MessageJudgement::NoHandler => Some(true),
        MessageJudgement::Rejected { .. } | MessageJudgement::Failed => Some(false),
        MessageJudgement::TimedOut | MessageJudgement::Overloaded => None,
    }
}

fn auth_info(user: &str, groups: &[String]) -> Option<AuthInfo> {
    let identity = Identity {
        identity: user.to_owned(),
        context: IdentityContext::HttpBasicAuth,
    };
    AuthInfo::new(vec![identity], groups.to_vec()).ok()
}

async fn login(policy: &Policy, line: &Line, passwords: &HashMap<String, String>) -> Option<bool> {
    let judged = matches!(line.outcome.as_str(), "accepted" | "rejected" | "failed");
    let basic = line.mechanism.as_deref() == Some("basic");
    let user = line.user.as_ref().filter(|_| judged && basic)?;
    let password = passwords.get(user)?;
    let credentials = Credentials::basic(user, Some(password), &CredentialRules::default());
    match policy.judge(credentials.ok()?).await {
        Judgement::Accepted(_) => Some(true),
        Judgement::Rejected | Judgement::NoHandler | Judgement::Failed => Some(false),
        Judgement::TimedOut | Judgement::Overloaded => None,
    }
}

fn yes(outcome: &str) -> bool {
    matches!(outcome, "accepted" | "allowed")
}

fn word(yes: bool) -> &'static str {
    if yes { "allowed" } else { "denied" }
}
