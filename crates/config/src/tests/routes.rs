//! Faults of routes.

use std::path::Path;

use super::{MINIMAL, check, faults};
use crate::parse;

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
            "x.yaml:8:42: expected `anyone`, `authenticated` or `trusted_hosts`, found `everyone`",
            "x.yaml:8:52: expected `anyone`, `authenticated` or `trusted_hosts`, found `authentcated`",
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
