//! The admin listener, as Prometheus and the kubelet see it.

use crate::harness::{STRANGER, Setup, TRUSTED, basic, get, inject};

#[test]
fn metrics_count_what_happened() {
    let gate = Setup::demo().start();
    let send = |from, headers: &str| gate.send(from, inject(headers)).unwrap().status;
    assert_eq!(send(STRANGER, &basic("scott", "tiger")), 200);
    assert_eq!(send(STRANGER, &basic("scott", "lion")), 401);
    assert_eq!(send(STRANGER, &basic("r-error", "x")), 500);
    assert_eq!(send(TRUSTED, ""), 200);
    assert_eq!(send(STRANGER, ""), 401);
    assert_eq!(gate.send(STRANGER, get("/nowhere")).unwrap().status, 404);
    assert_eq!(gate.send(STRANGER, "nonsense\r\n\r\n").unwrap().status, 400);
    let inject = "route=\"/api/inject/v1\"";
    for (series, value) in [
        (
            format!("gatepost_requests_total{{{inject},status=\"200\"}}"),
            2.0,
        ),
        (
            format!("gatepost_requests_total{{{inject},status=\"401\"}}"),
            2.0,
        ),
        (
            format!("gatepost_requests_total{{{inject},status=\"500\"}}"),
            1.0,
        ),
        (
            "gatepost_requests_total{route=\"\",status=\"404\"}".to_owned(),
            1.0,
        ),
        (
            "gatepost_requests_total{route=\"\",status=\"400\"}".to_owned(),
            1.0,
        ),
        (
            "gatepost_decisions_total{mechanism=\"basic\",outcome=\"accepted\"}".to_owned(),
            1.0,
        ),
        (
            "gatepost_decisions_total{mechanism=\"basic\",outcome=\"rejected\"}".to_owned(),
            1.0,
        ),
        (
            "gatepost_decisions_total{mechanism=\"basic\",outcome=\"failed\"}".to_owned(),
            1.0,
        ),
        (
            "gatepost_decisions_total{mechanism=\"trusted_host\",outcome=\"accepted\"}".to_owned(),
            1.0,
        ),
        (
            "gatepost_refusals_total{reason=\"unauthorized\"}".to_owned(),
            2.0,
        ),
        (
            "gatepost_policy_call_seconds_count{outcome=\"accepted\"}".to_owned(),
            1.0,
        ),
        ("gatepost_upstream_seconds_count".to_owned(), 2.0),
        ("gatepost_policy_workers_abandoned_total".to_owned(), 0.0),
        ("gatepost_policy_calls_in_flight".to_owned(), 0.0),
        ("gatepost_policy_hashes_waiting".to_owned(), 0.0),
    ] {
        crate::harness::wait_for(&format!("{series} to be {value}"), || {
            gate.metric(&series) == value
        });
    }
    crate::harness::wait_for("nothing in flight", || {
        gate.metric("gatepost_requests_in_flight") == 0.0
    });
}

#[test]
fn the_build_and_the_process_are_described_and_nobody_is_named() {
    let gate = Setup::demo().start();
    assert_eq!(
        gate.send(STRANGER, inject(&basic("scott", "tiger")))
            .unwrap()
            .status,
        200
    );
    let text = gate.admin("/metrics").text();
    assert!(text.contains("gatepost_build_info{revision=\""), "{text}");
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
    assert!(!text.contains("scott"), "no label holds a user");
}

#[test]
fn probes_answer_and_unlisted_pages_do_not_exist() {
    let gate = Setup::demo().start();
    assert_eq!(
        (gate.admin("/livez").status, gate.admin("/readyz").status),
        (200, 200)
    );
    assert_eq!(gate.admin("/").status, 404);
    // Nor are the admin pages to be had from outside.
    assert_eq!(gate.send(TRUSTED, get("/metrics")).unwrap().status, 404);
}
