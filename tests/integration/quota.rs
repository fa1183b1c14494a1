//! Quotas that three gateposts count together in a real Redis, also while one of them is killed, and while Redis is away.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Connection, Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, post, wait_for,
};
use crate::redis::Redis;

/// Recipients of one request.
const EACH: usize = 25;

fn gate(redis: &Redis, upstream: &Recorder, limit: &str, more: &str) -> Gatepost {
    Setup::before(upstream.address)
        .routes("\n  - { path: /api/inject/v1, methods: [POST], allow: [authenticated, trusted_hosts], message_policy: true }\n")
        .with(&format!(
            "quotas: {{ redis: \"{}\", limits: [{{ for: [anyone], recipients: [{limit}] }}]{more} }}",
            redis.url()
        ))
        .start()
}

fn request(count: usize) -> String {
    request_from("me@example.com", count)
}

/// Of scott, to so many.
pub(crate) fn request_from(sender: &str, count: usize) -> String {
    let recipients: Vec<_> = (0..count)
        .map(|index| json!({ "email": format!("r{index}@x.test") }))
        .collect();
    let body = json!({
        "envelope_sender": sender,
        "recipients": recipients,
        "content": "From: me@example.com\r\n\r\n",
    });
    post(
        "/api/inject/v1",
        &basic("scott", "tiger"),
        &body.to_string(),
    )
}

fn status(gate: &Gatepost, count: usize) -> u16 {
    gate.send(STRANGER, request(count)).unwrap().status
}

/// 10,000 recipients a minute are 10,000, however many send through however many replicas, and though one is killed.
#[test]
fn a_shared_quota_is_kept_by_three_replicas_of_which_one_is_killed() {
    let redis = Redis::start();
    let upstream = Recorder::start();
    let mut gates: Vec<Gatepost> = (0..3)
        .map(|_| gate(&redis, &upstream, "10000/min", ""))
        .collect();
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    thread::scope(|scope| {
        for gate in &gates {
            for _ in 0..3 {
                let (stop, address) = (&stop, gate.address);
                scope.spawn(move || send_until(stop, address));
            }
        }
        // A third of the way, one is gone in the middle of what it does.
        wait_for("the first third", || upstream.requests() * EACH > 3_300);
        gates[0].signal("KILL");
        wait_for("the quota to be used up", || {
            status(&gates[1], EACH) == 429 && status(&gates[2], EACH) == 429
        });
        stop.store(true, Ordering::Relaxed);
    });
    let sent = upstream.requests() * EACH;
    assert!(
        began.elapsed() < Duration::from_secs(50),
        "a stretch has passed: nothing is shown"
    );
    println!("FIGURE recipients that three replicas let through of 10000 a minute: {sent}");
    assert!((9_900..=10_000).contains(&sent), "{sent}");
    gates.clear();
}

/// Sends over one connection until told to stop or cut off.
fn send_until(stop: &AtomicBool, address: std::net::SocketAddr) {
    let mut connection = Connection::open(address, TRUSTED);
    let request = request(EACH);
    while !stop.load(Ordering::Relaxed) {
        connection.write(&request);
        match connection.reply().map(|reply| reply.status) {
            Some(200) => {}
            Some(429) => thread::sleep(Duration::from_millis(20)),
            Some(other) => panic!("{other}"),
            None => return,
        }
    }
}

/// What the MTA does not take is given back for all replicas.
#[test]
fn a_refund_is_shared_and_so_is_a_reset() {
    let redis = Redis::start();
    let failing = Recorder::behaving(|stream, _| {
        stream
            .write_all(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
            .is_ok()
    });
    let taking = Recorder::start();
    let first = gate(&redis, &failing, "100/day", "");
    let second = gate(&redis, &taking, "100/day", "");
    for _ in 0..5 {
        assert_eq!(status(&first, 80), 500);
        wait_for("the refund", || used(&second) == 0);
    }
    assert_eq!(status(&second, 80), 200);
    assert_eq!(used(&first), 80);
    assert_eq!(status(&first, 80), 429);
    let mut admin = Connection::open(first.admin, TRUSTED);
    admin.write("DELETE /quota/scott HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(admin.reply().unwrap().status, 200);
    assert_eq!(used(&second), 0);
    assert_eq!(status(&second, 80), 200);
}

fn used(gate: &Gatepost) -> u64 {
    let reply = gate.admin("/quota/scott");
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()[0]["used"].as_u64().unwrap()
}

/// Redis away: each replica goes on by itself, or nothing is sent, as the operator chose. Nobody waits long, and it is
/// shared again when Redis is back.
#[test]
fn without_redis_it_is_local_limits_or_nothing() {
    let mut redis = Redis::start();
    let upstream = Recorder::start();
    let local = gate(&redis, &upstream, "100/day", "");
    let strict = gate(&redis, &upstream, "100/day", ", when_redis_is_down: refuse");
    assert_eq!(status(&local, 40), 200);
    redis.kill();
    let begin = Instant::now();
    assert_eq!(status(&strict, 10), 503);
    assert_eq!(status(&local, 40), 200, "its own share is known");
    assert_eq!(status(&local, 40), 429);
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(local.metric("gatepost_quota_redis_up") < 0.5);
    let warning = "quotas cannot be counted together through Redis";
    assert_eq!(local.logged().matches(warning).count(), 1);
    redis.start_again();
    wait_for("Redis to be used again", || status(&strict, 10) == 200);
    wait_for("the metric", || {
        strict.metric("gatepost_quota_redis_up") > 0.5
    });
    // A Redis that stands still is one that is away.
    redis.signal("STOP");
    let begin = Instant::now();
    assert_eq!(status(&strict, 10), 503);
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    redis.signal("CONT");
    wait_for("Redis to be used again", || status(&strict, 10) == 200);
}

/// Redis that is full takes no more counts: it is as good as away, and says so.
#[test]
fn a_full_redis_is_one_that_is_away() {
    let redis = Redis::start();
    let upstream = Recorder::start();
    let local = gate(&redis, &upstream, "100/day", "");
    let strict = gate(&redis, &upstream, "100/day", ", when_redis_is_down: refuse");
    assert_eq!(status(&local, 40), 200);
    let most = |bytes: u64| {
        let mut stream = TcpStream::connect(redis.address()).unwrap();
        write!(stream, "CONFIG SET maxmemory {bytes}\r\n").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    };
    most(1);
    let begin = Instant::now();
    assert_eq!(status(&strict, 10), 503);
    assert_eq!(status(&local, 40), 200, "its own share is known");
    assert_eq!(status(&local, 40), 429);
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(strict.metric("gatepost_quota_redis_up") < 0.5);
    most(0);
    wait_for("Redis to be used again", || status(&strict, 10) == 200);
    wait_for("the metric", || {
        strict.metric("gatepost_quota_redis_up") > 0.5
    });
}
