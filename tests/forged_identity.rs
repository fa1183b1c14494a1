//! Nobody but gatepost says who a request is.

use crate::harness::{Recorder, STRANGER, Setup, TRUSTED, basic, inject, post};

/// Every way in which clients have slipped an identity past a proxy.
const FORGERIES: &[&str] = &[
    "X-Http-Auth: root\r\n",
    "x-http-auth: root\r\n",
    "X-HTTP-AUTH: root\r\n",
    "X_Http_Auth: root\r\n",
    "x_http_auth: root\r\n",
    "X-Http_Auth: root\r\n",
    "X-Http-Auth: root\r\nX-Http-Auth: root\r\n",
    "X-Http-Auth: root\r\nX_Http_Auth: root\r\n",
    "X-Http-Auth:\r\n",
    "Connection: X-Http-Auth\r\n",
    "Connection: close, X-Http-Auth\r\n",
    "Connection: x-http-auth\r\nX-Http-Auth: root\r\n",
    "Connection: keep-alive, X_Http_Auth\r\nX_Http_Auth: root\r\n",
    "Keep-Alive: X-Http-Auth\r\nProxy-Connection: X-Http-Auth\r\n",
];

fn identities(upstream: &Recorder) -> Vec<String> {
    let text = upstream.text();
    text.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.to_ascii_lowercase().replace('_', "-") == "x-http-auth")
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

/// The attack: the client sends the identity header itself, in every spelling that some upstream takes
/// for it, or has the next hop drop the one that gatepost sets.
#[test]
fn a_forged_identity_header_never_reaches_the_upstream_on_any_route() {
    for forgery in FORGERIES {
        for (from, path, credentials, identity) in [
            (
                STRANGER,
                "/api/inject/v1",
                basic("scott", "tiger"),
                Some("scott"),
            ),
            (TRUSTED, "/api/inject/v1", String::new(), Some("127.0.0.1")),
            (STRANGER, "/open", String::new(), None),
            (STRANGER, "/open", basic("carol", "a:b:c"), Some("carol")),
        ] {
            let upstream = Recorder::start();
            let gate = Setup::before(upstream.address).start();
            let headers = format!("{credentials}{forgery}");
            let reply = gate.send(from, post(path, &headers, "{}")).unwrap();
            assert_eq!(reply.status, 200, "{forgery:?} {path}");
            let expected: Vec<String> = identity.map(str::to_owned).into_iter().collect();
            assert_eq!(identities(&upstream), expected, "{forgery:?} {path}");
            assert!(!upstream.text().contains("root"), "{forgery:?} {path}");
        }
    }
}

/// The same through the eyes of the embedded injection API, which notes a second identity header.
#[test]
fn the_injection_api_sees_one_identity() {
    let gate = Setup::demo().start();
    for forgery in FORGERIES {
        let headers = format!("{}{forgery}", basic("scott", "tiger"));
        assert_eq!(
            gate.send(STRANGER, inject(&headers)).unwrap().status,
            200,
            "{forgery:?}"
        );
        let meta = &gate.messages()[0]["meta"];
        assert_eq!(meta["http_auth"], "scott", "{forgery:?}");
        assert!(
            meta.get("http_auth_conflict").is_none_or(|it| it == false),
            "{meta}"
        );
    }
}

/// The identity header's name is the operator's; then that one is protected as well.
#[test]
fn a_configured_identity_header_is_protected_too() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("upstream.identity_header: X-Tenant-Id")
        .start();
    let forged = "X_Tenant_Id: root\r\nx-tenant-id: root\r\nX-Http-Auth: root\r\n";
    let headers = format!("{}{forged}", basic("scott", "tiger"));
    assert_eq!(gate.send(STRANGER, inject(&headers)).unwrap().status, 200);
    let text = upstream.text().to_ascii_lowercase();
    assert!(text.contains("x-tenant-id: scott\r\n"), "{text}");
    assert!(!text.contains("root"), "{text}");
}

/// The attack: credentials end at the gate; an upstream that logs its headers must not log them.
#[test]
fn credentials_are_not_forwarded() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let headers = format!(
        "{}Proxy-Authorization: Basic c2VjcmV0\r\n",
        basic("scott", "tiger")
    );
    assert_eq!(gate.send(STRANGER, inject(&headers)).unwrap().status, 200);
    assert!(
        !upstream
            .text()
            .to_ascii_lowercase()
            .contains("authorization"),
        "{}",
        upstream.text()
    );
}

/// The attack: the client claims another address, towards gatepost and towards the upstream.
#[test]
fn forwarded_addresses_are_believed_from_trusted_proxies_only() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let forged =
        "X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n";
    assert_eq!(gate.send(STRANGER, inject(forged)).unwrap().status, 401);
    let headers = format!("{}{forged}", basic("scott", "tiger"));
    assert_eq!(gate.send(STRANGER, inject(&headers)).unwrap().status, 200);
    let text = upstream.text();
    assert!(text.contains("X-Forwarded-For: 127.0.0.2\r\n"), "{text}");
    assert!(!text.contains("127.0.0.1\r\n"), "{text}");

    let gate = Setup::before(upstream.address)
        .with("trusted_proxies: [127.0.0.2]")
        .start();
    let status = |headers: &str| gate.send(STRANGER, inject(headers)).unwrap().status;
    assert_eq!(
        status("X-Forwarded-For: 127.0.0.1\r\n"),
        200,
        "the proxy's own hop counts"
    );
    assert_eq!(
        status("X-Forwarded-For: 127.0.0.1, 192.0.2.1\r\n"),
        401,
        "the leftmost hop does not"
    );
    assert_eq!(
        status("X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-For: 192.0.2.1\r\n"),
        401
    );
    assert_eq!(status("X-Forwarded-For: nonsense\r\n"), 400);
    assert_eq!(status(""), 401, "a trusted proxy is no trusted host");
}

/// The header arrives as manuals write it, for whoever compares bytes.
#[test]
fn the_identity_header_is_written_in_capitals() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    assert_eq!(
        gate.send(STRANGER, inject(&basic("scott", "tiger")))
            .unwrap()
            .status,
        200
    );
    assert!(
        upstream.text().contains("\r\nX-Http-Auth: scott\r\n"),
        "{}",
        upstream.text()
    );
}

/// A name outside of ASCII arrives as the UTF-8 that it is.
#[test]
fn a_utf8_identity_is_forwarded_as_utf8() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    assert_eq!(
        gate.send(STRANGER, inject(&basic("jürgen", "grüße")))
            .unwrap()
            .status,
        200
    );
    assert_eq!(identities(&upstream), ["jürgen"]);
}
