//! End-to-end tests: the real binary, started as an operator starts it, in front of a real upstream on
//! loopback. One file per concern; the doc comment of a test tells the attack or the need it stands for.

#![cfg(test)] // Tells clippy that helpers may unwrap as tests may.

mod harness;

mod access;
mod admin;
mod audit;
mod author;
mod body;
mod book;
mod certificates;
mod client_address;
mod credentials;
mod decision_cache;
mod demo;
mod descriptors;
mod examples;
mod faults;
mod forged_identity;
mod forwarding;
mod http1;
mod http2;
mod http2_client;
mod http2_floods;
mod identities;
mod identity_forms;
mod idle_memory;
mod kubernetes;
mod kumomta;
mod lifecycle;
mod lifecycle_load;
#[expect(dead_code, reason = "the integration tests use the rest of it")]
mod manifests;
mod messages;
mod metrics;
mod monitoring;
mod policy;
mod quota;
mod raw_requests;
mod reload;
mod routes;
mod schema;
mod security;
mod shadow;
mod smuggling;
mod snippets;
mod spans;
mod startup;
mod status;
mod strict_reader;
mod systemd;
mod throttle;
mod tidy;
mod tls;
mod tls_client;
mod trace;
mod unix_socket;
mod upgrade;
mod upstream_faults;
mod upstreams;
