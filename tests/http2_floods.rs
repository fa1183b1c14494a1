//! HTTP/2 connections that keep gatepost busy and ask for nothing. Each has to end, and others are served meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::harness::{Gatepost, Recorder, STRANGER, Setup, TRUSTED, get, wait_for};
use crate::http2_client::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GET_OPEN, HEADERS, Http2, PING, POST_OPEN,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, literal,
};
use crate::tls_client::{Authority, Client};

const ENHANCE_YOUR_CALM: u32 = 11;

/// What is sent again and again; the number counts from 0.
type Batch = fn(u32) -> Vec<u8>;

/// Streams of a client have odd numbers.
fn stream(batch: u32, nth: u32) -> u32 {
    (batch * 50 + nth) * 2 + 1
}

fn repeat(bytes: &[u8]) -> Vec<u8> {
    bytes.repeat(50)
}

fn open_stream(batch: u32) -> Vec<u8> {
    if batch == 0 {
        frame(HEADERS, END_HEADERS, 1, POST_OPEN)
    } else {
        Vec::new()
    }
}

/// Name, what it is found to be (a word of the log line's detail, or one of several), and what is sent.
const FLOODS: &[(&str, &str, Batch)] = &[
    // Who notices first, the library or the count of its frames, is a matter of whose turn it is.
    ("rapid reset, CVE-2023-44487", "library|given up", |batch| {
        let request = |nth| {
            let stream = stream(batch, nth);
            let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, GET_OPEN);
            [head, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        };
        (0..50).flat_map(request).collect()
    }),
    // One by one, so that each request has begun before it is given up.
    ("reset of what is under way", "given up", |batch| {
        let stream = stream(batch / 2, 0);
        if batch % 2 == 0 {
            frame(HEADERS, END_HEADERS, stream, POST_OPEN)
        } else {
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
        }
    }),
    ("CONTINUATION, CVE-2024-27316", "library", |batch| {
        let begin = frame(HEADERS, END_STREAM, 1, GET_OPEN);
        let more = frame(CONTINUATION, 0, 1, &literal("x", &"y".repeat(1000)));
        [if batch == 0 { begin } else { Vec::new() }, more].concat()
    }),
    ("CONTINUATION with nothing in it", "library", |batch| {
        let begin = frame(HEADERS, END_STREAM, 1, GET_OPEN);
        let more = frame(CONTINUATION, 0, 1, b"");
        [if batch == 0 { begin } else { Vec::new() }, more].concat()
    }),
    ("SETTINGS", "control", |_| {
        repeat(&frame(SETTINGS, 0, 0, b""))
    }),
    ("SETTINGS that change something", "control", |batch| {
        let table = [&[0, 1], &(batch * 4096).to_be_bytes()[..]].concat();
        repeat(&frame(SETTINGS, 0, 0, &table))
    }),
    ("PING", "control", |_| repeat(&frame(PING, 0, 0, &[0; 8]))),
    ("PING answered unasked", "control", |_| {
        repeat(&frame(PING, ACK, 0, &[0; 8]))
    }),
    ("PRIORITY", "control", |batch| {
        let one = |nth| frame(PRIORITY, 0, stream(batch, nth), &[0, 0, 0, 0, 15]);
        (0..50).flat_map(one).collect()
    }),
    ("WINDOW_UPDATE", "control", |_| {
        repeat(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))
    }),
    ("frames of an unknown type", "control", |_| {
        repeat(&frame(0xfa, 0, 0, b"what"))
    }),
    ("DATA with nothing in it", "library", |batch| {
        [open_stream(batch), repeat(&frame(DATA, 0, 1, b""))].concat()
    }),
    ("HEADERS with nothing in them", "library", |batch| {
        let one = |nth| frame(HEADERS, END_HEADERS | END_STREAM, stream(batch, nth), b"");
        (0..50).flat_map(one).collect()
    }),
    ("a header many times from the table", "library", |batch| {
        // With incremental indexing: 4000 bytes enter the table and are named 3000 times by one byte (0xbe = 62).
        let mut entry = literal("x", &"y".repeat(4000));
        entry[0] = 0x40;
        let block = [GET_OPEN, &entry, &[0xbe].repeat(3000)].concat();
        let stream = stream(batch, 0);
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
    }),
];

/// Says that it is over when it goes, also where a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Sends all of them, one connection after the other, while somebody else asks and is answered.
fn all_are_cut_off(gate: &Gatepost, connect: impl Fn() -> Http2, ask: impl Fn() -> u16 + Sync) {
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                assert_eq!(ask(), 200);
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
        for (nth, (name, word, batch)) in FLOODS.iter().enumerate() {
            let before = served.load(Ordering::SeqCst);
            let end = connect().flood(batch);
            println!("{name}: {end:?}");
            // What was sent before it was noticed is all the work that it makes: 1000 frames come in 20 batches.
            assert!(end.batches < 2000, "{name}: {} batches", end.batches);
            if let Some(reason) = end.reason {
                assert_eq!(reason, ENHANCE_YOUR_CALM, "{name}");
            }
            let floods = || gate.metric("gatepost_refusals_total{reason=\"http2_flood\"}");
            wait_for("the count", || floods() > nth as f64);
            wait_for("its log line", || {
                let lines = gate.logged();
                let mut lines = lines.lines().filter(|it| it.contains("http2_flood"));
                lines
                    .nth(nth)
                    .is_some_and(|line| word.split('|').any(|it| line.contains(it)))
            });
            wait_for("somebody else's answer", || {
                served.load(Ordering::SeqCst) > before
            });
        }
    });
    wait_for("the end of all requests", || {
        gate.metric("gatepost_requests_in_flight") == 0.0
    });
    assert_eq!(gate.metric("gatepost_http2_connections"), 0.0);
}

/// The attack: a client that sends one kind of frame without end. The connection is closed with ENHANCE_YOUR_CALM, and counted.
#[test]
fn floods_of_frames_are_cut_off() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let memory = gate.peak_memory();
    let ask = || gate.send(TRUSTED, get("/open")).unwrap().status;
    all_are_cut_off(&gate, || Http2::open(&gate, STRANGER), ask);
    let grown = gate.peak_memory() - memory;
    println!("memory: {} KiB more", grown / 1024);
    assert!(grown < 16 << 20, "{grown} bytes more");
}

/// The same over TLS.
#[test]
fn floods_of_frames_are_cut_off_over_tls() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = crate::tls::over_tls(upstream.address, &authority, &authority.server()).start();
    let client = Client::new(&authority, None);
    let ask = || {
        let mut connection = client.connect(gate.address, b"").unwrap();
        connection.ask(&get("/open")).unwrap()
    };
    all_are_cut_off(&gate, || Http2::over_tls(&gate, &client), ask);
}
