//! The message as it is, its envelope in the headers `X-Envelope-From` and `X-Envelope-To` of the request, for APIs that
//! read these. `ZoneMTA` does not; see `zonemta_raw.rs`.

use http::HeaderMap;

use crate::address::{Address, AddressFault};
use crate::fault::MessageFault;
use crate::{Message, Request, from, header};

const FROM: &str = "x-envelope-from";
const TO: &str = "x-envelope-to";

pub(crate) fn read(request: &Request<'_>) -> Result<Message, MessageFault> {
    let sender = sender(request.headers)?;
    let recipients = recipients(request.headers, request.limits.max_recipients)?;
    let section = header::section_of(request.body, request.limits.max_header_bytes)?;
    let headers = header::parse(section)?;
    Ok(Message {
        sender,
        recipients,
        from: from::read(&headers)?,
        headers,
        fields: Vec::new(),
        size: request.body.len(),
        template: false,
    })
}

fn sender(headers: &HeaderMap) -> Result<Option<Address>, MessageFault> {
    let mut values = headers.get_all(FROM).iter();
    let value = values
        .next()
        .ok_or_else(|| MessageFault::malformed("the header X-Envelope-From is missing"))?;
    if values.next().is_some() {
        return Err(MessageFault::ambiguous(
            "there is more than one X-Envelope-From",
        ));
    }
    let wrong = || MessageFault::malformed("X-Envelope-From is no address");
    let text = value.to_str().map_err(|_| wrong())?.trim();
    if text.is_empty() || text == "<>" {
        return Ok(None);
    }
    address(text).map(Some).map_err(|_| wrong())
}

fn recipients(headers: &HeaderMap, most: usize) -> Result<Vec<Address>, MessageFault> {
    let wrong = || MessageFault::malformed("X-Envelope-To is no list of addresses");
    let mut recipients = Vec::new();
    for value in headers.get_all(TO) {
        for text in value.to_str().map_err(|_| wrong())?.split(',') {
            if recipients.len() >= most {
                return Err(MessageFault::too_large("there are too many recipients"));
            }
            recipients.push(address(text).map_err(|_| wrong())?);
        }
    }
    if recipients.is_empty() {
        return Err(MessageFault::malformed(
            "the header X-Envelope-To is missing",
        ));
    }
    Ok(recipients)
}

/// With or without angle brackets. Not with a quoted user, which may hold a comma, and which many read in their own way.
fn address(text: &str) -> Result<Address, AddressFault> {
    let text = text.trim();
    let inside = text.strip_prefix('<').and_then(|it| it.strip_suffix('>'));
    let address: Address = inside.unwrap_or(text).parse()?;
    if address.is_quoted() {
        return Err(AddressFault::LocalPart);
    }
    Ok(address)
}
