//! As in a hardened container: process 1, a root file system that nobody can write to, neither root nor any capability.
//!
//! `unshare` and `setpriv` are util-linux's and on every Debian. Where the machine allows no namespaces (some containers do not), the test
//! fails and says so; GATEPOST_NO_NAMESPACES=1 leaves it out.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::harness::{BINARY, Gatepost, Recorder, STRANGER, Setup, basic, inject, wait_for};

/// Makes everything read-only, leaves a process behind, and becomes gatepost, as nobody who may do nothing. It is a copy that everybody may
/// run, since the folder of the build may be somebody's own.
const SCRIPT: &str = r#"
set -eu
shift
chmod 755 "$(dirname "$3")"
mount --make-rprivate /
while read -r _ target _; do
  case "$target" in
    /proc|/proc/*|/sys|/sys/*|/dev|/dev/*) ;;
    *) mount -o remount,bind,ro "$target" ;;
  esac
done < /proc/self/mounts
if touch "$0/writable" 2>/dev/null; then echo 'the file system can be written to' >&2; exit 9; fi
sleep 2 &
exec setpriv $AS --no-new-privs --inh-caps=-all --bounding-set=-all "$0/gatepost" "$@"
"#;

const NAMESPACES: [&str; 4] = ["--mount", "--pid", "--fork", "--kill-child"];

/// Who is root here may become nobody. Who is not is root in a namespace of users first, and nobody outside of it.
pub(crate) fn unshare() -> (Vec<&'static str>, &'static str) {
    let mut command = vec!["unshare"];
    let root = rustix::process::getuid().is_root();
    if !root {
        command.extend(["--user", "--map-root-user"]);
    }
    command.extend(NAMESPACES);
    command.push("--mount-proc");
    let becoming = if root {
        "--reuid=65534 --regid=65534 --clear-groups"
    } else {
        ""
    };
    (command, becoming)
}

/// False where the test is to be left out.
pub(crate) fn namespaces_are_allowed() -> bool {
    if std::env::var_os("GATEPOST_NO_NAMESPACES").is_some_and(|it| it == "1") {
        println!("left out: GATEPOST_NO_NAMESPACES=1");
        return false;
    }
    let (command, _) = unshare();
    let tried = Command::new(command[0])
        .args(&command[1..])
        .arg("true")
        .output()
        .expect("unshare is a part of util-linux");
    assert!(
        tried.status.success(),
        "this machine allows no namespaces, which the test needs (GATEPOST_NO_NAMESPACES=1 leaves it out): {}",
        String::from_utf8_lossy(&tried.stderr)
    );
    true
}

/// Of a process: its parent, and its state as one letter.
fn stat(process: u32) -> Option<(u32, char)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may hold spaces.
    let mut fields = stat.rsplit(") ").next()?.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

pub(crate) fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap();
    all.filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok())
        .filter(|it| stat(*it).is_some_and(|(its, _)| its == parent))
        .collect()
}

/// The lines of its status that begin so.
pub(crate) fn status(process: u32, beginning: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let lines = text.lines().filter(|it| it.starts_with(beginning));
    lines.map(str::to_owned).collect()
}

/// For everybody to run.
pub(crate) fn copy_binary(to: &Path) {
    let everybody = || fs::Permissions::from_mode(0o755);
    let path = to.join("gatepost");
    fs::copy(BINARY, &path).unwrap();
    fs::set_permissions(path, everybody()).unwrap();
    fs::set_permissions(to, everybody()).unwrap();
}

/// It serves, is process 1 with nothing that it may do, waits for what others left behind, and ends on SIGTERM.
#[test]
fn gatepost_is_process_1_with_no_rights_and_nowhere_to_write() {
    if !namespaces_are_allowed() {
        return;
    }
    let upstream = Recorder::start();
    let folder = tempfile::tempdir().unwrap();
    let (mut command, becoming) = unshare();
    copy_binary(folder.path());
    let folder = folder.path().display().to_string();
    command.extend(["sh", "-c", SCRIPT, &folder]);
    let mut gate = Setup::before(upstream.address)
        .env("AS", becoming)
        .within(&command)
        .start();
    let inner = Inner::of(&gate);
    let process = inner.0;
    assert!(status(process, "NSpid:")[0].ends_with("\t1"));
    for line in status(process, "Cap") {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    assert_eq!(status(process, "NoNewPrivs:"), ["NoNewPrivs:\t1"]);
    assert!(!status(process, "Uid:")[0].contains("\t0\t"));
    let ask = || {
        let reply = gate.send(STRANGER, inject(&basic("scott", "tiger")));
        reply.unwrap().status
    };
    assert_eq!(ask(), 200);
    wait_for("what was left behind to end and be gone", || {
        children(process).is_empty()
    });
    // Whoever is process 1 is followed by nobody.
    inner.signal("QUIT");
    gate.wait_log(|line| line["message"] == "the upgrade failed; this gatepost goes on");
    inner.signal("HUP");
    gate.wait_log(|line| line["message"] == "configuration and policy are reloaded");
    assert_eq!(ask(), 200);
    inner.signal("TERM");
    assert_eq!(gate.wait_exit(), Some(0));
}

/// The child of `unshare`, which gives its exit status on but no signals. Ended with the test: becoming nobody, it has lost
/// what `--kill-child` had asked for (prctl(2), `PR_SET_PDEATHSIG`).
struct Inner(u32);

impl Inner {
    fn of(gate: &Gatepost) -> Self {
        let children = children(gate.pid());
        assert_eq!(children.len(), 1);
        Self(children[0])
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .args([format!("-{name}"), self.0.to_string()])
            .status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Where it has ended, as it does in the good case, there is nobody of this number.
        if fs::read_to_string(format!("/proc/{}/comm", self.0)).is_ok_and(|it| it == "gatepost\n") {
            self.signal("KILL");
        }
    }
}
