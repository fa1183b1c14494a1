//! `Content-Type`: a body is read only as what its request says it is.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::Format;
use crate::fault::MessageFault;

/// Refuses a type that this format does not come in.
pub(crate) fn check(format: Format, headers: &HeaderMap) -> Result<(), MessageFault> {
    let (types, required, words): (&[&str], _, _) = match format {
        // KumoMTA takes JSON without a type, too.
        Format::KumoMta | Format::ZoneMta => (
            &["application/json", "text/json"],
            false,
            "the Content-Type has to be application/json in UTF-8",
        ),
        Format::Rfc822 | Format::ZoneMtaRaw => (
            &["message/rfc822"],
            true,
            "the Content-Type has to be message/rfc822",
        ),
    };
    let refused = Err(MessageFault::unsupported(words));
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = values.next() else {
        return if required { refused } else { Ok(()) };
    };
    let Ok(value) = value.to_str() else {
        return refused;
    };
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let of_type = types.iter().any(|it| essence.eq_ignore_ascii_case(it));
    if values.next().is_none() && of_type && parts.all(is_utf8) {
        Ok(())
    } else {
        refused
    }
}

/// The only parameter that is taken: another charset would be another text.
fn is_utf8(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return parameter.is_empty();
    };
    let bare = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    name.eq_ignore_ascii_case("charset") && bare.unwrap_or(value).eq_ignore_ascii_case("utf-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: Format, types: &[&'static str], accepted: bool) {
        let mut headers = HeaderMap::new();
        for it in types {
            headers.append(CONTENT_TYPE, it.parse().unwrap());
        }
        assert_eq!(
            super::check(format, &headers).is_ok(),
            accepted,
            "{types:?}"
        );
    }

    #[test]
    fn types() {
        for format in [Format::KumoMta, Format::ZoneMta] {
            check(format, &[], true);
            check(format, &["application/json"], true);
            check(format, &["Text/JSON; charset=\"UTF-8\""], true);
            check(format, &["application/json;charset=utf-8;"], true);
            check(format, &["application/json; charset=utf-16"], false);
            check(format, &["application/json; q=1"], false);
            check(format, &["application/jsonp"], false);
            check(format, &["text/plain"], false);
            check(format, &["message/rfc822"], false);
            check(format, &["application/json", "application/json"], false);
            check(format, &["application/json, application/json"], false);
        }
        for format in [Format::Rfc822, Format::ZoneMtaRaw] {
            check(format, &["message/rfc822"], true);
            check(format, &[], false);
            check(format, &["application/json"], false);
            check(format, &["message/rfc822; charset=latin1"], false);
        }
    }
}
