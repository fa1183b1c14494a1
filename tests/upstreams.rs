//! An upstream of several addresses: who gets a request, what happens when one is gone, and what is never sent twice.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Connection, Gatepost, Recorder, Reply, Setup, TRUSTED, get, inject, post, wait_for,
};
use crate::tls::over_tls;
use crate::tls_client::Authority;

/// An upstream whose answers tell which one it is.
fn named(name: &'static str) -> Recorder {
    Recorder::behaving(move |stream, _| {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
        stream.write_all(answer.as_bytes()).is_ok()
    })
}

/// Nobody listens there, and nobody else gets the port while this lives.
fn nobody() -> (SocketAddr, TcpListener) {
    // Bound and not accepted would be a connection; so a listener on another address keeps the port.
    let keeper = TcpListener::bind("127.0.0.99:0").unwrap();
    let port = keeper.local_addr().unwrap().port();
    (SocketAddr::from(([127, 0, 0, 98], port)), keeper)
}

fn list(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("[{}]", addresses.join(", "))
}

fn send(gatepost: &Gatepost) -> Reply {
    gatepost.send(TRUSTED, inject("")).unwrap()
}

/// How often each of them answered.
fn shares(gatepost: &Gatepost, requests: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        let reply = send(gatepost);
        assert_eq!(reply.status, 200, "{reply:?}");
        *shares.entry(reply.text()).or_default() += 1;
    }
    shares
}

fn thirds(of: usize) -> BTreeMap<String, usize> {
    ["a", "b", "c"].map(|it| (it.to_owned(), of / 3)).into()
}

#[test]
fn requests_go_round() {
    let upstreams = ["a", "b", "c"].map(named);
    let addresses = upstreams.each_ref().map(|it| it.address);
    for balance in ["round_robin", "least_connections"] {
        let gatepost = Setup::before(list(&addresses))
            .with(&format!("upstream.balance: {balance}"))
            .start();
        assert_eq!(shares(&gatepost, 30), thirds(30), "{balance}");
        for address in &addresses {
            let series = format!("gatepost_upstream_requests_total{{address=\"{address}\"}}");
            assert!((gatepost.metric(&series) - 10.0).abs() < 0.1);
            let series = format!("gatepost_upstream_up{{address=\"{address}\"}}");
            assert!((gatepost.metric(&series) - 1.0).abs() < 0.1);
        }
    }
}

/// One that takes long gets no more to do while others have nothing.
#[test]
fn who_is_busy_gets_less() {
    let release = Arc::new(AtomicBool::new(false));
    let released = release.clone();
    let slow = Recorder::behaving(move |stream, _| {
        wait_for("the end of the test", || released.load(Ordering::Relaxed));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
        true
    });
    let quick = named("a");
    let gatepost = Setup::before(list(&[slow.address, quick.address])).start();
    let mut waiting = gatepost.connect(TRUSTED);
    waiting.write(inject(""));
    wait_for("the slow one to be asked", || slow.requests() == 1);
    assert_eq!(shares(&gatepost, 20), [("a".to_owned(), 20)].into());
    assert_eq!(slow.requests(), 1);
    release.store(true, Ordering::Relaxed);
    assert_eq!(waiting.reply().unwrap().text(), "slow");
}

/// A POST that no connection could be made for has not been sent, so another address gets it; and who refuses connections is soon
/// asked no more.
#[test]
fn who_is_gone_costs_no_request() {
    let here = named("a");
    let (gone, _keeper) = nobody();
    let gatepost = Setup::before(list(&[gone, here.address]))
        .with("upstream.balance: round_robin")
        .with("upstream.circuit_breaker: { max_failures: 3, open_for: 1h }")
        .start();
    assert_eq!(shares(&gatepost, 40), [("a".to_owned(), 40)].into());
    assert_eq!(here.requests(), 40);
    let of_gone = |name: &str| gatepost.metric(&format!("{name}{{address=\"{gone}\"}}"));
    assert!((of_gone("gatepost_upstream_failures_total") - 3.0).abs() < 0.1);
    assert!((of_gone("gatepost_upstream_requests_total") - 3.0).abs() < 0.1);
    assert!((of_gone("gatepost_upstream_circuit_open") - 1.0).abs() < 0.1);
    assert!(of_gone("gatepost_upstream_up") < 0.1);
    assert!(of_gone("gatepost_upstream_requests_in_flight") < 0.1);
    let line = gatepost.wait_log(|it| it["level"] == "WARN" && it["address"] == gone.to_string());
    assert!(
        line["fault"].as_str().unwrap().contains("refused"),
        "{line}"
    );
    let access = gatepost.wait_log(|it| it["message"] == "request");
    assert_eq!(access["upstream"], here.address.to_string());
}

/// The MTA may have taken a message that it did not answer for. It is not sent to another one.
#[test]
fn what_was_sent_is_not_sent_again() {
    let takers = [(); 2].map(|()| Recorder::behaving(|_, _| false));
    let gatepost = Setup::before(list(&takers.each_ref().map(|it| it.address))).start();
    for sent in 1..5 {
        let reply = send(&gatepost);
        assert_eq!(reply.status, 502);
        let seen: usize = takers.iter().map(Recorder::requests).sum();
        assert_eq!(seen, sent);
    }
}

/// One whose pooled connections die with every request: what was sent on them goes once more to the same address, on a connection of its own,
/// where that can harm nobody, and never to another.
#[test]
fn a_dead_connection_is_no_reason_to_go_elsewhere() {
    // Connections are good for one request.
    let dying = [(); 2].map(|()| {
        Recorder::behaving(|stream, seen| {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
            seen.earlier == 0 && stream.write_all(answer).is_ok()
        })
    });
    let gatepost = Setup::before(list(&dying.each_ref().map(|it| it.address)))
        .routes("\n  - { path: /x, methods: [GET, POST, PUT], allow: [trusted_hosts], request_body_limit: 150 }\n")
        .start();
    let seen = || dying.each_ref().map(Recorder::requests);
    let body = "x".repeat(100);
    for (request, statuses) in [
        (get("/x"), [200, 200]),
        (post("/x", "", &body).replacen("POST", "PUT", 1), [200, 200]),
        (post("/x", "", &body), [200, 502]),
    ] {
        for _ in 0..10 {
            let before = seen();
            let reply = gatepost.send(TRUSTED, &request).unwrap();
            assert!(statuses.contains(&reply.status), "{reply:?}");
            let after = seen();
            let [a, b] = [0, 1].map(|it| after[it] - before[it]);
            assert!(a == 0 || b == 0, "{request}: both saw it");
            let most = if request.starts_with("POST") { 1 } else { 2 };
            assert!(
                (1..=most).contains(&(a + b)),
                "{request}: seen {} times",
                a + b
            );
        }
    }
    let text = gatepost.admin("/metrics").text();
    let failures = text
        .lines()
        .filter(|it| it.starts_with("gatepost_upstream_failures_total") && !it.ends_with(" 0"));
    assert_eq!(failures.count(), 0, "a connection that is over is no fault");
}

/// An MTA that hangs is one that fails, also on connections from before it did.
#[test]
fn a_hang_counts_on_pooled_connections_too() {
    let hangs = Recorder::behaving(|stream, seen| {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nh";
        seen.earlier > 0 || stream.write_all(answer).is_ok()
    });
    let other = named("a");
    let gatepost = Setup::before(list(&[hangs.address, other.address]))
        .with("upstream.balance: round_robin")
        .with("upstream.response_timeout: 300ms")
        .with("upstream.circuit_breaker: { max_failures: 1, open_for: 1h }")
        .start();
    let statuses: Vec<u16> = (0..12).map(|_| send(&gatepost).status).collect();
    assert_eq!(
        statuses.iter().filter(|it| **it == 504).count(),
        1,
        "{statuses:?}"
    );
    assert_eq!(shares(&gatepost, 4), [("a".to_owned(), 4)].into());
}

/// One that says at once that it cannot has always the least to do. It must not get everything.
#[test]
fn who_says_that_it_cannot_is_asked_last() {
    let cannot = Recorder::behaving(|stream, _| {
        let answer = b"HTTP/1.1 503 No\r\nContent-Length: 1\r\n\r\nx";
        stream.write_all(answer).is_ok()
    });
    let other = named("a");
    let gatepost = Setup::before(list(&[cannot.address, other.address]))
        .with("upstream.circuit_breaker: { max_failures: 3, open_for: 1h }")
        .start();
    let refused = (0..20).filter(|_| send(&gatepost).status == 503).count();
    assert_eq!(refused, 3);
    assert_eq!(shares(&gatepost, 4), [("a".to_owned(), 4)].into());
}

/// A host that takes no connections (a firewall, a queue that is full) is the upstream's doing, not the client's.
#[test]
fn a_connection_that_takes_too_long_is_504() {
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    // Nobody accepts; when one has to wait the queue is full, and stays so.
    let wait = Duration::from_millis(300);
    let mut waiting = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, wait) {
        waiting.push(stream);
    }
    let gatepost = Setup::before(address)
        .with("upstream.connect_timeout: 300ms")
        .start();
    for request in [inject(""), get("/messages")] {
        let reply = gatepost.send(TRUSTED, request).unwrap();
        assert_eq!(
            (reply.status, reply.json()["error"].as_str()),
            (504, Some("upstream_timed_out"))
        );
    }
}

/// Failures open a circuit, an answer closes it, and one request finds that out.
#[test]
fn a_circuit_is_tried_and_closed_again() {
    let works = Arc::new(AtomicBool::new(false));
    let working = works.clone();
    let moody = Recorder::behaving(move |stream, _| {
        let answer = b"HTTP/1.1 500 Oh\r\nContent-Length: 1\r\n\r\nm";
        working.load(Ordering::Relaxed) && stream.write_all(answer).is_ok()
    });
    let good = named("a");
    let gatepost = Setup::before(list(&[moody.address, good.address]))
        .with("upstream.balance: round_robin")
        .with("upstream.circuit_breaker: { max_failures: 2, open_for: 1s }")
        .start();
    let failed = (0..4).filter(|_| send(&gatepost).status == 502).count();
    assert_eq!(failed, 2);
    let open = format!(
        "gatepost_upstream_circuit_open{{address=\"{}\"}}",
        moody.address
    );
    assert!((gatepost.metric(&open) - 1.0).abs() < 0.1);
    works.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    wait_for("the circuit to close", || {
        send(&gatepost);
        gatepost.metric(&open) < 0.1
    });
    assert!(begin.elapsed() > Duration::from_millis(500), "left alone");
    assert_eq!(moody.requests(), 3, "one was enough");
    let half = (0..20).filter(|_| send(&gatepost).status == 500).count();
    assert_eq!(half, 10);
}

/// Clients can make an MTA fail. That must not be a way to shut out others: where no other address is left, it is asked.
#[test]
fn failures_alone_leave_nobody_without_an_upstream() {
    let fails = Arc::new(AtomicBool::new(true));
    let failing = fails.clone();
    let only = Recorder::behaving(move |stream, _| {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
        !failing.load(Ordering::Relaxed) && stream.write_all(answer).is_ok()
    });
    let gatepost = Setup::before(only.address)
        .with("upstream.circuit_breaker: { max_failures: 1, open_for: 1h }")
        .start();
    for _ in 0..3 {
        assert_eq!(send(&gatepost).status, 502);
    }
    fails.store(false, Ordering::Relaxed);
    assert_eq!(send(&gatepost).text(), "a");
}

/// An upstream with a health page of its own.
struct Checked {
    recorder: Recorder,
    status: Arc<AtomicU16>,
}

impl Checked {
    fn start(name: &'static str) -> Self {
        let status = Arc::new(AtomicU16::new(204));
        let now = status.clone();
        let recorder = Recorder::behaving(move |stream, seen| {
            let answer = if seen.head.starts_with("GET /well ") {
                let status = now.load(Ordering::Relaxed);
                format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")
            } else {
                format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}")
            };
            // 0 is for one that hangs.
            answer.contains(" 0 X") || stream.write_all(answer.as_bytes()).is_ok()
        });
        Self { recorder, status }
    }
}

const CHECK: &str = "upstream.health_check: { path: /well, interval: 200ms, timeout: 200ms, healthy_threshold: 2, unhealthy_threshold: 2 }";

/// An address whose health check fails gets nothing, whether it says so or says nothing; where all do, clients learn it at once.
#[test]
fn who_is_not_well_gets_no_request() {
    let [a, b] = ["a", "b"].map(Checked::start);
    let gatepost = Setup::before(list(&[a.recorder.address, b.recorder.address]))
        .with(CHECK)
        .start();
    assert_eq!(shares(&gatepost, 10).len(), 2);
    let up = |of: &Checked| {
        gatepost.metric(&format!(
            "gatepost_upstream_up{{address=\"{}\"}}",
            of.recorder.address
        ))
    };
    for sick in [503, 0, 404] {
        a.status.store(sick, Ordering::Relaxed);
        wait_for("a to be down", || up(&a) < 0.5);
        assert_eq!(shares(&gatepost, 10), [("b".to_owned(), 10)].into());
        a.status.store(302, Ordering::Relaxed);
        wait_for("a to be up", || up(&a) > 0.5);
        assert_eq!(shares(&gatepost, 10).len(), 2);
    }
    for it in [&a, &b] {
        it.status.store(500, Ordering::Relaxed);
        wait_for("it to be down", || up(it) < 0.5);
    }
    let begin = Instant::now();
    let reply = send(&gatepost);
    assert_eq!(
        (reply.status, reply.json()["error"].as_str()),
        (503, Some("upstream_down"))
    );
    assert!(reply.header("retry-after").is_some());
    assert!(begin.elapsed() < Duration::from_secs(2));
    b.status.store(200, Ordering::Relaxed);
    wait_for("b to be up", || up(&b) > 0.5);
    assert_eq!(shares(&gatepost, 5), [("b".to_owned(), 5)].into());
    let text = a.recorder.text();
    let check = text
        .split("\r\n\r\n")
        .find(|it| it.starts_with("GET /well HTTP/1.1\r\n"));
    let check = check.unwrap().to_ascii_lowercase();
    assert!(
        check.contains(&format!("host: {}", a.recorder.address)),
        "{check}"
    );
    assert!(
        !check.contains("x-http-auth") && !check.contains("authorization"),
        "{check}"
    );
    // Without a check nobody could say that it is up again.
    let yaml = gatepost.folder().join("gatepost.yaml");
    let text = std::fs::read_to_string(&yaml).unwrap();
    let text: Vec<&str> = text
        .lines()
        .filter(|it| !it.contains("health_check"))
        .collect();
    std::fs::write(&yaml, text.join("\n")).unwrap();
    gatepost.signal("HUP");
    wait_for("a to be asked again", || send(&gatepost).text() == "a");
}

/// Works on a request until it is released.
fn working_until(release: &Arc<AtomicBool>) -> Recorder {
    let released = release.clone();
    Recorder::behaving(move |stream, _| {
        wait_for("the end of the test", || released.load(Ordering::Relaxed));
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .is_ok()
    })
}

/// Clients that ask again at once, whatever they are told, would take the core from those that are served. Those of a proxy do not wait for
/// each other.
#[test]
fn who_is_told_to_come_back_is_read_a_little_later() {
    const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);
    let release = Arc::new(AtomicBool::new(false));
    let slow = working_until(&release);
    let gatepost = Setup::before(slow.address)
        .with("upstream.max_connections: 1")
        .with("trusted_proxies: [127.0.0.8]")
        .start();
    let mut served = gatepost.connect(TRUSTED);
    served.write(inject(""));
    wait_for("it to be there", || slow.requests() == 1);
    let told_to_come_back = |from, headers: &str| {
        let mut connection = gatepost.connect(from);
        let begin = Instant::now();
        // One pause more than is asked for, since each is cut to whole milliseconds.
        for _ in 0..42 {
            connection.write(inject(headers));
            assert_eq!(connection.reply().unwrap().status, 503);
        }
        begin.elapsed()
    };
    let pauses = Duration::from_millis(50) * 40;
    assert!(told_to_come_back(TRUSTED, "") >= pauses);
    assert!(told_to_come_back(PROXY, "X-Forwarded-For: 127.0.0.1\r\n") < pauses);
    release.store(true, Ordering::Relaxed);
    assert_eq!(served.reply().unwrap().status, 200);
}

/// Who works on as much as it may gets no more, and clients are told to come back.
#[test]
fn an_address_has_a_limit() {
    let release = Arc::new(AtomicBool::new(false));
    let slow = working_until(&release);
    let gatepost = Setup::before(slow.address)
        .with("upstream.max_connections: 2")
        .start();
    let mut waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut connection = gatepost.connect(TRUSTED);
            connection.write(inject(""));
            connection
        })
        .collect();
    wait_for("both to be there", || slow.requests() == 2);
    let mut third = gatepost.connect(TRUSTED);
    for _ in 0..2 {
        third.write(inject(""));
        let reply = third.reply().unwrap();
        assert_eq!(
            (reply.status, reply.json()["error"].as_str()),
            (503, Some("upstream_busy"))
        );
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    release.store(true, Ordering::Relaxed);
    for connection in &mut waiting {
        assert_eq!(connection.reply().unwrap().status, 200);
    }
    // On the same connection: under overload, another one for each would cost more than what is refused.
    third.write(inject(""));
    assert_eq!(third.reply().unwrap().status, 200);
}

/// An MTA that answers a byte now and then holds no request for ever, nor does one that answers nothing.
#[test]
fn an_answer_has_an_end() {
    let drips = Recorder::behaving(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
        false
    });
    let silent = Recorder::behaving(|_, _| true);
    for (upstream, status) in [(&drips, 200), (&silent, 504)] {
        let gatepost = Setup::before(upstream.address)
            .with("upstream.total_timeout: 500ms")
            .start();
        let begin = Instant::now();
        let mut connection = gatepost.connect(TRUSTED);
        connection.write(inject(""));
        let rest = connection.until_closed();
        let text = String::from_utf8_lossy(&rest);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        let line = gatepost.wait_log(|it| it["message"] == "request");
        assert_eq!(line["refusal"], "upstream_timed_out", "{line}");
    }
}

/// A reload that adds an address, and one that takes it away, disturb nobody; what is known about those that stay is kept.
#[test]
fn a_reload_changes_the_addresses() {
    let [a, b] = ["a", "b"].map(named);
    let (gone, _keeper) = nobody();
    let gatepost = Setup::before(list(&[a.address, gone]))
        .with("upstream.circuit_breaker: { max_failures: 1, open_for: 1h }")
        .start();
    let open = format!("gatepost_upstream_circuit_open{{address=\"{gone}\"}}");
    wait_for("the circuit to open", || {
        send(&gatepost);
        gatepost.metric(&open) > 0.5
    });
    let yaml = gatepost.folder().join("gatepost.yaml");
    let text = std::fs::read_to_string(&yaml).unwrap();
    let change = |addresses: &[SocketAddr]| {
        let text = text.replace(&list(&[a.address, gone]), &list(addresses));
        std::fs::write(&yaml, text).unwrap();
        gatepost.signal("HUP");
    };
    change(&[a.address, b.address, gone]);
    wait_for("b to be asked", || send(&gatepost).text() == "b");
    assert!(gatepost.metric(&open) > 0.5, "it is known to be gone");
    change(&[b.address]);
    let series = format!("gatepost_upstream_up{{address=\"{}\"}}", a.address);
    wait_for("a to be left out", || gatepost.metric(&series) < 0.5);
    assert_eq!(shares(&gatepost, 6), [("b".to_owned(), 6)].into());
}

/// A name server for one name.
struct NameServer {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Says {
    /// These are its addresses, for a second each.
    Addresses(Vec<Ipv4Addr>),
    /// It cannot say which addresses it has, but `::1` if one asks for IPv6.
    Ipv6AndNoWord,
    Nothing,
}

impl NameServer {
    fn start(addresses: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let says = Arc::new(Mutex::new(Says::Addresses(addresses.to_vec())));
        let asked = Arc::new(AtomicUsize::new(0));
        let (now, count) = (says.clone(), asked.clone());
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                count.fetch_add(1, Ordering::Relaxed);
                let says = now.lock().unwrap().clone();
                if let Some(answer) = says.answer(&query[..length]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self {
            address,
            says,
            asked,
        }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

impl Says {
    /// RFC 1035 §4: header, the question as it came, and records that point to its name.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        const FAILURE: u8 = 2;
        let name = 12 + query[12..].iter().position(|it| *it == 0).unwrap() + 1;
        let is_a = query[name..name + 2] == [0, 1];
        let (code, kind, addresses): (u8, u8, Vec<Vec<u8>>) = match self {
            Self::Nothing => return None,
            Self::Addresses(all) if is_a => {
                (0, 1, all.iter().map(|it| it.octets().to_vec()).collect())
            }
            Self::Addresses(_) => (0, 1, Vec::new()),
            Self::Ipv6AndNoWord if is_a => (FAILURE, 1, Vec::new()),
            Self::Ipv6AndNoWord => (0, 28, vec![Ipv6Addr::LOCALHOST.octets().to_vec()]),
        };
        let mut answer = query[..2].to_vec();
        answer.extend([
            0x81,
            0x80 | code,
            0,
            1,
            0,
            u8::try_from(addresses.len()).unwrap(),
        ]);
        answer.extend([0; 4]);
        answer.extend(&query[12..name + 4]);
        for address in addresses {
            answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 1, 0]);
            answer.push(u8::try_from(address.len()).unwrap());
            answer.extend(address);
        }
        Some(answer)
    }
}

/// Answers `name` to everybody, on this address of loopback. Tells its port.
fn serve(ip: Ipv4Addr, port: u16, name: &'static str) -> Option<u16> {
    let listener = TcpListener::bind((ip, port)).ok()?;
    let port = listener.local_addr().ok()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                // A request of these tests comes in one piece.
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Some(port)
}

/// An MTA's pods come and go behind one name. Those that are there get requests, without a reload; when the name server is
/// gone, those that were known go on, and a reload does not need it either.
#[test]
fn a_name_is_asked_for_again() {
    let [first, second] = [11, 12].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let port = (0..50).find_map(|_| {
        let port = serve(first, 0, "a")?;
        serve(second, port, "b")
    });
    let port = port.unwrap();
    let names = NameServer::start(&[first]);
    let gatepost = Setup::before(format!("mta.example:{port}"))
        .with(&format!("upstream.nameservers: [\"{}\"]", names.address))
        .start();
    assert_eq!(shares(&gatepost, 4), [("a".to_owned(), 4)].into());
    names.say(Says::Addresses(vec![first, second]));
    wait_for("the second one to be asked", || {
        send(&gatepost).text() == "b"
    });
    names.say(Says::Addresses(vec![second]));
    let of_first = format!("gatepost_upstream_up{{address=\"{first}:{port}\"}}");
    wait_for("the first one to be forgotten", || {
        gatepost.metric(&of_first) < 0.5
    });
    assert_eq!(shares(&gatepost, 6), [("b".to_owned(), 6)].into());
    names.say(Says::Nothing);
    let asked = names.asked.load(Ordering::Relaxed);
    wait_for("it to be asked in vain", || {
        names.asked.load(Ordering::Relaxed) > asked
    });
    let mut admin = Connection::open(gatepost.admin, TRUSTED);
    admin.write("POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(admin.reply().unwrap().status, 200);
    assert_eq!(shares(&gatepost, 6), [("b".to_owned(), 6)].into());
    let failed = "gatepost_upstream_resolutions_total{result=\"failure\"}";
    wait_for("that to be counted", || gatepost.metric(failed) > 0.5);
    gatepost.wait_log(|it| it["level"] == "ERROR" && it["host"] == "mta.example");
    names.say(Says::Addresses(vec![first]));
    wait_for("the first one to be back", || send(&gatepost).text() == "a");
}

/// The attack: one name server that fails for a moment, and another address family (or another domain of the search list) in which somebody
/// else has the name. Where the MTA is has not changed because somebody cannot say where it is.
#[test]
fn a_failing_name_server_sends_nobody_elsewhere() {
    let upstream = named("a");
    let port = upstream.address.port();
    let ip = Ipv4Addr::LOCALHOST;
    let names = NameServer::start(&[ip]);
    let gatepost = Setup::before(format!("mta.example:{port}"))
        .with(&format!("upstream.nameservers: [\"{}\"]", names.address))
        .start();
    names.say(Says::Ipv6AndNoWord);
    let failed = "gatepost_upstream_resolutions_total{result=\"failure\"}";
    wait_for("it to be asked", || gatepost.metric(failed) > 0.5);
    assert_eq!(shares(&gatepost, 4), [("a".to_owned(), 4)].into());
    let text = gatepost.admin("/metrics").text();
    assert!(
        text.contains(&format!(
            "gatepost_upstream_up{{address=\"{ip}:{port}\"}} 1"
        )),
        "{text}"
    );
    assert!(!text.contains("[::1]"), "{text}");
}

/// The usual resolv.conf names a server of one's own and one of somebody else. Which of them counts is a matter of their order, not of who is
/// quicker; and the second is for when the first cannot say.
#[test]
fn name_servers_are_asked_one_after_the_other() {
    let upstream = named("a");
    let port = upstream.address.port();
    let [first, second] = [(); 2].map(|()| NameServer::start(&[Ipv4Addr::LOCALHOST]));
    let servers = [&first, &second].map(|it| format!("\"{}\"", it.address));
    let start = || {
        Setup::before(format!("mta.example:{port}"))
            .with(&format!("upstream.nameservers: [{}]", servers.join(", ")))
            .start()
    };
    let gatepost = start();
    assert_eq!(shares(&gatepost, 2), [("a".to_owned(), 2)].into());
    assert_eq!(second.asked.load(Ordering::Relaxed), 0);
    first.say(Says::Ipv6AndNoWord);
    let gatepost = start();
    assert_eq!(shares(&gatepost, 2), [("a".to_owned(), 2)].into());
    assert!(second.asked.load(Ordering::Relaxed) > 0);
}

/// Where names are in `/etc/hosts`, no name server is needed.
#[test]
fn localhost_is_a_name() {
    let upstream = named("a");
    let port = upstream.address.port();
    let gatepost = Setup::before(format!("localhost:{port}")).start();
    assert_eq!(shares(&gatepost, 3), [("a".to_owned(), 3)].into());
    let reply = gatepost.send(TRUSTED, get("/messages")).unwrap();
    assert_eq!(reply.text(), "a");
}

/// The check goes the way that requests go: over TLS to the one that was meant, and to a Unix socket.
#[test]
fn checks_go_the_way_of_requests() {
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("mta.sock");
    let secure = over_tls("demo", &authority, &authority.server()).start();
    let _local = Setup::demo()
        .routes("\n  - { path: /messages, methods: [GET], allow: [anyone] }\n")
        .with(&format!("listeners.- listen: unix:{}", socket.display()))
        .start();
    let up = |gate: &Gatepost| {
        let text = gate.admin("/metrics").text();
        let line = text
            .lines()
            .find(|it| it.starts_with("gatepost_upstream_up{"));
        line.unwrap().ends_with(" 1")
    };
    for (address, ca, path, expected) in [
        (
            format!("https://{}", secure.address),
            &authority,
            "/messages",
            true,
        ),
        (
            format!("https://{}", secure.address),
            &other,
            "/messages",
            false,
        ),
        (
            format!("unix:{}", socket.display()),
            &authority,
            "/messages",
            true,
        ),
        (
            format!("unix:{}", socket.display()),
            &authority,
            "/nothing",
            false,
        ),
    ] {
        let mut setup = Setup::before(&address)
            .file("ca.pem", &ca.pem)
            .with(&format!(
                "upstream.health_check: {{ path: {path}, interval: 500ms, timeout: 500ms, unhealthy_threshold: 1 }}"
            ));
        if address.starts_with("https") {
            setup = setup.with("upstream.tls: { ca: ca.pem }");
        }
        let gate = setup.start();
        let word = if expected { "success" } else { "failure" };
        wait_for("checks", || {
            gate.admin("/metrics").text().lines().any(|line| {
                line.starts_with("gatepost_upstream_health_checks_total")
                    && line.contains(word)
                    && !line.ends_with(" 0")
            })
        });
        wait_for(&format!("{address}{path} to be {word}"), || {
            up(&gate) == expected
        });
    }
}
