//! Reads a mapping key by key, and remembers what it was asked for: what nobody asked for is unknown.
//!
//! A fault is recorded and reading goes on, so that one run shows them all.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::fault::Fault;
use crate::node::{Key, Node, Place, Value};

/// Where faults are collected while a document is read.
pub(crate) struct Reader<'a> {
    source: &'a Path,
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
    /// The path of every key that was asked for, such as `policy.queue`.
    asked: RefCell<BTreeSet<String>>,
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
        }
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
    pub(crate) fn finish(self) -> (Vec<Fault>, Vec<Fault>, BTreeSet<String>) {
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

    fn read<T>(&self, node: &Node, parse: impl Fn(&Node) -> Result<T, Complaint>) -> Option<T> {
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
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(crate) fn reader(&self) -> &'a Reader<'a> {
        self.reader
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The value as it stands; `None` where the key is absent.
    pub(crate) fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        self.reader.asked.borrow_mut().insert(self.path_of(key));
        self.entries
            .iter()
            .find(|(name, _)| name.name == key)
            .map(|(_, node)| node)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// A value that may be absent.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Node) -> Result<T, Complaint>,
    ) -> Option<T> {
        let node = self.node(key)?;
        self.reader.read(node, parse)
    }

    /// A value with a default.
    pub(crate) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl Fn(&Node) -> Result<T, Complaint>,
    ) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// A value that must be there. `None` is a fault that has been recorded.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Node) -> Result<T, Complaint>,
    ) -> Option<T> {
        let node = self.required_node(key)?;
        self.reader.read(node, parse)
    }

    fn required_node(&mut self, key: &'static str) -> Option<&'a Node> {
        let node = self.node(key);
        if node.is_none() {
            self.reader
                .fault(self.place, format!("`{}` is missing", self.path_of(key)));
        }
        node
    }

    /// A section that must be there.
    pub(crate) fn required_section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let node = self.required_node(key)?;
        self.reader.section(self.path_of(key), node)
    }

    /// A section as if nothing stood in it.
    pub(crate) fn empty_section(&self, key: &'static str) -> Section<'a> {
        Section {
            reader: self.reader,
            path: self.path_of(key),
            place: self.place,
            entries: &[],
            asked: Vec::new(),
        }
    }

    /// A section whose keys all have defaults. One that is absent is read as an empty one.
    pub(crate) fn section(&mut self, key: &'static str) -> Section<'a> {
        self.node(key)
            .and_then(|node| self.reader.section(self.path_of(key), node))
            .unwrap_or_else(|| self.empty_section(key))
    }

    /// A list, each item read on its own. An absent list is empty; items that are faulty are left out.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl Fn(&Node) -> Result<T, Complaint>,
    ) -> Vec<T> {
        let items = self
            .node(key)
            .map_or(&[][..], |node| self.items(node, example));
        items
            .iter()
            .filter_map(|item| self.reader.read(item, &parse))
            .collect()
    }

    /// A list that must be there and hold something, each item once. Items that are faulty are left
    /// out; `None` is a fault that has been recorded.
    pub(crate) fn required_list<T: PartialEq>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl Fn(&Node) -> Result<T, Complaint>,
    ) -> Option<Vec<T>> {
        let mut list = Vec::new();
        for item in self.required_items(key, example)? {
            match self.reader.read(item, &parse) {
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
            .node(key)
            .map_or(&[][..], |node| self.items(node, "- key: value"));
        let path = self.path_of(key);
        items
            .iter()
            .filter_map(|item| self.reader.section(path.clone(), item))
            .collect()
    }

    /// A list of sections that must be there and hold something.
    pub(crate) fn required_sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let items = self.required_items(key, "- key: value").unwrap_or_default();
        let path = self.path_of(key);
        items
            .iter()
            .filter_map(|item| self.reader.section(path.clone(), item))
            .collect()
    }

    fn required_items(&mut self, key: &'static str, example: &str) -> Option<&'a [Node]> {
        let node = self.required_node(key)?;
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

    /// Every key with its value, where the keys are the operator's own.
    pub(crate) fn pairs(self) -> &'a [(Key, Node)] {
        self.entries
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
