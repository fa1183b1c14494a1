//! Clients of every kind: good, bad, trusted, slow, large, ones that break off, and attackers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::harness::{Connection, Gatepost, STRANGER, TRUSTED, basic, get, post};
use crate::http2_client::{END_HEADERS, END_STREAM, GET_OPEN, HEADERS, Http2, RST_STREAM, frame};
use crate::line::{Line, Times};
use crate::tls_client::Client;
use crate::upstream::FORGED;

/// What clients of the mix may use.
pub(crate) const ROUTES: &str = "
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated, trusted_hosts] }
  - { path: /judged, methods: [POST], allow: [authenticated], message_policy: true }
  - { path: /large, methods: [POST], allow: [authenticated] }
  - { path: /open, methods: [GET, POST], allow: [anyone] }
";

/// Clients that ask at a pace. Together they are the load.
const PACED: [(Kind, usize); 6] = [
    (Kind::Good, 10),
    (Kind::OverTls, 4),
    (Kind::Trusted, 4),
    (Kind::Judged, 3),
    (Kind::WrongPassword, 2),
    (Kind::Malformed, 1),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Good,
    OverTls,
    Trusted,
    Judged,
    WrongPassword,
    Malformed,
    Large,
    Slow,
    Aborting,
    Attacking,
}

impl Kind {
    /// Answers that it may get. 502 is of an upstream that is away.
    fn may_get(self) -> &'static [u16] {
        match self {
            Self::Good | Self::OverTls | Self::Trusted | Self::Large => &[200, 502],
            Self::Judged => &[200, 403, 502],
            Self::WrongPassword => &[401, 429],
            Self::Malformed => &[400, 401, 404, 405, 413, 422],
            Self::Slow | Self::Aborting | Self::Attacking => &[],
        }
    }
}

/// What clients of one kind got.
#[derive(Default, Clone)]
pub(crate) struct Tally {
    /// Requests, or connections where it is not about answers.
    pub(crate) sent: u64,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) times: Times,
    /// What should not have happened.
    pub(crate) faults: Vec<String>,
}

impl Tally {
    fn fault(&mut self, words: String) {
        if self.faults.len() < 20 {
            self.faults.push(words);
        }
    }
}

/// All clients, and how fast they go.
pub(crate) struct Mix<'a> {
    pub(crate) gate: &'a Gatepost,
    pub(crate) tls: SocketAddr,
    pub(crate) client: Client,
    /// Between two requests of a client, in microseconds; 0 where it asks again at once.
    interval: AtomicU64,
    answered: AtomicU64,
    over: AtomicBool,
    tallies: Mutex<BTreeMap<Kind, Tally>>,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

impl<'a> Mix<'a> {
    pub(crate) fn new(gate: &'a Gatepost, tls: SocketAddr, client: Client) -> Self {
        Self {
            gate,
            tls,
            client,
            interval: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            over: AtomicBool::new(false),
            tallies: Mutex::default(),
        }
    }

    /// Starts all clients. They go on until [`Mix::end`].
    pub(crate) fn start<'s>(&'s self, scope: &'s Scope<'s, '_>) -> Vec<ScopedJoinHandle<'s, ()>> {
        let mut clients = Vec::new();
        for (kind, count) in PACED {
            for number in 0..count {
                clients.push(scope.spawn(move || self.keep(kind, self.paced(kind, number))));
            }
        }
        clients.push(scope.spawn(|| self.keep(Kind::Large, self.large())));
        clients.push(scope.spawn(|| self.keep(Kind::Slow, self.slow())));
        clients.push(scope.spawn(|| self.keep(Kind::Aborting, self.aborting())));
        clients.push(scope.spawn(|| self.keep(Kind::Attacking, self.attacking())));
        clients
    }

    /// So many requests a second from now on.
    pub(crate) fn pace(&self, per_second: f64) {
        let clients: usize = PACED.iter().map(|(_, count)| count).sum();
        let interval = Duration::from_secs_f64(clients as f64 / per_second);
        let interval = u64::try_from(interval.as_micros()).unwrap();
        self.interval.store(interval.max(1), Ordering::Relaxed);
    }

    /// How many requests of clients with a pace were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn tallies(&self) -> BTreeMap<Kind, Tally> {
        self.tallies.lock().unwrap().clone()
    }

    fn keep(&self, kind: Kind, tally: Tally) {
        let mut tallies = self.tallies.lock().unwrap();
        let sum = tallies.entry(kind).or_default();
        sum.sent += tally.sent;
        sum.times.add(&tally.times);
        for (status, count) in tally.statuses {
            *sum.statuses.entry(status).or_default() += count;
        }
        sum.faults.extend(tally.faults);
    }

    /// Nothing of a client's load is worth catching up with: behind by more than this it begins anew.
    const BEHIND: Duration = Duration::from_secs(1);

    fn paced(&self, kind: Kind, number: usize) -> Tally {
        let mut tally = Tally::default();
        let mut line = None;
        let mut due = Instant::now();
        while !self.is_over() {
            due += Duration::from_micros(self.interval.load(Ordering::Relaxed));
            let now = Instant::now();
            thread::sleep(due.saturating_duration_since(now));
            due = due.max(now.checked_sub(Self::BEHIND).unwrap_or(now));
            let mut there: Line<Box<dyn Wire>> = match line.take() {
                Some(line) => line,
                None => match self.connect(kind, number) {
                    Ok(line) => line,
                    Err(fault) => {
                        tally.fault(format!("no connection: {fault}"));
                        continue;
                    }
                },
            };
            let request = request(kind, tally.sent);
            tally.sent += 1;
            let begin = Instant::now();
            match there.ask(request.as_bytes()) {
                Ok(answer) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    tally.times.note(begin.elapsed());
                    *tally.statuses.entry(answer.status).or_default() += 1;
                    if !kind.may_get().contains(&answer.status) {
                        tally.fault(format!("answered with {}", answer.status));
                    }
                    // Now and then a new one, as by clients that come and go.
                    let stays = !answer.closes && !tally.sent.is_multiple_of(1000);
                    line = stays.then_some(there);
                }
                Err(fault) => tally.fault(format!("no answer: {fault}")),
            }
        }
        tally
    }

    fn connect(&self, kind: Kind, number: usize) -> std::io::Result<Line<Box<dyn Wire>>> {
        let last = u8::try_from(number).unwrap();
        let from = match kind {
            Kind::OverTls => {
                let connection = self.client.connect(self.tls, b"")?;
                return Ok(Line::over(Box::new(connection.into_stream())));
            }
            Kind::Trusted => TRUSTED,
            Kind::WrongPassword => Ipv4Addr::new(127, 0, 1, last),
            Kind::Malformed => Ipv4Addr::new(127, 0, 4, last),
            Kind::Good
            | Kind::Judged
            | Kind::Large
            | Kind::Slow
            | Kind::Aborting
            | Kind::Attacking => STRANGER,
        };
        let connection = Connection::open(self.gate.address, from);
        Ok(Line::over(Box::new(connection.into_stream())))
    }

    /// Bodies of 1 to 8 MiB.
    fn large(&self) -> Tally {
        let mut tally = Tally::default();
        let body = "x".repeat(8 << 20);
        while !self.is_over() {
            let size = (1 << 20) * usize::try_from(1 + tally.sent % 8).unwrap();
            let request = post("/large", &basic("scott", "tiger"), &body[..size]);
            let mut line = Line::open(self.gate.address, STRANGER);
            tally.sent += 1;
            // Who is answered before all is sent, sees it in the answer.
            let _ = line.write(request.as_bytes());
            match line.answer() {
                Ok(answer) if [200, 502].contains(&answer.status) => {
                    *tally.statuses.entry(answer.status).or_default() += 1;
                }
                other => tally.fault(format!("{other:?}")),
            }
            thread::sleep(Duration::from_millis(200));
        }
        tally
    }

    /// Heads and bodies that drip, and connections that say nothing. Each has to be ended.
    fn slow(&self) -> Tally {
        let mut tally = Tally::default();
        let begins = [
            "POST /open HTTP/1.1\r\nHost: a\r\nX-Slow: ",
            "POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
            "",
        ];
        let open = |begin: &str| {
            let mut line = Line::open(self.gate.address, Ipv4Addr::new(127, 0, 2, 1));
            let _ = line.write(begin.as_bytes());
            (line, Instant::now())
        };
        let mut lines: Vec<_> = (0..30).map(|it| open(begins[it % 3])).collect();
        while !self.is_over() {
            for (number, (line, since)) in lines.iter_mut().enumerate() {
                let begin = begins[number % 3];
                if line.has_heard() {
                    tally.sent += 1;
                    (*line, *since) = open(begin);
                } else if since.elapsed() > Duration::from_secs(15) {
                    tally.fault(format!("still there: {begin:?}"));
                } else if !begin.is_empty() {
                    let _ = line.write(b"x");
                }
            }
            thread::sleep(Duration::from_millis(200));
        }
        tally
    }

    /// Clients that reset their connection: before, in the middle of and behind a request, before its answer.
    fn aborting(&self) -> Tally {
        let mut tally = Tally::default();
        let whole = request(Kind::Good, 0);
        while !self.is_over() {
            let sent = [0, 40, whole.len() - 1000, whole.len()];
            let sent = sent[usize::try_from(tally.sent % 4).unwrap()];
            let mut line = Line::open(self.gate.address, STRANGER);
            let _ = line.write(&whole.as_bytes()[..sent]);
            line.reset();
            tally.sent += 1;
            thread::sleep(Duration::from_millis(10));
        }
        tally
    }

    fn attacking(&self) -> Tally {
        let mut tally = Tally::default();
        let attacks = attacks();
        while !self.is_over() {
            let turn = usize::try_from(tally.sent).unwrap();
            let from = Ipv4Addr::new(127, 0, 3, u8::try_from(turn % 250).unwrap());
            if turn.is_multiple_of(200) {
                Http2::open(self.gate, from).flood(|batch| {
                    let reset = |nth| {
                        let stream = (batch * 50 + nth) * 2 + 1;
                        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, GET_OPEN);
                        [head, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
                    };
                    (0..50).flat_map(reset).collect()
                });
            }
            let mut stream = Connection::open(self.gate.address, from).into_stream();
            stream
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            let _ = stream.write_all(&attacks[turn % attacks.len()]);
            let _ = stream.read(&mut [0; 4096]);
            tally.sent += 1;
            thread::sleep(Duration::from_millis(10));
        }
        tally
    }
}

/// What a client of this kind asks as its request of this number.
fn request(kind: Kind, turn: u64) -> String {
    let good = basic("scott", "tiger");
    match kind {
        Kind::Judged => {
            // One of ten has more recipients than the rule allows.
            let recipients = if turn % 10 == 9 { 11 } else { 1 };
            let body = serde_json::json!({
                "envelope_sender": "me@example.com",
                "recipients": vec![serde_json::json!({ "email": "you@example.net" }); recipients],
                "content": format!("From: me@example.com\r\nSubject: hello\r\n\r\n{}", "x".repeat(1500)),
            });
            post("/judged", &good, &body.to_string())
        }
        Kind::Trusted => post("/api/inject/v1", "", &"x".repeat(2000)),
        Kind::WrongPassword => {
            let guess = basic(&format!("user{turn}"), "guessed");
            post("/api/inject/v1", &guess, &"x".repeat(2000))
        }
        Kind::Malformed => match turn % 5 {
            0 => "GET /open HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
            1 => get("/nowhere"),
            2 => get("/api/inject/v1"),
            3 => post("/api/inject/v1", "Authorization: Basic !\r\n", ""),
            _ => post("/judged", &good, "no JSON"),
        },
        Kind::Good
        | Kind::OverTls
        | Kind::Large
        | Kind::Slow
        | Kind::Aborting
        | Kind::Attacking => post("/api/inject/v1", &good, &"x".repeat(2000)),
    }
}

/// Heads that two readers could read in two ways, identities that are somebody else's, and noise.
fn attacks() -> Vec<Vec<u8>> {
    let head = |lines: &str, rest: &str| {
        format!("POST /open HTTP/1.1\r\nHost: a\r\n{lines}\r\n{rest}").into_bytes()
    };
    let forged = format!("X-Http-Auth: {FORGED}\r\n");
    let inner = format!("GET /open HTTP/1.1\r\nHost: a\r\n{forged}\r\n");
    let length = |more: &str| format!("Content-Length: 4\r\n{more}");
    vec![
        head(&length("Transfer-Encoding: chunked\r\n"), &inner),
        head(&length("Content-Length: 40\r\n"), &inner),
        head("Content-Length: 4, 40\r\n", &inner),
        head("Transfer-Encoding: xchunked\r\n", &inner),
        head(
            "Transfer-Encoding: chunked\r\n",
            &format!("0;a\nb\r\n\r\n{inner}"),
        ),
        head(&length(&forged), "body"),
        head(&length(&forged.replace('-', "_")), "body"),
        head(
            &length(&format!("Connection: X-Http-Auth\r\n{forged}")),
            "body",
        ),
        head(&length(&format!("X: y\n{forged}")), "body"),
        head(&length(&format!("X: y\r\n {forged}")), "body"),
        format!("GET /open/../{FORGED} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(),
        format!("GET /%6fpen?{FORGED} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(),
        head(&format!("X: {}\r\n", "y".repeat(40_000)), ""),
        head(&"X: y\r\n".repeat(200), ""),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        (0..=255).cycle().take(5000).collect(),
    ]
}
