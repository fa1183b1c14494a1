//! `policy:message { … }` of a test file: the question that a request with such a body would be.
//!
//! The parts of a message are given as they are read from a body; no body is made and read again.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use gatepost_auth::{AuthInfo, Identity, IdentityContext};
use gatepost_message::{Address, Message};
use mlua::{Lua, Table, Value};

use crate::{MessageJudgement, MessageQuestion};

const FIELDS: [&str; 7] = [
    "user",
    "groups",
    "sender",
    "recipients",
    "from",
    "headers",
    "received_from",
];

pub(super) fn question(of: &Table) -> mlua::Result<MessageQuestion> {
    for pair in of.pairs::<String, Value>() {
        let (key, _) = pair?;
        if !FIELDS.contains(&key.as_str()) {
            return Err(mlua::Error::runtime(format!("a message has no `{key}`")));
        }
    }
    let received_from = match of.get::<Option<String>>("received_from")? {
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(text) => text
            .parse()
            .map_err(|_| mlua::Error::runtime("`received_from` is no IP address"))?,
    };
    let auth = auth(of)?;
    Ok(MessageQuestion {
        message: Arc::new(message(of)?),
        http_auth: auth.as_ref().map_or_else(
            // Without credentials only trusted hosts get this far, and their identity is their address.
            || received_from.to_string(),
            |info| info.http_auth().to_owned(),
        ),
        auth,
        received_from,
    })
}

fn auth(of: &Table) -> mlua::Result<Option<AuthInfo>> {
    let groups = texts(of, "groups")?;
    let Some(user) = of.get::<Option<String>>("user")? else {
        return if groups.is_empty() {
            Ok(None)
        } else {
            Err(mlua::Error::runtime("`groups` belong to a `user`"))
        };
    };
    let identity = Identity {
        identity: user,
        context: IdentityContext::HttpBasicAuth,
    };
    AuthInfo::new(vec![identity], groups)
        .map(Some)
        .map_err(mlua::Error::external)
}

fn message(of: &Table) -> mlua::Result<Message> {
    let sender: Option<String> = of.get("sender")?;
    let sender = sender.filter(|text| !text.is_empty());
    let from = addresses(of, "from")?;
    let recipients = addresses(of, "recipients")?;
    if recipients.is_empty() {
        return Err(mlua::Error::runtime("a message needs `recipients`"));
    }
    let mut headers = Vec::new();
    if !from.is_empty() {
        let all: Vec<&str> = from.iter().map(Address::email).collect();
        headers.push(("From".to_owned(), all.join(", ")));
    }
    if let Some(given) = of.get::<Option<Table>>("headers")? {
        for pair in given.pairs::<Value, Value>() {
            let (name, value) = pair?;
            let Value::String(name) = name else {
                return Err(mlua::Error::runtime(
                    "`headers` is a table of values by name",
                ));
            };
            let name = name.to_str()?.to_owned();
            if name.eq_ignore_ascii_case("From") {
                return Err(mlua::Error::runtime(
                    "give the addresses of From as `from`, not among the headers",
                ));
            }
            let values = texts_in(&value, &name)?;
            headers.extend(values.into_iter().map(|value| (name.clone(), value)));
        }
    }
    // Lua's tables have no order, and a test should not depend on the one that came out.
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(Message {
        sender: sender.map(|text| address("sender", &text)).transpose()?,
        recipients,
        from,
        headers,
        fields: Vec::new(),
        size: 0,
        template: false,
    })
}

fn addresses(of: &Table, field: &str) -> mlua::Result<Vec<Address>> {
    let texts = texts(of, field)?;
    texts.iter().map(|text| address(field, text)).collect()
}

fn address(field: &str, text: &str) -> mlua::Result<Address> {
    text.parse()
        .map_err(|fault| mlua::Error::runtime(format!("`{field}`: {fault}")))
}

/// One text or a list of them; none where there is no such field.
fn texts(of: &Table, field: &str) -> mlua::Result<Vec<String>> {
    texts_in(&of.get(field)?, field)
}

fn texts_in(value: &Value, field: &str) -> mlua::Result<Vec<String>> {
    let wrong = || mlua::Error::runtime(format!("`{field}` is a string or a list of strings"));
    if value.is_nil() {
        return Ok(Vec::new());
    }
    let text = |value: &Value| {
        let text = value.as_string().ok_or_else(wrong)?;
        Ok::<_, mlua::Error>(text.to_str()?.to_owned())
    };
    if let Value::Table(list) = value {
        list.sequence_values::<Value>()
            .map(|each| text(&each?))
            .collect()
    } else {
        Ok(vec![text(value)?])
    }
}

pub(super) fn describe(lua: &Lua, answer: &Table, judgement: MessageJudgement) -> mlua::Result<()> {
    answer.set("outcome", judgement.outcome())?;
    match judgement {
        MessageJudgement::Accepted { meta } => answer.set("meta", lua.create_table_from(meta)?),
        MessageJudgement::Rejected { code, text } => {
            answer.set("code", code)?;
            answer.set("text", text)
        }
        MessageJudgement::NoHandler
        | MessageJudgement::Failed
        | MessageJudgement::TimedOut
        | MessageJudgement::Overloaded => Ok(()),
    }
}
