//! How much an identity may send: so much in any stretch of so long, and no more than a burst at once.
//!
//! A stretch is cut into a hundred slices and what was sent is kept by slice, so the limit holds for every
//! stretch, not only for those that begin on the hour, and is met within a hundredth. (A token bucket lets
//! twice the limit pass in the first stretch; a count that starts anew lets it pass around each start.)
//!
//! Arithmetic on values and a clock that is handed in; times are nanoseconds from any one beginning.

use std::time::Duration;

use crate::throttle::{Rate, RateFault};

/// Into how many slices a stretch is cut.
pub const SLICES: usize = 100;

/// So much in any stretch of so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    limit: u32,
    /// The length of a slice in nanoseconds.
    slice: u64,
    /// How much may come at once; what follows comes at the limit's own pace.
    burst: Option<(u32, Rate)>,
}

impl Quota {
    /// # Errors
    ///
    /// [`RateFault`] for a limit or burst of none, and for a stretch too short to be cut.
    pub fn new(limit: u32, period: Duration, burst: Option<u32>) -> Result<Self, RateFault> {
        let period_ns = u64::try_from(period.as_nanos()).map_err(|_| RateFault)?;
        let slice = period_ns / SLICES as u64;
        if limit == 0 || slice == 0 || burst == Some(0) {
            return Err(RateFault);
        }
        let pace = || Rate::new(limit, period);
        Ok(Self {
            limit,
            slice,
            burst: burst
                .filter(|burst| *burst < limit)
                .map(|burst| Ok((burst, pace()?)))
                .transpose()?,
        })
    }

    /// As people write it: `10000/min`.
    ///
    /// # Errors
    ///
    /// [`RateFault`].
    pub fn parse(text: &str, burst: Option<u32>) -> Result<Self, RateFault> {
        let (count, seconds) = Rate::parts_of(text)?;
        Self::new(count, Duration::from_secs(seconds), burst)
    }

    /// How much in a stretch.
    #[must_use]
    pub fn limit(self) -> u32 {
        self.limit
    }

    /// How long a stretch is.
    #[must_use]
    pub fn period(self) -> Duration {
        Duration::from_nanos(self.slice.saturating_mul(SLICES as u64))
    }

    /// The length of a slice, and what a burst is and its interval, in microseconds; 0 for no burst.
    #[must_use]
    pub fn micros(self) -> (u64, u32, u64) {
        let (burst, interval) = self
            .burst
            .map_or((0, 0), |(burst, rate)| (burst, rate.parts().0));
        ((self.slice / 1000).max(1), burst, interval)
    }

    /// The most that can ever come at once.
    #[must_use]
    pub fn largest(self) -> u32 {
        self.burst.map_or(self.limit, |(burst, _)| burst)
    }
}

/// What was sent lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The number of the newest slice.
    newest: u64,
    /// By slice number modulo [`SLICES`].
    counts: Box<[u32; SLICES]>,
    /// The theoretical arrival time of the burst (see [`crate::throttle`]).
    arrival: u64,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            newest: 0,
            counts: Box::new([0; SLICES]),
            arrival: 0,
        }
    }
}

/// Why something does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// It fits after this time, if nothing else comes.
    Wait(Duration),
    /// It is more than may ever come at once.
    Never,
}

impl Usage {
    /// Whether so much more fits now.
    ///
    /// # Errors
    ///
    /// [`Excess`].
    pub fn fits(&self, quota: Quota, amount: u32, now: u64) -> Result<(), Excess> {
        if amount > quota.largest() {
            return Err(Excess::Never);
        }
        let by_stretch = self.wait(quota, amount, now);
        let by_burst = quota
            .burst
            .and_then(|(burst, rate)| rate.wait_for(burst, amount, self.arrival, now));
        match by_stretch.max(by_burst) {
            None => Ok(()),
            Some(wait) => Err(Excess::Wait(wait)),
        }
    }

    fn wait(&self, quota: Quota, amount: u32, now: u64) -> Option<Duration> {
        let over = (u64::from(self.used(quota, now)) + u64::from(amount))
            .checked_sub(u64::from(quota.limit))
            .filter(|over| *over > 0)?;
        // The oldest slices leave first.
        let current = now / quota.slice;
        let oldest = (current + 1).saturating_sub(SLICES as u64);
        let mut freed = 0;
        for slice in oldest..=current {
            freed += u64::from(self.count(slice));
            if freed >= over {
                let leaves = (slice + SLICES as u64).saturating_mul(quota.slice);
                return Some(Duration::from_nanos(leaves.saturating_sub(now).max(1)));
            }
        }
        Some(quota.period())
    }

    /// Counts so much.
    pub fn charge(&mut self, quota: Quota, amount: u32, now: u64) {
        self.advance(now / quota.slice);
        if let Some(count) = self.place(now / quota.slice) {
            *count = count.saturating_add(amount);
        }
        if let Some((_, rate)) = quota.burst {
            self.arrival = rate.charge_many(amount, self.arrival, now);
        }
    }

    /// Takes back what was counted at that time, if it is still counted.
    pub fn refund(&mut self, quota: Quota, amount: u32, charged: u64, now: u64) {
        self.advance(now / quota.slice);
        let slice = charged / quota.slice;
        // What has passed is not counted any more; giving it back would make room for something else.
        if slice + (SLICES as u64) <= self.newest {
            return;
        }
        if let Some(count) = self.place(slice) {
            *count = count.saturating_sub(amount);
        }
        if let Some((_, rate)) = quota.burst {
            self.arrival = rate.refund(amount, self.arrival);
        }
    }

    /// What was sent in the stretch that ends now.
    #[must_use]
    pub fn used(&self, quota: Quota, now: u64) -> u32 {
        let current = now / quota.slice;
        let oldest = (current + 1).saturating_sub(SLICES as u64);
        (oldest..=current)
            .map(|slice| self.count(slice))
            .fold(0, u32::saturating_add)
    }

    fn count(&self, slice: u64) -> u32 {
        let kept = slice <= self.newest && slice + (SLICES as u64) > self.newest;
        let index = usize::try_from(slice % SLICES as u64).unwrap_or(0);
        self.counts
            .get(index)
            .copied()
            .filter(|_| kept)
            .unwrap_or(0)
    }

    /// Empties the slices that have passed.
    fn advance(&mut self, current: u64) {
        if current <= self.newest {
            return;
        }
        let passed = (current - self.newest).min(SLICES as u64);
        for slice in current + 1 - passed..=current {
            if let Some(count) = self.place(slice) {
                *count = 0;
            }
        }
        self.newest = current;
    }

    fn place(&mut self, slice: u64) -> Option<&mut u32> {
        let index = usize::try_from(slice % SLICES as u64).ok()?;
        self.counts.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_stretch_holds_the_limit_wherever_it_begins() {
        let quota = Quota::parse("100/min", None).unwrap();
        let mut usage = Usage::default();
        let at = |seconds: u64| (1_000_000 + seconds) * SECOND;
        assert_eq!(usage.fits(quota, 100, at(59)), Ok(()));
        usage.charge(quota, 100, at(59));
        assert_eq!(usage.used(quota, at(59)), 100);
        // Not at the full minute, as a count that starts anew would have it.
        assert_eq!(
            usage.fits(quota, 1, at(60)),
            Err(Excess::Wait(Duration::from_millis(59_000)))
        );
        assert_eq!(
            usage.fits(quota, 1, at(118)),
            Err(Excess::Wait(Duration::from_secs(1)))
        );
        assert_eq!(usage.fits(quota, 100, at(119)), Ok(()));
        assert_eq!(usage.fits(quota, 101, at(500)), Err(Excess::Never));
    }

    #[test]
    fn a_burst_is_the_most_at_once() {
        let quota = Quota::parse("600/min", Some(10)).unwrap();
        let mut usage = Usage::default();
        let start = 5 * SECOND;
        assert_eq!(usage.fits(quota, 11, start), Err(Excess::Never));
        usage.charge(quota, 10, start);
        assert_eq!(
            usage.fits(quota, 1, start),
            Err(Excess::Wait(Duration::from_millis(100)))
        );
        assert_eq!(
            usage.fits(quota, 5, start),
            Err(Excess::Wait(Duration::from_millis(500)))
        );
        assert_eq!(usage.fits(quota, 1, start + SECOND / 10), Ok(()));
    }

    #[test]
    fn what_is_refunded_was_never_sent() {
        let quota = Quota::parse("100/min", Some(50)).unwrap();
        let mut usage = Usage::default();
        usage.charge(quota, 50, SECOND);
        usage.refund(quota, 50, SECOND, 2 * SECOND);
        assert_eq!(usage.used(quota, 2 * SECOND), 0);
        assert_eq!(usage.fits(quota, 50, 2 * SECOND), Ok(()));
        // A part of a burst makes room for just that part.
        usage.charge(quota, 50, 3 * SECOND);
        usage.refund(quota, 20, 3 * SECOND, 3 * SECOND);
        assert_eq!(usage.fits(quota, 20, 3 * SECOND), Ok(()));
        assert_eq!(
            usage.fits(quota, 21, 3 * SECOND),
            Err(Excess::Wait(Duration::from_millis(600)))
        );
        // Long after, there is nothing to take back, and nothing of others is taken.
        usage.charge(quota, 7, 100 * SECOND);
        usage.refund(quota, 50, SECOND, 101 * SECOND);
        assert_eq!(usage.used(quota, 101 * SECOND), 7);
    }

    /// What was sent counts for a hundred slices and no longer, also for the wait that is said, and where the clock stood still or went back.
    #[test]
    fn a_slice_counts_as_long_as_it_should() {
        let quota = Quota::parse("100/s", None).unwrap();
        let at = |slice: u64| slice * SECOND / 100;
        let mut usage = Usage::default();
        usage.charge(quota, 60, at(49));
        usage.charge(quota, 40, at(50));
        assert_eq!(usage.used(quota, at(148)), 100);
        assert_eq!(usage.used(quota, at(149)), 40);
        assert_eq!(
            usage.fits(quota, 61, at(149)),
            Err(Excess::Wait(Duration::from_millis(10)))
        );
        let mut usage = Usage::default();
        usage.charge(quota, 5, at(200));
        assert_eq!(
            (usage.used(quota, at(199)), usage.used(quota, at(200))),
            (0, 5)
        );
        // What was sent a whole stretch ago is not taken for what was sent since, whether that comes slice by slice or after a pause.
        let mut usage = Usage::default();
        usage.charge(quota, 5, at(10));
        usage.charge(quota, 1, at(109));
        usage.charge(quota, 1, at(110));
        assert_eq!(usage.used(quota, at(110)), 2);
        usage.charge(quota, 1, at(211));
        assert_eq!(usage.used(quota, at(211)), 1);
        // Its place is that of a slice which is over: nothing of this one is given back for that.
        usage.charge(quota, 5, at(1100));
        usage.refund(quota, 5, at(1000), at(1100));
        assert_eq!(usage.used(quota, at(1100)), 5);
    }

    /// Redis' script goes by these.
    #[test]
    fn a_quota_says_what_it_is() {
        let plain = Quota::parse("100/min", None).unwrap();
        let bursts = Quota::parse("600/min", Some(10)).unwrap();
        assert_eq!((plain.limit(), bursts.limit()), (100, 600));
        assert_eq!((plain.largest(), bursts.largest()), (100, 10));
        assert_eq!(plain.period(), Duration::from_secs(60));
        assert_eq!(plain.micros(), (600_000, 0, 0));
        assert_eq!(bursts.micros(), (600_000, 10, 100_000));
        // A burst that is no less than the limit is none.
        assert_eq!(Quota::parse("100/min", Some(100)), Ok(plain));
        for (limit, burst) in [("0/min", None), ("100/min", Some(0))] {
            assert_eq!(Quota::parse(limit, burst), Err(RateFault), "{limit}");
        }
        assert_eq!(
            Quota::new(1, Duration::from_nanos(99), None),
            Err(RateFault)
        );
        assert!(Quota::new(1, Duration::from_nanos(100), None).is_ok());
    }

    proptest! {
        /// In every stretch of 99 slices no more passes than the limit, however it comes; and the wait that is
        /// said is long enough.
        #[test]
        fn no_stretch_holds_more(events in proptest::collection::vec((0u64..3_000, 1u32..40), 1..80)) {
            let quota = Quota::new(100, Duration::from_secs(10), None).unwrap();
            let mut usage = Usage::default();
            let mut sent: Vec<(u64, u32)> = Vec::new();
            let mut now = SECOND;
            for (pause, amount) in events {
                now += pause * 1_000_000;
                match usage.fits(quota, amount, now) {
                    Ok(()) => {
                        usage.charge(quota, amount, now);
                        sent.push((now, amount));
                    }
                    Err(Excess::Wait(wait)) => {
                        let then = now + u64::try_from(wait.as_nanos()).unwrap();
                        prop_assert_eq!(usage.fits(quota, amount, then), Ok(()));
                    }
                    Err(Excess::Never) => prop_assert!(false),
                }
                let stretch = 99 * SECOND / 10;
                let within: u32 = sent.iter().filter(|(at, _)| at + stretch > now).map(|(_, n)| n).sum();
                prop_assert!(within <= 100, "{}", within);
            }
        }
    }
}
