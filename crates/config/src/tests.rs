//! Tests of the whole crate: texts in, faults or settings out.

use std::path::Path;

use super::{Listen, Listener};
use schema::parse;

mod document;
mod limits;
mod routes;
mod schema;
mod shipped;
mod tls;
mod traces;
mod trust;
mod values;

const MINIMAL: &str = "\
listeners:
  - listen: 0.0.0.0:8080
upstream:
  address: 127.0.0.1:8000
policy:
  file: policy.lua
routes:
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated] }
";

fn faults(text: &str) -> Vec<String> {
    match parse(text, Path::new("x.yaml")) {
        Ok(settings) => panic!("no fault in {text}\n{settings:?}"),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

/// One replacement in the minimal file, or an addition to it, gives exactly these faults.
fn check(from: &str, to: &str, expected: &[&str]) {
    let text = if from.is_empty() {
        format!("{MINIMAL}{to}\n")
    } else {
        MINIMAL.replacen(from, to, 1)
    };
    assert_ne!(text, MINIMAL, "{from} is not in the file");
    assert_eq!(faults(&text), expected, "{text}");
}

#[test]
fn the_minimal_file_is_good() {
    let settings = parse(MINIMAL, Path::new("etc/x.yaml")).unwrap();
    assert_eq!(settings.policy.file, Path::new("etc/policy.lua"));
    assert_eq!(
        settings.listeners,
        [Listener {
            listen: Listen::Tcp("0.0.0.0:8080".parse().unwrap()),
            proxy_protocol: false,
            unix_mode: 0o660,
            tls: None,
        }]
    );
    assert!(
        settings.gate.trusted_hosts.is_empty(),
        "nobody is trusted unless it is written"
    );
    assert!(settings.gate.trusted_proxies.is_empty());
    assert_eq!(settings.warnings, []);
}

#[test]
fn unknown_and_missing_keys() {
    check(
        "policy:\n",
        "polcy:\n",
        &[
            "x.yaml:1:1: `policy` is missing",
            "x.yaml:5:1: unknown key `polcy`, did you mean `policy`?",
        ],
    );
    check("", "surprise: 1", &["x.yaml:9:1: unknown key `surprise`"]);
    check(
        "  file: policy.lua",
        "  fil: policy.lua",
        &[
            "x.yaml:6:3: `policy.file` is missing",
            "x.yaml:6:3: unknown key `fil`, did you mean `file`?",
        ],
    );
    check(
        "allow: [authenticated]",
        "alow: [authenticated]",
        &[
            "x.yaml:8:5: `routes.allow` is missing",
            "x.yaml:8:46: unknown key `alow`, did you mean `allow`?",
        ],
    );
    check(
        "routes:\n  - { path: /api/inject/v1, methods: [POST], allow: [authenticated] }\n",
        "",
        &["x.yaml:1:1: `routes` is missing"],
    );
    check(
        "  - { path: /api/inject/v1, methods: [POST], allow: [authenticated] }\n",
        "  []\n",
        &["x.yaml:8:3: `routes` is empty"],
    );
    check(
        "",
        "admin: { listn: 127.0.0.1:9090 }",
        &["x.yaml:9:10: unknown key `listn`, did you mean `listen`?"],
    );
}

#[test]
fn every_fault_is_shown_at_once_in_the_order_of_the_file() {
    let text = "\
listeners:
  - listen: nowhere
upstream:
  adress: 127.0.0.1:8000
policy:
  file: policy.lua
  callback_timeout: 5
trusted_hosts: [10.0.0.1/8]
routes:
  - { path: /a, methods: [TRACE], allow: [anyone] }
";
    let places: Vec<String> = faults(text)
        .iter()
        .map(|fault| fault.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(
        places,
        [
            "x.yaml:2:13:",
            "x.yaml:4:3:",
            "x.yaml:4:3:",
            "x.yaml:7:21:",
            "x.yaml:8:17:",
            "x.yaml:10:27:"
        ]
    );
}

#[test]
fn what_is_allowed_but_hardly_meant_is_a_warning() {
    let warnings = |text: &str| -> Vec<String> {
        let settings = parse(&format!("{MINIMAL}{text}\n"), Path::new("x.yaml")).unwrap();
        settings.warnings.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        warnings("trusted_hosts: [0.0.0.0/0]"),
        ["x.yaml:9:17: 0.0.0.0/0 lets a large part of the internet in without credentials"]
    );
    for wide in ["::/0", "2001::/16", "128.0.0.0/1", "::ffff:0:0/96"] {
        assert_eq!(
            warnings(&format!("trusted_hosts: [\"{wide}\"]")).len(),
            1,
            "{wide}"
        );
    }
    assert_eq!(
        warnings("trusted_hosts: [127.0.0.1]\ntrusted_proxies: [127.0.0.1]"),
        [
            "x.yaml:9:17: 127.0.0.1/32 is a trusted proxy too: a request that the proxy forwards without naming its client passes without credentials"
        ]
    );
    assert_eq!(warnings("trusted_hosts: [10.0.0.16/28, \"::1\"]"), [""; 0]);
}

#[test]
fn an_admin_listener_can_be_off() {
    for text in ["admin: off", "admin: false"] {
        assert!(
            parse(&format!("{MINIMAL}{text}\n"), Path::new("x"))
                .unwrap()
                .admin
                .is_none(),
            "{text}"
        );
    }
    assert!(parse(MINIMAL, Path::new("x")).unwrap().admin.is_some());
}

#[test]
fn the_admin_listener_needs_a_token_unless_it_is_on_loopback() {
    let missing = |address: &str| {
        format!(
            "x.yaml:10:3: `admin.token` is missing: {address} is not on loopback, and without it everybody could reload and change limits"
        )
    };
    for address in ["0.0.0.0:9090", "[::]:9090", "10.0.0.1:9090"] {
        let yaml = format!("admin:\n  listen: {address:?}");
        check("", &yaml, &[&missing(address)]);
    }
    check(
        "",
        "admin:\n  listen: 0.0.0.0:9090\n  token: hunter2",
        &["x.yaml:11:10: the token has at least 16 bytes"],
    );
    for section in [
        "  listen: 127.0.0.2:9090",
        "  listen: \"[::1]:9090\"",
        "  listen: 0.0.0.0:9090\n  token: ${CARGO_MANIFEST_DIR}",
    ] {
        let text = format!("{MINIMAL}admin:\n{section}\n");
        let settings = parse(&text, Path::new("x.yaml")).unwrap();
        assert_eq!(
            settings.admin.unwrap().token.is_some(),
            section.contains("token")
        );
    }
}
