//! Secrets: from a file, from the environment, or written down, which is warned about.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use gatepost_auth::Secret;
use serde_json::json;

use crate::kind::{self, Takes};
use crate::node::{Node, Place, Value};
use crate::section::{Complaint, Need, Section};

/// Larger files are no secrets. In bytes.
const LONGEST: u64 = 64 * 1024;

const EXPECTED: &str = "expected a secret: `{ file: PATH }`, `${NAME}` for a variable of the environment, or the secret itself";

/// A secret as it is written.
pub(crate) struct Written {
    pub(crate) secret: Secret,
    /// To be watched, since secrets are changed in place.
    pub(crate) file: Option<PathBuf>,
    inline: bool,
}

/// The URL of a Redis server, which is a secret where it holds a password.
pub(crate) fn redis(
    section: &mut Section<'_>,
    key: &'static str,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<Secret> {
    let (url, place) = optional_url(section, key, folder, files)?;
    if url.expose().starts_with("redis://") {
        return Some(url);
    }
    // It may hold a password, so it is not repeated.
    section
        .reader()
        .fault(place, "expected a URL such as `redis://127.0.0.1:6379/0`");
    None
}

fn optional_url(
    section: &mut Section<'_>,
    key: &'static str,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<(Secret, Place)> {
    let schema = json!({ "type": "string", "pattern": format!("^redis://|{VARIABLE}") });
    let url = Takes::new(schema, "a URL such as `redis://127.0.0.1:6379/0`");
    let node = section.node(key, url.or(&apart()), Need::Optional)?;
    if let Value::Text(text) = &node.value
        && !text.contains(['@', '$'])
    {
        return Some((Secret::from(text.as_str()), node.place));
    }
    from_node(section, node, folder, files)
}

/// Reads a secret that may be absent. Messages never repeat what stands there.
pub(crate) fn optional(
    section: &mut Section<'_>,
    key: &'static str,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<(Secret, Place)> {
    secret(section, key, Need::Optional, folder, files)
}

/// The same for one that is needed. The caller reports one that is missing, since it may be faulty too.
pub(crate) fn needed(
    section: &mut Section<'_>,
    key: &'static str,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<(Secret, Place)> {
    secret(section, key, Need::Required, folder, files)
}

fn secret(
    section: &mut Section<'_>,
    key: &'static str,
    need: Need,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<(Secret, Place)> {
    let schema = json!({ "type": "string", "pattern": format!("{VARIABLE}|{}", kind::TEXT) });
    let inline = Takes::new(
        schema,
        "a secret: `${NAME}` for a variable of the environment",
    );
    let node = section.node(key, inline.or(&apart()), need)?;
    from_node(section, node, folder, files)
}

/// How a variable of the environment is named.
const VARIABLE: &str = r"^\$\{[0-9A-Za-z_]+\}$";

/// A secret in a file of its own.
fn apart() -> Takes {
    let schema = json!({
        "type": "object",
        "properties": { "file": { "type": "string", "minLength": 1 } },
        "required": ["file"],
        "additionalProperties": false,
    });
    Takes::new(schema, "`{ file: PATH }`")
}

fn from_node(
    section: &Section<'_>,
    node: &Node,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<(Secret, Place)> {
    let reader = section.reader();
    match read(node, folder) {
        Ok(written) => {
            if written.inline {
                reader.warn(
                    node.place,
                    "the secret stands in this file for whoever reads it: `{ file: PATH }` keeps it apart",
                );
            }
            files.extend(written.file);
            Some((written.secret, node.place))
        }
        Err(complaint) => {
            reader.fault(node.place, complaint);
            None
        }
    }
}

fn read(node: &Node, folder: &Path) -> Result<Written, Complaint> {
    if let Value::Text(text) = &node.value {
        return from_text(text);
    }
    if let Value::Map(entries) = &node.value
        && let [(key, value)] = entries.as_slice()
        && key.name == "file"
        && let Value::Text(path) = &value.value
        && !path.is_empty()
    {
        return from_file(&folder.join(path));
    }
    Err(EXPECTED.to_owned())
}

fn from_text(text: &str) -> Result<Written, Complaint> {
    let variable = text
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'));
    let Some(name) = variable else {
        if text.contains("${") {
            return Err("`${NAME}` has to be the whole secret".to_owned());
        }
        return check(text.to_owned()).map(|secret| Written {
            secret,
            file: None,
            inline: true,
        });
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(plain) {
        return Err("`${NAME}` takes letters, digits and `_`".to_owned());
    }
    let value = std::env::var(name)
        .map_err(|_| format!("the environment has no text in the variable `{name}`"))?;
    check(value).map(|secret| Written {
        secret,
        file: None,
        inline: false,
    })
}

fn from_file(path: &Path) -> Result<Written, Complaint> {
    let shown = path.display();
    let cannot = |fault: std::io::Error| format!("cannot read the secret {shown}: {fault}");
    // Asked first, since opening a named pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(format!("the secret {shown} is not a file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)
        .map_err(cannot)?
        .take(LONGEST + 1)
        .read_to_string(&mut text)
        .map_err(cannot)?;
    if text.len() as u64 > LONGEST {
        return Err(format!("the secret {shown} is longer than 64 KiB"));
    }
    // Editors and `kubectl create secret` differ in the line end that they leave.
    let length = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(length);
    let secret = check(text).map_err(|complaint| format!("{shown}: {complaint}"))?;
    Ok(Written {
        secret,
        file: Some(path.to_owned()),
        inline: false,
    })
}

fn check(text: String) -> Result<Secret, Complaint> {
    if text.is_empty() {
        Err("the secret is empty".to_owned())
    } else if text.chars().any(char::is_control) {
        Err("the secret holds a control character or several lines".to_owned())
    } else {
        Ok(Secret::from(text))
    }
}
