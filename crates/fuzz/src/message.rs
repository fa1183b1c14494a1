//! A body that a message policy looks into. The first byte of the input says which format it has (its two lowest bits) and whether it is
//! compressed (the next two: not, gzip, deflate, or gzip as it stands). Then, for `rfc822`, two lines with the envelope; then the body.
//!
//! What is accepted keeps to the limits. And of a body for `KumoMTA`, another reader sees the same sender, the same recipients and as
//! many headers `From`.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use gatepost_message::{Address, Format, Limits, Message, read};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use crate::{Outcome, Verdict, must};

const LIMITS: Limits = Limits {
    max_bytes: 1 << 18,
    max_header_bytes: 16 << 10,
    max_recipients: 100,
};

pub(crate) fn run(data: &[u8]) -> Outcome {
    let Some((control, rest)) = data.split_first() else {
        return Ok(Verdict::Refused);
    };
    let format = match control & 3 {
        0 => Format::KumoMta,
        1 => Format::ZoneMta,
        2 => Format::Rfc822,
        _ => Format::ZoneMtaRaw,
    };
    let mut headers = HeaderMap::new();
    if matches!(format, Format::Rfc822 | Format::ZoneMtaRaw) {
        headers.insert("content-type", HeaderValue::from_static("message/rfc822"));
    }
    let mut plain = rest;
    if format == Format::Rfc822 {
        for name in ["x-envelope-from", "x-envelope-to"] {
            let mut parts = plain.splitn(2, |byte| *byte == b'\n');
            let value = parts.next().unwrap_or_default();
            plain = parts.next().unwrap_or_default();
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.insert(name, value);
            }
        }
    }
    let coding = match control >> 2 & 3 {
        0 => Coding::None,
        2 => Coding::Deflate,
        _ => Coding::Gzip,
    };
    if let Some(name) = coding.name() {
        headers.insert("content-encoding", HeaderValue::from_static(name));
    }
    let body = if control >> 2 & 3 == 3 {
        plain.to_vec()
    } else {
        coding.encode(plain)
    };
    let Ok(message) = read(format, &headers, &body, &LIMITS) else {
        return Ok(Verdict::Refused);
    };
    let fits = !message.recipients.is_empty()
        && message.recipients.len() <= LIMITS.max_recipients
        && message.size <= LIMITS.max_bytes;
    must(fits, || format!("accepted against the limits: {message:?}"))?;
    if format == Format::KumoMta {
        let other = slow_reader(coding, &body);
        must(other.as_ref() == Some(&told(&message)), || {
            format!("{message:?}, and to another reader {other:?}")
        })?;
    }
    Ok(Verdict::Accepted)
}

/// Sender, recipients, and how many headers are a From.
type Told = (String, Vec<String>, usize);

fn told(message: &Message) -> Told {
    let email = |it: &Address| it.email().to_owned();
    (
        message.sender.as_ref().map(email).unwrap_or_default(),
        message.recipients.iter().map(email).collect(),
        message.header("from").count(),
    )
}

/// Reads in the most obvious way, without the code under test.
fn slow_reader(coding: Coding, body: &[u8]) -> Option<Told> {
    let value: Value = serde_json::from_slice(&coding.decode(body)?).ok()?;
    let recipients = value.get("recipients")?.as_array()?;
    let content = value.get("content")?;
    let from = if let Some(text) = content.as_str() {
        text.replace("\r\n", "\n")
            .lines()
            .take_while(|line| !line.is_empty())
            .filter(|line| line.to_ascii_lowercase().starts_with("from:"))
            .count()
    } else {
        let named = content.get("headers").and_then(Value::as_object);
        let named = named.into_iter().flatten();
        named
            .filter(|(name, _)| name.eq_ignore_ascii_case("from"))
            .count()
            + usize::from(content.get("from").is_some_and(Value::is_object))
    };
    Some((
        one_spelling(value.get("envelope_sender")?.as_str()?),
        recipients
            .iter()
            .map(|it| Some(one_spelling(it.get("email")?.as_str()?)))
            .collect::<Option<_>>()?,
        from,
    ))
}

fn one_spelling(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((user, domain)) => format!("{user}@{}", domain.to_lowercase()),
        None => address.to_owned(),
    }
}

#[derive(Debug, Clone, Copy)]
enum Coding {
    None,
    Gzip,
    Deflate,
}

impl Coding {
    fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Deflate => Some("deflate"),
        }
    }

    // Writing into memory does not fail.
    fn encode(self, plain: &[u8]) -> Vec<u8> {
        match self {
            Self::None => plain.to_vec(),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                let _ = encoder.write_all(plain);
                encoder.finish().unwrap_or_default()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                let _ = encoder.write_all(plain);
                encoder.finish().unwrap_or_default()
            }
        }
    }

    fn decode(self, body: &[u8]) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        match self {
            Self::None => plain.extend_from_slice(body),
            Self::Gzip => drop(GzDecoder::new(body).read_to_end(&mut plain).ok()?),
            Self::Deflate => drop(ZlibDecoder::new(body).read_to_end(&mut plain).ok()?),
        }
        Some(plain)
    }
}
