//! Signals, and the way out: not ready, a delay, no new connections, the last answers, the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use crate::connection::Connections;
use crate::reload::Wanted;

/// How long HTTP/2 connections without a request may keep open after GOAWAY. Clients that listen close them at once; one
/// that is gone or asleep does not hold up the end.
const HTTP2_PATIENCE: Duration = Duration::from_secs(3);

/// How often it is looked whether everything is over.
const LOOK: Duration = Duration::from_millis(10);

/// What the signals act on.
pub(crate) struct Lifecycle {
    pub(crate) connections: Arc<Connections>,
    /// Of the tasks that accept and serve connections.
    pub(crate) tracker: TaskTracker,
    /// What /readyz says; answers say `Connection: close` where it is false.
    pub(crate) ready: Arc<AtomicBool>,
    /// Ends the listeners.
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) reload: SyncSender<Wanted>,
}

impl Lifecycle {
    /// Waits until a signal says stop, and stops.
    pub(crate) async fn run(self, mut signals: Signals) {
        if self.until_stop(&mut signals).await == Stop::AtOnce {
            return;
        }
        self.ready.store(false, Ordering::Relaxed);
        tokio::select! {
            () = self.leave() => {}
            _ = self.until_stop(&mut signals) => tracing::warn!("stopped at once by a second signal"),
        }
    }

    async fn until_stop(&self, signals: &mut Signals) -> Stop {
        loop {
            match signals.next().await {
                Told::Stop(stop) => return stop,
                // Where one waits already, it will see what this one would.
                Told::Reload => drop(self.reload.try_send(Wanted::BySignal)),
            }
        }
    }

    async fn leave(&self) {
        let delay = self.connections.snapshot.load().drain_delay;
        if !delay.is_zero() {
            tracing::info!(?delay, "not ready any more: connections are still accepted");
            sleep(delay).await;
        }
        self.stop.send_replace(true);
        let timeout = self.connections.snapshot.load().drain_timeout;
        tracing::info!(?timeout, "stopping: requests in flight may finish");
        self.tracker.close();
        tokio::select! {
            () = self.tracker.wait() => {}
            () = self.only_silent_http2() => {}
            () = sleep(timeout) => {
                tracing::warn!(open = self.tracker.len(), "stopped with connections still open");
                return;
            }
        }
        // The last answers are out; their lines may still be about to be written.
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.connections.metrics.in_flight.get() > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        tracing::info!("stopped");
    }

    /// Ends when for a while there were but HTTP/2 connections, and none had a request.
    async fn only_silent_http2(&self) {
        let metrics = &self.connections.metrics;
        let mut since = Instant::now();
        while since.elapsed() < HTTP2_PATIENCE {
            let http2 = usize::try_from(metrics.http2_connections.get()).unwrap_or(0);
            if self.tracker.len() > http2 || metrics.in_flight.get() > 0 {
                since = Instant::now();
            }
            sleep(LOOK).await;
        }
    }
}

/// How a signal wants gatepost to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    AfterRequests,
    AtOnce,
}

/// What a signal says.
enum Told {
    Stop(Stop),
    Reload,
}

/// The signals that gatepost listens to.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// # Errors
    ///
    /// The system's word, where a handler cannot be set up.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop(Stop::AfterRequests),
            _ = self.interrupt.recv() => Told::Stop(Stop::AtOnce),
            _ = self.hangup.recv() => Told::Reload,
        }
    }
}
