//! What a service manager is told. The test listens in its place.

use std::os::unix::net::UnixDatagram;

use crate::harness::{PATIENCE, Setup};

/// Readiness, the watchdog, reloads and the end (sd_notify(3)).
#[test]
fn a_service_manager_is_told_what_happens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let beside_watchdog = || loop {
        let told = next();
        if told != "WATCHDOG=1\n" {
            return told;
        }
    };
    let mut gate = Setup::demo()
        .with("reload: { watch: off }")
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "200000")
        .start();
    assert_eq!(next(), "READY=1\n");
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1\n");
    }
    gate.signal("HUP");
    let told = beside_watchdog();
    let time = told
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .unwrap_or_else(|| panic!("{told}"));
    assert!(time.trim().parse::<u64>().unwrap() > 0);
    assert_eq!(beside_watchdog(), "READY=1\n");
    gate.signal("QUIT");
    // The new process, to which nobody listens before it is the main one.
    assert_eq!(beside_watchdog(), "READY=1\n");
    let told = beside_watchdog();
    let process = told
        .strip_prefix("MAINPID=")
        .unwrap_or_else(|| panic!("{told}"))
        .trim()
        .to_owned();
    assert_ne!(process, gate.pid().to_string());
    assert_eq!(gate.wait_exit(), Some(0));
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1\n", "from the new process");
    }
    let done = std::process::Command::new("kill").arg(process).status();
    assert!(done.unwrap().success());
    assert_eq!(beside_watchdog(), "STOPPING=1\n");
}
