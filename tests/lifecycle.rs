//! Stopping without losing a request.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Recorder, Setup, TRUSTED, inject, wait_for};

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
    assert_eq!(busy.reply().unwrap().text(), "ok");
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
