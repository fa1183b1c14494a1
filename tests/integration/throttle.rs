//! Two gateposts that tell each other of wrong credentials through a real Redis, also while that is away or stands still.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Gatepost, STRANGER, Setup, basic, inject, wait_for};
use crate::redis::Redis;

/// Wrong credentials that are judged before the address has to wait.
const LIMIT: usize = 3;

const UP: &str = "gatepost_throttle_redis_up";
const UNTOLD: &str = "gatepost_throttle_untold_total";

fn gate(redis: &Redis) -> Gatepost {
    Setup::demo()
        .with(&format!(
            "throttle: {{ per_address: {LIMIT}/hour, per_address_and_user: off, redis: \"{}\" }}",
            redis.url()
        ))
        .start()
}

fn status(gate: &Gatepost, from: Ipv4Addr, password: &str) -> u16 {
    let request = inject(&basic("scott", password));
    gate.send(from, request).unwrap().status
}

/// An address that no request has come from yet.
fn fresh() -> Ipv4Addr {
    static LAST: AtomicU32 = AtomicU32::new(1);
    let [.., high, low] = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 3, high, low)
}

/// Fails as often as it may, and once more.
fn exhaust(gate: &Gatepost, from: Ipv4Addr) {
    for _ in 0..LIMIT {
        assert_eq!(status(gate, from, "wrong"), 401);
    }
    assert_eq!(status(gate, from, "wrong"), 429);
}

/// Asks Redis for a number.
fn ask(redis: &Redis, command: &str) -> i64 {
    let mut stream = TcpStream::connect(redis.address()).unwrap();
    write!(stream, "{command}\r\n").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_start_matches(':').trim_end().parse().unwrap()
}

/// Waits until Redis knows that this address is at its limit. It is told behind the answers.
fn wait_told(redis: &Redis, address: Ipv4Addr) {
    // Milliseconds: three failures of twenty minutes each.
    wait_for("Redis to have been told", || {
        ask(redis, &format!("PTTL gatepost:throttle:{address}")) > 55 * 60 * 1000
    });
}

/// The attack: a guesser goes from replica to replica, to have its limit of guesses at each.
#[test]
fn replicas_know_of_each_others_guessers() {
    let redis = Redis::start();
    let [first, second, third] = [(); 3].map(|()| gate(&redis));
    exhaust(&first, STRANGER);
    wait_told(&redis, STRANGER);
    for other in [&second, &third] {
        assert_eq!(status(other, STRANGER, "wrong"), 401);
        // The right password costs no failure, so it is the one before that counted; and it does not help either.
        wait_for("the other replica to have been told", || {
            status(other, STRANGER, "tiger") == 429
        });
        assert_eq!(status(other, STRANGER, "wrong"), 429);
    }
    for gate in [&first, &second, &third] {
        assert_eq!(status(gate, fresh(), "tiger"), 200);
        assert_eq!(gate.metric(UP), 1.0);
    }
}

/// The need: Redis dies. Each replica goes on by itself with its own limits, says so once, and when Redis is back
/// failures are shared again, without anybody's doing.
#[test]
fn without_redis_each_replica_goes_on_by_itself() {
    let mut redis = Redis::start();
    let [first, second] = [(); 2].map(|()| gate(&redis));
    exhaust(&first, fresh());
    assert_eq!(first.metric(UP), 1.0);
    redis.kill();
    for _ in 0..3 {
        exhaust(&first, fresh());
        assert_eq!(status(&first, fresh(), "tiger"), 200);
    }
    wait_for("the fault to be noticed", || first.metric(UP) == 0.0);
    // Long enough for several tries to reach it.
    let tries = Instant::now();
    wait_for("more tries", || {
        assert_eq!(status(&first, fresh(), "wrong"), 401);
        tries.elapsed() > Duration::from_millis(2500)
    });
    assert!(first.metric(UNTOLD) > 1.0);
    assert_eq!(first.metric(UP), 0.0);
    assert_eq!(warnings(&first), 1);
    // Whoever had nothing to tell has not noticed.
    assert_eq!(warnings(&second), 0);
    redis.start_again();
    wait_for("Redis to be told again", || {
        status(&first, fresh(), "wrong");
        first.metric(UP) == 1.0
    });
    assert_eq!(warnings(&first), 1);
    let guesser = fresh();
    exhaust(&first, guesser);
    wait_told(&redis, guesser);
    assert_eq!(status(&second, guesser, "wrong"), 401);
    wait_for("the other replica to know", || {
        status(&second, guesser, "tiger") == 429
    });
}

fn warnings(gate: &Gatepost) -> usize {
    let log = gate.logged();
    log.matches("cannot be shared through Redis").count()
}

/// The attack: Redis still takes connections but answers none. Whoever waited for it would hold up everybody.
#[test]
fn nobody_waits_for_a_redis_that_stands_still() {
    let redis = Redis::start();
    let gate = gate(&redis);
    // So that there is a connection, which is the one that does not answer.
    status(&gate, fresh(), "wrong");
    wait_for("Redis to have been told", || ask(&redis, "DBSIZE") == 1);
    redis.signal("STOP");
    // It is given up after a second, and they would all wait for that. The fastest of them counts, since other tests may
    // keep the machine busy for a while.
    let timed = || {
        let from = fresh();
        let asked = Instant::now();
        assert_eq!(status(&gate, from, "wrong"), 401);
        asked.elapsed()
    };
    let fastest = std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(timed)).collect();
        all.into_iter().map(|it| it.join().unwrap()).min()
    });
    assert!(fastest < Some(Duration::from_millis(500)), "{fastest:?}");
    assert_eq!(status(&gate, fresh(), "tiger"), 200);
    wait_for("the fault to be noticed", || gate.metric(UP) == 0.0);
    exhaust(&gate, fresh());
    redis.signal("CONT");
    wait_for("Redis to be told again", || {
        status(&gate, fresh(), "wrong");
        gate.metric(UP) == 1.0
    });
    assert_eq!(warnings(&gate), 1);
}
