//! A policy that is tried on live traffic without effect, or on what an audit log holds.

use crate::harness::{
    Recorder, STRANGER, Setup, TRUSTED, basic, message, post, run_with, wait_for,
};

const ROUTES: &str = "
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated, trusted_hosts], message_policy: true }
";

/// Live: scott and carol may come in and send what they like.
const LIVE: &str = "
local kumo = require 'kumo'
local users = { scott = 'tiger', carol = 'a:b:c' }
kumo.on('http_server_validate_auth_basic', function(user, password)
  return password ~= nil and users[user] == password
end)
kumo.on('http_message_generated', function(msg) end)";

/// To be: carol may not come in any more, and scott may not write from elsewhere. A loop is no answer.
const NEW: &str = "
local kumo = require 'kumo'
kumo.on('http_server_validate_auth_basic', function(user, password)
  return user == 'scott' and password == 'tiger'
end)
kumo.on('http_message_generated', function(msg)
  if msg:sender().domain == 'loop.test' then while true do end end
  if msg:sender().domain ~= 'example.com' then error 'not from here' end
end)";

#[test]
fn a_shadow_policy_is_counted_and_changes_nothing() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .routes(ROUTES)
        .policy(LIVE)
        .file("new.lua", NEW)
        .with("policy.shadow: new.lua")
        .with("policy.callback_timeout: 3s")
        .start();
    let send = |credentials: &str, sender: &str| {
        let request = post("/api/inject/v1", credentials, &message(sender));
        gate.send(STRANGER, request).unwrap().status
    };
    let (scott, carol) = (basic("scott", "tiger"), basic("carol", "a:b:c"));
    assert_eq!(send(&scott, "me@example.com"), 200);
    assert_eq!(send(&carol, "me@example.com"), 200);
    assert_eq!(send(&scott, "me@evil.test"), 200);
    assert_eq!(send(&scott, "me@loop.test"), 200);
    assert_eq!(send(&basic("scott", "wrong"), "me@example.com"), 401);
    assert_eq!(upstream.requests(), 4);
    for (series, count) in [
        (
            "gatepost_shadow_allowed_total{event=\"authentication\",live=\"allowed\"}",
            3.0,
        ),
        (
            "gatepost_shadow_denied_total{event=\"authentication\",live=\"allowed\"}",
            1.0,
        ),
        (
            "gatepost_shadow_denied_total{event=\"authentication\",live=\"denied\"}",
            1.0,
        ),
        (
            "gatepost_shadow_allowed_total{event=\"message\",live=\"allowed\"}",
            2.0,
        ),
        (
            "gatepost_shadow_denied_total{event=\"message\",live=\"allowed\"}",
            1.0,
        ),
        (
            "gatepost_shadow_open_total{event=\"message\",live=\"allowed\"}",
            1.0,
        ),
    ] {
        wait_for(series, || (gate.metric(series) - count).abs() < 0.1);
    }
    let differs = |event: &str, user: &str| {
        gate.wait_log(|line| {
            line["target"] == "shadow" && line["event"] == event && line["user"] == user
        })
    };
    assert_eq!(differs("authentication", "carol")["shadow"], "rejected");
    assert_eq!(differs("message", "scott")["live"], "accepted");
    let log = gate.logged();
    assert!(
        !log.contains("evil.test") && !log.contains("a:b:c"),
        "{log}"
    );
}

/// A shadow that does not load is a fault like the live policy's.
#[test]
fn a_shadow_that_does_not_load_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| crate::harness::write(folder.path(), name, text);
    write("policy.lua", LIVE);
    write("new.lua", "this is no Lua");
    write(
        "x.yaml",
        "listeners: [{ listen: 127.0.0.1:0 }]\nupstream: { address: demo }\npolicy: { file: policy.lua, shadow: new.lua }\nroutes: [{ path: /x, methods: [GET], allow: [anyone] }]\n",
    );
    for command in ["check", "run"] {
        let (status, out, err) = run_with(&[command, "--config", "x.yaml"], folder.path(), "", &[]);
        assert_eq!(status, Some(1), "{command}");
        assert!((out + &err).contains("new.lua:1:"), "{command}");
    }
}

/// The same question, asked afterwards.
#[test]
fn an_audit_log_is_replayed_with_another_policy() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .routes(ROUTES)
        .policy(LIVE)
        .file("new.lua", NEW)
        .file("passwords", "carol:a:b:c\nscott:tiger\n")
        .with("audit: { output: audit.jsonl, messages: true }")
        .start();
    for (credentials, sender, status) in [
        (basic("scott", "tiger"), "me@example.com", 200),
        (basic("carol", "a:b:c"), "me@example.com", 200),
        (basic("scott", "tiger"), "me@evil.test", 200),
        (basic("scott", "wrong"), "me@example.com", 401),
        (String::new(), "me@evil.test", 200),
    ] {
        let from = if credentials.is_empty() {
            TRUSTED
        } else {
            STRANGER
        };
        let request = post("/api/inject/v1", &credentials, &message(sender));
        assert_eq!(gate.send(from, request).unwrap().status, status);
    }
    let audit = gate.folder().join("audit.jsonl");
    wait_for("the audit log", || {
        std::fs::read_to_string(&audit)
            .unwrap_or_default()
            .lines()
            .count()
            == 14
    });
    let replay = |more: &[&str]| {
        let arguments = [&["replay", "audit.jsonl", "--policy", "new.lua"], more].concat();
        let (status, out, err) = run_with(&arguments, gate.folder(), "", &[]);
        assert_eq!(status, Some(1), "{err}");
        out
    };
    let out = replay(&[]);
    assert!(
        out.contains("messages: 4 asked about, 2 decided otherwise, 0 left out\n"),
        "{out}"
    );
    assert!(
        out.contains("authentications: 0 asked about, 0 decided otherwise, 5 left out\n"),
        "{out}"
    );
    assert!(
        out.contains("message scott: was allowed, would be denied\n"),
        "{out}"
    );
    assert!(
        out.contains("message 127.0.0.1: was allowed, would be denied\n"),
        "{out}"
    );
    let out = replay(&["--passwords", "passwords"]);
    assert!(
        out.contains("authentication carol: was allowed, would be denied\n"),
        "{out}"
    );
    assert!(
        out.contains("authentications: 4 asked about, 2 decided otherwise, 1 left out\n"),
        "{out}"
    );
    let (status, out, err) = run_with(
        &["replay", "audit.jsonl", "--policy", "policy.lua"],
        gate.folder(),
        "",
        &[],
    );
    assert_eq!(status, Some(0), "{out}{err}");
}

/// A line of a message, with these addresses in From.
fn audited(from: &str) -> String {
    format!(
        r#"{{"time":"2026-11-24T10:00:00Z","event":"message","request_id":"1","client":"203.0.113.1","mechanism":"basic","user":"scott","outcome":"accepted","reason":null,"message":{{"sender":"me@example.com","from":[{from}],"recipients":["a@x.test"],"groups":[],"size":10}}}}"#
    )
}

/// A log that was cut still says something, and the status says which of the three it is.
#[test]
fn lines_that_are_not_understood_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| crate::harness::write(folder.path(), name, text);
    write("policy.lua", LIVE);
    // No From at all is what a policy may ask for.
    write(
        "new.lua",
        "local kumo = require 'kumo'
kumo.on('http_message_generated', function(msg)
  if msg:from_header() == nil then kumo.reject(550, 'no From') end
end)",
    );
    let (with, without) = (audited("\"me@example.com\""), audited(""));
    let cut = &with[..with.len() / 2];
    write("cut.jsonl", &format!("{with}\n\n{without}\n{cut}"));
    write("none.jsonl", "hello\n{}\n");
    let replay = |audit: &str, policy: &str| {
        run_with(
            &["replay", audit, "--policy", policy],
            folder.path(),
            "",
            &[],
        )
    };
    let (status, out, err) = replay("cut.jsonl", "policy.lua");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(out.contains("2 lines not understood\n"), "{out}");
    let (status, out, err) = replay("cut.jsonl", "new.lua");
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(
        out.contains("messages: 2 asked about, 1 decided otherwise, 0 left out\n"),
        "{out}"
    );
    for (audit, policy) in [
        ("none.jsonl", "policy.lua"),
        ("absent.jsonl", "policy.lua"),
        ("cut.jsonl", "absent.lua"),
    ] {
        let (status, out, err) = replay(audit, policy);
        assert_eq!(status, Some(2), "{audit} {policy}: {out}{err}");
        assert!(!err.is_empty());
    }
}
