//! The workers of one policy, the queue before them, and the supervisor that replaces a worker which
//! does not come back.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gatepost_auth::{Credentials, Judgement};
use preempt_rt::sched::{Pid, Scheduler, SchedulerParams, set_scheduler};
use tokio::sync::oneshot;

use crate::api::Common;
use crate::api::password::HashPool;
use crate::vm::LoadTime;
use crate::worker::{Call, Question, Watch, run};
use crate::{
    LoadError, LoadReport, MessageJudgement, MessageQuestion, PolicyCounters, PolicySettings,
    PolicyStats,
};

/// How long a call may overstay its deadline before its worker is given up: the hook needs some
/// instructions to notice, and the machine may be slow.
const GRACE: Duration = Duration::from_secs(1);

/// How often the workers are looked at: usually, and while one seems to be stuck.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_CLOSELY: Duration = Duration::from_millis(50);

pub(crate) struct Pool {
    calls: async_channel::Sender<Call>,
    shared: Arc<Shared>,
    /// Wakes the supervisor; dropped with the pool, which ends it.
    overdue: SyncSender<()>,
}

/// Why a question came back from the pool without an answer.
enum Unanswered {
    Failed,
    TimedOut,
    Overloaded,
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
    /// Starts the workers; all of them have loaded the policy when this returns. A file that does not let go of its
    /// thread costs that thread, and is an error like one that takes too long.
    pub(crate) fn start(
        settings: PolicySettings,
        counters: Arc<PolicyCounters>,
        load_time: LoadTime,
    ) -> Result<(Self, LoadReport), LoadError> {
        let (calls, queue) = async_channel::bounded(settings.queue.max(1));
        let shared = Arc::new(Shared {
            common: Common {
                counters,
                load_time,
                // What is left then is enough for the hash itself.
                hashes: HashPool::new(settings.callback_timeout / 2),
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
            let (tell, told) = sync_channel(1);
            let worker = shared.spawn_worker(move |loaded| {
                // Whoever starts the policy waits for this, if it does not take too long.
                let _ = tell.send(loaded);
            })?;
            let LoadTime(limit) = load_time;
            let loaded = told
                .recv_timeout(limit + GRACE)
                .map_err(|fault| match fault {
                    RecvTimeoutError::Timeout => {
                        shared.give_up(&worker);
                        LoadError::TooSlow {
                            file: shared.settings.file.clone(),
                            limit,
                        }
                    }
                    RecvTimeoutError::Disconnected => {
                        LoadError::Thread(std::io::Error::other("it ended while loading"))
                    }
                });
            report = Some(loaded??);
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
        self.ask(|reply| Question::Credentials(credentials, reply))
            .await
            .unwrap_or_else(|why| match why {
                Unanswered::Failed => Judgement::Failed,
                Unanswered::TimedOut => Judgement::TimedOut,
                Unanswered::Overloaded => Judgement::Overloaded,
            })
    }

    pub(crate) async fn judge_message(&self, asked: MessageQuestion) -> MessageJudgement {
        self.ask(|reply| Question::Message(asked, reply))
            .await
            .unwrap_or_else(|why| match why {
                Unanswered::Failed => MessageJudgement::Failed,
                Unanswered::TimedOut => MessageJudgement::TimedOut,
                Unanswered::Overloaded => MessageJudgement::Overloaded,
            })
    }

    async fn ask<A>(
        &self,
        question: impl FnOnce(oneshot::Sender<A>) -> Question,
    ) -> Result<A, Unanswered> {
        let deadline = Instant::now() + self.shared.settings.callback_timeout;
        let (reply, answer) = oneshot::channel();
        match self.calls.try_send(Call {
            question: question(reply),
            deadline,
        }) {
            Ok(()) => {}
            Err(async_channel::TrySendError::Full(_)) => return Err(Unanswered::Overloaded),
            Err(async_channel::TrySendError::Closed(_)) => return Err(Unanswered::Failed),
        }
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(judgement)) => Ok(judgement),
            // The call was lost with its worker.
            Ok(Err(_)) => Err(Unanswered::Failed),
            Err(_) => {
                // Where a wake-up is pending already, one more says nothing new.
                let _ = self.overdue.try_send(());
                Err(Unanswered::TimedOut)
            }
        }
    }

    pub(crate) fn stats(&self) -> PolicyStats {
        PolicyStats {
            workers: self.shared.workers().len(),
            queued: self.calls.len(),
            in_flight: self.shared.common.in_flight.value(),
            hashes_waiting: self.shared.common.hashes.waiting(),
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

    /// Starts one worker, which tells `loaded` what came of loading the policy.
    fn spawn_worker(
        self: &Arc<Self>,
        loaded: impl FnOnce(Result<LoadReport, LoadError>) + Send + 'static,
    ) -> Result<Arc<Watch>, std::io::Error> {
        let watch = Arc::new(Watch::new());
        let leave = Leave {
            shared: self.clone(),
            watch: watch.clone(),
        };
        // In the list before it runs, so that one which ends at once is taken out again.
        self.workers().push(watch.clone());
        let (shared, own) = (self.clone(), watch.clone());
        thread::Builder::new()
            .name("policy".to_owned())
            .spawn(move || {
                wake_gently();
                let common = &shared.common;
                run(&shared.settings, common, &shared.queue, &own, loaded);
                drop(leave);
            })?;
        Ok(watch)
    }

    /// Looks after the workers: every second, and closely from when a call is overdue until none is. A
    /// caller that goes away early tells nothing, hence the second.
    fn supervise(self: &Arc<Self>, woken: &Receiver<()>) {
        let mut pause = LOOK;
        loop {
            match woken.recv_timeout(pause) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.queue.is_closed() {
                return;
            }
            let suspects = self.give_up_stuck_workers();
            pause = if suspects { LOOK_CLOSELY } else { LOOK };
            self.fill_up();
        }
    }

    /// Starts workers for those that have ended: given up, or lost to a fault of their own. One that cannot
    /// be started is tried again at the next look.
    fn fill_up(self: &Arc<Self>) {
        let wanted = self.settings.workers.max(1);
        // The lock must be free again before a worker is put into the list.
        let there = self.workers().len();
        for _ in there..wanted {
            let say =
                |fault: LoadError| tracing::error!(%fault, "a policy worker cannot be replaced");
            let started = self.spawn_worker(move |loaded| {
                if let Err(fault) = loaded {
                    say(fault);
                }
            });
            if let Err(fault) = started {
                say(fault.into());
            }
        }
    }

    /// Gives up workers that Lua does not let go of. True while one may still turn out to be one.
    fn give_up_stuck_workers(self: &Arc<Self>) -> bool {
        let allowed = |time: Duration| {
            let allowed = (time + GRACE).as_millis();
            u64::try_from(allowed).unwrap_or(u64::MAX)
        };
        let call = allowed(self.settings.callback_timeout);
        let load = allowed(self.common.load_time.0);
        let workers = self.workers().clone();
        let mut suspects = false;
        for worker in workers {
            let (busy, loading) = (worker.busy_ms(), worker.loading_ms());
            suspects |= busy > 0;
            if busy <= call && loading <= load {
                continue;
            }
            let most = 2 * self.settings.workers;
            if self.stuck.load(Ordering::Relaxed) >= most {
                tracing::error!(
                    stuck = most,
                    "too many policy workers are stuck to replace another one"
                );
                // They may come back; asking closely would only fill the log.
                return false;
            }
            tracing::error!(
                busy_ms = busy,
                loading_ms = loading,
                "a policy worker is stuck and is replaced"
            );
            self.give_up(&worker);
        }
        suspects
    }

    /// Lets a worker that does not come back go its way. It ends if it ever does.
    fn give_up(&self, worker: &Arc<Watch>) {
        worker.retire();
        self.stuck.fetch_add(1, Ordering::Relaxed);
        self.common.counters.abandoned_workers.add(1);
        self.workers().retain(|other| !Arc::ptr_eq(other, worker));
    }
}

/// Lets this thread wait for its turn when it is woken, rather than interrupt whoever woke it (`SCHED_BATCH`, sched(7)): that is mostly a
/// thread with more requests at hand, whose questions then come in one go. Its share of the processor stays what it was. Where the
/// system forbids it everything works, at a higher price.
fn wake_gently() {
    let params = SchedulerParams { priority: 0 };
    let _ = set_scheduler(Pid::current_thread(), Scheduler::SCHED_BATCH, params);
}

/// Takes a worker out of the list when its thread ends, also where a panic ends it or it never began.
struct Leave {
    shared: Arc<Shared>,
    watch: Arc<Watch>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let own = &self.watch;
        self.shared
            .workers()
            .retain(|worker| !Arc::ptr_eq(worker, own));
        if own.is_retired() {
            self.shared.stuck.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("an abandoned policy worker came back and ended");
        }
    }
}
