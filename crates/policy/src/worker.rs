//! A worker: one thread, one Lua state, many calls at once.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use gatepost_auth::{Credentials, Judgement};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::LocalSet;

use crate::api::Common;
use crate::vm::Vm;
use crate::{LoadError, LoadReport, MessageJudgement, MessageQuestion, PolicySettings};

/// Calls that one worker has begun and not ended; they wait for I/O, or take turns. Beyond that calls
/// stay in the queue, so that its bound keeps its meaning.
const CALLS_AT_ONCE: usize = 256;

/// How often a worker that waits looks whether there is a call that nobody told it of.
const LOOK: Duration = Duration::from_millis(100);

/// A question to the policy. Questions of both kinds share one queue, so that its bound means what it says.
pub(crate) struct Call {
    pub(crate) question: Question,
    pub(crate) deadline: Instant,
}

/// What is asked, and who waits for the answer.
pub(crate) enum Question {
    Credentials(Credentials, oneshot::Sender<Judgement>),
    Message(MessageQuestion, oneshot::Sender<MessageJudgement>),
}

/// Whether a call may have spoilt its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    Badly,
}

impl Question {
    /// Whether nobody waits for the answer any more.
    fn is_pointless(&self) -> bool {
        match self {
            Self::Credentials(_, reply) => reply.is_closed(),
            Self::Message(_, reply) => reply.is_closed(),
        }
    }

    /// Has the answer found and hands it to whoever waits; where the deadline has passed that is nobody.
    async fn put_to(self, vm: &Vm, deadline: Instant, watch: impl Fn(bool) + Unpin) -> Ended {
        let failed = match self {
            Self::Credentials(credentials, reply) => {
                let judgement = vm.judge(&credentials, deadline, watch).await;
                let failed = judgement == Judgement::Failed;
                let _ = reply.send(judgement);
                failed
            }
            Self::Message(asked, reply) => {
                let judgement = vm.judge_message(&asked, deadline, watch).await;
                let failed = judgement == MessageJudgement::Failed;
                let _ = reply.send(judgement);
                failed
            }
        };
        if failed { Ended::Badly } else { Ended::Well }
    }
}

/// What others may know of a worker while it is busy.
#[derive(Debug)]
pub(crate) struct Watch {
    epoch: Instant,
    /// When the stretch of Lua began that is running now: milliseconds since the epoch, plus one; 0
    /// while none is.
    since: AtomicU64,
    /// The same of the policy's file, which is run anew where a call has spoilt its state.
    loading_since: AtomicU64,
    /// Set when the worker is given up. It ends as soon as it comes back.
    retired: AtomicBool,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            since: AtomicU64::new(0),
            loading_since: AtomicU64::new(0),
            retired: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    fn note(&self, since: &AtomicU64, running: bool) {
        since.store(if running { self.now() } else { 0 }, Ordering::Relaxed);
    }

    fn running(&self, running: bool) {
        self.note(&self.since, running);
    }

    fn loading(&self, loading: bool) {
        self.note(&self.loading_since, loading);
    }

    fn ms(&self, since: &AtomicU64) -> u64 {
        match since.load(Ordering::Relaxed) {
            0 => 0,
            since => self.now().saturating_sub(since),
        }
    }

    /// For how many milliseconds Lua has not let go of the thread.
    pub(crate) fn busy_ms(&self) -> u64 {
        self.ms(&self.since)
    }

    /// For how many milliseconds the policy's file has been loading.
    pub(crate) fn loading_ms(&self) -> u64 {
        self.ms(&self.loading_since)
    }

    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }
}

/// The body of a worker's thread. Tells `loaded` what came of loading the policy, then serves until
/// the queue is closed or the worker is given up.
pub(crate) fn run(
    settings: &PolicySettings,
    common: &Common,
    calls: &async_channel::Receiver<Call>,
    watch: &Arc<Watch>,
    loaded: impl FnOnce(Result<LoadReport, LoadError>),
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(fault) => return loaded(Err(LoadError::Thread(fault))),
    };
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        watch.loading(true);
        let made = Vm::load(settings, common).await;
        watch.loading(false);
        let vm = match made {
            Ok((vm, report)) => {
                loaded(Ok(report));
                vm
            }
            Err(fault) => return loaded(Err(fault)),
        };
        let worker = Worker {
            settings,
            common,
            watch,
            vm: Rc::new(RefCell::new(Rc::new(vm))),
        };
        worker.serve(calls).await;
    });
    if watch.is_retired() {
        // What it left behind has long been answered; dropping it may run into the same trap again.
        drop(tasks);
        return;
    }
    // The policy was replaced or the process ends: calls in flight end by themselves, at their
    // deadlines at the latest.
    runtime.block_on(tasks);
}

struct Worker<'a> {
    settings: &'a PolicySettings,
    common: &'a Common,
    watch: &'a Arc<Watch>,
    /// The state that new calls run in. Calls in flight keep the one that they began in.
    vm: Rc<RefCell<Rc<Vm>>>,
}

impl Worker<'_> {
    async fn serve(&self, calls: &async_channel::Receiver<Call>) {
        let room = Arc::new(Semaphore::new(CALLS_AT_ONCE));
        let worn = Rc::new(RefCell::new(None));
        while let Ok(place) = room.clone().acquire_owned().await {
            let Some(call) = self.next(calls).await else {
                return;
            };
            self.replace_if_worn(&worn).await;
            if call.question.is_pointless() || Instant::now() >= call.deadline {
                continue;
            }
            let vm = self.vm.borrow().clone();
            let (watch, worn) = (self.watch.clone(), worn.clone());
            let counted = self.common.in_flight.one();
            tokio::task::spawn_local(async move {
                // Left in place by a panic in the call, which is not trusted to have left the state whole.
                let suspect = Suspect {
                    vm: Some(vm.clone()),
                    worn,
                };
                let told = watch.clone();
                let asked = call.question;
                let ended = asked
                    .put_to(&vm, call.deadline, move |it| told.running(it))
                    .await;
                if ended == Ended::Well || !vm.is_worn() {
                    suspect.clear();
                }
                drop((counted, place));
            });
        }
    }

    /// The next call; `None` where there will be none, or none for this worker.
    ///
    /// The queue wakes one of those who wait, and a worker that is stuck in one of its calls may be the one. So
    /// all of them look by themselves too. A worker that was given up takes nothing any more when it comes back:
    /// it could only drop it.
    async fn next(&self, calls: &async_channel::Receiver<Call>) -> Option<Call> {
        loop {
            let mut call = pin!(calls.recv());
            let next = poll_fn(|context| {
                if self.watch.is_retired() {
                    return Poll::Ready(None);
                }
                call.as_mut().poll(context).map(Result::ok)
            });
            if let Ok(next) = tokio::time::timeout(LOOK, next).await {
                return next;
            }
        }
    }

    /// Loads the policy into a fresh state where a call has spoilt the present one.
    async fn replace_if_worn(&self, worn: &Rc<RefCell<Option<Rc<Vm>>>>) {
        let Some(spoilt) = worn.borrow_mut().take() else {
            return;
        };
        if !Rc::ptr_eq(&spoilt, &*self.vm.borrow()) {
            return;
        }
        self.watch.loading(true);
        let made = Vm::load(self.settings, self.common).await;
        self.watch.loading(false);
        match made {
            Ok((fresh, _)) => {
                self.common.counters.replaced_states.add(1);
                tracing::warn!("a policy worker was given a fresh Lua state");
                *self.vm.borrow_mut() = Rc::new(fresh);
            }
            Err(fault) => {
                tracing::error!(%fault, "a policy worker goes on with a spoilt Lua state");
            }
        }
    }
}

/// Marks a state as spoilt unless its call ended well.
struct Suspect {
    vm: Option<Rc<Vm>>,
    worn: Rc<RefCell<Option<Rc<Vm>>>>,
}

impl Suspect {
    fn clear(mut self) {
        self.vm = None;
    }
}

impl Drop for Suspect {
    fn drop(&mut self) {
        if let Some(vm) = self.vm.take() {
            *self.worn.borrow_mut() = Some(vm);
        }
    }
}
