//! `gatepost demo`: the requests that it prints do what it says.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::harness::{BINARY, wait_for, write};

/// The newcomer copies the three lines into a shell.
#[test]
fn the_printed_requests_behave_as_printed() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = tempfile::tempdir().unwrap();
    // The shipped file, on free ports, next to the shipped policy.
    let yaml = std::fs::read_to_string(root.join("config/demo.yaml")).unwrap();
    let yaml = yaml
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9090", "127.0.0.1:0")
        .replace("../lua/", &format!("{}/", root.join("lua").display()));
    let config = write(folder.path(), "demo.yaml", &yaml);
    let mut child = Command::new(BINARY)
        .args(["demo", "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    for line in lines {
        if let Some((_, rest)) = line.split_once(": ")
            && line.trim_start().starts_with(['1', '2', '3'])
        {
            expected.push(rest[..3].to_owned());
        }
        if line.trim_start().starts_with("curl ") {
            requests.push(line.trim().to_owned());
        }
        if line.starts_with("Stop with") {
            break;
        }
    }
    assert_eq!(expected, ["200", "401", "200"]);
    assert_eq!(requests.len(), 3);
    wait_for("the gate to serve", || {
        shell(&requests[0]).starts_with("HTTP/1.1 ")
    });
    for (request, status) in requests.iter().zip(&expected) {
        let answer = shell(request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}\n{answer}"
        );
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn shell(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", &format!("{command} -sS --max-time 20")])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}
