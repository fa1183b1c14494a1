//! A new process takes over on SIGQUIT, and nobody notices.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{
    Connection, Gatepost, PATIENCE, Recorder, Setup, TRUSTED, get, inject, run, wait_for, write,
};
use crate::tls_client::curl;

/// The process that took over; ended with the test.
struct Successor(u64);

impl Successor {
    fn of(gate: &Gatepost) -> Self {
        let line =
            gate.wait_log(|line| line["message"] == "a new gatepost is ready and takes over");
        Self(line["process"].as_u64().unwrap())
    }

    fn signal(&self, name: &str) {
        let _ = Command::new("kill")
            .args([format!("-{name}"), self.0.to_string()])
            .status();
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

/// SIGQUIT under load: clients that send all the time, on connections that are new and on those that are kept, and a probe. Not one
/// request fails, nobody is refused, and the probe sees but 200. Then the new process stops like any other.
#[test]
fn a_new_process_takes_over_under_load_without_a_failed_request() {
    let upstream = Recorder::start();
    let mut gate = Setup::before(upstream.address).start();
    let (address, admin) = (gate.address, gate.admin);
    let over = AtomicBool::new(false);
    let told = AtomicUsize::new(0);
    let client = |pause: u64, most: usize| {
        while !over.load(Ordering::SeqCst) {
            let mut connection = Connection::open(address, TRUSTED);
            for _ in 0..most {
                connection.write(inject(""));
                let reply = connection.reply().expect("an answer for every request");
                assert_eq!(reply.status, 200);
                if reply.header("connection") == Some("close") {
                    told.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                if over.load(Ordering::SeqCst) {
                    return;
                }
                thread::sleep(Duration::from_millis(pause));
            }
        }
    };
    let probe = || {
        while !over.load(Ordering::SeqCst) {
            let mut connection = Connection::open(admin, TRUSTED);
            connection.write(get("/readyz").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
            assert_eq!(connection.reply().unwrap().status, 200);
            thread::sleep(Duration::from_millis(2));
        }
    };
    let successor = thread::scope(|scope| {
        let (client, probe) = (&client, &probe);
        let mut running = vec![scope.spawn(probe)];
        for (pause, most) in [
            (0, usize::MAX),
            (0, usize::MAX),
            (1, usize::MAX),
            (20, usize::MAX),
            (100, usize::MAX),
            (0, 1),
            (1, 3),
        ] {
            running.push(scope.spawn(move || client(pause, most)));
        }
        wait_for("some load", || upstream.requests() > 200);
        gate.signal("QUIT");
        let successor = Successor::of(&gate);
        assert_eq!(gate.wait_exit(), Some(0));
        let seen = upstream.requests();
        wait_for("load on the new process", || {
            upstream.requests() > seen + 200
        });
        over.store(true, Ordering::SeqCst);
        for it in running {
            it.join().unwrap();
        }
        successor
    });
    assert!(
        told.load(Ordering::SeqCst) >= 5,
        "those that keep connections are told to come again"
    );
    gate.wait_log(|line| line["message"] == "ready" && line["process"] == successor.0);
    successor.signal("TERM");
    wait_for("the new process to stop", || {
        TcpStream::connect(address).is_err()
    });
}

/// Whoever stops a service right after a new process took over tells both. The old one stops with care already, and what it works on is still
/// answered; a second word ends it at once, as everywhere.
#[test]
fn a_stop_right_after_an_upgrade_lets_requests_finish() {
    let go = std::sync::Arc::new(AtomicBool::new(false));
    let gone = go.clone();
    let upstream = Recorder::behaving(move |stream, _| {
        wait_for("permission to answer", || gone.load(Ordering::SeqCst));
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).is_ok()
    });
    for words in [1, 2] {
        go.store(false, Ordering::SeqCst);
        let seen = upstream.requests();
        let mut gate = Setup::before(upstream.address).start();
        let mut busy = gate.connect(TRUSTED);
        busy.write(inject(""));
        wait_for("the request to be in flight", || upstream.requests() > seen);
        gate.signal("QUIT");
        let _successor = Successor::of(&gate);
        gate.signal("TERM");
        gate.wait_log(|line| line["message"] == "told to stop, which this gatepost does already");
        if words == 2 {
            gate.signal("TERM");
            assert_eq!(gate.wait_exit(), Some(0));
            assert!(busy.closes());
        }
        go.store(true, Ordering::SeqCst);
        if words == 1 {
            assert_eq!(busy.reply().unwrap().text(), "ok");
            assert_eq!(gate.wait_exit(), Some(0));
        }
    }
}

/// Clients of HTTP/2 that send one request after the other on one connection: they are told by GOAWAY, open another, and lose nothing.
#[test]
fn http2_clients_move_to_the_new_process() {
    let upstream = Recorder::start();
    let mut gate = Setup::before(upstream.address).start();
    let address = gate.address;
    let over = AtomicBool::new(false);
    let client = |pause: u64| {
        let mut connections = 0;
        while !over.load(Ordering::SeqCst) {
            let mut connection = Connection::open(address, TRUSTED);
            connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
            connections += 1;
            let mut stream = 1_u32;
            while http2_request(&mut connection, stream) == Then::Again
                && !over.load(Ordering::SeqCst)
            {
                stream += 2;
                thread::sleep(Duration::from_millis(pause));
            }
        }
        connections
    };
    let successor = thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = [0, 1, 10, 100]
            .map(|pause| scope.spawn(move || client(pause)))
            .into_iter()
            .collect();
        wait_for("some load", || upstream.requests() > 100);
        gate.signal("QUIT");
        let successor = Successor::of(&gate);
        assert_eq!(gate.wait_exit(), Some(0));
        let seen = upstream.requests();
        wait_for("load on the new process", || {
            upstream.requests() > seen + 100
        });
        over.store(true, Ordering::SeqCst);
        for client in clients {
            assert!(client.join().unwrap() >= 2, "a connection to each process");
        }
        successor
    });
    drop(successor);
}

#[derive(PartialEq, Eq)]
enum Then {
    Again,
    /// GOAWAY came: no further request on this connection.
    Elsewhere,
}

/// One GET and its answer (RFC 9113 §6). Whatever else comes meanwhile is answered as a client has to.
fn http2_request(connection: &mut Connection, stream: u32) -> Then {
    let mut then = Then::Again;
    // GET, http, /open, gate (RFC 7541 §6); the frame ends headers and stream.
    let mut frame = vec![0, 0, 15, 1, 5];
    frame.extend(stream.to_be_bytes());
    frame.extend(b"\x82\x86\x04\x05/open\x01\x04gate");
    connection.write(frame);
    loop {
        let head = connection.exactly(9);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let payload = connection.exactly(length as usize);
        let (kind, flags) = (head[3], head[4]);
        match kind {
            0 | 1 => {
                assert_eq!(head[5..], stream.to_be_bytes());
                assert!(kind == 0 || payload[0] == 0x88, ":status 200, {payload:?}");
                if flags & 1 != 0 {
                    return then;
                }
            }
            // SETTINGS and PING that are no acknowledgement want one.
            4 if flags & 1 == 0 => connection.write([0, 0, 0, 4, 1, 0, 0, 0, 0]),
            6 if flags & 1 == 0 => {
                connection.write([&[0, 0, 8, 6, 1, 0, 0, 0, 0], &payload[..]].concat());
            }
            7 => {
                let last = u32::from_be_bytes(payload[..4].try_into().unwrap());
                assert!(last >= stream, "the request is not given up");
                then = Then::Elsewhere;
            }
            3 => panic!("stream {stream} is reset: {payload:?}"),
            _ => {}
        }
    }
}

/// A new process that cannot start changes nothing, and the log says why. Where its configuration names another address, it
/// listens there and not where the old one did.
#[test]
fn a_new_process_that_cannot_start_changes_nothing() {
    let upstream = Recorder::start();
    let mut gate = Setup::before(upstream.address)
        .with("reload: { watch: off }")
        .start();
    let file = gate.folder().join("gatepost.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}surprise: 1\n")).unwrap();
    gate.signal("QUIT");
    let line = gate.wait_log(|line| line["message"] == "the upgrade failed; this gatepost goes on");
    let fault = line["fault"].as_str().unwrap();
    assert!(fault.contains("unknown key `surprise`"), "{fault}");
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    assert_eq!(gate.admin("/readyz").status, 200);
    std::fs::write(&file, good.replacen("127.0.0.1:0", "127.0.0.2:0", 1)).unwrap();
    gate.signal("QUIT");
    let _successor = Successor::of(&gate);
    assert_eq!(gate.wait_exit(), Some(0));
    let line = gate.wait_log(|line| {
        line["message"] == "listening"
            && line["address"]
                .as_str()
                .is_some_and(|it| it.starts_with("127.0.0.2:"))
    });
    assert!(
        TcpStream::connect(gate.address).is_err(),
        "nobody listens there any more"
    );
    let address = line["address"].as_str().unwrap().parse().unwrap();
    let mut connection = Connection::open(address, TRUSTED);
    connection.write(inject(""));
    assert_eq!(connection.reply().unwrap().status, 200);
}

/// A gatepost that listens on two Unix sockets.
struct Local {
    sockets: tempfile::TempDir,
    gate: Gatepost,
    /// What its file says.
    yaml: String,
}

impl Local {
    fn before(upstream: &Recorder) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        let folder = sockets.path().display();
        let gate = Setup::before(upstream.address)
            .with("reload: { watch: off }")
            .with(&format!("listeners.- listen: unix:{folder}/first"))
            .with(&format!("listeners.- listen: unix:{folder}/second"))
            .start();
        let yaml = std::fs::read_to_string(gate.folder().join("gatepost.yaml")).unwrap();
        Self {
            sockets,
            gate,
            yaml,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }

    fn inode(&self, name: &str) -> u64 {
        std::fs::metadata(self.path(name)).unwrap().ino()
    }

    fn ask(&self, name: &str) -> String {
        let socket = self.path(name).display().to_string();
        let arguments = ["--unix-socket", &socket, "--data", "x", "http://a/open"];
        curl(self.sockets.path(), &arguments).1
    }

    fn upgrade(&self, yaml: &str) {
        std::fs::write(self.gate.folder().join("gatepost.yaml"), yaml).unwrap();
        self.gate.signal("QUIT");
    }

    fn wait_fault(&self, reason: &str) {
        self.gate.wait_log(|line| {
            line["message"] == "the upgrade failed; this gatepost goes on"
                && line["fault"].as_str().unwrap().contains(reason)
        });
    }
}

/// Unix sockets are handed over like others: the file stays and belongs to the new process. One that the new configuration does not
/// name is removed.
#[test]
fn unix_sockets_are_handed_over() {
    let upstream = Recorder::start();
    let mut local = Local::before(&upstream);
    let (first, before) = (local.path("first"), local.inode("first"));
    let second = format!("  - listen: unix:{}\n", local.path("second").display());
    let without = local.yaml.replace(&second, "");
    assert_ne!(without, local.yaml);
    let over = AtomicBool::new(false);
    let load = || {
        while !over.load(Ordering::SeqCst) {
            let mut stream = UnixStream::connect(&first).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(get("/open").as_bytes()).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
        }
    };
    let successor = thread::scope(|scope| {
        let load = scope.spawn(load);
        local.upgrade(&without);
        let successor = Successor::of(&local.gate);
        let status = local.gate.wait_exit();
        let seen = upstream.requests();
        wait_for("load on the new process", || {
            upstream.requests() > seen + 50 || load.is_finished()
        });
        over.store(true, Ordering::SeqCst);
        load.join().unwrap();
        assert_eq!(status, Some(0));
        successor
    });
    assert_eq!(local.ask("first"), "1.1 200");
    assert_eq!(local.inode("first"), before);
    assert!(!local.path("second").exists());
    let folder = local.gate.folder();
    write(folder, "second.yaml", &without);
    let (status, _, log) = run(&["run", "--config", "second.yaml"], folder);
    assert_eq!(status, Some(1));
    assert!(log.contains("the address is in use"), "{log}");
    successor.signal("TERM");
    wait_for("the file to be removed", || !first.exists());
}

/// A new process that does not get ready takes no file with it, and there are never two that listen at one path.
#[test]
fn unix_sockets_stay_where_the_new_process_fails() {
    let upstream = Recorder::start();
    let local = Local::before(&upstream);
    let before = local.inode("first");
    // It fails after it has taken the first socket up: this address is nobody's.
    let second = format!("unix:{}", local.path("second").display());
    local.upgrade(&local.yaml.replace(&second, "192.0.2.1:1"));
    local.wait_fault("cannot listen on 192.0.2.1:1");
    assert_eq!(local.ask("first"), "1.1 200");
    assert_eq!(local.ask("second"), "1.1 200");
    std::fs::rename(local.path("first"), local.path("aside")).unwrap();
    let other = UnixListener::bind(local.path("first")).unwrap();
    local.upgrade(&local.yaml);
    local.wait_fault("the address is in use");
    drop(other);
    std::fs::rename(local.path("aside"), local.path("first")).unwrap();
    assert_eq!(local.ask("first"), "1.1 200");
    assert_eq!(local.inode("first"), before);
}
