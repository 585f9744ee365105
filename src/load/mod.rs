//! The load generator, `ringlog load`: drives any Kafka broker, says how late answers were against the plan, and checks
//! every record while it does so.
//!
//! Shape: the calling thread sets the topic up, follows the brokers' metadata and gathers what the workers measure
//! ([`engine`]); each worker is one thread with one driver ([`worker`]), and holds producers ([`producer`]) and consumers
//! ([`consumer`]) as plain state machines over their connections ([`link`]). Stands beside `broker` and never imports it:
//! it knows of a broker only what comes over the wire.
//!
//! Invariants:
//! - A record's latency counts from the time the plan gave it, also when the broker or this program was late.
//! - Histograms are merged, never averaged.
//! - A record is acknowledged, failed, unanswered or never sent; each is counted once, and what was acknowledged has to be
//!   read back unless nobody reads.
//! - Every limit is a number: bytes buffered, requests in flight, retries by time.

pub mod admin; // what is asked before and after
pub mod args; // the command line
pub mod arrivals; // when records are meant to go
pub mod audit; // whole logs against every acknowledgement
pub mod batch; // record batches from templates
pub mod cluster; // what the threads know of the cluster
pub mod compare; // `ringlog compare`
pub mod curve; // the rates of a latency curve
pub mod engine; // a run from beginning to end
pub mod fetcher; // the consuming half of a worker
pub mod html; // reports as pages
pub mod intervals; // sets of sequence numbers
pub mod lane; // a connection with produce requests
pub mod link; // one connection
pub mod machine; // what it ran on
pub mod many; // searches, curves, repetitions
pub mod objective; // latencies that have to hold
pub mod options; // the same as checked values
pub mod output; // the files of a run
pub mod payload; // what a record says of itself
pub mod plot; // lines as SVG
pub mod producer; // records to batches
pub mod recorder; // histograms and counts
pub mod report; // what a run says of itself
pub mod request; // produce requests
pub mod schedule; // when records arrive
pub mod search; // the highest rate that holds
pub mod seconds; // a run second by second
pub mod sender; // the producing half of a worker
pub mod table; // the report for people
pub mod trace; // arrivals from a file
pub mod transactional; // transactions instead of records
pub mod turn; // the time of a turn and its records
pub mod units; // rates, sizes, durations as people write them
pub mod verify; // whether what was sent was read
pub mod worker; // a thread

pub use args::Args;

use std::process::ExitCode;

/// The exit codes of a run.
pub mod exit {
    /// Measured, and every check passed.
    pub const OK: u8 = 0;
    /// Records were lost, duplicated, reordered or corrupt, or could not be delivered.
    pub const FAILED: u8 = 1;
    /// The generator fell behind its own plan: the figures are not the broker's.
    pub const INVALID: u8 = 2;
    /// The run did not come about: wrong options, no broker, no topic.
    pub const NOT_RUN: u8 = 3;
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let outcome = options::Options::from_args(&args).and_then(|options| {
        if let Some(transactions) = &options.transactions {
            return transactional::run(&options, transactions);
        }
        match many::run(&args, &options) {
            Some(verdict) => verdict,
            None => engine::run(&options).map(|finished| finished.report.verdict),
        }
    });
    match outcome {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(error) => {
            eprintln!("ringlog load: {error}");
            ExitCode::from(exit::NOT_RUN)
        }
    }
}
