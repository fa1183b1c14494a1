//! TLS of a listener: its certificate, who its clients have to be, and what their certificates call them.
//!
//! One value for each listener is part of the snapshot, so a new certificate comes with a reload like everything
//! else: connections that are open go on, handshakes from then on meet the new one.

use std::path::Path;
use std::sync::Arc;

use gatepost_auth::{CertificateFault, Refusal};
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
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::AttributeTypeAndValue;

use crate::pem::{self, KeyPair};
use crate::upstream_tls::UpstreamTls;

/// A listener's TLS, ready for handshakes.
pub(crate) struct ServerTls {
    acceptor: Acceptor,
    /// gatepost's own certificate.
    certificate: CertificateDer<'static>,
    /// When that ends, in Unix time.
    ends: i64,
    clients: Option<Clients>,
}

/// What is made of clients' certificates.
struct Clients {
    verifier: Arc<dyn ClientCertVerifier>,
    identity: Option<CertificateName>,
}

/// What there is to say about the certificates and keys of a configuration.
#[derive(Debug, Default)]
pub struct Certificates {
    /// What is wrong, each with its file's name.
    pub faults: Vec<String>,
    /// What should not stay as it is.
    pub warnings: Vec<String>,
    /// When they end.
    pub ends: Vec<String>,
}

/// Tries every certificate and key that the settings name, without using them.
#[must_use]
pub fn check_certificates(settings: &Settings) -> Certificates {
    let mut found = Certificates::default();
    let mut pairs = Vec::new();
    for tls in settings.listeners.iter().filter_map(|it| it.tls.as_ref()) {
        pairs.push((&tls.certificate, &tls.private_key));
        found.faults.extend(ServerTls::load(tls, None).err());
    }
    if let Some(tls) = &settings.upstream.tls {
        pairs.extend(tls.client.as_ref().map(|it| (&it.0, &it.1)));
        found.faults.extend(UpstreamTls::load(tls).err());
    }
    for (certificate, private_key) in pairs {
        // Where it cannot be read, that is among the faults.
        if let Ok(pair) = KeyPair::read(certificate, private_key) {
            let end = pair.end();
            let warnings = pem::warnings(certificate, private_key, &end);
            // What is a fault already is not said twice.
            let new = |it: &String| !found.faults.contains(it);
            found.warnings.extend(warnings.into_iter().filter(new));
            if end.past().is_none() {
                found.ends.push(end.line(certificate));
            }
        }
    }
    found
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
        let end = pair.end();
        if let Some(when) = end.past()
            && running.is_none_or(|it| it.certificate != certificate)
        {
            let shown = settings.certificate.display();
            return Err(format!("{shown}: the certificate expired at {when}"));
        }
        for warning in pem::warnings(&settings.certificate, &settings.private_key, &end) {
            tracing::warn!("{warning}");
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
            ends: end.time,
            clients,
        })
    }

    /// When gatepost's own certificate ends, in Unix time.
    pub(crate) fn ends(&self) -> i64 {
        self.ends
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

    /// What an open connection has shown, and whether it `counts`, held against what is asked for by now.
    ///
    /// # Errors
    ///
    /// Where a handshake would not let the client in any more.
    pub(crate) fn presented<'a>(
        &self,
        chain: &'a [CertificateDer<'static>],
        counts: bool,
    ) -> Result<Presented<'a>, Refusal> {
        let Some(clients) = &self.clients else {
            return Ok(Presented::Nothing);
        };
        let fault = match chain.first() {
            Some(certificate) if counts => return Ok(Presented::Counts(certificate)),
            Some(certificate) if is_over(certificate) => CertificateFault::Expired,
            Some(_) => CertificateFault::Distrusted,
            None if clients.verifier.client_auth_mandatory() => CertificateFault::Missing,
            None => return Ok(Presented::Nothing),
        };
        if clients.verifier.client_auth_mandatory() {
            Err(Refusal::ClientCertificate(fault))
        } else {
            Ok(Presented::Ended(fault))
        }
    }

    /// The identity in a client's certificate; `None` where there is none, or certificates are no identities here.
    pub(crate) fn identity(&self, presented: Presented<'_>) -> Option<Result<String, NoName>> {
        let wanted = self.clients.as_ref()?.identity?;
        match presented {
            Presented::Nothing => None,
            Presented::Counts(certificate) => Some(name(wanted, certificate)),
            Presented::Ended(fault) => Some(Err(NoName::Ended(fault))),
        }
    }
}

/// What the client of an open connection has shown of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Presented<'a> {
    /// No certificate, or nobody asks for any.
    Nothing,
    /// One that counts.
    Counts(&'a CertificateDer<'static>),
    /// One that has counted. It is as good as none.
    Ended(CertificateFault),
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
    /// It does not count any more.
    #[error(transparent)]
    Ended(CertificateFault),
    /// None, or more than one: which would be meant is a guess.
    #[error("the client certificate does not hold exactly one name of the kind that is asked for")]
    NotOne,
    /// It is not that of one host or mailbox, written in the one way.
    #[error("the client certificate's name is none of a single host or mailbox")]
    Odd,
}

/// The one name of this kind.
fn name(wanted: CertificateName, certificate: &CertificateDer<'_>) -> Result<String, NoName> {
    let certificate = pem::parse(certificate).ok_or(NoName::Unreadable)?;
    let mut names = Vec::new();
    if wanted == CertificateName::SubjectCn {
        for common_name in certificate.subject().iter_common_name() {
            names.push(text(common_name)?);
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
        // RFC 5280 §4.2.1.6: they are IA5Strings, so who reads others guesses.
        if !names.iter().all(|it| it.is_ascii()) {
            return Err(NoName::Unreadable);
        }
    }
    let [name] = names.as_slice() else {
        return Err(NoName::NotOne);
    };
    match wanted {
        CertificateName::SanDns => host_name(name),
        CertificateName::SanEmail => mailbox(name),
        CertificateName::SubjectCn | CertificateName::SanUri => Some((*name).to_owned()),
    }
    .ok_or(NoName::Odd)
}

/// What a common name says, where its encoding says one thing. Those that hold ASCII hold ASCII, and those that only few read in
/// the same way (TeletexString, BMPString) are not read.
fn text<'a>(name: &AttributeTypeAndValue<'a>) -> Result<&'a str, NoName> {
    let text = name.as_str().map_err(|_| NoName::Unreadable)?;
    if name.attr_value().tag() == Tag::Utf8String || text.is_ascii() {
        Ok(text)
    } else {
        Err(NoName::Unreadable)
    }
}

/// A DNS name of one host in small letters: RFC 4343 says that case means nothing in it, identities are compared byte by byte. A wildcard is the
/// name of many, and RFC 5280 has no name that ends in a dot, which would be the same one once more.
fn host_name(name: &str) -> Option<String> {
    let good = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !label.is_empty() && label.bytes().all(inner)
    };
    name.split('.').all(good).then(|| name.to_ascii_lowercase())
}

/// A mailbox. The part behind the `@` is the same in any case, the one before it is not (RFC 5280 §7.5).
fn mailbox(name: &str) -> Option<String> {
    let (local, domain) = name.split_once('@')?;
    let domain = host_name(domain).filter(|_| !local.is_empty())?;
    Some(format!("{local}@{domain}"))
}

fn is_over(certificate: &CertificateDer<'_>) -> bool {
    pem::parse(certificate).is_some_and(|it| pem::ends(&it) < pem::seconds_since_epoch())
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    use super::*;

    /// Two common names, where there is a second.
    fn certificate(
        names: Vec<SanType>,
        common_name: impl Into<DnValue>,
        second: Option<&str>,
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        if let Some(second) = second {
            let also = DnType::CustomDnType(vec![2, 5, 4, 3]);
            params.distinguished_name.push(also, second);
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().into()
    }

    /// The attack: one authority, and a name that is read in another way here than where it was looked at.
    #[test]
    fn a_common_name_is_read_in_one_way_only() {
        let read = |certificate| name(CertificateName::SubjectCn, &certificate);
        let plain = |text: &str| certificate(Vec::new(), text, None);
        assert_eq!(read(plain("scott")), Ok("scott".to_owned()));
        assert_eq!(read(plain("jürgen")), Ok("jürgen".to_owned()));
        let printable = DnValue::PrintableString("scott".try_into().unwrap());
        assert_eq!(
            read(certificate(Vec::new(), printable, None)),
            Ok("scott".to_owned())
        );
        for odd in [
            DnValue::TeletexString("scott".try_into().unwrap()),
            DnValue::BmpString("scott".try_into().unwrap()),
            DnValue::UniversalString("scott".try_into().unwrap()),
        ] {
            let shown = format!("{odd:?}");
            let odd = certificate(Vec::new(), odd, None);
            assert_eq!(read(odd), Err(NoName::Unreadable), "{shown}");
        }
        let two = certificate(Vec::new(), "scott", Some("root"));
        assert_eq!(read(two), Err(NoName::NotOne));
        // A PrintableString, an IA5String and a NumericString that hold what they cannot.
        for tag in [0x13, 0x16, 0x12] {
            let mut der = plain("jürgen").to_vec();
            let head = [0x0c, 7, b'j'];
            let at = der.windows(3).rposition(|it| it == head).unwrap();
            der[at] = tag;
            assert_eq!(read(der.into()), Err(NoName::Unreadable), "{tag}");
        }
        let mut der = plain("scott").to_vec();
        let at = der.windows(5).rposition(|it| it == b"scott").unwrap();
        der[at] = 0xff;
        assert_eq!(read(der.into()), Err(NoName::Unreadable));
    }

    /// One host or mailbox has one spelling, and a name of many is nobody's.
    #[test]
    fn alternative_names_have_one_spelling() {
        let check = |wanted, text: &str, expected: Option<&str>| {
            let ascii = text.try_into().unwrap();
            let san = match wanted {
                CertificateName::SanDns => SanType::DnsName(ascii),
                CertificateName::SanEmail => SanType::Rfc822Name(ascii),
                CertificateName::SanUri | CertificateName::SubjectCn => SanType::URI(ascii),
            };
            let got = name(wanted, &certificate(vec![san], "root", None));
            let expected = expected.map(str::to_owned).ok_or(NoName::Odd);
            assert_eq!(got, expected, "{text}");
        };
        let dns = |text, expected| check(CertificateName::SanDns, text, expected);
        dns("Mail.Example.COM", Some("mail.example.com"));
        dns("xn--bcher-kva.example", Some("xn--bcher-kva.example"));
        dns("_a-1", Some("_a-1"));
        for odd in [
            "*.example.com",
            "example.com.",
            ".example.com",
            "a..b",
            "",
            "a b",
            "a\0b",
        ] {
            dns(odd, None);
        }
        let mail = |text, expected| check(CertificateName::SanEmail, text, expected);
        mail("Scott@Example.COM", Some("Scott@example.com"));
        for odd in [
            "scott",
            "@example.com",
            "scott@",
            "a@b@c",
            "scott@*.com",
            "scott@a.",
            "",
        ] {
            mail(odd, None);
        }
        check(
            CertificateName::SanUri,
            "urn:Mailer:7",
            Some("urn:Mailer:7"),
        );
        // An alternative name that is no IA5String.
        let san = SanType::DnsName("abc.example".try_into().unwrap());
        let mut der = certificate(vec![san], "root", None).to_vec();
        let at = der.windows(3).position(|it| it == b"abc").unwrap();
        der[at..at + 2].copy_from_slice("ü".as_bytes());
        let read = name(CertificateName::SanDns, &der.into());
        assert_eq!(read, Err(NoName::Unreadable));
    }
}
