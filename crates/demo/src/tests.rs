//! The whole demo through its front door: a real server on a loopback port, tests as data.

mod client;
mod faults;
mod injection;
mod lifetime;
mod reading;

use serde_json::{Value, json};

/// The smallest request that is accepted.
fn request() -> Value {
    json!({
        "envelope_sender": "noreply@example.com",
        "recipients": [{"email": "a@example.com"}],
        "content": "Subject: hello\n\nHello there",
    })
}

/// That request with the value at the JSON pointer replaced or added.
fn request_with(pointer: &str, value: Value) -> Value {
    let mut request = request();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    request.pointer_mut(parent).unwrap()[key] = value;
    request
}
