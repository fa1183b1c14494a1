//! `gatepost hash`: a password as a policy keeps it.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use gatepost_policy::{HashAlgorithm, hash_password};

use crate::password;

/// Prints the hash alone, so that it can be put somewhere by a script.
pub(crate) fn run(algorithm: &str, out: &mut impl Write) -> Result<ExitCode> {
    let algorithm: HashAlgorithm = algorithm.parse()?;
    let password = password::read("Password: ")?;
    if password.expose().is_empty() {
        bail!("the password is empty");
    }
    writeln!(out, "{}", hash_password(password.expose(), algorithm)?)?;
    Ok(ExitCode::SUCCESS)
}
