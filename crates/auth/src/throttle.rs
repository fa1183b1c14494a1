//! How often something may happen: the generic cell rate algorithm (ITU-T I.371, annex A), as arithmetic
//! on one number and a clock that is handed in.
//!
//! The number is the theoretical arrival time: when the last thing that happened would be used up if
//! things came evenly. Looking and charging are two steps, since only wrong credentials are charged, and
//! whether they are wrong is known after they were let through to be judged.

use std::str::FromStr;
use std::time::Duration;

/// So many in so long; as many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds from one to the next.
    interval: u64,
    burst: u64,
}

impl Rate {
    /// # Errors
    ///
    /// [`RateFault`] for a rate that nothing could keep: none at all, or more than one a nanosecond.
    pub fn new(count: u32, period: Duration) -> Result<Self, RateFault> {
        let period = u64::try_from(period.as_nanos()).map_err(|_| RateFault)?;
        let interval = period.checked_div(u64::from(count)).ok_or(RateFault)?;
        if interval == 0 {
            return Err(RateFault);
        }
        Ok(Self {
            interval,
            burst: u64::from(count),
        })
    }

    /// How long to wait until one more may come; `None` where it may come now. Times are nanoseconds
    /// from any one beginning.
    #[must_use]
    pub fn wait(self, arrival: u64, now: u64) -> Option<Duration> {
        let tolerance = self.interval.saturating_mul(self.burst - 1);
        let open = arrival.saturating_sub(tolerance);
        (open > now).then(|| Duration::from_nanos(open - now))
    }

    /// The theoretical arrival time after one more came. It is bounded: what was let through at the same
    /// moment as the last that was allowed does not lengthen the wait.
    #[must_use]
    pub fn charge(self, arrival: u64, now: u64) -> u64 {
        let longest = now.saturating_add(self.interval.saturating_mul(self.burst));
        arrival
            .max(now)
            .saturating_add(self.interval)
            .min(longest.max(arrival))
    }

    /// The same for so many at once, where as many as `burst` may come together.
    #[must_use]
    pub(crate) fn wait_for(
        self,
        burst: u32,
        amount: u32,
        arrival: u64,
        now: u64,
    ) -> Option<Duration> {
        let after = arrival
            .max(now)
            .saturating_add(self.interval.saturating_mul(u64::from(amount)));
        let open = after.saturating_sub(self.interval.saturating_mul(u64::from(burst)));
        (open > now).then(|| Duration::from_nanos(open - now))
    }

    /// The theoretical arrival time after so many came.
    #[must_use]
    pub(crate) fn charge_many(self, amount: u32, arrival: u64, now: u64) -> u64 {
        arrival
            .max(now)
            .saturating_add(self.interval.saturating_mul(u64::from(amount)))
    }

    /// The theoretical arrival time where so many of those that came are not to count.
    #[must_use]
    pub(crate) fn refund(self, amount: u32, arrival: u64) -> u64 {
        arrival.saturating_sub(self.interval.saturating_mul(u64::from(amount)))
    }

    /// From one to the next, in microseconds, and how many may come at once.
    #[must_use]
    pub fn parts(self) -> (u64, u64) {
        (self.interval.div_ceil(1000), self.burst)
    }
}

/// As people write it: `10/min`. The units are `s`, `min`, `hour` and `day`, and their long names.
impl FromStr for Rate {
    type Err = RateFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (count, seconds) = Self::parts_of(text)?;
        Self::new(count, Duration::from_secs(seconds))
    }
}

impl Rate {
    /// The number, and the unit in seconds.
    pub(crate) fn parts_of(text: &str) -> Result<(u32, u64), RateFault> {
        let (count, unit) = text.split_once('/').ok_or(RateFault)?;
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(RateFault);
        }
        let seconds = match unit {
            "s" | "sec" | "second" => 1,
            "m" | "min" | "minute" => 60,
            "h" | "hr" | "hour" => 3600,
            "d" | "day" => 86_400,
            _ => return Err(RateFault),
        };
        let count = count.parse().map_err(|_| RateFault)?;
        Ok((count, seconds))
    }
}

/// Why a text is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rate is written `10/min`: a number above zero, and `s`, `min`, `hour` or `day`")]
pub struct RateFault;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_and_then_one_an_interval() {
        let rate: Rate = "3/min".parse().unwrap();
        let mut arrival = 0;
        let start = 1000 * SECOND;
        for _ in 0..3 {
            assert_eq!(rate.wait(arrival, start), None);
            arrival = rate.charge(arrival, start);
        }
        assert_eq!(rate.wait(arrival, start), Some(Duration::from_secs(20)));
        assert_eq!(rate.wait(arrival, start + 20 * SECOND), None);
        arrival = rate.charge(arrival, start + 20 * SECOND);
        assert!(rate.wait(arrival, start + 20 * SECOND).is_some());
        // After a minute of rest everything is as before.
        assert_eq!(rate.wait(arrival, start + 41 * SECOND), None);
        assert_eq!(
            rate.charge(arrival, start + 200 * SECOND),
            start + 220 * SECOND
        );
    }

    /// The attack: requests that fail together, after all of them were let through, must not lock an
    /// address for as long as there were requests.
    #[test]
    fn what_failed_together_does_not_lengthen_the_wait() {
        let rate: Rate = "3/min".parse().unwrap();
        let arrival = (0..1000).fold(0, |arrival, _| rate.charge(arrival, SECOND));
        assert_eq!(rate.wait(arrival, SECOND), Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_clock_that_stands_still_or_a_time_from_the_future_is_no_fault() {
        let rate: Rate = "1/s".parse().unwrap();
        assert_eq!(rate.charge(u64::MAX, 0), u64::MAX);
        assert!(rate.wait(u64::MAX, 0).is_some());
        assert_eq!(rate.charge(5, u64::MAX), u64::MAX);
    }

    #[test]
    fn rates_are_written_as_people_write_them() {
        for (text, parts) in [
            ("10/min", (6_000_000, 10)),
            ("1/s", (1_000_000, 1)),
            ("100/hour", (36_000_000, 100)),
            ("5/day", (17_280_000_000, 5)),
        ] {
            assert_eq!(text.parse::<Rate>().map(Rate::parts), Ok(parts), "{text}");
        }
        for bad in [
            "",
            "10",
            "0/min",
            "/min",
            "-1/min",
            "+1/min",
            "1/week",
            "1 / min",
            "4294967296/s",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        // One a nanosecond is the most that can be told apart.
        let nanosecond = Duration::from_nanos(1);
        assert!(Rate::new(1, nanosecond).is_ok());
        assert_eq!(Rate::new(2, nanosecond), Err(RateFault));
    }
}
