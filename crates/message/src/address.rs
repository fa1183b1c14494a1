//! A mailbox: `user@domain`.

use std::fmt;
use std::str::FromStr;

/// An address of an envelope or of `From`, in one spelling: the domain in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    email: String,
    /// Where the `@` stands.
    at: usize,
}

impl Address {
    /// RFC 5321 §4.5.3.1.3, without the angle brackets. In bytes.
    pub(crate) const LONGEST: usize = 254;

    /// The whole.
    #[must_use]
    pub fn email(&self) -> &str {
        &self.email
    }

    /// What stands before the `@`. Its case is the receiver's business (RFC 5321 §2.4).
    #[must_use]
    pub fn user(&self) -> &str {
        self.email.get(..self.at).unwrap_or_default()
    }

    /// Whether what stands before the `@` is a quoted string.
    pub(crate) fn is_quoted(&self) -> bool {
        self.email.starts_with('"')
    }

    /// What stands behind the `@`, in lower case.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.email.get(self.at + 1..).unwrap_or_default()
    }
}

/// Reads an address without display name, comments or routes. Quoted local parts are read as they stand.
impl FromStr for Address {
    type Err = AddressFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > Self::LONGEST {
            return Err(AddressFault::TooLong);
        }
        let (user, domain) = text.rsplit_once('@').ok_or(AddressFault::NoAt)?;
        if !is_local_part(user) {
            return Err(AddressFault::LocalPart);
        }
        if !is_domain(domain) {
            return Err(AddressFault::Domain);
        }
        Ok(Self {
            email: format!("{user}@{}", domain.to_lowercase()),
            at: user.len(),
        })
    }
}

/// A dot-atom or a quoted string (RFC 5321 §4.1.2), or UTF-8 in their places (RFC 6531 §3.3).
fn is_local_part(text: &str) -> bool {
    let quoted = text.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    if let Some(inside) = quoted {
        let mut escaped = false;
        for character in inside.chars() {
            match character {
                _ if character.is_control() => return false,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return false,
                _ => {}
            }
        }
        return !escaped && text.len() >= 2;
    }
    let plain = |character: char| {
        !character.is_ascii() && !character.is_control() && !character.is_whitespace()
            || character.is_ascii_alphanumeric()
            || "!#$%&'*+-/=?^_`{|}~".contains(character)
    };
    text.split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(plain))
}

/// Letters, digits and hyphens between dots; U-labels as they are. An address literal is no domain that a rule
/// could be about.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|character| {
                character.is_ascii_alphanumeric()
                    || character == '-'
                    || character == '_'
                    || (!character.is_ascii() && character.is_alphanumeric())
            })
    };
    text.split('.').all(label)
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFault {
    /// Longer than an address may be.
    TooLong,
    /// Without `@`.
    NoAt,
    /// What stands before the `@`.
    LocalPart,
    /// What stands behind it.
    Domain,
}

impl AddressFault {
    /// What is wrong, as [`crate::MessageFault`] says it.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::TooLong => "the address is too long",
            Self::NoAt => "the address holds no `@`",
            Self::LocalPart => "the address is malformed before its `@`",
            Self::Domain => "the address is malformed behind its `@`",
        }
    }
}

impl fmt::Display for AddressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl std::error::Error for AddressFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        for (text, user, domain) in [
            ("scott@example.com", "scott", "example.com"),
            ("Scott.T+x@Example.COM", "Scott.T+x", "example.com"),
            ("\"a b@c\"@example.com", "\"a b@c\"", "example.com"),
            ("jürgen@müller.example", "jürgen", "müller.example"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.user(), address.domain()), (user, domain), "{text}");
        }
        for (text, fault) in [
            ("", AddressFault::NoAt),
            ("scott", AddressFault::NoAt),
            ("@example.com", AddressFault::LocalPart),
            ("a@b@example.com", AddressFault::LocalPart),
            ("a..b@example.com", AddressFault::LocalPart),
            ("<a@example.com>", AddressFault::LocalPart),
            ("a b@example.com", AddressFault::LocalPart),
            ("\"a\"b\"@example.com", AddressFault::LocalPart),
            ("a\r\n@example.com", AddressFault::LocalPart),
            ("a@", AddressFault::Domain),
            ("a@example.com.", AddressFault::Domain),
            ("a@[192.0.2.1]", AddressFault::Domain),
            ("a@exa mple.com", AddressFault::Domain),
            ("a@-x.example", AddressFault::Domain),
            ("a@example.com\n", AddressFault::Domain),
        ] {
            assert_eq!(text.parse::<Address>(), Err(fault), "{text:?}");
        }
        let long = format!("{}@example.com", "a".repeat(250));
        assert_eq!(long.parse::<Address>(), Err(AddressFault::TooLong));
    }
}
