//! `docs/metrics.md` against a running gatepost.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{
    Connection, Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, message, post, wait_for,
};
use crate::tls_client::Authority;

/// The live policy lets scott and carol in; the shadow refuses carol, and loops over what comes from one domain.
const LIVE: &str = "
local kumo = require 'kumo'
local users = { scott = 'tiger', carol = 'a:b:c' }
kumo.on('http_server_validate_auth_basic', function(user, password)
  return password ~= nil and users[user] == password
end)
kumo.on('http_message_generated', function(msg) end)";

const SHADOW: &str = "
local kumo = require 'kumo'
kumo.on('http_server_validate_auth_basic', function(user, password) return user == 'scott' end)
kumo.on('http_message_generated', function(msg)
  if msg:sender().domain == 'loop.test' then while true do end end
end)";

/// Type and labels of a metric.
type Described = BTreeMap<String, (String, BTreeSet<String>)>;

/// Every metric that there is stands on the page, with its type and labels, and no other does. The values of labels that are
/// words of gatepost's own are on the page too.
#[test]
fn the_page_describes_what_a_running_gatepost_says() {
    let page = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/metrics.md"
    ))
    .unwrap();
    let gate = gatepost_that_has_seen_everything();
    let (mut said, values) = said(&gate.admin("/metrics").text());
    let written = written(&page);
    assert_eq!(
        written.keys().collect::<Vec<_>>(),
        said.keys().collect::<Vec<_>>()
    );
    for (name, described) in written {
        assert_eq!(Some(described), said.remove(&name), "{name}");
    }
    for (label, value) in values {
        let own = ["reason", "mechanism", "outcome", "event", "live", "result"];
        assert!(
            !own.contains(&label.as_str()) || page.contains(&format!("`{value}`")),
            "{label}={value} is not on the page"
        );
    }
}

/// A family without labels is there from the start; others need something to have happened.
fn gatepost_that_has_seen_everything() -> Gatepost {
    let (upstream, own) = (Recorder::start(), Authority::new().server());
    let gate = Setup::before(upstream.address)
        .routes("\n  - { path: /api/inject/v1, methods: [POST], allow: [authenticated], message_policy: true }\n")
        .policy(LIVE)
        .file("shadow.lua", SHADOW)
        .with("policy.shadow: shadow.lua")
        .with("policy.callback_timeout: 2s")
        .with("listeners.- listen: 127.0.0.1:0")
        .with("listeners.  tls_certificate: server.pem\nlisteners.  tls_private_key: server.key")
        .file("server.pem", &own.certificate)
        .file("server.key", &own.key)
        .with("metrics: { top_identities: 10 }")
        .start();
    let send = |user: &str, password: &str, sender: &str| {
        let request = post("/api/inject/v1", &basic(user, password), &message(sender));
        gate.send(STRANGER, request).unwrap().status
    };
    assert_eq!(send("scott", "tiger", "me@example.com"), 200);
    assert_eq!(send("carol", "a:b:c", "me@example.com"), 200);
    assert_eq!(send("scott", "tiger", "me@loop.test"), 200);
    assert_eq!(send("scott", "lion", "me@example.com"), 401);
    let mut admin = Connection::open(gate.admin, TRUSTED);
    admin.write("POST /reload HTTP/1.1\r\nContent-Length: 0\r\nHost: localhost\r\n\r\n");
    assert_eq!(admin.reply().unwrap().status, 200);
    wait_for("the shadow policy to be asked", || {
        let (said, _) = said(&gate.admin("/metrics").text());
        ["allowed", "denied", "open"]
            .iter()
            .all(|it| said.contains_key(&format!("gatepost_shadow_{it}_total")))
    });
    gate
}

/// What the tables say.
fn written(page: &str) -> Described {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let names = |cell: &str| {
        cell.split(',')
            .map(|it| it.trim().trim_matches('`').to_owned())
            .filter(|it| !it.is_empty())
            .collect::<BTreeSet<_>>()
    };
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        assert!(cells.len() == 6 && !cells[4].is_empty(), "{row}");
        let name = cells[1].trim_matches('`').to_owned();
        (name, (cells[2].to_owned(), names(cells[3])))
    })
    .collect()
}

/// What /metrics says, and every value that a label has.
fn said(text: &str) -> (Described, BTreeSet<(String, String)>) {
    let (mut said, mut values) = (Described::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            said.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((series, labels)) = line.split_once('{') {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| series.strip_suffix(end).filter(|it| said.contains_key(*it)))
                .unwrap_or(series);
            let (labels, _) = labels.rsplit_once('}').unwrap();
            for label in labels.split(',') {
                let (name, value) = label.split_once('=').unwrap();
                if name != "le" {
                    said.get_mut(family).unwrap().1.insert(name.to_owned());
                    values.insert((name.to_owned(), value.trim_matches('"').to_owned()));
                }
            }
        }
    }
    (said, values)
}
