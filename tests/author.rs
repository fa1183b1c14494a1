//! What helps whoever writes a policy: `gatepost auth`, `gatepost test`, and the traps of `gatepost check`.

use std::path::Path;

use crate::harness::{POLICY, run, run_with, write};

const CONFIG: &str = "
listeners:
  - listen: 127.0.0.1:0
upstream:
  address: 127.0.0.1:1
policy:
  file: policy.lua
  callback_timeout: 1s
routes:
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated] }
";

fn folder(policy: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "gatepost.yaml", CONFIG);
    write(folder.path(), "policy.lua", policy);
    folder
}

/// Exit status and standard output of `gatepost auth`, the password on standard input.
fn auth(folder: &Path, user: &str, password: &str) -> (Option<i32>, String) {
    let (status, out, err) = run_with(
        &["auth", "--config", "gatepost.yaml", user],
        folder,
        password,
        &[],
    );
    assert!(
        !format!("{out}{err}").contains(password.trim()),
        "the password is shown: {out}{err}"
    );
    (status, out)
}

#[test]
fn auth_says_what_a_request_would_get() {
    let folder = folder(POLICY);
    for (user, password, status, words) in [
        (
            "scott",
            "tiger\n",
            0,
            "ALLOW\n  identity  scott\n  from      HttpBasicAuth (scott)\n  groups    none\n  took ",
        ),
        ("carol", "a:b:c", 0, "ALLOW\n  identity  carol\n"),
        ("jürgen", "grüße\r\n", 0, "ALLOW\n  identity  jürgen\n"),
        (
            "scott",
            "lion\n",
            1,
            "DENY: the handler said no (a client gets 401)\n  took ",
        ),
        ("nobody", "tiger!\n", 1, "DENY: the handler said no"),
        (
            "r-error",
            "secret\n",
            1,
            "DENY: the handler failed (a client gets 500)",
        ),
        (
            "r-loop",
            "secret\n",
            1,
            "DENY: the handler took too long (a client gets 503)",
        ),
        (
            "127.0.0.1",
            "tiger\n",
            1,
            "DENY: refused before the policy is asked: user name is an IP address",
        ),
    ] {
        let (exit, out) = auth(folder.path(), user, password);
        assert_eq!(exit, Some(status), "{user}: {out}");
        assert!(out.starts_with(words), "{user}: {out}");
    }
}

#[test]
fn auth_shows_groups() {
    let folder = folder(
        "require('kumo').on('http_server_validate_auth_basic', function(user)
           return { identities = { { identity = 'tenant-7', context = 'GenericAuth' } }, groups = { 'bulk', 'eu' } }
         end)",
    );
    let (_, out) = auth(folder.path(), "scott", "secret\n");
    assert!(
        out.contains(
            "  identity  tenant-7\n  from      GenericAuth (tenant-7)\n  groups    bulk, eu\n"
        ),
        "{out}"
    );
}

/// The report of `gatepost test`, good and bad.
#[test]
fn an_operators_tests_are_run_and_reported() {
    let folder = folder(POLICY);
    let tests = "
        local test = require 'gatepost.test'
        local policy = test.policy 'policy.lua'
        test.case('scott gets in', function()
          test.allows(policy:request { user = 'scott', password = 'tiger' }, 'scott')
          test.denies(policy:request { user = 'scott', password = 'lion' })
        end)
        test.case('nonsense is refused', function()
          test.refuses(policy:request { user = '127.0.0.1', password = 'x' })
          test.refuses(policy:request { user = 'scott' })
          test.fails(policy:request { user = 'r-error', password = 'x' })
          test.raises(function() policy:request { nonsense = 1 } end, 'nonsense')
          test.equal(1 + 1, 2)
          test.truthy(true)
        end)";
    write(folder.path(), "good_test.lua", tests);
    let (status, out, err) = run(&["test", "good_test.lua"], folder.path());
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(
        out.contains("  ok    scott gets in (") && out.ends_with("2 passed, 0 failed\n"),
        "{out}"
    );
    let bad = "
        local test = require 'gatepost.test'
        local policy = test.policy 'policy.lua'
        test.case('wrong hopes', function()
          test.allows(policy:request { user = 'scott', password = 'lion' }, 'scott')
        end)
        test.case('an error', function() error 'broken' end)";
    write(folder.path(), "bad_test.lua", bad);
    write(folder.path(), "broken_test.lua", "local x = = 1");
    let (status, out, _) = run(&["test", "."], folder.path());
    assert_eq!(status, Some(1));
    for part in [
        "bad_test.lua:5: expected accepted as scott, got rejected",
        "bad_test.lua:7: broken",
        "broken_test.lua:1: unexpected symbol",
        "2 passed, 3 failed\n",
    ] {
        assert!(out.contains(part), "`{part}` is not in:\n{out}");
    }
    assert_eq!(run(&["test", "absent_test.lua"], folder.path()).0, Some(1));
    write(folder.path(), "empty.lua", "");
    assert_eq!(
        run(&["test", "empty.lua"], folder.path()).0,
        Some(1),
        "no test is no success"
    );
}

#[test]
fn check_flags_a_handler_that_lets_a_missing_password_in() {
    let trapped = "
        local users = { scott = 'tiger' }
        require('kumo').on('http_server_validate_auth_basic', function(user, password)
          return users[user] == password
        end)";
    let folder = folder(trapped);
    let (status, out, _) = run(&["check", "--config", "gatepost.yaml"], folder.path());
    assert_eq!(status, Some(0), "{out}");
    assert!(
        out.contains("warning: policy.lua: the handler lets an unknown user without a password in"),
        "{out}"
    );
    write(
        folder.path(),
        "gatepost.yaml",
        &format!("{CONFIG}basic: {{ missing_password: nil }}\n"),
    );
    let (status, out, _) = run(&["check", "--config", "gatepost.yaml"], folder.path());
    assert_eq!(status, Some(1), "now it is open to clients: {out}");
    write(folder.path(), "policy.lua", POLICY);
    let (status, out, _) = run(&["check", "--config", "gatepost.yaml"], folder.path());
    assert_eq!((status, out.as_str()), (Some(0), "gatepost.yaml: ok\n"));
}

#[test]
fn check_flags_files_named_by_the_user() {
    let folder = folder(
        "require('kumo').on('http_server_validate_auth_basic', function(user, password)
           local path = '/etc/mail/users/' .. user
           local file = io.open(path)
           return file ~= nil and file:read('l') == password
         end)",
    );
    let (status, out, _) = run(&["check", "--config", "gatepost.yaml"], folder.path());
    assert_eq!(status, Some(0));
    assert!(
        out.contains("warning: policy.lua:3: io.open is given something made from the user name"),
        "{out}"
    );
}

/// What `gatepost hash` prints, a policy verifies.
#[test]
fn hash_prints_what_a_policy_verifies() {
    for algorithm in ["argon2id", "bcrypt", "sha512-crypt"] {
        let (status, out, _) = run_with(
            &["hash", "--algorithm", algorithm],
            Path::new("."),
            "tiger\n",
            &[],
        );
        assert_eq!(status, Some(0));
        let folder = folder(&format!(
            "local gatepost = require 'gatepost'
             require('kumo').on('http_server_validate_auth_basic', function(user, password)
               return gatepost.password.verify('{}', password)
             end)",
            out.trim()
        ));
        // A hash takes its time, the more so where others want the processor.
        let patient = CONFIG.replace("callback_timeout: 1s", "callback_timeout: 60s");
        write(folder.path(), "gatepost.yaml", &patient);
        assert_eq!(
            auth(folder.path(), "scott", "tiger\n").0,
            Some(0),
            "{algorithm}"
        );
        assert_eq!(
            auth(folder.path(), "scott", "lion\n").0,
            Some(1),
            "{algorithm}"
        );
    }
    assert_eq!(
        run_with(&["hash", "--algorithm", "md5"], Path::new("."), "x\n", &[]).0,
        Some(1)
    );
    assert_eq!(
        run(&["hash"], Path::new(".")).0,
        Some(1),
        "no password, no hash"
    );
}
