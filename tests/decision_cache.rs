//! What the policy said is remembered for a while, and never for anybody else.

use crate::harness::{STRANGER, Setup, basic, inject, wait_for};

/// A policy that says how often it was asked, by the identity that it gives.
const COUNTING: &str = "
    local calls = 0
    require('kumo').on('http_server_validate_auth_basic', function(user, password)
      calls = calls + 1
      if password ~= 'right' then return false end
      return { identities = { { identity = user .. '#' .. calls, context = 'HttpBasicAuth' } } }
    end)";

fn identity_of(gate: &crate::harness::Gatepost, user: &str, password: &str) -> String {
    let reply = gate.send(STRANGER, inject(&basic(user, password))).unwrap();
    if reply.status != 200 {
        return reply.status.to_string();
    }
    gate.messages()[0]["meta"]["http_auth"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn accepted_credentials_are_remembered_and_refused_ones_are_not() {
    let gate = Setup::demo()
        .policy(COUNTING)
        .with("policy.workers: 1")
        .start();
    assert_eq!(identity_of(&gate, "a", "right"), "a#1");
    assert_eq!(identity_of(&gate, "a", "right"), "a#1");
    assert_eq!(identity_of(&gate, "a", "wrong"), "401");
    assert_eq!(identity_of(&gate, "a", "wrong"), "401");
    assert_eq!(identity_of(&gate, "b", "right"), "b#4");
    assert_eq!(identity_of(&gate, "a", "right"), "a#1");
    let cache = |what: &str| gate.metric(&format!("gatepost_decision_cache_{what}_total"));
    wait_for("the cache to be counted", || {
        (cache("hits"), cache("misses"), cache("evictions")) == (2.0, 4.0, 0.0)
    });
}

#[test]
fn a_ttl_ends_and_zero_turns_the_cache_off() {
    let gate = Setup::demo()
        .policy(COUNTING)
        .with("policy.workers: 1\ndecision_cache: { ttl: 300ms }")
        .start();
    let first = identity_of(&gate, "a", "right");
    wait_for("the entry to expire", || {
        identity_of(&gate, "a", "right") != first
    });
    let gate = Setup::demo()
        .policy(COUNTING)
        .with("policy.workers: 1\ndecision_cache: { ttl: 0s }")
        .start();
    assert_eq!(identity_of(&gate, "a", "right"), "a#1");
    assert_eq!(identity_of(&gate, "a", "right"), "a#2");
}

/// The attack (CVE-like, seen elsewhere): two pairs whose parts put together read the same.
#[test]
fn credentials_that_read_alike_when_joined_are_told_apart() {
    let policy = "
        require('kumo').on('http_server_validate_auth_basic', function(user, password)
          return user == 'ab' and password == 'c'
        end)";
    let gate = Setup::demo().policy(policy).start();
    assert_eq!(identity_of(&gate, "ab", "c"), "ab");
    assert_eq!(identity_of(&gate, "a", "bc"), "401");
    assert_eq!(identity_of(&gate, "ab", "cc"), "401");
    assert_eq!(identity_of(&gate, "abc", ""), "401");
}

/// Authorization is decided anew every time: only who somebody is is remembered, not what they may do.
#[test]
fn a_remembered_user_is_still_refused_where_the_route_is_not_for_them() {
    let gate = Setup::demo()
        .routes(
            "
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated] }
  - { path: /hosts, methods: [POST], allow: [trusted_hosts] }
",
        )
        .start();
    assert_eq!(
        gate.send(STRANGER, inject(&basic("scott", "tiger")))
            .unwrap()
            .status,
        200
    );
    let hosts = crate::harness::post("/hosts", &basic("scott", "tiger"), "");
    assert_eq!(gate.send(STRANGER, hosts).unwrap().status, 403);
}

/// A burst of the same credentials asks the policy once.
#[test]
fn a_burst_of_the_same_credentials_is_one_call() {
    let policy = "
        local gatepost = require 'gatepost'
        local calls = 0
        require('kumo').on('http_server_validate_auth_basic', function(user)
          calls = calls + 1
          local mine = calls
          gatepost.password.verify(nil, 'this takes a while')
          return { identities = { { identity = user .. '#' .. mine, context = 'HttpBasicAuth' } } }
        end)";
    let gate = Setup::demo()
        .policy(policy)
        .with("policy.workers: 1")
        .start();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let reply = gate.send(STRANGER, inject(&basic("a", "b"))).unwrap();
                assert_eq!(reply.status, 200);
            });
        }
    });
    for message in gate.messages() {
        assert_eq!(message["meta"]["http_auth"], "a#1");
    }
}
