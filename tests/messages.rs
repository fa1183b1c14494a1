//! What is looked into before the MTA sees it: rules, the policy's handler for messages, and bodies that mean two
//! things.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::harness::{
    Gatepost, PATIENCE, Recorder, STRANGER, Setup, TRUSTED, basic, get, inject, message, post,
    wait_for,
};

/// Looks into messages; beside it a route that does not.
const ROUTES: &str = "
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated, trusted_hosts], message_policy: true }
  - { path: /plain, methods: [POST], allow: [authenticated, trusted_hosts] }
  - { path: /send, methods: [POST], allow: [trusted_hosts], message_policy: true, message_format: zonemta }
  - { path: /raw, methods: [POST], allow: [trusted_hosts], message_policy: true, message_format: rfc822 }
  - { path: /messages, methods: [GET], allow: [trusted_hosts] }
  - { path: /messages/*, methods: [GET], allow: [trusted_hosts] }
";

/// As an operator of KumoMTA has it in one file: who may come in, and who may send.
const BOTH: &str = "
local kumo = require 'kumo'
local users = { scott = 'tiger', carol = 'a:b:c' }
kumo.on('http_server_validate_auth_basic', function(user, password)
  return password ~= nil and users[user] == password
end)
kumo.on('http_message_generated', function(msg)
  local user = msg:get_meta 'http_auth'
  if user == 'carol' then
    error('carol may not inject; ' .. msg:sender().email)
  end
  if msg:recipient_list()[1].domain == 'blocked.test' then
    kumo.reject(550, '5.7.1 we do not write to \"' .. msg:recipient_list()[1].domain .. '\"')
  end
  if msg:recipient_list()[1].domain == 'later.test' then
    kumo.reject(451, '4.7.1 not now')
  end
  if msg:recipient_list()[1].domain == 'loop.test' then
    while true do end
  end
  msg:set_meta('tenant', 'tenant of ' .. tostring(user))
end)";

fn start(upstream: &Recorder) -> Gatepost {
    setup(upstream.address).start()
}

fn setup(upstream: impl std::fmt::Display) -> Setup {
    Setup::before(upstream)
        .policy(BOTH)
        .routes(ROUTES)
        .with("upstream.meta_headers: { tenant: X-Tenant }")
        .with("policy.callback_timeout: 3s")
}

fn to(recipient: &str) -> String {
    json!({
        "envelope_sender": "me@example.com",
        "recipients": [{ "email": recipient }],
        "content": "From: me@example.com\r\nSubject: hello\r\n\r\nHello.",
    })
    .to_string()
}

fn send(gate: &Gatepost, credentials: &str, body: &str) -> crate::harness::Reply {
    gate.send(STRANGER, post("/api/inject/v1", credentials, body))
        .unwrap()
}

/// One file with both handlers, unchanged: the refused user gets 403 and the MTA sees nothing.
#[test]
fn a_user_who_may_not_send_is_stopped_before_the_mta() {
    let upstream = Recorder::start();
    let gate = start(&upstream);
    let scott = basic("scott", "tiger");
    assert_eq!(send(&gate, &scott, &to("a@x.test")).status, 200);
    let carol = send(&gate, &basic("carol", "a:b:c"), &to("a@x.test"));
    assert_eq!(carol.status, 403);
    assert_eq!(
        carol.json(),
        json!({ "error": "message_policy_failed", "message": "this message may not be sent" })
    );
    assert_eq!(upstream.requests(), 1);
    assert!(
        !gate.logged().contains("me@example.com"),
        "nothing of the message is logged"
    );
    // Whoever is nobody is not even read.
    assert_eq!(send(&gate, "", &to("a@x.test")).status, 401);
    let outcomes = "gatepost_message_decisions_total{outcome=\"failed\"}";
    // Counted when the answer is out.
    wait_for("the count", || gate.metric(outcomes) > 0.5);
}

#[test]
fn a_rejection_is_told_in_words_that_injection_clients_read() {
    let upstream = Recorder::start();
    let gate = start(&upstream);
    let scott = basic("scott", "tiger");
    let blocked = send(&gate, &scott, &to("a@blocked.test"));
    assert_eq!(blocked.status, 403);
    assert_eq!(
        blocked.json(),
        json!({
            "error": "rejected",
            "message": "5.7.1 we do not write to \"blocked.test\"",
            "success_count": 0,
            "fail_count": 1,
            "failed_recipients": [],
            "errors": ["550 5.7.1 we do not write to \"blocked.test\""],
        })
    );
    let later = send(&gate, &scott, &to("a@later.test"));
    assert_eq!(later.status, 429);
    assert!(later.header("retry-after").is_some());
    let looped = send(&gate, &scott, &to("a@loop.test"));
    assert_eq!(looped.status, 503);
    assert_eq!(upstream.requests(), 0);
    assert_eq!(
        send(&gate, &scott, &to("a@x.test")).status,
        200,
        "and the next is served"
    );
}

/// The attack: the client sets what only the policy may say.
#[test]
fn metas_go_upstream_and_cannot_be_forged() {
    let upstream = Recorder::start();
    let gate = start(&upstream);
    let headers = format!(
        "{}X-Tenant: root\r\nx_tenant: root\r\n",
        basic("scott", "tiger")
    );
    assert_eq!(send(&gate, &headers, &to("a@x.test")).status, 200);
    let plain = post("/plain", &headers, "{}");
    assert_eq!(gate.send(STRANGER, plain).unwrap().status, 200);
    let text = upstream.text();
    assert_eq!(
        text.to_ascii_lowercase().matches("tenant").count(),
        2,
        "{text}"
    );
    assert!(text.contains("X-Tenant: tenant of scott\r\n"), "{text}");
}

fn echo() -> Recorder {
    Recorder::behaving(|stream, seen| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            seen.body.len()
        );
        stream
            .write_all(&[head.as_bytes(), &seen.body].concat())
            .is_ok()
    })
}

fn large(bytes: usize) -> String {
    json!({
        "envelope_sender": "me@example.com",
        "recipients": [{ "email": "a@x.test" }],
        "content": format!("From: me@example.com\r\n\r\n{}", "x".repeat(bytes)),
    })
    .to_string()
}

fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut framed = Vec::new();
    for piece in body.chunks(size) {
        framed.extend(format!("{:x}\r\n", piece.len()).bytes());
        framed.extend(piece);
        framed.extend(b"\r\n");
    }
    framed.extend(b"0\r\n\r\n");
    framed
}

/// The fault elsewhere: what was read to be looked into never reached the upstream, or not whole.
#[test]
fn what_was_looked_into_is_forwarded_byte_for_byte() {
    let upstream = echo();
    let gate = start(&upstream);
    let mut connection = gate.connect(TRUSTED);
    for bytes in [
        0, 10, 2000, 60_000, 65_000, 65_536, 70_000, 131_072, 500_000, 3_000_000,
    ] {
        let body = large(bytes);
        connection.write(post("/api/inject/v1", "", &body));
        let reply = connection.reply().unwrap();
        assert_eq!(reply.status, 200, "{bytes}");
        assert_eq!(reply.text(), body, "{bytes}");
    }
    // In pieces, as a slow network brings it.
    let body = large(200_000);
    let request = post("/api/inject/v1", "", &body);
    for piece in request.as_bytes().chunks(30_000) {
        connection.write(piece);
    }
    assert_eq!(connection.reply().unwrap().text(), body);
    let head = "POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = large(50_000);
    connection.write([head.as_bytes(), &chunks(body.as_bytes(), 9000)].concat());
    assert_eq!(connection.reply().unwrap().text(), body, "chunked");
    // What does not say how long it is cannot be given back to the proxy library when it is long.
    let body = large(100_000);
    let mut connection = gate.connect(TRUSTED);
    connection.write([head.as_bytes(), &chunks(body.as_bytes(), 9000)].concat());
    let reply = connection.reply().unwrap();
    assert_eq!(
        (reply.status, reply.json()["error"].as_str()),
        (411, Some("length_needed"))
    );
}

/// A client that waits for `100 Continue` gets it from gatepost once it is known who it is; the MTA is not asked.
#[test]
fn a_client_that_waits_to_be_asked_is_asked() {
    let upstream = echo();
    let gate = start(&upstream);
    let body = to("a@x.test");
    let head = format!(
        "POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nExpect: 100-continue\r\n",
        body.len()
    );
    let mut connection = gate.connect(TRUSTED);
    connection.write(format!("{head}\r\n"));
    assert_eq!(connection.any_reply().unwrap().status, 100);
    connection.write(&body);
    let reply = connection.any_reply().unwrap();
    assert_eq!((reply.status, reply.text()), (200, body.clone()));
    assert!(!upstream.text().to_ascii_lowercase().contains("expect"));
    let mut connection = gate.connect(STRANGER);
    connection.write(format!("{head}{}\r\n", basic("scott", "wrong")));
    assert_eq!(
        connection.any_reply().unwrap().status,
        401,
        "and others are not"
    );
}

/// The attack: a body that says one thing here and another thing there, or is no message at all. Each is refused with
/// its place, and the MTA sees nothing.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of bodies")]
fn bodies_that_mean_two_things_are_refused() {
    let upstream = Recorder::start();
    let gate = setup(upstream.address)
        .with("http: { request_body_limit: 1MiB, body_timeout: 1s }")
        .start();
    let body = |from: &str, to: &str| {
        assert!(to_text().contains(from), "{from}");
        to_text().replacen(from, to, 1)
    };
    let content = |text: &str| {
        json!({ "envelope_sender": "me@example.com", "recipients": [{ "email": "a@x.test" }], "content": text }).to_string()
    };
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for (sent, status, place) in [
        (String::new(), 400, None),
        ("hello".to_owned(), 400, None),
        ("[]".to_owned(), 400, None),
        (to_text()[..40].to_owned(), 400, None),
        (format!("{} {{}}", to_text()), 400, None),
        (
            body(
                "\"recipients\"",
                "\"envelope_sender\":\"x@evil.test\",\"recipients\"",
            ),
            422,
            Some("/envelope_sender"),
        ),
        (
            body(
                "\"recipients\"",
                "\"\\u0072ecipients\":[{\"email\":\"x@evil.test\"}],\"recipients\"",
            ),
            422,
            Some("/recipients"),
        ),
        (
            body(
                "{\"email\":\"a@x.test\"}",
                "{\"email\":\"a@x.test\",\"email\":\"b@x.test\"}",
            ),
            422,
            Some("/recipients/0/email"),
        ),
        (body("\"a@x.test\"", "5"), 400, Some("/recipients/0/email")),
        (
            body("[{\"email\":\"a@x.test\"}]", "{}"),
            400,
            Some("/recipients"),
        ),
        (
            body("[{\"email\":\"a@x.test\"}]", "[]"),
            400,
            Some("/recipients"),
        ),
        (
            body("\"a@x.test\"", "\"a@x.test, b@x.test\""),
            400,
            Some("/recipients/0/email"),
        ),
        (
            body("\"me@example.com\"", "\"me@example.com>\""),
            400,
            Some("/envelope_sender"),
        ),
        (
            body("\"me@example.com\"", "null"),
            400,
            Some("/envelope_sender"),
        ),
        (
            body("{\"content", &format!("{{\"x\":{deep},\"content")),
            400,
            None,
        ),
        (
            content("From: a@x.test\r\nFrom: b@evil.test\r\n\r\n"),
            422,
            Some("/content"),
        ),
        (content("From : a@x.test\r\n\r\n"), 422, Some("/content")),
        (
            content("From: group: a@x.test, b@evil.test;\r\n\r\n"),
            422,
            Some("/content"),
        ),
        (
            content("From: <@a.test,@b.test:c@evil.test>\r\n\r\n"),
            422,
            Some("/content"),
        ),
        (content("From: {{ sender }}\r\n\r\n"), 422, Some("/content")),
        (
            content("Subject: {% if x %}\r\nFrom: a@x.test\r\n\r\n"),
            422,
            Some("/content"),
        ),
        ("x".repeat(2 << 20), 413, None),
    ] {
        let reply = send(&gate, &basic("scott", "tiger"), &sent);
        let shown = &sent[..sent.len().min(200)];
        assert_eq!(reply.status, status, "{shown} {}", reply.text());
        if let Some(place) = place {
            assert!(
                reply.text().contains(&format!("`{place}")),
                "{shown} {}",
                reply.text()
            );
        }
    }
    // A body that stalls is given up, and holds nobody up.
    let mut connection = gate.connect(TRUSTED);
    connection.write("POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{");
    assert_eq!(connection.reply().unwrap().status, 408);
    assert_eq!(upstream.requests(), 0);
    assert_eq!(
        send(&gate, &basic("scott", "tiger"), &to_text()).status,
        200
    );
}

fn to_text() -> String {
    to("a@x.test")
}

/// The attack: what is refused is packed. And what is packed arrives as it was.
#[test]
fn packed_bodies_are_looked_into_and_bombs_are_not_unpacked() {
    let upstream = echo();
    let gate = setup(upstream.address)
        .with("http: { request_body_limit: 1MiB }")
        .start();
    let packed = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let send = |encoding: &str, body: &[u8]| {
        let head = format!(
            "POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n{}Content-Encoding: {encoding}\r\n\r\n",
            body.len(),
            basic("scott", "tiger")
        );
        gate.send(STRANGER, [head.as_bytes(), body].concat())
            .unwrap()
    };
    let good = packed(&to_text());
    let reply = send("gzip", &good);
    assert_eq!((reply.status, reply.body), (200, good.clone()));
    assert_eq!(send("gzip", &packed(&to("a@blocked.test"))).status, 403);
    assert_eq!(send("gzip", &packed(&"x".repeat(64 << 20))).status, 413);
    assert_eq!(send("gzip, gzip", &good).status, 415);
    assert_eq!(send("br", &good).status, 415);
    assert_eq!(send("gzip", &good[..20]).status, 400);
    assert_eq!(send("gzip", &[&good[..], b"x"].concat()).status, 422);
    assert_eq!(send("gzip", to_text().as_bytes()).status, 400);
    assert_eq!(upstream.requests(), 1);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of messages")]
fn rules_hold_without_lua() {
    let upstream = Recorder::start();
    let rules = "message_rules:
  - { for: [{ identity: scott }], senders: [example.com], from: [example.com, '*.example.com'], max_recipients: 2, max_size: 2KiB }
  - { for: [anyone], forbidden_fields: [deferred_spool], forbidden_headers: [X-Virtual-MTA] }";
    let gate = setup(upstream.address).with(rules).start();
    let mail = |sender: &str, from: &str, count: usize, extra: &str, size: usize| {
        let recipients: Vec<Value> = (0..count)
            .map(|index| json!({ "email": format!("r{index}@x.test") }))
            .collect();
        json!({
            "envelope_sender": sender,
            "recipients": recipients,
            "content": format!("From: {from}\r\n{extra}\r\n{}", "x".repeat(size)),
        })
    };
    let scott = basic("scott", "tiger");
    let good = mail("me@example.com", "Me <me@news.example.com>", 2, "", 10);
    let with_field = {
        let mut body = good.clone();
        body["deferred_spool"] = json!(true);
        body
    };
    for (body, status) in [
        (good, 200),
        (mail("me@evil.test", "me@example.com", 1, "", 10), 403),
        (mail("", "me@example.com", 1, "", 10), 403),
        (mail("me@example.com", "me@evil.test", 1, "", 10), 403),
        (
            mail("me@example.com", "me@example.com, you@evil.test", 1, "", 10),
            403,
        ),
        (
            mail(
                "me@example.com",
                "\"me@example.com\" <x@evil.test>",
                1,
                "",
                10,
            ),
            403,
        ),
        (mail("me@example.com", "me@evilexample.com", 1, "", 10), 403),
        (mail("me@example.com", "me@example.com", 3, "", 10), 403),
        (mail("me@example.com", "me@example.com", 1, "", 3000), 413),
        (
            mail(
                "me@example.com",
                "me@example.com",
                1,
                "x-virtual-mta: a\r\n",
                10,
            ),
            403,
        ),
        (with_field, 403),
    ] {
        let reply = send(&gate, &scott, &body.to_string());
        assert_eq!(reply.status, status, "{body} {}", reply.text());
        if status != 200 {
            assert_eq!(reply.json()["error"], "message_rule");
        }
    }
    // The rules of others.
    let free = mail("me@evil.test", "me@evil.test", 5, "", 3000).to_string();
    assert_eq!(
        gate.send(TRUSTED, inject(&post_headers(&free)))
            .unwrap()
            .status,
        200
    );
    assert_eq!(
        gate.send(TRUSTED, post("/api/inject/v1", "", &free))
            .unwrap()
            .status,
        200
    );
    assert_eq!(upstream.requests(), 3);
}

/// Nothing: `inject` brings a body of its own.
fn post_headers(_body: &str) -> String {
    String::new()
}

#[test]
fn other_formats_are_read_too() {
    let upstream = echo();
    let gate = start(&upstream);
    let zone = json!({ "envelope": { "from": "me@example.com", "to": ["a@x.test"] }, "from": "me@example.com", "subject": "x" });
    assert_eq!(
        gate.send(TRUSTED, post("/send", "", &zone.to_string()))
            .unwrap()
            .text(),
        zone.to_string()
    );
    let blocked = zone.to_string().replace("a@x.test", "a@blocked.test");
    assert_eq!(
        gate.send(TRUSTED, post("/send", "", &blocked))
            .unwrap()
            .status,
        403
    );
    let raw = |to: &str| {
        let body = "From: me@example.com\r\n\r\nHello.";
        format!(
            "POST /raw HTTP/1.1\r\nHost: a\r\nContent-Type: message/rfc822\r\nX-Envelope-From: me@example.com\r\nX-Envelope-To: {to}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert_eq!(gate.send(TRUSTED, raw("a@x.test")).unwrap().status, 200);
    assert_eq!(
        gate.send(TRUSTED, raw("a@blocked.test")).unwrap().status,
        403
    );
    assert_eq!(upstream.requests(), 2);
}

/// The limit that is promised: a message of 50 MB takes its size and 8 MiB.
#[test]
fn a_50_mb_message_takes_its_size_and_little_more() {
    let upstream = Recorder::behaving(|stream, _| {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .is_ok()
    });
    let gate = start(&upstream);
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    let before = gate.peak_memory();
    let body = large(50_000_000);
    assert_eq!(
        gate.send(TRUSTED, post("/api/inject/v1", "", &body))
            .unwrap()
            .status,
        200
    );
    let more = gate.peak_memory().saturating_sub(before);
    println!(
        "FIGURE peak memory beside a message of 50 MB that is looked into: its size and {:.1} MiB",
        (more as f64 - body.len() as f64) / 1048576.0
    );
    assert!(more < body.len() as u64 + (8 << 20), "{more} bytes more");
}

/// The two views: for very many generated requests, what gatepost saw is what the injection API stored, or the
/// request was refused.
#[test]
#[expect(clippy::too_many_lines, reason = "three views, put side by side")]
fn the_injection_api_stores_what_was_seen_here() {
    let policy = "
local kumo = require 'kumo'
kumo.on('http_server_validate_auth_basic', function() return false end)
kumo.on('http_message_generated', function(msg)
  local to = {}
  for _, recipient in ipairs(msg:recipient_list()) do to[#to + 1] = recipient.email end
  -- With several addresses in From, none of them is the one.
  local one, from = pcall(function() return msg:from_header().email end)
  kumo.log_info('SEEN ' .. kumo.serde.json_encode {
    id = msg:get_first_named_header_value 'X-Number',
    sender = msg:sender().email, to = to, from = one and from or '',
  })
end)";
    let gate = setup("demo").policy(policy).start();
    let mut random = Random(7);
    let (mut accepted, mut refused) = (Vec::new(), 0);
    let mut connection = gate.connect(TRUSTED);
    for number in 0..500 {
        let body = random.request(number);
        connection.write(post("/api/inject/v1", "", &body));
        let reply = connection.reply().unwrap();
        match reply.status {
            200 => accepted.push(number),
            400 | 422 => refused += 1,
            other => panic!("{other} for {body}: {}", reply.text()),
        }
    }
    assert!(
        accepted.len() > 150 && refused > 50,
        "{} and {refused}",
        accepted.len()
    );
    let last = accepted.last().unwrap().to_string();
    gate.wait_log(|line| {
        line["message"]
            .as_str()
            .is_some_and(|it| it.contains(&format!("\"id\":\"{last}\"")))
    });
    let mut seen = std::collections::BTreeMap::new();
    for line in gate.logged().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if let Some(text) = line["message"]
            .as_str()
            .and_then(|it| it.strip_prefix("SEEN "))
        {
            let view: Value = serde_json::from_str(text).unwrap();
            seen.insert(view["id"].as_str().unwrap().parse::<usize>().unwrap(), view);
        }
    }
    let mut stored: std::collections::BTreeMap<usize, (String, Vec<String>, String)> =
        std::collections::BTreeMap::new();
    for message in gate.messages() {
        let content = &message["content"];
        let text = content.as_str().map_or_else(
            || {
                let part = |pointer: &str| content.pointer(pointer).unwrap().as_str().unwrap();
                let (from, number) = (part("/from/email"), part("/headers/X-Number"));
                format!("From: {from}\r\nX-Number: {number}\r\n\r\n")
            },
            str::to_owned,
        );
        let number = text
            .split("X-Number: ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let entry = stored.entry(number).or_default();
        entry.0 = message["sender"].as_str().unwrap().to_owned();
        entry
            .1
            .push(message["recipient"].as_str().unwrap().to_owned());
        entry.2 = text;
    }
    for number in accepted {
        let (sender, mut to, text) = stored.remove(&number).unwrap();
        let view = &seen[&number];
        let mut seen_to: Vec<String> = view["to"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it.as_str().unwrap().to_owned())
            .collect();
        to.sort();
        seen_to.sort();
        assert_eq!(
            (view["sender"].as_str().unwrap(), &seen_to),
            // Domains are the same in any case, and gatepost gives them in one.
            (&*sender.to_lowercase(), &to),
            "{number}"
        );
        let from = view["from"].as_str().unwrap();
        assert!(
            from.is_empty() || text.contains(from),
            "{number}: {from} in {text}"
        );
    }
    assert!(stored.is_empty(), "stored, though refused: {stored:?}");
}

/// Requests that are good, odd, or wrong in one place.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn request(&mut self, number: usize) -> String {
        let sender = self.pick(&[
            "me@example.com",
            "a.b+c@mail.example.com",
            "",
            "x@evil.test",
            "me@Example.COM",
            "o'neil@example.com",
            "two@@x.test",
            "a b@x.test",
        ]);
        let from = self.pick(&[
            "me@example.com",
            "Me <me@example.com>",
            "\\\"Smith, J. @ work\\\" <j@example.com>",
            "=?utf-8?q?J=C3=BCrgen?= <j@example.com>",
            "me@example.com (a comment)",
            "a@x.test, b@y.test",
            "group: a@x.test;",
            "<@r.test:a@x.test>",
            "nobody",
        ]);
        let mut to = String::new();
        for index in 0..=self.below(4) {
            let address = self.pick(&["r@x.test", "Other.One@y.test", "z@z.test", "q@x.test"]);
            let _ = write!(
                to,
                "{}{{\"email\":\"{index}{address}\"}}",
                if index == 0 { "" } else { "," }
            );
        }
        let fold = match self.below(8) {
            0 | 1 => "X-Folded: a\\r\\n b\\r\\n",
            2 => "x-odd : y\\r\\n",
            3 => "Subject: {{ name }}\\r\\n",
            _ => "",
        };
        let line = self.pick(&["\\r\\n", "\\r\\n", "\\n"]);
        let twice = match self.below(8) {
            0 => ",\"envelope_sender\":\"late@evil.test\"",
            1 => ",\"recipients\":[]",
            _ => "",
        };
        let content = if self.below(4) == 0 {
            format!(
                "{{\"from\":{{\"email\":\"me@example.com\"}},\"subject\":\"s\",\"text_body\":\"t\",\"headers\":{{\"X-Number\":\"{number}\"}}}}"
            )
        } else {
            format!("\"From: {from}{line}{fold}X-Number: {number}{line}{line}Hello.\"")
        };
        format!(
            "{{\"envelope_sender\":\"{sender}\",\"recipients\":[{to}],\"content\":{content}{twice}}}"
        )
    }
}

/// Routes that do not ask for it hold no body and judge nothing.
#[test]
fn other_routes_are_not_looked_into() {
    let upstream = echo();
    let gate = start(&upstream);
    let body = "{\"twice\":1,\"twice\":2";
    let reply = gate.send(TRUSTED, post("/plain", "", body)).unwrap();
    assert_eq!((reply.status, reply.text()), (200, body.to_owned()));
    assert_eq!(gate.send(TRUSTED, get("/messages")).unwrap().status, 200);
    let _ = message("unused");
}

/// What it costs to look into a message, in CPU time of the process. Printed, not judged: `make figures`.
#[test]
fn the_cost_of_looking_into_a_message() {
    let policy = "
local kumo = require 'kumo'
kumo.on('http_server_validate_auth_basic', function(user, password) return password == 'tiger' end)
kumo.on('http_message_generated', function(msg)
  if msg:from_header().domain ~= 'example.com' then error 'not from here' end
end)";
    let rules = "message_rules: [{ for: [anyone], from: [example.com], max_recipients: 100 }]
quotas: { limits: [{ for: [anyone], recipients: [4000000000/day] }] }";
    let upstream = Recorder::start();
    let both = Setup::before(upstream.address)
        .policy(policy)
        .routes(ROUTES)
        .with(rules)
        .start();
    let without_lua = Setup::before(upstream.address)
        .routes(ROUTES)
        .with(rules)
        .start();
    let body = large(2_000 - 120);
    // As many connections as a busy client has, so that threads are not woken for each request alone.
    let (connections, count) = if cfg!(debug_assertions) {
        (4, 50)
    } else {
        (32, 1500)
    };
    let cost = |gate: &Gatepost, path: &str| {
        let request = post(path, &basic("scott", "tiger"), &body);
        let send = |count: u32| {
            let mut connection = gate.connect(STRANGER);
            for _ in 0..count {
                connection.write(&request);
                assert_eq!(connection.reply().unwrap().status, 200);
            }
        };
        send(50);
        let before = gate.cpu_time();
        std::thread::scope(|scope| {
            for _ in 0..connections {
                scope.spawn(|| send(count));
            }
        });
        (gate.cpu_time() - before).as_secs_f64() * 1e6 / f64::from(connections * count)
    };
    let plain = cost(&both, "/plain");
    let rules = cost(&without_lua, "/api/inject/v1");
    let lua = cost(&both, "/api/inject/v1");
    println!(
        "FIGURE CPU for a request of 2 KB: {plain:.0} µs; looked into, with rules and a quota {rules:.0} µs; and with a Lua handler {lua:.0} µs"
    );
}

/// The attack: many large bodies that are never finished, to have all memory.
#[test]
fn bodies_have_bounded_memory_all_together() {
    let upstream = Recorder::start();
    let gate = setup(upstream.address)
        .with("http: { request_body_limit: 1MiB, bodies_in_memory: 2MiB, body_timeout: 6s }")
        .start();
    let head = "POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{";
    let (answered, answers) = std::sync::mpsc::channel();
    for _ in 0..3 {
        let (mut connection, answered) = (gate.connect(TRUSTED), answered.clone());
        std::thread::spawn(move || {
            connection.write(head);
            answered.send(connection.reply().unwrap()).unwrap();
        });
    }
    let next = || answers.recv_timeout(PATIENCE).unwrap();
    // Two have their room once the third finds none.
    let refused = next();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.json()["error"], "memory_full");
    assert_eq!(
        gate.send(TRUSTED, post("/plain", "", &large(900_000)))
            .unwrap()
            .status,
        200
    );
    assert_eq!([next().status, next().status], [408, 408]);
    wait_for("the memory to be free", || {
        gate.send(TRUSTED, post("/api/inject/v1", "", &large(900_000)))
            .unwrap()
            .status
            == 200
    });
}
