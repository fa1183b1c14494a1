//! JSON (RFC 8259), read without a copy: what is asked for is found in the text itself.
//!
//! serde_json would unescape every string on the way, which of a 50 MB message in JSON is a second 50 MB, takes the last
//! of two equal names without a word, and builds trees that take many times what the text takes. So the walk is our own; it
//! keeps only the names of the objects that are open. That its idea of JSON is nobody else's problem is seen to by
//! serde_json, which has to accept the text as well.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use crate::fault::MessageFault;

mod scan;
mod text;

#[cfg(test)]
pub(crate) use scan::steps;
pub(crate) use text::{Piece, Text};

/// A value of a text that [`read`] has accepted. Refers to the text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number,
    /// A string.
    String(Text<'a>),
    /// A list.
    List(List<'a>),
    /// An object.
    Object(Object<'a>),
}

/// From its opening bracket to the end of the text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List<'a>(&'a str);

/// From its opening brace to the end of the text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object<'a>(&'a str);

/// Reads the whole of `body` and gives its value.
///
/// # Errors
///
/// When it is not JSON in UTF-8, nests too deeply, or has an object with two equal names.
pub(crate) fn read(body: &[u8]) -> Result<Value<'_>, MessageFault> {
    let text =
        std::str::from_utf8(body).map_err(|_| MessageFault::malformed("the body is not UTF-8"))?;
    scan::check(text)?;
    // After ours, since it keeps a byte for every bracket that is open.
    serde_json::from_str::<IgnoredAny>(text)
        .map_err(|_| MessageFault::malformed("the body is not JSON"))?;
    Ok(Value::of(scan::skip_space(text)))
}

impl<'a> Value<'a> {
    /// The value at the beginning of an accepted text.
    fn of(text: &'a str) -> Self {
        match text.as_bytes().first() {
            Some(b'"') => Self::String(Text::of(text).0),
            _ => Self::of_others(text),
        }
    }

    fn of_others(text: &'a str) -> Self {
        match text.as_bytes().first() {
            Some(b'{') => Self::Object(Object(text)),
            Some(b'[') => Self::List(List(text)),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number,
        }
    }

    /// The same, and what stands behind it and the comma. A string's end is looked for once: it may be far.
    fn take(text: &'a str) -> (Self, &'a str) {
        if text.starts_with('"') {
            let (string, rest) = Text::of(text);
            return (Self::String(string), scan::past_comma(rest));
        }
        (Self::of_others(text), scan::past(text))
    }

    /// The string that it has to be.
    pub(crate) fn string(self) -> Result<Text<'a>, MessageFault> {
        match self {
            Self::String(text) => Ok(text),
            Self::Null | Self::Bool(_) | Self::Number | Self::List(_) | Self::Object(_) => {
                Err(MessageFault::malformed("a string has to stand here"))
            }
        }
    }

    /// The list that it has to be.
    pub(crate) fn list(self) -> Result<List<'a>, MessageFault> {
        match self {
            Self::List(list) => Ok(list),
            Self::Null | Self::Bool(_) | Self::Number | Self::String(_) | Self::Object(_) => {
                Err(MessageFault::malformed("a list has to stand here"))
            }
        }
    }

    /// The object that it has to be.
    pub(crate) fn object(self) -> Result<Object<'a>, MessageFault> {
        match self {
            Self::Object(object) => Ok(object),
            Self::Null | Self::Bool(_) | Self::Number | Self::String(_) | Self::List(_) => {
                Err(MessageFault::malformed("an object has to stand here"))
            }
        }
    }

    /// Whether `test` holds for a string in it, names of members included. Looks at its text once, however deep it nests:
    /// item by item, every level would cost all that is below it.
    pub(crate) fn any_string(self, test: impl Fn(Text<'a>) -> bool) -> bool {
        match self {
            Self::Null | Self::Bool(_) | Self::Number => false,
            Self::String(text) => test(text),
            Self::List(List(text)) | Self::Object(Object(text)) => scan::any_string(text, test),
        }
    }
}

impl<'a> List<'a> {
    /// The items in their order.
    pub(crate) fn items(self) -> impl Iterator<Item = Value<'a>> {
        let mut rest = scan::inside(self.0);
        std::iter::from_fn(move || {
            if rest.starts_with(']') || rest.is_empty() {
                return None;
            }
            let (value, behind) = Value::take(rest);
            rest = behind;
            Some(value)
        })
    }
}

impl<'a> Object<'a> {
    /// The members in their order, the names as they are written.
    pub(crate) fn members(self) -> impl Iterator<Item = (Text<'a>, Value<'a>)> {
        let mut rest = scan::inside(self.0);
        std::iter::from_fn(move || {
            if rest.starts_with('}') || rest.is_empty() {
                return None;
            }
            let (name, behind) = Text::of(rest);
            let (value, behind) = Value::take(scan::past_comma(behind));
            rest = behind;
            Some((name, value))
        })
    }

    /// The values of the members of these names, where there are such members.
    pub(crate) fn pick<const N: usize>(self, wanted: [&str; N]) -> [Option<Value<'a>>; N] {
        let mut picked = [None; N];
        self.each(wanted, &mut picked, |_| {});
        picked
    }

    /// The same, and the names of all members, in one pass.
    pub(crate) fn pick_and_name<const N: usize>(
        self,
        wanted: [&str; N],
    ) -> ([Option<Value<'a>>; N], Vec<String>) {
        let mut picked = [None; N];
        let mut names = Vec::new();
        self.each(wanted, &mut picked, |name| names.push(name.to_owned()));
        (picked, names)
    }

    fn each<const N: usize>(
        self,
        wanted: [&str; N],
        picked: &mut [Option<Value<'a>>; N],
        mut seen: impl FnMut(&str),
    ) {
        for (name, value) in self.members() {
            let name = name.whole();
            for (slot, wanted) in picked.iter_mut().zip(wanted) {
                if name == wanted {
                    *slot = Some(value);
                }
            }
            seen(&name);
        }
    }
}

/// A step of a JSON pointer (RFC 6901 §3).
pub(crate) fn step(name: &str) -> Cow<'_, str> {
    if name.contains(['~', '/']) {
        Cow::Owned(name.replace('~', "~0").replace('/', "~1"))
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests;
