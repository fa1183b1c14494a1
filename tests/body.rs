//! Bodies: streamed, bounded in memory, and never taken for whole when they are not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Gatepost, Recorder, Reply, STRANGER, Setup, TRUSTED, basic, inject, wait_for,
};

fn chunked(chunks: &str) -> String {
    format!("POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
}

#[test]
fn chunked_and_counted_bodies_arrive_whole() {
    let upstream = Recorder::behaving(|stream, seen| {
        use std::io::Write as _;
        let body = &seen.body;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body].concat()).is_ok()
    });
    let gate = Setup::before(upstream.address).start();
    let echo = |request: &str| gate.send(TRUSTED, request).unwrap().text();
    assert_eq!(
        echo(&chunked("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")),
        "hello world"
    );
    assert_eq!(echo(&chunked("0\r\n\r\n")), "");
    let long = "0123456789abcdef".repeat(40_000);
    assert_eq!(
        echo(&crate::harness::post("/api/inject/v1", "", &long)),
        long
    );
    let pieces: String = long
        .as_bytes()
        .chunks(9000)
        .map(|piece| {
            format!(
                "{:x}\r\n{}\r\n",
                piece.len(),
                std::str::from_utf8(piece).unwrap()
            )
        })
        .collect();
    assert_eq!(echo(&chunked(&format!("{pieces}0\r\n\r\n"))), long);
}

/// A body that breaks off, or whose chunks cannot be read: the upstream never sees the end of such a
/// request, so it cannot act on it, and the next request is served.
#[test]
fn a_broken_body_is_never_a_whole_request() {
    let gate = Setup::demo().start();
    let whole = crate::harness::message("me@example.com");
    let with_length = |length: usize| {
        format!(
            "POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{whole}"
        )
    };
    let chunk = format!("{:x}\r\n{whole}\r\n", whole.len());
    for request in [
        with_length(whole.len() + 1),
        with_length(100_000),
        chunked(&chunk),
        chunked(&format!("{chunk}5\r\nab")),
        chunked(&format!("{chunk}nonsense\r\n\r\n")),
        chunked(&format!("{chunk}-1\r\n\r\n")),
        chunked(&format!("{chunk}ffffffffffffffffff\r\n\r\n")),
        chunked(&format!("{:x}\r\n{whole}XX0\r\n\r\n", whole.len())),
        chunked(&format!("\r\n{chunk}0\r\n\r\n")),
    ] {
        let mut connection = gate.connect(TRUSTED);
        connection.write(&request);
        connection.finish();
        let status = connection.reply().map_or(0, |reply| reply.status);
        assert!([0, 400].contains(&status), "{status} for {request:?}");
    }
    assert_eq!(gate.messages().len(), 0);
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    assert_eq!(gate.messages().len(), 1);
}

/// A body that stalls is given up.
#[test]
fn a_body_that_stalls_is_cut_off() {
    let gate = Setup::before(Recorder::start().address)
        .with("http: { body_timeout: 300ms }")
        .start();
    let mut connection = gate.connect(TRUSTED);
    connection.write("POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(connection.reply().unwrap().status, 408);
    assert!(connection.closes());
}

const SLOW: &str = "http: { body_timeout: 1s, min_body_rate: 1KiB }";

/// Sends a body piece by piece, one each 50 ms, until all is sent or an answer comes; gives that and how long it took.
fn drip(gate: &Gatepost, head: &str, piece: &str, pieces: usize) -> (Option<Reply>, Duration) {
    let begin = Instant::now();
    let mut connection = gate.connect(TRUSTED);
    connection.write(head);
    let over = AtomicBool::new(false);
    let reply = std::thread::scope(|scope| {
        let mut writer = connection.try_clone();
        let over = &over;
        scope.spawn(move || {
            for _ in 0..pieces {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                writer.write(piece);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let reply = connection.reply();
        over.store(true, Ordering::SeqCst);
        reply
    });
    (reply, begin.elapsed())
}

/// The attack: a client that sends its body byte by byte, never so slowly that one would stop waiting for the next. It is cut off
/// whether it says how much there will be or not, and the MTA never sees the end of it.
#[test]
fn a_body_that_drips_is_cut_off() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).with(SLOW).start();
    let counted = "POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    let chunked = "POST /drain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (head, piece) in [(counted, "x"), (chunked, "1\r\nx\r\n")] {
        let (reply, took) = drip(&gate, head, piece, 1000);
        let reply = reply.unwrap();
        assert_eq!(
            (reply.status, reply.header("connection")),
            (408, Some("close"))
        );
        assert_eq!(reply.json()["error"], "body_timed_out");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
    let line = gate.wait_log(|line| line["refusal"] == "body_timed_out");
    assert!(
        line["detail"].as_str().unwrap().contains("min_body_rate"),
        "{line}"
    );
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    assert_eq!(upstream.connections(), 3, "none is used again");
}

/// The need: a slow client that keeps to the rate has all the time that it takes, longer than the wait for any single thing: the
/// upstream's time to answer begins when it has everything. And `off` is off.
#[test]
fn a_slow_upload_takes_its_time() {
    let upstream = Recorder::behaving(|stream, seen| {
        use std::io::Write as _;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n{:06}",
            seen.body.len()
        );
        stream.write_all(answer.as_bytes()).is_ok()
    });
    for (limits, piece) in [
        ("http: { body_timeout: 2s, min_body_rate: 1KiB }", 1000),
        ("http: { body_timeout: 2s, min_body_rate: off }", 1),
    ] {
        let gate = Setup::before(upstream.address)
            .with(limits)
            .with("upstream.response_timeout: 2s")
            .start();
        let length = piece * 80;
        let head = format!("POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let (reply, took) = drip(&gate, &head, &"x".repeat(piece), 80);
        assert_eq!(reply.unwrap().text(), format!("{length:06}"));
        assert!(took > Duration::from_secs(3), "{took:?}");
    }
}

/// A client that trickles its head is cut off by the total deadline, however lively it is.
#[test]
fn a_head_that_trickles_is_cut_off() {
    let gate = Setup::before(Recorder::start().address)
        .with("http: { head_timeout: 500ms }")
        .start();
    let mut connection = gate.connect(TRUSTED);
    let begin = Instant::now();
    connection.write("POST /api/inject/v1 HTTP/1.1\r\n");
    let mut writer = connection.try_clone();
    let trickle = std::thread::spawn(move || {
        for _ in 0..40 {
            writer.write("X");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(connection.reply().unwrap().status, 408);
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    trickle.join().unwrap();
}

/// The need: a refusal is read by the client, not lost in a connection reset, also while the client is
/// still sending.
#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let gate = Setup::before(Recorder::start().address).start();
    for _ in 0..5 {
        let mut connection = gate.connect(STRANGER);
        let length = 8 * 1024 * 1024;
        connection.write(format!(
            "POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{}\r\n",
            basic("scott", "lion")
        ));
        // All of it is sent before anything is read, as simple clients do.
        connection.write(vec![b'x'; length]);
        let reply = connection.reply().unwrap();
        assert_eq!(reply.status, 401);
        // Where all of it had arrived in time, the connection may go on.
        if reply.header("connection") == Some("close") {
            assert!(connection.closes());
        }
    }
}

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The attack: connections of HTTP/2 that do nothing, with or without its settings (RFC 9113 §6.5).
#[test]
fn idle_http2_connections_are_closed() {
    let gate = Setup::before(Recorder::start().address)
        .with("http: { keepalive_timeout: 300ms }")
        .start();
    for settings in [&b""[..], b"\0\0\0\x04\0\0\0\0\0"] {
        let mut connection = gate.connect(STRANGER);
        connection.write(HTTP2_PREFACE);
        connection.write(settings);
        connection.until_closed();
    }
    wait_for("all to be closed", || {
        gate.metric("gatepost_connections") == 0.0
    });
}

/// The attack: a client of HTTP/2 that opens no window, so that its answer can never be written.
#[test]
fn a_client_that_takes_no_answer_does_not_stay() {
    let gate = Setup::before(Recorder::start().address).start();
    let mut connection = gate.connect(STRANGER);
    connection.write(HTTP2_PREFACE);
    // SETTINGS with SETTINGS_INITIAL_WINDOW_SIZE = 0.
    connection.write(b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0");
    // HEADERS that end stream 1: GET, http, path and authority, all from the static table of RFC 7541.
    connection.write(b"\0\0\x18\x01\x05\0\0\0\x01\x82\x86\x04\x11/api/inject/v1/xx\x01\x01a");
    let in_flight = || gate.metric("gatepost_requests_in_flight");
    wait_for("the request", || in_flight() == 1.0);
    wait_for("its end", || in_flight() == 0.0);
}

/// The need: a sidecar has the memory of a sidecar. The figure in the README comes from here, see
/// `make figures`.
#[test]
fn a_100_mb_body_passes_in_little_memory() {
    const LENGTH: usize = 100_000_000;
    let upstream = Drain::start();
    let gate = Setup::before(upstream.address).start();
    let idle = gate.peak_memory();
    let mut connection = gate.connect(TRUSTED);
    connection.write(format!(
        "POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"
    ));
    let piece = vec![b'x'; 1_000_000];
    for _ in 0..LENGTH / piece.len() {
        connection.write(&piece);
    }
    let reply = connection.reply().unwrap();
    assert_eq!(reply.text(), LENGTH.to_string());
    let peak = gate.peak_memory();
    let mib = |bytes: u64| bytes as f64 / f64::from(1024 * 1024);
    println!(
        "FIGURE 100 MB body: peak memory {:.1} MiB ({:.1} MiB before)",
        mib(peak),
        mib(idle)
    );
    assert!(peak < 40 * 1024 * 1024, "peak {:.1} MiB", mib(peak));
}

/// An upstream that counts a body and keeps none of it.
struct Drain {
    address: std::net::SocketAddr,
}

impl Drain {
    fn start() -> Self {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 64 * 1024];
            let mut head = Vec::new();
            let end = loop {
                let read = stream.read(&mut buffer).unwrap();
                head.extend_from_slice(&buffer[..read]);
                if let Some(end) = crate::harness::find(&head, b"\r\n\r\n") {
                    break end + 4;
                }
            };
            let mut body = head.len() - end;
            while body < 100_000_000 {
                body += stream.read(&mut buffer).unwrap();
            }
            let text = body.to_string();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            )
            .unwrap();
            wait_for("the client to close", || {
                matches!(stream.read(&mut buffer), Ok(0) | Err(_))
            });
        });
        Self { address }
    }
}

/// A route's own limit holds for bodies that say how long they are, and for those that do not.
#[test]
fn a_route_has_a_limit_of_its_own() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .routes("\n  - { path: /api/inject/v1, methods: [POST], allow: [trusted_hosts], request_body_limit: 1KiB }\n")
        .start();
    let status = |request: &str| gate.send(TRUSTED, request).map(|reply| reply.status);
    let counted = |bytes: usize| crate::harness::post("/api/inject/v1", "", &"x".repeat(bytes));
    assert_eq!(status(&counted(1024)), Some(200));
    assert_eq!(status(&counted(1025)), Some(413));
    let framed =
        |bytes: usize| chunked(&format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes)));
    assert_eq!(status(&framed(1024)), Some(200));
    assert_eq!(status(&framed(1025)), Some(413));
    // The upstream has seen the head of the last, and never its end.
    assert_eq!(upstream.text().matches("x\r\n0\r\n\r\n").count(), 1);
}

/// HTTP/1.0 knows neither chunks nor interim answers.
#[test]
fn an_old_client_is_answered_in_its_own_terms() {
    let upstream = Recorder::behaving(|stream, _| {
        use std::io::Write as _;
        let answer = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        stream.write_all(answer).is_ok()
    });
    let gate = Setup::before(upstream.address).start();
    let mut old = gate.connect(TRUSTED);
    old.write(
        "GET /open HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nConnection: keep-alive\r\n\r\n",
    );
    let answer = String::from_utf8(old.until_closed()).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") || answer.starts_with("HTTP/1.0 200 OK\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(
        !answer.to_ascii_lowercase().contains("transfer-encoding"),
        "{answer}"
    );
    assert!(!upstream.text().to_ascii_lowercase().contains("expect"));
}

/// Connections beyond the limits are answered and closed, and others are served.
#[test]
fn connections_are_bounded_in_all_and_by_address() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("http: { max_connections: 5, max_connections_per_address: 3 }")
        .start();
    let mut held: Vec<_> = (0..3).map(|_| gate.connect(STRANGER)).collect();
    for connection in &mut held {
        connection.write("GET /open HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(connection.reply().unwrap().status, 200);
    }
    let mut more = gate.connect(STRANGER);
    assert_eq!(more.reply().unwrap().json()["error"], "crowded");
    assert!(more.closes());
    let status = |from| {
        gate.send(from, crate::harness::get("/open"))
            .unwrap()
            .status
    };
    assert_eq!(status(TRUSTED), 200, "others are served");
    drop(held.pop());
    wait_for("the place to be free", || status(STRANGER) == 200);
    let crowded = "gatepost_refusals_total{reason=\"crowded\"}";
    wait_for("the count", || gate.metric(crowded) >= 1.0);
}
