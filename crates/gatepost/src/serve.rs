//! `gatepost run` and `gatepost demo`.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use gatepost_config::{Listen, Settings, UpstreamAddress};
use gatepost_proxy::{
    Build, Fingerprint, LogControl, Parts, Server, Starting, UpstreamTarget, tell_predecessor,
};

use crate::cli::REVISION;
use crate::settings::ConfigFile;
use crate::{demo, logging};

/// Serves until a signal says stop. Whatever is wrong is said before anything listens.
pub(crate) fn run(config: &Path) -> Result<()> {
    let file = ConfigFile::new(config);
    let serving = || -> Result<()> {
        let starting = Starting::begin()?;
        let settings = read(&file)?;
        let (log, _last_lines) = logging::init(&settings.0.log)?;
        start(&file, settings, log)?.run(starting)?;
        Ok(())
    };
    serving().inspect_err(|fault| tell_predecessor(&format!("{fault:#}")))
}

/// The same in front of the embedded injection API, with an invitation to try it.
pub(crate) fn demo(config: &Path) -> Result<()> {
    let file = ConfigFile::new(config);
    let starting = Starting::begin()?;
    let settings = read(&file)?;
    if !matches!(
        settings.0.upstream.addresses.first(),
        Some(UpstreamAddress::Demo { .. })
    ) {
        bail!(
            "{}: the demo needs `upstream: {{ address: demo }}`",
            config.display()
        );
    }
    let (log, _last_lines) = logging::init(&settings.0.log)?;
    let server = start(&file, settings, log)?;
    let tcp = |listen| match listen {
        Listen::Tcp(address) => Some(address),
        Listen::Unix(_) => None,
    };
    if let Some(gate) = server.addresses().find_map(tcp) {
        std::io::stdout().write_all(demo::invitation(gate).as_bytes())?;
    }
    server.run(starting)?;
    Ok(())
}

/// What the configuration says, and what its files held before.
fn read(file: &ConfigFile) -> Result<(Settings, Fingerprint)> {
    let fingerprint = Fingerprint::now(file);
    Ok((file.settings()?, fingerprint))
}

fn start(
    file: &ConfigFile,
    (settings, fingerprint): (Settings, Fingerprint),
    log: Arc<dyn LogControl>,
) -> Result<Server> {
    let loaded = file.load_policies(settings)?;
    let demo = match loaded.settings.upstream.addresses.first() {
        Some(UpstreamAddress::Demo { store }) => {
            let address = demo::start(store.clone()).context("cannot start the demo upstream")?;
            Some(UpstreamTarget::Tcp(address))
        }
        Some(UpstreamAddress::Tcp { .. } | UpstreamAddress::Unix(_)) | None => None,
    };
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
        revision: REVISION,
    };
    let server = Server::bind(Parts {
        loaded,
        demo,
        source: Box::new(file.clone()),
        fingerprint,
        counters: file.counters(),
        log,
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
