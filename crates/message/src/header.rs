//! The header section of a message (RFC 5322 §2.2), and headers that stand one by one in JSON.
//!
//! Strict where parsers differ: what one takes for a header, another takes for the beginning of the body.

use crate::fault::MessageFault;
use crate::json::{Piece, Text};

/// A name and a value.
pub(crate) type Header = (String, String);

/// The header section of a message that stands in a JSON string.
pub(crate) struct Section {
    /// With the ends of its lines, without the empty line.
    pub(crate) text: String,
    /// The first characters of the body that are no white space.
    pub(crate) body_begins: String,
}

/// How many characters of the body [`Section`] tells: as many as a template's marker has at most.
const BODY_BEGINS: usize = 4;

impl Section {
    /// Unescapes the header section, and nothing of the body.
    pub(crate) fn of_string(message: Text<'_>, max_bytes: usize) -> Result<Self, MessageFault> {
        let mut text = String::new();
        let mut line = 0;
        // The empty line is not counted, but seen only once it is there.
        let most = max_bytes.saturating_add(2);
        let mut pieces = message.pieces();
        for piece in pieces.by_ref() {
            match piece {
                Piece::Plain(plain) if text.len() + plain.len() > most => {
                    return Err(too_long());
                }
                Piece::Plain(plain) => text.push_str(plain),
                Piece::Escaped(character) => text.push(character),
            }
            if text.len() > most {
                return Err(too_long());
            }
            // Of what is plain nothing ends a line.
            if piece == Piece::Escaped('\n') {
                if is_empty_line(text.get(line..).unwrap_or_default().as_bytes()) {
                    text.truncate(line);
                    break;
                }
                line = text.len();
            }
        }
        if text.len() > max_bytes {
            return Err(too_long());
        }
        let mut body_begins = String::new();
        for piece in pieces {
            match piece {
                Piece::Plain(plain) if body_begins.is_empty() => {
                    let plain = plain.trim_start().chars();
                    body_begins.extend(plain.take(BODY_BEGINS));
                }
                Piece::Plain(plain) => body_begins.extend(plain.chars().take(BODY_BEGINS)),
                Piece::Escaped(character)
                    if body_begins.is_empty() && character.is_whitespace() => {}
                Piece::Escaped(character) => body_begins.push(character),
            }
            if body_begins.len() >= BODY_BEGINS {
                break;
            }
        }
        Ok(Self { text, body_begins })
    }
}

/// The header section of a message.
pub(crate) fn section_of(message: &[u8], max_bytes: usize) -> Result<&str, MessageFault> {
    let mut length = 0;
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.ends_with(b"\n") && is_empty_line(line) {
            break;
        }
        length += line.len();
        if length > max_bytes {
            return Err(too_long());
        }
    }
    std::str::from_utf8(message.get(..length).unwrap_or_default())
        .map_err(|_| MessageFault::ambiguous("the header section is not UTF-8"))
}

fn is_empty_line(line: &[u8]) -> bool {
    matches!(line, b"\n" | b"\r\n")
}

fn too_long() -> MessageFault {
    MessageFault::too_large("the header section is too long")
}

/// The headers of a section, unfolded.
pub(crate) fn parse(section: &str) -> Result<Vec<Header>, MessageFault> {
    let mut headers: Vec<Header> = Vec::new();
    for line in section.split_inclusive('\n') {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        check_value(line)?;
        if !line.starts_with([' ', '\t']) {
            headers.push(split(line)?);
            continue;
        }
        let Some((_, value)) = headers.last_mut() else {
            return Err(MessageFault::ambiguous(
                "the header section begins with a folded line",
            ));
        };
        // RFC 5322 §3.2.2 forbids to write it, and some take it for the end of the section.
        if line.trim_matches([' ', '\t']).is_empty() {
            return Err(MessageFault::ambiguous(
                "the header section holds a line of white space",
            ));
        }
        value.push_str(line);
    }
    for (_, value) in &mut headers {
        let bare = value.trim_matches([' ', '\t']);
        if bare.len() < value.len() {
            *value = bare.to_owned();
        }
    }
    Ok(headers)
}

fn split(line: &str) -> Result<Header, MessageFault> {
    let Some((name, value)) = line.split_once(':') else {
        return Err(MessageFault::ambiguous(
            "the header section holds a line that is no header",
        ));
    };
    check_name(name)?;
    Ok((name.to_owned(), value.to_owned()))
}

/// RFC 5322 §3.6.8. White space before the colon is dropped by some and part of the name for others.
pub(crate) fn check_name(name: &str) -> Result<(), MessageFault> {
    let fine = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    if !name.is_empty() && name.bytes().all(fine) {
        return Ok(());
    }
    Err(MessageFault::ambiguous("the name of a header is malformed"))
}

/// Of the control characters, only the tabulator. The two separators end a line in JavaScript and Python.
pub(crate) fn check_value(value: &str) -> Result<(), MessageFault> {
    let refused = |it: char| it.is_control() && it != '\t' || matches!(it, '\u{2028}' | '\u{2029}');
    if value.contains(refused) {
        return Err(MessageFault::ambiguous(
            "a header holds a control character",
        ));
    }
    Ok(())
}

/// Headers that stand one by one in JSON, within a limit on all of them.
pub(crate) struct Collected {
    pub(crate) headers: Vec<Header>,
    left: usize,
}

impl Collected {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            headers: Vec::new(),
            left: max_bytes,
        }
    }

    /// A header whose name stands in the JSON, too.
    pub(crate) fn named(&mut self, name: Text<'_>, value: Text<'_>) -> Result<(), MessageFault> {
        let name = name.within(self.left).ok_or_else(too_long)?;
        check_name(&name)?;
        self.known(&name, value)
    }

    /// A header that the MTA names so.
    pub(crate) fn known(&mut self, name: &str, value: Text<'_>) -> Result<(), MessageFault> {
        let value = self.text(value)?;
        self.push(name, value)
    }

    /// A mailbox of which address and name stand apart.
    pub(crate) fn mailbox(
        &mut self,
        name: &str,
        display: Option<Text<'_>>,
        address: &str,
    ) -> Result<(), MessageFault> {
        let value = self.mailbox_value(display, address)?;
        self.push(name, value)
    }

    /// A text that still fits.
    pub(crate) fn text(&self, text: Text<'_>) -> Result<String, MessageFault> {
        let text = text.within(self.left).ok_or_else(too_long)?;
        Ok(text.into_owned())
    }

    /// Refuses what would not fit any more.
    pub(crate) fn room_for(&self, length: usize) -> Result<(), MessageFault> {
        if length > self.left {
            return Err(too_long());
        }
        Ok(())
    }

    /// As it would stand in a header.
    pub(crate) fn mailbox_value(
        &self,
        display: Option<Text<'_>>,
        address: &str,
    ) -> Result<String, MessageFault> {
        let Some(display) = display else {
            return Ok(address.to_owned());
        };
        let display = self
            .text(display)?
            .replace('\\', "\\\\")
            .replace('"', "\\\"");
        Ok(format!("\"{display}\" <{address}>"))
    }

    pub(crate) fn push(&mut self, name: &str, value: String) -> Result<(), MessageFault> {
        check_value(&value)?;
        let length = name.len() + value.len();
        self.left = self.left.checked_sub(length).ok_or_else(too_long)?;
        let bare = value.trim_matches([' ', '\t']);
        let value = if bare.len() < value.len() {
            bare.to_owned()
        } else {
            value
        };
        self.headers.push((name.to_owned(), value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;
    use crate::json::{self, Value};

    const MOST: usize = 100;

    /// The same as bytes and as a string of JSON.
    fn check(message: &str, expected: Result<&[(&str, &str)], FaultKind>) {
        let headers = |section: &str| {
            parse(section).map_err(|fault| fault.kind).map(|headers| {
                headers
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect::<Vec<_>>()
            })
        };
        let expected = expected.map(|headers| {
            headers
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
        });
        let bytes = section_of(message.as_bytes(), MOST).map_err(|fault| fault.kind);
        assert_eq!(bytes.and_then(headers), expected, "{message:?}");

        let quoted = serde_json::to_string(message).unwrap();
        let Ok(Value::String(text)) = json::read(quoted.as_bytes()) else {
            panic!()
        };
        let section = Section::of_string(text, MOST).map_err(|fault| fault.kind);
        assert_eq!(
            section.and_then(|it| headers(&it.text)),
            expected,
            "{message:?}"
        );
    }

    #[test]
    fn sections() {
        let long = format!("A: {}\n\nb", "a".repeat(MOST - 4));
        let value = "a".repeat(MOST - 4);
        for (message, headers) in [
            ("", &[][..]),
            ("\n", &[]),
            ("\r\nA: b", &[]),
            ("A: b", &[("A", "b")]),
            ("A: b\n", &[("A", "b")]),
            ("A:b\r\n\r\nC: d", &[("A", "b")]),
            ("A: b\n\r\nC: d", &[("A", "b")]),
            ("A: b\r\nC: d\n\n", &[("A", "b"), ("C", "d")]),
            ("A:\r\n b \r\n\tc\r\n\r\n", &[("A", "b \tc")]),
            ("A: b: c\n\n", &[("A", "b: c")]),
            ("A:\n\n\0", &[("A", "")]),
            ("A: ü\n\n", &[("A", "ü")]),
            (&long, &[("A", &value)]),
        ] {
            check(message, Ok(headers));
        }
        for message in [
            "hello",
            "A: b\nhello\n\nC: d",
            " A: b\n\n",
            "A: b\n \n c\n\n",
            "A: b\n\t\r\nFrom: c\n\n",
            "A : b\n\n",
            "A\t: b\n\n",
            ": b\n\n",
            "Ä: b\n\n",
            "A: b\rC: d\n\n",
            "A: b\r\r\n\n",
            "\r",
            "A: \0\n\n",
            "A: \u{b}\n\n",
            "A: \u{85}b\n\n",
            "A: \u{2028}b\n\n",
            "From a@example.com Mon Jan\nA: b\n\n",
        ] {
            check(message, Err(FaultKind::Ambiguous));
        }
        let longer = format!("A: {}\n\nb", "a".repeat(MOST - 3));
        check(&longer, Err(FaultKind::TooLarge));
        check(&"a".repeat(MOST + 1), Err(FaultKind::TooLarge));
        check(&"A:b\n".repeat(MOST), Err(FaultKind::TooLarge));
    }

    #[test]
    fn a_body_may_be_of_any_length_and_any_bytes() {
        let message = [b"A: b\n\n", &[0xff; 10 * MOST][..]].concat();
        assert_eq!(section_of(&message, MOST), Ok("A: b\n"));
        assert!(section_of(b"A: \xff\n\n", MOST).is_err());
    }
}
