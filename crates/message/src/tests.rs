//! Whole bodies of every format.

mod formats;
mod hostile;
mod properties;

use http::HeaderMap;

use crate::{FaultKind, Format, Limits, Message, MessageFault};

const LIMITS: Limits = Limits {
    max_bytes: 4 << 20,
    max_header_bytes: 64 << 10,
    max_recipients: 10_000,
};

fn headers_for(format: Format) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if matches!(format, Format::Rfc822 | Format::ZoneMtaRaw) {
        headers.insert("content-type", "message/rfc822".parse().unwrap());
    }
    if format == Format::Rfc822 {
        headers.insert("x-envelope-from", "b@example.com".parse().unwrap());
        headers.insert("x-envelope-to", "c@example.net".parse().unwrap());
    }
    headers
}

fn read(format: Format, body: &[u8]) -> Result<Message, MessageFault> {
    crate::read(format, &headers_for(format), body, &LIMITS)
}

/// What a message says, on one line.
fn told(message: &Message) -> String {
    let list = |list: &[crate::Address]| {
        let list: Vec<_> = list.iter().map(crate::Address::email).collect();
        list.join(" ")
    };
    let sender = message.sender.as_ref().map_or("<>", crate::Address::email);
    format!(
        "{sender} -> {} | {}",
        list(&message.recipients),
        list(&message.from)
    )
}

fn refused(
    format: Format,
    body: impl AsRef<[u8]>,
    kind: FaultKind,
    pointer: Option<&str>,
) -> MessageFault {
    let body = body.as_ref();
    let shown = String::from_utf8_lossy(body.get(..300).unwrap_or(body)).into_owned();
    match read(format, body) {
        Ok(message) => panic!("{shown} was read as {message:?}"),
        Err(fault) => {
            assert_eq!(
                (fault.kind, fault.pointer.as_deref()),
                (kind, pointer),
                "{shown}: {fault}"
            );
            fault
        }
    }
}
