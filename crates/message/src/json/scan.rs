//! The walk over a text of JSON: once to accept or refuse it, then to find the way in what was accepted.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::step;
use super::text::{Text, unescape};
use crate::fault::MessageFault;

/// How many lists and objects may be open at once.
pub(super) const DEEPEST: usize = 64;

/// How many members the objects that are open may have, all together. With the next limit it bounds what is remembered
/// to see that no name comes twice.
const MOST_NAMES: usize = 65_536;

/// How long the names of these members may be as they are written, all together, in bytes.
const LONGEST_NAMES: usize = 1024 * 1024;

/// The text behind white space.
pub(super) fn skip_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
}

/// Where the quote is that ends a string, or the end. For texts that were accepted.
pub(super) fn quote(inside: &str) -> usize {
    let bytes = inside.as_bytes();
    let mut from = 0;
    while let Some(rest) = bytes.get(from..) {
        match memchr::memchr2(b'"', b'\\', rest) {
            Some(at) if rest.get(at) == Some(&b'"') => return from + at,
            Some(at) => from += at + 2,
            None => break,
        }
    }
    bytes.len()
}

/// What stands behind the bracket that opens. For texts that were accepted.
pub(super) fn inside(text: &str) -> &str {
    skip_space(text.get(1..).unwrap_or_default())
}

/// What stands behind the value at the beginning, and behind the comma or colon that follows. For texts that were
/// accepted.
pub(super) fn past(text: &str) -> &str {
    walk(text, |_| false).map_or("", past_comma)
}

/// Whether `test` holds for a string in the value at the beginning. For texts that were accepted.
pub(super) fn any_string<'a>(text: &'a str, test: impl Fn(Text<'a>) -> bool) -> bool {
    walk(text, test).is_none()
}

/// What stands behind the value at the beginning; `None` where `stop` holds for a string in it.
fn walk<'a>(text: &'a str, stop: impl Fn(Text<'a>) -> bool) -> Option<&'a str> {
    let mut open = 0_usize;
    let mut rest = text;
    loop {
        let Some(first) = rest.as_bytes().first() else {
            return Some(rest);
        };
        let length = match first {
            b'"' => {
                let inside = rest.get(1..).unwrap_or_default();
                let end = quote(inside);
                if stop(Text::between(inside.get(..end).unwrap_or_default())) {
                    return None;
                }
                end + 2
            }
            b'{' | b'[' => {
                open += 1;
                1
            }
            b'}' | b']' => {
                open = open.saturating_sub(1);
                1
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => 1,
            _ => rest
                .bytes()
                .position(|byte| !is_in_word(byte))
                .unwrap_or(rest.len()),
        };
        #[cfg(test)]
        steps::count(length);
        rest = rest.get(length..).unwrap_or_default();
        if open == 0 {
            return Some(rest);
        }
    }
}

/// What stands behind a comma or colon.
pub(super) fn past_comma(text: &str) -> &str {
    let text = skip_space(text);
    skip_space(text.strip_prefix([',', ':']).unwrap_or(text))
}

fn is_in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

/// Refuses what is not JSON, nests too deeply, or names a member twice.
pub(super) fn check(text: &str) -> Result<(), MessageFault> {
    let mut walk = Walk {
        rest: text,
        open: Vec::new(),
        names: Vec::new(),
        length: 0,
    };
    walk.space();
    loop {
        if walk.value()? {
            continue;
        }
        if walk.end_of_value()? {
            return Ok(());
        }
    }
}

struct Walk<'a> {
    rest: &'a str,
    open: Vec<Open>,
    /// The names of the objects that are open, the innermost last.
    names: Vec<Cow<'a, str>>,
    /// Of all these names.
    length: usize,
}

/// A list or object that is open.
enum Open {
    /// With the number of items before the one that is read.
    List(usize),
    /// With the number of names before its own.
    Object(usize),
}

impl<'a> Walk<'a> {
    fn space(&mut self) {
        self.rest = skip_space(self.rest);
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.rest.as_bytes().first() == Some(&byte);
        if taken {
            self.rest = self.rest.get(1..).unwrap_or_default();
            self.space();
        }
        taken
    }

    /// Reads a value, of a list or object only the beginning: then it says true, and a value is to follow.
    fn value(&mut self) -> Result<bool, MessageFault> {
        match self.rest.as_bytes().first() {
            Some(b'{') => {
                self.push(Open::Object(self.names.len()))?;
                self.take(b'{');
                if self.take(b'}') {
                    self.open.pop();
                    return Ok(false);
                }
                self.name()?;
                Ok(true)
            }
            Some(b'[') => {
                self.push(Open::List(0))?;
                self.take(b'[');
                if self.take(b']') {
                    self.open.pop();
                    return Ok(false);
                }
                Ok(true)
            }
            Some(b'"') => {
                self.string()?;
                Ok(false)
            }
            Some(_) => {
                self.word()?;
                Ok(false)
            }
            None => Err(self.fault("the body ends too early")),
        }
    }

    /// Reads what stands behind a value. True where nothing more is to come.
    fn end_of_value(&mut self) -> Result<bool, MessageFault> {
        loop {
            self.space();
            match self.open.last_mut() {
                None if self.rest.is_empty() => return Ok(true),
                None => {
                    return Err(MessageFault::malformed(
                        "something stands behind the body's value",
                    ));
                }
                Some(Open::List(index)) => {
                    *index += 1;
                    if self.take(b',') {
                        return Ok(false);
                    }
                    if !self.take(b']') {
                        return Err(self.fault("a comma or `]` is missing"));
                    }
                    self.open.pop();
                }
                Some(Open::Object(_)) => {
                    if self.take(b',') {
                        self.name()?;
                        return Ok(false);
                    }
                    if !self.take(b'}') {
                        return Err(self.fault("a comma or `}` is missing"));
                    }
                    self.close_object()?;
                }
            }
        }
    }

    fn push(&mut self, open: Open) -> Result<(), MessageFault> {
        if self.open.len() >= DEEPEST {
            return Err(self.fault("the body nests too deeply"));
        }
        self.open.push(open);
        Ok(())
    }

    fn name(&mut self) -> Result<(), MessageFault> {
        if !self.rest.starts_with('"') {
            return Err(self.fault_of_object("the name of a member is missing"));
        }
        let name = match self.string() {
            Ok(name) => name,
            Err(fault) => return Err(self.fault_of_object(fault.words)),
        };
        self.length += name.written_len();
        if self.length > LONGEST_NAMES || self.names.len() >= MOST_NAMES {
            return Err(MessageFault::too_large("the body has too many names"));
        }
        self.names.push(name.whole());
        self.space();
        if !self.take(b':') {
            return Err(self.fault("a colon is missing"));
        }
        Ok(())
    }

    /// Sorting finds equal names without a table, whose order an attacker could know.
    fn close_object(&mut self) -> Result<(), MessageFault> {
        let Some(Open::Object(first)) = self.open.pop() else {
            return Ok(());
        };
        let own = self.names.get_mut(first..).unwrap_or_default();
        own.sort_unstable();
        let twice = own.iter().zip(own.iter().skip(1)).find(|(a, b)| a == b);
        if let Some((name, _)) = twice {
            let name = name.clone();
            self.names.truncate(first);
            let pointer = format!("{}/{}", self.pointer(), step(&name));
            let fault = MessageFault::ambiguous("a member is named twice");
            return Err(fault.at(pointer));
        }
        for name in self.names.drain(first..) {
            // As it was counted, or less where it was escaped: the limit then only comes sooner.
            self.length = self.length.saturating_sub(name.len());
        }
        Ok(())
    }

    /// Reads a string that was seen to begin.
    fn string(&mut self) -> Result<Text<'a>, MessageFault> {
        let whole = self.rest;
        let bytes = whole.as_bytes();
        let mut at = 1;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let stop = memchr::memchr2(b'"', b'\\', rest);
            let plain = rest.get(..stop.unwrap_or(rest.len())).unwrap_or_default();
            // Without a branch for each byte, so that it is done many bytes at a time.
            if plain
                .iter()
                .fold(false, |found, byte| found | (*byte < b' '))
            {
                return Err(self.fault("a string holds a control character that is not escaped"));
            }
            let Some(stop) = stop else {
                return Err(self.fault("the body ends too early"));
            };
            at += stop;
            if bytes.get(at) == Some(&b'"') {
                break;
            }
            match unescape(whole.get(at..).unwrap_or_default()) {
                Some((_, length)) => at += length,
                None => return Err(self.fault("a string holds a wrong escape")),
            }
        }
        self.rest = whole.get(at + 1..).unwrap_or_default();
        Ok(Text::between(whole.get(1..at).unwrap_or_default()))
    }

    fn word(&mut self) -> Result<(), MessageFault> {
        let end = self.rest.bytes().position(|byte| !is_in_word(byte));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        if !matches!(word, "true" | "false" | "null") && !is_number(word) {
            return Err(self.fault("a value is missing or malformed"));
        }
        self.rest = rest;
        Ok(())
    }

    fn fault(&self, words: &'static str) -> MessageFault {
        MessageFault::malformed(words).at(self.pointer())
    }

    /// Where there is no name yet to point to.
    fn fault_of_object(&mut self, words: &'static str) -> MessageFault {
        if let Some(Open::Object(first)) = self.open.pop() {
            self.names.truncate(first);
        }
        self.fault(words)
    }

    /// The place of the value that is read.
    fn pointer(&self) -> String {
        let mut pointer = String::new();
        let mut objects = self.open.iter().filter_map(|open| match open {
            Open::Object(first) => Some(*first),
            Open::List(_) => None,
        });
        // An object's newest name is the last before the next object's first.
        objects.next();
        for open in &self.open {
            pointer.push('/');
            match open {
                Open::List(index) => {
                    // Writing into a string does not fail.
                    let _ = write!(pointer, "{index}");
                }
                Open::Object(_) => {
                    let end = objects.next().unwrap_or(self.names.len());
                    let name = end.checked_sub(1).and_then(|at| self.names.get(at));
                    pointer.push_str(&step(name.map_or("", |name| name)));
                }
            }
        }
        pointer
    }
}

/// RFC 8259 §6, and not so large that it would be infinite to those who count in floating point.
fn is_number(word: &str) -> bool {
    let word = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = match word.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            (mantissa, Some(exponent))
        }
        None => (word, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
        && word.parse::<f64>().is_ok_and(f64::is_finite)
}

/// How many bytes were walked over in what was accepted: what time would show, without a clock.
#[cfg(test)]
pub(crate) mod steps {
    use std::cell::Cell;

    thread_local! {
        static BYTES: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count(bytes: usize) {
        BYTES.set(BYTES.get() + bytes);
    }

    /// Of this thread, while `work` was done.
    pub(crate) fn of<T>(work: impl FnOnce() -> T) -> (T, usize) {
        let before = BYTES.get();
        let done = work();
        (done, BYTES.get() - before)
    }
}
