//! Reads what the metrics registry has gathered, by the names that docs/metrics.md promises.
//!
//! By name rather than through handles of its own: what the status page says and what `/metrics` says cannot differ
//! then, and the request path knows nothing of either.

use std::collections::BTreeMap;

use prometheus::proto::{Metric, MetricFamily, MetricType};
use serde::Serialize;

/// All figures of one moment.
pub(super) struct Figures(Vec<MetricFamily>);

/// How often something took how long.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Times {
    /// The upper bounds of the buckets, in seconds. The last bucket, without a bound, is not among them.
    pub(super) bounds: Vec<f64>,
    /// How many were in each bucket alone, with one more for what was longer than all bounds.
    pub(super) counts: Vec<u64>,
    /// All of them together, in seconds.
    pub(super) sum: f64,
}

impl Figures {
    pub(super) fn new(families: Vec<MetricFamily>) -> Self {
        Self(families)
    }

    /// A figure, whatever its labels; 0 where nothing was counted yet.
    pub(super) fn value(&self, name: &str) -> f64 {
        self.metrics(name).map(|(kind, it)| value(kind, it)).sum()
    }

    /// The same where it is a whole number.
    pub(super) fn count(&self, name: &str) -> u64 {
        whole(self.value(name))
    }

    /// By the value of one label.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (kind, metric) in self.metrics(name) {
            *all.entry(label_of(metric, label)).or_default() += whole(value(kind, metric));
        }
        all
    }

    /// By the values of two labels.
    pub(super) fn by_both(&self, name: &str, labels: [&str; 2]) -> Vec<(String, String, u64)> {
        let [first, second] = labels;
        self.metrics(name)
            .map(|(kind, it)| {
                let count = whole(value(kind, it));
                (label_of(it, first), label_of(it, second), count)
            })
            .collect()
    }

    /// A histogram, whatever its labels.
    pub(super) fn times(&self, name: &str) -> Times {
        let mut times = Times::default();
        for (_, metric) in self.metrics(name) {
            let histogram = metric.get_histogram();
            let buckets = histogram.get_bucket();
            times.sum += histogram.get_sample_sum();
            if times.bounds.is_empty() {
                times.bounds = buckets.iter().map(|it| it.upper_bound()).collect();
                times.counts = vec![0; buckets.len() + 1];
            }
            let cumulative = buckets.iter().map(|it| it.cumulative_count());
            let mut below = 0;
            for (count, up_to) in times
                .counts
                .iter_mut()
                .zip(cumulative.chain([histogram.get_sample_count()]))
            {
                // The library counts while it is read, so a later bucket may be behind an earlier one for a moment.
                *count += up_to.saturating_sub(below);
                below = up_to.max(below);
            }
        }
        times
    }

    fn metrics<'a>(&'a self, name: &str) -> impl Iterator<Item = (MetricType, &'a Metric)> {
        let family = self.0.iter().find(|it| it.name() == name);
        family
            .into_iter()
            .flat_map(|it| it.get_metric().iter().map(|one| (it.get_field_type(), one)))
    }
}

fn value(kind: MetricType, metric: &Metric) -> f64 {
    match kind {
        MetricType::COUNTER => metric.get_counter().get_value(),
        MetricType::GAUGE => metric.get_gauge().get_value(),
        MetricType::HISTOGRAM | MetricType::SUMMARY | MetricType::UNTYPED => 0.0,
    }
}

fn label_of(metric: &Metric, name: &str) -> String {
    let labels = metric.get_label().iter();
    let mut named = labels.filter(|it| it.name() == name);
    named.next().map_or("", |it| it.value()).to_owned()
}

/// Counters are numbers with a point in the format, and whole.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and counts are whole and not negative"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

    #[test]
    fn figures_are_summed_over_labels_and_zero_where_there_are_none() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("c", "c"), &["a", "b"]).unwrap();
        let gauge = IntGauge::new("g", "g").unwrap();
        let histogram =
            HistogramVec::new(HistogramOpts::new("h", "h").buckets(vec![0.1, 1.0]), &["a"])
                .unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        registry.register(Box::new(gauge.clone())).unwrap();
        registry.register(Box::new(histogram.clone())).unwrap();
        counter.with_label_values(&["x", "1"]).inc_by(2);
        counter.with_label_values(&["x", "2"]).inc_by(3);
        counter.with_label_values(&["y", "1"]).inc();
        gauge.set(7);
        for (label, time) in [("x", 0.05), ("x", 0.5), ("y", 0.5), ("y", 5.0)] {
            histogram.with_label_values(&[label]).observe(time);
        }
        let figures = Figures::new(registry.gather());
        assert_eq!(figures.count("c"), 6);
        assert_eq!(
            figures.by("c", "a"),
            BTreeMap::from([("x".to_owned(), 5), ("y".to_owned(), 1)])
        );
        let row = |a: &str, b: &str, count| (a.to_owned(), b.to_owned(), count);
        assert_eq!(
            figures.by_both("c", ["a", "b"]),
            [row("x", "1", 2), row("x", "2", 3), row("y", "1", 1)]
        );
        assert_eq!((figures.count("g"), figures.count("nothing")), (7, 0));
        let expected = Times {
            bounds: vec![0.1, 1.0],
            counts: vec![1, 2, 1],
            sum: 6.05,
        };
        assert_eq!(figures.times("h"), expected);
        assert_eq!(figures.times("nothing"), Times::default());
    }
}
