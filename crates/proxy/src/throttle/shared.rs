//! Failures that replicas tell each other through Redis.
//!
//! Redis is asked only when credentials were wrong, by a thread of its own, and what it answers goes into
//! this replica's memory. So a request never waits for Redis, and a good one has nothing to do with it. The
//! price: a replica learns of a guesser with the first failure that it sees itself, so a limit of N is
//! one of N and one more for each replica beyond the first.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gatepost_auth::Secret;
use gatepost_auth::address::limited_as;
use gatepost_auth::throttle::Rate;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout};

use super::{Attempt, Kind, Memory};
use crate::metrics::ThrottleMetrics;
use crate::shared_state::{name_hash, plain};

/// Failures that may wait to be told. Beyond that they count here alone.
const WAITING: usize = 4096;

/// Longest wait for Redis, to connect and to answer each.
const PATIENCE: Duration = Duration::from_secs(1);

/// After a fault Redis is left alone for so long.
const REST: Duration = Duration::from_secs(1);

/// The same arithmetic as [`Rate::charge`], in microseconds of Redis' own clock, so that the clocks of
/// replicas need not agree. Answers how far the arrival time lies ahead.
const CHARGE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival = tonumber(redis.call('GET', KEYS[1]) or 0)
local longest = math.max(now + interval * burst, arrival)
arrival = math.min(math.max(arrival, now) + interval, longest)
local ahead = arrival - now
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', math.ceil(ahead / 1000) + 1000)
return string.format('%.0f', ahead)";

/// A failure to be told.
pub(super) struct Failure {
    /// Its name in Redis. Users are hashed: people paste passwords where a name belongs.
    name: String,
    rate: Rate,
    /// Its name here.
    key: u64,
}

impl Failure {
    pub(super) fn new(kind: Kind, attempt: Attempt<'_>, rate: Rate, key: u64) -> Self {
        let address = limited_as(attempt.client);
        let name = match kind {
            Kind::Address => format!("gatepost:throttle:{address}"),
            Kind::AddressAndUser => {
                let user = name_hash(attempt.user.unwrap_or_default());
                format!("gatepost:throttle:{address}:{user:032x}")
            }
        };
        Self { name, rate, key }
    }
}

/// The way to the thread that talks to Redis. It ends when this is dropped.
pub(super) struct Shared {
    failures: Sender<Failure>,
    metrics: ThrottleMetrics,
}

impl Shared {
    pub(super) fn start(
        url: &Secret,
        memory: Arc<Memory>,
        metrics: ThrottleMetrics,
    ) -> io::Result<Self> {
        // The fault may repeat the URL, and that may hold a password.
        let client = Client::open(url.expose())
            .map_err(|_| io::Error::other("`throttle.redis` is not a URL of Redis"))?;
        let (failures, told) = channel(WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let teller = Teller {
            client,
            connection: None,
            resting: None,
            memory,
            metrics: metrics.clone(),
        };
        metrics.redis_up.set(1);
        std::thread::Builder::new()
            .name("throttle".to_owned())
            .spawn(move || runtime.block_on(teller.run(told)))?;
        Ok(Self { failures, metrics })
    }

    /// Never waits.
    pub(super) fn tell(&self, failure: Failure) {
        if self.failures.try_send(failure).is_err() {
            self.metrics.untold.inc();
        }
    }
}

struct Teller {
    client: Client,
    connection: Option<MultiplexedConnection>,
    /// Until when Redis is left alone.
    resting: Option<Instant>,
    memory: Arc<Memory>,
    metrics: ThrottleMetrics,
}

impl Teller {
    async fn run(mut self, mut failures: Receiver<Failure>) {
        while let Some(failure) = failures.recv().await {
            if self.resting.is_some_and(|until| Instant::now() < until) {
                self.metrics.untold.inc();
                continue;
            }
            match self.charge(&failure).await {
                Ok(ahead) => {
                    self.memory.raise(failure.key, ahead);
                    if self.metrics.redis_up.get() == 0 {
                        tracing::info!("the throttle is shared through Redis again");
                    }
                    self.resting = None;
                    self.metrics.redis_up.set(1);
                }
                Err(fault) => {
                    self.connection = None;
                    self.resting = Some(Instant::now() + REST);
                    self.metrics.untold.inc();
                    // One warning for each time that Redis goes away, not one for each failure.
                    if self.metrics.redis_up.get() == 1 {
                        tracing::warn!(
                            fault,
                            "the throttle cannot be shared through Redis; this replica goes on by itself"
                        );
                    }
                    self.metrics.redis_up.set(0);
                }
            }
        }
    }

    /// How far ahead the shared arrival time is.
    async fn charge(&mut self, failure: &Failure) -> Result<Duration, String> {
        let mut connection = match &self.connection {
            Some(connection) => connection.clone(),
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(PATIENCE))
                    .set_response_timeout(Some(PATIENCE));
                let opening = self
                    .client
                    .get_multiplexed_async_connection_with_config(&config);
                let opened = timeout(PATIENCE, opening)
                    .await
                    .map_err(|_| "cannot connect in time".to_owned())?
                    .map_err(|fault| plain(&fault))?;
                self.connection.insert(opened).clone()
            }
        };
        let (interval, burst) = failure.rate.parts();
        let mut command = redis::cmd("EVAL");
        command
            .arg(CHARGE)
            .arg(1)
            .arg(&failure.name)
            .arg(interval)
            .arg(burst);
        let ahead: u64 = timeout(PATIENCE, command.query_async(&mut connection))
            .await
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|fault| plain(&fault))?;
        Ok(Duration::from_micros(ahead))
    }
}
