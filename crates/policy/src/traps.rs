//! Looks for mistakes that handlers are known to be written with, before somebody else finds them.

use regex::Regex;

use gatepost_auth::{Credentials, Judgement};

use crate::Policy;
use crate::vm::BASIC;

/// A place in a policy that deserves a second look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// Asks the handler about a user who cannot exist and who brings no password at all. A handler that looks up the
/// password and compares has nil on both sides.
pub async fn lets_missing_password_in(policy: &Policy) -> bool {
    let user = "gatepost-check-no-such-user".to_owned();
    let judgement = policy
        .judge(Credentials::Basic {
            user,
            password: None,
        })
        .await;
    matches!(judgement, Judgement::Accepted(_))
}

/// Functions that open what a path or key names.
const OPENERS: &str = r"io\.open|io\.lines|dofile|json_load|toml_load|yaml_load|secrets\.load|vault_path|key_source|sqlite\.open|fs\.\w+|read_dir|glob|htpasswd";

/// Finds calls that open something whose name is made from the user name. This reads the text, it does not
/// understand it: it follows the handler's first parameter through plain assignments, and no further.
#[must_use]
pub fn paths_made_from_user(source: &str) -> Vec<Trap> {
    let lines: Vec<&str> = source.lines().map(without_comment).collect();
    let mut traps = Vec::new();
    for (start, parameter) in handlers(&lines) {
        let mut tainted = vec![parameter];
        for (index, line) in lines.iter().enumerate().skip(start) {
            // The next top-level statement is another story.
            if index > start && line.starts_with("kumo.on") {
                break;
            }
            if let Some(name) = assigned(line)
                && mentions(
                    line.split_once('=').map_or("", |(_, value)| value),
                    &tainted,
                )
            {
                tainted.push(name);
            }
            if let Some(opener) = opener(line)
                && mentions(line, &tainted)
            {
                traps.push(Trap {
                    line: index + 1,
                    message: format!(
                        "{opener} is given something made from the user name, which the client chooses; look the name up in a list first"
                    ),
                });
            }
        }
    }
    traps.sort_by_key(|trap| trap.line);
    traps.dedup();
    traps
}

fn without_comment(line: &str) -> &str {
    line.split_once("--").map_or(line, |(code, _)| code)
}

/// Where handlers for Basic credentials begin, and what their first parameter is called.
fn handlers(lines: &[&str]) -> Vec<(usize, String)> {
    let inline = pattern(&format!(r#"{BASIC}['"]\s*,\s*function\s*\(\s*(\w+)"#));
    let named = pattern(&format!(r#"{BASIC}['"]\s*,\s*([A-Za-z_][\w.]*)\s*\)"#));
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if let Some(parameter) = capture(inline.as_ref(), line) {
            found.push((index, parameter));
        } else if let Some(name) = capture(named.as_ref(), line) {
            let name = regex::escape(&name);
            let definition = pattern(&format!(
                r"function\s+{name}\s*\(\s*(\w+)|{name}\s*=\s*function\s*\(\s*(\w+)"
            ));
            found.extend(
                lines
                    .iter()
                    .enumerate()
                    .filter_map(|(index, line)| Some((index, capture(definition.as_ref(), line)?))),
            );
        }
    }
    found
}

fn assigned(line: &str) -> Option<String> {
    capture(pattern(r"^\s*(?:local\s+)?(\w+)\s*=[^=]").as_ref(), line)
}

fn opener(line: &str) -> Option<String> {
    capture(pattern(&format!(r"\b({OPENERS})")).as_ref(), line)
}

/// Whether the code uses one of the names. As an index alone (`files[user]`) it is looked up in a list, which is what it
/// should be.
fn mentions(code: &str, names: &[String]) -> bool {
    names.iter().any(|name| {
        let name = regex::escape(name);
        let looked_up = pattern(&format!(r"\w\[\s*{name}\s*\]"));
        let rest = looked_up.map_or(code.into(), |it| it.replace_all(code, ""));
        pattern(&format!(r"\b{name}\b")).is_some_and(|it| it.is_match(&rest))
    })
}

/// The patterns are our own; one that did not compile would find nothing.
fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

fn capture(pattern: Option<&Regex>, line: &str) -> Option<String> {
    let captures = pattern?.captures(line)?;
    captures
        .iter()
        .skip(1)
        .flatten()
        .next()
        .map(|found| found.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &[usize]) {
        let lines: Vec<usize> = paths_made_from_user(source)
            .into_iter()
            .map(|trap| trap.line)
            .collect();
        assert_eq!(lines, expected, "{source}");
    }

    #[test]
    fn paths_made_from_the_user_name_are_found() {
        check(
            "kumo.on('http_server_validate_auth_basic', function(user, password)\n  local f = io.open('/etc/users/' .. user)\nend)",
            &[2],
        );
        check(
            "kumo.on(\"http_server_validate_auth_basic\", function(name, password)\n  local path = dir .. name\n  for line in io.lines(path) do end\nend)",
            &[3],
        );
        check(
            "local function check(u, p)\n  return kumo.secrets.load { vault_mount = 'm', vault_path = 'users/' .. u } == p\nend\nkumo.on('http_server_validate_auth_basic', check)",
            &[2],
        );
        check(
            "local check = function(u, p)\n  return dofile('users/' .. u .. '.lua')\nend\nkumo.on('http_server_validate_auth_basic', check)",
            &[2],
        );
    }

    #[test]
    fn ordinary_handlers_are_left_alone() {
        check(
            "kumo.on('http_server_validate_auth_basic', function(user, password)\n  return users[user] == password -- io.open(user)\nend)",
            &[],
        );
        check(
            "local f = io.open('users.json')\nkumo.on('http_server_validate_auth_basic', function(user, password)\n  return true\nend)",
            &[],
        );
        check(
            "kumo.on('http_server_validate_auth_basic', function(user, password)\n  local superuser = io.open('x')\nend)",
            &[],
        );
        check(
            "kumo.on('http_server_validate_auth_basic', function(user, password)\n  local path = files[user]\n  return io.open(path) and io.open(files[user])\nend)",
            &[],
        );
        check("kumo.on('init', function(user)\n  io.open(user)\nend)", &[]);
        check("", &[]);
    }
}
