//! How much an identity may send, and what of it counts.

use std::io::Write as _;

use serde_json::json;

use crate::harness::{Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, post, run, wait_for};

const ROUTES: &str = "
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated, trusted_hosts], message_policy: true }
  - { path: /counted, methods: [POST], allow: [authenticated], quota: true }
  - { path: /free, methods: [POST], allow: [authenticated] }
";

fn start(upstream: &Recorder, limits: &str) -> Gatepost {
    Setup::before(upstream.address)
        .routes(ROUTES)
        .with(&format!("quotas: {{ limits: [{limits}] }}"))
        .start()
}

/// An MTA that takes all, or as many as it is told in the query of its answers.
fn mta(answer: &'static str) -> Recorder {
    Recorder::behaving(move |stream, _| {
        let (status, body) = answer.split_once(' ').unwrap();
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).is_ok()
    })
}

fn to(count: usize) -> String {
    let recipients: Vec<_> = (0..count)
        .map(|index| json!({ "email": format!("r{index}@x.test") }))
        .collect();
    json!({ "envelope_sender": "me@example.com", "recipients": recipients, "content": "From: me@example.com\r\n\r\n" })
        .to_string()
}

fn send(gate: &Gatepost, user: &str, recipients: usize) -> crate::harness::Reply {
    let password = if user == "scott" { "tiger" } else { "a:b:c" };
    let request = post("/api/inject/v1", &basic(user, password), &to(recipients));
    gate.send(STRANGER, request).unwrap()
}

#[test]
fn recipients_are_counted_for_each_identity() {
    let upstream = Recorder::start();
    let gate = start(&upstream, "{ for: [anyone], recipients: [10/hour] }");
    assert_eq!(send(&gate, "scott", 6).status, 200);
    let over = send(&gate, "scott", 5);
    assert_eq!(over.status, 429);
    assert_eq!(over.json()["error"], "over_quota");
    let wait: u64 = over.header("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    assert_eq!(
        over.header("ratelimit-policy"),
        Some("\"recipients\";q=10;w=3600")
    );
    assert!(
        over.header("ratelimit")
            .unwrap()
            .starts_with("\"recipients\";r=0;t=3")
    );
    assert_eq!(send(&gate, "scott", 4).status, 200, "what fits, fits");
    assert_eq!(send(&gate, "scott", 1).status, 429);
    assert_eq!(
        send(&gate, "carol", 10).status,
        200,
        "others have their own"
    );
    let never = send(&gate, "carol", 11);
    assert_eq!(
        (never.status, never.header("retry-after")),
        (403, None),
        "not a matter of time"
    );
    assert_eq!(
        gate.send(TRUSTED, post("/api/inject/v1", "", &to(10)))
            .unwrap()
            .status,
        200
    );
    assert_eq!(
        gate.send(TRUSTED, post("/api/inject/v1", "", &to(1)))
            .unwrap()
            .status,
        429,
        "a trusted host too"
    );
    assert_eq!(upstream.requests(), 4);
}

/// The attack: quotas of others are used up by whoever knows their names. They are charged only behind the password.
#[test]
fn nothing_is_charged_before_it_is_known_who_it_is() {
    let upstream = Recorder::start();
    let gate = start(
        &upstream,
        "{ for: [{ identity: scott }], requests: [2/hour] }",
    );
    for _ in 0..5 {
        let guess = post("/counted", &basic("scott", "wrong"), "x");
        assert_eq!(gate.send(STRANGER, guess).unwrap().status, 401);
        let refused = post("/api/inject/v1", &basic("scott", "tiger"), "no message");
        assert_eq!(gate.send(STRANGER, refused).unwrap().status, 400);
        let free = post("/free", &basic("scott", "tiger"), "x");
        assert_eq!(gate.send(STRANGER, free).unwrap().status, 200);
    }
    let counted = |user: &str, password: &str| {
        gate.send(STRANGER, post("/counted", &basic(user, password), "x"))
            .unwrap()
            .status
    };
    assert_eq!([(); 3].map(|()| counted("scott", "tiger")), [200, 200, 429]);
    assert_eq!([(); 3].map(|()| counted("carol", "a:b:c")), [200; 3]);
}

fn used(gate: &Gatepost, identity: &str) -> String {
    let yaml = gate.folder().join("gatepost.yaml");
    // The running one was told to take any port.
    let text = std::fs::read_to_string(yaml).unwrap();
    let text = text.replace(
        "admin:\n  listen: 127.0.0.1:0",
        &format!("admin:\n  listen: {}", gate.admin),
    );
    std::fs::write(gate.folder().join("asked.yaml"), text).unwrap();
    let (status, out, err) = run(
        &["quota", "--config", "asked.yaml", identity],
        gate.folder(),
    );
    assert_eq!(status, Some(0), "{err}");
    out
}

/// What the MTA does not take does not count.
#[test]
fn what_the_mta_refuses_is_given_back() {
    let limits = "{ for: [anyone], recipients: [100/hour], requests: [50/hour] }";
    for (answer, expected) in [
        (
            "200 {\"success_count\":3,\"fail_count\":2}",
            "requests   1 of 50 in 3600 s\nrecipients 3 of 100 in 3600 s\n",
        ),
        (
            "200 {\"success_count\":5,\"fail_count\":0}",
            "requests   1 of 50 in 3600 s\nrecipients 5 of 100 in 3600 s\n",
        ),
        (
            "200 ok",
            "requests   1 of 50 in 3600 s\nrecipients 5 of 100 in 3600 s\n",
        ),
        (
            "400 {\"fail_count\":5}",
            "requests   0 of 50 in 3600 s\nrecipients 0 of 100 in 3600 s\n",
        ),
        (
            "503 busy",
            "requests   0 of 50 in 3600 s\nrecipients 0 of 100 in 3600 s\n",
        ),
    ] {
        let upstream = mta(answer);
        let gate = start(&upstream, limits);
        let reply = send(&gate, "scott", 5);
        assert_eq!(reply.status.to_string(), answer[..3]);
        wait_for("the refund", || used(&gate, "scott") == expected);
        assert!(
            used(&gate, "nobody").contains("requests   0 of 50"),
            "{answer}"
        );
    }
    // An MTA that is not there.
    let gate = Setup::before("127.0.0.1:1")
        .routes(ROUTES)
        .with(&format!("quotas: {{ limits: [{limits}] }}"))
        .start();
    assert_eq!(send(&gate, "scott", 5).status, 502);
    wait_for("the refund", || {
        used(&gate, "scott").contains("recipients 0 of 100")
    });
}

#[test]
fn a_quota_can_be_reset() {
    let upstream = Recorder::start();
    let gate = start(&upstream, "{ for: [anyone], requests: [1/day] }");
    assert_eq!(send(&gate, "scott", 1).status, 200);
    assert_eq!(send(&gate, "scott", 1).status, 429);
    assert_eq!(used(&gate, "scott"), "requests   1 of 1 in 86400 s\n");
    let (status, out, _) = run(
        &["quota", "--config", "asked.yaml", "scott", "--reset"],
        gate.folder(),
    );
    assert_eq!(
        (status, out.as_str()),
        (Some(0), "scott: what was sent is forgotten\n")
    );
    assert_eq!(send(&gate, "scott", 1).status, 200);
}

/// A burst is the most at once, and a limit survives a reload.
#[test]
fn bursts_and_reloads() {
    let upstream = Recorder::start();
    let gate = start(
        &upstream,
        "{ for: [anyone], recipients: [{ rate: 3600/hour, burst: 5 }] }",
    );
    assert_eq!(send(&gate, "scott", 6).status, 403);
    assert_eq!(send(&gate, "scott", 5).status, 200);
    assert_eq!(send(&gate, "scott", 5).status, 429);
    gate.signal("HUP");
    gate.wait_log(|line| line["message"] == "configuration and policy are reloaded");
    assert_eq!(send(&gate, "scott", 5).status, 429);
    wait_for("the pace", || send(&gate, "scott", 1).status == 200);
}

/// The attack: the client breaks off when the MTA has its message, or makes gatepost give up waiting, so that what was
/// sent is given back. What the MTA got counts unless it says itself that it did not take it.
#[test]
fn what_the_mta_got_counts_though_nobody_waited_for_its_answer() {
    let slow = Recorder::behaving(|stream, _| {
        std::thread::sleep(std::time::Duration::from_millis(1500));
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .is_ok()
    });
    let gate = Setup::before(slow.address)
        .routes(ROUTES)
        .with("quotas: { limits: [{ for: [anyone], recipients: [20/hour] }] }")
        .with("upstream.response_timeout: 500ms")
        .start();
    let mut client = gate.connect(STRANGER);
    client.write(post("/api/inject/v1", &basic("scott", "tiger"), &to(10)));
    wait_for("the MTA to have it", || slow.requests() == 1);
    client.reset();
    gate.wait_log(|line| line["target"] == "access" && line["recipients"] == 10);
    assert_eq!(used(&gate, "scott"), "recipients 10 of 20 in 3600 s\n");
    assert_eq!(send(&gate, "scott", 10).status, 504);
    assert_eq!(used(&gate, "scott"), "recipients 20 of 20 in 3600 s\n");
    assert_eq!(send(&gate, "scott", 1).status, 429);
    assert_eq!(slow.requests(), 2);
}

/// Where nobody is asked who they are, the address is counted.
#[test]
fn whoever_need_not_say_who_they_are_is_counted_by_address() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .routes("\n  - { path: /open, methods: [POST], allow: [anyone], quota: true }\n")
        .with("quotas: { limits: [{ for: [anyone], requests: [2/hour] }] }")
        .start();
    let open = |from| gate.send(from, post("/open", "", "x")).unwrap().status;
    assert_eq!([(); 3].map(|()| open(STRANGER)), [200, 200, 429]);
    assert_eq!(open(std::net::Ipv4Addr::new(127, 0, 0, 5)), 200);
}
