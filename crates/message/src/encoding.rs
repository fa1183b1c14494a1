//! `Content-Encoding`: a body is inflated to be looked at, and only as far as the limit goes.
//!
//! One coding is read, not a list of them, and one stream: what stands behind it (a second gzip member, or anything)
//! is read by some and dropped by others.

use std::borrow::Cow;
use std::io::{BufRead, Read};

use flate2::bufread::{GzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use crate::fault::MessageFault;

/// How much the result grows by at least, in bytes.
const STEP: usize = 64 * 1024;

/// The body as the MTA will see it. Nothing is copied where nothing is encoded.
pub(crate) fn inflate<'a>(
    headers: &HeaderMap,
    body: &'a [u8],
    max_bytes: usize,
) -> Result<Cow<'a, [u8]>, MessageFault> {
    match coding(headers)? {
        Coding::Identity if body.len() > max_bytes => Err(too_large()),
        Coding::Identity => Ok(Cow::Borrowed(body)),
        Coding::Gzip => {
            let mut stream = GzDecoder::new(body);
            let inflated = read_to(&mut stream, max_bytes)?;
            nothing_behind(stream.into_inner())?;
            Ok(Cow::Owned(inflated))
        }
        // RFC 9110 §8.4.1.2: the zlib format. Without its header the decoder fails, as it should.
        Coding::Deflate => {
            let mut stream = ZlibDecoder::new(body);
            let inflated = read_to(&mut stream, max_bytes)?;
            nothing_behind(stream.into_inner())?;
            Ok(Cow::Owned(inflated))
        }
    }
}

enum Coding {
    Identity,
    Gzip,
    Deflate,
}

fn coding(headers: &HeaderMap) -> Result<Coding, MessageFault> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = values.next() else {
        return Ok(Coding::Identity);
    };
    if values.next().is_some() {
        return Err(MessageFault::unsupported(
            "more than one Content-Encoding is not read",
        ));
    }
    let name = value.as_bytes().trim_ascii().to_ascii_lowercase();
    match name.as_slice() {
        b"" | b"identity" => Ok(Coding::Identity),
        b"gzip" | b"x-gzip" => Ok(Coding::Gzip),
        b"deflate" => Ok(Coding::Deflate),
        list if list.contains(&b',') => Err(MessageFault::unsupported(
            "more than one Content-Encoding is not read",
        )),
        _ => Err(MessageFault::unsupported(
            "of Content-Encoding, gzip, deflate and identity are read",
        )),
    }
}

/// Reads to the end, or to one byte more than there may be.
///
/// The room grows by an eighth, not by doubling, since the result must not need much more than its size.
fn read_to(stream: &mut impl Read, max_bytes: usize) -> Result<Vec<u8>, MessageFault> {
    let most = max_bytes.saturating_add(1);
    let mut inflated = Vec::new();
    while inflated.len() < most {
        let step = (inflated.len() / 8).max(STEP).min(most - inflated.len());
        inflated.reserve_exact(step);
        let room = u64::try_from(step).unwrap_or(u64::MAX);
        let read = stream
            .by_ref()
            .take(room)
            .read_to_end(&mut inflated)
            .map_err(|_| MessageFault::malformed("the compressed body is broken or truncated"))?;
        if read < step {
            return Ok(inflated);
        }
    }
    Err(too_large())
}

fn nothing_behind(mut rest: impl BufRead) -> Result<(), MessageFault> {
    match rest.fill_buf() {
        Ok([]) => Ok(()),
        Ok(_) | Err(_) => Err(MessageFault::ambiguous(
            "something stands behind the compressed body",
        )),
    }
}

fn too_large() -> MessageFault {
    MessageFault::too_large("the body is too large")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;
    use crate::fault::FaultKind;

    const MOST: usize = 300_000;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn check(codings: &[&'static str], body: &[u8], expected: Result<&[u8], FaultKind>) {
        let mut headers = HeaderMap::new();
        for coding in codings {
            headers.append(CONTENT_ENCODING, coding.parse().unwrap());
        }
        let read = inflate(&headers, body, MOST);
        assert_eq!(
            read.as_deref().map_err(|fault| fault.kind),
            expected,
            "{codings:?}"
        );
    }

    #[test]
    fn one_coding_is_read_to_its_end() {
        let long = vec![b'a'; MOST];
        for text in [&b""[..], b"hello", &long] {
            check(&[], text, Ok(text));
            check(&["identity"], text, Ok(text));
            check(&["gzip"], &gzip(text), Ok(text));
            check(&[" X-GZip "], &gzip(text), Ok(text));
            check(&["deflate"], &zlib(text), Ok(text));
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "identity".parse().unwrap());
        assert!(matches!(
            inflate(&headers, b"hello", MOST),
            Ok(Cow::Borrowed(_))
        ));
    }

    #[test]
    fn everything_else_is_refused() {
        let hello = gzip(b"hello");
        let unsupported = Err(FaultKind::Unsupported);
        check(&["gzip", "gzip"], &hello, unsupported);
        check(&["gzip, gzip"], &hello, unsupported);
        check(&["identity, gzip"], &hello, unsupported);
        check(&["br"], &hello, unsupported);
        check(&["zstd"], &hello, unsupported);

        let malformed = Err(FaultKind::Malformed);
        check(&["gzip"], b"", malformed);
        check(&["gzip"], b"hello", malformed);
        check(&["gzip"], &hello[..hello.len() - 1], malformed);
        check(&["gzip"], &hello[..5], malformed);
        let mut wrong_sum = hello.clone();
        wrong_sum[hello.len() - 8] ^= 1;
        check(&["gzip"], &wrong_sum, malformed);
        check(&["deflate"], &zlib(b"hello")[..8], malformed);
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::best());
        raw.write_all(b"hello").unwrap();
        check(&["deflate"], &raw.finish().unwrap(), malformed);

        let ambiguous = Err(FaultKind::Ambiguous);
        check(&["gzip"], &[&hello[..], &hello].concat(), ambiguous);
        check(&["gzip"], &[&hello[..], b"\0"].concat(), ambiguous);
        check(&["deflate"], &[&zlib(b"a")[..], b"b"].concat(), ambiguous);
    }

    /// A thousandth of the size on the wire.
    #[test]
    fn a_bomb_ends_at_the_limit() {
        let bomb = vec![b'a'; MOST + 1];
        let too_large = Err(FaultKind::TooLarge);
        check(&[], &bomb, too_large);
        check(&["gzip"], &gzip(&bomb), too_large);
        check(&["deflate"], &zlib(&bomb), too_large);
        check(&["gzip"], &gzip(&vec![b'a'; MOST * 100]), too_large);
    }
}
