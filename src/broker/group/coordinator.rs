//! The coordinator: the partitions of `__consumer_offsets` it owns, and the way of a request through them.

use crate::protocol::{DecodeError, ErrorCode};

use super::{
    AppendId, DeletedTopic, Effect, GroupConfig, GroupRequest, GroupStats, Now, ReplyTo, TopicLookup,
};

/// The groups of one shard.
///
/// Order of calls: a partition is `load_begin`, any number of `load_batch`, `load_end` before its groups are served, and
/// `unload` when it goes away. After `handle`, `appended`, `on_timer`, `load_end` and `topics_deleted` the shard carries
/// out the effects in order, and asks `next_deadline_ms` anew.
pub struct GroupCoordinator {
    config: GroupConfig,
    offsets_partitions: i32,
}

impl GroupCoordinator {
    pub fn new(config: GroupConfig, offsets_partitions: i32) -> Self {
        GroupCoordinator { config, offsets_partitions }
    }

    /// An error means that the body is not what its header says: the connection has to be closed, as Kafka does.
    pub fn handle(
        &mut self,
        now: Now,
        request: GroupRequest<'_>,
        topics: &dyn TopicLookup,
        out: &mut Vec<Effect>,
    ) -> Result<(), DecodeError> {
        let _ = (now, request, topics, out, &self.config, self.offsets_partitions);
        Ok(())
    }

    /// An append is durable at this base offset, or has failed.
    pub fn appended(
        &mut self,
        now: Now,
        append: AppendId,
        result: Result<i64, ErrorCode>,
        out: &mut Vec<Effect>,
    ) {
        let _ = (now, append, result, out);
    }

    pub fn load_begin(&mut self, partition: i32) {
        let _ = partition;
    }

    /// Whole record batches of the partition, in the order of the log.
    pub fn load_batch(&mut self, partition: i32, batches: &[u8]) {
        let _ = (partition, batches);
    }

    pub fn load_end(&mut self, now: Now, partition: i32, out: &mut Vec<Effect>) {
        let _ = (now, partition, out);
    }

    pub fn unload(&mut self, partition: i32, out: &mut Vec<Effect>) {
        let _ = (partition, out);
    }

    pub fn topics_deleted(&mut self, now: Now, topics: &[DeletedTopic], out: &mut Vec<Effect>) {
        let _ = (now, topics, out);
    }

    /// Monotonic.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        None
    }

    pub fn on_timer(&mut self, now: Now, out: &mut Vec<Effect>) {
        let _ = (now, out);
    }

    /// The connection of a waiting request is gone.
    pub fn disconnected(&mut self, to: ReplyTo) {
        let _ = to;
    }

    pub fn stats(&self) -> GroupStats {
        GroupStats::default()
    }
}
