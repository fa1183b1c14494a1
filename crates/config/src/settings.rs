//! Settings as used: what cannot be used cannot be built.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use gatepost_auth::Gate;
use gatepost_auth::wire::HeadLimits;
use http::HeaderName;

use crate::fault::Fault;

/// Everything that one file says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// Where requests go.
    pub upstream: Upstream,
    /// Everything that decides about trust.
    pub gate: Gate,
    /// The operator's Lua.
    pub policy: Policy,
    /// What is remembered of the policy's judgements.
    pub decision_cache: DecisionCache,
    /// When configuration and policy are read again.
    pub reload: Reload,
    /// The admin listener, unless it is off.
    pub admin: Option<Admin>,
    /// Limits on requests.
    pub http: Http,
    /// Proxy threads; `None` is one per core.
    pub threads: Option<NonZeroUsize>,
    /// How long requests in flight may take after SIGTERM.
    pub drain_timeout: Duration,
    /// Log lines.
    pub log: Log,
    /// What is allowed, but probably not meant.
    pub warnings: Vec<Fault>,
}

/// One listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Its address; port 0 lets the system choose.
    pub listen: SocketAddr,
}

/// Where requests go, and how.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The injection API.
    pub address: UpstreamAddress,
    /// How the MTA learns the identity.
    pub identity: IdentityForm,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the next bytes of an answer.
    pub response_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// How many idle connections are kept in all.
    pub max_idle_connections: usize,
}

/// Where the injection API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// Plain HTTP over TCP. The host is a name or an address without brackets.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Plain HTTP over a Unix domain socket.
    Unix(PathBuf),
    /// The embedded injection API.
    Demo {
        /// The `SQLite` file that keeps its messages; in memory otherwise.
        store: Option<PathBuf>,
    },
}

/// How the MTA learns the identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityForm {
    /// In a header of this name.
    Header(HeaderName),
}

/// The operator's Lua.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The file.
    pub file: PathBuf,
    /// Worker threads; `None` is one per core.
    pub workers: Option<NonZeroUsize>,
    /// How many calls may wait for a worker.
    pub queue: usize,
    /// Longest time for one call, waiting included.
    pub callback_timeout: Duration,
    /// Memory of one worker's Lua, in bytes.
    pub memory_limit: u64,
}

/// What is remembered of the policy's judgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionCache {
    /// How long accepted credentials are remembered; zero for not at all.
    pub ttl: Duration,
    /// How many are remembered.
    pub capacity: usize,
}

/// When configuration and policy are read again, beside SIGHUP and `POST /reload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// How often the files are looked at; `None` for never.
    pub watch: Option<Duration>,
}

/// The admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admin {
    /// Its address.
    pub listen: SocketAddr,
}

/// Limits on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http {
    /// How large a head may be.
    pub head_limits: HeadLimits,
    /// From a head's first byte to its last.
    pub head_timeout: Duration,
    /// How long a connection may idle between two requests.
    pub keepalive_timeout: Duration,
    /// Longest wait for the next bytes of a body.
    pub body_timeout: Duration,
}

/// Log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Their form.
    pub format: LogFormat,
    /// The least severe level that is written: `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// JSON.
    Json,
}
