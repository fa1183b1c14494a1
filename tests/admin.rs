//! The admin listener, as Prometheus and the kubelet see it.

use crate::harness::{
    Connection, Gatepost, Reply, STRANGER, Setup, TRUSTED, basic, get, inject, run, wait_for,
};

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
    assert_eq!(gate.admin("/nowhere").status, 404);
    // Nor are the admin pages to be had from outside.
    assert_eq!(gate.send(TRUSTED, get("/metrics")).unwrap().status, 404);
}

/// One request to the admin listener, with these header lines beside its length.
fn ask(gate: &Gatepost, method: &str, path: &str, headers: &str, body: &str) -> Reply {
    let mut connection = Connection::open(gate.admin, TRUSTED);
    connection.write(format!(
        "{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    ));
    connection.reply().unwrap()
}

/// With a token, nobody else reads or changes anything; probes need none.
#[test]
fn everything_but_probes_needs_the_token() {
    let gate = Setup::demo()
        .with("admin.token: { file: token }")
        .file("token", "correct-horse-battery\n")
        .start();
    for probe in ["/livez", "/readyz"] {
        assert_eq!(gate.admin(probe).status, 200);
    }
    let good = "Authorization: Bearer correct-horse-battery\r\n";
    for (method, path) in [
        ("GET", "/metrics"),
        ("POST", "/reload"),
        ("GET", "/log"),
        ("PUT", "/log"),
        ("GET", "/quota/scott"),
        ("DELETE", "/quota/scott"),
        ("GET", "/status.json"),
    ] {
        let status = |headers: &str| {
            let headers = format!("Host: gatepost.mail.svc\r\n{headers}");
            let reply = ask(&gate, method, path, &headers, "info");
            assert_eq!(
                reply.status == 401,
                reply.header("www-authenticate").is_some()
            );
            reply.status
        };
        assert_eq!(status(good), 200, "{method} {path}");
        for bad in [
            "",
            "Authorization: Bearer correct-horse-batterx\r\n",
            "Authorization: Bearer correct-horse\r\n",
            "Authorization: Bearer\r\n",
            "Authorization: Basic correct-horse-battery\r\n",
            &good.repeat(2),
        ] {
            assert_eq!(status(bad), 401, "{method} {path} {bad}");
        }
    }
    // The token that the command line finds in the configuration.
    let yaml = std::fs::read_to_string(gate.folder().join("gatepost.yaml")).unwrap();
    let (first, last) = yaml.split_once("admin:\n  listen: 127.0.0.1:0").unwrap();
    let yaml = format!("{first}admin:\n  listen: {}{last}", gate.admin);
    std::fs::write(gate.folder().join("quota.yaml"), yaml).unwrap();
    let arguments = ["quota", "--config", "quota.yaml", "scott"];
    let (status, out, err) = run(&arguments, gate.folder());
    assert_eq!(
        (status, out.as_str()),
        (Some(0), "no quotas are configured\n"),
        "{err}"
    );
    // A new one counts after a reload, as secrets do.
    std::fs::write(gate.folder().join("token"), "another-horse-battery").unwrap();
    assert_eq!(
        ask(&gate, "POST", "/reload", &format!("Host: a\r\n{good}"), "").status,
        200
    );
    assert_eq!(
        ask(&gate, "POST", "/reload", &format!("Host: a\r\n{good}"), "").status,
        401
    );
}

/// The attack: a page in a browser on the same host. It can send anything to loopback, under a name of its own (DNS rebinding) or as a
/// form to another origin; what it cannot do is leave out Host or lie about Origin.
#[test]
fn a_page_in_a_browser_changes_nothing() {
    let gate = Setup::demo().start();
    let port = gate.admin.port();
    for (headers, status) in [
        (format!("Host: 127.0.0.1:{port}\r\n"), 200),
        (format!("Host: [::1]:{port}\r\n"), 200),
        ("Host: LOCALHOST\r\n".to_owned(), 200),
        (
            format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"),
            200,
        ),
        (format!("Host: rebound.example:{port}\r\n"), 403),
        ("Host: localhost.example\r\n".to_owned(), 403),
        ("Host: 127.0.0.1.example\r\n".to_owned(), 403),
        (
            format!("Host: localhost:{port}\r\nOrigin: http://evil.example\r\n"),
            403,
        ),
        (format!("Host: localhost:{port}\r\nOrigin: null\r\n"), 403),
        (
            format!("Host: localhost:{port}\r\nOrigin: http://localhost:1\r\n"),
            403,
        ),
    ] {
        for (method, path) in [
            ("POST", "/reload"),
            ("PUT", "/log"),
            ("DELETE", "/quota/scott"),
        ] {
            let reply = ask(&gate, method, path, &headers, "info");
            assert_eq!(reply.status, status, "{method} {path} {headers}");
        }
    }
    for path in ["/reload", "/log?level=debug"] {
        let reply = gate.admin(path);
        assert!(
            reply.status == 405 || reply.text() == "info\n",
            "GET changes nothing"
        );
    }
}

/// The level changes while requests go on, and a reload takes it back to what the file says.
#[test]
fn the_log_level_is_changed_while_it_runs() {
    let gate = Setup::demo().with("reload: { watch: off }").start();
    let put = |level: &str| ask(&gate, "PUT", "/log", "Host: localhost\r\n", level);
    let request = |path: &str| assert_eq!(gate.send(TRUSTED, get(path)).unwrap().status, 404);
    assert_eq!(gate.admin("/log").text(), "info\n");
    assert_eq!(put("error\n").text(), "error\n");
    request("/a");
    // The client has its answer a moment before the line would be written.
    wait_for("the end of the first", || {
        gate.metric("gatepost_requests_in_flight") == 0.0
    });
    assert_eq!(gate.admin("/log").text(), "error\n");
    let reply = put("loud");
    assert_eq!(reply.status, 422);
    assert!(
        reply.text().contains("error, warn, info, debug and trace"),
        "{}",
        reply.text()
    );
    assert_eq!(put("info").status, 200);
    request("/b");
    gate.wait_log(|line| line["message"] == "request");
    assert_eq!(put("error").status, 200);
    assert_eq!(
        ask(&gate, "POST", "/reload", "Host: localhost\r\n", "").status,
        200
    );
    assert_eq!(gate.admin("/log").text(), "info\n");
    request("/c");
    let written = || gate.logged().matches("\"message\":\"request\"").count();
    wait_for("the line of the last", || written() >= 2);
    assert_eq!(written(), 2, "none of the first");
}

/// The need: a log that nobody reads (a pipe into a logger that hangs) does not stop the proxy.
#[test]
fn a_log_that_nobody_reads_holds_up_no_request() {
    let gate = Setup::demo().with("log: { level: trace }").unread().start();
    let lost = || gate.metric("gatepost_log_lines_lost_total");
    let mut connection = gate.connect(TRUSTED);
    let mut count = 0;
    while lost() == 0.0 {
        for _ in 0..500 {
            connection.write(get("/nowhere"));
            assert_eq!(connection.reply().unwrap().status, 404);
        }
        count += 500;
        assert!(count < 100_000, "lines have to be lost at some time");
    }
}

/// Whoever reaches the admin listener cannot take every file descriptor: the oldest connections make room, and a probe is answered.
#[test]
fn probes_are_answered_beside_a_crowd_at_the_admin_listener() {
    let gate = Setup::demo().start();
    let crowd: Vec<_> = (0..400)
        .map(|_| {
            let connection = Connection::open(gate.admin, TRUSTED);
            assert_eq!(gate.admin("/livez").status, 200);
            connection
        })
        .collect();
    assert!(gate.metric("process_open_fds") < 350.0);
    let mut crowd = crowd.into_iter();
    assert!(crowd.next().unwrap().closes(), "the oldest is cut");
    let mut newest = crowd.next_back().unwrap();
    newest.write(get("/livez"));
    assert_eq!(newest.reply().unwrap().status, 200);
}
