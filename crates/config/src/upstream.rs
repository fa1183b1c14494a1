//! The section `upstream`: where requests go, and how the identity goes with them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatepost_auth::signature::SigningKeys;
use http::HeaderName;

use crate::endpoints::{self, Scheme};
use crate::kind::{self, Kind};
use crate::listeners::file;
use crate::node::{Key, Node};
use crate::read::{HOUR, MILLISECOND};
use crate::secret;
use crate::section::{Complaint, Section, describe, shorten};
use crate::settings::{
    Companions, IdentityForm, Signature, Upstream, UpstreamAddress, UpstreamTls,
};
use crate::value;

/// Reads the section. `None` where a fault left something out; it has been recorded.
pub(crate) fn upstream(
    mut section: Section<'_>,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<Upstream> {
    let (addresses, scheme) = endpoints::addresses(&mut section, folder).unzip();
    let tls = tls(&mut section, addresses.as_deref(), scheme, folder, files);
    let signature = signature(section.section("signature"), folder, files);
    let identity = identity(&mut section, signature.as_ref(), folder, files);
    let companions = companions(section.section("companion_headers"));
    let meta_headers = meta_headers(&mut section);
    refuse_shared_names(
        &section,
        &identity,
        &companions,
        signature.as_ref(),
        &meta_headers,
    );
    let timeout = || kind::duration(MILLISECOND..=HOUR);
    let connect_timeout = section.or("connect_timeout", Duration::from_secs(5), timeout());
    let response_timeout = section.or("response_timeout", Duration::from_secs(60), timeout());
    let idle_timeout = section.or("idle_timeout", Duration::from_secs(30), timeout());
    let max_idle_connections = section.or(
        "max_idle_connections",
        128,
        kind::integer(1..=100_000_usize),
    );
    let total_timeout = section.or(
        "total_timeout",
        Some(endpoints::TOTAL_TIMEOUT),
        kind::or_off(timeout()),
    );
    let balancing = endpoints::balancing(&mut section);
    section.finish();
    Some(Upstream {
        addresses: addresses?,
        tls: tls?,
        identity: identity?,
        companions,
        signature: signature?,
        meta_headers,
        connect_timeout,
        response_timeout,
        idle_timeout,
        max_idle_connections,
        total_timeout,
        balancing,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Header,
    Basic,
    BasicUser,
    Bearer,
}

/// `signature` is `None` where a fault in it has been recorded.
fn identity(
    section: &mut Section<'_>,
    signature: Option<&Option<Signature>>,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<IdentityForm> {
    let forms = [
        ("header", Form::Header),
        ("basic", Form::Basic),
        ("basic_user", Form::BasicUser),
        ("bearer", Form::Bearer),
    ];
    let form = section.or("identity", Form::Header, kind::word(&forms));
    let header = section.optional("identity_header", header_kind().placed());
    let secret = secret::optional(section, "identity_secret", folder, files);
    let reader = section.reader();
    if matches!(form, Form::Header | Form::Bearer)
        && let Some((_, place)) = secret
    {
        reader.fault(
            place,
            "`upstream.identity_secret` is for `identity: basic` and `basic_user`",
        );
    }
    if form == Form::Header {
        let name = header.map_or(HeaderName::from_static("x-http-auth"), |(name, _)| name);
        return Some(IdentityForm::Header(name));
    }
    if let Some((_, place)) = header {
        reader.fault(
            place,
            "`upstream.identity_header` is for `identity: header`",
        );
    }
    if form == Form::Bearer {
        let Some(signature) = signature? else {
            reader.fault(
                section.place(),
                "`upstream.signature.keys` is missing: `identity: bearer` is signed with them",
            );
            return None;
        };
        return Some(IdentityForm::Bearer(signature.keys.clone()));
    }
    let Some((secret, place)) = secret else {
        reader.fault(
            section.place(),
            "`upstream.identity_secret` is missing, or faulty: without it the MTA could not tell gatepost from others",
        );
        return None;
    };
    if secret.expose().len() < SigningKeys::MIN_SECRET_BYTES {
        reader.fault(
            place,
            format!(
                "the secret has at least {} bytes",
                SigningKeys::MIN_SECRET_BYTES
            ),
        );
    }
    Some(if form == Form::Basic {
        IdentityForm::Basic(secret)
    } else {
        IdentityForm::BasicUser(secret)
    })
}

fn companions(mut section: Section<'_>) -> Companions {
    let companions = Companions {
        mechanism: section.optional("mechanism", header_kind()),
        groups: section.optional("groups", header_kind()),
        client: section.optional("client", header_kind()),
    };
    section.finish();
    companions
}

/// The names of metas are the policy's own.
fn meta_headers(section: &mut Section<'_>) -> Vec<(String, HeaderName)> {
    let pairs = section.pairs("meta_headers", header_kind());
    let reader = section.reader();
    for (key, _) in &pairs {
        if ["http_auth", "received_from", "reception_protocol"].contains(&key.name.as_str()) {
            let name = &key.name;
            reader.fault(
                key.place,
                format!("the meta `{name}` is not the policy's to set"),
            );
        }
    }
    let owned = |(key, header): (&Key, HeaderName)| (key.name.clone(), header);
    pairs.into_iter().map(owned).collect()
}

/// `None` is a fault that has been recorded, `Some(None)` that nothing is signed.
fn signature(
    mut section: Section<'_>,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<Option<Signature>> {
    let header = section.or(
        "header",
        HeaderName::from_static("x-gatepost-signature"),
        header_kind(),
    );
    let (mut keys, mut whole) = (Vec::new(), true);
    for mut key in section.sections("keys") {
        let id = key.required("id", key_id());
        let secret = secret::needed(&mut key, "secret", folder, files);
        if secret.is_none() {
            key.reader().fault(
                key.place(),
                "`upstream.signature.keys.secret` is missing, or faulty",
            );
        }
        key.finish();
        match (id, secret) {
            (Some(id), Some((secret, _))) => keys.push((id, secret)),
            _ => whole = false,
        }
    }
    let place = section.place();
    let reader = section.reader();
    section.finish();
    if !whole {
        return None;
    }
    if keys.is_empty() {
        return Some(None);
    }
    match SigningKeys::new(keys) {
        Ok(keys) => Some(Some(Signature { header, keys })),
        Err(fault) => {
            reader.fault(place, fault.to_string());
            None
        }
    }
}

/// `SigningKeys` says what is wrong with one that is of another form.
fn key_id() -> Kind<'static, String> {
    let words = "1 to 32 letters, digits, `-`, `_` and `.`";
    Kind::text(words, "^[0-9A-Za-z_.-]{1,32}$", value::text)
}

/// Two headers of one name would say one thing or the other.
fn refuse_shared_names(
    section: &Section<'_>,
    identity: &Option<IdentityForm>,
    companions: &Companions,
    signature: Option<&Option<Signature>>,
    metas: &[(String, HeaderName)],
) {
    let identity = match identity {
        Some(IdentityForm::Header(name)) => Some(name),
        Some(IdentityForm::Basic(_) | IdentityForm::BasicUser(_) | IdentityForm::Bearer(_))
        | None => None,
    };
    let names = [
        identity,
        companions.mechanism.as_ref(),
        companions.groups.as_ref(),
        companions.client.as_ref(),
        signature.and_then(Option::as_ref).map(|it| &it.header),
    ];
    let mut seen: Vec<String> = Vec::new();
    let metas = metas.iter().map(|(_, header)| header);
    for name in names.into_iter().flatten().chain(metas) {
        let folded = name.as_str().replace('_', "-");
        if seen.contains(&folded) {
            section.reader().fault(
                section.place(),
                format!("two of the headers that gatepost sets are called `{name}`"),
            );
        }
        seen.push(folded);
    }
}

/// `None` is a fault that has been recorded, `Some(None)` an upstream without TLS.
fn tls(
    section: &mut Section<'_>,
    addresses: Option<&[UpstreamAddress]>,
    scheme: Option<Scheme>,
    folder: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<Option<UpstreamTls>> {
    let written = section.peek("tls").map(|node| node.place);
    let mut tls = section.section("tls");
    let ca = file(&mut tls, "ca", folder, files);
    let server_name = tls.optional(
        "server_name",
        Kind::text("a DNS name or an address", "^[0-9A-Za-z:.-]+$", server_name),
    );
    let certificate = file(&mut tls, "client_certificate", folder, files);
    let key = file(&mut tls, "client_key", folder, files);
    let verify = tls.optional("verify", kind::truth().placed());
    let (reader, place) = (tls.reader(), tls.place());
    tls.finish();
    if scheme? == Scheme::Http {
        if let Some(place) = written {
            reader.fault(place, "`upstream.tls` is for `address: https://host:port`");
        }
        return Some(None);
    }
    if let Some((false, place)) = verify {
        reader.warn(
            place,
            "whoever can put themselves between gatepost and the upstream reads and changes everything: `ca` is the way to trust a certificate of your own",
        );
    }
    let named = |address: &UpstreamAddress| match address {
        UpstreamAddress::Tcp { host, .. } => {
            // The dot of a whole name is not in certificates.
            (!is_server_name(host.strip_suffix('.').unwrap_or(host))).then(|| host.clone())
        }
        UpstreamAddress::Unix(_) | UpstreamAddress::Demo { .. } => None,
    };
    if server_name.is_none()
        && let Some(host) = addresses?.iter().find_map(named)
    {
        reader.fault(
            place,
            format!("no certificate can hold the name `{host}`: `upstream.tls.server_name` is missing, or faulty"),
        );
        return None;
    }
    let client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            reader.fault(
                place,
                "`upstream.tls.client_certificate` and `client_key` go together",
            );
            return None;
        }
    };
    Some(Some(UpstreamTls {
        ca,
        server_name,
        client,
        verify: verify.is_none_or(|it| it.0),
    }))
}

fn server_name(node: &Node) -> Result<String, Complaint> {
    let text = value::text(node)?;
    if is_server_name(&text) {
        Ok(text)
    } else {
        Err(format!(
            "expected a DNS name or an address, found {}",
            describe(&node.value)
        ))
    }
}

/// An underscore is left out on purpose: the proxy library looks for another name instead.
fn is_server_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(label))
}

/// Names with a meaning of their own. To set one of these would change how a request is read or where
/// it seems to come from, not say who sent it. Folded as [`gatepost_auth::headers`] does.
const TAKEN: [&str; 25] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
    "x-request-id",
];

fn header_kind() -> Kind<'static, HeaderName> {
    kind::header_name(own_header).written(kind::show_header)
}

fn own_header(node: &Node) -> Result<HeaderName, Complaint> {
    let text = value::text(node)?;
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("`{}` is not a header name", shorten(&text)))?;
    if TAKEN.contains(&name.as_str().replace('_', "-").as_str()) {
        return Err(format!(
            "`{text}` has a meaning of its own and cannot say who sent a request"
        ));
    }
    Ok(name)
}
