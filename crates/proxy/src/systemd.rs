//! What a service manager is told (sd_notify(3)): readiness, reloads, the end, and that the proxy threads run. Nothing where
//! `NOTIFY_SOCKET` is not set.

use std::time::Duration;

use pingora_runtime::Runtime;
use sd_notify::NotifyState;
use tokio::runtime::Handle;

/// Requests are served, also after a reload.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload has begun; [`ready`] ends it, whatever came of it.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(fault) => tracing::warn!(%fault, "the service manager cannot be told of a reload"),
    }
}

/// The last requests may finish.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// This process goes, that one has taken over.
pub(crate) fn followed_by(process: u32) {
    tell(&[NotifyState::MainPid(process)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(fault) = sd_notify::notify(states) {
        tracing::warn!(%fault, "the service manager cannot be told");
    }
}

/// The proxy threads, to be asked whether they run.
pub(crate) fn threads(runtime: &Runtime) -> Vec<Handle> {
    match runtime {
        Runtime::NoSteal(threads) => (0..threads.threads())
            .map(|index| threads.get_runtime_at(index).clone())
            .collect(),
        Runtime::Steal { runtime, .. } => vec![runtime.handle().clone()],
    }
}

/// Tells the service manager that gatepost is alive, for as long as every proxy thread takes up a task in time. Ends at once
/// where no watchdog waits for it.
pub(crate) async fn watchdog(threads: Vec<Handle>) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|it| !it.is_zero()) else {
        return;
    };
    // Twice in the time that is allowed, as sd_watchdog_enabled(3) says, with room for the answers.
    let pause = (limit / 4).max(Duration::from_millis(1));
    let mut well = true;
    loop {
        tokio::time::sleep(pause).await;
        let alive = all_run(&threads, pause).await;
        if alive {
            tell(&[NotifyState::Watchdog]);
        } else if well {
            tracing::error!(
                "a proxy thread does not answer; the watchdog is not told that all is well"
            );
        }
        well = alive;
    }
}

/// Whether every thread takes up a task in time.
async fn all_run(threads: &[Handle], time: Duration) -> bool {
    let asked: Vec<_> = threads.iter().map(|it| it.spawn(async {})).collect();
    let answers = async {
        for answer in asked {
            answer.await?;
        }
        Ok::<_, tokio::task::JoinError>(())
    };
    matches!(tokio::time::timeout(time, answers).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_thread_that_hangs_is_noticed() {
        let runtime = Runtime::new_no_steal(2, "proxy");
        let mut threads = threads(&runtime);
        assert_eq!(threads.len(), 2);
        assert!(all_run(&threads, Duration::from_secs(20)).await);
        // Nobody drives this one.
        let stuck = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        threads.push(stuck.handle().clone());
        assert!(!all_run(&threads, Duration::from_millis(50)).await);
        stuck.shutdown_background();
    }
}
