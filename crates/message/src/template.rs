//! `KumoMTA` expands a message's text as a template before it parses it. So a header that is read here may not be the
//! header that is sent: a substitution, a condition or a loop could make another one of it.
//!
//! What decides (`From`, and every header's name) has to be free of templates. Elsewhere in the header section a plain
//! `{{ name }}` is taken, provided that no value could end the line. Everything else is refused.
//!
//! `template_dialect: "Static"` is believed. `KumoMTA` before 2025.12.02 does not know that member, and versions that
//! pass over unknown members expand the text all the same: in front of such a one, a rule has to forbid the field.

use crate::fault::MessageFault;
use crate::header::Header;
use crate::json::{Text, Value};

/// How `KumoMTA` expands the text: its `template_dialect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Jinja, also where nothing is said, or Handlebars: their markers are the same as far as they are taken.
    Expanded,
    /// Not at all.
    Static,
}

impl Dialect {
    pub(crate) fn of(value: Option<Value<'_>>) -> Result<Self, MessageFault> {
        let Some(value) = value else {
            return Ok(Self::Expanded);
        };
        match value.string()?.within(16).as_deref() {
            Some("Jinja" | "Handlebars") => Ok(Self::Expanded),
            Some("Static") => Ok(Self::Static),
            _ => Err(MessageFault::ambiguous("the template dialect is unknown")),
        }
    }
}

/// What the headers hold of templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// Plain substitutions, fine if no value of them breaks a line.
    Substitutions,
}

/// Looks through headers as they will be expanded.
pub(crate) fn look(headers: &[Header]) -> Result<Found, MessageFault> {
    let mut found = Found::Nothing;
    for (name, value) in headers {
        if next_marker(name).is_some() {
            return Err(refused());
        }
        if next_marker(value).is_none() {
            continue;
        }
        if name.eq_ignore_ascii_case("from") {
            return Err(MessageFault::ambiguous(
                "a template in From cannot be checked",
            ));
        }
        without_plain(value)?;
        found = Found::Substitutions;
    }
    Ok(found)
}

/// What can only be seen in the text of a header section: a folded line that may become empty, and with it the end of
/// the section.
pub(crate) fn check_lines(section: &str) -> Result<(), MessageFault> {
    for line in section.lines().filter(|it| it.starts_with([' ', '\t'])) {
        if without_plain(line)?.trim().is_empty() {
            return Err(refused());
        }
    }
    Ok(())
}

/// Both dialects can remove the white space before a marker, and so the empty line before the body. What follows would
/// be headers that nobody has read.
pub(crate) fn check_body_begins(body: &str) -> Result<(), MessageFault> {
    if next_marker(body) == Some(0) && body.contains(['-', '~']) {
        return Err(MessageFault::ambiguous(
            "a template removes the empty line before the body",
        ));
    }
    Ok(())
}

/// Whether a value that goes into a template could end a header's line.
pub(crate) fn breaks_line(value: Value<'_>) -> bool {
    value.any_string(Text::breaks_line)
}

pub(crate) fn refused() -> MessageFault {
    MessageFault::ambiguous("a template in the header section cannot be checked")
}

/// Whether there is a template in it, of whatever kind.
pub(crate) fn holds_marker(text: &str) -> bool {
    next_marker(text).is_some()
}

/// Where the next template begins.
fn next_marker(text: &str) -> Option<usize> {
    memchr::memchr_iter(b'{', text.as_bytes())
        .find(|at| matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')))
}

/// The text without its plain substitutions; refused where something else is in it.
fn without_plain(text: &str) -> Result<String, MessageFault> {
    let mut without = String::new();
    let mut rest = text;
    while let Some(at) = next_marker(rest) {
        let (before, marker) = rest.split_at(at);
        without.push_str(before);
        rest = past_plain(marker).ok_or_else(refused)?;
    }
    without.push_str(rest);
    Ok(without)
}

/// What stands behind the `{{ a.b }}` at the beginning.
fn past_plain(text: &str) -> Option<&str> {
    let space = [' ', '\t', '\r', '\n'];
    let text = text.strip_prefix("{{")?.trim_start_matches(space);
    let name = text
        .bytes()
        .position(|it| !it.is_ascii_alphanumeric() && it != b'_' && it != b'.')?;
    let (name, rest) = text.split_at_checked(name)?;
    if !name.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_') {
        return None;
    }
    rest.trim_start_matches(space).strip_prefix("}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, expected: Option<Found>) {
        let header = (name.to_owned(), value.to_owned());
        assert_eq!(look(&[header]).ok(), expected, "{name}: {value}");
    }

    #[test]
    fn markers() {
        let nothing = Some(Found::Nothing);
        let substitutions = Some(Found::Substitutions);
        for (value, expected) in [
            ("hello", nothing),
            ("{ a } }} {", nothing),
            ("%} #} {", nothing),
            ("{{ a }}", substitutions),
            ("{{a}}x{{\t_b.c9 }}}", substitutions),
            ("{{ a", None),
            ("{{}}", None),
            ("{{ 'a' }}", None),
            ("{{ a|safe }}", None),
            ("{{ a() }}", None),
            ("{{ 9a }}", None),
            ("{{- a }}", None),
            ("{{ a -}}", None),
            ("{{~a}}", None),
            ("{{{ a }}}", None),
            ("{{#if a}}", None),
            ("{{> a}}", None),
            ("{{! a}}", None),
            ("{% if a %}", None),
            ("{# a #}", None),
            ("{{ a }}{%", None),
        ] {
            check("Subject", value, expected);
            let anyhow = if expected == nothing { nothing } else { None };
            check("From", value, anyhow);
        }
        check("X-{{a}}", "b", None);
        check("X-{%", "b", None);
    }

    #[test]
    fn lines_that_may_become_empty() {
        for (section, fine) in [
            ("A: b\n {{ c }} d\n", true),
            ("A: {{ b }}\n", true),
            ("A: b\n {{ c }}\n", false),
            ("A: b\r\n\t{{ c }} {{ d }}\r\n", false),
            ("A: b\n {{\n", false),
        ] {
            assert_eq!(check_lines(section).is_ok(), fine, "{section:?}");
        }
        for (body, fine) in [
            ("hell", true),
            ("{{ a", true),
            ("{% i", true),
            ("{ - ", true),
            ("{{- ", false),
            ("{%- ", false),
            ("{#- ", false),
            ("{{~ ", false),
            ("{{{~", false),
        ] {
            assert_eq!(check_body_begins(body).is_ok(), fine, "{body:?}");
        }
    }
}
