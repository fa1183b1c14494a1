//! Faults in every phase of a request, between gatepost and the MTA and before it. Whatever happens, a client is answered or sees that its
//! connection is over, within the times that are configured; no body of a POST is delivered twice; and what is well again works again by itself.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Connection, POLICY, STRANGER, Setup, basic, find, inject, post, wait_for};
use crate::upstream_faults::{Got, ask};

/// Up to where a request gets before something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Accepted,
    HalfTheHead,
    TheHead,
    HalfTheBody,
    TheBody,
    HalfTheAnswersHead,
    HalfTheAnswersBody,
}

/// What happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// As by a process that is killed, or a firewall.
    Reset,
    /// As by a process that is stopped, or a cable that is pulled: nothing is read or said any more.
    Pause,
}

/// How often each message was delivered whole, by the number that its client gave it.
#[derive(Clone, Default)]
struct Delivered(Arc<Mutex<HashMap<usize, usize>>>);

impl Delivered {
    fn note(&self, head: &str) {
        let number = head.split("\r\nX-Number: ").nth(1).expect("its number");
        let number = number.lines().next().unwrap().parse().unwrap();
        *self.0.lock().unwrap().entry(number).or_default() += 1;
    }

    fn times(&self, number: usize) -> usize {
        self.0.lock().unwrap().get(&number).copied().unwrap_or(0)
    }
}

/// A message that can be counted.
fn numbered(number: usize, length: usize) -> String {
    post(
        "/open",
        &format!("X-Number: {number}\r\n"),
        &"x".repeat(length),
    )
}

/// An upstream to whose next request something happens, and that serves all others.
struct Faulty {
    address: SocketAddr,
    delivered: Delivered,
    next: Arc<Mutex<Option<(Phase, Fault)>>>,
}

impl Faulty {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let faulty = Self {
            address: listener.local_addr().unwrap(),
            delivered: Delivered::default(),
            next: Arc::default(),
        };
        let (delivered, next) = (faulty.delivered.clone(), faulty.next.clone());
        let paused: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (delivered, next, paused) = (delivered.clone(), next.clone(), paused.clone());
                thread::spawn(move || match serve(&mut stream, &delivered, &next) {
                    Ok(Some(Fault::Pause)) => paused.lock().unwrap().push(stream),
                    Ok(Some(Fault::Reset)) => {
                        let socket = socket2::SockRef::from(&stream);
                        socket.set_linger(Some(Duration::ZERO)).unwrap();
                    }
                    Ok(None) | Err(_) => {}
                });
            }
        });
        faulty
    }
}

/// Serves a connection until it is over, or until something is to happen to it.
fn serve(
    stream: &mut TcpStream,
    delivered: &Delivered,
    next: &Mutex<Option<(Phase, Fault)>>,
) -> io::Result<Option<Fault>> {
    let happens = |phase| {
        let mut next = next.lock().unwrap();
        let fault = next.filter(|it| it.0 == phase).map(|it| it.1);
        if fault.is_some() {
            *next = None;
        }
        fault
    };
    if let fault @ Some(_) = happens(Phase::Accepted) {
        return Ok(fault);
    }
    loop {
        let mut got = vec![0; 20];
        if stream.read_exact(&mut got).is_err() {
            return Ok(None);
        }
        if let fault @ Some(_) = happens(Phase::HalfTheHead) {
            return Ok(fault);
        }
        let mut byte = [0];
        while find(&got, b"\r\n\r\n").is_none() {
            stream.read_exact(&mut byte)?;
            got.push(byte[0]);
        }
        if let fault @ Some(_) = happens(Phase::TheHead) {
            return Ok(fault);
        }
        let head = String::from_utf8(got).unwrap();
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1).unwrap();
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body[..length / 2])?;
        if let fault @ Some(_) = happens(Phase::HalfTheBody) {
            return Ok(fault);
        }
        stream.read_exact(&mut body[length / 2..])?;
        delivered.note(&head);
        if let fault @ Some(_) = happens(Phase::TheBody) {
            return Ok(fault);
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
        for (phase, end) in [
            (Phase::HalfTheAnswersHead, 20),
            (Phase::HalfTheAnswersBody, answer.len() - 2),
        ] {
            if next.lock().unwrap().is_some_and(|it| it.0 == phase) {
                stream.write_all(&answer[..end])?;
                // What is not read is lost with a reset, so it has to have arrived first.
                thread::sleep(Duration::from_millis(200));
                return Ok(happens(phase));
            }
        }
        stream.write_all(answer)?;
    }
}

const PHASES: [Phase; 7] = [
    Phase::Accepted,
    Phase::HalfTheHead,
    Phase::TheHead,
    Phase::HalfTheBody,
    Phase::TheBody,
    Phase::HalfTheAnswersHead,
    Phase::HalfTheAnswersBody,
];

/// Times of seconds, so that what hangs is seen.
const TIMES: &str = "upstream.connect_timeout: 1s
upstream.response_timeout: 1s
http: { body_timeout: 1s }
upstream.circuit_breaker: off";

/// The longest that anybody may wait with these, on a machine that is busy.
const WAIT: Duration = Duration::from_secs(10);

/// Something happens to the MTA in the middle of a request: on a new connection and on one that was used before, with a small body and with one
/// that is larger than what the sockets hold.
#[test]
fn a_fault_in_any_phase_is_answered_and_over() {
    let upstream = Faulty::start();
    let start = |more: &str| {
        Setup::before(upstream.address)
            .with(TIMES)
            .with(more)
            .start()
    };
    // The first keeps no connection for the next request.
    let (fresh, pooled) = (start("upstream.idle_timeout: 1ms"), start(""));
    let mut number = 0;
    for fault in [Fault::Reset, Fault::Pause] {
        for phase in PHASES {
            for length in [2000, 8 << 20] {
                for gate in [&fresh, &pooled] {
                    let is_pooled = std::ptr::eq(gate, &pooled);
                    if is_pooled && phase == Phase::Accepted {
                        continue;
                    }
                    number += 2;
                    let case =
                        format!("{fault:?} after {phase:?}, {length} bytes, pooled: {is_pooled}");
                    thread::sleep(Duration::from_millis(20));
                    *upstream.next.lock().unwrap() = Some((phase, fault));
                    let begin = Instant::now();
                    let got = ask(gate, &numbered(number, length));
                    let took = begin.elapsed();
                    assert!(took < WAIT, "{case}: {took:?}");
                    let happened = upstream.next.lock().unwrap().is_none();
                    assert!(happened, "{case}: nothing happened");
                    let times = upstream.delivered.times(number);
                    assert!(times <= 1, "{case}: delivered {times} times");
                    let again = is_pooled && fault == Fault::Reset;
                    match got {
                        Got::Broken(200) => assert_eq!(phase, Phase::HalfTheAnswersBody, "{case}"),
                        // Its connection was dead before anything of the body was given to it.
                        Got::Whole(200, _) => assert!(again && times == 1, "{case}"),
                        Got::Whole(502, _) => assert_eq!(fault, Fault::Reset, "{case}"),
                        // A body that nobody takes looks like one that does not come.
                        Got::Whole(504 | 408, _) => assert_eq!(fault, Fault::Pause, "{case}"),
                        got @ (Got::Whole(..) | Got::Broken(_)) => panic!("{case}: {got:?}"),
                    }
                    let next = ask(gate, &numbered(number + 1, 2000));
                    assert_eq!(next, Got::Whole(200, "fine".to_owned()), "after {case}");
                }
            }
        }
    }
}

/// What a network does: bytes come late, one by one, or the connection is over in the middle.
struct Relay {
    address: SocketAddr,
    /// Whether it does that.
    bad: Arc<AtomicBool>,
    /// How often it broke a connection.
    broken: Arc<AtomicUsize>,
}

impl Relay {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            bad: Arc::new(AtomicBool::new(true)),
            broken: Arc::default(),
        };
        let (bad, broken) = (relay.bad.clone(), relay.broken.clone());
        thread::spawn(move || {
            for (number, client) in (1_u64..).zip(listener.incoming().map_while(Result::ok)) {
                let Ok(server) = TcpStream::connect(to) else {
                    continue;
                };
                for (from, into, turn) in [(&client, &server, 0), (&server, &client, 1)] {
                    let (mut from, mut into) =
                        (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let (bad, broken) = (bad.clone(), broken.clone());
                    thread::spawn(move || {
                        let mut chance = Chance(number * 2 + turn);
                        if carry(&mut from, &mut into, &mut chance, &bad).is_none() {
                            broken.fetch_add(1, Ordering::Relaxed);
                            for stream in [&from, &into] {
                                let socket = socket2::SockRef::from(stream);
                                let _ = socket.set_linger(Some(Duration::ZERO));
                            }
                        }
                        let _ = from.shutdown(Shutdown::Both);
                        let _ = into.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        relay
    }
}

/// Carries bytes one way. `None` where it breaks the connection.
fn carry(
    from: &mut TcpStream,
    into: &mut TcpStream,
    chance: &mut Chance,
    bad: &AtomicBool,
) -> Option<()> {
    let mut buffer = [0; 4096];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer) else {
            return Some(());
        };
        let mut bytes = &buffer[..read];
        if bad.load(Ordering::Relaxed) {
            match chance.of(100) {
                // A packet was lost, and is sent again when nobody said that it came.
                0..10 => thread::sleep(Duration::from_millis(200 + chance.of(200))),
                10..25 => {
                    let (slow, rest) = bytes.split_at(read.min(40));
                    bytes = rest;
                    for byte in slow {
                        thread::sleep(Duration::from_millis(1));
                        into.write_all(std::slice::from_ref(byte)).ok()?;
                    }
                }
                25..30 => {
                    let some = usize::try_from(chance.of(read as u64)).unwrap();
                    let _ = into.write_all(&bytes[..some]);
                    return None;
                }
                _ => {}
            }
        }
        if into.write_all(bytes).is_err() {
            return Some(());
        }
    }
}

/// Numbers that look like chance and are the same in every run (xorshift).
struct Chance(u64);

impl Chance {
    fn of(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % most
    }
}

/// A bad network between gatepost and the MTA: every client is answered, and no message is delivered twice.
#[test]
fn a_bad_network_behind_loses_no_answer_and_doubles_no_message() {
    let upstream = Faulty::start();
    let relay = Relay::start(upstream.address);
    let gate = Setup::before(relay.address)
        .with("upstream.response_timeout: 5s\nupstream.circuit_breaker: off")
        .start();
    let answered = Mutex::new(HashMap::<u16, usize>::new());
    thread::scope(|scope| {
        for client in 0..8 {
            let (gate, upstream, answered) = (&gate, &upstream, &answered);
            scope.spawn(move || {
                for turn in 0..30 {
                    let number = client * 1000 + turn;
                    let status = match ask(gate, &numbered(number, 5000)) {
                        Got::Whole(status, _) => status,
                        // The answer had begun.
                        Got::Broken(_) => 0,
                    };
                    let times = upstream.delivered.times(number);
                    match status {
                        200 => assert_eq!(times, 1, "{number}"),
                        0 | 502 | 504 => assert!(times <= 1, "{number}: {times} times"),
                        _ => panic!("{number}: answered with {status}"),
                    }
                    *answered.lock().unwrap().entry(status).or_default() += 1;
                }
            });
        }
    });
    let answered = answered.into_inner().unwrap();
    let broken = relay.broken.load(Ordering::Relaxed);
    println!("answers {answered:?}, {broken} connections were broken");
    assert!(answered[&200] > 0 && answered[&502] > 0 && broken > 0);
    relay.bad.store(false, Ordering::Relaxed);
    wait_for("what was broken to be over", || {
        matches!(ask(&gate, &numbered(100_000, 2000)), Got::Whole(200, _))
    });
    for turn in 0..20 {
        let got = ask(&gate, &numbered(100_001 + turn, 2000));
        assert_eq!(got, Got::Whole(200, "fine".to_owned()));
    }
}

/// The same between clients and gatepost: no message is delivered twice, none is half a message, and nothing stays behind.
#[test]
fn a_bad_network_before_it_doubles_no_message_and_leaves_nothing_behind() {
    let upstream = Faulty::start();
    let gate = Setup::before(upstream.address)
        .with("http: { head_timeout: 2s, body_timeout: 2s }")
        .start();
    let relay = Relay::start(gate.address);
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in 0..8 {
            let (relay, upstream, served) = (&relay, &upstream, &served);
            scope.spawn(move || {
                for turn in 0..30 {
                    let number = client * 1000 + turn;
                    let mut connection = Connection::open(relay.address, STRANGER);
                    let request = numbered(number, 5000);
                    connection.write(request.replacen("\r\n", "\r\nConnection: close\r\n", 1));
                    let answer = connection.until_closed();
                    let times = upstream.delivered.times(number);
                    if answer.ends_with(b"\r\n\r\nfine") {
                        assert_eq!(times, 1, "{number}");
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    assert!(times <= 1, "{number}: {times} times");
                }
            });
        }
    });
    assert!(served.into_inner() > 0 && relay.broken.load(Ordering::Relaxed) > 0);
    for gauge in ["gatepost_connections", "gatepost_requests_in_flight"] {
        wait_for(gauge, || gate.metric(gauge) == 0.0);
    }
}

/// An MTA that takes a body byte by byte: its client waits no longer than the configuration says, and others do not wait for it.
#[test]
fn an_upstream_that_reads_a_byte_now_and_then_holds_nobody_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // What the kernel takes for it is as little as it goes.
    socket2::SockRef::from(&listener)
        .set_recv_buffer_size(4096)
        .unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                while matches!(stream.read(&mut [0]), Ok(1)) {
                    thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    let gate = Setup::before(address)
        .with(
            "upstream.total_timeout: 2s\nupstream.response_timeout: 1s\nhttp: { body_timeout: 1s }",
        )
        .start();
    let begin = Instant::now();
    let got = ask(&gate, &numbered(1, 8 << 20));
    assert!(matches!(got, Got::Whole(504 | 408, _)), "{got:?}");
    assert!(begin.elapsed() < WAIT, "{:?}", begin.elapsed());
    wait_for("nothing to be under way", || {
        gate.metric("gatepost_requests_in_flight") == 0.0
    });
}

/// A policy that is deleted, half-written and replaced again and again, while people send: nobody notices.
#[test]
fn a_policy_that_is_replaced_in_a_loop_refuses_nobody() {
    let gate = Setup::demo()
        .with("reload: { watch: 100ms }\ndecision_cache: { ttl: 0s }")
        .start();
    let file = gate.folder().join("policy.lua");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !over.load(Ordering::SeqCst) {
                let reply = gate.send(STRANGER, inject(&basic("scott", "tiger")));
                assert_eq!(reply.unwrap().status, 200);
                sent += 1;
            }
            sent
        });
        let end = Ends(&over);
        for round in 0..60 {
            match round % 4 {
                0 => std::fs::remove_file(&file).unwrap(),
                1 => std::fs::write(&file, &POLICY[..POLICY.len() / 2]).unwrap(),
                2 => std::fs::write(&file, "").unwrap(),
                _ => std::fs::write(&file, format!("{POLICY}\n-- {round}\n")).unwrap(),
            }
            if round % 3 == 0 {
                gate.signal("HUP");
            }
            thread::sleep(Duration::from_millis(60));
        }
        drop(end);
        assert!(sender.join().unwrap() > 0);
    });
    let failed = gate.metric("gatepost_reloads_total{result=\"failure\"}");
    assert!(failed > 0.0, "the bad ones were seen");
    wait_for("the last one to count", || {
        gate.metric("gatepost_reload_success") == 1.0
    });
}

/// Says that it is over when it goes, also where a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
