//! `kumo.memoize`: a function that remembers what it returned, for all workers together.
//!
//! Keys are keyed hashes, since arguments may be passwords; what is kept is plain data, since a table
//! belongs to the Lua state that made it. Of callers who want the same at the same time one computes and
//! the others wait; if that one fails or goes away, the next one takes over.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use mlua::{Function, Lua, MultiValue, Table, Value};
use quick_cache::sync::Cache;
use sha2::Sha256;

use super::plain::Plain;
use super::{Host, bad_argument, duration, only_options, text};

type Key = [u8; 32];

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
    values: Cache<Key, Kept>,
    flights: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Clone)]
struct Kept {
    value: Arc<Plain>,
    until: Instant,
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
        let memo = Arc::new(Memo {
            values: Cache::new(options.capacity),
            flights: Mutex::default(),
            options,
            place,
        });
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
    let memos = host.common.memos.clone();
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
            remembering(lua, memos.clone(), memo, name, function)
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
    memos: Memos,
    memo: Arc<Memo>,
    name: String,
    function: Function,
) -> mlua::Result<Function> {
    let name: Arc<str> = Arc::from(name);
    lua.create_async_function(move |lua, arguments: MultiValue| {
        let (memos, memo, name, function) =
            (memos.clone(), memo.clone(), name.clone(), function.clone());
        async move {
            let unfit = |what: &str| {
                mlua::Error::runtime(format!(
                    "kumo.memoize '{name}': {what} is no plain data and cannot be remembered"
                ))
            };
            let entries = arguments.iter().enumerate().map(|(index, value)| {
                let position = i64::try_from(index).unwrap_or(i64::MAX);
                Some((Plain::Integer(position), Plain::from_lua(value)?))
            });
            let entries: Option<Vec<_>> = entries.collect();
            let key = memos.key(&Plain::Table(entries.ok_or_else(|| unfit("an argument"))?))?;
            if let Some(value) = memo.fresh(&key) {
                return value.to_lua(&lua);
            }
            let flight = Flight {
                memo: &memo,
                key,
                turn: memo.flights().entry(key).or_default().clone(),
            };
            if memo.options.allow_stale_reads
                && flight.turn.try_lock().is_err()
                && let Some(kept) = memo.values.get(&key)
            {
                return kept.value.to_lua(&lua);
            }
            let waiting = tokio::time::timeout(memo.options.populate_timeout, flight.turn.lock());
            let turn = waiting.await.map_err(|_| {
                mlua::Error::runtime(format!(
                    "kumo.memoize '{name}': another call took too long to compute the value"
                ))
            })?;
            // Whoever had the turn before may have left what is wanted.
            if let Some(value) = memo.fresh(&key) {
                return value.to_lua(&lua);
            }
            let value = function.call_async::<Value>(arguments).await?;
            let plain = Arc::new(Plain::from_lua(&value).ok_or_else(|| unfit("the result"))?);
            let until = Instant::now() + memo.options.ttl;
            memo.values.insert(
                key,
                Kept {
                    value: plain,
                    until,
                },
            );
            drop(turn);
            Ok(value)
        }
    })
}

impl Memo {
    fn fresh(&self, key: &Key) -> Option<Arc<Plain>> {
        let kept = self.values.get(key)?;
        (Instant::now() < kept.until).then_some(kept.value)
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<tokio::sync::Mutex<()>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller's place among those who want the same value.
struct Flight<'a> {
    memo: &'a Memo,
    key: Key,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The last one turns off the light.
impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = self.memo.flights();
        // One reference is the table's, one is this one.
        if Arc::strong_count(&self.turn) <= 2 {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::{basic, block_on, check_body, handler, identity, load};

    /// A memoized function that counts its calls.
    const COUNTING: &str = "local calls = 0
        local f = kumo.memoize(function(...) calls = calls + 1 return { n = calls, ... } end,
          { name = 'f', ttl = '5 minutes', capacity = 100 })\n";

    #[test]
    fn a_value_is_computed_once_for_each_list_of_arguments() {
        for body in [
            "f('a') f('a') return calls == 1 and f('a').n == 1 and f('a')[1] == 'a'",
            "f('a') f('b') f('a', 'b') f('ab') f() f(nil) f('a', nil) return calls == 7",
            "f(1) f('1') f(1.5) f(true) f('true') f(false) f(nil) return calls == 7",
            "f({ a = 1, b = 2 }) f({ b = 2, a = 1 }) return calls == 1",
            "f('\\0\\xff') f('\\0\\xfe') return calls == 2",
            "local t = f('a') t.n = 99 return f('a').n == 1",
            "return not pcall(f, print) and calls == 0",
        ] {
            check_body(&format!("{COUNTING}{body}"));
        }
    }

    #[test]
    fn nil_is_remembered_and_errors_are_not() {
        check_body("local calls = 0
            local f = kumo.memoize(function() calls = calls + 1 return nil end, { name = 'n', ttl = 60, capacity = 1 })
            return f() == nil and f() == nil and calls == 1");
        check_body("local calls = 0
            local f = kumo.memoize(function() calls = calls + 1 error 'no' end, { name = 'e', ttl = '1m', capacity = 1 })
            return not pcall(f) and not pcall(f) and calls == 2");
        check_body(
            "local f = kumo.memoize(function() return print end, { name = 'p', ttl = '1m', capacity = 1 }) return not pcall(f)",
        );
        check_body("local calls = 0
            local f = kumo.memoize(function() calls = calls + 1 return 1 end, { name = 't', ttl = '10 ms', capacity = 1 })
            f() kumo.sleep(0.02) f() return calls == 2");
    }

    #[test]
    fn options_are_checked() {
        for (call, words) in [
            ("kumo.memoize()", "bad argument #1"),
            ("kumo.memoize(print)", "bad argument #2"),
            ("kumo.memoize(print, {})", "needs the option 'name'"),
            (
                "kumo.memoize(print, { name = 'x' })",
                "needs the option 'ttl'",
            ),
            (
                "kumo.memoize(print, { name = 'x', ttl = '1m' })",
                "capacity",
            ),
            (
                "kumo.memoize(print, { name = 'x', ttl = 'soon', capacity = 1 })",
                "ttl",
            ),
            (
                "kumo.memoize(print, { name = 'x', ttl = '1m', capacity = 0 })",
                "capacity",
            ),
            (
                "kumo.memoize(print, { name = 'x', ttl = '1m', capacity = 1, surprise = 1 })",
                "no option 'surprise'",
            ),
            (
                "kumo.memoize(print, { name = 'x', ttl = '1m', capacity = 1 }) kumo.memoize(print, { name = 'x', ttl = '2m', capacity = 1 })",
                "is taken by a function with other options",
            ),
            (
                "for _, f in ipairs { print, function() end } do kumo.memoize(f, { name = 'x', ttl = '1m', capacity = 1 }) end",
                "is taken by another function",
            ),
        ] {
            check_body(&format!(
                "local ok, fault = pcall(function() {call} end)
                 return not ok and tostring(fault):find(\"{words}\", 1, true) ~= nil or error(fault)"
            ));
        }
    }

    /// All workers share one cache, and a burst of callers is one computation; one that fails leaves the others to it.
    #[test]
    fn workers_share_one_computation() {
        let lua = handler("error 'replaced below'");
        let lua = lua
            .replace(
                "kumo.on(",
                "
            local f = kumo.memoize(function(key)
              kumo.sleep(0.05)
              return tostring({}) .. tostring(os.clock())
            end, { name = 'shared', ttl = '1m', capacity = 10 })
            kumo.on(",
            )
            .replace(
                "error 'replaced below'",
                "return { identities = { { identity = f('x'), context = 'GenericAuth' } } }",
            );
        let loaded = load(&lua);
        let names: Vec<Option<String>> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..20)
                .map(|caller: usize| {
                    let policy = &loaded.policy;
                    scope.spawn(move || {
                        let judgement = block_on(policy.judge(basic(&caller.to_string(), "x")));
                        identity(&judgement).map(str::to_owned)
                    })
                })
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert!(names[0].is_some());
        assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    }
}
