//! `gatepost.htpasswd`: a file as Apache's `htpasswd` makes it, read again when it changes.
//!
//! All workers of a policy share what was read. No lock is held while the file is: a file system that hangs keeps one call
//! waiting, and the others go on with the users that are known.

use std::collections::HashMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use mlua::{Lua, Table, UserData, UserDataMethods, Value};
use tokio::sync::Notify;

use super::hashes::HashFault;
use super::password::HashPool;
use super::{Host, read_regular, resolve, text};

/// The largest file, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// How often the file is looked at. A changed password counts after this long at the latest, and the time to read it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Within the tick of a file system's clock a file can change twice under one time. 2 s is FAT's, the coarsest.
const COARSEST_CLOCK: Duration = Duration::from_secs(2);

/// How long a file may take to be read before the log says so.
const SLOW: Duration = Duration::from_secs(10);

/// Files that are remembered. A policy that makes their names from requests must not fill the memory; beyond this, files
/// that no object stands for are forgotten.
const MOST_FILES: usize = 64;

/// The files of a policy, by path. Clones are the same thing.
#[derive(Clone, Default)]
pub(crate) struct UserFiles(Arc<Mutex<HashMap<PathBuf, Arc<UserFile>>>>);

impl UserFiles {
    fn at(&self, path: PathBuf) -> Arc<UserFile> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = all.get(&path) {
            return file.clone();
        }
        if all.len() >= MOST_FILES {
            all.retain(|_, file| Arc::strong_count(file) > 1);
        }
        let file = Arc::new(UserFile::new(path.clone()));
        // More files than that at the same time are read for each object.
        if all.len() < MOST_FILES {
            all.insert(path, file.clone());
        }
        file
    }
}

pub(super) fn install(lua: &Lua, host: &Host<'_>, gatepost: &Table) -> mlua::Result<()> {
    let (folder, common) = (host.folder.to_owned(), host.common);
    let (files, hashes) = (common.user_files.clone(), common.hashes.clone());
    gatepost.set(
        "htpasswd",
        lua.create_async_function(move |_, path: Value| {
            let path = text(&path, 1, "gatepost.htpasswd").map(|path| resolve(&folder, &path));
            let file = path.map(|path| files.at(path));
            let hashes = hashes.clone();
            async move {
                let file = file?;
                file.users().await.map_err(mlua::Error::runtime)?;
                Ok(Htpasswd { file, hashes })
            }
        })?,
    )
}

struct Htpasswd {
    file: Arc<UserFile>,
    hashes: HashPool,
}

impl UserData for Htpasswd {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_async_method(
            "verify",
            async |_, this, (user, password): (Value, Value)| {
                const NAME: &str = "verify";
                let user = text(&user, 1, NAME)?.to_owned();
                let password = if password.is_nil() {
                    None
                } else {
                    Some(text(&password, 2, NAME)?.to_owned())
                };
                let (file, hashes) = (this.file.clone(), this.hashes.clone());
                drop(this);
                let users = file.users().await.map_err(mlua::Error::runtime)?;
                let known = users.get(&user).filter(|_| password.is_some());
                let password = password.unwrap_or_default();
                let Some(stored) = known else {
                    // Neither an unknown user nor a missing password is told from a wrong one by the time it takes,
                    // so they are compared with what the file has, whose kind of hash may be a quick one.
                    let another = users.values().next().cloned();
                    return match hashes.verify(another, password).await {
                        Err(fault @ HashFault::Busy) => Err(fault.raised_by("htpasswd")),
                        Ok(_) | Err(_) => Ok(false),
                    };
                };
                let verified = hashes.verify(Some(stored.clone()), password).await;
                verified.map_err(|fault| fault.raised_by("htpasswd"))
            },
        );
    }
}

/// A file, and what is known of it.
struct UserFile {
    path: PathBuf,
    state: Mutex<State>,
    /// Told at the end of every reading.
    read: Notify,
}

struct State {
    /// `None` until the file was read for the first time.
    users: Option<Arc<Users>>,
    stamp: Option<Stamp>,
    looked: Instant,
    being_read: bool,
    /// What was wrong when it was looked at last, so that it is said once.
    fault: Option<String>,
}

type Users = HashMap<String, String>;

impl UserFile {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: Mutex::new(State {
                users: None,
                stamp: None,
                looked: Instant::now(),
                being_read: false,
                fault: None,
            }),
            read: Notify::new(),
        }
    }

    /// The users as the file has them, looked at once a second at the most. A file that cannot be read, or not parsed
    /// (half-written, perhaps), leaves those that were read before; where there are none, it is an error.
    async fn users(self: &Arc<Self>) -> Result<Arc<Users>, String> {
        // Made before anybody can end the reading that it waits for.
        let read = self.read.notified();
        let reading = {
            let mut state = self.state();
            if let Some(users) = state.users.clone() {
                let since = state.looked.elapsed();
                if state.being_read && since > SLOW {
                    state.note(format!("{}: reading takes long", self.path.display()));
                }
                if state.being_read || since < LOOK_EVERY {
                    return Ok(users);
                }
            }
            state.start(self)
        };
        if let Some(reading) = reading {
            // Not bound to this call, which may be given up in the middle, nor to its worker, which may be stuck by then.
            tokio::task::spawn_blocking(move || reading.run());
        }
        read.await;
        let state = self.state();
        let users = state.users.clone();
        users.ok_or_else(|| state.fault.clone().unwrap_or_default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The reading that somebody has to run; `None` where one is under way.
    fn start(&mut self, file: &Arc<UserFile>) -> Option<Reading> {
        if self.being_read {
            return None;
        }
        self.being_read = true;
        self.looked = Instant::now();
        Some(Reading {
            file: file.clone(),
            known: self.stamp.clone(),
        })
    }

    fn take(&mut self, found: Found) {
        self.fault = None;
        self.stamp = found.stamp;
        if let Some(users) = found.users {
            self.users = Some(Arc::new(users));
        }
    }

    fn note(&mut self, fault: String) {
        // Where nothing was read before, it raises.
        if self.users.is_some() && self.fault.as_ref() != Some(&fault) {
            tracing::warn!(target: "policy", fault, "the users that were read before go on");
        }
        self.fault = Some(fault);
    }
}

/// A look at the file. Dropped, run or not, it makes room for the next one and wakes who waits for it.
struct Reading {
    file: Arc<UserFile>,
    known: Option<Stamp>,
}

impl Reading {
    fn run(&self) {
        let found = look(&self.file.path, self.known.as_ref(), SystemTime::now());
        let mut state = self.file.state();
        match found {
            Ok(found) => state.take(found),
            Err(fault) => state.note(fault),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.file.state().being_read = false;
        self.file.read.notify_waiters();
    }
}

/// What a look at a file found.
struct Found {
    stamp: Option<Stamp>,
    /// `None` where the file is the one that is known.
    users: Option<Users>,
}

/// Reads the file, unless it is the one that is known.
fn look(path: &Path, known: Option<&Stamp>, now: SystemTime) -> Result<Found, String> {
    // Before the content is read: what is written meanwhile is another state.
    let stamp = std::fs::metadata(path)
        .ok()
        .and_then(|metadata| Stamp::of(&metadata, now));
    if stamp.is_some() && stamp.as_ref() == known {
        return Ok(Found { stamp, users: None });
    }
    let content = read_regular(path, LARGEST)?;
    let users = parse(&content).map_err(|fault| format!("{}:{fault}", path.display()))?;
    Ok(Found {
        stamp,
        users: Some(users),
    })
}

/// What tells one state of a file from another without reading it. The time of the last change of any kind is in, which
/// nobody can set back, and the file's own number: builds that can be repeated give all files one time of writing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp([i64; 5]);

impl Stamp {
    /// `None` where the system tells too little, or the file is so new that it may change again at the same time.
    #[cfg(unix)]
    fn of(metadata: &Metadata, now: SystemTime) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let changed = Duration::from_secs(u64::try_from(metadata.ctime()).ok()?);
        let age = now.duration_since(SystemTime::UNIX_EPOCH + changed).ok()?;
        // The fraction of the second was left out.
        (age > COARSEST_CLOCK + Duration::from_secs(1)).then_some(())?;
        Some(Self([
            metadata.ctime(),
            metadata.ctime_nsec(),
            i64::from_ne_bytes(metadata.ino().to_ne_bytes()),
            i64::from_ne_bytes(metadata.dev().to_ne_bytes()),
            i64::try_from(metadata.len()).ok()?,
        ]))
    }

    #[cfg(not(unix))]
    fn of(_metadata: &Metadata, _now: SystemTime) -> Option<Self> {
        None
    }
}

/// `user:hash`, a line each; of a user who is there twice the first counts, as for Apache.
fn parse(content: &[u8]) -> Result<Users, String> {
    let text = std::str::from_utf8(content).map_err(|_| " not UTF-8".to_owned())?;
    let mut users = Users::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fault = |what: &str| format!("{}: {what}", index + 1);
        let (user, hash) = line.split_once(':').ok_or_else(|| fault("no colon"))?;
        // Old DES hashes and plain passwords look alike; neither is accepted.
        if user.is_empty() || !(hash.starts_with('$') || hash.starts_with('{')) {
            return Err(fault("no hash of a known kind"));
        }
        users
            .entry(user.to_owned())
            .or_insert_with(|| hash.to_owned());
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{basic, block_on, handler, identity, load_one_worker};

    #[test]
    fn lines_are_read_as_apache_writes_them() {
        let users = parse(b"# comment\n\nscott:{SHA}x\r\nscott:{SHA}y\ncarol:$apr1$a$b\n").unwrap();
        assert_eq!((users.len(), users["scott"].as_str()), (2, "{SHA}x"));
        for bad in ["scott", "scott:plain", ":{SHA}x", "scott:rqXexS6ZhobKA"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// `secret` as `{SHA}`.
    const SECRET: &str = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=";

    #[test]
    fn a_changed_file_counts_and_a_broken_one_does_not() {
        let lua =
            handler("file = file or gatepost.htpasswd 'users' return file:verify(user, password)");
        let loaded = load_one_worker(&lua.replace("local gatepost", "local file\nlocal gatepost"));
        let path = loaded.folder().join("users");
        let judge = |user: &str, password: &str| {
            identity(&block_on(loaded.policy.judge(basic(user, password)))).is_some()
        };
        assert!(!judge("scott", "secret"), "no file, no users");
        std::fs::write(&path, format!("carol:{SECRET}\n")).unwrap();
        assert!(judge("carol", "secret"));
        assert!(!judge("carol", "wrong") && !judge("scott", "secret"));
        let wait = |user: &str, expected: bool| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while judge(user, "secret") != expected {
                assert!(Instant::now() < deadline, "{user}");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        std::fs::write(&path, format!("scott:{SECRET}\n")).unwrap();
        wait("scott", true);
        wait("carol", false);
        std::fs::write(&path, "half-writ").unwrap();
        std::thread::sleep(LOOK_EVERY);
        assert!(judge("scott", "secret"));
    }

    /// The need: a handler that makes its object for each request, on any worker, reads the file once; and a file that is
    /// gone for a moment shuts nobody out.
    #[test]
    fn what_was_read_is_shared_by_all_objects() {
        let lua = handler("return gatepost.htpasswd('users'):verify(user, password)");
        let loaded = crate::tests::load(&lua);
        let path = loaded.folder().join("users");
        let judge = || block_on(loaded.policy.judge(basic("carol", "secret")));
        assert_eq!(judge(), gatepost_auth::Judgement::Failed, "no file");
        std::fs::write(&path, format!("carol:{SECRET}\n")).unwrap();
        assert_eq!(identity(&judge()), Some("carol"));
        std::fs::remove_file(&path).unwrap();
        std::thread::sleep(LOOK_EVERY);
        for _ in 0..8 {
            assert_eq!(identity(&judge()), Some("carol"));
        }
    }

    #[test]
    fn a_file_is_parsed_again_only_if_it_may_have_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::fs::write(&path, format!("carol:{SECRET}\n")).unwrap();
        let later = SystemTime::now() + Duration::from_secs(60);
        let fresh = look(&path, None, SystemTime::now()).unwrap();
        assert!(fresh.stamp.is_none(), "it may change within the same tick");
        let settled = look(&path, None, later).unwrap();
        assert!(settled.users.is_some());
        let again = look(&path, settled.stamp.as_ref(), later).unwrap();
        assert!(again.users.is_none() && again.stamp == settled.stamp);
        // As long as the old one, and as old by its time of writing.
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let other = folder.path().join("other");
        std::fs::write(&other, format!("scott:{SECRET}\n")).unwrap();
        let file = std::fs::File::options().write(true).open(&other).unwrap();
        file.set_modified(modified).unwrap();
        std::fs::rename(&other, &path).unwrap();
        let changed = look(&path, settled.stamp.as_ref(), later).unwrap();
        assert!(changed.users.unwrap().contains_key("scott"));
    }

    /// The attack: a file system that hangs. One reading waits for it; nobody else does, and no second one begins.
    #[test]
    fn nobody_waits_for_a_file_that_is_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::fs::write(&path, format!("carol:{SECRET}\n")).unwrap();
        let file = Arc::new(UserFile::new(path));
        block_on(async {
            assert!(file.users().await.unwrap().contains_key("carol"));
            file.state().looked -= LOOK_EVERY;
            let hanging = file.state().start(&file).unwrap();
            file.state().looked -= 2 * SLOW;
            let soon = tokio::time::timeout(Duration::from_secs(5), file.users());
            assert!(soon.await.unwrap().unwrap().contains_key("carol"));
            assert!(file.state().start(&file).is_none());
            assert!(file.state().fault.as_ref().unwrap().contains("takes long"));
            // Where there is nothing yet, all wait for the same reading, also for one that is never run.
            file.state().users = None;
            let waiting = tokio::join!(file.users(), file.users(), async { drop(hanging) });
            assert!(waiting.0.is_err() && waiting.1.is_err());
            assert!(file.users().await.unwrap().contains_key("carol"));
        });
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let files = UserFiles::default();
        let held: Vec<_> = (0..10)
            .map(|it| files.at(format!("/held/{it}").into()))
            .collect();
        for it in 0..10 * MOST_FILES {
            files.at(format!("/{it}").into());
        }
        assert!(files.0.lock().unwrap().len() <= MOST_FILES);
        assert!(Arc::ptr_eq(&held[0], &files.at("/held/0".into())));
    }
}
