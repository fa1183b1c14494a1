//! The command line: `gatepost run`, `check`, `auth`, `access`, `verify`, `quota`, `replay`, `hash`, `test`, `demo`,
//! `schema`, `completions`, `man`.

mod access;
mod auth;
mod check;
mod cli;
mod demo;
mod documents;
mod hash;
mod logging;
mod password;
mod quota;
mod replay;
mod serve;
mod settings;
mod stderr;
mod test;
mod verify;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use gatepost_auth::signature::Claim;

use crate::cli::{Arguments, Command};

/// A request costs a hundred small allocations, most of them the proxy library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    let done = match Arguments::parse().command {
        Command::Run { config } => serve::run(&config).map(|()| ExitCode::SUCCESS),
        Command::Check { config } => check::run(&config, &mut out),
        Command::Auth { config, user } => auth::run(&config, &user, &mut out),
        Command::Access {
            config,
            method,
            path,
            user,
            groups,
            from,
        } => {
            let question = access::Question {
                method: &method,
                path: &path,
                user: user.as_deref(),
                groups: &groups,
                from,
            };
            access::run(&config, &question, &mut out)
        }
        Command::Verify {
            config,
            method,
            path,
            signature,
            identity,
            client,
            at,
            tolerance,
        } => {
            let claim = Claim {
                method: &method,
                path: &path,
                client: client.to_canonical(),
                identity: &identity,
            };
            let tolerance = Duration::from_secs(tolerance);
            verify::run(&config, &signature, &claim, at, tolerance, &mut out)
        }
        Command::Quota {
            config,
            identity,
            reset,
        } => quota::run(&config, &identity, reset, &mut out),
        Command::Replay {
            audit,
            policy,
            passwords,
        } => {
            let replay = replay::Replay {
                audit,
                policy,
                passwords,
            };
            Ok(replay::run(&replay, &mut out))
        }
        Command::Hash { algorithm } => hash::run(&algorithm, &mut out),
        Command::Test { files } => test::run(&files, &mut out),
        Command::Demo { config } => serve::demo(&config).map(|()| ExitCode::SUCCESS),
        Command::Schema { format } => documents::schema(format, &mut out),
        Command::Completions { shell } => documents::completions(shell, &mut out),
        Command::Man => documents::man(&mut out),
    };
    done.unwrap_or_else(|fault| {
        // If even this cannot be written, the exit status still says it.
        let _ = writeln!(std::io::stderr(), "{fault:#}");
        ExitCode::FAILURE
    })
}
