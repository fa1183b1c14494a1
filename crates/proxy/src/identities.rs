//! Who sends most: a metric with a series for each of the busiest identities, and one for all others.
//!
//! Identities are many and their number is not the operator's choice, so there are two bounds. Prometheus sees no more than
//! `metrics.top_identities` of them at a time, and sees them change seldom, since each one that it ever saw stays in its memory. And here
//! no more than some thousand are known: who is likely to be among the busiest is found out by the Space-Saving sketch (Metwally et
//! al., 2005), in which one that is new takes the place of the one that is least.
//!
//! INVARIANT: a request is counted in one series, once, and nothing is moved between series. So every series only grows while it is there,
//! and rates over all of them add up to the rate of requests. If the count of one that leaves were given to `other`, Prometheus would
//! see a burst there that never was.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};

/// Locks, so that requests seldom meet, and the scrape keeps no two waiting for long.
const SHARDS: usize = 16;

/// How many more identities are known than shown, so that one that becomes busy is found.
const KNOWN_FOR_EACH: usize = 8;
const FEWEST_KNOWN: usize = 1024;

/// How often it is looked whether others are busier, at the most.
const LOOK: Duration = Duration::from_secs(60);

/// After this time a request counts half of what a new one does.
const HALF_LIFE: Duration = Duration::from_secs(3600);

/// By how much one has to be busier than one that is shown, to take its place.
const BUSIER: u64 = 2;

const NAME: &str = "gatepost_identity_requests_total";
const HELP: &str = "Requests of the identities that send most, and of all others together";

/// All that are not shown by themselves. An identity of this name is one of them.
const OTHER: &str = "other";

/// Counts requests by identity. Clones count together.
#[derive(Clone)]
pub(crate) struct TopIdentities(Arc<Inner>);

struct Inner {
    /// How many are shown; 0 where nothing is counted.
    most: AtomicUsize,
    /// How many of the places are taken.
    shown: AtomicUsize,
    other: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    looked: Mutex<Looked>,
    desc: Desc,
}

type Shard = HashMap<Box<str>, Known>;

/// What is known of an identity.
struct Known {
    /// Its requests lately, too many by `error` at the most.
    weight: u64,
    error: u64,
    /// Where it is shown: its requests since then.
    shown: Option<u64>,
}

impl Known {
    /// What it has at least.
    fn surely(&self) -> u64 {
        self.weight.saturating_sub(self.error)
    }
}

struct Looked {
    last: Instant,
    halved: Instant,
}

impl TopIdentities {
    /// Nobody is counted before [`TopIdentities::show`].
    ///
    /// # Errors
    ///
    /// Never: the name is one.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let now = Instant::now();
        Ok(Self(Arc::new(Inner {
            most: AtomicUsize::new(0),
            shown: AtomicUsize::new(0),
            other: AtomicU64::new(0),
            shards: Default::default(),
            hasher: RandomState::new(),
            looked: Mutex::new(Looked {
                last: now,
                halved: now,
            }),
            desc: Desc::new(
                NAME.to_owned(),
                HELP.to_owned(),
                vec!["identity".to_owned()],
                HashMap::new(),
            )?,
        })))
    }

    /// Shows as many from now on; with 0 what is known is forgotten.
    pub(crate) fn show(&self, most: usize) {
        self.0.most.store(most, Ordering::Relaxed);
        self.0.choose(most);
    }

    /// Counts one request.
    pub(crate) fn count(&self, identity: &str) {
        let most = self.0.most.load(Ordering::Relaxed);
        if most > 0 && !self.0.count(identity, most) {
            self.0.other.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn collect_at(&self, now: Instant) -> Vec<(Box<str>, u64)> {
        let most = self.0.most.load(Ordering::Relaxed);
        if most == 0 {
            return Vec::new();
        }
        {
            let mut looked = lock(&self.0.looked);
            if now.duration_since(looked.last) >= LOOK {
                looked.last = now;
                if now.duration_since(looked.halved) >= HALF_LIFE {
                    looked.halved = now;
                    self.0.halve();
                }
                self.0.choose(most);
            }
        }
        let mut all = self.0.all_shown();
        all.sort_unstable();
        all.push((OTHER.into(), self.0.other.load(Ordering::Relaxed)));
        all
    }
}

impl Inner {
    /// Whether it is counted under its own name.
    fn count(&self, identity: &str, most: usize) -> bool {
        if identity == OTHER {
            return false;
        }
        let mut shard = self.shard(identity);
        if let Some(known) = shard.get_mut(identity) {
            known.weight += 1;
            return known.shown.as_mut().map(|it| *it += 1).is_some();
        }
        let room = (KNOWN_FOR_EACH * most).max(FEWEST_KNOWN) / SHARDS;
        let mut error = 0;
        if shard.len() >= room {
            // Who is shown stays. Where all are, this one is not remembered.
            let others = shard.iter().filter(|(_, it)| it.shown.is_none());
            let Some((least, known)) = others.min_by_key(|(_, it)| it.weight) else {
                return false;
            };
            error = known.weight;
            let least = least.clone();
            shard.remove(&least);
        }
        // As long as there are places, everybody has one, from the first request on.
        let place = self
            .shown
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |shown| {
                (shown < most).then_some(shown + 1)
            });
        let shown = place.is_ok().then_some(1);
        let known = Known {
            weight: error + 1,
            error,
            shown,
        };
        shard.insert(identity.into(), known);
        shown.is_some()
    }

    /// Gives the places to those who are busier than those who have them.
    fn choose(&self, most: usize) {
        let mut there = Vec::new();
        let mut candidates = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            if most == 0 {
                shard.clear();
                continue;
            }
            for (name, known) in shard.iter() {
                let list = match known.shown {
                    Some(_) => &mut there,
                    None => &mut candidates,
                };
                list.push((known.surely(), name.clone()));
            }
        }
        if most == 0 {
            self.shown.store(0, Ordering::Relaxed);
            return;
        }
        // The busiest last.
        candidates.sort_unstable();
        // The least first.
        there.sort_unstable();
        let mut there = there.into_iter().peekable();
        let mut left = there.len();
        while left > most
            && let Some((_, name)) = there.next()
        {
            self.set_shown(&name, false);
            left -= 1;
        }
        while let Some((weight, name)) = candidates.pop() {
            if left < most {
                // One that came meanwhile may have taken the place; then there is one more until the next look.
                self.set_shown(&name, true);
                left += 1;
                continue;
            }
            match there.peek() {
                Some((least, shown)) if weight > least.saturating_mul(BUSIER) => {
                    self.set_shown(shown, false);
                    self.set_shown(&name, true);
                    there.next();
                }
                Some(_) | None => break,
            }
        }
    }

    /// One that is gone meanwhile stays so.
    fn set_shown(&self, name: &str, show: bool) {
        let mut shard = self.shard(name);
        let Some(known) = shard.get_mut(name) else {
            return;
        };
        match (known.shown, show) {
            (None, true) => {
                known.shown = Some(0);
                self.shown.fetch_add(1, Ordering::Relaxed);
            }
            (Some(_), false) => {
                known.shown = None;
                self.shown.fetch_sub(1, Ordering::Relaxed);
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    fn halve(&self) {
        for shard in &self.shards {
            for known in lock(shard).values_mut() {
                known.weight /= 2;
                known.error /= 2;
            }
        }
    }

    fn all_shown(&self) -> Vec<(Box<str>, u64)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let shown = shard
                .iter()
                .filter_map(|(name, it)| Some((name, it.shown?)));
            all.extend(shown.map(|(name, count)| (name.clone(), count)));
        }
        all
    }

    fn shard(&self, name: &str) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(name) % SHARDS as u64;
        let index = usize::try_from(index).unwrap_or(0);
        let [first, ..] = &self.shards;
        lock(self.shards.get(index).unwrap_or(first))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector for TopIdentities {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let series = self.collect_at(Instant::now());
        let metrics = series.into_iter().map(|(name, count)| {
            let mut label = LabelPair::default();
            label.set_name("identity".to_owned());
            label.set_value(name.into());
            let mut counter = Counter::default();
            #[expect(
                clippy::cast_precision_loss,
                reason = "the text format has but floating point numbers"
            )]
            counter.set_value(count as f64);
            let mut metric = Metric::from_label(vec![label]);
            metric.set_counter(counter);
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(NAME.to_owned());
        family.set_help(HELP.to_owned());
        family.set_field_type(MetricType::COUNTER);
        family.set_metric(metrics.collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Registry, TextEncoder};
    use std::collections::BTreeMap;

    fn top(most: usize) -> TopIdentities {
        let top = TopIdentities::new().unwrap();
        top.show(most);
        top
    }

    fn count(top: &TopIdentities, name: &str, times: usize) {
        for _ in 0..times {
            top.count(name);
        }
    }

    fn shown(top: &TopIdentities, now: Instant) -> BTreeMap<String, u64> {
        let series = top.collect_at(now).into_iter();
        series.map(|(name, count)| (name.into(), count)).collect()
    }

    fn check(top: &TopIdentities, now: Instant, expected: &[(&str, u64)]) {
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        assert_eq!(shown(top, now), expected);
    }

    #[test]
    fn nobody_is_counted_where_it_is_off() {
        let top = top(0);
        count(&top, "scott", 5);
        assert!(shown(&top, Instant::now()).is_empty());
        top.show(1);
        count(&top, "scott", 1);
        check(&top, Instant::now(), &[("scott", 1), ("other", 0)]);
        top.show(0);
        assert!(shown(&top, Instant::now()).is_empty());
        assert!(top.0.shards.iter().all(|it| lock(it).is_empty()));
    }

    #[test]
    fn few_are_all_shown_and_counted_from_the_first_request_on() {
        let top = top(3);
        count(&top, "a", 1);
        count(&top, "b", 2);
        count(&top, "c", 3);
        count(&top, "d", 4);
        count(&top, "other", 5);
        let now = Instant::now();
        check(&top, now, &[("a", 1), ("b", 2), ("c", 3), ("other", 9)]);
    }

    /// One that becomes busy takes a place and begins at 0, one that leaves takes its count along, one that comes back begins anew, and
    /// what is there never goes backwards.
    #[test]
    fn the_busy_take_places_and_no_series_goes_backwards() {
        let top = top(2);
        let begin = Instant::now();
        count(&top, "a", 10);
        count(&top, "b", 100);
        count(&top, "c", 15);
        check(&top, begin, &[("a", 10), ("b", 100), ("other", 15)]);
        // Not twice as busy.
        check(&top, begin + LOOK, &[("a", 10), ("b", 100), ("other", 15)]);
        count(&top, "c", 15);
        check(&top, begin + LOOK, &[("a", 10), ("b", 100), ("other", 30)]);
        check(
            &top,
            begin + 2 * LOOK,
            &[("b", 100), ("c", 0), ("other", 30)],
        );
        count(&top, "c", 7);
        count(&top, "a", 100);
        check(
            &top,
            begin + 2 * LOOK,
            &[("b", 100), ("c", 7), ("other", 130)],
        );
        check(
            &top,
            begin + 3 * LOOK,
            &[("a", 0), ("b", 100), ("other", 130)],
        );
        count(&top, "a", 1);
        check(
            &top,
            begin + 3 * LOOK,
            &[("a", 1), ("b", 100), ("other", 130)],
        );
    }

    /// Who was busy yesterday makes room for who is today.
    #[test]
    fn what_was_long_ago_counts_less() {
        let top = top(1);
        let begin = Instant::now();
        count(&top, "old", 1000);
        count(&top, "new", 200);
        check(&top, begin + HALF_LIFE, &[("old", 1000), ("other", 200)]);
        let mut now = begin + HALF_LIFE;
        for _ in 0..3 {
            now += HALF_LIFE;
            count(&top, "new", 200);
            top.collect_at(now);
        }
        check(&top, now, &[("new", 0), ("other", 800)]);
    }

    /// Tens of thousands of identities: what is known stays bounded, each request is counted once, and the busy are found among them.
    #[test]
    fn many_identities_take_bounded_memory_and_the_busy_are_found() {
        let top = top(10);
        let begin = Instant::now();
        for round in 0..5 {
            for name in 0..20_000 {
                top.count(&format!("user-{name}"));
                top.count(&format!("busy-{}", name % 10));
            }
            top.collect_at(begin + LOOK * round);
        }
        let known: usize = top.0.shards.iter().map(|it| lock(it).len()).sum();
        assert!(known <= FEWEST_KNOWN, "{known}");
        let all = shown(&top, begin + 5 * LOOK);
        assert_eq!(all.len(), 11);
        assert_eq!(all.keys().filter(|it| it.starts_with("busy-")).count(), 10);
    }

    #[test]
    fn fewer_places_after_a_reload_are_those_of_the_busiest() {
        let top = top(5);
        for (index, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            count(&top, name, index + 1);
        }
        top.show(2);
        check(&top, Instant::now(), &[("d", 4), ("e", 5), ("other", 0)]);
        count(&top, "f", 1);
        check(&top, Instant::now(), &[("d", 4), ("e", 5), ("other", 1)]);
        top.show(4);
        assert_eq!(shown(&top, Instant::now()).len(), 5);
    }

    /// What threads count at one moment is neither lost nor counted twice, also while somebody looks.
    #[test]
    fn nothing_is_lost_between_threads() {
        let top = top(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for index in 0..10_000 {
                        top.count(["a", "b", "c"][index % 3]);
                    }
                });
            }
            for _ in 0..100 {
                top.collect_at(Instant::now());
            }
        });
        let all = shown(&top, Instant::now());
        assert_eq!(all.values().sum::<u64>(), 40_000);
        assert_eq!(all["other"], 0);
    }

    /// Names are clients', so nothing in them ends a label, a line or the page.
    #[test]
    fn names_are_escaped() {
        let (registry, top) = (Registry::new(), top(10));
        registry.register(Box::new(top.clone())).unwrap();
        for name in ["a\"b", "c\\d", "e\nf", "jürgen 日本"] {
            top.count(name);
        }
        let text = TextEncoder::new().encode_to_string(&registry.gather());
        let expected = "# HELP gatepost_identity_requests_total Requests of the identities that send most, and of all others together
# TYPE gatepost_identity_requests_total counter
gatepost_identity_requests_total{identity=\"a\\\"b\"} 1
gatepost_identity_requests_total{identity=\"c\\\\d\"} 1
gatepost_identity_requests_total{identity=\"e\\nf\"} 1
gatepost_identity_requests_total{identity=\"jürgen 日本\"} 1
gatepost_identity_requests_total{identity=\"other\"} 0
";
        let text = text.unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        let mut wanted: Vec<_> = expected.lines().collect();
        lines.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(lines, wanted);
    }
}
