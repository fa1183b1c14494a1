//! A request target.
//!
//! A path that is accepted is the one that was sent, and has no second spelling: decoded once and encoded again it is the same, there is
//! nothing in it that a second decoding would change, and no segment that somebody could leave out.

use gatepost_auth::path::Target;
use http::Uri;

use crate::{Finding, Outcome, Verdict, must};

pub(crate) fn run(data: &[u8]) -> Outcome {
    let Ok(target) = Target::parse(data) else {
        return Ok(Verdict::Refused);
    };
    let path = target.path().as_bytes();
    let sent = data.split(|byte| *byte == b'?').next().unwrap_or_default();
    must(path == sent, || {
        format!("{} became {}", sent.escape_ascii(), path.escape_ascii())
    })?;
    let decoded = decode(path)?;
    let again = encode(&decoded);
    must(again == path, || {
        format!("{} is also {}", path.escape_ascii(), again.escape_ascii())
    })?;
    must(!decoded.contains(&b'%'), || {
        "it can be decoded a second time".to_owned()
    })?;
    must(
        !decoded
            .iter()
            .any(|byte| matches!(byte, 0..=b' ' | b'\\' | b';' | 0x7f)),
        || "there is something in it that others take for something else".to_owned(),
    )?;
    let segments: Vec<&[u8]> = decoded.split(|byte| *byte == b'/').skip(1).collect();
    let inner = segments.split_last().map_or(&[][..], |(_, inner)| inner);
    must(inner.iter().all(|it| !it.is_empty()), || {
        "an empty segment".to_owned()
    })?;
    must(!segments.iter().any(|it| it.ends_with(b".")), || {
        "a segment of dots, or with one at its end".to_owned()
    })?;
    if let Ok(uri) = Uri::try_from(data) {
        must(uri.path().as_bytes() == path, || {
            format!("to the library it is {}", uri.path())
        })?;
    }
    Ok(Verdict::Accepted)
}

fn decode(path: &[u8]) -> Result<Vec<u8>, Finding> {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let value = rest
            .split_at_checked(2)
            .and_then(|(digits, _)| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        must(value.is_some(), || "half an escape".to_owned())?;
        decoded.extend(value);
        rest = rest.get(2..).unwrap_or_default();
    }
    Ok(decoded)
}

/// The one spelling (RFC 3986 §3.3, §6.2.2).
fn encode(decoded: &[u8]) -> Vec<u8> {
    let mut path = Vec::new();
    for byte in decoded {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/".contains(byte) {
            path.push(*byte);
        } else {
            path.extend(format!("%{byte:02X}").bytes());
        }
    }
    path
}
