//! `deploy/prometheus` and `deploy/grafana` in a real Prometheus that scrapes a real gatepost.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::harness::{
    Connection, Gatepost, Recorder, Reply, STRANGER, Setup, TRUSTED, basic, get, inject, message,
    post, wait_for,
};
use crate::program::{Program, send};
use crate::tls_client::Authority;

const TOKEN: &str = "correct-horse-battery";

fn deploy(path: &str) -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.join("../../deploy").join(path).canonicalize().unwrap()
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(deploy("prometheus"))
        .output()
        .expect("promtool is installed by `make integration`");
    let said = String::from_utf8_lossy(&output.stdout);
    let faults = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{faults}");
}

#[test]
fn each_alert_fires_when_it_should_and_not_otherwise() {
    promtool(&["check", "rules", "--lint-fatal", "gatepost.rules.yaml"]);
    promtool(&["test", "rules", "gatepost.rules_test.yaml"]);
}

/// A Prometheus with our rules, which scrapes every second: one gatepost without a token as job `gatepost`, one with it as
/// `mail/gatepost`, and that again with a wrong one as `gatepost-wrong`.
fn prometheus(open: &Gatepost, closed: &Gatepost) -> Program {
    let start = "exec prometheus --config.file=config --storage.tsdb.path=data --web.listen-address=$(cat address)";
    let prometheus = Program::start("sh", &["-c", start], 1, |addresses, folder| {
        crate::harness::write(folder, "address", &addresses[0].to_string());
        crate::harness::write(folder, "token", TOKEN);
        crate::harness::write(folder, "wrong", "correct-horse-batterx");
        let job = |name: &str, gate: &Gatepost, token: &str| {
            format!(
                "  - job_name: {name}\n    static_configs: [{{ targets: [\"{}\"] }}]\n{token}",
                gate.admin
            )
        };
        let token = |file: &str| {
            format!("    authorization: {{ type: Bearer, credentials_file: {file} }}\n")
        };
        format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{}\"]\nscrape_configs:\n{}{}{}",
            deploy("prometheus/gatepost.rules.yaml").display(),
            job("gatepost", open, ""),
            job("mail/gatepost", closed, &token("token")),
            job("gatepost-wrong", closed, &token("wrong")),
        )
    });
    // It listens before that, and answers 503.
    wait_for("Prometheus to be ready", || {
        send(prometheus.addresses[0], TRUSTED, get("/-/ready")).is_some_and(|it| it.status == 200)
    });
    prometheus
}

/// An answer of Prometheus' API.
fn ask(prometheus: &Program, path: &str) -> Value {
    let reply = send(prometheus.addresses[0], TRUSTED, get(path)).unwrap();
    let answer = reply.json();
    assert_eq!(answer["status"], "success", "{path}: {answer}");
    answer["data"].clone()
}

/// The values that a query has now.
fn values(prometheus: &Program, query: &str) -> Vec<f64> {
    let mut path = "/api/v1/query?query=".to_owned();
    for byte in query.bytes() {
        let _ = write!(path, "%{byte:02X}");
    }
    let data = ask(prometheus, &path);
    let results = data["result"].as_array().unwrap().iter();
    results
        .map(|it| it["value"][1].as_str().unwrap().parse().unwrap())
        .collect()
}

/// A gatepost with everything that the dashboard shows.
fn gatepost(upstream: &Recorder) -> Setup {
    let own = Authority::new().server();
    Setup::before(upstream.address)
        .routes(
            "
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated, trusted_hosts] }
  - { path: /judged, methods: [POST], allow: [authenticated], message_policy: true }
",
        )
        .policy(&format!(
            "{}\nkumo.on('http_message_generated', function(msg) end)",
            crate::harness::POLICY
        ))
        .with("listeners.- listen: 127.0.0.1:0")
        .with("listeners.  tls_certificate: server.pem\nlisteners.  tls_private_key: server.key")
        .file("server.pem", &own.certificate)
        .file("server.key", &own.key)
        .with("metrics: { top_identities: 10 }")
        // Not so many that the throttle speaks, or that descriptors are short.
        .with("throttle: off")
        .with("http: { max_connections: 20 }\nupstream.max_idle_connections: 8")
}

fn reload(gate: &Gatepost) -> Reply {
    let mut admin = Connection::open(gate.admin, TRUSTED);
    admin.write("POST /reload HTTP/1.1\r\nContent-Length: 0\r\nHost: localhost\r\n\r\n");
    admin.reply().unwrap()
}

/// Good, bad, trusted, refused and judged, one of each.
fn traffic(gate: &Gatepost) {
    let judged = post(
        "/judged",
        &basic("carol", "a:b:c"),
        &message("me@example.com"),
    );
    for (from, request, status) in [
        (STRANGER, inject(&basic("scott", "tiger")), 200),
        (STRANGER, inject(&basic("scott", "lion")), 401),
        (STRANGER, inject(&basic("r-error", "x")), 500),
        (TRUSTED, inject(""), 200),
        (STRANGER, inject(""), 401),
        (STRANGER, get("/nowhere"), 404),
        (STRANGER, judged, 200),
    ] {
        assert_eq!(gate.send(from, request).unwrap().status, status);
    }
}

/// What the dashboard asks, as Grafana would ask it.
fn queries() -> Vec<String> {
    let text = std::fs::read_to_string(deploy("grafana/gatepost.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|it| it["targets"].as_array()).flatten();
    let exprs = targets.map(|it| {
        let query = it["expr"].as_str().unwrap();
        let query = query.replace("$__rate_interval", "10s");
        let query = query.replace("$job", "gatepost").replace("$instance", ".*");
        assert!(!query.contains('$'), "{query}");
        query
    });
    exprs.collect()
}

#[test]
fn every_query_of_the_dashboard_returns_data() {
    let upstream = Recorder::start();
    let open = gatepost(&upstream).start();
    let closed = gatepost(&upstream)
        .with("admin.token: { file: token }")
        .file("token", TOKEN)
        .start();
    let prometheus = prometheus(&open, &closed);
    let queries = queries();
    assert!(queries.len() > 30);
    assert_eq!(reload(&open).status, 200);
    let mut rounds = 0.0;
    let mut left = queries;
    wait_for("every query to have data", || {
        traffic(&open);
        rounds += 1.0;
        let lacks = |query: &String| !values(&prometheus, query).iter().any(|it| it.is_finite());
        left.retain(lacks);
        if rounds > 30.0 {
            eprintln!("without data: {left:#?}");
        }
        left.is_empty()
    });
    // The numbers are those of what was sent.
    for (query, each) in [
        ("sum(gatepost_requests_total{job='gatepost'})", 7.0),
        (
            "sum(gatepost_requests_total{job='gatepost',status='200'})",
            3.0,
        ),
        (
            "gatepost_decisions_total{job='gatepost',outcome='rejected'}",
            1.0,
        ),
        (
            "gatepost_decisions_total{job='gatepost',mechanism='trusted_host'}",
            1.0,
        ),
        (
            "gatepost_refusals_total{job='gatepost',reason='no_route'}",
            1.0,
        ),
        (
            "gatepost_refusals_total{job='gatepost',reason='policy_failed'}",
            1.0,
        ),
    ] {
        wait_for(query, || values(&prometheus, query) == [each * rounds]);
    }
    wait_for("the gatepost with a token", || {
        values(&prometheus, "up{job='mail/gatepost'}") == [1.0]
            && values(&prometheus, "gatepost_reload_success{job='mail/gatepost'}") == [1.0]
    });
}

/// The rules over what a real gatepost says: each is evaluated without fault, records have data, and what is wrong is noticed, where it is.
#[test]
fn faults_of_a_real_gatepost_raise_alerts() {
    let upstream = Recorder::start();
    let open = gatepost(&upstream).start();
    let closed = gatepost(&upstream)
        .with("admin.token: { file: token }")
        .file("token", TOKEN)
        .start();
    crate::harness::write(open.folder(), "policy.lua", "this is no Lua");
    assert_ne!(reload(&open).status, 200);
    let prometheus = prometheus(&open, &closed);
    // Pending: what it takes for them to fire is for promtool.
    let raised = || {
        let alerts = ask(&prometheus, "/api/v1/alerts")["alerts"].clone();
        let alerts = alerts.as_array().unwrap().iter();
        let mut said: Vec<_> = alerts
            .map(|it| {
                let text = it["annotations"].to_string();
                assert!(
                    !text.contains("error expanding") && !text.contains("no value"),
                    "{text}"
                );
                let label = |name: &str| it["labels"][name].as_str().unwrap().to_owned();
                format!("{} {}", label("alertname"), label("job"))
            })
            .collect();
        said.sort();
        said
    };
    let expected = [
        "GatepostDown gatepost-wrong",
        "GatepostPolicyFails gatepost",
        "GatepostReloadFailed gatepost",
    ];
    // Most of this traffic is refused.
    let by_the_way = [
        "GatepostCredentialsGuessed gatepost",
        "GatepostFails gatepost",
        "GatepostRefusalsRise gatepost",
    ];
    wait_for("the alerts to be pending", || {
        traffic(&open);
        let mut raised = raised();
        raised.retain(|it| !by_the_way.contains(&it.as_str()));
        raised == expected
    });
    wait_for("each rule to have been evaluated", || {
        let groups = ask(&prometheus, "/api/v1/rules")["groups"].clone();
        let rules = groups.as_array().unwrap().iter();
        let mut rules = rules.flat_map(|it| it["rules"].as_array().unwrap());
        rules.all(|it| {
            assert_ne!(it["health"], "err", "{it}");
            let record = (it["type"] == "recording").then(|| it["name"].as_str().unwrap());
            it["health"] == "ok" && record.is_none_or(|it| !values(&prometheus, it).is_empty())
        })
    });
}
