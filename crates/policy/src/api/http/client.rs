//! Clients, with what makes them dear: certificates that are read once for a policy, and connections that stay open.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mlua::{Lua, UserData, UserDataMethods, Value};
use reqwest::{Client, Method};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::super::{bad_argument, duration, text};
use super::request::Request;
use super::response::{Budget, Held};

const TIMEOUT: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 10;

/// Clients that are kept. A policy writes down a few; one that makes up options for each call must not fill the memory.
const MOST_CLIENTS: usize = 32;

/// The certificates that the system trusts, read when they are first needed; all workers of a policy share them. Where
/// there are none, plain HTTP works and HTTPS says so.
#[derive(Clone, Default)]
pub(crate) struct Roots(Arc<OnceLock<Arc<RootCertStore>>>);

impl Roots {
    fn store(&self) -> Arc<RootCertStore> {
        let read = || {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        };
        self.0.get_or_init(read).clone()
    }
}

/// The clients of one Lua state, by their options. Workers do not share them: a connection is driven by the runtime that
/// opened it, so a stuck worker would take along the calls of others.
#[derive(Clone)]
pub(crate) struct Clients(Rc<Kept>);

struct Kept {
    roots: Roots,
    budget: Budget,
    clients: RefCell<Vec<(ClientOptions, Client)>>,
}

impl Clients {
    /// `budget` bounds what their answers take together, in bytes.
    pub(crate) fn new(lua: &Lua, roots: &Roots, budget: usize) -> Self {
        Self(Rc::new(Kept {
            roots: roots.clone(),
            budget: Budget::new(lua, budget),
            clients: RefCell::default(),
        }))
    }

    fn get(&self, options: ClientOptions) -> mlua::Result<Client> {
        let mut clients = self.0.clients.borrow_mut();
        let known = clients.iter().position(|(known, _)| *known == options);
        // Used last, forgotten last.
        let (options, client) = match known {
            Some(place) => clients.remove(place),
            None => {
                let client = build(&options, &self.0.roots)?;
                (options, client)
            }
        };
        if clients.len() >= MOST_CLIENTS {
            clients.remove(0);
        }
        clients.push((options, client.clone()));
        Ok(client)
    }

    /// A client that asks whom it was told to ask and nobody else: a redirect would take along headers that the library
    /// does not know to be secret.
    pub(in crate::api) fn direct(&self) -> mlua::Result<Client> {
        self.get(ClientOptions {
            redirects: 0,
            ..ClientOptions::default()
        })
    }

    /// What an answer that is read now is to be counted with.
    pub(in crate::api) fn hold(&self) -> Held {
        self.0.budget.hold()
    }
}

/// Clients with equal options are the same client.
#[derive(Clone, PartialEq, Eq)]
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

fn build(options: &ClientOptions, roots: &Roots) -> mlua::Result<Client> {
    let mut builder = Client::builder()
        .user_agent(&options.user_agent)
        .timeout(options.timeout)
        .redirect(reqwest::redirect::Policy::limited(options.redirects))
        .no_proxy()
        .tls_backend_preconfigured(tls(options.certificates, roots)?);
    if let Some(idle) = options.idle {
        builder = builder.pool_idle_timeout(idle);
    }
    builder
        .build()
        .map_err(|fault| mlua::Error::runtime(format!("kumo.http: {fault}")))
}

fn tls(certificates: Certificates, roots: &Roots) -> mlua::Result<ClientConfig> {
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
    Ok(builder
        .with_root_certificates(roots.store())
        .with_no_client_auth())
}

pub(super) struct HttpClient {
    client: Client,
    budget: Budget,
}

impl HttpClient {
    pub(super) fn new(clients: &Clients, options: &Value) -> mlua::Result<Self> {
        const NAME: &str = "kumo.http.build_client";
        let mut made = ClientOptions::default();
        if options.is_nil() {
            return Self::with(clients, made);
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
        Self::with(clients, made)
    }

    fn with(clients: &Clients, options: ClientOptions) -> mlua::Result<Self> {
        Ok(Self {
            client: clients.get(options)?,
            budget: clients.0.budget.clone(),
        })
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
                let builder = this.client.request(method.clone(), url);
                Ok(Request::new(builder, this.budget.hold()))
            });
        }
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
mod tests {
    use super::*;

    /// The need: a handler that makes its client anew for each request.
    #[test]
    fn equal_options_are_one_client_and_the_number_of_clients_is_bounded() {
        let lua = Lua::new();
        let (roots, other) = (Roots::default(), Roots::default());
        let clients = Clients::new(&lua, &roots, 1);
        let named = |name: String| ClientOptions {
            user_agent: name,
            ..ClientOptions::default()
        };
        for turn in 0..3 * MOST_CLIENTS {
            clients.get(named(turn.to_string())).unwrap();
            clients.get(named("often".to_owned())).unwrap();
        }
        let kept = clients.0.clients.borrow();
        assert_eq!(kept.len(), MOST_CLIENTS);
        let often = kept.iter().filter(|(it, _)| it.user_agent == "often");
        assert_eq!(often.count(), 1);
        assert!(Arc::ptr_eq(&roots.store(), &roots.clone().store()));
        assert!(!Arc::ptr_eq(&roots.store(), &other.store()));
    }
}
