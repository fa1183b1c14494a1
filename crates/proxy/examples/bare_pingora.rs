//! What gatepost is measured against: the smallest reverse proxy that the same pingora makes, with nothing around it.
//!
//! `bare_pingora --listen 127.0.0.1:PORT --upstream 127.0.0.1:PORT [--tls-certificate FILE --tls-private-key FILE]`
//!
//! Everything that is not set here is as pingora has it: one thread, its pool of upstream connections, no log. It says
//! `listening on ADDRESS` when it accepts, and ends at once on SIGINT (on SIGTERM only after pingora's grace period of minutes).

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::Result;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

struct Arguments {
    listen: SocketAddr,
    upstream: SocketAddr,
    /// Files of the certificate and its key.
    tls: Option<(String, String)>,
}

impl Arguments {
    fn read(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut listen, mut upstream, mut certificate, mut key) = (None, None, None, None);
        while let Some(name) = given.next() {
            let place = match name.as_str() {
                "--listen" => &mut listen,
                "--upstream" => &mut upstream,
                "--tls-certificate" => &mut certificate,
                "--tls-private-key" => &mut key,
                _ => return Err(format!("unknown argument `{name}`")),
            };
            let value = given.next();
            *place = Some(value.ok_or_else(|| format!("`{name}` needs a value"))?);
        }
        let address = |name: &str, given: Option<String>| {
            let given = given.ok_or_else(|| format!("`{name}` is missing"))?;
            let address = given.parse::<SocketAddr>();
            address.map_err(|_| format!("`{given}` is no address with a port"))
        };
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err("a certificate and its key belong together".to_owned());
            }
        };
        Ok(Self {
            listen: address("--listen", listen)?,
            upstream: address("--upstream", upstream)?,
            tls,
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments {
        listen,
        upstream,
        tls,
    } = Arguments::read(std::env::args().skip(1))?;
    // The library would try for half a minute and then panic.
    drop(std::net::TcpListener::bind(listen).map_err(|fault| format!("{listen}: {fault}"))?);

    let mut server = Server::new_with_opt_and_conf(None, ServerConf::default());
    server.bootstrap();
    let mut proxy = http_proxy_service(&server.configuration, Bare { upstream });
    let application = proxy.app_logic_mut().ok_or("a proxy has its application")?;
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    application.server_options = Some(options);
    if let Some((certificate, key)) = tls {
        let mut settings = TlsSettings::intermediate(&certificate, &key)?;
        settings.enable_h2();
        proxy.add_tls_with_settings(&listen.to_string(), None, settings);
    } else {
        proxy.add_tcp(&listen.to_string());
    }
    server.add_service(proxy);
    thread::spawn(move || say_when_it_accepts(listen));
    server.run_forever();
}

/// The library does not say it.
fn say_when_it_accepts(listen: SocketAddr) {
    for _ in 0..1000 {
        if TcpStream::connect(listen).is_ok() {
            // Nobody may be reading it.
            let _ = writeln!(std::io::stdout(), "listening on {listen}");
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
