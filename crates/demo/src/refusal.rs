//! Every way the API says no: the status code and the words, in one place.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::store::StoreError;

/// The longest description of a fault, in bytes. Descriptions quote the client's own words, which
/// may be as long as a body.
const LONGEST_DESCRIPTION: usize = 1024;

/// Why a request gets no.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The body is not one whole JSON value.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// The body is JSON, but not an injection request.
    #[error("{}", .0.problem)]
    NotARequest(Fault),
    /// The body is longer than the limit.
    #[error("the body is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// The body's JSON consists of too many values.
    #[error("the body holds more than {limit} JSON values")]
    TooManyValues {
        /// The limit.
        limit: u64,
    },
    /// The body ended before its framing says it ends. Most often nobody is left to read this.
    #[error("the body broke off")]
    BrokenBody,
    /// The body stopped arriving.
    #[error("the body stalled")]
    StalledBody,
    /// No such path, or no such message.
    #[error("there is nothing here")]
    NotFound,
    /// The query of a list says something other than `limit`.
    #[error("the only parameter is `limit`, a whole number")]
    Query,
    /// The store failed. The detail is for the log.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// A task ended before its time, which only a fault of the demo's own can bring about.
    #[error("the demo failed")]
    Internal,
}

/// What is wrong with a JSON body, and where.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Where, as in `recipients[0].email`; `.` is the whole body.
    pub(crate) path: String,
    /// The field at the end of that path, if it ends at one.
    pub(crate) field: Option<String>,
    /// What.
    pub(crate) problem: String,
}

impl Fault {
    /// A fault of the field at `path` whose own name is `field`.
    pub(crate) fn new(path: impl Into<String>, field: &str, problem: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            field: Some(field.to_owned()),
            problem: problem.into(),
        }
    }
}

impl Refusal {
    /// The status code.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotJson(_) | Self::BrokenBody | Self::Query => StatusCode::BAD_REQUEST,
            Self::NotARequest(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLong { .. } | Self::TooManyValues { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::StalledBody => StatusCode::REQUEST_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Store(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refusal as the client sees it.
#[derive(Serialize)]
struct Answer<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if let Self::Store(error) = &self {
            tracing::error!(%error, "the demo's message store failed");
        }
        let words = self.to_string();
        let fault = if let Self::NotARequest(fault) = &self {
            Some(fault)
        } else {
            None
        };
        let answer = Answer {
            error: shorten(&words),
            path: fault.map(|fault| shorten(&fault.path)),
            field: fault.and_then(|fault| fault.field.as_deref()).map(shorten),
        };
        (self.status(), Json(answer)).into_response()
    }
}

/// The beginning of `text` that an answer may quote.
pub(crate) fn shorten(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST_DESCRIPTION))
        .unwrap_or(text)
}
