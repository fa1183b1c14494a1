//! `ZoneMTA`'s `POST /send-raw`: the message as it is. `ZoneMTA` makes the envelope from the message's headers, with
//! parsers of its own, and reads no `X-Envelope-From` and no `X-Envelope-To`.
//!
//! So `To`, `Cc` and `Bcc` decide as much as `From` does, and are read as strictly. Its parser of addresses ends a comment
//! at the first bracket, knows backslashes in its own way, and is given the header after encoded words are decoded. Each
//! of these can hide a recipient, and none is needed.

use crate::address::Address;
use crate::encoded_word;
use crate::fault::MessageFault;
use crate::from::{self, Unread};
use crate::header::{self, Header};
use crate::{Message, Request};

pub(crate) fn read(request: &Request<'_>) -> Result<Message, MessageFault> {
    let section = header::section_of(request.body, request.limits.max_header_bytes)?;
    let headers = header::parse(section)?;
    if headers.iter().any(|(name, _)| is_resent(name)) {
        return Err(MessageFault::ambiguous(
            "a message that is sent again (Resent-) has two sets of addresses",
        ));
    }
    let from = addresses(&headers, "From")?;
    let [sender] = from.as_slice() else {
        return Err(MessageFault::ambiguous(
            "From has to hold one address, which the MTA takes for the envelope",
        ));
    };
    if addresses(&headers, "Sender")?
        .iter()
        .any(|named| named != sender)
    {
        return Err(MessageFault::ambiguous(
            "the message has a Sender that is not its From",
        ));
    }
    let recipients = recipients(&headers, request.limits.max_recipients)?;
    Ok(Message {
        sender: Some(sender.clone()),
        recipients,
        from,
        headers,
        fields: Vec::new(),
        size: request.body.len(),
        template: false,
    })
}

fn is_resent(name: &str) -> bool {
    let beginning = name.get(..7);
    beginning.is_some_and(|it| it.eq_ignore_ascii_case("resent-"))
}

fn recipients(headers: &[Header], most: usize) -> Result<Vec<Address>, MessageFault> {
    let mut recipients = Vec::new();
    for name in ["To", "Cc", "Bcc"] {
        recipients.append(&mut addresses(headers, name)?);
        if recipients.len() > most {
            return Err(MessageFault::too_large("there are too many recipients"));
        }
    }
    if recipients.is_empty() {
        return Err(MessageFault::malformed(
            "there has to be a recipient in To, Cc or Bcc",
        ));
    }
    Ok(recipients)
}

/// The addresses of the one header of this name, none where there is no such header.
fn addresses(headers: &[Header], name: &str) -> Result<Vec<Address>, MessageFault> {
    let mut values = headers
        .iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value);
    let Some(value) = values.next() else {
        return Ok(Vec::new());
    };
    if values.next().is_some() {
        return Err(MessageFault::ambiguous(
            "a header with addresses is there more than once",
        ));
    }
    if value.contains(['(', ')', '\\']) || !encoded_word::are_plain(value) {
        return Err(two_ways());
    }
    let list = from::list(value).map_err(|unread| match unread {
        Unread::TooLong => MessageFault::too_large("a header with addresses is too long"),
        Unread::TwoWays => two_ways(),
    })?;
    // ZoneMTA takes each byte of a header for a character, and so comes to another domain.
    if !list.iter().all(|it| it.email().is_ascii()) {
        return Err(MessageFault::ambiguous(
            "an address that makes the envelope is not ASCII",
        ));
    }
    Ok(list)
}

fn two_ways() -> MessageFault {
    MessageFault::ambiguous("a header with addresses can be read in two ways")
}
