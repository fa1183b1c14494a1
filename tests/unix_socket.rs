//! A listener on a Unix socket: who comes in, who they are, and what becomes of the file.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::harness::{PATIENCE, Recorder, Setup, post, run, write};
use crate::tls_client::curl;

/// Nobody behind a Unix socket has an address: no list holds them, and a header says who they are only where it is asked for.
#[test]
fn a_unix_socket_is_listened_on() {
    let sockets = tempfile::tempdir().unwrap();
    let path = |name: &str| sockets.path().join(name).display().to_string();
    let (plain, told) = (path("plain"), path("told"));
    let upstream = Recorder::start();
    // Left by somebody who was killed.
    drop(UnixListener::bind(&plain).unwrap());
    let setup = Setup::before(upstream.address)
        .with(&format!("listeners.- listen: unix:{plain}"))
        .with(&format!("listeners.- listen: unix:{told}"))
        .with("listeners.  proxy_protocol: true\nlisteners.  unix_mode: \"0600\"")
        .with("trusted_hosts: [\"0.0.0.0/0\", \"::/0\"]\ntrusted_proxies: [192.0.2.9]");
    let mut gate = setup.start();
    let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&plain), mode(&told)), (0o660, 0o600));
    let ask = |options: &[&str]| {
        let arguments = [&["--unix-socket", &plain, "--data", "x"][..], options].concat();
        curl(sockets.path(), &arguments).1
    };
    assert_eq!(ask(&["http://a/open"]), "1.1 200");
    assert_eq!(ask(&["http://a/open", "--http2-prior-knowledge"]), "2 200");
    assert_eq!(
        ask(&["http://a/users-only", "--user", "scott:tiger"]),
        "1.1 200"
    );
    // Trusted are all addresses there are, and this is none.
    let lies = [
        "http://a/api/inject/v1",
        "--header",
        "X-Forwarded-For: 127.0.0.1",
    ];
    assert_eq!(ask(&lies), "1.1 401");
    let speak = |bytes: &str| {
        let mut stream = UnixStream::connect(&told).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let request = post("/api/inject/v1", "X-Forwarded-For: 192.0.2.8\r\n", "x");
    let from = |client: &str| format!("PROXY TCP4 {client} 192.0.2.1 40000 80\r\n{request}");
    assert_eq!(speak(&from("192.0.2.7")), "HTTP/1.1 200");
    assert!(upstream.text().contains("X-Http-Auth: 192.0.2.7\r\n"));
    assert_eq!(speak(&from("192.0.2.9")), "HTTP/1.1 200");
    assert!(upstream.text().contains("X-Http-Auth: 192.0.2.8\r\n"));
    assert_eq!(
        speak(&format!("PROXY UNKNOWN\r\n{request}")),
        "HTTP/1.1 401"
    );
    assert_eq!(speak(&request), "HTTP/1.1 400");
    // Somebody listens there.
    let yaml = std::fs::read_to_string(gate.folder().join("gatepost.yaml")).unwrap();
    write(gate.folder(), "second.yaml", &yaml);
    let (status, _, log) = run(&["run", "--config", "second.yaml"], gate.folder());
    assert_eq!(status, Some(1));
    assert!(log.contains("the address is in use"), "{log}");
    assert_eq!(ask(&["http://a/open"]), "1.1 200");
    gate.signal("TERM");
    assert_eq!(gate.wait_exit(), Some(0));
    assert!(!Path::new(&plain).exists() && !Path::new(&told).exists());
    // What is no socket is nobody's to take away.
    let file = write(sockets.path(), "plain", "x");
    let (status, _, log) = run(&["run", "--config", "second.yaml"], gate.folder());
    assert_eq!(status, Some(1));
    assert!(log.contains("no socket"), "{log}");
    assert!(file.exists());
}
