//! How the upstream is told who sent a request: a header, or Basic credentials for an MTA that reads nothing
//! else; companions that say more; and a signature over the identity.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use gatepost_auth::signature::{Claim, SigningKeys};
use gatepost_auth::{Mechanism, Permit, Secret};
use gatepost_config::{IdentityForm, Upstream};
use http::{HeaderName, HeaderValue};
use pingora_error::ErrorType::InternalError;
use pingora_error::{OrErr as _, Result};
use pingora_http::RequestHeader;

/// The user by which the MTA knows that a request comes from gatepost.
const GATEPOST: &str = "gatepost";

/// Ready to be said. Names are kept as people write them: `X-Http-Auth`.
pub(crate) struct Telling {
    form: Form,
    mechanism: Option<Bytes>,
    groups: Option<Bytes>,
    client: Option<Bytes>,
    signature: Option<(Bytes, SigningKeys)>,
    /// Which metas of a message policy, in which headers.
    metas: Vec<(String, Bytes)>,
}

enum Form {
    Header(Bytes),
    Basic(Secret),
    BasicUser(Secret),
    Bearer(SigningKeys),
}

impl Telling {
    pub(crate) fn new(upstream: &Upstream) -> Self {
        let companions = &upstream.companions;
        let name = |name: &HeaderName| Bytes::from(in_capitals(name));
        Self {
            form: match &upstream.identity {
                IdentityForm::Header(header) => Form::Header(name(header)),
                IdentityForm::Basic(secret) => Form::Basic(secret.clone()),
                IdentityForm::BasicUser(secret) => Form::BasicUser(secret.clone()),
                IdentityForm::Bearer(keys) => Form::Bearer(keys.clone()),
            },
            mechanism: companions.mechanism.as_ref().map(name),
            groups: companions.groups.as_ref().map(name),
            client: companions.client.as_ref().map(name),
            signature: upstream
                .signature
                .as_ref()
                .map(|it| (name(&it.header), it.keys.clone())),
            metas: upstream
                .meta_headers
                .iter()
                .map(|(meta, header)| (meta.clone(), name(header)))
                .collect(),
        }
    }

    /// Adds what is to be said to a head from which everything of the same names has been removed.
    ///
    /// # Errors
    ///
    /// Where an identity or group is no header value; they have been checked to be.
    pub(crate) fn tell(
        &self,
        request: &mut RequestHeader,
        permit: &Permit,
        meta: &[(String, String)],
    ) -> Result<()> {
        for (name, header) in &self.metas {
            if let Some((_, value)) = meta.iter().find(|(key, _)| key == name) {
                request.insert_header(header.clone(), opaque(value)?)?;
            }
        }
        if let Some(identity) = permit.identity() {
            self.say_identity(request, permit, identity)?;
        }
        let subject = permit.subject();
        let mechanism = subject.mechanism().map(Mechanism::as_str);
        if let Some((name, mechanism)) = self.mechanism.as_ref().zip(mechanism) {
            request.insert_header(name.clone(), HeaderValue::from_static(mechanism))?;
        }
        if let Some(name) = &self.groups
            && !subject.groups().is_empty()
        {
            request.insert_header(name.clone(), opaque(&listed(subject.groups()))?)?;
        }
        let client = permit.origin().client;
        if let Some(name) = &self.client {
            request.insert_header(name.clone(), client.to_string())?;
        }
        if let Some((name, keys)) = &self.signature {
            let signature = sign(keys, request, permit);
            request.insert_header(name.clone(), signature)?;
        }
        Ok(())
    }

    fn say_identity(
        &self,
        request: &mut RequestHeader,
        permit: &Permit,
        identity: &str,
    ) -> Result<()> {
        let credentials = match &self.form {
            Form::Header(name) => {
                return request.insert_header(name.clone(), opaque(identity)?);
            }
            // The identity is last: it may hold colons, and the secret has a known length.
            Form::Basic(secret) => format!("{GATEPOST}:{}:{identity}", secret.expose()),
            Form::BasicUser(secret) => format!("{identity}:{}", secret.expose()),
            Form::Bearer(keys) => {
                let signature = sign(keys, request, permit);
                let (method, path) = (&request.method, request.uri.path());
                let client = permit.origin().client;
                let token = format!("{signature}\n{method}\n{path}\n{client}\n{identity}");
                return authorize(
                    request,
                    &format!("Bearer {}", URL_SAFE_NO_PAD.encode(token)),
                );
            }
        };
        authorize(request, &format!("Basic {}", STANDARD.encode(credentials)))
    }
}

fn authorize(request: &mut RequestHeader, credentials: &str) -> Result<()> {
    let mut value = opaque(credentials)?;
    value.set_sensitive(true);
    request.insert_header("Authorization", value)
}

/// Who sends this request, where, and now.
fn sign(keys: &SigningKeys, request: &RequestHeader, permit: &Permit) -> String {
    let claim = Claim {
        method: request.method.as_str(),
        path: request.uri.path(),
        client: permit.origin().client,
        identity: permit.identity().unwrap_or_default(),
    };
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    keys.sign(&claim, time.unwrap_or_default().as_secs())
}

/// RFC 9110 §5.5 calls bytes above 127 opaque; a UTF-8 name goes out as UTF-8.
fn opaque(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_bytes(text.as_bytes()).or_err(InternalError, "not a header value")
}

/// Separated by commas. A comma in a name is not a separator, and the escape is not ambiguous.
fn listed(groups: &[String]) -> String {
    let escaped = groups
        .iter()
        .map(|group| group.replace('%', "%25").replace(',', "%2C"));
    escaped.collect::<Vec<_>>().join(",")
}

/// Header names are the same in any case, but people compare them with what they read in manuals.
fn in_capitals(name: &HeaderName) -> String {
    let capitalize = |word: &str| {
        let mut letters = word.chars();
        letters.next().map_or(String::new(), |first| {
            first.to_ascii_uppercase().to_string() + letters.as_str()
        })
    };
    name.as_str()
        .split('-')
        .map(capitalize)
        .collect::<Vec<_>>()
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attack: a group whose name holds a comma would be two groups to whoever splits.
    #[test]
    fn a_group_is_never_two() {
        let groups = ["a,root".to_owned(), "b%2Cc".to_owned(), "jürgen".to_owned()];
        assert_eq!(listed(&groups), "a%2Croot,b%252Cc,jürgen");
    }
}
