//! Spans for an OpenTelemetry collector, made of finished [`Record`]s.
//!
//! The SDK's tracer and span processors stay out: a record knows everything already, a second source of truth would differ from it one day,
//! and they do not say how many spans they lose. What is used of OpenTelemetry is its sampler, its ids, and its exporter. A thread
//! hands spans to that; requests put theirs into a queue, and where it is full they are lost and counted.

mod span;

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::{SpanKind, TraceId};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _, SpanData,
    SpanExporter as _,
};
use reqwest::redirect::Policy as Redirects;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use crate::metrics::SpanMetrics;
use crate::record::Record;
use crate::trace::Link;

/// Requests whose spans may wait. With four spans each of a kilobyte or two, that is less than 8 MiB.
const WAITING: usize = 1024;

/// Spans that go out together, at most; the SDK's default.
const BATCH: usize = 512;

/// How long the first of them waits for others.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the collector may take.
const TIME: Duration = Duration::from_secs(5);

/// How long the end waits for what has not gone out. Beside `drain_timeout` that fits into Kubernetes' 30 s.
const LAST: Duration = Duration::from_secs(3);

/// Which requests make spans, and where those go.
pub(crate) struct Traces {
    settings: gatepost_config::Traces,
    sampler: Sampler,
    exporter: Arc<Exporter>,
}

impl Traces {
    /// Goes on with the exporter that runs, where nothing of it changed.
    ///
    /// # Errors
    ///
    /// What is wrong with the collector's address, or the system's word on a thread.
    pub(crate) fn new(
        wanted: &gatepost_config::Traces,
        running: Option<&Self>,
        metrics: &SpanMetrics,
    ) -> Result<Self, String> {
        let place = |it: &gatepost_config::Traces| (it.endpoint.clone(), it.service_name.clone());
        let same = running.filter(|it| place(&it.settings) == place(wanted));
        let exporter = match same {
            Some(running) => running.exporter.clone(),
            None => Arc::new(Exporter::start(wanted, metrics)?),
        };
        Ok(Self {
            settings: wanted.clone(),
            sampler: Sampler::TraceIdRatioBased(wanted.sample),
            exporter,
        })
    }

    /// Gives a request its place in a trace: behind the span that it names, or at the beginning of a new trace, of which the
    /// configuration says how many are kept. A trace of which nothing is kept is not begun.
    pub(crate) fn join(&self, record: &mut Record) {
        let ids = RandomIdGenerator::default();
        let span = || u64::from_be_bytes(ids.new_span_id().to_bytes());
        if let Some(parent) = record.parent {
            record.link = Some(parent.link(span(), span()));
            return;
        }
        let trace = ids.new_trace_id();
        if self.samples(trace) {
            let link = Link {
                trace: u128::from_be_bytes(trace.to_bytes()),
                request: span(),
                upstream: span(),
                flags: 1,
            };
            record.trace_id = Some(trace.to_string());
            record.link = Some(link);
        }
    }

    fn samples(&self, trace: TraceId) -> bool {
        let kind = SpanKind::Server;
        let result = self.sampler.should_sample(None, trace, "", &kind, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    /// Hands on the spans of a request that is over, where its trace is kept. Waits for nobody.
    pub(crate) fn export(&self, record: &Record) {
        if let Some(link) = record.link.filter(|it| it.is_sampled()) {
            self.exporter
                .take(span::spans(record, link, self.settings.identity));
        }
    }

    /// Sends what waits, for a while.
    pub(crate) fn finish(&self) {
        self.exporter.finish();
    }
}

/// The thread that sends, and the way to it. It ends when this is dropped, after it has sent what waits.
struct Exporter {
    queue: mpsc::Sender<Vec<SpanData>>,
    lost: prometheus::IntCounter,
    ending: watch::Sender<bool>,
    /// Nobody says anything there; it breaks off when the thread ends.
    over: Mutex<Receiver<()>>,
}

impl Exporter {
    fn start(wanted: &gatepost_config::Traces, metrics: &SpanMetrics) -> Result<Self, String> {
        let fault = Fault::default();
        let exporter = exporter(wanted, fault.clone())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|fault| fault.to_string())?;
        let (queue, spans) = mpsc::channel(WAITING);
        let (ending, end) = watch::channel(false);
        let (alive, over) = channel();
        let sending = Sending {
            exporter,
            endpoint: wanted.endpoint.clone(),
            metrics: metrics.clone(),
            well: true,
            fault,
        };
        let thread = thread::Builder::new().name("traces".to_owned());
        let run = move || {
            runtime.block_on(sending.run(spans, end));
            drop(alive);
        };
        thread.spawn(run).map_err(|fault| fault.to_string())?;
        Ok(Self {
            queue,
            lost: metrics.lost.clone(),
            ending,
            over: Mutex::new(over),
        })
    }

    fn take(&self, spans: Vec<SpanData>) {
        if let Err(fault) = self.queue.try_send(spans) {
            self.lost.inc_by(fault.into_inner().len() as u64);
        }
    }

    fn finish(&self) {
        self.ending.send_replace(true);
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if over.recv_timeout(LAST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the last spans are lost: the collector did not take them in time");
        }
    }
}

/// OpenTelemetry's exporter. It takes OTEL_EXPORTER_OTLP_HEADERS from the environment.
fn exporter(wanted: &gatepost_config::Traces, fault: Fault) -> Result<SpanExporter, String> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")))
        .timeout(TIME)
        .redirect(Redirects::none())
        .no_proxy()
        .tls_backend_preconfigured(tls(&wanted.endpoint)?)
        .build()
        .map_err(|fault| fault.to_string())?;
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client { client, fault })
        .with_endpoint(&wanted.endpoint)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(TIME)
        .build()
        .map_err(|fault| fault.to_string())?;
    let resource = Resource::builder()
        .with_service_name(wanted.service_name.clone())
        .with_attribute(opentelemetry::KeyValue::new(
            "service.version",
            env!("CARGO_PKG_VERSION"),
        ));
    exporter.set_resource(&resource.build());
    Ok(exporter)
}

/// Why nobody could be reached. The exporter's own errors say only that it was so.
#[derive(Debug, Clone, Default)]
struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    fault: Fault,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.client.send_bytes(request).await;
        *self.fault.lock() = sent.as_ref().err().map(|fault| {
            let (mut said, mut cause) = (fault.to_string(), fault.source());
            while let Some(fault) = cause {
                said = format!("{said}: {fault}");
                cause = fault.source();
            }
            said
        });
        sent
    }
}

/// The system's authorities vouch for the collector. Where it speaks no TLS nobody has to.
fn tls(endpoint: &str) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if endpoint.starts_with("https:") {
        // Those that cannot be read are none; where none is left, no certificate is believed.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|fault| fault.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The thread's own.
struct Sending {
    exporter: SpanExporter,
    endpoint: String,
    metrics: SpanMetrics,
    well: bool,
    fault: Fault,
}

impl Sending {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<Vec<SpanData>>,
        mut ending: watch::Receiver<bool>,
    ) {
        loop {
            let first = tokio::select! {
                first = queue.recv() => first,
                // Also where nobody could say it any more.
                _ = ending.wait_for(|it| *it) => None,
            };
            let Some(mut batch) = first else {
                break;
            };
            let deadline = Instant::now() + PAUSE;
            while batch.len() < BATCH {
                let more = tokio::select! {
                    more = timeout_at(deadline, queue.recv()) => more,
                    _ = ending.wait_for(|it| *it) => break,
                };
                match more {
                    Ok(Some(more)) => batch.extend(more),
                    Ok(None) | Err(_) => break,
                }
            }
            self.send(batch).await;
        }
        let mut batch = Vec::new();
        while let Ok(more) = queue.try_recv() {
            batch.extend(more);
            if batch.len() >= BATCH {
                self.send(std::mem::take(&mut batch)).await;
            }
        }
        if !batch.is_empty() {
            self.send(batch).await;
        }
    }

    /// What is lost is counted; that something is lost is said once.
    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.metrics.exported.inc_by(count);
                if !std::mem::replace(&mut self.well, true) {
                    tracing::info!(endpoint = self.endpoint, "spans are taken again");
                }
            }
            Err(fault) => {
                self.metrics.lost.inc_by(count);
                if std::mem::replace(&mut self.well, false) {
                    let endpoint = &self.endpoint;
                    let fault = self.fault.lock().take().unwrap_or(fault.to_string());
                    tracing::warn!(endpoint, %fault, "spans are lost: the collector does not take them");
                }
            }
        }
    }
}
