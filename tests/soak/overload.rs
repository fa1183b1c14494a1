//! Ten times as many ask as one core can serve: those that are let in are served soon, the others are told at once to come back.

use std::thread;
use std::time::{Duration, Instant};

use crate::ON_ITS_CORE;
use crate::crowd::{Crowd, Got};
use crate::flood::good;
use crate::harness::{Gatepost, STRANGER, Setup, TRUSTED, basic, post, wait_for};
use crate::line::{Line, Times};
use crate::mix::ROUTES;
use crate::upstream::Upstream;

const TIME: Duration = Duration::from_secs(10);

/// What docs/reliability.md promises.
const SOON: f64 = 100.0;
const RECOVERY: Duration = Duration::from_secs(1);
const MEMORY: u64 = 64 << 20;

/// Requests that are worked on at once. A core is busy with fewer.
const AT_ONCE: u32 = 64;

/// With the CPU time that gatepost had taken before.
fn report(what: &str, got: &Got, gate: &Gatepost, before: Duration) {
    let answers = got.served.count() + got.turned_away.count();
    let cpu = (gate.cpu_time() - before).as_secs_f64() * 1e6 / answers.max(1) as f64;
    println!(
        "FIGURE {what}: asked {:.0}/s; {:.0}/s served, {}; {cpu:.0} µs of CPU for an answer",
        got.asked_per_second(),
        got.served_per_second(),
        got.served.said(),
    );
    if got.turned_away.count() > 0 {
        println!(
            "FIGURE {what}: {} told to come back, {}",
            got.turned_away.count(),
            got.turned_away.said()
        );
    }
}

/// What is promised of answers under load.
fn hold(got: &Got) {
    all_are_told(got);
    for (what, times) in [("served", &got.served), ("turned away", &got.turned_away)] {
        let p99 = times.permille(990);
        assert!(p99 < SOON, "{what}: p99 {p99:.1} ms");
    }
}

/// Who is not served is told when to come back.
fn all_are_told(got: &Got) {
    assert!(got.faults.is_empty(), "{:?}", got.faults);
    assert_eq!(got.others, 0, "neither served nor told to come back");
    assert!(got.turned_away.count() > 0, "this was no overload");
}

/// From now until a client is served as well as before, ten times in a row.
fn recovery(gate: &Gatepost, request: &[u8], before: &Times) -> Duration {
    let begin = Instant::now();
    let mut good = 0;
    let mut line = Line::open(gate.address, TRUSTED);
    let usual = Duration::from_secs_f64(before.permille(990) / 1e3);
    while good < 10 {
        assert!(begin.elapsed() < RECOVERY, "it has not recovered");
        let asked = Instant::now();
        match line.ask(request) {
            Ok(answer) if answer.status == 200 && asked.elapsed() <= usual => good += 1,
            Ok(answer) if !answer.closes => good = 0,
            _ => {
                good = 0;
                line = Line::open(gate.address, TRUSTED);
            }
        }
    }
    begin.elapsed()
}

/// Cached credentials: what it costs is the proxy's own work.
#[test]
fn ten_times_as_many_requests() {
    let upstream = Upstream::start();
    let gate = Setup::before(upstream.address)
        .within(&ON_ITS_CORE)
        .routes(ROUTES)
        .with("threads: 1\npolicy.workers: 1")
        .with(&format!("upstream.max_connections: {AT_ONCE}"))
        .with(&format!(
            "http: {{ max_connections: {}, max_requests_per_connection: off }}",
            10 * AT_ONCE + 1
        ))
        .looking(|line| !line.contains("\"target\":\"access\""))
        .start();
    let request = post(
        "/api/inject/v1",
        &basic("scott", "tiger"),
        &"x".repeat(2000),
    );
    let request = request.as_bytes();
    let mut crowd = Crowd {
        to: gate.address,
        from: &|_| STRANGER,
        clients: AT_ONCE,
        interval: None,
        request: &|_, _| request.to_vec(),
    };
    let cpu = gate.cpu_time();
    let before = crowd.ask_for(TIME / 2, || {});
    report("64 clients that ask without a pause", &before, &gate, cpu);
    let memory = gate.peak_memory();
    crowd.clients *= 10;
    let cpu = gate.cpu_time();
    let mut crowded = Times::default();
    let during = crowd.ask_for(TIME, || crowded = turned_away_at_the_door(&gate, TIME));
    let recovered = recovery(&gate, request, &before.served);
    report("ten times as many", &during, &gate, cpu);
    println!(
        "FIGURE connections beyond http.max_connections: {} told so, {}",
        crowded.count(),
        crowded.said()
    );
    let grown = gate.peak_memory() - memory;
    println!(
        "FIGURE memory: {} KiB more than before; as before after {} ms",
        grown / 1024,
        recovered.as_millis()
    );
    hold(&during);
    assert!(crowded.count() > 0 && crowded.permille(990) < SOON);
    assert!(grown < MEMORY, "{grown} bytes more");
}

/// One connection after the other, once there are as many as there may be. Gives how long those that were one too many waited for their
/// answer.
fn turned_away_at_the_door(gate: &Gatepost, time: Duration) -> Times {
    let begin = Instant::now();
    wait_for("all clients", || {
        gate.metric("gatepost_connections") >= f64::from(10 * AT_ONCE)
    });
    // The last that there is room for.
    let mut _last = Line::open(gate.address, STRANGER);
    let mut times = Times::default();
    while begin.elapsed() < time {
        let asked = Instant::now();
        let answer = Line::open(gate.address, STRANGER).answer();
        // Whoever sends something meanwhile can lose the answer; this one says nothing.
        let answer = answer.expect("one that is too many is told so");
        assert!(answer.status == 503 && answer.says_when_to_retry);
        times.note(asked.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    times
}

/// Credentials that nobody remembers, and a policy that keeps Argon2id hashes: a core does a hundred a second.
#[test]
fn ten_times_as_many_hashes() {
    let upstream = Upstream::start();
    let gate = Setup::before(upstream.address)
        .within(&ON_ITS_CORE)
        .routes(ROUTES)
        .policy(crate::flood::POLICY)
        .with("threads: 1\npolicy.workers: 1")
        .with("decision_cache: { ttl: 0s }")
        .looking(|line| !line.contains("\"target\":\"access\""))
        .start();
    let mut crowd = Crowd {
        to: gate.address,
        from: &|_| STRANGER,
        clients: 4,
        interval: None,
        request: &|number, _| good(number),
    };
    let cpu = gate.cpu_time();
    let before = crowd.ask_for(TIME / 2, || {});
    report(
        "4 clients that ask for a hash without a pause",
        &before,
        &gate,
        cpu,
    );
    let memory = gate.peak_memory();
    // Each asks as often as its turn comes; a thousand are enough that none has to wait for its answer first.
    crowd.clients = 1000;
    crowd.interval = Some(Duration::from_secs_f64(
        f64::from(crowd.clients) / (10.0 * before.served_per_second()),
    ));
    let cpu = gate.cpu_time();
    let during = crowd.ask_for(TIME, || {});
    let recovered = recovery(&gate, &good(0), &before.served);
    report("ten times as many", &during, &gate, cpu);
    let grown = gate.peak_memory() - memory;
    println!(
        "FIGURE memory: {} KiB more than before; as before after {} ms",
        grown / 1024,
        recovered.as_millis()
    );
    // How soon is up to `policy.callback_timeout`.
    all_are_told(&during);
    assert!(grown < MEMORY, "{grown} bytes more");
}
