//! TLS of a listener: its certificate, who its clients have to be, and what their certificates call them.
//!
//! One value for each listener is part of the snapshot, so a new certificate comes with a reload like everything
//! else: connections that are open go on, handshakes from then on meet the new one.

use std::path::Path;
use std::sync::Arc;

use gatepost_config::{CertificateName, ClientCertificates, Listener, ListenerTls, Settings};
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::l4::stream::Stream as TcpOrUnix;
use pingora_core::protocols::tls::TlsStream;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use x509_parser::extensions::GeneralName;

use crate::pem::{self, KeyPair};
use crate::upstream_tls::UpstreamTls;

/// A listener's TLS, ready for handshakes.
pub(crate) struct ServerTls {
    acceptor: Acceptor,
    /// gatepost's own certificate.
    certificate: CertificateDer<'static>,
    clients: Option<Clients>,
}

/// What is made of clients' certificates.
struct Clients {
    verifier: Arc<dyn ClientCertVerifier>,
    identity: Option<CertificateName>,
}

/// Every certificate and key that the settings name, tried without being used.
///
/// # Errors
///
/// Everything that is wrong, each with its file's name.
pub fn check_certificates(settings: &Settings) -> Result<(), Vec<String>> {
    let listeners = settings.listeners.iter().filter_map(|it| it.tls.as_ref());
    let mut faults: Vec<String> = listeners
        .filter_map(|it| ServerTls::load(it, None).err())
        .collect();
    faults.extend(
        settings
            .upstream
            .tls
            .as_ref()
            .and_then(|it| UpstreamTls::load(it).err()),
    );
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

/// The TLS of every listener, in their order.
///
/// # Errors
///
/// What is wrong, with the file's name.
pub(crate) fn load_all(
    listeners: &[Listener],
    running: &[Option<Arc<ServerTls>>],
) -> Result<Vec<Option<Arc<ServerTls>>>, String> {
    let load = |(index, listener): (usize, &Listener)| {
        let running = running.get(index).and_then(Option::as_deref);
        let tls = listener.tls.as_ref();
        tls.map(|it| ServerTls::load(it, running).map(Arc::new))
            .transpose()
    };
    listeners.iter().enumerate().map(load).collect()
}

impl ServerTls {
    /// Reads everything again. A certificate that is over is refused, unless it is the one that is in use: then
    /// there is no better one to go on with, and other changes must not wait for it.
    fn load(settings: &ListenerTls, running: Option<&Self>) -> Result<Self, String> {
        let pair = KeyPair::read(&settings.certificate, &settings.private_key)?;
        let certificate = pair.chain.first().cloned();
        let certificate = certificate.ok_or("there is no certificate")?;
        if let Some(when) = pair.expired() {
            let message = format!(
                "{}: the certificate expired at {when}",
                settings.certificate.display()
            );
            if running.is_none_or(|it| it.certificate != certificate) {
                return Err(message);
            }
            tracing::warn!("{message}, and is in use");
        }
        let provider = Arc::new(ring::default_provider());
        let clients = settings.clients.as_ref();
        let clients = clients.map(|it| Clients::load(it, &provider)).transpose()?;
        let fault = |fault: Error| format!("{}: {fault}", settings.certificate.display());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(fault)?;
        let config = match &clients {
            Some(clients) => config.with_client_cert_verifier(clients.verifier.clone()),
            None => config.with_no_client_auth(),
        };
        let resolver = SingleCertAndKey::from(pair.certified);
        let mut config = config.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if clients.is_some() {
            // A resumed session would carry a client's certificate past the look at it.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Self {
            acceptor: Acceptor::from_server_config(Arc::new(config)),
            certificate,
            clients,
        })
    }

    /// Lets a client in, or does not.
    ///
    /// # Errors
    ///
    /// Where the client went away, speaks no TLS, or has no certificate that counts.
    pub(crate) async fn handshake(
        &self,
        stream: TcpOrUnix,
    ) -> pingora_error::Result<TlsStream<TcpOrUnix>> {
        self.acceptor.tls_handshake(stream).await
    }

    /// Whether the certificate, shown at an earlier time, would still be let in.
    pub(crate) fn still_counts(&self, chain: &[CertificateDer<'static>]) -> bool {
        let (Some(clients), Some((certificate, others))) = (&self.clients, chain.split_first())
        else {
            return false;
        };
        clients
            .verifier
            .verify_client_cert(certificate, others, UnixTime::now())
            .is_ok()
    }

    /// The identity in a client's certificate; `None` where certificates are no identities here.
    pub(crate) fn identity(
        &self,
        certificate: &CertificateDer<'_>,
    ) -> Option<Result<String, NoName>> {
        let wanted = self.clients.as_ref()?.identity?;
        Some(name(wanted, certificate))
    }
}

impl Clients {
    fn load(settings: &ClientCertificates, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let path: &Path = &settings.ca;
        let roots = Arc::new(pem::authorities(path)?);
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let builder = if settings.required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        let verifier = builder
            .build()
            .map_err(|fault| format!("{}: {fault}", path.display()))?;
        Ok(Self {
            verifier: Arc::new(Readable(verifier)),
            identity: settings.identity,
        })
    }
}

/// Why a certificate has no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoName {
    /// It cannot be taken apart.
    #[error("the client certificate cannot be read")]
    Unreadable,
    /// It is over.
    #[error("the client certificate has expired")]
    Expired,
    /// Those who vouched for it do not count any more.
    #[error("nobody who counts vouches for the client certificate any more")]
    Distrusted,
    /// None, or more than one: which would be meant is a guess.
    #[error("the client certificate does not hold exactly one name of the kind that is asked for")]
    NotOne,
}

/// The one name of this kind.
fn name(wanted: CertificateName, certificate: &CertificateDer<'_>) -> Result<String, NoName> {
    let certificate = pem::parse(certificate).ok_or(NoName::Unreadable)?;
    if pem::seconds_since_epoch() > certificate.validity().not_after.timestamp() {
        return Err(NoName::Expired);
    }
    let mut names = Vec::new();
    if wanted == CertificateName::SubjectCn {
        for common_name in certificate.subject().iter_common_name() {
            names.push(common_name.as_str().map_err(|_| NoName::Unreadable)?);
        }
    } else {
        let alternatives = certificate
            .subject_alternative_name()
            .map_err(|_| NoName::Unreadable)?;
        let alternatives = alternatives.iter().flat_map(|it| &it.value.general_names);
        names.extend(alternatives.filter_map(|name| match (wanted, name) {
            (CertificateName::SanEmail, GeneralName::RFC822Name(name))
            | (CertificateName::SanDns, GeneralName::DNSName(name))
            | (CertificateName::SanUri, GeneralName::URI(name)) => Some(*name),
            _ => None,
        }));
    }
    match names.as_slice() {
        // RFC 4343: DNS names are the same in any case, identities are not.
        [name] if wanted == CertificateName::SanDns => Ok(name.to_ascii_lowercase()),
        [name] => Ok((*name).to_owned()),
        _ => Err(NoName::NotOne),
    }
}

/// Refuses what the proxy library cannot take apart; it takes apart every certificate that got through, and
/// panics where that fails.
#[derive(Debug)]
struct Readable(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Readable {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if pem::parse(end_entity).is_none() {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
