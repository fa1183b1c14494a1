//! Spans for an OpenTelemetry collector: which requests make them, what they say, and that nobody waits for it.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use socket2::{Domain, Socket, Type};

use crate::harness::{Gatepost, Recorder, STRANGER, Setup, basic, message, post, wait_for};
use crate::tls::reload;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
/// In `trusted_proxies`.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// A collector that takes what it gets.
struct Collector {
    server: Recorder,
    got: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    fn start() -> Self {
        let got: Arc<Mutex<Vec<_>>> = Arc::default();
        let keep = got.clone();
        let server = Recorder::behaving(move |stream, seen| {
            assert!(seen.head.starts_with("POST /v1/traces HTTP/1.1\r\n"));
            assert_eq!(seen.values("content-type"), ["application/x-protobuf"]);
            let request = ExportTraceServiceRequest::decode(&seen.body[..]).unwrap();
            keep.lock().unwrap().push(request);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).is_ok()
        });
        Self { server, got }
    }

    /// All spans that came, in the order in which they did.
    fn spans(&self) -> Vec<Span> {
        let got = self.got.lock().unwrap();
        let resources = got.iter().flat_map(|it| &it.resource_spans);
        let scopes = resources.flat_map(|it| &it.scope_spans);
        scopes.flat_map(|it| &it.spans).cloned().collect()
    }

    /// Waits for that many.
    fn wait(&self, count: usize) -> Vec<Span> {
        wait_for("spans", || self.spans().len() >= count);
        self.spans()
    }

    fn gate(&self, upstream: &Recorder, traces: &str) -> Gatepost {
        let address = self.server.address;
        Setup::before(upstream.address)
            .with(&format!(
                "traces: {{ otlp: \"http://{address}\", {traces} }}"
            ))
            .with("trusted_proxies: [127.0.0.3]\nreload: { watch: off }")
            .start()
    }
}

fn text(value: &AnyValue) -> String {
    let value = value.value.as_ref().unwrap();
    if let Any::StringValue(text) = value {
        return text.clone();
    }
    let Any::IntValue(number) = value else {
        panic!("{value:?}");
    };
    number.to_string()
}

fn attributes(of: &[KeyValue]) -> Vec<(String, String)> {
    let mut all: Vec<_> = of
        .iter()
        .map(|it| (it.key.clone(), text(it.value.as_ref().unwrap())))
        .collect();
    all.sort();
    all
}

/// An address where nobody listens, nor will while the first part is kept.
fn down() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one span of this kind.
fn one(spans: &[Span], kind: SpanKind) -> &Span {
    let mut found = spans.iter().filter(|it| it.kind == kind as i32);
    let span = found.next().unwrap();
    assert!(found.next().is_none(), "{spans:?}");
    span
}

fn traceparent(flags: &str) -> String {
    format!("Traceparent: 00-{TRACE}-{PARENT}-{flags}\r\nTracestate: a=b\r\n")
}

/// The need: the MTA's work and the client's in one picture, with what gatepost did in between.
#[test]
fn a_believed_trace_goes_through_gatepost() {
    let (collector, upstream) = (Collector::start(), Recorder::start());
    let gate = collector.gate(&upstream, "sample: 0");
    let headers = format!("{}{}", basic("scott", "tiger"), traceparent("01"));
    let request = post("/users-only?token=secret", &headers, "x");
    assert_eq!(gate.send(STRANGER, request).unwrap().status, 200);
    let spans = collector.wait(3);
    assert_eq!(spans.len(), 3);
    assert!(spans.iter().all(|it| hex(&it.trace_id) == TRACE));
    let (server, client) = (one(&spans, SpanKind::Server), one(&spans, SpanKind::Client));
    let policy = one(&spans, SpanKind::Internal);
    assert_eq!(hex(&server.parent_span_id), PARENT);
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(policy.parent_span_id, server.span_id);
    // What the upstream makes is a child of gatepost's span, in the same trace with the same flags; and its log shows the same.
    let told = format!("00-{TRACE}-{}-01", hex(&client.span_id));
    assert_eq!(upstream.told("traceparent").as_ref(), Some(&told));
    assert_eq!(upstream.told("tracestate").as_deref(), Some("a=b"));
    let line = gate.wait_log(|line| line["message"] == "request");
    assert_eq!(line["trace_id"], TRACE);
    let port = upstream.address.port().to_string();
    let id = line["request_id"].as_str().unwrap();
    check(
        server,
        "POST /users-only",
        &[
            ("client.address", "127.0.0.2"),
            ("gatepost.mechanism", "basic"),
            ("gatepost.request_id", id),
            ("http.request.method", "POST"),
            ("http.response.status_code", "200"),
            ("http.route", "/users-only"),
            ("network.protocol.version", "1.1"),
            ("url.scheme", "http"),
        ],
    );
    check(
        client,
        "POST",
        &[
            ("http.request.method", "POST"),
            ("http.response.status_code", "200"),
            ("server.address", "127.0.0.1"),
            ("server.port", &port),
        ],
    );
    check(policy, "policy", &[("gatepost.policy.outcome", "accepted")]);
    for part in [client, policy] {
        assert!(server.start_time_unix_nano <= part.start_time_unix_nano);
        assert!(part.start_time_unix_nano < part.end_time_unix_nano);
        assert!(part.end_time_unix_nano <= server.end_time_unix_nano);
    }
    assert!(policy.end_time_unix_nano <= client.start_time_unix_nano);
    // Nothing that is nobody's business: neither credentials, nor the query, nor who it is.
    let seen = collector.server.bytes();
    for secret in ["tiger", "secret", "scott", "c2NvdHQ6dGlnZXI"] {
        assert!(
            crate::harness::find(&seen, secret.as_bytes()).is_none(),
            "{secret}"
        );
    }
    let got = collector.got.lock().unwrap();
    let resource = got[0].resource_spans[0].resource.as_ref().unwrap();
    let resource = attributes(&resource.attributes);
    let service = ("service.name".to_owned(), "gatepost".to_owned());
    assert!(resource.contains(&service), "{resource:?}");
}

fn check(span: &Span, name: &str, expected: &[(&str, &str)]) {
    let own = |it: &(&str, &str)| (it.0.to_owned(), it.1.to_owned());
    let expected: Vec<_> = expected.iter().map(own).collect();
    assert_eq!(
        (span.name.as_str(), attributes(&span.attributes)),
        (name, expected)
    );
}

/// Which requests make spans: those that a believed trace keeps, and of the others the configured share. An unknown client's trace is
/// none: it neither writes into the operator's traces nor decides what is kept.
#[test]
fn what_is_believed_and_the_configuration_decide_what_is_kept() {
    let scott = basic("scott", "tiger");
    let proxied = "X-Forwarded-For: 192.0.2.1\r\n";
    for (sample, from, headers, parent, kept) in [
        ("0", STRANGER, scott.as_str(), Some("01"), true),
        ("0", PROXY, proxied, Some("01"), true),
        ("1", STRANGER, scott.as_str(), Some("00"), false),
        ("1", PROXY, proxied, Some("00"), false),
        ("0", STRANGER, "", Some("01"), false),
        ("0", STRANGER, scott.as_str(), None, false),
        ("1", STRANGER, "", Some("00"), true),
        ("1", STRANGER, "", None, true),
    ] {
        let case = format!("{sample} {from} {headers:?} {parent:?}");
        let believed = parent.filter(|_| !headers.is_empty());
        let (collector, upstream) = (Collector::start(), Recorder::start());
        let mut gate = collector.gate(&upstream, &format!("sample: {sample}"));
        let said = parent.map(traceparent).unwrap_or_default();
        let request = post("/open", &format!("{headers}{said}"), "");
        assert_eq!(gate.send(from, request).unwrap().status, 200, "{case}");
        let told = upstream.told("traceparent");
        let line = gate.wait_log(|line| line["message"] == "request");
        let logged = line["trace_id"].as_str().map(str::to_owned);
        // The end sends what waits, so afterwards it is known that nothing more comes.
        gate.signal("TERM");
        assert_eq!(gate.wait_exit(), Some(0));
        let spans = collector.spans();
        assert_eq!(!spans.is_empty(), kept, "{case}");
        let parts: Option<Vec<_>> = told.as_ref().map(|it| it.split('-').collect());
        if kept {
            let (server, client) = (one(&spans, SpanKind::Server), one(&spans, SpanKind::Client));
            let trace = hex(&server.trace_id);
            assert_eq!(trace == TRACE, believed.is_some(), "{case}");
            assert_eq!(logged.as_ref(), Some(&trace), "{case}");
            let id = hex(&client.span_id);
            assert_eq!(parts, Some(vec!["00", &trace, &id, "01"]), "{case}");
            let parent = if believed.is_some() { PARENT } else { "" };
            assert_eq!(hex(&server.parent_span_id), parent, "{case}");
        } else if believed.is_some() {
            // Still a link, of a trace that nobody keeps.
            let parts = parts.unwrap();
            assert_eq!((parts[1], parts[3]), (TRACE, "00"), "{case}");
            assert_ne!(parts[2], PARENT, "{case}");
            assert_eq!(logged.as_deref(), Some(TRACE), "{case}");
        } else {
            assert_eq!((parts, logged), (None, None), "{case}");
        }
        let state = upstream.told("tracestate");
        assert_eq!(state.is_some(), believed.is_some(), "{case}");
    }
}

/// Refusals and failures are spans, too. Only what is a fault of this side is an error.
#[test]
fn refusals_and_failures_say_why() {
    let collector = Collector::start();
    let (_taken, address) = down();
    let gate = Setup::before(address)
        .with(&format!(
            "traces: {{ otlp: \"http://{}\", sample: 1.0, service_name: gate-7, identity: true }}",
            collector.server.address
        ))
        .start();
    let send = |path: &str, headers: &str| {
        let request = post(path, headers, "x");
        gate.send(STRANGER, request).unwrap().status
    };
    let scott = basic("scott", "tiger");
    assert_eq!(send("/users-only", &basic("scott", "lion")), 401);
    assert_eq!(send("/secret-path/x", &scott), 404);
    assert_eq!(send("/users-only", &scott), 502);
    let spans = collector.wait(6);
    let server = |status: &str| {
        let pair = ("http.response.status_code".to_owned(), status.to_owned());
        let mut found = spans.iter().filter(|it| {
            it.kind == SpanKind::Server as i32 && attributes(&it.attributes).contains(&pair)
        });
        found.next().unwrap()
    };
    let value = |span: &Span, key: &str| {
        let all = attributes(&span.attributes);
        all.into_iter().find(|it| it.0 == key).map(|it| it.1)
    };
    let code = |span: &Span| span.status.as_ref().map_or(0, |it| it.code);
    for (status, name, refusal, error, identity) in [
        ("401", "POST /users-only", "unauthorized", None, None),
        ("404", "POST", "no_route", None, None),
        (
            "502",
            "POST /users-only",
            "upstream_refused",
            Some("upstream_refused"),
            Some("scott"),
        ),
    ] {
        let span = server(status);
        assert_eq!(span.name, name);
        assert_eq!(value(span, "gatepost.refusal").as_deref(), Some(refusal));
        assert_eq!(value(span, "error.type").as_deref(), error, "{status}");
        assert_eq!(code(span) == 2, error.is_some(), "{status}");
        assert_eq!(value(span, "enduser.id").as_deref(), identity, "{status}");
    }
    let client = one(&spans, SpanKind::Client);
    assert_eq!(
        value(client, "error.type").as_deref(),
        Some("upstream_refused")
    );
    assert_eq!(code(client), 2);
    let seen = collector.server.bytes();
    for secret in ["lion", "tiger", "secret-path"] {
        assert!(
            crate::harness::find(&seen, secret.as_bytes()).is_none(),
            "{secret}"
        );
    }
    assert!(crate::harness::find(&seen, b"gate-7").is_some());
}

/// What a message policy says of a message has a span of its own.
#[test]
fn a_message_that_is_looked_into_is_a_part() {
    let (collector, upstream) = (Collector::start(), Recorder::start());
    let gate = Setup::before(upstream.address)
        .routes("\n  - { path: /x, methods: [POST], allow: [anyone], message_policy: true }\n")
        .policy("local kumo = require 'kumo'\nkumo.on('http_message_generated', function(msg) end)")
        .with(&format!(
            "traces: {{ otlp: \"http://{}/\", sample: 1 }}",
            collector.server.address
        ))
        .start();
    let request = post("/x", "", &message("me@example.com"));
    assert_eq!(gate.send(STRANGER, request).unwrap().status, 200);
    let spans = collector.wait(3);
    check(
        one(&spans, SpanKind::Internal),
        "message",
        &[
            ("gatepost.message.recipients", "1"),
            ("gatepost.policy.outcome", "accepted"),
        ],
    );
}

/// A collector that is down, or that takes connections and says nothing: requests are served as ever, what is lost is counted, the log says it
/// once, and the end does not wait for long.
#[test]
fn nobody_waits_for_a_collector() {
    let upstream = Recorder::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let asleep = listener.local_addr().unwrap();
    let (_taken, down) = down();
    for address in [down, asleep] {
        let mut gate = Setup::before(upstream.address)
            .with(&format!(
                "traces: {{ otlp: \"http://{address}\", sample: 1 }}"
            ))
            .start();
        let before = Instant::now();
        let mut connection = gate.connect(STRANGER);
        for _ in 0..3000 {
            connection.write(post("/open", "", ""));
            assert_eq!(connection.reply().unwrap().status, 200);
        }
        assert!(before.elapsed() < Duration::from_secs(15));
        let lost = || gate.metric("gatepost_spans_lost_total");
        if address == asleep {
            // The queue holds 1024 requests, and one batch is under way.
            wait_for("a full queue", || lost() > 0.0);
            assert!(lost() >= 2.0 * (3000.0 - 1024.0 - 512.0), "{}", lost());
        } else {
            wait_for("all to be lost", || lost() >= 6000.0);
        }
        let words = "spans are lost: the collector does not take them";
        let line = gate.wait_log(|line| line["message"] == words);
        let why = if address == down {
            "refused"
        } else {
            "timed out"
        };
        assert!(line["fault"].as_str().unwrap().contains(why), "{line}");
        assert_eq!(gate.logged().matches(words).count(), 1);
        assert_eq!(gate.metric("gatepost_spans_exported_total"), 0.0);
        let before = Instant::now();
        gate.signal("TERM");
        assert_eq!(gate.wait_exit(), Some(0));
        assert!(before.elapsed() < Duration::from_secs(8));
    }
}

/// All of it may change at a reload: whether there are spans, of how many requests, and where they go. The old collector gets
/// what is its own.
#[test]
fn a_reload_changes_where_spans_go() {
    let (one, other, upstream) = (Collector::start(), Collector::start(), Recorder::start());
    let gate = one.gate(&upstream, "sample: 1");
    let path = gate.folder().join("gatepost.yaml");
    let yaml = std::fs::read_to_string(&path).unwrap();
    let send = || {
        assert_eq!(
            gate.send(STRANGER, post("/open", "", "")).unwrap().status,
            200
        )
    };
    let put = |yaml: &str| {
        std::fs::write(&path, yaml).unwrap();
        assert_eq!(reload(&gate).0, 200);
    };
    let address = |of: &Collector| of.server.address.to_string();
    send();
    put(&yaml.replace(&address(&one), &address(&other)));
    send();
    assert_eq!(one.wait(2).len(), 2);
    assert_eq!(other.wait(2).len(), 2);
    put(&yaml.replace("sample: 1", "sample: 0"));
    send();
    put(&yaml.replace("traces:", "traces: off #"));
    send();
    assert_eq!(upstream.told("traceparent"), None);
    put(&yaml);
    send();
    assert_eq!(one.wait(4).len(), 4);
    assert_eq!(other.spans().len(), 2);
    // They are counted once the collector's answer is there.
    wait_for("the count", || {
        gate.metric("gatepost_spans_exported_total") >= 6.0
    });
    assert_eq!(gate.metric("gatepost_spans_exported_total"), 6.0);
    assert_eq!(gate.metric("gatepost_spans_lost_total"), 0.0);
}
