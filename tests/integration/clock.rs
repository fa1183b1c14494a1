//! The clock is stepped while gatepost runs, as by a host that wakes up or a time server that was wrong. faketime gives it a clock of its own,
//! which this test sets; timers go by the monotonic one, which nobody can set.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use crate::harness::{Gatepost, Recorder, STRANGER, Setup, basic, inject, wait_for, write};

/// Where Debian has it, whatever the architecture.
fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map_while(Result::ok);
    let mut libraries = folders.map(|it| it.path().join("faketime/libfaketime.so.1"));
    let library = libraries.find(|it| it.exists());
    library.expect("faketime is installed by `make integration`")
}

/// Hours by which gatepost's clock is ahead, by the last whole line of its log.
fn ahead(gate: &Gatepost) -> Option<f64> {
    let log = gate.logged();
    let last: serde_json::Value = serde_json::from_str(log.lines().last()?).ok()?;
    let said = last["timestamp"].as_str()?;
    // `date` reads it.
    let output = std::process::Command::new("date")
        .args(["--date", said, "+%s"])
        .output()
        .unwrap();
    let seconds: f64 = String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .ok()?;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Some((seconds - now.as_secs_f64()) / 3600.0)
}

/// Hours ahead, then a day back: people go on to send, a guesser is not let go, a quota is not given back, and nobody waits.
#[test]
fn a_clock_that_is_stepped_changes_nothing() {
    let upstream = Recorder::start();
    let folder = tempfile::tempdir().unwrap();
    let clock = write(folder.path(), "clock", "+0");
    let gate = Setup::before(upstream.address)
        .env("LD_PRELOAD", faketime().to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .with("throttle: { per_address_and_user: 2/hour }")
        .with("quotas: { limits: [{ for: [{ identity: carol }], requests: [3/hour] }] }")
        .routes("\n  - { path: /api/inject/v1, methods: [POST], allow: [authenticated], quota: true }\n")
        .start();
    let status = |user: &str, password: &str| {
        let begin = Instant::now();
        let reply = gate.send(STRANGER, inject(&basic(user, password))).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5));
        reply.status
    };
    for _ in 0..2 {
        assert_eq!(status("jürgen", "guessed"), 401);
    }
    for _ in 0..3 {
        assert_eq!(status("carol", "a:b:c"), 200);
    }
    for (step, hours) in [("+0", 0.0), ("+5h", 5.0), ("-24h", -24.0), ("+0", 0.0)] {
        // At once: half a step would be another.
        std::fs::rename(write(folder.path(), "next", step), &clock).unwrap();
        assert_eq!(status("scott", "tiger"), 200, "{step}");
        assert_eq!(status("jürgen", "guessed"), 429, "{step}");
        assert_eq!(status("carol", "a:b:c"), 429, "{step}");
        wait_for(&format!("the log to say {step}"), || {
            ahead(&gate).is_some_and(|it| (it - hours).abs() < 0.1)
        });
        assert_eq!(gate.admin("/readyz").status, 200, "{step}");
    }
    assert_eq!(upstream.requests(), 3 + 4);
}
