//! What a handler returned, held against the contract by hand.
//!
//! Decoding into a struct with defaults would take `{}` for a success. Here, whatever is not plainly a
//! yes or a no is a failure.
//!
//! INVARIANT: tables are read raw. A metamethod is the policy's code, and here no deadline would end it.

use gatepost_auth::{AuthInfo, Credentials, Identity, IdentityContext, Judgement};
use mlua::{Table, Value};

use crate::MessageJudgement;
use crate::api::misc::Rejection;
use crate::vm::first_line;

/// The judgement, or why the answer is none. The reason never holds a value that the handler returned,
/// only its kind.
pub(crate) fn judgement(credentials: &Credentials, answer: &Value) -> Result<Judgement, String> {
    match (answer, credentials) {
        (Value::Boolean(false), _) => Ok(Judgement::Rejected),
        (Value::Boolean(true), Credentials::Basic { user, .. }) => AuthInfo::basic(user)
            .map(Judgement::Accepted)
            .map_err(|fault| fault.to_string()),
        (Value::Boolean(true), Credentials::Bearer { .. }) => Err(
            "returned true, which does not say whose token it is; return an auth info".to_owned(),
        ),
        (Value::Table(table), _) => auth_info(table).map(Judgement::Accepted),
        (other, _) => Err(format!(
            "returned {} instead of true, false or an auth info",
            other.type_name()
        )),
    }
}

/// The longest text of `kumo.reject` that a client is shown, in bytes.
const LONGEST_TEXT: usize = 512;

/// What an error that ended a message's handler means: a refusal if `kumo.reject` raised it, otherwise it is the reason
/// why there is no answer.
pub(crate) fn rejection(fault: &mlua::Error) -> Result<MessageJudgement, String> {
    let Some(Rejection { code, text }) = fault.downcast_ref() else {
        return Err(first_line(fault));
    };
    if text.chars().any(char::is_control) {
        return Err("kumo.reject was given a text with control characters".to_owned());
    }
    let end = text.floor_char_boundary(LONGEST_TEXT);
    let text = text.get(..end).unwrap_or_default().to_owned();
    Ok(MessageJudgement::Rejected { code: *code, text })
}

fn auth_info(table: &Table) -> Result<AuthInfo, String> {
    for pair in table.pairs::<Value, Value>() {
        let (key, _) = pair.map_err(|_| "returned an auth info that cannot be read".to_owned())?;
        let known = key.as_string().is_some_and(|key| {
            ["identities", "groups", "peer_address"]
                .iter()
                .any(|known| key.as_bytes() == known.as_bytes())
        });
        if !known {
            return Err("returned a table that is no auth info: it has keys beside identities, groups and peer_address".to_owned());
        }
    }
    let identities = items(table, "identities")?
        .iter()
        .map(identity)
        .collect::<Result<Vec<_>, _>>()?;
    let groups = items(table, "groups")?
        .iter()
        .map(|group| text(group, "a group"))
        .collect::<Result<Vec<_>, _>>()?;
    let peer = table.raw_get::<Value>("peer_address");
    let peer = peer.map_err(|_| "returned an auth info that cannot be read".to_owned())?;
    if !peer.is_nil() {
        text(&peer, "peer_address")?;
    }
    AuthInfo::new(identities, groups).map_err(|fault| format!("returned an auth info, but {fault}"))
}

fn identity(value: &Value) -> Result<Identity, String> {
    let Value::Table(table) = value else {
        return Err(format!(
            "returned an auth info with {} as an identity",
            value.type_name()
        ));
    };
    let field = |name: &str| -> Result<String, String> {
        let value = table
            .raw_get::<Value>(name)
            .map_err(|_| format!("an identity's {name} cannot be read"))?;
        text(&value, &format!("an identity's {name}"))
    };
    let context = field("context")?;
    Ok(Identity {
        identity: field("identity")?,
        context: IdentityContext::from_name(&context)
            .ok_or("returned an auth info with an unknown identity context")?,
    })
}

/// The items of a list. An absent list is empty; one with holes or other keys is none.
fn items(table: &Table, name: &str) -> Result<Vec<Value>, String> {
    let unreadable = || format!("returned an auth info whose {name} cannot be read");
    let value = table.raw_get::<Value>(name).map_err(|_| unreadable())?;
    if value.is_nil() {
        return Ok(Vec::new());
    }
    let Value::Table(list) = value else {
        return Err(format!(
            "returned an auth info whose {name} is {}",
            value.type_name()
        ));
    };
    let items = list.sequence_values().collect::<Result<Vec<Value>, _>>();
    let items = items.map_err(|_| unreadable())?;
    if list.pairs::<Value, Value>().count() == items.len() {
        Ok(items)
    } else {
        Err(format!("returned an auth info whose {name} is no list"))
    }
}

fn text(value: &Value, what: &str) -> Result<String, String> {
    let Value::String(text) = value else {
        return Err(format!(
            "returned an auth info where {what} is {}",
            value.type_name()
        ));
    };
    text.to_str()
        .map(|text| text.to_owned())
        .map_err(|_| format!("returned an auth info where {what} is not UTF-8"))
}
