//! From what a client asks for to a [`Change`], checked in Kafka's order and refused in Kafka's words. Nothing is changed
//! here: `validate_only` is planning without proposing.
//!
//! Plan against [`Embedded::latest`](super::Embedded::latest), which knows the changes that are on their way.

use std::collections::BTreeMap;

use crate::config::{self, Alteration, BrokerConfig};
use crate::protocol::{ErrorCode, Uuid};

use super::change::{Change, NewPartition, NewTopic};
use super::image::{ClusterImage, ResourceKind, Topic};
use super::nodes::Nodes;
use super::{MetadataError, OFFSETS_TOPIC, TRANSACTION_TOPIC};

/// Partitions that one request may create, over all its topics, as in Kafka.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

/// Groups, or subscriptions to metrics, that may have values of their own.
const RESOURCES_MAX: usize = 10_000;

pub struct Planner<'a> {
    pub image: &'a ClusterImage,
    pub config: &'a BrokerConfig,
    /// The brokers that the client sees.
    pub nodes: Nodes,
    /// The log directories of this node that work.
    pub directories: &'a [Uuid],
}

/// The shard that a partition is put on by hand; `None`: by the rule of [`super::placement`].
type Home = Option<u16>;

/// One topic of CreateTopics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicRequest<'a> {
    pub name: &'a str,
    /// -1: the broker's default.
    pub num_partitions: i32,
    /// -1: the broker's default.
    pub replication_factor: i16,
    /// Manual: partition and its replicas. Not with the two above.
    pub assignments: Vec<(i32, Vec<i32>)>,
    pub configs: Vec<(&'a str, Option<&'a str>)>,
}

impl Planner<'_> {
    /// `topic_id` is made up by the caller, at random.
    pub fn create_topic(&self, request: &TopicRequest<'_>, topic_id: Uuid) -> Result<Change, MetadataError> {
        if request.name == "__cluster_metadata" {
            let message = "Creation of internal topic __cluster_metadata is prohibited.";
            return Err(MetadataError::new(ErrorCode::InvalidRequest, message));
        }
        self.image.check_new_name(request.name)?;
        let configs = self.own_values(&request.configs)?;
        let homes = match request.assignments.is_empty() {
            true => self.default_assignment(request.num_partitions, request.replication_factor)?,
            false => self.manual_assignment(request)?,
        };
        self.check_limits(1, homes.len())?;
        let partitions = self.place(homes)?;
        Ok(Change::CreateTopic(NewTopic { name: request.name.to_owned(), topic_id, partitions, configs }))
    }

    /// A topic that a client asked for and that did not exist; internal topics get the form they need.
    pub fn auto_create_topic(&self, name: &str, topic_id: Uuid) -> Result<Change, MetadataError> {
        let groups = &self.config.groups;
        let transactions = &self.config.transactions;
        let segment_bytes;
        let min_isr;
        let (num_partitions, factor, configs): (i32, i16, Vec<(&str, Option<&str>)>) = match name {
            OFFSETS_TOPIC => {
                segment_bytes = groups.offsets_topic_segment_bytes.to_string();
                let configs = [
                    ("cleanup.policy", "compact"),
                    ("compression.type", "producer"),
                    ("segment.bytes", segment_bytes.as_str()),
                ];
                let factor = groups.offsets_topic_replication_factor;
                (
                    groups.offsets_topic_partitions,
                    factor,
                    configs.map(|(name, value)| (name, Some(value))).to_vec(),
                )
            }
            TRANSACTION_TOPIC => {
                segment_bytes = transactions.log_segment_bytes.to_string();
                min_isr = i32::from(self.attainable(transactions.log_replication_factor))
                    .min(transactions.log_min_isr)
                    .to_string();
                let configs = [
                    ("cleanup.policy", "compact"),
                    ("compression.type", "uncompressed"),
                    ("min.insync.replicas", min_isr.as_str()),
                    ("segment.bytes", segment_bytes.as_str()),
                    ("unclean.leader.election.enable", "false"),
                ];
                let factor = transactions.log_replication_factor;
                (
                    transactions.log_partitions,
                    factor,
                    configs.map(|(name, value)| (name, Some(value))).to_vec(),
                )
            }
            _ => (-1, -1, Vec::new()),
        };
        let replication_factor = if factor == -1 { -1 } else { self.attainable(factor) };
        let request =
            TopicRequest { name, num_partitions, replication_factor, assignments: Vec::new(), configs };
        self.create_topic(&request, topic_id)
    }

    pub fn delete_topic_by_name(&self, name: &str) -> Result<Change, MetadataError> {
        self.check_deletion()?;
        let topic = self.image.topic(name).ok_or_else(MetadataError::unknown_topic)?;
        Ok(Change::DeleteTopic { topic_id: topic.id })
    }

    pub fn delete_topic_by_id(&self, topic_id: Uuid) -> Result<Change, MetadataError> {
        self.check_deletion()?;
        self.image.topic_by_id(topic_id).ok_or_else(MetadataError::unknown_topic_id)?;
        Ok(Change::DeleteTopic { topic_id })
    }

    /// `count` is the number of partitions there shall be; `assignments` the replicas of each new one, or `None`.
    pub fn add_partitions(
        &self,
        name: &str,
        count: i32,
        assignments: Option<&[Vec<i32>]>,
    ) -> Result<Change, MetadataError> {
        let topic = self.image.topic(name).ok_or_else(MetadataError::unknown_topic)?;
        let first = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let invalid = |message: String| Err(MetadataError::new(ErrorCode::InvalidPartitions, message));
        if count == first {
            return invalid(format!("Topic already has {first} partition(s)."));
        }
        if count < first {
            return invalid(format!(
                "The topic {name} currently has {first} partition(s); {count} would not be an increase."
            ));
        }
        let additional = usize::try_from(count - first).unwrap_or(usize::MAX);
        self.check_limits(0, additional)?;
        let homes = match assignments {
            None => vec![None; additional],
            Some(assignments) => {
                if assignments.len() != additional {
                    let message = format!(
                        "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
                        assignments.len()
                    );
                    return Err(MetadataError::new(ErrorCode::InvalidReplicaAssignment, message));
                }
                let factor = replication_factor(topic);
                let homes = assignments.iter().map(|replicas| self.check_assignment(replicas, factor));
                homes.collect::<Result<_, _>>()?
            }
        };
        let partitions = self.place(homes)?;
        Ok(Change::AddPartitions { topic_id: topic.id, first, partitions })
    }

    pub fn alter_topic(&self, name: &str, alterations: &[Alteration<'_>]) -> Result<Change, MetadataError> {
        let topic = self.config_topic(name)?;
        let values = config::alter_topic(self.config, &topic.configs, alterations)?;
        Ok(Change::SetTopicConfig { topic_id: topic.id, values })
    }

    /// AlterConfigs, the old way: what is not named goes back to its default.
    pub fn replace_topic_config(
        &self,
        name: &str,
        values: &[(&str, Option<&str>)],
    ) -> Result<Change, MetadataError> {
        let topic = self.config_topic(name)?;
        let own = self.own_values(values)?;
        Ok(Change::SetTopicConfig { topic_id: topic.id, values: replacement(&topic.configs, own) })
    }

    /// `broker`: the resource name, "" for all brokers.
    pub fn alter_broker(
        &self,
        broker: &str,
        alterations: &[Alteration<'_>],
    ) -> Result<Change, MetadataError> {
        let broker = self.config_broker(broker)?;
        let current = self.broker_values(broker);
        let values = config::alter_broker(self.config, current, alterations, broker.is_none())?;
        Ok(Change::SetBrokerConfig { broker, values })
    }

    /// As [`Planner::replace_topic_config`].
    pub fn replace_broker_config(
        &self,
        broker: &str,
        values: &[(&str, Option<&str>)],
    ) -> Result<Change, MetadataError> {
        let broker = self.config_broker(broker)?;
        let set = |&(name, value)| Alteration { name, op: config::AlterOp::Set, value };
        let alterations: Vec<_> = values.iter().map(set).collect();
        let changes = config::alter_broker(self.config, &BTreeMap::new(), &alterations, broker.is_none())?;
        let own = changes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Ok(Change::SetBrokerConfig { broker, values: replacement(self.broker_values(broker), own) })
    }

    pub fn alter_resource(
        &self,
        kind: ResourceKind,
        name: &str,
        alterations: &[Alteration<'_>],
    ) -> Result<Change, MetadataError> {
        let current = self.image.resource_config(kind, name);
        let values = self.altered_resource(kind, name, current, alterations)?;
        Ok(Change::SetResourceConfig { kind, name: name.to_owned(), values })
    }

    /// As [`Planner::replace_topic_config`].
    pub fn replace_resource_config(
        &self,
        kind: ResourceKind,
        name: &str,
        values: &[(&str, Option<&str>)],
    ) -> Result<Change, MetadataError> {
        let set = |&(name, value)| Alteration { name, op: config::AlterOp::Set, value };
        let alterations: Vec<_> = values.iter().map(set).collect();
        let changes = self.altered_resource(kind, name, &BTreeMap::new(), &alterations)?;
        let own = changes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let values = replacement(self.image.resource_config(kind, name), own);
        Ok(Change::SetResourceConfig { kind, name: name.to_owned(), values })
    }

    fn altered_resource(
        &self,
        kind: ResourceKind,
        name: &str,
        current: &BTreeMap<String, String>,
        alterations: &[Alteration<'_>],
    ) -> Result<config::Changes, MetadataError> {
        let invalid = |message: String| Err(MetadataError::new(ErrorCode::InvalidRequest, message));
        if name.is_empty() {
            let message = match kind {
                ResourceKind::Group => "Default group resources are not allowed.",
                ResourceKind::ClientMetrics => "Subscription name can't be empty",
            };
            return invalid(message.to_owned());
        }
        let known = self.image.resource_configs.get(&kind);
        if known.is_some_and(|known| known.len() >= RESOURCES_MAX && !known.contains_key(name)) {
            return invalid(format!("No more than {RESOURCES_MAX} of them may have values of their own."));
        }
        Ok(match kind {
            ResourceKind::Group => config::alter_group(self.config, current, alterations)?,
            ResourceKind::ClientMetrics => config::alter_client_metrics(current, alterations)?,
        })
    }

    pub fn allocate_producer_ids(&self, count: i32) -> Change {
        Change::AllocateProducerIds { first: self.image.next_producer_id, count }
    }

    fn config_topic(&self, name: &str) -> Result<&Topic, MetadataError> {
        if name.is_empty() {
            let message = "Default topic resources are not allowed.";
            return Err(MetadataError::new(ErrorCode::InvalidRequest, message));
        }
        let unknown = || {
            let message = format!("The topic '{name}' does not exist.");
            MetadataError::new(ErrorCode::UnknownTopicOrPartition, message)
        };
        self.image.topic(name).map(AsRef::as_ref).ok_or_else(unknown)
    }

    fn config_broker(&self, broker: &str) -> Result<Option<i32>, MetadataError> {
        if broker.is_empty() {
            return Ok(None);
        }
        match broker.parse::<i32>() {
            // The shards of a node share its values.
            Ok(id) if self.nodes.shard_of(id).is_some() => Ok(Some(self.nodes.node_id())),
            Ok(id) => {
                let message =
                    format!("Unexpected broker id, expected {}, but received {id}", self.image.node_id);
                Err(MetadataError::new(ErrorCode::InvalidRequest, message))
            }
            Err(_) => {
                let message = format!("Node id must be an integer, but it is: {broker}");
                Err(MetadataError::new(ErrorCode::InvalidRequest, message))
            }
        }
    }

    fn broker_values(&self, broker: Option<i32>) -> &BTreeMap<String, String> {
        match broker {
            Some(id) => self.image.broker_config(id),
            None => self.image.default_broker_config(),
        }
    }

    fn own_values(&self, values: &[(&str, Option<&str>)]) -> Result<BTreeMap<String, String>, MetadataError> {
        let nulls: Vec<_> =
            values.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
        if !nulls.is_empty() {
            let message = format!("Null value not supported for topic configs: {}", nulls.join(", "));
            return Err(MetadataError::new(ErrorCode::InvalidConfig, message));
        }
        let owned =
            |&(name, value): &(&str, Option<&str>)| (name.to_owned(), value.unwrap_or_default().to_owned());
        let own = values.iter().map(owned).collect();
        config::check_topic(self.config, &own)?;
        Ok(own)
    }

    fn check_deletion(&self) -> Result<(), MetadataError> {
        match self.config.delete_topics {
            true => Ok(()),
            false => {
                let message = "Topic deletion is disabled.";
                Err(MetadataError::new(ErrorCode::TopicDeletionDisabled, message))
            }
        }
    }

    fn default_assignment(&self, num_partitions: i32, factor: i16) -> Result<Vec<Home>, MetadataError> {
        let count = if num_partitions == -1 { self.config.num_partitions } else { num_partitions };
        let factor = if factor == -1 { self.config.default_replication_factor } else { factor };
        if factor < 1 {
            let message = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(MetadataError::new(ErrorCode::InvalidReplicationFactor, message));
        }
        let count = usize::try_from(count).ok().filter(|&count| count > 0).ok_or_else(|| {
            let message = "Number of partitions was set to an invalid non-positive value.";
            MetadataError::new(ErrorCode::InvalidPartitions, message)
        })?;
        if count > MAX_PARTITIONS_PER_REQUEST {
            let message = "Excessively large number of partitions per request.";
            return Err(MetadataError::new(ErrorCode::PolicyViolation, message));
        }
        if factor > 1 {
            let message = format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be \
                 reached because only 1 broker(s) are registered."
            );
            return Err(MetadataError::new(ErrorCode::InvalidReplicationFactor, message));
        }
        Ok(vec![None; count])
    }

    fn manual_assignment(&self, request: &TopicRequest<'_>) -> Result<Vec<Home>, MetadataError> {
        if request.num_partitions != -1 {
            let message = "A manual partition assignment was specified, but numPartitions was not set to -1.";
            return Err(MetadataError::new(ErrorCode::InvalidRequest, message));
        }
        if request.replication_factor != -1 {
            let message =
                "A manual partition assignment was specified, but replication factor was not set to -1.";
            return Err(MetadataError::new(ErrorCode::InvalidRequest, message));
        }
        let invalid = |message: String| Err(MetadataError::new(ErrorCode::InvalidReplicaAssignment, message));
        let mut assignments: BTreeMap<i32, &Vec<i32>> = BTreeMap::new();
        for (partition, replicas) in &request.assignments {
            if assignments.insert(*partition, replicas).is_some() {
                return invalid(format!(
                    "Found multiple manual partition assignments for partition {partition}"
                ));
            }
        }
        let factor = assignments.values().next().map_or(1, |replicas| replicas.len());
        let homes = assignments.values().map(|replicas| self.check_assignment(replicas, factor));
        let homes = homes.collect::<Result<_, _>>()?;
        if !assignments.keys().zip(0..).all(|(&partition, expected)| partition == expected) {
            return invalid("partitions should be a consecutive 0-based integer sequence".to_owned());
        }
        Ok(homes)
    }

    /// Whether a partition may have these replicas beside others with `factor`; and where it then lives.
    pub fn check_assignment(&self, replicas: &[i32], factor: usize) -> Result<Home, MetadataError> {
        let invalid = |message: String| Err(MetadataError::new(ErrorCode::InvalidReplicaAssignment, message));
        if replicas.is_empty() {
            return invalid("The manual partition assignment includes an empty replica list.".to_owned());
        }
        let known = |id: &i32| self.nodes.shard_of(*id).is_some();
        let mut sorted = replicas.to_vec();
        sorted.sort_unstable();
        for (index, id) in sorted.iter().enumerate() {
            if !known(id) {
                return invalid(format!(
                    "The manual partition assignment includes broker {id}, but no such broker is registered."
                ));
            }
            if index > 0 && sorted.get(index - 1) == Some(id) {
                return invalid(format!(
                    "The manual partition assignment includes the broker {id} more than once."
                ));
            }
        }
        if replicas.len() != factor {
            return invalid(format!(
                "The manual partition assignment includes a partition with {} replica(s), but this is not consistent \
                 with previous partitions, which have {factor} replica(s).",
                replicas.len()
            ));
        }
        if replicas.len() > 1 {
            return invalid(format!(
                "The manual partition assignment includes brokers {replicas:?}, which are shards of one node: a partition \
                 lives on one of them."
            ));
        }
        let shard = self.nodes.shard_of(replicas[0]).and_then(|shard| u16::try_from(shard).ok());
        Ok(shard.filter(|_| self.nodes.count() > 1))
    }

    fn check_limits(&self, topics: usize, partitions: usize) -> Result<(), MetadataError> {
        let refuse = |what: &str, limit: usize| {
            let message = format!("This would exceed the limit of {limit} {what} (ringlog.{what}.max).");
            Err(MetadataError::new(ErrorCode::PolicyViolation, message))
        };
        if self.image.topic_count().saturating_add(topics) > self.config.topics_max {
            return refuse("topics", self.config.topics_max);
        }
        if self.image.partition_count().saturating_add(partitions) > self.config.partitions_max {
            return refuse("partitions", self.config.partitions_max);
        }
        Ok(())
    }

    /// Each partition goes to the directory that has the fewest.
    fn place(&self, homes: Vec<Home>) -> Result<Vec<NewPartition>, MetadataError> {
        let count = |&id: &Uuid| (self.image.directory_partition_count(id), id);
        let mut counts: Vec<(usize, Uuid)> = self.directories.iter().map(count).collect();
        let mut partitions = Vec::with_capacity(homes.len());
        for shard in homes {
            let Some(fewest) = counts.iter_mut().min_by_key(|(count, _)| *count) else {
                let message = "No log directory of this broker is online.";
                return Err(MetadataError::new(ErrorCode::KafkaStorageError, message));
            };
            fewest.0 += 1;
            partitions.push(NewPartition {
                replicas: vec![self.nodes.node_id()],
                directory: fewest.1,
                shard,
            });
        }
        Ok(partitions)
    }

    /// Internal topics take the factor they can get.
    fn attainable(&self, factor: i16) -> i16 {
        factor.min(1)
    }
}

fn replication_factor(topic: &Topic) -> usize {
    topic.partitions.first().map_or(1, |partition| partition.replicas.len())
}

/// `own` in the place of `current`: what is not in it any more is taken away.
fn replacement(
    current: &BTreeMap<String, String>,
    own: BTreeMap<String, String>,
) -> BTreeMap<String, Option<String>> {
    let mut values: BTreeMap<_, _> = current.keys().map(|name| (name.clone(), None)).collect();
    values.extend(own.into_iter().map(|(name, value)| (name, Some(value))));
    values
}
