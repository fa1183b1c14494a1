//! Asks for a password: without showing it on a terminal, or as the first line of standard input.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, Result};
use gatepost_auth::Secret;

/// Longer lines are no passwords. In bytes.
const LONGEST: u64 = 64 * 1024;

pub(crate) fn read(prompt: &str) -> Result<Secret> {
    let stdin = std::io::stdin();
    let line = if stdin.is_terminal() {
        rpassword::prompt_password(prompt).context("cannot ask for the password")?
    } else {
        let mut line = String::new();
        let mut bounded = std::io::Read::take(stdin.lock(), LONGEST);
        bounded
            .read_line(&mut line)
            .context("cannot read the password from standard input")?;
        line
    };
    Ok(Secret::from(line.trim_end_matches(['\r', '\n'])))
}
