//! `gatepost schema`: what an editor says of a configuration is what `gatepost check` says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::harness::{BINARY, run, write};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// More than a pipe holds, so it is read while it comes.
fn printed(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(&printed(&["schema"])).unwrap();
    jsonschema::draft7::new(&schema).unwrap()
});

/// What an editor says against a file that is YAML.
pub(crate) fn complaints(yaml: &str) -> Vec<String> {
    let document: Value = serde_saphyr::from_str(yaml).unwrap();
    let faults = SCHEMA.iter_errors(&document);
    faults
        .map(|it| format!("{}: {it}", it.instance_path()))
        .collect()
}

/// The schema that editors find beside the configurations, and the page of the manual, are those of this gatepost.
#[test]
fn what_is_made_of_the_code_is_not_stale() {
    for (arguments, file) in [
        (&["schema"][..], "config/gatepost.schema.json"),
        (&["schema", "--format", "markdown"], "docs/configuration.md"),
    ] {
        let kept = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        // Not by `assert_eq`, which would print both.
        let is_same = printed(arguments) == kept;
        assert!(is_same, "{file} is stale: `make reference` makes it anew");
    }
}

/// Every configuration of the repository is one for the schema, too, and those to start from name it for editors.
#[test]
fn the_configurations_of_the_repository_fit() {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .args(["*.yaml", "*.yml"])
        .current_dir(root())
        .output()
        .unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    let mut fitting = 0;
    for name in names.lines() {
        let path = root().join(name);
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let has = |key: &str| text.lines().any(|line| line == key);
        if !(has("listeners:") && has("routes:")) {
            continue;
        }
        assert_eq!(complaints(&text), [""; 0], "{name}");
        fitting += 1;
        if name.starts_with("config/") {
            let first = text.lines().next().unwrap_or_default();
            let schema = first.strip_prefix("# yaml-language-server: $schema=");
            let schema = schema.unwrap_or_else(|| panic!("{name} names no schema"));
            let schema = path.with_file_name(schema);
            assert!(schema.is_file(), "{name}: {}", schema.display());
        }
    }
    assert!(fitting >= 3, "{fitting} of {names}");
}

const GOOD: &str = "\
listeners:
  - listen: 127.0.0.1:8080
upstream:
  address: 127.0.0.1:8000
policy:
  file: policy.lua
routes:
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated] }
";

/// A line takes the place of the section that it is about, or is added.
const WRONG: &[&str] = &[
    // Keys.
    "surprise: 1",
    "listners: [{ listen: '127.0.0.1:8080' }]",
    "listeners: [{ listen: '127.0.0.1:8080', port: 1 }]",
    "listeners: []",
    "listeners: { listen: '127.0.0.1:8080' }",
    "listeners: [{ proxy_protocol: true }]",
    "upstream: {}",
    "upstream: { adress: 127.0.0.1:8000 }",
    "policy: { workers: 1 }",
    "routes: [{ path: /, methods: [POST] }]",
    "routes: [{ path: /, methods: [], allow: [anyone] }]",
    "routes: [{ preset: kumomta, methods: [POST] }]",
    "quotas: { limits: [{ requests: [5/s] }] }",
    "upstream: { address: 'a:1', signature: { keys: [{ id: a }] } }",
    "upstream: { address: 'a:1', health_check: { interval: 5s } }",
    "decision_cache:",
    "log: info",
    // Words.
    "log: { level: verbose }",
    "upstream: { address: 'a:1', identity: cookie }",
    "upstream: { address: 'a:1', balance: random }",
    "client_address_header: X-Real-IP",
    "basic: { missing_password: }",
    "routes: [{ path: /, methods: [POST], allow: [everybody] }]",
    "routes: [{ path: /, methods: [POST], allow: authenticated }]",
    "routes: [{ path: /, methods: [POST], allow: [{ user: scott }] }]",
    "routes: [{ path: /, methods: [POST], allow: [{ all_of: [] }] }]",
    "routes: [{ path: /, methods: [POST], allow: [{ identity: a, group: b }] }]",
    "routes: [{ path: /, methods: [TRACE], allow: [anyone] }]",
    "routes: [{ path: /, methods: [post], allow: [anyone] }]",
    "routes: [{ path: messages, methods: [POST], allow: [anyone] }]",
    "routes: [{ path: /a*b, methods: [POST], allow: [anyone] }]",
    "routes: [{ preset: postfix }]",
    "message_rules: [{ for: [somebody] }]",
    "admin: on",
    // Numbers, durations, sizes, rates.
    "threads: 0",
    "threads: '4'",
    "policy: { file: policy.lua, workers: 257 }",
    "policy: { file: policy.lua, callback_timeout: 5 }",
    "policy: { file: policy.lua, callback_timeout: 5 parsecs }",
    "policy: { file: policy.lua, memory_limit: much }",
    "http: { max_head_bytes: 100 }",
    "http: { max_connections: 1.5 }",
    "throttle: { per_address: 10 }",
    "throttle: { per_address: 10/fortnight }",
    "quotas: { limits: [{ for: [anyone], requests: [{ rate: 5/s }] }] }",
    "traces: { sample: 2 }",
    "metrics: { top_identities: 1001 }",
    "listeners: [{ listen: 'unix:/run/a.sock', unix_mode: \"0888\" }]",
    // Addresses and names.
    "listeners: [{ listen: localhost:8080 }]",
    "listeners: [{ listen: 8080 }]",
    "upstream: { address: 'http://127.0.0.1:8000' }",
    "upstream: { address: [] }",
    "upstream: { address: 'a:1', identity_header: 'X Auth' }",
    "upstream: { address: 'a:1', meta_headers: { tenant: '' } }",
    "trusted_hosts: 127.0.0.1",
    "trusted_hosts: [localhost]",
    "trusted_proxies: [10.0.0.0/8/8]",
    "admin: { listen: 'unix:/run/admin.sock' }",
    "traces: { otlp: 127.0.0.1:4318 }",
    "throttle: { redis: 127.0.0.1:6379 }",
    // Texts and secrets.
    "policy: { file: '' }",
    "policy: { file: '${HOME}/policy.lua' }",
    "basic: { realm: 'a \"quoted\" one' }",
    "admin: { token: { path: token } }",
    "admin: { token: 'prefix-${TOKEN}' }",
];

/// What is wrong is wrong in the editor and for gatepost.
#[test]
fn what_gatepost_refuses_the_editor_underlines() {
    assert_eq!(complaints(GOOD), [""; 0]);
    for wrong in WRONG {
        let key = wrong.split(':').next().unwrap();
        let mut yaml = String::new();
        let mut is_replaced = false;
        for line in GOOD.lines() {
            if !line.starts_with(' ') {
                is_replaced = line.starts_with(&format!("{key}:"));
            }
            if !is_replaced {
                yaml += line;
                yaml += "\n";
            }
        }
        yaml += wrong;
        yaml += "\n";
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            "policy.lua",
            "require 'kumo'.on('http_server_validate_auth_basic', function() return false end)\n",
        );
        write(folder.path(), "x.yaml", &yaml);
        let (status, out, _) = run(&["check", "--config", "x.yaml"], folder.path());
        assert_eq!(status, Some(1), "gatepost takes {wrong}\n{out}");
        assert!(out.starts_with("x.yaml:"), "{wrong}: {out}");
        assert!(!complaints(&yaml).is_empty(), "the schema takes {wrong}");
    }
}

/// The need: `gatepost ch<TAB>` in a shell.
#[test]
fn bash_completes_commands_options_and_words() {
    let script = printed(&["completions", "bash"]);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "gatepost.bash", &script);
    write(folder.path(), "gatepost.yaml", "");
    // What the shell does when the key is pressed: the words, which of them it is, and the function that was named for the command.
    let complete = |words: &[&str]| {
        let ask = "source gatepost.bash
            COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))
            function=$(complete -p gatepost | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
            $function gatepost \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"
            printf '%s\\n' \"${COMPREPLY[@]}\"";
        let output = Command::new("bash")
            .args(["--norc", "-c", ask, "bash"])
            .args(words)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut words: Vec<String> = text.lines().map(str::to_owned).collect();
        words.sort();
        words
    };
    assert_eq!(complete(&["gatepost", "ch"]), ["check"]);
    assert_eq!(complete(&["gatepost", "re"]), ["replay"]);
    assert_eq!(complete(&["gatepost", "check", "--co"]), ["--config"]);
    assert_eq!(
        complete(&["gatepost", "check", "--config", "gate"]),
        ["gatepost.bash", "gatepost.yaml"]
    );
    assert_eq!(complete(&["gatepost", "completions", "z"]), ["zsh"]);
    let all = complete(&["gatepost", ""]);
    for command in commands() {
        assert!(all.contains(&command), "{command} is not among {all:?}");
    }
}

/// The scripts for other shells name every command; where the shell is here, it reads its script without complaint.
#[test]
fn other_shells_have_completions_too() {
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
        if matches!(shell, "zsh" | "fish") {
            let folder = tempfile::tempdir().unwrap();
            let file = write(folder.path(), "script", &script);
            match Command::new(shell).arg("-n").arg(&file).output() {
                Ok(output) => assert!(output.status.success(), "{output:?}"),
                Err(_) => println!("skipped: no {shell} here"),
            }
        }
    }
    assert_eq!(run(&["completions", "tcsh"], &root()).0, Some(2));
}

/// The need: `man gatepost`, with every command and option in it.
#[test]
fn the_manual_page_has_everything_and_can_be_set() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH gatepost 1 "), "{page}");
    let sections = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "SIGNALS",
        "EXIT STATUS",
        "VERSION",
    ];
    let found: Vec<&str> = page
        .lines()
        .filter_map(|it| it.strip_prefix(".SH "))
        .map(|it| it.trim_matches('"'))
        .collect();
    assert_eq!(found, sections);
    for command in commands() {
        let from = page.find(&format!("\n.SS {command}\n"));
        let from = from.unwrap_or_else(|| panic!("{command} is not in the page"));
        let (_, help, _) = run(&[&command, "--help"], &root());
        for option in help
            .split_whitespace()
            .filter(|it| it.starts_with("--") && *it != "--help")
        {
            let option = option.trim_end_matches(['.', ',']).replace('-', "\\-");
            assert!(page[from..].contains(&option), "{command} {option}");
        }
    }
    // Set as a reader sees it, without a warning.
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "gatepost.1", &page);
    let set = Command::new("groff")
        .args(["-man", "-ww", "-Tutf8", "-Kutf8", "-P-cbou"])
        .arg(&file)
        .output();
    match set {
        Ok(output) => {
            let warnings = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && warnings.is_empty(), "{warnings}");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("COMMANDS"), "{text}");
        }
        Err(_) => println!("skipped: no groff here"),
    }
}

/// The commands, as `--help` lists them.
fn commands() -> Vec<String> {
    let output = Command::new(BINARY).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<String> = listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .map(str::to_owned)
        .collect();
    assert!(commands.len() >= 13, "{help}");
    commands
}
