//! Counters and histograms of one shard. The shard writes, anyone reads: each value has one writer, so relaxed order is
//! enough and no update costs more than a plain addition. Readers merge the shards when they are asked.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// By the owning shard alone.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// For totals that are kept elsewhere.
    #[inline]
    pub fn set(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets of a [`Histogram`]: below 2^10 ns, four for each doubling up to 2^36 ns (69 s), and all above.
pub const BUCKETS: usize = 2 + OCTAVES * STEPS;
pub const OCTAVES: usize = 26;
/// Buckets a doubling: no value is off by more than an eighth.
pub const STEPS: usize = 4;
/// The first octave begins at 2^10 ns.
const FIRST_OCTAVE: usize = 10;

/// How often something took how long, in nanoseconds.
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Histogram({})", self.values().count())
    }
}

impl Histogram {
    /// By the owning shard alone.
    #[inline]
    pub fn record(&self, ns: u64) {
        let add = |cell: &AtomicU64, by: u64| {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        };
        add(&self.counts[bucket_of(ns)], 1);
        add(&self.sum, ns);
    }

    pub fn values(&self) -> HistogramValues {
        let mut values = HistogramValues::default();
        for (to, from) in values.counts.iter_mut().zip(&self.counts) {
            *to = from.load(Ordering::Relaxed);
        }
        values.sum = self.sum.load(Ordering::Relaxed);
        values
    }
}

#[inline]
fn bucket_of(ns: u64) -> usize {
    let octave = (63 - (ns | 1).leading_zeros()) as usize;
    if octave < FIRST_OCTAVE {
        return 0;
    }
    let step = (ns >> (octave - 2)) as usize & (STEPS - 1);
    (1 + (octave - FIRST_OCTAVE) * STEPS + step).min(BUCKETS - 1)
}

/// Where a bucket ends, in nanoseconds; the last one has no end.
pub fn bucket_end_ns(bucket: usize) -> u64 {
    match bucket {
        0 => 1 << FIRST_OCTAVE,
        _ if bucket >= BUCKETS - 1 => u64::MAX,
        _ => {
            let (octave, step) = ((bucket - 1) / STEPS + FIRST_OCTAVE, (bucket - 1) % STEPS);
            ((STEPS + step + 1) as u64) << (octave - 2)
        }
    }
}

/// What a histogram held at some moment.
#[derive(Clone, Debug)]
pub struct HistogramValues {
    pub counts: [u64; BUCKETS],
    pub sum: u64,
}

impl Default for HistogramValues {
    fn default() -> HistogramValues {
        HistogramValues { counts: [0; BUCKETS], sum: 0 }
    }
}

impl HistogramValues {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn add(&mut self, other: &HistogramValues) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(to, from)| *to += from);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// What came since `earlier`.
    pub fn since(&self, earlier: &HistogramValues) -> HistogramValues {
        let mut values = self.clone();
        for (to, from) in values.counts.iter_mut().zip(&earlier.counts) {
            *to = to.saturating_sub(*from);
        }
        values.sum = values.sum.wrapping_sub(earlier.sum);
        values
    }

    /// The value that this part (0 to 1) of all are not above: the end of its bucket. 0 when there is none.
    pub fn quantile_ns(&self, part: f64) -> u64 {
        let count = self.count();
        let rank = ((count as f64 * part).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (bucket, here) in self.counts.iter().enumerate() {
            seen += here;
            if seen >= rank {
                return if bucket == BUCKETS - 1 { bucket_end_ns(bucket - 1) } else { bucket_end_ns(bucket) };
            }
        }
        0
    }
}

/// API keys are below this.
pub const APIS: usize = 96;

/// The requests of one API.
#[derive(Debug, Default)]
pub struct ApiMetrics {
    pub request_bytes: Counter,
    pub response_bytes: Counter,
    /// Received to ready to be sent.
    pub time: Histogram,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// All counters of a shard.
        #[derive(Debug)]
        pub struct ShardMetrics {
            $($(#[$doc])* pub $name: Counter,)*
            /// By API key.
            apis: Box<[ApiMetrics]>,
            /// How long a turn works, its waiting not counted.
            pub turn_time: Histogram,
            /// Writes to the journal that need not reach stable media, and those that must.
            pub journal_write_time: Histogram,
            pub journal_durable_write_time: Histogram,
            pub journal_sync_time: Histogram,
        }

        impl Default for ShardMetrics {
            fn default() -> ShardMetrics {
                ShardMetrics {
                    $($name: Counter::default(),)*
                    apis: (0..APIS).map(|_| ApiMetrics::default()).collect(),
                    turn_time: Histogram::default(),
                    journal_write_time: Histogram::default(),
                    journal_durable_write_time: Histogram::default(),
                    journal_sync_time: Histogram::default(),
                }
            }
        }

        impl ShardMetrics {
            /// Every counter with its name, in a fixed order.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.value()),)*]
            }
        }
    };
}

counters! {
    turns,
    completions,
    /// Ops handed to the kernel, and the system calls that took.
    submissions,
    system_calls,
    /// Nanoseconds of work and of waiting for work.
    busy_ns,
    waited_ns,
    connections_opened,
    connections_closed,
    connections_refused,
    bytes_received,
    bytes_sent,
    requests,
    /// Requests that ended a connection.
    requests_refused,
    records_produced,
    bytes_produced,
    bytes_fetched,
    /// Parts of requests sent to another shard.
    tasks_sent,
    fetches_parked,
    journal_bytes,
    segment_bytes_written,
    segment_bytes_read,
}

impl ShardMetrics {
    /// Those of an API; a key that is out of range counts as the last one.
    #[inline]
    pub fn api(&self, api_key: i16) -> &ApiMetrics {
        &self.apis[usize::from(api_key.unsigned_abs()).min(APIS - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_below_the_end_of_its_bucket_and_above_the_one_before() {
        for shift in 0..64 {
            for ns in [1u64 << shift, (1 << shift) + (1 << shift) / 3, (1u64 << shift).wrapping_sub(1)] {
                let bucket = bucket_of(ns);
                assert!(ns < bucket_end_ns(bucket) || bucket == BUCKETS - 1, "{ns} in {bucket}");
                assert!(bucket == 0 || ns >= bucket_end_ns(bucket - 1), "{ns} in {bucket}");
            }
        }
    }

    #[test]
    fn quantiles_are_ends_of_buckets() {
        let histogram = Histogram::default();
        assert_eq!(histogram.values().quantile_ns(0.5), 0);
        for ns in 1..=1000u64 {
            histogram.record(ns * 1000);
        }
        let values = histogram.values();
        assert_eq!(values.count(), 1000);
        assert_eq!(values.sum, 500_500_000);
        for (part, exact) in [(0.5, 500_000.0), (0.99, 990_000.0), (1.0, 1_000_000.0)] {
            let found = values.quantile_ns(part) as f64;
            assert!((exact..exact * 1.26).contains(&found), "{part}: {found}");
        }
        let later = {
            histogram.record(5);
            histogram.values().since(&values)
        };
        assert_eq!((later.count(), later.sum), (1, 5));
    }
}
