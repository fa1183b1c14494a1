//! The tables of raw requests (`tests/data/smuggling`): how they are written, how each is sent, and what is to come of it.
//!
//! A table is text. Its blocks stand between empty lines, and each line of a block begins with a mark and one space:
//!
//! | line | |
//! |---|---|
//! | `[Chunks]` | a block of its own: what kind the rows behind it are |
//! | `$name:` | first line of a block: its other lines stand for `$name` in later ones |
//! | `a name (RFC 9112 §7.1)` | first line of a row: what it tries, and where the rule is |
//! | `> text` | sent, with CR LF behind it. In HTTP/2: a field, `name: value`; behind a body: a trailer |
//! | `\| text` | sent as it is. In HTTP/2: a frame of the body |
//! | `~ head` | what follows is sent when the upstream has a head |
//! | `~ 100` | … when `100 Continue` has come |
//! | `~ answer` | … when the answer has come |
//! | `~ end` | the client says that it sends no more |
//! | `~ trailers` | in HTTP/2, what follows is trailers, though there was no body |
//! | `= 400 bad_body close` | what comes: status, the error's name where gatepost refuses, and whether the connection closes (otherwise its next request is answered). Instead of a status: `nothing` or, in HTTP/2, `reset` |
//! | `< text` | what reaches the upstream: the request line, fields, and behind an empty line the body (`<\| text`). Fields in any order, since their order has no meaning; the body without chunks |
//! | `< unfinished` | the upstream gets the beginning of a request, and never its end |
//! | `# text` | for readers |
//!
//! Text is ASCII. `\r`, `\n`, `\t`, `\0`, `\\` and `\xFF` are bytes, and `\{100 text}` is a text a hundred times.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::harness::{Connection, Gatepost, Reply, STRANGER, wait_for};
use crate::http2_client::{
    DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, Http2, RST_STREAM, frame, literal,
};
use crate::strict_reader::{self, Request};

/// Raw requests of HTTP/1.
pub(crate) const HTTP1: &str = include_str!("data/smuggling/http1.txt");
/// Fields and frames of HTTP/2.
pub(crate) const HTTP2: &str = include_str!("data/smuggling/http2.txt");

/// What the rows ask for.
pub(crate) const ROUTES: &str = "
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated] }
  - { path: /open, methods: [GET, POST], allow: [anyone] }
  - { path: /inspected, methods: [POST], allow: [anyone], message_policy: true, message_format: rfc822 }
";

/// One row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) rule: String,
    /// Marks and texts.
    lines: Vec<(String, String)>,
    pub(crate) want: Want,
}

/// What is to come of a row.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) answer: Answer,
    pub(crate) upstream: Upstream,
}

/// What the client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// A status, `nothing` or `reset`.
    pub(crate) status: String,
    /// The name of the error, where gatepost refuses.
    pub(crate) error: Option<String>,
    /// Whether the connection closes behind it.
    pub(crate) closes: bool,
}

/// What the upstream gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upstream {
    Nothing,
    /// A beginning.
    Unfinished,
    One(Request),
}

/// Whom a row is sent past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// The rows of a table.
pub(crate) fn rows(table: &str) -> Vec<Row> {
    let mut shorthands: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut kind = "";
    let mut rows = Vec::new();
    for block in table.split("\n\n") {
        let lines = block
            .lines()
            .filter(|it| !it.is_empty() && !it.starts_with('#'));
        let lines: Vec<&str> = lines
            .flat_map(|line| match shorthands.get(line) {
                Some(lines) => lines.clone(),
                None => vec![line],
            })
            .collect();
        let Some((first, rest)) = lines.split_first() else {
            continue;
        };
        if let Some(name) = first.strip_suffix(':').filter(|it| it.starts_with('$')) {
            assert!(
                shorthands.insert(name, rest.to_vec()).is_none(),
                "{name} twice"
            );
        } else if let Some(name) = first.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            assert!(rest.is_empty(), "a row without a name behind {first}");
            kind = name;
        } else {
            rows.push(row(kind, first, rest));
        }
    }
    let names: BTreeSet<&str> = rows.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names.len(), rows.len(), "each row has a name of its own");
    rows
}

fn row(kind: &str, title: &str, lines: &[&str]) -> Row {
    let parts = title.strip_suffix(')').and_then(|it| it.rsplit_once(" ("));
    let (name, rule) = parts.unwrap_or_else(|| panic!("no rule: {title}"));
    assert!(
        rule.starts_with("RFC ") && rule.contains('§'),
        "no rule: {title}"
    );
    assert!(!kind.is_empty(), "of no kind: {title}");
    let (mut sent, mut told, mut answer) = (Vec::new(), Vec::new(), None);
    for line in lines {
        let (mark, text) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            ">" | "|" | "~" => {
                assert!(answer.is_none(), "sent too late: {title}");
                sent.push((mark.to_owned(), text.to_owned()));
            }
            "=" => assert!(answer.replace(self::answer(text)).is_none(), "{title}"),
            "<" | "<|" => told.push((mark, text)),
            _ => panic!("{line:?} in {title}"),
        }
    }
    let answer = answer.unwrap_or_else(|| panic!("without an answer: {title}"));
    Row {
        kind: kind.to_owned(),
        name: name.to_owned(),
        rule: rule.to_owned(),
        lines: sent,
        want: Want {
            answer,
            upstream: upstream(&told),
        },
    }
}

fn answer(text: &str) -> Answer {
    let mut words: Vec<&str> = text.split(' ').collect();
    let closes = words.pop_if(|it| *it == "close").is_some();
    let status = words.remove(0).to_owned();
    let error = words.pop().map(str::to_owned);
    assert!(words.is_empty(), "{text}");
    Answer {
        status,
        error,
        closes,
    }
}

fn upstream(lines: &[(&str, &str)]) -> Upstream {
    let mut head = lines.iter().filter(|it| it.0 == "<").map(|it| it.1);
    let line = match head.next() {
        None => return Upstream::Nothing,
        Some("unfinished") => return Upstream::Unfinished,
        Some(line) => line.to_owned(),
    };
    let text = |text: &str| bytes(text).into_iter().map(char::from).collect();
    let fields: Vec<String> = head.filter(|it| !it.is_empty()).map(text).collect();
    let body = lines.iter().filter(|it| it.0 == "<|");
    let body = body.flat_map(|it| bytes(it.1)).collect();
    let mut request = Request { line, fields, body };
    make_comparable(&mut request);
    Upstream::One(request)
}

/// A text of the table as it is sent.
fn bytes(text: &str) -> Vec<u8> {
    assert!(
        text.bytes().all(|it| matches!(it, b' '..=b'~')),
        "{text:?} is not ASCII"
    );
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend(plain.bytes());
        let (letter, more) = escape.split_at(1);
        rest = more;
        match letter {
            "r" => bytes.push(b'\r'),
            "n" => bytes.push(b'\n'),
            "t" => bytes.push(b'\t'),
            "0" => bytes.push(0),
            "\\" => bytes.push(b'\\'),
            "x" => {
                let (digits, more) = rest.split_at(2);
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = more;
            }
            "{" => {
                let (inner, more) = rest.split_once('}').unwrap();
                let (times, inner) = inner.split_once(' ').unwrap();
                bytes.extend(self::bytes(inner).repeat(times.parse().unwrap()));
                rest = more;
            }
            _ => panic!("\\{letter} in {text:?}"),
        }
    }
    bytes.extend(rest.bytes());
    bytes
}

/// A request that nobody could object to. It shows that gatepost goes on, and where the bytes of a row end.
pub(crate) fn marker(word: &str, row: usize) -> String {
    format!("/open?{word}={row}")
}

fn marker_request(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: gate\r\n\r\n")
}

/// Sends a row and, where the connection stays open, another request on it; gives what the client got.
///
/// `upstream_has_head` says whether the upstream has got the head of this row's request.
pub(crate) fn send(
    gate: &Gatepost,
    protocol: Protocol,
    (index, row): (usize, &Row),
    upstream_has_head: &dyn Fn() -> bool,
) -> Answer {
    let next = marker("same", index);
    match protocol {
        Protocol::Http1 => send_http1(gate, row, &next, upstream_has_head),
        Protocol::Http2 => send_http2(gate, row, &next, upstream_has_head),
    }
}

fn send_http1(
    gate: &Gatepost,
    row: &Row,
    next: &str,
    upstream_has_head: &dyn Fn() -> bool,
) -> Answer {
    let mut connection = gate.connect(STRANGER);
    let (mut piece, mut reply) = (Vec::new(), None);
    for (mark, text) in &row.lines {
        match mark.as_str() {
            ">" => piece.extend([&bytes(text), &b"\r\n"[..]].concat()),
            "|" => piece.extend(bytes(text)),
            _ => {
                connection.write(std::mem::take(&mut piece));
                match text.as_str() {
                    "head" => wait_for("the head", upstream_has_head),
                    "100" => assert_eq!(connection.any_reply().unwrap().status, 100),
                    "answer" => reply = connection.reply(),
                    "end" => connection.finish(),
                    _ => panic!("~ {text}"),
                }
            }
        }
    }
    connection.write(piece);
    let Some(reply) = reply.or_else(|| connection.reply()) else {
        return Answer {
            status: "nothing".to_owned(),
            error: None,
            closes: true,
        };
    };
    let error = (reply.status >= 400).then(|| error(&reply));
    let closes = reply.header("connection") == Some("close");
    if closes {
        assert!(connection.closes(), "{} goes on", row.name);
    } else {
        ask_again(&mut connection, row, next);
    }
    Answer {
        status: reply.status.to_string(),
        error,
        closes,
    }
}

/// The name that gatepost gave to it.
fn error(reply: &Reply) -> String {
    let json: Result<Value, _> = serde_json::from_slice(&reply.body);
    let named = json
        .ok()
        .and_then(|it| it["error"].as_str().map(str::to_owned));
    named.unwrap_or("of_the_upstream".to_owned())
}

fn ask_again(connection: &mut Connection, row: &Row, next: &str) {
    connection.write(marker_request(next));
    let reply = connection.reply().map(|it| it.status);
    assert_eq!(reply, Some(200), "the request behind {}", row.name);
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<u8> {
    lines
        .flat_map(|line| {
            // A name may begin with a colon.
            let at = line.get(1..).unwrap().find(':').unwrap() + 1;
            let (name, value) = (&line[..at], &line[at + 1..]);
            literal(
                &bytes(name),
                &bytes(value.strip_prefix(' ').unwrap_or(value)),
            )
        })
        .collect()
}

fn send_http2(
    gate: &Gatepost,
    row: &Row,
    next: &str,
    upstream_has_head: &dyn Fn() -> bool,
) -> Answer {
    let mut client = Http2::open(gate, STRANGER);
    let is_field = |it: &&(String, String)| it.0 == ">";
    let head = row.lines.iter().take_while(is_field);
    let rest: Vec<_> = row.lines.iter().skip_while(is_field).collect();
    let body_ends = rest.iter().position(|it| it.0 == ">").unwrap_or(rest.len());
    let (body, trailers) = rest.split_at(body_ends);
    let end = |is_last: bool| if is_last { END_STREAM } else { 0 };
    let block = fields(head.map(|it| it.1.as_str()));
    client.send(frame(
        HEADERS,
        END_HEADERS | end(rest.is_empty()),
        1,
        &block,
    ));
    let last = body.iter().rposition(|it| it.0 == "|");
    let is_answer = |it: &Frame| match it.kind {
        HEADERS => it.stream == 1 && it.status().is_some_and(|it| it >= 200),
        RST_STREAM => it.stream == 1,
        kind => kind == GOAWAY,
    };
    let mut came = None;
    for (nth, (mark, text)) in body.iter().enumerate() {
        if mark == "~" {
            match text.as_str() {
                "head" => wait_for("the head", upstream_has_head),
                "answer" => came = client.find(is_answer),
                "trailers" => {}
                _ => panic!("~ {text}"),
            }
            continue;
        }
        let flags = end(trailers.is_empty() && Some(nth) == last);
        client.send(frame(DATA, flags, 1, &bytes(text)));
    }
    if !trailers.is_empty() {
        let block = fields(trailers.iter().map(|it| it.1.as_str()));
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    }
    let came = came.or_else(|| client.find(is_answer));
    let status = match &came {
        Some(frame) if frame.kind == HEADERS => frame.status().unwrap().to_string(),
        Some(frame) if frame.kind == RST_STREAM => "reset".to_owned(),
        _ => "nothing".to_owned(),
    };
    let closes = status == "nothing";
    if !closes {
        let asked = [":method: GET", ":scheme: http", ":authority: gate"];
        let path = format!(":path: {next}");
        let block = fields(asked.into_iter().chain([path.as_str()]));
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &block));
        let reply = client.find(|it| it.stream == 3 && it.kind == HEADERS || it.kind == GOAWAY);
        let reply = reply.and_then(|it| it.status());
        assert_eq!(reply, Some(200), "the request behind {}", row.name);
    }
    Answer {
        status,
        // The rows of HTTP/2 do not name it.
        error: None,
        closes,
    }
}

/// Sends one more request, on a connection of its own, and sees that it is served.
pub(crate) fn is_served(gate: &Gatepost, target: &str) {
    let reply = gate.send(STRANGER, marker_request(target));
    assert_eq!(reply.map(|it| it.status), Some(200), "{target}");
}

/// Whether what came to the upstream is what the row says and nothing else; see [`came`].
///
/// # Errors
///
/// What is otherwise.
pub(crate) fn check_upstream(
    row: &Row,
    taken: &[Vec<u8>],
    markers: &[String],
) -> Result<(), String> {
    let (mut requests, unfinished) = came(taken, markers)?;
    requests.iter_mut().for_each(make_comparable);
    let is_as_said = match &row.want.upstream {
        Upstream::Nothing => requests.is_empty() && unfinished == 0,
        Upstream::Unfinished => requests.is_empty() && unfinished == 1,
        Upstream::One(request) => requests == [request.clone()] && unfinished == 0,
    };
    if is_as_said {
        return Ok(());
    }
    let texts: Vec<String> = requests.iter().map(in_full).collect();
    let (count, texts) = (texts.len(), texts.join(" and "));
    Err(format!("{unfinished} unfinished, {count} whole: {texts}"))
}

/// The requests that came to an upstream, and how many more began. `taken` is what came over each of its connections, and `markers` are the targets
/// of the other requests that were sent meanwhile.
///
/// # Errors
///
/// Where a marker is missing, something is no request, or says who it is in words of the client.
pub(crate) fn came(taken: &[Vec<u8>], markers: &[String]) -> Result<(Vec<Request>, usize), String> {
    let (mut requests, mut unfinished) = (Vec::new(), 0);
    for bytes in taken {
        let read = strict_reader::read(bytes);
        let (found, left) = read.map_err(|it| format!("{it} in {}", bytes.escape_ascii()))?;
        requests.extend(found);
        unfinished += usize::from(left > 0);
    }
    for request in &requests {
        let said = request.values("x-http-auth");
        if said.len() > 1 || said.iter().any(|it| *it != "scott") {
            return Err(format!("the client says who it is: {}", in_full(request)));
        }
    }
    for marker in markers {
        let line = format!("GET {marker} HTTP/1.1");
        let place = requests.iter().position(|it| it.line == line);
        requests.remove(place.ok_or(format!("no {line}"))?);
    }
    Ok((requests, unfinished))
}

/// Names have no case, and fields with different names no order. A request's name and the upstream's own address are others in every run.
fn make_comparable(request: &mut Request) {
    for field in &mut request.fields {
        let (name, value) = field.split_once(": ").unwrap();
        let name = name.to_ascii_lowercase();
        let is_own = name == "x-request-id" || name == "host" && value.starts_with("127.0.0.1:");
        *field = format!("{name}: {}", if is_own { "*" } else { value });
    }
    request.fields.sort();
}

/// For people.
fn in_full(request: &Request) -> String {
    let (line, fields, body) = (&request.line, &request.fields, request.body.escape_ascii());
    format!("{line} {fields:?} {body}")
}
