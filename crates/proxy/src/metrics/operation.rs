//! Connections, Redis, reloads and certificates.

use std::time::{SystemTime, UNIX_EPOCH};

use gatepost_config::Listen;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::registered;

/// Connections of clients, and whether there should be more of them.
#[derive(Clone)]
pub(crate) struct ConnectionMetrics {
    pub(crate) ready: IntGauge,
    pub(crate) open: IntGauge,
    pub(crate) http2: IntGauge,
    pub(crate) handshakes_failed: IntCounter,
}

impl ConnectionMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| registered(registry, IntGauge::new(name, help)?);
        let failed = IntCounter::new(
            "gatepost_tls_handshakes_failed_total",
            "Connections that ended before there was TLS",
        )?;
        Ok(Self {
            ready: gauge(
                "gatepost_ready",
                "1 where clients should be sent here, 0 from the moment on in which it was told to stop",
            )?,
            open: gauge("gatepost_connections", "Client connections that are open")?,
            http2: gauge(
                "gatepost_http2_connections",
                "Client connections that are open and speak HTTP/2",
            )?,
            handshakes_failed: registered(registry, failed)?,
        })
    }
}

/// How the throttle of failures fares with Redis.
#[derive(Clone)]
pub(crate) struct ThrottleMetrics {
    pub(crate) redis_up: IntGauge,
    pub(crate) untold: IntCounter,
}

impl ThrottleMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let up = IntGauge::new(
            "gatepost_throttle_redis_up",
            "0 where the throttle is to be shared through Redis and cannot be, else 1",
        )?;
        up.set(1);
        let untold = IntCounter::new(
            "gatepost_throttle_untold_total",
            "Wrong credentials that other replicas could not be told of",
        )?;
        Ok(Self {
            redis_up: registered(registry, up)?,
            untold: registered(registry, untold)?,
        })
    }
}

/// How quotas fare with Redis.
#[derive(Clone)]
pub(crate) struct QuotaMetrics {
    pub(crate) redis_up: IntGauge,
    pub(crate) refunds_in_flight: IntGauge,
    pub(crate) refunds_lost: IntCounter,
}

impl QuotaMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let up = IntGauge::new(
            "gatepost_quota_redis_up",
            "0 where quotas are to be counted together through Redis and cannot be, else 1",
        )?;
        up.set(1);
        let in_flight = IntGauge::new(
            "gatepost_quota_refunds_in_flight",
            "Refunds that Redis is being told of",
        )?;
        let lost = IntCounter::new(
            "gatepost_quota_refunds_lost_total",
            "Refunds that Redis could not be told of, so that replicas count too much",
        )?;
        Ok(Self {
            redis_up: registered(registry, up)?,
            refunds_in_flight: registered(registry, in_flight)?,
            refunds_lost: registered(registry, lost)?,
        })
    }
}

/// What came of reloads.
#[derive(Clone)]
pub(crate) struct ReloadMetrics {
    pub(crate) total: IntCounterVec,
    pub(crate) success: IntGauge,
    pub(crate) time: IntGauge,
}

impl ReloadMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| registered(registry, IntGauge::new(name, help)?);
        let total = Opts::new(
            "gatepost_reloads_total",
            "Reloads of configuration and policy, by result",
        );
        let metrics = Self {
            total: registered(registry, IntCounterVec::new(total, &["result"])?)?,
            success: gauge(
                "gatepost_reload_success",
                "1 where the last reload went well, 0 where it failed and the old goes on",
            )?,
            time: gauge(
                "gatepost_reload_timestamp_seconds",
                "When configuration and policy were last loaded, in Unix time",
            )?,
        };
        for result in ["success", "failure"] {
            // There from the start, so that the first failure is a change.
            metrics.total.with_label_values(&[result]);
        }
        metrics.loaded();
        Ok(metrics)
    }

    pub(crate) fn note(&self, good: bool) {
        let result = if good { "success" } else { "failure" };
        self.total.with_label_values(&[result]).inc();
        if good {
            self.loaded();
        } else {
            self.success.set(0);
        }
    }

    pub(crate) fn loaded(&self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.success.set(1);
        self.time
            .set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
}

/// gatepost's own certificates.
#[derive(Clone)]
pub(crate) struct CertificateMetrics {
    pub(crate) expiry: IntGaugeVec,
}

impl CertificateMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let expiry = Opts::new(
            "gatepost_tls_certificate_expiry_timestamp_seconds",
            "When the certificate of a listener ends, in Unix time",
        );
        Ok(Self {
            expiry: registered(registry, IntGaugeVec::new(expiry, &["listener"])?)?,
        })
    }

    pub(crate) fn note(&self, listener: &Listen, ends: i64) {
        let listener = listener.to_string();
        self.expiry.with_label_values(&[&listener]).set(ends);
    }
}

/// What becomes of spans.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "otlp"),
    expect(dead_code, reason = "nobody makes spans then")
)]
pub(crate) struct SpanMetrics {
    pub(crate) exported: IntCounter,
    pub(crate) lost: IntCounter,
}

impl SpanMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help| registered(registry, IntCounter::new(name, help)?);
        Ok(Self {
            exported: counter(
                "gatepost_spans_exported_total",
                "Spans that the collector has taken",
            )?,
            lost: counter(
                "gatepost_spans_lost_total",
                "Spans that the collector has not taken, or not in time",
            )?,
        })
    }
}
