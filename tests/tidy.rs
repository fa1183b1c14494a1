//! The promises of ARCHITECTURE.md that are absences, and the shape of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand, PackageId};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Every file that git would track, with its content where it is text.
fn files() -> Vec<(PathBuf, String)> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "the tidy test needs a git checkout"
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(PathBuf::from)
        .filter(|path| root().join(path).exists())
        .map(|path| {
            let content = fs::read(root().join(&path)).unwrap();
            (path, String::from_utf8_lossy(&content).into_owned())
        })
        .collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    let rust = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
    files().into_iter().filter(|(path, _)| rust(path)).collect()
}

/// What each crate may know directly; everything else it must not. The absences are the architecture.
const MUST_NOT_KNOW: &[(&str, &[&str])] = &[
    (
        "gatepost-auth",
        &[
            "tokio",
            "mlua",
            "prometheus",
            "tracing",
            "log",
            "serde",
            "gatepost-policy",
            "gatepost-config",
            "gatepost-proxy",
            "pingora-core",
            "pingora-proxy",
        ],
    ),
    (
        "gatepost-message",
        &[
            "tokio",
            "mlua",
            "prometheus",
            "tracing",
            "gatepost-auth",
            "gatepost-policy",
            "gatepost-config",
            "gatepost-proxy",
            "pingora-core",
            "pingora-proxy",
        ],
    ),
    (
        "gatepost-policy",
        &[
            "pingora-core",
            "pingora-proxy",
            "pingora-http",
            "prometheus",
            "gatepost-config",
            "gatepost-proxy",
        ],
    ),
    (
        "gatepost-config",
        &[
            "pingora-core",
            "pingora-proxy",
            "pingora-http",
            "mlua",
            "tokio",
            "gatepost-policy",
            "gatepost-proxy",
        ],
    ),
    (
        "gatepost-proxy",
        &["clap", "serde-saphyr", "mlua", "gatepost-demo"],
    ),
    (
        "gatepost-demo",
        &[
            "gatepost-auth",
            "gatepost-policy",
            "gatepost-config",
            "gatepost-proxy",
        ],
    ),
    (
        "gatepost-fuzz",
        &[
            "pingora-core",
            "pingora-proxy",
            "pingora-http",
            "mlua",
            "prometheus",
            "clap",
            "gatepost-demo",
        ],
    ),
    (
        "gatepost",
        &["pingora-core", "pingora-proxy", "pingora-http", "mlua"],
    ),
];

#[test]
fn each_crate_knows_only_what_it_may() {
    let metadata = MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .exec()
        .unwrap();
    let names: BTreeSet<_> = metadata
        .packages
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    let listed: BTreeSet<_> = MUST_NOT_KNOW
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(names, listed, "every crate has its absences written down");
    for (name, absent) in MUST_NOT_KNOW {
        let package = metadata
            .packages
            .iter()
            .find(|package| package.name == *name)
            .unwrap();
        let known = package
            .dependencies
            .iter()
            .filter(|it| it.kind == DependencyKind::Normal);
        for dependency in known {
            assert!(
                !absent.contains(&dependency.name.as_str()),
                "{name} must not know {}",
                dependency.name
            );
            // These open the door to whoever measures and tries it.
            let opens = |it: &String| it == "bench" || it == "fuzz";
            assert!(
                *name == "gatepost-fuzz" || !dependency.features.iter().any(opens),
                "{name} must not build what only benches and fuzzers use"
            );
            assert_ne!(
                dependency.name, "gatepost-fuzz",
                "{name} must not know what tries it"
            );
        }
    }
    // The pure core reads no clock and touches nothing outside.
    for (path, text) in sources() {
        if path.starts_with("crates/auth/src") {
            for word in [
                "std::fs",
                "std::net::Tcp",
                "Instant::now",
                "SystemTime",
                "std::env",
                "println!",
            ] {
                assert!(!text.contains(word), "{} uses {word}", path.display());
            }
        }
    }
}

/// The wrappers of `.deny.toml`, held against the real graph, so that they also hold where cargo-deny
/// is not installed.
#[test]
fn wrapped_crates_are_used_by_their_wrappers_alone() {
    let deny: toml::Table = fs::read_to_string(root().join(".deny.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let wrappers: BTreeMap<String, Vec<String>> = deny["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| {
            let name = entry["crate"].as_str().unwrap().to_owned();
            let wrappers = entry.get("wrappers")?.as_array().unwrap();
            Some((
                name,
                wrappers
                    .iter()
                    .map(|it| it.as_str().unwrap().to_owned())
                    .collect(),
            ))
        })
        .collect();
    assert!(wrappers.contains_key("mlua") && wrappers.contains_key("pingora-proxy"));
    let metadata = MetadataCommand::new()
        .current_dir(root())
        .other_options(["--locked".to_owned()])
        .exec()
        .unwrap();
    let name = |id: &PackageId| metadata[id].name.to_string();
    for node in metadata.resolve.as_ref().unwrap().nodes.iter() {
        for dependency in &node.deps {
            if let Some(allowed) = wrappers.get(&name(&dependency.pkg)) {
                let user = name(&node.id);
                assert!(
                    allowed.contains(&user),
                    "{user} must not use {}",
                    name(&dependency.pkg)
                );
            }
        }
    }
}

#[test]
fn the_top_level_is_what_it_is() {
    let top: BTreeSet<String> = files()
        .iter()
        .map(|(path, _)| path.iter().next().unwrap().to_str().unwrap().to_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let expected = [
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "bench",
        "config",
        "crates",
        "deploy",
        "docs",
        "lua",
        "tests",
    ];
    assert_eq!(top.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(
            text.starts_with("//! "),
            "{} does not begin with `//!`",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("#[ign", "ore"),
    ];
    for (path, text) in files() {
        for (number, line) in text.lines().enumerate() {
            let found = words.iter().find(|word| line.contains(*word));
            assert!(
                found.is_none(),
                "{}:{}: {}",
                path.display(),
                number + 1,
                found.unwrap()
            );
        }
    }
}

/// A clone must work anywhere: no path of one machine, no registry's address.
#[test]
fn the_repository_names_no_machine_and_no_registry() {
    let words = [
        concat!("/work", "/main"),
        concat!("/root", "/"),
        concat!("../", "shared"),
        concat!("static.", "crates.io"),
        concat!("index.", "crates.io"),
        concat!("pypi", ".org"),
        concat!("npmjs", ".org"),
        concat!("deb.", "debian.org"),
    ];
    for (path, text) in files() {
        // The lock file names its registry; that is cargo's format.
        if path == Path::new("Cargo.lock") {
            continue;
        }
        for word in words {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}

/// The README's map of the crates is complete.
#[test]
fn the_readme_and_the_architecture_name_every_crate() {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for entry in fs::read_dir(root().join("crates")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                text.contains(&format!("`{name}`")) || text.contains(&format!("crates/{name}")),
                "{document} does not name {name}"
            );
        }
    }
}
