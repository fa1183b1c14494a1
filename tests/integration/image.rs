//! The container image, made of the binary under test and run by podman, without a daemon and without a registry. What a release's image takes
//! `make image` sees to; the binary of the tests is twice as large.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::container::{namespaces_are_allowed, status};
use crate::harness::{BINARY, Recorder, STRANGER, Setup, TRUSTED, basic, inject, wait_for};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

const NAME: &str = "localhost/gatepost";

/// Runs the image in place of the binary that the test names, with its configuration where the image has its own. What podman would allow a
/// container by default (a million files) not every machine may give.
///
/// crun takes no machine that has both versions of control groups; where that is so, it is shown the second alone.
const RUN: &str = r#"
set -eu
shift
folder=$(dirname "$3")
chmod 755 "$folder"
if [ "$(id -u)" = 0 ] && [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount --make-rprivate /
  umount --recursive /sys/fs/cgroup
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
exec $PODMAN run --rm --name "$CONTAINER" --read-only --read-only-tmpfs=false --cap-drop all --security-opt no-new-privileges \
  --network host --cgroups disabled --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --log-driver none \
  --volume "$folder:/etc/gatepost:ro" "$IMAGE"
"#;

/// podman with a storage of its own, and a container in it. Both are gone when it is dropped.
struct Podman {
    folder: tempfile::TempDir,
}

impl Podman {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Its command, without what it is to do.
    fn command(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            "podman --root {folder}/storage --runroot {folder}/run --storage-driver vfs --cgroup-manager cgroupfs --events-backend none"
        )
    }

    fn tried(&self, arguments: &[&str]) -> Output {
        let command = self.command();
        let mut words = command.split(' ');
        Command::new(words.next().unwrap())
            .args(words)
            .args(arguments)
            .output()
            .unwrap()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.tried(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Builds the image in this folder, which holds no more than what is made for it, or everything that is in the repository.
    fn build(&self, context: &Path) {
        let built = Command::new("deploy/container/build.sh")
            .args([BINARY, NAME])
            .current_dir(TOP)
            .env("PODMAN", self.command())
            .env("CONTEXT", context)
            .env("MOST", "60000000")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{said}");
    }

    fn inspect(&self) -> Value {
        let text = self.run(&["image", "inspect", NAME]);
        serde_json::from_str::<Value>(&text).unwrap()[0].take()
    }

    /// The image as a registry would hold it: its layers' bytes.
    fn pushed(&self) -> u64 {
        let folder = self.folder.path().join("oci");
        self.run(&[
            "push",
            "--quiet",
            NAME,
            &format!("oci:{}:it", folder.display()),
        ]);
        let blobs = fs::read_dir(folder.join("blobs/sha256")).unwrap();
        blobs.map(|it| it.unwrap().metadata().unwrap().len()).sum()
    }

    /// What runs the image in place of a binary.
    fn instead_of_binary(&self, setup: Setup) -> Setup {
        let root = rustix::process::getuid().is_root();
        let own_mounts: &[&str] = if root { &["unshare", "--mount"] } else { &[] };
        let command = [own_mounts, &["sh", "-c", RUN, "sh"]].concat();
        setup
            .env("PODMAN", &self.command())
            .env("CONTAINER", "it")
            .env("IMAGE", NAME)
            .within(&command)
    }

    /// The process of the container, as it is called outside of it.
    fn process(&self) -> u32 {
        let id = self.run(&["container", "inspect", "--format", "{{.State.Pid}}", "it"]);
        id.parse().unwrap()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What podman itself has started outlives it when it is killed.
        self.tried(&["rm", "--force", "--time", "0", "it"]);
        // Files in the storage may belong to users of the container's, for whom a user who is not root needs podman.
        if !rustix::process::getuid().is_root() {
            self.tried(&[
                "unshare",
                "rm",
                "-rf",
                &format!("{}/storage", self.folder.path().display()),
            ]);
        }
    }
}

/// In another folder, at another time, under another umask: to the byte the same image, with nobody as its user and nothing in it but what is
/// needed.
#[test]
fn two_builds_are_the_same_image() {
    let [one, other] = [Podman::new(), Podman::new()];
    one.build(Path::new("."));
    let elsewhere = tempfile::tempdir().unwrap();
    other.build(elsewhere.path());
    let image = one.inspect();
    assert_eq!(image["Digest"], other.inspect()["Digest"]);
    assert_eq!(image["Id"], other.inspect()["Id"]);
    let config = &image["Config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(
        config["Entrypoint"],
        serde_json::json!(["/usr/bin/gatepost"])
    );
    let command = ["run", "--config", "/etc/gatepost/gatepost.yaml"];
    assert_eq!(config["Cmd"], serde_json::json!(command));
    let pushed = one.pushed();
    assert!(pushed < 40_000_000, "{pushed} bytes");
    let root = elsewhere.path().join("target/image");
    let (binary, beside) = sizes(&root);
    assert!(
        beside < 5_000_000,
        "{beside} bytes beside a binary of {binary}"
    );
    println!("FIGURE image: {pushed} bytes compressed, {binary} the binary, {beside} beside it");
}

/// Of the binary, and of everything else, in bytes.
fn sizes(root: &Path) -> (u64, u64) {
    let (mut binary, mut beside) = (0, 0);
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            if about.is_dir() {
                folders.push(path);
            } else if path.ends_with("usr/bin/gatepost") {
                binary = about.len();
            } else {
                beside += about.len();
            }
        }
    }
    (binary, beside)
}

/// A policy that asks a service by its name, which is looked up with what the image has of glibc.
const ASKS_BY_NAME: &str = "
    local kumo = require 'kumo'
    local client = kumo.http.build_client {}
    kumo.on('http_server_validate_auth_basic', function(user, password)
      return client:get('SERVICE_URL'):send():status_code() == 200
    end)";

/// In a container as it is meant to run, on a root file system that nobody can write to, as nobody with no capability: the image starts, is process 1,
/// finds names, serves, reloads, finishes what is in flight on SIGTERM, and ends with 0.
#[test]
fn the_image_serves_and_drains() {
    if !namespaces_are_allowed() {
        return;
    }
    let podman = Podman::new();
    let context = tempfile::tempdir().unwrap();
    podman.build(context.path());
    let go = Arc::new(AtomicBool::new(true));
    let gone = go.clone();
    let upstream = Recorder::behaving(move |stream, _| {
        wait_for("permission to answer", || gone.load(Ordering::SeqCst));
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).is_ok()
    });
    let service = Recorder::start();
    let url = format!("http://localhost:{}/", service.address.port());
    let setup = Setup::before(upstream.address).policy(&ASKS_BY_NAME.replace("SERVICE_URL", &url));
    let mut gate = podman.instead_of_binary(setup).start();
    let process = podman.process();
    assert!(status(process, "NSpid:")[0].ends_with("\t1"));
    for line in status(process, "Cap") {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    assert_eq!(status(process, "NoNewPrivs:"), ["NoNewPrivs:\t1"]);
    assert_eq!(status(process, "Seccomp:"), ["Seccomp:\t2"]);
    let user = "Uid:\t65532\t65532\t65532\t65532";
    assert_eq!(status(process, "Uid:"), [user]);
    let mounts = fs::read_to_string(format!("/proc/{process}/mounts")).unwrap();
    let root = mounts.lines().find(|it| it.split(' ').nth(1) == Some("/"));
    assert!(
        root.is_some_and(|it| it.split(' ').nth(3).unwrap().starts_with("ro")),
        "{mounts}"
    );
    let ask = || gate.send(STRANGER, inject(&basic("scott", "tiger")));
    assert_eq!(ask().unwrap().status, 200);
    assert_eq!(service.requests(), 1, "the service was found by its name");
    gate.signal("HUP");
    gate.wait_log(|line| line["message"] == "configuration and policy are reloaded");
    go.store(false, Ordering::SeqCst);
    let mut busy = gate.connect(TRUSTED);
    busy.write(inject(""));
    wait_for("the request to be in flight", || upstream.requests() == 2);
    gate.signal("TERM");
    wait_for("the listener to close", || {
        std::net::TcpStream::connect(gate.address).is_err()
    });
    go.store(true, Ordering::SeqCst);
    assert_eq!(busy.reply().unwrap().text(), "ok");
    assert_eq!(gate.wait_exit(), Some(0));
}
