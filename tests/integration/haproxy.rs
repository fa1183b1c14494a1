//! Behind a real haproxy, which says in a PROXY header (or in HTTP mode in `X-Forwarded-For`) whose connection it is.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use crate::harness::{
    Connection, Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, get, inject, wait_for,
};
use crate::program::{PROXY, Program, seen, send, upstream};

/// What a stranger would like gatepost to believe.
const FORGED: &str = "X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-Http-Auth: root\r\n\
    X-Real-Ip: 127.0.0.1\r\nX-Client-Ip: 127.0.0.1\r\n";

/// A haproxy before this gatepost, with three listeners: one for each version of the PROXY header, and HTTP mode.
fn haproxy(gate: SocketAddr, options: &str) -> Program {
    Program::start("haproxy", &["-db", "-f", "config"], 3, |listen, folder| {
        let [v1, v2, http] = listen else {
            panic!("three")
        };
        let socket = folder.join("stats");
        let socket = socket.display();
        format!(
            "global
  stats socket {socket} level user
defaults
  mode tcp
  timeout connect 10s
  timeout client 30s
  timeout server 30s
  timeout check 10s
  default-server source {PROXY} inter 100ms
listen v1
  bind {v1}
  {options}
  server gate {gate} send-proxy check
listen v2
  bind {v2}
  {options}
  server gate {gate} send-proxy-v2 check
listen http
  mode http
  bind {http}
  option forwardfor
  server gate {gate}
"
        )
    })
}

fn gate(upstream: &Recorder) -> Gatepost {
    Setup::before(upstream.address)
        .with(&format!("trusted_proxies: [{PROXY}]"))
        .with("listener.proxy_protocol: true")
        .start()
}

/// The need: behind haproxy every connection comes from haproxy, and still a trusted host is one and a stranger is not.
/// The attack: a stranger says it is somebody else, in every header that anybody reads.
#[test]
fn the_proxy_header_says_who_it_is() {
    for version in [0, 1] {
        let upstream = upstream();
        let gate = gate(&upstream);
        let haproxy = haproxy(gate.address, "");
        let to = haproxy.addresses[version];
        // Twice over one connection: who it is holds for all of its requests.
        let mut connection = Connection::open(to, TRUSTED);
        for headers in ["", FORGED] {
            connection.write(inject(headers));
            assert_eq!(connection.reply().unwrap().status, 200);
        }
        let mut connection = Connection::open(to, STRANGER);
        for headers in ["", FORGED] {
            connection.write(inject(headers));
            assert_eq!(connection.reply().unwrap().status, 401);
        }
        assert_eq!(upstream.requests(), 2);
        let user = basic("scott", "tiger");
        assert_eq!(
            send(to, STRANGER, inject(&(user + FORGED))).unwrap().status,
            200
        );
        assert_eq!(
            seen(&upstream, "X-Http-Auth"),
            ["127.0.0.1", "127.0.0.1", "scott"]
        );
        assert_eq!(
            seen(&upstream, "X-Forwarded-For"),
            ["127.0.0.1", "127.0.0.1", "127.0.0.2"]
        );
        gate.wait_log(|line| {
            line["identity"] == "scott"
                && line["client"] == "127.0.0.2"
                && line["peer"] == "127.0.0.9"
        });
    }
}

/// The attack: a client begins with a PROXY header of its own, behind the one that haproxy wrote.
#[test]
fn a_second_proxy_header_is_a_malformed_request() {
    let upstream = upstream();
    let gate = gate(&upstream);
    let haproxy = haproxy(gate.address, "");
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    binary.extend([127, 0, 0, 1, 127, 0, 0, 1, 4, 0, 0, 80]);
    for to in &haproxy.addresses[..2] {
        for header in [
            b"PROXY TCP4 127.0.0.1 127.0.0.1 1024 80\r\n".as_slice(),
            b"PROXY UNKNOWN\r\n",
            &binary,
        ] {
            let bytes = [header, inject("").as_bytes()].concat();
            for from in [STRANGER, TRUSTED] {
                assert_eq!(send(*to, from, &bytes).unwrap().status, 400);
            }
        }
    }
    assert_eq!(upstream.requests(), 0);
}

/// The attack: somebody goes round haproxy, and writes the header or leaves it out.
#[test]
fn only_the_proxy_may_say_who_it_is() {
    let upstream = upstream();
    let gate = gate(&upstream);
    let forged = "PROXY TCP4 127.0.0.1 127.0.0.1 1024 80\r\n";
    let status = |from, request: &str| gate.send(from, request).unwrap().status;
    for from in [STRANGER, TRUSTED] {
        assert_eq!(status(from, &(forged.to_owned() + &inject(""))), 400);
    }
    // haproxy's own address is believed, but not where the header is missing.
    assert_eq!(status(PROXY, &inject("")), 400);
    assert_eq!(status(PROXY, &inject(&basic("scott", "tiger"))), 400);
    assert_eq!(status(PROXY, &inject(FORGED)), 400);
    assert_eq!(upstream.requests(), 0);
    // Everybody else is who they are.
    assert_eq!(status(STRANGER, &inject(FORGED)), 401);
    assert_eq!(status(TRUSTED, &inject(FORGED)), 200);
    let user = basic("scott", "tiger");
    assert_eq!(status(STRANGER, &inject(&(user + FORGED))), 200);
    assert_eq!(seen(&upstream, "X-Http-Auth"), ["127.0.0.1", "scott"]);
    assert_eq!(
        seen(&upstream, "X-Forwarded-For"),
        ["127.0.0.1", "127.0.0.2"]
    );
}

/// The need: haproxy asks on connections of its own whether gatepost is there, with headers that name no client
/// (`UNKNOWN` and `LOCAL`). That is answered, refuses nobody and lets nobody in.
#[test]
fn health_checks_are_answered() {
    for (options, result) in [
        ("", "L4OK"),
        (
            "option httpchk\n  http-check send meth GET uri /open ver HTTP/1.1 hdr Host gate",
            "L7OK",
        ),
        // Not let in is an answer too.
        (
            "option httpchk\n  http-check send meth GET uri /messages ver HTTP/1.1 hdr Host gate\n  http-check expect status 401",
            "L7OK",
        ),
    ] {
        let upstream = upstream();
        let gate = gate(&upstream);
        let haproxy = haproxy(gate.address, options);
        wait_for("health checks to pass", || {
            let states = states(&haproxy);
            states.len() == 2 && states.iter().all(|it| it == &format!("UP {result}"))
        });
        for (index, from, status) in [(0, TRUSTED, 200), (1, TRUSTED, 200), (1, STRANGER, 401)] {
            let reply = send(haproxy.addresses[index], from, inject(""));
            assert_eq!(reply.unwrap().status, status, "{options}");
        }
        let log = gate.logged();
        assert!(!log.contains("bad_proxy_header"), "{log}");
        assert!(
            !haproxy.output().contains("is DOWN"),
            "{}",
            haproxy.output()
        );
    }
}

/// State and last result of each server that is checked, as haproxy says.
pub(crate) fn states(haproxy: &Program) -> Vec<String> {
    // haproxy opens it after the ports.
    let Ok(mut socket) = UnixStream::connect(haproxy.folder().join("stats")) else {
        return Vec::new();
    };
    socket.write_all(b"show stat\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let mut rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = rows.next().unwrap();
    let column = |name: &str| names.iter().position(|it| *it == name).unwrap();
    let (status, check) = (column("status"), column("check_status"));
    rows.filter(|row| row.len() > check && !row[check].is_empty())
        .map(|row| format!("{} {}", row[status], row[check]))
        .collect()
}

/// The need: haproxy speaks HTTP and appends what it sees to `X-Forwarded-For`; what a client wrote stands to the left of it.
#[test]
fn http_mode_appends_the_client() {
    let upstream = upstream();
    let gate = Setup::before(upstream.address)
        .with(&format!("trusted_proxies: [{PROXY}]"))
        .start();
    let haproxy = haproxy(gate.address, "");
    let to = haproxy.addresses[2];
    let status = |from, request: String| send(to, from, request).unwrap().status;
    assert_eq!(status(TRUSTED, inject(FORGED)), 200);
    assert_eq!(status(STRANGER, inject(FORGED)), 401);
    let user = basic("scott", "tiger");
    assert_eq!(status(STRANGER, inject(&(user + FORGED))), 200);
    assert_eq!(status(STRANGER, get("/open")), 200);
    assert_eq!(seen(&upstream, "X-Http-Auth"), ["127.0.0.1", "scott"]);
    assert_eq!(
        seen(&upstream, "X-Forwarded-For"),
        [
            "127.0.0.1, 127.0.0.9",
            "127.0.0.2, 127.0.0.9",
            "127.0.0.2, 127.0.0.9"
        ]
    );
    assert!(seen(&upstream, "Forwarded").is_empty());
}
