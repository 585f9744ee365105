//! `ringlog group reset-offsets`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::check_empty;
use crate::cli::client::Client;
use crate::cli::cluster::{self, EARLIEST, Isolation, LATEST, TopicPartition};
use crate::cli::failure::Failure;
use crate::cli::groups::{self, Committed};
use crate::cli::output;
use crate::cli::start::{self, Start};

#[derive(clap::Args)]
pub struct Args {
    group: String,
    /// Of this topic, or one partition of it; may be repeated; without it all that is committed
    #[arg(long, value_name = "TOPIC[:PARTITION]")]
    topic: Vec<String>,
    /// To earliest, latest, an offset, a time (2026-01-31T12:00:00Z) or @MILLISECONDS
    #[arg(long, value_name = "PLACE", value_parser = start::parse, required_unless_present = "shift_by")]
    to: Option<Start>,
    /// So many records forward, or back
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, conflicts_with = "to")]
    shift_by: Option<i64>,
    /// Only show what would be done (the default)
    #[arg(long, conflicts_with = "execute")]
    dry_run: bool,
    /// Do it
    #[arg(long)]
    execute: bool,
}

#[derive(Serialize)]
struct Row {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    new: i64,
}

pub fn run(client: &mut Client, args: &Args, json: bool) -> Result<(), Failure> {
    check_empty(client, &args.group)?;
    let committed = groups::committed(client, &args.group)?;
    let places = places(client, args, &committed)?;
    let offsets = new_offsets(client, args, &places, &committed)?;
    if args.execute {
        groups::commit(client, &args.group, -1, "", &offsets)?;
    }
    let rows: Vec<_> = offsets
        .into_iter()
        .map(|(place, new)| Row {
            committed: committed.get(&place).map(|commit| commit.offset),
            topic: place.0,
            partition: place.1,
            new,
        })
        .collect();
    if json {
        return output::print_json(&serde_json::json!({ "executed": args.execute, "offsets": rows }));
    }
    let mut table = output::table(&["TOPIC", ">PARTITION", ">COMMITTED", ">NEW"]);
    for row in &rows {
        let committed = row.committed.map_or("-".to_owned(), |offset| offset.to_string());
        table.add_row([row.topic.clone(), row.partition.to_string(), committed, row.new.to_string()]);
    }
    output::print_table(&table)?;
    let what = if args.execute { "offsets are set\n" } else { "nothing was changed; --execute does it\n" };
    output::print(what)
}

fn places(
    client: &mut Client,
    args: &Args,
    committed: &BTreeMap<TopicPartition, Committed>,
) -> Result<Vec<TopicPartition>, Failure> {
    if args.topic.is_empty() {
        if committed.is_empty() {
            let text = format!("group {} has committed nothing: name topics by --topic", args.group);
            return Err(Failure::not_found(text));
        }
        return Ok(committed.keys().cloned().collect());
    }
    let mut places = Vec::new();
    for named in &args.topic {
        let (name, only) = match named.rsplit_once(':') {
            Some((name, partition)) => {
                let partition = partition.parse::<i32>();
                let partition =
                    partition.map_err(|_| Failure::usage(format!("`{named}` is not TOPIC:PARTITION")))?;
                (name, Some(partition))
            }
            None => (named.as_str(), None),
        };
        let topic = cluster::topic(client, name)?;
        let before = places.len();
        let wanted = topic.partitions.iter().filter(|p| only.is_none_or(|only| only == p.index));
        places.extend(wanted.map(|partition| (topic.name.clone(), partition.index)));
        if places.len() == before {
            return Err(Failure::not_found(format!("there is no partition {named}")));
        }
    }
    places.sort();
    places.dedup();
    Ok(places)
}

/// Inside the log in every case, as Kafka's own tool does it.
fn new_offsets(
    client: &mut Client,
    args: &Args,
    places: &[TopicPartition],
    committed: &BTreeMap<TopicPartition, Committed>,
) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
    let at = |time| places.iter().map(|place| (place.clone(), time)).collect();
    let starts = cluster::offsets(client, &at(EARLIEST))?;
    let ends = cluster::offsets(client, &at(LATEST))?;
    let mut offsets = match (args.to, args.shift_by) {
        (Some(start), _) => start::resolve(client, places, start, Isolation::ReadUncommitted)?,
        (None, shift) => {
            let mut shifted = BTreeMap::new();
            for place in places {
                let Some(commit) = committed.get(place) else {
                    let text = format!("{}: nothing is committed to shift from", cluster::named(place));
                    return Err(Failure::not_found(text));
                };
                shifted.insert(place.clone(), commit.offset.saturating_add(shift.unwrap_or(0)));
            }
            shifted
        }
    };
    for (place, offset) in &mut offsets {
        if let (Some(&start), Some(&end)) = (starts.get(place), ends.get(place)) {
            *offset = (*offset).clamp(start, end.max(start));
        }
    }
    Ok(offsets)
}
