//! Puts the git revision into the binary, for `--version` and the build-info metric.

use std::process::Command;

fn main() {
    // Said where there is no checkout, as in an image that builds from a copy.
    println!("cargo::rerun-if-env-changed=GATEPOST_REVISION");
    let revision = std::env::var("GATEPOST_REVISION")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=GATEPOST_REVISION={revision}");
    // HEAD's log changes with every commit and checkout; without git there is nothing to watch.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    println!(
        "cargo::rerun-if-changed={}",
        log.as_deref().unwrap_or("build.rs")
    );
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
