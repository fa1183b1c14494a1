//! Reload, upgrade, new certificates and stops under 500 requests a second: not one request fails. `make lifecycle` runs it in release
//! and prints the figures; without optimisation, beside all other tests, it is a tenth of that.
//!
//! Clients send at their times whether or not the answers come (so that a pause is seen by every request that fell into it), on connections
//! that they keep, and go where they are told. A request failed where something of it was written and no answer of 200 came. A connection
//! that is refused carried nothing; the client tries the next address, as behind a load balancer.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Gatepost, PATIENCE, POLICY, Recorder, Setup, message, post, wait_for};
use crate::tls_client::{Authority, Client};

/// Clients of each kind. Each sends ten requests a second.
const CLIENTS: [(Speaks, usize); 4] = if cfg!(debug_assertions) {
    [
        (Speaks::Http1, 2),
        (Speaks::Http1OverTls, 1),
        (Speaks::Http2, 1),
        (Speaks::Http2OverTls, 1),
    ]
} else {
    [
        (Speaks::Http1, 28),
        (Speaks::Http1OverTls, 10),
        (Speaks::Http2, 6),
        (Speaks::Http2OverTls, 6),
    ]
};

const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http1OverTls,
    Http2,
    Http2OverTls,
}

impl Speaks {
    fn is_over_tls(self) -> bool {
        matches!(self, Self::Http1OverTls | Self::Http2OverTls)
    }

    fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2OverTls)
    }
}

/// Where one instance listens.
#[derive(Clone, Copy)]
struct Instance {
    plain: SocketAddr,
    tls: SocketAddr,
}

/// One load at a time: other tests have deadlines, too.
static TURN: Mutex<()> = Mutex::new(());

/// What all clients share.
struct Load {
    _turn: MutexGuard<'static, ()>,
    authority: Authority,
    upstream: Recorder,
    /// How often the upstream got each message.
    got: Arc<Mutex<HashMap<String, usize>>>,
    /// What a load balancer would send to.
    instances: Mutex<Vec<Instance>>,
    over: AtomicBool,
    failures: Mutex<Vec<String>>,
}

/// What came of it.
#[derive(Default)]
struct Tally {
    requests: usize,
    slowest: Duration,
    connections: usize,
    /// Told in so many words that the request was not looked at (RFC 9113 §6.8), and sent again.
    again: usize,
}

impl Load {
    fn new() -> Self {
        let got: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let noted = got.clone();
        let upstream = Recorder::behaving(move |stream, seen| {
            let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
            let sender = body["envelope_sender"].as_str().unwrap().to_owned();
            *noted.lock().unwrap().entry(sender).or_default() += 1;
            // So that there are always some in flight.
            thread::sleep(Duration::from_millis(5));
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .is_ok()
        });
        Self {
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
            authority: Authority::new(),
            upstream,
            got,
            instances: Mutex::default(),
            over: AtomicBool::new(false),
            failures: Mutex::default(),
        }
    }

    /// One more gatepost, to which clients are sent from now on.
    fn start(&self, more: &str) -> (Gatepost, Instance) {
        let server = self.authority.server();
        let gate = Setup::before(self.upstream.address)
            .with("reload: { watch: 100ms }")
            .with("listeners.- listen: 127.0.0.1:0")
            .with("listeners.  tls_certificate: server.pem")
            .with("listeners.  tls_private_key: server.key")
            .with(more)
            // There are too many of them.
            .looking(|line| !line.contains("\"target\":\"access\""))
            .file("server.pem", &server.certificate)
            .file("server.key", &server.key)
            .start();
        let plain = gate.address;
        let tls = gate.listening().into_iter().find(|it| *it != plain);
        let instance = Instance {
            plain,
            tls: tls.unwrap(),
        };
        self.instances.lock().unwrap().push(instance);
        (gate, instance)
    }

    /// Keeps up the load while `act` goes on, and holds the result against what is promised.
    fn during(&self, what: &str, act: impl FnOnce()) {
        let begin = Instant::now();
        let all: usize = CLIENTS.iter().map(|(_, count)| count).sum();
        let number = AtomicUsize::new(0);
        let number = &number;
        let mut sum = Tally::default();
        thread::scope(|scope| {
            let mut clients = Vec::new();
            for (speaks, count) in CLIENTS {
                for _ in 0..count {
                    clients.push(scope.spawn(move || {
                        let number = number.fetch_add(1, Ordering::Relaxed);
                        let offset =
                            INTERVAL * u32::try_from(number).unwrap() / u32::try_from(all).unwrap();
                        self.client(number, speaks, begin + offset)
                    }));
                }
            }
            // A panic here has to end the clients, too.
            let _over = Finally(&self.over);
            thread::sleep(Duration::from_secs(1));
            act();
            thread::sleep(Duration::from_secs(1));
            self.over.store(true, Ordering::SeqCst);
            for client in clients {
                let tally = client.join().unwrap();
                sum.requests += tally.requests;
                sum.connections += tally.connections;
                sum.again += tally.again;
                sum.slowest = sum.slowest.max(tally.slowest);
            }
        });
        let took = begin.elapsed();
        let failures = self.failures.lock().unwrap();
        println!(
            "FIGURE {what}: {} requests in {:.0} s, {} failed, slowest {} ms, {} connections, {} told to send again",
            sum.requests,
            took.as_secs_f64(),
            failures.len(),
            sum.slowest.as_millis(),
            sum.connections,
            sum.again,
        );
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        // Each one once: none is lost behind an answer, and no POST is sent twice.
        let got = self.got.lock().unwrap();
        let twice: Vec<_> = got.iter().filter(|(_, count)| **count != 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert_eq!(got.len(), sum.requests);
        let due = took.as_millis() / INTERVAL.as_millis() * all as u128;
        assert!(
            cfg!(debug_assertions) || sum.requests as u128 * 100 >= due * 95,
            "the load was {} of {due}",
            sum.requests
        );
    }

    fn client(&self, number: usize, speaks: Speaks, begin: Instant) -> Tally {
        let mut tally = Tally::default();
        let mut at = number;
        let mut line = None;
        for turn in 0.. {
            let due = begin + INTERVAL * turn;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.over.load(Ordering::SeqCst) {
                break;
            }
            let name = format!("{number}-{turn}@example.com");
            loop {
                let mut there = line.take().unwrap_or_else(|| {
                    tally.connections += 1;
                    self.connect(speaks, &mut at)
                });
                match there.ask(&name) {
                    // Now and then a new one, as by clients that come and go.
                    Ok(Then::Again) => line = (turn % 50 != 49).then_some(there),
                    Ok(Then::Elsewhere) => at += 1,
                    Ok(Then::SendAgain) => {
                        tally.again += 1;
                        at += 1;
                        continue;
                    }
                    Err(fault) => {
                        let words = format!("{speaks:?}, request {turn}: {fault}");
                        self.failures.lock().unwrap().push(words);
                    }
                }
                break;
            }
            tally.requests += 1;
            tally.slowest = tally.slowest.max(due.elapsed());
        }
        tally
    }

    /// To the next that takes it. Where nobody does for long, the test fails.
    fn connect(&self, speaks: Speaks, at: &mut usize) -> Line {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let instance = {
                let instances = self.instances.lock().unwrap();
                instances[*at % instances.len()]
            };
            match Line::connect(speaks, instance, &self.authority) {
                Ok(line) => return line,
                Err(fault) => {
                    assert!(Instant::now() < deadline, "{speaks:?}: {fault}");
                    *at += 1;
                }
            }
        }
    }
}

struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// A client's connection.
struct Line {
    wire: Box<dyn Wire>,
    /// The next stream, in HTTP/2.
    stream: Option<u32>,
    scheme: u8,
}

/// What a client does after an answer.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    Again,
    /// It is told so: `Connection: close`, or GOAWAY.
    Elsewhere,
    /// GOAWAY says that this request is not looked at.
    SendAgain,
}

impl Line {
    fn connect(speaks: Speaks, to: Instance, authority: &Authority) -> io::Result<Self> {
        let wire: Box<dyn Wire> = if speaks.is_over_tls() {
            let client = Client::new(authority, None);
            let client = if speaks.is_http2() {
                client.http2()
            } else {
                client
            };
            Box::new(client.connect(to.tls, b"")?.into_stream())
        } else {
            let tcp = TcpStream::connect(to.plain)?;
            tcp.set_read_timeout(Some(PATIENCE))?;
            tcp.set_nodelay(true)?;
            Box::new(tcp)
        };
        Ok(Self {
            wire,
            stream: speaks.is_http2().then_some(1),
            // Of the static table (RFC 7541, appendix A).
            scheme: if speaks.is_over_tls() { 0x87 } else { 0x86 },
        })
    }

    fn ask(&mut self, sender: &str) -> io::Result<Then> {
        match self.stream {
            Some(stream) => {
                self.stream = Some(stream + 2);
                self.ask_http2(stream, &message(sender))
            }
            None => self.ask_http1(&message(sender)),
        }
    }

    fn ask_http1(&mut self, body: &str) -> io::Result<Then> {
        let request = post("/open", "", body);
        self.wire.write_all(request.as_bytes())?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
        loop {
            let read = self.wire.read(&mut buffer)?;
            if read == 0 {
                let words = format!("the end after {} bytes", answer.len());
                return Err(io::Error::other(words));
            }
            answer.extend_from_slice(&buffer[..read]);
            if answer.ends_with(b"\r\n\r\nok") {
                break;
            }
        }
        let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        if !head.starts_with("http/1.1 200 ") {
            return Err(io::Error::other(head));
        }
        Ok(if head.contains("connection: close\r\n") {
            Then::Elsewhere
        } else {
            Then::Again
        })
    }

    /// RFC 9113 §6. Small enough for the windows that both begin with.
    fn ask_http2(&mut self, stream: u32, body: &str) -> io::Result<Then> {
        let mut out = Vec::new();
        if stream == 1 {
            out.extend(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        }
        let mut fields = vec![0x83, self.scheme];
        for (name, value) in [
            (&[0x04][..], "/open"),
            (&[0x01], "gate"),
            (&[0x0f, 0x10], "application/json"),
            (&[0x0f, 0x0d], &body.len().to_string()),
        ] {
            fields.extend(name);
            fields.push(u8::try_from(value.len()).unwrap());
            fields.extend(value.as_bytes());
        }
        frame(&mut out, 1, 4, stream, &fields);
        frame(&mut out, 0, 1, stream, body.as_bytes());
        self.wire.write_all(&out)?;
        let mut then = Then::Again;
        loop {
            let mut head = [0; 9];
            self.wire.read_exact(&mut head)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.wire.read_exact(&mut payload)?;
            let (kind, flags) = (head[3], head[4]);
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match kind {
                0 | 1 if head[5..] == stream.to_be_bytes() => {
                    if kind == 1 && payload[0] != 0x88 {
                        return Err(io::Error::other(format!("not 200: {payload:?}")));
                    }
                    if flags & 1 != 0 {
                        return Ok(then);
                    }
                }
                3 => {
                    let words = format!("reset: {}", number(0));
                    return Err(io::Error::other(words));
                }
                // SETTINGS and PING that are no acknowledgement want one.
                4 if flags & 1 == 0 => self.wire.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0])?,
                6 if flags & 1 == 0 => {
                    let mut pong = Vec::new();
                    frame(&mut pong, 6, 1, 0, &payload);
                    self.wire.write_all(&pong)?;
                }
                7 if number(0) < stream => return Ok(Then::SendAgain),
                7 => then = Then::Elsewhere,
                _ => {}
            }
        }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// SIGHUP, while policy and configuration change.
#[test]
fn load_goes_on_through_reloads() {
    let load = Load::new();
    let (gate, _) = load.start("");
    let reloaded = "gatepost_reloads_total{result=\"success\"}";
    load.during("20 reloads by SIGHUP", || {
        let file = gate.folder().join("gatepost.yaml");
        let yaml = std::fs::read_to_string(&file).unwrap();
        for round in 1..=20 {
            let policy = format!("{POLICY}\n-- {round}\n");
            std::fs::write(gate.folder().join("policy.lua"), policy).unwrap();
            std::fs::write(&file, format!("{yaml}drain_timeout: {round}s\n")).unwrap();
            let before = gate.metric(reloaded);
            gate.signal("HUP");
            wait_for("the reload", || gate.metric(reloaded) > before);
            thread::sleep(Duration::from_millis(300));
        }
    });
}

/// SIGQUIT: one process after the other takes over.
#[test]
fn load_goes_on_through_upgrades() {
    let load = Load::new();
    let (gate, _) = load.start("");
    let mut processes = Processes(vec![gate.pid()]);
    load.during("5 upgrades by SIGQUIT", || {
        for _ in 0..5 {
            let old = processes.last();
            kill("QUIT", old);
            let known = &processes.0;
            let ready = gate.wait_log(|line| {
                line["message"] == "ready" && !known.iter().any(|it| line["process"] == *it)
            });
            let new = ready["process"].as_u64().unwrap();
            processes.0.push(u32::try_from(new).unwrap());
            wait_for("the old process to end", || !is_running(old));
            thread::sleep(Duration::from_secs(1));
        }
    });
    assert!(is_running(processes.last()));
}

/// One after the other, ended with the test.
struct Processes(Vec<u32>);

impl Processes {
    fn last(&self) -> u32 {
        *self.0.last().unwrap()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // The first is the harness's.
        for process in self.0.iter().skip(1).filter(|it| is_running(**it)) {
            kill("KILL", *process);
        }
    }
}

fn kill(signal: &str, process: u32) {
    let status = Command::new("kill")
        .args([format!("-{signal}"), process.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// One that has ended and was not waited for yet does not count.
fn is_running(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|it| !it.rsplit(')').next().unwrap().starts_with(" Z"))
}

/// New certificates: written over, renamed, and by the swapped link of a Kubernetes Secret.
#[test]
fn load_goes_on_through_new_certificates() {
    let load = Load::new();
    let (gate, instance) = load.start("");
    let folder = gate.folder();
    let client = Client::new(&load.authority, None);
    load.during("9 new certificates", || {
        for round in 0..9 {
            let next = load.authority.server();
            match round % 3 {
                0 => {
                    // Whoever writes into what a link leads to changes another file.
                    for ending in ["pem", "key"] {
                        let _ = std::fs::remove_file(folder.join(format!("server.{ending}")));
                    }
                    next.write(folder, "server");
                }
                1 => {
                    next.write(folder, "next");
                    for ending in ["pem", "key"] {
                        let file = |name: &str| folder.join(format!("{name}.{ending}"));
                        std::fs::rename(file("next"), file("server")).unwrap();
                    }
                }
                _ => {
                    let data = folder.join(format!("..{round}"));
                    std::fs::create_dir(&data).unwrap();
                    next.write(&data, "server");
                    replace_link(&data, &folder.join("..data"));
                    for file in ["server.pem", "server.key"] {
                        replace_link(&Path::new("..data").join(file), &folder.join(file));
                    }
                }
            }
            wait_for("the new certificate", || {
                let connection = client.connect(instance.tls, b"").unwrap();
                connection.certificate() == next.der()
            });
            thread::sleep(Duration::from_millis(200));
        }
    });
}

/// At one blow, so that there is always one.
fn replace_link(to: &Path, link: &Path) {
    let next = link.with_file_name("..data_tmp");
    symlink(to, &next).unwrap();
    std::fs::rename(next, link).unwrap();
}

/// SIGTERM, as a rolling update does it: a new instance comes, an old one goes. It stays in the load balancer for its `drain_delay`.
#[test]
fn load_goes_on_through_a_rolling_update() {
    let load = Load::new();
    let mut gate = load.start("drain_delay: 1s").0;
    load.during("5 times SIGTERM, drain_delay 1 s", || {
        for _ in 0..5 {
            let (new, _) = load.start("drain_delay: 1s");
            gate.signal("TERM");
            wait_for("not ready", || gate.admin("/readyz").status == 503);
            load.instances.lock().unwrap().remove(0);
            assert_eq!(gate.wait_exit(), Some(0));
            gate = new;
        }
    });
}

/// The same where nobody tells the load balancer, and without a delay: what is refused goes to the other instance.
#[test]
fn load_goes_on_where_the_end_comes_at_once() {
    let load = Load::new();
    let mut gate = load.start("").0;
    load.during("5 times SIGTERM, no drain_delay", || {
        for _ in 0..5 {
            let (new, _) = load.start("");
            gate.signal("TERM");
            assert_eq!(gate.wait_exit(), Some(0));
            load.instances.lock().unwrap().remove(0);
            gate = new;
            thread::sleep(Duration::from_secs(1));
        }
    });
}
