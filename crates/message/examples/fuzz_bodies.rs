//! Throws mutated bodies at the readers: `fuzz_bodies FORMAT [SECONDS]`, with FORMAT one of `kumomta`, `zonemta`,
//! `rfc822`, `zonemta_raw`. Part of `make fuzz`. Not cargo-fuzz, which needs a nightly compiler.
//!
//! A finding is a panic, memory that grows out of proportion, or a body of KumoMTA that is accepted but in which another
//! reader sees another sender, other recipients or another From. It is printed with the seed, which `FUZZ_SEED` repeats.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use gatepost_message::{Address, Format, Limits, Message, read};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

const LIMITS: Limits = Limits {
    max_bytes: 1 << 20,
    max_header_bytes: 16 << 10,
    max_recipients: 100,
};

/// How much more memory than at the beginning may be in use, in KiB: several times the largest body.
const MOST_MEMORY: u64 = 32 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let format = match arguments.next().as_deref() {
        Some("kumomta") => Format::KumoMta,
        Some("zonemta") => Format::ZoneMta,
        Some("rfc822") => Format::Rfc822,
        Some("zonemta_raw") => Format::ZoneMtaRaw,
        _ => return Err("usage: fuzz_bodies kumomta|zonemta|rfc822|zonemta_raw [SECONDS]".into()),
    };
    let seconds = arguments.next().map_or(Ok(60), |it| it.parse())?;
    let seed = match env::var("FUZZ_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => {
            u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() % (1 << 63))?
        }
    };
    let mut out = io::stdout();
    writeln!(out, "{format:?}: FUZZ_SEED={seed}, {seconds} s")?;

    let mut random = Random(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let memory = peak_kib();
    let (mut tried, mut accepted) = (0_u64, 0_u64);
    while Instant::now() < end {
        let body = mutate(&mut random, seeds(format));
        let (coding, body) = encode(&mut random, body);
        let headers = headers_for(format, coding, &mut random);
        tried += 1;
        match try_one(format, &headers, coding, &body) {
            Ok(read) => accepted += u64::from(read),
            Err(finding) => {
                writeln!(out, "{finding}\n{headers:?}\n{}", body.escape_ascii())?;
                return Err("a finding".into());
            }
        }
        if tried.is_multiple_of(4096) && peak_kib() > memory + MOST_MEMORY {
            return Err("the memory grew out of proportion".into());
        }
    }
    writeln!(
        out,
        "{tried} bodies, {accepted} of them accepted, no finding"
    )?;
    if accepted == 0 {
        return Err("nothing was accepted, so nothing behind the first checks was tried".into());
    }
    Ok(())
}

/// Whether it was accepted, or what was found.
fn try_one(
    format: Format,
    headers: &HeaderMap,
    coding: Coding,
    body: &[u8],
) -> Result<bool, String> {
    let result = panic::catch_unwind(AssertUnwindSafe(|| read(format, headers, body, &LIMITS)));
    let Ok(result) = result else {
        return Err("a panic".to_owned());
    };
    let Ok(message) = result else {
        return Ok(false);
    };
    if message.recipients.is_empty() || message.size > LIMITS.max_bytes {
        return Err(format!("accepted against the limits: {message:?}"));
    }
    if format == Format::KumoMta && slow_reader(coding, body).as_ref() != Some(&told(&message)) {
        return Err(format!("another reader sees something else: {message:?}"));
    }
    Ok(true)
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
    let mut inflated = Vec::new();
    match coding {
        Coding::None => inflated.extend_from_slice(body),
        Coding::Gzip => drop(GzDecoder::new(body).read_to_end(&mut inflated).ok()?),
        Coding::Deflate => drop(ZlibDecoder::new(body).read_to_end(&mut inflated).ok()?),
    }
    let value: Value = serde_json::from_slice(&inflated).ok()?;
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

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`; 0 where there is nothing below it.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    fn one_of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> Option<&'a T> {
        list.get(self.below(list.len())).copied()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

const KUMOMTA: &[&str] = &[
    r#"{"envelope_sender":"b@example.com","recipients":[{"email":"c@Example.net","name":"C","substitutions":{"x":"y"}}],"content":"From: \"A, b\" <a@example.com>\r\nSubject: {{ x }}\r\n y\r\n\r\nhello","template_dialect":"Jinja"}"#,
    r#"{"envelope_sender":"","recipients":[{"email":"c@example.net"},{"email":"\u0064@example.net","metadata":{"a":[1,2.5e3,null]}}],"content":{"from":{"email":"a@example.com","name":"A"},"reply_to":{"email":"r@example.com"},"subject":"Hi","headers":{"X-A":"b"},"text_body":"{{ x }}"},"substitutions":{"a":"b"}}"#,
    r#"{"content":"Subject: a\n\nb","recipients":[{"email":"c@example.net"}],"envelope_sender":"b@example.com"}"#,
];
const ZONEMTA: &[&str] = &[
    r#"{"envelope":{"from":"b@example.com","to":["c@example.net"]},"from":{"name":"A","address":"a@example.com"},"to":"C <c@example.net>","headers":[{"key":"X-A","value":["1","2"]}],"subject":"Hi"}"#,
    r#"{"envelope":{"from":false,"to":"c@example.net"},"raw":"From: =?utf-8?Q?A?= <a@example.com>\r\nTo: c\r\n\r\nhello"}"#,
];
const RFC822: &[&str] = &[
    "From: \"A, b\" (c) <a@example.com>,\r\n d@example.com\r\nSubject: a\r\n\tb\r\n\r\nhello",
    "from:a@example.com\nTo: undisclosed:;\n\n",
];

const ZONEMTA_RAW: &[&str] = &[
    "From: \"A, b\" <a@example.com>\r\nTo: c@example.net,\r\n D <d@example.com>\r\nSubject: a\r\n\r\nhello",
    "from:a@example.com\nSender: =?utf-8?Q?A?= <a@example.com>\nbcc: c@example.net\n\n",
];

/// What faults are made of.
const WORDS: &[&str] = &[
    "From: e@x.example",
    "\\r\\nFrom: e@x.example\\r\\n",
    "\r\n",
    "\n",
    "\\n",
    "\\r",
    "\\u0000",
    "\\ud83d",
    "\\u000a",
    "{{",
    "}}",
    "{%",
    "{{-",
    "{{ x }}",
    "\"from\":",
    "\"From\":\"a@b.c\",",
    "\"email\":",
    "\"content\":\"\",",
    "\"envelope_sender\":\"e@x.example\",",
    "\"recipients\":[],",
    "\"cc\":\"e@x.example\",",
    "@",
    "<",
    ">",
    "(",
    ")",
    ",",
    ":",
    ";",
    "\"",
    "\\\"",
    "\\",
    "[",
    "]",
    "{",
    "}",
    "null",
    "1e999",
    " ",
    "\t",
    "=?utf-8?Q?a?=",
    "\u{feff}",
    "ü",
    "\u{2028}",
];

fn seeds(format: Format) -> &'static [&'static str] {
    match format {
        Format::KumoMta => KUMOMTA,
        Format::ZoneMta => ZONEMTA,
        Format::Rfc822 => RFC822,
        Format::ZoneMtaRaw => ZONEMTA_RAW,
    }
}

fn mutate(random: &mut Random, seeds: &[&str]) -> Vec<u8> {
    let mut body = random.one_of(seeds).unwrap_or_default().as_bytes().to_vec();
    for _ in 0..random.below(5) {
        let at = random.below(body.len() + 1);
        let length = random.below(body.len() - at + 1).min(random.below(64));
        match random.below(8) {
            0 => {
                if let Some(byte) = body.get_mut(at) {
                    *byte = random.byte();
                }
            }
            1 => drop(body.drain(at..at + length)),
            2 => {
                let part: Vec<u8> = body.iter().skip(at).take(length).copied().collect();
                body.splice(at..at, part);
            }
            3 => {
                let other = random.one_of(seeds).unwrap_or_default();
                let from = random.below(other.len());
                let part = other.bytes().skip(from).take(random.below(64));
                body.splice(at..at, part);
            }
            4 if random.below(16) == 0 => body.truncate(at),
            5 if random.below(256) == 0 => {
                let word = random.one_of(WORDS).unwrap_or_default();
                let many = word.repeat(random.below(100_000));
                body.splice(at..at, many.into_bytes());
            }
            _ => {
                let word = random.one_of(WORDS).unwrap_or_default();
                body.splice(at..at + length.min(random.below(8)), word.bytes());
            }
        }
    }
    body
}

#[derive(Debug, Clone, Copy)]
enum Coding {
    None,
    Gzip,
    Deflate,
}

/// Encodes some, and breaks some of these.
fn encode(random: &mut Random, body: Vec<u8>) -> (Coding, Vec<u8>) {
    // Writing into memory does not fail.
    let (coding, encoded) = match random.below(16) {
        0 => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            let _ = encoder.write_all(&body);
            (Coding::Gzip, encoder.finish().unwrap_or_default())
        }
        1 => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            let _ = encoder.write_all(&body);
            (Coding::Deflate, encoder.finish().unwrap_or_default())
        }
        _ => return (Coding::None, body),
    };
    let mut encoded = encoded;
    if random.below(2) == 0 {
        let at = random.below(encoded.len());
        if let Some(byte) = encoded.get_mut(at) {
            *byte = random.byte();
        }
    }
    (coding, encoded)
}

fn headers_for(format: Format, coding: Coding, random: &mut Random) -> HeaderMap {
    let mut headers = HeaderMap::new();
    match coding {
        Coding::None => {}
        Coding::Gzip => drop(headers.insert("content-encoding", HeaderValue::from_static("gzip"))),
        Coding::Deflate => {
            drop(headers.insert("content-encoding", HeaderValue::from_static("deflate")));
        }
    }
    if matches!(format, Format::Rfc822 | Format::ZoneMtaRaw) {
        headers.insert("content-type", HeaderValue::from_static("message/rfc822"));
    }
    if format == Format::Rfc822 {
        for (name, value) in [
            ("x-envelope-from", "<b@example.com>"),
            ("x-envelope-to", "c@example.net, <d@example.net>"),
        ] {
            let mut value = value.as_bytes().to_vec();
            if random.below(8) == 0 {
                let at = random.below(value.len());
                value.splice(at..at, random.one_of(WORDS).unwrap_or_default().bytes());
            }
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(name, value);
            }
        }
    }
    headers
}

/// The most that this process had in memory at once; 0 where that cannot be known.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    line.and_then(|it| it.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}
