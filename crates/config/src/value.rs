//! Reads single values as people write them.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use gatepost_auth::address::parse_network;
use gatepost_auth::throttle::{Rate, RateFault};
use ipnet::IpNet;

use crate::node::{Node, Value};
use crate::section::{Complaint, describe, shorten};

/// A text that holds something.
pub(crate) fn text(node: &Node) -> Result<String, Complaint> {
    let Value::Text(text) = &node.value else {
        return Err(format!("expected a text, found {}", describe(&node.value)));
    };
    if text.is_empty() {
        return Err("expected a text, found an empty one".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("the text holds a control character".to_owned());
    }
    Ok(text.clone())
}

/// One of a few words.
pub(crate) fn word<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&Node) -> Result<T, Complaint> {
    move |node| {
        let found = match &node.value {
            Value::Text(text) => choices.iter().find(|(word, _)| word == text),
            // INVARIANT: a key without a value is never the word `nil`. That would loosen a rule
            // where somebody only forgot to write.
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::List(_)
            | Value::Map(_) => None,
        };
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<String> = choices
                .iter()
                .map(|(word, _)| format!("`{word}`"))
                .collect();
            format!(
                "expected {}, found {}",
                either(&words),
                describe(&node.value)
            )
        })
    }
}

/// `a`, `b` or `c`.
pub(crate) fn either(words: &[String]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}

/// A whole number within bounds.
pub(crate) fn integer<T>(bounds: RangeInclusive<T>) -> impl Fn(&Node) -> Result<T, Complaint>
where
    T: TryFrom<i128> + PartialOrd + std::fmt::Display,
{
    move |node| {
        let Value::Integer(number) = node.value else {
            return Err(format!(
                "expected a whole number, found {}",
                describe(&node.value)
            ));
        };
        T::try_from(number)
            .ok()
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| {
                format!(
                    "{number} is not between {} and {}",
                    bounds.start(),
                    bounds.end()
                )
            })
    }
}

/// A duration such as `5s`, `500ms` or `1m 30s`.
pub(crate) fn duration(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&Node) -> Result<Duration, Complaint> {
    move |node| {
        if let Value::Integer(number) = node.value {
            return Err(format!(
                "expected a duration with its unit, such as `{number}s`, found the number {number}"
            ));
        }
        let expected = || {
            format!(
                "expected a duration such as `5s`, found {}",
                describe(&node.value)
            )
        };
        let Value::Text(text) = &node.value else {
            return Err(expected());
        };
        if !is_plain_duration(text) {
            return Err(expected());
        }
        let duration = humantime::parse_duration(text).map_err(|_| expected())?;
        if bounds.contains(&duration) {
            Ok(duration)
        } else {
            let show = humantime::format_duration;
            Err(format!(
                "{} is not between {} and {}",
                show(duration),
                show(*bounds.start()),
                show(*bounds.end())
            ))
        }
    }
}

/// Whether the parser reads what people see. It ignores white space inside a number, so `1 30s` would
/// be 130 seconds, and it can be made to overflow, which ten digits cannot.
fn is_plain_duration(text: &str) -> bool {
    let digits = |part: &str| part.bytes().filter(u8::is_ascii_digit).count();
    let mut parts = text.split_whitespace();
    let mut last = parts.next_back().unwrap_or_default();
    while let Some(part) = parts.next_back() {
        let split_number = part.ends_with(|end: char| end.is_ascii_digit() || end == '.')
            && last.starts_with(|start: char| start.is_ascii_digit());
        if split_number {
            return false;
        }
        last = part;
    }
    digits(text) <= 10
}

/// A size such as `64MiB`, or a number of bytes.
pub(crate) fn size(bounds: RangeInclusive<u64>) -> impl Fn(&Node) -> Result<u64, Complaint> {
    move |node| {
        let expected = || {
            format!(
                "expected a size such as `64MiB`, found {}",
                describe(&node.value)
            )
        };
        let bytes = match &node.value {
            Value::Text(text) => text
                .parse::<bytesize::ByteSize>()
                .map_err(|_| expected())?
                .as_u64(),
            Value::Integer(number) => u64::try_from(*number).map_err(|_| expected())?,
            Value::Null | Value::Bool(_) | Value::Float(_) | Value::List(_) | Value::Map(_) => {
                return Err(expected());
            }
        };
        if bounds.contains(&bytes) {
            Ok(bytes)
        } else {
            let show = |bytes: &u64| bytesize::ByteSize(*bytes);
            Err(format!(
                "{} is not between {} and {}",
                show(&bytes),
                show(bounds.start()),
                show(bounds.end())
            ))
        }
    }
}

/// A rate such as `10/min`; `off` for none.
pub(crate) fn rate_or_off(node: &Node) -> Result<Option<Rate>, Complaint> {
    if is_off(node) {
        return Ok(None);
    }
    let text = text(node)?;
    text.parse()
        .map(Some)
        .map_err(|fault: RateFault| format!("{fault}; `off` is none; found `{}`", shorten(&text)))
}

/// `true` or `false`.
pub(crate) fn truth(node: &Node) -> Result<bool, Complaint> {
    if let Value::Bool(truth) = node.value {
        Ok(truth)
    } else {
        let found = describe(&node.value);
        Err(format!("expected `true` or `false`, found {found}"))
    }
}

/// What `parse` reads; `off` for none.
pub(crate) fn or_off<T>(
    parse: impl Fn(&Node) -> Result<T, Complaint>,
) -> impl Fn(&Node) -> Result<Option<T>, Complaint> {
    move |node| {
        if is_off(node) {
            Ok(None)
        } else {
            parse(node).map(Some)
        }
    }
}

/// `off`, or `false`.
pub(crate) fn is_off(node: &Node) -> bool {
    matches!(&node.value, Value::Bool(false))
        || matches!(&node.value, Value::Text(text) if text == "off")
}

/// An address to listen on: IP and port.
pub(crate) fn listen_address(node: &Node) -> Result<SocketAddr, Complaint> {
    let text = text(node)?;
    text.parse().map_err(|_| {
        format!(
            "expected an IP address and port such as `0.0.0.0:8080`, found {}",
            describe(&node.value)
        )
    })
}

/// A network, or one address.
pub(crate) fn network(node: &Node) -> Result<IpNet, Complaint> {
    parse_network(&text(node)?).map_err(|fault| fault.to_string())
}
