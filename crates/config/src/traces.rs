//! The section `traces`: spans for an OpenTelemetry collector.

use http::Uri;
use serde_json::json;

use crate::kind::{self, Kind, Takes};
use crate::node::{Node, Value};
use crate::section::{Complaint, Section, describe};
use crate::settings::Traces;
use crate::value;

/// `None` where no spans are wanted.
pub(crate) fn traces(root: &mut Section<'_>) -> Option<Traces> {
    let (mut section, is_off) = root.section_or_off("traces");
    if is_off {
        return None;
    }
    let url = Kind::text(
        "a URL such as `http://127.0.0.1:4318`",
        "^[Hh][Tt][Tt][Pp][Ss]?://[^@?]+$",
        collector,
    );
    let otlp = section.optional("otlp", url.placed());
    let between = json!({ "type": "number", "minimum": 0, "maximum": 1 });
    let part = Kind::new(Takes::new(between, "a number from 0 to 1"), share);
    let sample = section.or("sample", 0.01, part.written(|it| json!(it)));
    let service_name = section.or("service_name", "gatepost".to_owned(), kind::text());
    let identity = section.or("identity", false, kind::truth());
    let (reader, place) = (section.reader(), otlp.as_ref().map(|it| it.1));
    section.finish();
    if let (Some(place), false) = (place, cfg!(feature = "otlp")) {
        let message = "this gatepost was built without the feature `otlp`, so nobody would send spans: leave the key out, or build with `--features otlp`";
        reader.fault(place, message);
    }
    Some(Traces {
        endpoint: otlp?.0,
        sample,
        service_name,
        identity,
    })
}

/// The address of a collector, with the path that OTLP over HTTP has for spans.
fn collector(node: &Node) -> Result<String, Complaint> {
    let text = value::text(node)?;
    let expected = || {
        let found = describe(&node.value);
        format!("expected the URL of a collector such as `http://127.0.0.1:4318`, found {found}")
    };
    let uri: Uri = text.parse().map_err(|_| expected())?;
    let plain = matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none();
    let authority = uri.authority().filter(|_| plain).ok_or_else(expected)?;
    if authority.as_str().contains('@') {
        // It would stand in the log.
        return Err("a password does not belong here: the variable OTEL_EXPORTER_OTLP_HEADERS of the environment may hold `authorization=...`".to_owned());
    }
    Ok(format!("{}/v1/traces", text.trim_end_matches('/')))
}

fn share(node: &Node) -> Result<f64, Complaint> {
    let number = match node.value {
        Value::Float(number) => Some(number),
        Value::Integer(number) => i8::try_from(number).ok().map(f64::from),
        Value::Null | Value::Bool(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => None,
    };
    let number = number.filter(|it| (0.0..=1.0).contains(it));
    number.ok_or_else(|| {
        let found = describe(&node.value);
        format!("expected a share between 0 and 1 such as `0.01`, found {found}")
    })
}
