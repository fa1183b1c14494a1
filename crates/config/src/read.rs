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

use crate::limits::{message_rules, quotas, warn_about_idle_limits};
use crate::listeners::{listeners, taken};
use crate::routes::routes;
use crate::secret;
use crate::section::Section;
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
        .optional("threads", value::integer(1..=1024_usize))
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
    let time = || value::duration(Duration::ZERO..=HOUR);
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
    let file = section.required("file", value::text);
    let workers = section.optional("workers", value::integer(1..=256_usize));
    let queue = section.or("queue", 1024, value::integer(1..=1_000_000_usize));
    let callback_timeout = section.or(
        "callback_timeout",
        Duration::from_secs(5),
        value::duration(MILLISECOND..=HOUR),
    );
    let shadow = section.optional("shadow", value::text);
    let memory_limit = section.or("memory_limit", 64 << 20, value::size(1 << 20..=4 << 30));
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
    let realm = basic.or("realm", "gatepost".to_owned(), |node| {
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
    });
    let missing_password = basic.or(
        "missing_password",
        default.missing_password,
        value::word(&[
            ("refuse", MissingPassword::Refuse),
            ("nil", MissingPassword::Nil),
        ]),
    );
    let length = || value::integer(1..=16_384_usize);
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

fn decision_cache(mut section: Section<'_>) -> DecisionCache {
    let ttl = value::duration(Duration::ZERO..=24 * HOUR);
    let cache = DecisionCache {
        ttl: section.or("ttl", Duration::from_secs(60), ttl),
        capacity: section.or("capacity", 10_000, value::integer(1..=10_000_000_usize)),
    };
    section.finish();
    cache
}

fn reload(mut section: Section<'_>) -> Reload {
    let often = value::duration(Duration::from_millis(100)..=HOUR);
    let watch = section.or("watch", Some(Duration::from_secs(1)), |node| {
        if value::is_off(node) {
            Ok(None)
        } else {
            often(node).map(Some)
        }
    });
    section.finish();
    Reload { watch }
}

fn admin(
    root: &mut Section<'_>,
    listeners: &[Listener],
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<Admin> {
    if root.node("admin").is_some_and(value::is_off) {
        return None;
    }
    let mut section = root.section("admin");
    let default = SocketAddr::from((IpAddr::from([127, 0, 0, 1]), 9090));
    let listen = section.or("listen", default, value::listen_address);
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
        None if section.node("token").is_none() && !listen.ip().to_canonical().is_loopback() => {
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
    let off = root.node("throttle").is_some_and(value::is_off);
    let mut section = if off {
        root.empty_section("throttle")
    } else {
        root.section("throttle")
    };
    let rate = |count| (!off).then(|| Rate::new(count, MINUTE).ok()).flatten();
    let throttle = Throttle {
        per_address: section.or("per_address", rate(100), value::rate_or_off),
        per_address_and_user: section.or("per_address_and_user", rate(10), value::rate_or_off),
        exempt: section
            .list("exempt", "[10.0.0.0/8]", value::network)
            .into_iter()
            .collect(),
        entries: section.or("entries", 262_144, value::integer(1024..=16_777_216_usize)),
        redis: secret::redis(&mut section, "redis", folder, files),
    };
    section.finish();
    throttle
}

fn audit(mut section: Section<'_>, folder: &Path) -> Audit {
    let output = section.or("output", AuditOutput::Off, |node| {
        if value::is_off(node) {
            return Ok(AuditOutput::Off);
        }
        let text = value::text(node)?;
        Ok(if text == "stdout" {
            AuditOutput::Stdout
        } else {
            AuditOutput::File(folder.join(text))
        })
    });
    let names = [
        ("plain", AuditNames::Plain),
        ("hash_secrets", AuditNames::HashSecrets),
        ("hash_all", AuditNames::HashAll),
    ];
    let names = section.or("names", AuditNames::HashSecrets, value::word(&names));
    let messages = section.or("messages", false, value::truth);
    section.finish();
    Audit {
        output,
        names,
        messages,
    }
}

fn http(mut section: Section<'_>) -> Http {
    let timeout = || value::duration(MILLISECOND..=HOUR);
    let default = HeadLimits::default();
    let max_bytes = section.or("max_head_bytes", 32 << 10, value::size(1 << 10..=1 << 20));
    let head_limits = HeadLimits {
        max_bytes: usize::try_from(max_bytes).unwrap_or(default.max_bytes),
        max_fields: section.or(
            "max_head_fields",
            default.max_fields,
            value::integer(10..=256_usize),
        ),
    };
    let request_body_limit = section.or(
        "request_body_limit",
        64 << 20,
        value::size(1 << 10..=4 << 30),
    );
    let bodies_in_memory = section.or(
        "bodies_in_memory",
        512 << 20,
        value::size(1 << 20..=1 << 40),
    );
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
            value::integer(1..=10_000_000_usize),
        ),
        max_connections_per_address: section.or(
            "max_connections_per_address",
            None,
            value::or_off(value::integer(1..=10_000_000_usize)),
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
            value::or_off(value::size(1..=1 << 30)),
        ),
        max_requests_per_connection: section.or(
            "max_requests_per_connection",
            Some(10_000),
            value::or_off(value::integer(1..=1_000_000_000_usize)),
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
        format: section.or("format", LogFormat::Auto, value::word(&formats)),
        level: section.or("level", "info", value::word(&levels)).to_owned(),
    };
    section.finish();
    log
}

fn metrics(mut section: Section<'_>) -> Metrics {
    let count = value::integer(0..=1000_usize);
    let top_identities = section.or("top_identities", 0, |node| {
        if value::is_off(node) {
            Ok(0)
        } else {
            count(node)
        }
    });
    section.finish();
    Metrics { top_identities }
}
