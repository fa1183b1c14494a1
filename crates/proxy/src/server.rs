//! Starts, runs and stops the whole.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use gatepost_config::{IdentityForm, Settings, UpstreamAddress};
use gatepost_policy::Policy;
use http::HeaderValue;
use pingora_core::apps::{HttpServerApp as _, HttpServerOptions};
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use pingora_runtime::Runtime;
use prometheus::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

pub use crate::forward::UpstreamTarget;

use crate::admin::{self, Admin};
use crate::connection::Connections;
use crate::door::Door;
use crate::forward::{Upstream, UpstreamTimes};
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 4096;

/// A gatepost whose listeners are open but not served yet.
pub struct Server {
    settings: Settings,
    listeners: Vec<std::net::TcpListener>,
    admin: Option<std::net::TcpListener>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Metrics,
}

/// Why gatepost cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be opened.
    #[error("cannot listen on {address}: {}", reason(source))]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The system's word on it.
        source: io::Error,
    },
    /// The upstream's name could not be resolved.
    #[error("cannot resolve the upstream `{host}:{port}`")]
    Resolve {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// The system's word on it.
        source: io::Error,
    },
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
    /// `upstream` overrides the configured address; the embedded injection API is started by the
    /// caller, which alone knows where.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing stays open then.
    pub fn bind(
        settings: Settings,
        policy: Policy,
        upstream: Option<UpstreamTarget>,
        build: Build<'_>,
    ) -> Result<Self, StartError> {
        let internal = |fault: &dyn std::fmt::Display| StartError::Internal(fault.to_string());
        let target = match upstream {
            Some(target) => target,
            None => resolve(&settings.upstream.address)?,
        };
        let snapshot = snapshot(&settings, policy, &target)?;
        let metrics = Metrics::new(Registry::new(), build.version, build.revision)
            .map_err(|fault| internal(&fault))?;
        let listeners = settings
            .listeners
            .iter()
            .map(|it| listen(it.listen))
            .collect::<Result<_, _>>()?;
        let admin = settings
            .admin
            .as_ref()
            .map(|it| listen(it.listen))
            .transpose()?;
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        Ok(Self {
            settings,
            listeners,
            admin,
            snapshot,
            metrics,
        })
    }

    /// The addresses that are listened on, with the ports that the system chose.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
    }

    /// The admin listener's address.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until SIGTERM or SIGINT. After the first SIGTERM no connection is accepted any more and
    /// requests in flight get [`Settings::drain_timeout`] to finish; a second signal ends at once.
    ///
    /// # Errors
    ///
    /// [`StartError`] where a thread or a signal handler cannot be set up.
    pub fn run(self) -> Result<(), StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let ready = Arc::new(AtomicBool::new(true));
        let (stop, shutdown) = watch::channel(false);
        let threads = self
            .settings
            .threads
            .map_or_else(default_threads, NonZeroUsize::get);
        let runtime = Runtime::new_no_steal(threads, "proxy");
        let connections = Arc::new(self.connections(threads));
        let tracker = TaskTracker::new();
        for listener in self.listeners {
            let accepting = accept(
                listener,
                connections.clone(),
                shutdown.clone(),
                tracker.clone(),
            );
            runtime.get_handle().spawn(accepting);
        }
        if let Some(listener) = self.admin {
            let admin = Admin {
                metrics: self.metrics.clone(),
                snapshot: self.snapshot.clone(),
                ready: ready.clone(),
            };
            spawn_admin(listener, admin).map_err(system("the admin thread"))?;
        }
        let main = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("the main runtime"))?;
        main.block_on(async {
            let mut signals = Signals::new().map_err(system("signal handlers"))?;
            tracing::info!("ready");
            if signals.next().await == Stop::AtOnce {
                return Ok(());
            }
            tracing::info!(timeout = ?self.settings.drain_timeout, "stopping: requests in flight may finish");
            ready.store(false, Ordering::Relaxed);
            stop.send_replace(true);
            connections.proxy.http_cleanup().await;
            tracker.close();
            tokio::select! {
                () = tracker.wait() => tracing::info!("stopped"),
                () = tokio::time::sleep(self.settings.drain_timeout) => {
                    tracing::warn!(open = tracker.len(), "stopped with connections still open");
                }
                _ = signals.next() => tracing::warn!("stopped at once by a second signal"),
            }
            Ok(())
        })?;
        runtime.shutdown_timeout(Duration::ZERO);
        Ok(())
    }

    fn connections(&self, threads: usize) -> Connections {
        let door = Door {
            snapshot: self.snapshot.clone(),
            metrics: self.metrics.clone(),
        };
        let conf = ServerConf {
            threads,
            // The library multiplies by the number of threads; ours is a total.
            upstream_keepalive_pool_size: self
                .settings
                .upstream
                .max_idle_connections
                .div_ceil(threads),
            // Tries, the first one included. A retry may meet another dead connection of the pool.
            max_retries: 4,
            ..ServerConf::default()
        };
        let mut proxy = HttpProxy::new(door, Arc::new(conf));
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        proxy.server_options = Some(options);
        proxy.handle_init_modules();
        let http = &self.settings.http;
        Connections {
            proxy: Arc::new(proxy),
            metrics: self.metrics.clone(),
            limits: http.head_limits,
            head_timeout: http.head_timeout,
            keepalive_timeout: http.keepalive_timeout,
            body_timeout: http.body_timeout,
        }
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

fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn snapshot(
    settings: &Settings,
    policy: Policy,
    target: &UpstreamTarget,
) -> Result<Snapshot, StartError> {
    let upstream = &settings.upstream;
    let times = UpstreamTimes {
        connect: upstream.connect_timeout,
        response: upstream.response_timeout,
        idle: upstream.idle_timeout,
    };
    let IdentityForm::Header(identity_header) = &upstream.identity;
    Ok(Snapshot {
        gate: settings.gate.clone(),
        policy: Arc::new(policy),
        upstream: Upstream::new(target, times, identity_header.clone())
            .map_err(|fault| StartError::Upstream(fault.to_string()))?,
        challenge: HeaderValue::from_str(&settings.gate.challenge())
            .map_err(|fault| StartError::Internal(fault.to_string()))?,
    })
}

fn resolve(address: &UpstreamAddress) -> Result<UpstreamTarget, StartError> {
    match address {
        UpstreamAddress::Unix(path) => Ok(UpstreamTarget::Unix(path.clone())),
        UpstreamAddress::Tcp { host, port } => {
            let fault = |source| StartError::Resolve {
                host: host.clone(),
                port: *port,
                source,
            };
            let mut found = (host.as_str(), *port).to_socket_addrs().map_err(fault)?;
            let none = || fault(io::Error::new(io::ErrorKind::NotFound, "no address"));
            found.next().map(UpstreamTarget::Tcp).ok_or_else(none)
        }
        UpstreamAddress::Demo { .. } => Err(StartError::Upstream(
            "the embedded injection API was not started".to_owned(),
        )),
    }
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let open = || {
        let domain = socket2::Domain::for_address(address);
        let socket =
            socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        // A restart must not wait for the last connections of the process before it.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    open().map_err(|source| StartError::Listen { address, source })
}

async fn accept(
    listener: std::net::TcpListener,
    connections: Arc<Connections>,
    mut shutdown: ShutdownWatch,
    tracker: TaskTracker,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(fault) => return tracing::error!(%fault, "cannot serve a listener"),
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let (connections, shutdown) = (connections.clone(), shutdown.clone());
                let serving = async move { connections.serve(tcp, peer, shutdown).await };
                tracker.spawn_on(serving, &pingora_runtime::current_handle());
            }
            Err(fault) => {
                tracing::error!(%fault, "cannot accept a connection");
                // Out of file descriptors, most likely: nothing is gained by trying at full speed.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn spawn_admin(listener: std::net::TcpListener, admin: Admin) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let serving = move || {
        if let Err(fault) = runtime.block_on(admin::serve(listener, admin)) {
            tracing::error!(%fault, "the admin listener failed");
        }
    };
    thread::Builder::new()
        .name("admin".to_owned())
        .spawn(serving)?;
    Ok(())
}

/// How a signal wants gatepost to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    AfterRequests,
    AtOnce,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::AfterRequests,
            _ = self.interrupt.recv() => Stop::AtOnce,
        }
    }
}
