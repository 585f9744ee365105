//! What a worker measures, second by second: histograms and counts, handed to the collecting thread when the second is
//! over. Histograms of all threads and seconds are added up; nothing is ever averaged.
//!
//! Seconds count from the end of the warm-up, negative before it. A latency belongs to the second in which it was seen, and
//! to the run's total when the record was meant to go in the measured time, however late it came.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;

use hdrhistogram::Histogram;

use super::options::SECOND_NS;
use super::schedule::Phases;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Series {
    /// From the intended time to the acknowledgement.
    Ack,
    /// From the actual send to the acknowledgement.
    AckUncorrected,
    /// From the intended time to the consumer.
    EndToEnd,
    /// From the actual send to the consumer.
    EndToEndUncorrected,
    /// How late the generator itself made a batch ready, against its plan.
    Lag,
}

impl Series {
    pub const ALL: [Series; 5] =
        [Series::Ack, Series::AckUncorrected, Series::EndToEnd, Series::EndToEndUncorrected, Series::Lag];

    pub fn name(self) -> &'static str {
        match self {
            Series::Ack => "ack",
            Series::AckUncorrected => "ack-uncorrected",
            Series::EndToEnd => "e2e",
            Series::EndToEndUncorrected => "e2e-uncorrected",
            Series::Lag => "lag",
        }
    }
}

/// How long the last records of a plan may take behind its end to count as acknowledged in time.
const GRACE_NS: u64 = SECOND_NS / 10;

/// The longest latency told apart.
const LATENCY_NS_MAX: u64 = 4 * 3600 * SECOND_NS;

/// One histogram a series.
#[derive(Clone)]
pub struct Latencies([Histogram<u64>; Series::ALL.len()]);

impl Default for Latencies {
    fn default() -> Self {
        Latencies(Series::ALL.map(|_| new_histogram()))
    }
}

/// An empty histogram of nanoseconds.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("bounds that a histogram can have")
}

impl Latencies {
    pub fn of(&self, series: Series) -> &Histogram<u64> {
        &self.0[series as usize]
    }

    #[inline]
    pub fn record(&mut self, series: Series, ns: u64, count: u64) {
        self.0[series as usize].saturating_record_n(ns, count);
    }

    /// Adds another's samples to these.
    pub fn merge(&mut self, other: &Latencies) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            mine.add(theirs).expect("histograms of the same bounds");
        }
    }
}

/// Counts of one worker. Those called measured began with the end of the warm-up; the others hold the whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub acked: u64,
    pub read: u64,
    /// Within the measured time.
    pub acked_in_window: u64,
    pub read_in_window: u64,
    /// Since the warm-up, the end of the run included.
    pub acked_measured: u64,
    pub read_measured: u64,
    pub sent_measured: u64,
    /// Acknowledged within the grace behind the measured time.
    pub acked_at_once_after: u64,
    /// Taken from an open plan, and meant for the measured time.
    pub planned_measured: u64,
    pub requests: u64,
    pub batches: u64,
    pub wire_bytes: u64,
    pub fetches: u64,
    pub fetched_bytes: u64,
    /// Batches sent again.
    pub retries: u64,
    pub connections_lost: u64,
    /// Records given up, and records of the plan that were never sent.
    pub failed: u64,
    pub never_sent: u64,
    /// Records sent with acks=0.
    pub unacknowledged: u64,
    /// Time in which records were due but the buffer was full.
    pub blocked_ns: u64,
    /// By error code, how many batches or partitions were answered with it.
    pub produce_errors: BTreeMap<i16, u64>,
    pub fetch_errors: BTreeMap<i16, u64>,
    pub last_ack_ns: u64,
    pub last_read_ns: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.acked += other.acked;
        self.read += other.read;
        self.acked_in_window += other.acked_in_window;
        self.read_in_window += other.read_in_window;
        self.acked_measured += other.acked_measured;
        self.read_measured += other.read_measured;
        self.sent_measured += other.sent_measured;
        self.acked_at_once_after += other.acked_at_once_after;
        self.planned_measured += other.planned_measured;
        self.requests += other.requests;
        self.batches += other.batches;
        self.wire_bytes += other.wire_bytes;
        self.fetches += other.fetches;
        self.fetched_bytes += other.fetched_bytes;
        self.retries += other.retries;
        self.connections_lost += other.connections_lost;
        self.failed += other.failed;
        self.never_sent += other.never_sent;
        self.unacknowledged += other.unacknowledged;
        self.blocked_ns += other.blocked_ns;
        for (mine, theirs) in
            [(&mut self.produce_errors, &other.produce_errors), (&mut self.fetch_errors, &other.fetch_errors)]
        {
            theirs.iter().for_each(|(code, count)| *mine.entry(*code).or_default() += count);
        }
        self.last_ack_ns = self.last_ack_ns.max(other.last_ack_ns);
        self.last_read_ns = self.last_read_ns.max(other.last_read_ns);
    }
}

/// A second of one worker.
pub struct Interval {
    /// From the end of the warm-up; negative before it.
    pub second: i64,
    pub latencies: Latencies,
    pub counts: Counts,
}

/// Records for one worker. The methods take the time from the worker's turn.
pub struct Recorder {
    phases: Phases,
    second: i64,
    ends_ns: u64,
    latencies: Latencies,
    pub counts: Counts,
    out: Sender<Interval>,
}

impl Recorder {
    pub fn new(phases: Phases, out: Sender<Interval>) -> Recorder {
        let mut recorder = Recorder {
            phases,
            second: 0,
            ends_ns: 0,
            latencies: Latencies::default(),
            counts: Counts::default(),
            out,
        };
        recorder.begin(phases.start_ns);
        recorder
    }

    fn begin(&mut self, now_ns: u64) {
        let since = now_ns as i64 - self.phases.measure_ns as i64;
        self.second = since.div_euclid(SECOND_NS as i64);
        self.ends_ns = (self.phases.measure_ns as i64 + (self.second + 1) * SECOND_NS as i64) as u64;
    }

    /// When the current second is over.
    pub fn ends_ns(&self) -> u64 {
        self.ends_ns
    }

    /// Hands the second over if it has ended; whether it had.
    pub fn turn(&mut self, now_ns: u64) -> bool {
        if now_ns < self.ends_ns {
            return false;
        }
        self.hand_over();
        self.begin(now_ns);
        true
    }

    /// Hands over what there is. The receiver may be gone at the end of a run that failed.
    pub fn hand_over(&mut self) {
        let latencies = std::mem::take(&mut self.latencies);
        let counts = std::mem::take(&mut self.counts);
        let _ = self.out.send(Interval { second: self.second, latencies, counts });
    }

    /// Whether a record meant for this time is part of what is measured now.
    #[inline]
    pub fn takes(&self, intended_ns: u64) -> bool {
        self.second < 0 || self.phases.is_measured(intended_ns)
    }

    #[inline]
    pub fn latency(&mut self, series: Series, intended_ns: u64, ns: u64, count: u64) {
        if self.takes(intended_ns) {
            self.latencies.record(series, ns, count);
        }
    }

    /// A record was taken from an open plan.
    #[inline]
    pub fn planned(&mut self, intended_ns: u64) {
        self.counts.planned_measured += u64::from(self.phases.is_measured(intended_ns));
    }

    pub fn acked(&mut self, now_ns: u64, records: u64) {
        self.counts.acked += records;
        if now_ns >= self.phases.measure_ns {
            self.counts.acked_measured += records;
            if now_ns < self.phases.stop_ns {
                self.counts.acked_in_window += records;
            } else if now_ns - self.phases.stop_ns < GRACE_NS {
                self.counts.acked_at_once_after += records;
            }
        }
        self.counts.last_ack_ns = now_ns;
    }

    pub fn sent(&mut self, now_ns: u64, records: u64) {
        if now_ns >= self.phases.measure_ns {
            self.counts.sent_measured += records;
        }
    }

    pub fn read(&mut self, now_ns: u64, records: u64) {
        self.counts.read += records;
        if now_ns >= self.phases.measure_ns {
            self.counts.read_measured += records;
            if now_ns < self.phases.stop_ns {
                self.counts.read_in_window += records;
            }
        }
        self.counts.last_read_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn merged_percentiles_are_those_of_all_samples() {
        // One thread saw fast answers, another slow ones: the average of their medians would be in the middle of nowhere.
        let (mut fast, mut slow) = (Latencies::default(), Latencies::default());
        (0..9000).for_each(|_| fast.record(Series::Ack, 1_000_000, 1));
        slow.record(Series::Ack, 500_000_000, 1000);
        fast.merge(&slow);
        let merged = fast.of(Series::Ack);
        assert_eq!(merged.len(), 10_000);
        let within = |value: u64, expected: u64| value.abs_diff(expected) <= expected / 500;
        assert!(within(merged.value_at_quantile(0.5), 1_000_000));
        assert!(within(merged.value_at_quantile(0.9), 1_000_000));
        assert!(within(merged.value_at_quantile(0.901), 500_000_000));
        assert!(within(merged.max(), 500_000_000));
    }

    #[test]
    fn a_latency_beyond_the_scale_counts_as_the_longest() {
        let mut latencies = Latencies::default();
        latencies.record(Series::EndToEnd, u64::MAX, 3);
        assert_eq!(latencies.of(Series::EndToEnd).len(), 3);
        assert!(latencies.of(Series::EndToEnd).max() >= LATENCY_NS_MAX);
    }

    #[test]
    fn the_warm_up_is_cut_by_the_intended_time() {
        let phases = Phases::new(0, 2 * SECOND_NS, Some(SECOND_NS));
        let (out, intervals) = channel();
        let mut recorder = Recorder::new(phases, out);
        recorder.latency(Series::Ack, 5, 10, 1);
        assert!(!recorder.turn(SECOND_NS - 1));
        assert!(recorder.turn(2 * SECOND_NS + 5));
        // Meant for the warm-up, answered late: not measured, though its second is.
        recorder.latency(Series::Ack, 2 * SECOND_NS - 1, 10, 1);
        recorder.latency(Series::Ack, 2 * SECOND_NS, 10, 1);
        recorder.acked(2 * SECOND_NS + 6, 7);
        assert!(recorder.turn(3 * SECOND_NS));
        // Meant for the measured time, answered after it: measured.
        recorder.latency(Series::Ack, 3 * SECOND_NS - 1, 10, 1);
        recorder.latency(Series::Ack, 3 * SECOND_NS, 10, 1);
        recorder.acked(3 * SECOND_NS, 5);
        recorder.hand_over();
        let all: Vec<Interval> = intervals.try_iter().collect();
        let seen: Vec<_> = all.iter().map(|it| (it.second, it.latencies.of(Series::Ack).len())).collect();
        assert_eq!(seen, [(-2, 1), (0, 1), (1, 1)]);
        let mut counts = Counts::default();
        all.iter().for_each(|it| counts.add(&it.counts));
        assert_eq!((counts.acked, counts.acked_measured, counts.acked_in_window), (12, 12, 7));
    }
}
