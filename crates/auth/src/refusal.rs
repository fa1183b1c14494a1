//! Every way a request can be turned away: its status code and the words that the client sees.
//!
//! This is the one place for both. A refusal says what the client can act on; it never says which of
//! user or password was wrong, and never shows the policy's own error.

use std::borrow::Cow;
use std::time::Duration;

use gatepost_message::{FaultKind, MessageFault};
use http::StatusCode;

use crate::credentials::CredentialFault;
use crate::frames::Flood;
use crate::message_rules::Breach;
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
    /// The listener asks for a client certificate, and that of the connection does not count, or not any more.
    ClientCertificate(CertificateFault),
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
    /// The body cannot be read in one way only, or is of another kind than the route takes.
    Message(MessageFault),
    /// The body is larger than the route takes.
    BodyTooLarge,
    /// Too many bodies are held in memory.
    MemoryFull,
    /// Too many connections are open.
    Crowded,
    /// An HTTP/2 connection carries more frames than requests.
    Flood(Flood),
    /// The body is long and does not say how long.
    LengthNeeded,
    /// The message breaks a rule of the configuration.
    Rule(Breach),
    /// The policy said no to the message, with an SMTP code and words for the client.
    PolicyRejected {
        /// The code, 400 to 599.
        code: u16,
        /// The words.
        text: String,
        /// How many recipients there are.
        recipients: usize,
    },
    /// The policy raised an error about the message.
    MessageFailed,
    /// The identity has sent as much as it may.
    OverQuota(OverQuota),
    /// How much the identity has sent cannot be found out.
    QuotaUnknown,
    /// The head did not arrive in time.
    HeadTimedOut,
    /// The body broke off, or its framing is wrong.
    Body,
    /// The body stalled.
    BodyTimedOut,
    /// No connection to the upstream could be made.
    UpstreamRefused,
    /// The upstream closed the connection before its answer was whole.
    UpstreamClosed,
    /// What the upstream answered is no HTTP, or can be read in two ways.
    UpstreamBadAnswer,
    /// The upstream failed in another way.
    UpstreamFailed,
    /// The upstream took too long.
    UpstreamTimedOut,
    /// Health checks say that the upstream is down.
    UpstreamDown,
    /// The upstream has as much to do as it may.
    UpstreamBusy,
    /// A fault of gatepost's own.
    Internal,
}

/// What is wrong with the client certificate of a connection. Its handshake let it in, and something has changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// None was shown, and one is asked for by now.
    #[error("a client certificate is needed, connect again with one")]
    Missing,
    /// It is over.
    #[error("the client certificate has expired")]
    Expired,
    /// Those who vouched for it do not count any more.
    #[error("nobody who counts vouches for the client certificate any more")]
    Distrusted,
}

/// Which quota is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverQuota {
    /// What is counted: `requests` or `recipients`.
    pub counted: &'static str,
    /// How much there may be.
    pub limit: u32,
    /// In how long.
    pub period: Duration,
    /// When this request would fit; `None` where it never does.
    pub wait: Option<Duration>,
}

impl Refusal {
    /// Whether it is for credentials that were missing, wrong or unreadable, came too often, or at a time when too many waited.
    #[must_use]
    pub fn is_about_credentials(&self) -> bool {
        matches!(
            self,
            Self::Unauthorized | Self::Credentials(_) | Self::Throttled(_) | Self::PolicyOverloaded
        )
    }

    /// Every word that [`Refusal::reason`] gives, so that whoever counts them can begin at 0.
    pub const REASONS: &'static [&'static str] = &[
        "bad_request",
        "ambiguous_path",
        "bad_forwarded_for",
        "bad_proxy_header",
        "throttled",
        "unauthorized",
        "bad_credentials",
        "no_route",
        "method_not_allowed",
        "client_certificate",
        "forbidden",
        "unsayable_identity",
        "policy_failed",
        "policy_timed_out",
        "policy_overloaded",
        "bad_message",
        "body_too_large",
        "memory_full",
        "crowded",
        "http2_flood",
        "length_needed",
        "message_rule",
        "rejected",
        "message_policy_failed",
        "over_quota",
        "quota_unknown",
        "head_timed_out",
        "bad_body",
        "body_timed_out",
        "upstream_refused",
        "upstream_closed",
        "upstream_bad_answer",
        "upstream_failed",
        "upstream_timed_out",
        "upstream_down",
        "upstream_busy",
        "internal",
    ];

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
            Self::Message(fault) => match fault.kind {
                FaultKind::Malformed => StatusCode::BAD_REQUEST,
                FaultKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                FaultKind::Unsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
                FaultKind::Ambiguous => StatusCode::UNPROCESSABLE_ENTITY,
            },
            Self::BodyTooLarge | Self::Rule(Breach::Size) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::LengthNeeded => StatusCode::LENGTH_REQUIRED,
            Self::Rule(_) | Self::MessageFailed => StatusCode::FORBIDDEN,
            // 4xx is for now, 5xx for good (RFC 5321 §4.2.1).
            Self::PolicyRejected { code, .. } if *code < 500 => StatusCode::TOO_MANY_REQUESTS,
            Self::PolicyRejected { .. } => StatusCode::FORBIDDEN,
            // More than ever fits is not a matter of time.
            Self::OverQuota(over) if over.wait.is_none() => StatusCode::FORBIDDEN,
            Self::Throttled(_) | Self::OverQuota(_) | Self::Flood(_) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            // It is for connections that cannot be used for this request, where another could be (RFC 9110 §15.5.20). The
            // handshake of that one finds out.
            Self::ClientCertificate(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Forbidden | Self::Unsayable => StatusCode::FORBIDDEN,
            Self::PolicyFailed | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::PolicyTimedOut
            | Self::PolicyOverloaded
            | Self::QuotaUnknown
            | Self::Crowded
            | Self::MemoryFull
            | Self::UpstreamDown
            | Self::UpstreamBusy => StatusCode::SERVICE_UNAVAILABLE,
            Self::HeadTimedOut | Self::BodyTimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::UpstreamRefused
            | Self::UpstreamClosed
            | Self::UpstreamBadAnswer
            | Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
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
            Self::ClientCertificate(_) => "client_certificate",
            Self::Forbidden => "forbidden",
            Self::Unsayable => "unsayable_identity",
            Self::PolicyFailed => "policy_failed",
            Self::PolicyTimedOut => "policy_timed_out",
            Self::PolicyOverloaded => "policy_overloaded",
            Self::Message(_) => "bad_message",
            Self::BodyTooLarge => "body_too_large",
            Self::MemoryFull => "memory_full",
            Self::Crowded => "crowded",
            Self::Flood(_) => "http2_flood",
            Self::LengthNeeded => "length_needed",
            Self::Rule(_) => "message_rule",
            Self::PolicyRejected { .. } => "rejected",
            Self::MessageFailed => "message_policy_failed",
            Self::OverQuota(_) => "over_quota",
            Self::QuotaUnknown => "quota_unknown",
            Self::HeadTimedOut => "head_timed_out",
            Self::Body => "bad_body",
            Self::BodyTimedOut => "body_timed_out",
            Self::UpstreamRefused => "upstream_refused",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamBadAnswer => "upstream_bad_answer",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamTimedOut => "upstream_timed_out",
            Self::UpstreamDown => "upstream_down",
            Self::UpstreamBusy => "upstream_busy",
            Self::Internal => "internal",
        }
    }

    /// What the client reads.
    #[must_use]
    pub fn message(&self) -> Cow<'_, str> {
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
            Self::ClientCertificate(fault) => Cow::Owned(fault.to_string()),
            Self::Forbidden => Cow::Borrowed("you may not use this path"),
            Self::Unsayable => Cow::Borrowed("the injection API cannot be told who you are"),
            Self::PolicyFailed => Cow::Borrowed("the credentials could not be checked"),
            Self::PolicyTimedOut => {
                Cow::Borrowed("checking the request took too long, try again later")
            }
            Self::PolicyOverloaded => {
                Cow::Borrowed("too many requests are being checked, try again later")
            }
            Self::Message(fault) => Cow::Owned(fault.to_string()),
            Self::BodyTooLarge => Cow::Borrowed("the request's body is too large"),
            Self::Crowded => Cow::Borrowed("too many connections are open, try again later"),
            Self::Flood(flood) => Cow::Owned(flood.to_string()),
            Self::MemoryFull => {
                Cow::Borrowed("too many large requests are under way, try again later")
            }
            Self::LengthNeeded => {
                Cow::Borrowed("a body of this size needs a Content-Length on this path")
            }
            Self::Rule(breach) => Cow::Owned(breach.to_string()),
            Self::PolicyRejected { text, .. } => Cow::Borrowed(text),
            Self::MessageFailed => Cow::Borrowed("this message may not be sent"),
            Self::OverQuota(over) => {
                let OverQuota { counted, limit, .. } = over;
                let seconds = over.period.as_secs();
                Cow::Owned(if over.wait.is_some() {
                    format!(
                        "you have used up your {limit} {counted} in {seconds} s, try again later"
                    )
                } else {
                    format!(
                        "this is more than your {limit} {counted} in {seconds} s will ever allow"
                    )
                })
            }
            Self::QuotaUnknown => Cow::Borrowed("your quota cannot be checked, try again later"),
            Self::HeadTimedOut => Cow::Borrowed("the request took too long to arrive"),
            Self::Body => Cow::Borrowed("the request's body is malformed or incomplete"),
            Self::BodyTimedOut => Cow::Borrowed("the request's body took too long to arrive"),
            Self::UpstreamRefused | Self::UpstreamFailed => {
                Cow::Borrowed("the injection API cannot be reached")
            }
            Self::UpstreamClosed => Cow::Borrowed("the injection API broke off"),
            Self::UpstreamBadAnswer => {
                Cow::Borrowed("the injection API's answer cannot be understood")
            }
            Self::UpstreamTimedOut => Cow::Borrowed("the injection API did not answer in time"),
            Self::UpstreamDown => Cow::Borrowed("the injection API is down, try again later"),
            Self::UpstreamBusy => Cow::Borrowed("the injection API is busy, try again later"),
            Self::Internal => Cow::Borrowed("internal error"),
        }
    }

    /// Whether the answer invites the client to authenticate (`WWW-Authenticate`).
    #[must_use]
    pub fn challenges(&self) -> bool {
        self.status() == StatusCode::UNAUTHORIZED
    }

    /// Whether nothing more can come of the connection.
    #[must_use]
    pub fn ends_connection(&self) -> bool {
        matches!(self, Self::ClientCertificate(_))
    }

    /// When it is worth trying again, for the `Retry-After` header.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled(wait) => Some(*wait),
            Self::PolicyTimedOut
            | Self::PolicyOverloaded
            | Self::QuotaUnknown
            | Self::Crowded
            | Self::MemoryFull
            | Self::UpstreamBusy => Some(Duration::from_secs(1)),
            Self::UpstreamDown => Some(Duration::from_secs(5)),
            Self::PolicyRejected { code, .. } if *code < 500 => Some(Duration::from_secs(60)),
            Self::OverQuota(over) => over.wait,
            Self::Message(_)
            | Self::BodyTooLarge
            | Self::Flood(_)
            | Self::LengthNeeded
            | Self::Rule(_)
            | Self::PolicyRejected { .. }
            | Self::MessageFailed
            | Self::Head(_)
            | Self::Path(_)
            | Self::ForwardedFor
            | Self::ProxyHeader(_)
            | Self::Credentials(_)
            | Self::NoRoute
            | Self::MethodNotAllowed(_)
            | Self::Unauthorized
            | Self::ClientCertificate(_)
            | Self::Forbidden
            | Self::Unsayable
            | Self::PolicyFailed
            | Self::HeadTimedOut
            | Self::Body
            | Self::BodyTimedOut
            | Self::UpstreamRefused
            | Self::UpstreamClosed
            | Self::UpstreamBadAnswer
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

    /// The fields that say how much there may be and when there may be more (the structured fields of
    /// draft-ietf-httpapi-ratelimit-headers), as name and value.
    #[must_use]
    pub fn rate_limit(&self) -> Option<[(&'static str, String); 2]> {
        let Self::OverQuota(over) = self else {
            return None;
        };
        let OverQuota {
            counted,
            limit,
            period,
            wait,
        } = over;
        let (seconds, wait) = (whole_seconds(*period), whole_seconds((*wait)?));
        Some([
            (
                "RateLimit-Policy",
                format!("\"{counted}\";q={limit};w={seconds}"),
            ),
            ("RateLimit", format!("\"{counted}\";r=0;t={wait}")),
        ])
    }

    /// The body: one line of JSON, `application/json`.
    #[must_use]
    pub fn body(&self) -> String {
        let mut body = format!("{{\"error\":\"{}\",\"message\":\"", self.reason());
        escape(&self.message(), &mut body);
        // What clients of an injection API look at, so that they count a refused message as failed.
        if let Self::PolicyRejected {
            code,
            text,
            recipients,
        } = self
        {
            body.push_str("\",\"success_count\":0,\"fail_count\":");
            body.push_str(&recipients.to_string());
            body.push_str(",\"failed_recipients\":[],\"errors\":[\"");
            body.push_str(&code.to_string());
            body.push(' ');
            escape(text, &mut body);
            body.push_str("\"]}\n");
        } else {
            body.push_str("\"}\n");
        }
        body
    }
}

/// Rounded up, since a moment too early is refused again.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// A JSON string's inside. Control characters do not come here: our own words hold none, and those of a policy
/// have been checked.
fn escape(text: &str, into: &mut String) {
    for character in text.chars().filter(|it| !it.is_control()) {
        if matches!(character, '"' | '\\') {
            into.push('\\');
        }
        into.push(character);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter that begins with its first refusal hides that one from whoever looks for changes.
    #[test]
    fn the_list_of_reasons_is_complete() {
        let source = include_str!("refusal.rs");
        let begin = source.find("pub fn reason(").unwrap();
        let end = begin + source[begin..].find("\n    }\n").unwrap();
        let said: Vec<_> = source[begin..end].split('"').skip(1).step_by(2).collect();
        assert_eq!(said, Refusal::REASONS);
    }

    /// Whoever waits for these must not be somebody who knows the password and sent too much.
    #[test]
    fn what_a_guesser_gets_is_about_credentials() {
        for refusal in [
            Refusal::Unauthorized,
            Refusal::Credentials(CredentialFault::Empty),
            Refusal::Throttled(Duration::ZERO),
            Refusal::PolicyOverloaded,
        ] {
            assert!(refusal.is_about_credentials(), "{refusal:?}");
        }
        for refusal in [Refusal::Forbidden, over(None), Refusal::UpstreamBusy] {
            assert!(!refusal.is_about_credentials(), "{refusal:?}");
        }
    }

    fn over(wait: Option<Duration>) -> Refusal {
        Refusal::OverQuota(OverQuota {
            counted: "recipients",
            limit: 100,
            period: Duration::from_secs(60),
            wait,
        })
    }

    fn message(kind: FaultKind) -> Refusal {
        Refusal::Message(MessageFault {
            kind,
            pointer: None,
            words: "no",
        })
    }

    fn rejected(code: u16) -> Refusal {
        Refusal::PolicyRejected {
            code,
            text: "say \"please\"\\\u{7}".to_owned(),
            recipients: 3,
        }
    }

    /// A refusal, its status and reason, and the seconds to wait.
    type Answered = (Refusal, u16, &'static str, Option<u64>);

    /// One of each of those before a message is looked at, and of those that are answered in several ways one of each way.
    fn of_requests() -> Vec<Answered> {
        use Refusal as R;
        let second = Duration::from_secs(1);
        vec![
            (R::Head(HeadFault::TooLarge), 431, "bad_request", None),
            (R::Path(PathFault::Dots), 400, "ambiguous_path", None),
            (R::ForwardedFor, 400, "bad_forwarded_for", None),
            (
                R::ProxyHeader(ProxyHeaderFault::Missing),
                400,
                "bad_proxy_header",
                None,
            ),
            (R::Throttled(second * 7), 429, "throttled", Some(7)),
            (
                R::Credentials(CredentialFault::UnknownScheme),
                401,
                "unauthorized",
                None,
            ),
            (R::Unauthorized, 401, "unauthorized", None),
            (
                R::Credentials(CredentialFault::Empty),
                400,
                "bad_credentials",
                None,
            ),
            (R::NoRoute, 404, "no_route", None),
            (
                R::MethodNotAllowed("GET".to_owned()),
                405,
                "method_not_allowed",
                None,
            ),
            (
                R::ClientCertificate(CertificateFault::Missing),
                421,
                "client_certificate",
                None,
            ),
            (R::Forbidden, 403, "forbidden", None),
            (R::Unsayable, 403, "unsayable_identity", None),
            (R::PolicyFailed, 500, "policy_failed", None),
            (R::PolicyTimedOut, 503, "policy_timed_out", Some(1)),
            (R::PolicyOverloaded, 503, "policy_overloaded", Some(1)),
        ]
    }

    /// The same of those that come later.
    fn of_messages_and_upstreams() -> Vec<Answered> {
        use Refusal as R;
        let second = Duration::from_secs(1);
        vec![
            (message(FaultKind::Malformed), 400, "bad_message", None),
            (message(FaultKind::TooLarge), 413, "bad_message", None),
            (message(FaultKind::Unsupported), 415, "bad_message", None),
            (message(FaultKind::Ambiguous), 422, "bad_message", None),
            (R::BodyTooLarge, 413, "body_too_large", None),
            (R::MemoryFull, 503, "memory_full", Some(1)),
            (R::Crowded, 503, "crowded", Some(1)),
            (R::Flood(Flood::Resets), 429, "http2_flood", None),
            (R::LengthNeeded, 411, "length_needed", None),
            (R::Rule(Breach::Size), 413, "message_rule", None),
            (R::Rule(Breach::From), 403, "message_rule", None),
            (rejected(499), 429, "rejected", Some(60)),
            (rejected(500), 403, "rejected", None),
            (rejected(501), 403, "rejected", None),
            (R::MessageFailed, 403, "message_policy_failed", None),
            (over(Some(second * 2)), 429, "over_quota", Some(2)),
            (over(None), 403, "over_quota", None),
            (R::QuotaUnknown, 503, "quota_unknown", Some(1)),
            (R::HeadTimedOut, 408, "head_timed_out", None),
            (R::Body, 400, "bad_body", None),
            (R::BodyTimedOut, 408, "body_timed_out", None),
            (R::UpstreamRefused, 502, "upstream_refused", None),
            (R::UpstreamClosed, 502, "upstream_closed", None),
            (R::UpstreamBadAnswer, 502, "upstream_bad_answer", None),
            (R::UpstreamFailed, 502, "upstream_failed", None),
            (R::UpstreamTimedOut, 504, "upstream_timed_out", None),
            (R::UpstreamDown, 503, "upstream_down", Some(5)),
            (R::UpstreamBusy, 503, "upstream_busy", Some(1)),
            (R::Internal, 500, "internal", None),
        ]
    }

    /// Clients go by the status, operators by the reason, and both by how long to wait.
    #[test]
    fn each_refusal_is_answered_as_it_is_meant() {
        let mut reasons = Vec::new();
        let all = of_requests().into_iter().chain(of_messages_and_upstreams());
        for (refusal, status, reason, wait) in all {
            assert_eq!(refusal.status(), status, "{refusal:?}");
            assert_eq!(refusal.reason(), reason, "{refusal:?}");
            assert_eq!(
                refusal.retry_after(),
                wait.map(Duration::from_secs),
                "{refusal:?}"
            );
            assert_eq!(refusal.challenges(), status == 401, "{refusal:?}");
            assert_eq!(refusal.ends_connection(), status == 421, "{refusal:?}");
            assert_eq!(refusal.allow(), (status == 405).then_some("GET"));
            assert!(refusal.message().len() > 1, "{refusal:?}");
            let body: serde_json::Value = serde_json::from_str(&refusal.body()).unwrap();
            assert_eq!(body["error"], reason);
            reasons.push(reason);
        }
        reasons.dedup();
        assert_eq!(reasons, Refusal::REASONS, "each is in the list");
    }

    #[test]
    fn words_are_json_whatever_a_policy_says() {
        let words = "say \"please\"\\";
        let body: serde_json::Value = serde_json::from_str(&rejected(451).body()).unwrap();
        assert_eq!(body["message"], words);
        assert_eq!(body["errors"][0], format!("451 {words}"));
        assert_eq!(
            (&body["success_count"], &body["fail_count"]),
            (&0.into(), &3.into())
        );
        assert_eq!(
            Refusal::Forbidden.body(),
            "{\"error\":\"forbidden\",\"message\":\"you may not use this path\"}\n"
        );
    }

    /// A moment too early is refused again, so a part of a second is a whole one.
    #[test]
    fn a_used_up_quota_says_when_there_is_more() {
        for (wait, expected) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (2000, 2)] {
            let fields = over(Some(Duration::from_millis(wait))).rate_limit();
            let wanted = [
                ("RateLimit-Policy", "\"recipients\";q=100;w=60".to_owned()),
                ("RateLimit", format!("\"recipients\";r=0;t={expected}")),
            ];
            assert_eq!(fields, Some(wanted), "{wait} ms");
        }
        for none in [over(None), Refusal::Forbidden] {
            assert_eq!(none.rate_limit(), None);
        }
        let said = over(Some(Duration::from_secs(1)));
        assert_eq!(
            said.message(),
            "you have used up your 100 recipients in 60 s, try again later"
        );
    }

    #[test]
    fn a_fault_becomes_its_refusal() {
        let head = HeadFault::TwoFramings;
        assert_eq!(Refusal::from(head), Refusal::Head(head));
        let path = PathFault::Dots;
        assert_eq!(Refusal::from(path), Refusal::Path(path));
        let credentials = CredentialFault::Empty;
        assert_eq!(
            Refusal::from(credentials),
            Refusal::Credentials(credentials)
        );
    }
}
