//! `ringlog compare`: is the candidate worse than the base? From result files, or by loading two brokers in alternate rounds.
//!
//! Refuses to answer where the answer would mean nothing: runs of unlike settings or machines, runs that failed or were invalid, a
//! machine that others used. What was allowed by hand is said again beside the verdict. Exit codes are for CI ([`exit`]).

mod figures;
mod history;
mod show;
mod side;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as ClapArgs, Parser};
use serde::Serialize;

use super::options::{Options, Outputs};
use super::{args, engine, table};
use figures::{Figure, Limits, Verdict};
use history::{Change, History};
use side::Side;

/// The exit codes of a comparison.
pub mod exit {
    /// Nothing is shown to be worse.
    pub const NOT_WORSE: u8 = 0;
    pub const WORSE: u8 = 1;
    /// Nothing can be said: unlike settings, a noisy machine, runs that failed; with --require-proof also too few or too wide.
    pub const INVALID: u8 = 2;
    /// The comparison did not come about: wrong options, unreadable files, no broker.
    pub const NOT_RUN: u8 = 3;
}

/// Compare two result files of `ringlog load --json`, or two brokers in alternate rounds; for CI
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "\
Exit codes: 0 nothing is shown to be worse, 1 worse beyond the threshold, 2 nothing can be said (unlike settings, noisy machine, \
failed runs) or wrong usage, 3 the comparison did not come about.

Examples:
  ringlog load --max --repeat 5 --json main.json
  ringlog compare main.json branch.json --threshold 5
  ringlog compare --base 127.0.0.1:9092 --candidate 127.0.0.1:9192 --rounds 7 -- --rate 50k --duration 20s
  ringlog compare main.json branch.json --history history.csv --commit 1b606f8
  ringlog compare --history history.csv")]
pub struct Args {
    /// Result files of the base, comma-separated
    #[arg(value_name = "BASE.json", requires = "candidate_files", conflicts_with = "base")]
    base_files: Option<String>,
    /// Result files of the candidate, comma-separated
    #[arg(value_name = "CANDIDATE.json")]
    candidate_files: Option<String>,
    /// A broker to load as the base
    #[arg(long, value_name = "HOST:PORT", requires = "candidate")]
    base: Option<String>,
    /// A broker to load as the candidate, in turn with the base
    #[arg(long, value_name = "HOST:PORT", requires = "base")]
    candidate: Option<String>,
    /// Runs of each broker (1 to 200); fewer than 4 cannot reach 95 % confidence
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Options of `ringlog load` for both brokers, behind `--`
    #[arg(last = true, value_name = "LOAD OPTIONS")]
    load: Vec<String>,

    /// Worse is what is worse by more than this, in percent (0 to 1000)
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    threshold: f64,
    /// Confidence of each figure's interval, in percent (50 to 99.9)
    #[arg(long, default_value_t = 95.0, value_name = "PERCENT")]
    confidence: f64,
    /// Compare these figures only: throughput, read, ack-p50, ack-p99, ack-p99.9, e2e-p50, e2e-p99, e2e-p99.9, broker-cpu,
    /// broker-rss, searched-rate
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    figures: Vec<String>,
    /// Settings that may differ, by their names in the JSON; `machine` for all of the machine
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    allow: Vec<String>,
    /// A run counts as noisy when other processes took more of the machine's CPU than this, in percent (0 to 100)
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    noise: f64,
    /// Compare on a noisy machine all the same
    #[arg(long)]
    allow_noise: bool,
    /// A figure of which nothing can be said is a failure (exit code 2)
    #[arg(long)]
    require_proof: bool,
    /// Write the comparison as JSON (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the candidate's figures in Bencher's metric format (- for standard output)
    #[arg(long, value_name = "FILE")]
    bencher: Option<PathBuf>,
    /// Add the candidate's medians to a history (CSV, as Apache Otava reads it), and tell where its figures changed; without
    /// two sides only tell
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// What the candidate is called in the history
    #[arg(long, value_name = "NAME", default_value = "unknown", requires = "history")]
    commit: String,
    /// Without two sides: exit code 1 when a figure changed for the worse within so many results
    #[arg(long, value_name = "RESULTS", default_value_t = 20, requires = "history")]
    recent: usize,
    /// No table
    #[arg(long)]
    quiet: bool,
}

/// A finished comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub kind: &'static str,
    /// `same`, `worse`, `better`, `undecided`, or `invalid`.
    pub verdict: &'static str,
    /// Why it is invalid.
    pub reasons: Vec<String>,
    /// What was allowed, and what else one has to know.
    pub notes: Vec<String>,
    pub threshold: f64,
    pub confidence: f64,
    pub figures: Vec<Figure>,
    /// Of the history, where there is one.
    pub changes: Vec<Change>,
}

#[derive(Parser)]
#[command(name = "ringlog compare … --")]
struct LoadCommand {
    #[command(flatten)]
    args: args::Args,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let done = execute(&args).and_then(|comparison| {
        let code = exit_code(&args, &comparison);
        show::show(&args, &comparison).map(|()| code)
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ringlog compare: {error}");
            ExitCode::from(exit::NOT_RUN)
        }
    }
}

fn execute(args: &Args) -> Result<Comparison, String> {
    check(args)?;
    let history =
        args.history.as_deref().map(|path| Ok::<_, String>((path, History::read(path)?))).transpose()?;
    if let (Some((_, history)), None, None) = (&history, &args.base_files, &args.base) {
        return Ok(of_history(args, history));
    }
    let (base, candidate) = match (&args.base_files, &args.candidate_files, &args.base, &args.candidate) {
        (Some(base), Some(candidate), ..) => (Side::read(base)?, Side::read(candidate)?),
        (_, _, Some(base), Some(candidate)) => alternate(args, base, candidate)?,
        _ => return Err("give two result files, or --base and --candidate, or --history alone".into()),
    };
    let mut comparison = judge(args, &base, &candidate);
    if let Some((path, mut history)) = history {
        // What says nothing of the candidate does not belong into its history.
        if comparison.verdict != "invalid" && !comparison.figures.is_empty() {
            history.append(path, &args.commit, &candidate, &comparison.figures)?;
        }
        comparison.changes = history.changes(args.threshold / 100.0, args.confidence / 100.0);
    }
    Ok(comparison)
}

/// What a history alone says.
fn of_history(args: &Args, history: &History) -> Comparison {
    let (threshold, confidence) = (args.threshold / 100.0, args.confidence / 100.0);
    let changes = history.changes(threshold, confidence);
    let worse = changes.iter().any(|change| change.worse && change.results_since <= args.recent);
    Comparison {
        kind: "history",
        verdict: if worse { "worse" } else { "same" },
        reasons: Vec::new(),
        notes: Vec::new(),
        threshold,
        confidence,
        figures: Vec::new(),
        changes,
    }
}

fn check(args: &Args) -> Result<(), String> {
    let within = |name: &str, value: f64, min: f64, max: f64| match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(format!("{name} is {value}, and has to be from {min} to {max}")),
    };
    within("--threshold", args.threshold, 0.0, 1000.0)?;
    within("--confidence", args.confidence, 50.0, 99.9)?;
    within("--noise", args.noise, 0.0, 100.0)?;
    within("--rounds", f64::from(args.rounds), 1.0, statistics::RUNS_MAX as f64)?;
    let known = figures::names();
    match args.figures.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("no figure is named `{name}`; there are {}", known.join(", "))),
        None if args.base.is_none() && !args.load.is_empty() => {
            Err("options of `ringlog load` are for two brokers, not for files".into())
        }
        None => Ok(()),
    }
}

/// Loads both brokers in turn; the order turns round from round to round, so that a slow minute of the machine does not always
/// meet the same one.
fn alternate(args: &Args, base: &str, candidate: &str) -> Result<(Side, Side), String> {
    let options = |address: &str| -> Result<Options, String> {
        let words = ["ringlog", "--bootstrap", address].into_iter().map(str::to_owned);
        let command = LoadCommand::try_parse_from(words.chain(args.load.iter().cloned()))
            .map_err(|error| error.to_string())?;
        if !command.args.search.is_empty() || command.args.curve.is_some() || command.args.repeat != 1 {
            return Err("searches, curves and repetitions are compared from their files".into());
        }
        let options = Options::from_args(&command.args)?;
        if options.outputs.is_any() {
            return Err("a run within a comparison writes no files".into());
        }
        Ok(Options { outputs: Outputs { quiet: true, ..Outputs::default() }, ..options })
    };
    let brokers = [("base", options(base)?), ("candidate", options(candidate)?)];
    let mut sides = [Side::default(), Side::default()];
    for round in 0..args.rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            let (name, options) = &brokers[at];
            let report = engine::run(options)?.report;
            if !args.quiet {
                eprintln!("round {} of {}, {name}: {}", round + 1, args.rounds, table::line(&report));
            }
            sides[at].add(serde_json::to_value(&report).map_err(|error| error.to_string())?)?;
        }
    }
    let [base, candidate] = sides;
    Ok((base, candidate))
}

fn judge(args: &Args, base: &Side, candidate: &Side) -> Comparison {
    let limits = Limits {
        threshold: args.threshold / 100.0,
        confidence: args.confidence / 100.0,
        wanted: args.figures.clone(),
    };
    let unlike = side::unlike(base, candidate, &args.allow);
    let mut reasons: Vec<String> = unlike.refused.iter().map(|it| format!("unlike {it}")).collect();
    let mut notes: Vec<String> = unlike.told.iter().map(|it| format!("differs: {it}")).collect();
    for (name, side) in [("base", base), ("candidate", candidate)] {
        let invalid = side.with_verdict("invalid");
        reasons.extend(invalid.iter().map(|why| format!("a run of the {name} is invalid: {why}")));
        match side.noise() {
            Some(part) if part * 100.0 > args.noise => {
                let text = format!(
                    "the machine was noisy: others took up to {:.1} % of it in the runs of the {name}",
                    part * 100.0
                );
                if args.allow_noise { notes.push(text) } else { reasons.push(text) }
            }
            Some(_) => {}
            None => notes.push(format!("how noisy the machine was in the runs of the {name} is not known")),
        }
    }
    reasons.extend(base.with_verdict("failed").iter().map(|why| format!("a run of the base failed: {why}")));
    let lost = candidate.with_verdict("failed");
    notes.extend(lost.iter().map(|why| format!("a run of the candidate failed: {why}")));
    let figures = figures::compare(base, candidate, &limits);
    if figures.is_empty() && lost.is_empty() {
        reasons.push("the two sides have no figure in common".into());
    }
    let verdict = if !reasons.is_empty() {
        "invalid"
    } else if !lost.is_empty() || figures.iter().any(|figure| figure.verdict == Verdict::Worse) {
        "worse"
    } else if figures.iter().any(|figure| figure.verdict == Verdict::Undecided) {
        "undecided"
    } else if figures.iter().any(|figure| figure.verdict == Verdict::Better) {
        "better"
    } else {
        "same"
    };
    Comparison {
        kind: "comparison",
        verdict,
        reasons,
        notes,
        threshold: limits.threshold,
        confidence: limits.confidence,
        figures,
        changes: Vec::new(),
    }
}

fn exit_code(args: &Args, comparison: &Comparison) -> u8 {
    match comparison.verdict {
        "invalid" => exit::INVALID,
        "worse" => exit::WORSE,
        "undecided" if args.require_proof => exit::INVALID,
        _ => exit::NOT_WORSE,
    }
}
