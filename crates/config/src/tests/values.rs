//! Values that are not what their key takes.

use std::path::Path;

use super::schema::parse;
use super::{MINIMAL, check};

#[test]
fn wrong_types() {
    check(
        "  - listen: 0.0.0.0:8080",
        "  listen: 0.0.0.0:8080",
        &["x.yaml:2:3: expected a list such as `- key: value`, found a mapping"],
    );
    check(
        "  - listen: 0.0.0.0:8080",
        "  - 0.0.0.0:8080",
        &["x.yaml:2:5: expected a mapping, found `0.0.0.0:8080`"],
    );
    check(
        "  address: 127.0.0.1:8000",
        "  address: { a: b }",
        &["x.yaml:4:12: expected a text, found a mapping"],
    );
    check(
        "[POST]",
        "POST",
        &["x.yaml:8:38: expected a list such as `[POST]`, found `POST`"],
    );
    check(
        "",
        "http: 5",
        &["x.yaml:9:7: expected a mapping, found the number 5"],
    );
    check(
        "",
        "threads: many",
        &["x.yaml:9:10: expected a whole number, found `many`"],
    );
    check(
        "",
        "threads: '4'",
        &["x.yaml:9:10: expected a whole number, found the text \"4\""],
    );
    check(
        "",
        "threads: 010",
        &["x.yaml:9:10: expected a whole number, found the text \"010\""],
    );
    check(
        "",
        "threads: .nan",
        &["x.yaml:9:10: expected a whole number, found `.nan`"],
    );
    check(
        "",
        "log:",
        &["x.yaml:9:4: expected a mapping, found nothing"],
    );
    check(
        "",
        "admin: on",
        &["x.yaml:9:8: expected a mapping, found `on`"],
    );
    check(
        "",
        "trusted_hosts: 127.0.0.1",
        &["x.yaml:9:16: expected a list such as `[10.0.0.0/8, \"::1\"]`, found `127.0.0.1`"],
    );
}

#[test]
fn addresses_to_listen_on() {
    let listen = |text: &str, found: &str| {
        check(
            "0.0.0.0:8080",
            text,
            &[&format!(
                "x.yaml:2:13: expected an IP address and port such as `0.0.0.0:8080`, found {found}"
            )],
        );
    };
    listen("localhost:8080", "`localhost:8080`");
    listen("0.0.0.0:99999", "`0.0.0.0:99999`");
    listen("0.0.0.0", "`0.0.0.0`");
    check(
        "0.0.0.0:8080",
        "8080",
        &["x.yaml:2:13: expected a text, found the number 8080"],
    );
    check(
        "  - listen: 0.0.0.0:8080",
        "  - listen: 0.0.0.0:8080\n  - listen: 0.0.0.0:8080",
        &["x.yaml:3:5: 0.0.0.0:8080 is listened on twice"],
    );
    check(
        "",
        "admin: { listen: 0.0.0.0:8080, token: \"${CARGO_MANIFEST_DIR}\" }",
        &[
            "x.yaml:9:8: clients are listened to on 0.0.0.0:8080; the admin listener needs a port of its own, not 0.0.0.0:8080",
        ],
    );
    check(
        "",
        "admin: { listen: 127.0.0.1:8080 }",
        &[
            "x.yaml:9:8: clients are listened to on 0.0.0.0:8080; the admin listener needs a port of its own, not 127.0.0.1:8080",
        ],
    );
    check(
        "  - listen: 0.0.0.0:8080",
        "  - listen: 127.0.0.1:8080\n  - listen: 0.0.0.0:8080",
        &["x.yaml:3:5: 0.0.0.0:8080 and 127.0.0.1:8080 are one port of one address"],
    );
}

#[test]
fn upstream_addresses() {
    for text in [
        "nowhere",
        "mta:0",
        "127.0.0.1:0",
        ":8000",
        "mta:+80",
        "mta:80/api",
        "mta:99999",
        "mta:x",
        "a b:80",
        "::1:x",
        "mta..test:80",
        "-mta:80",
        ".:80",
        "127.1:80",
    ] {
        check(
            "127.0.0.1:8000",
            &format!("\"{text}\""),
            &[&format!(
                "x.yaml:4:12: expected `host:port`, `https://host:port`, `unix:/path` or `demo`, found `{text}`"
            )],
        );
    }
    check(
        "127.0.0.1:8000",
        "HTTP://mta:8000",
        &["x.yaml:4:12: write `host:port` without `http://` and without a path"],
    );
    check(
        "127.0.0.1:8000",
        &format!("unix:/{}", "a".repeat(107)),
        &["x.yaml:4:12: a Unix socket's path has at most 107 bytes, this has 108"],
    );
    check(
        "127.0.0.1:8000",
        "unix:mta.sock",
        &["x.yaml:4:12: a Unix socket's path must be absolute: `unix:/run/mta.sock`"],
    );
}

#[test]
fn several_upstream_addresses() {
    let clear = "all addresses are `https://`, or none is: who may be told an identity in clear may be told all of them";
    for (text, fault) in [
        ("[]", "x.yaml:4:12: `upstream.address` is empty"),
        ("[mta:1, mta:1]", "x.yaml:4:20: `mta:1` is there twice"),
        (
            "[mta:1, https://mta]",
            &format!("x.yaml:4:12: {clear}") as &str,
        ),
        ("[demo, mta:1]", "x.yaml:4:12: `demo` stands alone"),
        (
            "[mta:1, unix:/x]\n  demo_store: x",
            "x.yaml:5:15: `upstream.demo_store` is for `address: demo` alone",
        ),
        (
            "mta:1\n  health_check: { interval: 3s }",
            "x.yaml:5:17: `upstream.health_check.path` is missing",
        ),
        (
            "mta:1\n  health_check: { path: health }",
            "x.yaml:5:25: expected a path such as `/health`, found `health`",
        ),
        (
            "mta:1\n  health_check: { path: /, interval: 1s }",
            "x.yaml:5:17: `upstream.health_check.timeout` is longer than `interval`: an address that hangs would hold up the checks of others",
        ),
        (
            "mta:1\n  nameservers: [dns.example]",
            "x.yaml:5:17: expected an IP address, with or without a port, found `dns.example`",
        ),
        (
            "mta:1\n  max_connections: 0",
            "x.yaml:5:20: 0 is not between 1 and 1000000",
        ),
    ] {
        check("127.0.0.1:8000", text, &[fault]);
    }
}

#[test]
fn networks() {
    check(
        "",
        "trusted_hosts: [127.0.0.1, 10.0.0.300/8]",
        &["x.yaml:9:28: `10.0.0.300/8` is not an address or network such as 10.0.0.0/8"],
    );
    check(
        "",
        "trusted_proxies: [10.0.0.1/8]",
        &[
            "x.yaml:9:19: `10.0.0.1/8` has bits set behind its prefix: write `10.0.0.0/8` for the network or `10.0.0.1` for the host",
        ],
    );
}

#[test]
fn the_rate_of_bodies_may_be_off() {
    check(
        "",
        "http: { min_body_rate: 0 }",
        &["x.yaml:9:24: 0 B is not between 1 B and 1.0 GiB"],
    );
    let rate = |yaml: &str| {
        let text = format!("{MINIMAL}{yaml}\n");
        parse(&text, Path::new("x")).unwrap().http.min_body_rate
    };
    assert_eq!(rate("http: { min_body_rate: off }"), None);
    assert_eq!(rate("http: { min_body_rate: 2KiB }"), Some(2048));
}

#[test]
fn durations_sizes_and_numbers() {
    let timeout = |text: &str, complaint: &str| {
        check(
            "  file: policy.lua",
            &format!("  file: policy.lua\n  callback_timeout: {text}"),
            &[&format!("x.yaml:7:21: {complaint}")],
        );
    };
    timeout(
        "5",
        "expected a duration with its unit, such as `5s`, found the number 5",
    );
    timeout("soon", "expected a duration such as `5s`, found `soon`");
    timeout("-5s", "expected a duration such as `5s`, found `-5s`");
    timeout("[5s]", "expected a duration such as `5s`, found a list");
    timeout("1 30s", "expected a duration such as `5s`, found `1 30s`");
    timeout(
        "18446744073709551615s 1000ms",
        "expected a duration such as `5s`, found `18446744073709551615s 1000ms`",
    );
    timeout("''", "expected a duration such as `5s`, found ``");
    timeout("0s", "0s is not between 1ms and 1h");
    timeout("2h", "2h is not between 1ms and 1h");
    let limit = |text: &str, complaint: &str| {
        check(
            "  file: policy.lua",
            &format!("  file: policy.lua\n  memory_limit: {text}"),
            &[&format!("x.yaml:7:17: {complaint}")],
        );
    };
    limit("lots", "expected a size such as `64MiB`, found `lots`");
    limit("-1", "expected a size such as `64MiB`, found the number -1");
    limit("5KiB", "5.0 KiB is not between 1.0 MiB and 4.0 GiB");
    check(
        "",
        "threads: 0",
        &["x.yaml:9:10: 0 is not between 1 and 1024"],
    );
    check(
        "",
        "threads: 1.5",
        &["x.yaml:9:10: expected a whole number, found the number 1.5"],
    );
    check(
        "",
        "http: { max_head_fields: 5 }",
        &["x.yaml:9:26: 5 is not between 10 and 256"],
    );
    for good in ["5s", "500ms", "1m 30s", "5 minutes", "1h", "1.5 s", "1m30s"] {
        let text = MINIMAL.replace(
            "policy.lua",
            &format!("policy.lua\n  callback_timeout: {good}"),
        );
        assert!(parse(&text, Path::new("x")).is_ok(), "{good}");
    }
    for (good, bytes) in [
        ("64MiB", 64 << 20),
        ("2 MiB", 2 << 20),
        ("3MB", 3_000_000),
        ("1048576", 1 << 20),
    ] {
        let text = MINIMAL.replace("policy.lua", &format!("policy.lua\n  memory_limit: {good}"));
        assert_eq!(
            parse(&text, Path::new("x")).unwrap().policy.memory_limit,
            bytes,
            "{good}"
        );
    }
}

#[test]
fn the_identity_and_the_challenge() {
    let upstream = |text: &str, complaint: &str| {
        check(
            "  address: 127.0.0.1:8000",
            &format!("  address: 127.0.0.1:8000\n  {text}"),
            &[&format!("x.yaml:5:{complaint}")],
        );
    };
    upstream(
        "identity: carrier-pigeon",
        "13: expected `header`, `basic`, `basic_user` or `bearer`, found `carrier-pigeon`",
    );
    upstream("identity_header: X Y", "20: `X Y` is not a header name");
    upstream(
        "identity_header: Host",
        "20: `Host` has a meaning of its own and cannot say who sent a request",
    );
    upstream(
        "identity_header: Content_Length",
        "20: `Content_Length` has a meaning of its own and cannot say who sent a request",
    );
    check(
        "  address: 127.0.0.1:8000",
        "  address: 127.0.0.1:8000\n  demo_store: x.db",
        &["x.yaml:5:15: `upstream.demo_store` is for `address: demo` alone"],
    );
    check(
        "",
        "basic: { realm: 'a\"b' }",
        &["x.yaml:9:17: a realm is at most 64 ASCII characters without `\"` and `\\`"],
    );
    check(
        "",
        "basic: { missing_password: allow }",
        &["x.yaml:9:28: expected `refuse` or `nil`, found `allow`"],
    );
    // A key that was left empty must not loosen anything.
    check(
        "",
        "basic:\n  missing_password:",
        &["x.yaml:10:19: expected `refuse` or `nil`, found nothing"],
    );
    check(
        "",
        "log: { format: '${FORMAT}' }",
        &["x.yaml:9:16: `${…}` is not replaced here: only secrets come from the environment"],
    );
    check(
        "",
        "basic: { realm: '${REALM}' }",
        &["x.yaml:9:17: `${…}` is not replaced here: only secrets come from the environment"],
    );
    check(
        "",
        "log: { level: loud }",
        &["x.yaml:9:15: expected `error`, `warn`, `info`, `debug` or `trace`, found `loud`"],
    );
    check(
        "",
        "metrics: { top_identities: 1001 }",
        &["x.yaml:9:28: 1001 is not between 0 and 1000"],
    );
}

#[test]
fn identities_are_in_metrics_where_they_are_asked_for() {
    for (line, expected) in [
        ("", 0),
        ("metrics: { top_identities: off }", 0),
        ("metrics: { top_identities: 0 }", 0),
        ("metrics: { top_identities: 1000 }", 1000),
    ] {
        let settings = parse(&format!("{MINIMAL}{line}\n"), Path::new("x.yaml"));
        assert_eq!(settings.unwrap().metrics.top_identities, expected, "{line}");
    }
}
