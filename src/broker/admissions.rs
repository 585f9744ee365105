//! Transactional appends that wait to be part of their transaction (KIP-890): the shard that owns the partition asks the transaction
//! coordinator before the first append of a transaction, and keeps what comes meanwhile in its order.
//!
//! Once a partition has an open transaction of the producer nothing is asked any more, until a marker ends it. An
//! answer cannot be outrun by the marker of the same transaction: the coordinator has given it before it decided
//! anything else, and mail keeps its order. An append that then has to wait for room asks again.

use std::collections::{BTreeMap, VecDeque};

use super::Broker;
use super::mail::{Admit, Admitted, Answer, Produce, Query, Rejected, Task};
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::record::BatchHeader;
use crate::storage::{LogId, Storage};

/// From this version of Produce on the broker adds the partition itself: transaction version 2.
const ADDS_PARTITIONS: i16 = 12;
/// From this version on clients know that a transaction can be beyond repair.
const KNOWS_ABORTABLE: i16 = 11;

/// Appends of one partition that wait, by producer and epoch, each in order.
#[derive(Default)]
pub struct Admissions {
    waiting: BTreeMap<(i64, i16), VecDeque<Task<'static>>>,
}

impl Admissions {
    /// All that wait; none does any more.
    pub fn take_all(&mut self) -> Vec<Task<'static>> {
        std::mem::take(&mut self.waiting).into_values().flatten().collect()
    }
}

/// What an append has to do before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// It waits; whether the coordinator has to be asked, or has been for an earlier one.
    Wait {
        ask: bool,
    },
    Refused(ErrorCode),
}

/// Whether a batch may be appended now.
pub fn gate(
    storage: &Storage,
    log: LogId,
    admissions: &Admissions,
    produce: &Produce<'_>,
    verification: bool,
) -> Gate {
    // What is no batch is refused by its validation.
    let Ok(header) = BatchHeader::parse(&produce.records) else { return Gate::Open };
    if !header.is_transactional() || header.is_control() {
        return Gate::Open;
    }
    if produce.transactional_id.is_none() {
        return Gate::Refused(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    if produce.version < ADDS_PARTITIONS && !verification {
        return Gate::Open;
    }
    if admissions.waiting.contains_key(&(header.producer_id, header.producer_epoch)) {
        return Gate::Wait { ask: false };
    }
    let entry = storage.producers(log).and_then(|producers| producers.entry(header.producer_id));
    match entry {
        Some(entry) if header.producer_epoch < entry.producer_epoch => {
            Gate::Refused(ErrorCode::InvalidProducerEpoch)
        }
        Some(entry)
            if entry.current_txn_first_offset.is_some() && entry.producer_epoch == header.producer_epoch =>
        {
            Gate::Open
        }
        _ => Gate::Wait { ask: true },
    }
}

impl Broker {
    /// Keeps an append until the coordinator has spoken; beyond the limit it is refused, and the client tries again.
    pub(super) fn await_admission(&mut self, io: &mut impl Io, task: Task<'_>, ask: bool) -> Option<Answer> {
        let Query::Produce(produce) = &task.query else { return None };
        let bytes = produce.records.len();
        if self.stalled_bytes + bytes > super::stalled::STALLED_BYTES_MAX {
            return Some(Answer::Error(ErrorCode::RequestTimedOut));
        }
        let header = BatchHeader::parse(&produce.records).ok()?;
        let (producer_id, producer_epoch) = (header.producer_id, header.producer_epoch);
        let admit = Admit {
            shard: self.shard,
            topic_id: task.topic_id,
            partition: task.partition,
            transactional_id: produce.transactional_id.clone()?,
            producer_id,
            producer_epoch,
            add: produce.version >= ADDS_PARTITIONS,
        };
        let partition = self.partitions.find(task.topic_id, task.partition)?;
        let waiting = partition.admissions.waiting.entry((producer_id, producer_epoch)).or_default();
        waiting.push_back(task.into_owned());
        self.stalled_bytes += bytes;
        if ask {
            self.ask_admission(io, admit);
        }
        None
    }

    /// The coordinator has spoken.
    pub(super) fn admitted(&mut self, io: &mut impl Io, admitted: Admitted) {
        let Some(partition) = self.partitions.find(admitted.topic_id, admitted.partition) else { return };
        let key = (admitted.producer_id, admitted.producer_epoch);
        let Some(waiting) = partition.admissions.waiting.remove(&key) else { return };
        let mut first = true;
        for task in waiting {
            self.stalled_bytes -= task.produce_bytes();
            let (gather, index) = (task.gather, task.index);
            let answer = match admitted.result {
                Err(error) => Some(refused(&task, error)),
                // The first opens the transaction here; those behind it find it open, or ask again where it could not.
                Ok(()) if std::mem::take(&mut first) => {
                    super::handlers::produce::append_admitted(self, io, task)
                }
                Ok(()) => super::handlers::execute(self, io, task),
            };
            if let Some(answer) = answer {
                self.answer(io, gather, index, answer);
            }
        }
    }
}

/// Whether a batch that was just admitted may begin its producer's part of a transaction here. With transaction version 2
/// every transaction begins at sequence number 0, so that another one says that the first batches are missing.
pub fn begins_well(storage: &Storage, log: LogId, produce: &Produce<'_>, header: &BatchHeader) -> bool {
    let entry = storage.producers(log).and_then(|producers| producers.entry(header.producer_id));
    let is_new = entry.is_none_or(|entry| entry.batches().is_empty());
    produce.version < ADDS_PARTITIONS || !is_new || header.base_sequence == 0
}

/// What a client is told when its append is not admitted.
fn refused(task: &Task<'_>, error: ErrorCode) -> Answer {
    let Query::Produce(produce) = &task.query else { return Answer::Error(error) };
    let error = client_error(error, produce.version < KNOWS_ABORTABLE);
    match error {
        ErrorCode::InvalidTxnState => {
            rejected(error, "Partition was not added to the transaction".to_string())
        }
        ErrorCode::NetworkException
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => unverified(error),
        ErrorCode::ConcurrentTransactions if produce.version < ADDS_PARTITIONS => unverified(error),
        error => Answer::Error(error),
    }
}

/// The coordinator's errors as those who append know them. `old`: the client does not know TRANSACTION_ABORTABLE.
pub fn client_error(error: ErrorCode, old: bool) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if old => ErrorCode::InvalidTxnState,
        error => error,
    }
}

/// Something that passes: producers try again when they hear this.
fn unverified(error: ErrorCode) -> Answer {
    let underlying = error.name();
    rejected(
        ErrorCode::NotEnoughReplicas,
        format!(
            "Unable to verify the partition has been added to the transaction. Underlying error: {underlying}"
        ),
    )
}

fn rejected(error: ErrorCode, message: String) -> Answer {
    Answer::Rejected(Box::new(Rejected { error, message, records: Vec::new(), log_start_offset: -1 }))
}

impl Task<'_> {
    /// The records of an append.
    pub(super) fn produce_bytes(&self) -> usize {
        match &self.query {
            Query::Produce(produce) => produce.records.len(),
            _ => 0,
        }
    }
}
