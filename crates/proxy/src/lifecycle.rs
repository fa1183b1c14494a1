//! Signals, and the way out: not ready, a delay, no new connections, the last answers, the end; or a new process that takes over.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use rustix::process::{WaitOptions, wait};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::connection::Connections;
use crate::listening::SocketFile;
use crate::reload::Wanted;
use crate::systemd;
use crate::upgrade::{Inherited, Sockets};

/// How long HTTP/2 connections without a request may keep open after GOAWAY. Clients that listen close them at once; one
/// that is gone or asleep does not hold up the end.
const HTTP2_PATIENCE: Duration = Duration::from_secs(3);

/// How often it is looked whether everything is over.
const LOOK: Duration = Duration::from_millis(10);

/// How long what is as good as over may take.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How far it has come. Everything is false as long as gatepost serves.
#[derive(Default)]
pub(crate) struct Phase {
    not_ready: AtomicBool,
    parting: AtomicBool,
}

impl Phase {
    /// Whether clients should be sent here.
    pub(crate) fn is_ready(&self) -> bool {
        !self.not_ready.load(Ordering::Relaxed)
    }

    /// Whether clients that are here should come back on another connection.
    pub(crate) fn is_parting(&self) -> bool {
        self.parting.load(Ordering::Relaxed)
    }
}

/// What the signals act on.
pub(crate) struct Lifecycle {
    pub(crate) connections: Arc<Connections>,
    /// Of the tasks that accept and serve connections.
    pub(crate) tracker: TaskTracker,
    pub(crate) phase: Arc<Phase>,
    /// Ends the listeners.
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) reload: SyncSender<Wanted>,
    /// For the process after this one. They keep the listeners open as long as they are here.
    pub(crate) sockets: Sockets,
    /// Ends the admin listener. It answers to the last, and is gone when nobody listens to this any more.
    pub(crate) admin_over: watch::Sender<bool>,
}

impl Lifecycle {
    /// Says that gatepost is ready, waits until a signal says stop, and stops.
    ///
    /// # Errors
    ///
    /// The system's word, where a signal handler cannot be set up.
    pub(crate) async fn serve(
        self,
        threads: Vec<Handle>,
        (before, signals): (Inherited, Signals),
        files: &mut [SocketFile],
    ) -> io::Result<()> {
        tokio::spawn(systemd::watchdog(threads));
        if std::process::id() == 1 {
            tokio::spawn(bury(signal(SignalKind::child())?));
        }
        tracing::info!(process = std::process::id(), "ready");
        systemd::ready();
        before.ready();
        files.iter_mut().for_each(SocketFile::keep);
        if let Stop::Followed(_) = self.run(signals).await {
            files.iter_mut().for_each(SocketFile::leave);
        }
        Ok(())
    }

    /// Waits until a signal says stop, and stops. Says what it was.
    async fn run(mut self, mut signals: Signals) -> Stop {
        let stop = self.until_stop(&mut signals).await;
        // They would keep the listeners open.
        let Self { sockets, .. } = &mut self;
        drop(std::mem::take(sockets));
        match stop {
            Stop::AtOnce => return stop,
            Stop::AfterRequests => {
                self.phase.not_ready.store(true, Ordering::Relaxed);
                systemd::stopping();
            }
            Stop::Followed(process) => {
                // Its probes are asked from here on, and this one's go on saying that all is well.
                self.admin_over.send_replace(true);
                systemd::followed_by(process);
                tracing::info!(process, "a new gatepost is ready and takes over");
            }
        }
        self.phase.parting.store(true, Ordering::Relaxed);
        tokio::select! {
            () = self.leave(stop) => {}
            () = self.second_stop(stop, &mut signals) => {
                tracing::warn!("stopped at once by a second signal");
            }
        }
        stop
    }

    async fn until_stop(&self, signals: &mut Signals) -> Stop {
        let mut upgrade = None;
        loop {
            let upgraded = async {
                match upgrade.as_mut() {
                    Some(upgrade) => upgrade.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                told = signals.next() => match told {
                    Told::Stop(stop) => return stop,
                    Told::Reload => self.want_reload(),
                    Told::Upgrade if upgrade.is_some() => {
                        tracing::warn!("an upgrade is under way already");
                    }
                    Told::Upgrade => {
                        tracing::info!("starting a new gatepost to take over");
                        upgrade = Some(Box::pin(self.sockets.hand_over()));
                    }
                },
                followed = upgraded => {
                    upgrade = None;
                    match followed {
                        Ok(process) => return Stop::Followed(process),
                        Err(fault) => {
                            tracing::error!(fault, "the upgrade failed; this gatepost goes on");
                        }
                    }
                }
            }
        }
    }

    async fn second_stop(&self, stop: Stop, signals: &mut Signals) {
        // Whoever stops the service tells all of its processes. One that was followed leaves already, and this is the first word of it.
        let mut told = !matches!(stop, Stop::Followed(_));
        loop {
            match signals.next().await {
                Told::Stop(Stop::AfterRequests) if !told => {
                    tracing::info!("told to stop, which this gatepost does already");
                    told = true;
                }
                Told::Stop(_) => return,
                Told::Reload => self.want_reload(),
                Told::Upgrade => tracing::warn!("no upgrade: this gatepost stops already"),
            }
        }
    }

    fn want_reload(&self) {
        // Where one waits already, it will see what this one would.
        let _ = self.reload.try_send(Wanted::BySignal);
    }

    async fn leave(&self, stop: Stop) {
        let delay = self.connections.snapshot.load().drain_delay;
        // Where another has taken over nobody is sent here any more.
        if !delay.is_zero() && stop == Stop::AfterRequests {
            tracing::info!(?delay, "not ready any more: connections are still accepted");
            sleep(delay).await;
        }
        self.stop.send_replace(true);
        let most = self.connections.snapshot.load().drain_timeout;
        tracing::info!(timeout = ?most, "stopping: requests in flight may finish");
        self.tracker.close();
        tokio::select! {
            () = self.tracker.wait() => {}
            () = self.only_silent_http2() => {}
            () = sleep(most) => {
                tracing::warn!(open = self.tracker.len(), "stopped with connections still open");
                return;
            }
        }
        // The last answers are out; their lines may still be about to be written.
        let deadline = Instant::now() + LAST_ANSWERS;
        while self.connections.metrics.in_flight.get() > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        // So may an answer of the admin listener be.
        self.admin_over.send_replace(true);
        let _ = timeout(LAST_ANSWERS, self.admin_over.closed()).await;
        tracing::info!("stopped");
    }

    /// Ends when for a while there were but HTTP/2 connections, and none had a request.
    async fn only_silent_http2(&self) {
        let metrics = &self.connections.metrics;
        let mut since = Instant::now();
        while since.elapsed() < HTTP2_PATIENCE {
            let http2 = usize::try_from(metrics.connections.http2.get()).unwrap_or(0);
            if self.tracker.len() > http2 || metrics.in_flight.get() > 0 {
                since = Instant::now();
            }
            sleep(LOOK).await;
        }
    }
}

/// Process 1 inherits what others leave behind (a probe's shell, a debugging session), and what has ended stays in the table of processes until
/// it is waited for. gatepost has no children of its own there, since nobody can follow process 1.
async fn bury(mut ended: Signal) {
    loop {
        // One signal may stand for many.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        if ended.recv().await.is_none() {
            return;
        }
    }
}

/// How a signal wants gatepost to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    AfterRequests,
    AtOnce,
    /// This process has taken over.
    Followed(u32),
}

/// What a signal says.
pub(crate) enum Told {
    Stop(Stop),
    Reload,
    Upgrade,
}

/// The signals that gatepost listens to.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop(Stop::AfterRequests),
            _ = self.interrupt.recv() => Told::Stop(Stop::AtOnce),
            _ = self.hangup.recv() => Told::Reload,
            _ = self.quit.recv() => Told::Upgrade,
        }
    }
}
