//! Mixed traffic for minutes, with everything that happens to a gatepost meanwhile. Nothing may be lost, and nothing may grow.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::ON_ITS_CORE;
use crate::harness::{Gatepost, STRANGER, Setup, TRUSTED, basic, inject, wait_for};
use crate::ledger::{Ledger, Sums, by_label};
use crate::mix::{Mix, ROUTES};
use crate::operator::{Done, operate};
use crate::tls_client::{Authority, Client};
use crate::upstream::{Seen, Upstream};

/// Of what it can do.
const SHARE: f64 = 0.7;

/// What is said of a policy that does not load.
const RELOAD_FAILED: &str = "the reload failed; the old configuration and policy go on";

fn seconds() -> usize {
    let set = std::env::var("SOAK_SECONDS").ok();
    set.map_or(600, |it| it.parse().expect("SOAK_SECONDS is a number"))
}

fn start(upstream: &Upstream, authority: &Authority, ledger: &Ledger) -> Gatepost {
    let (server, ledger) = (authority.server(), ledger.clone());
    Setup::before(upstream.address)
        .within(&ON_ITS_CORE)
        .routes(ROUTES)
        .with("threads: 1\npolicy.workers: 1")
        .with("http: { max_connections: 1000, head_timeout: 2s, body_timeout: 3s, max_requests_per_connection: 5000 }")
        .with("reload: { watch: 200ms }")
        .with("message_rules: [{ for: [anyone], max_recipients: 10 }]")
        // Full within the first minute, so that it does not grow after that.
        // With pauses as they are by default, who guesses would be no load.
        .with("throttle: { entries: 10000, longest_pause: 1ms }")
        .with("upstream.idle_timeout: 2s\nupstream.response_timeout: 10s")
        .with("listeners.- listen: 127.0.0.1:0")
        .with("listeners.  tls_certificate: server.pem")
        .with("listeners.  tls_private_key: server.key")
        .file("server.pem", &server.certificate)
        .file("server.key", &server.key)
        .looking(move |line| ledger.note(line))
        .start()
}

/// Descriptors that are open while nothing happens.
fn open_at_rest(gate: &Gatepost) -> f64 {
    for (from, headers) in [
        (TRUSTED, String::new()),
        (STRANGER, basic("scott", "tiger")),
    ] {
        assert_eq!(gate.send(from, inject(&headers)).unwrap().status, 200);
    }
    gate.signal("HUP");
    gate.wait_log(|line| line["message"] == "configuration and policy are reloaded");
    at_rest(gate);
    // The connection that asks is one of them.
    gate.metric("process_open_fds")
}

/// Waits until nobody is connected, to either side.
fn at_rest(gate: &Gatepost) {
    for gauge in ["gatepost_requests_in_flight", "gatepost_connections"] {
        let (begin, mut said) = (Instant::now(), false);
        wait_for(gauge, || {
            let left = gate.metric(gauge);
            if begin.elapsed() > Duration::from_secs(10) && !said {
                said = true;
                println!("FIGURE {gauge} is still {left}: {}", sockets(gate));
            }
            left == 0.0
        });
    }
    let mut before = f64::MAX;
    // Connections to the upstream end when they have been idle for long enough.
    wait_for("descriptors to be as many as before", || {
        thread::sleep(Duration::from_millis(2500));
        let now = gate.metric("process_open_fds");
        std::mem::replace(&mut before, now) <= now
    });
}

/// What it is connected with, as `ss` shows it, where that is installed.
fn sockets(gate: &Gatepost) -> String {
    let all = Command::new("ss").args(["-tanpo"]).output();
    let all = all.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
    let own = format!("pid={},", gate.pid());
    let all = all.unwrap_or_default();
    let own: Vec<_> = all.lines().filter(|it| it.contains(&own)).collect();
    own.join("\n")
}

fn median(samples: &[u64]) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_unstable();
    samples.get(samples.len() / 2).map_or(0.0, |it| *it as f64) / 1_048_576.0
}

#[test]
fn soak() {
    let (authority, upstream, ledger) = (Authority::new(), Upstream::start(), Ledger::default());
    let mut gate = start(&upstream, &authority, &ledger);
    let descriptors = open_at_rest(&gate);
    let tls = gate.listening().into_iter().find(|it| *it != gate.address);
    let client = Client::new(&authority, None);
    let mix = Mix::new(&gate, tls.unwrap(), client);
    let (memory, done, share) = run(&mix, &upstream, &authority);
    at_rest(&gate);
    let left = gate.metric("process_open_fds");
    let metrics = gate.admin("/metrics").text();
    let requests = by_label(&metrics, "gatepost_requests_total{", "status");
    let requests: u64 = requests.values().sum();
    wait_for("the log", || ledger.sums().requests.count >= requests);
    let (sums, seen) = (ledger.sums(), upstream.seen());
    let mut faults = sums.faults(&metrics, &seen);
    faults.extend(clients(&mix, &sums));
    faults.extend(growth(&memory));
    if share < SHARE * 0.9 {
        let words = format!(
            "the load was {:.0} %: others need this machine, too",
            share * 100.0
        );
        faults.push(words);
    }
    report(&sums, &seen, &done);
    println!("FIGURE descriptors at rest: {descriptors} before, {left} after");
    if left > descriptors {
        faults.push(format!("{left} descriptors are open, {descriptors} were"));
    }
    let lost = gate.metric("gatepost_log_lines_lost_total");
    if lost > 0.0 {
        faults.push(format!("{lost} log lines were lost"));
    }
    for (error, count) in &sums.errors {
        // Noticed by the look at the files, once each.
        if error != RELOAD_FAILED || *count > done.broken {
            faults.push(format!("{count} times an error: {error}"));
        }
    }
    gate.signal("TERM");
    if gate.wait_exit() != Some(0) {
        faults.push("it did not end as it should".to_owned());
    }
    faults.extend(ledger.sums().foreign);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The run itself. Gives the memory in each second, what was done to gatepost, and the load as a share of what it could do.
fn run(mix: &Mix<'_>, upstream: &Upstream, authority: &Authority) -> (Vec<u64>, Done, f64) {
    /// Over when this goes, whatever the reason, so that nobody waits for clients for ever.
    struct Over<'a>(&'a Mix<'a>);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.end();
        }
    }
    thread::scope(|scope| {
        let over = Over(mix);
        let clients = mix.start(scope);
        thread::sleep(Duration::from_secs(2));
        let (before, cpu, begin) = (mix.answered(), mix.gate.cpu_time(), Instant::now());
        thread::sleep(Duration::from_secs(5));
        let took = begin.elapsed().as_secs_f64();
        let capacity = (mix.answered() - before) as f64 / took;
        let busy = (mix.gate.cpu_time() - cpu).as_secs_f64() / took * 100.0;
        println!(
            "FIGURE capacity: {capacity:.0} requests/s of the mix, with {busy:.0} % of its core"
        );
        mix.pace(SHARE * capacity);
        let operator = scope.spawn(|| operate(mix, upstream, authority));
        let (mut memory, begin) = (Vec::new(), Instant::now());
        let before = mix.answered();
        for second in 1..=seconds() {
            let due = begin + Duration::from_secs(second as u64);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            memory.push(mix.gate.resident_memory());
        }
        let rate = (mix.answered() - before) as f64 / begin.elapsed().as_secs_f64();
        println!(
            "FIGURE load: {rate:.0} requests/s for {} s, {:.0} % of that",
            seconds(),
            rate / capacity * 100.0
        );
        drop(over);
        for client in clients {
            client.join().unwrap();
        }
        (memory, operator.join().unwrap(), rate / capacity)
    })
}

/// What clients got, and what they should not have got.
fn clients(mix: &Mix<'_>, sums: &Sums) -> Vec<String> {
    let mut faults = Vec::new();
    let mut read = BTreeMap::<u16, u64>::new();
    for (kind, tally) in mix.tallies() {
        let times = if tally.times.count() > 0 {
            tally.times.said()
        } else {
            String::new()
        };
        println!(
            "FIGURE {kind:?}: {} sent, answers {:?} {times}",
            tally.sent, tally.statuses
        );
        faults.extend(tally.faults.iter().map(|it| format!("{kind:?}: {it}")));
        for (status, count) in tally.statuses {
            *read.entry(status).or_default() += count;
        }
    }
    // Who breaks off or attacks reads no answer, so there may be more of them.
    for (status, count) in read {
        let said = sums.by_status.get(&status).copied().unwrap_or(0);
        if said < count {
            faults.push(format!(
                "clients read {count} answers of {status}, the log says {said}"
            ));
        }
    }
    faults
}

/// Memory at the end may be a twentieth more than in the first minute, once that has settled.
fn growth(memory: &[u64]) -> Vec<String> {
    let minute = memory.len().div_ceil(3).min(60);
    let (first, last) = (
        median(&memory[minute / 3..minute]),
        median(&memory[memory.len() - minute * 2 / 3..]),
    );
    let peak = memory.iter().max().map_or(0.0, |it| median(&[*it]));
    println!(
        "FIGURE memory: {first:.1} MiB in the first {minute} s, {last:.1} MiB in the last, {peak:.1} MiB at most"
    );
    if last > first * 1.05 {
        return vec![format!("memory grew from {first:.1} to {last:.1} MiB")];
    }
    Vec::new()
}

fn report(sums: &Sums, seen: &Seen, done: &Done) {
    println!("FIGURE meanwhile: {done:?}");
    println!(
        "FIGURE {} requests: {} came to the upstream ({} of them whole), {} did not",
        sums.requests.count,
        seen.heads.count,
        seen.wholes.count,
        sums.kept_back(seen)
    );
    println!("FIGURE by status {:?}", sums.by_status);
    println!("FIGURE by refusal {:?}", sums.by_refusal);
    println!(
        "FIGURE errors {:?}, warnings {:?}",
        sums.errors, sums.warnings
    );
}
