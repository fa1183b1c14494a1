//! Rules and quotas, and limits that no request meets.

use std::path::Path;

use super::schema::parse;
use super::{MINIMAL, check};

fn warnings(from: &str, to: &str, extra: &str) -> Vec<String> {
    let text = format!("{}{extra}\n", MINIMAL.replacen(from, to, 1));
    let settings = parse(&text, Path::new("x.yaml")).unwrap_or_else(|faults| panic!("{faults}"));
    settings.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn limits_that_no_request_meets_are_warned_about() {
    let looks = |to: &str, extra: &str| {
        warnings(
            "allow: [authenticated]",
            &format!("allow: [authenticated], {to}"),
            extra,
        )
    };
    let rule = "message_rules: [{ for: [anyone], max_recipients: 5 }]";
    assert_eq!(looks("message_policy: true", rule), [""; 0]);
    assert_eq!(
        looks("quota: true", rule),
        [
            "x.yaml:1:1: `message_rules` hold on routes with `message_policy: true`, and there is none"
        ]
    );
    let recipients = "quotas: { limits: [{ for: [anyone], recipients: [10/day] }] }";
    assert_eq!(looks("message_policy: true", recipients), [""; 0]);
    assert_eq!(
        looks("quota: true", recipients),
        [
            "x.yaml:1:1: recipients are counted on routes with `message_policy: true`, and there is none"
        ]
    );
    assert_eq!(
        looks("quota: false", recipients),
        [
            "x.yaml:1:1: `quotas` hold on routes with `message_policy: true` or `quota: true`, and there is none"
        ]
    );
    assert_eq!(
        looks(
            "message_policy: true",
            "message_rules:\n  - { for: [anyone] }\n  - { for: [anyone], from: [] }"
        ),
        [
            "x.yaml:10:5: this rule forbids nothing",
            "x.yaml:11:5: `from` is empty, so nothing may be sent"
        ]
    );
}

#[test]
fn faults_of_rules_and_quotas() {
    check(
        "",
        "message_rules:\n  - { for: [everybody], senders: [\"a@b\"], from: [\"<>\"], forbidden_headers: [\"a b\"], max_size: 0 }",
        &[
            "x.yaml:10:5: `<>` is for `senders`: From has no null address",
            "x.yaml:10:13: expected `anyone`, `{ identity: x }` or `{ group: x }`, found `everybody`",
            "x.yaml:10:35: a domain is written `example.com`, those below it `*.example.com`, the null sender `<>`",
            "x.yaml:10:77: `a b` is not a header name",
            "x.yaml:10:95: 0 B is not between 1 B and 4.0 GiB",
        ],
    );
    check(
        "",
        "quotas:\n  limits:\n    - { for: [anyone] }\n    - { for: [anyone], requests: [10/fortnight, { rate: 5/s }] }",
        &[
            "x.yaml:11:7: a limit names `requests`, `recipients` or both",
            "x.yaml:12:7: a limit names `requests`, `recipients` or both",
            "x.yaml:12:35: a rate is written `10/min`: a number above zero, and `s`, `min`, `hour` or `day`; found `10/fortnight`",
            "x.yaml:12:49: expected `10000/min` or `{ rate: 10000/min, burst: 500 }`",
        ],
    );
    check(
        "",
        "http: { bodies_in_memory: 1MiB }",
        &[
            "x.yaml:9:7: `http.bodies_in_memory` is less than `http.request_body_limit`: the largest body would never fit",
        ],
    );
    check(
        "address: 127.0.0.1:8000",
        "address: 127.0.0.1:8000\n  meta_headers: { http_auth: X-A, tenant: Host, a: x_http_auth }",
        &[
            "x.yaml:4:3: two of the headers that gatepost sets are called `x_http_auth`",
            "x.yaml:5:19: the meta `http_auth` is not the policy's to set",
            "x.yaml:5:43: `Host` has a meaning of its own and cannot say who sent a request",
        ],
    );
}
