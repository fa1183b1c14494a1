//! A string of JSON as it is written, unescaped piece by piece.

use std::borrow::Cow;

use super::scan;
use crate::address::{Address, AddressFault};
use crate::fault::MessageFault;

/// What stands between the quotes of a string that was accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a>(&'a str);

/// A part of what a string means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// As it is written; holds no control character, so no end of a line.
    Plain(&'a str),
    /// What an escape stands for.
    Escaped(char),
}

impl<'a> Text<'a> {
    /// The string at the beginning of an accepted text, and what stands behind it.
    pub(super) fn of(text: &'a str) -> (Self, &'a str) {
        let inside = text.get(1..).unwrap_or_default();
        let end = scan::quote(inside);
        let rest = inside.get(end + 1..).unwrap_or_default();
        (Self(inside.get(..end).unwrap_or_default()), rest)
    }

    /// What stands between the quotes of a string that was just looked through.
    pub(super) fn between(inside: &'a str) -> Self {
        Self(inside)
    }

    /// The length as it is written, in bytes: at least that of what it means, and at most six times as much.
    pub(crate) fn written_len(self) -> usize {
        self.0.len()
    }

    /// What it means. Copies where something is escaped; for strings whose length is bounded.
    pub(crate) fn whole(self) -> Cow<'a, str> {
        if !self.0.contains('\\') {
            return Cow::Borrowed(self.0);
        }
        let mut whole = String::with_capacity(self.0.len());
        for piece in self.pieces() {
            match piece {
                Piece::Plain(text) => whole.push_str(text),
                Piece::Escaped(character) => whole.push(character),
            }
        }
        Cow::Owned(whole)
    }

    /// What it means, unless that is longer than `most` bytes. Copies where something is escaped.
    pub(crate) fn within(self, most: usize) -> Option<Cow<'a, str>> {
        // An escape of six bytes stands for one at least.
        if self.0.len() / 6 > most {
            return None;
        }
        let whole = self.whole();
        (whole.len() <= most).then_some(whole)
    }

    /// The address that it has to be.
    pub(crate) fn address(self) -> Result<Address, MessageFault> {
        self.within(Address::LONGEST)
            .ok_or(AddressFault::TooLong)
            .and_then(|text| text.parse())
            .map_err(|fault| MessageFault::malformed(fault.words()))
    }

    /// What it means, in parts.
    pub(crate) fn pieces(self) -> impl Iterator<Item = Piece<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let plain = memchr::memchr(b'\\', rest.as_bytes()).unwrap_or(rest.len());
            if plain > 0 {
                let (head, tail) = rest.split_at_checked(plain)?;
                rest = tail;
                return Some(Piece::Plain(head));
            }
            let (character, length) = unescape(rest)?;
            rest = rest.get(length..).unwrap_or_default();
            Some(Piece::Escaped(character))
        })
    }

    /// Whether what it means could end a header's line. Such characters have to be escaped in JSON.
    pub(crate) fn breaks_line(self) -> bool {
        self.pieces()
            .any(|piece| matches!(piece, Piece::Escaped('\r' | '\n' | '\0')))
    }
}

/// The character of the escape at the beginning of a text, and the escape's length. `None` where there is no escape,
/// or where it is one half of a surrogate pair.
pub(super) fn unescape(text: &str) -> Option<(char, usize)> {
    let character = match text.as_bytes().get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_unit(text),
        _ => return None,
    };
    Some((character, 2))
}

fn unescape_unit(text: &str) -> Option<(char, usize)> {
    let first = unit(text)?;
    if let Some(character) = char::from_u32(first) {
        return Some((character, 6));
    }
    let second = unit(text.get(6..)?)?;
    if !(0xD800..0xDC00).contains(&first) || !(0xDC00..0xE000).contains(&second) {
        return None;
    }
    let character = char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00))?;
    Some((character, 12))
}

/// The number of `\uXXXX`.
fn unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    // `from_str_radix` takes a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}
