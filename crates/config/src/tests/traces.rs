//! The section `traces`.

use super::schema::parse;
use super::{MINIMAL, check};
use crate::Settings;

fn settings(traces: &str) -> Settings {
    let text = format!("{MINIMAL}traces: {traces}\n");
    parse(&text, std::path::Path::new("x.yaml")).unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn without_a_collector_there_are_none() {
    for traces in ["off", "{}", "{ sample: 0.5 }"] {
        assert_eq!(settings(traces).traces, None, "{traces}");
    }
}

#[cfg(feature = "otlp")]
#[test]
fn the_collector_s_url_gets_the_path_of_the_protocol() {
    for (written, expected) in [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://a.example/", "https://a.example/v1/traces"),
        ("https://a/otlp", "https://a/otlp/v1/traces"),
    ] {
        let traces = settings(&format!("{{ otlp: '{written}' }}"))
            .traces
            .unwrap();
        assert_eq!(traces.endpoint, expected);
        assert_eq!((traces.sample, traces.identity), (0.01, false));
        assert_eq!(traces.service_name, "gatepost");
    }
    let all = "{ otlp: 'http://a', sample: 1, service_name: b, identity: true }";
    let traces = settings(all).traces.unwrap();
    assert_eq!((traces.sample, traces.identity), (1.0, true));
    assert_eq!(traces.service_name, "b");
}

#[test]
fn faults_name_what_is_expected() {
    let url = "expected the URL of a collector such as `http://127.0.0.1:4318`, found";
    for (traces, fault) in [
        (
            "{ otlp: '127.0.0.1:4318' }",
            format!("17: {url} `127.0.0.1:4318`"),
        ),
        ("{ otlp: 'grpc://a' }", format!("17: {url} `grpc://a`")),
        ("{ otlp: 'http://a?b' }", format!("17: {url} `http://a?b`")),
        ("{ otlp: '/a' }", format!("17: {url} `/a`")),
        (
            "{ otlp: 'http://me:secret@a' }",
            "17: a password does not belong here: the variable OTEL_EXPORTER_OTLP_HEADERS of the environment may hold `authorization=...`".to_owned(),
        ),
        (
            "{ sample: 1.5 }",
            "19: expected a share between 0 and 1 such as `0.01`, found the number 1.5".to_owned(),
        ),
        (
            "{ sample: -1 }",
            "19: expected a share between 0 and 1 such as `0.01`, found the number -1".to_owned(),
        ),
        (
            "{ endpoint: a }",
            "11: unknown key `endpoint`".to_owned(),
        ),
    ] {
        check(
            "",
            &format!("traces: {traces}"),
            &[&format!("x.yaml:9:{fault}")],
        );
    }
}

/// A key that would have no effect is a fault, where it stands.
#[cfg(not(feature = "otlp"))]
#[test]
fn without_the_feature_a_collector_is_a_fault() {
    check(
        "",
        "traces: { otlp: 'http://127.0.0.1:4318' }",
        &[
            "x.yaml:9:17: this gatepost was built without the feature `otlp`, so nobody would send spans: leave the key out, or build with `--features otlp`",
        ],
    );
}
