//! What holds for every body.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn seeds() -> Vec<(Format, Vec<u8>)> {
    let text = "From: \"A, b\" <a@example.com>\r\nSubject: {{ x }}\r\n y\r\n\r\nhello";
    let kumo = json!({
        "envelope_sender": "b@example.com",
        "recipients": [{"email": "c@example.net", "name": "C", "substitutions": {"x": "y\u{e9}"}}],
        "content": text,
        "template_dialect": "Jinja",
    });
    let mut parts = kumo.clone();
    parts["content"] = json!({
        "from": {"email": "a@example.com", "name": "A"},
        "subject": "Hi",
        "headers": {"X-A": "b"},
    });
    let zone = json!({
        "envelope": {"from": "b@example.com", "to": ["c@example.net"]},
        "from": {"name": "A", "address": "a@example.com"},
        "headers": [{"key": "X-A", "value": ["1"]}],
    });
    vec![
        (Format::KumoMta, kumo.to_string().into_bytes()),
        (Format::KumoMta, parts.to_string().into_bytes()),
        (Format::ZoneMta, zone.to_string().into_bytes()),
        (Format::Rfc822, text.as_bytes().to_vec()),
        (
            Format::ZoneMtaRaw,
            format!("To: c@example.net\r\n{text}").into_bytes(),
        ),
    ]
}

#[test]
fn the_seeds_are_good() {
    for (format, body) in seeds() {
        assert!(!read(format, &body).unwrap().from.is_empty());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in any::<Vec<u8>>()) {
        for format in [Format::KumoMta, Format::ZoneMta, Format::Rfc822, Format::ZoneMtaRaw] {
            let _ = read(format, &body);
            for coding in ["gzip", "deflate"] {
                let mut headers = headers_for(format);
                headers.insert("content-encoding", coding.parse().unwrap());
                let _ = crate::read(format, &headers, &body, &LIMITS);
            }
        }
    }

    #[test]
    fn mutations_are_read_or_refused(
        seed in 0_usize..5,
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        cut in any::<usize>(),
    ) {
        let (format, mut body) = seeds().swap_remove(seed);
        for (at, byte) in changes {
            let at = at % body.len();
            body[at] = byte;
        }
        let _ = read(format, &body);
        body.truncate(cut % body.len());
        let _ = read(format, &body);
    }

    /// Order, white space and escapes of the JSON change nothing.
    #[test]
    fn another_spelling_says_the_same(
        seed in 0_usize..3,
        name in "[ -~\u{e0}-\u{ff}\u{1f600}]{0,8}",
        local in "[a-z]{1,8}",
    ) {
        let (format, body) = seeds().swap_remove(seed);
        let mut value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        value["extra"] = json!({ "name": name, "list": [1, null, name] });
        if format == Format::KumoMta {
            value["envelope_sender"] = json!(format!("{local}@example.com"));
            value["recipients"][0]["name"] = json!(name);
        }
        let compact = value.to_string();
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let escaped = escape_all(&compact);
        let one = read(format, compact.as_bytes()).unwrap();
        for other in [pretty, escaped] {
            let mut other = read(format, other.as_bytes()).unwrap();
            other.size = one.size;
            prop_assert_eq!(&one, &other);
        }
    }
}

/// Every letter and everything that is not ASCII as `\u`, in strings.
fn escape_all(json: &str) -> String {
    let mut escaped = String::new();
    let (mut inside, mut after_backslash) = (false, false);
    for character in json.chars() {
        let plain = !inside || after_backslash || character == '\\' || character == '"';
        if character == '"' && !after_backslash {
            inside = !inside;
        }
        // What stands behind a backslash already is a part of an escape; of `\u` only the next is.
        after_backslash = inside && character == '\\' && !after_backslash;
        if plain || character.is_ascii_digit() {
            escaped.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}
