//! `KumoMTA`'s `POST /api/inject/v1`: names and types of its `InjectV1Request`.
//!
//! Its content is a message in a string, or the parts of which `KumoMTA` builds one; both are templates first, see
//! `template.rs`. It would also take a list in the place of an object, which is refused here.

use crate::address::Address;
use crate::fault::MessageFault;
use crate::header::{self, Collected, Header, Section};
use crate::json::{self, List, Object, Text, Value, step};
use crate::template::{self, Dialect, Found};
use crate::{Message, Request, from};

pub(crate) fn read(request: &Request<'_>) -> Result<Message, MessageFault> {
    let object = json::read(request.body)?
        .object()
        .map_err(|fault| fault.at(""))?;
    let (picked, fields) = object.pick_and_name([
        "envelope_sender",
        "recipients",
        "content",
        "substitutions",
        "template_dialect",
        "trace_headers",
    ]);
    let [sender, recipients, content, substitutions, dialect, trace] = picked;

    let sender = sender_of(sender).map_err(|fault| fault.at("/envelope_sender"))?;
    let recipients = Recipients::read(recipients, request.limits.max_recipients)?;
    let dialect = Dialect::of(dialect).map_err(|fault| fault.at("/template_dialect"))?;
    let trace = trace_header(trace, request.limits.max_header_bytes)
        .map_err(|(member, fault)| fault.at(format!("/trace_headers{member}")))?;
    let (mut headers, found) = match content {
        Some(Value::String(text)) => of_string(text, dialect, request.limits.max_header_bytes)
            .map_err(|fault| fault.at("/content"))?,
        Some(Value::Object(parts)) => of_parts(parts, dialect, request.limits.max_header_bytes)?,
        None => return Err(missing().at("/content")),
        Some(Value::Null | Value::Bool(_) | Value::Number | Value::List(_)) => {
            return Err(
                MessageFault::malformed("a string or an object has to stand here").at("/content"),
            );
        }
    };
    if found == Found::Substitutions {
        check_substitutions(substitutions, recipients.list)?;
    }
    let from = from::read(&headers).map_err(|fault| fault.at("/content"))?;
    if let Some(name) = trace {
        // Where KumoMTA puts it: whoever asks for the first header of this name gets it.
        headers.insert(0, (name, String::new()));
    }
    Ok(Message {
        sender,
        recipients: recipients.addresses,
        from,
        headers,
        fields,
        size: request.body.len(),
        template: dialect != Dialect::Static,
    })
}

fn missing() -> MessageFault {
    MessageFault::malformed("this member is missing")
}

fn sender_of(value: Option<Value<'_>>) -> Result<Option<Address>, MessageFault> {
    let text = value.ok_or_else(missing)?.string()?;
    if text.written_len() == 0 {
        return Ok(None);
    }
    text.address().map(Some)
}

struct Recipients<'a> {
    addresses: Vec<Address>,
    list: List<'a>,
}

impl<'a> Recipients<'a> {
    fn read(value: Option<Value<'a>>, most: usize) -> Result<Self, MessageFault> {
        let list = value
            .ok_or_else(missing)
            .and_then(Value::list)
            .map_err(|fault| fault.at("/recipients"))?;
        let mut addresses = Vec::new();
        for item in list.items() {
            if addresses.len() >= most {
                let fault = MessageFault::too_large("there are too many recipients");
                return Err(fault.at("/recipients"));
            }
            let address = recipient(item).map_err(|(member, fault)| {
                fault.at(format!("/recipients/{}{member}", addresses.len()))
            })?;
            addresses.push(address);
        }
        if addresses.is_empty() {
            let fault = MessageFault::malformed("there has to be a recipient");
            return Err(fault.at("/recipients"));
        }
        Ok(Self { addresses, list })
    }
}

/// A fault comes with the pointer to the member.
fn recipient(item: Value<'_>) -> Result<Address, (&'static str, MessageFault)> {
    let object = item.object().map_err(|fault| ("", fault))?;
    let [email, name] = object.pick(["email", "name"]);
    let address = email
        .ok_or_else(missing)
        .and_then(Value::string)
        .and_then(Text::address)
        .map_err(|fault| ("/email", fault))?;
    display_name(name).map_err(|fault| ("/name", fault))?;
    Ok(address)
}

/// A name to show, which may be `null`. It becomes part of a header, so it must not end the header's line.
fn display_name(value: Option<Value<'_>>) -> Result<Option<Text<'_>>, MessageFault> {
    let name = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.string()?,
    };
    if name.breaks_line() {
        return Err(MessageFault::ambiguous("a name holds the end of a line"));
    }
    Ok(Some(name))
}

/// The name of the header that `KumoMTA` adds to the message once it is made, where the client chooses it. Its value is
/// `KumoMTA`'s business, and not known here. A fault comes with the pointer to the member.
fn trace_header(
    value: Option<Value<'_>>,
    most: usize,
) -> Result<Option<String>, (&'static str, MessageFault)> {
    let Some(value) = present(value) else {
        return Ok(None);
    };
    let object = value.object().map_err(|fault| ("", fault))?;
    let [name] = object.pick(["header_name"]);
    let Some(name) = name else {
        return Ok(None);
    };
    let at = |fault| ("/header_name", fault);
    let name = name
        .string()
        .map_err(at)?
        .within(most)
        .ok_or_else(|| at(MessageFault::too_large("the name of a header is too long")))?;
    if template::holds_marker(&name) {
        return Err(at(template::refused()));
    }
    header::check_name(&name).map_err(|fault| at(MessageFault::malformed(fault.words)))?;
    if name.eq_ignore_ascii_case("from") {
        return Err(at(MessageFault::ambiguous(
            "the message has more than one From",
        )));
    }
    Ok(Some(name.into_owned()))
}

fn of_string(
    text: Text<'_>,
    dialect: Dialect,
    max_bytes: usize,
) -> Result<(Vec<Header>, Found), MessageFault> {
    let section = Section::of_string(text, max_bytes)?;
    let headers = header::parse(&section.text)?;
    if dialect == Dialect::Static {
        return Ok((headers, Found::Nothing));
    }
    let found = template::look(&headers)?;
    template::check_lines(&section.text)?;
    template::check_body_begins(&section.body_begins)?;
    Ok((headers, found))
}

fn of_parts(
    parts: Object<'_>,
    dialect: Dialect,
    max_bytes: usize,
) -> Result<(Vec<Header>, Found), MessageFault> {
    let [from, reply_to, subject, named] = parts.pick(["from", "reply_to", "subject", "headers"]);
    let mut headers = Collected::new(max_bytes);
    if let Some(value) = present(from) {
        mailbox(&mut headers, "From", value)
            .map_err(|(member, fault)| fault.at(format!("/content/from{member}")))?;
    }
    if let Some(value) = present(reply_to) {
        mailbox(&mut headers, "Reply-To", value)
            .map_err(|(member, fault)| fault.at(format!("/content/reply_to{member}")))?;
    }
    if let Some(value) = present(subject) {
        value
            .string()
            .and_then(|text| headers.known("Subject", text))
            .map_err(|fault| fault.at("/content/subject"))?;
    }
    if let Some(value) = named {
        let object = value
            .object()
            .map_err(|fault| fault.at("/content/headers"))?;
        for (name, value) in object.members() {
            value
                .string()
                .and_then(|text| headers.named(name, text))
                .map_err(|fault| fault.at(format!("/content/headers/{}", step(&name.whole()))))?;
        }
    }
    let headers = headers.headers;
    let found = match dialect {
        Dialect::Static => Found::Nothing,
        Dialect::Expanded => template::look(&headers).map_err(|fault| fault.at("/content"))?,
    };
    Ok((headers, found))
}

/// `null` stands for what is not there, as in `KumoMTA`.
fn present(value: Option<Value<'_>>) -> Option<Value<'_>> {
    value.filter(|it| !matches!(it, Value::Null))
}

fn mailbox(
    headers: &mut Collected,
    header: &str,
    value: Value<'_>,
) -> Result<(), (&'static str, MessageFault)> {
    let object = value.object().map_err(|fault| ("", fault))?;
    let [email, name] = object.pick(["email", "name"]);
    let address = email
        .ok_or_else(missing)
        .and_then(Value::string)
        .and_then(Text::address)
        .map_err(|fault| ("/email", fault))?;
    let name = display_name(name).map_err(|fault| ("/name", fault))?;
    headers
        .mailbox(header, name, address.email())
        .map_err(|fault| ("", fault))
}

/// All of them, not only those that the headers use: which these are is the template language's business.
fn check_substitutions(
    global: Option<Value<'_>>,
    recipients: List<'_>,
) -> Result<(), MessageFault> {
    let fault = || MessageFault::ambiguous("a substitution holds the end of a line");
    if global.is_some_and(template::breaks_line) {
        return Err(fault().at("/substitutions"));
    }
    for (index, item) in recipients.items().enumerate() {
        let [own] = item.object()?.pick(["substitutions"]);
        if own.is_some_and(template::breaks_line) {
            return Err(fault().at(format!("/recipients/{index}/substitutions")));
        }
    }
    Ok(())
}
