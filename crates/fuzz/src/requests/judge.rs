//! What the upstream may have got of what a client sent.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::reference::{Head, Request, requests};
use super::{Entrance, PREFACE};
use crate::forwarded::rightmost;
use crate::{Finding, finding, must, proxy_header};

/// Holds what the upstream got against what was sent.
pub(super) fn check(entrance: Entrance, sent: &[u8], seen: &[Request]) -> Result<(), Finding> {
    let Some((came, bytes)) = Came::of(entrance, sent) else {
        return must(seen.is_empty(), || {
            format!("without a PROXY header, {}", shown(seen))
        });
    };
    if bytes.starts_with(PREFACE) {
        return check_http2(bytes.get(PREFACE.len()..).unwrap_or_default(), &came, seen);
    }
    let sent = requests(bytes);
    let mut left = sent.iter();
    for got in seen {
        // Some may have been refused or dropped; none is taken twice, and their order stays.
        let mut fault = None;
        let found = left.by_ref().filter(|it| is_same(it, got)).any(|it| {
            let is_good = came.may_be(it, got);
            fault = is_good.as_ref().err().cloned().or(fault.take());
            is_good.is_ok()
        });
        if !found {
            let nobody = || {
                let (got, sent) = (shown(std::slice::from_ref(got)), shown(&sent));
                Finding(format!("nobody sent {got}; sent were {sent}"))
            };
            return Err(fault.unwrap_or_else(nobody));
        }
    }
    Ok(())
}

/// A body that was not whole must not have become whole on the way.
fn is_same(sent: &Request, got: &Request) -> bool {
    sent.head.method == got.head.method
        && sent.head.target == got.head.target
        && if got.is_whole {
            sent.is_whole && sent.body == got.body
        } else {
            sent.body.starts_with(&got.body)
        }
}

fn shown(requests: &[Request]) -> String {
    let shown = requests.iter().map(|it| {
        let Head { method, target, .. } = &it.head;
        let whole = if it.is_whole { "" } else { " (a part)" };
        format!("{method} {target} with {} bytes{whole}", it.body.len())
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// How a connection came in.
struct Came {
    /// The client's address, before any header is read.
    client: IpAddr,
    /// Whether that says who it is.
    is_named: bool,
}

/// Who a request is.
struct Permitted {
    client: IpAddr,
    identity: Option<String>,
}

impl Came {
    /// And what follows a PROXY header. `None` where there has to be one.
    fn of(entrance: Entrance, sent: &[u8]) -> Option<(Self, &[u8])> {
        let peer = entrance.peer();
        let direct = Self {
            client: peer,
            is_named: true,
        };
        if entrance != Entrance::ProxyHeader {
            return Some((direct, sent));
        }
        let (source, length) = proxy_header::split(sent)?;
        let came = Self {
            client: source.unwrap_or(peer),
            is_named: source.is_some(),
        };
        Some((came, sent.get(length..)?))
    }

    /// Whether what was sent may pass, and what the upstream got says of it what is so.
    fn may_be(&self, sent: &Request, got: &Request) -> Result<(), Finding> {
        match self.permitted(&sent.head) {
            Some(permitted) => check_head(&got.head, &permitted),
            None => finding(format!(
                "{} must not pass",
                shown(std::slice::from_ref(sent))
            )),
        }
    }

    /// Who may pass with this head, if anybody.
    fn permitted(&self, head: &Head) -> Option<Permitted> {
        let mut client = self.client;
        if self.is_named {
            client = rightmost(client, head.all("x-forwarded-for"), is_proxy)?;
        }
        let credentials: Vec<&[u8]> = head.all("authorization").collect();
        let user = match credentials.as_slice() {
            [] => None,
            [value] => Some(user(value)?),
            _ => return None,
        };
        let is_trusted = self.is_named && is_trusted(client);
        let may = match (head.method.as_str(), head.path()) {
            ("POST", "/api/inject/v1") => user.is_some() || is_trusted,
            ("POST" | "PUT", "/scott") => user == Some("scott"),
            ("POST", "/message") => user.is_some(),
            ("GET" | "HEAD" | "POST", path) => path.len() > 6 && path.starts_with("/open/"),
            _ => false,
        };
        let address = (user.is_none() && is_trusted).then(|| client.to_string());
        may.then(|| Permitted {
            client,
            identity: user.map(str::to_owned).or(address),
        })
    }
}

/// Whom the policy lets in.
fn user(authorization: &[u8]) -> Option<&'static str> {
    let text = std::str::from_utf8(authorization).ok()?;
    let (scheme, encoded) = text.split_once([' ', '\t'])?;
    let decoded = STANDARD.decode(encoded.trim()).ok()?;
    match decoded.as_slice() {
        _ if !scheme.eq_ignore_ascii_case("basic") => None,
        b"scott:tiger" => Some("scott"),
        b"ann:lion" => Some("ann"),
        _ => None,
    }
}

fn is_trusted(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(it) if it.octets().starts_with(&[10]))
}

fn is_proxy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(it) if it.octets().starts_with(&[192, 0, 2]))
}

/// What the upstream is told, in every spelling that it could read.
fn told<'a>(head: &'a Head, name: &'a str) -> Vec<&'a [u8]> {
    head.fields
        .iter()
        .filter(|(key, _)| key.replace('_', "-") == name)
        .map(|(_, value)| value.as_slice())
        .collect()
}

fn check_head(head: &Head, permitted: &Permitted) -> Result<(), Finding> {
    let identity = permitted.identity.as_deref().map(str::as_bytes);
    let expected: Vec<&[u8]> = identity.into_iter().collect();
    let said = told(head, "x-http-auth");
    must(said == expected, || {
        format!(
            "the identity is {} instead of {:?}",
            lines(&said),
            permitted.identity
        )
    })?;
    check_rest(head)?;
    let said = told(head, "x-forwarded-for");
    let client = permitted.client.to_string();
    let first = said
        .first()
        .and_then(|it| it.split(|byte| *byte == b',').next());
    must(said.len() == 1 && first == Some(client.as_bytes()), || {
        format!("the client is {} instead of {client}", lines(&said))
    })
}

fn check_rest(head: &Head) -> Result<(), Finding> {
    for name in [
        "authorization",
        "proxy-authorization",
        "forwarded",
        "x-real-ip",
        "true-client-ip",
        "x-authenticated-user",
        "upgrade",
        "te",
    ] {
        let said = told(head, name);
        must(said.is_empty(), || {
            format!("{name} is {}, of the client's choice", lines(&said))
        })?;
    }
    let lengths = told(head, "content-length");
    must(
        !lengths
            .iter()
            .any(|it| it.len() > 1 && it.starts_with(b"0")),
        || format!("some read {} as octal", lines(&lengths)),
    )?;
    must(told(head, "cookie").len() <= 1, || {
        "cookies in several fields".to_owned()
    })?;
    for name in ["host", "x-request-id", "x-forwarded-proto"] {
        let said = told(head, name);
        must(said.len() == 1, || format!("{name} is {}", lines(&said)))?;
    }
    Ok(())
}

fn lines(values: &[&[u8]]) -> String {
    let shown = values.iter().map(|it| format!("`{}`", it.escape_ascii()));
    shown.collect::<Vec<_>>().join(" and ")
}

/// Of HTTP/2 nothing is read but the frames: each request has one of type HEADERS. Who it is has to be somebody whom there is.
fn check_http2(frames: &[u8], came: &Came, seen: &[Request]) -> Result<(), Finding> {
    let sent = count_headers(frames);
    must(seen.len() <= sent, || {
        format!("{} of {sent} requests", shown(seen))
    })?;
    for got in seen {
        let said = told(&got.head, "x-http-auth");
        let identity = match said.as_slice() {
            [] => None,
            [one] => Some(String::from_utf8_lossy(one).into_owned()),
            _ => return finding(format!("the identity is {}", lines(&said))),
        };
        let is_user = |it: &str| it == "scott" || it == "ann";
        let is_address = |it: &str| {
            came.is_named
                && it.parse().is_ok_and(is_trusted)
                && (is_proxy(came.client) || it == came.client.to_string())
        };
        let may = match (got.head.method.as_str(), got.head.path()) {
            ("POST", "/api/inject/v1") => identity
                .as_deref()
                .is_some_and(|it| is_user(it) || is_address(it)),
            ("POST" | "PUT", "/scott") => identity.as_deref() == Some("scott"),
            ("POST", "/message") => identity.as_deref().is_some_and(is_user),
            ("GET" | "HEAD" | "POST", path) if path.starts_with("/open/") => identity
                .as_deref()
                .is_none_or(|it| is_user(it) || is_address(it)),
            _ => false,
        };
        must(may, || {
            format!(
                "{} by {identity:?} must not pass",
                shown(std::slice::from_ref(got))
            )
        })?;
        check_rest(&got.head)?;
    }
    Ok(())
}

fn count_headers(mut frames: &[u8]) -> usize {
    let mut count = 0;
    while let Some((head, rest)) = frames.split_at_checked(9) {
        let [a, b, c, kind, ..] = *head else { break };
        count += usize::from(kind == 1);
        let length = u32::from_be_bytes([0, a, b, c]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        frames = rest.get(length..).unwrap_or_default();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOTT: &str = "Authorization: Basic c2NvdHQ6dGlnZXI=\r\n";

    fn request(line: &str, fields: &str, body: &str) -> String {
        format!(
            "{line} HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn upstream(line: &str, fields: &str, body: &str) -> String {
        let ours = "X-Request-Id: 1\r\nX-Forwarded-Proto: http\r\n";
        request(line, &format!("{ours}{fields}"), body)
    }

    #[track_caller]
    fn finds(entrance: Entrance, sent: &str, got: &str) -> String {
        let fault = check(entrance, sent.as_bytes(), &requests(got.as_bytes()));
        fault.expect_err("nothing is found").to_string()
    }

    #[track_caller]
    fn is_good(entrance: Entrance, sent: &str, got: &str) {
        let seen = requests(got.as_bytes());
        assert!(!seen.is_empty());
        assert_eq!(check(entrance, sent.as_bytes(), &seen), Ok(()));
    }

    const FROM_STRANGER: &str = "X-Forwarded-For: 198.51.100.1\r\n";

    #[test]
    fn what_is_as_it_should_be_is_no_finding() {
        let sent = request("POST /api/inject/v1", SCOTT, "abc");
        let fields = format!("X-Http-Auth: scott\r\n{FROM_STRANGER}");
        let got = upstream("POST /api/inject/v1", &fields, "abc");
        is_good(Entrance::Stranger, &sent, &got);
        // The second was refused.
        is_good(Entrance::Stranger, &(sent.clone() + &sent), &got);
        let sent = request(
            "POST /api/inject/v1",
            "X-Forwarded-For: 6.6.6.6, 10.0.0.7\r\n",
            "",
        );
        let fields = "X-Http-Auth: 10.0.0.7\r\nX-Forwarded-For: 10.0.0.7, 192.0.2.1\r\n";
        let got = upstream("POST /api/inject/v1", fields, "");
        is_good(Entrance::Proxy, &sent, &got);
        let sent = format!("PROXY TCP4 10.0.0.8 192.0.2.9 1 2\r\n{sent}");
        let fields = "X-Http-Auth: 10.0.0.8\r\nX-Forwarded-For: 10.0.0.8\r\n";
        let got = upstream("POST /api/inject/v1", fields, "");
        is_good(Entrance::ProxyHeader, &sent, &got);
    }

    #[test]
    fn whoever_must_not_pass_is_found() {
        let got = upstream("POST /api/inject/v1", FROM_STRANGER, "");
        let sent = request("POST /api/inject/v1", "", "");
        assert!(finds(Entrance::Stranger, &sent, &got).contains("must not pass"));
        let wrong = "Authorization: Basic c2NvdHQ6bGlvbg==\r\n";
        let sent = request("POST /api/inject/v1", wrong, "");
        assert!(finds(Entrance::TrustedHost, &sent, &got).contains("must not pass"));
        let got = upstream("GET /admin", FROM_STRANGER, "");
        let sent = request("GET /admin", SCOTT, "");
        assert!(finds(Entrance::Stranger, &sent, &got).contains("must not pass"));
    }

    #[test]
    fn an_identity_of_the_clients_choice_is_found() {
        let sent = request("POST /api/inject/v1", SCOTT, "");
        for said in [
            "X-Http-Auth: mallory\r\n",
            "X-Http-Auth: scott\r\nx_http_auth: mallory\r\n",
            "",
        ] {
            let got = upstream("POST /api/inject/v1", &format!("{said}{FROM_STRANGER}"), "");
            assert!(finds(Entrance::Stranger, &sent, &got).contains("the identity is"));
        }
        let fields = "X-Http-Auth: scott\r\nX-Forwarded-For: 6.6.6.6\r\n";
        let got = upstream("POST /api/inject/v1", fields, "");
        assert!(finds(Entrance::Stranger, &sent, &got).contains("the client is"));
    }

    #[test]
    fn one_request_that_becomes_two_is_found() {
        let one = request("GET /open/a", "", "");
        let got = upstream("GET /open/a", FROM_STRANGER, "");
        let twice = got.clone() + &got;
        assert!(finds(Entrance::Stranger, &one, &twice).contains("nobody sent"));
        // The body of one is another to somebody.
        let sent = request("POST /open/a", "", &one);
        let head = upstream("POST /open/a", FROM_STRANGER, "");
        assert!(finds(Entrance::Stranger, &sent, &(head + &got)).contains("nobody sent"));
        // Two framings: nothing may follow.
        let sent = request(
            "POST /open/a",
            "Transfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        );
        let got = upstream("POST /open/a", FROM_STRANGER, "");
        assert!(finds(Entrance::Stranger, &sent, &got).contains("nobody sent"));
        let frames = [PREFACE, b"\0\0\x01\x01\x05\0\0\0\x01\x83"].concat();
        let twice = requests(
            upstream("GET /open/a", FROM_STRANGER, "")
                .repeat(2)
                .as_bytes(),
        );
        assert!(check(Entrance::Stranger, &frames, &twice[..1]).is_ok());
        assert!(check(Entrance::Stranger, &frames, &twice).is_err());
    }

    #[test]
    fn half_a_body_that_passes_as_a_whole_is_found() {
        let sent = request("POST /open/a", "", "abcdef");
        let sent = sent.trim_end_matches("def");
        let got = upstream("POST /open/a", FROM_STRANGER, "abc");
        assert!(finds(Entrance::Stranger, sent, &got).contains("nobody sent"));
    }
}
