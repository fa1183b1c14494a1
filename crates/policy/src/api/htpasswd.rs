//! `gatepost.htpasswd`: a file as Apache's `htpasswd` makes it, read again when it changes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlua::{Lua, Table, UserData, UserDataMethods, Value};
use tokio::sync::Mutex;

use super::password::HashPool;
use super::{Host, read_regular, resolve, text};

/// The largest file, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// How often the file is looked at. A changed password counts after this long at the latest.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) fn install(lua: &Lua, host: &Host<'_>, gatepost: &Table) -> mlua::Result<()> {
    let (folder, hashes) = (host.folder.to_owned(), host.common.hashes.clone());
    gatepost.set(
        "htpasswd",
        lua.create_async_function(move |_, path: Value| {
            let (folder, hashes) = (folder.clone(), hashes.clone());
            async move {
                let path = resolve(&folder, &text(&path, 1, "gatepost.htpasswd")?);
                let (content, users) = load(path.clone()).await.map_err(mlua::Error::runtime)?;
                let state = State {
                    content,
                    users: Arc::new(users),
                    looked: Instant::now(),
                    fault: None,
                };
                Ok(Htpasswd {
                    path,
                    hashes,
                    state: Arc::new(Mutex::new(state)),
                })
            }
        })?,
    )
}

struct Htpasswd {
    path: PathBuf,
    hashes: HashPool,
    state: Arc<Mutex<State>>,
}

struct State {
    /// As it was read: a file that was only touched is not parsed again.
    content: Vec<u8>,
    users: Arc<Users>,
    looked: Instant,
    /// What was wrong when it was looked at last, so that it is said once.
    fault: Option<String>,
}

type Users = HashMap<String, String>;

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
                let (path, hashes, state) =
                    (this.path.clone(), this.hashes.clone(), this.state.clone());
                drop(this);
                let users = current(path, &state).await;
                let known = users.get(&user).filter(|_| password.is_some());
                let password = password.unwrap_or_default();
                let Some(stored) = known else {
                    // Neither an unknown user nor a missing password is told from a wrong one by the time it takes,
                    // so they are compared with what the file has, whose kind of hash may be a quick one.
                    let another = users.values().next().cloned();
                    let _ = hashes.verify(another, password).await;
                    return Ok(false);
                };
                let verified = hashes.verify(Some(stored.clone()), password).await;
                verified.map_err(|fault| mlua::Error::runtime(format!("htpasswd: {fault}")))
            },
        );
    }
}

/// The users as the file has them, looked at once a second at the most. A file that cannot be read, or not parsed
/// (half-written, perhaps), leaves those that were read before.
async fn current(path: PathBuf, state: &Mutex<State>) -> Arc<Users> {
    let mut state = state.lock().await;
    if state.looked.elapsed() < LOOK_EVERY {
        return state.users.clone();
    }
    state.looked = Instant::now();
    match load(path).await {
        Ok((content, users)) => {
            state.fault = None;
            if content != state.content {
                state.content = content;
                state.users = Arc::new(users);
            }
        }
        Err(fault) => {
            if state.fault.as_ref() != Some(&fault) {
                tracing::warn!(target: "policy", fault, "the users that were read before go on");
                state.fault = Some(fault);
            }
        }
    }
    state.users.clone()
}

async fn load(path: PathBuf) -> Result<(Vec<u8>, Users), String> {
    let loading = tokio::task::spawn_blocking(move || {
        let content = read_regular(&path, LARGEST)?;
        let users = parse(&content).map_err(|fault| format!("{}:{fault}", path.display()))?;
        Ok((content, users))
    });
    loading.await.map_err(|fault| fault.to_string())?
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
}
