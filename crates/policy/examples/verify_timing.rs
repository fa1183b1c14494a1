//! Does the time that a refusal takes tell whether the user exists? Prints the medians over 200 calls each of a wrong
//! password and of an unknown user, in turn. Part of `make figures`; not a test, since time is not a fact.

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_auth::{Credentials, Judgement, Secret};
use gatepost_policy::{HashAlgorithm, Policy, PolicySettings, hash_password};

const CALLS: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("policy.lua");
    let hash = hash_password("tiger", HashAlgorithm::default())?;
    std::fs::write(
        &file,
        format!(
            "local gatepost = require 'gatepost'
             local users = {{ scott = '{hash}' }}
             require('kumo').on('http_server_validate_auth_basic', function(user, password)
               return gatepost.password.verify(users[user], password)
             end)"
        ),
    )?;
    let settings = PolicySettings {
        file,
        workers: 1,
        queue: 16,
        callback_timeout: Duration::from_secs(5),
        memory_limit: 64 << 20,
        cache_ttl: Duration::ZERO,
        cache_capacity: 1,
    };
    let policy = Policy::load(settings, &Arc::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let time = |user: &str| -> Result<Duration, Box<dyn Error>> {
        let credentials = Credentials::Basic {
            user: user.to_owned(),
            password: Some(Secret::from("lion")),
        };
        let begin = Instant::now();
        let judgement = runtime.block_on(policy.judge(credentials));
        let took = begin.elapsed();
        if judgement == Judgement::Rejected {
            Ok(took)
        } else {
            Err("not refused".into())
        }
    };
    // The first call pays for what is set up once: threads, memory.
    time("nobody")?;
    let (mut wrong, mut unknown) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        wrong.push(time("scott")?);
        unknown.push(time("nobody")?);
    }
    let (wrong, unknown) = (median(wrong), median(unknown));
    let difference = (unknown.as_secs_f64() / wrong.as_secs_f64() - 1.0) * 100.0;
    writeln!(
        std::io::stdout(),
        "FIGURE medians of {CALLS} calls: wrong password {wrong:.2?}, unknown user {unknown:.2?}, difference {difference:+.1} %"
    )?;
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
