//! One line per decision, and the lines by which a guesser is banned.

use serde_json::Value;

use crate::harness::{Gatepost, STRANGER, Setup, TRUSTED, basic, get, inject, wait_for};

fn start(audit: &str) -> Gatepost {
    Setup::demo()
        .with(&format!("audit: {audit}"))
        .with("trusted_proxies: [127.0.0.8]")
        .start()
}

fn lines(gate: &Gatepost, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(gate.folder().join(name)).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {line}")))
        .collect()
}

fn wait_lines(gate: &Gatepost, name: &str, count: usize) -> Vec<Value> {
    wait_for("audit lines", || lines(gate, name).len() >= count);
    let lines = lines(gate, name);
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

/// What was decided, without what differs from run to run.
fn shortened(line: &Value) -> String {
    let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
    [
        "event",
        "client",
        "mechanism",
        "user",
        "outcome",
        "reason",
        "route",
    ]
    .map(text)
    .join(" ")
}

#[test]
fn every_decision_has_its_lines() {
    let gate = start("{ output: audit.jsonl }");
    let proxy = std::net::Ipv4Addr::new(127, 0, 0, 8);
    let named = "X-Forwarded-For: 203.0.113.9\r\nX-Request-Id: req-7\r\n";
    let sent = [
        (STRANGER, inject(&basic("scott", "tiger")), 200),
        (STRANGER, inject(&basic("scott", "wrong")), 401),
        (TRUSTED, inject(""), 200),
        (STRANGER, inject(""), 401),
        (STRANGER, inject("Authorization: Basic !!!\r\n"), 400),
        (STRANGER, inject(&basic("r-error", "x")), 500),
        (STRANGER, get("/nothing"), 404),
        (
            proxy,
            inject(&format!("{named}{}", basic("scott", "tiger"))),
            200,
        ),
    ];
    for (from, request, status) in &sent {
        assert_eq!(
            gate.send(*from, request).unwrap().status,
            *status,
            "{request}"
        );
    }
    let lines = wait_lines(&gate, "audit.jsonl", 14);
    let short: Vec<String> = lines.iter().map(shortened).collect();
    assert_eq!(
        short,
        [
            "authentication 127.0.0.2 basic scott accepted - /api/inject/v1",
            "authorization 127.0.0.2 basic scott allowed - /api/inject/v1",
            "authentication 127.0.0.2 basic scott rejected rejected /api/inject/v1",
            "authorization 127.0.0.2 basic scott denied unauthorized /api/inject/v1",
            "authentication 127.0.0.1 trusted_host 127.0.0.1 accepted - /api/inject/v1",
            "authorization 127.0.0.1 trusted_host 127.0.0.1 allowed - /api/inject/v1",
            "authorization 127.0.0.2 - - denied unauthorized /api/inject/v1",
            "authentication 127.0.0.2 - - malformed malformed /api/inject/v1",
            "authorization 127.0.0.2 - - denied bad_credentials /api/inject/v1",
            "authentication 127.0.0.2 basic r-error failed - /api/inject/v1",
            "authorization 127.0.0.2 basic r-error denied policy_failed /api/inject/v1",
            "authorization 127.0.0.2 - - denied no_route -",
            "authentication 203.0.113.9 basic scott accepted - /api/inject/v1",
            "authorization 203.0.113.9 basic scott allowed - /api/inject/v1",
        ]
    );
    let last = &lines[13];
    assert_eq!(last["peer"], "127.0.0.8");
    assert_eq!(last["request_id"], "req-7");
    assert_eq!(last["policy_generation"], 1);
    let time = last["time"].as_str().unwrap();
    assert!(
        time.len() == 24 && time.starts_with("20") && time.ends_with('Z'),
        "{time}"
    );
    let ids: std::collections::BTreeSet<_> =
        lines.iter().map(|it| it["request_id"].as_str()).collect();
    assert_eq!(ids.len(), sent.len(), "one for each request");
}

/// A rotated file is let go of on SIGHUP, and nothing is lost between the two.
#[test]
fn the_file_is_opened_again_on_sighup() {
    let gate = start("{ output: audit.jsonl }");
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    wait_lines(&gate, "audit.jsonl", 2);
    std::fs::rename(
        gate.folder().join("audit.jsonl"),
        gate.folder().join("audit.1"),
    )
    .unwrap();
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    wait_lines(&gate, "audit.1", 4);
    gate.signal("HUP");
    wait_for("the new file", || {
        gate.folder().join("audit.jsonl").exists()
    });
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    let new = wait_lines(&gate, "audit.jsonl", 2);
    assert_eq!(new[0]["policy_generation"], 2);
    assert_eq!(lines(&gate, "audit.1").len(), 4);
}

/// What was decided before SIGTERM is in the file when gatepost has ended.
#[test]
fn the_last_lines_are_written() {
    let mut gate = start("{ output: audit.jsonl }");
    for _ in 0..50 {
        assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    }
    gate.signal("TERM");
    assert_eq!(gate.wait_exit(), Some(0));
    assert_eq!(lines(&gate, "audit.jsonl").len(), 100);
}

/// The attack: a user name that ends the line, the quotes or the value, to have somebody else banned; and a
/// secret that was typed where the name belongs.
#[test]
fn names_are_quoted_and_secrets_are_hashed() {
    let gate = start("{ output: audit.jsonl }");
    let hostile = "x\" reason=rejected auth_failed client=203.0.113.7 user=\"y";
    let secret = "AKIAIOSFODNN7EXAMPLE";
    for name in [hostile, secret, "back\\slash"] {
        let status = gate
            .send(STRANGER, inject(&basic(name, "x")))
            .unwrap()
            .status;
        assert!(status == 401 || status == 400, "{name} {status}");
    }
    let failed = |wanted: &str| {
        gate.wait_log(|line| {
            line["target"] == "auth" && line["message"].as_str().unwrap().contains(wanted)
        })
    };
    let line = failed("203.0.113.7");
    assert_eq!(
        line["message"],
        "auth_failed client=127.0.0.2 user=\"x\\\" reason=rejected auth_failed client=203.0.113.7 user=\\\"y\" reason=rejected"
    );
    assert_eq!(line["level"], "WARN");
    let hashed = failed("sha256:");
    let name = hashed["message"]
        .as_str()
        .unwrap()
        .split('"')
        .nth(1)
        .unwrap();
    assert_eq!(name.len(), "sha256:".len() + 16);
    failed("user=\"\" reason=malformed");
    wait_for("audit lines", || lines(&gate, "audit.jsonl").len() >= 6);
    let audit = std::fs::read_to_string(gate.folder().join("audit.jsonl")).unwrap();
    for text in [audit, gate.logged()] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// An audit log that cannot be opened is said before anything listens; one that vanishes at a reload is said
/// too, and requests go on.
#[test]
fn an_audit_log_that_cannot_be_written_stops_nothing() {
    let gate = start("{ output: audit.jsonl }");
    let yaml = gate.folder().join("gatepost.yaml");
    let text = std::fs::read_to_string(&yaml).unwrap();
    std::fs::write(&yaml, text.replace("audit.jsonl", "missing/audit.jsonl")).unwrap();
    gate.signal("HUP");
    gate.wait_log(|line| line["message"] == "the old audit log goes on");
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    wait_lines(&gate, "audit.jsonl", 2);
    let (status, _, err) =
        crate::harness::run(&["run", "--config", "gatepost.yaml"], gate.folder());
    assert_eq!(status, Some(1));
    assert!(err.contains("the audit log"), "{err}");
}

/// A log that does not say who was turned away is of no use to whoever looks for a stolen key.
#[test]
fn a_known_user_who_is_denied_is_named() {
    let gate = Setup::demo()
        .routes("\n  - { path: /api/inject/v1, methods: [POST], allow: [{ identity: carol }] }\n")
        .with("audit: { output: audit.jsonl }")
        .start();
    assert_eq!(
        gate.send(STRANGER, inject(&basic("scott", "tiger")))
            .unwrap()
            .status,
        403
    );
    let lines = wait_lines(&gate, "audit.jsonl", 2);
    let denied = "authorization 127.0.0.2 basic scott denied forbidden /api/inject/v1";
    assert_eq!(shortened(&lines[1]), denied);
}

/// A named pipe that nobody reads would hold up the start, and each reload after it.
#[test]
fn a_named_pipe_is_no_audit_log() {
    let gate = start("{ output: audit.jsonl }");
    let pipe = gate.folder().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(made.success());
    let yaml = gate.folder().join("gatepost.yaml");
    let text = std::fs::read_to_string(&yaml).unwrap();
    std::fs::write(&yaml, text.replace("audit.jsonl", "pipe")).unwrap();
    std::fs::rename(&pipe, gate.folder().join("pipe.lua")).unwrap();
    std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    for _ in 0..2 {
        gate.signal("HUP");
    }
    gate.wait_log(|line| line["message"] == "the old audit log goes on");
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    wait_lines(&gate, "audit.jsonl", 2);
    let (status, _, err) =
        crate::harness::run(&["run", "--config", "gatepost.yaml"], gate.folder());
    assert_eq!(status, Some(1));
    assert!(err.contains("it is not a file"), "{err}");
}
