//! The simulation: the broker's parts on virtual time, a simulated disk and a simulated network, from one seed.
//!
//! `cargo test` runs a few seeds of each part and the seeds that once failed, one of them twice to compare the traces.
//! `cargo test --release --test simulation -- --seed 7` repeats one; `--seeds 10000 --start 5` runs many, `--minutes 10`
//! goes on for that long, `--only storage` keeps to one part, `--jobs 2` uses two threads. A run of many ends with the
//! first failure unless it is told to `--go-on`. Before anything else the checker shows that it finds each fault it knows.

#[path = "simulation/sim_io.rs"]
mod sim_io;

#[path = "simulation/checker.rs"]
mod checker;
#[path = "simulation/clients.rs"]
mod clients;
#[path = "simulation/consumer.rs"]
mod consumer;
#[path = "simulation/forgetting.rs"]
mod forgetting;
#[path = "simulation/history.rs"]
mod history;
#[path = "simulation/lane.rs"]
mod lane;
#[path = "simulation/log_model.rs"]
mod log_model;
#[path = "simulation/others.rs"]
mod others;
#[path = "simulation/ownership.rs"]
mod ownership;
#[path = "simulation/processor.rs"]
mod processor;
#[path = "simulation/producer.rs"]
mod producer;
#[path = "simulation/shard_sim.rs"]
mod shard_sim;
#[path = "simulation/storage_sim.rs"]
mod storage_sim;
#[path = "simulation/subscriber.rs"]
mod subscriber;
#[path = "simulation/transactor.rs"]
mod transactor;
#[path = "simulation/wire.rs"]
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shard_sim::Workload;

/// A part of the broker that runs under simulation.
struct Part {
    name: &'static str,
    run: fn(u64) -> Result<Outcome, String>,
    /// Seeds of a plain `cargo test`, from 0 on; the first runs twice.
    seeds: u64,
    /// Seeds that once failed.
    regressions: &'static [u64],
}

struct Outcome {
    hash: u64,
    summary: String,
}

const PARTS: &[Part] = &[
    Part { name: "storage", run: storage, seeds: 6, regressions: &[297, 810, 270, 948141] },
    Part { name: "broker", run: broker, seeds: 3, regressions: &[] },
    Part { name: "transactions", run: transactions, seeds: 3, regressions: &[880, 1043, 1659] },
    Part { name: "compaction", run: compaction, seeds: 2, regressions: &[] },
    Part { name: "members", run: members, seeds: 1, regressions: &[9, 18, 300017] },
];

fn storage(seed: u64) -> Result<Outcome, String> {
    storage_sim::run(seed).map(|(hash, counts)| Outcome { hash, summary: format!("{counts:?}") })
}

fn broker(seed: u64) -> Result<Outcome, String> {
    shard_sim::run(Workload::Mixed, seed).map(|(hash, counts)| Outcome { hash, summary: counts.summary() })
}

fn transactions(seed: u64) -> Result<Outcome, String> {
    let run = shard_sim::run(Workload::Transactions, seed);
    run.map(|(hash, counts)| Outcome { hash, summary: counts.summary() })
}

fn compaction(seed: u64) -> Result<Outcome, String> {
    let run = shard_sim::run(Workload::Compaction, seed);
    run.map(|(hash, counts)| Outcome { hash, summary: counts.summary() })
}

fn members(seed: u64) -> Result<Outcome, String> {
    let run = shard_sim::run(Workload::Members, seed);
    run.map(|(hash, counts)| Outcome { hash, summary: counts.summary() })
}

#[derive(Debug)]
struct Arguments {
    seed: Option<u64>,
    seeds: Option<u64>,
    start: u64,
    minutes: Option<u64>,
    jobs: u64,
    only: Option<String>,
    go_on: bool,
}

/// What is not understood is left to the other test binaries, which `cargo test` gives the same arguments.
fn arguments() -> Arguments {
    let mut parsed =
        Arguments { seed: None, seeds: None, start: 0, minutes: None, jobs: 1, only: None, go_on: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|text| text.parse::<u64>().ok());
        match word.as_str() {
            "--seed" => parsed.seed = number(),
            "--seeds" => parsed.seeds = number(),
            "--start" => parsed.start = number().unwrap_or(0),
            "--minutes" => parsed.minutes = number(),
            "--jobs" => parsed.jobs = number().unwrap_or(1).max(1),
            "--only" => parsed.only = words.next(),
            "--go-on" => parsed.go_on = true,
            _ => {}
        }
    }
    parsed
}

fn main() -> ExitCode {
    let arguments = arguments();
    let chosen = |part: &&Part| arguments.only.as_deref().is_none_or(|only| only == part.name);
    let parts: Vec<&Part> = PARTS.iter().filter(chosen).collect();
    if std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let mut failed = match checker::check() {
        Ok(faults) => {
            println!("checker: finds each of {faults} faults");
            false
        }
        Err(error) => {
            println!("checker: {error}");
            true
        }
    };
    for part in parts {
        failed |= match (arguments.seed, arguments.seeds.is_some() || arguments.minutes.is_some()) {
            (Some(seed), _) => !twice(part, seed, true),
            (None, true) => !many(part, &arguments),
            (None, false) => !few(part),
        };
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The run of a plain `cargo test`.
fn few(part: &Part) -> bool {
    let known = part.regressions.iter().copied();
    let fine = known.chain(1..part.seeds).all(|seed| once(part, seed).is_some());
    fine && twice(part, 0, true)
}

/// One seed two times: the same seed must do the same.
fn twice(part: &Part, seed: u64, tell: bool) -> bool {
    let (Some(first), Some(second)) = (once(part, seed), once(part, seed)) else { return false };
    if first.hash != second.hash {
        println!("{} seed {seed}: two runs differ, {:016x} and {:016x}", part.name, first.hash, second.hash);
        return false;
    }
    if tell {
        println!("{} seed {seed}: trace {:016x} {}", part.name, first.hash, first.summary);
    }
    true
}

fn many(part: &Part, arguments: &Arguments) -> bool {
    let begun = Instant::now();
    let limit = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let end = arguments.seeds.map_or(u64::MAX, |seeds| arguments.start + seeds);
    let next = AtomicU64::new(arguments.start);
    let failures = AtomicU64::new(0);
    let hashes = AtomicU64::new(0);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let late = limit.is_some_and(|limit| begun.elapsed() >= limit);
            let failed = failures.load(Ordering::Relaxed) > 0 && !arguments.go_on;
            if seed >= end || late || failed {
                return;
            }
            match once(part, seed) {
                Some(outcome) => {
                    _ = hashes.fetch_xor(outcome.hash.rotate_left(seed as u32), Ordering::Relaxed)
                }
                None => _ = failures.fetch_add(1, Ordering::Relaxed),
            }
        }
    };
    std::thread::scope(|scope| {
        (0..arguments.jobs).for_each(|_| _ = scope.spawn(work));
    });
    let done = next.load(Ordering::Relaxed).min(end) - arguments.start;
    let (seconds, trace) = (begun.elapsed().as_secs_f64(), hashes.load(Ordering::Relaxed));
    let failed = failures.load(Ordering::Relaxed);
    println!(
        "{}: {done} seeds from {} in {seconds:.1} s, {failed} failed, traces {trace:016x}",
        part.name, arguments.start
    );
    failed == 0
}

fn once(part: &Part, seed: u64) -> Option<Outcome> {
    let error = match catch_unwind(AssertUnwindSafe(|| (part.run)(seed))) {
        Ok(Ok(outcome)) => return Some(outcome),
        Ok(Err(error)) => error,
        Err(_) => "panicked".to_string(),
    };
    let git = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = git.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_string()).unwrap_or_default();
    println!("{} seed {seed} failed at {commit}: {error}", part.name);
    println!("repeat: cargo test --release --test simulation -- --only {} --seed {seed}", part.name);
    None
}
