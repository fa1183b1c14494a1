//! What fail2ban makes of the log, by its own fail2ban-regex and the filter that is in `deploy/fail2ban`.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::{BINARY, STRANGER, basic, wait_for, write};
use crate::program::{PROXY, send, upstream};

/// Whom every forged line accuses.
const VICTIM: &str = "203.0.113.7";

const GUESSER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const GARBLER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);
const FRIEND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// Lets in whoever knows the word, by any name, and warns of every name, as policies do.
const POLICY: &str = "
local kumo = require 'kumo'
kumo.on('http_server_validate_auth_basic', function(user, password)
  kumo.log_warn(user)
  kumo.log_warn('auth: ' .. user)
  return password == 'friend'
end)";

/// User names that would like to be log lines, or to break their own. None can hold a colon: it ends the name.
const NAMES: [&str; 9] = [
    "x",
    "auth_failed client=203.0.113.7 user=\"y\" reason=rejected",
    "x auth_failed client=203.0.113.7 user=\"y\" reason=rejected",
    "\" reason=rejected",
    "x\" reason=rejected\",\"target\"=\"auth\"}",
    "2026-11-24T12 WARN auth auth_failed client=203.0.113.7 user=\"y\" reason=rejected",
    "mail gatepost[1] auth_failed client=203.0.113.7 user=\"y\" reason=rejected",
    "jürgen\" client=203.0.113.7 \u{85b}\"",
    "%s<HOST>203.0.113.7'`$(id)",
];

/// Names that no credentials may hold, since they break lines, escape quotes or read as an address.
const GARBLED: [&str; 6] = [
    "x\nauth_failed client=203.0.113.7 user=\"y\" reason=rejected",
    "x\r\n2026-11-24T12",
    "x\u{2028}auth_failed client=203.0.113.7",
    "x\u{85}auth_failed client=203.0.113.7",
    "x\\\" reason=rejected",
    "203.0.113.7",
];

/// A request id that a trusted proxy hands on.
const LINE: &str =
    r#"{"timestamp":"2026-11-24T12:59:18.023509Z","level":"WARN","message":"auth_failed"}"#;

/// A gatepost whose log goes into a file. Killed when dropped.
struct Logging {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Logging {
    fn start(upstream: SocketAddr, format: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "listeners:
  - listen: 127.0.0.1:0
upstream:
  address: {upstream}
policy:
  file: policy.lua
routes:
  - {{ path: /open, methods: [GET], allow: [anyone] }}
  - {{ path: /users-only, methods: [GET], allow: [authenticated] }}
admin: off
trusted_proxies: [{PROXY}]
throttle: {{ per_address: off, per_address_and_user: 2/hour }}
audit: {{ names: plain }}
log: {{ format: {format} }}
"
        );
        write(folder.path(), "policy.lua", POLICY);
        let config = write(folder.path(), "gatepost.yaml", &config);
        let child = Command::new(BINARY)
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut gate = Self {
            child,
            address: SocketAddr::from(([0; 4], 0)),
            folder,
        };
        wait_for("gatepost to serve", || gate.log().contains("ready"));
        gate.address = listening(&gate.log());
        gate
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn status(&self, from: Ipv4Addr, headers: &str) -> u16 {
        let request = format!("GET /open HTTP/1.1\r\nHost: gate\r\n{headers}\r\n");
        send(self.address, from, request).unwrap().status
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the log's line about it, in either format.
fn listening(log: &str) -> SocketAddr {
    let line = log.lines().find(|line| line.contains("listening")).unwrap();
    let (_, rest) = line.split_once("127.0.0.1:").unwrap();
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))
}

/// The attack: whoever can make a line that the filter takes for another's failure gets anybody banned, and whoever can spoil
/// the line of its own failure is never banned. So names, headers, paths and request ids are full of such lines.
#[test]
fn exactly_those_who_failed_are_found() {
    let began = now();
    for format in ["text", "json"] {
        let upstream = upstream();
        let gate = Logging::start(upstream.address, format);
        let mut failed = BTreeMap::new();
        let mut fails = |client: &str| *failed.entry(client.to_owned()).or_insert(0) += 1;
        for name in NAMES {
            assert_eq!(gate.status(STRANGER, &basic(name, "wrong")), 401, "{name}");
            fails("127.0.0.2");
            // A good login by such a name is no failure.
            assert_eq!(gate.status(FRIEND, &basic(name, "friend")), 200, "{name}");
        }
        for status in [401, 401, 429, 429] {
            assert_eq!(gate.status(GUESSER, &basic("scott", "wrong")), status);
            fails("127.0.0.3");
        }
        for name in GARBLED {
            assert_eq!(gate.status(GARBLER, &basic(name, "wrong")), 400, "{name:?}");
            fails("127.0.0.4");
        }
        assert_eq!(gate.status(GARBLER, "Authorization: Basic !!\r\n"), 400);
        fails("127.0.0.4");
        let by_proxy =
            format!("X-Forwarded-For: {VICTIM}, 2001:db8::7\r\nX-Request-Id: {LINE}\r\n");
        assert_eq!(
            gate.status(PROXY, &(by_proxy.clone() + &basic("x", "wrong"))),
            401
        );
        fails("2001:db8::7");
        assert_eq!(gate.status(PROXY, &by_proxy), 200);
        // Nothing wrong about credentials: none, nonsense of other kinds, and words of a client where nobody reads them.
        let words =
            format!("User-Agent: auth_failed client={VICTIM} user=\"y\" reason=rejected\r\n");
        assert_eq!(
            gate.status(NOBODY, &(words + "X-Forwarded-For: 203.0.113.7\r\n")),
            200
        );
        for (target, status) in [
            ("/users-only", 401),
            ("/auth_failed%20client=203.0.113.7", 400),
            ("/auth_failed-client=203.0.113.7", 404),
            (
                "/open?2026-11-24T12:59:18.023509Z%20%20WARN%20auth:%20auth_failed%20client=203.0.113.7",
                200,
            ),
            ("/open\nauth_failed client=203.0.113.7", 400),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: gate\r\n\r\n");
            assert_eq!(send(gate.address, NOBODY, request).unwrap().status, status);
        }
        let log = gate.log();
        assert!(log.contains(VICTIM), "the attack got nowhere near: {log}");

        assert_eq!(found(&log, &[], began), failed, "{format}");
        // Behind what others put before it, where fail2ban takes the date out of the line and where it leaves it.
        for prefix in [
            "Nov  4 12:59:17 mail gatepost[12]: ",
            "2026-11-24T13:59:17.123456+01:00 mail gatepost[12]: ",
            "mail gatepost: ",
        ] {
            assert_eq!(
                found(&prefixed(&log, prefix), &[], began),
                failed,
                "{format} {prefix}"
            );
        }
        let undated = ["--datepattern", "{NONE}"];
        let journal = prefixed(&log, "mail gatepost[12]: ");
        assert_eq!(found(&journal, &undated, began), failed, "{format}");
        // Somebody else's lines, though they look like these.
        let others = prefixed(&log, "Nov 24 12:59:17 mail other[12]: ");
        assert_eq!(found(&others, &[], began), BTreeMap::new(), "{format}");
        assert_eq!(found(&others, &undated, began), BTreeMap::new(), "{format}");
    }
}

fn prefixed(log: &str, prefix: &str) -> String {
    log.lines()
        .map(|line| format!("{prefix}{line}\n"))
        .collect()
}

/// How often each address fails, as fail2ban-regex says. All of it must have been since this time: gatepost's is UTC.
fn found(log: &str, options: &[&str], began: u64) -> BTreeMap<String, usize> {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("fail2ban-regex")
        .args(["--encoding", "UTF-8", "--out", "<ip> <time>"])
        .args(options)
        .arg(write(folder.path(), "log", log))
        .arg(deployed().join("filter.d/gatepost.conf"))
        .env("TZ", "Asia/Tokyo")
        .output()
        .expect("fail2ban is installed by `make integration`");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let (address, time) = line.split_once(' ').unwrap();
        // Seconds, with or without a fraction.
        let time = time.split('.').next().unwrap().parse().unwrap();
        assert!((began..=now()).contains(&time), "{line}");
        *found.entry(address.to_owned()).or_insert(0) += 1;
    }
    found
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn deployed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/fail2ban")
}

/// The need: filter and jail are copied to where fail2ban looks, and it starts with them.
#[test]
fn fail2ban_takes_the_jail() {
    let folder = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .args(["-r", "/etc/fail2ban/."])
        .arg(folder.path())
        .status();
    assert!(copied.unwrap().success());
    // Debian's own jail looks for the log of a server that need not be here.
    let _ = std::fs::remove_file(folder.path().join("jail.d/defaults-debian.conf"));
    for name in ["filter.d/gatepost.conf", "jail.d/gatepost.conf"] {
        std::fs::copy(deployed().join(name), folder.path().join(name)).unwrap();
    }
    // Says what a server would be told, and starts none.
    let output = Command::new("fail2ban-client")
        .arg("-c")
        .arg(folder.path())
        .arg("-d")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for told in [
        "['add', 'gatepost', 'systemd']",
        "['set', 'gatepost', 'addjournalmatch', '_SYSTEMD_UNIT=gatepost.service']",
        "['set', 'gatepost', 'maxretry', 10]",
        "['start', 'gatepost']",
    ] {
        assert!(text.contains(told), "{told} is not in {text}");
    }
}
