//! One state of the cluster.
//!
//! Invariants, kept by [`ClusterImage::apply`]: both topic maps hold the same topics; partitions are numbered from 0 without a
//! gap and have at least one replica; the counts match the topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::Uuid;

/// Everything the cluster knows. Cheap to clone (topics are shared), read through an `Arc`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterImage {
    pub cluster_id: Arc<str>,
    pub node_id: i32,
    /// The number of the last change in it.
    pub revision: u64,
    pub brokers: BTreeMap<i32, Broker>,
    /// Dynamic values by broker id; under "" those of all brokers.
    pub broker_configs: BTreeMap<String, BTreeMap<String, String>>,
    /// Own values of groups and of subscriptions to clients' metrics, by kind and name; none is empty.
    pub resource_configs: BTreeMap<ResourceKind, BTreeMap<String, BTreeMap<String, String>>>,
    /// None is empty.
    pub client_quotas: BTreeMap<QuotaEntity, BTreeMap<String, String>>,
    /// The first producer id that has not been given out.
    pub next_producer_id: i64,
    /// Finalized feature levels.
    pub features: BTreeMap<String, i16>,
    pub(super) topics: BTreeMap<Arc<str>, Arc<Topic>>,
    pub(super) topics_by_id: BTreeMap<Uuid, Arc<Topic>>,
    pub(super) partition_count: usize,
    /// Partitions by log directory.
    pub(super) directory_counts: BTreeMap<Uuid, usize>,
}

/// What has values of its own beside topics and brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    Group,
    ClientMetrics,
}

/// Whom a quota is for: names by `user`, `client-id` or `ip`; no name for all that have no quota of their own.
pub type QuotaEntity = BTreeMap<String, Option<String>>;

/// A broker as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Broker {
    pub id: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    pub endpoints: Vec<BrokerEndpoint>,
}

/// What clients of one listener connect to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BrokerEndpoint {
    pub listener: String,
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    pub name: Arc<str>,
    pub id: Uuid,
    pub partitions: Vec<Partition>,
    /// The topic's own values.
    pub configs: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// -1: none.
    pub leader: i32,
    pub leader_epoch: i32,
    /// Counts the changes of this partition.
    pub partition_epoch: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
    /// The id of the log directory that holds it on this node.
    pub directory: Uuid,
    /// Put on this shard by hand; `None`: by the rule of `placement`.
    pub shard: Option<u16>,
}

impl Topic {
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    pub fn is_internal(&self) -> bool {
        super::is_internal(&self.name)
    }
}

impl ClusterImage {
    /// Nothing but an identity.
    pub fn empty(cluster_id: &str, node_id: i32) -> ClusterImage {
        ClusterImage {
            cluster_id: cluster_id.into(),
            node_id,
            revision: 0,
            brokers: BTreeMap::new(),
            broker_configs: BTreeMap::new(),
            resource_configs: BTreeMap::new(),
            client_quotas: BTreeMap::new(),
            next_producer_id: 0,
            features: BTreeMap::new(),
            topics: BTreeMap::new(),
            topics_by_id: BTreeMap::new(),
            partition_count: 0,
            directory_counts: BTreeMap::new(),
        }
    }

    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topics_by_id.get(&id)
    }

    pub fn partition(&self, name: &str, index: i32) -> Option<(&Arc<Topic>, &Partition)> {
        let topic = self.topic(name)?;
        Some((topic, topic.partition(index)?))
    }

    /// All topics by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// What a step from `old` to this has removed, and what it has made or changed. Both are walked once, in order: most
    /// topics are the same object in both.
    pub fn changes_since(&self, old: &ClusterImage) -> (Vec<Arc<Topic>>, Vec<Arc<Topic>>) {
        let (mut removed, mut changed) = (Vec::new(), Vec::new());
        let (mut before, mut after) = (old.topics().peekable(), self.topics().peekable());
        loop {
            match (before.peek(), after.peek()) {
                (Some(was), Some(is)) if was.name == is.name => {
                    if was.id != is.id {
                        removed.push(Arc::clone(was));
                    }
                    if !Arc::ptr_eq(was, is) {
                        changed.push(Arc::clone(is));
                    }
                    before.next();
                    after.next();
                }
                (Some(was), is) if is.is_none_or(|is| was.name < is.name) => {
                    removed.push(Arc::clone(was));
                    before.next();
                }
                (_, Some(is)) => {
                    changed.push(Arc::clone(is));
                    after.next();
                }
                _ => return (removed, changed),
            }
        }
    }

    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// Partitions in one log directory.
    pub fn directory_partition_count(&self, directory: Uuid) -> usize {
        self.directory_counts.get(&directory).copied().unwrap_or(0)
    }

    /// The broker that answers for the cluster.
    pub fn controller_id(&self) -> i32 {
        self.node_id
    }

    /// Dynamic values of one broker.
    pub fn broker_config(&self, broker: i32) -> &BTreeMap<String, String> {
        self.named_broker_config(&broker.to_string())
    }

    /// Dynamic values of all brokers.
    pub fn default_broker_config(&self) -> &BTreeMap<String, String> {
        self.named_broker_config("")
    }

    /// Own values of a group or a subscription.
    pub fn resource_config(&self, kind: ResourceKind, name: &str) -> &BTreeMap<String, String> {
        static EMPTY: BTreeMap<String, String> = BTreeMap::new();
        self.resource_configs.get(&kind).and_then(|named| named.get(name)).unwrap_or(&EMPTY)
    }

    /// The groups or the subscriptions that have own values, by name.
    pub fn configured(
        &self,
        kind: ResourceKind,
    ) -> impl Iterator<Item = (&String, &BTreeMap<String, String>)> {
        self.resource_configs.get(&kind).into_iter().flatten()
    }

    fn named_broker_config(&self, name: &str) -> &BTreeMap<String, String> {
        static EMPTY: BTreeMap<String, String> = BTreeMap::new();
        self.broker_configs.get(name).unwrap_or(&EMPTY)
    }

    pub(super) fn insert_topic(&mut self, topic: Topic) {
        self.count(&topic, true);
        let topic = Arc::new(topic);
        self.topics_by_id.insert(topic.id, topic.clone());
        self.topics.insert(topic.name.clone(), topic);
    }

    pub(super) fn remove_topic(&mut self, id: Uuid) {
        if let Some(topic) = self.topics_by_id.remove(&id) {
            self.topics.remove(&topic.name);
            self.count(&topic, false);
        }
    }

    /// Puts a changed topic in the place of the one with its id.
    pub(super) fn replace_topic(&mut self, topic: Topic) {
        self.remove_topic(topic.id);
        self.insert_topic(topic);
    }

    fn count(&mut self, topic: &Topic, added: bool) {
        for partition in &topic.partitions {
            let count = self.directory_counts.entry(partition.directory).or_insert(0);
            if added {
                *count += 1;
                self.partition_count += 1;
            } else {
                *count -= 1;
                self.partition_count -= 1;
            }
        }
        self.directory_counts.retain(|_, count| *count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, id: u8) -> Topic {
        Topic { name: name.into(), id: Uuid([id; 16]), partitions: Vec::new(), configs: BTreeMap::new() }
    }

    #[test]
    fn a_step_from_one_image_to_the_next_is_told() {
        let mut old = ClusterImage::empty("c", 1);
        for (name, id) in [("a", 1), ("b", 2), ("d", 4), ("f", 6), ("z", 26)] {
            old.insert_topic(topic(name, id));
        }
        let mut new = old.clone();
        new.remove_topic(Uuid([1; 16]));
        new.remove_topic(Uuid([26; 16]));
        // Deleted and made anew, changed, and new.
        new.remove_topic(Uuid([4; 16]));
        new.insert_topic(topic("d", 44));
        new.replace_topic(topic("f", 6));
        new.insert_topic(topic("c", 3));
        let names = |list: Vec<Arc<Topic>>| -> Vec<(String, u8)> {
            list.iter().map(|topic| (topic.name.to_string(), topic.id.0[0])).collect()
        };
        let named = |list: &[(&str, u8)]| -> Vec<(String, u8)> {
            list.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect()
        };
        let (removed, changed) = new.changes_since(&old);
        assert_eq!(names(removed), named(&[("a", 1), ("d", 4), ("z", 26)]));
        assert_eq!(names(changed), named(&[("c", 3), ("d", 44), ("f", 6)]));
        assert_eq!(new.changes_since(&new.clone()), (Vec::new(), Vec::new()));
        let empty = ClusterImage::empty("c", 1);
        assert_eq!((new.changes_since(&empty).1.len(), empty.changes_since(&new).0.len()), (4, 4));
    }
}
