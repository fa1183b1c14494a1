//! What a read costs: the time of one of a small KumoMTA body, and time and memory of one of 50 MB. Part of
//! `make figures`; not a test, since time is not a fact.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;
use gatepost_message::{Format, Limits, read};
use http::HeaderMap;

const LIMITS: Limits = Limits {
    max_bytes: 100 << 20,
    max_header_bytes: 64 << 10,
    max_recipients: 10_000,
};
const READS: u32 = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let headers = HeaderMap::new();
    let small = body(2048);
    let mut best = u128::MAX;
    // The least of several is what the machine's other work disturbed least.
    for _ in 0..5 {
        let begin = Instant::now();
        for _ in 0..READS / 5 {
            black_box(read(Format::KumoMta, &headers, black_box(&small), &LIMITS)?);
        }
        best = best.min(begin.elapsed().as_nanos() / u128::from(READS / 5));
    }

    let large = body(50 << 20);
    let mut zipped = HeaderMap::new();
    zipped.insert("content-encoding", "gzip".parse()?);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&large)?;
    let compressed = encoder.finish()?;

    // The plain one first: the peak only rises.
    let mut lines = vec![format!(
        "{best} ns to read a KumoMTA body of {} bytes",
        small.len()
    )];
    for (how, headers, body) in [("", &headers, &large), (", gzipped", &zipped, &compressed)] {
        let before = peak_kib()?;
        let begin = Instant::now();
        black_box(read(Format::KumoMta, headers, black_box(body), &LIMITS)?);
        let elapsed = begin.elapsed();
        let more = peak_kib()? - before;
        let mib = large.len() >> 20;
        let rate = f64::from(u32::try_from(mib)?) / elapsed.as_secs_f64();
        lines.push(format!(
            "{rate:.0} MiB/s and {} MiB more memory at the peak for one of {mib} MiB{how}",
            more.div_ceil(1024)
        ));
    }
    for line in lines {
        writeln!(std::io::stdout(), "FIGURE {line}")?;
    }
    Ok(())
}

/// A message with an attachment in base64, whose lines end as they do in JSON.
fn body(length: usize) -> Vec<u8> {
    let head = r#"{"envelope_sender":"bounces@example.com","recipients":[{"email":"c@example.net","name":"C"}],"content":"From: \"Doe, Jane\" <jane@example.com>\r\nTo: c@example.net\r\nSubject: Hello {{ name }}\r\nMIME-Version: 1.0\r\nMessage-ID: <1@example.com>\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"#;
    let line = r"TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuTWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuTWFu\r\n";
    let mut body = head.as_bytes().to_vec();
    body.reserve_exact(length);
    while body.len() + line.len() + 2 < length {
        body.extend_from_slice(line.as_bytes());
    }
    body.extend_from_slice(b"\"}");
    body
}

/// The most that this process had in memory at once, as Linux counts it.
fn peak_kib() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
