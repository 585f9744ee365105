//! `ringlog tune`: look at the host's settings, show what would be changed, change it, put it back, measure the disks.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;

use super::failure::{DATA, FAILED, Failure};
use super::output;
use crate::io::driver::{Driver, DriverOptions};
use crate::io::preflight;
use crate::tune::change::{self, Outcome, Record};
use crate::tune::effect::{Effect, Effects};
use crate::tune::measure::{self, Measured};
use crate::tune::{Host, ITEMS, Report, State, Step, Target, pages};

#[derive(ClapArgs)]
pub struct Args {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// A data directory of the broker; may be repeated
    #[arg(long = "dir", global = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Only this item; may be repeated
    #[arg(long, global = true, value_name = "ITEM")]
    only: Vec<String>,
    /// Not this item; may be repeated
    #[arg(long, global = true, value_name = "ITEM")]
    skip: Vec<String>,
    /// Where the old values are kept
    #[arg(long, global = true, value_name = "FILE", default_value = change::RECORD)]
    record: PathBuf,
    /// Another root than this machine's, as a mounted image
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look at every setting; changes nothing and needs no privilege
    Check {
        /// End with 1 where something is not as it should be
        #[arg(long)]
        strict: bool,
    },
    /// Show what `apply` would change
    Plan,
    /// Change what is not as it should be, and keep the old values; as root
    Apply {
        /// Measure each --dir before and after each item, and keep what the item did
        #[arg(long)]
        measure: bool,
        /// With --measure: how long each of six tests takes
        #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
        seconds: f64,
        /// With --measure: size of the file that is written and removed
        #[arg(long, value_name = "MIB", default_value_t = 256)]
        file_mib: u64,
    },
    /// Put the old values back
    Undo {
        /// Also what somebody else has changed since
        #[arg(long)]
        force: bool,
    },
    /// Measure what the disk under each --dir can do; a broker that starts there bounds its background work by it
    Measure(Measure),
    /// Say what an item is for, or all
    Explain {
        #[arg(value_name = "ITEM")]
        items: Vec<String>,
    },
}

#[derive(ClapArgs, Clone)]
struct Measure {
    /// How long each of six tests takes
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// Size of the file that is written and removed
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    file_mib: u64,
    /// Do not keep the result in the directory
    #[arg(long)]
    no_keep: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let host = Host::new(&args.root);
    match &args.command {
        Command::Check { strict } => check(&args, &host, *strict),
        Command::Plan => plan(&args, &host),
        Command::Apply { measure: false, .. } => apply(&args, &host),
        Command::Apply { seconds, file_mib, .. } => {
            apply_measured(&args, &host, &Measure { seconds: *seconds, file_mib: *file_mib, no_keep: true })
        }
        Command::Undo { force } => undo(&args, &host, *force),
        Command::Measure(options) => {
            let measured = measure_all(&args, options)?;
            if args.json { output::print_json(&measured) } else { Ok(()) }
        }
        Command::Explain { items } => explain(&args, items),
    }
}

fn reports(args: &Args, host: &Host) -> Result<Vec<Report>, Failure> {
    if let Some(unknown) =
        args.only.iter().chain(&args.skip).find(|name| ITEMS.iter().all(|item| item.name != **name))
    {
        return Err(Failure::usage(format!("no item is named {unknown}; `ringlog tune explain` names them")));
    }
    let dirs = args.dirs.iter().map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.clone())).collect();
    let target = Target::broker(dirs);
    let wanted = |name: &str| {
        (args.only.is_empty() || args.only.iter().any(|only| only == name))
            && !args.skip.iter().any(|skip| skip == name)
    };
    let items = ITEMS.iter().filter(|item| wanted(item.name));
    let mut reports: Vec<Report> = items.map(|item| item.check(host, &target)).collect();
    effects(args)?.attach(&mut reports);
    Ok(reports)
}

fn effects(args: &Args) -> Result<Effects, Failure> {
    Effects::beside(&args.record).map_err(|error| Failure::file(&args.record, &error))
}

fn check(args: &Args, host: &Host, strict: bool) -> Result<(), Failure> {
    let reports = reports(args, host)?;
    if args.json {
        output::print_json(&reports)?;
    } else {
        print_reports(args, host, &reports)?;
    }
    let wanting = reports
        .iter()
        .flat_map(|report| &report.findings)
        .filter(|finding| finding.state != State::Good)
        .count();
    match wanting {
        wanting if strict && wanting > 0 => {
            Err(Failure::new(FAILED, format!("{wanting} places are not as they should be")))
        }
        _ => Ok(()),
    }
}

fn print_reports(args: &Args, host: &Host, reports: &[Report]) -> Result<(), Failure> {
    let mut table = output::table(&["ITEM", "STATE", "PLACE", "FOUND", "WANTED"]);
    for report in reports {
        if report.findings.is_empty() {
            table.add_row([report.item, "-", "not here", "", ""]);
        }
        for finding in &report.findings {
            let (state, wanted) = match &finding.state {
                State::Good => ("good", String::new()),
                State::Change { step } if report.belongs_to_host => ("host", step.value()),
                State::Change { step } => ("change", step.value()),
                State::Advice { advice } => ("advice", advice.clone()),
            };
            // Tabs would break the columns.
            let row = [report.item, state, &finding.place, &finding.found, &wanted]
                .map(|text| text.replace('\t', " "));
            table.add_row(row);
        }
    }
    output::print_table(&table)?;
    if let Some(kind) = host.container() {
        output::print(&format!(
            "\nThis is a container ({kind}): what is marked `host` has to be set on its host.\n"
        ))?;
    }
    if args.dirs.is_empty() {
        output::print("\nWithout --dir no disk is looked at.\n")?;
    }
    Ok(())
}

fn plan(args: &Args, host: &Host) -> Result<(), Failure> {
    let steps = change::plan(&reports(args, host)?);
    if args.json {
        let steps: Vec<_> = steps.iter().map(|(item, found, step)| Planned { item, found, step }).collect();
        return output::print_json(&steps);
    }
    if steps.is_empty() {
        return output::print("nothing to change\n");
    }
    for (item, found, step) in steps {
        output::print(&format!("# {item}\n--- {}\n-{found}\n+{}\n", step.file().display(), step.value()))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Planned<'a> {
    item: &'a str,
    found: &'a str,
    #[serde(flatten)]
    step: &'a Step,
}

fn apply(args: &Args, host: &Host) -> Result<(), Failure> {
    let steps = change::plan(&reports(args, host)?);
    let outcomes = take(args, host, steps)?;
    report(args, &outcomes, "nothing to change")?;
    problems(&outcomes)
}

type Steps = Vec<(&'static str, String, Step)>;

fn take(args: &Args, host: &Host, steps: Steps) -> Result<Vec<Outcome>, Failure> {
    let mut record = open(args)?;
    change::apply(host, steps, &mut record).map_err(|error| Failure::file(&args.record, &error))
}

/// Item by item, the disks measured in between: what is after one is before the next.
fn apply_measured(args: &Args, host: &Host, options: &Measure) -> Result<(), Failure> {
    let steps = change::plan(&reports(args, host)?);
    let mut effects = effects(args)?;
    let mut outcomes = Vec::new();
    let mut before = if steps.is_empty() { Vec::new() } else { measure_all(args, options)? };
    for steps in steps.chunk_by(|one, next| one.0 == next.0) {
        let done = take(args, host, steps.to_vec())?;
        let changed = done.iter().any(|outcome| outcome.problem.is_none());
        outcomes.extend(done);
        if !changed {
            continue;
        }
        let after = measure_all(args, options)?;
        for (before, after) in before.iter().zip(&after) {
            print_difference(args, steps[0].0, before, after)?;
            effects.add(Effect {
                item: steps[0].0.to_owned(),
                dir: after.dir.clone(),
                before: before.measured.clone(),
                after: after.measured.clone(),
            });
        }
        effects.save().map_err(|error| Failure::file(&args.record, &error))?;
        before = after;
    }
    report(args, &outcomes, "nothing to change")?;
    problems(&outcomes)
}

fn undo(args: &Args, host: &Host, force: bool) -> Result<(), Failure> {
    let mut record = open(args)?;
    let outcomes =
        change::undo(host, &mut record, force).map_err(|error| Failure::file(&args.record, &error))?;
    report(args, &outcomes, "nothing was applied")?;
    problems(&outcomes)
}

fn open(args: &Args) -> Result<Record, Failure> {
    Record::open(&args.record).map_err(|error| Failure::file(&args.record, &error))
}

fn report(args: &Args, outcomes: &[Outcome], nothing: &str) -> Result<(), Failure> {
    if args.json {
        return output::print_json(&outcomes);
    }
    if outcomes.is_empty() {
        return output::print(&format!("{nothing}\n"));
    }
    let mut table = output::table(&["ITEM", "PLACE", "FROM", "TO", "DONE"]);
    for outcome in outcomes {
        let done = outcome.problem.as_deref().unwrap_or("yes");
        let place = outcome.place.display().to_string();
        let row =
            [&outcome.item, &place, &outcome.from, &outcome.to, done].map(|text| text.replace('\t', " "));
        table.add_row(row);
    }
    output::print_table(&table)
}

fn problems(outcomes: &[Outcome]) -> Result<(), Failure> {
    match outcomes.iter().filter(|outcome| outcome.problem.is_some()).count() {
        0 => Ok(()),
        failed => Err(Failure::new(FAILED, format!("{failed} of {} could not be set", outcomes.len()))),
    }
}

#[derive(Serialize)]
struct OfDir {
    dir: PathBuf,
    #[serde(flatten)]
    measured: Measured,
}

fn measure_all(args: &Args, options: &Measure) -> Result<Vec<OfDir>, Failure> {
    if args.dirs.is_empty() {
        return Err(Failure::usage("name at least one --dir"));
    }
    let kind = preflight::best_driver();
    let driver = Driver::new(kind, DriverOptions::default());
    let mut io = driver.map_err(|error| Failure::new(FAILED, format!("{kind}: {error}")))?;
    let mut all = Vec::new();
    for dir in &args.dirs {
        let seconds = Duration::try_from_secs_f64(options.seconds)
            .map_err(|_| Failure::usage("--seconds takes a number of seconds"))?;
        let of_test = measure::Options {
            dir: dir.clone(),
            file_bytes: options.file_mib.clamp(4, 1 << 20) << 20,
            test_ns: seconds.min(Duration::from_secs(3600)).as_nanos() as u64,
        };
        let failed = |error: std::io::Error| Failure::new(DATA, format!("{}: {error}", dir.display()));
        let measured = measure::measure(&mut io, &kind.to_string(), &of_test, |what| {
            if !args.json {
                eprintln!("{}: {what}", dir.display());
            }
        })
        .map_err(|errno| failed(std::io::Error::from_raw_os_error(errno.0)))?;
        if !options.no_keep {
            measured.keep(dir).map_err(failed)?;
        }
        let of_dir = OfDir { dir: dir.clone(), measured };
        if !args.json {
            print_measured(&of_dir)?;
        }
        all.push(of_dir);
    }
    Ok(all)
}

fn print_measured(of: &OfDir) -> Result<(), Failure> {
    let mut table = output::table(&[&of.dir.display().to_string(), ">", ""]);
    for (name, value, unit) in of.measured.rows() {
        table.add_row([name, &format!("{value:.0}"), unit]);
    }
    output::print_table(&table)
}

fn print_difference(args: &Args, item: &str, before: &OfDir, after: &OfDir) -> Result<(), Failure> {
    if args.json {
        return Ok(());
    }
    let place = format!("{item}, {}", before.dir.display());
    let mut table = output::table(&[&place, ">BEFORE", ">AFTER", "", ">CHANGE"]);
    for ((name, old, unit), (_, new, _)) in before.measured.rows().into_iter().zip(after.measured.rows()) {
        let change = format!("{:+.1} %", (new / old - 1.0) * 100.0);
        table.add_row([name, &format!("{old:.0}"), &format!("{new:.0}"), unit, &change]);
    }
    output::print_table(&table)
}

fn explain(args: &Args, items: &[String]) -> Result<(), Failure> {
    if let Some(unknown) = items.iter().find(|name| ITEMS.iter().all(|item| item.name != **name)) {
        return Err(Failure::not_found(format!("no item is named {unknown}")));
    }
    if items.is_empty() {
        let mut table = output::table(&["ITEM", "WHAT IT WANTS"]);
        ITEMS.iter().for_each(|item| {
            table.add_row([item.name, item.what]);
        });
        return output::print_table(&table);
    }
    let mut wanted = ITEMS.iter().filter(|item| items.iter().any(|name| name == item.name));
    let effects = effects(args)?;
    wanted.try_for_each(|item| {
        output::print(&pages::page(item))?;
        effects.of(item.name).try_for_each(|effect| output::print(&format!("\n**On this host.** {effect}\n")))
    })
}
