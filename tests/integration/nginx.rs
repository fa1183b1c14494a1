//! Behind a real nginx, which says in a header whose request it is.

use std::net::SocketAddr;

use crate::harness::{
    Connection, Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, get, inject,
};
use crate::program::{PROXY, Program, seen, send, upstream};

/// What a stranger would like gatepost to believe.
const FORGED: &str = "X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-Http-Auth: root\r\n\
    X-Real-Ip: 127.0.0.1\r\nX-Request-Id: forged\r\n";

/// Where nginx appends the client that it sees to what the client says.
const X_FORWARDED_FOR: &str = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";

/// Where it says nothing but what it sees. `X-Forwarded-For` passes as the client sent it.
const FORWARDED: &str = "proxy_set_header Forwarded \"for=$remote_addr\";";

/// An nginx before this gatepost. It tells clients what it called their request.
fn nginx(gate: SocketAddr, says: &str) -> Program {
    let arguments = ["-p", ".", "-c", "config", "-e", "stderr"];
    Program::start("nginx", &arguments, 1, |listen, folder| {
        let listen = listen[0];
        let folder = folder.display();
        // One process, so that nothing is left when it is killed.
        format!(
            "daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream gate {{ server {gate}; keepalive 1; }}
  server {{
    listen {listen};
    location / {{
      proxy_pass http://gate;
      proxy_bind {PROXY};
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header X-Request-Id $request_id;
      add_header X-Nginx-Request-Id $request_id always;
      {says}
    }}
  }}
}}
"
        )
    })
}

fn gate(upstream: &Recorder, believed: &str) -> Gatepost {
    Setup::before(upstream.address)
        .with(&format!("trusted_proxies: [{PROXY}]"))
        .with(&format!("client_address_header: {believed}"))
        .start()
}

/// The need: a trusted host behind nginx is one, and a stranger is not, though both come over the same few connections.
/// The attack: a stranger says it is somebody else, in every header that anybody reads.
#[test]
fn the_header_of_nginx_says_who_it_is() {
    for (believed, says) in [
        ("X-Forwarded-For", X_FORWARDED_FOR),
        ("Forwarded", FORWARDED),
    ] {
        let upstream = upstream();
        let gate = gate(&upstream, believed);
        let nginx = nginx(gate.address, says);
        let to = nginx.addresses[0];
        let user = basic("scott", "tiger");
        for (from, headers, status) in [
            (TRUSTED, String::new(), 200),
            (STRANGER, String::new(), 401),
            (TRUSTED, FORGED.to_owned(), 200),
            (STRANGER, FORGED.to_owned(), 401),
            (STRANGER, user.clone(), 200),
            (STRANGER, user + FORGED, 200),
        ] {
            let reply = send(to, from, inject(&headers)).unwrap();
            assert_eq!(reply.status, status, "{believed} {from} {headers}");
        }
        assert_eq!(upstream.requests(), 4);
        assert_eq!(
            seen(&upstream, "X-Http-Auth"),
            ["127.0.0.1", "127.0.0.1", "scott", "scott"]
        );
        // Nothing of what clients said is left, in either header.
        assert_eq!(
            seen(&upstream, "X-Forwarded-For"),
            [
                "127.0.0.1, 127.0.0.9",
                "127.0.0.1, 127.0.0.9",
                "127.0.0.2, 127.0.0.9",
                "127.0.0.2, 127.0.0.9"
            ]
        );
        assert!(seen(&upstream, "Forwarded").is_empty());
        gate.wait_log(|line| {
            line["identity"] == "scott"
                && line["client"] == "127.0.0.2"
                && line["peer"] == "127.0.0.9"
        });
    }
}

/// The attack: somebody goes round nginx and writes the header by hand.
#[test]
fn only_nginx_may_say_who_it_is() {
    for (believed, says) in [
        ("X-Forwarded-For", X_FORWARDED_FOR),
        ("Forwarded", FORWARDED),
    ] {
        let upstream = upstream();
        let gate = gate(&upstream, believed);
        let nginx = nginx(gate.address, says);
        assert_eq!(gate.send(STRANGER, inject(FORGED)).unwrap().status, 401);
        assert_eq!(upstream.requests(), 0);
        assert_eq!(gate.send(TRUSTED, inject(FORGED)).unwrap().status, 200);
        assert_eq!(
            send(nginx.addresses[0], TRUSTED, inject(""))
                .unwrap()
                .status,
            200
        );
        assert_eq!(
            seen(&upstream, "X-Forwarded-For"),
            ["127.0.0.1", "127.0.0.1, 127.0.0.9"]
        );
    }
}

/// The need: one name for a request in the logs of nginx, gatepost and the MTA. The attack: a client gives its request the
/// name of another's.
#[test]
fn nginx_names_requests_and_clients_do_not() {
    let upstream = upstream();
    let gate = gate(&upstream, "X-Forwarded-For");
    let nginx = nginx(gate.address, X_FORWARDED_FOR);
    let mut connection = Connection::open(nginx.addresses[0], STRANGER);
    let mut named = Vec::new();
    for _ in 0..2 {
        connection.write(get("/open").replace("\r\n\r\n", "\r\nX-Request-Id: forged\r\n\r\n"));
        let reply = connection.reply().unwrap();
        assert_eq!(reply.status, 200);
        let name = reply.header("x-nginx-request-id").unwrap().to_owned();
        gate.wait_log(|line| line["request_id"] == name.as_str());
        named.push(name);
    }
    assert_ne!(named[0], named[1]);
    assert_eq!(seen(&upstream, "X-Request-Id"), named);
    // Past nginx it gets one of gatepost's own.
    assert_eq!(gate.send(TRUSTED, inject(FORGED)).unwrap().status, 200);
    let names = seen(&upstream, "X-Request-Id");
    assert_eq!(names.len(), 3);
    assert!(!names[2].contains("forged"), "{names:?}");
    assert!(!gate.logged().contains("forged"));
}
