//! Certificates and keys from PEM files, with what is wrong with one in words that name the file.
//!
//! They are read again at every reload, when whoever renews them may be half done, so nothing here takes a part
//! of a file for the whole.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// Larger files hold no certificates. The system's bundle of authorities has a quarter of this. In bytes.
const LONGEST: u64 = 1024 * 1024;

/// A certificate with its key, and those that vouch for it.
pub(crate) struct KeyPair {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) certified: Arc<CertifiedKey>,
}

impl KeyPair {
    /// Reads both, and tries them on each other.
    ///
    /// # Errors
    ///
    /// What is wrong, with the file's name.
    pub(crate) fn read(certificate: &Path, private_key: &Path) -> Result<Self, String> {
        let chain = certificates(certificate)?;
        let key = private_key_of(private_key)?;
        let signing = ring::sign::any_supported_type(&key).map_err(|fault| {
            format!("{}: the key cannot be used: {fault}", private_key.display())
        })?;
        let certified = CertifiedKey::new(chain.clone(), signing);
        certified.keys_match().map_err(|_| {
            format!(
                "{}: the key does not belong to the certificate in {}",
                private_key.display(),
                certificate.display()
            )
        })?;
        Ok(Self {
            chain,
            key,
            certified: Arc::new(certified),
        })
    }

    /// When the certificate is over, if it is over.
    pub(crate) fn expired(&self) -> Option<String> {
        let leaf = parse(self.chain.first()?)?;
        let validity = leaf.validity();
        (seconds_since_epoch() > validity.not_after.timestamp())
            .then(|| validity.not_after.to_string())
    }
}

/// All certificates of a file, at least one, each of them readable.
///
/// # Errors
///
/// What is wrong, with the file's name.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let mut chain = Vec::new();
    for (kind, der) in sections(path, &content(path)?)? {
        if kind == SectionKind::Certificate {
            let certificate = CertificateDer::from(der);
            // The proxy library takes it for granted that certificates can be read.
            if parse(&certificate).is_none() {
                return Err(format!("{shown}: one of the certificates cannot be read"));
            }
            chain.push(certificate);
        }
    }
    if chain.is_empty() {
        return Err(format!(
            "{shown} holds no certificate: expected PEM, `-----BEGIN CERTIFICATE-----`"
        ));
    }
    Ok(chain)
}

/// Those who may vouch for others.
///
/// # Errors
///
/// What is wrong, with the file's name.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|fault| format!("{}: {fault}", path.display()))?;
    }
    Ok(roots)
}

/// A certificate taken apart; `None` where it cannot be.
pub(crate) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
    rest.is_empty().then_some(parsed)
}

/// The time in which certificates count.
pub(crate) fn seconds_since_epoch() -> i64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.ok()
        .and_then(|it| i64::try_from(it.as_secs()).ok())
        .unwrap_or(i64::MAX)
}

fn private_key_of(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let shown = path.display();
    let bytes = content(path)?;
    let encrypted = [
        &b"BEGIN ENCRYPTED PRIVATE KEY"[..],
        b"Proc-Type: 4,ENCRYPTED",
    ];
    let holds = |words: &[u8]| bytes.windows(words.len()).any(|window| window == words);
    if encrypted.into_iter().any(holds) {
        return Err(format!(
            "{shown}: the key is encrypted, and nobody is there to give its passphrase: `openssl pkey -in OLD -out NEW` writes it plainly"
        ));
    }
    let key = sections(path, &bytes)?
        .into_iter()
        .find_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
    key.ok_or_else(|| {
        format!("{shown} holds no private key: expected PEM, `-----BEGIN PRIVATE KEY-----`")
    })
}

fn sections(path: &Path, bytes: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|fault| format!("{}: half-written, or no PEM: {fault}", path.display()))
}

fn content(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let cannot = |fault: std::io::Error| format!("cannot read {shown}: {fault}");
    // Asked first, since opening a named pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(cannot)?
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    if bytes.len() as u64 > LONGEST {
        return Err(format!("{shown} is larger than 1 MiB"));
    }
    Ok(bytes)
}
