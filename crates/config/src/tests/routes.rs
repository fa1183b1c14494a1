//! Faults of routes.

use std::path::Path;

use super::schema::parse;
use super::{MINIMAL, check, faults};
use gatepost_auth::Origin;
use gatepost_auth::path::Target;
use gatepost_message::Format;
use http::Method;

#[test]
fn routes() {
    let route = |text: &str, expected: &[&str]| {
        check(
            "{ path: /api/inject/v1, methods: [POST], allow: [authenticated] }",
            text,
            expected,
        );
    };
    route(
        "{ path: api, methods: [POST], allow: [anyone] }",
        &["x.yaml:8:13: no request can have this path: the request target must begin with a slash"],
    );
    route(
        "{ path: /a*, methods: [POST], allow: [anyone] }",
        &["x.yaml:8:13: a path is either exact or ends in `/*`, and holds no query"],
    );
    route(
        "{ path: /a/../b, methods: [POST], allow: [anyone] }",
        &["x.yaml:8:13: no request can have this path: the path holds a dot segment"],
    );
    route(
        "{ path: /a, methods: [], allow: [anyone] }",
        &["x.yaml:8:26: `routes.methods` is empty"],
    );
    route(
        "{ path: /a, methods: [TRACE, GET, CONNECT], allow: [anyone] }",
        &[
            "x.yaml:8:27: TRACE never passes: it would show or open what lies behind the gate",
            "x.yaml:8:39: CONNECT never passes: it would show or open what lies behind the gate",
        ],
    );
    route(
        "{ path: /a, methods: [post], allow: [anyone] }",
        &["x.yaml:8:27: `post` is not a method; methods are written in capitals"],
    );
    route(
        "{ path: /a, methods: [POST, POST], allow: [anyone] }",
        &["x.yaml:8:33: `POST` is there twice"],
    );
    route(
        "{ path: /a, methods: [POST], allow: [] }",
        &["x.yaml:8:41: `routes.allow` is empty"],
    );
    route(
        "{ path: /a, methods: [POST], allow: [everyone, authentcated] }",
        &[
            "x.yaml:8:42: expected `anyone`, `authenticated`, `trusted_hosts` or an expression such as `{ group: staff }`, found `everyone`",
            "x.yaml:8:52: expected `anyone`, `authenticated`, `trusted_hosts` or an expression such as `{ group: staff }`, found `authentcated`",
        ],
    );
    route(
        "{ path: /a, methods: [POST], allow: [anyone, authenticated] }",
        &["x.yaml:8:5: `anyone` makes the rest of `allow` meaningless"],
    );
}

/// The attack: a strict route behind a wide one looks as if it protected something.
#[test]
fn a_route_that_can_never_match_is_a_fault() {
    let two = |first: &str, second: &str| {
        let route = |path: &str, methods: &str| {
            format!("{{ path: {path}, methods: [{methods}], allow: [authenticated] }}")
        };
        MINIMAL.replace(
            "{ path: /api/inject/v1, methods: [POST], allow: [authenticated] }",
            &format!(
                "{}\n  - {}",
                route(first, "GET, POST"),
                route(second, "POST")
            ),
        )
    };
    for (first, second) in [
        ("/a", "/a"),
        ("/a/*", "/a/b"),
        ("/a/*", "/a/b/*"),
        ("/*", "/a"),
    ] {
        assert_eq!(
            faults(&two(first, second)),
            [format!(
                "x.yaml:9:5: the route on line 8 takes every `POST {second}` already; write the narrower path first"
            )]
        );
    }
    for (first, second) in [
        ("/a/b", "/a/*"),
        ("/a/*", "/a"),
        ("/a/*", "/a/"),
        ("/a", "/a/b"),
    ] {
        let text = two(first, second);
        assert!(parse(&text, Path::new("x")).is_ok(), "{first} {second}");
    }
}

#[test]
fn formats_of_messages() {
    for (word, format) in [
        ("kumomta", Format::KumoMta),
        ("zonemta", Format::ZoneMta),
        ("zonemta_raw", Format::ZoneMtaRaw),
        ("rfc822", Format::Rfc822),
    ] {
        let more = format!("[authenticated], message_policy: true, message_format: {word}");
        let text = MINIMAL.replacen("[authenticated]", &more, 1);
        let settings = parse(&text, Path::new("x.yaml")).unwrap();
        let route = settings.gate.routes.iter().next().unwrap();
        assert_eq!(route.message, Some(format), "{word}");
    }
}

#[test]
fn expressions() {
    let rule = |text: &str, expected: &[&str]| {
        let route = format!("{{ path: /a, methods: [POST], allow: [{text}] }}");
        let text = MINIMAL.replacen(
            "{ path: /api/inject/v1, methods: [POST], allow: [authenticated] }",
            &route,
            1,
        );
        let shown: Vec<String> = match parse(&text, Path::new("x.yaml")) {
            Ok(settings) => {
                let route = settings.gate.routes.iter().next().unwrap();
                route.allow.iter().map(ToString::to_string).collect()
            }
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(shown, expected, "{text}");
    };
    rule("{identity: scott}", &["{identity: scott}"]);
    rule(
        "{all_of: [authenticated, {network: 10.0.0.0/8}]}, {group: staff}",
        &[
            "{all_of: [authenticated, {network: 10.0.0.0/8}]}",
            "{group: staff}",
        ],
    );
    rule(
        "{all_of: [{any_of: [{group: a}, {group: b}]}, {not: {identity: mallory}}]}",
        &["{all_of: [{any_of: [{group: a}, {group: b}]}, {not: {identity: mallory}}]}"],
    );
    rule(
        "{not: {identity: mallory}}",
        &[
            "x.yaml:8:5: {not: {identity: mallory}} lets everybody in who sends no credentials: write `anyone` if that is meant, or put it into `all_of` with `authenticated`",
        ],
    );
    rule(
        "{all_of: []}",
        &["x.yaml:8:42: `all_of` takes a list of rules, found a list"],
    );
    rule(
        "{identity: 5}",
        &["x.yaml:8:42: expected a text, found the number 5"],
    );
    rule(
        "{identity: \" scott\"}",
        &[
            "x.yaml:8:42: an identity or group is empty, too long, or holds white space at its ends or control characters",
        ],
    );
    rule(
        "{user: scott}",
        &[
            "x.yaml:8:42: expected one of `{identity: x}`, `{group: x}`, `{network: x}`, `{all_of: []}`, `{any_of: []}`, `{not: x}`, found `user`",
        ],
    );
    rule(
        "{group: a, identity: b}",
        &[
            "x.yaml:8:42: expected one of `{identity: x}`, `{group: x}`, `{network: x}`, `{all_of: []}`, `{any_of: []}`, `{not: x}`, with one key each",
        ],
    );
    rule(
        "{network: 10.0.0.1/8}",
        &[
            "x.yaml:8:42: `10.0.0.1/8` has bits set behind its prefix: write `10.0.0.0/8` for the network or `10.0.0.1` for the host",
        ],
    );
    let deep = format!("{}authenticated{}", "{not: ".repeat(20), "}".repeat(20));
    rule(&deep, &["x.yaml:8:42: rules nest at most 16 deep"]);
}

/// KumoMTA's default ACL, without what administers the MTA for everybody on loopback.
#[test]
fn the_kumomta_preset() {
    let text = MINIMAL.replacen(
        "{ path: /api/inject/v1, methods: [POST], allow: [authenticated] }",
        "preset: kumomta",
        1,
    );
    let text = format!("{text}trusted_hosts: [127.0.0.1, \"::1\", 192.0.2.7]\n");
    let settings = parse(&text, Path::new("x.yaml")).unwrap();
    let gate = &settings.gate;
    // What comes of a request without credentials from there.
    let ask = |method: &str, path: &str, from: &str| {
        let client = from.parse().unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let target = Target::parse(path.as_bytes()).unwrap();
        let route = gate.routes.find(&method, &target)?;
        let subject = gate.without_credentials(route, &Origin::direct(client))?;
        gate.permit(route, Origin::direct(client), subject)
            .map(|_| ())
    };
    let (loopback, admin, stranger) = ("127.0.0.1", "192.0.2.7", "203.0.113.1");
    for (method, path, from, status) in [
        ("POST", "/api/inject/v1", loopback, 200),
        ("POST", "/api/inject/v1", stranger, 401),
        ("GET", "/api/inject/v1", loopback, 405),
        ("GET", "/api/check-liveness/v1", stranger, 200),
        ("GET", "/rapidoc", stranger, 200),
        ("POST", "/api/admin/bounce/v1", loopback, 403),
        ("POST", "/api/admin/bounce/v1", "::1", 403),
        ("POST", "/api/admin/bounce/v1", admin, 200),
        ("DELETE", "/api/admin/bounce/v1", admin, 200),
        ("GET", "/metrics", loopback, 403),
        ("GET", "/metrics.json", admin, 200),
        ("POST", "/api/xfer/inject/v1", loopback, 403),
        ("GET", "/api/machine-info", admin, 200),
        ("GET", "/other", admin, 404),
    ] {
        let got = ask(method, path, from).map_or_else(|it| it.status().as_u16(), |()| 200);
        assert_eq!(got, status, "{method} {path} from {from}");
    }
}

/// An operator's own routes come first where they are written first.
#[test]
fn a_preset_does_not_replace_what_stands_before_it() {
    let text = format!("{MINIMAL}  - preset: kumomta\n");
    let settings = parse(&text, Path::new("x.yaml")).unwrap();
    let first = settings.gate.routes.iter().next().unwrap();
    assert_eq!(&**first.path.label(), "/api/inject/v1");
    check(
        "",
        "  - { preset: kumomta, methods: [GET] }",
        &["x.yaml:9:24: unknown key `methods`"],
    );
    check(
        "",
        "  - preset: nginx",
        &["x.yaml:9:13: expected `kumomta`, found `nginx`"],
    );
}
