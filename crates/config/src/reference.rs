//! What `config/reference.yaml` says about each key: its comments are the manual, here and in editors.
//!
//! A comment belongs to the key right below it. A line `#key: …`, without a space behind `#`, is a key too, one that is off.

/// The file.
pub(crate) const TEXT: &str = include_str!("../../../config/reference.yaml");

/// A key of the file.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Such as `policy.queue`; lists add nothing to it.
    pub(crate) path: String,
    /// Its comment, as Markdown.
    pub(crate) prose: String,
    /// What stands behind it on its line.
    pub(crate) value: &'static str,
    /// Whether it is on, so that what stands there is its default.
    pub(crate) is_on: bool,
}

/// All of them, in the order of the file.
pub(crate) fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    // The keys above, each with its column.
    let mut above: Vec<(usize, &str)> = Vec::new();
    for line in TEXT.lines() {
        let text = line.trim_start();
        if let Some(said) = commented(text) {
            comment.push(said);
        } else if let Some(key) = Key::of(line) {
            above.retain(|(column, _)| *column < key.column);
            above.push((key.column, key.name));
            let path: Vec<&str> = above.iter().map(|(_, name)| *name).collect();
            entries.push(Entry {
                path: path.join("."),
                prose: markdown(&comment),
                value: key.value,
                is_on: key.is_on,
            });
            comment.clear();
        } else {
            comment.clear();
        }
    }
    entries
}

/// How values are written, which is the third comment of the file: the first is for editors, the second is about the file.
pub(crate) fn preface() -> String {
    let block = TEXT.split("\n\n").nth(2).unwrap_or_default();
    let lines: Vec<&str> = block.lines().filter_map(commented).collect();
    markdown(&lines)
}

/// What a comment says.
fn commented(text: &str) -> Option<&str> {
    let said = text.strip_prefix('#')?;
    if said.is_empty() {
        Some(said)
    } else {
        said.strip_prefix(' ')
    }
}

struct Key {
    column: usize,
    name: &'static str,
    value: &'static str,
    is_on: bool,
}

impl Key {
    fn of(line: &'static str) -> Option<Self> {
        let text = line.trim_start();
        let on = text.strip_prefix('#').unwrap_or(text);
        let key = on.strip_prefix("- ").unwrap_or(on);
        let (name, value) = key.split_once(':')?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        (!name.is_empty() && name.bytes().all(plain)).then(|| Self {
            column: line.len() - text.len() + (on.len() - key.len()),
            name,
            value: value.trim(),
            is_on: on.len() == text.len(),
        })
    }
}

/// Paragraphs and list items, each on one line.
fn markdown(comment: &[&str]) -> String {
    let mut text = String::new();
    for line in comment {
        if line.is_empty() {
            text.push_str("\n\n");
        } else {
            if line.starts_with("- ") && !text.ends_with("\n\n") {
                text.push('\n');
            } else if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line.trim());
        }
    }
    text
}
