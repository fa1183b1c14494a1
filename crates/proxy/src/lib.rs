//! The way of a request through gatepost: listeners, the door, forwarding, metrics and the admin
//! listener.
//!
//! The only crate that knows the proxy library. From outside it is one thing: [`Server::bind`] takes
//! settings and a loaded policy and opens the listeners, [`Server::run`] serves until it is told to stop.

mod addresses;
mod admin;
mod admin_listener;
mod answer;
mod audit;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod body;
mod chunked;
mod client_stream;
mod connection;
mod corked;
mod crowd;
mod descriptors;
mod door;
mod endpoints;
mod fault;
mod forward;
mod gathered;
mod head;
mod health;
mod http2;
mod identities;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod in_memory;
mod inspect;
mod lifecycle;
mod listening;
mod logging;
mod metrics;
mod names;
mod opening;
mod passage;
mod pause;
mod pem;
mod quota;
mod record;
mod reload;
mod server;
mod shadow;
mod shared_state;
mod snapshot;
mod starting;
mod status;
mod systemd;
mod tapped;
mod telling;
mod tending;
mod throttle;
mod tls;
mod trace;
#[cfg_attr(not(feature = "otlp"), path = "traces_absent.rs")]
mod traces;
mod upgrade;
mod upstream_tls;
mod way;

pub use logging::LogControl;
pub use reload::{Fingerprint, Loaded, Source};
pub use server::{Build, Parts, Server, StartError, UpstreamTarget};
pub use starting::Starting;
pub use tls::{Certificates, check_certificates};
pub use upgrade::tell_predecessor;
