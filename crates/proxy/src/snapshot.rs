//! Everything that a request needs and a reload may replace, as one immutable value.

use std::sync::Arc;
use std::time::Duration;

use gatepost_auth::{Gate, Secret};
use gatepost_config::{Audit, Http, Quotas, Settings, Throttle};
use gatepost_policy::Policy;
use http::HeaderValue;

use crate::addresses::{Manner, Resolved};
use crate::endpoints::Endpoints;
use crate::forward::Upstream;
use crate::server::StartError;
use crate::status::{Shown, shown};
use crate::telling::Telling;
use crate::tls::ServerTls;
use crate::traces::Traces;
use crate::upstream_tls::UpstreamTls;

/// INVARIANT: a request takes one snapshot at its beginning and uses no other, so it never sees the
/// routes of one configuration and the policy of another.
pub(crate) struct Snapshot {
    pub(crate) gate: Gate,
    pub(crate) policy: Arc<Policy>,
    /// Asked the same, without effect.
    pub(crate) shadow: Option<Arc<Policy>>,
    pub(crate) upstream: Upstream,
    /// The TLS of every listener that is open, in their order.
    pub(crate) listeners: Vec<Option<Arc<ServerTls>>>,
    pub(crate) http: Http,
    pub(crate) throttle: Throttle,
    pub(crate) audit: Audit,
    pub(crate) quotas: Quotas,
    /// Spans, where they are wanted.
    pub(crate) traces: Option<Traces>,
    /// What the admin listener asks for.
    pub(crate) admin_token: Option<Secret>,
    /// Counts the snapshots, from 1.
    pub(crate) generation: u64,
    pub(crate) drain_delay: Duration,
    pub(crate) drain_timeout: Duration,
    /// The ready value of `WWW-Authenticate`.
    pub(crate) challenge: HeaderValue,
    /// The configuration, as far as it may be seen.
    pub(crate) shown: Vec<Shown>,
}

impl Snapshot {
    /// The TLS of a listener, where it has any.
    pub(crate) fn tls(&self, listener: usize) -> Option<&Arc<ServerTls>> {
        self.listeners.get(listener)?.as_ref()
    }

    pub(crate) fn new(
        settings: &Settings,
        policies: (Policy, Option<Policy>),
        (resolved, running): (Vec<Resolved>, Option<&Self>),
        listeners: Vec<Option<Arc<ServerTls>>>,
        generation: u64,
    ) -> Result<Self, StartError> {
        let upstream = &settings.upstream;
        let tls = upstream.tls.as_ref().map(UpstreamTls::load).transpose();
        let manner = Manner {
            connect_timeout: upstream.connect_timeout,
            response_timeout: upstream.response_timeout,
            idle_timeout: upstream.idle_timeout,
            tls: tls.map_err(StartError::Certificate)?,
        };
        let running = running.map(|it| it.upstream.endpoints());
        let balancing = upstream.balancing.clone();
        let endpoints = Endpoints::new(resolved, manner, balancing, running)?;
        let telling = Telling::new(upstream);
        Ok(Self {
            listeners,
            gate: settings.gate.clone(),
            policy: Arc::new(policies.0),
            shadow: policies.1.map(Arc::new),
            upstream: Upstream::new(endpoints, telling, upstream.total_timeout),
            http: settings.http,
            throttle: settings.throttle.clone(),
            audit: settings.audit.clone(),
            quotas: settings.quotas.clone(),
            traces: None,
            admin_token: settings.admin.as_ref().and_then(|it| it.token.clone()),
            generation,
            shown: shown(settings),
            drain_delay: settings.drain_delay,
            drain_timeout: settings.drain_timeout,
            challenge: HeaderValue::from_str(&settings.gate.challenge())
                .map_err(|fault| StartError::Internal(fault.to_string()))?,
        })
    }
}
