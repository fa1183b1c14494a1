//! What can be said on the command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

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
    /// Say which route and rule decide about a request, without sending one
    Access {
        /// The YAML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Such as POST
        method: String,
        /// Such as /api/inject/v1
        path: String,
        /// A user whom the policy accepts; without one, no credentials are sent
        #[arg(long)]
        user: Option<String>,
        /// A group that the policy names for the user; may be given several times
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// The client's address
        #[arg(long, value_name = "IP")]
        from: IpAddr,
    },
    /// Check the signature of a request against the keys of the configuration
    Verify {
        /// The YAML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The request's method
        method: String,
        /// The request's path, without the query
        path: String,
        /// The signature header's value
        signature: String,
        /// The identity; empty for none
        #[arg(long, default_value = "", hide_default_value = true)]
        identity: String,
        /// The client's address
        #[arg(long, value_name = "IP")]
        client: IpAddr,
        /// The time to check at, in Unix seconds; now by default
        #[arg(long, value_name = "SECONDS")]
        at: Option<u64>,
        /// How far its time may lie from that, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        tolerance: u64,
    },
    /// Show what an identity has used of its quotas, asked of the gatepost that runs
    Quota {
        /// The YAML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The identity, as the MTA is told
        identity: String,
        /// Forget what it has sent
        #[arg(long)]
        reset: bool,
    },
    /// Ask a policy about what an audit log holds, and say where it would have decided otherwise
    Replay {
        /// The audit log, with `audit.messages: true` for messages
        #[arg(value_name = "AUDIT.jsonl")]
        audit: PathBuf,
        /// The policy
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
        /// Lines `user:password`, to ask about the credentials of these users too
        #[arg(long, value_name = "FILE")]
        passwords: Option<PathBuf>,
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
    /// Print a JSON Schema of the configuration, with which editors complete and check it
    Schema {
        /// Or the reference of every key, for people
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// For whom the configuration is described.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    Json,
    Markdown,
}
