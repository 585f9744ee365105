//! The seconds of a run, in order: what all threads measured in each. A second is kept whole while threads may still add to it,
//! then only its figures are, so that a long run does not grow by histograms.

use std::collections::BTreeMap;

use serde::Serialize;

use super::recorder::{Counts, Interval, Latencies, Series};

/// A second is closed when one this much later has been handed over. What a thread brings later still is counted in the oldest
/// second that is open: seen late, not lost.
const OPEN_SECONDS: i64 = 10;

/// The figures of a second, from the end of the warm-up on; negative before it.
#[derive(Clone, Debug, Serialize)]
pub struct Second {
    pub second: i64,
    /// Acknowledged, or with acks=0 handed to the kernel.
    pub acked: u64,
    pub read: u64,
    pub retries: u64,
    pub connections_lost: u64,
    pub failed: u64,
    pub latency: BTreeMap<&'static str, Moments>,
}

/// Latencies seen within a second.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Moments {
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub max_ns: u64,
}

/// See the module.
#[derive(Default)]
pub struct Seconds {
    open: BTreeMap<i64, (Latencies, Counts)>,
    closed: Vec<Second>,
    /// Every histogram of the measured time, where they are wanted.
    whole: Option<BTreeMap<i64, Latencies>>,
}

impl Seconds {
    pub fn new(keep_histograms: bool) -> Seconds {
        Seconds { whole: keep_histograms.then(BTreeMap::new), ..Seconds::default() }
    }

    /// Takes a second of one thread.
    pub fn add(&mut self, interval: &Interval) {
        let floor = self.closed.last().map_or(i64::MIN, |second| second.second + 1);
        let (latencies, counts) = self.open.entry(interval.second.max(floor)).or_default();
        latencies.merge(&interval.latencies);
        counts.add(&interval.counts);
        while let Some(first) = self.open.first_entry()
            && *first.key() + OPEN_SECONDS < interval.second
        {
            let (second, (latencies, counts)) = first.remove_entry();
            self.close(second, latencies, &counts);
        }
    }

    fn close(&mut self, second: i64, latencies: Latencies, counts: &Counts) {
        self.closed.push(figures(second, &latencies, counts));
        if second >= 0
            && let Some(whole) = &mut self.whole
        {
            whole.insert(second, latencies);
        }
    }

    /// All seconds, and their histograms where they were to be kept.
    pub fn finish(mut self) -> (Vec<Second>, BTreeMap<i64, Latencies>) {
        for (second, (latencies, counts)) in std::mem::take(&mut self.open) {
            self.close(second, latencies, &counts);
        }
        (self.closed, self.whole.unwrap_or_default())
    }
}

fn figures(second: i64, latencies: &Latencies, counts: &Counts) -> Second {
    let measured = Series::ALL.into_iter().filter(|series| !latencies.of(*series).is_empty());
    let latency = measured.map(|series| {
        let it = latencies.of(series);
        let moments = Moments {
            p50_ns: it.value_at_quantile(0.5),
            p99_ns: it.value_at_quantile(0.99),
            p99_9_ns: it.value_at_quantile(0.999),
            max_ns: it.max(),
        };
        (series.name(), moments)
    });
    Second {
        second,
        acked: counts.acked + counts.unacknowledged,
        read: counts.read,
        retries: counts.retries,
        connections_lost: counts.connections_lost,
        failed: counts.failed,
        latency: latency.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(second: i64, ns: u64) -> Interval {
        let mut interval = Interval { second, latencies: Latencies::default(), counts: Counts::default() };
        interval.latencies.record(Series::Ack, ns, 1);
        interval.counts.acked = 1;
        interval
    }

    #[test]
    fn threads_meet_in_a_second_and_latecomers_are_not_lost() {
        let mut seconds = Seconds::new(true);
        for second in -2..30 {
            seconds.add(&interval(second, 1000));
        }
        seconds.add(&interval(3, 9000)); // its second is closed
        seconds.add(&interval(29, 5000));
        let (all, histograms) = seconds.finish();
        assert_eq!(all.iter().map(|it| it.second).collect::<Vec<_>>(), (-2..30).collect::<Vec<_>>());
        assert_eq!(all.iter().map(|it| it.acked).sum::<u64>(), 34);
        let late = all.iter().find(|it| it.latency["ack"].max_ns >= 9000).unwrap();
        assert_eq!((late.second, late.acked), (19, 2));
        assert_eq!(all[31].acked, 2);
        assert_eq!(histograms.keys().copied().collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
        assert_eq!(histograms.values().map(|it| it.of(Series::Ack).len()).sum::<u64>(), 32);
    }
}
