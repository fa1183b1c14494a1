//! Upstreams that misbehave. Whatever they do, each client gets an answer that is its own and whole, or sees that it is not.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::harness::{Gatepost, Setup, TRUSTED, find, get, inject, wait_for};
use crate::http2_client::{END_HEADERS, END_STREAM, GET_OPEN, HEADERS, Http2, RST_STREAM, frame};

/// An upstream that does with each connection what it is told, down to the byte.
pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Raw {
    /// What it does is told how many connections there were before. Each connection is closed when that returns.
    pub(crate) fn start(behave: impl Fn(&mut TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections: Arc<AtomicUsize> = Arc::default();
        let (count, behave) = (connections.clone(), Arc::new(behave));
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let earlier = count.fetch_add(1, Ordering::SeqCst);
                let behave = behave.clone();
                thread::spawn(move || {
                    behave(&mut stream, earlier);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// How many there were.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads a request with a body of some length. A connection that is closed with something unread is reset, and what was
/// written to it may be lost.
fn read_request(stream: &mut TcpStream) -> bool {
    let Some(got) = read_head(stream) else {
        return false;
    };
    let end = find(&got, b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(got[..end].to_vec())
        .unwrap()
        .to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1);
    let length = length.map_or(0, |it| it.lines().next().unwrap().parse().unwrap());
    let mut rest = vec![0; end + length - got.len()];
    stream.read_exact(&mut rest).is_ok()
}

/// Reads up to the end of a request's head, at least; nothing where the other side closes first.
pub(crate) fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    while find(&got, b"\r\n\r\n").is_none() {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => got.extend_from_slice(&buffer[..read]),
        }
    }
    Some(got)
}

/// Reads until the other side closes.
fn read_to_end(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}

const FINE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

/// What the upstream does once it has said what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Closes,
    Hangs,
}
use Then::{Closes, Hangs};

/// What an answer looks like to its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    /// A whole answer: its status and body.
    Whole(u16, String),
    /// One that begins with this status and has no end.
    Broken(u16),
}

/// Takes an answer of HTTP/1 apart, whose connection has closed.
fn look(bytes: &[u8], bodiless: bool) -> Got {
    let end = find(bytes, b"\r\n\r\n").expect("a whole head") + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let body = String::from_utf8(bytes[end..].to_vec()).unwrap();
    let status: u16 = head[9..12].parse().unwrap();
    let head = head.to_ascii_lowercase();
    if bodiless || matches!(status, 204 | 304) {
        return Got::Whole(status, body);
    }
    let length = head.split("\r\ncontent-length: ").nth(1);
    if let Some(length) = length.map(|it| it.lines().next().unwrap().parse::<usize>().unwrap()) {
        assert!(body.len() <= length, "{body}");
        return if body.len() == length {
            Got::Whole(status, body)
        } else {
            Got::Broken(status)
        };
    }
    assert!(
        head.contains("\r\ntransfer-encoding: chunked\r\n"),
        "{head}"
    );
    match body.strip_suffix("0\r\n\r\n") {
        Some(_) => {
            let pieces = body.split("\r\n").skip(1).step_by(2);
            Got::Whole(status, pieces.collect())
        }
        None => Got::Broken(status),
    }
}

pub(crate) fn ask(gate: &Gatepost, request: &str) -> Got {
    let mut connection = gate.connect(TRUSTED);
    connection.write(request.replacen("\r\n", "\r\nConnection: close\r\n", 1));
    look(&connection.until_closed(), request.starts_with("HEAD"))
}

/// Starts an upstream whose first connection answers so, and whose others are fine.
fn misbehaving(answer: impl Into<Vec<u8>>, then: Then) -> (Raw, Gatepost) {
    let answer = answer.into();
    let upstream = Raw::start(move |stream, earlier| {
        while read_request(stream) {
            let answer = if earlier == 0 { &answer } else { FINE };
            if stream.write_all(answer).is_err() {
                return;
            }
            if earlier == 0 {
                return match then {
                    Closes => {}
                    Hangs => read_to_end(stream),
                };
            }
        }
    });
    let gate = Setup::before(upstream.address)
        .routes(
            "
  - { path: /api/inject/v1, methods: [POST], allow: [trusted_hosts] }
  - { path: /open, methods: [GET, HEAD], allow: [anyone] }
",
        )
        .with("upstream.response_timeout: 1s")
        .start();
    (upstream, gate)
}

fn refusals(gate: &Gatepost, reason: &str) -> f64 {
    gate.metric(&format!("gatepost_refusals_total{{reason=\"{reason}\"}}"))
}

/// Sends the request to an upstream that answers so. The client gets this, or else a refusal with that reason, which is
/// counted; the upstream's connection is given up, and the next request is answered.
fn check(
    name: &str,
    request: &str,
    answer: impl Into<Vec<u8>>,
    then: Then,
    wanted: Option<Got>,
    reason: &str,
) {
    let (upstream, gate) = misbehaving(answer, then);
    match (ask(&gate, request), wanted) {
        (got, Some(wanted)) => assert_eq!(got, wanted, "{name}"),
        (Got::Whole(status, body), None) => {
            let timed_out = reason == "upstream_timed_out";
            assert_eq!(status, if timed_out { 504 } else { 502 }, "{name}");
            assert!(
                body.contains(&format!("\"error\":\"{reason}\"")),
                "{name}: {body}"
            );
        }
        (broken, None) => panic!("{name}: {broken:?}"),
    }
    if !reason.is_empty() {
        wait_for(&format!("{name} to be counted as {reason}"), || {
            refusals(&gate, reason) == 1.0
        });
    }
    let fine = Got::Whole(200, "fine".to_owned());
    assert_eq!(ask(&gate, &get("/open")), fine, "after {name}");
    assert_eq!(upstream.connections(), 2, "{name}");
}

/// With these lines in its head, and a body that is whole by its chunks.
fn with(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n2\r\nok\r\n0\r\n\r\n")
}

/// With this status line.
fn line(line: &str) -> String {
    format!("{line}\r\nContent-Length: 2\r\n\r\nok")
}

fn is_a_bad_answer(name: &str, answer: &str) {
    for then in [Closes, Hangs] {
        check(name, &inject(""), answer, then, None, "upstream_bad_answer");
    }
}

/// The need: what is no HTTP is 502, and nothing of it reaches the client.
#[test]
fn what_is_no_answer_is_a_bad_gateway() {
    for (name, answer) in [
        ("garbage", "garbage\r\n\r\n".to_owned()),
        ("SSH", "SSH-2.0-OpenSSH_9\r\n".to_owned()),
        ("SMTP", "220 mta.example ESMTP\r\n".to_owned()),
        ("TLS", "\u{15}\u{3}\u{3}\0\u{2}\u{2}F".to_owned()),
        ("status 999999", line("HTTP/1.1 999999 x")),
        ("status 20", line("HTTP/1.1 20 x")),
        ("status 000", line("HTTP/1.1 000 x")),
        ("status 600", line("HTTP/1.1 600 x")),
        ("no status", line("HTTP/1.1 OK")),
        ("HTTP/3", line("HTTP/3 200 OK")),
        ("HTTP/2.0", line("HTTP/2.0 200 OK")),
        ("ICY", line("ICY 200 OK")),
        ("NUL in the status line", line("HTTP/1.1 200 O\0K")),
        ("NUL in a field", with("X: a\0b\r\n")),
        ("CR in a field", with("X: a\rb\r\n")),
        ("a line that is no field", with("nonsense\r\n")),
        (
            "a megabyte",
            with(&format!("X: {}\r\n", "y".repeat(1000)).repeat(1100)),
        ),
        ("1000 fields", with(&"X: y\r\n".repeat(1000))),
        (
            "a switch of protocols",
            line("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x"),
        ),
    ] {
        is_a_bad_answer(name, &answer);
    }
}

/// The attack: an answer that ends here for gatepost and there for the client, so that the rest is the answer to another request.
#[test]
fn an_answer_with_two_ends_is_a_bad_gateway() {
    for lines in [
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Content-Length: 2, 2\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: 0x2\r\n",
        "Content-Length: 2 2\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\nContent-Length: 2\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        is_a_bad_answer(lines, &with(lines));
    }
    let chunked = with("Transfer-Encoding: chunked\r\n");
    is_a_bad_answer(
        "chunks in HTTP/1.0",
        &chunked.replace("HTTP/1.1", "HTTP/1.0"),
    );
    // The library drops the length; then there is one end, and the client is told of no other.
    let both = with("Content-Length: 7\r\nTransfer-Encoding: chunked\r\n");
    let (_upstream, gate) = misbehaving(both, Closes);
    assert_eq!(ask(&gate, &inject("")), Got::Whole(200, "ok".to_owned()));
}

/// Interim answers and never a last one. The client sees some of them.
#[test]
fn interim_answers_do_not_go_on_for_ever() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    let (upstream, gate) = misbehaving(interim.repeat(1000), Hangs);
    let mut connection = gate.connect(TRUSTED);
    connection.write(inject(""));
    assert_eq!(connection.reply().unwrap().status, 502);
    wait_for("the count", || {
        refusals(&gate, "upstream_bad_answer") == 1.0
    });
    assert_eq!(upstream.connections(), 1, "it is not asked again");
}

/// What the upstream says that is no answer is not quoted in the log: it may be what gatepost said to it, with the secret that it is known by.
#[test]
fn the_log_quotes_nothing_of_a_bad_answer() {
    let (_upstream, gate) = misbehaving("y".repeat(1 << 20), Closes);
    ask(&gate, &inject(""));
    let line = gate.wait_log(|line| line["refusal"] == "upstream_bad_answer");
    let detail = line["detail"].as_str().unwrap();
    assert!(!detail.contains("yyyy") && detail.len() < 500, "{detail}");
}

/// The need: an upstream that breaks off, or stops, before its answer has begun: 502 and 504.
#[test]
fn an_answer_that_never_begins_is_told_from_one_that_breaks_off() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Le", "H"] {
        check(answer, &inject(""), answer, Closes, None, "upstream_closed");
        check(
            answer,
            &inject(""),
            answer,
            Hangs,
            None,
            "upstream_timed_out",
        );
    }
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let gate = Setup::before(address).start();
    assert!(matches!(ask(&gate, &inject("")), Got::Whole(502, _)));
    wait_for("the count", || refusals(&gate, "upstream_refused") == 1.0);
}

const BROKEN: [(&str, &str, [&str; 2]); 6] = [
    (
        "half of a length",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        ["upstream_closed", "upstream_timed_out"],
    ),
    (
        "no last chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ["upstream_closed", "upstream_timed_out"],
    ),
    (
        "half a chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
        ["upstream_closed", "upstream_timed_out"],
    ),
    (
        "a chunk's size is none",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\nhalf\r\n0\r\n\r\n",
        ["upstream_bad_answer"; 2],
    ),
    (
        "a chunk is longer than its size",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfXX0\r\n\r\n",
        ["upstream_bad_answer"; 2],
    ),
    (
        "a chunk's size is beyond all numbers",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhalf",
        ["upstream_bad_answer"; 2],
    ),
];

/// The need: an answer that breaks off, stops or cannot be read further is visibly not whole, over HTTP/1 and HTTP/2.
#[test]
fn half_an_answer_is_seen_to_be_half() {
    for (name, answer, reasons) in BROKEN {
        for (then, reason) in [Closes, Hangs].into_iter().zip(reasons) {
            check(
                name,
                &inject(""),
                answer,
                then,
                Some(Got::Broken(200)),
                reason,
            );
            let (upstream, gate) = misbehaving(answer, then);
            let mut client = Http2::open(&gate, TRUSTED);
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, GET_OPEN));
            let end =
                client.find(|it| it.stream == 1 && (it.kind == RST_STREAM || it.ends_stream()));
            assert_eq!(end.unwrap().kind, RST_STREAM, "{name}");
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, GET_OPEN));
            let next = client.find(|it| it.stream == 3 && it.kind == HEADERS);
            assert_eq!(next.unwrap().status(), Some(200), "{name}");
            wait_for(name, || refusals(&gate, reason) == 1.0);
            assert_eq!(upstream.connections(), 2, "{name}");
        }
    }
}

/// The attack: an upstream, or whoever speaks in its place, that says more than one answer. What is too much is nobody's answer.
#[test]
fn what_follows_an_answer_is_nobodys() {
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    let fine = String::from_utf8(FINE.to_vec()).unwrap();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n";
    let whole = || Got::Whole(200, "fine".to_owned());
    let nothing = |status| Got::Whole(status, String::new());
    let head = format!("HEAD{}", &get("/open")[3..]);
    for (name, request, answer, got) in [
        (
            "a second answer",
            inject(""),
            fine.clone() + forged,
            whole(),
        ),
        (
            "a second answer behind chunks",
            inject(""),
            chunked.to_owned() + forged,
            whole(),
        ),
        ("garbage", inject(""), fine.clone() + "garbage", whole()),
        (
            "204 with a body",
            inject(""),
            forged.replace("200", "204"),
            nothing(204),
        ),
        (
            "304 with a body",
            inject(""),
            forged.replace("200", "304"),
            nothing(304),
        ),
        ("HEAD with a body", head, forged.to_owned(), nothing(200)),
    ] {
        for then in [Closes, Hangs] {
            check(name, &request, &*answer, then, Some(got.clone()), "");
        }
    }
}

/// The same where it comes later, while the connection waits for the next request.
#[test]
fn what_comes_on_an_idle_connection_is_nobodys_answer() {
    let (say, said) = std::sync::mpsc::channel::<()>();
    let (done, more) = std::sync::mpsc::channel::<()>();
    let signals = std::sync::Mutex::new(Some((said, done)));
    let upstream = Raw::start(move |stream, earlier| {
        let forge = (earlier == 0)
            .then(|| signals.lock().unwrap().take())
            .flatten();
        let Some((said, done)) = forge else {
            while read_request(stream) && stream.write_all(FINE).is_ok() {}
            return;
        };
        if read_request(stream) {
            stream.write_all(FINE).unwrap();
            said.recv().unwrap();
            let forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
            stream.write_all(forged).unwrap();
            done.send(()).unwrap();
        }
        // Whatever is asked on this connection afterwards gets no answer of its own.
        read_to_end(stream);
    });
    let gate = Setup::before(upstream.address).with("threads: 1").start();
    let fine = || Got::Whole(200, "fine".to_owned());
    assert_eq!(ask(&gate, &get("/open")), fine());
    say.send(()).unwrap();
    more.recv().unwrap();
    for _ in 0..5 {
        assert_eq!(ask(&gate, &get("/open")), fine());
    }
}

/// An upstream that answers without waiting for the body: its answer passes, whatever it does then.
#[test]
fn an_answer_may_come_before_the_body() {
    for then in [Closes, Hangs] {
        let upstream = Raw::start(move |stream, _| {
            read_head(stream);
            let early = "HTTP/1.1 415 Unsupported Media Type\r\nContent-Length: 5\r\n\r\nearly";
            stream.write_all(early.as_bytes()).unwrap();
            if then == Hangs {
                read_to_end(stream);
            }
        });
        let gate = Setup::before(upstream.address)
            .with("http: { body_timeout: 500ms }")
            .start();
        let mut connection = gate.connect(TRUSTED);
        connection.write("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf.");
        let reply = connection.reply().unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (415, "early"));
        // The rest of the body would be taken for a request on this connection, so there is none.
        assert!(connection.closes(), "{then:?}");
        wait_for("its end", || {
            gate.metric("gatepost_requests_in_flight") == 0.0
        });
        let mut second = gate.connect(TRUSTED);
        second.write(get("/open"));
        assert_eq!(second.reply().unwrap().text(), "early");
        assert_eq!(upstream.connections(), 2, "{then:?}");
    }
}

/// HTTP/1.0 upstreams are passed on in the words of HTTP/1.1, and their answers end with the connection.
#[test]
fn an_old_upstream_is_understood() {
    let old = "HTTP/1.0 200 OK\r\n\r\nold";
    let (_upstream, gate) = misbehaving(old, Closes);
    let mut connection = gate.connect(TRUSTED);
    connection.write(inject("Connection: close\r\n"));
    let answer = connection.until_closed();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert_eq!(look(&answer, false), Got::Whole(200, "old".to_owned()));
}
