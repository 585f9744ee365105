//! The command line of `ringlog load`. Checked and turned into values by [`super::options`].

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::curve::Points;
use super::objective::Objective;
use super::units::{Rate, parse_bytes, parse_cores, parse_duration_ns};

/// Load any Kafka broker, measure latency against the plan, and check every record.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "\
Units: rates are records a second (50000, 50k, 1.5M) or bytes a second (100MB/s, 64MiB/s); sizes are bytes (16KiB, 1MB); times \
carry their unit (200us, 5ms, 10s, 2m, 1h).

Exit codes: 0 measured, and every check passed; 1 records were lost, repeated, reordered, corrupt or not delivered, or a search \
found no rate that holds; 2 invalid: the generator fell behind its own plan (or wrong usage); 3 the run did not come about.

Examples:
  ringlog load --rate 50k --arrivals poisson --duration 60s --warmup 10s --html report.html
  ringlog load --search 'p99.9<5ms' --duration 30s --warmup 5s
  ringlog load --curve 10%,25%,50%,75%,90% --repeat 3 --json curve.json")]
pub struct Args {
    /// Brokers to ask for the others, comma-separated
    #[arg(long, value_name = "HOST:PORT", env = "RINGLOG_BOOTSTRAP")]
    pub bootstrap: String,

    /// The topic; without it one is made for the run and deleted at its end
    #[arg(long)]
    pub topic: Option<String>,
    /// Partitions of a topic that is made
    #[arg(long, default_value_t = 6)]
    pub partitions: u32,
    /// Replicas of a topic that is made (-1: the broker's default)
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub replication_factor: i16,
    /// A setting of a topic that is made; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub create_config: Vec<String>,
    /// Keep a topic that was made for the run
    #[arg(long)]
    pub keep: bool,

    /// Producers, each with its own sequence of records
    #[arg(long, default_value_t = 1)]
    pub producers: u32,
    /// Consumers, which share the partitions; 0 measures and checks no reading
    #[arg(long, default_value_t = 1)]
    pub consumers: u32,
    /// Connections of the producers to each broker; one a producer by default
    #[arg(long)]
    pub connections: Option<u32>,
    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    pub threads: u32,
    /// Cores to pin the threads to, in turn
    #[arg(long, value_name = "CORES", value_parser = parse_cores)]
    pub pin: Option<Vec<usize>>,

    /// Bytes of a record's value
    #[arg(long, default_value = "1024", value_parser = parse_bytes, value_name = "BYTES")]
    pub record_size: u64,
    /// Keys: none (batch by batch over the partitions), random, or the number of different ones
    #[arg(long, default_value = "none", value_name = "none|random|N")]
    pub keys: String,
    /// Records arrive at this rate, whatever the broker does: records a second, or bytes (100MB/s)
    #[arg(long, conflicts_with_all = ["max", "trace"])]
    pub rate: Option<Rate>,
    /// As many as the requests in flight allow (the default)
    #[arg(long, conflicts_with = "trace")]
    pub max: bool,
    /// How records arrive at --rate: evenly, independently of each other, or in bursts
    #[arg(long, default_value = "constant", value_name = "PROCESS")]
    pub arrivals: ArrivalsArg,
    /// With --arrivals burst: a burst so often
    #[arg(long, default_value = "1s", value_parser = parse_duration_ns, value_name = "TIME")]
    pub burst_every: u64,
    /// With --arrivals burst: a burst's records come evenly within this time; 0: at once
    #[arg(long, default_value = "0", value_parser = parse_duration_ns, value_name = "TIME")]
    pub burst_within: u64,
    /// Records arrive as in this file: lines SECONDS,RECORDS, that many from this time to the next line's (0 records ends it).
    /// Played once, warm-up included; with a longer --duration over and over
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Play the trace this many times as fast
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub trace_speed: f64,

    /// Search the highest rate that holds this latency: p99.9<5ms, e2e:p99<10ms, max<1s; may be repeated, all have to hold.
    /// Each trial lasts --duration behind --warmup; the closed loop's rate is the first guess
    #[arg(long, value_name = "OBJECTIVE", conflicts_with_all = ["rate", "max", "records", "curve"])]
    pub search: Vec<Objective>,
    /// How close the search comes: the rate that fails is at most this much above the one that holds, in percent (0.5 to 50)
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    pub search_precision: f64,
    /// Runs in which the rate that was found has to hold (1 to 100)
    #[arg(long, default_value_t = 5, value_name = "RUNS")]
    pub search_confirm: u32,
    /// Latency at these offered rates: 10k,20k,50MB/s; 25%,50%,90% of what the closed loop reaches; or a number of points
    /// up to it
    #[arg(long, value_name = "RATES", conflicts_with_all = ["rate", "max", "records"])]
    pub curve: Option<Points>,
    /// Runs of the same settings (of each point of a curve), one after the other (1 to 1000)
    #[arg(long, default_value_t = 1, value_name = "RUNS", conflicts_with = "search")]
    pub repeat: u32,

    /// The largest batch
    #[arg(long, default_value = "16KiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub batch_bytes: u64,
    /// How long a batch waits to be filled
    #[arg(long, default_value = "0", value_parser = parse_duration_ns, value_name = "TIME")]
    pub linger: u64,
    /// The largest request, of several batches
    #[arg(long, default_value = "1MiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub max_request_bytes: u64,
    /// Produce requests in flight on a connection
    #[arg(long, default_value_t = 5)]
    pub max_in_flight: u32,
    /// Memory for records that wait, over all producers
    #[arg(long, default_value = "256MiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub buffer_bytes: u64,
    /// Which acknowledgement to ask for
    #[arg(long, default_value = "all")]
    pub acks: AcksArg,
    /// Codec of the batches
    #[arg(long, default_value = "none")]
    pub compression: CodecArg,
    /// Idempotent producers: no duplicates, no reordering, whatever happens
    #[arg(long)]
    pub idempotent: bool,
    /// How long a record may take, retries and all
    #[arg(long, default_value = "120s", value_parser = parse_duration_ns, value_name = "TIME")]
    pub delivery_timeout: u64,
    /// The pause before a retry
    #[arg(long, default_value = "100ms", value_parser = parse_duration_ns, value_name = "TIME")]
    pub retry_backoff: u64,

    /// Transactions: each producer writes one after the other and ends it; read back as committed data
    #[arg(long, conflicts_with_all = ["idempotent", "hdr", "csv", "html", "search", "curve", "repeat", "trace"])]
    pub transactional: bool,
    /// Records of a transaction
    #[arg(long, default_value_t = 100, requires = "transactional")]
    pub transaction_records: u32,
    /// Partitions that a transaction writes to; all by default
    #[arg(long, requires = "transactional")]
    pub transaction_partitions: Option<u32>,
    /// A producer begins a transaction this often, late or not; by default when the one before has ended, or as --rate has it
    #[arg(long, value_parser = parse_duration_ns, value_name = "TIME", requires = "transactional", conflicts_with = "rate")]
    pub commit_interval: Option<u64>,
    /// How many of a hundred transactions are aborted
    #[arg(long, default_value_t = 0, requires = "transactional", value_name = "PERCENT")]
    pub transaction_aborts: u32,
    /// The broker aborts a transaction that takes longer
    #[arg(long, default_value = "60s", value_parser = parse_duration_ns, requires = "transactional", value_name = "TIME")]
    pub transaction_timeout: u64,

    /// How long a fetch may wait for data
    #[arg(long, default_value = "500ms", value_parser = parse_duration_ns, value_name = "TIME")]
    pub fetch_max_wait: u64,
    /// Data a fetch waits for
    #[arg(long, default_value = "1", value_parser = parse_bytes, value_name = "BYTES")]
    pub fetch_min_bytes: u64,
    /// The most a fetch brings
    #[arg(long, default_value = "50MiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub fetch_max_bytes: u64,
    /// The most a fetch brings of one partition
    #[arg(long, default_value = "1MiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub fetch_partition_bytes: u64,
    /// Do not check what the consumers read
    #[arg(long)]
    pub no_verify: bool,

    /// Time before measuring begins
    #[arg(long, default_value = "0", value_parser = parse_duration_ns, value_name = "TIME")]
    pub warmup: u64,
    /// Time of measuring; 10 s when neither this nor --records is given
    #[arg(long, value_parser = parse_duration_ns, value_name = "TIME")]
    pub duration: Option<u64>,
    /// Records to measure, over all producers
    #[arg(long)]
    pub records: Option<u64>,
    /// How long the end may take without progress: last acknowledgements, last records read
    #[arg(long, default_value = "30s", value_parser = parse_duration_ns, value_name = "TIME")]
    pub drain_timeout: u64,
    /// The run is invalid when the generator's own lag behind its plan is above this at the 99th percentile
    #[arg(long, default_value = "10ms", value_parser = parse_duration_ns, value_name = "TIME")]
    pub max_lag: u64,
    /// The finest step in which arrivals are looked at
    #[arg(long, default_value = "20us", value_parser = parse_duration_ns, value_name = "TIME")]
    pub tick: u64,
    /// Look for work this long before sleeping; for cores the generator has to itself
    #[arg(long, default_value = "0", value_parser = parse_duration_ns, value_name = "TIME")]
    pub spin: u64,
    /// Seed of the run's id, payload and keys; random by default
    #[arg(long)]
    pub seed: Option<u64>,

    /// The broker's process on this machine: its CPU time and memory are reported too. Found by itself where the broker listens
    /// on a loopback address and the process may be looked at
    #[arg(long)]
    pub broker_pid: Option<u32>,
    /// Write the report as JSON (- for standard output)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page with plots, which loads nothing from anywhere
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the latencies, second by second, as a HdrHistogram log
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Write a line a second: throughput and latency over time; of a search, a curve or repeated runs, a line a run
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// No table
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AcksArg {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    #[value(name = "all", alias = "-1")]
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArrivalsArg {
    Constant,
    Poisson,
    Burst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CodecArg {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}
