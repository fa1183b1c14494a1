//! What a message says: an RFC 822 text, or a description from which `KumoMTA` would build one.
//!
//! Only the beginning of a long content is kept, and it is cut while it is parsed, because a demo has
//! no use for a 100 MB attachment but must bear it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::{Serialize, Serializer};

/// How much of one content is kept, in bytes.
pub(crate) const CONTENT_LIMIT: usize = 1024 * 1024;

/// What an entry of a list or map counts beside its text, in bytes, so that a great many empty
/// ones come to an end as well.
const ENTRY_COST: usize = 32;

/// The content of a message.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Content {
    /// A whole message, header and body.
    Rfc822(Text),
    /// The parts of which to build one.
    Builder(Box<Builder>),
}

/// A message in parts.
#[derive(Debug, Default, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Builder {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Mailbox>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<Mailbox>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Text>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text_body: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    html_body: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amp_html_body: Option<Text>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Attachment>,
}

#[derive(Debug, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Mailbox {
    email: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Text>,
}

#[derive(Debug, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Attachment {
    content_type: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_id: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file_name: Option<Text>,
    #[serde(default)]
    base64: bool,
    data: Text,
}

/// How much there was of a content, and whether all of it was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The length of all its text in bytes, before anything was cut.
    pub(crate) size: usize,
    /// Something was cut.
    pub(crate) truncated: bool,
}

impl Content {
    /// Whether there is anything to read in it. `KumoMTA` refuses to build a message without a text.
    pub(crate) fn has_text(&self) -> bool {
        match self {
            Self::Rfc822(_) => true,
            Self::Builder(parts) => [&parts.text_body, &parts.html_body, &parts.amp_html_body]
                .into_iter()
                .any(Option::is_some),
        }
    }

    /// Cuts it to [`CONTENT_LIMIT`] bytes in all. Of a message in parts, the attachments go first.
    pub(crate) fn cut(&mut self) -> Extent {
        let mut room = Room {
            left: CONTENT_LIMIT,
            size: 0,
            truncated: false,
        };
        match self {
            Self::Rfc822(text) => room.take(text),
            Self::Builder(parts) => parts.cut(&mut room),
        }
        Extent {
            size: room.size,
            truncated: room.truncated,
        }
    }
}

impl Builder {
    fn cut(&mut self, room: &mut Room) {
        for mailbox in [&mut self.from, &mut self.reply_to].into_iter().flatten() {
            room.take(&mut mailbox.email);
            room.take_any(&mut mailbox.name);
        }
        room.take_any(&mut self.subject);
        self.headers.retain(|name, value| {
            let kept = room.take_entry(name.len());
            room.take(value);
            kept
        });
        room.take_any(&mut self.text_body);
        room.take_any(&mut self.html_body);
        room.take_any(&mut self.amp_html_body);
        self.attachments.retain_mut(|attachment| {
            let kept = room.take_entry(0);
            room.take(&mut attachment.content_type);
            room.take_any(&mut attachment.content_id);
            room.take_any(&mut attachment.file_name);
            room.take(&mut attachment.data);
            kept
        });
    }
}

/// What is left of the limit while a content is cut.
struct Room {
    left: usize,
    size: usize,
    truncated: bool,
}

impl Room {
    fn take(&mut self, text: &mut Text) {
        self.size += text.size;
        text.cut_to(self.left);
        self.left -= text.kept.len();
        self.truncated |= text.kept.len() < text.size;
    }

    fn take_any(&mut self, text: &mut Option<Text>) {
        if let Some(text) = text {
            self.take(text);
        }
    }

    /// Whether there is room for an entry whose name is that long.
    fn take_entry(&mut self, name: usize) -> bool {
        self.size += name;
        let left = self.left.checked_sub(name + ENTRY_COST);
        self.left = left.unwrap_or(0);
        self.truncated |= left.is_none();
        left.is_some()
    }
}

// Derived, an untagged enum would try one form after the other and report only that none matched.
// The form shows in the first character, so the fault inside can be told with its place.
impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Content;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an RFC 822 message as a string, or an object with its parts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Rfc822(Text::new(text)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content, A::Error> {
                let parts = Builder::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Content::Builder(Box::new(parts)))
            }
        }

        deserializer.deserialize_any(Form)
    }
}

/// A text of which at most [`CONTENT_LIMIT`] bytes are kept.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    kept: String,
    size: usize,
}

impl Text {
    /// Keeps the beginning of `text`.
    pub(crate) fn new(text: &str) -> Self {
        let kept = text
            .get(..text.floor_char_boundary(CONTENT_LIMIT))
            .unwrap_or(text);
        Self {
            kept: kept.to_owned(),
            size: text.len(),
        }
    }

    fn cut_to(&mut self, limit: usize) {
        self.kept.truncate(self.kept.floor_char_boundary(limit));
        self.kept.shrink_to_fit();
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Cut;

        impl Visitor<'_> for Cut {
            type Value = Text;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text::new(text))
            }
        }

        deserializer.deserialize_str(Cut)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.kept)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(content: &Value, size: usize, truncated: bool) -> Value {
        let mut content: Content = serde_json::from_value(content.clone()).unwrap();
        assert_eq!(content.cut(), Extent { size, truncated });
        let kept = serde_json::to_value(&content).unwrap();
        assert!(kept.to_string().len() < CONTENT_LIMIT + 1000);
        kept
    }

    #[test]
    fn what_fits_is_kept_as_it_came() {
        let cases = [
            (json!("Subject: ü\n\nhello"), 18),
            (json!("a".repeat(CONTENT_LIMIT)), CONTENT_LIMIT),
            (
                json!({
                    "from": {"email": "a@b.c", "name": "A"},
                    "subject": "Hi",
                    "headers": {"X-A": "b"},
                    "text_body": "hello",
                    "attachments": [{"content_type": "a/b", "base64": true, "data": "YQ=="}],
                }),
                24,
            ),
        ];
        for (content, size) in cases {
            assert_eq!(check(&content, size, false), content);
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_between_characters() {
        let text = format!("a{}", "ü".repeat(CONTENT_LIMIT / 2));
        let kept = check(&json!(text), CONTENT_LIMIT + 1, true);
        assert_eq!(kept.as_str().unwrap().len(), CONTENT_LIMIT - 1);
    }

    #[test]
    fn of_a_message_in_parts_the_attachments_go_first() {
        let long = "a".repeat(CONTENT_LIMIT);
        let content = json!({
            "subject": "Hi",
            "text_body": "hello",
            "attachments": [
                {"content_type": "a/b", "data": long},
                {"content_type": "a/b", "data": "x"},
            ],
        });
        let kept = check(&content, CONTENT_LIMIT + 14, true);
        assert_eq!(kept["text_body"], "hello");
        assert_eq!(kept["attachments"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_great_many_empty_entries_come_to_an_end() {
        let attachments = vec![json!({"content_type": "", "data": ""}); 100_000];
        let content = json!({"text_body": "hello", "attachments": attachments});
        let mut content: Content = serde_json::from_value(content).unwrap();
        assert!(content.cut().truncated);
        let kept = serde_json::to_value(&content).unwrap();
        assert!(kept["attachments"].as_array().unwrap().len() <= CONTENT_LIMIT / ENTRY_COST);
    }
}
