//! The embedded injection API: an honest demo of what stands behind gatepost.
//!
//! It speaks `KumoMTA`'s injection JSON, keeps the messages and sends nothing. `gatepost demo` and
//! `upstream.address: demo` run it, and so do the project's end-to-end tests, which look here for
//! what really arrived: every message shows the identity and all the headers of its request.
//!
//! | request | answer |
//! |---|---|
//! | `POST /api/inject/v1` | stores one message per recipient |
//! | `GET /messages?limit=N` | the newest messages, newest first |
//! | `GET /messages/ID` | one message, whole |
//! | `POST /drain` | for measuring: reads any body without keeping it, and says how long it was |
//! | `GET /healthz` | 200 |
//! | `GET /` | says what this is |
//!
//! Everyone who reaches it may read every message. It has no authentication of its own, because
//! gatepost is what it demonstrates.
//!
//! Reading order: `routes` is the whole API on one screen; `body` takes a request's body in
//! without holding it, `request` and `content` read its JSON, `prepare` makes messages of it,
//! `store` keeps them, `page` shows them.

mod body;
mod content;
mod page;
mod prepare;
mod reception;
mod refusal;
mod request;
mod routes;
mod store;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::store::Store;

/// How long requests under way may still take once the shutdown has begun. Short, because the
/// sidecar around the demo has a deadline of its own to keep.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What the demo needs to know.
#[derive(Debug, Clone, Default)]
pub struct DemoSettings {
    /// The `SQLite` file that keeps the messages, created if missing. Default: none, so messages
    /// live in memory: the newest 10 000, at most 64 MiB of them, gone when the process ends.
    pub store: Option<PathBuf>,
}

/// Why the demo cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The file cannot be opened, created or written, or is not a database.
    #[error("cannot use `{}` as the demo's message store", path.display())]
    Store {
        /// The file as it was named in the settings.
        path: PathBuf,
        /// What `SQLite` says about it.
        source: rusqlite::Error,
    },
    /// The file is a sound database, but not one that the demo made.
    #[error(
        "`{}` is a database of another program, so the demo leaves it alone; name a new file",
        path.display()
    )]
    ForeignStore {
        /// The file as it was named in the settings.
        path: PathBuf,
    },
}

/// The demo, with its store open.
#[derive(Debug)]
pub struct Demo {
    store: Store,
}

impl Demo {
    /// Opens or creates the store. Blocks while it does.
    ///
    /// # Errors
    ///
    /// When the file of [`DemoSettings::store`] cannot be used.
    pub fn open(settings: DemoSettings) -> Result<Self, DemoError> {
        let store = match settings.store {
            None => Store::in_memory(),
            Some(path) => Store::in_file(path)?,
        };
        Ok(Self { store })
    }

    /// Serves HTTP/1.1 on `listener` until `shutdown` completes; requests under way then have five
    /// seconds to finish.
    ///
    /// # Errors
    ///
    /// When the listener fails for good.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let service =
            routes::router(self.store).into_make_service_with_connect_info::<SocketAddr>();
        let listener = listener.tap_io(|connection| {
            // Nagle's algorithm would hold back the end of an answer, and spoil every measurement.
            // Where the system refuses, answers are slower and nothing else.
            let _ = connection.set_nodelay(true);
        });
        let (shutdown_begun, begun) = oneshot::channel();
        let server = axum::serve(listener, service).with_graceful_shutdown(async move {
            shutdown.await;
            // Nobody listens once the server has ended, and then nobody needs to.
            let _ = shutdown_begun.send(());
        });
        let grace_over = async move {
            match begun.await {
                Ok(()) => tokio::time::sleep(SHUTDOWN_GRACE).await,
                // The server ended without a shutdown, so its own result is the one that counts.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = server.into_future() => ended,
            () = grace_over => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
