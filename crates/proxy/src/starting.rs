//! Signals from the first moment on, before there is anything to stop: policies may take a while to load.
//!
//! What the system does by itself is wrong here. It ends a process at SIGHUP and at SIGQUIT (with a core file), and process 1, as in a
//! container, at none of them: whoever stops a container that is just starting would wait for its whole grace period.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use crate::lifecycle::{Signals, Told};

/// While it lives, SIGTERM and SIGINT end the process, with success: nothing was begun. SIGHUP and SIGQUIT do nothing.
pub struct Starting {
    over: oneshot::Sender<()>,
    listening: JoinHandle<()>,
}

impl Starting {
    /// # Errors
    ///
    /// The system's word, where signal handlers or their thread cannot be set up.
    pub fn begin() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut signals = {
            let _inside = runtime.enter();
            Signals::new()?
        };
        let (over, is_over) = oneshot::channel();
        let listening = async move {
            let stopped = async {
                while !matches!(signals.next().await, Told::Stop(_)) {
                    tracing::warn!("a signal is of no use yet: gatepost is starting");
                }
            };
            tokio::select! {
                biased;
                // Nobody sends; the other end is gone when there are other handlers.
                _ = is_over => {}
                () = stopped => {
                    tracing::info!("stopped before it was ready");
                    std::process::exit(0);
                }
            }
        };
        let listening = thread::Builder::new()
            .name("start".to_owned())
            .spawn(move || runtime.block_on(listening))?;
        Ok(Self { over, listening })
    }

    /// Leaves signals to other handlers, which have to be there already. When this returns, no signal ends the process here any more: each handler
    /// is told of a signal, and the one that stops with care must not find that this one stopped without.
    pub(crate) fn end(self) {
        drop(self.over);
        // Where the thread panicked it ends nothing either.
        let _ = self.listening.join();
    }
}
