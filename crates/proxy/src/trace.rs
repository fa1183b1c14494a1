//! The trace to which a request belongs: the header `traceparent` of W3C Trace Context.
//!
//! gatepost makes no spans of its own, so it neither begins traces nor changes whose child the MTA's span is: what may pass,
//! passes unchanged.

use http::HeaderMap;

/// The trace's id, where there is one header and it is valid (§3.2.2). A longer header of a later version is read by its beginning
/// (§4).
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let value = value.to_str().ok()?;
    let mut parts = value.split('-');
    let version = hex(parts.next()?, 2)?;
    let trace = hex(parts.next()?, 32)?;
    let parent = hex(parts.next()?, 16)?;
    hex(parts.next()?, 2)?;
    let good = match version {
        "ff" => false,
        "00" => parts.next().is_none(),
        _ => true,
    };
    let zero = |it: &str| it.bytes().all(|byte| byte == b'0');
    (good && value.len() <= 512 && !zero(trace) && !zero(parent)).then_some(trace)
}

fn hex(text: &str, length: usize) -> Option<&str> {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == length && text.bytes().all(digit)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_headers_have_an_id_and_others_none() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let parent = "b7ad6b7169203331";
        let check = |values: &[String], expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("traceparent", value.parse().unwrap());
            }
            assert_eq!(trace_id(&headers), expected, "{values:?}");
        };
        let good = format!("00-{id}-{parent}-01");
        check(std::slice::from_ref(&good), Some(id));
        check(&[format!("cc-{id}-{parent}-01")], Some(id));
        check(&[format!("cc-{id}-{parent}-01-what-follows")], Some(id));
        check(&[], None);
        check(&[good.clone(), good.clone()], None);
        for bad in [
            String::new(),
            "x".to_owned(),
            good.to_uppercase(),
            format!("{good}-"),
            format!("{good}-x"),
            format!("ff-{id}-{parent}-01"),
            format!("0-{id}-{parent}-01"),
            format!("00-{id}-{parent}"),
            format!("00-{id}-{parent}-1"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{id}-{}-01", "0".repeat(16)),
            format!("00-{}-{parent}-01", &id[1..]),
            format!("cc-{id}-{parent}-01-{}", "x".repeat(600)),
            format!("00-{}g-{parent}-01", &id[1..]),
        ] {
            check(&[bad], None);
        }
    }
}
