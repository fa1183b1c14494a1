//! Trust lists, secrets, and how the upstream is told who sent a request.

use std::path::Path;

use super::schema::parse;
use super::{MINIMAL, check, faults};
use crate::{AuditOutput, IdentityForm, Settings};

fn settings(extra: &str) -> Settings {
    let text = format!("{MINIMAL}{extra}\n");
    parse(&text, Path::new("x.yaml")).unwrap_or_else(|faults| panic!("{faults}"))
}

fn upstream(extra: &str) -> String {
    MINIMAL.replacen(
        "  address: 127.0.0.1:8000\n",
        &format!("  address: 127.0.0.1:8000\n{extra}\n"),
        1,
    )
}

#[test]
fn trusted_hosts_that_are_more_than_hosts_are_warned_about() {
    let doubted = |network: &str, expected: Option<&str>| {
        let settings = settings(&format!("trusted_hosts: [\"{network}\"]"));
        let warnings: Vec<String> = settings.warnings.iter().map(ToString::to_string).collect();
        match expected {
            Some(words) => assert!(
                warnings.len() == 1 && warnings[0].contains(words),
                "{network}: {warnings:?}"
            ),
            None => assert_eq!(warnings, [""; 0], "{network}"),
        }
    };
    let internet = Some("a large part of the internet");
    let pods = Some("looks like the network of pods or nodes");
    let gateway = Some("looks like a gateway");
    doubted("0.0.0.0/0", internet);
    doubted("::/0", internet);
    doubted("::ffff:0:0/96", internet);
    doubted("10.0.0.0/8", pods);
    doubted("10.42.3.0/24", pods);
    doubted("172.17.0.0/16", pods);
    doubted("100.64.0.0/10", pods);
    doubted("fd00:1:2::/48", pods);
    doubted("172.17.0.1", gateway);
    doubted("10.244.0.1", gateway);
    doubted("fd00::1", gateway);
    doubted("35.191.7.0/24", Some("Google's load balancers"));
    doubted("168.63.129.16", Some("Azure's load balancers"));
    doubted("169.254.1.1", Some("link-local"));
    for plain in [
        "127.0.0.1",
        "::1",
        "10.0.0.17",
        "192.168.7.16/28",
        "203.0.113.0/24",
        "2001:db8::7",
    ] {
        doubted(plain, None);
    }
}

#[test]
fn lists_that_overlap_and_listeners_without_proxies_are_warned_about() {
    let warnings = |extra: &str| -> Vec<String> {
        let settings = settings(extra);
        settings.warnings.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        warnings("trusted_hosts: [10.0.0.17]\ntrusted_proxies: [10.0.0.0/16]"),
        [
            "x.yaml:9:17: 10.0.0.17/32 and the trusted proxy 10.0.0.0/16 overlap: a request that the proxy forwards without naming its client passes without credentials"
        ]
    );
    let text = MINIMAL.replacen("0.0.0.0:8080", "0.0.0.0:8080\n    proxy_protocol: true", 1);
    let settings = parse(&text, Path::new("x.yaml")).unwrap();
    assert!(settings.listeners[0].proxy_protocol);
    assert_eq!(
        settings.warnings[0].to_string(),
        "x.yaml:1:1: `trusted_proxies` is empty, so no PROXY header is accepted on 0.0.0.0:8080"
    );
    check(
        "0.0.0.0:8080",
        "0.0.0.0:8080\n    proxy_protocol: 10.0.0.0/8",
        &["x.yaml:3:21: expected `true` or `false`, found `10.0.0.0/8`"],
    );
    check(
        "",
        "client_address_header: X-Real-IP",
        &["x.yaml:9:24: expected `X-Forwarded-For` or `Forwarded`, found `X-Real-IP`"],
    );
}

#[test]
fn secrets_come_from_files_and_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("good"), "0123456789abcdef\n").unwrap();
    std::fs::write(folder.path().join("short"), "0123456789abcde\n").unwrap();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    std::fs::write(folder.path().join("lines"), "0123456789\nabcdef").unwrap();
    std::fs::write(folder.path().join("binary"), [0xff; 20]).unwrap();
    let source = folder.path().join("x.yaml");
    let read = |secret: &str| {
        let text = upstream(&format!("  identity: basic\n  identity_secret: {secret}"));
        parse(&text, &source)
    };
    let secret = |settings: &Settings| {
        let IdentityForm::Basic(secret) = &settings.upstream.identity else {
            panic!("{settings:?}")
        };
        secret.expose().to_owned()
    };
    let settings = read("{ file: good }").unwrap();
    assert_eq!(secret(&settings), "0123456789abcdef");
    assert_eq!(settings.files, [folder.path().join("good")]);
    assert_eq!(settings.warnings, []);
    // Set by cargo, and long enough.
    let settings = read("${CARGO_MANIFEST_DIR}").unwrap();
    assert_eq!(secret(&settings), env!("CARGO_MANIFEST_DIR"));
    let settings = read("correct-horse-battery").unwrap();
    assert_eq!(secret(&settings), "correct-horse-battery");
    assert!(
        settings.warnings[0]
            .to_string()
            .contains("the secret stands in this file")
    );
    for (written, words) in [
        ("{ file: missing }", "cannot read the secret"),
        ("{ file: . }", "is not a file"),
        ("{ file: empty }", "the secret is empty"),
        ("{ file: lines }", "several lines"),
        ("{ file: binary }", "cannot read the secret"),
        ("{ file: short }", "at least 16 bytes"),
        ("{ path: good }", "expected a secret"),
        ("{ file: good, mode: 1 }", "expected a secret"),
        ("hunter2hunter2", "at least 16 bytes"),
        ("12345678901234567890", "expected a secret"),
        (
            "${GATEPOST_NO_SUCH_VARIABLE}",
            "has no text in the variable",
        ),
        ("a${CARGO_MANIFEST_DIR}", "has to be the whole secret"),
        ("${}", "takes letters, digits and `_`"),
    ] {
        let faults = read(written).unwrap_err().to_string();
        assert!(faults.contains(words), "{written}: {faults}");
        for leak in ["hunter2hunter2", "12345678901234567890"] {
            assert!(!faults.contains(leak), "{faults}");
        }
    }
}

/// The attack: whoever reads a log or a dump of the settings learns what the MTA trusts.
#[test]
fn no_secret_is_shown_by_debug() {
    let text = upstream(
        "  identity: basic\n  identity_secret: hidden-identity-secret\n  signature: { keys: [{ id: a, secret: hidden-signing-secret }] }",
    );
    let text = format!("{text}throttle: {{ redis: \"redis://:hidden-redis-secret@127.0.0.1\" }}\n");
    let settings = parse(&text, Path::new("x.yaml")).unwrap();
    let shown = format!("{settings:?} {settings:#?}");
    assert!(!shown.contains("hidden"), "{shown}");
}

#[test]
fn how_the_upstream_is_told() {
    let fault = |extra: &str, expected: &[&str]| assert_eq!(faults(&upstream(extra)), expected);
    fault(
        "  identity: basic",
        &[
            "x.yaml:4:3: `upstream.identity_secret` is missing, or faulty: without it the MTA could not tell gatepost from others",
        ],
    );
    fault(
        "  identity_secret: 0123456789abcdef",
        &["x.yaml:5:20: `upstream.identity_secret` is for `identity: basic` and `basic_user`"],
    );
    fault(
        "  identity: basic_user\n  identity_header: X-Y\n  identity_secret: 0123456789abcdef",
        &["x.yaml:6:20: `upstream.identity_header` is for `identity: header`"],
    );
    fault(
        "  identity: bearer",
        &[
            "x.yaml:4:3: `upstream.signature.keys` is missing: `identity: bearer` is signed with them",
        ],
    );
    fault(
        "  identity: bearer\n  identity_secret: 0123456789abcdef\n  identity_header: X-Y\n  signature: { keys: [{ id: a, secret: 0123456789abcdef }] }",
        &[
            "x.yaml:6:20: `upstream.identity_secret` is for `identity: basic` and `basic_user`",
            "x.yaml:7:20: `upstream.identity_header` is for `identity: header`",
        ],
    );
    // One fault is enough.
    fault(
        "  identity: bearer\n  signature: { keys: [{ id: a, secret: short }] }",
        &["x.yaml:6:14: a key's secret has at least 16 bytes"],
    );
    fault(
        "  companion_headers: { groups: x_http_auth }",
        &["x.yaml:4:3: two of the headers that gatepost sets are called `x_http_auth`"],
    );
    fault(
        "  companion_headers: { client: X-Forwarded-For }",
        &[
            "x.yaml:5:32: `X-Forwarded-For` has a meaning of its own and cannot say who sent a request",
        ],
    );
    fault(
        "  signature: { keys: [{ id: a, secret: short }] }",
        &["x.yaml:5:14: a key's secret has at least 16 bytes"],
    );
    fault(
        "  signature: { keys: [{ id: a, secret: 0123456789abcdef }, { id: a, secret: 0123456789abcdef }] }",
        &["x.yaml:5:14: two keys have one id"],
    );
    fault(
        "  signature: { keys: [{ id: a }] }",
        &["x.yaml:5:23: `upstream.signature.keys.secret` is missing, or faulty"],
    );
}

#[test]
fn throttle_and_audit() {
    let settings = settings("throttle: off\naudit: { output: logs/audit.jsonl }");
    assert!(settings.throttle.per_address.is_none());
    assert!(settings.throttle.per_address_and_user.is_none());
    assert_eq!(
        settings.audit.output,
        AuditOutput::File("logs/audit.jsonl".into())
    );
    check(
        "",
        "throttle: { per_address: 10, per_user: 1/s, redis: \"http://user:hidden@x\" }",
        &[
            "x.yaml:9:26: expected a text, found the number 10",
            "x.yaml:9:30: unknown key `per_user`",
            "x.yaml:9:52: expected a URL such as `redis://127.0.0.1:6379/0`",
        ],
    );
    check(
        "",
        "throttle: { per_address: 10/fortnight }",
        &[
            "x.yaml:9:26: a rate is written `10/min`: a number above zero, and `s`, `min`, `hour` or `day`; `off` is none; found `10/fortnight`",
        ],
    );
}
