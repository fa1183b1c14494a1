//! What a call of a handler costs, in CPU time of the process: credentials, and messages.
//!
//! `cargo run --release -p gatepost-policy --example call_cost`

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use gatepost_auth::{AuthInfo, CredentialRules, Credentials};
use gatepost_message::Message;
use gatepost_policy::{MessageQuestion, Policy, PolicySettings};

const POLICY: &str = "
local kumo = require 'kumo'
kumo.on('http_server_validate_auth_basic', function(user, password) return password == 'tiger' end)
kumo.on('http_message_generated', function(msg)
  if msg:from_header().domain ~= 'example.com' then error 'not from here' end
end)";

/// As many at once as a busy client sends.
const AT_ONCE: usize = 32;
const ROUNDS: usize = 1500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("gatepost-call-cost-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("policy.lua");
    std::fs::write(&file, POLICY)?;
    let settings = PolicySettings {
        file,
        workers: 2,
        queue: 1024,
        callback_timeout: Duration::from_secs(5),
        memory_limit: 64 << 20,
        cache_ttl: Duration::ZERO,
        cache_capacity: 1,
    };
    let policy = Policy::load(settings, &Arc::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Different users, since equal credentials at once are one call.
    let rules = CredentialRules::default();
    let credentials = (0..AT_ONCE)
        .map(|index| Credentials::basic(&format!("user{index}"), Some("tiger"), &rules))
        .collect::<Result<Vec<_>, _>>()?;
    let question = MessageQuestion {
        message: Arc::new(Message {
            sender: Some("me@example.com".parse()?),
            recipients: vec!["a@x.test".parse()?],
            from: vec!["me@example.com".parse()?],
            headers: vec![("From".to_owned(), "me@example.com".to_owned())],
            fields: Vec::new(),
            size: 2000,
            template: false,
        }),
        auth: Some(AuthInfo::basic("scott")?),
        http_auth: "scott".to_owned(),
        received_from: Ipv4Addr::LOCALHOST.into(),
    };
    let mut out = std::io::stdout();
    for what in ["credentials", "messages"] {
        let before = cpu_time()?;
        runtime.block_on(async {
            for _ in 0..ROUNDS {
                let calls = credentials.iter().map(|credentials| async {
                    if what == "credentials" {
                        policy.judge(credentials.clone()).await.outcome()
                    } else {
                        policy.judge_message(question.clone()).await.outcome()
                    }
                });
                for call in futures(calls).await {
                    debug_assert_eq!(call, "accepted");
                }
            }
        });
        let took = (cpu_time()? - before).as_secs_f64() * 1e6 / (ROUNDS * AT_ONCE) as f64;
        writeln!(
            out,
            "FIGURE CPU for a call about {what}, {AT_ONCE} at once: {took:.1} µs"
        )?;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// All of them at once.
async fn futures<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(move |context| {
        let mut waiting = false;
        for (future, answer) in &mut pending {
            if answer.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *answer = Some(value),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(pending.iter_mut().filter_map(|(_, it)| it.take()).collect())
        }
    })
    .await
}

/// User and system time, to a hundredth of a second.
fn cpu_time() -> std::io::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|it| it.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}
