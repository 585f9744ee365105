//! What a run does, as checked values. Made from the command line, or directly by tests.

use std::path::PathBuf;
use std::sync::Arc;

use super::args::{AcksArg, Args, ArrivalsArg, CodecArg};
use super::arrivals::Arrivals;
use super::payload::IDENTITY_BYTES;
use super::trace::Trace;
use crate::record::{BATCH_OVERHEAD, Codec};

pub const SECOND_NS: u64 = 1_000_000_000;
/// Kafka's limit on the length of a topic's name.
const TOPIC_NAME_BYTES_MAX: usize = 249;
/// What one record costs in a batch beside its key and value, at most.
const RECORD_OVERHEAD_MAX: u64 = 21;

#[derive(Clone, Debug)]
pub struct Options {
    pub bootstrap: Vec<String>,
    pub topic: TopicOptions,
    pub producers: u32,
    pub consumers: u32,
    pub connections: u32,
    pub threads: u32,
    pub pin: Vec<usize>,
    pub record_bytes: usize,
    pub keys: Keys,
    pub pace: Pace,
    pub batch_bytes: usize,
    pub linger_ns: u64,
    pub request_bytes_max: usize,
    pub in_flight_max: usize,
    pub buffer_bytes: usize,
    pub acks: Acks,
    pub codec: Codec,
    pub idempotent: bool,
    pub delivery_timeout_ns: u64,
    pub retry_backoff_ns: u64,
    pub transactions: Option<TransactionOptions>,
    pub fetch: FetchOptions,
    pub verify: bool,
    pub warmup_ns: u64,
    pub length: Length,
    pub drain_timeout_ns: u64,
    pub lag_max_ns: u64,
    pub tick_ns: u64,
    pub spin_ns: u64,
    pub seed: Option<u64>,
    pub broker_pid: Option<u32>,
    /// Remember every acknowledgement for [`super::audit`]; costs memory by the batch.
    pub keep_ledger: bool,
    pub outputs: Outputs,
}

#[derive(Clone, Debug)]
pub struct TopicOptions {
    /// `None`: made for the run.
    pub name: Option<String>,
    pub partitions: i32,
    pub replication_factor: i16,
    pub configs: Vec<(String, String)>,
    pub keep: bool,
}

/// What `--transactional` asks for.
#[derive(Clone, Debug)]
pub struct TransactionOptions {
    pub records: u32,
    /// `None`: all.
    pub partitions: Option<u32>,
    /// Between the beginnings of a producer's transactions.
    pub interval_ns: Option<u64>,
    pub aborts_percent: u32,
    pub timeout_ms: i32,
}

#[derive(Clone, Debug)]
pub struct FetchOptions {
    pub wait_ms: i32,
    pub bytes_min: i32,
    pub bytes_max: i32,
    pub partition_bytes_max: i32,
}

#[derive(Clone, Debug, Default)]
pub struct Outputs {
    pub json: Option<PathBuf>,
    pub html: Option<PathBuf>,
    pub hdr: Option<PathBuf>,
    pub csv: Option<PathBuf>,
    pub quiet: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Pace {
    /// Open loop.
    Open(Arrivals),
    /// Closed by the requests in flight.
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    DurationNs(u64),
    /// Measured records over all producers.
    Records(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// A batch goes to the next partition.
    None,
    Random,
    Count(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    None,
    Leader,
    All,
}

impl Acks {
    pub fn code(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Acks::None => "0",
            Acks::Leader => "1",
            Acks::All => "all",
        }
    }
}

impl Keys {
    pub fn name(self) -> String {
        match self {
            Keys::None => "none".into(),
            Keys::Random => "random".into(),
            Keys::Count(count) => count.to_string(),
        }
    }
}

impl Options {
    pub fn from_args(args: &Args) -> Result<Options, String> {
        let record_bytes = args.record_size as usize;
        let mut options = Options {
            bootstrap: args.bootstrap.split(',').map(|address| address.trim().to_owned()).collect(),
            topic: TopicOptions {
                name: args.topic.clone(),
                partitions: i32::try_from(args.partitions).map_err(|_| "too many partitions")?,
                replication_factor: args.replication_factor,
                configs: args.create_config.iter().map(|pair| key_value(pair)).collect::<Result<_, _>>()?,
                keep: args.keep,
            },
            producers: args.producers,
            consumers: args.consumers,
            connections: args.connections.unwrap_or(args.producers.max(1)),
            threads: args.threads,
            pin: args.pin.clone().unwrap_or_default(),
            record_bytes,
            keys: parse_keys(&args.keys)?,
            pace: pace(args)?,
            batch_bytes: args.batch_bytes as usize,
            linger_ns: args.linger,
            request_bytes_max: args.max_request_bytes as usize,
            in_flight_max: args.max_in_flight as usize,
            buffer_bytes: args.buffer_bytes as usize,
            acks: args.acks.into(),
            codec: args.compression.into(),
            idempotent: args.idempotent,
            transactions: transactions(args),
            delivery_timeout_ns: args.delivery_timeout,
            retry_backoff_ns: args.retry_backoff,
            fetch: FetchOptions {
                wait_ms: i32::try_from(args.fetch_max_wait / 1_000_000).unwrap_or(i32::MAX),
                bytes_min: i32::try_from(args.fetch_min_bytes).unwrap_or(i32::MAX),
                bytes_max: i32::try_from(args.fetch_max_bytes).unwrap_or(i32::MAX),
                partition_bytes_max: i32::try_from(args.fetch_partition_bytes).unwrap_or(i32::MAX),
            },
            verify: !args.no_verify,
            warmup_ns: args.warmup,
            length: length(args)?,
            drain_timeout_ns: args.drain_timeout,
            lag_max_ns: args.max_lag,
            tick_ns: args.tick,
            spin_ns: args.spin,
            seed: args.seed,
            broker_pid: args.broker_pid,
            keep_ledger: false,
            outputs: Outputs {
                json: args.json.clone(),
                html: args.html.clone(),
                hdr: args.hdr.clone(),
                csv: args.csv.clone(),
                quiet: args.quiet,
            },
        };
        if let (Pace::Open(Arrivals::Trace { trace, speed }), None, None) =
            (&options.pace, args.duration, args.records)
        {
            let whole = (trace.length_ns() / speed) as u64;
            let rest = whole.checked_sub(args.warmup).filter(|ns| *ns > 0);
            options.length = Length::DurationNs(rest.ok_or("--warmup is longer than the trace")?);
        }
        options.check()?;
        Ok(options)
    }

    /// Key bytes of a record.
    pub fn key_bytes(&self) -> Option<usize> {
        (self.keys != Keys::None).then_some(8)
    }

    /// Whether the run is over at a time, or at a number of records.
    pub fn duration_ns(&self) -> Option<u64> {
        match self.length {
            Length::DurationNs(ns) => Some(ns),
            Length::Records(_) => None,
        }
    }

    fn check(&self) -> Result<(), String> {
        let within = |what: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(format!("{what} is {value}, and has to be from {min} to {max}"))
            }
        };
        within("--record-size", self.record_bytes as u64, IDENTITY_BYTES as u64, 100 << 20)?;
        within("--producers", u64::from(self.producers), 0, 1 << 16)?;
        within("--consumers", u64::from(self.consumers), 0, 1 << 16)?;
        within("--connections", u64::from(self.connections), 1, 1 << 16)?;
        within("--threads", u64::from(self.threads), 1, 1024)?;
        within("--partitions", self.topic.partitions as u64, 1, 100_000)?;
        within("--max-in-flight", self.in_flight_max as u64, 1, 10_000)?;
        let smallest = self.record_bytes as u64 + 8 + RECORD_OVERHEAD_MAX + BATCH_OVERHEAD as u64;
        within("--batch-bytes", self.batch_bytes as u64, 1, 1 << 30)?;
        within("--max-request-bytes", self.request_bytes_max as u64, 1, 1 << 30)?;
        within("--buffer-bytes", self.buffer_bytes as u64, smallest.max(self.batch_bytes as u64), 1 << 40)?;
        if self.producers == 0 && self.consumers == 0 {
            return Err("neither producers nor consumers".into());
        }
        if self.producers == 0 && self.topic.name.is_none() {
            return Err("without producers, --topic has to name what is read".into());
        }
        if let Some(transactions) = &self.transactions {
            within("--transaction-records", u64::from(transactions.records), 1, 65_535)?;
            within("--transaction-partitions", u64::from(transactions.partitions.unwrap_or(1)), 1, 100_000)?;
            within("--transaction-aborts", u64::from(transactions.aborts_percent), 0, 100)?;
            within("--commit-interval", transactions.interval_ns.unwrap_or(1), 1, 1 << 50)?;
            within("--transaction-timeout", transactions.timeout_ms as u64, 1, i32::MAX as u64)?;
            // A thread each.
            within("--producers", u64::from(self.producers), 1, 1024)?;
            if self.acks != Acks::All {
                return Err("--transactional needs --acks all".into());
            }
        }
        // With acks=1 as well, which Kafka's own client refuses: the broker's promise is the same.
        if self.idempotent && (self.acks == Acks::None || self.in_flight_max > 5) {
            return Err("--idempotent needs --acks 1 or all, and at most 5 requests in flight".into());
        }
        if self.topic.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX) {
            return Err(format!("a topic's name has 1 to {TOPIC_NAME_BYTES_MAX} characters"));
        }
        Ok(())
    }
}

impl From<AcksArg> for Acks {
    fn from(acks: AcksArg) -> Acks {
        match acks {
            AcksArg::None => Acks::None,
            AcksArg::Leader => Acks::Leader,
            AcksArg::All => Acks::All,
        }
    }
}

impl From<CodecArg> for Codec {
    fn from(codec: CodecArg) -> Codec {
        match codec {
            CodecArg::None => Codec::None,
            CodecArg::Gzip => Codec::Gzip,
            CodecArg::Snappy => Codec::Snappy,
            CodecArg::Lz4 => Codec::Lz4,
            CodecArg::Zstd => Codec::Zstd,
        }
    }
}

fn pace(args: &Args) -> Result<Pace, String> {
    if let Some(path) = &args.trace {
        if !(args.trace_speed > 0.0 && args.trace_speed <= 1e6) {
            return Err("--trace-speed is above 0 and at most 1e6".into());
        }
        let trace = Arc::new(Trace::read(path)?);
        return Ok(Pace::Open(Arrivals::Trace { trace, speed: args.trace_speed }));
    }
    // A search and a curve set the rate themselves.
    let sets_rate = !args.search.is_empty() || args.curve.is_some();
    let rate = match args.rate {
        Some(rate) => rate.records_per_second(args.record_size),
        None if sets_rate => 1.0,
        None if args.arrivals == ArrivalsArg::Constant => return Ok(Pace::Max),
        None => return Err("--arrivals needs --rate, --search or --curve".into()),
    };
    Ok(Pace::Open(match args.arrivals {
        ArrivalsArg::Constant => Arrivals::Constant { rate },
        ArrivalsArg::Poisson => Arrivals::Poisson { rate },
        ArrivalsArg::Burst => {
            let (every_ns, within_ns) = (args.burst_every, args.burst_within);
            if every_ns == 0 || within_ns > every_ns {
                return Err("--burst-every is above 0, and --burst-within at most as long".into());
            }
            Arrivals::Burst { rate, every_ns, within_ns }
        }
    }))
}

fn length(args: &Args) -> Result<Length, String> {
    match (args.duration, args.records) {
        (Some(_), Some(_)) => Err("give --duration or --records, not both".into()),
        (Some(0), None) => Err("--duration is above 0".into()),
        (None, Some(records)) => Ok(Length::Records(records)),
        (duration, None) => Ok(Length::DurationNs(duration.unwrap_or(10 * SECOND_NS))),
    }
}

fn transactions(args: &Args) -> Option<TransactionOptions> {
    args.transactional.then(|| TransactionOptions {
        records: args.transaction_records,
        partitions: args.transaction_partitions,
        interval_ns: args.commit_interval,
        aborts_percent: args.transaction_aborts,
        timeout_ms: i32::try_from(args.transaction_timeout / 1_000_000).unwrap_or(i32::MAX),
    })
}

fn key_value(pair: &str) -> Result<(String, String), String> {
    let (key, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is not KEY=VALUE"))?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

fn parse_keys(text: &str) -> Result<Keys, String> {
    match text {
        "none" => Ok(Keys::None),
        "random" => Ok(Keys::Random),
        number => match number.parse() {
            Ok(count) if count > 0 => Ok(Keys::Count(count)),
            _ => Err(format!("--keys is none, random or a number, not `{number}`")),
        },
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    pub fn options(line: &str) -> Result<Options, String> {
        let words = ["load", "--bootstrap", "127.0.0.1:9092"].into_iter().chain(line.split_whitespace());
        let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        Options::from_args(&command.args)
    }

    #[test]
    fn a_line_becomes_values() {
        let it = options("--rate 100MB/s --record-size 1000 --keys 50 --acks 1 --compression lz4").unwrap();
        assert_eq!(it.pace, Pace::Open(Arrivals::Constant { rate: 100_000.0 }));
        assert_eq!((it.keys, it.acks, it.codec), (Keys::Count(50), Acks::Leader, Codec::Lz4));
        assert_eq!(it.length, Length::DurationNs(10 * SECOND_NS));
        assert_eq!(options("--producers 3").unwrap().connections, 3);
        assert_eq!(options("").unwrap().pace, Pace::Max);
        assert_eq!(
            options("--rate 5k --arrivals burst --burst-every 100ms --burst-within 10ms").unwrap().pace,
            Pace::Open(Arrivals::Burst { rate: 5000.0, every_ns: 100_000_000, within_ns: 10_000_000 })
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in [
            "--record-size 10",
            "--rate 5 --max",
            "--producers 0 --consumers 0",
            "--producers 0",
            "--idempotent --acks 0",
            "--idempotent --max-in-flight 6",
            "--duration 1s --records 5",
            "--keys 0",
            "--create-config novalue",
            "--max-in-flight 0",
            "--arrivals poisson",
            "--rate 5 --arrivals burst --burst-every 1s --burst-within 2s",
            "--rate 5 --trace somewhere",
            "--trace /does/not/exist",
            "--search p99<5ms --rate 5",
            "--search p99<5ms --curve 5",
            "--duration 0",
        ] {
            assert!(options(wrong).is_err(), "{wrong}");
        }
    }
}
