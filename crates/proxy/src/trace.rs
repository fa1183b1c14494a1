//! The trace to which a request belongs: the header `traceparent` of W3C Trace Context.
//!
//! Where gatepost exports no spans it neither begins traces nor changes whose child the MTA's span is: what may pass, passes
//! unchanged. Where it does, it is a [`Link`] between the two.

use http::HeaderMap;

/// The span that a request says it is a child of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    flags: u8,
}

impl Parent {
    /// What one header says, where it is valid (§3.2.2). A longer header of a later version is read by its beginning (§4).
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        let value = value.to_str().ok()?;
        let mut parts = value.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace = u128::from_str_radix(hex(parts.next()?, 32)?, 16).ok()?;
        let span = u64::from_str_radix(hex(parts.next()?, 16)?, 16).ok()?;
        let flags = u8::from_str_radix(hex(parts.next()?, 2)?, 16).ok()?;
        let good = match version {
            "ff" => false,
            "00" => parts.next().is_none(),
            _ => true,
        };
        let valid = good && value.len() <= 512 && trace != 0 && span != 0;
        valid.then_some(Self { trace, span, flags })
    }

    pub(crate) fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// gatepost's place behind it.
    #[cfg(feature = "otlp")]
    pub(crate) fn link(self, request: u64, upstream: u64) -> Link {
        Link {
            trace: self.trace,
            request,
            upstream,
            // `sampled` and `random`; of others nobody knows what they mean (§3.2.2.5).
            flags: self.flags & 3,
        }
    }
}

/// gatepost's own spans of a request in a trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) trace: u128,
    /// The span of the whole request.
    #[cfg_attr(
        not(feature = "otlp"),
        expect(dead_code, reason = "nobody makes a link then")
    )]
    pub(crate) request: u64,
    /// The span of the way to the upstream and back.
    pub(crate) upstream: u64,
    pub(crate) flags: u8,
}

impl Link {
    /// Whether the trace is kept.
    #[cfg(feature = "otlp")]
    pub(crate) fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    /// What the upstream is told: its span is a child of gatepost's.
    pub(crate) fn traceparent(self) -> String {
        format!(
            "00-{:032x}-{:016x}-{:02x}",
            self.trace, self.upstream, self.flags
        )
    }
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
            let got = Parent::of(&headers).map(Parent::trace_id);
            assert_eq!(got.as_deref(), expected, "{values:?}");
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
