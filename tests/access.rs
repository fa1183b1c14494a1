//! Routes with expressions, as requests meet them and as `gatepost access` explains them.

use crate::harness::{Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, get, run};

const POLICY: &str = "
local kumo = require 'kumo'
local groups = { ann = { 'staff' }, bob = { 'staff', 'admins' }, eve = {} }
kumo.on('http_server_validate_auth_basic', function(user, password)
  return password == 'p' and groups[user] ~= nil and {
    identities = { { identity = user, context = 'HttpBasicAuth' } },
    groups = groups[user],
  }
end)";

const ROUTES: &str = "
  - { path: /admin/*, methods: [GET], allow: [{ all_of: [{ group: admins }, { network: 127.0.0.0/30 }] }] }
  - { path: /staff, methods: [GET], allow: [{ all_of: [{ group: staff }, { not: { identity: ann } }] }] }
  - { path: /eve, methods: [GET], allow: [{ identity: eve }, { all_of: [trusted_hosts, { not: { network: 127.0.0.2 } }] }] }
  - { path: /near, methods: [GET], allow: [{ network: 127.0.0.2 }] }
  - { path: /hosts, methods: [GET], allow: [trusted_hosts] }
";

fn start(upstream: &Recorder) -> Gatepost {
    Setup::before(upstream.address)
        .policy(POLICY)
        .routes(ROUTES)
        .start()
}

/// A request and its explanation have the same end, whoever asks for what from where.
#[test]
fn a_request_and_its_explanation_agree() {
    let upstream = Recorder::start();
    let gate = start(&upstream);
    let far = std::net::Ipv4Addr::new(127, 0, 0, 9);
    for (path, user, from, status) in [
        ("/admin/x", Some("bob"), STRANGER, 200),
        ("/admin/x", Some("bob"), far, 403),
        ("/admin/x", Some("ann"), STRANGER, 403),
        ("/admin/x", None, STRANGER, 401),
        // Credentials cannot help from there, but nobody is told so who has not said who they are.
        ("/admin/x", None, far, 401),
        ("/admin/", Some("bob"), STRANGER, 404),
        ("/admin/../admin/x", Some("bob"), STRANGER, 400),
        ("/staff", Some("bob"), STRANGER, 200),
        ("/staff", Some("ann"), STRANGER, 403),
        ("/staff", Some("eve"), STRANGER, 403),
        ("/staff", None, TRUSTED, 401),
        ("/eve", Some("eve"), STRANGER, 200),
        ("/eve", Some("bob"), STRANGER, 403),
        ("/eve", Some("bob"), TRUSTED, 200),
        ("/eve", None, TRUSTED, 200),
        ("/eve", None, STRANGER, 401),
        ("/near", None, STRANGER, 200),
        ("/near", None, TRUSTED, 403),
        ("/near", Some("bob"), far, 403),
        ("/hosts", None, TRUSTED, 200),
        ("/hosts", None, STRANGER, 401),
        ("/hosts", Some("bob"), STRANGER, 403),
        ("/nothing", None, TRUSTED, 404),
    ] {
        let credentials = user.map_or(String::new(), |user| basic(user, "p"));
        let request = format!("GET {path} HTTP/1.1\r\nHost: gate\r\n{credentials}\r\n");
        let reply = gate.send(from, request).unwrap();
        assert_eq!(reply.status, status, "{path} {user:?} {from}");
        let from = from.to_string();
        let mut arguments = vec![
            "access",
            "--config",
            "gatepost.yaml",
            "GET",
            path,
            "--from",
            &from,
        ];
        if let Some(user) = user {
            arguments.extend(["--user", user]);
        }
        let groups: &[&str] = match user {
            Some("ann") => &["staff"],
            Some("bob") => &["staff", "admins"],
            _ => &[],
        };
        arguments.extend(groups.iter().flat_map(|group| ["--group", group]));
        let (exit, out, _) = run(&arguments, gate.folder());
        let first = out.lines().next().unwrap();
        if status == 200 {
            assert_eq!(
                (exit, first),
                (Some(0), &*format!("ALLOW GET {path}")),
                "{out}"
            );
        } else {
            assert_eq!(exit, Some(1), "{out}");
            let expected = format!("DENY GET {path}: {status} ");
            assert!(first.starts_with(&expected), "{out}");
        }
    }
}

#[test]
fn the_explanation_names_route_and_rules() {
    let upstream = Recorder::start();
    let gate = start(&upstream);
    let explain = |arguments: &[&str]| {
        let arguments = [&["access", "--config", "gatepost.yaml"], arguments].concat();
        let (_, out, err) = run(&arguments, gate.folder());
        out + &err
    };
    assert_eq!(
        explain(&["GET", "/eve", "--user", "bob", "--from", "::ffff:127.0.0.1"]),
        "ALLOW GET /eve
  client    127.0.0.1 (a trusted host)
  route     /eve (number 3)
  identity  bob (basic)
  rule      {identity: eve}: no
  rule      {all_of: [trusted_hosts, {not: {network: 127.0.0.2/32}}]}: yes
"
    );
    assert_eq!(
        explain(&["POST", "/eve", "--from", "192.0.2.1"]),
        "DENY POST /eve: 405 method_not_allowed, this path does not take this method
  client    192.0.2.1
"
    );
    assert_eq!(
        explain(&["GET", "/eve", "--user", "10.0.0.1", "--from", "192.0.2.1"])
            .lines()
            .next(),
        Some("DENY GET /eve: 400 bad_credentials, user name is an IP address")
    );
    assert!(
        explain(&["GET", "/eve", "--group", "a", "--from", "192.0.2.1"])
            .contains("--group needs --user")
    );
}

/// The preset gives what KumoMTA's default ACL gives, but loopback does not administer the MTA.
#[test]
fn the_preset_keeps_admin_paths_from_loopback() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .routes("\n  - preset: kumomta\n")
        .with("trusted_hosts: [127.0.0.1, 192.0.2.7]")
        .with("trusted_proxies: [127.0.0.2]")
        .start();
    assert_eq!(gate.send(TRUSTED, get("/metrics")).unwrap().status, 403);
    assert_eq!(
        gate.send(TRUSTED, get("/api/check-liveness/v1"))
            .unwrap()
            .status,
        200
    );
    assert_eq!(
        gate.send(STRANGER, get("/api/check-liveness/v1"))
            .unwrap()
            .status,
        200
    );
    let as_admin = "GET /metrics HTTP/1.1\r\nHost: g\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
    assert_eq!(gate.send(STRANGER, as_admin).unwrap().status, 200);
    let as_loopback =
        "GET /metrics HTTP/1.1\r\nHost: g\r\nX-Forwarded-For: ::ffff:127.0.0.1\r\n\r\n";
    assert_eq!(gate.send(STRANGER, as_loopback).unwrap().status, 403);
}
