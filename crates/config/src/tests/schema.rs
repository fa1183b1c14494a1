//! The schema, the reference and the reader say the same.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::MINIMAL;
use crate::node::{self, Node, Value};
use crate::{reference, schema};

/// Parses as [`crate::parse`] does. What it takes, the schema takes too: this holds for every text of these tests.
pub(super) fn parse(text: &str, source: &Path) -> Result<crate::Settings, crate::Faults> {
    let parsed = crate::parse(text, source);
    if parsed.is_ok() {
        let complaints = complaints(text);
        assert_eq!(complaints, [""; 0], "the schema refuses\n{text}");
    }
    parsed
}

/// What the schema says against a text, each with its place in it.
pub(super) fn complaints(text: &str) -> Vec<String> {
    static VALIDATOR: std::sync::LazyLock<jsonschema::Validator> =
        std::sync::LazyLock::new(|| jsonschema::draft7::new(&schema()).unwrap());
    let document = json_of(&node::parse(text).unwrap());
    let faults = VALIDATOR.iter_errors(&document);
    faults
        .map(|it| format!("{}: {it}", it.instance_path()))
        .collect()
}

/// As an editor reads it.
fn json_of(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(it) => json!(it),
        Value::Integer(it) => json!(i64::try_from(*it).unwrap_or(i64::MAX)),
        Value::Float(it) => json!(it),
        Value::Text(it) => json!(it),
        Value::List(items) => items.iter().map(json_of).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, value)| (key.name.clone(), json_of(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

#[test]
fn it_is_a_schema_by_its_own_draft() {
    jsonschema::draft7::meta::validate(&schema()).unwrap();
    assert_eq!(complaints(MINIMAL), [""; 0]);
}

/// Every key that is read has its own lines in `config/reference.yaml`, with a comment; and nothing else has.
#[test]
fn the_reference_has_every_key_and_no_other() {
    let entries = reference::entries();
    let mut seen = BTreeSet::new();
    for entry in &entries {
        assert!(seen.insert(&entry.path), "{} is there twice", entry.path);
        assert!(entry.prose.len() > 8, "{} has no comment", entry.path);
    }
    let asked = crate::schema::asked();
    assert_eq!(seen, asked.keys().collect());
    assert!(asked.len() > 100, "the reader did not look around");
}

/// Every key has a place in the schema, with the comment of the reference and what it takes.
#[test]
fn the_schema_has_every_key() {
    for entry in reference::entries() {
        let found = at(&schema(), &entry.path);
        let description = found["description"].as_str().unwrap_or_default();
        assert!(description.starts_with(&entry.prose), "{}", entry.path);
    }
    let limit = at(&schema(), "policy.workers");
    assert_eq!(
        (&limit["minimum"], &limit["maximum"]),
        (&json!(1), &json!(256))
    );
    let timeout = at(&schema(), "policy.callback_timeout");
    assert_eq!(timeout["default"], "5s");
    let said = timeout["description"].as_str().unwrap();
    assert!(
        said.ends_with("Takes a duration from 1ms to 1h. Default: `5s`."),
        "{said}"
    );
}

/// What stands behind a key in the reference is what the schema calls its default, or an example that the schema takes.
#[test]
fn values_in_the_reference_are_defaults_or_examples() {
    const OTHERWISE: [&str; 1] = ["trusted_hosts"];
    let mut defaults = 0;
    for entry in reference::entries() {
        if entry.value.is_empty() {
            continue;
        }
        let found = at(&schema(), &entry.path);
        let value = json_of(&node::parse(entry.value).unwrap());
        if let Some(default) = found.get("default")
            && entry.is_on
            && !OTHERWISE.contains(&entry.path.as_str())
        {
            defaults += 1;
            assert_eq!(*default, value, "{}", entry.path);
        }
        let mut part = found;
        part["definitions"] = schema()["definitions"].clone();
        let validator = jsonschema::draft7::new(&part).unwrap();
        assert!(validator.is_valid(&value), "{}: {value}", entry.path);
    }
    assert!(defaults > 50, "{defaults}");
}

/// The part of the schema that is about a key.
fn at(schema: &Json, path: &str) -> Json {
    let mut parts = vec![schema];
    for name in path.split('.') {
        parts = parts
            .iter()
            .flat_map(|part| objects(part))
            .filter_map(|it| it["properties"].get(name))
            .collect();
    }
    assert_eq!(parts.len(), 1, "{path}");
    parts[0].clone()
}

/// The objects that a part can be, whichever shape they have, and in whatever list.
fn objects(part: &Json) -> Vec<&Json> {
    if let Some(shapes) = part["anyOf"].as_array() {
        shapes.iter().flat_map(objects).collect()
    } else if part["type"] == "array" {
        objects(&part["items"])
    } else {
        vec![part]
    }
}

/// What the reader takes in odd spellings, the schema takes too.
#[test]
fn odd_spellings() {
    for text in [
        "drain_delay: 1m30s",
        "drain_delay: ' 1 min  30 sec '",
        "drain_delay: 1h",
        "drain_delay: 2minutes",
        "drain_delay: 5000000nanos",
        "drain_delay: 1.5 s",
        "drain_delay: 1 .25 min 3.0s",
        "drain_delay: 100µs 4us",
        "http: { request_body_limit: 1.5 MB }",
        "http: { request_body_limit: 64M, min_body_rate: 1k }",
        "http: { request_body_limit: 1048576 }",
        "http: { request_body_limit: '1048576', min_body_rate: false }",
        "throttle: { per_address: 5/second, per_address_and_user: off }",
        "throttle: false",
        "trusted_hosts: ['::ffff:10.0.0.0/104', fe80::1]",
        "traces: { sample: 1 }",
        "basic: { realm: 'a$ b' }",
        "audit: { output: $file }",
        "upstream: { address: 'HTTPS://mta.example' }",
        "upstream: { address: '[::1]:25' }",
        "upstream: { address: [a:1, b:2] }",
        "upstream: { address: 'unix:/run/a b.sock' }",
        "upstream: { address: 'a:1', health_check: { path: / } }",
        "upstream: { address: 'a:1', health_check: off, circuit_breaker: false }",
        "upstream: { address: 'a:1', nameservers: ['::1', '10.0.0.1:54'] }",
        "upstream: { address: 'a:1', meta_headers: { any thing: X_a } }",
        "listeners: [{ listen: '[::]:1' }]",
        "listeners: [{ listen: 'unix:/run/a b.sock', unix_mode: '600' }]",
        "routes: [{ path: /a, methods: [POST, M-SEARCH], allow: [{ not: { any_of: [anyone] } }] }]",
        "routes: [{ preset: kumomta }]",
        "routes: [{ path: /*, methods: [GET], allow: [{ all_of: [{ group: a }, { network: '::1' }] }] }]",
        "message_rules: [{ for: [anyone, { group: 'a b' }], senders: ['<>', '*.example.com'] }]",
        "quotas: { limits: [{ for: [anyone], requests: [{ rate: 5/d, burst: 1 }, 7/h] }] }",
        "admin: { token: '${CARGO_MANIFEST_DIR}' }",
        "admin: { token: a secret of sixteen bytes and $more }",
        "quotas: { redis: redis://127.0.0.1:6379/0 }",
    ] {
        let key = text.split(':').next().unwrap();
        let kept: String = sections(MINIMAL)
            .filter(|section| !section.starts_with(&format!("{key}:")))
            .collect();
        let parsed = parse(&format!("{kept}{text}\n"), Path::new("x.yaml"));
        assert!(parsed.is_ok(), "{text}: {}", parsed.unwrap_err());
    }
}

/// The top-level keys of a text, each with what belongs to it.
fn sections(text: &str) -> impl Iterator<Item = String> {
    let mut sections: Vec<String> = Vec::new();
    for line in text.lines() {
        if !line.starts_with(' ') {
            sections.push(String::new());
        }
        let last = sections.last_mut().unwrap();
        last.push_str(line);
        last.push('\n');
    }
    sections.into_iter()
}
