//! Files that are no configuration: not YAML, hostile, unreadable.

use std::path::Path;

use super::schema::parse;
use super::{MINIMAL, check, faults};
use crate::load;

#[test]
fn a_key_that_is_there_twice_is_a_fault_beside_others() {
    check(
        "  file: policy.lua",
        "  file: policy.lua\n  queue: 1\n  queue: 5",
        &["x.yaml:8:3: the key `queue` is there twice, first on line 7"],
    );
    check(
        "",
        "trusted_hosts: [\"::1\"]\ntrusted_hosts: []\nthreads: 0",
        &[
            "x.yaml:10:1: the key `trusted_hosts` is there twice, first on line 9",
            "x.yaml:11:10: 0 is not between 1 and 1024",
        ],
    );
}

#[test]
fn what_is_not_yaml_is_one_clear_fault() {
    for (text, expected) in [
        ("", "1:1: expected a mapping, found nothing"),
        ("# nothing\n", "2:1: expected a mapping, found nothing"),
        ("- a", "1:1: expected a mapping, found a list"),
        ("listeners", "1:1: expected a mapping, found `listeners`"),
        ("a: [", "1:4: unclosed bracket '['"),
        ("a: \"b\n", "1:4: unclosed quote"),
        (
            "a: b: c\n",
            "1:5: mapping values are not allowed in this context",
        ),
        (
            "a: 1\n---\nb: 2\n",
            "3:1: the file holds more than one YAML document",
        ),
        (
            "a:\n\t- b\n",
            "2:2: tabs disallowed within this context (block indentation)",
        ),
        ("a: \0", "1:4: unexpected character: `\\u{0}'"),
        ("a: *b", "1:4: reference to unknown value"),
        (
            "a: &a { b: 1 }\nc:\n  <<: *a\n",
            "3:3: merge key not allowed here",
        ),
        ("a: !include b", "1:13: unsupported tag `!include`"),
        ("? [a]\n: b", "1:3: expected string scalar"),
    ] {
        assert_eq!(faults(text), [format!("x.yaml:{expected}")], "{text}");
    }
}

/// The attack: a file that is meant to exhaust its reader.
#[test]
fn a_hostile_file_is_refused_in_time() {
    let bomb = (1..=9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, i| {
        let items = vec![format!("*a{}", i - 1); 9].join(",");
        format!("{text}a{i}: &a{i} [{items}]\n")
    });
    let staircase: String = (0..1000)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    for text in [
        "[".repeat(1_000_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        staircase,
        bomb,
        format!("a: [{}]", "1,".repeat(500_000)),
        format!("{}: 1", "k".repeat(1_000_000)),
        format!("a: {}", "b".repeat(1_000_000)),
        format!("{MINIMAL}log: {{ level: {} }}", "b".repeat(1_000_000)),
        format!("{MINIMAL}log: {{ level: \"{}\" }}", "\\e[2J\\n".repeat(100)),
        "a: \0".to_owned(),
    ] {
        let found = faults(&text);
        assert!(!found.is_empty());
        assert!(
            found.iter().all(|fault| {
                fault.len() < 1000
                    && fault.chars().count() < 300
                    && !fault.contains(char::is_control)
            }),
            "{found:?}"
        );
    }
}

/// Whatever is cut out of a file, or put into it, it is read or refused with a reason.
#[test]
fn a_damaged_file_is_never_refused_without_a_reason() {
    let text = include_str!("../../../../config/reference.yaml");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#'))
        .collect();
    let damaged = |index: usize, with: &str| {
        let (before, after) = (lines[..index].join("\n"), lines[index + 1..].join("\n"));
        format!("{before}\n{with}\n{after}\n")
    };
    for (index, line) in lines.iter().enumerate() {
        let key = line.split_inclusive(": ").next().unwrap();
        let values = [
            "",
            "~",
            "[]",
            "{}",
            "-1",
            "99999999999999999999",
            "''",
            "\"\\u202e\"",
            "é",
            "[[]]",
        ];
        let broken = values.iter().map(|value| format!("{key}{value}"));
        for with in broken.chain([
            String::new(),
            format!("{line} {line}"),
            "\u{fffd}".to_owned(),
        ]) {
            if let Err(faults) = parse(&damaged(index, &with), Path::new("x")) {
                assert!(faults.iter().next().is_some(), "{with}");
                let lines = faults.to_string();
                assert!(lines.lines().all(|line| line.starts_with("x:")), "{lines}");
                assert_eq!(lines.lines().count(), faults.iter().count(), "{lines}");
            }
        }
    }
}

/// The parser keeps comments up to a bound; ours is off, or a well-commented file would be refused.
#[test]
fn comments_are_not_counted() {
    let text = format!("{}{MINIMAL}{}", "# c\n".repeat(500), "# c\n".repeat(500));
    let text = text.replacen(
        "policy:\n",
        &format!("policy:\n{}", "  # c\n".repeat(500)),
        1,
    );
    assert!(parse(&text, Path::new("x")).is_ok());
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.yaml");
    let message = |path: &Path| load(path).unwrap_err().to_string();
    assert!(message(&path).ends_with("No such file or directory (os error 2)"));
    assert!(message(folder.path()).ends_with(": this is not a file"));
    std::fs::write(&path, b"# \n".repeat(500_000)).unwrap();
    assert!(message(&path).ends_with("x.yaml: the file is larger than 1 MiB"));
    std::fs::write(&path, b"a: b\nb: \xff\n").unwrap();
    assert!(message(&path).ends_with("x.yaml: the file is not UTF-8: see line 2"));
    std::fs::write(&path, MINIMAL).unwrap();
    assert_eq!(
        load(&path).unwrap().policy.file,
        folder.path().join("policy.lua")
    );
}
