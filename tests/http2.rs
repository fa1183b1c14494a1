//! What HTTP/2 clients may do, and how much of it.

use std::io::Write as _;
use std::time::Duration;

use crate::harness::{Recorder, STRANGER, Setup, get, wait_for};
use crate::http2_client::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GET_OPEN, GOAWAY, HEADERS, Http2, PING, POST_OPEN,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, literal,
};
use crate::upstream_faults::{Raw, read_head};

const REFUSED_STREAM: u32 = 7;

/// The need: no client has more under way than the server said (RFC 9113 §5.1.2), and what is too much is refused without harm.
#[test]
fn streams_are_bounded() {
    let upstream = Recorder::behaving(|_, _| true);
    let gate = Setup::before(upstream.address).start();
    let mut client = Http2::open(&gate, STRANGER);
    let settings = client.find(|it| it.kind == SETTINGS).unwrap();
    let most = settings
        .payload
        .chunks(6)
        .find(|it| it[..2] == [0, 3])
        .map(|it| u32::from_be_bytes(it[2..].try_into().unwrap()));
    assert_eq!(most, Some(100));
    for nth in 0..150 {
        let ending = END_HEADERS | END_STREAM;
        client.send(frame(HEADERS, ending, nth * 2 + 1, GET_OPEN));
    }
    for nth in 100..150 {
        let refused = client.find(|it| it.kind == RST_STREAM).unwrap();
        let got = (refused.stream, refused.reason());
        assert_eq!(got, (nth * 2 + 1, Some(REFUSED_STREAM)));
    }
    wait_for("the others", || upstream.requests() == 100);
}

/// The attack: headers larger than any request needs, in one field, in many, in pieces. They cost the request, not the connection, up to
/// where no honest client comes.
#[test]
fn header_lists_are_bounded() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let mut client = Http2::open(&gate, STRANGER);
    let mut ask = |stream: u32, more: &[u8]| {
        let block = [GET_OPEN, more].concat();
        let pieces: Vec<&[u8]> = block.chunks(16_384).collect();
        for (nth, piece) in pieces.iter().enumerate() {
            let kind = if nth == 0 { HEADERS } else { CONTINUATION };
            let end = if nth + 1 == pieces.len() {
                END_HEADERS
            } else {
                0
            };
            let ends_stream = if nth == 0 { END_STREAM } else { 0 };
            client.send(frame(kind, end | ends_stream, stream, piece));
        }
        let reply = client.find(|it| matches!(it.kind, HEADERS | RST_STREAM | GOAWAY));
        reply.and_then(|it| it.status()).unwrap_or(0)
    };
    let field = |bytes: usize| literal("x", &"y".repeat(bytes));
    let many = |count: usize| {
        (0..count)
            .flat_map(|it| literal(&format!("x{it}"), "y"))
            .collect::<Vec<_>>()
    };
    assert_eq!(ask(1, &field(30_000)), 200, "in two frames");
    assert_eq!(ask(3, &field(33_000)), 431, "more than `max_head_bytes`");
    assert_eq!(ask(5, &field(70_000)), 431, "more than the library takes");
    assert_eq!(ask(7, &many(90)), 200);
    assert_eq!(ask(9, &many(101)), 431, "more than `max_head_fields`");
    assert_eq!(ask(11, b""), 200, "the connection is as good as before");
    assert_eq!(upstream.requests(), 3);
}

/// The attack: a client that opens its window byte by byte, so that its answer takes for ever. It has the time for a body
/// for each piece of an answer.
#[test]
fn a_window_that_opens_byte_by_byte_is_not_waited_for() {
    let upstream = Recorder::behaving(|stream, _| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n";
        let answer = [head.as_bytes(), &[b'x'; 30_000]].concat();
        stream.write_all(&answer).is_ok()
    });
    let gate = Setup::before(upstream.address)
        .with("http: { body_timeout: 1s }")
        .start();
    let mut client = Http2::open(&gate, STRANGER);
    // SETTINGS_INITIAL_WINDOW_SIZE.
    client.send(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]));
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, GET_OPEN));
    let end = loop {
        let got = client.next().unwrap();
        match got.kind {
            DATA => {
                std::thread::sleep(Duration::from_millis(20));
                client.send(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
            }
            RST_STREAM | GOAWAY => break got,
            _ => {}
        }
    };
    assert_eq!(end.kind, RST_STREAM, "{end:?}");
    wait_for("the end of the request", || {
        gate.metric("gatepost_requests_in_flight") == 0.0
    });
}

/// The attack: a client that stops in the middle of its body.
#[test]
fn a_body_that_stalls_is_cut_off() {
    let upstream = Recorder::behaving(|_, _| true);
    let gate = Setup::before(upstream.address)
        .with("http: { body_timeout: 500ms }")
        .with("upstream.response_timeout: 500ms")
        .start();
    let mut client = Http2::open(&gate, STRANGER);
    client.send(frame(HEADERS, END_HEADERS, 1, POST_OPEN));
    client.send(frame(DATA, 0, 1, b"half"));
    let reply = client.find(|it| it.kind == HEADERS).unwrap();
    assert_eq!(reply.status(), Some(408));
    wait_for("its end", || {
        gate.metric("gatepost_requests_in_flight") == 0.0
    });
}

/// Answers before it has the body.
fn early() -> Raw {
    Raw::start(|stream, _| {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly";
        while read_head(stream).is_some() && stream.write_all(answer.as_bytes()).is_ok() {}
    })
}

/// The attack: a client that stops in the middle of its body when its answer is there, so that nobody waits for anything but the body.
/// Whether other requests go on meanwhile, or the client stops within a frame, makes no difference.
#[test]
fn a_body_that_stalls_behind_its_answer_is_cut_off() {
    let upstream = early();
    let gate = Setup::before(upstream.address)
        .with("http: { body_timeout: 500ms }")
        .start();
    let in_flight = || gate.metric("gatepost_requests_in_flight");
    for (whole_frames, busy) in [(true, false), (true, true), (false, false)] {
        let mut client = Http2::open(&gate, STRANGER);
        client.send(frame(HEADERS, END_HEADERS, 1, POST_OPEN));
        let data = frame(DATA, 0, 1, b"half");
        client.send(if whole_frames { &data } else { &data[..11] });
        let end = client.find(|it| it.stream == 1 && it.ends_stream());
        assert!(end.is_some());
        let mut stream = 1;
        wait_for("its end", || {
            if busy {
                stream += 2;
                client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, GET_OPEN));
                let reply = client.find(|it| it.stream == stream).unwrap();
                assert_eq!(reply.status(), Some(200));
            }
            in_flight() == 0.0
        });
        if whole_frames {
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1001, GET_OPEN));
            let reply = client.find(|it| it.stream == 1001).unwrap();
            assert_eq!(
                reply.status(),
                Some(200),
                "the connection is as good as before"
            );
        } else {
            while client.next().is_some() {}
        }
    }
}

/// The attack: the frame that is one too many is cut in its middle, so that nobody can say goodbye, and a body stalls that would hold the
/// connection.
#[test]
fn a_frame_that_is_cut_is_not_waited_for() {
    let upstream = early();
    let gate = Setup::before(upstream.address)
        .with("http: { body_timeout: 500ms }")
        .start();
    let ping = frame(PING, 0, 0, &[0; 8]);
    // What is one too many lies in between, a little later on a busy machine.
    std::thread::scope(|scope| {
        for whole in 995..1035 {
            let (gate, ping) = (&gate, &ping);
            scope.spawn(move || {
                for _ in 0..3 {
                    let mut client = Http2::open(gate, STRANGER);
                    client.send(frame(HEADERS, END_HEADERS, 1, POST_OPEN));
                    client.send(frame(DATA, 0, 1, b"half"));
                    let end = client.find(|it| it.stream == 1 && it.ends_stream());
                    assert!(end.is_some());
                    client.send([&ping.repeat(whole), &ping[..14]].concat());
                    while client.next().is_some() {}
                }
            });
        }
    });
}

/// The attack: a client that sends its body byte by byte. Its stream is answered and ended, and the connection goes on.
#[test]
fn a_body_that_drips_is_cut_off() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("http: { body_timeout: 500ms, min_body_rate: 1KiB }")
        .start();
    let mut client = Http2::open(&gate, STRANGER);
    client.send(frame(HEADERS, END_HEADERS, 1, POST_OPEN));
    let in_flight = || gate.metric("gatepost_requests_in_flight");
    wait_for("the request", || in_flight() == 1.0);
    wait_for("its end", || {
        client.send(frame(DATA, 0, 1, b"x"));
        in_flight() == 0.0
    });
    let reply = client.find(|it| it.kind == HEADERS).unwrap();
    assert_eq!((reply.stream, reply.status()), (1, Some(408)));
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, GET_OPEN));
    let reply = client.find(|it| it.stream == 3).unwrap();
    assert_eq!(reply.status(), Some(200));
}

/// The need: a client whose upload is answered early gives the rest of it up, and goes on. That is no flood, however often it
/// happens.
#[test]
fn giving_up_what_is_answered_is_no_flood() {
    let gate = Setup::before(Recorder::start().address)
        .routes("\n  - { path: /open, methods: [GET], allow: [anyone] }\n")
        .start();
    let mut client = Http2::open(&gate, STRANGER);
    // Twice as many as a client may give up at once.
    for nth in 0..400 {
        let stream = nth * 2 + 1;
        client.send(frame(HEADERS, END_HEADERS, stream, POST_OPEN));
        let answered =
            client.find(|it| it.stream == stream && it.ends_stream() || it.kind == GOAWAY);
        assert_ne!(answered.unwrap().kind, GOAWAY, "after {nth}");
        client.send(frame(RST_STREAM, 0, stream, &[0; 4]));
    }
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 801, GET_OPEN));
    let reply = client.find(|it| it.stream == 801 && it.kind == HEADERS);
    assert_eq!(reply.unwrap().status(), Some(200));
}

/// The need: a client may send its upload in pieces as small as it likes, as fast as the window allows.
#[test]
fn an_upload_in_small_pieces_is_no_flood() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let mut client = Http2::open(&gate, STRANGER);
    client.send(frame(HEADERS, END_HEADERS, 1, POST_OPEN));
    // All of it is within the window that a connection has at the beginning.
    let pieces = frame(DATA, 0, 1, &[b'x'; 100]).repeat(600);
    client.send(pieces);
    client.send(frame(DATA, END_STREAM, 1, b""));
    let reply = client.find(|it| matches!(it.kind, HEADERS | RST_STREAM | GOAWAY));
    assert_eq!(reply.and_then(|it| it.status()), Some(200));
    assert_eq!(upstream.requests(), 1);
}

/// The attack: a body that ends with a frame of nothing, as those of many clients do. An end too many would stay on the upstream's connection, as
/// the beginning of somebody else's request.
#[test]
fn a_body_that_ends_with_nothing_has_one_end() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let mut client = Http2::open(&gate, STRANGER);
    for (stream, pieces) in [(1, &["{}", ""][..]), (3, &["", "{}", "", ""]), (5, &[""])] {
        client.send(frame(HEADERS, END_HEADERS, stream, POST_OPEN));
        let (last, others) = pieces.split_last().unwrap();
        for piece in others {
            client.send(frame(DATA, 0, stream, piece.as_bytes()));
        }
        client.send(frame(DATA, END_STREAM, stream, last.as_bytes()));
        let reply = client.find(|it| matches!(it.kind, HEADERS | RST_STREAM | GOAWAY));
        assert_eq!(reply.and_then(|it| it.status()), Some(200), "{pieces:?}");
        assert_eq!(gate.send(STRANGER, get("/open")).unwrap().status, 200);
    }
    let text = upstream.text();
    assert_eq!(text.matches("\r\n0\r\n\r\n").count(), 3, "{text}");
    assert!(!text.contains("\r\n0\r\n\r\n0"), "{text}");
}
