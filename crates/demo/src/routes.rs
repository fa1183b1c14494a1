//! The whole API: which path does what, and the headers that every answer carries.

use std::future::ready;
use std::net::SocketAddr;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::map_response;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use crate::body::{self, BODY_LIMIT};
use crate::page;
use crate::prepare::{InjectResponse, prepare};
use crate::reception::{Identity, Reception};
use crate::refusal::Refusal;
use crate::request::InjectRequest;
use crate::store::{Store, Summary};

/// How many messages a list shows unless told otherwise.
const DEFAULT_LIST: usize = 100;

/// How many a list shows at most: all that the store in memory can hold.
const LONGEST_LIST: usize = 10_000;

/// Makes the API over `store`.
pub(crate) fn router(store: Store) -> Router {
    Router::new()
        .route("/", get(about))
        .route("/healthz", get(|| ready("ok\n")))
        .route("/style.css", get(style))
        .route("/api/inject/v1", post(inject))
        .route("/drain", post(drain))
        .route("/messages", get(list))
        .route("/messages/{id}", get(message))
        .fallback(unknown)
        .layer(map_response(|response| ready(harden(response))))
        .with_state(store)
}

async fn inject(
    State(store): State<Store>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<InjectResponse>, Refusal> {
    let reception = Reception::new(peer, &headers, SystemTime::now());
    // INVARIANT: nothing is stored before the body has arrived whole. `body::read` succeeds only
    // after its end, and the store is touched only after `body::read`.
    let (batch, response) = body::read(body, &headers, BODY_LIMIT, |reader| {
        prepare(InjectRequest::parse(reader)?, reception)
    })
    .await?;
    if !batch.messages.is_empty() {
        store.add(batch).await?;
    }
    Ok(Json(response))
}

/// What `POST /drain` answers.
#[derive(Serialize)]
struct Drained {
    bytes: u64,
    #[serde(flatten)]
    identity: Identity,
}

async fn drain(headers: HeaderMap, body: Body) -> Result<Json<Drained>, Refusal> {
    let bytes = body::discard(body).await?;
    let identity = Identity::from_headers(&headers);
    Ok(Json(Drained { bytes, identity }))
}

/// What `GET /messages` answers.
#[derive(Serialize)]
struct List {
    messages: Vec<Summary>,
}

async fn list(
    State(store): State<Store>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let limit = list_limit(query.as_deref().unwrap_or_default())?;
    let messages = store.newest(limit).await?;
    Ok(if page::prefers_html(&headers) {
        Html(page::list(&messages)).into_response()
    } else {
        Json(List { messages }).into_response()
    })
}

/// Reads the only parameter there is. Unknown ones are refused, so that a misspelt `limit` is seen.
fn list_limit(query: &str) -> Result<usize, Refusal> {
    let mut limit = DEFAULT_LIST;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        limit = parameter
            .strip_prefix("limit=")
            .and_then(|number| number.parse().ok())
            .ok_or(Refusal::Query)?;
    }
    Ok(limit.min(LONGEST_LIST))
}

async fn message(
    State(store): State<Store>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let found = match id.parse() {
        Ok(id) => store.message(id).await?,
        Err(_) => None,
    };
    let html = page::prefers_html(&headers);
    Ok(match found {
        None => not_found(&headers),
        Some(message) if html => Html(page::message(&message)).into_response(),
        Some(message) => Json(message).into_response(),
    })
}

async fn unknown(headers: HeaderMap) -> Response {
    not_found(&headers)
}

fn not_found(headers: &HeaderMap) -> Response {
    let status = Refusal::NotFound.status();
    if page::prefers_html(headers) {
        (status, Html(page::NOT_FOUND)).into_response()
    } else {
        Refusal::NotFound.into_response()
    }
}

async fn about() -> Html<&'static str> {
    Html(page::ABOUT)
}

async fn style() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE)
}

/// Every stored word is a stranger's. The pages escape it; should one slip through all the same,
/// these headers keep a browser from running it, from guessing types and from telling others.
fn harden(mut response: Response) -> Response {
    const RULES: [(axum::http::HeaderName, &str); 4] = [
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
        ),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in RULES {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
