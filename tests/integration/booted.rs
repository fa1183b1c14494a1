//! The systemd of this machine as process 1 of namespaces, over a copy of the root file system that nothing comes back from (`boot.sh`), with
//! Debian's own dpkg in it. Its network is loopback alone, so that gatepost has the ports there that it has on a host.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::container::children;
use crate::harness::{PATIENCE, wait_for};

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/integration/boot.sh"
);

/// A running systemd. Killed when dropped, and with it everything that it started.
pub(crate) struct Booted {
    unshare: Child,
    systemd: u32,
    /// `/mnt` inside.
    folder: tempfile::TempDir,
}

impl Booted {
    /// Boots, and waits until that is done.
    pub(crate) fn start() -> Self {
        assert!(
            rustix::process::getuid().is_root(),
            "this test boots a systemd, which root alone may (GATEPOST_NO_NAMESPACES=1 leaves it out)"
        );
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("old")).unwrap();
        let output = File::create(folder.path().join("console")).unwrap();
        let unshare = Command::new("sh")
            .arg(SCRIPT)
            .arg("outside")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut booted = Self {
            unshare,
            systemd: 0,
            folder,
        };
        wait_for("a systemd", || {
            booted.assert_runs();
            booted.systemd = children(booted.unshare.id()).pop().unwrap_or(0);
            booted.systemd != 0 && booted.tried("systemctl is-active basic.target").0
        });
        booted
    }

    fn assert_runs(&mut self) {
        let ended = self.unshare.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "systemd does not start: {}",
            self.console()
        );
    }

    fn console(&self) -> String {
        fs::read_to_string(self.folder.path().join("console")).unwrap_or_default()
    }

    /// Lays a file into `/mnt`.
    pub(crate) fn bring(&self, file: &Path) {
        let to = self.folder.path().join(file.file_name().unwrap());
        fs::copy(file, to).unwrap();
    }

    /// Runs a shell's commands in it, as root, and gives what they print. Each has to go well.
    pub(crate) fn run(&self, script: &str) -> String {
        let (done, text) = self.tried(script);
        assert!(done, "{script}\n{text}");
        text
    }

    /// The same, and whether it went well.
    pub(crate) fn tried(&self, script: &str) -> (bool, String) {
        let output = Command::new("nsenter")
            .args(["--mount", "--pid", "--net", "--cgroup", "--uts", "--ipc"])
            .args(["--target", &self.systemd.to_string()])
            .args(["sh", "-euc", script])
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).trim().to_owned(),
        )
    }

    /// Runs it in a thread whose sockets are in the network of systemd.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.systemd)).unwrap();
        let inside = || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// The files that were written in it below a folder.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.systemd))
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if thread::panicking() && self.systemd != 0 {
            let (_, journal) =
                self.tried("journalctl --no-pager | grep -v '\"target\":\"access\"' | tail -n 100");
            eprintln!(
                "--- console ---\n{}\n--- journal ---\n{journal}",
                self.console()
            );
        }
        // With process 1 every process of its namespace ends, and with the last one of them the mounts.
        if let Some(systemd) = Pid::from_raw(self.systemd.cast_signed()) {
            let _ = kill_process(systemd, Signal::KILL);
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        // Empty folders of the kernel's, the innermost first. They can go when the last process has.
        let Ok(group) = fs::read_to_string(self.folder.path().join("cgroup")) else {
            return;
        };
        let deadline = Instant::now() + PATIENCE;
        while Path::new(group.trim()).exists() && Instant::now() < deadline {
            let _ = Command::new("find")
                .args([group.trim(), "-depth", "-type", "d", "-delete"])
                .output();
            thread::sleep(Duration::from_millis(5));
        }
    }
}
