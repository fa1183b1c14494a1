//! One meaning per path.
//!
//! Routes are compared byte by byte, but the upstream may decode, collapse and resolve what it gets. A
//! path with a second spelling could therefore pass as one route here and act as another there. So
//! nothing is normalised: what has a second spelling is refused.

/// The path and query of a request target in origin-form (RFC 9112 §3.2.1), found to be plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    path: &'a str,
}

impl<'a> Target<'a> {
    /// The longest target, in bytes. Injection APIs have short paths; this is far beyond.
    pub const MAX_BYTES: usize = 4096;

    /// Checks a request target as it came in.
    ///
    /// # Errors
    ///
    /// [`PathFault`] where it has more than one meaning.
    pub fn parse(target: &'a [u8]) -> Result<Self, PathFault> {
        if target.len() > Self::MAX_BYTES {
            return Err(PathFault::TooLong);
        }
        // Absolute-form, authority-form and `*` are for proxies, tunnels and servers as a whole.
        if target.first() != Some(&b'/') {
            return Err(PathFault::NotOriginForm);
        }
        // Raw controls, spaces, non-ASCII and fragments have no place in a target (RFC 3986 §3.3).
        if !target
            .iter()
            .all(|byte| matches!(byte, 0x21..=0x7e) && *byte != b'#')
        {
            return Err(PathFault::BadCharacter);
        }
        let text = std::str::from_utf8(target).map_err(|_| PathFault::BadCharacter)?;
        let path = text.split_once('?').map_or(text, |(path, _)| path);
        check_characters(path.as_bytes())?;
        check_segments(path)?;
        Ok(Self { path })
    }

    /// The path without the query.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.path
    }
}

fn check_characters(path: &[u8]) -> Result<(), PathFault> {
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                // Capitals alone (RFC 3986 §2.1 has them for the normal form): one spelling.
                let high = bytes.next().and_then(hex_digit);
                let low = bytes.next().and_then(hex_digit);
                let (Some(high), Some(low)) = (high, low) else {
                    return Err(PathFault::BadEscape);
                };
                if is_twice_spelled(high << 4 | low) {
                    return Err(PathFault::NeedlessEscape);
                }
            }
            // Neither `pchar` nor `/` (RFC 3986 §3.3). Some servers read `\` as `/`.
            // `a;x` is `a` to servers with path parameters.
            b';' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'[' | b']' => {
                return Err(PathFault::BadCharacter);
            }
            _ => {}
        }
    }
    Ok(())
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Whether an escaped byte could have been written plainly (RFC 3986 §2.3), or turns into a
/// separator, a control character or another escape once the upstream decodes it.
fn is_twice_spelled(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || byte <= b' '
        || byte == 0x7f
        || matches!(
            byte,
            b'-' | b'.' | b'_' | b'~' | b'/' | b'\\' | b'%' | b'?' | b'#'
                // What may stand plainly too (`pchar`, §3.3).
                | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

fn check_segments(path: &str) -> Result<(), PathFault> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        // `/a//b` is `/a/b` to many servers. The last segment alone may be empty: `/a/`.
        if segment.is_empty() && segments.peek().is_some() {
            return Err(PathFault::EmptySegment);
        }
        // `name.` is `name` to some file systems.
        if segment.ends_with('.') {
            return Err(PathFault::Dots);
        }
    }
    Ok(())
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// Longer than [`Target::MAX_BYTES`].
    #[error("the path is too long")]
    TooLong,
    /// Absolute-form, authority-form, `*`, or empty.
    #[error("the request target must begin with a slash")]
    NotOriginForm,
    /// A byte that no path holds.
    #[error("the path holds a character that must be escaped")]
    BadCharacter,
    /// `%` without two hexadecimal digits in capitals.
    #[error("the path holds a malformed escape, or one in small letters")]
    BadEscape,
    /// An escape for a character that is, or becomes, something else.
    #[error("the path holds an escape that has another spelling")]
    NeedlessEscape,
    /// `//`.
    #[error("the path holds an empty segment")]
    EmptySegment,
    /// `.`, `..`, or a segment that ends in a dot.
    #[error("the path holds a dot segment")]
    Dots,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, expected: Result<&str, PathFault>) {
        check_bytes(target.as_bytes(), expected);
    }

    fn check_bytes(target: &[u8], expected: Result<&str, PathFault>) {
        let got = Target::parse(target).map(|target| target.path());
        assert_eq!(got, expected, "{}", target.escape_ascii());
    }

    #[test]
    fn plain_paths_pass() {
        check("/", Ok("/"));
        check("/api/inject/v1", Ok("/api/inject/v1"));
        check("/messages/", Ok("/messages/"));
        check("/messages?limit=5&q=a%20b/../c", Ok("/messages"));
        check("/a@b:c,d", Ok("/a@b:c,d"));
        check("/caf%C3%A9", Ok("/caf%C3%A9"));
        check("/a%7C%22b", Ok("/a%7C%22b"));
        let longest = format!("/{}", "a".repeat(Target::MAX_BYTES - 1));
        check(&longest, Ok(&longest));
        check("/a.b/.well-known/x", Ok("/a.b/.well-known/x"));
    }

    #[test]
    fn other_forms_are_refused() {
        for target in ["", "*", "foo/bar", "a:443", "http://a/api", "?x", "api"] {
            check(target, Err(PathFault::NotOriginForm));
        }
    }

    #[test]
    fn a_second_spelling_is_refused() {
        for (target, fault) in [
            ("/api//inject", PathFault::EmptySegment),
            ("//api/inject", PathFault::EmptySegment),
            ("/api/./inject", PathFault::Dots),
            ("/api/../inject", PathFault::Dots),
            ("/api/..", PathFault::Dots),
            ("/api/inject.", PathFault::Dots),
            ("/api/..;x/inject", PathFault::BadCharacter),
            ("/api/inject;x=1", PathFault::BadCharacter),
            ("/api/;x", PathFault::BadCharacter),
            ("/a%40b", PathFault::NeedlessEscape),
            ("/a%3Bb", PathFault::NeedlessEscape),
            ("/caf%c3%a9", PathFault::BadEscape),
            ("/api/%2E%2E/inject", PathFault::NeedlessEscape),
            ("/api%2Finject", PathFault::NeedlessEscape),
            ("/api%5Cinject", PathFault::NeedlessEscape),
            ("/%61pi/inject", PathFault::NeedlessEscape),
            ("/api%252Finject", PathFault::NeedlessEscape),
            ("/api/inject%00", PathFault::NeedlessEscape),
            ("/api/inject%20", PathFault::NeedlessEscape),
            ("/api/inject%0D", PathFault::NeedlessEscape),
            ("/api/inject%7F", PathFault::NeedlessEscape),
            ("/api/inject%3Fx", PathFault::NeedlessEscape),
            ("/api/inject%", PathFault::BadEscape),
            ("/api/inject%zz", PathFault::BadEscape),
            ("/api\\inject", PathFault::BadCharacter),
            ("/api/inject v1", PathFault::BadCharacter),
            ("/api/inject#x", PathFault::BadCharacter),
            ("/api?a#b", PathFault::BadCharacter),
            ("/caf\u{e9}", PathFault::BadCharacter),
        ] {
            check(target, Err(fault));
        }
        check_bytes(b"/api\0", Err(PathFault::BadCharacter));
        check_bytes(b"/api\xff", Err(PathFault::BadCharacter));
        check_bytes(b"/api?a\rb", Err(PathFault::BadCharacter));
        check_bytes(&[b'/'; 5000], Err(PathFault::TooLong));
    }
}
