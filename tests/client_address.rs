//! Whose request it is: what proxies say, and what clients would like to be believed.

use std::time::Instant;

use crate::harness::{
    Gatepost, PATIENCE, Recorder, STRANGER, Setup, TRUSTED, basic, get, inject, wait_for,
};

/// A gatepost whose trusted proxy is 127.0.0.2 and speaks the PROXY protocol.
fn behind_proxy(upstream: &Recorder) -> Gatepost {
    Setup::before(upstream.address)
        .with("listener.proxy_protocol: true")
        .with("trusted_proxies: [127.0.0.2]")
        .with("http: { head_timeout: 1s }")
        .start()
}

/// What the upstream was told last.
fn told(upstream: &Recorder, name: &str) -> Option<String> {
    upstream.told(name)
}

fn v2(command: u8, family: u8, announced: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(announced.to_be_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

fn v2_from(client: [u8; 4]) -> Vec<u8> {
    let addresses = [&client[..], &[127, 0, 0, 1, 0x12, 0x34, 0, 80]].concat();
    v2(0x21, 0x11, 12, &addresses)
}

/// A trusted host behind a proxy is known by its own address, on every request of the connection.
#[test]
fn a_proxy_header_names_the_client() {
    let upstream = Recorder::start();
    let gate = behind_proxy(&upstream);
    for header in [
        b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 80\r\n".to_vec(),
        b"PROXY TCP6 ::ffff:127.0.0.1 ::1 4711 80\r\n".to_vec(),
        v2_from([127, 0, 0, 1]),
        [
            v2(0x21, 0x11, 18, &[127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2]),
            vec![4, 0, 3, 1, 2, 3],
        ]
        .concat(),
    ] {
        let mut connection = gate.connect(STRANGER);
        connection.write([&header, inject("").as_bytes()].concat());
        assert_eq!(
            connection.reply().unwrap().status,
            200,
            "{}",
            header.escape_ascii()
        );
        assert_eq!(told(&upstream, "x-http-auth").as_deref(), Some("127.0.0.1"));
        assert_eq!(
            told(&upstream, "x-forwarded-for").as_deref(),
            Some("127.0.0.1")
        );
        connection.write(inject(""));
        assert_eq!(
            connection.reply().unwrap().status,
            200,
            "the second request"
        );
    }
    let mut connection = gate.connect(STRANGER);
    connection.write([v2_from([203, 0, 113, 9]), inject("").into_bytes()].concat());
    assert_eq!(
        connection.reply().unwrap().status,
        401,
        "a stranger behind the proxy"
    );
    let line = gate.wait_log(|line| line["target"] == "access" && line["status"] == 401);
    assert_eq!(line["client"], "203.0.113.9");
    assert_eq!(line["peer"], "127.0.0.2");
}

/// The header may come in pieces, and with HTTP/2 behind it.
#[test]
fn a_proxy_header_may_drip_and_carry_http2() {
    let upstream = Recorder::start();
    let gate = behind_proxy(&upstream);
    let mut connection = gate.connect(STRANGER);
    for byte in v2_from([127, 0, 0, 1]) {
        connection.write([byte]);
    }
    connection.write(inject(""));
    assert_eq!(connection.reply().unwrap().status, 200);
    // A preface, empty SETTINGS, and HEADERS of stream 1 that end it: GET, http, /messages, gate (RFC 7541 §6).
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let fields = b"\x82\x86\x04\x09/messages\x01\x04gate";
    let frame = [&[0, 0, 19, 1, 5, 0, 0, 0, 1], &fields[..]].concat();
    let seen = upstream.requests();
    let mut connection = gate.connect(STRANGER);
    connection.write([&v2_from([127, 0, 0, 1])[..], preface, &frame].concat());
    assert_eq!(connection.exactly(9)[3], 4, "a SETTINGS frame");
    wait_for("the request", || upstream.requests() > seen);
    assert_eq!(told(&upstream, "x-http-auth").as_deref(), Some("127.0.0.1"));
    assert_eq!(told(&upstream, "x-forwarded-host").as_deref(), Some("gate"));
}

/// The attack: a header that is malformed, lies about its length, stops half-way or never ends. None may be
/// taken for a request, hold a connection beyond the deadline, or raise trust.
#[test]
fn a_proxy_header_that_is_none_is_refused_in_time() {
    let upstream = Recorder::start();
    let gate = behind_proxy(&upstream);
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 5000]].concat();
    for (header, status) in [
        (Vec::new(), 400),
        (b"PROXY TCP4 127.0.0.1 127.0.0.1 1\r\n".to_vec(), 400),
        (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2 3\r\n".to_vec(), 400),
        (endless, 400),
        (
            v2(0x21, 0x11, 0, &[127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2]),
            400,
        ),
        (v2(0x21, 0x11, 0xffff, &[127, 0, 0, 1]), 400),
        (v2(0x31, 0x11, 12, &[127, 0, 0, 1]), 400),
        // Announces more than it sends, so the request is taken for the rest of the header.
        (v2(0x21, 0x11, 4000, &[127, 0, 0, 1]), 408),
    ] {
        let mut connection = gate.connect(STRANGER);
        connection.write([&header, inject("").as_bytes()].concat());
        let reply = connection.reply().unwrap();
        assert_eq!(reply.status, status, "{}", header.escape_ascii());
        assert!(connection.closes());
    }
    for part in [&b"PROXY TCP4 127"[..], &v2_from([127, 0, 0, 1])[..20]] {
        let begin = Instant::now();
        let mut connection = gate.connect(STRANGER);
        connection.write(part);
        assert_eq!(connection.reply().unwrap().status, 408);
        assert!(begin.elapsed() < PATIENCE / 2);
    }
    assert_eq!(upstream.requests(), 0);
    let refused = "gatepost_refusals_total{reason=\"bad_proxy_header\"}";
    assert!(gate.metric(refused) >= 6.0);
}

/// The attack: somebody who is no proxy writes a PROXY header, or a trusted proxy's client writes a second
/// one behind the proxy's.
#[test]
fn a_proxy_header_of_a_client_is_no_proxy_header() {
    let upstream = Recorder::start();
    let gate = behind_proxy(&upstream);
    let forged = "PROXY TCP4 10.9.9.9 127.0.0.1 4711 80\r\n";
    assert_eq!(
        gate.send(TRUSTED, format!("{forged}{}", inject("")))
            .unwrap()
            .status,
        400
    );
    // Without one, it is served by its own address.
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    let stranger = "PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n";
    let second = "PROXY TCP4 127.0.0.1 127.0.0.1 4711 80\r\n";
    let sent = format!("{stranger}{second}{}", inject(""));
    assert_eq!(gate.send(STRANGER, sent).unwrap().status, 400);
    assert_eq!(upstream.requests(), 1);

    let plain = Setup::before(upstream.address)
        .with("trusted_proxies: [127.0.0.2]")
        .start();
    let sent = format!("{second}{}", inject(""));
    assert_eq!(
        plain.send(STRANGER, sent).unwrap().status,
        400,
        "not asked for on this listener"
    );
}

/// The attack: behind a proxy that cannot name its client, the client's own X-Forwarded-For is believed.
#[test]
fn a_proxy_header_without_a_client_lends_nobody_trust() {
    let upstream = Recorder::start();
    let gate = behind_proxy(&upstream);
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 127.0.0.1 127.0.0.1 1 2\r\n".to_vec(),
        v2(0x20, 0x00, 0, &[]),
        v2(0x20, 0x11, 12, &[127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2]),
        v2(0x21, 0x00, 0, &[]),
    ] {
        let headers = "X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n";
        let sent = [&header, inject(headers).as_bytes()].concat();
        assert_eq!(
            gate.send(STRANGER, sent).unwrap().status,
            401,
            "{}",
            header.escape_ascii()
        );
        let users = [&header, inject(&basic("scott", "tiger")).as_bytes()].concat();
        assert_eq!(gate.send(STRANGER, users).unwrap().status, 200);
        assert_eq!(
            told(&upstream, "x-forwarded-for").as_deref(),
            Some("127.0.0.2")
        );
    }
}

/// The attack: X-Forwarded-For with very many hops, ports, brackets, garbage and mapped addresses.
#[test]
fn forwarded_for_is_believed_from_the_right_whatever_stands_left() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("trusted_proxies: [127.0.0.2, 10.0.0.0/8]")
        .start();
    let thousand = "127.0.0.1, ".repeat(1000);
    for (value, status, seen) in [
        ("203.0.113.9".to_owned(), 401, None),
        ("127.0.0.1".to_owned(), 200, Some("127.0.0.1, 127.0.0.2")),
        ("127.0.0.1:80".to_owned(), 200, Some("127.0.0.1, 127.0.0.2")),
        (
            "::ffff:127.0.0.1".to_owned(),
            200,
            Some("127.0.0.1, 127.0.0.2"),
        ),
        (
            "127.0.0.1, 10.1.1.1".to_owned(),
            200,
            Some("127.0.0.1, 10.1.1.1, 127.0.0.2"),
        ),
        ("127.0.0.1, 203.0.113.9".to_owned(), 401, None),
        ("127.0.0.1, 203.0.113.9, 10.1.1.1".to_owned(), 401, None),
        (format!("{thousand}203.0.113.9"), 401, None),
        ("127.0.0.1, nonsense".to_owned(), 400, None),
        ("127.0.0.1,".to_owned(), 400, None),
        ("127.0.0.1 203.0.113.9".to_owned(), 400, None),
        ("[127.0.0.1]".to_owned(), 400, None),
        ("2130706433".to_owned(), 400, None),
        ("0x7f000001".to_owned(), 400, None),
        ("127.1".to_owned(), 400, None),
        ("127.0.0.1%eth0".to_owned(), 400, None),
        (String::new(), 400, None),
    ] {
        let reply = gate.send(STRANGER, inject(&format!("X-Forwarded-For: {value}\r\n")));
        assert_eq!(reply.unwrap().status, status, "{value}");
        if seen.is_some() {
            assert_eq!(
                told(&upstream, "x-forwarded-for").as_deref(),
                seen,
                "{value}"
            );
        }
    }
}

/// The attack: of two headers that say the same, the client sends the one that its proxy does not write.
#[test]
fn only_the_configured_header_is_believed() {
    let upstream = Recorder::start();
    let forwarded = Setup::before(upstream.address)
        .with("trusted_proxies: [127.0.0.2]")
        .with("client_address_header: Forwarded")
        .start();
    let status =
        |gate: &Gatepost, headers: &str| gate.send(STRANGER, inject(headers)).unwrap().status;
    assert_eq!(status(&forwarded, "Forwarded: for=127.0.0.1\r\n"), 200);
    assert_eq!(
        status(
            &forwarded,
            "Forwarded: for=\"127.0.0.1:80\";proto=https\r\n"
        ),
        200
    );
    assert_eq!(status(&forwarded, "X-Forwarded-For: 127.0.0.1\r\n"), 401);
    let both = "X-Forwarded-For: 127.0.0.1\r\nForwarded: for=203.0.113.9\r\n";
    assert_eq!(status(&forwarded, both), 401);
    assert_eq!(status(&forwarded, "Forwarded: for=unknown\r\n"), 400);
    assert_eq!(
        status(
            &forwarded,
            "Forwarded: for=127.0.0.1;x=\", for=203.0.113.9\r\n"
        ),
        400
    );
    let usual = Setup::before(upstream.address)
        .with("trusted_proxies: [127.0.0.2]")
        .start();
    let both = "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=127.0.0.1\r\n";
    assert_eq!(status(&usual, both), 401);
}

/// What a trusted proxy says of the client's connection goes on; what a client says of itself does not.
#[test]
fn forwarded_proto_host_and_request_id() {
    let upstream = Recorder::start();
    let said =
        "X-Forwarded-Proto: https\r\nX-Forwarded-Host: api.example.com\r\nX-Request-Id: abc-1\r\n";
    let direct = Setup::before(upstream.address).start();
    let headers = format!("{said}{}", basic("scott", "tiger"));
    assert_eq!(direct.send(STRANGER, inject(&headers)).unwrap().status, 200);
    assert_eq!(
        told(&upstream, "x-forwarded-proto").as_deref(),
        Some("http")
    );
    assert_eq!(told(&upstream, "x-forwarded-host").as_deref(), Some("gate"));
    assert_ne!(told(&upstream, "x-request-id").as_deref(), Some("abc-1"));
    assert!(told(&upstream, "x-request-id").unwrap().len() >= 16);

    let behind = Setup::before(upstream.address)
        .with("trusted_proxies: [127.0.0.2]")
        .start();
    let check = |said: &str, proto: &str, host: &str, id: Option<&str>| {
        let headers = format!("X-Forwarded-For: 127.0.0.1\r\n{said}");
        assert_eq!(
            behind.send(STRANGER, inject(&headers)).unwrap().status,
            200,
            "{said}"
        );
        assert_eq!(
            told(&upstream, "x-forwarded-proto").as_deref(),
            Some(proto),
            "{said}"
        );
        assert_eq!(
            told(&upstream, "x-forwarded-host").as_deref(),
            Some(host),
            "{said}"
        );
        if let Some(id) = id {
            assert_eq!(
                told(&upstream, "x-request-id").as_deref(),
                Some(id),
                "{said}"
            );
        }
    };
    check(said, "https", "api.example.com", Some("abc-1"));
    check(
        "X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: a b\r\n",
        "http",
        "gate",
        None,
    );
    check(
        "X-Forwarded-Proto: https, http\r\nX-Forwarded-Host: a, b\r\n",
        "http",
        "gate",
        None,
    );
    let twice = "X-Request-Id: a\r\nX-Request-Id: b\r\n";
    check(twice, "http", "gate", None);
    assert!(
        told(&upstream, "x-request-id").unwrap().len() >= 16,
        "neither of the two"
    );
}

/// A proxy protocol listener also serves whoever is no proxy, HTTP as ever.
#[test]
fn others_are_served_on_a_proxy_protocol_listener() {
    let upstream = Recorder::start();
    let gate = behind_proxy(&upstream);
    assert_eq!(gate.send(TRUSTED, get("/messages")).unwrap().status, 200);
    assert_eq!(told(&upstream, "x-http-auth").as_deref(), Some("127.0.0.1"));
}

/// The attack: a client's connection is open when a reload makes its address a trusted proxy, or makes the proxy
/// that vouches for it none. What it says then must not count, nor what the proxy said.
#[test]
fn a_reload_does_not_change_what_a_connection_is() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("listener.proxy_protocol: true")
        .with("trusted_proxies: [127.0.0.3]")
        .start();
    let proxy = std::net::Ipv4Addr::new(127, 0, 0, 3);
    let forged = inject("X-Forwarded-For: 127.0.0.1\r\n");
    let mut client = gate.connect(STRANGER);
    client.write(&forged);
    assert_eq!(client.reply().unwrap().status, 401);
    let mut proxied = gate.connect(proxy);
    proxied.write([v2_from([127, 0, 0, 1]), inject("").into_bytes()].concat());
    assert_eq!(proxied.reply().unwrap().status, 200);

    let yaml = gate.folder().join("gatepost.yaml");
    let text = std::fs::read_to_string(&yaml).unwrap();
    std::fs::write(&yaml, text.replace("[127.0.0.3]", "[127.0.0.2]")).unwrap();
    gate.signal("HUP");
    gate.wait_log(|line| line["message"] == "configuration and policy are reloaded");
    client.write(&forged);
    assert_eq!(client.reply().unwrap().status, 401);
    proxied.write(inject(""));
    assert_eq!(proxied.reply().unwrap().status, 400);
    assert_eq!(upstream.requests(), 1);
}

/// A proxy that is a trusted host too, which is warned about, lends that to nobody whom it cannot name.
#[test]
fn a_nameless_client_is_no_trusted_host() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("listener.proxy_protocol: true")
        .with("trusted_proxies: [127.0.0.2]")
        .with("trusted_hosts: [127.0.0.2]")
        .start();
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0x00, 0, &[])] {
        let sent = [&header, inject("").as_bytes()].concat();
        assert_eq!(
            gate.send(STRANGER, sent).unwrap().status,
            401,
            "{}",
            header.escape_ascii()
        );
    }
}
