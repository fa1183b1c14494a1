//! `gatepost run` and `gatepost demo`.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use gatepost_config::{Settings, UpstreamAddress};
use gatepost_policy::PolicyCounters;
use gatepost_proxy::{Build, Parts, Server, UpstreamTarget};

use crate::cli::REVISION;
use crate::settings::{ConfigFile, load};
use crate::{demo, logging};

/// Serves until a signal says stop. Whatever is wrong is said before anything listens.
pub(crate) fn run(config: &Path) -> Result<()> {
    start(load(config)?, config)?.run()?;
    Ok(())
}

/// The same in front of the embedded injection API, with an invitation to try it.
pub(crate) fn demo(config: &Path) -> Result<()> {
    let settings = load(config)?;
    if !matches!(settings.upstream.address, UpstreamAddress::Demo { .. }) {
        bail!(
            "{}: the demo needs `upstream: {{ address: demo }}`",
            config.display()
        );
    }
    let server = start(settings, config)?;
    if let Some(gate) = server.addresses().next() {
        std::io::stdout().write_all(demo::invitation(gate).as_bytes())?;
    }
    server.run()?;
    Ok(())
}

fn start(settings: Settings, config: &Path) -> Result<Server> {
    logging::init(&settings.log)?;
    let counters = Arc::<PolicyCounters>::default();
    let file = ConfigFile::new(config, counters.clone());
    let policy = file.load_policy(&settings)?;
    let demo = match &settings.upstream.address {
        UpstreamAddress::Demo { store } => {
            let address = demo::start(store.clone()).context("cannot start the demo upstream")?;
            Some(UpstreamTarget::Tcp(address))
        }
        UpstreamAddress::Tcp { .. } | UpstreamAddress::Unix(_) => None,
    };
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
        revision: REVISION,
    };
    let server = Server::bind(Parts {
        settings,
        policy,
        demo,
        source: Box::new(file),
        counters,
        build,
    })?;
    for address in server.addresses() {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = server.admin_address() {
        tracing::info!(%address, "admin listening");
    }
    Ok(server)
}
