//! What an `Authorization` header carries, read strictly: RFC 9110 §11 for the scheme, RFC 7617 for
//! Basic, RFC 6750 for Bearer.
//!
//! A user name becomes an identity that the MTA trusts and that logs and meta data show. So whatever
//! could be taken for something else there (a control character, a path, a client address) is refused
//! here, before the policy sees it.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use zeroize::{Zeroize as _, Zeroizing};

use crate::unprintable::is_unprintable;

/// What a client presented about itself, not yet judged.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// RFC 7617: a user and a password.
    Basic {
        /// The user name, checked against [`CredentialRules`].
        user: String,
        /// The password. `None` only where the decoded text held no colon and
        /// [`MissingPassword::Nil`] lets that through.
        password: Option<Secret>,
    },
    /// RFC 6750: an opaque token.
    Bearer {
        /// The token as sent.
        token: Secret,
    },
}

impl Credentials {
    /// Reads the `Authorization` header. `Ok(None)` means that there is none.
    ///
    /// # Errors
    ///
    /// [`CredentialFault`] for a header that is there but cannot be read in one way only. The caller
    /// answers with the status that the fault names; it never goes on as if there were none.
    pub fn from_headers(
        headers: &HeaderMap,
        rules: &CredentialRules,
    ) -> Result<Option<Self>, CredentialFault> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(CredentialFault::TwoHeaders);
        }
        Self::parse(value.as_bytes(), rules).map(Some)
    }

    /// Basic credentials of these parts, if a header could carry them.
    ///
    /// # Errors
    ///
    /// As [`Credentials::from_headers`].
    pub fn basic(
        user: &str,
        password: Option<&str>,
        rules: &CredentialRules,
    ) -> Result<Self, CredentialFault> {
        check_user(user, rules)?;
        if let Some(password) = password {
            if password.len() > rules.max_password_bytes {
                return Err(CredentialFault::TooLong);
            }
            // RFC 7617 §2: neither part holds control characters.
            if password.chars().any(char::is_control) {
                return Err(CredentialFault::ControlCharacter);
            }
        } else if rules.missing_password == MissingPassword::Refuse {
            return Err(CredentialFault::NoPassword);
        }
        Ok(Self::Basic {
            user: user.to_owned(),
            password: password.map(Secret::from),
        })
    }

    /// Reads one header value.
    ///
    /// # Errors
    ///
    /// As [`Credentials::from_headers`].
    pub fn parse(value: &[u8], rules: &CredentialRules) -> Result<Self, CredentialFault> {
        let value = value.trim_ascii();
        let split = value
            .iter()
            .position(|byte| matches!(byte, b' ' | b'\t'))
            .unwrap_or(value.len());
        let (scheme, rest) = value.split_at(split);
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"basic") {
            decode_basic(rest, rules)
        } else if scheme.eq_ignore_ascii_case(b"bearer") {
            bearer(rest, rules)
        } else {
            Err(CredentialFault::UnknownScheme)
        }
    }
}

/// Shows which kind it is and for whom, never the secret part.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { user, .. } => write!(f, "Basic({user:?}, [redacted])"),
            Self::Bearer { .. } => f.write_str("Bearer([redacted])"),
        }
    }
}

fn decode_basic(encoded: &[u8], rules: &CredentialRules) -> Result<Credentials, CredentialFault> {
    if encoded.is_empty() {
        return Err(CredentialFault::Empty);
    }
    // Base64 grows by a third; what cannot fit the limits is not worth decoding.
    let longest = rules.max_user_bytes + 1 + rules.max_password_bytes;
    if encoded.len() > longest.div_ceil(3) * 4 {
        return Err(CredentialFault::TooLong);
    }
    // The standard engine is strict: it refuses the URL alphabet, missing or superfluous padding and
    // non-zero trailing bits, so one text has one encoding.
    let decoded = Zeroizing::new(
        STANDARD
            .decode(encoded)
            .map_err(|_| CredentialFault::NotBase64)?,
    );
    let text = std::str::from_utf8(&decoded).map_err(|_| CredentialFault::NotUtf8)?;
    if text.is_empty() {
        return Err(CredentialFault::Empty);
    }
    // RFC 7617 §2: the first colon splits; the password may hold more of them.
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    Credentials::basic(user, password, rules)
}

fn bearer(token: &[u8], rules: &CredentialRules) -> Result<Credentials, CredentialFault> {
    if token.is_empty() {
        return Err(CredentialFault::Empty);
    }
    if token.len() > rules.max_token_bytes {
        return Err(CredentialFault::TooLong);
    }
    // RFC 6750 §2.1 `b64token`.
    let body = token.len() - token.iter().rev().take_while(|byte| **byte == b'=').count();
    let valid = body > 0
        && token.iter().take(body).all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
        });
    match std::str::from_utf8(token) {
        Ok(token) if valid => Ok(Credentials::Bearer {
            token: Secret::from(token),
        }),
        _ => Err(CredentialFault::BadToken),
    }
}

/// Whether a user may have this name.
pub(crate) fn check_user(user: &str, rules: &CredentialRules) -> Result<(), CredentialFault> {
    if user.is_empty() {
        return Err(CredentialFault::EmptyUser);
    }
    if user.len() > rules.max_user_bytes {
        return Err(CredentialFault::TooLong);
    }
    if user.chars().any(is_unprintable) {
        return Err(CredentialFault::ControlCharacter);
    }
    if user.contains(['/', '\\']) {
        return Err(CredentialFault::PathInUser);
    }
    if user.trim() != user {
        return Err(CredentialFault::SpaceAroundUser);
    }
    if looks_like_address(user) {
        return Err(CredentialFault::AddressAsUser);
    }
    Ok(())
}

/// A trusted host's identity is its address, so a user must not carry a name that reads as one.
fn looks_like_address(user: &str) -> bool {
    let bare = user
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(user);
    // `fe80::1%eth0`: a zone does not make it less of an address.
    let bare = bare.split_once('%').map_or(bare, |(address, _)| address);
    bare.parse::<IpAddr>().is_ok() || user.parse::<std::net::SocketAddr>().is_ok()
}

/// Limits on credentials; each has a configuration key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRules {
    /// Longest user name, in bytes. Default 256.
    pub max_user_bytes: usize,
    /// Longest password, in bytes. Default 1024.
    pub max_password_bytes: usize,
    /// Longest bearer token, in bytes. Default 4096.
    pub max_token_bytes: usize,
    /// What to do with Basic credentials that hold no colon. Default [`MissingPassword::Refuse`].
    pub missing_password: MissingPassword,
}

impl Default for CredentialRules {
    fn default() -> Self {
        Self {
            max_user_bytes: 256,
            max_password_bytes: 1024,
            max_token_bytes: 4096,
            missing_password: MissingPassword::Refuse,
        }
    }
}

/// What to do with Basic credentials that hold no colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingPassword {
    /// 400, before the policy sees them: a handler that looks up an unknown user and compares gets
    /// nil on both sides, and lets it in.
    #[default]
    Refuse,
    /// The handler gets `nil`, as `KumoMTA`'s does.
    Nil,
}

/// Why credentials could not be read. Says what the client can mend, never what was right about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialFault {
    /// Two `Authorization` headers, equal or not.
    #[error("more than one Authorization header")]
    TwoHeaders,
    /// Neither Basic nor Bearer: the one fault that is answered with a challenge, not with 400.
    #[error("unsupported authentication scheme")]
    UnknownScheme,
    /// A scheme with nothing behind it.
    #[error("empty credentials")]
    Empty,
    /// Not canonical base64 (RFC 4648 §4).
    #[error("credentials are not valid base64")]
    NotBase64,
    /// Not UTF-8 after decoding (RFC 7617 §2.1).
    #[error("credentials are not valid UTF-8")]
    NotUtf8,
    /// No colon in the decoded text.
    #[error("credentials hold no password")]
    NoPassword,
    /// Nothing before the colon.
    #[error("empty user name")]
    EmptyUser,
    /// A part is longer than its limit.
    #[error("credentials are too long")]
    TooLong,
    /// A control or format character in the user name or the password.
    #[error("control character in credentials")]
    ControlCharacter,
    /// `/` or `\` in the user name: handlers build file names from it.
    #[error("user name holds a slash or backslash")]
    PathInUser,
    /// White space before or behind the user name.
    #[error("white space around the user name")]
    SpaceAroundUser,
    /// The user name reads as an IP address.
    #[error("user name is an IP address")]
    AddressAsUser,
    /// Not a `b64token` (RFC 6750 §2.1).
    #[error("malformed bearer token")]
    BadToken,
}

/// A text that never shows in a log and is overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one who has to judge it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: Result<(&str, Option<&str>), CredentialFault>) {
        let got = Credentials::parse(value.as_bytes(), &CredentialRules::default());
        let expected = expected.map(|(user, password)| Credentials::Basic {
            user: user.to_owned(),
            password: password.map(Secret::from),
        });
        assert_eq!(got, expected, "{value}");
    }

    fn encode(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn basic_credentials_are_split_at_the_first_colon() {
        check(&encode("scott:tiger"), Ok(("scott", Some("tiger"))));
        check(&encode("carol:a:b:c"), Ok(("carol", Some("a:b:c"))));
        check(&encode("scott:"), Ok(("scott", Some(""))));
        check(&encode("jürgen:grüße"), Ok(("jürgen", Some("grüße"))));
        let (longest, password) = ("a".repeat(256), "b".repeat(1024));
        check(
            &encode(&format!("{longest}:{password}")),
            Ok((&longest, Some(&password))),
        );
    }

    #[test]
    fn the_scheme_ignores_case_and_takes_any_white_space() {
        check("bAsIc  c2NvdHQ6dGlnZXI=", Ok(("scott", Some("tiger"))));
        check("Basic\tc2NvdHQ6dGlnZXI=", Ok(("scott", Some("tiger"))));
        check("Basicc2NvdHQ6dGlnZXI=", Err(CredentialFault::UnknownScheme));
        check(
            "Digest username=\"scott\"",
            Err(CredentialFault::UnknownScheme),
        );
        check("", Err(CredentialFault::UnknownScheme));
    }

    #[test]
    fn one_text_has_one_encoding() {
        check("Basic c2NvdHQ6dGlnZXI", Err(CredentialFault::NotBase64)); // no padding
        check("Basic c2NvdHQ6dGlnZXI==", Err(CredentialFault::NotBase64)); // too much
        check("Basic c2NvdHQ6dGlnZXJ=", Err(CredentialFault::NotBase64)); // trailing bits
        check(
            "Basic c2NvdHQ6dGk-P2dlcn5-",
            Err(CredentialFault::NotBase64),
        ); // URL alphabet
        check("Basic c2Nv dHQ6", Err(CredentialFault::NotBase64)); // inner space
        check("Basic c2P//nR0OnRpZ2Vy", Err(CredentialFault::NotUtf8));
        check("Basic", Err(CredentialFault::Empty));
    }

    #[test]
    fn a_user_name_cannot_pass_for_something_else() {
        check(&encode(":tiger"), Err(CredentialFault::EmptyUser));
        check(&encode("a\r\nb:x"), Err(CredentialFault::ControlCharacter));
        check(
            &encode("a\u{202e}b:x"),
            Err(CredentialFault::ControlCharacter),
        );
        check(
            &encode("scott\u{ad}:x"),
            Err(CredentialFault::ControlCharacter),
        );
        check(&encode("a\0:x"), Err(CredentialFault::ControlCharacter));
        check(&encode("../x:y"), Err(CredentialFault::PathInUser));
        check(&encode("a\\b:y"), Err(CredentialFault::PathInUser));
        check(&encode("scott :x"), Err(CredentialFault::SpaceAroundUser));
        check(
            &encode("\u{a0}scott:x"),
            Err(CredentialFault::SpaceAroundUser),
        );
        check(&encode("127.0.0.1:x"), Err(CredentialFault::AddressAsUser));
        // The first colon splits, so an IPv6 literal cannot be a user name at all: it becomes the
        // user name `2001`, or an empty one.
        check(&encode("::1:x"), Err(CredentialFault::EmptyUser));
        check(
            &encode(&format!("{}:x", "a".repeat(257))),
            Err(CredentialFault::TooLong),
        );
        check(
            &encode(&format!("a:{}", "b".repeat(1025))),
            Err(CredentialFault::TooLong),
        );
        check(
            &encode(&format!("a:{}", "b".repeat(9999))),
            Err(CredentialFault::TooLong),
        );
    }

    #[test]
    fn a_missing_password_is_refused_unless_the_operator_asks_for_nil() {
        check(&encode("nobody"), Err(CredentialFault::NoPassword));
        let rules = CredentialRules {
            missing_password: MissingPassword::Nil,
            ..CredentialRules::default()
        };
        assert_eq!(
            Credentials::parse(encode("nobody").as_bytes(), &rules),
            Ok(Credentials::Basic {
                user: "nobody".to_owned(),
                password: None
            })
        );
    }

    #[test]
    fn bearer_tokens_are_b64tokens() {
        let parse = |value: &str| Credentials::parse(value.as_bytes(), &CredentialRules::default());
        assert_eq!(
            parse("bearer abc.DEF-_~+/=="),
            Ok(Credentials::Bearer {
                token: Secret::from("abc.DEF-_~+/==")
            })
        );
        assert_eq!(parse("Bearer"), Err(CredentialFault::Empty));
        assert_eq!(parse("Bearer a b"), Err(CredentialFault::BadToken));
        assert_eq!(parse("Bearer ="), Err(CredentialFault::BadToken));
        assert_eq!(parse("Bearer grüße"), Err(CredentialFault::BadToken));
        let longest = "t".repeat(4096);
        assert!(parse(&format!("Bearer {longest}")).is_ok());
        assert_eq!(
            parse(&format!("Bearer {longest}t")),
            Err(CredentialFault::TooLong)
        );
    }

    #[test]
    fn secrets_do_not_show() {
        let shown = format!(
            "{:?}",
            Credentials::parse(
                encode("scott:tiger").as_bytes(),
                &CredentialRules::default()
            )
        );
        assert!(!shown.contains("tiger"), "{shown}");
        assert!(shown.contains("scott"), "{shown}");
        let secret = Secret::from("tiger".to_owned());
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(secret.expose(), "tiger");
    }

    /// What is not worth decoding is found by its length, and nothing else is.
    #[test]
    fn what_just_fits_is_decoded() {
        let rules = CredentialRules {
            max_user_bytes: 3,
            max_password_bytes: 3,
            ..CredentialRules::default()
        };
        let parse = |text: &str| Credentials::parse(encode(text).as_bytes(), &rules).err();
        assert_eq!(parse("abc:def"), None);
        for long in ["abcd:ef", "a:bcde", "abc:defg"] {
            assert_eq!(parse(long), Some(CredentialFault::TooLong), "{long}");
        }
    }

    /// The attack: two headers, of which one is looked at here and the other behind.
    #[test]
    fn there_is_one_header_or_none() {
        let find = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            Credentials::from_headers(&headers, &CredentialRules::default())
        };
        let (scott, carol) = (encode("scott:tiger"), encode("carol:lion"));
        assert_eq!(find(&[]), Ok(None));
        assert_eq!(
            find(&[&scott]),
            Ok(Some(Credentials::Basic {
                user: "scott".to_owned(),
                password: Some(Secret::from("tiger")),
            }))
        );
        for second in [&carol, &scott] {
            assert_eq!(find(&[&scott, second]), Err(CredentialFault::TwoHeaders));
        }
    }
}
