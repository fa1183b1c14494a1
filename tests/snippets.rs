//! What the documents say to write and to type is good: every configuration passes `gatepost check` and fits the schema, every policy loads,
//! every command exists; and those who follow a guide from beginning to end get what it shows.
//!
//! A piece of a configuration stands for a whole one: it is put into [`BASE`]. YAML with no key of gatepost's is somebody else's. A block whose first
//! line is a comment with a file's name is that file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::book::{pages, root};
use crate::harness::{BINARY, Gatepost, Recorder, Setup, run_with, write};
use crate::schema::complaints;
use crate::tls_client::Authority;

/// What a piece of a configuration is put into.
const BASE: &str = "\
listeners:
  - listen: 127.0.0.1:8080
upstream:
  address: 127.0.0.1:8000
policy:
  file: policy.lua
routes:
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated] }
";

const POLICY: &str = "\
local kumo = require 'kumo'
local gatepost = require 'gatepost'
kumo.on('http_server_validate_auth_basic', function() return false end)
";

/// What stands between two fences.
struct Block {
    page: PathBuf,
    line: usize,
    language: String,
    text: String,
}

impl Block {
    fn place(&self) -> String {
        format!("{}:{}", self.page.display(), self.line)
    }

    /// The file that it is, if it says so.
    fn name(&self) -> Option<&str> {
        let first = self.text.lines().next()?;
        let name = first
            .strip_prefix("# ")
            .or_else(|| first.strip_prefix("-- "))?;
        let is_name = !name.contains(' ') && (name.ends_with(".yaml") || name.ends_with(".lua"));
        is_name.then_some(name)
    }
}

fn blocks_of(page: &Path, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for (index, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                let block = Block {
                    page: page.to_owned(),
                    line: index + 1,
                    language: language.trim().to_owned(),
                    text: String::new(),
                };
                open = Some((indent, block));
            }
            (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((indent, block)), None) => {
                block.text += line.get(*indent..).unwrap_or_default();
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a fence has no end", page.display());
    blocks
}

fn blocks(language: &str) -> Vec<Block> {
    let pages = pages();
    pages
        .iter()
        .flat_map(|(page, text)| blocks_of(page, text))
        .filter(|it| it.language == language)
        .collect()
}

/// The keys at the top of a configuration.
static KEYS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let output = Command::new(BINARY).arg("schema").output().unwrap();
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys = schema["properties"].as_object().unwrap().keys();
    keys.cloned().collect()
});

/// The configuration that a block of YAML is, or is a piece of; `None` where it is somebody else's.
fn configuration(block: &Block) -> Option<Value> {
    let piece: Value = serde_saphyr::from_str(&block.text)
        .unwrap_or_else(|fault| panic!("{}: {fault}", block.place()));
    let keys: Vec<&String> = piece.as_object().map(Map::keys)?.collect();
    if !keys.iter().any(|key| KEYS.contains(*key)) {
        for key in keys {
            // A slip of the finger must not make it somebody else's.
            let start = |it: &str| it.chars().take(5).collect::<String>();
            let close = KEYS.iter().find(|it| start(it) == start(key));
            assert!(close.is_none(), "{}: {key} or {close:?}?", block.place());
        }
        return None;
    }
    let mut whole: Value = serde_saphyr::from_str(BASE).unwrap();
    merge(&mut whole, piece);
    Some(whole)
}

fn merge(into: &mut Value, piece: Value) {
    match (into, piece) {
        (Value::Object(into), Value::Object(piece)) => {
            for (key, value) in piece {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, piece) => *into = piece,
    }
}

/// Makes every file that a configuration names, and lets it name that.
fn with_files(value: &mut Value, key: &str, folder: &Path, authority: &Authority) {
    match value {
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| with_files(item, key, folder, authority)),
        Value::Object(entries) => {
            let is_secret = entries.len() == 1 && entries.contains_key("file");
            for (key, value) in entries {
                let key = if is_secret { "secret" } else { key };
                with_files(value, key, folder, authority);
            }
        }
        Value::String(text) => {
            let pair = || authority.client("ann@example.com");
            let content = match key {
                "secret" => "0123456789abcdef0123456789abcdef\n".to_owned(),
                "shadow" => POLICY.to_owned(),
                "ca" | "client_ca" => authority.pem.clone(),
                // A certificate and its key go together.
                "tls_certificate" | "tls_private_key" | "client_key" => String::new(),
                "client_certificate" if !matches!(text.as_str(), "required" | "optional") => {
                    String::new()
                }
                _ => return,
            };
            if content.is_empty() {
                let own = folder.join("own.pem");
                if !own.exists() {
                    pair().write(folder, "own");
                }
                *text = match key {
                    "tls_private_key" | "client_key" => "own.key".to_owned(),
                    _ => "own.pem".to_owned(),
                };
            } else {
                key.clone_into(text);
                write(folder, key, &content);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Runs `gatepost check`, with every variable of the environment that the configuration names.
fn check(configuration: &Value, policy: &str, place: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut configuration = configuration.clone();
    with_files(&mut configuration, "", folder.path(), &Authority::new());
    configuration["policy"]["file"] = json!("policy.lua");
    let yaml = configuration.to_string();
    let names = yaml.split("${").skip(1).filter_map(|it| it.split_once('}'));
    let environment: Vec<(&str, &str)> = names
        .map(|(name, _)| (name, "0123456789abcdef0123456789abcdef"))
        .collect();
    write(folder.path(), "gatepost.yaml", &yaml);
    write(folder.path(), "policy.lua", policy);
    for part in policy.split("htpasswd '").skip(1) {
        write(folder.path(), part.split('\'').next().unwrap(), "");
    }
    let (status, out, err) = run_with(
        &["check", "--config", "gatepost.yaml"],
        folder.path(),
        "",
        &environment,
    );
    assert_eq!(status, Some(0), "{place}: {out}{err}\n{yaml}\n{policy}");
}

#[test]
fn every_configuration_is_one() {
    let mut seen = 0;
    for block in blocks("yaml") {
        let Some(configuration) = configuration(&block) else {
            continue;
        };
        let complaints = complaints(&configuration.to_string());
        assert_eq!(complaints, [""; 0], "{}", block.place());
        check(&configuration, POLICY, &block.place());
        seen += 1;
    }
    assert!(seen >= 20, "{seen}");
}

#[test]
fn every_policy_loads() {
    let base: Value = serde_saphyr::from_str(BASE).unwrap();
    let mut seen = 0;
    for block in blocks("lua") {
        if block.text.contains("gatepost.test") {
            continue;
        }
        let mut policy = block.text.clone();
        if !policy.contains("require 'kumo'") {
            policy.insert_str(0, "local kumo = require 'kumo' ");
        }
        if !policy.contains("'http_") {
            policy += "kumo.on('http_server_validate_auth_basic', function() return false end)\n";
        }
        check(&base, &policy, &block.place());
        seen += 1;
    }
    assert!(seen >= 6, "{seen}");
}

/// What is typed, with the lines that are shown below it.
fn commands(block: &Block) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for line in block.text.lines() {
        match line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")) {
            Some(command) => commands.push((command.to_owned(), Vec::new())),
            None => {
                let Some((command, shown)) = commands.last_mut() else {
                    panic!("{}: an answer before a command", block.place());
                };
                if let Some(begun) = command.strip_suffix('\\') {
                    *command = format!("{begun}{}", line.trim_start());
                } else {
                    shown.push(line.to_owned());
                }
            }
        }
    }
    commands
}

/// Commands, options and targets that exist. What they do is another matter.
#[test]
fn every_command_can_be_typed() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let (mut gatepost, mut make) = (0, 0);
    for block in blocks("console") {
        for (command, _) in commands(&block) {
            let place = block.place();
            for part in command.split(['|', ';', '&']).map(str::trim) {
                let part = part.split(" #").next().unwrap_or_default();
                let mut words = part.split_whitespace();
                match words.next() {
                    Some("gatepost") => {
                        let words: Vec<&str> = words.chain(["--help"]).collect();
                        let output = Command::new(BINARY).args(&words).output().unwrap();
                        let said = String::from_utf8_lossy(&output.stderr);
                        assert!(output.status.success(), "{place}: {command}\n{said}");
                        gatepost += 1;
                    }
                    Some("make") => {
                        for target in words.take_while(|it| !it.contains('=')) {
                            let rule = format!("\n{target}:");
                            assert!(makefile.contains(&rule), "{place}: make {target}");
                            make += 1;
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(gatepost >= 15 && make >= 3, "{gatepost} {make}");
}

/// Somebody who follows a page from beginning to end, in an empty folder.
struct Reader {
    folder: tempfile::TempDir,
    gate: Option<Gatepost>,
    mta: Recorder,
    environment: Vec<(String, String)>,
    done: usize,
}

impl Reader {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "gatepost.yaml", BASE);
        write(folder.path(), "policy.lua", POLICY);
        Self {
            folder,
            gate: None,
            mta: Recorder::start(),
            environment: Vec::new(),
            done: 0,
        }
    }

    fn file(self, name: &str, content: &str) -> Self {
        write(self.folder.path(), name, content);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes what is to be written, types what is to be typed, and holds what comes against what is shown.
    fn follow(mut self, page: &str) -> Self {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        for block in blocks_of(Path::new(page), &text) {
            match (block.name(), block.language.as_str()) {
                (Some(name), _) => {
                    write(self.folder.path(), name, &block.text);
                }
                (None, "yaml") => {
                    if let Some(configuration) = configuration(&block) {
                        write(
                            self.folder.path(),
                            "gatepost.yaml",
                            &configuration.to_string(),
                        );
                    }
                }
                (None, "console") => {
                    for (command, shown) in commands(&block) {
                        self.enter(&command, &shown, &block.place());
                    }
                }
                _ => {}
            }
        }
        assert!(self.done >= 2, "{page} has nothing to do");
        self
    }

    fn enter(&mut self, command: &str, shown: &[String], place: &str) {
        // The binary is there, and installed.
        if command.starts_with("cargo ") || command.starts_with("sudo ") {
            return;
        }
        self.done += 1;
        if command == "gatepost run --config gatepost.yaml &" {
            self.start();
            return;
        }
        let mut command = command.to_owned();
        if let Some(gate) = &self.gate {
            command = command.replace("127.0.0.1:8080", &gate.address.to_string());
        }
        let own = Path::new(BINARY).parent().unwrap();
        let path = format!("{}:{}", own.display(), std::env::var("PATH").unwrap());
        let output = Command::new("bash")
            .args(["--norc", "-c", &command])
            .current_dir(self.folder.path())
            .env("PATH", path)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let more = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        assert!(
            is_shown(&lines, &shown),
            "{place}: {command}\n--- says\n{said}{more}\n--- is to say\n{}",
            shown.join("\n")
        );
        if shown.is_empty() {
            assert!(output.status.success(), "{place}: {command}\n{said}{more}");
        }
    }

    /// Starts gatepost with what was written, but on free ports, and before an MTA that is there.
    fn start(&mut self) {
        let file = self.folder.path().join("gatepost.yaml");
        let mut yaml = std::fs::read_to_string(&file).unwrap();
        for (from, to) in [
            ("0.0.0.0:8080", "127.0.0.1:0"),
            ("127.0.0.1:8080", "127.0.0.1:0"),
            ("127.0.0.1:8000", &self.mta.address.to_string()),
        ] {
            yaml = yaml.replace(from, to);
        }
        assert!(!yaml.contains("admin:"));
        let _ = writeln!(yaml, "admin: {{ listen: 127.0.0.1:0 }}");
        write(self.folder.path(), "gatepost.yaml", &yaml);
        let mut setup = Setup::demo();
        for (key, value) in &self.environment {
            setup = setup.env(key, value);
        }
        self.gate = Some(setup.start_with(&file));
    }
}

/// Whether lines are those that a page shows, where a line `...` stands for any number of lines, and `…` for anything within one.
fn is_shown(lines: &[&str], shown: &[&str]) -> bool {
    match (shown.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), _) => (0..=lines.len()).any(|it| is_shown(&lines[it..], rest)),
        (Some((shown, rest)), Some((line, lines))) => is_line(line, shown) && is_shown(lines, rest),
        (None, Some(_)) => false,
        (Some(_), None) => false,
    }
}

fn is_line(line: &str, shown: &str) -> bool {
    let Some((start, rest)) = shown.split_once('…') else {
        return line == shown;
    };
    line.strip_prefix(start).is_some_and(|after| {
        after
            .char_indices()
            .any(|(at, _)| is_line(&after[at..], rest))
    })
}

#[test]
fn what_is_shown_is_compared() {
    assert!(is_shown(&["a", "b", "c"], &["a", "..."]));
    assert!(is_shown(&["a", "b c d"], &["...", "b … d"]));
    assert!(!is_shown(&["a", "b"], &["a"]));
    assert!(!is_shown(&["a"], &["b"]));
    assert!(!is_shown(&["a"], &["a", "b"]));
    assert!(!is_line("a c", "a … b"));
}

#[test]
fn the_quick_start_works() {
    Reader::new().follow("docs/quick-start.md");
}

#[test]
fn the_policy_of_the_guide_does_what_it_says() {
    Reader::new().follow("docs/policy.md");
}

#[test]
fn the_recipe_for_groups_decides_as_shown() {
    Reader::new().follow("docs/recipes.md");
}

/// The token of the guide, which is not there, since only its digest is.
#[test]
fn the_tokens_of_the_guide_are_tokens() {
    let guide = blocks("lua").into_iter();
    let block = guide
        .filter(|it| it.page == Path::new("docs/policy.md"))
        .find(|it| it.text.contains("auth_bearer"))
        .unwrap();
    let gate = Setup::demo().policy(&block.text).start();
    let status = |token: &str| {
        let header = format!("Authorization: Bearer {token}\r\n");
        let request = crate::harness::inject(&header);
        gate.send(crate::harness::STRANGER, request).unwrap().status
    };
    assert_eq!(status("a-long-random-token-2026"), 200);
    assert_eq!(gate.messages()[0]["meta"]["http_auth"], "newsletter");
    assert_eq!(status("another"), 401);
}

/// KumoMTA's side gets what its handler in `deploy/kumomta` takes apart.
#[test]
fn who_comes_from_kumomta_arrives() {
    let reader = Reader::new().follow("docs/migrate-kumomta.md");
    let told = reader.mta.told("Authorization").unwrap();
    let told = told.strip_prefix("Basic ").unwrap();
    let told = base64::engine::general_purpose::STANDARD.decode(told);
    assert_eq!(
        String::from_utf8(told.unwrap()).unwrap(),
        "gatepost:0123456789abcdef0123456789abcdef:scott"
    );
}

#[test]
fn who_comes_from_nginx_arrives() {
    let hash = ["hash", "--algorithm", "bcrypt"];
    let (_, hash, _) = run_with(&hash, Path::new("."), "tiger\n", &[]);
    let reader = Reader::new()
        .file("mail.htpasswd", &format!("scott:{hash}"))
        .follow("docs/migrate-nginx.md");
    assert_eq!(reader.mta.told("X-Http-Auth").as_deref(), Some("scott"));
    assert_eq!(reader.mta.told("Authorization"), None);
}

#[test]
fn who_comes_from_oauth2_proxy_arrives() {
    let issuer = Recorder::behaving(|stream, seen| {
        use std::io::Write as _;
        let answer = match seen.body.as_slice() {
            b"token=good" => r#"{"active":true,"client_id":"shop","scope":"mail.send status"}"#,
            _ => r#"{"active":false}"#,
        };
        let length = answer.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}"
        )
        .is_ok()
    });
    let reader = Reader::new()
        .env("ISSUER", &format!("http://{}/introspect", issuer.address))
        .env("ISSUER_SECRET", "between-the-two")
        .follow("docs/migrate-oauth2-proxy.md");
    // gatepost says who asks.
    let asked = issuer.told("Authorization").unwrap();
    assert!(asked.starts_with("Basic "), "{asked}");
    // The last request was open to anyone: nobody is named.
    assert_eq!(reader.mta.told("X-Forwarded-User"), None);
    let text = reader.mta.text().to_ascii_lowercase();
    for header in [
        "x-forwarded-user: shop",
        "x-forwarded-groups: mail.send,status",
    ] {
        assert!(text.contains(header), "{header} is not in\n{text}");
    }
}
