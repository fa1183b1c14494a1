//! The head of an HTTP/1 request, read more strictly than the proxy library reads it.
//!
//! Two parsers that disagree about where a request ends are two requests to one of them. So the bytes
//! are held against RFC 9112 before anybody else parses them, and what is open to a second reading is
//! refused rather than repaired.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::headers::folds_to;
use crate::path::{PathFault, Target};

/// Reads a head line by line while it arrives. Looks at every byte once and allocates nothing.
#[derive(Debug)]
pub struct HeadScanner {
    limits: HeadLimits,
    /// Where the line begins that has not ended yet.
    line_start: usize,
    /// How far the bytes have been searched for the end of that line.
    searched: usize,
    seen: Seen,
}

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Request line and headers together, in bytes.
    pub max_bytes: usize,
    /// Number of header lines.
    pub max_fields: usize,
}

impl Default for HeadLimits {
    /// 32 KiB and 100 lines: far more than an injection client sends. The proxy library takes 1 MiB
    /// and 256.
    fn default() -> Self {
        Self {
            max_bytes: 32 * 1024,
            max_fields: 100,
        }
    }
}

/// What has been found so far.
#[derive(Debug, Default)]
struct Seen {
    request_line: bool,
    blank_lines: u8,
    http10: bool,
    fields: usize,
    host: bool,
    content_length: Option<u64>,
    transfer_encoding: bool,
    expect: bool,
}

impl HeadScanner {
    /// A scanner at the beginning of a request.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            line_start: 0,
            searched: 0,
            seen: Seen::default(),
        }
    }

    /// Goes on with what has arrived: `bytes` is everything since the beginning of the request.
    /// Gives the length of the head once its empty line is there, `None` while more is needed.
    ///
    /// # Errors
    ///
    /// [`HeadFault`]: the connection must be answered and closed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadFault> {
        // It may hold no line feed and then be waited for in vain.
        if bytes.first() == Some(&TLS_HANDSHAKE) {
            return Err(HeadFault::Tls);
        }
        while let Some(found) = bytes
            .get(self.searched..)
            .and_then(|rest| memchr::memchr(b'\n', rest))
        {
            let end = self.searched + found;
            let line = bytes.get(self.line_start..end).unwrap_or_default();
            // RFC 9112 §2.2 lets a recipient take a bare LF; whoever stands before or behind may not.
            let line = line.strip_suffix(b"\r").ok_or(HeadFault::BareLineFeed)?;
            self.searched = end + 1;
            self.line_start = end + 1;
            if self.searched > self.limits.max_bytes {
                return Err(HeadFault::TooLarge);
            }
            if self.seen.line(line, &self.limits)? == Line::End {
                self.seen.finish()?;
                return Ok(Some(self.searched));
            }
        }
        self.searched = bytes.len();
        if bytes.len() > self.limits.max_bytes {
            return Err(HeadFault::TooLarge);
        }
        Ok(None)
    }

    /// How many bytes of body follow a complete head; `None` where only its chunks tell.
    #[must_use]
    pub fn body_length(&self) -> Option<u64> {
        if self.seen.transfer_encoding {
            None
        } else {
            Some(self.seen.content_length.unwrap_or(0))
        }
    }
}

#[derive(PartialEq, Eq)]
enum Line {
    More,
    End,
}

impl Seen {
    fn line(&mut self, line: &[u8], limits: &HeadLimits) -> Result<Line, HeadFault> {
        if !self.request_line {
            // RFC 9112 §2.2: an empty line before the request line is to be ignored. One is enough.
            if line.is_empty() && self.blank_lines == 0 {
                self.blank_lines = 1;
                return Ok(Line::More);
            }
            self.http10 = request_line(line)?;
            self.request_line = true;
            return Ok(Line::More);
        }
        if line.is_empty() {
            return Ok(Line::End);
        }
        self.fields += 1;
        if self.fields > limits.max_fields {
            return Err(HeadFault::TooManyFields);
        }
        self.field(line)?;
        Ok(Line::More)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), HeadFault> {
        let colon = memchr::memchr(b':', line).ok_or(HeadFault::BadField)?;
        let (name, rest) = line.split_at(colon);
        // A line that begins with white space is obs-fold, white space before the colon is worse
        // (RFC 9112 §5.1, §5.2); neither is a token character.
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(HeadFault::BadField);
        }
        let value = without_padding(rest.get(1..).unwrap_or_default());
        // RFC 9110 §5.5: CR, NUL and other controls do not belong into a value.
        // All of them are looked at, since that is done sixteen at a time.
        let is_bad = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
        if value.iter().fold(false, |bad, byte| bad | is_bad(byte)) {
            return Err(HeadFault::BadField);
        }
        if folds_to(name, b"host") {
            if std::mem::replace(&mut self.host, true) || !is_host(value) {
                return Err(HeadFault::BadHost);
            }
        } else if folds_to(name, b"content-length") {
            let length = length(value).ok_or(HeadFault::BadLength)?;
            let plain = name.eq_ignore_ascii_case(b"content-length");
            if self.content_length.replace(length).is_some() || !plain {
                return Err(HeadFault::BadLength);
            }
        } else if folds_to(name, b"transfer-encoding") {
            let plain = name.eq_ignore_ascii_case(b"transfer-encoding")
                && value.eq_ignore_ascii_case(b"chunked");
            if std::mem::replace(&mut self.transfer_encoding, true) || !plain {
                return Err(HeadFault::BadTransferEncoding);
            }
        } else if folds_to(name, b"expect") {
            // There is one thing to expect (RFC 9110 §10.1.1). Some refuse a second one, some take the first.
            if std::mem::replace(&mut self.expect, true) {
                return Err(HeadFault::BadField);
            }
        } else if folds_to(name, b"upgrade") {
            return Err(HeadFault::Upgrade);
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), HeadFault> {
        if self.content_length.is_some() && self.transfer_encoding {
            return Err(HeadFault::TwoFramings);
        }
        // RFC 9112 §6.1: a Transfer-Encoding in HTTP/1.0 is faulty framing.
        if self.http10 && self.transfer_encoding {
            return Err(HeadFault::BadTransferEncoding);
        }
        // RFC 9112 §3.2: HTTP/1.1 without Host is answered with 400.
        if !self.host && !self.http10 {
            return Err(HeadFault::BadHost);
        }
        Ok(())
    }
}

/// What every TLS connection begins with (RFC 8446 §5.1, `ContentType`). No method has it.
pub const TLS_HANDSHAKE: u8 = 0x16;

/// The longest method name. `PROPPATCH`-like names have 9; the proxy library takes 100 KB.
const MAX_METHOD_BYTES: usize = 24;

/// Checks `METHOD SP target SP HTTP/1.x` (RFC 9112 §3) and tells whether it is HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, HeadFault> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, parts.next())
    else {
        return Err(HeadFault::BadRequestLine);
    };
    if method.is_empty() || method.len() > MAX_METHOD_BYTES || !method.iter().all(|b| is_token(*b))
    {
        return Err(HeadFault::BadRequestLine);
    }
    if method == b"CONNECT" {
        return Err(HeadFault::Upgrade);
    }
    let http10 = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ if version.starts_with(b"HTTP/") => return Err(HeadFault::BadVersion),
        _ => return Err(HeadFault::BadRequestLine),
    };
    // The proxy library escapes some characters that are illegal here, which would make a legal path
    // of an illegal one. So the target is checked as it came in.
    Target::parse(target).map_err(HeadFault::Target)?;
    Ok(http10)
}

/// `tchar` of RFC 9110 §5.6.2.
pub(crate) const fn is_token(byte: u8) -> bool {
    byte.is_ascii() && TOKENS >> byte & 1 == 1
}

/// A bit for each of them: every byte of every name is looked up here.
const TOKENS: u128 = {
    let mut left: &[u8] =
        b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut tokens = 0;
    while let [first, rest @ ..] = left {
        tokens |= 1 << *first;
        left = rest;
    }
    tokens
};

/// A length as RFC 9110 §8.6 has it: digits, nothing else, and no list. Eighteen digits are below
/// 2^63, so no recipient overflows.
fn length(value: &[u8]) -> Option<u64> {
    if value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Takes off the optional white space around a value: spaces and tabs, nothing else (RFC 9110 §5.6.3).
fn without_padding(value: &[u8]) -> &[u8] {
    let is_padding = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = value.iter().position(|byte| !is_padding(byte));
    let end = value.iter().rposition(|byte| !is_padding(byte));
    match (begin, end) {
        (Some(begin), Some(end)) => value.get(begin..=end).unwrap_or_default(),
        _ => &[],
    }
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2): a name, an IPv4 address or a bracketed IPv6 address. No
/// list, no path, no user.
fn is_host(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                (address, rest)
            }
            _ => return false,
        },
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            let plain = name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'));
            if !plain {
                return false;
            }
            (name, rest)
        }
    };
    let port_is_plain = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| digits.parse::<u16>().is_ok() && !digits.starts_with('+'));
    !host.is_empty() && host.len() <= 255 && port_is_plain
}

/// Checks the fields of an HTTP/2 request. Its framing is binary, so what remains is what would become
/// ambiguous on the way to an HTTP/1 upstream, and what HTTP/2 forbids (RFC 9113 §8.2.2).
///
/// # Errors
///
/// [`HeadFault`], as for HTTP/1.
pub fn check_http2(
    authority: Option<&str>,
    headers: &HeaderMap,
    limits: &HeadLimits,
) -> Result<(), HeadFault> {
    if headers.len() > limits.max_fields {
        return Err(HeadFault::TooManyFields);
    }
    let bytes = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    if headers.iter().map(bytes).sum::<usize>() > limits.max_bytes {
        return Err(HeadFault::TooLarge);
    }
    for (name, value) in headers {
        let folded = |other: &str| folds_to(name.as_str().as_bytes(), other.as_bytes());
        if folded("content-length") {
            length(value.as_bytes()).ok_or(HeadFault::BadLength)?;
            if name != CONTENT_LENGTH || headers.get_all(name).iter().count() > 1 {
                return Err(HeadFault::BadLength);
            }
        } else if folded("transfer-encoding") {
            return Err(HeadFault::BadTransferEncoding);
        } else if folded("expect") && headers.get_all(name).iter().count() > 1 {
            return Err(HeadFault::BadField);
        } else if folded("upgrade") || folded("connection") {
            return Err(HeadFault::Upgrade);
        } else if folded("host") && authority.is_some_and(|it| value.as_bytes() != it.as_bytes()) {
            // RFC 9113 §8.3.1: where both are there, they must agree.
            return Err(HeadFault::BadHost);
        }
    }
    match authority {
        Some(authority) if is_host(authority.as_bytes()) => Ok(()),
        _ => Err(HeadFault::BadHost),
    }
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// A line ends in LF alone.
    #[error("a line of the request head does not end in CR LF")]
    BareLineFeed,
    /// A TLS handshake where HTTP begins.
    #[error("this port speaks plain HTTP, not TLS")]
    Tls,
    /// HTTP where a TLS handshake begins.
    #[error("this port speaks TLS, not plain HTTP")]
    NoTls,
    /// More bytes than [`HeadLimits::max_bytes`].
    #[error("the request head is too large")]
    TooLarge,
    /// More lines than [`HeadLimits::max_fields`].
    #[error("the request has too many header fields")]
    TooManyFields,
    /// Not `METHOD SP target SP HTTP/1.x`.
    #[error("the request line is malformed")]
    BadRequestLine,
    /// A version that is not spoken here.
    #[error("this HTTP version is not supported")]
    BadVersion,
    /// The target has more than one meaning.
    #[error("{0}")]
    Target(PathFault),
    /// A header line that is no `name: value`.
    #[error("a header field is malformed")]
    BadField,
    /// No Host where one is needed, two of them, or one that is not a host.
    #[error("the Host header field is missing, repeated or malformed")]
    BadHost,
    /// A length that is not one plain number.
    #[error("the Content-Length header field is repeated or malformed")]
    BadLength,
    /// Anything but `chunked`, or in HTTP/1.0.
    #[error("this Transfer-Encoding is not supported")]
    BadTransferEncoding,
    /// Content-Length and Transfer-Encoding at once: request smuggling.
    #[error("the request has both Content-Length and Transfer-Encoding")]
    TwoFramings,
    /// An attempt to leave HTTP.
    #[error("Upgrade and CONNECT are not supported")]
    Upgrade,
}

impl HeadFault {
    /// The status code.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Target(PathFault::TooLong) => StatusCode::URI_TOO_LONG,
            Self::BadVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::BareLineFeed
            | Self::Tls
            | Self::NoTls
            | Self::BadRequestLine
            | Self::Target(_)
            | Self::BadField
            | Self::BadHost
            | Self::BadLength
            | Self::BadTransferEncoding
            | Self::TwoFramings
            | Self::Upgrade => StatusCode::BAD_REQUEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9110 §5.6.2: every visible character but the delimiters.
    #[test]
    fn tokens_are_made_of_token_characters() {
        let is_visible = |byte: &u8| (0x21..=0x7e).contains(byte);
        let expected =
            (0..=u8::MAX).filter(|it| is_visible(it) && !b"\"(),/:;<=>?@[\\]{}".contains(it));
        let found = (0..=u8::MAX).filter(|it| is_token(*it));
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }

    fn scan(head: &[u8]) -> Result<Option<usize>, HeadFault> {
        HeadScanner::new(HeadLimits::default()).advance(head)
    }

    fn check(head: &str, expected: Result<Option<usize>, HeadFault>) {
        assert_eq!(scan(head.as_bytes()), expected, "{head:?}");
    }

    /// A head with these lines between Host and the empty line.
    fn with(lines: &str) -> String {
        format!("POST /api/inject/v1 HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
    }

    #[test]
    fn an_ordinary_head_ends_at_its_empty_line() {
        let head = with("Content-Length: 5\r\nAccept: */*\r\n");
        check(&format!("{head}12345"), Ok(Some(head.len())));
        check(&format!("\r\n{head}"), Ok(Some(head.len() + 2)));
        check("GET / HTTP/1.0\r\n\r\n", Ok(Some(18)));
        check(
            &with("X: \u{fc}\r\n"),
            Ok(Some(with("X: \u{fc}\r\n").len())),
        );
    }

    #[test]
    fn it_makes_no_difference_how_a_head_arrives() {
        let head = with("Transfer-Encoding: chunked\r\nAuthorization: Basic eDp5\r\n");
        let mut scanner = HeadScanner::new(HeadLimits::default());
        for end in 0..head.len() {
            assert_eq!(scanner.advance(&head.as_bytes()[..end]), Ok(None), "{end}");
        }
        assert_eq!(scanner.advance(head.as_bytes()), Ok(Some(head.len())));
    }

    #[test]
    fn a_body_with_two_possible_ends_is_refused() {
        for (lines, fault) in [
            ("Content-Length: 63, 63\r\n", HeadFault::BadLength),
            (
                "Content-Length: 63\r\nContent-Length: 63\r\n",
                HeadFault::BadLength,
            ),
            (
                "Content-Length: 63\r\nContent-Length: 0\r\n",
                HeadFault::BadLength,
            ),
            ("Content-Length: +63\r\n", HeadFault::BadLength),
            ("Content-Length: -1\r\n", HeadFault::BadLength),
            ("Content-Length: 6 3\r\n", HeadFault::BadLength),
            ("Content-Length: 0x3f\r\n", HeadFault::BadLength),
            ("Content-Length:\r\n", HeadFault::BadLength),
            (
                "Content-Length: 99999999999999999999\r\n",
                HeadFault::BadLength,
            ),
            (
                "Content-Length: 0000000000000000063\r\n",
                HeadFault::BadLength,
            ),
            ("Content_Length: 63\r\n", HeadFault::BadLength),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                HeadFault::TwoFramings,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                HeadFault::TwoFramings,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                HeadFault::BadTransferEncoding,
            ),
            (
                "Transfer-Encoding: identity\r\n",
                HeadFault::BadTransferEncoding,
            ),
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                HeadFault::BadTransferEncoding,
            ),
            (
                "Transfer-Encoding: xchunked\r\n",
                HeadFault::BadTransferEncoding,
            ),
            ("Transfer-Encoding:\r\n", HeadFault::BadTransferEncoding),
            (
                "Transfer_Encoding: chunked\r\n",
                HeadFault::BadTransferEncoding,
            ),
        ] {
            check(&with(lines), Err(fault));
        }
        check(
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(HeadFault::BadTransferEncoding),
        );
    }

    #[test]
    fn lines_that_parsers_read_differently_are_refused() {
        for lines in [
            " folded\r\n",
            "\tfolded\r\n",
            "X : y\r\n",
            "X\t: y\r\n",
            ": y\r\n",
            "X\r\n",
            "X: a\0b\r\n",
            "X: a\0\0b\r\n",
            "X: a\rb\r\n",
            "X(: y\r\n",
            "X\u{fc}: y\r\n",
            "X: a\u{7f}\r\n",
            "Content-Length : 5\r\n",
            "X: a\r\n Content-Length: 5\r\n",
            "Expect: 100-continue\r\nexpect: 100-continue\r\n",
        ] {
            check(&with(lines), Err(HeadFault::BadField));
        }
        for head in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "\nGET / HTTP/1.1\r\n",
        ] {
            check(head, Err(HeadFault::BareLineFeed));
        }
    }

    #[test]
    fn a_request_line_has_three_parts() {
        for line in [
            "GET  / HTTP/1.1",
            "GET /a b HTTP/1.1",
            " GET / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET /",
            "GET",
            "GET\t/ HTTP/1.1",
            "G(T / HTTP/1.1",
            "GET / http/1.1",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1",
        ] {
            check(&format!("{line}\r\n"), Err(HeadFault::BadRequestLine));
        }
        for line in [
            "GET / HTTP/2.0",
            "GET / HTTP/1.2",
            "GET / HTTP/0.9",
            "GET / HTTP/1.10",
            "PRI * HTTP/2.0",
        ] {
            check(&format!("{line}\r\n"), Err(HeadFault::BadVersion));
        }
        for target in ["*", "foo/bar", "a:443", "http://b/"] {
            check(
                &format!("GET {target} HTTP/1.1\r\n"),
                Err(HeadFault::Target(PathFault::NotOriginForm)),
            );
        }
        check("CONNECT a:443 HTTP/1.1\r\n", Err(HeadFault::Upgrade));
        check(
            "GET /\0 HTTP/1.1\r\n",
            Err(HeadFault::Target(PathFault::BadCharacter)),
        );
        check(
            "GET /\r HTTP/1.1\r\n",
            Err(HeadFault::Target(PathFault::BadCharacter)),
        );
        check("\r\n\r\n", Err(HeadFault::BadRequestLine));
    }

    #[test]
    fn a_request_names_one_plain_host() {
        for host in [
            "a",
            "a.b-c_d",
            "a:80",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "a.example.",
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            check(&head, Ok(Some(head.len())));
        }
        for host in [
            "", "a, b", "a b", "a/b", "u@a", "a:x", "a:", "a:+1", "a:99999", "[::1", "[a]", "::1",
            "a:1:2", ":80", "\u{fc}",
        ] {
            check(
                &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
                Err(HeadFault::BadHost),
            );
        }
        check("GET / HTTP/1.1\r\n\r\n", Err(HeadFault::BadHost));
        let longest = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(255));
        check(&longest, Ok(Some(longest.len())));
        check(&longest.replacen("aa", "aaa", 1), Err(HeadFault::BadHost));
        check(&with("Host: a\r\n"), Err(HeadFault::BadHost));
        check(&with("HOST: b\r\n"), Err(HeadFault::BadHost));
    }

    #[test]
    fn nobody_leaves_http_here() {
        check(
            &with("Connection: upgrade\r\nUpgrade: websocket\r\n"),
            Err(HeadFault::Upgrade),
        );
        check(&with("Upgrade: h2c\r\n"), Err(HeadFault::Upgrade));
    }

    /// The attack: controls at the ends of a value, which a parser that takes off all white space misses.
    #[test]
    fn only_spaces_and_tabs_pad_a_value() {
        for line in ["X: \t a \t\r\n", "X:\r\n"] {
            let head = with(line);
            check(&head, Ok(Some(head.len())));
        }
        for line in ["X: a\r\r\n", "X: \ra\r\n", "X: a\x0c\r\n", "X: a\x0b\r\n"] {
            check(&with(line), Err(HeadFault::BadField));
        }
        check(&with("Content-Length: 5\r\r\n"), Err(HeadFault::BadField));
        check(
            &with("Transfer-Encoding: chunked\x0c\r\n"),
            Err(HeadFault::BadField),
        );
    }

    #[test]
    fn http2_heads_have_the_same_limits() {
        let limits = HeadLimits {
            max_bytes: 40,
            max_fields: 3,
        };
        let refused = |count: usize, length: usize| {
            let mut headers = HeaderMap::new();
            for _ in 0..count {
                headers.append("x", "a".repeat(length).parse().unwrap());
            }
            check_http2(Some("a"), &headers, &limits).err()
        };
        assert_eq!(refused(3, 12), None);
        assert_eq!(refused(2, 19), None);
        assert_eq!(refused(4, 1), Some(HeadFault::TooManyFields));
        assert_eq!(refused(3, 13), Some(HeadFault::TooLarge));
    }

    #[test]
    fn the_length_of_the_body_is_known_with_the_head() {
        for (lines, expected) in [
            ("", Some(0)),
            ("Content-Length: 0017\r\n", Some(17)),
            (
                "Content-Length: 999999999999999999\r\n",
                Some(999_999_999_999_999_999),
            ),
            ("Transfer-Encoding: Chunked\r\n", None),
        ] {
            let mut scanner = HeadScanner::new(HeadLimits::default());
            assert!(matches!(
                scanner.advance(with(lines).as_bytes()),
                Ok(Some(_))
            ));
            assert_eq!(scanner.body_length(), expected, "{lines}");
        }
    }

    #[test]
    fn http2_requests_hold_nothing_that_http1_reads_as_framing() {
        let check = |authority: Option<&str>, fields: &[(&str, &str)], expected| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.append(name, value.parse().unwrap());
            }
            assert_eq!(
                check_http2(authority, &headers, &HeadLimits::default()),
                expected,
                "{authority:?} {fields:?}"
            );
        };
        check(
            Some("a:80"),
            &[("content-length", "5"), ("accept", "*/*")],
            Ok(()),
        );
        check(Some("a"), &[("host", "a")], Ok(()));
        check(None, &[("host", "a")], Err(HeadFault::BadHost));
        check(Some("a"), &[("host", "b")], Err(HeadFault::BadHost));
        check(Some("a/b"), &[], Err(HeadFault::BadHost));
        check(
            Some("a"),
            &[("content-length", "5, 5")],
            Err(HeadFault::BadLength),
        );
        check(
            Some("a"),
            &[("content_length", "5")],
            Err(HeadFault::BadLength),
        );
        check(
            Some("a"),
            &[("content-length", "5"), ("content-length", "5")],
            Err(HeadFault::BadLength),
        );
        check(Some("a"), &[("expect", "100-continue")], Ok(()));
        check(
            Some("a"),
            &[("expect", "100-continue"), ("expect", "100-continue")],
            Err(HeadFault::BadField),
        );
        check(
            Some("a"),
            &[("transfer_encoding", "chunked")],
            Err(HeadFault::BadTransferEncoding),
        );
        check(
            Some("a"),
            &[("connection", "x-http-auth")],
            Err(HeadFault::Upgrade),
        );
    }

    #[test]
    fn a_head_is_bounded_in_size_and_lines() {
        let long = with(&format!("X: {}\r\n", "a".repeat(40_000)));
        check(&long, Err(HeadFault::TooLarge));
        assert_eq!(scan(&vec![b'a'; 40_000]), Err(HeadFault::TooLarge));
        check(
            &with(&"X: y\r\n".repeat(100)),
            Err(HeadFault::TooManyFields),
        );
        let most = with(&"X: y\r\n".repeat(99));
        check(&most, Ok(Some(most.len())));
        let head = with("X: y\r\n");
        let limits = |max_bytes| HeadLimits {
            max_bytes,
            ..HeadLimits::default()
        };
        for (bytes, room, expected) in [
            (head.len(), head.len(), Ok(Some(head.len()))),
            (head.len(), head.len() - 1, Err(HeadFault::TooLarge)),
            // Not whole yet.
            (20, 20, Ok(None)),
            (20, 19, Err(HeadFault::TooLarge)),
        ] {
            let mut scanner = HeadScanner::new(limits(room));
            let got = scanner.advance(&head.as_bytes()[..bytes]);
            assert_eq!(got, expected, "{bytes} in {room}");
        }
        let method = "M".repeat(MAX_METHOD_BYTES);
        let longest = format!("{method} / HTTP/1.0\r\n\r\n");
        check(&longest, Ok(Some(longest.len())));
        check(&format!("M{longest}"), Err(HeadFault::BadRequestLine));
    }

    /// Clients tell by it what to do.
    #[test]
    fn each_fault_has_its_status() {
        for (fault, status) in [
            (HeadFault::TooLarge, 431),
            (HeadFault::TooManyFields, 431),
            (HeadFault::Target(PathFault::TooLong), 414),
            (HeadFault::Target(PathFault::Dots), 400),
            (HeadFault::BadVersion, 505),
            (HeadFault::TwoFramings, 400),
            (HeadFault::Tls, 400),
        ] {
            assert_eq!(fault.status(), status, "{fault}");
        }
    }
}
