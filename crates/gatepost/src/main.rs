//! The command line: `gatepost run`, `gatepost check`, `gatepost demo`.

mod check;
mod cli;
mod demo;
mod logging;
mod serve;
mod settings;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Arguments, Command};

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run { config } => serve::run(&config).map(|()| ExitCode::SUCCESS),
        Command::Check { config } => check::run(&config, &mut std::io::stdout().lock()),
        Command::Demo { config } => serve::demo(&config).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|fault| {
        // If even this cannot be written, the exit status still says it.
        let _ = writeln!(std::io::stderr(), "{fault:#}");
        ExitCode::FAILURE
    })
}
