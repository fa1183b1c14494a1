//! The page itself: one file without data, and the headers that keep everything else out of it.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// Self-contained: it works where there is no network but to gatepost.
const HTML: &str = include_str!("status.html");

/// The page, and what the browser is told to keep to.
#[derive(Clone)]
pub(crate) struct Page {
    policy: HeaderValue,
}

impl Page {
    /// `None` where the page has no script or no style between tags of its own, which a test rules out.
    pub(crate) fn new() -> Option<Self> {
        let hash = |open: &str, close: &str| {
            let (_, rest) = HTML.split_once(open)?;
            let (text, _) = rest.split_once(close)?;
            Some(STANDARD.encode(Sha256::digest(text.as_bytes())))
        };
        let script = hash("<script>", "</script>")?;
        let style = hash("<style>", "</style>")?;
        // Nothing is loaded, nothing is sent elsewhere, and no text becomes markup: the sinks that would make it so are shut by
        // trusted types. `data:` is for the icon, without which browsers ask for one.
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'"
        );
        let policy = HeaderValue::from_str(&policy).ok()?;
        Some(Self { policy })
    }

    /// The answer with the page.
    pub(crate) fn response(&self) -> Response {
        let mut response = (guarded(), HTML).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        );
        headers.insert(
            HeaderName::from_static("cross-origin-embedder-policy"),
            HeaderValue::from_static("require-corp"),
        );
        response
    }
}

/// Headers of the page and of its data: nothing is kept, guessed, told to others, or lent to another origin.
pub(crate) fn guarded() -> HeaderMap {
    let headers = [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    headers
        .into_iter()
        .map(|(name, value)| (name, HeaderValue::from_static(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use gatepost_auth::Refusal;

    use super::*;

    /// What the policy would forbid anyway is not even tried, and no text from outside can become markup.
    #[test]
    fn the_page_is_whole_and_sets_text_only() {
        assert!(Page::new().is_some());
        assert_eq!(HTML.matches("<script").count(), 1);
        assert_eq!(HTML.matches("<style").count(), 1);
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "style=\"",
            "javascript:",
            "https://",
            "onclick=",
            "localStorage",
            "document.cookie",
        ] {
            assert!(!HTML.contains(forbidden), "{forbidden}");
        }
        // The namespace of SVG is a name, not an address that is asked.
        let addresses = HTML.matches("http://").count();
        assert_eq!(
            addresses,
            HTML.matches("http://www.w3.org/2000/svg").count()
        );
    }

    /// In the words of the page.
    #[test]
    fn every_reason_is_explained() {
        for reason in Refusal::REASONS {
            assert!(HTML.contains(&format!("\n  {reason}: '")), "{reason}");
        }
    }
}
