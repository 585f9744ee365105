//! The brokers that clients see. Usually this node is one broker. With `ringlog.routing=direct` each shard is a broker of
//! its own, so that clients themselves send each partition's bytes to the core that owns it; the node is the broker of its
//! first shard. The image knows nothing of it: there, all is on the node.

use super::image::Topic;
use super::placement::shard_of;

/// From one shard's broker id to the next one's: above the ids that nodes have by themselves.
pub const SHARD_ID_STEP: i32 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nodes {
    node_id: i32,
    /// One, or as many as there are shards.
    count: usize,
}

impl Nodes {
    /// The node as one broker.
    pub fn one(node_id: i32) -> Nodes {
        Nodes { node_id, count: 1 }
    }

    /// A broker for each shard. `node_id` is below [`SHARD_ID_STEP`].
    pub fn of_shards(node_id: i32, shards: usize) -> Nodes {
        Nodes { node_id, count: shards.max(1) }
    }

    /// The node's own id, which is that of the broker that coordinates and controls, too.
    pub fn node_id(self) -> i32 {
        self.node_id
    }

    pub fn count(self) -> usize {
        self.count
    }

    /// The broker that shard `shard` is seen as.
    pub fn of_shard(self, shard: usize) -> i32 {
        let shard = i32::try_from(shard % self.count).unwrap_or(0);
        self.node_id.saturating_add(shard.saturating_mul(SHARD_ID_STEP))
    }

    /// All ids, by shard.
    pub fn ids(self) -> impl Iterator<Item = i32> {
        (0..self.count).map(move |shard| self.of_shard(shard))
    }

    /// The shard that is seen as this broker.
    pub fn shard_of(self, id: i32) -> Option<usize> {
        self.ids().position(|own| own == id)
    }

    /// The broker that leads a partition, and is its one replica.
    pub fn leader(self, topic: &Topic, index: i32) -> i32 {
        self.of_shard(shard_of(topic, index, self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_shards_name_each_other() {
        let nodes = Nodes::of_shards(7, 3);
        assert_eq!(nodes.ids().collect::<Vec<_>>(), [7, 1007, 2007]);
        let shards: Vec<_> = [7, 1007, 2007, 3007, 8, -1].map(|id| nodes.shard_of(id)).into();
        assert_eq!(shards, [Some(0), Some(1), Some(2), None, None, None]);
    }

    #[test]
    fn one_broker_stands_for_all_shards() {
        let nodes = Nodes::one(1);
        assert_eq!((nodes.of_shard(0), nodes.of_shard(5), nodes.shard_of(1001)), (1, 1, None));
    }
}
