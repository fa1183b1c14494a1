//! Starts, runs and stops the whole.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gatepost_config::Listen;
use gatepost_policy::PolicyCounters;
use pingora_core::apps::HttpServerOptions;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use pingora_runtime::Runtime;
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

pub use crate::addresses::UpstreamTarget;

use crate::addresses::resolve;
use crate::admin::{self, Admin};
use crate::audit::Audit;
use crate::connection::Connections;
use crate::descriptors;
use crate::door::Door;
use crate::inspect::Bodies;
use crate::lifecycle::{Lifecycle, Phase, Signals};
use crate::listening::{Listening, accept, open_admin};
use crate::logging::LogControl;
use crate::metrics::Metrics;
use crate::quota::QuotaStore;
use crate::reload::{Fingerprint, Loaded, Reloader, Source};
use crate::snapshot::Snapshot;
use crate::starting::Starting;
use crate::status::{LastReload, Page, Standing};
use crate::systemd;
use crate::tending::tend;
use crate::throttle::Throttle;
use crate::tls::load_all;
use crate::traces::Traces;
use crate::upgrade::{Inherited, Sockets};

/// A gatepost whose listeners are open but not served yet.
pub struct Server {
    listeners: Vec<Listening>,
    admin: Option<std::net::TcpListener>,
    throttle: Throttle,
    quota: Arc<QuotaStore>,
    reloader: Reloader,
    inherited: Inherited,
    status: Standing,
}

/// What a server is made of.
pub struct Parts<'a> {
    /// Configuration and policies, loaded.
    pub loaded: Loaded,
    /// Where the embedded injection API listens, if it was started.
    pub demo: Option<UpstreamTarget>,
    /// Where both are read from again.
    pub source: Box<dyn Source>,
    /// What its files held before they were read.
    pub fingerprint: Fingerprint,
    /// What the policy counts, from one policy to the next.
    pub counters: Arc<PolicyCounters>,
    /// The log that is installed.
    pub log: Arc<dyn LogControl>,
    /// Which build this is, for the build-info metric.
    pub build: Build<'a>,
}

/// Why gatepost cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be opened.
    #[error("cannot listen on {address}: {}", reason(source))]
    Listen {
        /// As configured.
        address: Listen,
        /// The system's word on it.
        source: io::Error,
    },
    /// The upstream's name could not be resolved.
    #[error("cannot resolve the upstream `{host}:{port}`: {fault}")]
    Resolve {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// What went wrong.
        fault: String,
    },
    /// A certificate or key cannot be used.
    #[error("{0}")]
    Certificate(String),
    /// Spans cannot be exported.
    #[error("cannot export spans: {0}")]
    Traces(String),
    /// The upstream cannot be used.
    #[error("cannot use the upstream: {0}")]
    Upstream(String),
    /// Metrics could not be registered, or the realm is no header value.
    #[error("{0}")]
    Internal(String),
    /// A thread or signal handler could not be set up.
    #[error("cannot set up {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// The system's word on it.
        source: io::Error,
    },
}

fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        "the address is in use".to_owned()
    } else {
        error.to_string()
    }
}

impl Server {
    /// Opens all listeners. Nothing is served before [`Server::run`].
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing stays open then.
    pub fn bind(parts: Parts<'_>) -> Result<Self, StartError> {
        let Parts {
            loaded,
            demo,
            source,
            fingerprint,
            counters,
            log,
            build,
        } = parts;
        let Loaded {
            settings,
            policy,
            shadow,
        } = loaded;
        let resolved = resolve(&settings.upstream, demo.as_ref(), None)?;
        let tls = load_all(&settings.listeners, &[]).map_err(StartError::Certificate)?;
        let mut snapshot = Snapshot::new(&settings, (policy, shadow), (resolved, None), tls, 1)?;
        let metrics = Metrics::new(Registry::new(), build.version, build.revision, counters)
            .map_err(|fault| StartError::Internal(fault.to_string()))?;
        descriptors::provide(&settings, &metrics.descriptors);
        metrics.certificates(&settings.listeners, &snapshot.listeners);
        metrics.identities.show(settings.metrics.top_identities);
        let traces = settings.traces.as_ref();
        let traces = traces.map(|it| Traces::new(it, None, &metrics.spans));
        snapshot.traces = traces.transpose().map_err(StartError::Traces)?;
        let system = |what| move |source| StartError::System { what, source };
        let mut inherited = Inherited::take().map_err(system("what the gatepost before left"))?;
        let listeners = settings
            .listeners
            .iter()
            .map(|it| Listening::open(it, &mut inherited))
            .collect::<Result<Vec<_>, _>>()?;
        let admin = settings.admin.as_ref();
        let admin = admin.map(|it| open_admin(it.listen, &mut inherited));
        let admin = admin.transpose()?;
        let audit = Audit::start(&settings.audit.output, metrics.audit_lines_lost.clone())
            .map_err(system("the audit log"))?;
        let throttle =
            Throttle::new(&settings.throttle, &metrics.throttle).map_err(system("the throttle"))?;
        let quota =
            QuotaStore::new(&settings.quotas, metrics.quota.clone()).map_err(system("quotas"))?;
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let status = standing(build, &listeners, admin.as_ref(), &metrics);
        let reloader = Reloader {
            source,
            snapshot,
            metrics,
            last: status.last_reload.clone(),
            audit: Arc::new(audit),
            log,
            listeners: settings.listeners.clone(),
            settings,
            loaded: fingerprint,
            demo,
        };
        Ok(Self {
            listeners,
            admin,
            throttle,
            quota: Arc::new(quota),
            reloader,
            inherited,
            status,
        })
    }

    /// The addresses that are listened on, with the ports that the system chose.
    pub fn addresses(&self) -> impl Iterator<Item = Listen> {
        self.listeners.iter().filter_map(Listening::address)
    }

    /// The admin listener's address.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }

    /// The door alone, to be measured.
    #[cfg(feature = "bench")]
    pub(crate) fn into_door(self) -> Door {
        let phase = Arc::new(Phase::default());
        door(&self.reloader, self.throttle, self.quota, 1, phase)
    }

    /// What serves connections, without listeners that would bring some.
    #[cfg(feature = "fuzz")]
    pub(crate) fn into_connections(self) -> Connections {
        let phase = Arc::new(Phase::default());
        let door = door(&self.reloader, self.throttle, self.quota, 1, phase);
        connections(&self.reloader, door, 1)
    }

    /// Serves until SIGTERM or SIGINT. After the first SIGTERM connections are accepted for `drain_delay`, then
    /// requests in flight get `drain_timeout` to finish; a second signal ends at once. SIGHUP reloads, SIGQUIT lets
    /// a new process take over.
    ///
    /// # Errors
    ///
    /// [`StartError`] where a thread or a signal handler cannot be set up.
    pub fn run(self, starting: Starting) -> Result<(), StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let Self {
            listeners,
            admin,
            throttle,
            quota,
            reloader,
            inherited,
            status,
        } = self;
        let main = main_runtime().map_err(system("the main runtime"))?;
        // Before the first connection is accepted: from then on there is something to be lost.
        let signals = take_over(&main, starting).map_err(system("signal handlers"))?;
        let sockets = Sockets::of(&listeners, admin.as_ref()).map_err(system("the listeners"))?;
        let audit = reloader.audit.clone();
        let snapshot = reloader.snapshot.clone();
        let phase = Arc::new(Phase::default());
        let (stop, shutdown) = watch::channel(false);
        let threads = reloader.settings.threads;
        let threads = threads.map_or_else(default_threads, NonZeroUsize::get);
        let runtime = Runtime::new_no_steal(threads, "proxy");
        let door = door(&reloader, throttle, quota.clone(), threads, phase.clone());
        let connections = Arc::new(connections(&reloader, door, threads));
        let tracker = TaskTracker::new();
        // Removed when all is over, also where a task does not come to its end.
        let mut socket_files = accept(listeners, &connections, &shutdown, &tracker, &runtime);
        // A reload that is wanted while one is under way and another waits is the same as that one.
        let (reload, wanted) = sync_channel(1);
        let pages = Admin {
            metrics: reloader.metrics.clone(),
            snapshot: reloader.snapshot.clone(),
            phase: phase.clone(),
            reload: reload.clone(),
            quota,
            log: reloader.log.clone(),
            status: Arc::new(status),
            page: Page::new()
                .ok_or_else(|| StartError::Internal("the status page is broken".to_owned()))?,
        };
        let (admin_over, over) = watch::channel(false);
        if let Some(listener) = admin {
            spawn_admin(listener, pages, over).map_err(system("the admin thread"))?;
        } else {
            drop(over);
        }
        spawn_tending(&reloader).map_err(system("the upstream thread"))?;
        let reloading = thread::Builder::new().name("reload".to_owned());
        let reloading = reloading.spawn(move || reloader.run(&wanted));
        reloading.map_err(system("the reload thread"))?;
        let lifecycle = Lifecycle {
            connections,
            tracker,
            phase,
            stop,
            reload,
            sockets,
            admin_over,
        };
        let threads = systemd::threads(&runtime);
        main.block_on(lifecycle.serve(threads, (inherited, signals), &mut socket_files))
            .map_err(system("signal handlers"))?;
        runtime.shutdown_timeout(Duration::ZERO);
        audit.flush();
        if let Some(traces) = &snapshot.load().traces {
            traces.finish();
        }
        drop(socket_files);
        Ok(())
    }
}

fn main_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// From here on signals go to whoever holds what this gives.
fn take_over(main: &tokio::runtime::Runtime, starting: Starting) -> io::Result<Signals> {
    let _inside = main.enter();
    let signals = Signals::new()?;
    starting.end();
    Ok(signals)
}

/// What all requests of this server go through.
fn door(
    reloader: &Reloader,
    throttle: Throttle,
    quota: Arc<QuotaStore>,
    threads: usize,
    phase: Arc<Phase>,
) -> Door {
    Door {
        snapshot: reloader.snapshot.clone(),
        metrics: reloader.metrics.clone(),
        throttle,
        audit: reloader.audit.clone(),
        quota,
        bodies: Bodies::new(reloader.settings.http.bodies_in_memory, threads),
        phase,
    }
}

fn connections(reloader: &Reloader, door: Door, threads: usize) -> Connections {
    let idle = reloader.settings.upstream.max_idle_connections;
    let conf = ServerConf {
        threads,
        // The library multiplies by the number of threads; ours is a total.
        upstream_keepalive_pool_size: idle.div_ceil(threads),
        // Tries, the first one included: of so many addresses that no connection can be made to. Their circuits open meanwhile.
        max_retries: 16,
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(door, Arc::new(conf));
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(reloader.settings.http.keepalive_timeout);
    proxy.server_options = Some(options);
    let mut http2 = default_h2_options();
    // What small pieces of bodies may take while nobody has read them yet; with less, an upload in pieces of 100 bytes is cut off as a flood.
    http2.data_frame_budget(1 << 20);
    proxy.h2_options = Some(http2);
    proxy.handle_init_modules();
    Connections {
        proxy: Arc::new(proxy),
        metrics: reloader.metrics.clone(),
        snapshot: reloader.snapshot.clone(),
        crowd: Arc::default(),
    }
}

/// Which build this is, for the build-info metric.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// The version.
    pub version: &'a str,
    /// The git revision.
    pub revision: &'a str,
}

fn standing(
    build: Build<'_>,
    listeners: &[Listening],
    admin: Option<&std::net::TcpListener>,
    metrics: &Metrics,
) -> Standing {
    Standing {
        began: Instant::now(),
        version: build.version.to_owned(),
        revision: build.revision.to_owned(),
        listeners: listeners.iter().map(Listening::address).collect(),
        admin: admin.and_then(|it| it.local_addr().ok()),
        last_reload: Arc::new(LastReload::default()),
        refused: metrics.refused.clone(),
    }
}

fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn spawn_tending(reloader: &Reloader) -> io::Result<()> {
    let resolutions = reloader.metrics.upstream.resolutions.clone();
    let tending = tend(reloader.snapshot.clone(), resolutions);
    let runtime = main_runtime()?;
    thread::Builder::new()
        .name("upstream".to_owned())
        .spawn(move || runtime.block_on(tending))?;
    Ok(())
}

fn spawn_admin(
    listener: std::net::TcpListener,
    admin: Admin,
    over: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let serving = move || {
        // Says that the thread is there.
        let _here = over.clone();
        if let Err(fault) = runtime.block_on(admin::serve(listener, admin, over)) {
            tracing::error!(%fault, "the admin listener failed");
        }
    };
    thread::Builder::new()
        .name("admin".to_owned())
        .spawn(serving)?;
    Ok(())
}
