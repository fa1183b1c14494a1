//! The files in `config/`: what an operator starts from must be true.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{Policy, Settings, load, node, parse, parse_and_list};

#[test]
fn they_are_good_and_give_no_warning() {
    for file in ["demo.yaml", "minimal.yaml", "reference.yaml"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
        let settings = load(&folder.join(file)).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(settings.warnings, [], "{file}");
        assert_eq!(settings.policy.file, folder.join("../lua/policy.lua"));
    }
}

/// These contradict other keys of the reference, so a comment has to do.
const IN_COMMENTS: [&str; 32] = [
    "listeners.unix_mode",
    "listeners.tls_certificate",
    "listeners.tls_private_key",
    "listeners.client_ca",
    "listeners.client_certificate",
    "listeners.identity_from_certificate",
    "upstream.tls",
    "upstream.tls.ca",
    "upstream.tls.server_name",
    "upstream.tls.client_certificate",
    "upstream.tls.client_key",
    "upstream.tls.verify",
    "upstream.demo_store",
    "upstream.health_check",
    "upstream.health_check.path",
    "upstream.health_check.interval",
    "upstream.health_check.timeout",
    "upstream.health_check.healthy_threshold",
    "upstream.health_check.unhealthy_threshold",
    "upstream.identity_secret",
    "upstream.companion_headers.mechanism",
    "upstream.companion_headers.groups",
    "upstream.companion_headers.client",
    "upstream.signature.keys",
    "routes.preset",
    "routes.message_format",
    "routes.request_body_limit",
    "policy.shadow",
    "quotas.redis",
    "throttle.redis",
    "admin.token",
    "traces.otlp",
];

/// `config/reference.yaml` names every key that the reader knows, and the defaults that it names are
/// the defaults.
#[test]
fn the_reference_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/reference.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (settings, asked) = parse_and_list(&text, Path::new("config/reference.yaml"));
    let settings = settings.unwrap();
    let tree = node::parse(&text).unwrap();
    let mut written = BTreeSet::new();
    list(&tree, "", &mut written);
    let comments = BTreeSet::from(IN_COMMENTS.map(str::to_owned));
    let missing: Vec<_> = asked
        .difference(&written)
        .filter(|key| !comments.contains(*key))
        .collect();
    assert_eq!(missing, [""; 0], "keys that the reference does not name");
    for key in &comments {
        assert!(text.contains(key.rsplit('.').next().unwrap()));
    }
    let minimal = "\
listeners:
  - listen: 0.0.0.0:8080
upstream:
  address: 127.0.0.1:8000
trusted_hosts: [127.0.0.1, \"::1\"]
policy:
  file: ../lua/policy.lua
routes:
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated, trusted_hosts] }
";
    let defaults = parse(minimal, Path::new("config/reference.yaml")).unwrap();
    // Two keys have a default that depends on the machine; the reference shows a number.
    let settings = Settings {
        threads: None,
        policy: Policy {
            workers: None,
            ..settings.policy
        },
        ..settings
    };
    assert_eq!(format!("{settings:#?}"), format!("{defaults:#?}"));
}

fn list(node: &node::Node, path: &str, into: &mut BTreeSet<String>) {
    if let node::Value::Map(entries) = &node.value {
        for (key, value) in entries {
            let path = if path.is_empty() {
                key.name.clone()
            } else {
                format!("{path}.{}", key.name)
            };
            into.insert(path.clone());
            list(value, &path, into);
        }
    } else if let node::Value::List(items) = &node.value {
        items.iter().for_each(|item| list(item, path, into));
    }
}
