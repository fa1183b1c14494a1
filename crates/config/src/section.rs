//! Reads a mapping key by key, and remembers what it was asked for: what nobody asked for is unknown.
//!
//! A fault is recorded and reading goes on, so that one run shows them all.
//!
//! What was asked for is a description of the whole configuration, if only everything is asked for. So a reader can be told to look
//! around: then every section is there once, with nothing in it, and [`crate::schema`] makes a schema of what it was asked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::fault::Fault;
use crate::kind::{Kind, Takes};
use crate::node::{Key, Node, Place, Value};
use crate::value::is_off;

/// Where faults are collected while a document is read.
pub(crate) struct Reader<'a> {
    source: &'a Path,
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
    asked: RefCell<Asked>,
    /// Whether every section is there, with nothing in it.
    looks_around: bool,
}

/// What was asked for, by its path, such as `policy.queue`.
pub(crate) type Asked = BTreeMap<String, Question>;

/// What a key is, as far as whoever asked for it said.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) form: Form,
    pub(crate) need: Need,
    pub(crate) default: Option<Json>,
    /// Of a section that can have several shapes, the one that has this key.
    pub(crate) shape: &'static str,
}

/// What stands behind a key.
#[derive(Debug, Clone)]
pub(crate) enum Form {
    Value(Takes),
    /// A list of values.
    List(Takes),
    /// A list of values, or one without a list around it.
    OneOrList(Takes),
    Section,
    SectionOrOff,
    /// A list of sections.
    Sections,
    /// A mapping whose keys are the operator's own.
    Pairs(Takes),
}

/// Whether a key has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    Optional,
}

/// What is wrong with one value. The reader adds where it stands.
pub(crate) type Complaint = String;

impl<'a> Reader<'a> {
    pub(crate) fn new(source: &'a Path) -> Self {
        Self {
            source,
            faults: RefCell::default(),
            warnings: RefCell::default(),
            asked: RefCell::default(),
            looks_around: false,
        }
    }

    /// One that is to be asked for everything, to learn what there is.
    pub(crate) fn looking_around() -> Self {
        Self {
            looks_around: true,
            ..Self::new(Path::new(""))
        }
    }

    /// Whether it is asked to learn what there is.
    pub(crate) fn looks_around(&self) -> bool {
        self.looks_around
    }

    pub(crate) fn fault(&self, place: Place, message: impl Into<String>) {
        self.faults
            .borrow_mut()
            .push(Fault::new(self.source, Some(place), message));
    }

    pub(crate) fn warn(&self, place: Place, message: impl Into<String>) {
        self.warnings
            .borrow_mut()
            .push(Fault::new(self.source, Some(place), message));
    }

    /// Faults, warnings, and the keys that were asked for.
    pub(crate) fn finish(self) -> (Vec<Fault>, Vec<Fault>, Asked) {
        (
            self.faults.into_inner(),
            self.warnings.into_inner(),
            self.asked.into_inner(),
        )
    }

    /// The whole document as a section. `None` is a fault that has been recorded.
    pub(crate) fn document(&'a self, node: &'a Node) -> Option<Section<'a>> {
        self.section(String::new(), node)
    }

    fn section(&'a self, path: String, node: &'a Node) -> Option<Section<'a>> {
        let Value::Map(entries) = &node.value else {
            let found = describe(&node.value);
            self.fault(node.place, format!("expected a mapping, found {found}"));
            return None;
        };
        self.refuse_duplicates(entries);
        Some(Section {
            reader: self,
            path,
            place: node.place,
            entries,
            shape: "",
            asked: Vec::new(),
        })
    }

    /// Which of two would win is a guess, so neither does.
    fn refuse_duplicates(&self, entries: &[(Key, Node)]) {
        let mut first: BTreeMap<&str, Place> = BTreeMap::new();
        for (key, _) in entries {
            if let Some(earlier) = first.get(key.name.as_str()) {
                let name = shorten(&key.name);
                let line = earlier.line;
                self.fault(
                    key.place,
                    format!("the key `{name}` is there twice, first on line {line}"),
                );
            } else {
                first.insert(&key.name, key.place);
            }
        }
    }

    fn read<T>(&self, node: &Node, parse: &dyn Fn(&Node) -> Result<T, Complaint>) -> Option<T> {
        // Only secrets come from the environment (`secret.rs`).
        let result = if matches!(&node.value, Value::Text(text) if text.contains("${")) {
            Err("`${…}` is not replaced here: only secrets come from the environment".to_owned())
        } else {
            parse(node)
        };
        result
            .map_err(|complaint| self.fault(node.place, complaint))
            .ok()
    }
}

/// One mapping. Call [`Section::finish`] when everything known was asked for.
pub(crate) struct Section<'a> {
    reader: &'a Reader<'a>,
    path: String,
    place: Place,
    entries: &'a [(Key, Node)],
    shape: &'static str,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(crate) fn reader(&self) -> &'a Reader<'a> {
        self.reader
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Which of several shapes it has (see [`Section::required_sections_of`]).
    pub(crate) fn shape(&self) -> &'static str {
        self.shape
    }

    /// The value of a key that is asked for elsewhere, as it stands; `None` where the key is absent.
    pub(crate) fn peek(&self, key: &str) -> Option<&'a Node> {
        self.entries
            .iter()
            .find(|(name, _)| name.name == key)
            .map(|(_, node)| node)
    }

    fn ask(
        &mut self,
        key: &'static str,
        form: Form,
        need: Need,
        default: Option<Json>,
    ) -> Option<&'a Node> {
        self.asked.push(key);
        let path = self.path_of(key);
        let shape = self.shape;
        let question = Question {
            form,
            need,
            default,
            shape,
        };
        self.reader.asked.borrow_mut().insert(path, question);
        self.peek(key)
    }

    /// The same for a key that must be there.
    fn demand(&mut self, key: &'static str, form: Form) -> Option<&'a Node> {
        let node = self.ask(key, form, Need::Required, None);
        if node.is_none() {
            self.reader
                .fault(self.place, format!("`{}` is missing", self.path_of(key)));
        }
        node
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value as it stands; `None` where the key is absent. The caller says what it may be, and reports one that is needed and missing.
    pub(crate) fn node(&mut self, key: &'static str, takes: Takes, need: Need) -> Option<&'a Node> {
        self.ask(key, Form::Value(takes), need, None)
    }

    /// A value that may be absent.
    pub(crate) fn optional<T>(&mut self, key: &'static str, kind: Kind<'_, T>) -> Option<T> {
        let (takes, read, _) = kind.parts(None);
        let node = self.ask(key, Form::Value(takes), Need::Optional, None)?;
        self.reader.read(node, &read)
    }

    /// A value with a default.
    pub(crate) fn or<T>(&mut self, key: &'static str, default: T, kind: Kind<'_, T>) -> T {
        let (takes, read, shown) = kind.parts(Some(&default));
        self.ask(key, Form::Value(takes), Need::Optional, shown)
            .and_then(|node| self.reader.read(node, &read))
            .unwrap_or(default)
    }

    /// A value that must be there. `None` is a fault that has been recorded.
    pub(crate) fn required<T>(&mut self, key: &'static str, kind: Kind<'_, T>) -> Option<T> {
        let (takes, read, _) = kind.parts(None);
        let node = self.demand(key, Form::Value(takes))?;
        self.reader.read(node, &read)
    }

    /// A section that must be there.
    pub(crate) fn required_section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let node = self.demand(key, Form::Section);
        if self.reader.looks_around {
            return Some(self.empty_section(key));
        }
        self.reader.section(self.path_of(key), node?)
    }

    /// A section as if nothing stood in it.
    fn empty_section(&self, key: &'static str) -> Section<'a> {
        Section {
            reader: self.reader,
            path: self.path_of(key),
            place: self.place,
            entries: &[],
            shape: "",
            asked: Vec::new(),
        }
    }

    /// A section whose keys all have defaults. One that is absent is read as an empty one.
    pub(crate) fn section(&mut self, key: &'static str) -> Section<'a> {
        self.ask(key, Form::Section, Need::Optional, None)
            .and_then(|node| self.reader.section(self.path_of(key), node))
            .unwrap_or_else(|| self.empty_section(key))
    }

    /// The same, or `off` in its place: then the section is empty, and the answer is true.
    pub(crate) fn section_or_off(&mut self, key: &'static str) -> (Section<'a>, bool) {
        let node = self.ask(key, Form::SectionOrOff, Need::Optional, None);
        if node.is_some_and(is_off) {
            return (self.empty_section(key), true);
        }
        let section = node.and_then(|node| self.reader.section(self.path_of(key), node));
        (section.unwrap_or_else(|| self.empty_section(key)), false)
    }

    /// A list, each item read on its own. An absent list is empty; items that are faulty are left out.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        kind: Kind<'_, T>,
    ) -> Vec<T> {
        self.list_or(key, example, kind, Some(json!([])))
            .unwrap_or_default()
    }

    /// The same, where no list is another thing than an empty one.
    pub(crate) fn optional_list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        kind: Kind<'_, T>,
    ) -> Option<Vec<T>> {
        self.list_or(key, example, kind, None)
    }

    fn list_or<T>(
        &mut self,
        key: &'static str,
        example: &str,
        kind: Kind<'_, T>,
        default: Option<Json>,
    ) -> Option<Vec<T>> {
        let (takes, read, _) = kind.parts(None);
        let node = self.ask(key, Form::List(takes), Need::Optional, default)?;
        let items = self.items(node, example).iter();
        let list = items.filter_map(|item| self.reader.read(item, &read));
        Some(list.collect())
    }

    /// A list that must be there and hold something, each item once. Items that are faulty are left
    /// out; `None` is a fault that has been recorded.
    pub(crate) fn required_list<T: PartialEq>(
        &mut self,
        key: &'static str,
        example: &str,
        kind: Kind<'_, T>,
    ) -> Option<Vec<T>> {
        let (takes, read, _) = kind.parts(None);
        let items = self.required_items(key, example, Form::List(takes))?;
        self.once(items, &read)
    }

    /// The same, where one item may stand without a list around it.
    pub(crate) fn required_one_or_list<T: PartialEq>(
        &mut self,
        key: &'static str,
        example: &str,
        kind: Kind<'_, T>,
    ) -> Option<Vec<T>> {
        let (takes, read, _) = kind.parts(None);
        let form = Form::OneOrList(takes);
        match self.peek(key) {
            Some(node) if !matches!(node.value, Value::List(_)) => {
                self.demand(key, form);
                self.reader.read(node, &read).map(|it| vec![it])
            }
            _ => {
                let items = self.required_items(key, example, form)?;
                self.once(items, &read)
            }
        }
    }

    fn once<T: PartialEq>(
        &self,
        items: &[Node],
        read: &dyn Fn(&Node) -> Result<T, Complaint>,
    ) -> Option<Vec<T>> {
        let mut list = Vec::new();
        for item in items {
            match self.reader.read(item, read) {
                Some(value) if list.contains(&value) => {
                    let found = describe(&item.value);
                    self.reader
                        .fault(item.place, format!("{found} is there twice"));
                }
                Some(value) => list.push(value),
                None => {}
            }
        }
        (!list.is_empty()).then_some(list)
    }

    /// A list of sections that may be absent.
    pub(crate) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let items = self
            .ask(key, Form::Sections, Need::Optional, None)
            .map_or(&[][..], |node| self.items(node, "- key: value"));
        self.sections_of(key, items, &[""])
    }

    /// A list of sections that must be there and hold something.
    pub(crate) fn required_sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        self.required_sections_of(key, &[""])
    }

    /// The same for sections of several shapes. A section has the first shape that is called like one of its
    /// keys; the last, which has no name, is any other.
    pub(crate) fn required_sections_of(
        &mut self,
        key: &'static str,
        shapes: &[&'static str],
    ) -> Vec<Section<'a>> {
        let items = self.required_items(key, "- key: value", Form::Sections);
        self.sections_of(key, items.unwrap_or_default(), shapes)
    }

    fn sections_of(
        &self,
        key: &'static str,
        items: &'a [Node],
        shapes: &[&'static str],
    ) -> Vec<Section<'a>> {
        if self.reader.looks_around {
            let one = |shape: &&'static str| Section {
                shape,
                ..self.empty_section(key)
            };
            return shapes.iter().map(one).collect();
        }
        let path = self.path_of(key);
        let of_shape = |section: Section<'a>| {
            let shape = shapes.iter().find(|it| section.peek(it).is_some());
            let shape = shape.copied().unwrap_or_default();
            Section { shape, ..section }
        };
        items
            .iter()
            .filter_map(|item| self.reader.section(path.clone(), item))
            .map(of_shape)
            .collect()
    }

    fn required_items(
        &mut self,
        key: &'static str,
        example: &str,
        form: Form,
    ) -> Option<&'a [Node]> {
        let node = self.demand(key, form)?;
        let items = self.items(node, example);
        if items.is_empty() && matches!(node.value, Value::List(_)) {
            self.reader
                .fault(node.place, format!("`{}` is empty", self.path_of(key)));
        }
        (!items.is_empty()).then_some(items)
    }

    fn items(&self, node: &'a Node, example: &str) -> &'a [Node] {
        if let Value::List(items) = &node.value {
            return items;
        }
        let found = describe(&node.value);
        self.reader.fault(
            node.place,
            format!("expected a list such as `{example}`, found {found}"),
        );
        &[]
    }

    /// A mapping whose keys are the operator's own, with the values that could be read.
    pub(crate) fn pairs<T>(&mut self, key: &'static str, kind: Kind<'_, T>) -> Vec<(&'a Key, T)> {
        let (takes, read, _) = kind.parts(None);
        let section = self
            .ask(key, Form::Pairs(takes), Need::Optional, Some(json!({})))
            .and_then(|node| self.reader.section(self.path_of(key), node));
        let entries = section.map_or(&[][..], |it| it.entries);
        entries
            .iter()
            .filter_map(|(key, node)| Some((key, self.reader.read(node, &read)?)))
            .collect()
    }

    /// Reports what nobody asked for.
    pub(crate) fn finish(self) {
        for (key, _) in self.entries {
            if self.asked.contains(&key.name.as_str()) {
                continue;
            }
            let nearest = self
                .asked
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, &key.name), known))
                .min()
                .filter(|(distance, _)| *distance <= 2);
            let hint = nearest.map_or(String::new(), |(_, known)| {
                format!(", did you mean `{known}`?")
            });
            self.reader.fault(
                key.place,
                format!("unknown key `{}`{hint}", shorten(&key.name)),
            );
        }
    }
}

/// What stands there instead, in words.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(it) => format!("`{it}`"),
        Value::Integer(it) => format!("the number {it}"),
        Value::Float(it) => format!("the number {it}"),
        // In quotes, since without them it would be a number.
        Value::Text(it) if it.parse::<f64>().is_ok() => format!("the text \"{}\"", shorten(it)),
        Value::Text(it) => format!("`{}`", shorten(it)),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}

/// A text fit for one line of a message: bounded, and nothing in it that moves a terminal's cursor.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut short = String::new();
    for (index, character) in text.chars().enumerate() {
        match character {
            _ if index == LONGEST => {
                short.push('…');
                break;
            }
            '"' | '\'' | '\\' => short.push(character),
            _ => short.extend(character.escape_debug()),
        }
    }
    short
}
