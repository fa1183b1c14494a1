//! What SECURITY.md and the pages behind it promise. A test that is named there and is none any more would be a promise that nobody keeps, so each is
//! looked up; as are the versions of what was looked at, and the reasons for what no test has to notice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::book::root;

/// A row of the table of defences: what is tried, and the tests by their files.
struct Defence {
    tried: String,
    shown_by: Vec<(String, Vec<String>)>,
}

/// The rows of the table whose last column is `shown by`.
fn defences(page: &str) -> Vec<Defence> {
    let rows = page
        .lines()
        .skip_while(|line| !line.ends_with("| shown by |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [tried, _, shown_by] = cells[..] else {
            panic!("{row}: not three columns");
        };
        Defence {
            tried: tried.trim().to_owned(),
            shown_by: shown_by.split("; ").map(file_and_names).collect(),
        }
    })
    .collect()
}

/// Of `[file](file) `name`, `name``.
fn file_and_names(text: &str) -> (String, Vec<String>) {
    let (_, rest) = text
        .split_once("](")
        .unwrap_or_else(|| panic!("{text}: no file"));
    let (file, names) = rest.split_once(')').unwrap();
    let names = names.split('`').skip(1).step_by(2);
    (file.to_owned(), names.map(str::to_owned).collect())
}

/// Whether this source has a test of this name: a function, with the attribute above it.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let head = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = lines[..at].iter().rev();
        head(line)
            && attributes
                .take_while(|it| it.starts_with('#') || it.starts_with("//"))
                .any(|it| it.starts_with("#[test]") || it.starts_with("#[tokio::test"))
    })
}

/// What is wrong with a name; a file of `tests` has to be a module, or nothing of it runs.
fn fault(file: &str, name: &str) -> Option<String> {
    let Ok(source) = std::fs::read_to_string(root().join(file)) else {
        return Some(format!("there is no {file}"));
    };
    if !has_test(&source, name) {
        return Some(format!("{file} has no test {name}"));
    }
    let path = Path::new(file);
    if path.starts_with("tests") {
        let main: PathBuf = root().join(path.with_file_name("main.rs"));
        let main = std::fs::read_to_string(main).unwrap();
        let module = path.file_stem().unwrap().to_str().unwrap();
        if !main.lines().any(|line| line == format!("mod {module};")) {
            return Some(format!("{file} is no module"));
        }
    }
    None
}

/// The need: whoever reads that something is shown can run what shows it.
#[test]
fn every_defence_has_tests_that_exist() {
    let page = std::fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let defences = defences(&page);
    assert!(defences.len() > 20, "{}", defences.len());
    let mut faults = Vec::new();
    let mut named = BTreeMap::new();
    for defence in &defences {
        assert!(!defence.shown_by.is_empty(), "{}", defence.tried);
        for (file, names) in &defence.shown_by {
            assert!(!names.is_empty(), "{}: {file} names none", defence.tried);
            for name in names {
                *named.entry((file, name)).or_insert(0) += 1;
                faults.extend(fault(file, name));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(named.len() > 60, "{}", named.len());
}

#[test]
fn what_is_no_test_is_found() {
    let source = "#[test]\nfn yes() {}\n/// Doc.\n#[tokio::test(flavor = \"x\")]\nasync fn also() {}\nfn helper() {}\n#[test]\nfn yes_but_longer() {}\n";
    for (name, expected) in [
        ("yes", true),
        ("also", true),
        ("yes_but_longer", true),
        ("helper", false),
        ("ye", false),
        ("yes_but", false),
        ("no", false),
    ] {
        assert_eq!(has_test(source, name), expected, "{name}");
    }
    assert!(fault("tests/no_such_file.rs", "x").is_some());
    assert!(fault("tests/security.rs", "has_test").is_some());
    assert!(fault("tests/security.rs", "what_is_no_test_is_found").is_none());
    let row = "| a | b | shown by |\n|---|---|---|\n| x | y | [t.rs](t.rs) `one`, `two`; [u.rs](u.rs) `three` |\n\nafter\n";
    let [defence] = &defences(row)[..] else {
        panic!("one row");
    };
    assert_eq!(defence.tried, "x");
    let all: Vec<_> = defence
        .shown_by
        .iter()
        .map(|(file, names)| format!("{file} {}", names.join(" ")))
        .collect();
    assert_eq!(all, ["t.rs one two", "u.rs three"]);
}

/// The need: what was read of a dependency was read of one version. A newer one is looked at before it is taken.
#[test]
fn the_notes_are_about_the_versions_that_are_used() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let lock: toml::Table = lock.parse().unwrap();
    let packages: BTreeSet<(&str, &str)> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (
                it["name"].as_str().unwrap(),
                it["version"].as_str().unwrap(),
            )
        })
        .collect();
    let page = std::fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with("| crate | kept by |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut versions = 0;
    for row in rows {
        let cell = row.split('|').nth(1).unwrap().trim();
        for crate_ in cell.split(", ") {
            let (name, version) = crate_.split_once(' ').unwrap_or((crate_, ""));
            let used = packages
                .iter()
                .any(|it| it.0 == name && (version.is_empty() || it.1 == version));
            assert!(used, "docs/dependencies.md: {crate_} is not in Cargo.lock");
            versions += usize::from(!version.is_empty());
        }
    }
    assert!(versions > 30, "{versions}");
}

/// A mutant that no test notices is a missing test, unless somebody can say why it is not.
#[test]
fn what_mutants_leave_alone_has_its_reason() {
    let text = std::fs::read_to_string(root().join(".cargo/mutants.toml")).unwrap();
    let list: toml::Table = text.parse().unwrap();
    let list = list["exclude_re"].as_array().unwrap();
    let (mut reason, mut found) = (false, 0);
    for line in text.lines().skip_while(|it| !it.starts_with("exclude_re")) {
        let line = line.trim();
        match line {
            "" => reason = false,
            _ if line.starts_with("# ") => reason = true,
            _ if line.starts_with('\'') => {
                assert!(reason, "{line}: no reason");
                found += 1;
            }
            _ => {}
        }
    }
    assert_eq!(found, list.len(), "one on each line");
}
