//! `kumo.http`: calls to services over HTTP and HTTPS.
//!
//! Answers are bounded in size and time, so a service that sends without end costs a handler its answer and nobody else
//! anything. Redirects do not carry credentials to another host (the client library sees to it).

use std::sync::Arc;
use std::time::Duration;

use mlua::{Lua, MetaMethod, Table, UserData, UserDataMethods, Value};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{Host, bad_argument, duration, submodule, text};

/// The longest answer, in bytes.
const LONGEST: usize = 10 * 1024 * 1024;

const TIMEOUT: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 10;

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let module = submodule(lua, host, kumo, "kumo.http")?;
    module.set(
        "build_client",
        lua.create_function(|_, options: Value| HttpClient::new(&options))?,
    )?;
    module.set(
        "build_url",
        lua.create_function(|_, (base, parameters): (Value, Value)| build_url(&base, &parameters))?,
    )
}

fn build_url(base: &Value, parameters: &Value) -> mlua::Result<String> {
    const NAME: &str = "kumo.http.build_url";
    let base = text(base, 1, NAME)?;
    let mut url = reqwest::Url::parse(&base)
        .map_err(|fault| mlua::Error::runtime(format!("{NAME}: {fault}")))?;
    let Value::Table(parameters) = parameters else {
        return Err(bad_argument(2, NAME, "table", parameters));
    };
    let pairs = sorted(parameters)?;
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    Ok(url.to_string())
}

/// A table of texts, in an order that does not change from run to run.
fn sorted(table: &Table) -> mlua::Result<Vec<(String, String)>> {
    let pairs = table.pairs::<String, Value>().map(|pair| {
        let (key, value) = pair?;
        Ok((key, value.to_string()?))
    });
    let mut pairs = pairs.collect::<mlua::Result<Vec<_>>>()?;
    pairs.sort();
    Ok(pairs)
}

/// A client that asks whom it was told to ask and nobody else: a redirect would take along headers that the
/// library does not know to be secret.
pub(super) fn direct_client() -> mlua::Result<Client> {
    build(ClientOptions {
        redirects: 0,
        ..ClientOptions::default()
    })
}

struct ClientOptions {
    user_agent: String,
    timeout: Duration,
    idle: Option<Duration>,
    certificates: Certificates,
    redirects: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Certificates {
    Verified,
    Ignored,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            user_agent: concat!("gatepost/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeout: TIMEOUT,
            idle: None,
            certificates: Certificates::Verified,
            redirects: MOST_REDIRECTS,
        }
    }
}

fn build(options: ClientOptions) -> mlua::Result<Client> {
    let mut builder = Client::builder()
        .user_agent(options.user_agent)
        .timeout(options.timeout)
        .redirect(reqwest::redirect::Policy::limited(options.redirects))
        .no_proxy()
        .tls_backend_preconfigured(tls(options.certificates)?);
    if let Some(idle) = options.idle {
        builder = builder.pool_idle_timeout(idle);
    }
    builder
        .build()
        .map_err(|fault| mlua::Error::runtime(format!("kumo.http: {fault}")))
}

/// The certificates that the system trusts. Where it has none, plain HTTP works and HTTPS says so.
fn tls(certificates: Certificates) -> mlua::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let unfit = |fault| mlua::Error::runtime(format!("kumo.http: {fault}"));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unfit)?;
    if certificates == Certificates::Ignored {
        let verifier = Arc::new(AcceptAny(provider));
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

struct HttpClient(Client);

impl HttpClient {
    fn new(options: &Value) -> mlua::Result<Self> {
        const NAME: &str = "kumo.http.build_client";
        let mut made = ClientOptions::default();
        if options.is_nil() {
            return build(made).map(Self);
        }
        let Value::Table(table) = options else {
            return Err(bad_argument(1, NAME, "table", options));
        };
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair?;
            match key.to_string()?.as_str() {
                "user_agent" => made.user_agent = text(&value, 1, NAME)?.to_owned(),
                "timeout" => made.timeout = duration(&value, NAME, "timeout")?.unwrap_or(TIMEOUT),
                "pool_idle_timeout" => made.idle = duration(&value, NAME, "pool_idle_timeout")?,
                "accept_invalid_certs" => {
                    if value.as_boolean() == Some(true) {
                        tracing::warn!(target: "policy", "a client accepts certificates that nobody vouches for");
                        made.certificates = Certificates::Ignored;
                    }
                }
                other => {
                    return Err(mlua::Error::runtime(format!(
                        "{NAME} has no option '{other}'"
                    )));
                }
            }
        }
        build(made).map(Self)
    }
}

impl UserData for HttpClient {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        for (name, method) in [
            ("get", Method::GET),
            ("post", Method::POST),
            ("put", Method::PUT),
        ] {
            methods.add_method(name, move |_, this: &Self, url: Value| {
                let url = text(&url, 1, name)?;
                let url = reqwest::Url::parse(&url)
                    .map_err(|fault| mlua::Error::runtime(format!("{name}: {fault}")))?;
                if !["http", "https"].contains(&url.scheme()) {
                    return Err(mlua::Error::runtime(format!(
                        "{name}: '{}' is not spoken here",
                        url.scheme()
                    )));
                }
                Ok(Request {
                    builder: Some(this.0.request(method.clone(), url)),
                })
            });
        }
    }
}

/// A request being made. Its methods give it back, so that they can be chained.
struct Request {
    /// Gone once it is sent.
    builder: Option<reqwest::RequestBuilder>,
}

impl Request {
    fn change(
        this: &mlua::AnyUserData,
        with: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> mlua::Result<mlua::AnyUserData> {
        let mut request = this.borrow_mut::<Self>()?;
        let builder = request.builder.take().ok_or_else(sent)?;
        request.builder = Some(with(builder));
        Ok(this.clone())
    }
}

fn sent() -> mlua::Error {
    mlua::Error::runtime("the request was sent already")
}

impl UserData for Request {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_function(
            "header",
            |_, (this, name, value): (mlua::AnyUserData, Value, Value)| {
                let mut headers = HeaderMap::new();
                add_header(&mut headers, &text(&name, 1, "header")?, &value)?;
                Self::change(&this, |builder| builder.headers(headers))
            },
        );
        methods.add_function("headers", |_, (this, table): (mlua::AnyUserData, Table)| {
            let mut headers = HeaderMap::new();
            for (name, value) in sorted(&table)? {
                let value = HeaderValue::try_from(value).map_err(|_| unfit_header(&name))?;
                let name = HeaderName::try_from(name.as_str()).map_err(|_| unfit_header(&name))?;
                headers.append(name, value);
            }
            Self::change(&this, |builder| builder.headers(headers))
        });
        methods.add_function(
            "basic_auth",
            |_, (this, user, password): (mlua::AnyUserData, Value, Option<String>)| {
                let user = text(&user, 1, "basic_auth")?.to_owned();
                Self::change(&this, |builder| builder.basic_auth(user, password))
            },
        );
        methods.add_function(
            "bearer_auth",
            |_, (this, token): (mlua::AnyUserData, Value)| {
                let token = text(&token, 1, "bearer_auth")?.to_owned();
                Self::change(&this, |builder| builder.bearer_auth(token))
            },
        );
        methods.add_function("body", |_, (this, body): (mlua::AnyUserData, Value)| {
            let body = body
                .as_string()
                .ok_or_else(|| bad_argument(1, "body", "string", &body))?;
            let body = body.as_bytes().to_vec();
            Self::change(&this, |builder| builder.body(body))
        });
        methods.add_function(
            "form_url_encoded",
            |_, (this, form): (mlua::AnyUserData, Table)| {
                let form = sorted(&form)?;
                Self::change(&this, |builder| builder.form(&form))
            },
        );
        methods.add_function("timeout", |_, (this, limit): (mlua::AnyUserData, Value)| {
            let limit = duration(&limit, "timeout", "timeout")?
                .ok_or_else(|| bad_argument(1, "timeout", "time span", &Value::Nil))?;
            Self::change(&this, |builder| builder.timeout(limit))
        });
        methods.add_async_function("send", async |_, this: mlua::AnyUserData| {
            let builder = this.borrow_mut::<Self>()?.builder.take().ok_or_else(sent)?;
            let response = builder.send().await.map_err(|fault| failed(&fault))?;
            Answer::read(response).await
        });
    }
}

fn add_header(headers: &mut HeaderMap, name: &str, value: &Value) -> mlua::Result<()> {
    let text = value
        .as_string()
        .ok_or_else(|| bad_argument(2, "header", "string", value))?;
    let value = HeaderValue::from_bytes(&text.as_bytes()).map_err(|_| unfit_header(name))?;
    let name = HeaderName::try_from(name).map_err(|_| unfit_header(name))?;
    headers.append(name, value);
    Ok(())
}

fn unfit_header(name: &str) -> mlua::Error {
    mlua::Error::runtime(format!(
        "the header '{}' cannot be sent",
        name.escape_debug()
    ))
}

/// The whole chain of causes, but not the address: it may hold a token.
fn failed(fault: &reqwest::Error) -> mlua::Error {
    if fault.is_timeout() {
        return mlua::Error::runtime("the service did not answer in time");
    }
    let mut words = "the service cannot be reached".to_owned();
    let mut cause = std::error::Error::source(fault);
    while let Some(source) = cause {
        words = format!("{words}: {source}");
        cause = source.source();
    }
    mlua::Error::runtime(words)
}

/// The body, if it is not too long.
pub(super) async fn bounded_body(mut response: Response) -> mlua::Result<Vec<u8>> {
    let too_long = || {
        mlua::Error::runtime(format!(
            "the service's answer is longer than {LONGEST} bytes"
        ))
    };
    if response
        .content_length()
        .is_some_and(|length| usize::try_from(length).map_or(true, |length| length > LONGEST))
    {
        return Err(too_long());
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|fault| failed(&fault))? {
        if body.len() + piece.len() > LONGEST {
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// An answer, body and all: it was read under the request's own time limit.
struct Answer {
    status: reqwest::StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    async fn read(response: Response) -> mlua::Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Self {
            status,
            headers,
            body: bounded_body(response).await?,
        })
    }
}

impl UserData for Answer {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("status_code", |_, this, ()| Ok(this.status.as_u16()));
        methods.add_method("status_reason", |_, this, ()| {
            Ok(this.status.canonical_reason())
        });
        methods.add_method("status_is_informational", |_, this, ()| {
            Ok(this.status.is_informational())
        });
        methods.add_method("status_is_success", |_, this, ()| {
            Ok(this.status.is_success())
        });
        methods.add_method("status_is_redirection", |_, this, ()| {
            Ok(this.status.is_redirection())
        });
        methods.add_method("status_is_client_error", |_, this, ()| {
            Ok(this.status.is_client_error())
        });
        methods.add_method("status_is_server_error", |_, this, ()| {
            Ok(this.status.is_server_error())
        });
        methods.add_method("headers", |_, this, ()| Ok(Headers(this.headers.clone())));
        methods.add_method("content_length", |_, this, ()| Ok(this.body.len()));
        methods.add_method("text", |lua, this, ()| {
            lua.create_string(String::from_utf8_lossy(&this.body).as_bytes())
        });
        methods.add_method("bytes", |lua, this, ()| lua.create_string(&this.body));
    }
}

/// The headers of an answer, by name in any case.
struct Headers(HeaderMap);

impl UserData for Headers {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let first = |lua: &Lua, this: &Self, name: &str| -> mlua::Result<Value> {
            match this.0.get(name) {
                Some(value) => lua.create_string(value.as_bytes()).map(Value::String),
                None => Ok(Value::Nil),
            }
        };
        methods.add_method("get", move |lua, this, name: String| {
            first(lua, this, &name)
        });
        methods.add_meta_method(MetaMethod::Index, move |lua, this, name: String| {
            first(lua, this, &name)
        });
    }
}

/// Believes every certificate, for whoever asked for it.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use crate::tests::check_body;

    /// A server on loopback that answers each request by its head and body.
    pub(in super::super) fn serve(
        answer: impl Fn(&str) -> (&'static str, String) + Send + Sync + 'static,
    ) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = std::sync::Arc::new(answer);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let answer = answer.clone();
                std::thread::spawn(move || {
                    let (mut text, mut buffer) = (String::new(), [0; 4096]);
                    while let Ok(read) = stream.read(&mut buffer)
                        && read > 0
                    {
                        text += &String::from_utf8_lossy(&buffer[..read]);
                        let Some((head, body)) = text.split_once("\r\n\r\n") else {
                            continue;
                        };
                        let length = head
                            .to_ascii_lowercase()
                            .split_once("content-length: ")
                            .map_or(0, |(_, rest)| {
                                rest.lines()
                                    .next()
                                    .unwrap()
                                    .trim()
                                    .parse::<usize>()
                                    .unwrap()
                            });
                        if body.len() < length {
                            continue;
                        }
                        let (status, body) = answer(&text);
                        text.clear();
                        let more = if status.starts_with("302") {
                            format!("Location: {body}\r\n")
                        } else {
                            String::new()
                        };
                        let _ = write!(
                            stream,
                            "HTTP/1.1 {status}\r\nX-Test: yes\r\n{more}Content-Length: {}\r\n\r\n{body}",
                            body.len()
                        );
                    }
                });
            }
        });
        format!("http://{address}")
    }

    /// Echoes the whole request.
    fn echo() -> String {
        serve(|request| ("200 OK", request.to_owned()))
    }

    #[test]
    fn requests_are_sent_as_they_were_made() {
        let url = echo();
        let check = |chain: &str, parts: &[&str]| {
            let finds: Vec<String> = parts
                .iter()
                .map(|part| format!("assert(text:find([[{part}]], 1, true), text)"))
                .collect();
            check_body(&format!(
                "local client = kumo.http.build_client {{ user_agent = 'tester', timeout = '5 seconds' }}
                 local text = client:{chain}:send():text():lower() {} return true",
                finds.join(" ")
            ));
        };
        check(
            &format!("get('{url}/a?b=c')"),
            &["get /a?b=c http/1.1", "user-agent: tester"],
        );
        check(
            &format!("post('{url}/'):header('X-A', 'b'):headers {{ ['X-C'] = 'd' }}:body('hello')"),
            &["post /", "x-a: b", "x-c: d", "\r\n\r\nhello"],
        );
        check(
            &format!("put('{url}/'):form_url_encoded {{ a = 'b c', d = 1 }}"),
            &["put /", "a=b+c&d=1"],
        );
        check(
            &format!("get('{url}/'):basic_auth('scott', 'tiger')"),
            &["authorization: basic c2nvdhq6dglnzxi="],
        );
        check(
            &format!("get('{url}/'):bearer_auth('token')"),
            &["authorization: bearer token"],
        );
    }

    #[test]
    fn answers_tell_everything() {
        let url = serve(|request| {
            if request.starts_with("GET /missing") {
                ("404 Not Found", "gone".to_owned())
            } else {
                ("200 OK", "grüße".to_owned())
            }
        });
        check_body(&format!(
            "local c = kumo.http.build_client {{}} local r = c:get('{url}/'):send()
             assert(r:status_code() == 200 and r:status_reason() == 'OK' and r:status_is_success())
             assert(not r:status_is_client_error() and not r:status_is_server_error())
             assert(r:text() == 'grüße' and r:bytes() == 'grüße' and r:content_length() == 7)
             assert(r:headers():get('X-Test') == 'yes' and r:headers()['x-test'] == 'yes' and r:headers().absent == nil)
             r = c:get('{url}/missing'):send()
             return r:status_code() == 404 and r:status_is_client_error() and not r:status_is_success()"
        ));
        check_body(
            "return kumo.http.build_url('http://a/b?c=d', { e = 'f g', h = 1 }) == 'http://a/b?c=d&e=f+g&h=1'",
        );
    }

    #[test]
    fn what_goes_wrong_raises() {
        let url = echo();
        for (call, words) in [
            (
                "kumo.http.build_client(1)",
                "bad argument #1 to 'kumo.http.build_client'",
            ),
            (
                "kumo.http.build_client { surprise = 1 }",
                "has no option 'surprise'",
            ),
            (
                "kumo.http.build_client { timeout = 'soon' }",
                "'timeout' is a time span",
            ),
            ("client:get()", "bad argument #1 to 'get'"),
            ("client:get 'nonsense'", "relative URL without a base"),
            (
                "client:get 'file:///etc/passwd'",
                "'file' is not spoken here",
            ),
            ("client:get(URL):header('a b', 'c')", "cannot be sent"),
            ("client:get(URL):header('a', 'b\\r\\nc')", "cannot be sent"),
            ("client:get(URL):body {}", "bad argument #1 to 'body'"),
            (
                "local r = client:get(URL) r:send() r:send()",
                "was sent already",
            ),
            (
                "client:get 'http://127.0.0.1:1/':send()",
                "cannot be reached",
            ),
            ("kumo.http.build_url('nonsense', {})", "kumo.http.build_url"),
        ] {
            check_body(&format!(
                "local URL = '{url}/' local client = kumo.http.build_client()
                 local ok, fault = pcall(function() {call} end)
                 return not ok and tostring(fault):find([[{words}]], 1, true) ~= nil or error(fault)"
            ));
        }
    }

    /// The attack: a service that never answers, or never stops answering.
    #[test]
    fn a_service_is_bounded_in_time_and_size() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        check_body(&format!(
            "local c = kumo.http.build_client {{ timeout = '200 ms' }}
             local ok, fault = pcall(function() c:get('http://{address}/'):send() end)
             return not ok and tostring(fault):find 'did not answer in time' ~= nil or error(fault)"
        ));
        let endless = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = endless.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in endless.incoming().map_while(Result::ok) {
                // An answer before the question would be another fault.
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                let piece = vec![b'x'; 1 << 20];
                while stream.write_all(&piece).is_ok() {}
            }
        });
        let huge = serve(|_| ("200 OK", "x".repeat(11 << 20)));
        for url in [format!("http://{address}/"), huge] {
            check_body(&format!(
                "local ok, fault = pcall(function() kumo.http.build_client():get('{url}'):send() end)
                 return not ok and tostring(fault):find 'longer than' ~= nil or error(fault)"
            ));
        }
    }

    /// The attack: a service that sends the client, and its credentials, elsewhere.
    #[test]
    fn a_redirect_to_another_host_gets_no_credentials() {
        let elsewhere = echo().replace("127.0.0.1", "localhost");
        let target = elsewhere.clone();
        let url = serve(move |_| ("302 Found", format!("{target}/there")));
        check_body(&format!(
            "local r = kumo.http.build_client():get('{url}/'):basic_auth('scott', 'tiger'):send():text():lower()
             return r:find('get /there', 1, true) ~= nil and not r:find 'authorization' or error(r)"
        ));
    }
}
