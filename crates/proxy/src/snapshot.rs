//! Everything that a request needs and a reload may replace, as one immutable value.

use std::sync::Arc;

use gatepost_auth::Gate;
use gatepost_policy::Policy;
use http::HeaderValue;

use crate::forward::Upstream;

/// INVARIANT: a request takes one snapshot at its beginning and uses no other, so it never sees the
/// routes of one configuration and the policy of another.
pub(crate) struct Snapshot {
    pub(crate) gate: Gate,
    pub(crate) policy: Arc<Policy>,
    pub(crate) upstream: Upstream,
    /// The ready value of `WWW-Authenticate`.
    pub(crate) challenge: HeaderValue,
}
