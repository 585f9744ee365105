//! `ringlog consume`: records to standard output, from any place, alone or as a member of a group.
//!
//! It follows the log until it is interrupted, has seen `--max-messages`, nothing has come for `--timeout-ms`, or (with
//! `--no-follow`) the end is reached as it was at the start. In a group, what is committed has been printed before.

mod fetch;
mod format;
mod member;

use std::collections::BTreeMap;
use std::io::{BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use indicatif::ProgressBar;

use super::client::{Client, Connect};
use super::cluster::{self, Isolation, TopicPartition};
use super::encoding::Encoding;
use super::failure::{FAILED, Failure};
use super::output;
use super::start::{self, Start};
use fetch::Fetcher;
use format::Format;
use member::Member;
pub use member::parse_assignment;

#[derive(ClapArgs)]
pub struct Args {
    /// One or several
    #[arg(value_name = "TOPIC", required = true)]
    topics: Vec<String>,
    /// Where to begin: beginning, end, an offset, a time (2026-01-31T12:00:00Z) or @MILLISECONDS; in a group only where
    /// nothing is committed
    #[arg(long, value_name = "PLACE", default_value = "end", value_parser = start::parse)]
    from: Start,
    /// Only this partition; may be repeated
    #[arg(long, value_name = "PARTITION", conflicts_with = "group")]
    partition: Vec<i32>,
    /// Share the partitions with the group's other members and commit what was printed
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// End after so many records
    #[arg(long, value_name = "COUNT")]
    max_messages: Option<u64>,
    /// End when no record has come for so long
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// Go on as records come (the default)
    #[arg(long, conflicts_with = "no_follow")]
    follow: bool,
    /// End at what is the end of the log now
    #[arg(long)]
    no_follow: bool,
    /// read_committed leaves out what transactions have not committed
    #[arg(long, value_enum, default_value_t = Isolation::ReadUncommitted)]
    isolation_level: Isolation,
    /// What is printed of a record: `json`, or a text with {key}, {value}, {headers}, {offset}, {partition}, {topic},
    /// {timestamp} (milliseconds), {time} (RFC 3339), \t and \n
    #[arg(long, default_value = "{value}", value_parser = format::parse)]
    format: Format,
    /// How keys and values are printed
    #[arg(long, value_enum, default_value_t = Encoding::String)]
    encoding: Encoding,
    /// The same as --format json
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let mut client = Client::new(&args.connect);
    let topics = cluster::topics(&mut client, Some(&args.topics))?;
    let all: Vec<TopicPartition> = topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.clone(), partition.index)))
        .collect();
    let interrupted = watch_signals()?;
    let isolation = args.isolation_level;
    let limits = Limits {
        messages_max: args.max_messages.unwrap_or(u64::MAX),
        idle_max: args.timeout_ms.map(Duration::from_millis),
    };
    // Asked before anything is read, so that what is produced meanwhile does not count.
    let ends =
        if args.no_follow { Some(start::resolve(&mut client, &all, Start::End, isolation)?) } else { None };
    let format = if args.json { Format::Json } else { args.format.clone() };
    let mut printer = Printer::new(format, args.encoding);
    if limits.messages_max == 0 {
        return Ok(());
    }
    match &args.group {
        Some(group) => {
            let mut member = Member::new(group, &args.topics, args.from, isolation);
            let read =
                read_as_member(&mut client, &mut member, &limits, ends.as_ref(), &mut printer, &interrupted);
            printer.finish();
            // A failed member leaves too, so that the others need not wait for its session to end.
            let left = member.leave(&mut client);
            read.and(left)
        }
        None => {
            let wanted = selected(&all, &args.partition)?;
            let positions = start::resolve(&mut client, &wanted, args.from, isolation)?;
            let mut fetcher = Fetcher::new(positions, isolation);
            let read =
                read_alone(&mut client, &mut fetcher, &limits, ends.as_ref(), &mut printer, &interrupted);
            printer.finish();
            read
        }
    }
}

fn selected(all: &[TopicPartition], wanted: &[i32]) -> Result<Vec<TopicPartition>, Failure> {
    if let Some(missing) = wanted.iter().find(|wanted| !all.iter().any(|(_, index)| index == *wanted)) {
        return Err(Failure::not_found(format!("there is no partition {missing}")));
    }
    let chosen = |(_, index): &&TopicPartition| wanted.is_empty() || wanted.contains(index);
    Ok(all.iter().filter(chosen).cloned().collect())
}

/// When to end.
struct Limits {
    messages_max: u64,
    idle_max: Option<Duration>,
}

impl Limits {
    fn reached(&self, printer: &Printer, interrupted: &AtomicBool) -> bool {
        interrupted.load(Ordering::Relaxed)
            || printer.count >= self.messages_max
            || self.idle_max.is_some_and(|idle_max| printer.last_record.elapsed() >= idle_max)
    }

    fn left(&self, printer: &Printer) -> u64 {
        self.messages_max - printer.count
    }
}

fn is_past(positions: &BTreeMap<TopicPartition, i64>, ends: Option<&BTreeMap<TopicPartition, i64>>) -> bool {
    let at_end = |(place, position): (&TopicPartition, &i64)| {
        ends.is_some_and(|ends| ends.get(place).is_none_or(|end| position >= end))
    };
    ends.is_some() && positions.iter().all(at_end)
}

fn read_alone(
    client: &mut Client,
    fetcher: &mut Fetcher,
    limits: &Limits,
    ends: Option<&BTreeMap<TopicPartition, i64>>,
    printer: &mut Printer,
    interrupted: &AtomicBool,
) -> Result<(), Failure> {
    // However short the time without a record may be: the broker is asked once.
    while !is_past(fetcher.positions(), ends) {
        let left = limits.left(printer);
        client.retry(|client| fetcher.poll(client, left, ends, printer))?;
        printer.flush()?;
        if limits.reached(printer, interrupted) {
            break;
        }
    }
    Ok(())
}

fn read_as_member(
    client: &mut Client,
    member: &mut Member,
    limits: &Limits,
    ends: Option<&BTreeMap<TopicPartition, i64>>,
    printer: &mut Printer,
    interrupted: &AtomicBool,
) -> Result<(), Failure> {
    let mut fetcher = Fetcher::new(BTreeMap::new(), member.isolation());
    loop {
        if member.must_join() {
            // What was printed is committed before somebody else begins there.
            member.commit(client, fetcher.positions())?;
            fetcher = Fetcher::new(member.join(client)?, member.isolation());
            printer.last_record = Instant::now();
        }
        if member.is_assigned() && is_past(fetcher.positions(), ends) {
            break;
        }
        let left = limits.left(printer);
        client.retry(|client| fetcher.poll(client, left, ends, printer))?;
        printer.flush()?;
        member.commit_in_time(client, fetcher.positions())?;
        member.heartbeat(client)?;
        if limits.reached(printer, interrupted) {
            break;
        }
    }
    member.commit(client, fetcher.positions())
}

/// Prints records and counts them.
struct Printer {
    format: Format,
    encoding: Encoding,
    out: BufWriter<std::io::Stdout>,
    count: u64,
    last_record: Instant,
    bar: ProgressBar,
}

impl Printer {
    fn new(format: Format, encoding: Encoding) -> Printer {
        // On a terminal the records themselves show that it goes on.
        let bar =
            if std::io::stdout().is_terminal() { ProgressBar::hidden() } else { output::spinner("records") };
        let out = BufWriter::with_capacity(1 << 16, std::io::stdout());
        Printer { format, encoding, out, count: 0, last_record: Instant::now(), bar }
    }

    fn print(&mut self, record: &format::Shown<'_>) -> Result<(), Failure> {
        let line = self.format.line(record, self.encoding);
        output::written(self.out.write_all(&line))?;
        self.count += 1;
        self.last_record = Instant::now();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.bar.set_position(self.count);
        self.bar.set_message(format!("{} records", self.count));
        output::written(self.out.flush())
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The first signal ends the work in an orderly way, the second at once.
fn watch_signals() -> Result<Arc<AtomicBool>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = interrupted.clone();
    let cannot = |error: std::io::Error| Failure::new(FAILED, format!("signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt()).map_err(cannot)?, signal(SignalKind::terminate()).map_err(cannot)?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if seen.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    });
    Ok(interrupted)
}
