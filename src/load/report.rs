//! What a run says of itself: figures, verdict, and everything needed to repeat it. One structure, written as JSON as it
//! is and as a table by [`super::table`].

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::admin::error_name;
use super::exit;
use super::machine::{Machine, Noise};
use super::options::{Options, Pace, SECOND_NS};
use super::recorder::{Counts, Latencies, Series};
use super::seconds::Second;
use super::verify::Verdict;

/// Below this part of what was offered, the broker did not keep up.
const SUSTAINED: f64 = 0.99;
const NS: f64 = SECOND_NS as f64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunVerdict {
    Ok,
    Failed,
    Invalid,
}

impl RunVerdict {
    pub fn exit_code(self) -> u8 {
        match self {
            RunVerdict::Ok => exit::OK,
            RunVerdict::Failed => exit::FAILED,
            RunVerdict::Invalid => exit::INVALID,
        }
    }
}

/// Percentiles of one series, in nanoseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub mean_ns: f64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub p99_99_ns: u64,
    pub max_ns: u64,
}

impl Percentiles {
    pub fn of(histogram: &Histogram<u64>) -> Percentiles {
        Percentiles {
            count: histogram.len(),
            mean_ns: histogram.mean(),
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: histogram.value_at_quantile(0.9),
            p99_ns: histogram.value_at_quantile(0.99),
            p99_9_ns: histogram.value_at_quantile(0.999),
            p99_99_ns: histogram.value_at_quantile(0.9999),
            max_ns: histogram.max(),
        }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Flow {
    /// Over the whole run.
    pub records: u64,
    /// In the measured time.
    pub records_per_second: f64,
    pub megabytes_per_second: f64,
    pub errors: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Produced {
    #[serde(flatten)]
    pub flow: Flow,
    pub requests: u64,
    pub batches: u64,
    pub records_per_batch: f64,
    pub retries: u64,
    pub connections_lost: u64,
    pub failed: u64,
    pub never_sent: u64,
    pub unacknowledged: u64,
    /// How long records were due but the buffer was full, over all producers' threads.
    pub blocked_seconds: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Cost {
    pub cpu_seconds: f64,
    /// CPU seconds per 10^9 bytes of record values sent, and per million records.
    pub core_seconds_per_gb: f64,
    pub core_seconds_per_million_records: f64,
}

impl Cost {
    /// For what was sent, or for what was read where nothing was sent.
    fn new(cpu_seconds: f64, counts: &Counts, record_bytes: usize) -> Cost {
        let records = match counts.acked_measured + counts.unacknowledged {
            0 => counts.read_measured,
            records => records,
        } as f64;
        let per = |amount: f64| if amount > 0.0 { cpu_seconds / amount } else { 0.0 };
        Cost {
            cpu_seconds,
            core_seconds_per_gb: per(records * record_bytes as f64 / 1e9),
            core_seconds_per_million_records: per(records / 1e6),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Generator {
    pub user_seconds: f64,
    pub system_seconds: f64,
    #[serde(flatten)]
    pub cost: Cost,
    /// How far it fell behind its own plan.
    pub lag: Percentiles,
    pub lag_limit_ns: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Broker {
    #[serde(flatten)]
    pub cost: Cost,
    pub rss_bytes: u64,
    pub rss_peak_bytes: u64,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    pub bootstrap: String,
    pub topic: String,
    pub partitions: usize,
    pub topic_configs: BTreeMap<String, String>,
    pub mode: &'static str,
    /// In the mean; `None` in the closed loop.
    pub records_per_second: Option<f64>,
    /// `constant`, `poisson`, `burst`, `trace`, or `closed loop`.
    pub arrivals: &'static str,
    pub burst_every_ns: Option<u64>,
    pub burst_within_ns: Option<u64>,
    /// Length and checksum of the trace's file.
    pub trace: Option<String>,
    pub acks: &'static str,
    pub idempotent: bool,
    pub compression: &'static str,
    pub record_bytes: usize,
    pub keys: String,
    pub batch_bytes: usize,
    pub linger_ns: u64,
    pub max_request_bytes: usize,
    pub max_in_flight: usize,
    pub producers: u32,
    pub consumers: u32,
    pub connections: u32,
    pub threads: u32,
    pub pin: Vec<usize>,
    pub verify: bool,
    pub warmup_ns: u64,
    /// One of the two ended the run.
    pub duration_ns: Option<u64>,
    pub records: Option<u64>,
    pub produce_version: i16,
    pub fetch_version: i16,
    pub run: u32,
    pub seed: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Always `run`; files of several runs are [`super::many::Document`].
    pub kind: &'static str,
    pub ringlog_version: &'static str,
    pub started_ms: i64,
    pub verdict: RunVerdict,
    pub reasons: Vec<String>,
    pub asked: Asked,
    pub machine: Machine,
    pub measured_seconds: f64,
    /// Records of the plan that were meant for the measured time; `None` in the closed loop.
    pub offered_records: Option<u64>,
    /// What the plan offered was acknowledged as it came; `None` in the closed loop.
    pub sustained: Option<bool>,
    pub produced: Option<Produced>,
    pub consumed: Option<Flow>,
    /// By series; `ack` and `e2e` count from the intended time, the others from the actual send.
    pub latency: BTreeMap<&'static str, Percentiles>,
    pub generator: Generator,
    pub broker: Option<Broker>,
    pub verification: Option<Verdict>,
    /// What else took the machine's time.
    pub noise: Option<Noise>,
    pub last_error: Option<String>,
    /// By series: quantiles (0 to 1) and nanoseconds, as far as the samples reach.
    pub distribution: BTreeMap<&'static str, Vec<(f64, u64)>>,
    pub seconds: Vec<Second>,
}

/// What the collecting thread has gathered.
pub struct Gathered {
    pub started_ms: i64,
    pub measure_ns: u64,
    pub asked: Asked,
    pub latencies: Latencies,
    pub counts: Counts,
    pub user_seconds: f64,
    pub system_seconds: f64,
    /// CPU seconds over the measured time, memory at the end, and its peak.
    pub broker: Option<(f64, u64, u64)>,
    pub verification: Option<Verdict>,
    pub undrained: usize,
    pub noise: Option<Noise>,
    pub seconds: Vec<Second>,
    pub last_error: Option<String>,
}

impl Report {
    pub fn new(options: &Options, it: Gathered) -> Report {
        let counts = &it.counts;
        let window = |last_ns: u64| match options.duration_ns() {
            Some(ns) if options.producers > 0 => ns as f64 / NS,
            _ => last_ns.saturating_sub(it.measure_ns) as f64 / NS,
        };
        let produced = (options.producers > 0).then(|| produced(options, counts, window(counts.last_ack_ns)));
        let consumed = (options.consumers > 0).then(|| {
            let seconds = window(counts.last_read_ns);
            flow(counts.read, counts.read_in_window, seconds, options.record_bytes, &counts.fetch_errors)
        });
        let latency = Series::ALL
            .into_iter()
            .filter(|series| *series != Series::Lag && !it.latencies.of(*series).is_empty())
            .map(|series| (series.name(), Percentiles::of(it.latencies.of(series))))
            .collect();
        let lag = Percentiles::of(it.latencies.of(Series::Lag));
        let open_loop = options.pace != Pace::Max && options.producers > 0;
        let offered = counts.planned_measured + counts.never_sent;
        let sustained = open_loop.then(|| is_sustained(options, counts, offered));
        let (verdict, reasons) = judge(options, &it, &lag);
        let measured = Series::ALL.into_iter().filter(|series| !it.latencies.of(*series).is_empty());
        let distribution =
            measured.map(|series| (series.name(), distribution(it.latencies.of(series)))).collect();
        Report {
            kind: "run",
            ringlog_version: env!("CARGO_PKG_VERSION"),
            started_ms: it.started_ms,
            verdict,
            reasons,
            machine: Machine::read(),
            measured_seconds: window(counts.last_ack_ns.max(counts.last_read_ns)),
            offered_records: open_loop.then_some(offered),
            sustained,
            produced,
            consumed,
            latency,
            generator: Generator {
                user_seconds: it.user_seconds,
                system_seconds: it.system_seconds,
                cost: Cost::new(it.user_seconds + it.system_seconds, counts, options.record_bytes),
                lag,
                lag_limit_ns: options.lag_max_ns,
            },
            broker: it.broker.map(|(cpu_seconds, rss_bytes, rss_peak_bytes)| Broker {
                cost: Cost::new(cpu_seconds, counts, options.record_bytes),
                rss_bytes,
                rss_peak_bytes,
            }),
            asked: it.asked,
            verification: it.verification,
            noise: it.noise,
            last_error: it.last_error,
            distribution,
            seconds: it.seconds,
        }
    }
}

/// Whether what the plan offered was acknowledged as it came; the last records may take a moment behind the end.
fn is_sustained(options: &Options, counts: &Counts, offered: u64) -> bool {
    let in_time = match options.acks {
        super::options::Acks::None => counts.sent_measured,
        _ => counts.acked_in_window + counts.acked_at_once_after,
    };
    counts.never_sent == 0 && in_time as f64 >= SUSTAINED * offered as f64
}

/// Quantiles of a series, ever finer towards the end, as far as the samples tell them apart.
fn distribution(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    const STEPS: i32 = 8;
    let finest = 1.0 / histogram.len() as f64;
    let mut points = vec![(0.0, histogram.min())];
    for step in 1.. {
        // Eight points for each further nine.
        let above = 10f64.powf(-f64::from(step) / f64::from(STEPS));
        if above < finest {
            break;
        }
        points.push((1.0 - above, histogram.value_at_quantile(1.0 - above)));
    }
    points.push((1.0, histogram.max()));
    points
}

fn produced(options: &Options, counts: &Counts, seconds: f64) -> Produced {
    // With acks=0 nothing is acknowledged: what was handed to the kernel is all there is to count.
    let (records, in_window) = match options.acks {
        super::options::Acks::None => (counts.unacknowledged, counts.sent_measured),
        _ => (counts.acked, counts.acked_in_window),
    };
    Produced {
        flow: flow(records, in_window, seconds, options.record_bytes, &counts.produce_errors),
        requests: counts.requests,
        batches: counts.batches,
        records_per_batch: (counts.acked + counts.unacknowledged) as f64 / counts.batches.max(1) as f64,
        retries: counts.retries,
        connections_lost: counts.connections_lost,
        failed: counts.failed,
        never_sent: counts.never_sent,
        unacknowledged: counts.unacknowledged,
        blocked_seconds: counts.blocked_ns as f64 / NS,
    }
}

fn flow(records: u64, in_window: u64, seconds: f64, bytes: usize, errors: &BTreeMap<i16, u64>) -> Flow {
    let rate = if seconds > 0.0 { in_window as f64 / seconds } else { 0.0 };
    Flow {
        records,
        records_per_second: rate,
        megabytes_per_second: rate * bytes as f64 / 1e6,
        errors: errors.iter().map(|(code, count)| (error_name(*code), *count)).collect(),
    }
}

/// Failed comes before invalid: a lost record is lost on a slow machine too.
fn judge(options: &Options, it: &Gathered, lag: &Percentiles) -> (RunVerdict, Vec<String>) {
    let mut failed = Vec::new();
    if let Some(verification) = it.verification.as_ref().filter(|verification| !verification.passed) {
        let counts = &verification.read;
        let all = [
            ("lost", verification.lost),
            ("duplicated", counts.duplicated),
            ("reordered", counts.reordered),
            ("corrupt", counts.corrupt),
            ("offsets missing", counts.offset_gaps),
            ("offsets repeated", counts.offset_repeats),
            ("offsets out of range", counts.out_of_range),
            ("offsets acknowledged wrongly", verification.wrong_offsets),
        ];
        let found: Vec<String> = all
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        failed.push(format!("verification: {}", found.join(", ")));
    }
    if it.counts.failed > 0 {
        failed.push(format!("{} records could not be delivered", it.counts.failed));
    }
    if it.undrained > 0 {
        failed.push(format!("{} partitions were not read to their end", it.undrained));
    }
    if !failed.is_empty() {
        return (RunVerdict::Failed, failed);
    }
    if lag.p99_ns > options.lag_max_ns {
        let reason = format!(
            "the generator fell behind its plan by {:.3} ms at the 99th percentile (limit {:.3} ms)",
            lag.p99_ns as f64 / 1e6,
            options.lag_max_ns as f64 / 1e6
        );
        return (RunVerdict::Invalid, vec![reason]);
    }
    (RunVerdict::Ok, Vec::new())
}
