//! Encoded words (RFC 2047) among addresses.
//!
//! An MTA that decodes a header before it looks for addresses finds those that an encoded word hides. Where the MTA is
//! one of these, only words are taken that say the same in either order.

use mail_parser::decoders::base64::base64_decode;

/// Whether every encoded word in a value stands for plain text: nothing that has a meaning among addresses.
pub(crate) fn are_plain(value: &str) -> bool {
    let mut rest = value;
    while let Some((_, word)) = rest.split_once("=?") {
        let Some(behind) = past_plain(word) else {
            return false;
        };
        rest = behind;
    }
    true
}

/// What stands behind the word that begins behind its `=?`.
fn past_plain(text: &str) -> Option<&str> {
    let (charset, rest) = text.split_once('?')?;
    let (coding, rest) = rest.split_once('?')?;
    let (written, rest) = rest.split_once("?=")?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let decoded = match coding {
        "Q" | "q" => by_q(written)?,
        "B" | "b" => by_b(written, rest)?,
        _ => return None,
    };
    let text = String::from_utf8(decoded).ok()?;
    text.chars().all(is_plain).then_some(rest)
}

fn is_plain(character: char) -> bool {
    let ends_line = matches!(character, '\u{2028}' | '\u{2029}');
    character.is_ascii_alphanumeric()
        || matches!(character, ' ' | '-' | '.' | '\'')
        || !character.is_ascii() && !character.is_control() && !ends_line
}

fn by_q(written: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut bytes = written.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'=' => {
                let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
                high * 16 + low
            }
            b'_' => b' ',
            _ => byte,
        });
    }
    Some(decoded)
}

fn hex(byte: u8) -> Option<u8> {
    u8::try_from(char::from(byte).to_digit(16)?).ok()
}

/// Some put words that stand side by side together before they decode, which after a padding gives other bytes.
fn by_b(written: &str, behind: &str) -> Option<Vec<u8>> {
    let bare = written.trim_end_matches('=');
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let padding = written.len() - bare.len();
    let fine = written.len().is_multiple_of(4)
        && padding <= 2
        && bare.bytes().all(in_alphabet)
        && (padding == 0 || !behind.trim_start().starts_with("=?"));
    if !fine {
        return None;
    }
    base64_decode(written.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (value, plain) in [
            ("", true),
            ("A = ? <a@example.com>", true),
            ("=?utf-8?Q?J=C3=BCrgen_O'Neil-X.?= <a@example.com>", true),
            ("=?UTF-8?b?SsO8cmdlbg==?= <a@example.com>", true),
            ("=?utf-8?B?SsO8?= =?utf-8?B?cmdlbg==?=", true),
            ("=?utf-8?Q?=F0=9F=98=80?=", true),
            ("=?utf-8?Q??=", true),
            ("=?utf-8?B?SsO8cmdlbg==?= =?utf-8?Q?x?=", false),
            ("=?iso-8859-1?Q?J=FCrgen?=", false),
            ("=?utf-8*de?Q?a?=", false),
            ("=?utf-8?X?a?=", false),
            ("=?utf-8?Q?a", false),
            ("=?utf-8?Q?e=40x.example?=", false),
            ("=?utf-8?Q?a,?=", false),
            ("=?utf-8?Q?a=2C?=", false),
            ("=?utf-8?Q?=22?=", false),
            ("=?utf-8?Q?=3C?=", false),
            ("=?utf-8?Q?=3D=3F?=", false),
            ("=?utf-8?Q?=0A?=", false),
            ("=?utf-8?Q?=4?=", false),
            ("=?utf-8?Q?=+1?=", false),
            ("=?utf-8?Q?=C3?= =?utf-8?Q?=BC?=", false),
            ("=?utf-8?Q?=E2=80=A8?=", false),
            // `e@x`.
            ("=?utf-8?B?ZUB4?=", false),
            ("=?utf-8?B?SsO8cg?=", false),
            ("=?utf-8?B?SsO8====?=", false),
            ("=?utf-8?B?Ss=O8cm?=", false),
            ("=?utf-8?Q?a?= =?utf-8?Q?e=40x?=", false),
        ] {
            assert_eq!(are_plain(value), plain, "{value}");
        }
    }
}
