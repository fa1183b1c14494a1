//! A signature over who a request is, for an MTA that must not take anybody's word for it.
//!
//! The header's value is `v1;key=ID;time=SECONDS;mac=HEX`. The MAC is HMAC-SHA256 (RFC 2104) over these
//! lines, joined by a line feed, without one at the end:
//!
//! ```text
//! gatepost-v1
//! ID
//! SECONDS
//! METHOD
//! PATH
//! CLIENT ADDRESS
//! IDENTITY
//! ```
//!
//! None of them can hold a line feed, so no two requests have one text. `SECONDS` is Unix time, `PATH` is
//! without the query, `IDENTITY` is empty where nobody was asked. `docs/signature.md` says it for those
//! who verify; the vectors in `tests/data/signature.json` are checked here, in Lua and with openssl.

use std::net::IpAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::credentials::Secret;

/// The keys of both sides. The first signs; all of them verify, so that keys can be changed without a
/// moment at which the two sides do not understand each other.
#[derive(Clone)]
pub struct SigningKeys(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: String,
    mac: Hmac<Sha256>,
}

/// Shows which keys, and nothing of what they are.
impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|key| &key.id))
            .finish()
    }
}

/// What is signed, beside key and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, without the query.
    pub path: &'a str,
    /// The client's address.
    pub client: IpAddr,
    /// The identity; empty for none.
    pub identity: &'a str,
}

impl SigningKeys {
    /// The shortest secret, in bytes: half of what the MAC holds.
    pub const MIN_SECRET_BYTES: usize = 16;

    /// # Errors
    ///
    /// [`KeyFault`] for no key, two of one name, a name that is not plain, or a secret that is too short.
    pub fn new(keys: Vec<(String, Secret)>) -> Result<Self, KeyFault> {
        let mut made: Vec<Key> = Vec::new();
        for (id, secret) in keys {
            let plain = !id.is_empty()
                && id.len() <= 32
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
            if !plain {
                return Err(KeyFault::Name);
            }
            if made.iter().any(|key| key.id == id) {
                return Err(KeyFault::Twice);
            }
            if secret.expose().len() < Self::MIN_SECRET_BYTES {
                return Err(KeyFault::Short);
            }
            let mac =
                Hmac::new_from_slice(secret.expose().as_bytes()).map_err(|_| KeyFault::Short)?;
            made.push(Key { id, mac });
        }
        if made.is_empty() {
            return Err(KeyFault::None);
        }
        Ok(Self(made))
    }

    /// The header's value, signed with the first key. The time is Unix time in seconds.
    #[must_use]
    pub fn sign(&self, claim: &Claim<'_>, time: u64) -> String {
        self.0.first().map_or_else(String::new, |key| {
            let mac = key.mac(claim, time).finalize().into_bytes();
            format!("v1;key={};time={time};mac={}", key.id, hex(&mac))
        })
    }

    /// Holds a header's value against what it is said to be about; gives the key's name.
    ///
    /// # Errors
    ///
    /// [`SignatureFault`]. A value whose time is further from `now` than `tolerance`, both in seconds, is
    /// one of them: what was signed once must not be good for ever.
    pub fn verify(
        &self,
        value: &str,
        claim: &Claim<'_>,
        now: u64,
        tolerance: u64,
    ) -> Result<&str, SignatureFault> {
        let mut parts = value.split(';');
        let mut part = |name: &str| {
            let text = parts.next().ok_or(SignatureFault::Malformed)?;
            text.strip_prefix(name).ok_or(SignatureFault::Malformed)
        };
        let (_, id, time, mac) = (part("v1")?, part("key=")?, part("time=")?, part("mac=")?);
        if parts.next().is_some() || !value.starts_with("v1;") {
            return Err(SignatureFault::Malformed);
        }
        let key = self.0.iter().find(|key| key.id == id);
        let key = key.ok_or(SignatureFault::UnknownKey)?;
        let seconds: u64 = time.parse().map_err(|_| SignatureFault::Malformed)?;
        // One spelling: `+5` and `05` are numbers too.
        if seconds.to_string() != time {
            return Err(SignatureFault::Malformed);
        }
        let mac = unhex(mac).ok_or(SignatureFault::Malformed)?;
        key.mac(claim, seconds)
            .verify_slice(&mac)
            .map_err(|_| SignatureFault::Wrong)?;
        if now.abs_diff(seconds) > tolerance {
            return Err(SignatureFault::Stale);
        }
        Ok(&key.id)
    }
}

impl Key {
    fn mac(&self, claim: &Claim<'_>, time: u64) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        let text = format!(
            "gatepost-v1\n{}\n{time}\n{}\n{}\n{}\n{}",
            self.id, claim.method, claim.path, claim.client, claim.identity
        );
        mac.update(text.as_bytes());
        mac
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| DIGITS.get(usize::from(digit)))
        .collect()
}

/// Lower case only: one spelling.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

/// Why keys cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// There is none.
    #[error("at least one key is needed")]
    None,
    /// Two of one name.
    #[error("two keys have one id")]
    Twice,
    /// Not fit for the header.
    #[error("a key's id is 1 to 32 letters, digits, `-`, `_` or `.`")]
    Name,
    /// Too short to be a secret.
    #[error("a key's secret has at least {} bytes", SigningKeys::MIN_SECRET_BYTES)]
    Short,
}

/// Why a signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// Not `v1;key=…;time=…;mac=…`.
    #[error("the signature is malformed")]
    Malformed,
    /// Signed with a key that is not known here.
    #[error("the signature's key is unknown")]
    UnknownKey,
    /// Of something else, or with another secret.
    #[error("the signature is wrong")]
    Wrong,
    /// Right, but too old, or from the future.
    #[error("the signature's time is too far from now")]
    Stale,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(list: &[(&str, &str)]) -> SigningKeys {
        let keys = list.iter();
        SigningKeys::new(
            keys.map(|(id, secret)| ((*id).to_owned(), Secret::from(*secret)))
                .collect(),
        )
        .unwrap()
    }

    const OLD: (&str, &str) = ("2026-10", "0123456789abcdef");
    const NEW: (&str, &str) = ("2026-11", "fedcba9876543210");

    fn claim(identity: &str) -> Claim<'_> {
        Claim {
            method: "POST",
            path: "/api/inject/v1",
            client: "192.0.2.1".parse().unwrap(),
            identity,
        }
    }

    #[test]
    fn the_vectors_hold() {
        let file = include_str!("../../../tests/data/signature.json");
        let vectors: serde_json::Value = serde_json::from_str(file).unwrap();
        let vectors = vectors.as_array().unwrap();
        assert!(vectors.len() >= 4);
        for vector in vectors {
            let text = |key: &str| vector[key].as_str().unwrap();
            let claim = Claim {
                method: text("method"),
                path: text("path"),
                client: text("client").parse().unwrap(),
                identity: text("identity"),
            };
            let time = vector["time"].as_u64().unwrap();
            let keys = keys(&[(text("key"), text("secret"))]);
            assert_eq!(keys.sign(&claim, time), text("header"), "{vector}");
            assert_eq!(
                keys.verify(text("header"), &claim, time, 0),
                Ok(text("key")),
                "{vector}"
            );
        }
    }

    #[test]
    fn both_keys_verify_while_they_are_changed() {
        let (old, both, new) = (keys(&[OLD]), keys(&[NEW, OLD]), keys(&[NEW]));
        let signed_old = old.sign(&claim("scott"), 100);
        let signed_new = both.sign(&claim("scott"), 100);
        assert_eq!(
            both.verify(&signed_old, &claim("scott"), 130, 60),
            Ok(OLD.0)
        );
        assert_eq!(
            both.verify(&signed_new, &claim("scott"), 130, 60),
            Ok(NEW.0)
        );
        assert_eq!(
            new.verify(&signed_old, &claim("scott"), 130, 60),
            Err(SignatureFault::UnknownKey)
        );
    }

    #[test]
    fn nothing_of_what_is_signed_can_be_changed() {
        use SignatureFault::{Malformed, Stale, UnknownKey, Wrong};
        let keys = keys(&[OLD]);
        let good = claim("scott");
        let value = keys.sign(&good, 1000);
        assert_eq!(keys.verify(&value, &good, 1060, 60), Ok(OLD.0));
        assert_eq!(keys.verify(&value, &good, 1061, 60), Err(Stale));
        assert_eq!(keys.verify(&value, &good, 939, 60), Err(Stale));
        for other in [
            Claim {
                method: "GET",
                ..good
            },
            Claim {
                path: "/api/inject/v2",
                ..good
            },
            Claim {
                client: "192.0.2.2".parse().unwrap(),
                ..good
            },
            Claim {
                identity: "root",
                ..good
            },
            Claim {
                identity: "",
                ..good
            },
        ] {
            assert_eq!(
                keys.verify(&value, &other, 1000, 60),
                Err(Wrong),
                "{other:?}"
            );
        }
        for (from, to, fault) in [
            ("time=1000", "time=1001", Wrong),
            ("time=1000", "time=01000", Malformed),
            ("time=1000", "time=+1000", Malformed),
            ("key=2026-10", "key=2026-11", UnknownKey),
            ("v1;", "v2;", Malformed),
            ("v1;", "v1x;", Malformed),
            ("mac=", "mac=00", Wrong),
            ("mac=", "mac=0", Malformed),
            ("mac=", "", Malformed),
        ] {
            let changed = value.replacen(from, to, 1);
            assert_eq!(
                keys.verify(&changed, &good, 1000, 60),
                Err(fault),
                "{changed}"
            );
        }
        for changed in [String::new(), format!("{value};x=1"), value.to_uppercase()] {
            assert_eq!(
                keys.verify(&changed, &good, 1000, 60),
                Err(Malformed),
                "{changed}"
            );
        }
    }

    #[test]
    fn keys_have_to_be_keys() {
        let check = |keys: &[(&str, &str)], expected| {
            let keys = keys.iter();
            let keys = keys.map(|(id, secret)| ((*id).to_owned(), Secret::from(*secret)));
            assert_eq!(SigningKeys::new(keys.collect()).err(), expected);
        };
        check(&[], Some(KeyFault::None));
        check(&[OLD, NEW], None);
        check(&[OLD, OLD], Some(KeyFault::Twice));
        check(&[("a;b", "0123456789abcdef")], Some(KeyFault::Name));
        check(&[("", "0123456789abcdef")], Some(KeyFault::Name));
        check(&[("a", "0123456789abcde")], Some(KeyFault::Short));
        let longest = "k".repeat(32);
        check(&[(&longest, "0123456789abcdef")], None);
        check(
            &[(&format!("{longest}k"), "0123456789abcdef")],
            Some(KeyFault::Name),
        );
        assert_eq!(
            format!("{:?}", keys(&[OLD, NEW])),
            "[\"2026-10\", \"2026-11\"]"
        );
    }
}
