//! Which request headers a client may not send on.
//!
//! `X_Http_Auth`, `x-http_auth` and `X-Http-Auth` are one name to an upstream that folds header names
//! into variables (CGI, WSGI and much that came after), so they are one name here.

use http::HeaderName;

/// Names that only gatepost sets towards the upstream. Every occurrence that the client sent is
/// removed, on every route.
#[derive(Debug, Clone)]
pub struct ProtectedNames(Vec<String>);

impl ProtectedNames {
    /// What is protected whatever the configuration says: credentials, which end here, and every
    /// common name by which upstreams learn a client's address or a request's name.
    const ALWAYS: [&'static str; 17] = [
        "authorization",
        "proxy-authorization",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-forwarded-server",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-originating-ip",
        "x-authenticated-user",
        "x-request-id",
        "x-http-auth",
    ];

    /// The names that are always protected, and these.
    pub fn new<'a>(identity_headers: impl IntoIterator<Item = &'a HeaderName>) -> Self {
        let mut names: Vec<String> = Self::ALWAYS.map(str::to_owned).to_vec();
        names.extend(identity_headers.into_iter().map(|name| fold(name.as_str())));
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    /// Whether only gatepost may set a header of this name, in any spelling.
    #[must_use]
    pub fn contains(&self, name: &HeaderName) -> bool {
        let name = name.as_str().as_bytes();
        self.0
            .iter()
            .any(|protected| folds_to(name, protected.as_bytes()))
    }
}

/// Lower case, `_` as `-`.
fn fold(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Whether a header name folds to `folded`; without allocating, since it runs for every header.
pub(crate) fn folds_to(name: &[u8], folded: &[u8]) -> bool {
    name.len() == folded.len()
        && name.iter().zip(folded).all(|(a, b)| {
            let a = if *a == b'_' {
                b'-'
            } else {
                a.to_ascii_lowercase()
            };
            a == *b
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_protected_name_is_that_name() {
        let own = HeaderName::from_static("x_tenant-id");
        let names = ProtectedNames::new([&own]);
        for name in [
            "X-Http-Auth",
            "x-http-auth",
            "X_Http_Auth",
            "x-http_auth",
            "X-HTTP-AUTH",
            "Authorization",
            "X-Tenant-Id",
            "x_tenant_id",
            "X_Forwarded_For",
            "Forwarded",
        ] {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert!(names.contains(&name), "{name}");
        }
        for name in [
            "x-http-authx",
            "http-auth",
            "content-type",
            "x-forwarded",
            "xhttpauth",
        ] {
            assert!(!names.contains(&HeaderName::from_static(name)), "{name}");
        }
    }
}
