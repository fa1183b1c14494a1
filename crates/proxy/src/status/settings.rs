//! The configuration as the status page shows it: every key with the value that is in use, defaults included.
//!
//! INVARIANT: only what is named here is shown, and nothing here asks a [`gatepost_auth::Secret`] what it holds. A key
//! that is new is not on the page until somebody has thought about it.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use gatepost_auth::address::HopHeader;
use gatepost_auth::credentials::MissingPassword;
use gatepost_auth::message_rules::Whom;
use gatepost_auth::quota::Quota;
use gatepost_auth::route::Route;
use gatepost_auth::rule::Allow;
use gatepost_auth::throttle::Rate;
use gatepost_auth::{Networks, Secret};
use gatepost_config::{
    AuditNames, AuditOutput, Balance, Balancing, CertificateName, CircuitBreaker, IdentityForm,
    Listener, LogFormat, QuotaRule, Settings, Upstream, UpstreamAddress, WhenDown,
};
use gatepost_message::Format;
use http::{HeaderName, Method};
use serde::Serialize;

/// One key and what is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    key: String,
    value: String,
}

/// All of them, in the order of the reference.
pub(crate) fn shown(settings: &Settings) -> Vec<Shown> {
    let mut rows = Rows::default();
    for (index, listener) in settings.listeners.iter().enumerate() {
        rows.listener(&format!("listeners[{index}]"), listener);
    }
    rows.upstream(&settings.upstream);
    rows.trust(settings);
    rows.policy(settings);
    for (index, route) in settings.gate.routes.iter().enumerate() {
        rows.add(format!("routes[{index}]"), described(route));
    }
    let rules = settings.gate.message_rules.len();
    rows.add("message_rules", counted(rules, "rule"));
    rows.quotas(settings);
    rows.throttle(settings);
    rows.operation(settings);
    rows.http(settings);
    rows.0
}

#[derive(Default)]
struct Rows(Vec<Shown>);

impl Rows {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "most values are made for this call"
    )]
    fn add(&mut self, key: impl Into<String>, value: impl ToString) {
        self.0.push(Shown {
            key: key.into(),
            value: value.to_string(),
        });
    }

    fn listener(&mut self, key: &str, listener: &Listener) {
        self.add(format!("{key}.listen"), &listener.listen);
        self.add(format!("{key}.proxy_protocol"), listener.proxy_protocol);
        if matches!(listener.listen, gatepost_config::Listen::Unix(_)) {
            self.add(
                format!("{key}.unix_mode"),
                format!("{:04o}", listener.unix_mode),
            );
        }
        let Some(tls) = &listener.tls else {
            return;
        };
        self.add(format!("{key}.tls_certificate"), tls.certificate.display());
        self.add(format!("{key}.tls_private_key"), tls.private_key.display());
        if let Some(clients) = &tls.clients {
            self.add(format!("{key}.client_ca"), clients.ca.display());
            let asked = if clients.required {
                "required"
            } else {
                "optional"
            };
            self.add(format!("{key}.client_certificate"), asked);
            let name = match clients.identity {
                None => "none",
                Some(CertificateName::SubjectCn) => "subject_cn",
                Some(CertificateName::SanEmail) => "san_email",
                Some(CertificateName::SanDns) => "san_dns",
                Some(CertificateName::SanUri) => "san_uri",
            };
            self.add(format!("{key}.identity_from_certificate"), name);
        }
    }

    fn upstream(&mut self, upstream: &Upstream) {
        let https = upstream.tls.is_some();
        match upstream.addresses.as_slice() {
            [address] => self.add("upstream.address", upstream_address(address, https)),
            all => {
                let all = all.iter().map(|it| upstream_address(it, https));
                self.add("upstream.address", list(all));
            }
        }
        if let Some(UpstreamAddress::Demo { store: Some(store) }) = upstream.addresses.first() {
            self.add("upstream.demo_store", store.display());
        }
        if let Some(tls) = &upstream.tls {
            let ca = tls.ca.as_deref();
            self.add("upstream.tls.ca", path_or(ca, "the system's authorities"));
            let name = tls.server_name.as_deref();
            self.add("upstream.tls.server_name", name.unwrap_or("the host"));
            let (certificate, key) = tls.client.as_ref().map(|(it, key)| (&**it, &**key)).unzip();
            self.add(
                "upstream.tls.client_certificate",
                path_or(certificate, "none"),
            );
            self.add("upstream.tls.client_key", path_or(key, "none"));
            self.add("upstream.tls.verify", tls.verify);
        }
        let (form, header, secret) = match &upstream.identity {
            IdentityForm::Header(name) => ("header", Some(name), None),
            IdentityForm::Basic(secret) => ("basic", None, Some(secret)),
            IdentityForm::BasicUser(secret) => ("basic_user", None, Some(secret)),
            IdentityForm::Bearer(_) => ("bearer", None, None),
        };
        self.add("upstream.identity", form);
        if let Some(name) = header {
            self.add("upstream.identity_header", name);
        }
        if secret.is_some() {
            self.add("upstream.identity_secret", hidden(secret));
        }
        let companions = &upstream.companions;
        for (key, name) in [
            ("mechanism", &companions.mechanism),
            ("groups", &companions.groups),
            ("client", &companions.client),
        ] {
            let name = name.as_ref().map_or("none", HeaderName::as_str);
            self.add(format!("upstream.companion_headers.{key}"), name);
        }
        if let Some(signature) = &upstream.signature {
            self.add("upstream.signature.header", &signature.header);
            self.add("upstream.signature.keys", HIDDEN);
        }
        for (meta, header) in &upstream.meta_headers {
            self.add(format!("upstream.meta_headers.{meta}"), header);
        }
        self.time("upstream.connect_timeout", upstream.connect_timeout);
        self.time("upstream.response_timeout", upstream.response_timeout);
        self.time("upstream.idle_timeout", upstream.idle_timeout);
        self.add(
            "upstream.max_idle_connections",
            upstream.max_idle_connections,
        );
        let total = upstream.total_timeout;
        self.add(
            "upstream.total_timeout",
            total.map_or("off".to_owned(), time),
        );
        self.balancing(&upstream.balancing);
    }

    fn balancing(&mut self, balancing: &Balancing) {
        let balance = match balancing.balance {
            Balance::LeastConnections => "least_connections",
            Balance::RoundRobin => "round_robin",
        };
        self.add("upstream.balance", balance);
        let most = balancing.max_connections;
        let most = most.map_or("off".to_owned(), |it| it.to_string());
        self.add("upstream.max_connections", most);
        if let Some(breaker) = balancing.circuit_breaker {
            let CircuitBreaker {
                max_failures,
                open_for,
            } = breaker;
            self.add("upstream.circuit_breaker.max_failures", max_failures);
            self.time("upstream.circuit_breaker.open_for", open_for);
        } else {
            self.add("upstream.circuit_breaker", "off");
        }
        if let Some(check) = &balancing.health_check {
            self.add("upstream.health_check.path", &check.path);
            self.time("upstream.health_check.interval", check.interval);
            self.time("upstream.health_check.timeout", check.timeout);
            for (key, value) in [
                ("healthy_threshold", check.healthy_threshold),
                ("unhealthy_threshold", check.unhealthy_threshold),
            ] {
                self.add(format!("upstream.health_check.{key}"), value);
            }
        } else {
            self.add("upstream.health_check", "off");
        }
        let servers = balancing.nameservers.iter().map(ToString::to_string);
        self.add("upstream.nameservers", list(servers));
    }

    fn trust(&mut self, settings: &Settings) {
        let gate = &settings.gate;
        self.add("trusted_hosts", networks(&gate.trusted_hosts));
        self.add("trusted_proxies", networks(&gate.trusted_proxies));
        let header = match gate.hop_header {
            HopHeader::XForwardedFor => "X-Forwarded-For",
            HopHeader::Forwarded => "Forwarded",
        };
        self.add("client_address_header", header);
    }

    fn policy(&mut self, settings: &Settings) {
        let policy = &settings.policy;
        self.add("policy.file", policy.file.display());
        self.add("policy.shadow", path_or(policy.shadow.as_deref(), "none"));
        self.add("policy.workers", or_one_per_core(policy.workers));
        self.add("policy.queue", policy.queue);
        self.time("policy.callback_timeout", policy.callback_timeout);
        self.size("policy.memory_limit", policy.memory_limit);
        self.time("decision_cache.ttl", settings.decision_cache.ttl);
        self.add("decision_cache.capacity", settings.decision_cache.capacity);
        self.add(
            "reload.watch",
            settings.reload.watch.map_or("off".to_owned(), time),
        );
        let credentials = &settings.gate.credentials;
        self.add("basic.realm", &settings.gate.realm);
        let missing = match credentials.missing_password {
            MissingPassword::Refuse => "refuse",
            MissingPassword::Nil => "nil",
        };
        self.add("basic.missing_password", missing);
        self.add("basic.max_user_bytes", credentials.max_user_bytes);
        self.add("basic.max_password_bytes", credentials.max_password_bytes);
        self.add("bearer.max_token_bytes", credentials.max_token_bytes);
    }

    fn quotas(&mut self, settings: &Settings) {
        let quotas = &settings.quotas;
        for (index, rule) in quotas.rules.iter().enumerate() {
            self.add(format!("quotas.limits[{index}]"), quota_rule(rule));
        }
        self.add("quotas.entries", quotas.entries);
        self.add("quotas.redis", hidden(quotas.redis.as_ref()));
        let down = match quotas.when_down {
            WhenDown::Local => "local",
            WhenDown::Refuse => "refuse",
        };
        self.add("quotas.when_redis_is_down", down);
    }

    fn throttle(&mut self, settings: &Settings) {
        let throttle = &settings.throttle;
        self.add("throttle.per_address", rate(throttle.per_address));
        self.add(
            "throttle.per_address_and_user",
            rate(throttle.per_address_and_user),
        );
        self.add("throttle.exempt", networks(&throttle.exempt));
        self.time("throttle.longest_pause", throttle.longest_pause);
        self.add("throttle.entries", throttle.entries);
        self.add("throttle.redis", hidden(throttle.redis.as_ref()));
    }

    fn operation(&mut self, settings: &Settings) {
        if let Some(admin) = &settings.admin {
            self.add("admin.listen", admin.listen);
            self.add("admin.token", hidden(admin.token.as_ref()));
        }
        let output = match &settings.audit.output {
            AuditOutput::Off => "off".to_owned(),
            AuditOutput::Stdout => "stdout".to_owned(),
            AuditOutput::File(path) => path.display().to_string(),
        };
        self.add("audit.output", output);
        let names = match settings.audit.names {
            AuditNames::Plain => "plain",
            AuditNames::HashSecrets => "hash_secrets",
            AuditNames::HashAll => "hash_all",
        };
        self.add("audit.names", names);
        self.add("audit.messages", settings.audit.messages);
        let format = match settings.log.format {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        self.add("log.format", format);
        self.add("log.level", &settings.log.level);
        let top = settings.metrics.top_identities;
        let top = if top == 0 {
            "off".to_owned()
        } else {
            top.to_string()
        };
        self.add("metrics.top_identities", top);
        match &settings.traces {
            None => self.add("traces", "off"),
            Some(traces) => {
                // A password in it is a fault of the configuration.
                self.add("traces.otlp", &traces.endpoint);
                self.add("traces.sample", traces.sample);
                self.add("traces.service_name", &traces.service_name);
                self.add("traces.identity", traces.identity);
            }
        }
        self.add("threads", or_one_per_core(settings.threads));
        self.time("drain_delay", settings.drain_delay);
        self.time("drain_timeout", settings.drain_timeout);
    }

    fn http(&mut self, settings: &Settings) {
        let http = &settings.http;
        self.add("http.max_connections", http.max_connections);
        let each = http.max_connections_per_address;
        let each = each.map_or("off".to_owned(), |it| it.to_string());
        self.add("http.max_connections_per_address", each);
        self.time("http.head_timeout", http.head_timeout);
        self.time("http.keepalive_timeout", http.keepalive_timeout);
        self.time("http.body_timeout", http.body_timeout);
        self.size("http.request_body_limit", http.request_body_limit);
        self.size("http.bodies_in_memory", http.bodies_in_memory);
        let rate = http.min_body_rate;
        self.add("http.min_body_rate", rate.map_or("off".to_owned(), size));
        let most = http.max_requests_per_connection;
        let most = most.map_or("off".to_owned(), |it| it.to_string());
        self.add("http.max_requests_per_connection", most);
        let head = &http.head_limits;
        self.size("http.max_head_bytes", head.max_bytes as u64);
        self.add("http.max_head_fields", head.max_fields);
    }

    fn time(&mut self, key: &str, value: Duration) {
        self.add(key, time(value));
    }

    fn size(&mut self, key: &str, bytes: u64) {
        self.add(key, size(bytes));
    }
}

const HIDDEN: &str = "set, not shown";

fn hidden(secret: Option<&Secret>) -> &'static str {
    secret.map_or("not set", |_| HIDDEN)
}

fn upstream_address(address: &UpstreamAddress, https: bool) -> String {
    match address {
        UpstreamAddress::Tcp { host, port } => {
            let scheme = if https { "https" } else { "http" };
            if host.contains(':') {
                format!("{scheme}://[{host}]:{port}")
            } else {
                format!("{scheme}://{host}:{port}")
            }
        }
        UpstreamAddress::Unix(path) => format!("unix:{}", path.display()),
        UpstreamAddress::Demo { .. } => "demo".to_owned(),
    }
}

fn described(route: &Route) -> String {
    let methods: Vec<_> = route.methods.iter().map(Method::as_str).collect();
    let allow = list(route.allow.iter().map(allowed));
    let mut text = format!(
        "{} {}, allow: {allow}",
        methods.join(" "),
        route.path.label()
    );
    let format = route.message.as_ref().map(|it| match it {
        Format::KumoMta => "kumomta",
        Format::ZoneMta => "zonemta",
        Format::ZoneMtaRaw => "zonemta_raw",
        Format::Rfc822 => "rfc822",
    });
    if let Some(format) = format {
        let _ = write!(text, ", message_policy: true ({format})");
    }
    if route.quota {
        text.push_str(", quota: true");
    }
    if let Some(limit) = route.body_limit {
        let _ = write!(text, ", request_body_limit: {}", size(limit));
    }
    text
}

fn allowed(rule: &Allow) -> String {
    match rule {
        Allow::Anyone => "anyone".to_owned(),
        Allow::Authenticated => "authenticated".to_owned(),
        Allow::TrustedHosts => "trusted_hosts".to_owned(),
        Allow::Identity(name) => format!("{{identity: {name}}}"),
        Allow::Group(name) => format!("{{group: {name}}}"),
        Allow::Network(network) => format!("{{network: {network}}}"),
        Allow::AllOf(rules) => format!("{{all_of: {}}}", list(rules.iter().map(allowed))),
        Allow::AnyOf(rules) => format!("{{any_of: {}}}", list(rules.iter().map(allowed))),
        Allow::Not(rule) => format!("{{not: {}}}", allowed(rule)),
    }
}

fn quota_rule(rule: &QuotaRule) -> String {
    let whom = rule.whom.iter().map(|it| match it {
        Whom::Anyone => "anyone".to_owned(),
        Whom::Identity(name) => format!("{{identity: {name}}}"),
        Whom::Group(name) => format!("{{group: {name}}}"),
    });
    let quotas = |all: &[Quota]| {
        list(all.iter().map(|it| {
            let burst = (it.largest() < it.limit()).then(|| format!(", burst {}", it.largest()));
            format!(
                "{} in {}{}",
                it.limit(),
                time(it.period()),
                burst.unwrap_or_default()
            )
        }))
    };
    let (requests, recipients) = (quotas(&rule.requests), quotas(&rule.recipients));
    format!(
        "for: {}, requests: {requests}, recipients: {recipients}",
        list(whom)
    )
}

fn rate(rate: Option<Rate>) -> String {
    rate.map_or("off".to_owned(), |rate| {
        let (interval, burst) = rate.parts();
        let period = Duration::from_micros(interval.saturating_mul(burst));
        // The interval is rounded up to a microsecond, so the period may be some too long.
        format!(
            "{burst} in {}",
            time(Duration::from_secs(period.as_secs().max(1)))
        )
    })
}

fn networks(networks: &Networks) -> String {
    list(networks.cover().map(|it| it.to_string()))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn counted(count: usize, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {what}{end}")
}

fn path_or(path: Option<&Path>, otherwise: &str) -> String {
    path.map_or_else(|| otherwise.to_owned(), |it| it.display().to_string())
}

fn or_one_per_core(count: Option<NonZeroUsize>) -> String {
    count.map_or_else(|| "one per core".to_owned(), |it| it.to_string())
}

fn time(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

/// In the largest unit in which it is whole, as it would be written.
fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = units
        .into_iter()
        .find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or_else(
        || format!("{bytes} B"),
        |(unit, name)| format!("{}{name}", bytes / unit),
    )
}
