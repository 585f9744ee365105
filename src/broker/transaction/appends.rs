//! Appends under way: what each makes of a transaction once it is in the log, or not, and who hears of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::admission::AddedTo;
use super::metadata::Metadata;
use super::{AppendId, ReplyTo};
use crate::protocol::ErrorCode;

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub to: ReplyTo,
    pub version: i16,
}

/// One append, from the effect to its report.
#[derive(Debug)]
pub struct Pending {
    pub partition: i32,
    pub then: Then,
}

/// What the record says, and who waits for it.
#[derive(Debug)]
pub enum Then {
    /// A producer has begun.
    Started {
        id: Arc<str>,
        next: Box<Metadata>,
        waiting: Waiting,
    },
    Added {
        id: Arc<str>,
        next: Box<Metadata>,
        to: Vec<AddedTo>,
    },
    /// The end of a transaction is decided.
    Prepared {
        id: Arc<str>,
        next: Box<Metadata>,
        asked: Asked,
    },
    Completed {
        id: Arc<str>,
        next: Box<Metadata>,
    },
    Expired {
        ids: Vec<Arc<str>>,
    },
}

/// Who wanted a transaction to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// EndTxn.
    Producer(Waiting),
    /// InitProducerId of a producer that takes over; it has to come again.
    Successor(Waiting),
    /// Its time was over.
    Nobody,
}

#[derive(Debug, Default)]
pub struct Appends {
    pending: BTreeMap<AppendId, Pending>,
    next_id: u64,
}

impl Appends {
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    pub fn begin(&mut self, pending: Pending) -> AppendId {
        let id = AppendId(self.next_id);
        self.next_id += 1;
        self.pending.insert(id, pending);
        id
    }

    pub fn take(&mut self, id: AppendId) -> Option<Pending> {
        self.pending.remove(&id)
    }

    /// Takes what is under way for a partition, in order.
    pub fn take_partition(&mut self, partition: i32) -> Vec<Pending> {
        let of_partition = |(_, pending): &(&AppendId, &Pending)| pending.partition == partition;
        let ids: Vec<AppendId> = self.pending.iter().filter(of_partition).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.pending.remove(&id)).collect()
    }
}

/// How a failed append looks to a client of the coordinator.
pub fn coordinator_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator => error,
        _ => ErrorCode::UnknownServerError,
    }
}
