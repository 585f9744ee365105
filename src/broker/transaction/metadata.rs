//! What the log keeps of a transactional id, and how one state follows another. Pure: a transition makes the next
//! metadata from the last, and whether it comes to be is decided by the append of its record.

use std::collections::BTreeSet;

use super::TopicPartition;
use crate::protocol::ErrorCode;
use crate::record::batch::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID};

/// From this epoch on the producer gets a new id instead of a higher epoch: the one above is kept for fencing.
const EPOCH_EXHAUSTED: i16 = i16::MAX - 1;

/// The states, by their number in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Empty = 0,
    Ongoing = 1,
    PrepareCommit = 2,
    PrepareAbort = 3,
    CompleteCommit = 4,
    CompleteAbort = 5,
    /// On its way out: it expired.
    Dead = 6,
}

impl State {
    pub const ALL: [State; 7] = [
        State::Empty,
        State::Ongoing,
        State::PrepareCommit,
        State::PrepareAbort,
        State::CompleteCommit,
        State::CompleteAbort,
        State::Dead,
    ];

    pub fn from_code(code: i8) -> Option<State> {
        State::ALL.into_iter().find(|state| *state as i8 == code)
    }

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Ongoing => "Ongoing",
            State::PrepareCommit => "PrepareCommit",
            State::PrepareAbort => "PrepareAbort",
            State::CompleteCommit => "CompleteCommit",
            State::CompleteAbort => "CompleteAbort",
            State::Dead => "Dead",
        }
    }

    /// Whether an id in this state may be forgotten.
    pub fn may_expire(self) -> bool {
        matches!(self, State::Empty | State::CompleteCommit | State::CompleteAbort)
    }

    pub fn is_prepared(self) -> bool {
        matches!(self, State::PrepareCommit | State::PrepareAbort)
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Commit,
    Abort,
}

/// One transactional id as of its last record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub producer_id: i64,
    /// The one before the last change, for a client that repeats a request from before it.
    pub previous_producer_id: i64,
    /// Set while a transaction ends that uses up its producer's epochs.
    pub next_producer_id: i64,
    pub producer_epoch: i16,
    /// The epoch before the last increment, if a client may still come with it. Not in the log.
    pub last_producer_epoch: i16,
    pub timeout_ms: i32,
    pub state: State,
    pub partitions: BTreeSet<TopicPartition>,
    /// When the first partition was added; -1 before.
    pub start_timestamp_ms: i64,
    pub last_update_timestamp_ms: i64,
    /// The transaction version of the client that opened or ended it.
    pub client_version: i16,
}

impl Metadata {
    /// An id nobody has used yet.
    pub fn new(producer_id: i64, timeout_ms: i32, wall_ms: i64) -> Metadata {
        Metadata {
            producer_id,
            previous_producer_id: NO_PRODUCER_ID,
            next_producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            last_producer_epoch: NO_PRODUCER_EPOCH,
            timeout_ms,
            state: State::Empty,
            partitions: BTreeSet::new(),
            start_timestamp_ms: -1,
            last_update_timestamp_ms: wall_ms,
            client_version: 0,
        }
    }

    pub fn is_epoch_exhausted(&self) -> bool {
        is_epoch_exhausted(self.producer_epoch)
    }

    /// Whether it waits for a decision that comes from elsewhere (KIP-939): such a transaction has no timeout.
    pub fn is_two_phase(&self) -> bool {
        self.timeout_ms == i32::MAX
    }

    fn next(&self, state: State) -> Metadata {
        Metadata { state, previous_producer_id: self.producer_id, ..self.clone() }
    }

    /// The producer begins anew, one epoch up. `expected` is the epoch that it says it had.
    pub fn increment_epoch(
        &self,
        timeout_ms: i32,
        expected: Option<i16>,
        wall_ms: i64,
    ) -> Result<Metadata, ErrorCode> {
        if self.is_epoch_exhausted() {
            return Err(ErrorCode::UnknownServerError);
        }
        let (producer_epoch, last_producer_epoch) = match expected {
            None => (self.producer_epoch + 1, NO_PRODUCER_EPOCH),
            Some(expected) if self.producer_epoch == NO_PRODUCER_EPOCH || expected == self.producer_epoch => {
                (self.producer_epoch + 1, self.producer_epoch)
            }
            // It asks again: it has not heard of the increment.
            Some(expected) if expected == self.last_producer_epoch => {
                (self.producer_epoch, self.last_producer_epoch)
            }
            Some(_) => return Err(ErrorCode::ProducerFenced),
        };
        Ok(Metadata { producer_epoch, last_producer_epoch, ..self.emptied(timeout_ms, wall_ms) })
    }

    /// The producer begins anew under another id, as its epochs are used up.
    pub fn rotate_producer_id(
        &self,
        producer_id: i64,
        timeout_ms: i32,
        keep_last_epoch: bool,
        wall_ms: i64,
    ) -> Metadata {
        Metadata {
            producer_id,
            producer_epoch: 0,
            last_producer_epoch: if keep_last_epoch { self.producer_epoch } else { NO_PRODUCER_EPOCH },
            ..self.emptied(timeout_ms, wall_ms)
        }
    }

    fn emptied(&self, timeout_ms: i32, wall_ms: i64) -> Metadata {
        Metadata {
            timeout_ms,
            partitions: BTreeSet::new(),
            start_timestamp_ms: -1,
            last_update_timestamp_ms: wall_ms,
            ..self.next(State::Empty)
        }
    }

    /// These partitions belong to the transaction, which begins now unless it is open.
    pub fn add_partitions(
        &self,
        added: impl IntoIterator<Item = TopicPartition>,
        client_version: i16,
        wall_ms: i64,
    ) -> Metadata {
        let begins = self.state.may_expire();
        let mut next = Metadata {
            start_timestamp_ms: if begins { wall_ms } else { self.start_timestamp_ms },
            last_update_timestamp_ms: wall_ms,
            client_version,
            ..self.next(State::Ongoing)
        };
        next.partitions.extend(added);
        next
    }

    /// The end is decided. From version 2 on it takes an epoch of its own, and `next_producer_id` when that is the last.
    pub fn prepare_end(
        &self,
        outcome: Outcome,
        client_version: i16,
        next_producer_id: i64,
        wall_ms: i64,
    ) -> Metadata {
        let state = match outcome {
            Outcome::Commit => State::PrepareCommit,
            Outcome::Abort => State::PrepareAbort,
        };
        let bump = client_version >= 2;
        Metadata {
            producer_epoch: if bump { self.producer_epoch.saturating_add(1) } else { self.producer_epoch },
            last_producer_epoch: if bump { self.producer_epoch } else { self.last_producer_epoch },
            // An abort with nothing to abort begins and ends now.
            start_timestamp_ms: match self.state {
                State::Ongoing => self.start_timestamp_ms,
                _ => wall_ms,
            },
            next_producer_id,
            last_update_timestamp_ms: wall_ms,
            client_version,
            ..self.next(state)
        }
    }

    /// Every partition has its marker.
    pub fn complete(&self, wall_ms: i64) -> Metadata {
        let state = match self.state {
            State::PrepareCommit => State::CompleteCommit,
            _ => State::CompleteAbort,
        };
        let mut next = Metadata {
            next_producer_id: NO_PRODUCER_ID,
            partitions: BTreeSet::new(),
            last_update_timestamp_ms: wall_ms,
            ..self.next(state)
        };
        if self.client_version >= 2 && self.next_producer_id != NO_PRODUCER_ID {
            next.producer_id = self.next_producer_id;
            next.producer_epoch = 0;
        }
        next
    }
}

/// Whether a producer with this epoch has to take another id.
pub fn is_epoch_exhausted(epoch: i16) -> bool {
    epoch >= EPOCH_EXHAUSTED
}
