//! Reads configuration and policy again while requests go on: builds the whole, tries it, swaps it once.
//! Whatever is wrong with the new, the old goes on.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use arc_swap::ArcSwap;
use gatepost_config::{Listener, Settings, UpstreamAddress};
use gatepost_policy::Policy;
use tokio::sync::oneshot;

use crate::addresses::{UpstreamTarget, resolve};
use crate::audit::Audit;
use crate::descriptors;
use crate::logging::LogControl;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::status::LastReload;
use crate::systemd;
use crate::tls::load_all;
use crate::traces::Traces;

/// What was read and tried.
pub struct Loaded {
    /// The configuration.
    pub settings: Settings,
    /// The policy that it names.
    pub policy: Policy,
    /// The policy that is asked without effect, if it names one.
    pub shadow: Option<Policy>,
}

/// Where configuration and policy come from. The command line knows; this crate does not know YAML.
pub trait Source: Send + 'static {
    /// Reads and tries both.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, a line each.
    fn load(&self) -> Result<Loaded, String>;

    /// The files whose change is worth a reload. Asked again every time, since files come and go.
    fn files(&self) -> Vec<PathBuf>;
}

/// What a source's files hold at one moment. Taken before they are loaded, so that a change in between is
/// noticed afterwards rather than missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Of the source's files as they are now.
    #[must_use]
    pub fn now(source: &dyn Source) -> Self {
        Self::of(source.files())
    }

    /// Of names and contents. A file that cannot be read counts as such.
    fn of(mut files: Vec<PathBuf>) -> Self {
        files.sort();
        let mut hasher = DefaultHasher::new();
        for file in files {
            file.hash(&mut hasher);
            content(&file).hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

/// What a file holds, up to what configurations and policies are allowed to hold; more changes nothing. What is no
/// file is not opened: a named pipe would never end.
fn content(path: &Path) -> Option<Vec<u8>> {
    const MOST: u64 = 16 << 20;
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    let mut file = std::fs::File::open(path).ok()?.take(MOST);
    file.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Why a reload is wanted.
pub(crate) enum Wanted {
    /// SIGHUP.
    BySignal,
    /// `POST /reload`; the answer goes back to whoever asked.
    ByAdmin(oneshot::Sender<Result<(), String>>),
}

/// Runs on a thread of its own, since loading blocks.
pub(crate) struct Reloader {
    pub(crate) source: Box<dyn Source>,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) metrics: Metrics,
    /// Where the status page sees what came of it.
    pub(crate) last: Arc<LastReload>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) log: Arc<dyn LogControl>,
    /// What runs now.
    pub(crate) settings: Settings,
    /// The listeners that are open, with the TLS that they have now.
    pub(crate) listeners: Vec<Listener>,
    /// What the files held before that was loaded.
    pub(crate) loaded: Fingerprint,
    /// Where the embedded injection API listens, if it was started.
    pub(crate) demo: Option<UpstreamTarget>,
}

impl Reloader {
    /// Serves until nobody can want a reload any more.
    pub(crate) fn run(mut self, wanted: &Receiver<Wanted>) {
        let mut watched = Watched::new(self.loaded);
        loop {
            let asked = match self.settings.reload.watch {
                Some(interval) => wanted.recv_timeout(interval),
                None => wanted.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match asked {
                Ok(Wanted::BySignal) => {
                    watched = Watched::new(Fingerprint::now(&*self.source));
                    // The log and the metric say what came of it.
                    let _ = self.reload("signal");
                }
                Ok(Wanted::ByAdmin(answer)) => {
                    watched = Watched::new(Fingerprint::now(&*self.source));
                    // Whoever asked may be gone; the reload has happened all the same.
                    let _ = answer.send(self.reload("admin"));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if watched.changed(Fingerprint::now(&*self.source)) {
                        let _ = self.reload("files changed");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn reload(&mut self, why: &'static str) -> Result<(), String> {
        systemd::reloading();
        let done = self.try_reload();
        systemd::ready();
        // Also where nothing changed: the file may have been moved away by whoever rotates logs.
        self.audit.reopen(&self.settings.audit.output);
        self.metrics.reloaded(done.is_ok());
        self.last.note(why, &done);
        match &done {
            Ok(()) => tracing::info!(why, "configuration and policy are reloaded"),
            Err(fault) => {
                tracing::error!(
                    why,
                    fault,
                    "the reload failed; the old configuration and policy go on"
                );
            }
        }
        done
    }

    fn try_reload(&mut self) -> Result<(), String> {
        let Loaded {
            settings,
            policy,
            shadow,
        } = self.source.load()?;
        let running = self.snapshot.load();
        let endpoints = running.upstream.endpoints();
        let resolved = resolve(&settings.upstream, self.demo.as_ref(), Some(endpoints));
        let resolved = resolved.map_err(|fault| fault.to_string())?;
        let generation = running.generation + 1;
        let listeners = as_open(&self.listeners, &settings.listeners);
        let tls = load_all(&listeners, &running.listeners)?;
        let upstream = (resolved, Some(&**running));
        let mut snapshot = Snapshot::new(&settings, (policy, shadow), upstream, tls, generation)
            .map_err(|fault| fault.to_string())?;
        snapshot.traces = self.traces(&settings, &running)?;
        self.metrics.certificates(&listeners, &snapshot.listeners);
        // One store: from here on every new request sees the new, and none sees both.
        self.snapshot.store(Arc::new(snapshot));
        let fixed = needs_restart(&self.settings, &settings);
        if !fixed.is_empty() {
            tracing::warn!(
                keys = fixed.join(", "),
                "these changes take effect at the next start"
            );
        }
        // Also where the file names the same as before: what was set by hand meanwhile ends here.
        self.log.set_level(&settings.log.level)?;
        descriptors::provide(&settings, &self.metrics.descriptors);
        let identities = &self.metrics.identities;
        if settings.metrics != self.settings.metrics {
            identities.show(settings.metrics.top_identities);
        }
        self.settings = settings;
        self.listeners = listeners;
        Ok(())
    }
}

impl Reloader {
    /// The exporter that runs goes on where it is to send to the same place.
    fn traces(&self, settings: &Settings, running: &Snapshot) -> Result<Option<Traces>, String> {
        let Some(wanted) = &settings.traces else {
            return Ok(None);
        };
        Traces::new(wanted, running.traces.as_ref(), &self.metrics.spans).map(Some)
    }
}

/// The listeners that are open, with what a reload may change about them: the files of their TLS and what is made
/// of clients' certificates. One that is not configured any more goes on as it is.
fn as_open(open: &[Listener], new: &[Listener]) -> Vec<Listener> {
    let same = |old: &Listener, new: &Listener| {
        new.listen == old.listen && new.tls.is_some() == old.tls.is_some()
    };
    let renewed = |(index, old): (usize, &Listener)| {
        let at_its_place = new.get(index).filter(|it| same(old, it));
        let found = at_its_place.or_else(|| new.iter().find(|it| same(old, it)));
        Listener {
            tls: found.map_or(&old.tls, |it| &it.tls).clone(),
            ..old.clone()
        }
    };
    open.iter().enumerate().map(renewed).collect()
}

/// What cannot change about listeners that are open.
fn fixed(listeners: &[Listener]) -> impl PartialEq {
    let fixed = |it: &Listener| {
        let tls = it.tls.is_some();
        (it.listen.clone(), it.proxy_protocol, it.unix_mode, tls)
    };
    listeners.iter().map(fixed).collect::<Vec<_>>()
}

/// The keys that were changed and cannot change while gatepost runs.
fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let store = |settings: &Settings| match settings.upstream.addresses.first() {
        Some(UpstreamAddress::Demo { store }) => Some(store.clone()),
        Some(UpstreamAddress::Tcp { .. } | UpstreamAddress::Unix(_)) | None => None,
    };
    let demo_moved = match (store(old), store(new)) {
        (Some(old), Some(new)) => old != new,
        (Some(_) | None, None) | (None, Some(_)) => false,
    };
    let admin = |settings: &Settings| settings.admin.as_ref().map(|it| it.listen);
    let idle = |settings: &Settings| settings.upstream.max_idle_connections;
    [
        ("listeners", fixed(&old.listeners) != fixed(&new.listeners)),
        ("admin", admin(old) != admin(new)),
        ("threads", old.threads != new.threads),
        ("log.format", old.log.format != new.log.format),
        ("upstream.max_idle_connections", idle(old) != idle(new)),
        ("upstream.demo_store", demo_moved),
        (
            "throttle.entries",
            old.throttle.entries != new.throttle.entries,
        ),
        (
            "http.bodies_in_memory",
            old.http.bodies_in_memory != new.http.bodies_in_memory,
        ),
        ("quotas.redis", old.quotas.redis != new.quotas.redis),
        ("throttle.redis", old.throttle.redis != new.throttle.redis),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

/// Notices that files changed, by their content: a swapped symbolic link (as Kubernetes swaps a
/// `ConfigMap`), a renamed file and a plain write all look the same then, and a touched file looks like none.
struct Watched {
    /// What was loaded last, or tried.
    known: Fingerprint,
    /// A difference seen once. It has to be the same a second time, so that a file is not read while it
    /// is being written.
    suspected: Option<Fingerprint>,
}

impl Watched {
    fn new(known: Fingerprint) -> Self {
        Self {
            known,
            suspected: None,
        }
    }

    fn changed(&mut self, now: Fingerprint) -> bool {
        if now == self.known {
            self.suspected = None;
            return false;
        }
        if self.suspected != Some(now) {
            self.suspected = Some(now);
            return false;
        }
        self.known = now;
        self.suspected = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that editors, scripts and Kubernetes do to a file.
    #[test]
    fn a_change_counts_when_it_is_seen_twice() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        let now = || Fingerprint::of(vec![file.clone()]);
        std::fs::write(&file, "one").unwrap();
        let mut watched = Watched::new(now());
        let mut seen = |what: &str, expected: [bool; 3]| {
            let got = [(); 3].map(|()| watched.changed(now()));
            assert_eq!(got, expected, "{what}");
        };
        let change = [false, true, false];
        seen("nothing", [false; 3]);
        std::fs::write(&file, "one").unwrap();
        seen("the same content again", [false; 3]);
        std::fs::write(&file, "two").unwrap();
        seen("a plain write", change);
        std::fs::write(folder.path().join("y"), "three").unwrap();
        std::fs::rename(folder.path().join("y"), &file).unwrap();
        seen("a rename", change);
        std::fs::remove_file(&file).unwrap();
        seen("gone", change);
        for (version, content) in [("v1", "four"), ("v2", "five")] {
            let data = folder.path().join(version);
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join("x"), content).unwrap();
            let link = folder.path().join("..data.new");
            std::os::unix::fs::symlink(&data, &link).unwrap();
            std::fs::rename(&link, folder.path().join("..data")).unwrap();
            if version == "v1" {
                std::os::unix::fs::symlink("..data/x", &file).unwrap();
            }
            seen("a swapped symbolic link", change);
        }
    }

    #[test]
    fn a_file_that_is_still_being_written_waits() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        std::fs::write(&file, "").unwrap();
        let now = || Fingerprint::of(vec![file.clone()]);
        let mut watched = Watched::new(now());
        for length in 1..5 {
            std::fs::write(&file, "x".repeat(length)).unwrap();
            assert!(!watched.changed(now()), "{length}");
        }
        assert!(watched.changed(now()));
    }
}
