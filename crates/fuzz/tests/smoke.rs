//! Every target with its corpus and a few mutations of it, always the same ones, so that targets and corpora do not rot. `make fuzz`
//! looks for more.

#![cfg(test)] // Tells clippy that helpers may unwrap as tests may.

use std::fs;
use std::path::PathBuf;

use gatepost_fuzz::{TARGETS, Target, Verdict};

/// Of each seed.
const MUTATIONS: usize = 24;

/// Of all seeds together, in bytes.
const LARGEST: u64 = 200 << 10;

/// Seeds by name. Those called `ok-…` are accepted, those called `no-…` refused; of others nothing is known.
fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = target.corpus();
    let entries = fs::read_dir(&folder).unwrap_or_else(|fault| panic!("{folder:?}: {fault}"));
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

#[track_caller]
fn check(name: &str) {
    let target = Target::named(name).unwrap();
    let seeds = seeds(target);
    let mut random = Random(seeds.len() as u64);
    let mut accepted = 0;
    for (name, seed) in &seeds {
        let verdict = (target.run)(seed).unwrap_or_else(|finding| panic!("{name}: {finding}"));
        match name.split('-').next() {
            Some("ok") => assert_eq!(verdict, Verdict::Accepted, "{name}"),
            Some("no") => assert_eq!(verdict, Verdict::Refused, "{name}"),
            _ => {}
        }
        accepted += usize::from(verdict == Verdict::Accepted);
        for _ in 0..MUTATIONS {
            let bytes = random.mutate(seed, &seeds);
            let found = (target.run)(&bytes);
            assert!(
                found.is_ok(),
                "{}, of {name}: {}",
                found.unwrap_err(),
                bytes.escape_ascii()
            );
        }
    }
    assert!(
        accepted >= 3,
        "what is behind the first checks is not tried"
    );
    assert!(seeds.len() - accepted >= 3, "nothing is refused");
}

#[test]
fn credentials() {
    check("credentials");
}

#[test]
fn path() {
    check("path");
}

#[test]
fn proxy_header() {
    check("proxy_header");
}

#[test]
fn forwarded() {
    check("forwarded");
}

#[test]
fn routes() {
    check("routes");
}

#[test]
fn framing() {
    check("framing");
}

#[test]
fn config() {
    check("config");
}

#[test]
fn message() {
    check("message");
}

#[test]
fn requests() {
    check("requests");
}

/// No target is without a test, no folder without a target, and all of it stays small.
#[test]
fn the_corpus_is_whole_and_small() {
    let tests = include_str!("smoke.rs");
    let mut size = 0;
    let mut folders: Vec<PathBuf> = Vec::new();
    for target in TARGETS {
        let call = format!("    check(\"{}\");", target.name);
        assert!(tests.contains(&call), "{} has no test", target.name);
        for (name, seed) in seeds(target) {
            let kind = name.split('-').next();
            assert!(
                matches!(kind, Some("ok" | "no" | "found")),
                "what is {name}?"
            );
            size += seed.len() as u64;
        }
        folders.push(target.corpus());
    }
    assert!(size <= LARGEST, "{size} bytes");
    let parent = folders[0].parent().unwrap();
    for entry in fs::read_dir(parent).unwrap() {
        let path = entry.unwrap().path();
        assert!(folders.contains(&path), "{path:?} is no target's");
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

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap()
    }

    /// One to three changes: a byte, a part left out, doubled, or taken from another seed.
    fn mutate(&mut self, seed: &[u8], seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let length = self.below(16).min(bytes.len() - at);
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] = self.next().to_le_bytes()[0],
                1 => drop(bytes.drain(at..at + length)),
                2 => {
                    let part = bytes[at..at + length].to_vec();
                    bytes.splice(at..at, part);
                }
                3 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => {
                    let other = &seeds[self.below(seeds.len())].1;
                    let from = self.below(other.len() + 1);
                    let part = other[from..].iter().take(self.below(48)).copied();
                    bytes.splice(at..at + length, part);
                }
            }
        }
        bytes
    }
}
