//! Authorities, certificates and a TLS client for the tests: `curl` speaks as clients do, this one tells more.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use crate::harness::PATIENCE;

/// Somebody who vouches for others.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What a certificate says beside its key.
#[derive(Default)]
pub(crate) struct Says<'a> {
    pub(crate) common_name: &'a str,
    pub(crate) names: Vec<SanType>,
    pub(crate) over: Over,
}

/// When a certificate is over.
#[derive(Default)]
pub(crate) enum Over {
    #[default]
    Never,
    Already,
    In(Duration),
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "tests' own");
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// For a server on loopback.
    pub(crate) fn server(&self) -> Pair {
        self.server_until(Over::Never)
    }

    pub(crate) fn server_until(&self, over: Over) -> Pair {
        self.sign(Says {
            names: vec![
                SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
                SanType::DnsName("mta.test".try_into().unwrap()),
            ],
            over,
            ..Says::default()
        })
    }

    /// Somebody for whom this one vouches.
    pub(crate) fn intermediate(&self) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params
            .distinguished_name
            .push(DnType::CommonName, "between");
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// For a client whose common name is this.
    pub(crate) fn client(&self, common_name: &str) -> Pair {
        self.sign(Says {
            common_name,
            ..Says::default()
        })
    }

    pub(crate) fn sign(&self, says: Says<'_>) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        if !says.common_name.is_empty() {
            params
                .distinguished_name
                .push(DnType::CommonName, says.common_name);
        }
        params.subject_alt_names = says.names;
        // As public authorities have it (RFC 5280 §4.2); strict clients ask for both.
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        match says.over {
            Over::Never => {}
            Over::Already => params.not_after = date_time_ymd(2021, 1, 1),
            Over::In(time) => {
                let now = date_time_ymd(1970, 1, 1) + now;
                params.not_before = now - Duration::from_secs(3600);
                params.not_after = now + time;
            }
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair {
            certificate,
            key: key.serialize_pem(),
        }
    }
}

impl Pair {
    /// What a handshake shows.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    /// Writes both, as curl and gatepost take them.
    pub(crate) fn write(&self, folder: &Path, name: &str) {
        std::fs::write(folder.join(format!("{name}.pem")), &self.certificate).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), &self.key).unwrap();
    }
}

/// A client that trusts one authority.
#[derive(Clone)]
pub(crate) struct Client(Arc<ClientConfig>);

impl Client {
    pub(crate) fn new(authority: &Authority, own: Option<&Pair>) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![own.der()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        Self(Arc::new(config))
    }

    /// The same, but it wants HTTP/2.
    pub(crate) fn http2(&self) -> Self {
        self.speaking("h2")
    }

    /// The same, but it speaks this protocol and no other.
    pub(crate) fn speaking(&self, protocol: &str) -> Self {
        let mut config = (*self.0).clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Self(Arc::new(config))
    }

    /// What it begins with towards a server of this name.
    pub(crate) fn hello(&self, name: &'static str) -> Vec<u8> {
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(self.0.clone(), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    /// Connects, with these bytes before the handshake.
    pub(crate) fn connect(&self, to: SocketAddr, before: &[u8]) -> std::io::Result<TlsConnection> {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let client = ClientConnection::new(self.0.clone(), name).unwrap();
        let mut tcp = TcpStream::connect(to)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.write_all(before)?;
        let mut stream = StreamOwned::new(client, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(TlsConnection(stream, false))
    }
}

/// And whether the server has said goodbye by GOAWAY; it may do so before its last answer.
pub(crate) struct TlsConnection(StreamOwned<ClientConnection, TcpStream>, bool);

impl TlsConnection {
    /// For what asks otherwise than [`TlsConnection::ask`].
    pub(crate) fn into_stream(self) -> StreamOwned<ClientConnection, TcpStream> {
        self.0
    }

    /// What is below.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.0.sock
    }

    /// The server's certificate.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().unwrap()[0].clone()
    }

    /// Whether the server says that it ends, rather than just going away.
    pub(crate) fn is_ended(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }

    /// One GET of /open over HTTP/2 on a stream of this number (RFC 9113 §6). Gives the block of fields of its answer, which begins with the
    /// status.
    pub(crate) fn ask_http2(&mut self, stream: u32) -> std::io::Result<Vec<u8>> {
        if stream == 1 {
            self.0
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
        }
        let mut frame = vec![0, 0, 15, 1, 5];
        frame.extend(stream.to_be_bytes());
        frame.extend(b"\x82\x87\x04\x05/open\x01\x04gate");
        self.0.write_all(&frame)?;
        let mut fields = Vec::new();
        loop {
            let (kind, flags, payload) = self.frame()?;
            if kind == 1 {
                fields.clone_from(&payload);
            }
            if kind < 2 && flags & 1 != 0 {
                return Ok(fields);
            }
        }
    }

    /// Whether the server says by GOAWAY that it takes no more, and ends.
    pub(crate) fn goes_away(&mut self) -> bool {
        loop {
            if self.1 {
                // What it still waits for: that its client has heard of it.
                let _ = self.0.sock.shutdown(std::net::Shutdown::Write);
            }
            if self.frame().is_err() {
                return self.1;
            }
        }
    }

    /// One frame of HTTP/2: kind, flags, payload. What wants an acknowledgement gets one.
    fn frame(&mut self) -> std::io::Result<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload)?;
        let (kind, flags) = (head[3], head[4]);
        self.1 |= kind == 7;
        if flags & 1 == 0 && kind == 4 {
            self.0.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0])?;
        } else if flags & 1 == 0 && kind == 6 {
            let head = [0, 0, 8, 6, 1, 0, 0, 0, 0];
            self.0.write_all(&[&head[..], &payload].concat())?;
        }
        Ok((kind, flags, payload))
    }

    /// Says that nothing more will be sent, in the words of TLS and of TCP.
    pub(crate) fn finish(&mut self) {
        self.0.conn.send_close_notify();
        self.0.conn.complete_io(&mut self.0.sock).unwrap();
        self.0.sock.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Everything until the server says that it ends; an error where it just goes away.
    pub(crate) fn until_ended(&mut self) -> std::io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.0.read_to_end(&mut all)?;
        Ok(all)
    }

    /// One request; the status of its answer, whose body is read.
    pub(crate) fn ask(&mut self, request: &str) -> std::io::Result<u16> {
        self.0.write_all(request.as_bytes())?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let read = self.0.read(&mut buffer)?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap_or("0");
                let length = length.lines().next().unwrap().parse::<usize>().unwrap();
                if body.len() >= length {
                    return Ok(head[9..12].parse().unwrap());
                }
            }
        }
    }
}

impl std::io::Read for TlsConnection {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl std::io::Write for TlsConnection {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// A server that answers one request on each connection with 200, if it gets that far. Gives its address.
pub(crate) fn serve(own: &Pair) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der()], key)
        .unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            let server = ServerConnection::new(config.clone()).unwrap();
            thread::spawn(move || {
                let mut stream = StreamOwned::new(server, tcp);
                let mut head = [0; 4096];
                // A client that does not believe it breaks off.
                if stream.read(&mut head).is_ok() {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    let _ = stream.write_all(answer);
                }
            });
        }
    });
    address
}

/// Runs curl and gives its exit status and what it printed. The answer's status stands on the last line, with the HTTP
/// version before it.
pub(crate) fn curl(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new("curl")
        .current_dir(folder)
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--noproxy",
            "*",
        ])
        .args([
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version} %{http_code}",
        ])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text)
}
