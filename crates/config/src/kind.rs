//! What a value may be: how it is read, what a schema says of it, and the same in words.
//!
//! The three are made together, from the same bounds and words, so that what an editor accepts and what the
//! reference says cannot differ from what is read. A schema says less than the reader where JSON Schema has no
//! words for it (the bounds of a duration, say); it never refuses what the reader takes.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use gatepost_auth::throttle::Rate;
use http::HeaderName;
use ipnet::IpNet;
use serde_json::{Value as Json, json};

use crate::node::{Node, Place};
use crate::section::Complaint;
use crate::value;

/// What a value may be.
pub(crate) struct Kind<'a, T> {
    takes: Takes,
    read: Reads<'a, T>,
    write: Option<Writes<'a, T>>,
}

type Reads<'a, T> = Box<dyn Fn(&Node) -> Result<T, Complaint> + 'a>;
type Writes<'a, T> = Box<dyn Fn(&T) -> Json + 'a>;

/// What a schema says of a value, and the same in words, such as `a whole number from 1 to 256`.
#[derive(Debug, Clone)]
pub(crate) struct Takes {
    pub(crate) schema: Json,
    pub(crate) words: String,
}

impl Takes {
    pub(crate) fn new(schema: Json, words: impl Into<String>) -> Self {
        let words = words.into();
        Self { schema, words }
    }

    /// The same, or another.
    pub(crate) fn or(&self, other: &Self) -> Self {
        let schema = json!({ "anyOf": [self.schema, other.schema] });
        Self::new(schema, format!("{}, or {}", self.words, other.words))
    }
}

impl<'a, T: 'a> Kind<'a, T> {
    pub(crate) fn new(takes: Takes, read: impl Fn(&Node) -> Result<T, Complaint> + 'a) -> Self {
        Self {
            takes,
            read: Box::new(read),
            write: None,
        }
    }

    /// A text of this form. The pattern is a regular expression of ECMA-262.
    pub(crate) fn text(
        words: &str,
        pattern: &str,
        read: impl Fn(&Node) -> Result<T, Complaint> + 'a,
    ) -> Self {
        let schema = json!({ "type": "string", "pattern": pattern });
        Self::new(Takes::new(schema, words), read)
    }

    /// How a value is written, for the defaults in a schema.
    pub(crate) fn written(self, write: impl Fn(&T) -> Json + 'a) -> Self {
        Self {
            write: Some(Box::new(write)),
            ..self
        }
    }

    /// The value with the place where it stands.
    pub(crate) fn placed(self) -> Kind<'a, (T, Place)> {
        let Self { takes, read, .. } = self;
        Kind::new(takes, move |node| Ok((read(node)?, node.place)))
    }

    /// The three parts: what it takes, how it is read, and what a schema says of this default.
    pub(crate) fn parts(self, default: Option<&T>) -> (Takes, Reads<'a, T>, Option<Json>) {
        let shown = default.and_then(|it| self.write.as_ref().map(|write| write(it)));
        (self.takes, self.read, shown)
    }
}

/// A text that holds something, without control characters and `${…}`.
pub(crate) const TEXT: &str = r"^(?:[^$\u0000-\u001f\u007f-\u009f]|\$(?!\{))+$";

/// A text that holds something.
pub(crate) fn text() -> Kind<'static, String> {
    Kind::text("a text", TEXT, value::text).written(|it| json!(it))
}

/// The path of a file.
pub(crate) fn path() -> Kind<'static, String> {
    Kind::text("the path of a file", TEXT, value::text)
}

/// One of a few words.
pub(crate) fn word<'a, T: Copy + PartialEq + 'a>(choices: &'a [(&'a str, T)]) -> Kind<'a, T> {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    let takes = Takes::new(json!({ "enum": words }), value::either(&quoted));
    Kind::new(takes, value::word(choices)).written(|it| {
        let found = choices.iter().find(|(_, choice)| choice == it);
        json!(found.map(|(word, _)| *word))
    })
}

/// `true` or `false`.
pub(crate) fn truth() -> Kind<'static, bool> {
    let takes = Takes::new(json!({ "type": "boolean" }), "`true` or `false`");
    Kind::new(takes, value::truth).written(|it| json!(it))
}

/// A whole number within bounds.
pub(crate) fn integer<'a, T>(bounds: RangeInclusive<T>) -> Kind<'a, T>
where
    T: TryFrom<i128> + PartialOrd + Display + Copy + Into<Json> + 'a,
{
    let (least, most): (Json, Json) = ((*bounds.start()).into(), (*bounds.end()).into());
    let takes = Takes::new(
        json!({ "type": "integer", "minimum": least, "maximum": most }),
        format!("a whole number from {least} to {most}"),
    );
    Kind::new(takes, value::integer(bounds)).written(|it| (*it).into())
}

/// A duration such as `5s`, `500ms` or `1m 30s`.
pub(crate) fn duration(bounds: RangeInclusive<Duration>) -> Kind<'static, Duration> {
    // Those of humantime.
    const PATTERN: &str = concat!(
        r"^\s*(?:[0-9]+\s*(?:\.[0-9]+)?\s*(?:ns|nsec|nanos|us|usec|µs|ms|msec|millis|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?",
        r"|d|days?|w|weeks?|M|months?|y|years?)\s*)+$",
    );
    let words = format!(
        "a duration from {} to {}",
        show_duration(bounds.start()),
        show_duration(bounds.end())
    );
    Kind::text(&words, PATTERN, value::duration(bounds)).written(|it| json!(show_duration(it)))
}

fn show_duration(duration: &Duration) -> String {
    humantime::format_duration(*duration).to_string()
}

/// A size such as `64MiB`, or a number of bytes.
pub(crate) fn size(bounds: RangeInclusive<u64>) -> Kind<'static, u64> {
    // Those of bytesize.
    const PATTERN: &str = r"^[0-9]*\.?[0-9]*\s*(?:[Bb]|[KkMmGgTtPpEe](?:[Ii]?[Bb]?))?$";
    let number = json!({ "type": "integer", "minimum": bounds.start(), "maximum": bounds.end() });
    let text = json!({ "type": "string", "pattern": PATTERN });
    let words = format!(
        "a size from {} to {}",
        show_size(*bounds.start()),
        show_size(*bounds.end())
    );
    let takes = Takes::new(json!({ "anyOf": [text, number] }), words);
    Kind::new(takes, value::size(bounds)).written(|it| json!(show_size(*it)))
}

fn show_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = |(unit, bits): (&str, u32)| {
        let is_whole = bytes > 0 && bytes.trailing_zeros() >= bits;
        is_whole.then(|| format!("{}{unit}", bytes >> bits))
    };
    let shown = units.into_iter().find_map(whole);
    shown.unwrap_or_else(|| format!("{bytes}B"))
}

/// How a rate is written.
pub(crate) const RATE: &str = "^[0-9]+/(?:s|sec|second|m|min|minute|h|hr|hour|d|day)$";

/// A rate such as `10/min`; `off` for none.
pub(crate) fn rate_or_off() -> Kind<'static, Option<Rate>> {
    let rate = Takes::new(
        json!({ "type": "string", "pattern": RATE }),
        "a rate such as `10/min`",
    );
    Kind::new(rate.or(&off()), value::rate_or_off).written(|it| it.map_or(json!("off"), show_rate))
}

fn show_rate(rate: Rate) -> Json {
    let (interval, count) = rate.parts();
    // An interval is a whole number of nanoseconds, so a period that it was divided from may be missed by a little.
    let unit = match interval.saturating_mul(count).saturating_add(500_000) / 1_000_000 {
        1 => "s",
        60 => "min",
        3600 => "hour",
        _ => "day",
    };
    json!(format!("{count}/{unit}"))
}

/// What is written for none.
pub(crate) fn off() -> Takes {
    // YAML 1.1 reads `off` as false.
    Takes::new(json!({ "enum": ["off", false] }), "`off`")
}

/// What `kind` takes; `off` for none.
pub(crate) fn or_off<'a, T: 'a>(kind: Kind<'a, T>) -> Kind<'a, Option<T>> {
    let Kind { takes, read, write } = kind;
    let or_off = Kind::new(takes.or(&off()), value::or_off(read));
    match write {
        Some(write) => or_off.written(move |it| it.as_ref().map_or(json!("off"), &write)),
        None => or_off,
    }
}

/// A network, or one address.
pub(crate) fn network() -> Kind<'static, IpNet> {
    Kind::text(
        "an address, or a network such as `10.0.0.0/8`",
        NETWORK,
        value::network,
    )
}

/// How networks and addresses are written.
pub(crate) const NETWORK: &str = "^[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?$";

/// The name of a header (RFC 9110 §5.1), read as the caller says.
pub(crate) fn header_name<'a, T: 'a>(
    read: impl Fn(&Node) -> Result<T, Complaint> + 'a,
) -> Kind<'a, T> {
    Kind::text(
        "the name of a header",
        "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
        read,
    )
}

/// How the name of a header is written. Names know small letters alone, so capitals are put where people put them.
pub(crate) fn show_header(name: &HeaderName) -> Json {
    let capital = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|it| it.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    let words: Vec<String> = name.as_str().split('-').map(capital).collect();
    json!(words.join("-"))
}
