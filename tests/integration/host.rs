//! On a host: the Debian package and its systemd unit, installed by dpkg and run by systemd (`booted.rs`).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::booted::Booted;
use crate::container::namespaces_are_allowed;
use crate::harness::{BINARY, Connection, Reply, STRANGER, basic, get, inject, wait_for};
use crate::program::send;

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Where gatepost listens in a [`Booted`], as the package's configuration says.
const GATE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);

/// What an administrator makes of it: the embedded injection API behind it, a Unix socket, an audit log, a token that only root can read.
const CONFIG: &str = "
listeners:
  - listen: 0.0.0.0:8080
  - listen: unix:/run/gatepost/inject.sock
    unix_mode: \"0666\"
upstream: { address: demo }
policy: { file: policy.lua }
routes:
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated] }
audit: { output: /var/log/gatepost/audit.jsonl }
admin:
  listen: 127.0.0.1:9090
  token: { file: /run/credentials/gatepost.service/gatepost.admin-token }
";
const TOKEN: &str = "0123456789abcdef-token";

/// Two versions of the package, of the binary under test. The second has another configuration by default.
struct Packages {
    first: PathBuf,
    second: PathBuf,
}

fn packages() -> &'static Packages {
    static PACKAGES: OnceLock<Packages> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        // Of the run before.
        let _ = fs::remove_dir_all(&folder);
        let built = Command::new("deploy/debian/build.sh")
            .arg("--fast")
            .current_dir(TOP)
            .env("BINARY", BINARY)
            .env("CARGO_TARGET_DIR", &folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{said}");
        let dist = folder.join("dist");
        let first = fs::read_dir(&dist)
            .unwrap()
            .map(|it| it.unwrap().path())
            .find(|it| it.extension().is_some_and(|it| it == "deb"))
            .unwrap();
        let second = folder.join("second.deb");
        let script = r#"
            dpkg-deb -R "$1" "$3"
            sed -i 's/^Version: .*/Version: 99.0-1/' "$3/DEBIAN/control"
            echo '# A new default.' >> "$3/etc/gatepost/gatepost.yaml"
            dpkg-deb -Zgzip -z1 --root-owner-group -b "$3" "$2" >/dev/null"#;
        let unpacked = folder.join("unpacked");
        let made = Command::new("sh")
            .args(["-euc", script, "sh"])
            .args([&first, &second, &unpacked])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Packages { first, second }
    })
}

/// The need: `man gatepost`, `gatepost ch<TAB>`, and an editor that knows the keys, from the package as it is.
#[test]
fn the_manual_the_completions_and_the_schema_are_in_the_package() {
    let folder = tempfile::tempdir().unwrap();
    let unpacked = Command::new("dpkg-deb")
        .arg("-x")
        .args([packages().first.as_path(), folder.path()])
        .status()
        .unwrap();
    assert!(unpacked.success());
    let printed = |arguments: &[&str]| {
        Command::new(BINARY)
            .args(arguments)
            .output()
            .unwrap()
            .stdout
    };
    for (file, arguments) in [
        // `--fast` does not compress it.
        ("man/man1/gatepost.1", &["man"][..]),
        (
            "bash-completion/completions/gatepost",
            &["completions", "bash"],
        ),
        ("zsh/vendor-completions/_gatepost", &["completions", "zsh"]),
        (
            "fish/vendor_completions.d/gatepost.fish",
            &["completions", "fish"],
        ),
        ("doc/gatepost/gatepost.schema.json", &["schema"]),
    ] {
        let there = fs::read(folder.path().join("usr/share").join(file)).unwrap();
        assert!(there == printed(arguments), "{file}");
    }
    let config = fs::read_to_string(folder.path().join("etc/gatepost/gatepost.yaml")).unwrap();
    let first = config.lines().next().unwrap();
    let schema = first
        .strip_prefix("# yaml-language-server: $schema=/")
        .unwrap();
    assert!(folder.path().join(schema).is_file(), "{schema}");
}

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(TOP).join(path)).unwrap()
}

/// A host on which the package is installed, and nothing else done.
fn fresh() -> Booted {
    let booted = Booted::start();
    booted.bring(&packages().first);
    booted.run("dpkg --install /mnt/gatepost_*.deb");
    booted
}

/// The same with [`CONFIG`] and users.
fn configured() -> Booted {
    let booted = fresh();
    put(&booted, "/etc/gatepost/gatepost.yaml", CONFIG);
    put(&booted, "/etc/gatepost/policy.lua", &text("lua/policy.lua"));
    booted.run(&format!(
        "mkdir -p /etc/credstore
         (umask 077; echo {TOKEN} > /etc/credstore/gatepost.admin-token)
         systemctl restart gatepost"
    ));
    booted
}

/// As an editor does, so that owner and mode stay.
fn put(booted: &Booted, path: &str, content: &str) {
    fs::write(booted.file(path), content).unwrap();
}

/// With these lines in the unit from now on, and started anew.
fn drop_in(booted: &Booted, lines: &str) {
    booted.run(&format!(
        "mkdir -p /run/systemd/system/gatepost.service.d
         printf '[Service]\\n{lines}\\n' > /run/systemd/system/gatepost.service.d/test.conf
         systemctl daemon-reload
         systemctl restart gatepost"
    ));
}

fn main_process(booted: &Booted) -> u32 {
    let id = booted.run("systemctl show --property MainPID --value gatepost");
    id.parse().unwrap()
}

fn signal(booted: &Booted, name: &str) {
    booted.run(&format!(
        "systemctl kill --signal={name} --kill-whom=main gatepost"
    ));
}

/// Waits until another main process serves, and gives its number.
fn wait_other(booted: &Booted, than: u32) -> u32 {
    let mut process = than;
    wait_for("another main process", || {
        process = main_process(booted);
        process != than && process != 0 && booted.tried("systemctl is-active gatepost").0
    });
    process
}

/// What scott gets.
fn ask(booted: &Booted) -> Option<u16> {
    booted.within(|| {
        let reply = send(GATE, STRANGER, inject(&basic("scott", "tiger")));
        reply.map(|it| it.status)
    })
}

fn admin(booted: &Booted, path: &str) -> Reply {
    booted.within(|| {
        let mut connection = Connection::open(ADMIN, STRANGER);
        let header = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}");
        connection.write(get(path).replacen("Host: gate", &header, 1));
        connection.reply().unwrap()
    })
}

fn metric(booted: &Booted, series: &str) -> f64 {
    let text = admin(booted, "/metrics").text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0.0, |it| it.parse().unwrap())
}

/// What systemd's own look at it says, without a running service: 0 is nothing exposed, 10 all of it.
#[test]
fn the_unit_is_hardened() {
    let looked = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(Path::new(TOP).join("deploy/systemd/gatepost.service"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&looked.stdout);
    let level = said
        .lines()
        .find_map(|it| it.split_once("Overall exposure level for gatepost.service: "))
        .and_then(|(_, it)| it.split(' ').next())
        .unwrap_or_else(|| panic!("{looked:?}"));
    assert!(level.parse::<f64>().unwrap() < 2.0, "{said}");
}

/// The life of a package: it starts and lets nobody in; what the administrator makes of it survives an upgrade, through which not one request
/// fails; it is stopped when it is removed, and a purge leaves nothing.
#[test]
fn a_package_is_installed_upgraded_removed_and_purged() {
    if !namespaces_are_allowed() {
        return;
    }
    let booted = fresh();
    assert_eq!(booted.run("systemctl is-enabled gatepost"), "enabled");
    assert_eq!(booted.run("systemctl is-active gatepost"), "active");
    assert_eq!(ask(&booted), Some(401));
    assert_eq!(booted.run("systemd-analyze verify gatepost.service"), "");
    let access =
        "stat --format '%U:%G %a' /etc/gatepost /var/lib/gatepost /var/log/gatepost /run/gatepost";
    assert_eq!(
        booted.run(access).lines().collect::<Vec<_>>(),
        [
            "root:gatepost 750",
            "gatepost:gatepost 750",
            "gatepost:gatepost 750",
            "gatepost:gatepost 755"
        ]
    );
    put(
        &booted,
        "/etc/gatepost/gatepost.yaml",
        &CONFIG.replace(
            "/run/credentials/gatepost.service/gatepost.admin-token",
            "token",
        ),
    );
    put(&booted, "/etc/gatepost/policy.lua", &text("lua/policy.lua"));
    put(&booted, "/etc/gatepost/token", TOKEN);
    booted.run("systemctl restart gatepost");
    assert_eq!(ask(&booted), Some(200));

    upgrade(&booted);

    booted.run("dpkg --remove gatepost");
    assert_eq!(booted.tried("systemctl is-active gatepost").1, "inactive");
    assert!(
        booted
            .run("cat /etc/gatepost/gatepost.yaml")
            .contains("address: demo")
    );
    booted.run("dpkg --install /mnt/second.deb");
    assert_eq!(ask(&booted), Some(200), "as before it was removed");
    booted.run("dpkg --purge gatepost");
    let left = "find /etc /lib /opt /run /srv /usr /var -cnewer /mnt/cgroup -name '*gatepost*'";
    assert_eq!(booted.run(left), "");
    assert!(
        !booted
            .tried("getent passwd gatepost || getent group gatepost")
            .0
    );
}

fn upgrade(booted: &Booted) {
    let first = main_process(booted);
    booted.bring(&packages().second);
    under_requests(booted, || {
        booted.run("dpkg --force-confdef --force-confold --install /mnt/second.deb");
    });
    let second = main_process(booted);
    assert_ne!(first, second, "the new binary runs");
    let runs = booted.run(&format!("readlink /proc/{second}/exe"));
    assert_eq!(runs, "/usr/bin/gatepost", "and not one that is deleted");
    assert_eq!(
        booted.run("systemctl show --property NRestarts --value gatepost"),
        "0"
    );
    assert!(
        booted
            .run("cat /etc/gatepost/gatepost.yaml")
            .contains("address: demo")
    );
    assert!(
        booted
            .run("cat /etc/gatepost/gatepost.yaml.dpkg-dist")
            .contains("A new default.")
    );
}

/// Asks all the while, before and after it too, on a connection for each request. Every answer has to be 200.
fn under_requests(booted: &Booted, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let served = AtomicU32::new(0);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            booted.within(|| {
                while !done.load(Ordering::SeqCst) {
                    let reply = send(GATE, STRANGER, inject(&basic("scott", "tiger")));
                    assert_eq!(reply.map(|it| it.status), Some(200));
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        });
        let some = || {
            let until = served.load(Ordering::SeqCst) + 10;
            wait_for("requests", || {
                served.load(Ordering::SeqCst) >= until || client.is_finished()
            });
        };
        some();
        work();
        some();
        done.store(true, Ordering::SeqCst);
        client.join().unwrap();
    });
}

/// What systemd asks of gatepost works in spite of all that the unit forbids: reload, a new process by SIGQUIT, which is watched as the first
/// was, credentials, a Unix socket, more files than the soft limit allows, and a stop that loses nothing.
#[test]
fn the_unit_can_do_what_it_has_to() {
    if !namespaces_are_allowed() {
        return;
    }
    let booted = configured();
    assert_eq!(ask(&booted), Some(200), "its configuration is in force");
    assert_eq!(
        admin(&booted, "/metrics").status,
        200,
        "the token is root's"
    );
    let over_socket = "curl --silent --output /dev/null --write-out '%{http_code}' --user scott:tiger --data '{}' \
                       --unix-socket /run/gatepost/inject.sock http://gate/api/inject/v1";
    assert_eq!(
        booted.run(over_socket),
        "422",
        "it is let in, and the demo wants more of a message"
    );
    let policy = text("lua/policy.lua").replace("scott =", "tiger =");
    put(&booted, "/etc/gatepost/policy.lua", &policy);
    booted.run("systemctl reload gatepost");
    wait_for("the new policy", || ask(&booted) == Some(401));
    put(&booted, "/etc/gatepost/policy.lua", &text("lua/policy.lua"));
    booted.run("systemctl reload gatepost");
    wait_for("the old policy", || ask(&booted) == Some(200));

    drop_in(&booted, "WatchdogSec=1");
    let first = main_process(&booted);
    under_requests(&booted, || {
        signal(&booted, "QUIT");
        wait_other(&booted, first);
        wait_for("the first to be gone", || {
            !booted.tried(&format!("test -d /proc/{first}")).0
        });
    });
    let second = main_process(&booted);
    let restarts = || booted.run("systemctl show --property NRestarts --value gatepost");
    assert_eq!(restarts(), "0", "nobody had to start it");
    signal(&booted, "STOP");
    wait_other(&booted, second);
    assert_eq!(restarts(), "1", "the watchdog missed it");
    wait_for("requests to be served", || ask(&booted) == Some(200));

    let low = "PrivateUsers=no\\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\\nAmbientCapabilities=CAP_NET_BIND_SERVICE";
    let config = CONFIG.replace("0.0.0.0:8080", "0.0.0.0:443");
    put(&booted, "/etc/gatepost/gatepost.yaml", &config);
    drop_in(&booted, low);
    assert!(booted.within(|| std::net::TcpStream::connect("127.0.0.1:443").is_ok()));
}

/// What a stop finds beside the main process, which took over from another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    IsGone,
    HasARequest,
}

/// A stop after a new process took over: what that one works on is answered, and what the one before it still works on, too. systemd did not start
/// the new one, so by itself it would not wait for it.
#[test]
fn a_stop_after_an_upgrade_loses_nothing() {
    if !namespaces_are_allowed() {
        return;
    }
    let booted = configured();
    for before in [Before::IsGone, Before::HasARequest] {
        booted.run("systemctl start gatepost");
        stop_after_an_upgrade(&booted, before);
    }
}

fn stop_after_an_upgrade(booted: &Booted, before: Before) {
    let request = inject(&basic("scott", "tiger"));
    let (head, tail) = request.split_at(request.len() - 10);
    let begin = || {
        let connection = booted.within(|| {
            let mut connection = Connection::open(GATE, STRANGER);
            connection.write(head);
            connection
        });
        wait_for("a request to be in flight", || {
            metric(booted, "gatepost_requests_in_flight") >= 1.0
        });
        connection
    };
    let first = main_process(booted);
    let mut open = Vec::new();
    if before == Before::HasARequest {
        open.push(begin());
    }
    signal(booted, "QUIT");
    wait_other(booted, first);
    let runs = || booted.tried(&format!("test -d /proc/{first}")).0;
    match before {
        Before::IsGone => wait_for("the first to be gone", || !runs()),
        Before::HasARequest => assert!(runs()),
    }
    open.push(begin());
    booted.run("systemctl stop --no-block gatepost");
    wait_for("gatepost to stop", || {
        booted.within(|| std::net::TcpStream::connect(GATE).is_err())
    });
    for connection in &mut open {
        connection.write(tail);
        assert_eq!(connection.reply().map(|it| it.status), Some(200));
    }
    wait_for("the end", || {
        booted.tried("systemctl is-active gatepost").1 == "inactive"
    });
    let result = booted.run("systemctl show --property Result --value gatepost");
    assert_eq!(result, "success");
}

/// Killed without a word, with a policy that is gone, with disks that are full: it serves, or serves again, by itself.
#[test]
fn the_unit_recovers() {
    if !namespaces_are_allowed() {
        return;
    }
    let booted = configured();
    let first = main_process(&booted);
    signal(&booted, "KILL");
    let second = wait_other(&booted, first);
    assert_eq!(ask(&booted), Some(200));

    // A policy that disappears stays loaded ...
    booted.run("mv /etc/gatepost/policy.lua /etc/gatepost/policy.lua.gone");
    booted.run("systemctl reload gatepost");
    wait_for("the reload to have failed", || {
        metric(&booted, "gatepost_reload_success") == 0.0
    });
    assert_eq!(ask(&booted), Some(200));
    // ... until gatepost ends, too. Then systemd tries until it is back, also after more tries than it would by itself.
    signal(&booted, "KILL");
    wait_for("many tries", || {
        let tries = booted.run("systemctl show --property NRestarts --value gatepost");
        tries.parse::<u32>().unwrap() > 3
    });
    booted.run("mv /etc/gatepost/policy.lua.gone /etc/gatepost/policy.lua");
    wait_other(&booted, second);
    assert_eq!(ask(&booted), Some(200));
}

/// A disk without room: what cannot be written is lost and counted, requests are served, and lines are written again when there is room.
#[test]
fn a_full_disk_stops_nothing() {
    if !namespaces_are_allowed() {
        return;
    }
    let booted = configured();
    booted.run(
        "systemctl stop gatepost
         mount -t tmpfs -o size=64k,mode=0755 none /var/log/gatepost
         chown gatepost:gatepost /var/log/gatepost
         head -c 64k /dev/zero > /var/log/gatepost/filler || true",
    );
    drop_in(&booted, "StandardError=append:/dev/full");
    for _ in 0..20 {
        assert_eq!(ask(&booted), Some(200));
    }
    wait_for("lost lines to be counted", || {
        metric(&booted, "gatepost_audit_lines_lost_total") >= 40.0
            && metric(&booted, "gatepost_log_lines_lost_total") >= 20.0
    });
    // What is told at a reload cannot be said, and the reload goes well all the same.
    booted.run("systemctl reload gatepost");
    wait_for("a reload", || {
        metric(&booted, "gatepost_reloads_total{result=\"success\"}") >= 1.0
    });
    booted.run("rm /var/log/gatepost/filler");
    let deadline = Instant::now() + Duration::from_secs(20);
    let audit = booted.file("/var/log/gatepost/audit.jsonl");
    loop {
        assert_eq!(ask(&booted), Some(200));
        let written = fs::read_to_string(&audit).unwrap_or_default();
        if written.ends_with("}\n") {
            break;
        }
        assert!(Instant::now() < deadline, "no audit line: {written:?}");
    }
}
