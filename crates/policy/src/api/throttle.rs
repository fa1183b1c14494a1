//! `kumo.make_throttle`: limits of an operator's own, by the generic cell rate algorithm, shared by all workers.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use mlua::{Lua, Table, UserData, UserDataMethods, Value};

use super::{Host, text};

/// Throttles that may exist. A policy that makes one for every user name must not fill the memory; beyond this the
/// ones that are at rest are forgotten, which changes nothing for them.
const MOST: usize = 100_000;

/// The throttles of a policy, by name and limit.
#[derive(Clone, Default)]
pub(crate) struct Throttles(Arc<Mutex<HashMap<Named, Kept>>>);

struct Kept {
    limiter: Arc<DefaultDirectRateLimiter>,
    burst: NonZeroU32,
}

impl Kept {
    /// Whether it may be forgotten: nobody else holds it, and a whole burst would pass, so that it is like new. Where
    /// less would pass, asking takes nothing from it.
    fn is_at_rest(&self) -> bool {
        Arc::strong_count(&self.limiter) == 1
            && matches!(self.limiter.check_n(self.burst), Ok(Ok(())))
    }
}

/// A name and a limit as they are written.
type Named = (String, String);

impl Throttles {
    fn named(
        &self,
        name: &str,
        spec: &str,
        quota: Quota,
    ) -> mlua::Result<Arc<DefaultDirectRateLimiter>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_owned(), spec.to_owned());
        if let Some(kept) = all.get(&key) {
            return Ok(kept.limiter.clone());
        }
        if all.len() >= MOST {
            all.retain(|_, kept| !kept.is_at_rest());
            if all.len() >= MOST {
                return Err(mlua::Error::runtime(format!(
                    "more than {MOST} throttles are in use"
                )));
            }
        }
        let limiter = Arc::new(RateLimiter::direct(quota));
        let burst = quota.burst_size();
        all.insert(
            key,
            Kept {
                limiter: limiter.clone(),
                burst,
            },
        );
        Ok(limiter)
    }
}

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let throttles = host.common.throttles.clone();
    kumo.set(
        "make_throttle",
        lua.create_function(move |_, (name, spec): (Value, Value)| {
            let name = text(&name, 1, "kumo.make_throttle")?;
            let spec = text(&spec, 2, "kumo.make_throttle")?;
            let (quota, limit) = parse(&spec).ok_or_else(|| {
                mlua::Error::runtime(format!(
                    "bad argument #2 to 'kumo.make_throttle' (a limit such as '50/min' expected, got '{}')",
                    &*spec
                ))
            })?;
            let limiter = throttles.named(&name, &spec, quota)?;
            Ok(Throttle { limiter, limit })
        })?,
    )
}

/// `[local:]QUANTITY/PERIOD[,max_burst=N]`, where the quantity may hold `,` and `_`, and the period is a unit or a
/// number of them.
fn parse(spec: &str) -> Option<(Quota, u32)> {
    let spec = spec.strip_prefix("local:").unwrap_or(spec).trim();
    let (rate, burst) = match spec.split_once(",max_burst=") {
        Some((rate, burst)) => (rate, Some(burst.trim().parse::<NonZeroU32>().ok()?)),
        None => (spec, None),
    };
    let (quantity, period) = rate.split_once('/')?;
    let quantity = quantity
        .trim()
        .replace([',', '_'], "")
        .parse::<NonZeroU32>()
        .ok()?;
    let period = period_of(period.trim())?;
    let each = period
        .checked_div(quantity.get())
        .filter(|each| !each.is_zero())?;
    Some((
        Quota::with_period(each)?.allow_burst(burst.unwrap_or(quantity)),
        quantity.get(),
    ))
}

fn period_of(text: &str) -> Option<Duration> {
    let seconds = match text {
        "s" | "sec" | "second" => 1,
        "m" | "min" | "minute" => 60,
        "h" | "hr" | "hour" => 3600,
        "d" | "day" => 86_400,
        _ => {
            return humantime::parse_duration(text)
                .ok()
                .filter(|period| !period.is_zero());
        }
    };
    Some(Duration::from_secs(seconds))
}

struct Throttle {
    limiter: Arc<DefaultDirectRateLimiter>,
    limit: u32,
}

impl UserData for Throttle {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("throttle", |lua, this, ()| {
            let result = lua.create_table()?;
            result.set("limit", this.limit)?;
            match this.limiter.check() {
                Ok(()) => result.set("throttled", false)?,
                Err(until) => {
                    let wait = until.wait_time_from(DefaultClock::default().now());
                    result.set("throttled", true)?;
                    result.set("retry_after", wait.as_secs_f64())?;
                }
            }
            Ok(result)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::check_body;

    #[test]
    fn limits_are_read_as_they_are_written() {
        for (spec, limit, burst, each_ms) in [
            ("50/min", 50, 50, 1200),
            ("1,000/hr", 1000, 1000, 3600),
            ("1_000/h", 1000, 1000, 3600),
            ("5/s", 5, 5, 200),
            ("local:10/day", 10, 10, 8_640_000),
            ("10/minute,max_burst=1", 10, 1, 6000),
            ("10/5m", 10, 10, 30_000),
        ] {
            let (quota, got) = parse(spec).unwrap();
            assert_eq!((got, quota.burst_size().get()), (limit, burst), "{spec}");
            assert_eq!(
                quota.replenish_interval(),
                Duration::from_millis(each_ms),
                "{spec}"
            );
        }
        for spec in [
            "",
            "50",
            "/min",
            "0/min",
            "-1/min",
            "x/min",
            "50/",
            "50/fortnight",
            "5/s,max_burst=0",
            "5/0s",
            "99999999999/s",
        ] {
            assert!(parse(spec).is_none(), "{spec}");
        }
    }

    /// The attack: so many made-up names that the throttle of a real one is forgotten, and its burst given anew.
    #[test]
    fn a_throttle_that_is_in_use_is_not_forgotten() {
        // Less and more than the victim's burst: what is at rest is a matter of each one's own.
        for others in ["1/s", "9/s"] {
            let throttles = Throttles::default();
            let named = |name: &str, spec: &str| {
                let (quota, _) = parse(spec).unwrap();
                throttles.named(name, spec, quota).unwrap()
            };
            while named("victim", "3/hour").check().is_ok() {}
            for index in 0..=MOST {
                named(&index.to_string(), others);
            }
            assert!(
                throttles.0.lock().unwrap().len() < MOST,
                "none was forgotten"
            );
            assert!(named("victim", "3/hour").check().is_err(), "{others}");
        }
    }

    #[test]
    fn a_throttle_lets_its_burst_through_and_no_more() {
        check_body(
            "local t = kumo.make_throttle('x', '3/hour')
             local u = kumo.make_throttle('x', '3/hour')
             local passed = 0
             for i = 1, 10 do
               local result = (i % 2 == 0 and t or u):throttle()
               if not result.throttled then passed = passed + 1 else assert(result.retry_after > 0 and result.limit == 3) end
             end
             return passed == 3 and not kumo.make_throttle('y', '3/hour'):throttle().throttled",
        );
        check_body(
            "return not pcall(kumo.make_throttle, 'x', 'often') and not pcall(kumo.make_throttle)",
        );
    }
}
