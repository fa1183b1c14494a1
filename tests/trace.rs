//! `traceparent` (W3C Trace Context): whose is believed.

use std::net::Ipv4Addr;

use crate::harness::{Recorder, STRANGER, Setup, basic, post};

const ID: &str = "0af7651916cd43dd8448eb211c80319c";
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Of whom nothing is known does not write into the operator's traces. A trusted proxy's trace and that of a client with an
/// identity go on to the MTA unchanged, if they are well-formed, and their id is in the access log.
#[test]
fn traces_of_the_known_go_on_and_others_do_not() {
    let good = format!("00-{ID}-b7ad6b7169203331-01");
    let upper = good.to_uppercase();
    let scott = basic("scott", "tiger");
    for (from, headers, traceparent, passes) in [
        (STRANGER, scott.as_str(), &good, true),
        (PROXY, "X-Forwarded-For: 192.0.2.1\r\n", &good, true),
        (STRANGER, "", &good, false),
        (STRANGER, scott.as_str(), &upper, false),
        (PROXY, "X-Forwarded-For: 192.0.2.1\r\n", &upper, false),
    ] {
        let upstream = Recorder::start();
        let gate = Setup::before(upstream.address)
            .with("trusted_proxies: [127.0.0.3]")
            .start();
        let headers = format!("{headers}Traceparent: {traceparent}\r\nTracestate: a=b\r\n");
        let reply = gate.send(from, post("/open", &headers, "")).unwrap();
        assert_eq!(reply.status, 200);
        let seen = upstream.text().to_ascii_lowercase();
        let has = |line: &str| seen.contains(line);
        assert_eq!(
            has(&format!("\r\ntraceparent: {good}\r\n")),
            passes,
            "{seen}"
        );
        assert_eq!(has("\r\ntracestate: a=b\r\n"), passes, "{seen}");
        assert_eq!(has("traceparent"), passes, "{seen}");
        let line = gate.wait_log(|line| line["message"] == "request");
        assert_eq!(line["trace_id"].as_str(), passes.then_some(ID));
    }
}
