//! TLS towards the upstream: whom to believe that it is the upstream, and what it sees of gatepost.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;

use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::ServerName;

use crate::pem::{self, KeyPair};

/// Ready for connections.
pub(crate) struct UpstreamTls {
    /// The name that every address has to have; otherwise its own host.
    server_name: Option<String>,
    authorities: Option<Arc<[WrappedX509]>>,
    client: Option<Arc<CertKey>>,
    verify: bool,
    /// Differs where anything of this does.
    fingerprint: u64,
}

impl UpstreamTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// What is wrong, with the file's name.
    pub(crate) fn load(settings: &gatepost_config::UpstreamTls) -> Result<Self, String> {
        let mut hasher = DefaultHasher::new();
        (settings.verify, &settings.ca).hash(&mut hasher);
        let authorities = settings.ca.as_ref().map(|path| {
            // What the library would only find out when it connects.
            pem::authorities(path)?;
            let certificates = pem::certificates(path)?;
            certificates.hash(&mut hasher);
            let wrapped = certificates
                .into_iter()
                .map(|it| WrappedX509::new(it.to_vec(), parse_x509));
            Ok::<Arc<[_]>, String>(wrapped.collect())
        });
        let authorities = authorities.transpose()?;
        let client = settings.client.as_ref().map(|(certificate, key)| {
            let pair = KeyPair::read(certificate, key)?;
            for warning in pem::warnings(certificate, key, &pair.end()) {
                tracing::warn!("{warning}");
            }
            pair.chain.hash(&mut hasher);
            let chain = pair.chain.iter().map(|it| it.to_vec()).collect();
            let key = pair.key.secret_der().to_vec();
            Ok::<_, String>(Arc::new(CertKey::new(chain, key)))
        });
        let client = client.transpose()?;
        Ok(Self {
            server_name: settings.server_name.clone(),
            authorities,
            client,
            verify: settings.verify,
            fingerprint: hasher.finish(),
        })
    }

    /// The upstream at this address of this host.
    ///
    /// # Errors
    ///
    /// Where no certificate could hold its name.
    pub(crate) fn peer(&self, address: SocketAddr, host: &str) -> Result<HttpPeer, String> {
        // The dot of a whole name is not in certificates (RFC 6066 §3).
        let host = host.strip_suffix('.').unwrap_or(host);
        let name = self.server_name.as_deref().unwrap_or(host);
        // INVARIANT: not empty, and a valid name. The library verifies nothing where there is none.
        if ServerName::try_from(name).is_err() {
            return Err(format!("`{name}` is no name that a certificate could hold"));
        }
        let mut peer = HttpPeer::new(address, true, name.to_owned());
        peer.options.ca.clone_from(&self.authorities);
        peer.options.verify_cert = self.verify;
        peer.options.verify_hostname = self.verify;
        peer.client_cert_key.clone_from(&self.client);
        // A pooled connection that was verified by other authorities is not this upstream's.
        peer.group_key = self.fingerprint;
        Ok(peer)
    }
}
