//! `ringlog topic describe`: what four requests know about a topic, put together.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Uuid22;
use crate::cli::client::{Client, To};
use crate::cli::cluster::{self, EARLIEST, LATEST, Topic, TopicPartition};
use crate::cli::configs::{self, Resource};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::protocol::messages::describe_log_dirs_request::DescribeLogDirsRequest;

#[derive(Serialize)]
struct Described {
    name: String,
    id: Option<Uuid22>,
    internal: bool,
    /// What was set on the topic itself.
    configs: BTreeMap<String, Option<String>>,
    partitions: Vec<PartitionRow>,
}

#[derive(Serialize)]
struct PartitionRow {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    start_offset: Option<i64>,
    end_offset: Option<i64>,
    size_bytes: Option<i64>,
}

pub fn run(client: &mut Client, names: &[String], json: bool) -> Result<(), Failure> {
    let asked = (!names.is_empty()).then_some(names);
    let topics = cluster::topics(client, asked)?;
    let sizes = sizes(client)?;
    let described: Vec<_> =
        topics.iter().map(|topic| describe(client, topic, &sizes)).collect::<Result<_, _>>()?;
    if json {
        return output::print_json(&described);
    }
    for (at, topic) in described.iter().enumerate() {
        print(topic, at > 0)?;
    }
    Ok(())
}

fn describe(
    client: &mut Client,
    topic: &Topic,
    sizes: &BTreeMap<(i32, TopicPartition), i64>,
) -> Result<Described, Failure> {
    // A partition without a leader has no offsets, but it is shown.
    let led = || topic.partitions.iter().filter(|partition| partition.leader.is_some());
    let at = |time| led().map(|partition| ((topic.name.clone(), partition.index), time)).collect();
    let starts = cluster::offsets(client, &at(EARLIEST))?;
    let ends = cluster::offsets(client, &at(LATEST))?;
    let configs = configs::describe(client, &Resource::Topic(topic.name.clone()), false)?;
    let rows = topic.partitions.iter().map(|partition| {
        let place = (topic.name.clone(), partition.index);
        PartitionRow {
            partition: partition.index,
            leader: partition.leader,
            leader_epoch: partition.leader_epoch,
            replicas: partition.replicas.clone(),
            isr: partition.isr.clone(),
            start_offset: starts.get(&place).copied(),
            end_offset: ends.get(&place).copied(),
            size_bytes: partition.leader.and_then(|leader| sizes.get(&(leader, place)).copied()),
        }
    });
    Ok(Described {
        name: topic.name.clone(),
        id: Uuid22::new(topic.id),
        internal: topic.is_internal,
        partitions: rows.collect(),
        configs: configs
            .into_iter()
            .filter(configs::Entry::is_own)
            .filter(|entry| entry.source == "topic")
            .map(|entry| (entry.name, entry.value))
            .collect(),
    })
}

/// The bytes of each partition on each broker that answers; a broker that does not leaves gaps.
fn sizes(client: &mut Client) -> Result<BTreeMap<(i32, TopicPartition), i64>, Failure> {
    let mut sizes = BTreeMap::new();
    for broker in client.brokers() {
        let Ok(answer) = client.call(To::Broker(broker), i16::MAX, &DescribeLogDirsRequest { topics: None })
        else {
            continue;
        };
        let response = answer.read::<DescribeLogDirsRequest<'_>>()?;
        for directory in &response.results {
            for topic in &directory.topics {
                for partition in topic.partitions.iter().filter(|partition| !partition.is_future_key) {
                    let place = (topic.name.to_string(), partition.partition_index);
                    sizes.insert((broker, place), partition.partition_size);
                }
            }
        }
    }
    Ok(sizes)
}

fn print(topic: &Described, blank_before: bool) -> Result<(), Failure> {
    let mut text = String::new();
    if blank_before {
        text.push('\n');
    }
    let id = topic.id.as_ref().map_or(String::new(), |id| format!("  id {}", id.0));
    let internal = if topic.internal { "  internal" } else { "" };
    text.push_str(&format!("{}{id}  {} partitions{internal}\n", topic.name, topic.partitions.len()));
    for (key, value) in &topic.configs {
        text.push_str(&format!("  {key}={}\n", value.as_deref().unwrap_or_default()));
    }
    output::print(&text)?;
    let mut table =
        output::table(&[">PARTITION", ">LEADER", ">REPLICAS", ">ISR", ">START", ">END", ">RECORDS", ">SIZE"]);
    let shown = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
    for row in &topic.partitions {
        let records = row.end_offset.zip(row.start_offset).map(|(end, start)| end - start);
        table.add_row([
            row.partition.to_string(),
            shown(row.leader.map(i64::from)),
            output::joined(&row.replicas),
            output::joined(&row.isr),
            shown(row.start_offset),
            shown(row.end_offset),
            shown(records),
            row.size_bytes.map_or("-".to_owned(), output::bytes),
        ]);
    }
    output::print_table(&table)
}
