//! The decision by itself, for `benches/decide.rs`: the real door of a real server, without its connections.
//!
//! Only with the feature `bench`, which no release has.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use gatepost_auth::address::Arrival;
use gatepost_auth::{Permit, Refusal};
use gatepost_policy::PolicyCounters;
use pingora_core::protocols::l4::stream::Stream;
use pingora_error::{Error, ErrorType::InvalidHTTPHeader, Result};
use pingora_proxy::{ProxyHttp as _, Session};
use tokio::net::UnixStream;

use crate::door::Door;
use crate::logging::LogControl;
use crate::reload::{Fingerprint, Loaded, Source};
use crate::server::{Build, Parts, Server, StartError};
use crate::way::{Way, carry};

/// What decides about requests.
pub struct Decisions(Door);

/// A request whose head has been parsed. It can be decided about again and again.
pub struct Request {
    session: Session,
    /// The client's end, kept so that the connection is open.
    _client: UnixStream,
}

impl Decisions {
    /// With these settings and this policy.
    ///
    /// # Errors
    ///
    /// As [`Server::bind`], by which it is made.
    pub fn new(loaded: Loaded, counters: Arc<PolicyCounters>) -> Result<Self, StartError> {
        Ok(Self(server(loaded, counters)?.into_door()))
    }

    /// What pingora and gatepost make of a head before the decision. To be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Where the head cannot be parsed.
    pub async fn request(head: &[u8], peer: IpAddr) -> Result<Request> {
        let bad = |why: &'static str| Error::explain(InvalidHTTPHeader, why);
        let (client, stream) = UnixStream::pair().map_err(|_| bad("no pair of sockets"))?;
        let mut stream = Stream::from(stream);
        if !carry(&mut stream, &Way::new(Arrival::direct(peer), 0)) {
            return Err(bad("its way cannot be noted"));
        }
        let mut session = Session::new_h1(Box::new(stream));
        session.as_mut().set_pipelined_prefix(BytesMut::from(head));
        if !session.as_mut().read_request().await? {
            return Err(bad("half a head"));
        }
        Ok(Request {
            session,
            _client: client,
        })
    }

    /// The whole decision, as the door takes it for every request.
    ///
    /// # Errors
    ///
    /// Why the request does not pass.
    pub async fn decide(&self, request: &mut Request) -> Result<Permit, Refusal> {
        let mut passage = self.0.new_ctx();
        self.0.decide(&mut request.session, &mut passage).await
    }
}

/// A server that nobody runs.
pub(crate) fn server(loaded: Loaded, counters: Arc<PolicyCounters>) -> Result<Server, StartError> {
    Server::bind(Parts {
        loaded,
        demo: None,
        fingerprint: Fingerprint::now(&Nothing),
        source: Box::new(Nothing),
        counters,
        log: Arc::new(Nothing),
        build: Build {
            version: "bench",
            revision: "bench",
        },
    })
}

/// Nothing is read again, and nobody asks for the log.
struct Nothing;

impl Source for Nothing {
    fn load(&self) -> Result<Loaded, String> {
        Err("there is nothing to be read again".to_owned())
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

impl LogControl for Nothing {
    fn level(&self) -> String {
        "off".to_owned()
    }

    fn set_level(&self, _level: &str) -> Result<(), String> {
        Ok(())
    }

    fn lost(&self) -> u64 {
        0
    }
}
