//! What several subcommands ask of a cluster: its topics and leaders, the offsets at the ends of partitions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use clap::ValueEnum;

use super::client::{Client, To};
use super::failure::Failure;
use crate::protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use crate::protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use crate::protocol::{ErrorCode, Uuid};

/// What ListOffsets takes for the ends of a log.
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;

/// A partition of a topic.
pub type TopicPartition = (String, i32);

#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
    pub is_internal: bool,
    pub partitions: Vec<Partition>,
}

#[derive(Clone, Debug)]
pub struct Partition {
    pub index: i32,
    /// `None`: there is none at the moment.
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
}

/// The topics of these names, or all, by name. Learns the brokers. An unknown name is a failure.
pub fn topics(client: &mut Client, names: Option<&[String]>) -> Result<Vec<Topic>, Failure> {
    client.retry(|client| {
        let asked = names.map(|names| {
            let topic = |name: &String| MetadataRequestTopic {
                name: Some(Cow::Owned(name.clone())),
                ..MetadataRequestTopic::default()
            };
            names.iter().map(topic).collect()
        });
        let request =
            MetadataRequest { topics: asked, allow_auto_topic_creation: false, ..MetadataRequest::default() };
        let answer = client.call(To::Any, i16::MAX, &request)?;
        let response = answer.read::<MetadataRequest<'_>>()?;
        for broker in &response.brokers {
            client.learn(broker.node_id, &broker.host, broker.port);
        }
        let mut topics = Vec::new();
        for topic in &response.topics {
            let name = topic.name.as_deref().unwrap_or_default().to_owned();
            Failure::check(format!("topic {name}"), topic.error_code, None)?;
            let partitions = topic.partitions.iter().map(|partition| Partition {
                index: partition.partition_index,
                leader: (partition.leader_id >= 0).then_some(partition.leader_id),
                leader_epoch: partition.leader_epoch,
                replicas: partition.replica_nodes.to_vec(),
                isr: partition.isr_nodes.to_vec(),
            });
            let mut partitions: Vec<_> = partitions.collect();
            partitions.sort_by_key(|partition| partition.index);
            topics.push(Topic { name, id: topic.topic_id, is_internal: topic.is_internal, partitions });
        }
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(topics)
    })
}

/// Asks for the brokers alone.
pub fn learn_brokers(client: &mut Client) -> Result<(), Failure> {
    topics(client, Some(&[])).map(|_| ())
}

/// The topic of this name.
pub fn topic(client: &mut Client, name: &str) -> Result<Topic, Failure> {
    let mut found = topics(client, Some(&[name.to_owned()]))?;
    found.pop().ok_or_else(|| Failure::not_found(format!("topic {name}: not found")))
}

/// Who leads each partition; a partition without a leader is left out.
pub fn leaders(topics: &[Topic]) -> BTreeMap<TopicPartition, i32> {
    let mut leaders = BTreeMap::new();
    for topic in topics {
        for partition in &topic.partitions {
            if let Some(leader) = partition.leader {
                leaders.insert((topic.name.clone(), partition.index), leader);
            }
        }
    }
    leaders
}

/// Asks the leaders for the offsets at the given timestamps ([`EARLIEST`], [`LATEST`] or a time in ms). A time behind the
/// last record has no offset: -1.
pub fn offsets(
    client: &mut Client,
    wanted: &BTreeMap<TopicPartition, i64>,
) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
    isolated_offsets(client, wanted, Isolation::ReadUncommitted)
}

/// Which records a reader is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Isolation {
    #[value(name = "read_uncommitted")]
    ReadUncommitted,
    /// The end is the last stable offset: where the first open transaction begins.
    #[value(name = "read_committed")]
    ReadCommitted,
}

impl Isolation {
    /// As it stands in requests.
    pub fn level(self) -> i8 {
        i8::from(self == Isolation::ReadCommitted)
    }
}

/// As [`offsets`], where the end is that of the isolation level.
pub fn isolated_offsets(
    client: &mut Client,
    wanted: &BTreeMap<TopicPartition, i64>,
    isolation: Isolation,
) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
    let mut names: Vec<String> = wanted.keys().map(|(topic, _)| topic.clone()).collect();
    names.dedup();
    client.retry(|client| {
        let leaders = leaders(&topics(client, Some(&names))?);
        let mut by_leader: BTreeMap<i32, Wanted<'_>> = BTreeMap::new();
        for (place, &timestamp) in wanted {
            let Some(&leader) = leaders.get(place) else {
                Failure::check(named(place), ErrorCode::LeaderNotAvailable.code(), None)?;
                continue;
            };
            let topics = by_leader.entry(leader).or_default();
            topics.entry(place.0.as_str()).or_default().push((place.1, timestamp));
        }
        let mut found = BTreeMap::new();
        for (leader, topics) in by_leader {
            offsets_of_leader(client, leader, &topics, isolation, &mut found)?;
        }
        Ok(found)
    })
}

/// Partitions and timestamps, by topic.
type Wanted<'a> = BTreeMap<&'a str, Vec<(i32, i64)>>;

fn offsets_of_leader(
    client: &mut Client,
    leader: i32,
    topics: &Wanted<'_>,
    isolation: Isolation,
    found: &mut BTreeMap<TopicPartition, i64>,
) -> Result<(), Failure> {
    let topics = topics.iter().map(|(&name, partitions)| {
        let partition = |&(partition_index, timestamp): &(i32, i64)| ListOffsetsPartition {
            partition_index,
            timestamp,
            ..ListOffsetsPartition::default()
        };
        ListOffsetsTopic { name: name.into(), partitions: partitions.iter().map(partition).collect() }
    });
    let request = ListOffsetsRequest {
        replica_id: -1,
        isolation_level: isolation.level(),
        topics: topics.collect(),
        timeout_ms: client.timeout_ms(),
    };
    let answer = client.call(To::Broker(leader), i16::MAX, &request)?;
    let response = answer.read::<ListOffsetsRequest<'_>>()?;
    for topic in &response.topics {
        for partition in &topic.partitions {
            let place = (topic.name.to_string(), partition.partition_index);
            Failure::check(named(&place), partition.error_code, None)?;
            found.insert(place, partition.offset);
        }
    }
    Ok(())
}

/// `topic-partition`, as Kafka writes it.
pub fn named(place: &TopicPartition) -> String {
    format!("{}-{}", place.0, place.1)
}
