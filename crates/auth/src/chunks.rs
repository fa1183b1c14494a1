//! The framing of a chunked body (RFC 9112 §7.1), held against its grammar while it arrives.
//!
//! The proxy library takes `5;`, `5 `, an empty size and NUL within an extension for good chunks, and bare LF within an
//! extension and lines without a colon as trailers. What it forwards it frames anew, so nobody behind reads it in another
//! way; but whoever stands in front may have, and then the rest of a body is a request to one of the two. So what is open
//! to a second reading is refused, as in heads ([`crate::wire`]). Looks at the bytes of the framing and skips the rest.

use crate::wire::is_token;

/// Follows one body.
#[derive(Debug, Default)]
pub struct ChunkScanner {
    state: State,
    /// Of the chunk's data, in bytes.
    left: u64,
    /// How long the line is so far; trailers count together.
    line: usize,
}

/// A body whose chunks are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunks of the body are malformed")]
pub struct ChunkFault;

/// What may come next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first digit of a size.
    #[default]
    Start,
    Size,
    /// The first byte of an extension's name.
    ExtensionStart,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer, or the end.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl ChunkScanner {
    /// The most digits of a size: as many as 64 bits have.
    const DIGITS: usize = 16;

    /// A size with its extensions, and all trailers together. The library has no use for either.
    const LONGEST: usize = 4096;

    /// Goes on with what has arrived. Gives how many of these bytes belong to the body once that has ended, `None` while
    /// there is more.
    ///
    /// # Errors
    ///
    /// [`ChunkFault`]: nothing of these bytes is to be used.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, ChunkFault> {
        let mut at = 0;
        while self.state != State::Done {
            if self.state == State::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX);
                let here = here.min(bytes.len().saturating_sub(at));
                self.left -= here as u64;
                at += here;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
            }
            let Some(byte) = bytes.get(at) else {
                return Ok(None);
            };
            self.state = self.step(*byte)?;
            at += 1;
        }
        Ok(Some(at))
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkFault> {
        use State::{
            Data, DataCr, DataLf, Done, EndLf, Extension, ExtensionStart, Size, SizeLf, Start,
            TrailerLf, TrailerName, TrailerStart, TrailerValue,
        };
        self.line += 1;
        if self.line > Self::LONGEST {
            return Err(ChunkFault);
        }
        let is_text = byte == b'\t' || byte == b' ' || byte.is_ascii_graphic() || byte >= 0x80;
        Ok(match (self.state, byte) {
            // Zeros in front are legal; but others count digits, and one that gives up at the seventeenth is out of step.
            (Start | Size, _) if byte.is_ascii_hexdigit() && self.line <= Self::DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(ChunkFault)?;
                // A first digit that falls out on the left is a size beyond all bodies.
                let left = self.left.checked_mul(16).ok_or(ChunkFault)?;
                self.left = left + u64::from(digit);
                Size
            }
            (Size, b';') => ExtensionStart,
            (ExtensionStart, _) if is_token(byte) => Extension,
            (Size | Extension, b'\r') => SizeLf,
            (Extension, _) if is_text => Extension,
            (SizeLf, b'\n') => {
                self.line = 0;
                if self.left == 0 { TrailerStart } else { Data }
            }
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => {
                self.line = 0;
                Start
            }
            (TrailerStart, b'\r') => EndLf,
            (TrailerStart | TrailerName, _) if is_token(byte) => TrailerName,
            (TrailerName, b':') => TrailerValue,
            (TrailerValue, b'\r') => TrailerLf,
            (TrailerValue, _) if is_text => TrailerValue,
            (TrailerLf, b'\n') => TrailerStart,
            (EndLf, b'\n') => Done,
            _ => return Err(ChunkFault),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(body: &[u8]) -> Result<Option<usize>, ChunkFault> {
        ChunkScanner::default().advance(body)
    }

    #[test]
    fn good_bodies_end_where_they_end() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "0005\r\nhello\r\n000\r\n\r\n",
            "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
            "5;a\r\nhello\r\n0;b=c\r\n\r\n",
            "5;a=\"b;c d\"; e\r\nhello\r\n0\r\n\r\n",
            "0\r\nX: y\r\nZ:\r\n\r\n",
            "5;a=\tb\u{e4}\r\nhello\r\n0\r\nX: \ty\u{e4}\r\n\r\n",
            "0000000000000005\r\nhello\r\n0\r\n\r\n",
            // A line of 4096 bytes, its end included.
            &format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(4092)),
        ] {
            let more = format!("{body}GET / HTTP/1.1\r\n");
            for text in [body, &more] {
                assert_eq!(scan(text.as_bytes()), Ok(Some(body.len())), "{text:?}");
            }
            for end in 0..body.len() {
                assert_eq!(scan(&body.as_bytes()[..end]), Ok(None), "{end} of {body:?}");
            }
        }
    }

    #[test]
    fn what_is_open_to_a_second_reading_is_refused() {
        let long = "x".repeat(5000);
        for body in [
            "\r\n",
            ";a\r\n",
            " 5\r\n",
            "5 \r\n",
            "5\t\r\n",
            "5;\r\n",
            "5; a\r\n",
            "5;=a\r\n",
            "0 \r\n",
            "0;\r\n",
            "+5\r\n",
            "-5\r\n",
            "0x5\r\n",
            "5\n",
            "5\rx",
            "5;a\n",
            "5;a\nb\r\n",
            "5;a\0\r\n",
            "5;a\rb\r\n",
            "5\r\nhello\n",
            "5\r\nhelloX",
            "5\r\nhello\r\n\r\n",
            "fffffffffffffffff\r\n",
            "10000000000000000\r\n",
            "00000000000000005\r\n",
            "0\r\nno colon\r\n",
            "0\r\n: y\r\n",
            "0\r\nX : y\r\n",
            "0\r\nX: y\n",
            "0\r\nX: \0\r\n",
            "0\r\n folded\r\n",
            "0\r\n\n",
            "0\n",
            &format!("5;{long}\r\n"),
            &format!("5;{}\r\n", "x".repeat(4093)),
            &format!("0\r\nX: {long}\r\n"),
        ] {
            assert_eq!(scan(body.as_bytes()), Err(ChunkFault), "{body:?}");
        }
    }

    proptest! {
        /// However a body is cut, the verdict is the same, and what is no framing does not matter.
        #[test]
        fn pieces_make_no_difference(
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                "[0-9a-f ;\r\n:x]{0,40}".prop_map(String::into_bytes),
                prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..5).prop_map(|chunks| {
                    let mut body = Vec::new();
                    for chunk in chunks {
                        body.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                        body.extend(chunk);
                        body.extend(b"\r\n");
                    }
                    body.extend(b"0\r\n\r\n");
                    body
                }),
            ],
            cuts in prop::collection::vec(1_usize..50, 1..10),
        ) {
            let whole = scan(&body);
            let mut scanner = ChunkScanner::default();
            let (mut rest, mut seen, mut verdict) = (&body[..], 0, Ok(None));
            for cut in cuts.iter().cycle() {
                let (piece, more) = rest.split_at((*cut).min(rest.len()));
                verdict = scanner.advance(piece).map(|end| end.map(|end| seen + end));
                seen += piece.len();
                rest = more;
                if rest.is_empty() || verdict != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(verdict, whole);
        }
    }
}
