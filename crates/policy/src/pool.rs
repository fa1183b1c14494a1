//! The workers of one policy, the queue before them, and the supervisor that replaces a worker which
//! does not come back.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gatepost_auth::{Credentials, Judgement};
use tokio::sync::oneshot;

use crate::api::Common;
use crate::worker::{Call, Watch, run};
use crate::{LoadError, LoadReport, PolicyCounters, PolicySettings, PolicyStats};

/// How long a call may overstay its deadline before its worker is given up: the hook needs some
/// instructions to notice, and the machine may be slow.
const GRACE: Duration = Duration::from_secs(1);

pub(crate) struct Pool {
    calls: async_channel::Sender<Call>,
    shared: Arc<Shared>,
    /// Wakes the supervisor; dropped with the pool, which ends it.
    overdue: SyncSender<()>,
}

struct Shared {
    settings: PolicySettings,
    common: Common,
    queue: async_channel::Receiver<Call>,
    workers: Mutex<Vec<Arc<Watch>>>,
    /// Workers that were given up and have not come back.
    stuck: AtomicUsize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts the workers; all of them have loaded the policy when this returns.
    pub(crate) fn start(
        settings: PolicySettings,
        counters: Arc<PolicyCounters>,
    ) -> Result<(Self, LoadReport), LoadError> {
        let (calls, queue) = async_channel::bounded(settings.queue.max(1));
        let shared = Arc::new(Shared {
            common: Common {
                counters,
                ..Common::default()
            },
            queue,
            workers: Mutex::default(),
            stuck: AtomicUsize::new(0),
            settings,
        });
        // The first worker tries the file alone, so that a fault is said once.
        let mut report = None;
        for _ in 0..shared.settings.workers.max(1) {
            let loaded = shared.spawn_worker()?.recv();
            let gone = || LoadError::Thread(std::io::Error::other("it ended while loading"));
            report = Some(loaded.map_err(|_| gone())??);
        }
        let (overdue, woken) = sync_channel(1);
        let supervised = shared.clone();
        thread::Builder::new()
            .name("policy-watch".to_owned())
            .spawn(move || supervised.supervise(&woken))?;
        Ok((
            Self {
                calls,
                shared,
                overdue,
            },
            report.unwrap_or_default(),
        ))
    }

    pub(crate) async fn judge(&self, credentials: Credentials) -> Judgement {
        let deadline = Instant::now() + self.shared.settings.callback_timeout;
        let (reply, answer) = oneshot::channel();
        match self.calls.try_send(Call {
            credentials,
            deadline,
            reply,
        }) {
            Ok(()) => {}
            Err(async_channel::TrySendError::Full(_)) => return Judgement::Overloaded,
            Err(async_channel::TrySendError::Closed(_)) => return Judgement::Failed,
        }
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(judgement)) => judgement,
            // The call was lost with its worker.
            Ok(Err(_)) => Judgement::Failed,
            Err(_) => {
                // Where a wake-up is pending already, one more says nothing new.
                let _ = self.overdue.try_send(());
                Judgement::TimedOut
            }
        }
    }

    pub(crate) fn stats(&self) -> PolicyStats {
        PolicyStats {
            workers: self.shared.workers().len(),
            queued: self.calls.len(),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Workers end once the queue is closed and empty.
        self.calls.close();
    }
}

impl Shared {
    fn workers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Watch>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one worker; the receiver tells what came of loading the policy.
    fn spawn_worker(
        self: &Arc<Self>,
    ) -> Result<Receiver<Result<LoadReport, LoadError>>, std::io::Error> {
        let (loaded, result) = sync_channel(1);
        let watch = Arc::new(Watch::new());
        let (shared, own) = (self.clone(), watch.clone());
        thread::Builder::new()
            .name("policy".to_owned())
            .spawn(move || {
                let tell = |report| {
                    // Nobody listens to a replacement; its fault is in the log.
                    let _ = loaded.send(report);
                };
                run(&shared.settings, &shared.common, &shared.queue, &own, tell);
                shared.workers().retain(|worker| !Arc::ptr_eq(worker, &own));
                if own.is_retired() {
                    shared.stuck.fetch_sub(1, Ordering::Relaxed);
                    tracing::warn!("an abandoned policy worker came back and ended");
                }
            })?;
        self.workers().push(watch);
        Ok(result)
    }

    /// Sleeps until a call is overdue, then looks after the workers until none is.
    fn supervise(self: &Arc<Self>, woken: &Receiver<()>) {
        while woken.recv().is_ok() {
            loop {
                let suspects = self.give_up_stuck_workers();
                if !suspects {
                    break;
                }
                match woken.recv_timeout(Duration::from_millis(50)) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    /// Replaces workers that Lua does not let go of. True while one may still turn out to be one.
    fn give_up_stuck_workers(self: &Arc<Self>) -> bool {
        let allowed = self.settings.callback_timeout + GRACE;
        let allowed = u64::try_from(allowed.as_millis()).unwrap_or(u64::MAX);
        let workers = self.workers().clone();
        let mut suspects = false;
        for worker in workers {
            let busy = worker.busy_ms();
            suspects |= busy > 0;
            if busy <= allowed {
                continue;
            }
            let most = 2 * self.settings.workers;
            if self.stuck.load(Ordering::Relaxed) >= most {
                tracing::error!(
                    stuck = most,
                    "too many policy workers are stuck to replace another one"
                );
                // They may come back; asking every 50 ms would only fill the log.
                return false;
            }
            tracing::error!(busy_ms = busy, "a policy worker is stuck and is replaced");
            worker.retire();
            self.stuck.fetch_add(1, Ordering::Relaxed);
            self.common.counters.abandoned_workers.add(1);
            self.workers().retain(|other| !Arc::ptr_eq(other, &worker));
            if let Err(fault) = self.spawn_worker() {
                tracing::error!(%fault, "a stuck policy worker cannot be replaced");
            }
        }
        suspects
    }
}
