//! `kumo.memoize`: a function that remembers what it returned, for all workers together.
//!
//! Keys are keyed hashes, since arguments may be passwords; what is kept is plain data, since a table
//! belongs to the Lua state that made it. So every caller gets a copy, the one who computed it too. Of callers who want
//! the same at the same time one computes and the others wait; see [`flight`].

mod flight;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use mlua::{Function, Lua, MultiValue, Table, Value};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use sha2::Sha256;

use self::flight::{Boarding, Flights};
use super::plain::Plain;
use super::{Host, bad_argument, duration, only_options, text};
use crate::hook::Turn;

type Key = [u8; 32];

/// What is larger is given to whoever asks, and not kept.
const LARGEST: usize = 1 << 20;

/// What one name may keep, in the largest values that there are. Together with the capacity this bounds what a stranger
/// can make a policy remember.
const MOST_OF_THE_LARGEST: usize = 64;

/// Names of one policy. One that makes up a name for each call must not fill the memory.
const MOST_NAMES: usize = 1000;

/// The caches of a policy, by name.
#[derive(Clone, Default)]
pub(crate) struct Memos(Arc<Shared>);

#[derive(Default)]
struct Shared {
    by_name: Mutex<HashMap<String, Arc<Memo>>>,
    keyed: OnceLock<Hmac<Sha256>>,
}

struct Memo {
    options: Options,
    /// Where the function is written.
    place: String,
    values: Cache<Key, Kept, Weight>,
    flights: Flights,
    /// Whether it was said that a value is too large to be kept.
    warned: AtomicBool,
}

/// What the function returned, all of it.
#[derive(Clone)]
struct Kept {
    results: Arc<[Plain]>,
    size: usize,
    until: Instant,
}

/// The bytes of a value, and at least one place: so the one bound is for both.
#[derive(Clone)]
struct Weight {
    place: u64,
}

impl Weighter<Key, Kept> for Weight {
    fn weight(&self, _: &Key, kept: &Kept) -> u64 {
        u64::try_from(kept.size).unwrap_or(u64::MAX).max(self.place)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    ttl: Duration,
    capacity: usize,
    /// How long a caller waits for another one that computes.
    populate_timeout: Duration,
    /// Whether what is out of date is given while it is computed anew.
    allow_stale_reads: bool,
}

impl fmt::Debug for Memos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memos")
    }
}

impl Memos {
    /// The cache of this name. Every worker loads the policy, so the same name comes once for each of them, with a
    /// function of the same place; another function under the same name would get this one's values.
    fn named(&self, name: &str, place: String, options: Options) -> mlua::Result<Arc<Memo>> {
        let mut all = self
            .0
            .by_name
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(memo) = all.get(name) {
            if memo.options != options {
                return Err(mlua::Error::runtime(format!(
                    "kumo.memoize: the name '{name}' is taken by a function with other options"
                )));
            }
            if memo.place != place {
                return Err(mlua::Error::runtime(format!(
                    "kumo.memoize: the name '{name}' is taken by another function ({})",
                    memo.place
                )));
            }
            return Ok(memo.clone());
        }
        if all.len() >= MOST_NAMES {
            return Err(mlua::Error::runtime(format!(
                "kumo.memoize: there are {MOST_NAMES} names already; a name stands for a function, not for its arguments"
            )));
        }
        let memo = Arc::new(Memo::new(options, place)?);
        all.insert(name.to_owned(), memo.clone());
        Ok(memo)
    }

    fn key(&self, arguments: &Plain) -> mlua::Result<Key> {
        let keyed = match self.0.keyed.get() {
            Some(keyed) => keyed,
            None => {
                let mut key = [0; 64];
                getrandom::fill(&mut key).map_err(mlua::Error::external)?;
                self.0.keyed.get_or_init(|| Hmac::new(&key.into()))
            }
        };
        let mut mac = keyed.clone();
        arguments.write(&mut |bytes| mac.update(bytes));
        Ok(mac.finalize().into_bytes().into())
    }
}

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let (memos, turn) = (host.common.memos.clone(), host.turn.clone());
    kumo.set(
        "memoize",
        lua.create_function(move |lua, (function, options): (Value, Value)| {
            let Value::Function(function) = function else {
                return Err(bad_argument(1, "kumo.memoize", "function", &function));
            };
            let Value::Table(options) = options else {
                return Err(bad_argument(2, "kumo.memoize", "table", &options));
            };
            let (name, options) = read(&options)?;
            let info = function.info();
            let place = format!(
                "{}:{}",
                info.short_src.unwrap_or_default(),
                info.line_defined.unwrap_or_default()
            );
            let memo = memos.named(&name, place, options)?;
            let shared = (memos.clone(), memo);
            remembering(lua, turn.clone(), shared, name, function)
        })?,
    )
}

fn read(table: &Table) -> mlua::Result<(String, Options)> {
    let known = [
        "name",
        "ttl",
        "capacity",
        "invalidate_with_epoch",
        "populate_timeout",
        "retry_on_populate_timeout",
        "allow_stale_reads",
    ];
    only_options(table, "kumo.memoize", &known)?;
    let option = |name: &str| table.get::<Value>(name);
    let missing =
        |name: &str| mlua::Error::runtime(format!("kumo.memoize needs the option '{name}'"));
    let name = option("name")?;
    if name.is_nil() {
        return Err(missing("name"));
    }
    let name = text(&name, 2, "kumo.memoize")?.to_owned();
    let ttl = duration(&option("ttl")?, "kumo.memoize", "ttl")?.ok_or_else(|| missing("ttl"))?;
    let capacity = option("capacity")?
        .as_usize()
        .filter(|capacity| (1..=10_000_000).contains(capacity))
        .ok_or_else(|| {
            mlua::Error::runtime("kumo.memoize: 'capacity' is a number from 1 to 10000000")
        })?;
    let populate_timeout = duration(
        &option("populate_timeout")?,
        "kumo.memoize",
        "populate_timeout",
    )?;
    Ok((
        name,
        Options {
            ttl,
            capacity,
            populate_timeout: populate_timeout.unwrap_or(Duration::from_secs(120)),
            allow_stale_reads: table
                .get::<Option<bool>>("allow_stale_reads")?
                .unwrap_or(false),
        },
    ))
}

fn remembering(
    lua: &Lua,
    turn: Turn,
    shared: (Memos, Arc<Memo>),
    name: String,
    function: Function,
) -> mlua::Result<Function> {
    let name: Arc<str> = Arc::from(name);
    lua.create_async_function(move |lua, arguments: MultiValue| {
        let ((memos, memo), name, function) = (shared.clone(), name.clone(), function.clone());
        let turn = turn.clone();
        async move {
            let raise = |what: &str| mlua::Error::runtime(format!("kumo.memoize '{name}': {what}"));
            let entries = arguments.iter().enumerate().map(|(index, value)| {
                let position = i64::try_from(index).unwrap_or(i64::MAX);
                Some((Plain::Integer(position), Plain::from_lua(value)?))
            });
            let entries: Option<Vec<_>> = entries.collect();
            let entries = entries
                .ok_or_else(|| raise("an argument is no plain data and cannot be remembered"))?;
            let key = memos.key(&Plain::Table(entries))?;
            if let Some(kept) = memo.fresh(&key) {
                return kept.to_lua(&lua);
            }
            let patience = memo.options.populate_timeout;
            let me = turn.caller(patience);
            let seat = memo.flights.seat(key);
            let stale = || memo.stale(&key);
            let boarding = seat.board(me, patience, || memo.fresh(&key), stale);
            let pilot = match boarding.await {
                Boarding::Pilot(pilot) => pilot,
                Boarding::Landed(kept) => return kept.to_lua(&lua),
                Boarding::Itself => {
                    return Err(raise("the function calls itself with the same arguments"));
                }
                Boarding::TooLate => {
                    return Err(raise("another call took too long to compute the value"));
                }
            };
            let results = function.call_async::<MultiValue>(arguments).await?;
            let kept = memo
                .kept(&results)
                .ok_or_else(|| raise("the result is no plain data and cannot be remembered"))?;
            memo.keep(key, &name, &kept);
            pilot.land(kept.clone());
            kept.to_lua(&lua)
        }
    })
}

impl Memo {
    fn new(options: Options, place: String) -> mlua::Result<Self> {
        let total = LARGEST.saturating_mul(options.capacity.min(MOST_OF_THE_LARGEST));
        let each = total.div_ceil(options.capacity);
        // Half a place more, since the cache leaves some of its weight unused. In one piece, so that a large value is
        // not too large for its share.
        let cache = OptionsBuilder::new()
            .estimated_items_capacity(options.capacity)
            .weight_capacity(u64::try_from(total + each / 2).unwrap_or(u64::MAX))
            .shards(1)
            .build()
            .map_err(mlua::Error::external)?;
        let weight = Weight {
            place: u64::try_from(each).unwrap_or(u64::MAX),
        };
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        Ok(Self {
            values: Cache::with_options(cache, weight, hasher, lifecycle),
            flights: Flights::default(),
            warned: AtomicBool::new(false),
            options,
            place,
        })
    }

    fn fresh(&self, key: &Key) -> Option<Kept> {
        self.values.get(key).filter(Kept::is_fresh)
    }

    /// What may be given while another caller computes it anew.
    fn stale(&self, key: &Key) -> Option<Kept> {
        let allowed = self.options.allow_stale_reads;
        allowed.then(|| self.values.get(key)).flatten()
    }

    fn kept(&self, results: &MultiValue) -> Option<Kept> {
        let results: Option<Arc<[Plain]>> = results.iter().map(Plain::from_lua).collect();
        let results = results?;
        Some(Kept {
            size: results.iter().map(Plain::size).sum(),
            results,
            until: Instant::now() + self.options.ttl,
        })
    }

    fn keep(&self, key: Key, name: &str, kept: &Kept) {
        if kept.size <= LARGEST {
            self.values.insert(key, kept.clone());
            return;
        }
        self.values.remove(&key);
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                name,
                "kumo.memoize: a value of more than {} MiB is not kept",
                LARGEST >> 20
            );
        }
    }
}

impl Kept {
    fn is_fresh(&self) -> bool {
        Instant::now() < self.until
    }

    fn to_lua(&self, lua: &Lua) -> mlua::Result<MultiValue> {
        self.results.iter().map(|it| it.to_lua(lua)).collect()
    }
}

#[cfg(test)]
mod tests;
