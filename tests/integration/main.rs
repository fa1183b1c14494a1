//! Tests against servers of others, which `make integration` installs: the same harness, the same binary.

#![cfg(test)] // Tells clippy that helpers may unwrap as tests may.

#[expect(dead_code, reason = "the end-to-end tests use the rest of it")]
#[path = "../harness.rs"]
mod harness;

mod book;
mod booted;
mod browser;
mod clock;
mod container;
mod fail2ban;
mod haproxy;
mod haraka;
mod helm;
mod host;
#[expect(dead_code, reason = "the end-to-end tests use the rest of it")]
#[path = "../http2_client.rs"]
mod http2_client;
mod image;
mod kubernetes;
#[path = "../manifests/mod.rs"]
mod manifests;
mod migration;
mod mta;
mod nginx;
mod pod;
mod program;
mod prometheus;
mod quota;
#[expect(dead_code, reason = "the end-to-end tests use the rest of it")]
#[path = "../raw_requests.rs"]
mod raw_requests;
mod redis;
mod release;
mod scaling;
mod signature;
mod slow;
mod smuggling;
mod status_page;
#[path = "../strict_reader.rs"]
mod strict_reader;
mod throttle;
mod tls;
#[expect(dead_code, reason = "the end-to-end tests use the rest of it")]
#[path = "../tls_client.rs"]
mod tls_client;
mod zonemta;
