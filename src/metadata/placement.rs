//! Which shard owns a partition.
//!
//! The rule is part of the data's meaning over a run, not of what is on disk: segments do not depend on it, so the number of
//! shards may change between two starts.

use crate::protocol::Uuid;

use super::image::{Partition, Topic};
use super::{OFFSETS_TOPIC, TRANSACTION_TOPIC};

/// Where groups and transactions are coordinated.
pub const COORDINATOR_SHARD: usize = 0;

/// The shard of partition `index`: with the coordinators, whose topics are theirs; where it was put by hand; else by the rule.
pub fn shard_of(topic: &Topic, index: i32, shards: usize) -> usize {
    if matches!(&*topic.name, OFFSETS_TOPIC | TRANSACTION_TOPIC) {
        return COORDINATOR_SHARD;
    }
    match topic.partition(index) {
        Some(Partition { shard: Some(shard), .. }) => usize::from(*shard) % shards.max(1),
        _ => default_shard(topic.id, index, shards),
    }
}

/// A stable hash of topic and partition: partitions that follow each other lie on shards that follow each other, so a topic is spread
/// evenly; where it begins depends on its id.
pub fn default_shard(topic_id: Uuid, index: i32, shards: usize) -> usize {
    let shards = shards.max(1) as u64;
    let start = hash(topic_id) % shards;
    let index = u64::from(index.unsigned_abs());
    // Below `shards`, which came from a usize.
    ((start + index) % shards) as usize
}

/// splitmix64 over both halves; its constants are the usual ones, and must never change.
fn hash(id: Uuid) -> u64 {
    let half = |range: std::ops::Range<usize>| {
        id.0[range].iter().fold(0_u64, |number, &byte| number << 8 | u64::from(byte))
    };
    mix(mix(half(0..8)) ^ half(8..16))
}

fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_spread_evenly_and_for_good() {
        let id: Uuid = "AAAAAAAAAAAAAAAAAAAAAQ".parse().unwrap();
        let shards: Vec<_> = (0..8).map(|index| default_shard(id, index, 4)).collect();
        // Recorded: another order would move partitions between shards under a running direct routing.
        assert_eq!(shards, [2, 3, 0, 1, 2, 3, 0, 1]);
        assert_eq!(default_shard(id, 5, 1), 0);
        assert_eq!(default_shard(id, 5, 0), 0);
    }

    #[test]
    fn topics_of_one_partition_are_spread() {
        let mut counts = [0; 8];
        for number in 0..8000_u64 {
            let mut id = [7; 16];
            id[8..].copy_from_slice(&number.to_be_bytes());
            counts[default_shard(Uuid(id), 0, 8)] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }
}
