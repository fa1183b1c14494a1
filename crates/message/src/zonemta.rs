//! `ZoneMTA`'s `POST /send`: a message as Nodemailer takes it, with its envelope.
//!
//! Nodemailer parses the envelope's addresses as it parses headers, and adds `cc` and `bcc` to the recipients. So of the
//! envelope nothing but plain addresses in `from` and `to` is taken. Without an envelope it makes one from the headers,
//! which is refused.

use crate::address::Address;
use crate::fault::MessageFault;
use crate::header::{self, Collected, Header, Section};
use crate::json::{self, Object, Text, Value, step};
use crate::{Message, Request, from};

// What Nodemailer makes headers of besides (`list`, `priority`, `icalEvent`) is told by the names of the members only.

/// Members that become headers, and the headers that they become.
const TEXTS: [(&str, &str); 5] = [
    ("subject", "Subject"),
    ("messageId", "Message-ID"),
    ("inReplyTo", "In-Reply-To"),
    ("references", "References"),
    ("date", "Date"),
];

/// The same for members that hold addresses.
const MAILBOXES: [(&str, &str); 6] = [
    ("from", "From"),
    ("sender", "Sender"),
    ("replyTo", "Reply-To"),
    ("to", "To"),
    ("cc", "Cc"),
    ("bcc", "Bcc"),
];

pub(crate) fn read(request: &Request<'_>) -> Result<Message, MessageFault> {
    let object = json::read(request.body)?
        .object()
        .map_err(|fault| fault.at(""))?;
    let ([envelope, raw], fields) = object.pick_and_name(["envelope", "raw"]);
    let (sender, recipients) = envelope_of(envelope, request.limits.max_recipients)?;
    let headers = match raw {
        Some(value) => {
            of_raw(value, request.limits.max_header_bytes).map_err(|fault| fault.at("/raw"))?
        }
        None => of_parts(object, request.limits.max_header_bytes)?,
    };
    Ok(Message {
        sender,
        recipients,
        from: from::read(&headers).map_err(|fault| match raw {
            Some(_) => fault.at("/raw"),
            None => fault.at("/from"),
        })?,
        headers,
        fields,
        size: request.body.len(),
        template: false,
    })
}

fn envelope_of(
    envelope: Option<Value<'_>>,
    most: usize,
) -> Result<(Option<Address>, Vec<Address>), MessageFault> {
    let Some(envelope) = envelope.filter(|it| !matches!(it, Value::Null | Value::Bool(false)))
    else {
        return Err(missing().at("/envelope"));
    };
    let envelope = envelope.object().map_err(|fault| fault.at("/envelope"))?;
    let known = |name: &str| matches!(name, "from" | "to");
    if let Some((name, _)) = envelope.members().find(|(name, _)| !known(&name.whole())) {
        let fault = MessageFault::ambiguous("of an envelope, from and to are read");
        return Err(fault.at(format!("/envelope/{}", step(&name.whole()))));
    }
    let [from, to] = envelope.pick(["from", "to"]);
    let sender = match from {
        None => return Err(missing().at("/envelope/from")),
        Some(Value::Bool(false)) => None,
        Some(Value::String(text)) if text.written_len() == 0 => None,
        Some(value) => Some(plain(value).map_err(|fault| fault.at("/envelope/from"))?),
    };
    let mut recipients = Vec::new();
    match to {
        None => return Err(missing().at("/envelope/to")),
        Some(Value::List(list)) => {
            for item in list.items() {
                if recipients.len() >= most {
                    let fault = MessageFault::too_large("there are too many recipients");
                    return Err(fault.at("/envelope/to"));
                }
                let address = plain(item)
                    .map_err(|fault| fault.at(format!("/envelope/to/{}", recipients.len())))?;
                recipients.push(address);
            }
        }
        Some(value) => recipients.push(plain(value).map_err(|fault| fault.at("/envelope/to"))?),
    }
    if recipients.is_empty() {
        let fault = MessageFault::malformed("there has to be a recipient");
        return Err(fault.at("/envelope/to"));
    }
    Ok((sender, recipients))
}

fn missing() -> MessageFault {
    MessageFault::ambiguous(
        "the envelope has to be given with from and to, since the MTA would make one",
    )
}

/// An address whose user is not quoted. What Nodemailer finds in quotes it may take for the address itself.
fn plain(value: Value<'_>) -> Result<Address, MessageFault> {
    let address = value.string()?.address()?;
    if address.is_quoted() {
        return Err(MessageFault::ambiguous(
            "the address is quoted before its `@`",
        ));
    }
    Ok(address)
}

/// The message itself; the other members then say nothing. Nodemailer would also fetch it from a path or a URL, and
/// passes over an empty one.
fn of_raw(value: Value<'_>, max_bytes: usize) -> Result<Vec<Header>, MessageFault> {
    let text = match value {
        Value::String(text) if text.written_len() > 0 => text,
        Value::String(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number
        | Value::List(_)
        | Value::Object(_) => {
            return Err(MessageFault::ambiguous(
                "the raw message has to be a string that is not empty",
            ));
        }
    };
    header::parse(&Section::of_string(text, max_bytes)?.text)
}

fn of_parts(object: Object<'_>, max_bytes: usize) -> Result<Vec<Header>, MessageFault> {
    let mut headers = Collected::new(max_bytes);
    let values = object.pick(MAILBOXES.map(|(member, _)| member));
    for ((member, header), value) in MAILBOXES.into_iter().zip(values) {
        if let Some(value) = present(value) {
            mailboxes(&mut headers, header, value)
                .map_err(|fault| fault.at(format!("/{member}")))?;
        }
    }
    let values = object.pick(TEXTS.map(|(member, _)| member));
    for ((member, header), value) in TEXTS.into_iter().zip(values) {
        if let Some(value) = present(value) {
            texts(&mut headers, header, value).map_err(|fault| fault.at(format!("/{member}")))?;
        }
    }
    let [named] = object.pick(["headers"]);
    match present(named) {
        None => {}
        Some(Value::List(list)) => {
            for (index, item) in list.items().enumerate() {
                listed(&mut headers, item)
                    .map_err(|fault| fault.at(format!("/headers/{index}")))?;
            }
        }
        Some(value) => {
            let object = value.object().map_err(|fault| fault.at("/headers"))?;
            for (name, value) in object.members() {
                values_of(&mut headers, name, value)
                    .map_err(|fault| fault.at(format!("/headers/{}", step(&name.whole()))))?;
            }
        }
    }
    Ok(headers.headers)
}

/// A string, or a list of them, which stand one behind the other.
fn texts(headers: &mut Collected, header: &str, value: Value<'_>) -> Result<(), MessageFault> {
    let Value::List(list) = value else {
        return headers.known(header, value.string()?);
    };
    let mut joined = String::new();
    for item in list.items() {
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(&headers.text(item.string()?)?);
        headers.room_for(joined.len())?;
    }
    headers.push(header, joined)
}

/// What JavaScript takes for false is not there for Nodemailer.
fn present(value: Option<Value<'_>>) -> Option<Value<'_>> {
    value.filter(|it| match it {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => text.written_len() > 0,
        Value::Bool(true) | Value::Number | Value::List(_) | Value::Object(_) => true,
    })
}

/// `{key, value}`.
fn listed(headers: &mut Collected, item: Value<'_>) -> Result<(), MessageFault> {
    let [key, value] = item.object()?.pick(["key", "value"]);
    let missing = || MessageFault::malformed("a header needs a key and a value");
    let key = key.ok_or_else(missing)?.string()?;
    values_of(headers, key, value.ok_or_else(missing)?)
}

/// A value, or a list of them, each a header of its own.
fn values_of(
    headers: &mut Collected,
    name: Text<'_>,
    value: Value<'_>,
) -> Result<(), MessageFault> {
    let Value::List(list) = value else {
        return headers.named(name, value.string()?);
    };
    list.items()
        .try_for_each(|item| headers.named(name, item.string()?))
}

/// A string as it would stand in the header, `{name, address}`, or (but for `From`) a list of both.
fn mailboxes(headers: &mut Collected, header: &str, value: Value<'_>) -> Result<(), MessageFault> {
    if let Value::List(list) = value
        && header != "From"
    {
        let mut joined = String::new();
        for item in list.items() {
            if !joined.is_empty() {
                joined.push_str(", ");
            }
            joined.push_str(&mailbox(headers, item)?);
            headers.room_for(joined.len())?;
        }
        return headers.push(header, joined);
    }
    let value = mailbox(headers, value)?;
    headers.push(header, value)
}

fn mailbox(headers: &Collected, value: Value<'_>) -> Result<String, MessageFault> {
    if let Value::String(text) = value {
        return headers.text(text);
    }
    let [name, address] = value.object()?.pick(["name", "address"]);
    let address = plain(address.ok_or_else(|| MessageFault::malformed("an address is missing"))?)?;
    let name = match present(name) {
        None => None,
        Some(name) => Some(name.string()?),
    };
    headers.mailbox_value(name, address.email())
}
