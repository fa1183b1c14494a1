//! What the reader asks for, as a JSON Schema for editors and as a page for people.
//!
//! Nothing here knows a key: the reader is made to ask for everything, and what it asked for, with what it takes and its defaults, is
//! written down. So neither can say what is not so, and a key that is added is in both at once.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::kind;
use crate::node::{Node, Place, Value};
use crate::read;
use crate::reference;
use crate::routes::rule_schema;
use crate::section::{Asked, Form, Need, Question, Reader};

/// Draft 7 is what every editor knows.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// A JSON Schema of the configuration. It refuses nothing that [`crate::load`] takes, and takes what it has no words for: what a key
/// means beside another one, and whether files are there.
#[must_use]
pub fn schema() -> Json {
    let prose: BTreeMap<String, String> = reference::entries()
        .into_iter()
        .map(|entry| (entry.path, entry.prose))
        .collect();
    let mut schema = section("", &asked(), &prose);
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".to_owned(), json!(DRAFT));
        object.insert("title".to_owned(), json!("gatepost's configuration"));
        object.insert("definitions".to_owned(), json!({ "rule": rule_schema() }));
    }
    schema
}

/// The same for people, as Markdown, in the order of `config/reference.yaml`.
#[must_use]
pub fn reference_page() -> String {
    let asked = asked();
    let mut page = INTRODUCTION.to_owned();
    page += &format!("\n{}\n", reference::preface());
    for entry in reference::entries() {
        let Some(question) = asked.get(&entry.path) else {
            continue;
        };
        let depth = if entry.path.contains('.') {
            "###"
        } else {
            "##"
        };
        let name = entry.path.rsplit('.').next().unwrap_or_default();
        page += &format!("\n{depth} {}\n", entry.path);
        let mut facts = facts(question);
        let is_example = question.default.is_none() || !entry.is_on;
        if is_example && !entry.value.is_empty() {
            facts += &format!(" Example: `{name}: {}`.", entry.value);
        }
        // The name by itself is what people search for.
        let facts = facts.replacen("Takes", "takes", 1);
        page += &format!("\n*`{name}` {facts}*\n");
        page += &format!("\n{}\n", entry.prose.replace("TRUST:", "**TRUST:**"));
    }
    page
}

const INTRODUCTION: &str = "# Configuration reference

<!-- Made by `make reference` of config/reference.yaml and of what gatepost reads: change it there. -->

What each key takes, what it is where nothing is written, and what it does. [reference.yaml](../config/reference.yaml) is the same as a file
to copy from. `gatepost schema` prints a JSON Schema, with which editors complete and check the file while it is written: the
configurations in `config` name it in their first line.
";

/// Everything that the reader asks for.
pub(crate) fn asked() -> Asked {
    let nothing = Node {
        value: Value::Map(Vec::new()),
        place: Place { line: 1, column: 1 },
    };
    let reader = Reader::looking_around();
    if let Some(root) = reader.document(&nothing) {
        read::settings(root, Path::new(""), &mut None);
    }
    reader.finish().2
}

/// The keys of a section, by the shape that they belong to.
fn section(path: &str, asked: &Asked, prose: &BTreeMap<String, String>) -> Json {
    let mut shapes: BTreeMap<&str, (Map<String, Json>, Vec<&str>)> = BTreeMap::new();
    for (key, question) in asked {
        let (parent, name) = key.rsplit_once('.').unwrap_or(("", key));
        if parent != path {
            continue;
        }
        let (properties, required) = shapes.entry(question.shape).or_default();
        let value = property(key, question, asked, prose);
        properties.insert(name.to_owned(), value);
        if question.need == Need::Required {
            required.push(name);
        }
    }
    let mut objects: Vec<Json> = shapes
        .into_values()
        .map(|(properties, required)| {
            json!({
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": false,
            })
        })
        .collect();
    match objects.len() {
        1 => objects.remove(0),
        _ => json!({ "anyOf": objects }),
    }
}

fn property(
    path: &str,
    question: &Question,
    asked: &Asked,
    prose: &BTreeMap<String, String>,
) -> Json {
    let of_many = |items: Json| {
        let is_required = question.need == Need::Required;
        if is_required {
            json!({ "type": "array", "items": items, "minItems": 1 })
        } else {
            json!({ "type": "array", "items": items })
        }
    };
    let mut schema = match &question.form {
        Form::Value(takes) => takes.schema.clone(),
        Form::List(takes) => of_many(takes.schema.clone()),
        Form::OneOrList(takes) => {
            json!({ "anyOf": [takes.schema, of_many(takes.schema.clone())] })
        }
        Form::Section => section(path, asked, prose),
        Form::SectionOrOff => {
            json!({ "anyOf": [section(path, asked, prose), kind::off().schema] })
        }
        Form::Sections => of_many(section(path, asked, prose)),
        Form::Pairs(takes) => json!({ "type": "object", "additionalProperties": takes.schema }),
    };
    if let Some(object) = schema.as_object_mut() {
        let said = prose.get(path).map(String::as_str).unwrap_or_default();
        let facts = facts(question);
        let description = format!("{said}\n\n{facts}").trim().to_owned();
        object.insert("description".to_owned(), json!(description));
        if let Some(default) = &question.default {
            object.insert("default".to_owned(), default.clone());
        }
    }
    schema
}

/// What it takes, and what it is if it is not there, in words.
fn facts(question: &Question) -> String {
    let takes = match &question.form {
        Form::Value(takes) => format!("Takes {}.", takes.words),
        Form::List(takes) => format!("Takes a list, each {}.", takes.words),
        Form::OneOrList(takes) => format!("Takes {}, or a list of them.", takes.words),
        Form::Section => "Takes a section.".to_owned(),
        Form::SectionOrOff => "Takes a section, or `off`.".to_owned(),
        Form::Sections => "Takes a list of sections.".to_owned(),
        Form::Pairs(takes) => format!("Takes names of your own, and for each {}.", takes.words),
    };
    let need = match (question.need, &question.default) {
        (Need::Required, _) => "Required.".to_owned(),
        (Need::Optional, Some(Json::String(text))) => format!("Default: `{text}`."),
        (Need::Optional, Some(default)) => format!("Default: `{default}`."),
        (Need::Optional, None) => String::new(),
    };
    [takes, need].join(" ").trim_end().to_owned()
}
