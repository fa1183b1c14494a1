//! A connection on which credentials are refused again and again, or that was told to come back, waits before its next request is read.
//!
//! Every answer leaves at once. But whoever sends the next guess when the last was answered would ask as fast as a core can refuse, and the
//! core would be missed by everybody else: 250 such connections took all of it (`make overload`). With pauses each comes to a guess a second, or to
//! twenty where it has a hundred streams of HTTP/2.
//!
//! So it is with those that are told to come back since the MTA has all it takes. Where 576 of 640 clients asked again at once, telling them so
//! took nearly all of the core: a fourteenth was served of what was served to 64 clients alone, each after 118 ms (`make overload`).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After the second refusal in a row; each further one doubles it. The first is free, since many clients send their credentials only when they
/// were asked for them. And after each 503 for want of room: a twentieth of what its `Retry-After` says.
const SHORTEST: Duration = Duration::from_millis(50);

/// Streams of HTTP/2 are refused many at a time, and each adds to the pause, up to this: their connection, with all that is under way on it,
/// must not wait for longer than a body may (`http.body_timeout`). A single refusal may add more than this where the configuration says so.
const LONGEST_TOGETHER: Duration = Duration::from_secs(5);

/// Of one connection.
#[derive(Debug)]
pub(crate) struct Pause {
    began: Instant,
    /// Refusals in a row.
    refused: AtomicU32,
    /// Until when nothing is read, in milliseconds since it began; 0 where nothing was refused.
    until: AtomicU64,
}

impl Default for Pause {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            refused: AtomicU32::new(0),
            until: AtomicU64::new(0),
        }
    }
}

impl Pause {
    /// Credentials were refused. `longest` is the most that a single refusal adds.
    pub(crate) fn refused(&self, longest: Duration) {
        let before = self.refused.fetch_add(1, Ordering::Relaxed);
        let Some(doubled) = before.checked_sub(1) else {
            return;
        };
        let pause = SHORTEST.saturating_mul(1_u32.checked_shl(doubled).unwrap_or(u32::MAX));
        let pause = milliseconds(pause.min(longest));
        let now = milliseconds(self.began.elapsed());
        let most = now + milliseconds(longest.max(LONGEST_TOGETHER.min(longest * 5)));
        let later = |until: u64| Some((until.max(now) + pause).min(most));
        // It gives no error, since there is always a later time.
        let _ = self
            .until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// There was no room for the request. However often that happens, it is no guess, and nothing adds up.
    pub(crate) fn told_to_come_back(&self, longest: Duration) {
        let until = milliseconds(self.began.elapsed() + SHORTEST.min(longest));
        self.until.fetch_max(until, Ordering::Relaxed);
    }

    /// Credentials were right.
    pub(crate) fn passed(&self) {
        if self.refused.load(Ordering::Relaxed) > 0 {
            self.refused.store(0, Ordering::Relaxed);
        }
    }

    /// How long it still lasts.
    pub(crate) fn left(&self) -> Option<Duration> {
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        Duration::from_millis(until).checked_sub(self.began.elapsed())
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(1);

    fn left(pause: &Pause) -> u64 {
        // What has passed since is less than what is looked at.
        pause
            .left()
            .map_or(0, |it| milliseconds(it).next_multiple_of(50))
    }

    #[test]
    fn each_refusal_in_a_row_waits_twice_as_long() {
        let pause = Pause::default();
        assert_eq!(pause.left(), None);
        pause.refused(LONGEST);
        assert_eq!(pause.left(), None, "the first is free");
        pause.refused(LONGEST);
        assert_eq!(left(&pause), 50);
        pause.refused(LONGEST);
        assert_eq!(left(&pause), 150, "what was waited for already counts on");
        pause.passed();
        pause.refused(LONGEST);
        assert_eq!(left(&pause), 150, "free again");
        pause.refused(LONGEST);
        assert_eq!(left(&pause), 200);
    }

    #[test]
    fn who_is_told_to_come_back_waits_a_little() {
        let pause = Pause::default();
        for _ in 0..1000 {
            pause.told_to_come_back(LONGEST);
        }
        assert_eq!(left(&pause), 50);
        pause.refused(LONGEST);
        assert_eq!(left(&pause), 50, "it counts for no guess");
        let none = Pause::default();
        none.told_to_come_back(Duration::ZERO);
        assert_eq!(left(&none), 0);
    }

    #[test]
    fn it_has_an_end_however_many_there_are() {
        let pause = Pause::default();
        for _ in 0..1000 {
            pause.refused(LONGEST);
        }
        assert_eq!(left(&pause), 5000);
        let none = Pause::default();
        for _ in 0..1000 {
            none.refused(Duration::ZERO);
        }
        assert_eq!(left(&none), 0);
    }
}
