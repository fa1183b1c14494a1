//! The attack: guesses of random names and passwords from many addresses, where each costs an Argon2id hash. Users whose decision is remembered
//! must not feel it.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::ON_ITS_CORE;
use crate::crowd::{Crowd, Got};
use crate::harness::{STRANGER, Setup, basic, post};
use crate::mix::ROUTES;
use crate::upstream::Upstream;

/// Knows everybody who is called `user…`, and their password `tiger`; others cost what they cost.
pub(crate) const POLICY: &str = "
local kumo = require 'kumo'
local gatepost = require 'gatepost'
local tiger = '$argon2id$v=19$m=7168,t=5,p=1$s9e0/jAMb0Z9IDH6Yy20rA$wo1yW1RkShrhpCYMckF6yO6MzMtMvRoWAldmCuQGIGw'
kumo.on('http_server_validate_auth_basic', function(user, password)
  return gatepost.password.verify(user:find '^user' and tiger or nil, password)
end)
";

/// By how much a time may grow.
const HALF: f64 = 1.5;

const TIME: Duration = Duration::from_secs(20);

/// A request of somebody who knows the password.
pub(crate) fn good(number: u32) -> Vec<u8> {
    let who = basic(&format!("user{number}"), "tiger");
    post("/api/inject/v1", &who, &"x".repeat(2000)).into_bytes()
}

fn guess(number: u32, turn: u64) -> Vec<u8> {
    let who = basic(&format!("{number}-{turn}"), &format!("guess-{turn}"));
    post("/api/inject/v1", &who, &"x".repeat(2000)).into_bytes()
}

#[test]
fn a_flood_of_guesses_is_not_felt_by_who_is_remembered() {
    let upstream = Upstream::start();
    let gate = Setup::before(upstream.address)
        .within(&ON_ITS_CORE)
        .routes(ROUTES)
        .policy(POLICY)
        .with("threads: 1\npolicy.workers: 1")
        .with("decision_cache: { ttl: 1h }")
        .looking(|line| {
            !line.contains("\"target\":\"access\"") && !line.contains("\"target\":\"auth\"")
        })
        .start();
    // Two hundred requests a second.
    let users = Crowd {
        to: gate.address,
        from: &|_| STRANGER,
        clients: 4,
        interval: Some(Duration::from_millis(20)),
        request: &|number, _| good(number),
    };
    let attackers = Crowd {
        to: gate.address,
        from: &|number| Ipv4Addr::new(127, 0, 9, u8::try_from(number).unwrap()),
        clients: 250,
        interval: None,
        request: &guess,
    };
    users.ask_for(Duration::from_secs(2), || {});
    let calm = users.ask_for(TIME, || {});
    let mut felt = Got::default();
    let flood = attackers.ask_for(TIME + Duration::from_secs(2), || {
        // Until all of them are there.
        users.ask_for(Duration::from_secs(2), || {});
        felt = users.ask_for(TIME, || {});
    });
    for (what, got) in [("before the flood", &calm), ("while it goes on", &felt)] {
        println!(
            "FIGURE users who are remembered, {what}: {:.0}/s, {}",
            got.served_per_second(),
            got.served.said()
        );
        assert!(got.faults.is_empty(), "{:?}", got.faults);
        assert_eq!(got.others + got.turned_away.count(), 0);
    }
    println!(
        "FIGURE the flood: {} clients, {:.0} guesses/s answered, {} of them with 503 ({})",
        attackers.clients,
        flood.asked_per_second(),
        flood.turned_away.count(),
        flood.turned_away.said()
    );
    assert_eq!(flood.served.count(), 0, "a guess was right");
    for (what, permille) in [("p50", 500), ("p99", 990)] {
        let (calm, felt) = (
            calm.served.permille(permille),
            felt.served.permille(permille),
        );
        assert!(
            felt <= calm * HALF,
            "{what}: {calm:.2} ms before, {felt:.2} ms now"
        );
    }
}
