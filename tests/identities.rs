//! Who sends most, as Prometheus sees it.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Connection, Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, get, inject, post, wait_for,
};

/// Lets everybody in whose password is `x`.
const EVERYBODY: &str = "
require('kumo').on('http_server_validate_auth_basic', function(user, password) return password == 'x' end)";

const SERIES: &str = "gatepost_identity_requests_total";

/// The series, as they are printed.
fn series(gate: &Gatepost) -> Vec<String> {
    let text = gate.admin("/metrics").text();
    let lines = text.lines().filter(|it| it.starts_with(SERIES));
    lines
        .map(|it| it.trim_start_matches(SERIES).to_owned())
        .collect()
}

fn send(connection: &mut Connection, user: &str, password: &str) -> u16 {
    connection.write(post("/users-only", &basic(user, password), "x"));
    connection.reply().unwrap().status
}

/// Those who are somebody are counted, by name while there is a place; nobody by default. What a name holds ends no label.
#[test]
fn the_busiest_have_a_series_each() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .policy(EVERYBODY)
        .with("reload: { watch: 100ms }")
        .start();
    let ask = |user: &str, password: &str| send(&mut gate.connect(STRANGER), user, password);
    assert_eq!(ask("scott", "x"), 200);
    assert_eq!(series(&gate), [""; 0], "off by default");
    let reload = |limit: &str| {
        let before = gate.metric("gatepost_reloads_total{result=\"success\"}");
        let file = gate.folder().join("gatepost.yaml");
        let yaml = std::fs::read_to_string(&file).unwrap();
        let (yaml, _) = yaml.split_once("metrics:").unwrap_or((&yaml, ""));
        std::fs::write(
            file,
            format!("{yaml}metrics: {{ top_identities: {limit} }}\n"),
        )
        .unwrap();
        wait_for("the reload", || {
            gate.metric("gatepost_reloads_total{result=\"success\"}") > before
        });
    };
    reload("4");
    for user in ["scott", "scott", "jürgen", "a\"b"] {
        assert_eq!(ask(user, "x"), 200);
    }
    // Nobody, or nobody yet.
    assert_eq!(ask("scott", "wrong"), 401);
    assert_eq!(gate.send(STRANGER, get("/open")).unwrap().status, 200);
    // A trusted host is its address; beyond the last place, and by this name, all are others.
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    assert_eq!(ask("carol", "x"), 200);
    assert_eq!(ask("other", "x"), 200);
    let mut expected = [
        "{identity=\"127.0.0.1\"} 1",
        "{identity=\"a\\\"b\"} 1",
        "{identity=\"jürgen\"} 1",
        "{identity=\"other\"} 2",
        "{identity=\"scott\"} 2",
    ];
    expected.sort_unstable();
    wait_for("all to be counted", || {
        let mut got = series(&gate);
        got.sort_unstable();
        got == expected
    });
    reload("off");
    assert_eq!(series(&gate), [""; 0]);
}

/// Ten thousand identities (fewer without optimisation) do not cost the scrape its time.
#[test]
fn the_scrape_is_quick_however_many_identities_there_were() {
    let (identities, limit) = if cfg!(debug_assertions) {
        (300, Duration::from_millis(200))
    } else {
        (10_000, Duration::from_millis(5))
    };
    let upstream = Recorder::start();
    let mut figures = String::new();
    for (top, seen) in [("off", 0), ("100", identities), ("1000", identities)] {
        let gate = Setup::before(upstream.address)
            .policy(EVERYBODY)
            .with("throttle: off")
            .with(&format!("metrics: {{ top_identities: {top} }}"))
            .start();
        thread::scope(|scope| {
            for half in 0..2 {
                let gate = &gate;
                scope.spawn(move || {
                    let mut connection = gate.connect(STRANGER);
                    for number in (half..seen).step_by(2) {
                        assert_eq!(send(&mut connection, &format!("user-{number}"), "x"), 200);
                    }
                });
            }
        });
        let mut admin = Connection::open(gate.admin, TRUSTED);
        let mut scrape = || {
            let begin = Instant::now();
            admin.write(get("/metrics").replace("Host: gate", "Host: localhost"));
            let text = admin.reply().unwrap().text();
            (begin.elapsed(), text)
        };
        let mut times: Vec<_> = (0..21).map(|_| scrape().0).collect();
        times.sort_unstable();
        let median = times[times.len() / 2];
        assert!(median < limit, "{top}: {median:?}");
        let text = scrape().1;
        let values: u64 = text
            .lines()
            .filter_map(|it| it.strip_prefix(SERIES)?.rsplit(' ').next())
            .map(|it| it.parse::<u64>().unwrap())
            .sum();
        assert_eq!(values, seen);
        let _ = write!(
            figures,
            "; top_identities {top}, {seen} seen: {median:.1?}, {} KiB",
            text.len() / 1024
        );
    }
    println!("FIGURE /metrics, median of 21{figures}");
}
