//! The admin listener: the status page, `/metrics`, `/livez`, `/readyz`, `POST /reload`, `/log` and `/quota/IDENTITY`. It runs on a thread
//! of its own, so it answers also when every proxy thread is busy.
//!
//! Who may: with `admin.token` whoever has it. Without, whoever reaches loopback, which in a browser is every page that is open in it;
//! so everything but the probes asks whether a page of others could have sent it: metrics and quotas tell names.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use arc_swap::ArcSwap;
use axum::extract::{Path, Request, State};
use axum::http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use gatepost_auth::Secret;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::{oneshot, watch};

use crate::admin_listener::Bounded;
use crate::lifecycle::Phase;
use crate::logging::LogControl;
use crate::metrics::Metrics;
use crate::quota::QuotaStore;
use crate::reload::Wanted;
use crate::snapshot::Snapshot;
use crate::status::{Page, Standing, guarded};

/// What the admin pages show.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) metrics: Metrics,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) phase: Arc<Phase>,
    pub(crate) reload: SyncSender<Wanted>,
    pub(crate) quota: Arc<QuotaStore>,
    pub(crate) log: Arc<dyn LogControl>,
    pub(crate) status: Arc<Standing>,
    pub(crate) page: Page,
}

/// Serves until it is over, or the runtime it is spawned on ends.
///
/// # Errors
///
/// Where the listener cannot be given to the runtime.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    admin: Admin,
    mut over: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = Bounded::new(tokio::net::TcpListener::from_std(listener)?);
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
    // For probes, which have no token; they tell nothing but what they are for.
    let open = Router::new()
        // Alive means that this answers at all.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready));
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/reload", post(reload))
        .route("/log", get(show_level).put(set_level))
        .route("/quota/{identity}", get(show_quota).delete(reset_quota))
        .route_layer(from_fn_with_state(admin.clone(), guard));
    let data = Router::new()
        .route("/status.json", any(status))
        .route_layer(from_fn_with_state(admin.clone(), guard));
    // The page holds no data, so it asks for no token: a browser sends none by itself, and the page asks for it.
    let pages = Router::new()
        .route("/", any(page))
        .route("/status", any(page))
        .merge(data)
        .route_layer(from_fn_with_state(admin.clone(), own_page));
    open.merge(guarded).merge(pages).with_state(admin)
}

/// What only gatepost's own page may see. A page of others has the address of this one under a name of its own (DNS rebinding);
/// with a token it would not have that.
async fn own_page(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if admin.snapshot.load().admin_token.is_none() && may_be_a_page(request.headers()) {
        return (StatusCode::FORBIDDEN, NOT_HERE).into_response();
    }
    if request.method() != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET")]).into_response();
    }
    next.run(request).await
}

const NOT_HERE: &str = "Host has to be an IP address or localhost, and Origin the same\n";

async fn page(State(admin): State<Admin>) -> Response {
    admin.page.response()
}

async fn status(State(admin): State<Admin>) -> Response {
    let snapshot = admin.snapshot.load_full();
    let (stats, endpoints) = (snapshot.policy.stats(), snapshot.upstream.endpoints());
    let (ready, lost) = (admin.phase.is_ready(), admin.log.lost());
    let gathered = admin.metrics.gather(&stats, endpoints, lost, ready);
    let status = admin.status.status(gathered, &snapshot, ready);
    (guarded(), Json(status)).into_response()
}

async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let snapshot = admin.snapshot.load_full();
    let headers = request.headers();
    match &snapshot.admin_token {
        Some(token) if !bears(headers, token) => {
            let challenge = [(WWW_AUTHENTICATE, "Bearer realm=\"gatepost admin\"")];
            let text = "the admin token is needed\n";
            return (StatusCode::UNAUTHORIZED, challenge, text).into_response();
        }
        None if may_be_a_page(headers) => {
            return (StatusCode::FORBIDDEN, NOT_HERE).into_response();
        }
        Some(_) | None => {}
    }
    next.run(request).await
}

/// Compares digests, so that the time tells nothing of how much of the token, or its length, was right.
fn bears(headers: &HeaderMap, token: &Secret) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let Some((scheme, given)) = value.to_str().ok().and_then(|it| it.split_once(' ')) else {
        return false;
    };
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    let same = digest(given.trim()).ct_eq(&digest(token.expose()));
    scheme.eq_ignore_ascii_case("bearer") && same.into()
}

/// Whether a page in a browser may have sent this: under a name that its author made to resolve to loopback (DNS rebinding), or from
/// another origin (a form needs nobody's consent). Programs send an address or no Host, and no Origin.
fn may_be_a_page(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => return headers.contains_key(ORIGIN),
        (Some(host), None) => host.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => return true,
    };
    let here = host.parse::<Authority>().is_ok_and(|it| {
        let name = it.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    });
    let foreign = |origin: &[u8]| origin.strip_prefix(b"http://") != Some(host.as_bytes());
    !here
        || headers
            .get_all(ORIGIN)
            .iter()
            .any(|it| foreign(it.as_bytes()))
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let snapshot = admin.snapshot.load_full();
    let (stats, endpoints) = (snapshot.policy.stats(), snapshot.upstream.endpoints());
    let (ready, lost) = (admin.phase.is_ready(), admin.log.lost());
    match admin.metrics.render(&stats, endpoints, lost, ready) {
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
    if admin.phase.is_ready() {
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

async fn show_level(State(admin): State<Admin>) -> String {
    format!("{}\n", admin.log.level())
}

async fn set_level(State(admin): State<Admin>, body: String) -> Response {
    match admin.log.set_level(body.trim()) {
        Ok(()) => {
            tracing::warn!(
                level = admin.log.level(),
                "the log level is changed until the next reload"
            );
            show_level(State(admin)).await.into_response()
        }
        Err(fault) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{fault}\n")).into_response(),
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
