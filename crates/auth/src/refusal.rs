//! Every way a request can be turned away: its status code and the words that the client sees.
//!
//! This is the one place for both. A refusal says what the client can act on; it never says which of
//! user or password was wrong, and never shows the policy's own error.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use crate::credentials::CredentialFault;
use crate::path::PathFault;
use crate::proxy_header::ProxyHeaderFault;
use crate::wire::HeadFault;

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The request's head is malformed, or has two meanings.
    Head(HeadFault),
    /// The request's path has more than one spelling.
    Path(PathFault),
    /// A trusted proxy sent an `X-Forwarded-For` or `Forwarded` that cannot be read.
    ForwardedFor,
    /// A trusted proxy did not begin its connection with a proper PROXY header.
    ProxyHeader(ProxyHeaderFault),
    /// Too many wrong credentials came from there. Holds how long to wait.
    Throttled(Duration),
    /// The `Authorization` header cannot be read in one way only.
    Credentials(CredentialFault),
    /// No route names the path.
    NoRoute,
    /// A route names the path, but not the method. Holds the `Allow` header's value.
    MethodNotAllowed(String),
    /// No credentials where some are needed, or the policy rejected them.
    Unauthorized,
    /// The route is not for this identity or address.
    Forbidden,
    /// The upstream cannot be told this identity.
    Unsayable,
    /// The policy did not give a plain yes or no.
    PolicyFailed,
    /// The policy did not answer within its deadline.
    PolicyTimedOut,
    /// Too many requests wait for the policy.
    PolicyOverloaded,
    /// The head did not arrive in time.
    HeadTimedOut,
    /// The body broke off, or its framing is wrong.
    Body,
    /// The body stalled.
    BodyTimedOut,
    /// The upstream cannot be reached, or broke off.
    UpstreamFailed,
    /// The upstream took too long.
    UpstreamTimedOut,
    /// A fault of gatepost's own.
    Internal,
}

impl Refusal {
    /// The status code.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Head(fault) => fault.status(),
            // A scheme that is not spoken here is answered with those that are (RFC 9110 §11.4).
            Self::Credentials(CredentialFault::UnknownScheme) | Self::Unauthorized => {
                StatusCode::UNAUTHORIZED
            }
            Self::Path(_)
            | Self::ForwardedFor
            | Self::ProxyHeader(_)
            | Self::Credentials(_)
            | Self::Body => StatusCode::BAD_REQUEST,
            Self::Throttled(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Forbidden | Self::Unsayable => StatusCode::FORBIDDEN,
            Self::PolicyFailed | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::PolicyTimedOut | Self::PolicyOverloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::HeadTimedOut | Self::BodyTimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// A stable word for logs, metrics and the body's `error` member.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Head(_) => "bad_request",
            Self::Path(_) => "ambiguous_path",
            Self::ForwardedFor => "bad_forwarded_for",
            Self::ProxyHeader(_) => "bad_proxy_header",
            Self::Throttled(_) => "throttled",
            Self::Credentials(CredentialFault::UnknownScheme) | Self::Unauthorized => {
                "unauthorized"
            }
            Self::Credentials(_) => "bad_credentials",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::Forbidden => "forbidden",
            Self::Unsayable => "unsayable_identity",
            Self::PolicyFailed => "policy_failed",
            Self::PolicyTimedOut => "policy_timed_out",
            Self::PolicyOverloaded => "policy_overloaded",
            Self::HeadTimedOut => "head_timed_out",
            Self::Body => "bad_body",
            Self::BodyTimedOut => "body_timed_out",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamTimedOut => "upstream_timed_out",
            Self::Internal => "internal",
        }
    }

    /// What the client reads.
    #[must_use]
    pub fn message(&self) -> Cow<'static, str> {
        match self {
            Self::Head(fault) => Cow::Owned(fault.to_string()),
            Self::Path(fault) => Cow::Owned(fault.to_string()),
            Self::ForwardedFor => Cow::Borrowed("the forwarding proxy's header cannot be read"),
            Self::ProxyHeader(fault) => Cow::Owned(fault.to_string()),
            Self::Throttled(_) => {
                Cow::Borrowed("too many wrong credentials came from you, try again later")
            }
            Self::Credentials(fault) => Cow::Owned(fault.to_string()),
            Self::NoRoute => Cow::Borrowed("nothing is served here"),
            Self::MethodNotAllowed(_) => Cow::Borrowed("this path does not take this method"),
            Self::Unauthorized => Cow::Borrowed("valid credentials are needed"),
            Self::Forbidden => Cow::Borrowed("you may not use this path"),
            Self::Unsayable => Cow::Borrowed("the injection API cannot be told who you are"),
            Self::PolicyFailed => Cow::Borrowed("the credentials could not be checked"),
            Self::PolicyTimedOut => {
                Cow::Borrowed("checking the credentials took too long, try again later")
            }
            Self::PolicyOverloaded => {
                Cow::Borrowed("too many credentials are being checked, try again later")
            }
            Self::HeadTimedOut => Cow::Borrowed("the request took too long to arrive"),
            Self::Body => Cow::Borrowed("the request's body is malformed or incomplete"),
            Self::BodyTimedOut => Cow::Borrowed("the request's body took too long to arrive"),
            Self::UpstreamFailed => Cow::Borrowed("the injection API cannot be reached"),
            Self::UpstreamTimedOut => Cow::Borrowed("the injection API did not answer in time"),
            Self::Internal => Cow::Borrowed("internal error"),
        }
    }

    /// Whether the answer invites the client to authenticate (`WWW-Authenticate`).
    #[must_use]
    pub fn challenges(&self) -> bool {
        self.status() == StatusCode::UNAUTHORIZED
    }

    /// When it is worth trying again, for the `Retry-After` header.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled(wait) => Some(*wait),
            Self::PolicyTimedOut | Self::PolicyOverloaded => Some(Duration::from_secs(1)),
            Self::Head(_)
            | Self::Path(_)
            | Self::ForwardedFor
            | Self::ProxyHeader(_)
            | Self::Credentials(_)
            | Self::NoRoute
            | Self::MethodNotAllowed(_)
            | Self::Unauthorized
            | Self::Forbidden
            | Self::Unsayable
            | Self::PolicyFailed
            | Self::HeadTimedOut
            | Self::Body
            | Self::BodyTimedOut
            | Self::UpstreamFailed
            | Self::UpstreamTimedOut
            | Self::Internal => None,
        }
    }

    /// The value of the `Allow` header (RFC 9110 §10.2.1).
    #[must_use]
    pub fn allow(&self) -> Option<&str> {
        if let Self::MethodNotAllowed(methods) = self {
            Some(methods)
        } else {
            None
        }
    }

    /// The body: one line of JSON, `application/json`.
    #[must_use]
    pub fn body(&self) -> String {
        let mut body = format!("{{\"error\":\"{}\",\"message\":\"", self.reason());
        for c in self.message().chars() {
            // The words are our own, but they are cheap to keep safe.
            if matches!(c, '"' | '\\') {
                body.push('\\');
            }
            body.push(c);
        }
        body.push_str("\"}\n");
        body
    }
}

impl From<HeadFault> for Refusal {
    fn from(fault: HeadFault) -> Self {
        Self::Head(fault)
    }
}

impl From<PathFault> for Refusal {
    fn from(fault: PathFault) -> Self {
        Self::Path(fault)
    }
}

impl From<CredentialFault> for Refusal {
    fn from(fault: CredentialFault) -> Self {
        Self::Credentials(fault)
    }
}
