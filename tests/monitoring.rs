//! `deploy/prometheus` and `deploy/grafana` against the pages about them. What needs Prometheus is in `tests/integration/prometheus.rs`.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap()
}

fn rules() -> Vec<Value> {
    let groups = yaml("deploy/prometheus/gatepost.rules.yaml")["groups"].clone();
    let groups = groups.as_array().unwrap().iter();
    groups
        .flat_map(|it| it["rules"].as_array().unwrap().clone())
        .collect()
}

fn alerts() -> BTreeMap<String, Value> {
    let named = rules().into_iter().filter_map(|it| {
        let name = it["alert"].as_str()?.to_owned();
        Some((name, it))
    });
    named.collect()
}

/// What the dashboard asks, variables included.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/gatepost.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels
        .filter(|it| it["type"] != "row")
        .flat_map(|it| it["targets"].as_array().unwrap().clone());
    let variables = dashboard["templating"]["list"].as_array().unwrap().clone();
    let variables = variables
        .into_iter()
        .filter_map(|it| it["query"]["query"].as_str().map(str::to_owned));
    targets
        .map(|it| it["expr"].as_str().unwrap().to_owned())
        .chain(variables)
        .collect()
}

/// The need: a metric gets another name, and an alert on the old one never fires again. Nor does one on a reason that there is not.
#[test]
fn rules_and_dashboard_ask_for_what_there_is() {
    let page = read("docs/metrics.md");
    let metrics: BTreeMap<_, _> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let name = cells.next()?.trim_end_matches('`');
            Some((name, cells.next()?))
        })
        .collect();
    let rules = rules();
    let recorded: BTreeSet<_> = rules
        .iter()
        .filter_map(|it| it["record"].as_str())
        .collect();
    let asked = rules
        .iter()
        .map(|it| it["expr"].as_str().unwrap().to_owned());
    let asked: Vec<_> = asked.chain(queries()).collect();
    assert!(asked.len() > 60 && recorded.len() > 3, "they are read");
    let name = Regex::new(r"[a-zA-Z_:][a-zA-Z0-9_:]*").unwrap();
    let matcher = Regex::new(r#"\b(reason|outcome|mechanism|result)[=!]~?"([^"]*)""#).unwrap();
    for query in asked {
        for word in name.find_iter(&query).map(|it| it.as_str()) {
            let parts = ["_bucket", "_sum", "_count"];
            let histogram = parts.iter().find_map(|end| word.strip_suffix(end));
            let there = if word.contains(':') {
                recorded.contains(word)
            } else if word.starts_with("gatepost_") || word.starts_with("process_") {
                metrics.get(word).is_some_and(|it| *it != "histogram")
                    || histogram.is_some_and(|it| metrics.get(it) == Some(&"histogram"))
            } else {
                true
            };
            assert!(there, "{word}, of {query}, is not in docs/metrics.md");
        }
        for words in matcher.captures_iter(&query) {
            for word in words[2].split('|').filter(|it| !it.ends_with(".*")) {
                assert!(page.contains(&format!("`{word}`")), "{word}, of {query}");
            }
        }
    }
}

/// Each alert says how bad it is and what to do, waits before it does, and has a test in which it fires and one in which it does not.
/// Whether these pass, `promtool` says.
#[test]
fn every_alert_is_whole_and_tested() {
    let alerts = alerts();
    assert!(alerts.len() > 15);
    let tests = yaml("deploy/prometheus/gatepost.rules_test.yaml");
    let (mut fires, mut rests) = (BTreeSet::new(), BTreeSet::new());
    let name = Regex::new(r#"^ALERTS\{alertname="(\w+)",alertstate="firing"\}$"#).unwrap();
    for test in tests["tests"].as_array().unwrap() {
        for case in test["promql_expr_test"].as_array().unwrap() {
            let expr = case["expr"].as_str().unwrap();
            let alert = name.captures(expr).unwrap()[1].to_owned();
            let none = case["exp_samples"].as_array().unwrap().is_empty();
            if none { &mut rests } else { &mut fires }.insert(alert);
        }
    }
    let names: BTreeSet<_> = alerts.keys().cloned().collect();
    assert_eq!(names, fires);
    assert_eq!(names, rests);
    for (name, alert) in alerts {
        assert!(alert["for"].is_string(), "{name}");
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}");
        let said = |what: &str| {
            alert["annotations"][what]
                .as_str()
                .unwrap_or_default()
                .len()
        };
        assert!(said("summary") > 10 && said("description") > 40, "{name}");
    }
}

/// The page's table has every alert with its severity and how long it waits, and no other.
#[test]
fn the_page_lists_the_alerts() {
    let page = read("docs/monitoring.md");
    let written: BTreeMap<_, _> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `Gatepost")?.split('|').map(str::trim);
            let name = format!("Gatepost{}", cells.next()?.trim_end_matches('`'));
            Some((name, cells.next()?.to_owned()))
        })
        .collect();
    let alerts = alerts().into_iter().map(|(name, alert)| {
        let severity = alert["labels"]["severity"].as_str().unwrap();
        (
            name,
            format!("{severity}, {}", alert["for"].as_str().unwrap()),
        )
    });
    assert_eq!(written, alerts.collect());
}
