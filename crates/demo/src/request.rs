//! The injection request as `KumoMTA` defines it, read strictly.
//!
//! Names and types are those of `InjectV1Request` in `KumoMTA`'s HTTP API reference. Other than there,
//! an unknown field is refused, and every fault is named with its place in the JSON.

use std::io::{self, BufReader, Read};

use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::content::{Content, Text};
use crate::refusal::{Fault, Refusal};

/// How many JSON values a request may consist of. A value that takes two bytes in the body takes a
/// hundred and more in memory, so the limit on the body's length alone would admit gigabytes.
const VALUE_LIMIT: u64 = 1_000_000;

/// How many bytes the parser takes from the body at once.
const BUFFER: usize = 64 * 1024;

/// The body of `POST /api/inject/v1`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InjectRequest {
    /// Who the envelope says the messages are from.
    pub(crate) envelope_sender: String,
    /// Who they go to, each getting a message of their own.
    pub(crate) recipients: Vec<Recipient>,
    /// What they say.
    pub(crate) content: Content,
    /// Values for the template that hold for all recipients. Kept, never applied.
    #[serde(default)]
    pub(crate) substitutions: Map<String, Value>,
    /// Of no effect here.
    #[serde(default)]
    deferred_spool: bool,
    /// `KumoMTA` then answers before it has made the messages, and so reports no success.
    #[serde(default)]
    pub(crate) deferred_generation: bool,
    /// Of no effect here.
    #[serde(default)]
    trace_headers: Option<TraceHeaders>,
    /// Of no effect here.
    #[serde(default)]
    template_dialect: Option<TemplateDialect>,
}

/// One recipient.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipient {
    /// The address.
    pub(crate) email: String,
    /// The name to show.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// Values for the template, for this recipient. Kept, never applied.
    #[serde(default)]
    pub(crate) substitutions: Map<String, Value>,
    /// What the message is to remember about this recipient.
    #[serde(default)]
    pub(crate) metadata: Map<String, Value>,
}

/// What `KumoMTA` would do differently for this request. Kept for the curious.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Options {
    deferred_spool: bool,
    deferred_generation: bool,
    trace_headers: Option<TraceHeaders>,
    template_dialect: Option<TemplateDialect>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceHeaders {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    received_header: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    supplemental_header: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header_name: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    include_meta_names: Option<Vec<Text>>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum TemplateDialect {
    Jinja,
    Static,
    Handlebars,
}

impl InjectRequest {
    /// Reads the JSON of `body` to its end.
    ///
    /// # Errors
    ///
    /// When it is not JSON, or not an injection request.
    pub(crate) fn parse(body: impl Read) -> Result<Self, Refusal> {
        let counted = ValueCounter::new(body, VALUE_LIMIT);
        let buffered = BufReader::with_capacity(BUFFER, counted);
        let mut json = serde_json::Deserializer::from_reader(buffered);
        let request = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let field = last_field(error.path());
            refuse(error.inner(), path, field)
        })?;
        json.end()
            .map_err(|error| refuse(&error, ".".to_owned(), None))?;
        Ok(request)
    }

    /// What the request asks for besides its messages.
    pub(crate) fn options(&self) -> Options {
        Options {
            deferred_spool: self.deferred_spool,
            deferred_generation: self.deferred_generation,
            trace_headers: self.trace_headers.clone(),
            template_dialect: self.template_dialect,
        }
    }
}

/// The field that a path ends at. It may as well end at a place in a list.
fn last_field(path: &serde_path_to_error::Path) -> Option<String> {
    match path.iter().next_back()? {
        Segment::Map { key } => Some(key.clone()),
        Segment::Seq { .. } | Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn refuse(error: &serde_json::Error, path: String, field: Option<String>) -> Refusal {
    match error.classify() {
        Category::Data => {
            let problem = error.to_string();
            Refusal::NotARequest(Fault {
                path,
                field,
                problem,
            })
        }
        Category::Syntax | Category::Eof => Refusal::NotJson(error.to_string()),
        // The body's own reader has no errors, so this one is the counter's.
        Category::Io => Refusal::TooManyValues { limit: VALUE_LIMIT },
    }
}

/// Passes JSON on and fails once it holds more than `limit` values.
///
/// It counts what every value but the first has in front of it: an opening bracket or a comma,
/// outside of strings. So it may count up to twice the number, never less than it.
struct ValueCounter<R> {
    inner: R,
    seen: u64,
    limit: u64,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Outside,
    InString,
    AfterBackslash,
}

impl<R> ValueCounter<R> {
    fn new(inner: R, limit: u64) -> Self {
        Self {
            inner,
            seen: 0,
            limit,
            place: Place::Outside,
        }
    }

    fn look_at(&mut self, byte: u8) {
        self.place = match (self.place, byte) {
            (Place::Outside, b'"') | (Place::AfterBackslash, _) => Place::InString,
            (Place::InString, b'"') => Place::Outside,
            (Place::InString, b'\\') => Place::AfterBackslash,
            (place, _) => place,
        };
        if matches!((self.place, byte), (Place::Outside, b',' | b'[' | b'{')) {
            self.seen += 1;
        }
    }
}

impl<R: Read> Read for ValueCounter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        for &byte in buffer.iter().take(length) {
            self.look_at(byte);
        }
        if self.seen > self.limit {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings() {
        let cases = [
            ("", 0),
            ("7", 0),
            ("[1,2]", 2),
            (r#"{"a":1,"b":[{},{}]}"#, 6),
            (r#"[",[{", "\",", "\\", 1]"#, 4),
        ];
        for (json, expected) in cases {
            let mut counter = ValueCounter::new(json.as_bytes(), u64::MAX);
            io::copy(&mut counter, &mut io::sink()).unwrap();
            assert_eq!(counter.seen, expected, "{json}");
        }
    }

    /// A long list of short values is a small body and a large heap.
    #[test]
    fn too_many_values_are_refused() {
        let mut body = r#"{"substitutions":{"a":["#.to_owned();
        for _ in 0..VALUE_LIMIT {
            body.push_str("0,");
        }
        let refusal = InjectRequest::parse(body.as_bytes()).unwrap_err();
        assert!(
            matches!(refusal, Refusal::TooManyValues { .. }),
            "{refusal:?}"
        );
    }
}
