//! The bodies that the issue "message policy" lists under bad input.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::json;

use super::*;
use crate::json::steps;
use FaultKind::{Ambiguous, Malformed, TooLarge, Unsupported};

const GOOD: &str = r#"{"envelope_sender":"b@example.com","recipients":[{"email":"c@example.net"}],"content":"From: a@example.com\r\n\r\nhello"}"#;

#[test]
fn truncated_empty_and_not_json() {
    for format in [Format::KumoMta, Format::ZoneMta] {
        for length in 0..GOOD.len() {
            let fault = read(format, &GOOD.as_bytes()[..length]).unwrap_err();
            assert_eq!(fault.kind, Malformed, "{length}");
            assert!(fault.pointer.is_some());
        }
        refused(format, "", Malformed, Some(""));
        refused(format, "null", Malformed, Some(""));
        refused(format, "\"From: a\"", Malformed, Some(""));
        refused(format, "a=b&c=d", Malformed, Some(""));
        refused(format, "{} x", Malformed, None);
        refused(format, b"{\"a\":\"\xff\"}", Malformed, None);
        refused(
            format,
            r#"{"content":1,"c\u006fntent":2}"#,
            Ambiguous,
            Some("/content"),
        );
        refused(
            format,
            "[".repeat(100_000),
            Malformed,
            Some(&"/0".repeat(64)),
        );
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(64), "]".repeat(64));
        let pointer = format!("/x{}", "/0".repeat(63));
        refused(format, deep, Malformed, Some(&pointer));
    }
    // An empty message has no headers, and that is how the MTA sees it.
    assert_eq!(read(Format::Rfc822, b"").unwrap().headers, []);
}

#[test]
fn oversized_and_bombs() {
    let large = vec![b' '; LIMITS.max_bytes + 1];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    for _ in 0..10 {
        gzip.write_all(&large).unwrap();
        zlib.write_all(&large).unwrap();
    }
    let (gzip, zlib) = (gzip.finish().unwrap(), zlib.finish().unwrap());
    for format in [
        Format::KumoMta,
        Format::ZoneMta,
        Format::Rfc822,
        Format::ZoneMtaRaw,
    ] {
        refused(format, &large, TooLarge, None);
        for (coding, body, kind) in [
            ("gzip", &gzip, TooLarge),
            ("deflate", &zlib, TooLarge),
            ("gzip, gzip", &gzip, Unsupported),
            ("gzip", &zlib, Malformed),
        ] {
            let mut headers = headers_for(format);
            headers.insert("content-encoding", coding.parse().unwrap());
            let fault = crate::read(format, &headers, body, &LIMITS).unwrap_err();
            assert_eq!(fault.kind, kind, "{coding}");
        }
    }
}

#[test]
fn an_encoded_body_says_what_it_says_without_encoding() {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(GOOD.as_bytes()).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("content-encoding", "gzip".parse().unwrap());
    let format = Format::KumoMta;
    let inflated = crate::read(format, &headers, &gzip.finish().unwrap(), &LIMITS);
    assert_eq!(inflated, read(format, GOOD.as_bytes()));
}

#[test]
fn ten_thousand_recipients() {
    let recipients = |count: usize| -> Vec<_> {
        (0..count)
            .map(|it| json!({"email": format!("c{it}@example.net"), "name": "C"}))
            .collect()
    };
    let body = |count| {
        json!({
            "envelope_sender": "",
            "recipients": recipients(count),
            "content": "From: a@example.com\nSubject: {{ name }}\n\n",
        })
        .to_string()
    };
    let message = read(Format::KumoMta, body(10_000).as_bytes()).unwrap();
    assert_eq!(message.recipients.len(), 10_000);
    assert_eq!(message.recipients[9_999].email(), "c9999@example.net");
    refused(Format::KumoMta, body(10_001), TooLarge, Some("/recipients"));

    let to: Vec<_> = (0..10_001).map(|it| format!("c{it}@example.net")).collect();
    let body = json!({"envelope": {"from": "", "to": to}, "from": "a@b.c"}).to_string();
    refused(Format::ZoneMta, body, TooLarge, Some("/envelope/to"));
    let short: Vec<_> = (0..10_001).map(|it| format!("{it}@x.y")).collect();
    // A header is no longer than 64 KiB, so that many stand in two.
    let (some, more) = short.split_at(6_000);
    let limits = Limits {
        max_header_bytes: 256 << 10,
        ..LIMITS
    };
    let raw = |more: &[String]| {
        let (some, more) = (some.join(","), more.join(","));
        let text = format!("From: a@b.c\nTo: {some}\nBcc: {more}\n\n");
        let headers = headers_for(Format::ZoneMtaRaw);
        crate::read(Format::ZoneMtaRaw, &headers, text.as_bytes(), &limits)
    };
    assert_eq!(raw(&more[1..]).unwrap().recipients.len(), 10_000);
    assert_eq!(
        raw(more).unwrap_err().words,
        "there are too many recipients"
    );
    let mut headers = headers_for(Format::Rfc822);
    headers.insert("x-envelope-to", to.join(",").parse().unwrap());
    let fault = crate::read(Format::Rfc822, &headers, b"", &LIMITS).unwrap_err();
    assert_eq!(fault.kind, TooLarge);
}

/// What a substitution costs is its size, not its size for every list that it stands in.
#[test]
fn depth_costs_nothing() {
    let body = |deep: usize| {
        let values = vec!["\"a\""; 250_000].join(",");
        let (open, close) = ("[".repeat(deep), "]".repeat(deep));
        let value = format!("{{\"x\":{open}{values}{close}}}");
        format!(
            r#"{{"envelope_sender":"","recipients":[{{"email":"c@example.net","substitutions":{value}}}],"content":"Subject: {{{{ x }}}}\n\n","substitutions":{value}}}"#
        )
    };
    let steps = |deep| {
        let body = body(deep);
        let (read, steps) = steps::of(|| read(Format::KumoMta, body.as_bytes()));
        assert!(read.is_ok(), "{read:?}");
        (body.len(), steps)
    };
    let (length, flat) = steps(1);
    let (_, deep) = steps(60);
    assert!(length > 2_000_000);
    assert!(deep < flat + flat / 100, "{deep} steps deep, {flat} flat");
    assert!(deep < 8 * length, "{deep} steps for {length} bytes");
}

/// Wherever it stands, and however it is written.
#[test]
fn a_line_end_is_found_at_any_depth() {
    let body = |deep: usize, text: &str| {
        let (open, close) = ("[{\"a\":".repeat(deep), "},7]".repeat(deep));
        format!(
            r#"{{"envelope_sender":"","recipients":[{{"email":"c@example.net"}}],"content":"Subject: {{{{ x }}}}\n\n","substitutions":{{"x":{open}{text}{close}}},"after":"\n"}}"#
        )
    };
    for deep in [0, 1, 30] {
        for text in [
            r#""a\n""#,
            r#""\r""#,
            r#""\u000a""#,
            r#""\u000A""#,
            r#""\u000d""#,
            r#""\u000Db""#,
            r#""\u0000""#,
            r#""\\\n""#,
            r#"[true,"a",{"\n":1}]"#,
        ] {
            let at = Some("/substitutions");
            refused(Format::KumoMta, body(deep, text), Ambiguous, at);
        }
        // What stands behind the value is not a part of it.
        for text in [r#""\\n""#, r#""\t\u000b\\u000a""#, "[]", r#"{"x":"}]"}"#] {
            let read = read(Format::KumoMta, body(deep, text).as_bytes());
            assert!(read.is_ok(), "{text}: {read:?}");
        }
    }
}

/// The forms of `From` are the business of `from.rs`; here, that every format comes to the same.
#[test]
fn from_in_every_format() {
    for (value, address) in [
        (
            "\"E, e@x.example\"\r\n <a@example.com>",
            Some("a@example.com"),
        ),
        (
            "=?utf-8?Q?A?= (c)\r\n\t<a@example.com>",
            Some("a@example.com"),
        ),
        ("g: a@example.com;", None),
        ("<@x.example:a@example.com>", None),
        ("e@x.example\r\n <a@example.com>", None),
    ] {
        let text = format!("From: {value}\r\n\r\nhello");
        let addressed = format!("To: c@d.e\r\n{text}");
        let kumo =
            json!({"envelope_sender": "", "recipients": [{"email": "c@d.e"}], "content": text});
        let zone = json!({"envelope": {"from": "", "to": "c@d.e"}, "raw": text});
        for (format, body) in [
            (Format::KumoMta, kumo.to_string()),
            (Format::ZoneMta, zone.to_string()),
            (Format::Rfc822, text),
            (Format::ZoneMtaRaw, addressed),
        ] {
            // Comments are too much for ZoneMTA.
            if format == Format::ZoneMtaRaw && value.contains('(') {
                continue;
            }
            let from = read(format, body.as_bytes()).map(|it| it.from);
            match (from, address) {
                (Ok(from), Some(address)) => assert_eq!(from[0].email(), address),
                (Err(fault), None) => assert_eq!(fault.kind, Ambiguous),
                (from, _) => panic!("{value}: {from:?}"),
            }
        }
    }
}

/// A fault is shown to the client and logged, so it says nothing of the message.
#[test]
fn faults_repeat_nothing() {
    for content in [
        "From: secret\n\n",
        "secret",
        "From: a@b.c\nsecret: {{ secret() }}\n\n",
    ] {
        let body = GOOD.replace(
            "From: a@example.com\\r\\n\\r\\nhello",
            &content.replace('\n', "\\n"),
        );
        let fault = read(Format::KumoMta, body.as_bytes()).unwrap_err();
        assert!(!fault.to_string().contains("secret"), "{fault}");
    }
    let long = format!("{{\"{}\":x}}", "ü".repeat(10_000));
    let fault = read(Format::KumoMta, long.as_bytes()).unwrap_err();
    assert!(fault.to_string().len() < 400);
}
