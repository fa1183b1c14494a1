//! Runs under load, by `make soak` and `make overload`: the same harness, the release binary, one core for gatepost and one for everybody else.
//! They print what they measure, and fail where it is not what docs/reliability.md promises.

#![cfg(test)] // Tells clippy that helpers may unwrap as tests may.

#[expect(dead_code, reason = "the end-to-end tests use the rest of it")]
#[path = "../harness.rs"]
mod harness;

mod crowd;
mod flood;
#[expect(dead_code, reason = "the end-to-end tests use the rest of it")]
#[path = "../http2_client.rs"]
mod http2_client;
mod ledger;
mod line;
mod mix;
mod operator;
mod overload;
mod soak;
#[expect(dead_code, reason = "the end-to-end tests use the rest of it")]
#[path = "../tls_client.rs"]
mod tls_client;
mod upstream;

/// Runs gatepost on the first core. `make` keeps this process, with clients and upstream, off it.
const ON_ITS_CORE: [&str; 3] = ["taskset", "--cpu-list", "0"];
