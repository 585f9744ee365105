//! The transaction coordinator of one shard: transactional ids, their producers and what each has open, as one state
//! machine (KIP-98, KIP-890).
//!
//! No I/O, no clock: requests, completed appends, written markers, loaded records and the time come in as arguments,
//! [`Effect`]s go out. `broker::transactions` carries them out and reports back. An id belongs to the partition of
//! `__transaction_state` it hashes to ([`partition_for`]); everything that is answered stands in that partition's log
//! first. Invariants: what a replay of the log rebuilds is what was live, but for answers under way; an id has at most one
//! change under way, and what meets it waits or is told CONCURRENT_TRANSACTIONS; a transaction whose end is decided is
//! carried to its end, whatever fails on the way and however often; every request is answered exactly once; memory is
//! bounded by [`TransactionLimits`].
//!
//! Times that are stored are the wall clock's. What runs out runs out by the monotonic clock, so that a wall clock that
//! jumps neither ends a transaction early nor lets it hang.

use std::sync::Arc;

use crate::protocol::{ApiKey, ErrorCode};

mod admission; // partitions added to transactions: by clients, by appends
mod appends; // what is on its way into the log
mod coordinator; // the partitions, and the way of a request
mod describe; // DescribeTransactions, ListTransactions
mod end_txn; // EndTxn, and the fencing of what has to end
mod expiry; // transactions that took too long, ids nobody uses
mod init_producer_id;
mod loading; // records back into transactions
mod markers; // the end, told to every partition
mod metadata; // what the log keeps of an id, and its transitions
mod records; // the same as bytes
#[cfg(test)]
mod tests;

pub use admission::Admission;
pub use coordinator::TransactionCoordinator;
pub use metadata::{Metadata, State};

/// The topic that holds them.
pub use crate::metadata::TRANSACTION_TOPIC;

/// The transaction version that is offered to clients (KIP-890): every transaction has an epoch of its own.
pub const TRANSACTION_VERSION: i16 = 2;

/// A partition of a transaction.
pub type TopicPartition = (Arc<str>, i32);

/// Who waits for an answer; means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyTo(pub u64);

/// Who waits to be admitted; means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdmitTo(pub u64);

/// Names one append until [`TransactionCoordinator::appended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendId(pub u64);

/// The time, twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub monotonic_ms: i64,
    pub wall_ms: i64,
}

/// The end of a transaction as each of its partitions is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub commit: bool,
    pub coordinator_epoch: i32,
    /// From 2 on the epoch is above that of the transaction's records.
    pub transaction_version: i16,
}

/// Whose markers they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkersOf {
    pub partition: i32,
    pub transactional_id: Arc<str>,
}

/// What the shard has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The response's body, without a header, in the request's version.
    Reply { to: ReplyTo, body: Vec<u8> },
    /// The answer to [`TransactionCoordinator::admit`].
    Admitted { to: AdmitTo, result: Result<(), ErrorCode> },
    /// One record batch for a partition of `__transaction_state`. Appends of a partition are made in this order and
    /// reported by [`TransactionCoordinator::appended`] in this order.
    Append { partition: i32, append: AppendId, batch: Vec<u8>, durable: bool },
    /// A marker for each of these partitions; [`TransactionCoordinator::marked`] hears of all of them at once.
    Mark { of: MarkersOf, marker: Marker, partitions: Vec<TopicPartition> },
}

/// A request of one of the transaction APIs, its header already read.
#[derive(Clone, Copy, Debug)]
pub struct TransactionRequest<'a> {
    pub api_key: ApiKey,
    pub version: i16,
    pub body: &'a [u8],
    pub to: ReplyTo,
}

/// What the coordinator needs of the rest of the broker.
pub trait Surroundings {
    fn has_partition(&self, topic: &str, partition: i32) -> bool;
    /// The partition of `__consumer_offsets` that holds a group.
    fn offsets_partition(&self, group_id: &str) -> i32;
    /// A producer id nobody has; none while a block of them is being set aside.
    fn next_producer_id(&mut self) -> Option<i64>;
}

/// Settings, under Kafka's names in the broker's configuration.
#[derive(Clone, Debug)]
pub struct TransactionConfig {
    /// `transaction.max.timeout.ms`
    pub max_timeout_ms: i32,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`
    pub abort_interval_ms: i64,
    /// `transactional.id.expiration.ms`
    pub id_expiration_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`
    pub expiration_interval_ms: i64,
    /// `transaction.two.phase.commit.enable`
    pub two_phase_commit: bool,
    /// `add.partitions.to.txn.retry.backoff.max.ms`: how long an append waits for the end of the transaction before.
    pub admission_wait_ms: i64,
    /// Whether what is answered waits for stable media.
    pub durable: bool,
    pub limits: TransactionLimits,
}

/// What a coordinator holds at most. Full means an error to the client, never growth.
#[derive(Clone, Copy, Debug)]
pub struct TransactionLimits {
    pub ids_max: usize,
    /// Of one transaction.
    pub partitions_max: usize,
    /// Appends that wait for one id.
    pub waiting_max: usize,
    /// Ids and partitions, all together.
    pub bytes_max: usize,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        TransactionConfig {
            max_timeout_ms: 900_000,
            abort_interval_ms: 10_000,
            id_expiration_ms: 7 * 24 * 60 * 60 * 1_000,
            expiration_interval_ms: 60 * 60 * 1_000,
            two_phase_commit: false,
            admission_wait_ms: 100,
            durable: true,
            limits: TransactionLimits::default(),
        }
    }
}

impl Default for TransactionLimits {
    fn default() -> Self {
        TransactionLimits {
            ids_max: 1_000_000,
            partitions_max: 100_000,
            waiting_max: 10_000,
            bytes_max: 256 * 1024 * 1024,
        }
    }
}

/// What a coordinator holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionStats {
    pub ids: usize,
    pub ongoing: usize,
    /// As [`TransactionLimits::bytes_max`] counts them.
    pub bytes: usize,
    pub appends_pending: usize,
}

/// The partition of `__transaction_state` that holds an id.
pub fn partition_for(transactional_id: &str, partitions: i32) -> i32 {
    super::group::partition_for(transactional_id, partitions)
}
