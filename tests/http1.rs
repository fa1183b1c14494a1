//! What HTTP/1 clients may do with a connection: end their half of it, speak HTTP/1.0, send ahead, come again; with and without TLS.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::harness::{Recorder, Setup, TRUSTED, get, inject, wait_for};
use crate::tls::over_tls;
use crate::tls_client::{Authority, Client, TlsConnection};

/// An upstream that answers only when it is told to.
fn waiting() -> (Recorder, Sender<()>) {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Recorder::behaving(move |stream, _| {
        wait.lock().unwrap().recv().unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
            .is_ok()
    });
    (upstream, go)
}

/// Not a hope: it only gives gatepost the time to notice that the client's half has ended; the answer is the same either way.
fn let_it_notice() {
    std::thread::sleep(Duration::from_millis(300));
}

fn tls(gate: &crate::harness::Gatepost, authority: &Authority) -> TlsConnection {
    Client::new(authority, None)
        .connect(gate.address, b"")
        .unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// The need: `nc -N` and clients like it say that they are done as soon as they are. They get their answer, however long it takes.
#[test]
fn a_half_closed_client_waits_for_a_slow_upstream() {
    for request in [inject(""), get("/open")] {
        let (upstream, go) = waiting();
        let gate = Setup::before(upstream.address).start();
        let mut connection = gate.connect(TRUSTED);
        connection.write(request);
        connection.finish();
        wait_for("the request", || upstream.requests() == 1);
        let_it_notice();
        go.send(()).unwrap();
        assert_eq!(connection.reply().unwrap().text(), "late");
        assert!(connection.closes());
    }
}

/// The same over TLS, where both TLS and TCP say so, and the answer ends in the words of TLS.
#[test]
fn a_half_closed_client_over_tls_is_answered() {
    let authority = Authority::new();
    let (upstream, go) = waiting();
    let gate = over_tls(upstream.address, &authority, &authority.server()).start();
    let mut connection = tls(&gate, &authority);
    connection.write_all(inject("").as_bytes()).unwrap();
    connection.finish();
    wait_for("the request", || upstream.requests() == 1);
    let_it_notice();
    go.send(()).unwrap();
    let answer = text(connection.until_ended().unwrap());
    assert!(answer.ends_with("\r\n\r\nlate"), "{answer}");
}

/// An answer of unknown length to HTTP/1.0 ends with the connection. Over TLS that is an end that nobody can forge (RFC 8446 §6.1).
#[test]
fn an_old_client_over_tls_sees_a_proper_end() {
    let authority = Authority::new();
    let upstream = Recorder::behaving(|stream, _| {
        let answer =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        stream.write_all(answer).is_ok()
    });
    let gate = over_tls(upstream.address, &authority, &authority.server()).start();
    let mut old = tls(&gate, &authority);
    old.write_all(b"GET /open HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .unwrap();
    let answer = text(old.until_ended().unwrap());
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("chunked"), "{answer}");
}

/// The attack: requests sent ahead, over TLS. One is answered, the others reach nobody.
#[test]
fn pipelined_requests_over_tls_give_one_answer() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server()).start();
    let mut connection = tls(&gate, &authority);
    let three = [inject(""), get("/open"), get("/messages")].concat();
    connection.write_all(three.as_bytes()).unwrap();
    let answer = text(connection.until_ended().unwrap());
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
    assert_eq!(upstream.requests(), 1);
}

/// The need: connections that are never idle come to an end, so that clients find new replicas. Requests that are refused count, too.
#[test]
fn a_connection_brings_so_many_requests() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("http: { max_requests_per_connection: 4 }")
        .start();
    let mut connection = gate.connect(TRUSTED);
    for (nth, request) in [get("/open"), get("/nowhere"), inject(""), get("/open")]
        .iter()
        .enumerate()
    {
        connection.write(request);
        let reply = connection.reply().unwrap();
        assert_eq!(reply.status, if nth == 1 { 404 } else { 200 });
        let close = reply.header("connection") == Some("close");
        assert_eq!(close, nth == 3, "{nth}: {reply:?}");
    }
    assert!(connection.closes());
}
