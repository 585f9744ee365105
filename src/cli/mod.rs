//! The command line: one file a subcommand. Human output by default, `--json` for scripts.
//!
//! Exit codes:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; also a consumer that was interrupted |
//! | 1 | failed while running: the broker refused, or the answer makes no sense |
//! | 2 | wrong usage or configuration |
//! | 3 | the kernel or the container refuses what the broker needs |
//! | 4 | a data directory, or a file that was named, cannot be used |
//! | 5 | no broker could be reached, or none answered in time |
//! | 6 | what was named (topic, partition, group, broker) does not exist |
//! | 7 | `dump` found damage |
//! | 8 | what was to be made exists already |

mod client;
mod cluster;
mod completions;
mod config;
mod configs;
mod consume;
mod dump;
mod encoding;
mod failure;
mod group;
mod groups;
mod health;
mod output;
mod produce;
mod serve;
mod start;
mod top;
mod topic;
mod tune;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::Failure;

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
    /// Compare two result files of load, or two brokers in alternate rounds; an exit code for CI
    Compare(Box<crate::load::compare::Args>),
    /// Create, list, describe, change and delete topics
    Topic(topic::Args),
    /// Write lines of standard input or a file as records
    Produce(produce::Args),
    /// Read records, alone or in a group
    Consume(consume::Args),
    /// List and describe consumer groups, reset their offsets, delete them
    Group(group::Args),
    /// Show every configuration key; describe and change what a topic or a broker has set
    Config(config::Args),
    /// Ask whether the broker serves, for health checks
    Health(health::Args),
    /// Watch a broker live: shards, requests, bytes, latency, the journal, clients
    Top(top::Args),
    /// Show what is in the files of a data directory, and where they are damaged
    Dump(dump::Args),
    /// Look at the host's settings, change them and put them back, measure its disks
    Tune(tune::Args),
    /// Print the completions of a shell
    Completions(completions::Args),
}

/// Parses the arguments of the process and runs what they ask for.
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => return serve::run(args),
        Command::Load(args) => return crate::load::run(*args),
        Command::Compare(args) => return crate::load::compare::run(*args),
        Command::Topic(args) => topic::run(args),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Group(args) => group::run(args),
        Command::Config(args) => config::run(args),
        Command::Health(args) => health::run(args),
        Command::Top(args) => top::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Completions(args) => completions::run(args, Cli::command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    eprintln!("ringlog: {failure}");
    ExitCode::from(failure.exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declared_options_fit_together() {
        Cli::command().debug_assert();
    }
}
