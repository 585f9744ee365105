//! `ringlog topic`: create, list, describe, alter, add partitions, delete.

mod describe;

use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;

use super::client::{Client, Connect, To};
use super::configs::{self, Resource};
use super::failure::Failure;
use super::{cluster, output};
use crate::protocol::messages::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use crate::protocol::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use crate::protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use crate::protocol::{ErrorCode, Uuid};

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
    /// Make a topic
    Create(Create),
    /// Name the topics
    List {
        /// With those of the brokers' own
        #[arg(long)]
        internal: bool,
    },
    /// Show partitions with their leaders, offsets and sizes, and the configs that were set
    Describe {
        #[arg(value_name = "TOPIC")]
        names: Vec<String>,
    },
    /// Set and remove configs
    Alter {
        #[arg(value_name = "TOPIC")]
        name: String,
        /// Set a config; may be repeated
        #[arg(long = "config", value_name = "KEY=VALUE", value_parser = configs::parse_pair)]
        set: Vec<(String, String)>,
        /// Go back to the inherited value; may be repeated
        #[arg(long = "delete-config", value_name = "KEY")]
        delete: Vec<String>,
        /// Only check
        #[arg(long)]
        validate_only: bool,
    },
    /// Give a topic more partitions
    AddPartitions {
        #[arg(value_name = "TOPIC")]
        name: String,
        /// How many it has then, all told
        #[arg(long, value_name = "COUNT")]
        partitions: i32,
        /// Only check
        #[arg(long)]
        validate_only: bool,
    },
    /// Delete topics and all their records
    Delete {
        #[arg(value_name = "TOPIC", required = true)]
        names: Vec<String>,
        /// A topic that is not there is no failure
        #[arg(long)]
        if_exists: bool,
    },
}

#[derive(ClapArgs)]
struct Create {
    #[arg(value_name = "TOPIC")]
    name: String,
    /// How many partitions; the broker's default without it
    #[arg(long, value_name = "COUNT", default_value_t = -1, hide_default_value = true)]
    partitions: i32,
    /// How many replicas; the broker's default without it
    #[arg(long, visible_alias = "replication-factor", value_name = "COUNT", default_value_t = -1)]
    #[arg(hide_default_value = true)]
    replication: i16,
    /// Set a config; may be repeated
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = configs::parse_pair)]
    configs: Vec<(String, String)>,
    /// Only check
    #[arg(long)]
    validate_only: bool,
    /// A topic that is there already is no failure
    #[arg(long)]
    if_not_exists: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let client = &mut Client::new(&args.connect);
    let json = args.json;
    match args.command {
        Command::Create(create) => run_create(client, &create, json),
        Command::List { internal } => list(client, internal, json),
        Command::Describe { names } => describe::run(client, &names, json),
        Command::Alter { name, set, delete, validate_only } => {
            configs::alter(client, &Resource::Topic(name.clone()), &set, &delete, validate_only)?;
            let done = if validate_only { "would be altered" } else { "altered" };
            output::done(json, &format!("topic {name} {done}"))
        }
        Command::AddPartitions { name, partitions, validate_only } => {
            add_partitions(client, &name, partitions, validate_only)?;
            let verb = if validate_only { "would have" } else { "has" };
            output::done(json, &format!("topic {name} {verb} {partitions} partitions"))
        }
        Command::Delete { names, if_exists } => {
            for name in &names {
                match delete(client, name) {
                    Err(failure) if if_exists && failure.code == Some(ErrorCode::UnknownTopicOrPartition) => {
                    }
                    other => other?,
                }
            }
            output::done(json, &format!("deleted {}", names.join(", ")))
        }
    }
}

#[derive(Serialize)]
struct Created {
    name: String,
    id: Option<Uuid22>,
    partitions: Option<i32>,
    replication: Option<i16>,
    created: bool,
}

/// A topic id as text.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
struct Uuid22(String);

impl Uuid22 {
    /// Brokers that know no topic ids answer zero.
    fn new(id: Uuid) -> Option<Uuid22> {
        (!id.is_zero()).then(|| Uuid22(id.to_string()))
    }
}

fn run_create(client: &mut Client, create: &Create, json: bool) -> Result<(), Failure> {
    let made = match create_topic(client, create) {
        Err(failure) if create.if_not_exists && failure.code == Some(ErrorCode::TopicAlreadyExists) => {
            let name = create.name.clone();
            Created { name, id: None, partitions: None, replication: None, created: false }
        }
        other => other?,
    };
    if json {
        return output::print_json(&made);
    }
    let name = &made.name;
    let what = match (create.validate_only, made.created) {
        (_, false) if !create.validate_only => "is there already",
        (true, _) => "could be created",
        _ => "created",
    };
    let size = made.partitions.map_or(String::new(), |count| format!(" with {count} partitions"));
    output::print(&format!("topic {name} {what}{size}\n"))
}

fn create_topic(client: &mut Client, create: &Create) -> Result<Created, Failure> {
    let configs = create.configs.iter().map(|(key, value)| CreatableTopicConfig {
        name: key.as_str().into(),
        value: Some(value.as_str().into()),
    });
    let topic = CreatableTopic {
        name: create.name.as_str().into(),
        num_partitions: create.partitions,
        replication_factor: create.replication,
        configs: configs.collect(),
        ..CreatableTopic::default()
    };
    let request = CreateTopicsRequest {
        topics: [topic].into(),
        timeout_ms: client.timeout_ms(),
        validate_only: create.validate_only,
    };
    client.retry(|client| {
        let answer = client.call(To::Any, i16::MAX, &request)?;
        let response = answer.read::<CreateTopicsRequest<'_>>()?;
        let topic = response.topics.first().ok_or_else(|| Failure::answer("no topic in it"))?;
        let name = create.name.clone();
        Failure::check(format!("topic {name}"), topic.error_code, topic.error_message.as_deref())?;
        Ok(Created {
            name,
            id: Uuid22::new(topic.topic_id),
            partitions: (topic.num_partitions >= 0).then_some(topic.num_partitions),
            replication: (topic.replication_factor >= 0).then_some(topic.replication_factor),
            created: !create.validate_only,
        })
    })
}

#[derive(Serialize)]
struct Listed {
    name: String,
    id: Option<Uuid22>,
    partitions: usize,
    internal: bool,
}

fn list(client: &mut Client, internal: bool, json: bool) -> Result<(), Failure> {
    let mut topics = cluster::topics(client, None)?;
    topics.retain(|topic| internal || !topic.is_internal);
    if json {
        let rows: Vec<_> = topics
            .into_iter()
            .map(|topic| Listed {
                id: Uuid22::new(topic.id),
                partitions: topic.partitions.len(),
                internal: topic.is_internal,
                name: topic.name,
            })
            .collect();
        return output::print_json(&rows);
    }
    let mut table = output::table(&["TOPIC", ">PARTITIONS"]);
    for topic in &topics {
        table.add_row([topic.name.clone(), topic.partitions.len().to_string()]);
    }
    output::print_table(&table)
}

fn add_partitions(client: &mut Client, name: &str, count: i32, validate_only: bool) -> Result<(), Failure> {
    let topic = CreatePartitionsTopic { name: name.into(), count, assignments: None };
    let request =
        CreatePartitionsRequest { topics: [topic].into(), timeout_ms: client.timeout_ms(), validate_only };
    client.retry(|client| {
        let answer = client.call(To::Any, i16::MAX, &request)?;
        let response = answer.read::<CreatePartitionsRequest<'_>>()?;
        let result = response.results.first().ok_or_else(|| Failure::answer("no topic in it"))?;
        Failure::check(format!("topic {name}"), result.error_code, result.error_message.as_deref())
    })
}

fn delete(client: &mut Client, name: &str) -> Result<(), Failure> {
    let request = DeleteTopicsRequest {
        topics: [DeleteTopicState { name: Some(name.into()), ..DeleteTopicState::default() }].into(),
        topic_names: [name.into()].into(),
        timeout_ms: client.timeout_ms(),
    };
    client.retry(|client| {
        let answer = client.call(To::Any, i16::MAX, &request)?;
        let response = answer.read::<DeleteTopicsRequest<'_>>()?;
        let result = response.responses.first().ok_or_else(|| Failure::answer("no topic in it"))?;
        Failure::check(format!("topic {name}"), result.error_code, result.error_message.as_deref())
    })
}
