//! How much a server may answer.
//!
//! The library takes answers of any size into memory, and reserves what they announce. So they are measured on their
//! way to it: their outline (RESP, <https://redis.io/docs/latest/develop/reference/protocol-spec/>) says where each one
//! ends and how much it is going to be. One that is too large breaks the connection, since nobody can tell when the
//! rest of it would be over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whoever answers more is not asked by an authentication handler on purpose.
const MOST_BYTES: usize = 16 << 20;
const MOST_ITEMS: usize = 100_000;

/// The longest line that announces a length.
const LONGEST_LENGTH: usize = 24;

fn too_large() -> io::Error {
    io::Error::other(format!(
        "the answer has more than {} MiB or {MOST_ITEMS} items",
        MOST_BYTES >> 20
    ))
}

/// Whether an answer that is there already is within the limits.
pub(super) fn check(answer: &redis::Value) -> io::Result<()> {
    let (mut bytes, mut items) = (0_usize, 0_usize);
    let mut rest = vec![answer];
    while let Some(value) = rest.pop() {
        items += 1;
        if let redis::Value::BulkString(text) = value {
            bytes = bytes.saturating_add(text.len());
        } else if let redis::Value::SimpleString(text) = value {
            bytes = bytes.saturating_add(text.len());
        } else if let redis::Value::Array(list) | redis::Value::Set(list) = value {
            rest.extend(list);
        } else if let redis::Value::Map(pairs) = value {
            rest.extend(pairs.iter().flat_map(|(key, value)| [key, value]));
        }
        if bytes > MOST_BYTES || items > MOST_ITEMS {
            return Err(too_large());
        }
    }
    Ok(())
}

/// Follows answers as their bytes come in.
#[derive(Default)]
struct Meter {
    /// Of the answer that is coming in.
    bytes: usize,
    items: usize,
    /// The items that each open list has yet to get.
    open: Vec<u64>,
    /// The present line: its kind, and its text as far as that is a length.
    line: Vec<u8>,
    /// Whether the line's last byte was a CR.
    ending: bool,
    /// Bytes of a string, with its line end, that have yet to come.
    skip: usize,
}

impl Meter {
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.skip > 0 {
                let (_, after) = bytes.split_at(self.skip.min(bytes.len()));
                self.count(bytes.len() - after.len())?;
                self.skip -= bytes.len() - after.len();
                bytes = after;
                if self.skip == 0 {
                    self.item_ends();
                }
                continue;
            }
            bytes = rest;
            self.count(1)?;
            let ends = self.ending && byte == b'\n';
            self.ending = byte == b'\r';
            if ends {
                self.line_ends()?;
            } else if self.line.len() <= LONGEST_LENGTH {
                self.line.push(byte);
            }
        }
        Ok(())
    }

    fn count(&mut self, more: usize) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(more);
        if self.bytes > MOST_BYTES {
            return Err(too_large());
        }
        Ok(())
    }

    fn line_ends(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        let (kind, text) = line.split_first().unwrap_or((&0, &[]));
        let items = match kind {
            b'$' | b'=' | b'!' => None,
            b'*' | b'~' | b'>' => Some((1, 0)),
            b'%' => Some((2, 0)),
            // Attributes of the item that follows.
            b'|' => Some((2, 1)),
            _ => {
                self.item_ends();
                return Ok(());
            }
        };
        let Some(length) = length(text)? else {
            self.item_ends();
            return Ok(());
        };
        let Some((each, more)) = items else {
            let left = MOST_BYTES.saturating_sub(self.bytes);
            let length = usize::try_from(length)
                .ok()
                .filter(|length| *length <= left);
            self.skip = length.ok_or_else(too_large)? + 2;
            return Ok(());
        };
        let items = length.saturating_mul(each).saturating_add(more);
        let all = usize::try_from(items).unwrap_or(usize::MAX);
        self.items = self.items.saturating_add(all);
        if self.items > MOST_ITEMS {
            return Err(too_large());
        }
        if items == 0 {
            self.item_ends();
        } else {
            self.open.push(items);
        }
        Ok(())
    }

    fn item_ends(&mut self) {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return;
            }
            self.open.pop();
        }
        (self.bytes, self.items) = (0, 0);
    }
}

/// `None` for nothing, which is written as a negative length. What is no length would leave the library and this in
/// disagreement on what follows.
fn length(text: &[u8]) -> io::Result<Option<u64>> {
    let text = std::str::from_utf8(text).ok();
    let fits = text.filter(|text| text.len() < LONGEST_LENGTH);
    let length = fits.and_then(|text| text.trim().parse::<i64>().ok());
    let length = length.ok_or_else(|| io::Error::other("the answer is none of Redis"))?;
    Ok(u64::try_from(length).ok())
}

/// A stream that breaks when an answer that comes out of it is too large.
pub(super) struct Bounded<S> {
    stream: S,
    meter: Meter,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            meter: Meter::default(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let more = buffer.filled().get(before..).unwrap_or_default();
        if let Err(fault) = self.meter.take(more) {
            return Poll::Ready(Err(fault));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes are cut into pieces.
    #[test]
    fn answers_are_measured_one_by_one() {
        let nested = format!("*2\r\n*{}\r\n", MOST_ITEMS - 1);
        let string = format!(
            "${}\r\n{}\r\n",
            MOST_BYTES - 100,
            "x".repeat(MOST_BYTES - 100)
        );
        for (answer, fits) in [
            (
                "+OK\r\n:1\r\n$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n-ERR no\r\n",
                true,
            ),
            ("*3\r\n$1\r\na\r\n$-1\r\n*2\r\n:1\r\n+x\r\n", true),
            ("%1\r\n+a\r\n|1\r\n+b\r\n+c\r\n:1\r\n", true),
            ("+a\n$99999999999\r\n", true),
            ("$8\r\n*9999999\r\n", true),
            (&*string, true),
            ("$16777217\r\n", false),
            ("$9223372036854775807\r\n", false),
            ("*100001\r\n", false),
            ("%50001\r\n", false),
            ("%9223372036854775807\r\n", false),
            (&*nested, false),
            ("*many\r\n", false),
            ("$                                5\r\n", false),
        ] {
            let shown = answer.get(..20).unwrap_or(answer);
            for piece in [1, 7, answer.len()] {
                let mut meter = Meter::default();
                let taken = answer
                    .as_bytes()
                    .chunks(piece)
                    .try_for_each(|piece| meter.take(piece));
                assert_eq!(taken.is_ok(), fits, "{shown}");
                let over = meter.open.is_empty() && meter.line.is_empty() && meter.bytes == 0;
                assert_eq!(over, fits, "{shown}");
            }
        }
        let mut endless = Meter::default();
        let line = [b'+'; 1 << 20];
        assert!((0..17).try_for_each(|_| endless.take(&line)).is_err());
    }

    #[test]
    fn an_answer_that_is_there_is_measured_too() {
        use redis::Value::{Array, BulkString, Int};
        assert!(check(&Array(vec![Int(1); 1000])).is_ok());
        assert!(check(&Array(vec![Int(1); MOST_ITEMS])).is_err());
        assert!(check(&BulkString(vec![0; MOST_BYTES + 1])).is_err());
    }
}
