//! Quotas that replicas count together in Redis.
//!
//! A limit of an identity is one hash: a field for each slice of its stretch, and `a` for the arrival time of its
//! burst. One script looks at all limits of a request and charges all or none, on Redis' own clock. It is the same
//! arithmetic as `gatepost_auth::quota`, in microseconds.

use std::io;
use std::time::Duration;

use gatepost_auth::Secret;
use gatepost_auth::quota::SLICES;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::Take;
use crate::shared_state::{name_hash, plain};

/// Longest wait for Redis. A request waits for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// After a fault nobody waits for Redis for so long.
const REST: Duration = Duration::from_secs(1);

/// Takes five numbers for each key: slice, limit, burst, interval, amount. Answers 0 and the time, or which key has no
/// room (from 1) and how long to wait.
const CHARGE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local slices = tonumber(ARGV[1])
local worst, which, plan = 0, 0, {}
for i, key in ipairs(KEYS) do
  local at = (i - 1) * 5 + 1
  local slice, limit = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local burst, interval, amount = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local current = math.floor(now / slice)
  local fields = redis.call('HGETALL', key)
  local used, counts, arrival, gone = 0, {}, 0, {}
  for f = 1, #fields, 2 do
    if fields[f] == 'a' then
      arrival = tonumber(fields[f + 1])
    else
      local number, count = tonumber(fields[f]), tonumber(fields[f + 1])
      if number > current - slices then
        used = used + count
        counts[#counts + 1] = { number, count }
      else
        gone[#gone + 1] = fields[f]
      end
    end
  end
  local wait = 0
  local over = used + amount - limit
  if over > 0 then
    table.sort(counts, function(a, b) return a[1] < b[1] end)
    wait = slice * slices
    local freed = 0
    for _, count in ipairs(counts) do
      freed = freed + count[2]
      if freed >= over then
        wait = (count[1] + slices) * slice - now
        break
      end
    end
  end
  local after = math.max(arrival, now) + interval * amount
  if burst > 0 then
    wait = math.max(wait, after - interval * burst - now)
  end
  if wait > worst then
    worst, which = wait, i
  end
  plan[i] = { key, string.format('%.0f', current), amount, burst > 0 and after or nil, gone, slice }
end
if which > 0 then
  return { which, string.format('%.0f', math.ceil(worst)) }
end
for _, it in ipairs(plan) do
  redis.call('HINCRBY', it[1], it[2], it[3])
  if it[4] then
    redis.call('HSET', it[1], 'a', string.format('%.0f', it[4]))
  end
  for _, field in ipairs(it[5]) do
    redis.call('HDEL', it[1], field)
  end
  redis.call('PEXPIRE', it[1], math.ceil(it[6] * (slices + 1) / 1000) + 1000)
end
return { 0, string.format('%.0f', now) }";

/// Takes the time of the charge, and three numbers for each key: slice, interval, amount.
const REFUND: &str = "
local charged = tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  local at = (i - 1) * 3 + 1
  local slice, interval, amount = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local field = string.format('%.0f', math.floor(charged / slice))
  local count = tonumber(redis.call('HGET', key, field) or 0)
  if count > 0 then
    redis.call('HINCRBY', key, field, -math.min(amount, count))
    local arrival = tonumber(redis.call('HGET', key, 'a') or 0)
    if arrival > 0 and interval > 0 then
      redis.call('HSET', key, 'a', string.format('%.0f', math.max(arrival - interval * amount, 0)))
    end
  end
end
return 0";

/// Takes a slice for each key. Answers what is used of each.
const USED: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local slices, answer = tonumber(ARGV[1]), {}
for i, key in ipairs(KEYS) do
  local current, used = math.floor(now / tonumber(ARGV[i + 1])), 0
  local fields = redis.call('HGETALL', key)
  for f = 1, #fields, 2 do
    if fields[f] ~= 'a' and tonumber(fields[f]) > current - slices then
      used = used + tonumber(fields[f + 1])
    end
  end
  answer[i] = used
end
return answer";

/// Why Redis could not be asked, without anything of what was sent.
pub(super) struct Unreachable(pub(super) String);

/// The way to Redis.
pub(super) struct Shared {
    client: Client,
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    connection: Option<MultiplexedConnection>,
    /// Until when nobody asks.
    resting: Option<Instant>,
}

impl Shared {
    pub(super) fn new(url: &Secret) -> io::Result<Self> {
        // The fault may repeat the URL, and that may hold a password.
        let client = Client::open(url.expose())
            .map_err(|_| io::Error::other("`quotas.redis` is not a URL of Redis"))?;
        Ok(Self {
            client,
            link: Mutex::default(),
        })
    }

    /// Charges all of it and gives the time on Redis' clock, or says which limit has no room and how long to wait.
    pub(super) async fn charge(
        &self,
        identity: &str,
        takes: &[Take],
    ) -> Result<Result<u64, (Take, Duration)>, Unreachable> {
        let mut command = script(CHARGE, identity, takes);
        command.arg(SLICES);
        for take in takes {
            let (slice, burst, interval) = take.quota.micros();
            let limit = take.quota.limit();
            command
                .arg(slice)
                .arg(limit)
                .arg(burst)
                .arg(interval)
                .arg(take.amount);
        }
        let (which, number): (usize, u64) = self.ask(&command).await?;
        let full = which.checked_sub(1).and_then(|index| takes.get(index));
        Ok(match full {
            None => Ok(number),
            Some(take) => Err((*take, Duration::from_micros(number))),
        })
    }

    pub(super) async fn refund(
        &self,
        identity: &str,
        takes: &[Take],
        at: u64,
    ) -> Result<(), Unreachable> {
        if takes.is_empty() {
            return Ok(());
        }
        let mut command = script(REFUND, identity, takes);
        command.arg(at);
        for take in takes {
            let (slice, _, interval) = take.quota.micros();
            command.arg(slice).arg(interval).arg(take.amount);
        }
        self.ask::<i64>(&command).await.map(|_| ())
    }

    pub(super) async fn used(
        &self,
        identity: &str,
        takes: &[Take],
    ) -> Result<Vec<u32>, Unreachable> {
        if takes.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = script(USED, identity, takes);
        command.arg(SLICES);
        for take in takes {
            command.arg(take.quota.micros().0);
        }
        self.ask(&command).await
    }

    pub(super) async fn reset(&self, identity: &str, takes: &[Take]) -> Result<(), Unreachable> {
        if takes.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("DEL");
        for take in takes {
            command.arg(key(identity, take));
        }
        self.ask::<i64>(&command).await.map(|_| ())
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unreachable> {
        let mut connection = self.connection().await?;
        let asked = timeout(PATIENCE, command.query_async(&mut connection)).await;
        let fault = match asked {
            Ok(Ok(answer)) => return Ok(answer),
            // The server answers, so it is there: what is wrong is this one key, or this one command.
            Ok(Err(fault)) if fault.code().is_some() => return Err(Unreachable(plain(&fault))),
            Ok(Err(fault)) => plain(&fault),
            Err(_) => "no answer in time".to_owned(),
        };
        self.rest().await;
        Err(Unreachable(fault))
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Unreachable> {
        // Whoever connects holds the lock; the others wait with it, no longer than it does.
        let link = timeout(PATIENCE, self.link.lock()).await;
        let mut link = link.map_err(|_| Unreachable("cannot connect in time".to_owned()))?;
        if let Some(connection) = &link.connection {
            return Ok(connection.clone());
        }
        if link.resting.is_some_and(|until| Instant::now() < until) {
            return Err(Unreachable("not reached a moment ago".to_owned()));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let opening = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let fault = match timeout(PATIENCE, opening).await {
            Ok(Ok(connection)) => return Ok(link.connection.insert(connection).clone()),
            Ok(Err(fault)) => plain(&fault),
            Err(_) => "cannot connect in time".to_owned(),
        };
        link.resting = Some(Instant::now() + REST);
        Err(Unreachable(fault))
    }

    async fn rest(&self) {
        let mut link = self.link.lock().await;
        link.connection = None;
        link.resting = Some(Instant::now() + REST);
    }
}

fn script(text: &str, identity: &str, takes: &[Take]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(takes.len());
    for take in takes {
        command.arg(key(identity, take));
    }
    command
}

/// The braces keep all limits of an identity on one node of a cluster. Identities may hold anything, so a hash
/// stands for them.
fn key(identity: &str, take: &Take) -> String {
    let name = name_hash(identity);
    let (slice, burst, _) = take.quota.micros();
    let (counted, limit) = (take.counted.as_str(), take.quota.limit());
    format!("gatepost:quota:{{{name:032x}}}:{counted}:{limit}:{slice}:{burst}")
}
