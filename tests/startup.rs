//! What is wrong is said before anything listens: clearly, naming the place, with exit status 1.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{run, write};

const GOOD: &str = "
listeners:
  - listen: 127.0.0.1:0
upstream:
  address: 127.0.0.1:1
policy:
  file: policy.lua
routes:
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated] }
admin:
  listen: 127.0.0.1:0
";

const POLICY: &str =
    "require('kumo').on('http_server_validate_auth_basic', function() return false end)\n";

/// `run` and `check` both say it, with status 1, in as many lines as given.
fn check(yaml: &str, policy: Option<&str>, expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "gatepost.yaml", yaml);
    if let Some(policy) = policy {
        write(folder.path(), "policy.lua", policy);
    }
    for command in ["run", "check"] {
        let (status, out, err) = run(&[command, "--config", "gatepost.yaml"], folder.path());
        assert_eq!(status, Some(1), "{command}: {out}{err}");
        let text = if command == "run" { &err } else { &out };
        for words in expected {
            assert!(
                text.contains(words),
                "{command}: `{words}` is not in:\n{text}"
            );
        }
        assert!(!text.contains("listening"), "{command}: {text}");
        assert!(!text.contains("panicked"), "{command}: {text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["run", "check"] {
        let (status, out, err) = run(&[command, "--config", "absent.yaml"], folder.path());
        assert_eq!(status, Some(1));
        assert!(format!("{out}{err}").contains("absent.yaml"), "{out}{err}");
    }
    std::fs::create_dir(folder.path().join("folder.yaml")).unwrap();
    let (status, out, _) = run(&["check", "--config", "folder.yaml"], folder.path());
    assert_eq!(status, Some(1));
    assert!(out.contains("folder.yaml"), "{out}");
    let path = write(folder.path(), "locked.yaml", GOOD);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything, so there the file is merely a good one without a policy.
    let (status, out, _) = run(&["check", "--config", "locked.yaml"], folder.path());
    assert_eq!(status, Some(1));
    assert!(
        out.contains("locked.yaml") || out.contains("policy.lua"),
        "{out}"
    );
}

#[test]
fn a_fault_in_the_configuration_is_shown_with_its_place() {
    let with = |from: &str, to: &str| {
        assert!(GOOD.contains(from));
        GOOD.replace(from, to)
    };
    check(
        &with("policy:\n", "polcy:\n"),
        Some(POLICY),
        &["gatepost.yaml:6:1: ", "`polcy`", "`policy`"],
    );
    check(&with("[POST]", "POST"), Some(POLICY), &["gatepost.yaml:9:"]);
    check(
        &format!("{GOOD}trusted_hosts: [10.0.0.300/8]\n"),
        Some(POLICY),
        &["gatepost.yaml:12:", "10.0.0.300/8"],
    );
    check(
        &with("127.0.0.1:1\n", "nowhere\n"),
        Some(POLICY),
        &["gatepost.yaml:5:", "nowhere"],
    );
    check(
        &with(
            "listen: 127.0.0.1:0\nupstream",
            "listen: 127.0.0.1:99999\nupstream",
        ),
        Some(POLICY),
        &["gatepost.yaml:3:"],
    );
    check("listeners: [", Some(POLICY), &["gatepost.yaml:"]);
    check("", Some(POLICY), &["gatepost.yaml"]);
}

#[test]
fn five_faults_are_five_lines() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "policy.lua", POLICY);
    let yaml = GOOD
        .replace("127.0.0.1:1\n", "no-port\n  connect_timeout: 5\n")
        .replace("[POST]", "[POST, TRACE]")
        .replace("[authenticated]", "[authentcated]")
        + "trusted_hosts: [10.0.0.1/8]\n";
    write(folder.path(), "gatepost.yaml", &yaml);
    let (status, out, _) = run(&["check", "--config", "gatepost.yaml"], folder.path());
    assert_eq!(status, Some(1));
    let faults: Vec<&str> = out
        .lines()
        .filter(|line| line.starts_with("gatepost.yaml:"))
        .collect();
    assert_eq!(faults.len(), 5, "{out}");
    assert_eq!(out.lines().count(), 5, "{out}");
}

/// One run shows what is wrong in either file.
#[test]
fn faults_of_configuration_and_policy_are_shown_together() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "policy.lua", "local x = = 1\n");
    write(
        folder.path(),
        "gatepost.yaml",
        &format!("{GOOD}surprise: 1\n"),
    );
    let (status, out, _) = run(&["check", "--config", "gatepost.yaml"], folder.path());
    assert_eq!(status, Some(1));
    assert!(
        out.contains("gatepost.yaml:12:1: unknown key `surprise`"),
        "{out}"
    );
    assert!(out.contains("policy.lua:1: unexpected symbol"), "{out}");
}

#[test]
fn a_policy_that_does_not_load_is_shown_with_its_line() {
    check(GOOD, None, &["policy.lua"]);
    check(GOOD, Some("local x = = 1\n"), &["policy.lua:1:"]);
    check(
        GOOD,
        Some("\n\nerror 'no database'\n"),
        &["policy.lua:3:", "no database"],
    );
    check(
        GOOD,
        Some("require 'absent'\n"),
        &["policy.lua:1:", "absent"],
    );
    check(
        GOOD,
        Some("require('kumo').on('init', function() end)\n"),
        &["policy.lua", "no handler"],
    );
    check(GOOD, Some(""), &["policy.lua", "no handler"]);
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "policy.lua", POLICY);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // A warning that is logged before; a start that fails must not lose it.
    let good = format!("{GOOD}  token: a-token-in-the-file\n");
    for (from, to) in [
        ("127.0.0.1:0\nupstream", "\nupstream"),
        ("admin:\n  listen: 127.0.0.1:0", ""),
    ] {
        let to = if to.is_empty() {
            format!("admin:\n  listen: {address}")
        } else {
            format!("{address}{to}")
        };
        write(folder.path(), "gatepost.yaml", &good.replace(from, &to));
        let (status, _, err) = run(&["run", "--config", "gatepost.yaml"], folder.path());
        assert_eq!(status, Some(1));
        assert!(err.contains("the secret stands in this file"), "{err}");
        assert!(err.contains(&address) && err.contains("in use"), "{err}");
        // It is not `check`'s business: a gatepost that runs is checked every day.
        assert_eq!(
            run(&["check", "--config", "gatepost.yaml"], folder.path()).0,
            Some(0)
        );
    }
}

#[test]
fn a_good_configuration_is_said_to_be_good() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "policy.lua", POLICY);
    write(folder.path(), "gatepost.yaml", GOOD);
    let (status, out, err) = run(&["check", "--config", "gatepost.yaml"], folder.path());
    assert_eq!(
        (status, out.as_str(), err.as_str()),
        (Some(0), "gatepost.yaml: ok\n", "")
    );
}

#[test]
fn the_shipped_configurations_are_good() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for file in [
        "config/demo.yaml",
        "config/minimal.yaml",
        "config/reference.yaml",
        "deploy/etc/gatepost.yaml",
    ] {
        let (status, out, err) = run(&["check", "--config", file], &root);
        assert_eq!(status, Some(0), "{file}: {out}{err}");
    }
}

#[test]
fn the_version_names_the_revision() {
    let (status, out, _) = run(&["--version"], std::path::Path::new("."));
    assert_eq!(status, Some(0));
    let revision = out
        .trim()
        .strip_prefix("gatepost 0.1.0 (")
        .and_then(|rest| rest.strip_suffix(')'));
    assert!(
        revision.is_some_and(|it| it == "unknown" || it.len() == 12),
        "{out}"
    );
}
