//! One request in is at most one request out, and it is the request that was checked.

use crate::harness::{Recorder, STRANGER, Setup, TRUSTED, basic, get};

fn credentials() -> String {
    basic("scott", "tiger")
}

/// A second request, hidden in the body of a first, with an identity of the attacker's choice.
const HIDDEN: &str = "POST /api/admin/bounce/v1 HTTP/1.1\r\nHost: a\r\nX-Http-Auth: root\r\nContent-Length: 0\r\n\r\n";

/// Sends the bytes, expects a status (or a closed connection for 0) and that the upstream saw nothing;
/// and that the next request, on a new connection, is served.
fn refused(cases: &[(u16, String)]) {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    for (status, request) in cases {
        let reply = gate.send(STRANGER, request);
        assert_eq!(
            reply.map_or(0, |reply| reply.status),
            *status,
            "{request:?}"
        );
        assert_eq!(upstream.text(), "", "{request:?}");
    }
    let good = format!(
        "POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\n{}\r\n",
        credentials()
    );
    assert_eq!(gate.send(STRANGER, good).unwrap().status, 200);
    assert_eq!(upstream.requests(), 1);
}

fn with_framing(framing: &str, body: &str) -> String {
    format!(
        "POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\n{}{framing}\r\n{body}",
        credentials()
    )
}

/// The attack: gatepost and the upstream disagree about where the first request ends, so the upstream
/// takes the rest of it for a second one that nobody checked.
#[test]
fn a_request_with_two_possible_ends_reaches_no_upstream() {
    let length = HIDDEN.len();
    let framings = [
        format!("Content-Length: {length}, {length}\r\n"),
        "Content-Length: 63, 63\r\n".to_owned(),
        format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}\r\nContent-Length: 0\r\n"),
        format!("Content-Length: 0\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: +{length}\r\n"),
        format!("Content-Length: -{length}\r\n"),
        format!("Content-Length: {length} 0\r\n"),
        format!("Content-Length : {length}\r\n"),
        format!("Content_Length: {length}\r\n"),
        "Content-Length: 99999999999999999999999\r\n".to_owned(),
        "Content-Length: 0x10\r\n".to_owned(),
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Transfer-Encoding:\u{b}chunked\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer_Encoding: chunked\r\n".to_owned(),
        "X: y\r\n Transfer-Encoding: chunked\r\n".to_owned(),
        "X: y\nTransfer-Encoding: chunked\r\n".to_owned(),
        "X: y\rTransfer-Encoding: chunked\r\n".to_owned(),
        "X: y\0\r\n".to_owned(),
    ];
    let chunked = format!("0\r\n\r\n{HIDDEN}");
    let cases: Vec<(u16, String)> = framings
        .iter()
        .flat_map(|framing| [HIDDEN, &chunked].map(|body| (400, with_framing(framing, body))))
        .collect();
    refused(&cases);
    refused(&[(
        400,
        format!(
            "POST /api/inject/v1 HTTP/1.0\r\nHost: a\r\n{}Transfer-Encoding: chunked\r\n\r\n{chunked}",
            credentials()
        ),
    )]);
}

/// The attack: the host that routing or the upstream sees is another than the one that was checked.
#[test]
fn a_missing_or_odd_host_is_refused() {
    let hosts = [
        "",
        "Host:\r\n",
        "Host: \r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a, b\r\n",
        "Host: a/b\r\n",
        "Host: http://a\r\n",
        "Host: u@a\r\n",
        "Host: a b\r\n",
        "Host: a:port\r\n",
        "Host: a:1:2\r\n",
        "Host: [::1\r\n",
        "Host: a\u{fc}\r\n",
    ];
    let cases: Vec<(u16, String)> = hosts
        .iter()
        .map(|host| {
            (
                400,
                format!(
                    "POST /api/inject/v1 HTTP/1.1\r\n{host}{}\r\n",
                    credentials()
                ),
            )
        })
        .collect();
    refused(&cases);
}

/// The attack: a target that one parser reads as a listed route and another as an unlisted one.
#[test]
fn a_target_in_any_other_form_is_refused() {
    let targets = [
        "http://a/api/inject/v1",
        "https://a/api/inject/v1",
        "//a/api/inject/v1",
        "a:443",
        "*",
        "api/inject/v1",
        "foo/bar",
        "/api/inject/v1#x",
        "/api/inject/v1%00",
        "/api/inject/v1%20",
        "/api/inject/v1 x",
        "/api/inject/v1?a b",
        "/api/inject/v1\0",
        "/api/inject/v1\r",
        "/api/inject/v1?a\r",
        "/api/inject/v1\u{fc}",
        "/api/inject/v1\u{fc}?\u{fc}",
        "/api/inject/v1?\u{fc}",
        "/api//inject/v1",
        "/./api/inject/v1",
        "/x/../api/inject/v1",
        "/api/inject/v1/..",
        "/api%2Finject/v1",
        "/%61pi/inject/v1",
        "/api\\inject\\v1",
        "/api/inject/v1.",
        "/api/inject/%76%31",
        "/api/%2e%2e/api/inject/v1",
        "/api/inject/..;/inject/v1",
        "/api/inject/v1%",
        "/api/inject/v1%zz",
        "",
        "?x",
        "/api/inject/v1\t",
        "/api/<inject>/v1",
    ];
    let cases: Vec<(u16, String)> = targets
        .iter()
        .map(|target| {
            (
                400,
                format!("POST {target} HTTP/1.1\r\nHost: a\r\n{}\r\n", credentials()),
            )
        })
        .collect();
    refused(&cases);
}

/// The attack: everything that an HTTP/1 parser may be talked into besides.
#[test]
fn malformed_heads_are_refused() {
    let long = "a".repeat(1024 * 1024);
    refused(&[
        (400, "\r\n\r\n\r\n".to_owned()),
        (400, "GET /\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\n\n".to_owned()),
        (400, "nonsense\r\n\r\n".to_owned()),
        (
            400,
            "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n".to_owned(),
        ), // TLS to a plain port
        (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned()),
        (505, "GET / HTTP/0.9\r\nHost: a\r\n\r\n".to_owned()),
        (
            400,
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned(),
        ),
        (
            400,
            with_framing("Connection: upgrade\r\nUpgrade: websocket\r\n", ""),
        ),
        (
            400,
            with_framing("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", ""),
        ),
        (
            400,
            format!("{long} / HTTP/1.1\r\nHost: a\r\n\r\n").replace(&long, &long[..4000]),
        ),
        (431, with_framing(&format!("X: {long}\r\n"), "")),
        (431, with_framing(&"X: y\r\n".repeat(2000), "")),
        (431, format!("GET /{long} HTTP/1.1\r\n")),
        (
            405,
            format!(
                "TRACE /api/inject/v1 HTTP/1.1\r\nHost: a\r\n{}\r\n",
                credentials()
            ),
        ),
    ]);
}

/// The attack: chunks that one reader takes for good and another does not, or that end in two places, so that what follows is body to one
/// and a request to the other. Refused whether they come with the head or behind it; what has gone to the upstream by then has no end.
#[test]
fn odd_chunks_are_refused() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let head = with_framing("Transfer-Encoding: chunked\r\n", "");
    for body in [
        "5;\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t;a\r\nhello\r\n0\r\n\r\n",
        "5;a\0b\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0 \r\n\r\n",
        "5\r\nhello\r\n0;\r\n\r\n",
        "5\r\nhello\r\n\r\n\r\n",
        "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
    ] {
        let mut connection = gate.connect(STRANGER);
        connection.write(format!("{head}{body}"));
        let reply = connection.reply().unwrap();
        assert_eq!(reply.json()["error"], "bad_body", "{body:?}");
        assert_eq!(
            (reply.status, reply.header("connection")),
            (400, Some("close"))
        );
        assert!(connection.closes());
        assert_eq!(upstream.text(), "", "{body:?}");
    }
    let bodies = [
        "5;\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0 \r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
    ];
    for (begun, body) in bodies.into_iter().enumerate() {
        let mut connection = gate.connect(STRANGER);
        connection.write(&head);
        crate::harness::wait_for("the head", || upstream.requests() == begun + 1);
        connection.write(body);
        let reply = connection.reply().unwrap();
        let got = (reply.status, reply.header("connection"));
        assert_eq!(got, (400, Some("close")), "{body:?}");
    }
    let text = upstream.text();
    assert!(!text.contains("\r\n0\r\n\r\n"), "{text}");
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
