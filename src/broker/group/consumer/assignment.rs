//! Which partitions of which topics: as a target, as what a member is given, and as it owns them.

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::Uuid;

/// Partitions by topic; no topic without one.
pub type TopicPartitions = BTreeMap<Uuid, BTreeSet<i32>>;

/// Partitions by topic, with the epoch in which each was given to its owner; no topic without one.
pub type PartitionEpochs = BTreeMap<Uuid, BTreeMap<i32, i32>>;

/// About what a partition costs in a target.
pub const PARTITION_BYTES: usize = 16;
/// About what it costs with its epoch, and its owner known.
pub const OWNED_PARTITION_BYTES: usize = 80;
/// About what a topic costs beside its partitions.
pub const TOPIC_BYTES: usize = 96;

pub fn without_epochs(partitions: &PartitionEpochs) -> TopicPartitions {
    partitions.iter().map(|(topic, epochs)| (*topic, epochs.keys().copied().collect())).collect()
}

pub fn with_epoch(partitions: &TopicPartitions, epoch: i32) -> PartitionEpochs {
    let of_topic = |indexes: &BTreeSet<i32>| indexes.iter().map(|&index| (index, epoch)).collect();
    partitions.iter().map(|(topic, indexes)| (*topic, of_topic(indexes))).collect()
}

pub fn pairs(partitions: &PartitionEpochs) -> impl Iterator<Item = (Uuid, i32)> {
    partitions.iter().flat_map(|(topic, epochs)| epochs.keys().map(|index| (*topic, *index)))
}

pub fn contains(partitions: &PartitionEpochs, topic: Uuid, index: i32) -> bool {
    partitions.get(&topic).is_some_and(|epochs| epochs.contains_key(&index))
}

/// Whether all that somebody says to own is in `partitions`.
pub fn covers(partitions: &PartitionEpochs, owned: &TopicPartitions) -> bool {
    let mut all = owned.iter().flat_map(|(topic, indexes)| indexes.iter().map(|index| (*topic, *index)));
    all.all(|(topic, index)| contains(partitions, topic, index))
}
