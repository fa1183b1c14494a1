//! Certificates and keys from PEM files, with what is wrong with one in words that name the file.
//!
//! They are read again at every reload, when whoever renews them may be half done, so nothing here takes a part
//! of a file for the whole.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
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

    /// When the certificate ends.
    pub(crate) fn end(&self) -> End {
        let leaf = self.chain.first().and_then(parse);
        // Only readable certificates come here.
        leaf.map_or(
            End {
                time: 0,
                text: String::new(),
            },
            |leaf| End {
                time: ends(&leaf),
                text: leaf.validity().not_after.to_string(),
            },
        )
    }
}

/// When a certificate ends.
pub(crate) struct End {
    /// In Unix time.
    pub(crate) time: i64,
    /// For reading.
    text: String,
}

impl End {
    /// When it ended, if it has.
    pub(crate) fn past(&self) -> Option<&str> {
        (seconds_since_epoch() > self.time).then_some(&self.text)
    }

    /// In whole days.
    fn days(&self) -> i64 {
        (self.time - seconds_since_epoch()) / (24 * 60 * 60)
    }

    /// For `gatepost check`.
    pub(crate) fn line(&self, certificate: &Path) -> String {
        let (shown, days) = (certificate.display(), self.days());
        format!(
            "{shown}: the certificate ends at {}, in {days} days",
            self.text
        )
    }
}

/// Whoever renews certificates does it before this, so it has not been done. Let's Encrypt's hold 90 days and are renewed in the last 30.
const SHORT: i64 = 14;

/// What is not wrong and should not stay so.
pub(crate) fn warnings(certificate: &Path, private_key: &Path, end: &End) -> Vec<String> {
    let shown = certificate.display();
    let end = if let Some(when) = end.past() {
        Some(format!("{shown}: the certificate expired at {when}"))
    } else {
        (end.days() < SHORT).then(|| end.line(certificate))
    };
    let mode = std::fs::metadata(private_key).map_or(0, |it| it.permissions().mode());
    let readable = (mode & 0o004 != 0).then(|| {
        let shown = private_key.display();
        format!(
            "{shown}: everybody on this machine may read the key (mode {:04o}): `0640` leaves it to its owner and its group",
            mode & 0o7777
        )
    });
    end.into_iter().chain(readable).collect()
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

/// When the first of those ends that have not ended yet, in Unix time. What does not end, ends late.
pub(crate) fn next_end(chain: &[CertificateDer<'_>], now: i64) -> i64 {
    let ends = chain.iter().filter_map(|it| Some(ends(&parse(it)?)));
    ends.filter(|end| *end >= now).min().unwrap_or(i64::MAX)
}

/// The last second in which a certificate counts, in Unix time.
pub(crate) fn ends(certificate: &X509Certificate<'_>) -> i64 {
    certificate.validity().not_after.timestamp()
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
