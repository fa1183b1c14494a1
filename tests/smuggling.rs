//! One request in is at most one request out, and it is the request that was checked.

use crate::harness::{Recorder, STRANGER, Setup, TRUSTED, basic, find, get};
use crate::raw_requests::{self, HTTP1, HTTP2, Protocol, Upstream};

fn credentials() -> String {
    basic("scott", "tiger")
}

/// A second request, hidden in the body of a first, with an identity of the attacker's choice.
const HIDDEN: &str = "POST /api/admin/bounce/v1 HTTP/1.1\r\nHost: a\r\nX-Http-Auth: root\r\nContent-Length: 0\r\n\r\n";

fn with_framing(framing: &str, body: &str) -> String {
    format!(
        "POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\n{}{framing}\r\n{body}",
        credentials()
    )
}

/// The attack: gatepost and the upstream disagree about where a request ends or what it asks for. The rows are data/smuggling/http1.txt.
#[test]
fn every_row_of_http1_is_one_request_or_none() {
    hold(Protocol::Http1, HTTP1);
}

/// The same where a request changes its protocol on the way. The rows are data/smuggling/http2.txt.
#[test]
fn every_row_of_http2_is_one_request_or_none() {
    hold(Protocol::Http2, HTTP2);
}

/// What docs/security.md says of the tables: a line for each kind, and the sums.
#[test]
fn the_page_tells_how_many_rows_there_are() {
    let page = include_str!("../docs/security.md");
    let mut lines = Vec::new();
    for (protocol, table, least) in [("HTTP/1", HTTP1, 150), ("HTTP/2", HTTP2, 30)] {
        let mut kinds: Vec<(String, usize, usize)> = Vec::new();
        for row in raw_requests::rows(table) {
            if kinds.last().is_none_or(|it| it.0 != row.kind) {
                kinds.push((row.kind, 0, 0));
            }
            let (_, rows, accepted) = kinds.last_mut().unwrap();
            *rows += 1;
            *accepted += usize::from(matches!(row.want.upstream, Upstream::One(_)));
        }
        let rows: usize = kinds.iter().map(|it| it.1).sum();
        let accepted: usize = kinds.iter().map(|it| it.2).sum();
        assert!(rows >= least);
        let kinds = kinds
            .iter()
            .map(|it| format!("| {protocol} | {} | {} | {} |", it.0, it.1, it.2));
        lines.extend(kinds);
        lines.push(format!(
            "| {protocol} | **all** | **{rows}** | **{accepted}** |"
        ));
    }
    let lines = lines.join("\n");
    assert!(page.contains(&lines), "the page should say:\n{lines}");
}

/// Sends each row past one gatepost. Behind each row another request shows that gatepost goes on; what came to the upstream up to there is the
/// row's.
fn hold(protocol: Protocol, table: &str) {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .routes(raw_requests::ROUTES)
        .start();
    let mut faults = Vec::new();
    for (nth, row) in raw_requests::rows(table).iter().enumerate() {
        let has_head = || find(&upstream.bytes(), b"\r\n\r\n").is_some();
        let answer = raw_requests::send(&gate, protocol, (nth, row), &has_head);
        let next = raw_requests::marker("next", nth);
        raw_requests::is_served(&gate, &next);
        let mut markers = vec![next];
        markers.extend((!answer.closes).then(|| raw_requests::marker("same", nth)));
        if answer != row.want.answer {
            faults.push(format!("{} ({}): {answer:?}", row.name, row.rule));
        }
        if let Err(fault) = raw_requests::check_upstream(row, &upstream.take(), &markers) {
            faults.push(format!("{} ({}): {fault}", row.name, row.rule));
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    assert!(upstream.take().is_empty(), "something came late");
}

/// The need: what leaves gatepost is framed by gatepost. Sizes in another spelling, extensions and trailers stay here, and the connection
/// goes on to the next request whether its body has chunks or not.
#[test]
fn chunks_are_framed_anew() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let head = with_framing("Transfer-Encoding: chunked\r\n", "");
    let mut connection = gate.connect(STRANGER);
    let bodies = [
        "5\r\nhello\r\n0\r\n\r\n",
        "0005;a=\"b;c\"\r\nhello\r\n000;x\r\nX-Http-Auth: root\r\n\r\n",
        "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
    ];
    let mut answered = 0;
    for body in bodies {
        for apart in [false, true] {
            if apart {
                connection.write(&head);
                crate::harness::wait_for("the head", || upstream.requests() == answered + 1);
                connection.write(body);
            } else {
                connection.write(format!("{head}{body}"));
            }
            let reply = connection.reply().unwrap();
            assert_eq!(reply.status, 200);
            assert_ne!(reply.header("connection"), Some("close"));
            answered += 1;
        }
        connection.write(crate::harness::inject(&credentials()));
        assert_eq!(connection.reply().unwrap().status, 200);
        answered += 1;
    }
    let text = upstream.text();
    assert_eq!(upstream.requests(), 9);
    assert_eq!(
        text.matches("\r\n\r\n5\r\nhello\r\n0\r\n\r\n").count(),
        4,
        "{text}"
    );
    for word in ["\n0005", "b;c", "root", ";x"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
}

/// The attack: a second request sent along with the first. It is neither forwarded unseen nor mixed
/// into the first; one answer comes, then the connection closes.
#[test]
fn pipelined_requests_give_one_answer_and_a_closed_connection() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let mut connection = gate.connect(STRANGER);
    connection.write(format!(
        "{}{}",
        with_framing("Content-Length: 2\r\n", "{}"),
        HIDDEN
    ));
    let reply = connection.reply().unwrap();
    assert_eq!(
        (reply.status, reply.header("connection")),
        (200, Some("close"))
    );
    assert!(connection.closes());
    assert_eq!(upstream.requests(), 1);
    assert!(!upstream.text().contains("root"));

    // The same where the second request comes while the first is being answered.
    let slow = Recorder::behaving(|stream, _| {
        use std::io::Write as _;
        // Not a hope: it only gives the client's second write time to arrive first, the answer is
        // the same either way.
        std::thread::sleep(std::time::Duration::from_millis(200));
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .is_ok()
    });
    let gate = Setup::before(slow.address).start();
    let mut connection = gate.connect(STRANGER);
    connection.write(with_framing("Content-Length: 2\r\n", "{}"));
    crate::harness::wait_for("the first request", || slow.requests() == 1);
    connection.write(HIDDEN);
    assert_eq!(connection.reply().unwrap().status, 200);
    assert!(connection.closes());
    assert_eq!(slow.requests(), 1);
}

/// A refused request with its whole body at hand does not cost the connection.
#[test]
fn a_refused_request_leaves_the_connection_usable() {
    let gate = Setup::before(Recorder::start().address).start();
    let mut connection = gate.connect(STRANGER);
    for _ in 0..3 {
        connection.write(crate::harness::inject(""));
        assert_eq!(connection.reply().unwrap().status, 401);
    }
    connection.write(get("/nowhere"));
    assert_eq!(connection.reply().unwrap().status, 404);
    connection.write(crate::harness::inject(&credentials()));
    assert_eq!(connection.reply().unwrap().status, 200);
}

/// The attack: a body that goes wrong where it is looked into, behind a proxy that passes chunks on as they come, and the rest of it as a request
/// of its own: from the proxy's address, with a client address and an identity of the attacker's choice.
#[test]
fn what_follows_a_broken_body_is_no_request() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .routes(
            "
  - { path: /x, methods: [POST], allow: [trusted_hosts], message_policy: true, message_format: rfc822 }
  - { path: /open, methods: [GET], allow: [anyone] }
",
        )
        .start();
    let head = "POST /x HTTP/1.1\r\nHost: gate\r\nContent-Type: message/rfc822\r\nTransfer-Encoding: chunked\r\n\r\n";
    let hidden = "GET /open HTTP/1.1\r\nHost: gate\r\n\r\n";
    let odd = format!("5 {}\r\n", "x".repeat(64 * 1024));
    for (body, rest) in [
        // Others count its digits.
        ("000000000000000026\r\n", hidden.to_owned()),
        ("5\r\nhello\r\n000000000000000026\r\n", hidden.to_owned()),
        ("5 \r\n", format!("0\r\n\r\n{hidden}")),
        (&odd, format!("0\r\n\r\n{hidden}")),
        ("5\r\nhelloX", format!("\r\n0\r\n\r\n{hidden}")),
    ] {
        let mut connection = gate.connect(TRUSTED);
        connection.write(format!("{head}{body}"));
        let reply = connection.reply().unwrap();
        assert_eq!(reply.status, 400, "{body}");
        assert_eq!(reply.header("connection"), Some("close"), "{body}");
        connection.write(rest);
        assert_eq!(connection.until_closed(), b"", "{body}");
        assert_eq!(upstream.requests(), 0, "{body}");
    }
}
