//! The value of an `Authorization` header.
//!
//! What is accepted encodes back to the same bytes, so no two values are one user; the user could be nobody else; and what is
//! shown of it is the same whatever the password is.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepost_auth::{
    AuthInfo, CredentialFault, CredentialRules, Credentials, MissingPassword, Secret,
};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::{Finding, Outcome, Verdict, finding, must};

pub(crate) fn run(data: &[u8]) -> Outcome {
    let strict = CredentialRules::default();
    let lenient = CredentialRules {
        missing_password: MissingPassword::Nil,
        ..strict
    };
    let read = Credentials::parse(data, &strict);
    let leniently = Credentials::parse(data, &lenient);
    in_headers(data, &read, &strict)?;
    match (&read, &leniently) {
        (Err(CredentialFault::NoPassword), Ok(Credentials::Basic { password: None, .. })) => {}
        (one, other) => must(one == other, || {
            format!("{one:?} is {other:?} where a password may be missing")
        })?,
    }
    let Ok(credentials) = leniently else {
        return Ok(Verdict::Refused);
    };
    let trimmed = data.trim_ascii();
    match &credentials {
        Credentials::Basic { user, password } => {
            let text = match password {
                Some(password) => format!("{user}:{}", password.expose()),
                None => user.clone(),
            };
            must(
                after(trimmed, b"basic") == STANDARD.encode(text).as_bytes(),
                || format!("{credentials:?} has another encoding"),
            )?;
            check_user(user)?;
            let other = Credentials::Basic {
                user: user.clone(),
                password: Some(Secret::from("another")),
            };
            must(format!("{credentials:?}") == format!("{other:?}"), || {
                "what is shown depends on the password".to_owned()
            })?;
        }
        Credentials::Bearer { token } => {
            must(
                after(trimmed, b"bearer") == token.expose().as_bytes(),
                || "the token is not the one that was sent".to_owned(),
            )?;
        }
    }
    Ok(if read.is_ok() {
        Verdict::Accepted
    } else {
        Verdict::Refused
    })
}

/// One header is read as its value is; two are refused whatever they say.
fn in_headers(
    data: &[u8],
    read: &Result<Credentials, CredentialFault>,
    rules: &CredentialRules,
) -> Result<(), Finding> {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return Ok(());
    };
    let mut headers = HeaderMap::new();
    headers.append(AUTHORIZATION, value.clone());
    let one = Credentials::from_headers(&headers, rules);
    must(one == read.clone().map(Some), || {
        format!("as a header it is {one:?}")
    })?;
    headers.append(AUTHORIZATION, value);
    let two = Credentials::from_headers(&headers, rules);
    must(two == Err(CredentialFault::TwoHeaders), || {
        format!("twice it is {two:?}")
    })
}

/// What follows the scheme; nothing where it is another one.
fn after<'a>(value: &'a [u8], scheme: &[u8]) -> &'a [u8] {
    match value.split_at_checked(scheme.len()) {
        Some((begin, rest)) if begin.eq_ignore_ascii_case(scheme) => match rest.first() {
            Some(b' ' | b'\t') => rest.trim_ascii(),
            _ => &[],
        },
        _ => &[],
    }
}

fn check_user(user: &str) -> Result<(), Finding> {
    let unfit = user.is_empty()
        || user.len() > 256
        || user.trim() != user
        || user.contains(|it: char| it.is_control() || it == '/' || it == '\\')
        || user.parse::<IpAddr>().is_ok();
    if unfit {
        return finding(format!("a user may be called {user:?}"));
    }
    let value = HeaderValue::from_str(user).or_else(|_| HeaderValue::from_bytes(user.as_bytes()));
    must(value.is_ok(), || format!("{user:?} fits into no header"))?;
    must(AuthInfo::basic(user).is_ok(), || {
        format!("{user:?} is a user and no identity")
    })
}
