//! The sections `message_rules` and `quotas`: what whom may send, and how much.

use std::path::{Path, PathBuf};

use gatepost_auth::message_rules::{DomainFault, DomainPattern, MessageRule, MessageRules, Whom};
use gatepost_auth::quota::Quota;
use gatepost_auth::route::Routes;
use http::HeaderName;
use serde_json::json;

use crate::kind::{self, Kind, Takes};
use crate::node::{Node, Value};
use crate::routes::{name, one_of};
use crate::section::{Complaint, Section, describe, shorten};
use crate::settings::{QuotaRule, Quotas, WhenDown};
use crate::{secret, value};

/// Reads `message_rules`.
pub(crate) fn message_rules(root: &mut Section<'_>) -> MessageRules {
    let mut rules = Vec::new();
    for mut section in root.sections("message_rules") {
        let whom = section.required_list("for", "[anyone]", whom());
        // An empty list allows no domain at all, which is another thing than no list.
        let example = "[example.com, \"*.example.com\"]";
        let senders = section.optional_list("senders", example, domain());
        let from = section.optional_list("from", example, domain());
        let max_recipients = section.optional("max_recipients", kind::integer(1..=1_000_000_usize));
        let max_size = section.optional("max_size", kind::size(1..=4 << 30));
        let forbidden_fields = section.list("forbidden_fields", "[deferred_spool]", kind::text());
        let header = kind::header_name(|node| {
            let text = value::text(node)?;
            HeaderName::from_bytes(text.as_bytes())
                .map(|name| name.as_str().to_owned())
                .map_err(|_| format!("`{}` is not a header name", shorten(&text)))
        });
        let forbidden_headers = section.list("forbidden_headers", "[X-Virtual-MTA]", header);
        for (key, list) in [("senders", &senders), ("from", &from)] {
            if list.as_ref().is_some_and(Vec::is_empty) {
                section.reader().warn(
                    section.place(),
                    format!("`{key}` is empty, so nothing may be sent"),
                );
            }
        }
        if from
            .as_ref()
            .is_some_and(|list| list.contains(&DomainPattern::Null))
        {
            section.reader().fault(
                section.place(),
                "`<>` is for `senders`: From has no null address",
            );
        }
        let idle = senders.is_none()
            && from.is_none()
            && max_recipients.is_none()
            && max_size.is_none()
            && forbidden_fields.is_empty()
            && forbidden_headers.is_empty();
        if idle {
            section
                .reader()
                .warn(section.place(), "this rule forbids nothing");
        }
        section.finish();
        if let Some(whom) = whom {
            rules.push(MessageRule {
                whom,
                senders,
                from,
                max_recipients,
                max_size,
                forbidden_fields,
                forbidden_headers,
            });
        }
    }
    MessageRules::new(rules)
}

/// Reads `quotas`.
pub(crate) fn quotas(mut section: Section<'_>, folder: &Path, files: &mut Vec<PathBuf>) -> Quotas {
    let mut rules = Vec::new();
    for mut limit in section.sections("limits") {
        let whom = limit.required_list("for", "[anyone]", whom());
        let requests = limit.list("requests", "[100/s]", quota());
        let recipients = limit.list("recipients", "[10000/day]", quota());
        if requests.is_empty() && recipients.is_empty() {
            limit.reader().fault(
                limit.place(),
                "a limit names `requests`, `recipients` or both",
            );
        }
        limit.finish();
        if let Some(whom) = whom {
            rules.push(QuotaRule {
                whom,
                requests,
                recipients,
            });
        }
    }
    let words = [("local", WhenDown::Local), ("refuse", WhenDown::Refuse)];
    let quotas = Quotas {
        rules,
        entries: section.or("entries", 100_000, kind::integer(1000..=10_000_000_usize)),
        redis: secret::redis(&mut section, "redis", folder, files),
        when_down: section.or("when_redis_is_down", WhenDown::Local, kind::word(&words)),
    };
    section.finish();
    quotas
}

/// Limits that no request ever meets protect nobody, and their author believes that they do.
pub(crate) fn warn_about_idle_limits(
    root: &Section<'_>,
    routes: &Routes,
    rules: &MessageRules,
    quotas: &Quotas,
) {
    let looks = routes.iter().any(|route| route.message.is_some());
    let counts = routes.iter().any(|route| route.quota);
    let of_recipients = quotas.rules.iter().any(|rule| !rule.recipients.is_empty());
    let warn = |words: &str| root.reader().warn(root.place(), words);
    if !rules.is_empty() && !looks {
        warn("`message_rules` hold on routes with `message_policy: true`, and there is none");
    }
    if !quotas.rules.is_empty() && !counts {
        warn(
            "`quotas` hold on routes with `message_policy: true` or `quota: true`, and there is none",
        );
    } else if of_recipients && !looks {
        warn("recipients are counted on routes with `message_policy: true`, and there is none");
    }
}

/// `example.com`, `*.example.com` or `<>`.
fn domain() -> Kind<'static, DomainPattern> {
    let words = "a domain such as `example.com` or `*.example.com`, or `<>`";
    Kind::text(words, kind::TEXT, |node| {
        value::text(node)?
            .parse()
            .map_err(|fault: DomainFault| fault.to_string())
    })
}

/// `anyone`, `{ identity: scott }` or `{ group: bulk }`.
fn whom() -> Kind<'static, Whom> {
    let schema = json!({ "anyOf": [{ "const": "anyone" }, one_of(&["identity", "group"])] });
    let words = "`anyone`, `{ identity: x }` or `{ group: x }`";
    Kind::new(Takes::new(schema, words), read_whom)
}

fn read_whom(node: &Node) -> Result<Whom, Complaint> {
    if matches!(&node.value, Value::Text(text) if text == "anyone") {
        return Ok(Whom::Anyone);
    }
    if let Value::Map(entries) = &node.value
        && let [(key, value)] = entries.as_slice()
    {
        match key.name.as_str() {
            "identity" => return name(value).map(Whom::Identity),
            "group" => return name(value).map(Whom::Group),
            _ => {}
        }
    }
    Err(format!(
        "expected `anyone`, `{{ identity: x }}` or `{{ group: x }}`, found {}",
        describe(&node.value)
    ))
}

/// `10000/min`, or `{ rate: 10000/min, burst: 500 }`.
fn quota() -> Kind<'static, Quota> {
    let rate = json!({ "type": "string", "pattern": kind::RATE });
    let burst = json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX });
    let both = json!({
        "type": "object",
        "properties": { "rate": rate, "burst": burst },
        "required": ["rate", "burst"],
        "additionalProperties": false,
    });
    let words = "a rate such as `10000/min`, or `{ rate: 10000/min, burst: 500 }`";
    Kind::new(
        Takes::new(json!({ "anyOf": [rate, both] }), words),
        read_quota,
    )
}

fn read_quota(node: &Node) -> Result<Quota, Complaint> {
    let (rate, burst) = if let Value::Map(entries) = &node.value {
        let find = |wanted: &str| {
            let found = entries.iter().find(|(key, _)| key.name == wanted);
            found.map(|(_, value)| value)
        };
        let (Some(rate), Some(burst), 2) = (find("rate"), find("burst"), entries.len()) else {
            return Err("expected `10000/min` or `{ rate: 10000/min, burst: 500 }`".to_owned());
        };
        (rate, Some(value::integer(1..=u32::MAX)(burst)?))
    } else {
        (node, None)
    };
    let text = value::text(rate)?;
    Quota::parse(&text, burst).map_err(|fault| format!("{fault}; found `{}`", shorten(&text)))
}
