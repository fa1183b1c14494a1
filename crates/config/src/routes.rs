//! The section `routes`: what may pass, and for whom.

use gatepost_auth::route::{Allow, PathPattern, Route, Routes};
use http::Method;

use crate::node::Node;
use crate::section::{Complaint, Section, shorten};
use crate::value;

/// Reads the section. Routes with a fault are left out; it has been recorded.
pub(crate) fn routes(root: &mut Section<'_>) -> Routes {
    let mut routes: Vec<Route> = Vec::new();
    let mut lines: Vec<u64> = Vec::new();
    for mut section in root.required_sections("routes") {
        if let Some(route) = route(&mut section) {
            refuse_shadowed(&section, &route, routes.iter().zip(&lines));
            routes.push(route);
            lines.push(section.place().line);
        }
        section.finish();
    }
    Routes::new(routes)
}

fn route(section: &mut Section<'_>) -> Option<Route> {
    let path = section.required("path", |node| {
        let text = value::text(node)?;
        text.parse::<PathPattern>()
            .map_err(|fault| fault.to_string())
    });
    let methods = section.required_list("methods", "[POST]", method);
    let allow = section.required_list("allow", "[authenticated, trusted_hosts]", allow);
    let route = Route {
        path: path?,
        methods: methods?,
        allow: allow?,
    };
    if route.allow.contains(&Allow::Anyone) && route.allow.len() > 1 {
        section.reader().fault(
            section.place(),
            "`anyone` makes the rest of `allow` meaningless",
        );
    }
    Some(route)
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

/// Whether one pattern names every path that the other does.
fn covers(wide: &str, narrow: &str) -> bool {
    wide == narrow
        || wide
            .strip_suffix('*')
            .and_then(|prefix| narrow.strip_prefix(prefix))
            .is_some_and(|rest| !rest.is_empty())
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

fn allow(node: &Node) -> Result<Allow, Complaint> {
    value::word(&[
        ("anyone", Allow::Anyone),
        ("authenticated", Allow::Authenticated),
        ("trusted_hosts", Allow::TrustedHosts),
    ])(node)
}
