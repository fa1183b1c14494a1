//! The embedded injection API as an upstream: started on a free loopback port of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result};
use gatepost_demo::{Demo, DemoSettings};

/// Starts it on a thread of its own and says where it listens. It ends with the process.
pub(crate) fn start(store: Option<PathBuf>) -> Result<SocketAddr> {
    let demo = Demo::open(DemoSettings { store })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the embedded injection API")?;
    let bind = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = runtime
        .block_on(bind)
        .context("cannot start the embedded injection API")?;
    let address = listener.local_addr()?;
    let serving = move || -> io::Result<()> {
        runtime.block_on(demo.serve(listener, std::future::pending()))
    };
    thread::Builder::new()
        .name("demo".to_owned())
        .spawn(move || {
            if let Err(fault) = serving() {
                tracing::error!(%fault, "the embedded injection API failed");
            }
        })?;
    tracing::info!(%address, "the embedded injection API listens; it stores messages and sends nothing");
    Ok(address)
}

/// What to try, for the one who started `gatepost demo`.
pub(crate) fn invitation(gate: SocketAddr) -> String {
    let message = r#"{"envelope_sender":"me@example.com","recipients":[{"email":"you@example.net"}],"content":"From: me@example.com\r\nSubject: hello\r\n\r\nHello."}"#;
    let inject = format!("http://{gate}/api/inject/v1 -d '{message}'");
    format!(
        "
gatepost is in front of the embedded injection API. Try, in another terminal:

  1. a user whom the policy knows: 200, injected as scott
     curl -i -u scott:tiger {inject}

  2. the same user with a wrong password: 401, also from a trusted host
     curl -i -u scott:lion {inject}

  3. no credentials, but a trusted host: 200, injected as the client's address
     curl -i {inject}

Messages, with who injected them: http://{gate}/messages
Stop with Ctrl-C.
"
    )
}
