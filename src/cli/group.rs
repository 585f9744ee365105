//! `ringlog group`: list, describe with lag, reset offsets, delete.

mod reset;

use std::borrow::Cow;
use std::collections::BTreeMap;

use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;

use super::client::{Client, Connect, To};
use super::cluster::{self, LATEST, TopicPartition};
use super::consume::parse_assignment;
use super::failure::{FAILED, Failure};
use super::{groups, output};
use crate::protocol::messages::delete_groups_request::DeleteGroupsRequest;
use crate::protocol::messages::describe_groups_request::DescribeGroupsRequest;
use crate::protocol::messages::list_groups_request::ListGroupsRequest;

#[derive(ClapArgs)]
pub struct Args {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Name the groups
    List,
    /// Show members and, partition by partition, what is committed and how far that is behind the end
    Describe {
        #[arg(value_name = "GROUP", required = true)]
        groups: Vec<String>,
    },
    /// Set the committed offsets of a group that has no members; shows what it would do unless --execute is given
    ResetOffsets(reset::Args),
    /// Delete groups that have no members
    Delete {
        #[arg(value_name = "GROUP", required = true)]
        groups: Vec<String>,
    },
}

pub fn run(args: Args) -> Result<(), Failure> {
    let client = &mut Client::new(&args.connect);
    match args.command {
        Command::List => list(client, args.json),
        Command::Describe { groups } => {
            let described: Vec<_> =
                groups.iter().map(|group| describe(client, group)).collect::<Result<_, _>>()?;
            print(&described, args.json)
        }
        Command::ResetOffsets(reset) => reset::run(client, &reset, args.json),
        Command::Delete { groups } => {
            groups.iter().try_for_each(|group| delete(client, group))?;
            output::done(args.json, &format!("deleted {}", groups.join(", ")))
        }
    }
}

#[derive(Serialize)]
struct Listed {
    group: String,
    state: String,
    r#type: String,
    protocol_type: String,
}

/// Every broker knows those it coordinates.
fn list(client: &mut Client, json: bool) -> Result<(), Failure> {
    cluster::learn_brokers(client)?;
    let mut listed = Vec::new();
    for broker in client.brokers() {
        let found = client.retry(|client| {
            let answer = client.call(To::Broker(broker), i16::MAX, &ListGroupsRequest::default())?;
            let response = answer.read::<ListGroupsRequest<'_>>()?;
            Failure::check("ListGroups", response.error_code, None)?;
            let rows = response.groups.iter().map(|group| Listed {
                group: group.group_id.to_string(),
                state: group.group_state.to_string(),
                r#type: group.group_type.to_string(),
                protocol_type: group.protocol_type.to_string(),
            });
            Ok(rows.collect::<Vec<_>>())
        })?;
        listed.extend(found);
    }
    listed.sort_by(|one, other| one.group.cmp(&other.group));
    // Brokers that share a log directory name the same groups.
    listed.dedup_by(|one, other| one.group == other.group);
    if json {
        return output::print_json(&listed);
    }
    let mut table = output::table(&["GROUP", "STATE", "TYPE", "PROTOCOL"]);
    for row in &listed {
        table.add_row([&row.group, &row.state, &row.r#type, &row.protocol_type]);
    }
    output::print_table(&table)
}

#[derive(Serialize)]
struct Described {
    group: String,
    state: String,
    assignor: String,
    coordinator: i32,
    members: Vec<MemberRow>,
    partitions: Vec<PartitionRow>,
}

#[derive(Serialize)]
struct MemberRow {
    member: String,
    client: String,
    host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    partitions: usize,
    #[serde(skip)]
    places: Vec<TopicPartition>,
}

#[derive(Serialize)]
struct PartitionRow {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end: Option<i64>,
    lag: Option<i64>,
    member: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    metadata: String,
}

/// The state and members of a group, offsets not yet looked at.
fn describe_members(client: &mut Client, group: &str) -> Result<Described, Failure> {
    client.retry(|client| {
        let coordinator = groups::coordinator(client, group)?;
        let request = DescribeGroupsRequest {
            groups: [Cow::Borrowed(group)].into(),
            include_authorized_operations: false,
        };
        let answer = client.call(To::Broker(coordinator), i16::MAX, &request)?;
        let response = answer.read::<DescribeGroupsRequest<'_>>()?;
        let found = response.groups.first().ok_or_else(|| Failure::answer("no group in it"))?;
        Failure::check(format!("group {group}"), found.error_code, found.error_message.as_deref())?;
        let mut members = Vec::new();
        for member in &found.members {
            // Other kinds of groups (connectors) assign something else than partitions.
            let places = match found.protocol_type.as_ref() {
                "consumer" => parse_assignment(&member.member_assignment)?,
                _ => Vec::new(),
            };
            members.push(MemberRow {
                member: member.member_id.to_string(),
                client: member.client_id.to_string(),
                host: member.client_host.to_string(),
                instance: member.group_instance_id.as_deref().map(str::to_owned),
                partitions: places.len(),
                places,
            });
        }
        members.sort_by(|one, other| one.member.cmp(&other.member));
        Ok(Described {
            group: group.to_owned(),
            state: found.group_state.to_string(),
            assignor: found.protocol_data.to_string(),
            coordinator,
            members,
            partitions: Vec::new(),
        })
    })
}

fn describe(client: &mut Client, group: &str) -> Result<Described, Failure> {
    let mut described = describe_members(client, group)?;
    let committed = groups::committed(client, group)?;
    if described.state == "Dead" && committed.is_empty() {
        return Err(Failure::not_found(format!("group {group}: not found")));
    }
    let mut owners: BTreeMap<TopicPartition, String> = BTreeMap::new();
    for member in &described.members {
        owners.extend(member.places.iter().map(|place| (place.clone(), member.member.clone())));
    }
    let places: std::collections::BTreeSet<_> = committed.keys().chain(owners.keys()).cloned().collect();
    let ends = existing_ends(client, places.iter())?;
    for place in places {
        let commit = committed.get(&place);
        let end = ends.get(&place).copied();
        described.partitions.push(PartitionRow {
            committed: commit.map(|commit| commit.offset),
            end,
            lag: commit.zip(end).map(|(commit, end)| (end - commit.offset).max(0)),
            member: owners.get(&place).cloned(),
            metadata: commit.map_or(String::new(), |commit| commit.metadata.clone()),
            topic: place.0,
            partition: place.1,
        });
    }
    Ok(described)
}

/// The ends of those partitions that still exist: a commit outlives its topic for a while.
fn existing_ends<'a>(
    client: &mut Client,
    places: impl Iterator<Item = &'a TopicPartition>,
) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
    let leaders = cluster::leaders(&cluster::topics(client, None)?);
    let wanted = places.filter(|place| leaders.contains_key(place)).map(|place| (place.clone(), LATEST));
    cluster::offsets(client, &wanted.collect())
}

fn print(described: &[Described], json: bool) -> Result<(), Failure> {
    if json {
        return output::print_json(&described);
    }
    let shown = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
    for (at, group) in described.iter().enumerate() {
        let blank = if at > 0 { "\n" } else { "" };
        let assignor = if group.assignor.is_empty() { "-" } else { &group.assignor };
        output::print(&format!(
            "{blank}{}  {}  assignor {assignor}  coordinator {}  {} members\n",
            group.group,
            group.state,
            group.coordinator,
            group.members.len()
        ))?;
        let mut table = output::table(&["TOPIC", ">PARTITION", ">COMMITTED", ">END", ">LAG", "MEMBER"]);
        for row in &group.partitions {
            table.add_row([
                row.topic.clone(),
                row.partition.to_string(),
                shown(row.committed),
                shown(row.end),
                shown(row.lag),
                row.member.clone().unwrap_or("-".to_owned()),
            ]);
        }
        output::print_table(&table)?;
        let mut table = output::table(&["MEMBER", "CLIENT", "HOST", ">PARTITIONS"]);
        for member in &group.members {
            let count = member.partitions.to_string();
            table.add_row([&member.member, &member.client, &member.host, &count]);
        }
        if !group.members.is_empty() {
            output::print_table(&table)?;
        }
    }
    Ok(())
}

fn delete(client: &mut Client, group: &str) -> Result<(), Failure> {
    client.retry(|client| {
        let coordinator = groups::coordinator(client, group)?;
        let request = DeleteGroupsRequest { groups_names: [Cow::Borrowed(group)].into() };
        let answer = client.call(To::Broker(coordinator), i16::MAX, &request)?;
        let response = answer.read::<DeleteGroupsRequest<'_>>()?;
        let result = response.results.first().ok_or_else(|| Failure::answer("no group in it"))?;
        Failure::check(format!("group {group}"), result.error_code, None)
    })
}

/// Refuses a group with members: they would commit over what is set.
fn check_empty(client: &mut Client, group: &str) -> Result<(), Failure> {
    let described = match describe_members(client, group) {
        // A group that does not exist yet may be given offsets.
        Err(failure) if failure.exit == super::failure::NOT_FOUND => return Ok(()),
        other => other?,
    };
    match described.state.as_str() {
        "Empty" | "Dead" => Ok(()),
        state => {
            let count = described.members.len();
            Err(Failure::new(FAILED, format!("group {group} has {count} members ({state}): stop them first")))
        }
    }
}
