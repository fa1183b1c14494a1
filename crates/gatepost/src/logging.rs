//! Where log lines go: standard error, as text on a terminal and as JSON elsewhere.

use std::io::IsTerminal as _;

use anyhow::{Result, anyhow};
use gatepost_config::{Log, LogFormat};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

/// Installs the subscriber. The proxy library's own lines, written through the `log` crate, come along
/// from warnings upwards; below that they describe its insides.
pub(crate) fn init(log: &Log) -> Result<()> {
    let level: LevelFilter = log
        .level
        .parse()
        .map_err(|_| anyhow!("unknown log level `{}`", log.level))?;
    let filter = Targets::new()
        .with_default(level)
        .with_target("pingora", level.min(LevelFilter::WARN))
        // Reports as an error that a pooled connection was busy being returned, which harms nothing.
        // What does go wrong with a connection is in the request's own line.
        .with_target("pingora_core::connectors", LevelFilter::OFF);
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let layer = if json {
        fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr)
            .boxed()
    } else {
        fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    Ok(())
}
