//! The signature's vectors, held against plain openssl.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

fn vectors() -> Vec<Value> {
    serde_json::from_str(include_str!("../data/signature.json")).unwrap()
}

/// Plain openssl agrees with the vectors, by the line of docs/signature.md.
#[test]
fn the_vectors_verify_with_openssl() {
    for vector in vectors() {
        let text = |key: &str| vector[key].as_str().unwrap();
        let signed = format!(
            "gatepost-v1\n{}\n{}\n{}\n{}\n{}\n{}",
            text("key"),
            vector["time"],
            text("method"),
            text("path"),
            text("client"),
            text("identity")
        );
        let mut openssl = Command::new("openssl")
            .args(["dgst", "-sha256", "-hmac", text("secret")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        openssl
            .stdin
            .take()
            .unwrap()
            .write_all(signed.as_bytes())
            .unwrap();
        let output = openssl.wait_with_output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let mac = printed.trim().rsplit(' ').next().unwrap();
        assert!(
            text("header").ends_with(&format!("mac={mac}")),
            "{vector} {printed}"
        );
    }
}
