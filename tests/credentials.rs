//! Who gets in, and as whom: every case of `data/basic_auth.json`, against the embedded injection API.

use serde::Deserialize;

use crate::harness::{STRANGER, Setup, TRUSTED, basic, inject};

#[derive(Deserialize)]
struct Vectors {
    credentials: Vec<Case>,
    handler_results: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    authorization: Vec<String>,
    #[serde(default)]
    source: String,
    status: u16,
    #[serde(default)]
    identity: Option<String>,
    #[serde(default)]
    challenge: bool,
    #[serde(default)]
    alt_status: Vec<u16>,
}

const VECTORS: &str = include_str!("data/basic_auth.json");

fn check(cases: &[Case]) {
    let gate = Setup::demo().with("policy.callback_timeout: 3s").start();
    for case in cases {
        let before = gate.messages().len();
        let headers: String = case
            .authorization
            .iter()
            .map(|value| format!("Authorization: {value}\r\n"))
            .collect();
        let from = if case.source == "trusted" {
            TRUSTED
        } else {
            STRANGER
        };
        let reply = gate
            .send(from, inject(&headers))
            .unwrap_or_else(|| panic!("{}: no answer", case.name));
        let expected: Vec<u16> = [&[case.status], &case.alt_status[..]].concat();
        assert!(expected.contains(&reply.status), "{}: {reply:?}", case.name);
        if case.challenge && reply.status == 401 {
            let challenge = reply.header("www-authenticate");
            assert_eq!(
                challenge,
                Some("Basic realm=\"gatepost\", charset=\"UTF-8\""),
                "{}",
                case.name
            );
        }
        if reply.status == 503 {
            assert!(reply.header("retry-after").is_some(), "{}", case.name);
        }
        let messages = gate.messages();
        if reply.status == 200 {
            assert_eq!(messages.len(), before + 1, "{}", case.name);
            let expected = match case.identity.as_deref() {
                Some("$peer") => Some(from.to_string()),
                Some(identity) => Some(identity.to_owned()),
                // The handler results name no identity: it is the user.
                None => None,
            };
            if let Some(expected) = expected {
                assert_eq!(messages[0]["meta"]["http_auth"], expected, "{}", case.name);
            }
        } else {
            assert_eq!(
                messages.len(),
                before,
                "{}: refused, yet injected",
                case.name
            );
        }
    }
}

#[test]
fn every_credential_vector_holds() {
    let vectors: Vectors = serde_json::from_str(VECTORS).unwrap();
    assert!(vectors.credentials.len() >= 29);
    check(&vectors.credentials);
}

#[test]
fn every_handler_result_vector_holds() {
    let vectors: Vectors = serde_json::from_str(VECTORS).unwrap();
    assert!(vectors.handler_results.len() >= 11);
    check(&vectors.handler_results);
}

/// The policy of the README, with its hashed passwords, and the same users as `KumoMTA` operators
/// write them: both let the same people in.
#[test]
fn the_shipped_example_policies_know_their_users() {
    for policy in [
        include_str!("../lua/policy.lua"),
        include_str!("../lua/kumomta_style.lua"),
    ] {
        let gate = Setup::demo().policy(policy).start();
        for (user, password, status) in [
            ("scott", "tiger", 200),
            ("carol", "a:b:c", 200),
            ("jürgen", "grüße", 200),
            ("scott", "lion", 401),
            ("scott", "", 401),
            ("nobody", "tiger", 401),
        ] {
            let reply = gate.send(STRANGER, inject(&basic(user, password))).unwrap();
            assert_eq!(reply.status, status, "{user}:{password}");
        }
    }
}

/// The attack: a client looks for a difference between "no such user" and "wrong password".
#[test]
fn a_refusal_does_not_tell_which_part_was_wrong() {
    let gate = Setup::demo().start();
    let answer = |user: &str| {
        let mut reply = gate.send(STRANGER, inject(&basic(user, "wrong"))).unwrap();
        reply.headers.retain(|(name, _)| name != "date");
        (reply.status, reply.headers, reply.body)
    };
    assert_eq!(answer("scott"), answer("nobody"));
}

/// With `basic.missing_password: nil` the handler gets what `KumoMTA`'s gets.
#[test]
fn a_missing_password_reaches_the_handler_only_where_the_operator_says_so() {
    let policy = "
        require('kumo').on('http_server_validate_auth_basic', function(user, password)
          return user == 'lonely' and password == nil
        end)";
    let authorization = "Authorization: Basic bG9uZWx5\r\n"; // `lonely`, no colon
    let strict = Setup::demo().policy(policy).start();
    assert_eq!(
        strict.send(STRANGER, inject(authorization)).unwrap().status,
        400
    );
    let lenient = Setup::demo()
        .policy(policy)
        .with("basic: { missing_password: nil }")
        .start();
    assert_eq!(
        lenient
            .send(STRANGER, inject(authorization))
            .unwrap()
            .status,
        200
    );
}

/// The attack: a client inside the trusted network, or on a route for anyone, guesses passwords and is let in
/// whenever it guesses wrong.
#[test]
fn wrong_credentials_from_a_trusted_host_are_refused() {
    let gate = Setup::demo().start();
    for (path, credentials) in [
        ("/api/inject/v1", basic("scott", "wrong")),
        ("/api/inject/v1", basic("nobody", "")),
        ("/open", basic("scott", "wrong")),
        ("/api/inject/v1", "Authorization: Digest x\r\n".to_owned()),
        ("/api/inject/v1", "Authorization: Bearer x\r\n".to_owned()),
    ] {
        let request = crate::harness::post(path, &credentials, "{}");
        let status = gate.send(TRUSTED, request).unwrap().status;
        assert_eq!(status, 401, "{path} {credentials}");
    }
    assert_eq!(gate.messages().len(), 0);
}
