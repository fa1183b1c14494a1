//! What may pass: paths and methods, and who may use them. What no route names does not pass.

use std::net::IpAddr;
use std::sync::Arc;

use gatepost_message::Format;
use http::Method;

use crate::address::Networks;
use crate::identity::Subject;
use crate::path::Target;
use crate::refusal::Refusal;
use crate::rule::Allow;

/// All routes, in the order in which they are tried.
#[derive(Debug, Clone, Default)]
pub struct Routes(Vec<Route>);

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Which paths.
    pub path: PathPattern,
    /// Which methods; nothing is implied, `GET` does not bring `HEAD`.
    pub methods: Vec<Method>,
    /// Who may use it: any one of these is enough. Empty lets nobody in.
    pub allow: Vec<Allow>,
    /// How its bodies are read, where what they say is to be judged.
    pub message: Option<Format>,
    /// Whether what passes here counts against quotas.
    pub quota: bool,
    /// The largest body, in bytes.
    pub body_limit: Option<u64>,
}

/// Which paths a route names: one, or all below a prefix.
///
/// Cloning is cheap: the text doubles as the route's label in logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    /// As written, with its `*`.
    text: Arc<str>,
    kind: PatternKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatternKind {
    /// Just this path.
    Exact,
    /// Every path below: `/messages/*` names `/messages/7`, not `/messages/` and not `/messages`.
    Below,
}

impl PathPattern {
    /// As it is written in the configuration; also the route's label in logs and metrics.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        &self.text
    }

    fn names(&self, path: &str) -> bool {
        match self.kind {
            PatternKind::Exact => *self.text == *path,
            PatternKind::Below => self
                .text
                .strip_suffix('*')
                .and_then(|prefix| path.strip_prefix(prefix))
                .is_some_and(|rest| !rest.is_empty()),
        }
    }
}

/// Reads a pattern as it is written: `/exact/path` or `/prefix/*`.
impl std::str::FromStr for PathPattern {
    type Err = PatternFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let prefix = text.strip_suffix('*');
        let path = prefix.unwrap_or(text);
        if path.contains(['*', '?']) || prefix.is_some_and(|prefix| !prefix.ends_with('/')) {
            return Err(PatternFault::Wildcard);
        }
        // A pattern that no request could match would be a route that silently does nothing.
        Target::parse(path.as_bytes()).map_err(PatternFault::Path)?;
        let kind = if prefix.is_some() {
            PatternKind::Below
        } else {
            PatternKind::Exact
        };
        Ok(Self {
            text: Arc::from(text),
            kind,
        })
    }
}

/// Why a text is not a path pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// A `*` anywhere but behind the last slash, or a query.
    #[error("a path is either exact or ends in `/*`, and holds no query")]
    Wildcard,
    /// A path that every request is refused for.
    #[error("no request can have this path: {0}")]
    Path(crate::path::PathFault),
}

impl Routes {
    /// Routes in the order in which they are tried.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self(routes)
    }

    /// The first route that names path and method.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoRoute`] where no route names the path, [`Refusal::MethodNotAllowed`] where some
    /// do, but none for this method.
    pub fn find(&self, method: &Method, target: &Target<'_>) -> Result<&Route, Refusal> {
        let named = || {
            self.0
                .iter()
                .filter(|route| route.path.names(target.path()))
        };
        if let Some(route) = named().find(|route| route.methods.contains(method)) {
            return Ok(route);
        }
        let mut methods: Vec<&str> = named()
            .flat_map(|route| route.methods.iter().map(Method::as_str))
            .collect();
        if methods.is_empty() {
            return Err(Refusal::NoRoute);
        }
        methods.sort_unstable();
        methods.dedup();
        Err(Refusal::MethodNotAllowed(methods.join(", ")))
    }

    /// All routes.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }
}

impl Route {
    /// Whether credentials could open this route to somebody at this address.
    pub(crate) fn could_admit(&self, client: Option<IpAddr>, trusted_hosts: &Networks) -> bool {
        self.allow
            .iter()
            .any(|allow| allow.could_admit(client, trusted_hosts))
    }

    /// Whether the subject, coming from this address, may use the route.
    pub(crate) fn admits(
        &self,
        subject: &Subject,
        client: Option<IpAddr>,
        trusted_hosts: &Networks,
    ) -> bool {
        self.allow
            .iter()
            .any(|allow| allow.admits(subject, client, trusted_hosts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str, methods: &[Method]) -> Route {
        Route {
            path: path.parse().unwrap(),
            methods: methods.to_vec(),
            allow: vec![Allow::Authenticated],
            message: None,
            quota: false,
            body_limit: None,
        }
    }

    fn check(method: &Method, path: &str, expected: Result<&str, Refusal>) {
        let routes = Routes::new(vec![
            route("/api/inject/v1", &[Method::POST]),
            route("/messages", &[Method::GET]),
            route("/messages/*", &[Method::GET, Method::DELETE]),
            route("/messages/*", &[Method::PUT]),
        ]);
        let target = Target::parse(path.as_bytes()).unwrap();
        let got = routes
            .find(method, &target)
            .map(|route| route.path.label().to_string());
        assert_eq!(got, expected.map(str::to_owned), "{method} {path}");
    }

    #[test]
    fn only_what_is_listed_passes() {
        check(&Method::POST, "/api/inject/v1", Ok("/api/inject/v1"));
        check(&Method::POST, "/api/inject/v1?x=y", Ok("/api/inject/v1"));
        check(&Method::GET, "/messages/7", Ok("/messages/*"));
        check(&Method::PUT, "/messages/7", Ok("/messages/*"));
        for path in [
            "/",
            "/api/inject/v1/",
            "/api/inject",
            "/API/inject/v1",
            "/messages/",
            "/api/admin/bounce/v1",
        ] {
            check(&Method::POST, path, Err(Refusal::NoRoute));
        }
    }

    #[test]
    fn routes_are_kept_in_their_order() {
        let routes = Routes::new(vec![route("/b", &[]), route("/a/*", &[])]);
        let labels: Vec<_> = routes.iter().map(|it| &**it.path.label()).collect();
        assert_eq!(labels, ["/b", "/a/*"]);
    }

    #[test]
    fn a_method_that_is_not_listed_is_answered_with_those_that_are() {
        let allow = |methods: &str| Err(Refusal::MethodNotAllowed(methods.to_owned()));
        check(&Method::GET, "/api/inject/v1", allow("POST"));
        check(&Method::HEAD, "/messages", allow("GET"));
        check(&Method::POST, "/messages/7", allow("DELETE, GET, PUT"));
        check(&Method::TRACE, "/messages", allow("GET"));
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        for bad in [
            "", "*", "api", "/a*", "/a/*/b", "/a//b", "/a/../b", "/a b", "/%61", "/a?b",
        ] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
        for good in ["/", "/*", "/a", "/a/", "/a/b/*"] {
            assert_eq!(&**good.parse::<PathPattern>().unwrap().label(), good);
        }
    }
}
