//! The group coordinator of one shard: Kafka's two group protocols and committed offsets, as state machines.
//!
//! No I/O, no clock, no random source: requests, completed appends, loaded records and the time come in as arguments,
//! [`Effect`]s go out. The shard routes each request to the coordinator whose `__consumer_offsets` partition the group
//! hashes to ([`partition_for`], [`routing`]), appends what the coordinator asks for, and reports every append back, in
//! order for each partition. Invariants: whatever is answered has been appended before; what a replay of the partition's
//! records rebuilds is what was live, but for rebalances under way; every request is answered exactly once; memory is
//! bounded by [`GroupLimits`].
//!
//! A group ([`entry::Group`]) speaks the classic protocol, where its members agree among themselves, or the newer one
//! ([`consumer`], KIP-848), where the coordinator decides, and moves from one to the other while it works.

use std::sync::Arc;

use super::transaction::Marker;
use crate::protocol::{ApiKey, ErrorCode, Uuid};

mod appends; // what is on its way into the log, and who waits for it
mod classic; // a classic group: members, state, protocols
mod cleanup; // expiry and deletion
mod consumer; // groups of the newer protocol (KIP-848)
mod coordinator; // the partitions, and the way of a request
mod entry; // a group: its protocol and its offsets
mod handlers; // one file an API
mod loading; // records back into groups
mod member;
mod offsets; // the committed offsets of a group
mod rebalance; // from state to state
mod records; // groups and offsets as records
pub mod routing; // which shard answers
#[cfg(test)]
mod tests;
mod timers;
mod transactions; // offsets that are part of transactions
mod turn; // what one call hands down

pub use consumer::{ASSIGNORS, ConsumerConfig, ConsumerOverrides, MigrationPolicy};
pub use coordinator::GroupCoordinator;

/// The topic that holds groups and offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Who waits for an answer; means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyTo(pub u64);

/// Names one append until [`GroupCoordinator::appended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendId(pub u64);

/// The time, twice: deadlines go by the monotonic clock, what is stored (commit and state timestamps) by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub monotonic_ms: i64,
    pub wall_ms: i64,
}

impl Now {
    /// The time since a stored one; none where that lies ahead. A wall clock that was set back must hold nothing up until it is
    /// there again: who waits for some time to pass takes none for long enough.
    pub fn since_ms(self, stored_ms: i64) -> Option<i64> {
        Some(self.wall_ms.saturating_sub(stored_ms)).filter(|passed_ms| *passed_ms >= 0)
    }
}

/// What the shard has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The response's body, without a header, in the request's version.
    Reply { to: ReplyTo, body: Vec<u8> },
    /// One record batch for a partition of `__consumer_offsets`. Appends of a partition are made in this order and
    /// reported by [`GroupCoordinator::appended`] in this order, once they are as durable as `durable` asks for.
    Append { partition: i32, append: AppendId, batch: Vec<u8>, durable: bool },
    /// A marker for a partition of `__consumer_offsets`, in the order of its appends and reported back like one.
    AppendMarker { partition: i32, append: AppendId, marker: Marker, durable: bool },
    /// What became of a marker that [`GroupCoordinator::end_transaction`] was asked for.
    Marked { to: ReplyTo, result: Result<(), ErrorCode> },
}

/// A request of one of the group APIs, its header already read.
#[derive(Clone, Copy, Debug)]
pub struct GroupRequest<'a> {
    pub api_key: ApiKey,
    pub version: i16,
    /// Empty where the header has none.
    pub client_id: &'a str,
    /// As Kafka shows it: `/127.0.0.1`.
    pub client_host: &'a str,
    pub body: &'a [u8],
    pub to: ReplyTo,
}

/// What the coordinator needs to know about topics.
pub trait TopicLookup {
    fn topic_id(&self, name: &str) -> Option<Uuid>;
    fn topic_name(&self, id: Uuid) -> Option<Arc<str>>;
    /// None if there is no such topic.
    fn partition_count(&self, name: &str) -> Option<i32>;
    /// All topics, in the order of their names.
    fn names(&self) -> Vec<Arc<str>>;
    /// Of the brokers that have a replica of the partition and a rack; sorted.
    fn racks(&self, _name: &str, _partition: i32) -> Vec<String> {
        Vec::new()
    }
    /// Rises with every change of the metadata.
    fn version(&self) -> u64 {
        0
    }
    /// The version in which a topic was last created.
    fn created_version(&self) -> u64 {
        0
    }
}

/// A topic that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    pub name: Arc<str>,
    pub id: Uuid,
}

/// Settings, under Kafka's names in the broker's configuration.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`
    pub max_size: i32,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max_bytes: i32,
    /// `ringlog.offsets.topic.ids`
    pub offset_topic_ids: bool,
    /// `offsets.retention.minutes`
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval_ms: i64,
    /// `message.max.bytes` of the offsets topic: a larger batch is refused before it is appended.
    pub batch_bytes_max: usize,
    /// Whether commits wait for stable media.
    pub durable: bool,
    /// Random, and another one after every start: member ids are drawn from it.
    pub member_id_seed: u128,
    pub consumer: ConsumerConfig,
    pub limits: GroupLimits,
}

/// What a coordinator holds at most. Full means an error to the client, never growth.
#[derive(Clone, Copy, Debug)]
pub struct GroupLimits {
    pub groups_max: usize,
    /// Of one group, besides `group.max.size`.
    pub members_max: usize,
    /// Member ids given out by one group and not used yet.
    pub pending_members_max: usize,
    /// Members' metadata and assignments, offsets and their metadata, all groups together.
    pub bytes_max: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: i32::MAX,
            offset_metadata_max_bytes: 4_096,
            offset_topic_ids: true,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
            offsets_retention_check_interval_ms: 600_000,
            batch_bytes_max: 1_048_588,
            durable: true,
            member_id_seed: 0,
            consumer: ConsumerConfig::default(),
            limits: GroupLimits::default(),
        }
    }
}

impl Default for GroupLimits {
    fn default() -> Self {
        GroupLimits {
            groups_max: 100_000,
            members_max: 10_000,
            pending_members_max: 10_000,
            bytes_max: 256 * 1024 * 1024,
        }
    }
}

/// What a coordinator holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStats {
    pub groups: usize,
    pub members: usize,
    pub offsets: usize,
    /// As [`GroupLimits::bytes_max`] counts them.
    pub bytes: usize,
    pub appends_pending: usize,
}

/// The partition of `__consumer_offsets` that holds a group: Java's `String.hashCode`, as Kafka makes it positive.
pub fn partition_for(group_id: &str, partitions: i32) -> i32 {
    java_hash(group_id).checked_abs().unwrap_or(0) % partitions.max(1)
}

/// Java's `String.hashCode`, over UTF-16 units.
pub(in crate::broker::group) fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}
