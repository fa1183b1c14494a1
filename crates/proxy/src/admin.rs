//! The admin listener: `/metrics`, `/livez`, `/readyz`, `POST /reload`, and `/quota/IDENTITY`. It runs on a thread of its own, so it answers
//! also when every proxy thread is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use arc_swap::ArcSwap;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::sync::{oneshot, watch};

use crate::metrics::Metrics;
use crate::quota::QuotaStore;
use crate::reload::Wanted;
use crate::snapshot::Snapshot;

/// What the admin pages show.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) metrics: Metrics,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) ready: Arc<AtomicBool>,
    pub(crate) reload: SyncSender<Wanted>,
    pub(crate) quota: Arc<QuotaStore>,
}

/// Serves until the runtime it is spawned on ends.
///
/// # Errors
///
/// Where the listener cannot be given to the runtime.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    admin: Admin,
    mut over: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let over = async move {
        if over.wait_for(|over| *over).await.is_err() {
            // Nobody can say it any more.
            std::future::pending::<()>().await;
        }
    };
    axum::serve(listener, router(admin))
        .with_graceful_shutdown(over)
        .await
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        // Alive means that this answers at all.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/reload", post(reload))
        .route("/quota/{identity}", get(show_quota).delete(reset_quota))
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

async fn reload(State(admin): State<Admin>) -> Response {
    let (answer, answered) = oneshot::channel();
    if admin.reload.try_send(Wanted::ByAdmin(answer)).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "a reload is under way\n").into_response();
    }
    match answered.await {
        Ok(Ok(())) => "reloaded\n".into_response(),
        Ok(Err(fault)) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{fault}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

/// What an identity has used of its quotas; the path holds its name, percent-encoded.
async fn show_quota(State(admin): State<Admin>, Path(identity): Path<String>) -> Response {
    let snapshot = admin.snapshot.load_full();
    match admin.quota.show(&snapshot.quotas, &identity).await {
        Ok(shown) => Json(shown).into_response(),
        Err(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")).into_response(),
    }
}

async fn reset_quota(State(admin): State<Admin>, Path(identity): Path<String>) -> Response {
    let snapshot = admin.snapshot.load_full();
    match admin.quota.reset(&snapshot.quotas, &identity).await {
        Ok(()) => "reset\n".into_response(),
        Err(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")).into_response(),
    }
}
