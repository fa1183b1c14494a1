//! Settings as used: what cannot be used cannot be built.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use gatepost_auth::message_rules::Whom;
use gatepost_auth::quota::Quota;
use gatepost_auth::signature::SigningKeys;
use gatepost_auth::throttle::Rate;
use gatepost_auth::wire::HeadLimits;
use gatepost_auth::{Gate, Networks, Secret};
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
    /// How long connections are still accepted after SIGTERM.
    pub drain_delay: Duration,
    /// How long requests in flight may take after that.
    pub drain_timeout: Duration,
    /// What becomes of wrong credentials that come too often.
    pub throttle: Throttle,
    /// How much whom may send.
    pub quotas: Quotas,
    /// One line per decision.
    pub audit: Audit,
    /// Log lines.
    pub log: Log,
    /// What metrics tell.
    pub metrics: Metrics,
    /// Spans, where they are wanted.
    pub traces: Option<Traces>,
    /// Files that matter beside this one: secrets, certificates and keys.
    pub files: Vec<PathBuf>,
    /// What is allowed, but probably not meant.
    pub warnings: Vec<Fault>,
}

/// Where spans go, and of which requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// The URL to which a collector takes them, with its path.
    pub endpoint: String,
    /// The share of requests that make spans where nobody has decided it before, 0 to 1.
    pub sample: f64,
    /// What gatepost is called in them.
    pub service_name: String,
    /// Whether they say who a request is.
    pub identity: bool,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its address.
    pub listen: Listen,
    /// Whether connections from trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// The permissions of a Unix socket.
    pub unix_mode: u32,
    /// Whether it speaks TLS.
    pub tls: Option<ListenerTls>,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// On this address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// On a Unix domain socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// TLS of a listener. The files are read by whoever uses them, again at every reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// The certificate and those that vouch for it, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub private_key: PathBuf,
    /// Whether clients have certificates too.
    pub clients: Option<ClientCertificates>,
}

/// What is made of clients' certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Who has to vouch for them, PEM.
    pub ca: PathBuf,
    /// Whether a client without one is turned away.
    pub required: bool,
    /// Which of its names is the client's identity; none of them otherwise.
    pub identity: Option<CertificateName>,
}

/// A name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// The common name of its subject.
    SubjectCn,
    /// Its mail address.
    SanEmail,
    /// Its DNS name.
    SanDns,
    /// Its URI.
    SanUri,
}

/// Where requests go, and how.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Where the injection API is; at least one, and all are the same to clients.
    pub addresses: Vec<UpstreamAddress>,
    /// Whether it is spoken to over TLS.
    pub tls: Option<UpstreamTls>,
    /// How the MTA learns the identity.
    pub identity: IdentityForm,
    /// What it learns beside it.
    pub companions: Companions,
    /// What lets it check both.
    pub signature: Option<Signature>,
    /// Which metas of a message policy it learns, in which headers.
    pub meta_headers: Vec<(String, HeaderName)>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the next bytes of an answer.
    pub response_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// How many idle connections are kept in all.
    pub max_idle_connections: usize,
    /// From asking the upstream to the end of its answer; `None` for as long as it takes.
    pub total_timeout: Option<Duration>,
    /// Which of the addresses gets a request.
    pub balancing: Balancing,
}

/// Which of several addresses gets a request, and which get none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancing {
    /// Which of those that are up.
    pub balance: Balance,
    /// Who is asked for the addresses of names; empty for the system's.
    pub nameservers: Vec<SocketAddr>,
    /// How many requests one address works on at once; `None` for as many as come.
    pub max_connections: Option<usize>,
    /// When an address is left alone that fails; `None` for never.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How it is found out whether an address is up; `None` for not at all.
    pub health_check: Option<HealthCheck>,
}

/// Which of the addresses that are up gets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The one that works on the fewest; where several do, one after the other.
    LeastConnections,
    /// One after the other.
    RoundRobin,
}

/// When an address is left alone that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// After so many failures in a row.
    pub max_failures: u32,
    /// For so long; then one request tries it.
    pub open_for: Duration,
}

/// How it is found out whether an address is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for, by GET.
    pub path: String,
    /// How often.
    pub interval: Duration,
    /// Longest wait for the answer.
    pub timeout: Duration,
    /// After so many good answers in a row it is up.
    pub healthy_threshold: u32,
    /// After so many others in a row it is down.
    pub unhealthy_threshold: u32,
}

/// Where the injection API listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UpstreamAddress {
    /// TCP. The host is a name or an address without brackets.
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

/// TLS towards the upstream. The files are read by whoever uses them, again at every reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Who has to vouch for it, PEM; the system's authorities otherwise.
    pub ca: Option<PathBuf>,
    /// The name that its certificate has to hold: a DNS name, or an address. `None` for the host of its address.
    pub server_name: Option<String>,
    /// gatepost's own certificate and key, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether its certificate is looked at at all.
    pub verify: bool,
}

/// How the MTA learns the identity.
#[derive(Debug, Clone)]
pub enum IdentityForm {
    /// In a header of this name.
    Header(HeaderName),
    /// As Basic credentials: the user is `gatepost`, the password this secret, a colon and the identity.
    Basic(Secret),
    /// As Basic credentials: the user is the identity, the password this secret.
    BasicUser(Secret),
    /// As a bearer token that is signed with the first of these keys.
    Bearer(SigningKeys),
}

/// Headers that say more about a request than its identity, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Companions {
    /// How the identity was established.
    pub mechanism: Option<HeaderName>,
    /// The groups.
    pub groups: Option<HeaderName>,
    /// The client's address.
    pub client: Option<HeaderName>,
}

/// A header that proves what the others say.
#[derive(Debug, Clone)]
pub struct Signature {
    /// Its name.
    pub header: HeaderName,
    /// The keys; the first signs.
    pub keys: SigningKeys,
}

/// What becomes of wrong credentials that come too often.
#[derive(Debug, Clone)]
pub struct Throttle {
    /// From one address (an IPv6 client has a /64), whoever it says it is.
    pub per_address: Option<Rate>,
    /// From one address for one user.
    pub per_address_and_user: Option<Rate>,
    /// From where they may come as often as they like.
    pub exempt: Networks,
    /// The most that each refusal adds to what its connection waits before its next request is read.
    pub longest_pause: Duration,
    /// How many addresses and users are remembered.
    pub entries: usize,
    /// Where replicas tell each other, as a URL.
    pub redis: Option<Secret>,
}

/// How much whom may send.
#[derive(Debug, Clone)]
pub struct Quotas {
    /// All that are for an identity hold for it.
    pub rules: Vec<QuotaRule>,
    /// Of how many identities is remembered what they sent.
    pub entries: usize,
    /// Where replicas count together, as a URL.
    pub redis: Option<Secret>,
    /// What happens while that cannot be reached.
    pub when_down: WhenDown,
}

/// Quotas of some identities; each identity has its own of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaRule {
    /// Whose they are.
    pub whom: Vec<Whom>,
    /// Of requests.
    pub requests: Vec<Quota>,
    /// Of recipients.
    pub recipients: Vec<Quota>,
}

/// What happens while what was sent cannot be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDown {
    /// Each replica counts by itself.
    Local,
    /// Nothing is sent.
    Refuse,
}

/// Where the audit log goes, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Where.
    pub output: AuditOutput,
    /// What becomes of names that were not accepted.
    pub names: AuditNames,
    /// Whether there is a line for every message too, with its addresses.
    pub messages: bool,
}

/// Where the audit log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditOutput {
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
    /// To this file, opened again on SIGHUP.
    File(PathBuf),
}

/// What logs say of user names that were not accepted: people paste passwords and keys there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditNames {
    /// The name.
    Plain,
    /// A hash of those that look like a secret.
    HashSecrets,
    /// A hash of all of them.
    HashAll,
}

/// The operator's Lua.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The file.
    pub file: PathBuf,
    /// Another policy that is asked the same without effect.
    pub shadow: Option<PathBuf>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its address.
    pub listen: SocketAddr,
    /// What it asks of everybody but probes. Never absent where the address is not on loopback.
    pub token: Option<Secret>,
}

/// Limits on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http {
    /// How large a head may be.
    pub head_limits: HeadLimits,
    /// How many connections there may be.
    pub max_connections: usize,
    /// How many of them from one address; `None` for as many as there may be.
    pub max_connections_per_address: Option<usize>,
    /// From a head's first byte to its last.
    pub head_timeout: Duration,
    /// How long a connection may idle between two requests.
    pub keepalive_timeout: Duration,
    /// Longest wait for the next bytes of a body.
    pub body_timeout: Duration,
    /// The largest body on routes that look into it, in bytes, inflated.
    pub request_body_limit: u64,
    /// What all bodies that are looked into may take together, in bytes.
    pub bodies_in_memory: u64,
    /// How fast a body has to come, in bytes a second; `None` for as slowly as its client likes.
    pub min_body_rate: Option<u64>,
    /// How many requests of HTTP/1 a connection may bring; `None` for as many as it likes.
    pub max_requests_per_connection: Option<usize>,
}

/// What metrics tell beside what they always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// How many of the busiest identities have a series of their own; 0 for none.
    pub top_identities: usize,
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
