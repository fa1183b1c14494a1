//! The section `routes`: what may pass, and for whom.

use gatepost_auth::address::parse_network;
use gatepost_auth::route::{PathPattern, Route, Routes};
use gatepost_auth::{Allow, AuthInfo};
use gatepost_message::Format;
use http::Method;
use serde_json::{Value as Json, json};

use crate::kind::{self, Kind, Takes};
use crate::node::{Node, Value};
use crate::section::{Complaint, Section, describe, shorten};
use crate::value;

/// The key that makes many routes of one entry.
const PRESET: &str = "preset";

/// Reads the section. Routes with a fault are left out; it has been recorded.
pub(crate) fn routes(root: &mut Section<'_>) -> Routes {
    let mut routes: Vec<Route> = Vec::new();
    let mut lines: Vec<u64> = Vec::new();
    for mut section in root.required_sections_of("routes", &[PRESET, ""]) {
        let line = section.place().line;
        if section.shape() == PRESET {
            // What a preset names may be named before it: that is how it is made stricter.
            let preset = section.required(PRESET, kind::word(&[("kumomta", ())]));
            let added = preset.map_or(Vec::new(), |()| kumomta());
            warn_about_wider(&section, &added, routes.iter().zip(&lines));
            lines.extend(added.iter().map(|_| line));
            routes.extend(added);
        } else if let Some(route) = route(&mut section) {
            refuse_shadowed(&section, &route, routes.iter().zip(&lines));
            routes.push(route);
            lines.push(line);
        }
        section.finish();
    }
    Routes::new(routes)
}

fn route(section: &mut Section<'_>) -> Option<Route> {
    let path = section.required(
        "path",
        Kind::text(
            "a path, or a prefix such as `/messages/*`",
            r"^/[^?*]*\*?$",
            path,
        ),
    );
    let methods = section.required_list(
        "methods",
        "[POST]",
        Kind::text(
            "a method in capitals",
            "^(?!(?:TRACE|CONNECT)$)[A-Z-]+$",
            method,
        ),
    );
    let rule = Takes::new(
        json!({ "$ref": "#/definitions/rule" }),
        "`anyone`, `authenticated`, `trusted_hosts` or an expression such as `{ group: staff }`",
    );
    let rule = Kind::new(rule, |node| allow(node, 0));
    let allow = section.required_list("allow", "[authenticated, trusted_hosts]", rule);
    let looks = section.or("message_policy", false, kind::truth());
    let formats = [
        ("kumomta", Format::KumoMta),
        ("zonemta", Format::ZoneMta),
        ("rfc822", Format::Rfc822),
        ("zonemta_raw", Format::ZoneMtaRaw),
    ];
    let format = section.optional("message_format", kind::word(&formats).placed());
    if let Some((_, place)) = format
        && !looks
    {
        section.reader().fault(
            place,
            "`message_format` is for routes with `message_policy: true`",
        );
    }
    let quota = section.optional("quota", kind::truth()).unwrap_or(looks);
    let body_limit = section.optional("request_body_limit", kind::size(0..=1 << 40));
    let route = Route {
        path: path?,
        methods: methods?,
        allow: allow?,
        message: looks.then(|| format.map_or(Format::KumoMta, |(format, _)| format)),
        quota,
        body_limit,
    };
    if route.allow.contains(&Allow::Anyone) {
        if route.allow.len() > 1 {
            section.reader().fault(
                section.place(),
                "`anyone` makes the rest of `allow` meaningless",
            );
        }
    } else if let Some(rule) = route.allow.iter().find(|rule| rule.admits_strangers()) {
        section.reader().fault(
            section.place(),
            format!(
                "{} lets everybody in who sends no credentials: write `anyone` if that is meant, or put it into `all_of` with `authenticated`",
                shorten(&rule.to_string())
            ),
        );
    }
    Some(route)
}

/// What `KumoMTA` lets whom do where nobody wrote an ACL (its `assets/acls/default.toml`, 2026.03), but for
/// one thing: there, what administers the MTA is open to every trusted host, and loopback is one. Beside a
/// sidecar, loopback is everybody in the pod, so here it is left out.
fn kumomta() -> Vec<Route> {
    let loopback = ["127.0.0.0/8", "::1"].map(|text| {
        let network = parse_network(text).map(Allow::Network);
        Allow::Not(Box::new(network.unwrap_or(Allow::Anyone)))
    });
    let admins = || {
        let mut rules = vec![Allow::TrustedHosts];
        rules.extend(loopback.clone());
        vec![Allow::AllOf(rules)]
    };
    let anyone = || vec![Allow::Anyone];
    let clients = || vec![Allow::Authenticated, Allow::TrustedHosts];
    let get = || vec![Method::GET];
    let post = || vec![Method::POST];
    let all = || vec![Method::GET, Method::POST, Method::DELETE];
    [
        ("/api/inject/*", post(), clients()),
        ("/api/check-liveness/*", get(), anyone()),
        ("/rapidoc", get(), anyone()),
        ("/api-docs/openapi.json", get(), anyone()),
        ("/api/admin/*", all(), admins()),
        ("/api/machine-info", get(), admins()),
        ("/api/machine-info/*", get(), admins()),
        ("/metrics", get(), admins()),
        ("/metrics.json", get(), admins()),
        ("/api/xfer/*", post(), admins()),
    ]
    .into_iter()
    .filter_map(|(path, methods, allow)| {
        Some(Route {
            path: path.parse().ok()?,
            methods,
            allow,
            message: None,
            quota: false,
            body_limit: None,
        })
    })
    .collect()
}

/// The first route that names path and method decides. A later one that never gets to decide may be
/// the stricter of the two, and its author believes that it protects something.
fn refuse_shadowed<'a>(
    section: &Section<'_>,
    route: &Route,
    earlier: impl Iterator<Item = (&'a Route, &'a u64)>,
) {
    for (other, line) in earlier {
        let shared = route.methods.iter().find(|it| other.methods.contains(it));
        if let Some(method) = shared
            && covers(other.path.label(), route.path.label())
        {
            let path = shorten(route.path.label());
            section.reader().fault(
                section.place(),
                format!(
                    "the route on line {line} takes every `{method} {path}` already; write the narrower path first"
                ),
            );
        }
    }
}

/// A prefix before a preset was hardly written with all of the preset's routes in mind.
fn warn_about_wider<'a>(
    section: &Section<'_>,
    preset: &[Route],
    earlier: impl Iterator<Item = (&'a Route, &'a u64)>,
) {
    for (other, line) in earlier.filter(|(it, _)| it.path.label().ends_with('*')) {
        let hidden = preset.iter().find(|route| {
            let shared = route.methods.iter().any(|it| other.methods.contains(it));
            shared && other.allow != route.allow && covers(other.path.label(), route.path.label())
        });
        if let Some(hidden) = hidden {
            section.reader().warn(
                section.place(),
                format!(
                    "the route on line {line} decides about `{}` before the preset does",
                    hidden.path.label()
                ),
            );
        }
    }
}

/// Whether one pattern names every path that the other does.
fn covers(wide: &str, narrow: &str) -> bool {
    wide == narrow
        || wide
            .strip_suffix('*')
            .and_then(|prefix| narrow.strip_prefix(prefix))
            .is_some_and(|rest| !rest.is_empty())
}

fn path(node: &Node) -> Result<PathPattern, Complaint> {
    let text = value::text(node)?;
    text.parse::<PathPattern>()
        .map_err(|fault| fault.to_string())
}

fn method(node: &Node) -> Result<Method, Complaint> {
    let text = value::text(node)?;
    if matches!(text.as_str(), "TRACE" | "CONNECT") {
        return Err(format!(
            "{text} never passes: it would show or open what lies behind the gate"
        ));
    }
    let capitals = text
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    Method::from_bytes(text.as_bytes())
        .ok()
        .filter(|_| capitals)
        .ok_or_else(|| {
            format!(
                "`{}` is not a method; methods are written in capitals",
                shorten(&text)
            )
        })
}

/// What a schema says of an expression in `allow`. It holds others of its kind, so it has a name.
pub(crate) fn rule_schema() -> Json {
    let rule = json!({ "$ref": "#/definitions/rule" });
    let rules = json!({ "type": "array", "items": rule, "minItems": 1 });
    let only = |key: &str, value: &Json| {
        json!({
            "type": "object",
            "properties": { (key): value },
            "required": [key],
            "additionalProperties": false,
        })
    };
    let network = json!({ "type": "string", "pattern": kind::NETWORK });
    json!({ "anyOf": [
        { "enum": WORDS.map(|(word, _)| word) },
        one_of(&["identity", "group"]),
        only("network", &network),
        only("all_of", &rules),
        only("any_of", &rules),
        only("not", &rule),
    ] })
}

/// A mapping with one of these keys, which name somebody.
pub(crate) fn one_of(keys: &[&str]) -> Json {
    let name = json!({ "type": "string", "pattern": kind::TEXT });
    let names: serde_json::Map<String, Json> = keys
        .iter()
        .map(|key| ((*key).to_owned(), name.clone()))
        .collect();
    json!({
        "type": "object",
        "properties": names,
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": false,
    })
}

const WORDS: [(&str, Allow); 3] = [
    ("anyone", Allow::Anyone),
    ("authenticated", Allow::Authenticated),
    ("trusted_hosts", Allow::TrustedHosts),
];

/// Deeper expressions are a mistake, or an attack on the stack.
const DEEPEST: usize = 16;

fn allow(node: &Node, depth: usize) -> Result<Allow, Complaint> {
    if depth > DEEPEST {
        return Err(format!("rules nest at most {DEEPEST} deep"));
    }
    let Value::Map(entries) = &node.value else {
        let found = WORDS
            .into_iter()
            .find(|(word, _)| matches!(&node.value, Value::Text(text) if text == word));
        return found.map(|(_, allow)| allow).ok_or_else(|| {
            let found = describe(&node.value);
            format!("expected `anyone`, `authenticated`, `trusted_hosts` or an expression such as `{{ group: staff }}`, found {found}")
        });
    };
    let [(key, value)] = entries.as_slice() else {
        return Err(format!("expected one of {EXPRESSIONS}, with one key each"));
    };
    let list = || -> Result<Vec<Allow>, Complaint> {
        if let Value::List(items) = &value.value
            && !items.is_empty()
        {
            return items.iter().map(|item| allow(item, depth + 1)).collect();
        }
        let (key, found) = (shorten(&key.name), describe(&value.value));
        Err(format!("`{key}` takes a list of rules, found {found}"))
    };
    match key.name.as_str() {
        "identity" => name(value).map(Allow::Identity),
        "group" => name(value).map(Allow::Group),
        "network" => value::network(value).map(Allow::Network),
        "all_of" => list().map(Allow::AllOf),
        "any_of" => list().map(Allow::AnyOf),
        "not" => Ok(Allow::Not(Box::new(allow(value, depth + 1)?))),
        other => Err(format!(
            "expected one of {EXPRESSIONS}, found `{}`",
            shorten(other)
        )),
    }
}

const EXPRESSIONS: &str =
    "`{identity: x}`, `{group: x}`, `{network: x}`, `{all_of: []}`, `{any_of: []}`, `{not: x}`";

/// A name as a policy can give it; one that it cannot give would be a rule that never holds.
pub(crate) fn name(node: &Node) -> Result<String, Complaint> {
    let name = value::text(node)?;
    AuthInfo::basic(&name)
        .map(|_| name)
        .map_err(|fault| fault.to_string())
}
