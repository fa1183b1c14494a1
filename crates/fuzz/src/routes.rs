//! Which route a request takes. The input has a line `METHOD,METHOD /pattern` for each route, an empty line, and `METHOD /target`.
//!
//! The route that is found is the first that names path and method when one goes through the list by hand; where there is none, the
//! answer says which methods there would be.

use gatepost_auth::Refusal;
use gatepost_auth::path::Target;
use gatepost_auth::route::{PathPattern, Route, Routes};
use http::Method;

use crate::{Outcome, Verdict, finding, must};

pub(crate) fn run(data: &[u8]) -> Outcome {
    let Some(input) = Input::read(data) else {
        return Ok(Verdict::Refused);
    };
    let Ok(target) = Target::parse(input.target.as_bytes()) else {
        return Ok(Verdict::Refused);
    };
    let routes = Routes::new(input.routes.clone());
    let named: Vec<(usize, &Route)> = input
        .routes
        .iter()
        .enumerate()
        .filter(|(_, route)| names(route.path.label(), target.path()))
        .collect();
    let expected = named
        .iter()
        .find(|(_, route)| route.methods.contains(&input.method));
    match (routes.find(&input.method, &target), expected) {
        (Ok(found), Some((index, _))) => {
            // Every route has its number as its limit.
            must(found.body_limit == u64::try_from(*index).ok(), || {
                format!("{found:?} instead of number {index}")
            })?;
            Ok(Verdict::Accepted)
        }
        (Err(Refusal::NoRoute), None) if named.is_empty() => Ok(Verdict::Refused),
        (Err(Refusal::MethodNotAllowed(allowed)), None) if !named.is_empty() => {
            let said: Vec<&str> = allowed.split(", ").collect();
            let methods = || named.iter().flat_map(|(_, route)| &route.methods);
            let is_complete = methods().all(|it| said.contains(&it.as_str()));
            let is_true = said
                .iter()
                .all(|it| methods().any(|method| method.as_str() == *it));
            must(is_complete && is_true, || format!("Allow: {allowed}"))?;
            Ok(Verdict::Refused)
        }
        (found, expected) => finding(format!("{found:?} instead of {expected:?}")),
    }
}

struct Input {
    routes: Vec<Route>,
    method: Method,
    target: String,
}

impl Input {
    fn read(data: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(data).ok()?;
        let (table, request) = text.split_once("\n\n")?;
        let mut routes = Vec::new();
        for line in table.lines() {
            let (methods, path) = line.split_once(' ')?;
            let methods: Vec<Method> = methods.split(',').filter_map(method).collect();
            if methods.is_empty() {
                return None;
            }
            let Ok(path) = path.parse::<PathPattern>() else {
                continue;
            };
            let body_limit = u64::try_from(routes.len()).ok();
            routes.push(Route {
                path,
                methods,
                allow: Vec::new(),
                message: None,
                quota: false,
                body_limit,
            });
        }
        let (name, target) = request.trim_end_matches('\n').split_once(' ')?;
        Some(Self {
            routes,
            method: method(name)?,
            target: target.to_owned(),
        })
    }
}

fn method(name: &str) -> Option<Method> {
    Method::from_bytes(name.as_bytes()).ok()
}

/// `/a/*` is everything below `/a/`, and nothing else has wildcards.
fn names(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        Some((prefix, "")) => path.len() > prefix.len() && path.get(..prefix.len()) == Some(prefix),
        Some(_) => false,
        None => pattern == path,
    }
}
