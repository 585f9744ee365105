//! The command line: one file a subcommand. Human output by default, `--json` for scripts.
//!
//! Exit codes: 0 done; 1 failed while running; 2 wrong usage or configuration; 3 the kernel or the container refuses what the
//! broker needs; 4 a data directory cannot be used.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "ringlog", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker
    Serve(serve::Args),
    /// Load any Kafka broker, measure latency against the plan, and check every record
    Load(Box<crate::load::Args>),
}

/// Parses the arguments of the process and runs what they ask for.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Load(args) => crate::load::run(*args),
    }
}
