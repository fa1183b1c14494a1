//! The files in `config/`: what an operator starts from must be true.

use std::path::Path;

use super::schema::{complaints, parse};
use crate::{Policy, Settings, load, reference};

#[test]
fn they_are_good_and_give_no_warning() {
    for file in ["demo.yaml", "minimal.yaml", "reference.yaml"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
        let settings = load(&folder.join(file)).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(settings.warnings, [], "{file}");
        assert_eq!(settings.policy.file, folder.join("../lua/policy.lua"));
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!(complaints(&text), [""; 0], "{file}");
    }
}

/// The defaults that `config/reference.yaml` names are the defaults.
#[test]
fn the_reference_is_true() {
    let settings = parse(reference::TEXT, Path::new("config/reference.yaml")).unwrap();
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
