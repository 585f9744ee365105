//! The end of a transaction, told to every partition it touched, and the completion that follows.
//!
//! From the decision on there is no way back: what cannot be written now is tried again until it can be, or until there is nobody left
//! to tell.

use std::sync::Arc;

use tracing::{debug, warn};

use super::appends::Then;
use super::coordinator::TransactionCoordinator;
use super::expiry::Timer;
use super::metadata::{Metadata, State};
use super::*;
use crate::protocol::ErrorCode;

/// The rest before a marker, or a completion, is tried again.
const RETRY_MS: i64 = 100;

impl TransactionCoordinator {
    /// The end is decided: every partition gets its marker.
    pub(super) fn begin_marking(&mut self, now: Now, partition: i32, id: &Arc<str>, out: &mut Vec<Effect>) {
        let Some(transaction) = self.transaction(partition, id) else { return };
        transaction.pending = Some(match transaction.metadata.state {
            State::PrepareCommit => State::CompleteCommit,
            _ => State::CompleteAbort,
        });
        transaction.unmarked = transaction.metadata.partitions.clone();
        self.mark(now, partition, id, out);
    }

    /// Sends out the markers that are missing; when none is, the transaction is complete.
    pub(super) fn mark(&mut self, now: Now, index: i32, id: &Arc<str>, out: &mut Vec<Effect>) {
        let Some(partition) = self.partitions.get(&index) else { return };
        let Some(transaction) = partition.transactions.get(id) else { return };
        let metadata = &transaction.metadata;
        if !metadata.state.is_prepared() {
            return;
        }
        if transaction.unmarked.is_empty() {
            let next = metadata.complete(now.wall_ms);
            return self.append(now, index, id, next, |id, next| Then::Completed { id, next }, out);
        }
        let marker = Marker {
            producer_id: metadata.producer_id,
            producer_epoch: metadata.producer_epoch,
            commit: metadata.state == State::PrepareCommit,
            coordinator_epoch: partition.epoch,
            transaction_version: metadata.client_version,
        };
        let of = MarkersOf { partition: index, transactional_id: id.clone() };
        out.push(Effect::Mark { of, marker, partitions: transaction.unmarked.iter().cloned().collect() });
    }

    /// What became of the markers of one [`Effect::Mark`].
    pub fn marked(
        &mut self,
        now: Now,
        of: &MarkersOf,
        results: Vec<(TopicPartition, Result<(), ErrorCode>)>,
        out: &mut Vec<Effect>,
    ) {
        let (partition, id) = (of.partition, &of.transactional_id);
        let Some(transaction) = self.transaction(partition, id) else { return };
        for (marked, result) in results {
            let done = match result {
                Ok(()) => true,
                // The topic is gone, and what it held of the transaction with it.
                Err(ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId) => true,
                Err(error @ (ErrorCode::InvalidProducerEpoch | ErrorCode::TransactionCoordinatorFenced)) => {
                    // The partition has seen a later epoch, so what is open there is not of this transaction.
                    warn!(id = &**id, topic = &*marked.0, partition = marked.1, %error, "a marker was refused");
                    true
                }
                Err(error) => {
                    debug!(id = &**id, topic = &*marked.0, partition = marked.1, %error, "a marker has to wait");
                    false
                }
            };
            if done {
                transaction.unmarked.remove(&marked);
            }
        }
        if transaction.unmarked.is_empty() {
            self.mark(now, partition, id, out);
        } else {
            self.retry_later(now, partition, id);
        }
    }

    /// The completion is in the log, or not.
    pub(super) fn completed(
        &mut self,
        now: Now,
        partition: i32,
        id: &Arc<str>,
        next: Metadata,
        result: Result<(), ErrorCode>,
    ) {
        match result {
            Ok(()) => self.apply(now, partition, id, next),
            Err(error) => {
                debug!(id = &**id, %error, "a completed transaction waits for its record");
                self.retry_later(now, partition, id);
            }
        }
    }

    fn retry_later(&mut self, now: Now, partition: i32, id: &Arc<str>) {
        let timer = Timer::Mark { partition, id: id.clone() };
        self.timers.schedule(timer, now.monotonic_ms.saturating_add(RETRY_MS));
    }
}
