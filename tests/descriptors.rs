//! File descriptors: as many as the configuration needs, words where there are not, and nothing that breaks where they run out.

use crate::harness::{Connection, Gatepost, Recorder, Setup, TRUSTED, get, inject, wait_for};

/// Soft and hard limit, as the kernel has them.
fn limits(gate: &Gatepost) -> (String, String) {
    let text = std::fs::read_to_string(format!("/proc/{}/limits", gate.pid())).unwrap();
    let line = text.lines().find(|it| it.starts_with("Max open files"));
    let mut words = line.unwrap().split_whitespace().skip(3);
    let mut next = || words.next().unwrap().to_owned();
    (next(), next())
}

/// Most systems give a process 1024 and let it have more. It takes them where it needs them, and says nothing.
#[test]
fn the_soft_limit_is_raised_where_that_is_enough() {
    let gate = Setup::demo()
        .ulimit("-S -n 300")
        .with("http: { max_connections: 1000 }")
        .start();
    let (soft, hard) = limits(&gate);
    assert_eq!(soft, hard);
    assert!(!gate.logged().contains("file descriptors"));
    assert_eq!(gate.metric("gatepost_file_descriptors_needed"), 3384.0);
    // Where they are enough, they stay as the operator has set them.
    let gate = Setup::demo()
        .ulimit("-S -n 300")
        .with("http: { max_connections: 20 }\nupstream.max_idle_connections: 8")
        .start();
    assert_eq!(limits(&gate).0, "300");
}

/// A limit that is too low for the configuration is no error, since few need all of it, but it is said with the numbers: at the
/// start, and where a reload wants more.
#[test]
fn too_low_a_limit_is_said_with_its_numbers() {
    let gate = Setup::demo()
        .ulimit("-n 628")
        .with("http: { max_connections: 1000 }")
        .start();
    let warned = |needed: u64, most: u64| {
        let line = gate.wait_log(|it| it["needed"] == needed);
        assert_eq!(line["level"], "WARN");
        assert_eq!(
            (&line["limit"], &line["enough_for"]),
            (&628.into(), &166.into())
        );
        assert_eq!(line["max_connections"], most);
        let said = line["message"].as_str().unwrap();
        assert!(said.starts_with("too few file descriptors for `http.max_connections`"));
    };
    warned(3384, 1000);
    let file = gate.folder().join("gatepost.yaml");
    let yaml = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, yaml.replace("1000", "2000")).unwrap();
    gate.signal("HUP");
    warned(6384, 2000);
}

/// More clients than descriptors: those that are in are served, those that wait get their turn when others leave, the admin listener's
/// open connections go on, and the log is not flooded.
#[test]
fn running_out_of_descriptors_breaks_nothing() {
    let upstream = Recorder::start();
    // With more threads the library watches an idle connection from any of them, and opens another where that one has not let go of it yet.
    let gate = Setup::before(upstream.address)
        .ulimit("-n 80")
        .with("reload: { watch: off }\nthreads: 1")
        .start();
    let ask = |connection: &mut Connection| {
        connection.write(inject(""));
        connection.reply().unwrap().status
    };
    let mut first = gate.connect(TRUSTED);
    assert_eq!(ask(&mut first), 200);
    let mut admin = Connection::open(gate.admin, TRUSTED);
    let mut failures = || {
        admin.write(get("/metrics").replace("Host: gate", "Host: localhost"));
        let text = admin.reply().unwrap().text();
        let value = text
            .lines()
            .find_map(|it| it.strip_prefix("gatepost_accept_failures_total "));
        value.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(failures(), 0);
    let mut crowd: Vec<_> = (0..100).map(|_| gate.connect(TRUSTED)).collect();
    wait_for("descriptors to run out", || failures() > 0);
    for _ in 0..20 {
        assert_eq!(ask(&mut first), 200, "who is in is served");
    }
    let before = failures();
    wait_for("more tries", || failures() > before + 15);
    let mut last = crowd.pop().unwrap();
    last.write(inject(""));
    drop(crowd);
    assert_eq!(
        last.reply().unwrap().status,
        200,
        "who waited gets its turn"
    );
    // The tries before that have been counted by now, since the thread that accepts has gone on.
    let after = failures();
    for _ in 0..30 {
        assert_eq!(ask(&mut gate.connect(TRUSTED)), 200);
    }
    let said = gate.logged().matches("cannot accept connections").count();
    assert_eq!(said, 1, "{before} and more failures are said once");
    assert_eq!(failures(), after, "it is over");
}
