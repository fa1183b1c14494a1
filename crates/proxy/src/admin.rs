//! The admin listener: `/metrics`, `/livez`, `/readyz`. It runs on a thread of its own, so it answers
//! also when every proxy thread is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

/// What the admin pages show.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) metrics: Metrics,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) ready: Arc<AtomicBool>,
}

/// Serves until the runtime it is spawned on ends.
///
/// # Errors
///
/// Where the listener cannot be given to the runtime.
pub(crate) async fn serve(listener: std::net::TcpListener, admin: Admin) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    axum::serve(listener, router(admin)).await
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        // Alive means that this answers at all.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(admin)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let stats = admin.snapshot.load().policy.stats();
    match admin.metrics.render(&stats) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(fault) => {
            tracing::error!(%fault, "cannot render metrics");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics cannot be rendered\n",
            )
                .into_response()
        }
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.ready.load(Ordering::Relaxed) {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
    }
}
