//! What each format says, and what of it is refused with which place.

use serde_json::{Value, json};

use super::*;
use FaultKind::{Ambiguous, Malformed, TooLarge};

fn kumo(content: &Value) -> Value {
    json!({
        "envelope_sender": "b@example.com",
        "recipients": [{"email": "c@example.net"}],
        "content": content,
    })
}

fn with(mut body: Value, pointer: &str, value: Value) -> Value {
    let (object, member) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(object).unwrap()[member] = value;
    body
}

fn check(format: Format, body: &Value, expected: &str) {
    let message = read(format, body.to_string().as_bytes());
    let message = message.unwrap_or_else(|fault| panic!("{body}: {fault}"));
    assert_eq!(told(&message), expected, "{body}");
}

#[test]
fn kumomta() {
    let check = |body: &Value, expected: &str| check(Format::KumoMta, body, expected);
    let text = kumo(&json!(
        "From: A <a@Example.com>\r\nTo: c\r\n\r\nhello {{ x }}"
    ));
    check(&text, "b@example.com -> c@example.net | a@example.com");
    check(&kumo(&json!("")), "b@example.com -> c@example.net | ");
    check(
        &with(text.clone(), "/envelope_sender", json!("")),
        "<> -> c@example.net | a@example.com",
    );
    let two = json!([
        {"email": "c@example.net", "name": "C", "substitutions": {"a": 1}},
        {"email": "D@example.net", "name": null, "metadata": {}},
    ]);
    check(
        &with(text, "/recipients", two),
        "b@example.com -> c@example.net D@example.net | a@example.com",
    );
    let parts = kumo(&json!({
        "from": {"email": "a@example.com", "name": "A \"B\", C"},
        "reply_to": {"email": "r@example.com"},
        "subject": "Hi {{ name }}",
        "headers": {"X-Tenant": "t"},
        "text_body": "{% if x %}",
    }));
    check(&parts, "b@example.com -> c@example.net | a@example.com");
    let message = read(Format::KumoMta, parts.to_string().as_bytes()).unwrap();
    let values: Vec<_> = message.headers.iter().map(|it| it.1.as_str()).collect();
    assert_eq!(
        values,
        [
            r#""A \"B\", C" <a@example.com>"#,
            "r@example.com",
            "Hi {{ name }}",
            "t"
        ]
    );
    assert_eq!(message.fields.len(), 3);
    assert_eq!(message.size, parts.to_string().len());
    check(
        &kumo(&json!({"headers": {"from": "A <a@example.com>"}, "text_body": ""})),
        "b@example.com -> c@example.net | a@example.com",
    );
}

/// Lines of: where something is changed, to what, the status of the refusal, the pointer that it names.
fn refused_when_changed(format: Format, body: &Value, table: &str) {
    for line in table.lines().filter(|line| !line.is_empty()) {
        let mut cells = line.split(" | ");
        let mut cell = || cells.next().unwrap();
        let (at, value, status, pointer) = (cell(), cell(), cell(), cell());
        let value = serde_json::from_str(value).unwrap();
        let kind = match status {
            "400" => Malformed,
            "413" => TooLarge,
            "422" => Ambiguous,
            _ => panic!("{line}"),
        };
        let body = with(body.clone(), at, value).to_string();
        refused(format, body, kind, Some(pointer));
    }
}

const KUMOMTA_TEXT: &str = r#"
/envelope_sender | null | 400 | /envelope_sender
/envelope_sender | "b" | 400 | /envelope_sender
/envelope_sender | "<>" | 400 | /envelope_sender
/recipients | {} | 400 | /recipients
/recipients | [] | 400 | /recipients
/recipients | ["c@example.net"] | 400 | /recipients/0
/recipients | [["c@example.net"]] | 400 | /recipients/0
/recipients | [{}] | 400 | /recipients/0/email
/recipients | [{"email":"c@d.e"},{"email":"c"}] | 400 | /recipients/1/email
/recipients/0/email | 7 | 400 | /recipients/0/email
/recipients/0/email | "c@d.e\r\n" | 400 | /recipients/0/email
/recipients/0/name | [] | 400 | /recipients/0/name
/recipients/0/name | "a\nb" | 422 | /recipients/0/name
/content | null | 400 | /content
/content | [] | 400 | /content
/content | "hello" | 422 | /content
/content | "From: a\n\n" | 422 | /content
/content | "From: a@b.c\nFROM: a@b.c\n\n" | 422 | /content
/template_dialect | "Mustache" | 422 | /template_dialect
/template_dialect | 1 | 400 | /template_dialect
/template_dialect | null | 400 | /template_dialect
"#;

const KUMOMTA_PARTS: &str = r#"
/content/from | "a@b.c" | 400 | /content/from
/content/from | {} | 400 | /content/from/email
/content/from | {"email":"a"} | 400 | /content/from/email
/content/from | {"email":"a@b.c","name":1} | 400 | /content/from/name
/content/from | {"email":"a@b.c","name":"A\r\nX: y"} | 422 | /content/from/name
/content/reply_to | {"email":1} | 400 | /content/reply_to/email
/content/subject | 1 | 400 | /content/subject
/content/subject | "a\nb" | 422 | /content/subject
/content/headers | [] | 400 | /content/headers
/content/headers/X | 1 | 400 | /content/headers/X
/content/headers/X Y | "" | 422 | /content/headers/X Y
/content/headers/X: | "" | 422 | /content/headers/X:
/content/headers/X | "a\r\nFrom: b" | 422 | /content/headers/X
/content/headers/from | "a@example.com" | 422 | /content
"#;

#[test]
fn kumomta_refused() {
    let format = Format::KumoMta;
    refused(format, "[]", Malformed, Some(""));
    refused(format, "{}", Malformed, Some("/envelope_sender"));
    let text = kumo(&json!("From: a@example.com\n\n"));
    refused_when_changed(format, &text, KUMOMTA_TEXT);
    let parts = kumo(&json!({"from": {"email": "a@example.com"}, "headers": {}}));
    refused_when_changed(format, &parts, KUMOMTA_PARTS);

    let long = kumo(&json!("A: b\n".repeat(20_000))).to_string();
    refused(format, long, TooLarge, Some("/content"));
    let long = kumo(&json!({"headers": {"X": "a".repeat(70_000)}})).to_string();
    refused(format, long, TooLarge, Some("/content/headers/X"));
}

/// The header that the client names is one of the message's, though it stands beside the content.
#[test]
fn kumomta_trace_header() {
    let format = Format::KumoMta;
    let headers = |body: &Value| {
        let message = read(format, body.to_string().as_bytes()).unwrap();
        let pairs = message.headers.iter();
        pairs
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
    };
    for content in [
        json!("From: a@example.com\nX-Tenant: t\n\n"),
        json!({"headers": {"From": "a@example.com", "X-Tenant": "t"}}),
    ] {
        let own = ["From=a@example.com", "X-Tenant=t"];
        let trace = |value| with(kumo(&content), "/trace_headers", value);
        assert_eq!(headers(&trace(json!(null))), own);
        assert_eq!(headers(&trace(json!({}))), own);
        let more = json!({"received_header": false, "include_meta_names": ["a"]});
        assert_eq!(headers(&trace(more)), own);
        // Before the others, as KumoMTA adds it: its value is what a policy gets that asks for the first.
        assert_eq!(
            headers(&trace(json!({"header_name": "x-tenant"}))),
            ["x-tenant=", own[0], own[1]]
        );
    }
    let text = kumo(&json!("From: a@example.com\n\n"));
    refused_when_changed(format, &with(text, "/trace_headers", json!({})), TRACE);
    // Not even where it would be the only one.
    let none = kumo(&json!("To: a@example.com\n\n"));
    let none = with(none, "/trace_headers", json!({"header_name": "FROM"}));
    refused(
        format,
        none.to_string(),
        Ambiguous,
        Some("/trace_headers/header_name"),
    );
    let long = json!({"header_name": "a".repeat(70_000)});
    let long = with(kumo(&json!("")), "/trace_headers", long);
    refused(
        format,
        long.to_string(),
        TooLarge,
        Some("/trace_headers/header_name"),
    );
}

const TRACE: &str = r#"
/trace_headers | [true,true,"Bcc",[]] | 400 | /trace_headers
/trace_headers | "X" | 400 | /trace_headers
/trace_headers/header_name | null | 400 | /trace_headers/header_name
/trace_headers/header_name | ["X"] | 400 | /trace_headers/header_name
/trace_headers/header_name | "" | 400 | /trace_headers/header_name
/trace_headers/header_name | "X Y" | 400 | /trace_headers/header_name
/trace_headers/header_name | "X:" | 400 | /trace_headers/header_name
/trace_headers/header_name | "Ä" | 400 | /trace_headers/header_name
/trace_headers/header_name | "X\r\nFrom: e@x.example" | 400 | /trace_headers/header_name
/trace_headers/header_name | "X\u0000" | 400 | /trace_headers/header_name
/trace_headers/header_name | "{{ x }}" | 422 | /trace_headers/header_name
/trace_headers/header_name | "X-{%x%}" | 422 | /trace_headers/header_name
/trace_headers/header_name | "From" | 422 | /trace_headers/header_name
/trace_headers/header_name | "fROM" | 422 | /trace_headers/header_name
"#;

/// The text that is expanded is not the text that was looked at.
#[test]
fn kumomta_templates() {
    let fine = "b@example.com -> c@example.net | a@example.com";
    let content = |text: &str| kumo(&json!(text));
    let plain = content("From: a@example.com\nSubject: {{ x.y }}\n\n{% if z %}");
    check(Format::KumoMta, &plain, fine);
    let subst = |value: Value| with(plain.clone(), "/substitutions", value);
    check(Format::KumoMta, &subst(json!({"x": {"y": "a\tb"}})), fine);
    for (dialect, expanded) in [("Jinja", true), ("Handlebars", true), ("Static", false)] {
        let body = with(plain.clone(), "/template_dialect", json!(dialect));
        check(Format::KumoMta, &body, fine);
        let message = read(Format::KumoMta, body.to_string().as_bytes()).unwrap();
        assert_eq!(message.template, expanded, "{dialect}");
        assert_eq!(message.fills_in("a {{ b }}"), expanded, "{dialect}");
        assert!(!message.fills_in("a } b {"));
    }
    let message = read(Format::KumoMta, plain.to_string().as_bytes()).unwrap();
    assert!(message.template);
    let message = read(Format::ZoneMta, zone().to_string().as_bytes()).unwrap();
    assert!(!message.template);
    let wild = content("From: a@example.com\nSubject: {% for x in y %}\n\n{{- x }}");
    let still = with(wild.clone(), "/template_dialect", json!("Static"));
    check(Format::KumoMta, &still, fine);

    let own = json!({"x": ["a", {"y": "b\nFrom: e@x.example"}]});
    let parts = |name: &str, value: Value| {
        let parts = kumo(&json!({"from": {"email": "a@example.com"}, "headers": {}}));
        with(parts, name, value)
    };
    for (body, pointer) in [
        (subst(own.clone()), "/substitutions"),
        (subst(json!({"a\rb": 1})), "/substitutions"),
        (
            with(plain.clone(), "/recipients/0/substitutions", own),
            "/recipients/0/substitutions",
        ),
        (wild, "/content"),
        (content("From: {{ x }}@example.com\n\n"), "/content"),
        (content("From: \"{{ x }}\" <a@example.com>\n\n"), "/content"),
        (content("From: a@example.com {# b #}\n\n"), "/content"),
        (content("From: a@example.com\n{{x}}: b\n\n"), "/content"),
        (
            content("From: a@example.com\nA: {{ 'b\\n' }}\n\n"),
            "/content",
        ),
        (content("From: a@example.com\nA: {{{ b }}}\n\n"), "/content"),
        (
            content("From: a@example.com\nA: b\n {{ x }}\n\n"),
            "/content",
        ),
        (
            content("A: b\r\n\r\n \r\n{{- '\\n' -}}\r\nFrom: e@x.example\r\n\r\n"),
            "/content",
        ),
        (content("A: b\n\n{#- #}From: e@x.example\n\n"), "/content"),
        (
            parts("/content/from/email", json!("{{x}}@example.com")),
            "/content",
        ),
        (parts("/content/from/name", json!("{{ x }}")), "/content"),
        (parts("/content/subject", json!("{% x %}")), "/content"),
        (parts("/content/headers/A", json!("{{ x|y }}")), "/content"),
        (parts("/content/headers/{{x}}", json!("")), "/content"),
        (
            parts(
                "/content/reply_to",
                json!({"email": "a@b.c", "name": "{{ x() }}"}),
            ),
            "/content",
        ),
    ] {
        refused(Format::KumoMta, body.to_string(), Ambiguous, Some(pointer));
    }
}

fn zone() -> Value {
    json!({
        "envelope": {"from": "b@example.com", "to": ["c@example.net", "d@example.net"]},
        "from": "A <a@example.com>",
        "to": [{"name": "C", "address": "c@example.net"}, "D <d@example.net>"],
        "subject": "Hi",
        "headers": {"X-A": ["1", "2"], "X-B": "3"},
        "text": "hello",
        "attachments": [{"path": "/etc/passwd"}],
    })
}

#[test]
fn zonemta() {
    let check = |body: &Value, expected: &str| check(Format::ZoneMta, body, expected);
    let fine = "b@example.com -> c@example.net d@example.net | a@example.com";
    check(&zone(), fine);
    let message = read(Format::ZoneMta, zone().to_string().as_bytes()).unwrap();
    let told = |name| message.header(name).collect::<Vec<_>>();
    assert_eq!(told("to"), [r#""C" <c@example.net>, D <d@example.net>"#]);
    assert_eq!(told("x-a"), ["1", "2"]);
    assert_eq!(told("Subject"), ["Hi"]);
    assert_eq!(message.fields.len(), 7);

    check(
        &with(
            zone(),
            "/from",
            json!({"name": "A", "address": "a@example.com"}),
        ),
        fine,
    );
    let list = json!([{"key": "X-A", "value": "1"}, {"key": "X-A", "value": ["2"]}]);
    check(&with(zone(), "/headers", list), fine);
    check(
        &with(
            zone(),
            "/envelope",
            json!({"from": false, "to": "c@example.net"}),
        ),
        "<> -> c@example.net | a@example.com",
    );
    check(
        &with(zone(), "/raw", json!("From: r@example.com\r\n\r\nhello")),
        "b@example.com -> c@example.net d@example.net | r@example.com",
    );
}

const ZONEMTA: &str = r#"
/envelope | null | 422 | /envelope
/envelope | "b@example.com" | 400 | /envelope
/envelope | {"to":"c@d.e"} | 422 | /envelope/from
/envelope | {"from":""} | 422 | /envelope/to
/envelope/from | true | 400 | /envelope/from
/envelope/from | "B <b@example.com>" | 400 | /envelope/from
/envelope/from | "\"x@y.z a\"@example.com" | 422 | /envelope/from
/envelope/to | [] | 400 | /envelope/to
/envelope/to | ["c@d.e","f@g.h, i@j.k"] | 400 | /envelope/to/1
/envelope/to | ["c@d.e",{"address":"f@g.h"}] | 400 | /envelope/to/1
/envelope/cc | "e@x.example" | 422 | /envelope/cc
/envelope/bcc | ["e@x.example"] | 422 | /envelope/bcc
/from | ["a@example.com"] | 400 | /from
/from | "g: a@example.com;" | 422 | /from
/from | {"name":"A"} | 400 | /from
/from | {"address":"a@b.c, d@e.f"} | 400 | /from
/to | "a\nb" | 422 | /to
/subject | {} | 400 | /subject
/date | 7 | 400 | /date
/references | ["<a@b>","c\n"] | 422 | /references
/headers | "X: y" | 400 | /headers
/headers | [{"key":"X"}] | 400 | /headers/0
/headers/X | {"prepared":true,"value":"a"} | 400 | /headers/X
/headers/X | "a\nb" | 422 | /headers/X
/headers/fr om | "a@b.c" | 422 | /headers/fr om
/headers/from | "a@b.c" | 422 | /from
/raw | {"path":"/etc/passwd"} | 422 | /raw
/raw | "" | 422 | /raw
/raw | "hello" | 422 | /raw
"#;

#[test]
fn zonemta_refused() {
    refused_when_changed(Format::ZoneMta, &zone(), ZONEMTA);
}

fn raw(headers: &[(&'static str, &'static str)]) -> Result<String, FaultKind> {
    let mut map = HeaderMap::new();
    map.insert("content-type", "message/rfc822".parse().unwrap());
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    let body = b"From: a@example.com\r\n\r\n\xff\xfe\0";
    crate::read(Format::Rfc822, &map, body, &LIMITS)
        .map(|message| told(&message))
        .map_err(|fault| fault.kind)
}

#[test]
fn rfc822() {
    let from = ("X-Envelope-From", "b@example.com");
    let to = ("X-Envelope-To", "c@example.net");
    for (headers, expected) in [
        (
            &[from, to][..],
            Ok("b@example.com -> c@example.net | a@example.com"),
        ),
        (
            &[("X-Envelope-From", "<>"), to],
            Ok("<> -> c@example.net | a@example.com"),
        ),
        (
            &[("X-Envelope-From", ""), to],
            Ok("<> -> c@example.net | a@example.com"),
        ),
        (
            &[
                ("X-Envelope-From", "<b@example.com>"),
                ("X-Envelope-To", "<c@d.e> , f@g.h"),
                to,
            ],
            Ok("b@example.com -> c@d.e f@g.h c@example.net | a@example.com"),
        ),
        (&[from], Err(Malformed)),
        (&[to], Err(Malformed)),
        (&[from, from, to], Err(Ambiguous)),
        (&[("X-Envelope-From", "b"), to], Err(Malformed)),
        (&[from, ("X-Envelope-To", "c@d.e,")], Err(Malformed)),
        (&[from, ("X-Envelope-To", "")], Err(Malformed)),
        (&[from, ("X-Envelope-To", "\"a,b\"@c.d")], Err(Malformed)),
    ] {
        let read = raw(headers);
        assert_eq!(
            read.as_deref().map_err(|kind| *kind),
            expected,
            "{headers:?}"
        );
    }
}

/// `ZoneMTA`'s raw API: the envelope is what the message says.
#[test]
fn zonemta_raw() {
    for (text, expected) in [
        (
            "From: a@example.com\r\nTo: c@example.net\r\n\r\nBcc: e@x.example\r\n",
            "a@example.com -> c@example.net | a@example.com",
        ),
        (
            "bcc: d@example.net\nFROM: \"A, B\" <a@Example.com>\nCC: F <f@g.h>,\n i@j.k\nto: c@example.net\n\n",
            "a@example.com -> c@example.net f@g.h i@j.k d@example.net | a@example.com",
        ),
        (
            "From: =?utf-8?Q?J=C3=BCrgen?= <a@example.com>\nSender: A <a@example.com>\nBcc: c@d.e\n\n",
            "a@example.com -> c@d.e | a@example.com",
        ),
        (
            "From: J\u{fc}rgen <a@example.com>\nReply-To: r@x.example\nTo: c@d.e, c@d.e\n\n",
            "a@example.com -> c@d.e c@d.e | a@example.com",
        ),
    ] {
        let message = read(Format::ZoneMtaRaw, text.as_bytes());
        assert_eq!(
            message.as_ref().map(told).as_deref(),
            Ok(expected),
            "{text}"
        );
    }
    // Headers of the request say nothing here.
    let mut headers = headers_for(Format::ZoneMtaRaw);
    headers.insert("x-envelope-from", "e@x.example".parse().unwrap());
    headers.insert("x-envelope-to", "e@x.example".parse().unwrap());
    let none = b"From: a@b.c\n\n";
    let fault = crate::read(Format::ZoneMtaRaw, &headers, none, &LIMITS).unwrap_err();
    assert_eq!(fault.kind, Malformed);
    let one = b"From: a@b.c\nTo: c@d.e\n\n";
    let message = crate::read(Format::ZoneMtaRaw, &headers, one, &LIMITS).unwrap();
    assert_eq!(told(&message), "a@b.c -> c@d.e | a@b.c");
}

const ZONEMTA_RAW: &[(&str, FaultKind)] = &[
    ("To: c@d.e\n\n", Ambiguous),
    ("Sender: a@b.c\nTo: c@d.e\n\n", Ambiguous),
    ("From: a@b.c, f@g.h\nTo: c@d.e\n\n", Ambiguous),
    ("From: a@b.c\nfrom: a@b.c\nTo: c@d.e\n\n", Ambiguous),
    ("From: <>\nTo: c@d.e\n\n", Ambiguous),
    ("From: a@b.c\n\nTo: c@d.e\n\n", Malformed),
    ("From: a@b.c\nTo:\n\n", Ambiguous),
    ("From: a@b.c\nSender: f@b.c\nTo: c@d.e\n\n", Ambiguous),
    ("From: a@b.c\nSender: f@g.h\nTo: c@d.e\n\n", Ambiguous),
    (
        "From: a@b.c\nSender: a@b.c\nSender: a@b.c\nTo: c@d.e\n\n",
        Ambiguous,
    ),
    (
        "From: a@b.c\nSender: a@b.c, f@g.h\nTo: c@d.e\n\n",
        Ambiguous,
    ),
    ("From: a@b.c\nTo: c@d.e\nTO: f@g.h\n\n", Ambiguous),
    ("From: a@b.c\nCc: c@d.e\nCc: f@g.h\n\n", Ambiguous),
    ("From: a@b.c\nBcc: c@d.e\nBcc: f@g.h\n\n", Ambiguous),
    ("From: a@b.c\nTo: c@d.e\nResent-To: f@g.h\n\n", Ambiguous),
    ("From: a@b.c\nTo: c@d.e\nrESENT-x: y\n\n", Ambiguous),
    ("From: a@b.c\nTo: g: c@d.e, f@g.h;\n\n", Ambiguous),
    ("From: a@b.c\nTo: undisclosed:;\nBcc: c@d.e\n\n", Ambiguous),
    ("From: a@b.c\nCc: <@x.example:c@d.e>\n\n", Ambiguous),
    ("From: a@b.c\nBcc: e@x.example <c@d.e>\n\n", Ambiguous),
    ("From: a@b.c\nTo: c@d.e; f@g.h\n\n", Ambiguous),
    ("From: a@b.c\nTo: \"c d\"@e.f\n\n", Ambiguous),
    // What ZoneMTA's own parsers would find another recipient in.
    (
        "From: a@b.c\nTo: X (a (b), e@x.example, c) <c@d.e>\n\n",
        Ambiguous,
    ),
    (
        "From: a@b.c\nTo: X (a \\), e@x.example, b) <c@d.e>\n\n",
        Ambiguous,
    ),
    (
        "From: a@b.c\nTo: \"a\\\\\" <c@d.e>, \"b\" <f@g.h>\n\n",
        Ambiguous,
    ),
    (
        "From: a@b.c\nTo: =?utf-8?Q?e=40x.example=2C?= <c@d.e>\n\n",
        Ambiguous,
    ),
    (
        "From: a@b.c\nTo: \"=?utf-8?Q?=22=2C_e=40x.example=2C=22?=\" <c@d.e>\n\n",
        Ambiguous,
    ),
    (
        "From: =?utf-8?Q?e=40x.example=2C?= <a@b.c>\nTo: c@d.e\n\n",
        Ambiguous,
    ),
    ("From: a@b.c\nTo: c@m\u{fc}ller.example\n\n", Ambiguous),
];

#[test]
fn zonemta_raw_refused() {
    for (text, kind) in ZONEMTA_RAW {
        refused(Format::ZoneMtaRaw, text, *kind, None);
    }
}
