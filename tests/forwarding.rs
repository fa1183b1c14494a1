//! What the upstream gets, and what becomes of it when the upstream fails.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Recorder, STRANGER, Seen, Setup, TRUSTED, basic, find, inject, post, wait_for,
};

/// The request arrives as it was sent, with the identity added and what is hop-by-hop left out.
#[test]
fn the_upstream_sees_the_request_and_who_sent_it() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let headers = format!(
        "{}X-Custom: kept\r\nConnection: X-Dropped\r\nX-Dropped: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n",
        basic("scott", "tiger")
    );
    let request = post("/api/inject/v1?source=test&x=a%20b", &headers, "{\"a\":1}");
    let reply = gate.send(STRANGER, request).unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    let text = upstream.text();
    assert!(
        text.starts_with("POST /api/inject/v1?source=test&x=a%20b HTTP/1.1\r\n"),
        "{text}"
    );
    assert!(text.ends_with("\r\n\r\n{\"a\":1}"), "{text}");
    for line in [
        "Host: gate",
        "X-Custom: kept",
        "Content-Length: 7",
        "Content-Type: application/json",
        "X-Http-Auth: scott",
        "X-Forwarded-For: 127.0.0.2",
        "X-Forwarded-Proto: http",
    ] {
        let line = format!("\r\n{}\r\n", line.to_ascii_lowercase());
        assert_eq!(
            text.to_ascii_lowercase().matches(&line).count(),
            1,
            "{line:?} in {text}"
        );
    }
    for name in ["x-dropped", "keep-alive", "\r\nte:", "connection"] {
        assert!(
            !text.to_ascii_lowercase().contains(name),
            "{name} in {text}"
        );
    }
}

/// What may be spelled in several ways has one on the other side: a length that others could read as octal, cookies in several fields.
#[test]
fn the_upstream_sees_one_spelling() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let body = "{}        ";
    let fields = "Content-Length: 0010\r\nCookie: a=b\r\nCookie: c=d; e=f\r\n";
    let request = format!("POST /open HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
    assert_eq!(gate.send(STRANGER, request).unwrap().status, 200);
    assert_eq!(upstream.told("Content-Length").unwrap(), "10");
    let text = upstream.text();
    assert_eq!(
        text.matches("\r\nCookie: a=b; c=d; e=f\r\n").count(),
        1,
        "{text}"
    );
    assert_eq!(
        text.to_ascii_lowercase().matches("cookie").count(),
        1,
        "{text}"
    );
    assert!(text.ends_with(body), "{text}");
}

/// Client connections and upstream connections are both kept and used again.
#[test]
fn connections_are_kept_on_both_sides() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let mut connection = gate.connect(TRUSTED);
    for _ in 0..20 {
        connection.write(inject(""));
        assert_eq!(connection.reply().unwrap().status, 200);
    }
    assert_eq!(upstream.requests(), 20);
    // The next request may come before the connection of the one before it is back in the pool.
    assert!(
        upstream.connections() <= 10,
        "{} connections",
        upstream.connections()
    );
}

#[test]
fn an_http10_client_is_served() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let mut connection = gate.connect(TRUSTED);
    connection.write("POST /api/inject/v1 HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}");
    let reply = connection.reply().unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    assert!(connection.closes());
    assert_eq!(upstream.requests(), 1);
    // HTTP/1.1 wants a host, and the client named none.
    let host = format!("\r\nHost: {}\r\n", upstream.address);
    assert!(upstream.text().contains(&host), "{}", upstream.text());
}

/// A client that shuts its sending side after the request gets its answer.
#[test]
fn a_half_closed_client_is_answered() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let mut connection = gate.connect(TRUSTED);
    connection.write(inject(""));
    connection.finish();
    assert_eq!(connection.reply().unwrap().status, 200);
    assert!(connection.closes());
}

/// HTTP/2 with prior knowledge on the plain port, spoken by curl where it is installed.
#[test]
fn http2_with_prior_knowledge_works() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let Ok(output) = std::process::Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "20",
            "--http2-prior-knowledge",
            "-u",
            "scott:tiger",
            "-H",
            "X_Http_Auth: root",
            "-d",
            "{}",
            "-w",
            " %{http_code} %{http_version}",
        ])
        .arg(format!("http://{}/api/inject/v1", gate.address))
        .output()
    else {
        println!("skipped: no curl here");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    if String::from_utf8_lossy(&output.stderr).contains("HTTP/2") {
        println!("skipped: this curl has no HTTP/2");
        return;
    }
    assert_eq!(
        text,
        "ok 200 2",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        upstream
            .text()
            .to_ascii_lowercase()
            .contains("x-http-auth: scott\r\n")
    );
    assert!(!upstream.text().contains("root"));
}

#[test]
fn a_unix_socket_upstream_works() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mta.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut buffer = [0; 4096];
            let mut got = Vec::new();
            while find(&got, b"\r\n\r\n{}").is_none() {
                match std::io::Read::read(&mut stream, &mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => got.extend_from_slice(&buffer[..read]),
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix");
        }
    });
    let gate = Setup::before(format!("unix:{}", path.display())).start();
    assert_eq!(
        gate.send(TRUSTED, post("/api/inject/v1", "", "{}"))
            .unwrap()
            .text(),
        "unix"
    );
}

/// The upstream is not there: 502 at once. Once it is back, requests pass again.
#[test]
fn an_upstream_that_is_down_gives_502_and_recovers() {
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let gate = Setup::before(address).start();
    for _ in 0..2 {
        let reply = gate.send(TRUSTED, inject("")).unwrap();
        assert_eq!(reply.status, 502, "{reply:?}");
        assert_eq!(reply.json()["error"], "upstream_refused");
    }
}

/// The upstream takes the request and says nothing: 504 at the deadline.
#[test]
fn an_upstream_that_is_too_slow_gives_504() {
    let upstream = Recorder::behaving(|_, _| true);
    let gate = Setup::before(upstream.address)
        .with("upstream.response_timeout: 300ms")
        .start();
    let reply = gate.send(TRUSTED, inject("")).unwrap();
    assert_eq!(reply.status, 504, "{reply:?}");
    assert_eq!(upstream.requests(), 1, "a slow request is not sent again");
}

/// The upstream answers garbage, or closes instead of answering.
#[test]
fn an_upstream_that_breaks_off_gives_502() {
    for answer in [
        "",
        "nonsense\r\n\r\n",
        "HTTP/1.1 20",
        "HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nnot HTTP",
    ] {
        let upstream = Recorder::behaving(move |stream, _| {
            let _ = stream.write_all(answer.as_bytes());
            false
        });
        let gate = Setup::before(upstream.address).start();
        assert_eq!(
            gate.send(TRUSTED, inject("")).unwrap().status,
            502,
            "{answer:?}"
        );
        assert_eq!(upstream.requests(), 1, "{answer:?}");
    }
}

/// What the upstream says to gatepost alone does not reach the client.
#[test]
fn hop_by_hop_fields_of_an_answer_stay_here() {
    let upstream = Recorder::behaving(|stream, _| {
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
              Proxy-Connection: close\r\nTrailer: X\r\nX-Stays: 1\r\nContent-Length: 2\r\n\r\nok",
        );
        false
    });
    let gate = Setup::before(upstream.address).start();
    let reply = gate.send(TRUSTED, inject("")).unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    assert_eq!(reply.header("x-stays"), Some("1"));
    for name in ["x-hop", "keep-alive", "proxy-connection", "trailer"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
}

/// A client that pauses within its body is told so; the upstream did nothing wrong.
#[test]
fn a_pause_of_the_client_is_not_the_upstreams_fault() {
    let upstream = Recorder::behaving(|_, _| true);
    let gate = Setup::before(upstream.address)
        .with("upstream.response_timeout: 300ms")
        .start();
    let mut connection = gate.connect(TRUSTED);
    connection.write("POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf.");
    assert_eq!(connection.reply().unwrap().status, 408);
}

/// The library refuses some `Connection` fields; the client learns what is wrong, and that the connection closes.
#[test]
fn a_connection_header_that_nominates_too_much_is_refused() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    for nominated in [
        "host",
        "x-forwarded-for",
        "\"x\"",
        "a,b,c,d,e,f,g,h,i,j,k,l",
    ] {
        let mut connection = gate.connect(TRUSTED);
        connection.write(inject(&format!("Connection: {nominated}\r\n")));
        let reply = connection.reply().unwrap();
        assert_eq!(
            (reply.status, reply.header("connection")),
            (400, Some("close")),
            "{nominated}"
        );
        assert_eq!(reply.json()["message"], "a header field is malformed");
        assert!(connection.closes());
    }
    assert_eq!(upstream.text(), "");
}

/// An answer that breaks off half-way must not look whole to the client.
#[test]
fn half_an_answer_does_not_look_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let upstream = Recorder::behaving(move |stream, _| {
            let _ = stream.write_all(answer.as_bytes());
            false
        });
        let gate = Setup::before(upstream.address).start();
        let mut connection = gate.connect(TRUSTED);
        connection.write(inject(""));
        let text = String::from_utf8(connection.until_closed()).unwrap();
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
        let whole = text
            .split_once("\r\n\r\n")
            .is_some_and(|(_, body)| body.len() == 100);
        assert!(!whole, "{text}");
    }
}

/// An upstream that closes an idle connection just when it is used again: a request whose method is
/// idempotent is sent again on a fresh connection; a POST whose body may have arrived is not, however
/// inconvenient, since the message could be injected twice.
#[test]
fn a_dead_pooled_connection_never_makes_a_post_arrive_twice() {
    let posts = Arc::new(AtomicUsize::new(0));
    let count = posts.clone();
    let upstream = Recorder::behaving(move |stream, seen: &Seen| {
        if seen.head.starts_with("POST") {
            count.fetch_add(1, Ordering::SeqCst);
        }
        // The first request of a connection is answered, the second finds it closed.
        seen.earlier == 0
            && stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .is_ok()
    });
    let gate = Setup::before(upstream.address).start();
    let mut sent = 0;
    let mut lost = 0;
    // A connection that is just being returned to the pool is not taken from it, so not every second
    // request meets a dead one.
    while lost < 5 {
        sent += 1;
        assert!(sent < 1000, "no pooled connection was ever used");
        match gate.send(TRUSTED, inject("")).unwrap().status {
            200 => {}
            502 => lost += 1,
            other => panic!("{other}"),
        }
        assert_eq!(posts.load(Ordering::SeqCst), sent, "each arrives once");
        // A GET that finds a dying connection moves on to another one.
        let get = crate::harness::get("/messages");
        assert_eq!(gate.send(TRUSTED, get).unwrap().status, 200);
    }
}

/// `Expect: 100-continue`: the client is told to go on only after the decision.
#[test]
fn a_body_is_asked_for_only_after_the_decision() {
    let gate = Setup::demo().start();
    let body = crate::harness::message("me@example.com");
    let head = |credentials: &str| {
        format!(
            "POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\n{credentials}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
    };
    let mut connection = gate.connect(STRANGER);
    connection.write(head(&basic("scott", "lion")));
    assert_eq!(
        connection.any_reply().unwrap().status,
        401,
        "no 100 before the refusal"
    );
    let mut connection = gate.connect(STRANGER);
    connection.write(head(&basic("scott", "tiger")));
    assert_eq!(connection.any_reply().unwrap().status, 100);
    connection.write(&body);
    assert_eq!(connection.reply().unwrap().status, 200);
}

/// A burst of clients at once: everybody is answered, nobody gets another's answer.
#[test]
fn many_clients_at_once_get_their_own_answers() {
    let upstream = Recorder::behaving(|stream, seen: &Seen| {
        let name = seen.values("x-http-auth").join(",");
        let body = format!("{name} {}", String::from_utf8_lossy(&seen.body));
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .is_ok()
    });
    let gate = Setup::before(upstream.address).start();
    std::thread::scope(|scope| {
        for client in 0..16 {
            let gate = &gate;
            scope.spawn(move || {
                let (user, password) =
                    [("scott", "tiger"), ("carol", "a:b:c"), ("jürgen", "grüße")][client % 3];
                let mut connection = gate.connect(STRANGER);
                for turn in 0..25 {
                    let body = format!("{client}/{turn}");
                    connection.write(post("/api/inject/v1", &basic(user, password), &body));
                    assert_eq!(connection.reply().unwrap().text(), format!("{user} {body}"));
                }
            });
        }
    });
    wait_for("all requests to be counted", || {
        gate.metric("gatepost_requests_total{route=\"/api/inject/v1\",status=\"200\"}") == 400.0
    });
}

/// Retry-proof: a response timeout is long enough for a slow but living upstream.
#[test]
fn a_slow_upstream_within_its_time_is_waited_for() {
    let upstream = Recorder::behaving(|stream, _| {
        std::thread::sleep(Duration::from_millis(300));
        stream
            .write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
            .is_ok()
    });
    let gate = Setup::before(upstream.address).start();
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 202);
}

/// The cost: each piece that leaves alone is a send, and wakes whoever waits for it with half of what it needs. A small request reaches the
/// upstream in one piece, and its answer the client.
#[test]
fn head_and_body_travel_together() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gate = Setup::before(listener.local_addr().unwrap()).start();
    let request = post("/api/inject/v1", "", &"x".repeat(2000));
    let upstream = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 65536];
        for _ in 0..10 {
            let read = stream.read(&mut buffer).unwrap();
            let piece = String::from_utf8_lossy(&buffer[..read]);
            assert!(piece.ends_with(&"x".repeat(2000)), "{piece}");
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsent";
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let mut client = gate.connect(TRUSTED).into_stream();
    let mut buffer = vec![0; 65536];
    for _ in 0..10 {
        client.write_all(request.as_bytes()).unwrap();
        let read = client.read(&mut buffer).unwrap();
        let piece = String::from_utf8_lossy(&buffer[..read]);
        assert!(piece.ends_with("\r\n\r\nsent"), "{piece}");
    }
    upstream.join().unwrap();
}

/// What is held back is held back only while there is something to be written: the head of a body that is yet to come leaves at once.
#[test]
fn a_head_does_not_wait_for_a_body_that_is_yet_to_come() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let whole = post("/api/inject/v1", "", "{}");
    // The kernel itself would send it after 200 ms. The quickest counts, since this machine may be busy.
    let quickest = (0..5).map(|_| {
        let mut client = gate.connect(TRUSTED);
        let before = upstream.text().matches("POST ").count();
        let begun = Instant::now();
        client.write(&whole[..whole.len() - 2]);
        wait_for("the head", || {
            upstream.text().matches("POST ").count() > before
        });
        let taken = begun.elapsed();
        client.write("{}");
        assert_eq!(client.reply().unwrap().status, 200);
        taken
    });
    assert!(quickest.min().unwrap() < Duration::from_millis(150));
}

/// An upstream that accepts one connection, reads until the request's head is there, and goes on as it is told.
fn upstream(go_on: impl FnOnce(&mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_until(&mut stream, "\r\n\r\n");
        go_on(&mut stream);
    });
    address
}

fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while find(&text, end.as_bytes()).is_none() {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(text).unwrap()
}

/// The head of an answer, and pieces of its body, reach the client while the upstream takes its time with the rest: here it does nothing more until
/// it is told that they did. What is said with a length is no different from chunks.
#[test]
fn an_answer_does_not_wait_for_its_end() {
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let chunked = head.starts_with('T');
        let piece = |text: &str| match chunked {
            true => format!("{:x}\r\n{text}\r\n", text.len()),
            false => text.to_owned(),
        };
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let pieces = [
            format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n"),
            piece("hello"),
            piece("world") + if chunked { "0\r\n\r\n" } else { "" },
        ];
        let address = upstream(move |stream| {
            for piece in pieces {
                stream.write_all(piece.as_bytes()).unwrap();
                told.recv().unwrap();
            }
        });
        let gate = Setup::before(address).start();
        let mut client = gate.connect(TRUSTED).into_stream();
        client.write_all(inject("").as_bytes()).unwrap();
        for expected in ["\r\n\r\n", "hello", "world"] {
            read_until(&mut client, expected);
            tell.send(()).unwrap();
        }
    }
}

/// An upstream that answers before it has the whole request, and a client that goes on only when it sees that: nobody waits for the other.
#[test]
fn an_early_answer_reaches_a_client_that_waits_for_it() {
    let address = upstream(|stream| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        read_until(stream, "the rest");
        stream.write_all(b"done").unwrap();
    });
    let gate = Setup::before(address).start();
    let mut client = gate.connect(TRUSTED).into_stream();
    let whole = post(
        "/api/inject/v1",
        "",
        &format!("{}the rest", "x".repeat(20_000)),
    );
    let (begin, rest) = whole.split_at(whole.len() - 8);
    client.write_all(begin.as_bytes()).unwrap();
    read_until(&mut client, "\r\n\r\n");
    client.write_all(rest.as_bytes()).unwrap();
    read_until(&mut client, "done");
}
