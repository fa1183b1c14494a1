//! gatepost, and its upstream.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gatepost_policy::{Policy, PolicyCounters, PolicySettings};
use gatepost_proxy::Loaded;
use gatepost_proxy::in_memory::{Begins, Proxy};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::reference::{Request, request};
use super::{Client, Entrance};

const POLICY: &str = "
local kumo = require 'kumo'
local users = { scott = 'tiger', ann = 'lion' }
kumo.on('http_server_validate_auth_basic', function(user, password) return users[user] == password end)
";

const SETTINGS: &str = "
listeners: [{ listen: '127.0.0.1:0' }]
upstream: { address: 'unix:FOLDER/upstream.sock' }
policy: { file: policy.lua, workers: 1 }
admin: off
trusted_hosts: [10.0.0.0/8]
trusted_proxies: [192.0.2.0/24]
# Wrong credentials are counted as always, and never too many.
throttle: { per_address: 1000000000/s, per_address_and_user: 1000000000/s, longest_pause: 0s }
routes:
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated, trusted_hosts] }
  - { path: /open/*, methods: [GET, HEAD, POST], allow: [anyone] }
  - { path: /scott, methods: [POST, PUT], allow: [{ identity: scott }] }
  - { path: /message, methods: [POST], allow: [authenticated], message_policy: true }
";

/// Nothing waits for the network here, so what takes longer waits for something that does not come.
const LONGEST: Duration = Duration::from_secs(8);

/// How long a client waits for an answer before it goes on.
const PATIENCE: Duration = Duration::from_millis(5);

/// When a client of HTTP/2 has nothing more to wait for.
const SILENCE: Duration = Duration::from_millis(2);

/// Made once for each thread.
pub(super) struct World {
    // Never dropped: the library keeps tasks and threads that have no end of their own.
    runtime: &'static Runtime,
    proxy: &'static Proxy,
    got: Arc<Mutex<Got>>,
    /// The upstream's socket is in it.
    _folder: TempDir,
}

thread_local! {
    static WORLD: Result<World, String> = World::new().map_err(|fault| fault.to_string());
}

impl World {
    pub(super) fn with<T>(act: impl FnOnce(&Self) -> Result<T, String>) -> Result<T, String> {
        WORLD.with(|world| act(world.as_ref().map_err(Clone::clone)?))
    }

    fn new() -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let runtime: &'static Runtime = Box::leak(Box::new(runtime));
        let _inside = runtime.enter();
        let upstream = UnixListener::bind(folder.path().join("upstream.sock"))?;
        let got = Arc::<Mutex<Got>>::default();
        runtime.spawn(serve(upstream, got.clone()));
        let counters = Arc::<PolicyCounters>::default();
        let proxy = Proxy::new(load(folder.path(), &counters)?, counters)?;
        Ok(Self {
            runtime,
            proxy: Box::leak(Box::new(proxy)),
            got,
            _folder: folder,
        })
    }

    /// What the upstream gets when this client comes.
    pub(super) fn talk(
        &self,
        client: &Client<'_>,
        entrance: Entrance,
    ) -> Result<Vec<Request>, String> {
        self.runtime.block_on(async {
            let peer = SocketAddr::new(entrance.peer(), 4711);
            let begins = if entrance == Entrance::ProxyHeader {
                Begins::WithProxyHeader
            } else {
                Begins::WithRequest
            };
            let (near, far) = duplex(1 << 16);
            let serving = self.proxy.serve(far, peer, begins);
            let both = async { tokio::join!(serving, talk(near, client)) };
            let over = timeout(LONGEST, Box::pin(both)).await;
            over.map_err(|_| "the connection does not end".to_owned())?;
            // What was sent to the upstream is with it already; it has to be taken up.
            for _ in 0..8 {
                yield_now().await;
            }
            lock(&self.got).take()
        })
    }
}

fn load(folder: &Path, counters: &Arc<PolicyCounters>) -> Result<Loaded, Box<dyn Error>> {
    let file = folder.join("policy.lua");
    std::fs::write(&file, POLICY)?;
    let settings = SETTINGS.replace("FOLDER", &folder.display().to_string());
    let settings = gatepost_config::parse(&settings, &folder.join("gatepost.yaml"));
    let settings = settings.map_err(|faults| faults.to_string())?;
    let policy = PolicySettings {
        file,
        workers: 1,
        queue: settings.policy.queue,
        callback_timeout: settings.policy.callback_timeout,
        memory_limit: usize::try_from(settings.policy.memory_limit)?,
        cache_ttl: settings.decision_cache.ttl,
        cache_capacity: settings.decision_cache.capacity,
    };
    Ok(Loaded {
        policy: Policy::load(policy, counters)?,
        settings,
        shadow: None,
    })
}

/// Sends all of it, and reads what comes until the other side closes.
async fn talk(stream: DuplexStream, client: &Client<'_>) {
    let (mut reading, mut writing) = split(stream);
    let answered = Notify::new();
    let read = async {
        let mut buffer = [0; 4096];
        while matches!(reading.read(&mut buffer).await, Ok(1..)) {
            answered.notify_one();
        }
    };
    let write = async {
        // Where the other side has closed already, nothing can be sent any more.
        let mut is_patient = true;
        for (index, part) in client.parts.iter().enumerate() {
            // Who gets no answer once waits for none any more: most of what is tried gets none.
            if index > 0 && is_patient {
                is_patient = timeout(PATIENCE, answered.notified()).await.is_ok();
            }
            for piece in part.chunks(client.step) {
                let _ = writing.write_all(piece).await;
                yield_now().await;
            }
        }
        // Whoever leaves a connection of HTTP/2 gives up its requests.
        while client.stays && timeout(SILENCE, answered.notified()).await.is_ok() {}
        let _ = writing.shutdown().await;
    };
    tokio::join!(read, write);
}

/// What the upstream got.
#[derive(Default)]
struct Got {
    /// Requests, in the order in which they were whole.
    whole: Vec<Request>,
    /// What there is on each connection beyond that.
    rest: BTreeMap<usize, Vec<u8>>,
}

impl Got {
    /// All of it, the parts of requests behind the whole ones.
    fn take(&mut self) -> Result<Vec<Request>, String> {
        let mut seen = std::mem::take(&mut self.whole);
        for rest in std::mem::take(&mut self.rest).into_values() {
            match request(&rest) {
                Some((part, _)) => seen.push(part),
                None => return Err(format!("the upstream got `{}`", rest.escape_ascii())),
            }
        }
        Ok(seen)
    }
}

fn lock(got: &Mutex<Got>) -> MutexGuard<'_, Got> {
    got.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(upstream: UnixListener, got: Arc<Mutex<Got>>) {
    for number in 0.. {
        let Ok((stream, _)) = upstream.accept().await else {
            return;
        };
        tokio::spawn(answer(stream, number, got.clone()));
    }
}

/// Writes down what comes, and answers every request that is whole.
async fn answer(mut stream: UnixStream, number: usize, got: Arc<Mutex<Got>>) {
    let mut bytes = Vec::new();
    while matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
        let mut answers = Vec::new();
        while let Some((request, length)) = request(&bytes).filter(|(it, _)| it.is_whole) {
            let body = if request.head.method == "HEAD" {
                ""
            } else {
                "ok"
            };
            answers.push(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}"
            ));
            bytes.drain(..length);
            lock(&got).whole.push(request);
        }
        if bytes.is_empty() {
            lock(&got).rest.remove(&number);
        } else {
            lock(&got).rest.insert(number, bytes.clone());
        }
        if stream.write_all(answers.concat().as_bytes()).await.is_err() {
            return;
        }
    }
}
