//! Wrong credentials that come too often.

use std::time::{Duration, Instant};

use crate::harness::{Connection, Gatepost, STRANGER, Setup, TRUSTED, basic, get, inject};
use crate::http2_client::{END_HEADERS, END_STREAM, HEADERS, Http2, frame, literal};

const PROXY: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 8);
const OTHER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 5);

fn start(throttle: &str) -> Gatepost {
    Setup::demo()
        .with(&format!("throttle: {throttle}"))
        .with("trusted_proxies: [127.0.0.8]")
        .start()
}

fn status(gate: &Gatepost, from: std::net::Ipv4Addr, user: &str, password: &str) -> u16 {
    let reply = gate.send(from, inject(&basic(user, password))).unwrap();
    if reply.status == 429 {
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=3600).contains(&wait), "{reply:?}");
        assert_eq!(reply.header("www-authenticate"), None);
        assert_eq!(reply.json()["error"], "throttled");
    }
    reply.status
}

/// The attack: passwords are guessed. The guesser is stopped, before the policy is asked; the user is not
/// shut out by it, and nobody else is.
#[test]
fn a_guesser_is_stopped_and_the_user_is_not_locked_out() {
    let gate = start("{ per_address: 20/hour, per_address_and_user: 3/hour }");
    for _ in 0..3 {
        assert_eq!(status(&gate, STRANGER, "scott", "wrong"), 401);
    }
    assert_eq!(status(&gate, STRANGER, "scott", "wrong"), 429);
    assert_eq!(
        status(&gate, STRANGER, "scott", "tiger"),
        429,
        "from there, also the right one"
    );
    assert_eq!(
        status(&gate, OTHER, "scott", "tiger"),
        200,
        "the user elsewhere"
    );
    assert_eq!(
        status(&gate, STRANGER, "carol", "a:b:c"),
        200,
        "another user from there"
    );
    assert_eq!(status(&gate, TRUSTED, "scott", "tiger"), 200);
    let throttled = "gatepost_decisions_total{mechanism=\"basic\",outcome=\"throttled\"}";
    assert!(gate.metric(throttled) >= 2.0);
}

/// The attack: one password for very many users.
#[test]
fn an_address_that_tries_many_users_is_stopped() {
    let gate = start("{ per_address: 5/hour, per_address_and_user: off }");
    for index in 0..5 {
        assert_eq!(status(&gate, STRANGER, &format!("user{index}"), "x"), 401);
    }
    assert_eq!(status(&gate, STRANGER, "user9", "x"), 429);
    assert_eq!(status(&gate, OTHER, "user9", "x"), 401);
    // What asks for no credentials is not affected.
    let open = gate
        .send(STRANGER, "GET /open HTTP/1.1\r\nHost: g\r\n\r\n")
        .unwrap();
    assert_ne!(open.status, 429);
}

/// Good credentials, malformed ones and faults of the policy cost nothing.
#[test]
fn only_wrong_credentials_count() {
    let gate = start("{ per_address: 2/hour, per_address_and_user: 2/hour }");
    for _ in 0..5 {
        assert_eq!(status(&gate, STRANGER, "scott", "tiger"), 200);
        assert_eq!(status(&gate, STRANGER, "r-error", "x"), 500);
        let malformed = gate.send(STRANGER, inject("Authorization: Basic !!!\r\n"));
        assert_eq!(malformed.unwrap().status, 400);
    }
    assert_eq!(status(&gate, STRANGER, "scott", "x"), 401);
}

/// The attack: an IPv6 client changes its address within its /64; and behind a proxy it is the client that is
/// stopped, not the proxy.
#[test]
fn clients_behind_a_proxy_are_told_apart_and_ipv6_by_network() {
    let gate = start("{ per_address: 2/hour }");
    let proxy = std::net::Ipv4Addr::new(127, 0, 0, 8);
    let guess = |client: &str| {
        let headers = format!("{}X-Forwarded-For: {client}\r\n", basic("scott", "wrong"));
        gate.send(proxy, inject(&headers)).unwrap().status
    };
    assert_eq!(guess("2001:db8::1"), 401);
    assert_eq!(guess("2001:db8::2"), 401);
    assert_eq!(guess("2001:db8::3"), 429);
    assert_eq!(guess("2001:db8:0:1::1"), 401, "another network");
    assert_eq!(guess("203.0.113.1"), 401, "another client");
}

#[test]
fn it_ends_by_itself_and_can_be_off() {
    let gate = start("{ per_address: off, per_address_and_user: 1/s }");
    assert_eq!(status(&gate, STRANGER, "scott", "x"), 401);
    let begin = Instant::now();
    while status(&gate, STRANGER, "scott", "tiger") == 429 {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "the wait never ends"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    for throttle in [
        "off",
        "{ exempt: [127.0.0.2], per_address: 1/day, per_address_and_user: 1/day }",
    ] {
        let gate = start(throttle);
        for _ in 0..15 {
            assert_eq!(status(&gate, STRANGER, "scott", "x"), 401, "{throttle}");
        }
    }
}

/// A reload forgets nothing, and new limits hold at once.
#[test]
fn failures_outlive_a_reload() {
    let gate = start("{ per_address_and_user: 2/hour }");
    assert_eq!(status(&gate, STRANGER, "scott", "x"), 401);
    assert_eq!(status(&gate, STRANGER, "scott", "x"), 401);
    gate.signal("HUP");
    gate.wait_log(|line| line["message"] == "configuration and policy are reloaded");
    assert_eq!(status(&gate, STRANGER, "scott", "x"), 429);
}

fn ask(connection: &mut Connection, headers: &str) -> u16 {
    connection.write(inject(headers));
    connection.reply().unwrap().status
}

/// The attack: a client that guesses as fast as it is answered takes the core from everybody. Each guess is answered at once, and the next is
/// read later each time; other connections do not wait, and who knows the password is not slow for one slip.
#[test]
fn a_connection_that_guesses_is_read_later_each_time() {
    let gate = start("{ per_address: off, per_address_and_user: off, longest_pause: 400ms }");
    let mut guesser = gate.connect(STRANGER);
    let begin = Instant::now();
    for _ in 0..7 {
        assert_eq!(ask(&mut guesser, &basic("scott", "wrong")), 401);
        // Another refusal between two guesses is no way around it.
        guesser.write(get("/nowhere"));
        assert_eq!(guesser.reply().unwrap().status, 404);
    }
    // Before the third guess and those after it.
    let pauses = [50, 100, 200, 400, 400].iter().sum();
    assert!(begin.elapsed() >= Duration::from_millis(pauses));
    assert_eq!(
        ask(&mut gate.connect(STRANGER), &basic("scott", "tiger")),
        200
    );
    // While this one still waits.
    assert_eq!(ask(&mut guesser, &basic("scott", "tiger")), 200);
}

/// Without a pause; with one after the other of these refusals it would be a minute.
#[test]
fn clients_of_a_proxy_do_not_wait_for_each_other() {
    let quickly = |throttle: &str, from, headers: &dyn Fn(usize) -> (String, u16)| {
        let rates = "per_address: off, per_address_and_user: off";
        let gate = start(&format!("{{ {rates}, longest_pause: 10s, {throttle} }}"));
        let mut connection = gate.connect(from);
        let begin = Instant::now();
        for turn in 0..28 {
            let (headers, status) = headers(turn);
            assert_eq!(ask(&mut connection, &headers), status);
        }
        assert!(begin.elapsed() < Duration::from_secs(20));
    };
    let wrong = |_| (basic("scott", "wrong"), 401);
    let through = |turn| {
        let (wrong, status) = wrong(turn);
        (format!("X-Forwarded-For: 203.0.113.7\r\n{wrong}"), status)
    };
    quickly("exempt: []", PROXY, &through);
    quickly("exempt: [127.0.0.2]", STRANGER, &wrong);
    // As a client does that sends its credentials when it is asked for them.
    quickly("exempt: []", STRANGER, &|turn| match turn % 2 {
        0 => (String::new(), 401),
        _ => (basic("scott", "tiger"), 200),
    });
}

/// The same attack by streams of HTTP/2, which are refused many at a time.
#[test]
fn a_connection_of_http2_that_guesses_is_read_later_each_time() {
    let gate = start("{ per_address: off, per_address_and_user: off, longest_pause: 100ms }");
    let mut client = Http2::open(&gate, STRANGER);
    let begin = Instant::now();
    for turn in 0..3 {
        for nth in 0..6 {
            let stream = (turn * 6 + nth) * 2 + 1;
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &guess()));
        }
        for _ in 0..6 {
            let answer = client.find(|it| it.kind == HEADERS).unwrap();
            assert_eq!(answer.status(), Some(401));
        }
    }
    // Of the first six: nothing, 50 and four times 100, of which there are five at most; of the next: as much as there may be.
    assert!(begin.elapsed() >= Duration::from_millis(450 + 500));
}

fn guess() -> Vec<u8> {
    let authorization = basic("scott", "wrong");
    let (_, value) = authorization.trim().split_once(": ").unwrap();
    [
        literal(":method", "POST"),
        literal(":scheme", "http"),
        literal(":path", "/api/inject/v1"),
        literal(":authority", "gate"),
        literal("authorization", value),
    ]
    .concat()
}
