//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Version and git revision, for `--version`.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("GATEPOST_REVISION"),
    ")"
);

/// The git revision of this build.
pub(crate) const REVISION: &str = env!("GATEPOST_REVISION");

#[derive(Debug, Parser)]
#[command(name = "gatepost", version = VERSION, about = "An auth sidecar for mail-injection APIs")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve until SIGTERM
    Run {
        /// The YAML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Load configuration and policy, print every fault, change nothing
    Check {
        /// The YAML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Ask the policy about a user, as a request would; the password is asked for, or read from standard input
    Auth {
        /// The YAML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The user name
        user: String,
    },
    /// Hash a password for a policy; it is asked for, or read from standard input
    Hash {
        /// argon2id, bcrypt or sha512-crypt
        #[arg(long, default_value = "argon2id")]
        algorithm: String,
    },
    /// Run tests of a policy
    Test {
        /// Lua files; of a folder, every `*_test.lua` in it
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Serve in front of the embedded injection API, and print requests to try
    Demo {
        /// The YAML file; its upstream must be `demo`
        #[arg(long, value_name = "FILE", default_value = "config/demo.yaml")]
        config: PathBuf,
    },
}
