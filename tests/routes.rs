//! Only what is listed passes.

use crate::harness::{Recorder, STRANGER, Setup, TRUSTED, basic, get, post};

/// The attack: a sidecar on loopback whose upstream trusts loopback makes every client an
/// administrator of the MTA, unless unlisted paths stop here.
#[test]
fn paths_that_no_route_names_do_not_pass() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    for path in [
        "/api/admin/bounce/v1",
        "/api/xfer/inject",
        "/metrics",
        "/",
        "/api/inject/v1/",
        "/API/INJECT/V1",
        "/api/inject",
        "/livez",
    ] {
        for (from, credentials) in [
            (TRUSTED, String::new()),
            (STRANGER, basic("scott", "tiger")),
        ] {
            assert_eq!(
                gate.send(from, post(path, &credentials, ""))
                    .unwrap()
                    .status,
                404,
                "{path}"
            );
        }
    }
    assert_eq!(upstream.text(), "");
}

#[test]
fn methods_that_a_route_does_not_name_are_answered_with_those_that_it_does() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    for method in [
        "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW", "post",
    ] {
        let request = format!("{method} /api/inject/v1 HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut connection = gate.connect(TRUSTED);
        connection.write(&request);
        // The answer to HEAD has no body, which the reader of answers does not know.
        connection.finish();
        if method == "HEAD" {
            continue;
        }
        let reply = connection.reply().unwrap();
        assert_eq!(
            (reply.status, reply.header("allow")),
            (405, Some("POST")),
            "{method}"
        );
    }
    assert_eq!(upstream.text(), "");
}

#[test]
fn who_may_use_a_route_is_the_routes_own_business() {
    let gate = Setup::before(Recorder::start().address)
        .routes(
            "
  - { path: /users, methods: [POST], allow: [authenticated] }
  - { path: /hosts, methods: [POST], allow: [trusted_hosts] }
  - { path: /open, methods: [GET], allow: [anyone] }
",
        )
        .start();
    let status =
        |from, path: &str, headers: &str| gate.send(from, post(path, headers, "")).unwrap().status;
    let scott = basic("scott", "tiger");
    assert_eq!(status(STRANGER, "/users", &scott), 200);
    assert_eq!(status(TRUSTED, "/users", &scott), 200);
    assert_eq!(status(TRUSTED, "/users", ""), 401, "credentials would help");
    assert_eq!(
        status(STRANGER, "/hosts", &scott),
        403,
        "credentials do not help"
    );
    assert_eq!(status(STRANGER, "/hosts", ""), 401);
    assert_eq!(status(TRUSTED, "/hosts", ""), 200);
    assert_eq!(gate.send(STRANGER, get("/open")).unwrap().status, 200);
    // Wrong credentials are never overlooked, not even where none are asked for.
    let request = format!(
        "GET /open HTTP/1.1\r\nHost: a\r\n{}\r\n",
        basic("scott", "lion")
    );
    assert_eq!(gate.send(STRANGER, request).unwrap().status, 401);
}
