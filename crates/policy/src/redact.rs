//! Takes what a client presented, or what its message says, out of a text that goes into the log.
//!
//! A handler may put what it was given into its error: as it is, or as it sent it on (a Basic header in base64, a part of
//! an address with escapes, bytes in hex). The search is only made for a call that failed.

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER};
use gatepost_auth::Credentials;
use gatepost_message::{Address, Message};

const REDACTED: &[u8] = b"[redacted]";

/// The text without the secret, in any of the forms in which it travels.
pub(crate) fn redact(text: String, credentials: &Credentials) -> String {
    let mut forms = Vec::new();
    match credentials {
        Credentials::Basic {
            user,
            password: Some(password),
        } if !password.expose().is_empty() => {
            let password = password.expose();
            let pair = format!("{user}:{password}");
            forms.extend(encoded(pair.as_bytes()));
            forms.push(Form::exactly(password.as_bytes().to_vec()));
            forms.extend(encoded(password.as_bytes()));
        }
        Credentials::Bearer { token } if !token.expose().is_empty() => {
            let token = token.expose().as_bytes();
            forms.push(Form::exactly(token.to_vec()));
            forms.extend(encoded(token));
        }
        Credentials::Basic { .. } | Credentials::Bearer { .. } => return text,
    }
    let mut rest = text.as_bytes();
    let mut clean = Vec::with_capacity(rest.len());
    while let Some((first, behind)) = rest.split_first() {
        // The longest, so that no part of one stays behind where a shorter one begins at the same place.
        let found = forms.iter().filter_map(|form| form.length_in(rest)).max();
        match found {
            Some(length) => {
                clean.extend_from_slice(REDACTED);
                rest = rest.get(length..).unwrap_or_default();
            }
            None => {
                clean.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&clean).into_owned()
}

/// How much of a reason is looked at, and how much of that is shown, in bytes. A part of the message that begins where
/// it is shown ends where it is still seen.
const SEEN: usize = 4096;
const SHOWN: usize = 1024;
/// What is shorter is in every text. What is longer is taken out within words too: better an error that is hard to read
/// than a log that holds mail.
const SHORTEST: usize = 3;

/// The text without addresses and header values of the message, in whole or by their user and domain. What a policy made
/// of them by itself is not found.
pub(crate) fn redact_message(text: &str, message: &Message) -> String {
    let seen = text.get(..text.floor_char_boundary(SEEN)).unwrap_or(text);
    let from = message.sender.iter().chain(&message.from);
    let addresses = from.chain(&message.recipients);
    let parts = addresses.flat_map(|it| [Address::email(it), it.user(), it.domain()]);
    let values = message.headers.iter().flat_map(|(_, value)| pieces(value));
    // Few of ten thousand recipients are in one text.
    let there: Vec<&str> = parts
        .chain(values)
        .filter(|part| part.len() >= SHORTEST && seen.contains(part))
        .collect();
    let (mut rest, mut clean) = (seen, String::new());
    while let Some(next) = rest.chars().next() {
        if seen.len() - rest.len() >= SHOWN {
            clean.push('…');
            break;
        }
        let found = there.iter().filter(|part| rest.starts_with(**part));
        let length = match found.map(|part| part.len()).max() {
            Some(length) => {
                clean.push_str("[redacted]");
                length
            }
            None => {
                clean.push(next);
                next.len_utf8()
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    clean
}

/// A long value piece by piece: one that the end of what is seen cuts is still recognised by its beginning.
fn pieces(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = value.trim();
    std::iter::from_fn(move || {
        let (piece, behind) = rest.split_at(rest.floor_char_boundary(SHOWN));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// One way to write a secret. Each of its bytes may also be there percent-encoded.
struct Form {
    bytes: Vec<u8>,
    case: Case,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Exact,
    Any,
}

impl Form {
    fn exactly(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            case: Case::Exact,
        }
    }

    /// How much of the text's beginning is this secret.
    fn length_in(&self, text: &[u8]) -> Option<usize> {
        let mut rest = text;
        for byte in &self.bytes {
            rest = self.after(*byte, rest)?;
        }
        Some(text.len() - rest.len())
    }

    /// The text behind this byte, which stands there as it is, as `%41`, or, where it is a space, as `+`.
    fn after<'a>(&self, byte: u8, text: &'a [u8]) -> Option<&'a [u8]> {
        let (first, rest) = text.split_first()?;
        let same = match self.case {
            Case::Exact => *first == byte,
            Case::Any => first.eq_ignore_ascii_case(&byte),
        };
        if same || (byte == b' ' && *first == b'+') {
            return Some(rest);
        }
        let (escape, rest) = rest.split_at_checked(2)?;
        let mut digits = [0; 2];
        HEXLOWER.encode_mut(&[byte], &mut digits);
        (*first == b'%' && escape.eq_ignore_ascii_case(&digits)).then_some(rest)
    }
}

/// Both alphabets of base64, whose padding tells nothing and may stay, and hex.
fn encoded(secret: &[u8]) -> [Form; 3] {
    [
        Form::exactly(BASE64_NOPAD.encode(secret).into_bytes()),
        Form::exactly(BASE64URL_NOPAD.encode(secret).into_bytes()),
        Form {
            bytes: HEXLOWER.encode(secret).into_bytes(),
            case: Case::Any,
        },
    ]
}

#[cfg(test)]
mod tests {
    use gatepost_auth::Secret;

    use super::*;

    fn basic(password: Option<&str>) -> Credentials {
        Credentials::Basic {
            user: "scott".to_owned(),
            password: password.map(Secret::from),
        }
    }

    /// The attack: a handler that puts what it was given into its error, and a log that keeps it.
    #[test]
    fn secrets_do_not_get_into_the_log() {
        let bearer = Credentials::Bearer {
            token: Secret::from("t0ken"),
        };
        for (text, credentials, expected) in [
            (
                "no tiger, tiger",
                basic(Some("tiger")),
                "no [redacted], [redacted]",
            ),
            ("user scott", basic(Some("tiger")), "user scott"),
            ("grüße tiger ✓", basic(Some("tiger")), "grüße [redacted] ✓"),
            ("as it is", basic(Some("")), "as it is"),
            ("as it is", basic(None), "as it is"),
            ("bad t0ken!", bearer, "bad [redacted]!"),
        ] {
            assert_eq!(redact(text.to_owned(), &credentials), expected);
        }
    }

    #[test]
    fn nor_does_what_a_message_says() {
        let long = format!("begin {} end", "x".repeat(9000));
        let message = Message {
            sender: Some("scott@example.com".parse().unwrap()),
            recipients: vec!["a@example.org".parse().unwrap()],
            from: vec!["The.News@example.net".parse().unwrap()],
            headers: vec![
                ("Subject".to_owned(), " Your bill ".to_owned()),
                ("X-Short".to_owned(), "p".to_owned()),
                ("X-Long".to_owned(), long.clone()),
            ],
            fields: Vec::new(),
            size: 1,
            template: false,
        };
        for (text, expected) in [
            (
                "p.lua:3: attempt to index a nil value",
                "p.lua:3: attempt to index a nil value",
            ),
            (
                "p.lua:3: no scott@example.com here",
                "p.lua:3: no [redacted] here",
            ),
            (
                "user scott, domain example.org",
                "user [redacted], domain [redacted]",
            ),
            ("a@example.org to The.News", "[redacted] to [redacted]"),
            ("grüße: Your bill!", "grüße: [redacted]!"),
        ] {
            assert_eq!(redact_message(text, &message), expected);
        }
        for before in [0, 5, 500, 1020] {
            let shown = redact_message(&format!("{}{long}", ".".repeat(before)), &message);
            assert!(
                !shown.contains("xxx") && !shown.contains("begin"),
                "{shown}"
            );
        }
        let cut = redact_message(&"ü".repeat(4000), &message);
        assert_eq!(cut.chars().count(), 513);
    }

    /// What a handler sends on, a library's error shows: headers, addresses, keys.
    #[test]
    fn nor_do_they_in_the_forms_in_which_they_travel() {
        let password = "ti ger>ü?";
        for (text, expected) in [
            // `scott:` and the password.
            (
                "Basic c2NvdHQ6dGkgZ2VyPsO8Pw== refused",
                "Basic [redacted]== refused",
            ),
            (
                "Basic c2NvdHQ6dGkgZ2VyPsO8Pw refused",
                "Basic [redacted] refused",
            ),
            ("c2NvdHQ6dGkgZ2VyPsO8Pw%3D%3D", "[redacted]%3D%3D"),
            // The password alone, in both alphabets and escaped.
            ("key dGkgZ2VyPsO8Pw==.", "key [redacted]==."),
            ("/?p=ti%20ger%3E%C3%BC%3F&x", "/?p=[redacted]&x"),
            ("/?p=ti+ger%3e%c3%bc%3f&x", "/?p=[redacted]&x"),
            ("/?p=ti%20ger>ü%3F&x", "/?p=[redacted]&x"),
            ("7469206765723ec3bc3f", "[redacted]"),
            ("0x7469206765723EC3BC3F!", "0x[redacted]!"),
            ("73636f74743a7469206765723ec3bc3f", "[redacted]"),
            // What only begins like it.
            ("/?p=ti%20g%", "/?p=ti%20g%"),
        ] {
            assert_eq!(redact(text.to_owned(), &basic(Some(password))), expected);
        }
        let token = Credentials::Bearer {
            token: Secret::from("<<???>>"),
        };
        for text in [
            "PDw/Pz8+Pg==",
            "PDw_Pz8-Pg",
            "PDw%2FPz8%2BPg",
            "%3C%3C???%3e%3E",
        ] {
            let shown = redact(text.to_owned(), &token);
            assert!(shown.starts_with("[redacted]"), "{text}: {shown}");
        }
    }
}
