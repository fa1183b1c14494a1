//! Stopping without losing a request.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{BINARY, Gatepost, Recorder, Setup, TRUSTED, inject, wait_for, write};

/// SIGTERM while a request is in flight: it is answered, with `Connection: close`; nobody new is let
/// in, and the exit status is 0.
#[test]
fn a_request_in_flight_survives_sigterm() {
    let go = Arc::new(AtomicBool::new(false));
    let gone = go.clone();
    let upstream = Recorder::behaving(move |stream, _| {
        wait_for("permission to answer", || gone.load(Ordering::SeqCst));
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .is_ok()
    });
    let mut gate = Setup::before(upstream.address).start();
    let mut idle = gate.connect(TRUSTED);
    let mut busy = gate.connect(TRUSTED);
    busy.write(inject(""));
    wait_for("the request to be in flight", || upstream.requests() == 1);
    gate.signal("TERM");
    wait_for("not ready", || gate.admin("/readyz").status == 503);
    assert_eq!(gate.admin("/livez").status, 200);
    wait_for("the listener to close", || {
        std::net::TcpStream::connect(gate.address).is_err()
    });
    assert!(idle.closes(), "a silent connection is closed");
    go.store(true, Ordering::SeqCst);
    let reply = busy.reply().unwrap();
    assert_eq!(reply.text(), "ok");
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(busy.closes());
    assert_eq!(gate.wait_exit(), Some(0));
}

/// A request that never ends does not hold up the end for ever.
#[test]
fn the_drain_has_a_deadline() {
    let upstream = Recorder::behaving(|_, _| true);
    let mut gate = Setup::before(upstream.address)
        .with("drain_timeout: 300ms")
        .start();
    let mut busy = gate.connect(TRUSTED);
    busy.write(inject(""));
    wait_for("the request to be in flight", || upstream.requests() == 1);
    gate.signal("TERM");
    assert_eq!(gate.wait_exit(), Some(0));
    gate.wait_log(|line| line["message"] == "stopped with connections still open");
}

/// The one who deploys: stopped the moment it is ready, when the signal handlers of the start give way to those that stop with care. Connections
/// may be there by then; they must not be dropped.
#[test]
fn a_stop_right_after_the_start_is_one_with_care() {
    for _ in 0..20 {
        let mut gate = Setup::demo().with("drain_delay: 10m").start();
        gate.signal("TERM");
        gate.wait_log(|line| {
            line["message"]
                .as_str()
                .unwrap_or_default()
                .starts_with("not ready any more")
        });
        assert_eq!(gate.admin("/readyz").status, 503);
        gate.signal("TERM");
        gate.wait_log(|line| line["message"] == "stopped at once by a second signal");
        assert_eq!(gate.wait_exit(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let upstream = Recorder::behaving(|_, _| true);
    let mut gate = Setup::before(upstream.address).start();
    let mut busy = gate.connect(TRUSTED);
    busy.write(inject(""));
    wait_for("the request to be in flight", || upstream.requests() == 1);
    gate.signal("TERM");
    gate.wait_log(|line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("stopping"))
    });
    gate.signal("TERM");
    assert_eq!(gate.wait_exit(), Some(0));
}

/// Waits until a client that opens a new connection would be turned away, and requests in flight finish.
fn wait_stopping(gate: &Gatepost) {
    gate.wait_log(|line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("stopping"))
    });
}

/// SIGTERM while clients send on keep-alive connections, some at full speed and some with pauses, behind a load balancer that looks
/// at /readyz: they are told `Connection: close` before anything closes, may come again until the load balancer knows, and
/// not one request fails.
#[test]
fn clients_that_send_through_sigterm_lose_nothing() {
    let upstream = Recorder::start();
    let mut gate = Setup::before(upstream.address)
        .with("drain_delay: 2s")
        .start();
    let leave = AtomicBool::new(false);
    let client = |pause: u64| {
        let mut served = 0_u32;
        loop {
            let mut connection = gate.connect(TRUSTED);
            loop {
                connection.write(inject(""));
                let reply = connection.reply().expect("an answer for every request");
                assert_eq!(reply.status, 200);
                served += 1;
                if reply.header("connection") == Some("close") {
                    break;
                }
                thread::sleep(Duration::from_millis(pause));
            }
            assert!(connection.closes());
            if leave.load(Ordering::SeqCst) {
                return served;
            }
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = [0, 0, 1, 5, 20, 50, 100, 200]
            .map(|pause| scope.spawn(move || client(pause)))
            .into_iter()
            .collect();
        wait_for("some load", || upstream.requests() > 200);
        gate.signal("TERM");
        wait_for("not ready", || gate.admin("/readyz").status == 503);
        // Nobody knows yet, so connections that are new are served as well.
        assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
        leave.store(true, Ordering::SeqCst);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
    assert_eq!(gate.wait_exit(), Some(0));
    gate.wait_log(|line| line["message"] == "stopped");
}

/// A client that sends on a connection that idled while gatepost stops, before it could know: it is answered, and told.
#[test]
fn an_idle_connection_is_not_closed_under_a_request() {
    let upstream = Recorder::start();
    let mut gate = Setup::before(upstream.address).start();
    let mut connections = [gate.connect(TRUSTED), gate.connect(TRUSTED)];
    for connection in &mut connections {
        connection.write(inject(""));
        assert_eq!(connection.reply().unwrap().status, 200);
    }
    let [mut busy, mut idle] = connections;
    gate.signal("TERM");
    wait_stopping(&gate);
    busy.write(inject(""));
    let reply = busy.reply().unwrap();
    assert_eq!(
        (reply.status, reply.header("connection")),
        (200, Some("close"))
    );
    assert!(idle.closes());
    assert_eq!(gate.wait_exit(), Some(0));
}

/// HTTP/2 clients are told by GOAWAY (RFC 9113 §6.8). One that is asleep, and never says that it understood, does not hold up the end.
#[test]
fn a_silent_http2_connection_does_not_hold_up_the_end() {
    let upstream = Recorder::start();
    let mut gate = Setup::before(upstream.address)
        .with("drain_timeout: 10m")
        .start();
    let mut connection = gate.connect(TRUSTED);
    // The preface and empty SETTINGS.
    connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert_eq!(connection.exactly(9)[3], 4, "a SETTINGS frame");
    wait_for("the connection to be known", || {
        gate.metric("gatepost_http2_connections") == 1.0
    });
    let begin = Instant::now();
    gate.signal("TERM");
    assert_eq!(gate.wait_exit(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(15));
    let bytes = connection.until_closed();
    // A frame's head: length in 3 bytes, type, flags, stream in 4 bytes.
    let goaway = bytes
        .windows(9)
        .any(|head| head[..2] == [0, 0] && head[3..] == [7, 0, 0, 0, 0, 0]);
    assert!(goaway, "{bytes:?}");
}

/// Whoever does not want to wait for the delay does not have to.
#[test]
fn a_second_signal_ends_the_delay_too() {
    let mut gate = Setup::demo().with("drain_delay: 10m").start();
    gate.signal("TERM");
    wait_for("not ready", || gate.admin("/readyz").status == 503);
    gate.signal("INT");
    assert_eq!(gate.wait_exit(), Some(0));
}

/// A pod that is deleted while it starts: gatepost is process 1 there, to which the kernel delivers nothing that it does not ask for. And a
/// script that reloads too early must not end it.
#[test]
fn signals_are_heard_while_a_policy_loads() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "p.lua",
        "local begin = os.time() while os.time() < begin + 3 do end",
    );
    let yaml = "
listeners: [{ listen: 127.0.0.1:0 }]
upstream: { address: 127.0.0.1:9 }
policy: { file: p.lua }
routes: [{ path: /x, methods: [POST], allow: [anyone] }]
admin: off
";
    let config = write(folder.path(), "gatepost.yaml", yaml);
    let child = Command::new(BINARY)
        .args(["run", "--config"])
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &pid.to_string()]).status();
        assert!(sent.unwrap().success());
    };
    wait_for("its handlers", || {
        const TERM: u64 = 1 << (15 - 1);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|it| it.strip_prefix("SigCgt:"));
        u64::from_str_radix(caught.unwrap().trim(), 16).unwrap() & TERM != 0
    });
    signal("-HUP");
    signal("-QUIT");
    signal("-TERM");
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(!log.contains("\"listening\""), "{log}");
}
