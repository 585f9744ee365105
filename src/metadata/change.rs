//! What can change, and what a change does to an image. Pure and total: a change is either applied whole or refused.
//!
//! Changes are written down by engines, so their form is a file format: fields may be added with a default, never renamed, and
//! what a change does to an image must never depend on configuration or on the program's version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::protocol::{ErrorCode, Uuid};

use super::MetadataError;
use super::image::{Broker, ClusterImage, Partition, QuotaEntity, ResourceKind, Topic};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    CreateTopic(NewTopic),
    DeleteTopic {
        #[serde(with = "uuid_text")]
        topic_id: Uuid,
    },
    /// Partitions behind the last one; `first` is the number of the first, so that it applies once.
    AddPartitions {
        #[serde(with = "uuid_text")]
        topic_id: Uuid,
        first: i32,
        partitions: Vec<NewPartition>,
    },
    /// Sets values, or takes them away where there is none.
    SetTopicConfig {
        #[serde(with = "uuid_text")]
        topic_id: Uuid,
        values: BTreeMap<String, Option<String>>,
    },
    /// The same for the broker with this id, or for all brokers.
    SetBrokerConfig {
        broker: Option<i32>,
        values: BTreeMap<String, Option<String>>,
    },
    /// The same for a group or a subscription to clients' metrics.
    SetResourceConfig {
        kind: ResourceKind,
        name: String,
        values: BTreeMap<String, Option<String>>,
    },
    /// The same for a quota; its values are numbers as text.
    SetClientQuota {
        entity: QuotaEntity,
        values: BTreeMap<String, Option<String>>,
    },
    /// Gives out the ids from `first` on, which has to be the next one.
    AllocateProducerIds {
        first: i64,
        count: i32,
    },
    /// A broker has started and tells where it is. Replaces what was known of it.
    RegisterBroker(Broker),
    /// A broker has started anew: what it led, it leads in a new epoch.
    BumpLeaderEpochs {
        broker: i32,
    },
    /// Where a partition is on this node. `shard: None` goes back to the rule.
    PlacePartition {
        #[serde(with = "uuid_text")]
        topic_id: Uuid,
        partition: i32,
        #[serde(with = "uuid_text")]
        directory: Uuid,
        shard: Option<u16>,
    },
    /// Finalizes a feature level; 0 takes it away.
    SetFeature {
        name: String,
        level: i16,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTopic {
    pub name: String,
    #[serde(with = "uuid_text")]
    pub topic_id: Uuid,
    pub partitions: Vec<NewPartition>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, String>,
}

/// A partition to be; its first replica leads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPartition {
    pub replicas: Vec<i32>,
    #[serde(with = "uuid_text")]
    pub directory: Uuid,
    /// Put on this shard by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u16>,
}

/// Ids as people and tools write them.
pub(super) mod uuid_text {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use crate::protocol::Uuid;

    pub fn serialize<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl ClusterImage {
    /// This image after `change`.
    pub fn apply(&self, change: &Change) -> Result<ClusterImage, MetadataError> {
        let mut image = self.clone();
        image.apply_in_place(change)?;
        Ok(image)
    }

    /// As [`ClusterImage::apply`]; an image that refuses the change stays as it was.
    pub(super) fn apply_in_place(&mut self, change: &Change) -> Result<(), MetadataError> {
        match change {
            Change::CreateTopic(topic) => self.create_topic(topic)?,
            Change::DeleteTopic { topic_id } => {
                self.known(*topic_id)?;
                self.remove_topic(*topic_id);
            }
            Change::AddPartitions { topic_id, first, partitions } => {
                self.add_partitions(*topic_id, *first, partitions)?;
            }
            Change::SetTopicConfig { topic_id, values } => {
                let mut topic = self.known(*topic_id)?.clone();
                set_values(&mut topic.configs, values);
                self.replace_topic(topic);
            }
            Change::SetBrokerConfig { broker, values } => {
                let name = broker.map(|id| id.to_string()).unwrap_or_default();
                let configs = self.broker_configs.entry(name).or_default();
                set_values(configs, values);
                self.broker_configs.retain(|_, configs| !configs.is_empty());
            }
            Change::SetResourceConfig { kind, name, values } => {
                let named = self.resource_configs.entry(*kind).or_default();
                set_values(named.entry(name.clone()).or_default(), values);
                named.retain(|_, configs| !configs.is_empty());
                self.resource_configs.retain(|_, named| !named.is_empty());
            }
            Change::SetClientQuota { entity, values } => {
                set_values(self.client_quotas.entry(entity.clone()).or_default(), values);
                self.client_quotas.retain(|_, quota| !quota.is_empty());
            }
            Change::AllocateProducerIds { first, count } => {
                let end = first
                    .checked_add(i64::from(*count))
                    .filter(|_| *first == self.next_producer_id && *count > 0);
                let moved = || {
                    MetadataError::new(
                        ErrorCode::InvalidProducerEpoch,
                        "the producer ids were given out already",
                    )
                };
                self.next_producer_id = end.ok_or_else(moved)?;
            }
            Change::RegisterBroker(broker) => {
                self.brokers.insert(broker.id, broker.clone());
            }
            Change::BumpLeaderEpochs { broker } => self.bump_leader_epochs(*broker),
            Change::PlacePartition { topic_id, partition, directory, shard } => {
                let mut topic = self.known(*topic_id)?.clone();
                let index = usize::try_from(*partition).ok();
                let place = index.and_then(|index| topic.partitions.get_mut(index));
                let place = place.ok_or_else(MetadataError::unknown_topic)?;
                place.directory = *directory;
                place.shard = *shard;
                self.replace_topic(topic);
            }
            Change::SetFeature { name, level: 0 } => drop(self.features.remove(name)),
            Change::SetFeature { name, level } => drop(self.features.insert(name.clone(), *level)),
        }
        self.revision += 1;
        Ok(())
    }

    fn known(&self, id: Uuid) -> Result<&Topic, MetadataError> {
        self.topics_by_id.get(&id).map(AsRef::as_ref).ok_or_else(MetadataError::unknown_topic_id)
    }

    fn create_topic(&mut self, new: &NewTopic) -> Result<(), MetadataError> {
        self.check_new_name(&new.name)?;
        if new.topic_id.is_zero() || self.topics_by_id.contains_key(&new.topic_id) {
            let message = format!("The topic id {} is taken or invalid.", new.topic_id);
            return Err(MetadataError::new(ErrorCode::InvalidRequest, message));
        }
        check_new_partitions(&new.partitions)?;
        let partitions = new.partitions.iter().map(Partition::from_new).collect();
        let name = new.name.as_str().into();
        self.insert_topic(Topic { name, id: new.topic_id, partitions, configs: new.configs.clone() });
        Ok(())
    }

    fn add_partitions(&mut self, id: Uuid, first: i32, new: &[NewPartition]) -> Result<(), MetadataError> {
        let mut topic = self.known(id)?.clone();
        let count = topic.partitions.len();
        if usize::try_from(first).ok() != Some(count) {
            let message =
                format!("Topic {} has {count} partition(s), so the next one is not {first}.", topic.name);
            return Err(MetadataError::new(ErrorCode::InvalidPartitions, message));
        }
        check_new_partitions(new)?;
        topic.partitions.extend(new.iter().map(Partition::from_new));
        self.replace_topic(topic);
        Ok(())
    }

    fn bump_leader_epochs(&mut self, broker: i32) {
        let led = |topic: &&std::sync::Arc<Topic>| {
            topic.partitions.iter().any(|partition| partition.leader == broker)
        };
        let topics: Vec<Topic> = self.topics.values().filter(led).map(|topic| Topic::clone(topic)).collect();
        for mut topic in topics {
            for partition in topic.partitions.iter_mut().filter(|partition| partition.leader == broker) {
                partition.leader_epoch = partition.leader_epoch.saturating_add(1);
                partition.partition_epoch = partition.partition_epoch.saturating_add(1);
            }
            self.replace_topic(topic);
        }
    }

    /// Whether a topic of this name may be created.
    pub(super) fn check_new_name(&self, name: &str) -> Result<(), MetadataError> {
        check_name(name)?;
        if self.topics.contains_key(name) {
            return Err(MetadataError::new(
                ErrorCode::TopicAlreadyExists,
                format!("Topic '{name}' already exists."),
            ));
        }
        match self.collision(name) {
            Some(other) => {
                let message = format!("Topic '{name}' collides with existing topic: {other}");
                Err(MetadataError::new(ErrorCode::InvalidTopicException, message))
            }
            None => Ok(()),
        }
    }

    /// A topic whose name differs in nothing but '.' and '_': their metrics would have one name.
    fn collision(&self, name: &str) -> Option<&str> {
        if !name.contains(['.', '_']) {
            return None;
        }
        let folded = |byte: u8| if byte == b'.' { b'_' } else { byte };
        let same = |other: &&str| {
            other.len() == name.len() && other.bytes().map(folded).eq(name.bytes().map(folded))
        };
        self.topics.keys().map(AsRef::as_ref).find(same)
    }
}

impl Partition {
    fn from_new(new: &NewPartition) -> Partition {
        Partition {
            leader: new.replicas.first().copied().unwrap_or(-1),
            leader_epoch: 0,
            partition_epoch: 0,
            replicas: new.replicas.clone(),
            isr: new.replicas.clone(),
            directory: new.directory,
            shard: new.shard,
        }
    }
}

fn check_new_partitions(partitions: &[NewPartition]) -> Result<(), MetadataError> {
    if partitions.is_empty() {
        let message = "Number of partitions was set to an invalid non-positive value.";
        return Err(MetadataError::new(ErrorCode::InvalidPartitions, message));
    }
    if partitions.iter().any(|partition| partition.replicas.is_empty()) {
        let message = "The manual partition assignment includes an empty replica list.";
        return Err(MetadataError::new(ErrorCode::InvalidReplicaAssignment, message));
    }
    Ok(())
}

/// Kafka's rule for topic names.
pub fn check_name(name: &str) -> Result<(), MetadataError> {
    const MAX_LENGTH: usize = 249;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fault = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > MAX_LENGTH {
        // No more of it than a name may have: it comes from a peer.
        let shown: String = name.chars().take(MAX_LENGTH + 1).collect();
        format!("the length of '{shown}' is longer than the max allowed length {MAX_LENGTH}")
    } else if !name.bytes().all(legal) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(MetadataError::new(ErrorCode::InvalidTopicException, format!("Topic name is invalid: {fault}")))
}

fn set_values(configs: &mut BTreeMap<String, String>, values: &BTreeMap<String, Option<String>>) {
    for (name, value) in values {
        match value {
            Some(value) => configs.insert(name.clone(), value.clone()),
            None => configs.remove(name),
        };
    }
}
