//! Looks after the upstream's addresses: asks for names again, and asks every address whether it is well. Runs on a thread of
//! its own, beside all requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gatepost_config::{HealthCheck, UpstreamAddress};
use pingora_core::connectors::http::Connector;
use pingora_error::ErrorType::{ConnectRefused, HTTPStatus};
use pingora_error::{Error, Result};
use pingora_http::RequestHeader;
use prometheus::IntCounterVec;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::endpoints::{Endpoint, Endpoints, Resolved, host_to_resolve};
use crate::names;
use crate::snapshot::Snapshot;

/// How often it is looked whether anything is to be done. A reload may bring another upstream at any time.
const LOOK: Duration = Duration::from_millis(100);

/// How long a name that could not be resolved is left alone.
const PAUSE: Duration = Duration::from_secs(5);

/// Goes on for ever. The two do not wait for each other: name servers that do not answer hold up no check.
pub(crate) async fn tend(snapshot: Arc<ArcSwap<Snapshot>>, resolutions: IntCounterVec) {
    let mut names = Names {
        resolutions,
        known: HashMap::new(),
    };
    let resolving = async {
        loop {
            let current = snapshot.load_full();
            names.resolve(current.upstream.endpoints()).await;
            drop(current);
            sleep(LOOK).await;
        }
    };
    let connector = Arc::new(Connector::new(None));
    let checking = async {
        let mut last = None;
        loop {
            let current = snapshot.load_full();
            let endpoints = current.upstream.endpoints();
            if let Some(check) = &endpoints.balancing.health_check
                && last.is_none_or(|it: Instant| it.elapsed() >= check.interval)
            {
                last = Some(Instant::now());
                check_all(&connector, endpoints, check).await;
            }
            drop(current);
            sleep(LOOK).await;
        }
    };
    tokio::join!(resolving, checking);
}

/// The names of the upstream's addresses, from one snapshot to the next.
struct Names {
    resolutions: IntCounterVec,
    known: HashMap<UpstreamAddress, Name>,
}

struct Name {
    /// When it is asked for again.
    due: Instant,
    failing: bool,
}

impl Names {
    async fn resolve(&mut self, endpoints: &Endpoints) {
        let names = endpoints.names();
        // What is not configured any more is asked for anew when it comes back.
        self.known
            .retain(|known, _| names.iter().any(|it| it.configured == *known));
        for Resolved { configured, .. } in names {
            let Some(host) = host_to_resolve(&configured) else {
                continue;
            };
            let now = Instant::now();
            let known = self.known.entry(configured.clone()).or_insert(Name {
                // Who resolved it at the start or the reload did not say how long that holds.
                due: now,
                failing: false,
            });
            if now < known.due {
                continue;
            }
            let found = names::lookup(host, &endpoints.balancing.nameservers).await;
            let result = match found {
                Ok(answer) => {
                    known.due = answer.until;
                    let resolved = Resolved::new(configured.clone(), &answer);
                    endpoints.renamed(resolved).map_err(|it| it.to_string())
                }
                Err(fault) => {
                    known.due = Instant::now() + PAUSE;
                    Err(fault)
                }
            };
            let word = if result.is_ok() { "success" } else { "failure" };
            self.resolutions.with_label_values(&[word]).inc();
            match result {
                Ok(true) => {
                    let addresses = endpoints.list().len();
                    tracing::info!(host, addresses, "the upstream's addresses have changed");
                }
                Ok(false) if known.failing => tracing::info!(host, "the name is resolved again"),
                Err(fault) if !known.failing => tracing::error!(
                    host,
                    fault,
                    "the upstream's name cannot be resolved; its addresses from before go on"
                ),
                Ok(false) | Err(_) => {}
            }
            known.failing = word == "failure";
        }
    }
}

/// All addresses at once, so that one that hangs holds up no other.
async fn check_all(connector: &Arc<Connector>, endpoints: &Endpoints, check: &HealthCheck) {
    let mut checks = JoinSet::new();
    for endpoint in endpoints.list().iter().cloned() {
        let (connector, check) = (connector.clone(), check.clone());
        checks.spawn(async move {
            let asked = timeout(check.timeout, ask(&connector, &endpoint, &check)).await;
            let result = match asked {
                Ok(answered) => answered.map_err(|fault| fault.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            let result = result.map_err(|fault| format!("health check: {fault}"));
            endpoint.tell(endpoint.health.checked(&check, result));
        });
    }
    while checks.join_next().await.is_some() {}
}

/// On a connection of its own: whether a new one can be made is part of the question.
async fn ask(connector: &Connector, endpoint: &Endpoint, check: &HealthCheck) -> Result<()> {
    let peer = endpoint.peer_for_check(check.timeout);
    let (mut session, _) = connector.get_http_session(&peer).await?;
    let mut request = RequestHeader::build("GET", check.path.as_bytes(), Some(3))?;
    request.insert_header("Host", endpoint.host.clone())?;
    request.insert_header("User-Agent", "gatepost health check")?;
    request.insert_header("Connection", "close")?;
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map(|it| it.status.as_u16());
    match status {
        Some(200..400) => Ok(()),
        Some(other) => Error::e_explain(HTTPStatus(other), "no good answer"),
        None => Error::e_explain(ConnectRefused, "no answer"),
    }
}
