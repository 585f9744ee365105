//! `ringlog load --transactional`: transactions as fast as they go or at a fixed interval, and what became of each.
//!
//! Every producer is a thread with a transactional id of its own and one transaction at a time, as a client's producer is: it
//! writes its records, and commits or aborts. When all have ended, a reader of committed data goes through the topic:
//! each committed transaction has to be there whole, each record once and in order; nothing of an aborted one may be; one whose end was
//! never heard of is there whole or not at all. Called by [`super::run`].

mod check; // what a reader of committed data finds
mod producer; // one producer's life
mod report; // what a run says of itself
mod requests; // what it asks

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use hdrhistogram::Histogram;

use super::admin::{Admin, End};
use super::cluster::ClusterMap;
use super::machine::ProcessUsage;
use super::options::{Length, Options, Pace, SECOND_NS, TransactionOptions};
use super::payload::mix;
use super::recorder::new_histogram;
use super::report::RunVerdict;
use crate::io::Io;
use crate::io::driver::{Driver, DriverKind, DriverOptions};
use crate::io::preflight;
use producer::{Producer, Task};
use report::{Gathered, Report};

/// Between the last producer's first answer and the first transaction.
const START_DELAY_NS: u64 = 30_000_000;

/// What a transaction has of one partition: its producer's records from the first sequence on, up to the second.
pub(super) type Piece = (u32, u64, u64);

/// How a transaction ended, as far as its producer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Committed,
    Aborted,
    /// The broker was asked to commit, and its answer never came.
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) struct Done {
    pub producer: u16,
    pub ended: Ended,
    pub pieces: Vec<Piece>,
}

/// What one producer brings back.
pub(super) struct Outcome {
    pub done: Vec<Done>,
    /// From the planned beginning to the answer of the end.
    pub whole: Histogram<u64>,
    /// The same from the real beginning.
    pub uncorrected: Histogram<u64>,
    /// Of the end alone.
    pub end: Histogram<u64>,
    pub committed_measured: u64,
    pub records_measured: u64,
    pub errors: BTreeMap<String, u64>,
    /// It gave up before its time.
    pub gave_up: Option<String>,
}

/// When the run begins, when it is measured, when no transaction begins any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub start_ns: u64,
    pub measure_ns: u64,
    pub stop_ns: u64,
}

/// Runs; `Err`: it did not come about.
pub fn run(options: &Options, transactions: &TransactionOptions) -> Result<RunVerdict, String> {
    let kind = preflight::best_driver();
    let mut admin = connect(kind, options)?;
    let seed = options.seed.unwrap_or_else(|| admin.random());
    // Two runs of one seed have to differ, or one would take the other's records for its own.
    let run = (mix(seed ^ admin.random()) as u32).max(1);
    let topic = options.topic.name.clone().unwrap_or_else(|| format!("ringlog-load-{run:08x}"));
    let created = admin.create_topic(&topic, &options.topic)?;
    let outcome = execute(&mut admin, kind, options, transactions, (run, seed, &topic));
    if created
        && !options.topic.keep
        && let Err(error) = admin.delete_topic(&topic)
    {
        tracing::warn!(topic, error, "the topic was not deleted");
    }
    let report = outcome?;
    report.show(&options.outputs)?;
    Ok(report.verdict)
}

fn connect(kind: DriverKind, options: &Options) -> Result<Admin<Driver>, String> {
    let io = Driver::new(kind, DriverOptions::default()).map_err(|error| format!("{kind}: {error}"))?;
    Admin::connect(io, &options.bootstrap)
}

fn execute(
    admin: &mut Admin<Driver>,
    kind: DriverKind,
    options: &Options,
    transactions: &TransactionOptions,
    (run, seed, topic): (u32, u64, &str),
) -> Result<Report, String> {
    let map = Arc::new(admin.whole_cluster(topic)?);
    let first_offsets = admin.ready_offsets(&map, End::Latest)?;
    let version = admin.transaction_version()?;
    let (ready_in, ready) = channel();
    let (mut starts, mut threads) = (Vec::new(), Vec::new());
    for number in 0..options.producers {
        let task = Task::new(number as u16, run, seed, version, options, transactions, map.clone());
        let (start_in, start) = channel();
        let (options, ready_in) = (options.clone(), ready_in.clone());
        starts.push(start_in);
        threads.push(std::thread::spawn(move || live(kind, &options, task, &ready_in, &start)));
    }
    for _ in 0..threads.len() {
        ready.recv().unwrap_or_else(|_| Err("a thread ended early".into()))?;
    }
    let times = times(admin, options);
    let started_ms = admin.wall_ms();
    for start in starts {
        // One that is gone is found out when it is joined.
        let _ = start.send(times);
    }
    let mut broker_before = None;
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        admin.pause();
        if broker_before.is_none() && admin.now_ns() >= times.measure_ns {
            broker_before = options.broker_pid.and_then(ProcessUsage::read);
        }
    }
    let broker_after = options.broker_pid.and_then(ProcessUsage::read);
    let ended_ns = admin.now_ns().min(times.stop_ns);
    let mut sum = Outcome::new();
    for thread in threads {
        sum.add(thread.join().map_err(|_| "a thread of the generator panicked")?);
    }
    let verification = match options.verify && options.consumers > 0 {
        true => Some(check::check(admin, &map, run, &first_offsets, &sum.done, options)?),
        false => None,
    };
    Ok(Report::new(
        options,
        transactions,
        Gathered {
            started_ms,
            seconds: ended_ns.saturating_sub(times.measure_ns) as f64 / SECOND_NS as f64,
            topic: topic.to_owned(),
            partitions: map.leaders.len(),
            version,
            run,
            seed,
            sum,
            broker: broker_before.zip(broker_after),
            verification,
        },
    ))
}

/// A thread: its producer is made, and begins when all are.
fn live(
    kind: DriverKind,
    options: &Options,
    task: Task,
    ready: &Sender<Result<(), String>>,
    start: &Receiver<Times>,
) -> Outcome {
    let made = connect(kind, options).map(|admin| Producer::new(admin, task));
    let made = made.and_then(|mut producer| producer.init().map(|()| producer));
    let _ = ready.send(made.as_ref().map(|_| ()).map_err(Clone::clone));
    match (made, start.recv()) {
        (Ok(producer), Ok(times)) => producer.run(times),
        _ => Outcome::new(),
    }
}

fn times<I: Io>(admin: &Admin<I>, options: &Options) -> Times {
    let start_ns = admin.now_ns() + START_DELAY_NS;
    let measure_ns = start_ns + options.warmup_ns;
    let stop_ns = match options.length {
        Length::DurationNs(ns) => measure_ns.saturating_add(ns),
        Length::Records(_) => u64::MAX,
    };
    Times { start_ns, measure_ns, stop_ns }
}

impl Outcome {
    pub fn new() -> Outcome {
        Outcome {
            done: Vec::new(),
            whole: new_histogram(),
            uncorrected: new_histogram(),
            end: new_histogram(),
            committed_measured: 0,
            records_measured: 0,
            errors: BTreeMap::new(),
            gave_up: None,
        }
    }

    fn add(&mut self, other: Outcome) {
        self.done.extend(other.done);
        for (into, from) in [
            (&mut self.whole, &other.whole),
            (&mut self.uncorrected, &other.uncorrected),
            (&mut self.end, &other.end),
        ] {
            // Both are made alike, so that one always fits the other.
            let _ = into.add(from);
        }
        self.committed_measured += other.committed_measured;
        self.records_measured += other.records_measured;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.gave_up = self.gave_up.take().or(other.gave_up);
    }
}

/// The time between the beginnings of a producer's transactions; `None`: one begins when the one before has ended.
fn interval_ns(options: &Options, transactions: &TransactionOptions) -> Option<u64> {
    let by_rate = match &options.pace {
        // However records would arrive: transactions begin at a steady pace.
        Pace::Open(arrivals) => {
            let rate = arrivals.rate();
            let a_second = rate / f64::from(transactions.records) / f64::from(options.producers.max(1));
            Some((SECOND_NS as f64 / a_second.max(1e-9)) as u64)
        }
        Pace::Max => None,
    };
    transactions.interval_ns.or(by_rate)
}

/// Where the leader of a partition is.
pub(super) fn leader(map: &ClusterMap, partition: u32) -> Result<std::net::SocketAddr, String> {
    let node = map.leaders.get(partition as usize).copied().flatten();
    node.and_then(|node| map.brokers.get(&node)).copied().ok_or_else(|| "no leader".to_owned())
}
