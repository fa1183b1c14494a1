//! Where log lines go: standard error, as text on a terminal and as JSON elsewhere.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use gatepost_config::{Log, LogFormat};
use gatepost_proxy::LogControl;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

use crate::stderr::{Background, LastLines};

/// Installs the subscriber. The second part has to be kept until everything is said.
pub(crate) fn init(log: &Log) -> Result<(Arc<dyn LogControl>, LastLines)> {
    let (filter, handle) = reload::Layer::new(filter(&log.level).map_err(|fault| anyhow!(fault))?);
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let lines = Background::start(std::io::stderr())?;
    let writer = lines.clone();
    let writer = move || writer.clone();
    let layer = if json {
        fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(writer)
            .boxed()
    } else {
        fmt::layer()
            .with_writer(writer)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    let control = Installed {
        handle,
        level: Mutex::new(log.level.clone()),
        lines: lines.clone(),
    };
    Ok((Arc::new(control), LastLines(lines)))
}

/// The proxy library's own lines, written through the `log` crate, come along from warnings upwards; below that they
/// describe its insides.
fn filter(level: &str) -> Result<Targets, String> {
    let level: LevelFilter = match level {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        other => {
            return Err(format!(
                "there is no log level {other:?}, but error, warn, info, debug and trace"
            ));
        }
    };
    Ok(Targets::new()
        .with_default(level)
        .with_target("pingora", level.min(LevelFilter::WARN))
        // One for every HTTP/2 connection that ends before it has begun. It is a line of the access log.
        .with_target("pingora_core::apps", LevelFilter::OFF)
        // Warns of single frames, of which a client may send as many as it likes.
        .with_target("h2", level.min(LevelFilter::ERROR))
        // Warns of what a client says before it is let in, in the client's own words. That a handshake failed is a line of ours.
        .with_target("rustls", level.min(LevelFilter::ERROR))
        // Reports as an error that a pooled connection was busy being returned, which harms nothing.
        // What does go wrong with a connection is in the request's own line.
        .with_target("pingora_core::connectors", LevelFilter::OFF))
}

/// The log that [`init`] has installed.
struct Installed {
    handle: Handle<Targets, Registry>,
    level: Mutex<String>,
    lines: Background,
}

impl LogControl for Installed {
    fn level(&self) -> String {
        let level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        level.clone()
    }

    fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = filter(level)?;
        // Held throughout, so that what is shown is what holds.
        let mut shown = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle
            .reload(filter)
            .map_err(|fault| fault.to_string())?;
        level.clone_into(&mut shown);
        Ok(())
    }

    fn lost(&self) -> u64 {
        self.lines.lost()
    }
}
