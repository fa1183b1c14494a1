//! From the tree to settings: one function for each section of the file. What a key means to an
//! operator stands in `config/reference.yaml`; what a value may be stands here.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatepost_auth::headers::ProtectedNames;
use gatepost_auth::signature::SigningKeys;
use gatepost_auth::throttle::Rate;
use gatepost_auth::wire::HeadLimits;
use gatepost_auth::{CredentialRules, Gate, MissingPassword, Sayable};
use http::HeaderName;
use serde_json::json;

use crate::kind::{self, Kind, Takes};
use crate::limits::{message_rules, quotas, warn_about_idle_limits};
use crate::listeners::{listeners, taken};
use crate::node::Node;
use crate::routes::routes;
use crate::secret;
use crate::section::{Complaint, Section};
use crate::settings::{
    Admin, Audit, AuditNames, AuditOutput, Companions, DecisionCache, Http, IdentityForm, Listener,
    Log, LogFormat, Metrics, Policy, Reload, Settings, Throttle, Upstream,
};
use crate::traces::traces;
use crate::trust::trust;
use crate::upstream::upstream;
use crate::value;

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Reads the whole document. `None` where a fault left something out; it has been recorded. The policy
/// section is handed out also where others are faulty.
pub(crate) fn settings(
    mut root: Section<'_>,
    folder: &Path,
    policy_read: &mut Option<Policy>,
) -> Option<Settings> {
    let mut files = Vec::new();
    let listeners = listeners(&mut root, folder, &mut files);
    let upstream = root
        .required_section("upstream")
        .and_then(|it| upstream(it, folder, &mut files));
    let policy = root
        .required_section("policy")
        .and_then(|it| policy(it, folder));
    policy_read.clone_from(&policy);
    let trust = trust(&mut root, &listeners);
    let (credentials, realm) = credentials(&mut root);
    let routes = routes(&mut root);
    let decision_cache = decision_cache(root.section("decision_cache"));
    let reload = reload(root.section("reload"));
    let admin = admin(&mut root, &listeners, folder, &mut files);
    let http = http(root.section("http"));
    let threads = root
        .optional("threads", kind::integer(1..=1024_usize))
        .and_then(NonZeroUsize::new);
    let (drain_delay, drain_timeout) = drain(&mut root);
    let throttle = throttle(&mut root, folder, &mut files);
    let message_rules = message_rules(&mut root);
    let quotas = quotas(root.section("quotas"), folder, &mut files);
    warn_about_idle_limits(&root, &routes, &message_rules, &quotas);
    let audit = audit(root.section("audit"), folder);
    let log = log(root.section("log"));
    let metrics = metrics(root.section("metrics"));
    let traces = traces(&mut root);
    root.finish();
    let upstream = upstream?;
    let gate = Gate {
        trusted_hosts: trust.hosts,
        trusted_proxies: trust.proxies,
        hop_header: trust.hop_header,
        routes,
        credentials,
        protected: ProtectedNames::new(&own_headers(&upstream)),
        realm,
        sayable: match &upstream.identity {
            IdentityForm::BasicUser(_) => Sayable::WithoutColon,
            IdentityForm::Header(_) | IdentityForm::Basic(_) | IdentityForm::Bearer(_) => {
                Sayable::Any
            }
        },
        message_rules,
    };
    let policy = policy?;
    Some(Settings {
        listeners,
        upstream,
        gate,
        policy,
        decision_cache,
        reload,
        admin,
        http,
        threads,
        drain_delay,
        drain_timeout,
        throttle,
        quotas,
        audit,
        log,
        metrics,
        traces,
        files,
        warnings: Vec::new(),
    })
}

/// How long connections are accepted after SIGTERM, and how long requests may take then.
fn drain(root: &mut Section<'_>) -> (Duration, Duration) {
    let time = || kind::duration(Duration::ZERO..=HOUR);
    (
        root.or("drain_delay", Duration::ZERO, time()),
        root.or("drain_timeout", Duration::from_secs(25), time()),
    )
}

/// The names under which the upstream learns something from gatepost.
fn own_headers(upstream: &Upstream) -> Vec<HeaderName> {
    let mut names = Vec::new();
    if let IdentityForm::Header(name) = &upstream.identity {
        names.push(name.clone());
    }
    let Companions {
        mechanism,
        groups,
        client,
    } = &upstream.companions;
    names.extend([mechanism, groups, client].into_iter().flatten().cloned());
    names.extend(upstream.signature.as_ref().map(|it| it.header.clone()));
    names.extend(
        upstream
            .meta_headers
            .iter()
            .map(|(_, header)| header.clone()),
    );
    names
}

fn policy(mut section: Section<'_>, folder: &Path) -> Option<Policy> {
    let file = section.required("file", kind::path());
    let workers = section.optional("workers", kind::integer(1..=256_usize));
    let queue = section.or("queue", 1024, kind::integer(1..=1_000_000_usize));
    let callback_timeout = section.or(
        "callback_timeout",
        Duration::from_secs(5),
        kind::duration(MILLISECOND..=HOUR),
    );
    let shadow = section.optional("shadow", kind::path());
    let memory_limit = section.or("memory_limit", 64 << 20, kind::size(1 << 20..=4 << 30));
    section.finish();
    Some(Policy {
        file: folder.join(file?),
        shadow: shadow.map(|file| folder.join(file)),
        workers: workers.and_then(NonZeroUsize::new),
        queue,
        callback_timeout,
        memory_limit,
    })
}

fn credentials(root: &mut Section<'_>) -> (CredentialRules, String) {
    let default = CredentialRules::default();
    let mut basic = root.section("basic");
    let realm_kind = Kind::text(
        "a text of at most 64 ASCII characters",
        r"^[ !#-\[\]-~]{1,64}$",
        realm,
    );
    let realm = basic.or(
        "realm",
        "gatepost".to_owned(),
        realm_kind.written(|it| json!(it)),
    );
    let passwords = [
        ("refuse", MissingPassword::Refuse),
        ("nil", MissingPassword::Nil),
    ];
    let missing_password = basic.or(
        "missing_password",
        default.missing_password,
        kind::word(&passwords),
    );
    let length = || kind::integer(1..=16_384_usize);
    let max_user_bytes = basic.or("max_user_bytes", default.max_user_bytes, length());
    let max_password_bytes = basic.or("max_password_bytes", default.max_password_bytes, length());
    basic.finish();
    let mut bearer = root.section("bearer");
    let max_token_bytes = bearer.or("max_token_bytes", default.max_token_bytes, length());
    bearer.finish();
    (
        CredentialRules {
            max_user_bytes,
            max_password_bytes,
            max_token_bytes,
            missing_password,
        },
        realm,
    )
}

fn realm(node: &Node) -> Result<String, Complaint> {
    let text = value::text(node)?;
    // RFC 9110 §5.6.4: as a quoted string these need no escaping.
    let plain = text.len() <= 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'));
    if plain {
        Ok(text)
    } else {
        Err("a realm is at most 64 ASCII characters without `\"` and `\\`".to_owned())
    }
}

fn decision_cache(mut section: Section<'_>) -> DecisionCache {
    let ttl = kind::duration(Duration::ZERO..=24 * HOUR);
    let cache = DecisionCache {
        ttl: section.or("ttl", Duration::from_secs(60), ttl),
        capacity: section.or("capacity", 10_000, kind::integer(1..=10_000_000_usize)),
    };
    section.finish();
    cache
}

fn reload(mut section: Section<'_>) -> Reload {
    let often = kind::duration(Duration::from_millis(100)..=HOUR);
    let watch = section.or("watch", Some(Duration::from_secs(1)), kind::or_off(often));
    section.finish();
    Reload { watch }
}

fn admin(
    root: &mut Section<'_>,
    listeners: &[Listener],
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<Admin> {
    let (mut section, is_off) = root.section_or_off("admin");
    if is_off {
        return None;
    }
    let default = SocketAddr::from((IpAddr::from([127, 0, 0, 1]), 9090));
    let address = Kind::text(
        "`IP:PORT`",
        r"^(?:[0-9.]+:[0-9]+|\[[0-9A-Fa-f:.]+(?:%[0-9]+)?\]:[0-9]+)$",
        value::listen_address,
    );
    let listen = section.or(
        "listen",
        default,
        address.written(|it| json!(it.to_string())),
    );
    if let Some(other) = taken(listen, listeners) {
        section.reader().fault(
            section.place(),
            format!("clients are listened to on {other}; the admin listener needs a port of its own, not {listen}"),
        );
    }
    let token = secret::optional(&mut section, "token", folder, files);
    match &token {
        Some((token, place)) if token.expose().len() < SigningKeys::MIN_SECRET_BYTES => {
            let message = format!(
                "the token has at least {} bytes",
                SigningKeys::MIN_SECRET_BYTES
            );
            section.reader().fault(*place, message);
        }
        None if section.peek("token").is_none() && !listen.ip().to_canonical().is_loopback() => {
            section.reader().fault(
                section.place(),
                format!("`admin.token` is missing: {listen} is not on loopback, and without it everybody could reload and change limits"),
            );
        }
        Some(_) | None => {}
    }
    section.finish();
    let token = token.map(|(token, _)| token);
    Some(Admin { listen, token })
}

fn throttle(root: &mut Section<'_>, folder: &Path, files: &mut Vec<PathBuf>) -> Throttle {
    let (mut section, is_off) = root.section_or_off("throttle");
    let rate = |count| (!is_off).then(|| Rate::new(count, MINUTE).ok()).flatten();
    let throttle = Throttle {
        per_address: section.or("per_address", rate(100), kind::rate_or_off()),
        per_address_and_user: section.or("per_address_and_user", rate(10), kind::rate_or_off()),
        exempt: section
            .list("exempt", "[10.0.0.0/8]", kind::network())
            .into_iter()
            .collect(),
        longest_pause: section.or(
            "longest_pause",
            if is_off {
                Duration::ZERO
            } else {
                Duration::from_secs(1)
            },
            kind::duration(Duration::ZERO..=Duration::from_secs(10)),
        ),
        entries: section.or("entries", 262_144, kind::integer(1024..=16_777_216_usize)),
        redis: secret::redis(&mut section, "redis", folder, files),
    };
    section.finish();
    throttle
}

fn audit(mut section: Section<'_>, folder: &Path) -> Audit {
    let places = Takes::new(
        json!({ "type": "string", "pattern": kind::TEXT }),
        "`stdout`, or the path of a file",
    );
    let output = Kind::new(places.or(&kind::off()), |node| {
        if value::is_off(node) {
            return Ok(None);
        }
        let text = value::text(node)?;
        Ok(Some(if text == "stdout" {
            AuditOutput::Stdout
        } else {
            AuditOutput::File(folder.join(text))
        }))
    });
    let output = section.or("output", None, output.written(|_| json!("off")));
    let output = output.unwrap_or(AuditOutput::Off);
    let names = [
        ("plain", AuditNames::Plain),
        ("hash_secrets", AuditNames::HashSecrets),
        ("hash_all", AuditNames::HashAll),
    ];
    let names = section.or("names", AuditNames::HashSecrets, kind::word(&names));
    let messages = section.or("messages", false, kind::truth());
    section.finish();
    Audit {
        output,
        names,
        messages,
    }
}

fn http(mut section: Section<'_>) -> Http {
    let timeout = || kind::duration(MILLISECOND..=HOUR);
    let default = HeadLimits::default();
    let max_bytes = section.or("max_head_bytes", 32 << 10, kind::size(1 << 10..=1 << 20));
    let head_limits = HeadLimits {
        max_bytes: usize::try_from(max_bytes).unwrap_or(default.max_bytes),
        max_fields: section.or(
            "max_head_fields",
            default.max_fields,
            kind::integer(10..=256_usize),
        ),
    };
    let request_body_limit = section.or(
        "request_body_limit",
        64 << 20,
        kind::size(1 << 10..=4 << 30),
    );
    let bodies_in_memory = section.or("bodies_in_memory", 512 << 20, kind::size(1 << 20..=1 << 40));
    if bodies_in_memory < request_body_limit {
        section.reader().fault(
            section.place(),
            "`http.bodies_in_memory` is less than `http.request_body_limit`: the largest body would never fit",
        );
    }
    let http = Http {
        max_connections: section.or(
            "max_connections",
            10_000,
            kind::integer(1..=10_000_000_usize),
        ),
        max_connections_per_address: section.or(
            "max_connections_per_address",
            None,
            kind::or_off(kind::integer(1..=10_000_000_usize)),
        ),
        head_limits,
        head_timeout: section.or("head_timeout", Duration::from_secs(10), timeout()),
        keepalive_timeout: section.or("keepalive_timeout", Duration::from_secs(60), timeout()),
        body_timeout: section.or("body_timeout", Duration::from_secs(60), timeout()),
        request_body_limit,
        bodies_in_memory,
        min_body_rate: section.or(
            "min_body_rate",
            Some(1024),
            kind::or_off(kind::size(1..=1 << 30)),
        ),
        max_requests_per_connection: section.or(
            "max_requests_per_connection",
            Some(10_000),
            kind::or_off(kind::integer(1..=1_000_000_000_usize)),
        ),
    };
    section.finish();
    http
}

fn log(mut section: Section<'_>) -> Log {
    let formats = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
    ];
    let levels = ["error", "warn", "info", "debug", "trace"].map(|level| (level, level));
    let log = Log {
        format: section.or("format", LogFormat::Auto, kind::word(&formats)),
        level: section.or("level", "info", kind::word(&levels)).to_owned(),
    };
    section.finish();
    log
}

fn metrics(mut section: Section<'_>) -> Metrics {
    let count = kind::or_off(kind::integer(0..=1000_usize));
    let top_identities = section.or("top_identities", None, count).unwrap_or(0);
    section.finish();
    Metrics { top_identities }
}
