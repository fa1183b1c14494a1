//! Makes the messages of an injection request: what of it may be stored, who gets one, and what the
//! client is told.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::content::Content;
use crate::reception::{Meta, Reception};
use crate::refusal::{Fault, Refusal, shorten};
use crate::request::{InjectRequest, Options, Recipient};
use crate::store::{Addressed, Batch};

/// The longest address: 64 octets, `@` and 255 octets (RFC 5321 §4.5.3.1).
const LONGEST_ADDRESS: usize = 64 + 1 + 255;

/// How much JSON is stored beside the content, for a recipient and for a request, in bytes. It is
/// refused rather than cut, because half a value would be a lie.
const DETAIL_LIMIT: usize = 1024 * 1024;

/// What `POST /api/inject/v1` answers, with `KumoMTA`'s names.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct InjectResponse {
    /// How many messages were stored. Always 0 with `deferred_generation`, as `KumoMTA` says so.
    success_count: usize,
    /// How many recipients got none.
    fail_count: usize,
    /// Their addresses.
    failed_recipients: Vec<String>,
    /// Why, in the same order.
    errors: Vec<String>,
}

/// What all messages of one request have in common.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Common<C> {
    /// Who injected them, and from where.
    pub(crate) meta: Meta,
    /// What they say; [`Content`] on the way into the store, plain JSON on the way out.
    pub(crate) content: C,
    /// The content was cut.
    pub(crate) truncated: bool,
    /// Values for the template that hold for all recipients.
    pub(crate) request_substitutions: Map<String, Value>,
    /// What else the request asks for.
    pub(crate) options: Options,
    /// The headers of the request.
    pub(crate) headers: Vec<(String, String)>,
}

/// What a message has of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Own {
    /// The recipient's name.
    pub(crate) name: Option<String>,
    /// Values for the template, for this recipient.
    pub(crate) substitutions: Map<String, Value>,
    /// What the message is to remember about this recipient.
    pub(crate) metadata: Map<String, Value>,
}

/// Makes what is to be stored and what is to be answered.
///
/// # Errors
///
/// When something is wrong with the request as a whole. A wrong recipient only fails itself.
pub(crate) fn prepare(
    mut request: InjectRequest,
    reception: Reception,
) -> Result<(Batch, InjectResponse), Refusal> {
    check(&request)?;
    let options = request.options();
    let extent = request.content.cut();
    if json_of(&(&request.substitutions, &options))?.len() > DETAIL_LIMIT {
        return Err(too_detailed(
            "substitutions".to_owned(),
            Some("substitutions"),
        ));
    }

    let mut response = InjectResponse::default();
    let mut messages = Vec::new();
    for (index, recipient) in request.recipients.into_iter().enumerate() {
        if let Err(problem) = check_address(&recipient.email) {
            let address = shorten(&recipient.email);
            response.fail_count += 1;
            response.errors.push(format!("{address}: {problem}"));
            response.failed_recipients.push(address.to_owned());
        } else {
            messages.push(addressed(index, recipient)?);
        }
    }
    if !request.deferred_generation {
        response.success_count = messages.len();
    }

    let batch = Batch {
        time: reception.time,
        sender: request.envelope_sender,
        http_auth: reception.meta.identity.http_auth.clone(),
        size: i64::try_from(extent.size).unwrap_or(i64::MAX),
        common: json_of(&Common::<Content> {
            meta: reception.meta,
            content: request.content,
            truncated: extent.truncated,
            request_substitutions: request.substitutions,
            options,
            headers: reception.headers,
        })?,
        messages,
    };
    Ok((batch, response))
}

/// Checks what concerns all messages.
fn check(request: &InjectRequest) -> Result<(), Refusal> {
    let fault = |field, problem: &str| Refusal::NotARequest(Fault::new(field, field, problem));
    if let Err(problem) = check_address(&request.envelope_sender) {
        return Err(fault("envelope_sender", problem));
    }
    if request.recipients.is_empty() {
        return Err(fault("recipients", "there must be at least one recipient"));
    }
    if !request.content.has_text() {
        return Err(fault(
            "content",
            "at least one of text_body, html_body and amp_html_body must be given",
        ));
    }
    Ok(())
}

/// Checks what could not travel in an SMTP envelope. Not the whole grammar of RFC 5321: quoted local
/// parts with spaces are refused, and nobody asks whether the domain exists.
fn check_address(address: &str) -> Result<(), &'static str> {
    if address.is_empty() {
        return Err("the address is empty");
    }
    if address.len() > LONGEST_ADDRESS {
        return Err("the address is too long");
    }
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>');
    if address.contains(forbidden) {
        return Err("the address holds white space, a control character or an angle bracket");
    }
    match address.rsplit_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() => Ok(()),
        Some(_) | None => Err("the address is not of the form local@domain"),
    }
}

fn addressed(index: usize, recipient: Recipient) -> Result<Addressed, Refusal> {
    let Recipient {
        email,
        name,
        substitutions,
        metadata,
    } = recipient;
    let own = json_of(&Own {
        name,
        substitutions,
        metadata,
    })?;
    if own.len() > DETAIL_LIMIT {
        return Err(too_detailed(format!("recipients[{index}]"), None));
    }
    Ok(Addressed {
        recipient: email,
        own,
    })
}

fn too_detailed(path: String, field: Option<&str>) -> Refusal {
    Refusal::NotARequest(Fault {
        path,
        field: field.map(str::to_owned),
        problem: format!("its JSON is longer than {DETAIL_LIMIT} bytes"),
    })
}

/// Values made of strings and numbers have no way to fail, so a failure is the demo's own.
fn json_of(value: &impl Serialize) -> Result<String, Refusal> {
    serde_json::to_string(value).map_err(|_| Refusal::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let long = format!("{}@example.com", "a".repeat(LONGEST_ADDRESS));
        let cases = [
            ("a@example.com", true),
            ("jürgen@bücher.example", true),
            ("\"a@b\"@example.com", true),
            ("a@[192.0.2.1]", true),
            ("", false),
            ("a", false),
            ("@example.com", false),
            ("a@", false),
            ("a@example.com\r\nRCPT TO:<b@example.com>", false),
            ("a@example.com\n", false),
            ("<a@example.com>", false),
            ("a b@example.com", false),
            (&long, false),
        ];
        for (address, accepted) in cases {
            assert_eq!(check_address(address).is_ok(), accepted, "{address:?}");
        }
    }
}
