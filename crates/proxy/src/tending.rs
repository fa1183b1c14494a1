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

use crate::addresses::{Resolved, host_to_resolve};
use crate::endpoints::{Endpoint, Endpoints};
use crate::names::{self, NoAnswer};
use crate::snapshot::Snapshot;

/// How often it is looked whether anything is to be done. A reload may bring another upstream at any time.
const LOOK: Duration = Duration::from_millis(100);

/// How long a name that could not be resolved is left alone.
const PAUSE: Duration = Duration::from_secs(5);

/// How long name servers have to say that there is no such name, before it has no addresses. Somebody else may have them by then.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// Goes on for ever. The two do not wait for each other: name servers that do not answer hold up no check.
pub(crate) async fn tend(snapshot: Arc<ArcSwap<Snapshot>>, resolutions: IntCounterVec) {
    let mut names = Names {
        resolutions,
        generation: 0,
        known: HashMap::new(),
    };
    let resolving = async {
        loop {
            let current = snapshot.load_full();
            names.resolve(&current).await;
            drop(current);
            sleep(LOOK).await;
        }
    };
    let checking = async {
        // Made when it is needed: it reads the system's certificates.
        let mut connector = None;
        let mut last = None;
        loop {
            let current = snapshot.load_full();
            let endpoints = current.upstream.endpoints();
            if let Some(check) = &endpoints.balancing.health_check
                && last.is_none_or(|it: Instant| it.elapsed() >= check.interval)
            {
                last = Some(Instant::now());
                let connector = connector.get_or_insert_with(|| Arc::new(Connector::new(None)));
                check_all(connector, endpoints, check).await;
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
    /// Of the snapshot that was told of what is known.
    generation: u64,
    known: HashMap<UpstreamAddress, Name>,
}

struct Name {
    /// When it is asked for again.
    due: Instant,
    /// Since when there is no such name.
    gone: Option<Instant>,
    failing: bool,
}

impl Names {
    async fn resolve(&mut self, snapshot: &Snapshot) {
        let endpoints = snapshot.upstream.endpoints();
        let names = endpoints.names();
        if self.generation != snapshot.generation {
            // A reload took over what was known to the one before, which may have learned more since.
            self.generation = snapshot.generation;
            self.known
                .values_mut()
                .for_each(|it| it.due = Instant::now());
        }
        for Resolved { configured, .. } in names {
            let Some(host) = host_to_resolve(&configured) else {
                continue;
            };
            let known = self.known.entry(configured.clone()).or_insert(Name {
                // Who resolved it at the start or the reload did not say how long that holds.
                due: Instant::now(),
                gone: None,
                failing: false,
            });
            if Instant::now() < known.due {
                continue;
            }
            let found = names::lookup(host, &endpoints.balancing.nameservers).await;
            let result = known.learned(&configured, &found, endpoints, Instant::now());
            let is_known = found.is_ok() && result.is_ok();
            let word = if is_known { "success" } else { "failure" };
            self.resolutions.with_label_values(&[word]).inc();
            match &result {
                Ok(true) if is_known => {
                    let addresses = endpoints.list().len();
                    tracing::info!(host, addresses, "the upstream's addresses have changed");
                }
                Ok(_) if is_known && known.failing => {
                    tracing::info!(host, "the name is resolved again")
                }
                Err(fault) if !known.failing => tracing::error!(
                    host,
                    fault,
                    "the upstream's name cannot be resolved; its addresses from before go on"
                ),
                Ok(_) | Err(_) => {}
            }
            known.failing = !is_known;
        }
    }
}

impl Name {
    /// Whether that changed anything.
    fn learned(
        &mut self,
        configured: &UpstreamAddress,
        found: &Result<names::Answer, NoAnswer>,
        endpoints: &Endpoints,
        now: Instant,
    ) -> Result<bool, String> {
        let none = *found == Err(NoAnswer::None);
        self.gone = none.then(|| self.gone.unwrap_or(now));
        self.due = found.as_ref().map_or(now + PAUSE, |it| it.until);
        let is_gone = self
            .gone
            .is_some_and(|it| now.saturating_duration_since(it) >= GONE_AFTER);
        let resolved = match found {
            Ok(answer) => Resolved::new(configured.clone(), answer),
            Err(NoAnswer::None) if is_gone => Resolved {
                configured: configured.clone(),
                targets: Vec::new(),
            },
            Err(fault) => return Err(fault.to_string()),
        };
        let changed = endpoints.renamed(resolved).map_err(|it| it.to_string())?;
        if none && changed {
            let host = host_to_resolve(configured);
            tracing::error!(
                host,
                "there is no such name any more, so its addresses are not asked"
            );
        }
        Ok(changed)
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
    let status = loop {
        session.read_response_header().await?;
        let status = session.response_header().map(|it| it.status);
        if !status.is_some_and(|it| it.is_informational()) {
            break status.map(|it| it.as_u16());
        }
    };
    match status {
        Some(200..400) => Ok(()),
        Some(other) => Error::e_explain(HTTPStatus(other), "no good answer"),
        None => Error::e_explain(ConnectRefused, "no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{endpoints, tcp};
    use std::net::IpAddr;

    /// A name server that does not answer says nothing about where the MTA is. One that says that there is no MTA is believed after a while:
    /// its addresses may be somebody else's by then.
    #[test]
    fn a_name_that_is_gone_has_no_addresses_after_a_while() {
        let configured = UpstreamAddress::Tcp {
            host: "mta.test".to_owned(),
            port: 80,
        };
        let start = Instant::now();
        let ip: IpAddr = [10, 0, 0, 1].into();
        let answer = names::Answer {
            addresses: vec![ip],
            until: start,
        };
        let resolved = Resolved::new(configured.clone(), &answer);
        let endpoints = endpoints(vec![resolved, tcp(1)], |_| {});
        let mut name = Name {
            due: start,
            gone: None,
            failing: false,
        };
        let at = |seconds| start + Duration::from_secs(seconds);
        let unknown = || Err(NoAnswer::Unknown("no".to_owned()));
        for (seconds, found, good, left) in [
            (0, unknown(), false, 2),
            (40, unknown(), false, 2),
            (80, Err(NoAnswer::None), false, 2),
            (100, Err(NoAnswer::None), false, 2),
            (105, unknown(), false, 2),
            (111, Err(NoAnswer::None), false, 2),
            (140, Err(NoAnswer::None), false, 2),
            (141, Err(NoAnswer::None), true, 1),
            (150, Err(NoAnswer::None), true, 1),
            (160, Ok(answer), true, 2),
        ] {
            let result = name.learned(&configured, &found, &endpoints, at(seconds));
            assert_eq!(
                (result.is_ok(), endpoints.list().len()),
                (good, left),
                "{seconds}"
            );
        }
    }
}
