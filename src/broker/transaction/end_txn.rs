//! EndTxn, versions 0 to 5, and the aborts that the coordinator decides by itself.
//!
//! Up to version 4 (transaction version 1) the producer keeps its epoch, and a repeated request is told by the state it finds.
//! From version 5 on (transaction version 2) every end takes the next epoch: the answer brings it, a request from the epoch
//! before is a repetition, and an abort with nothing to abort is fine. An abort of the coordinator's own always takes the
//! next epoch, which fences the producer.

use std::sync::Arc;

use super::appends::{Asked, Then, Waiting};
use super::coordinator::{TransactionCoordinator, reply};
use super::init_producer_id::FENCE;
use super::metadata::{Metadata, Outcome, State};
use super::*;
use crate::protocol::messages::end_txn_request::EndTxnRequest;
use crate::protocol::messages::end_txn_response::EndTxnResponse;
use crate::protocol::{DecodeError, ErrorCode, Message, Reader};
use crate::record::batch::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID};

/// From this version on a fenced producer is told so.
const PRODUCER_FENCED_VERSION: i16 = 2;
/// From this version on every transaction has an epoch of its own.
const EPOCH_BUMP_VERSION: i16 = 5;

/// What a request finds.
enum Found {
    /// It was done before; the producer as it is now.
    Done { producer_id: i64, producer_epoch: i16 },
    /// It is to be done; the transaction takes the next epoch or not.
    Decide { client_version: i16 },
}

impl TransactionCoordinator {
    pub(super) fn end_txn(
        &mut self,
        now: Now,
        request: &TransactionRequest<'_>,
        surroundings: &mut dyn Surroundings,
        out: &mut Vec<Effect>,
    ) -> Result<(), DecodeError> {
        let message = EndTxnRequest::decode_prefix(&mut Reader::new(request.body), request.version)?;
        let asked = Asked::Producer(request.waiting());
        if let Err(error) = self.try_end(now, &message, request.waiting(), surroundings, out) {
            answer(asked, Err(error), out);
        }
        Ok(())
    }

    fn try_end(
        &mut self,
        now: Now,
        message: &EndTxnRequest<'_>,
        waiting: Waiting,
        surroundings: &mut dyn Surroundings,
        out: &mut Vec<Effect>,
    ) -> Result<(), ErrorCode> {
        if message.transactional_id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let outcome = if message.committed { Outcome::Commit } else { Outcome::Abort };
        let (partition, id, transaction) = self.find(&message.transactional_id)?;
        let pending = transaction.pending.is_some();
        let metadata = &transaction.metadata;
        let producer = (message.producer_id, message.producer_epoch);
        let found = if waiting.version >= EPOCH_BUMP_VERSION {
            find_with_epochs(metadata, pending, producer, outcome)?
        } else {
            find_without_epochs(metadata, pending, producer, outcome)?
        };
        match found {
            Found::Done { producer_id, producer_epoch } => {
                answer(Asked::Producer(waiting), Ok((producer_id, producer_epoch)), out);
                Ok(())
            }
            Found::Decide { client_version } => {
                let asked = Asked::Producer(waiting);
                let end = (outcome, client_version);
                self.decide(now, partition, &id, end, asked, surroundings, out)
            }
        }
    }

    /// Aborts an open transaction in an epoch that its producer does not have.
    pub(super) fn fence(
        &mut self,
        now: Now,
        partition: i32,
        id: &Arc<str>,
        asked: Asked,
        surroundings: &mut dyn Surroundings,
        out: &mut Vec<Effect>,
    ) -> Result<(), ErrorCode> {
        self.decide(now, partition, id, (FENCE, TRANSACTION_VERSION), asked, surroundings, out)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one decision")]
    fn decide(
        &mut self,
        now: Now,
        partition: i32,
        id: &Arc<str>,
        (outcome, client_version): (Outcome, i16),
        asked: Asked,
        surroundings: &mut dyn Surroundings,
        out: &mut Vec<Effect>,
    ) -> Result<(), ErrorCode> {
        let Some(transaction) = self.transaction(partition, id) else {
            return Err(ErrorCode::InvalidProducerIdMapping);
        };
        let mut next_producer_id = NO_PRODUCER_ID;
        if client_version >= TRANSACTION_VERSION && transaction.metadata.is_epoch_exhausted() {
            next_producer_id = surroundings.next_producer_id().ok_or(ErrorCode::CoordinatorLoadInProgress)?;
        }
        let next = transaction.metadata.prepare_end(outcome, client_version, next_producer_id, now.wall_ms);
        self.append(now, partition, id, next, |id, next| Then::Prepared { id, next, asked }, out);
        Ok(())
    }

    /// The decision is in the log, or not.
    #[expect(clippy::too_many_arguments, reason = "the parts of one append")]
    pub(super) fn prepared(
        &mut self,
        now: Now,
        partition: i32,
        id: &Arc<str>,
        next: Metadata,
        asked: Asked,
        result: Result<(), ErrorCode>,
        out: &mut Vec<Effect>,
    ) {
        if let Err(error) = result {
            self.abandon(partition, id);
            // An open transaction keeps its timeout: what could not be written now is tried again.
            return answer(asked, Err(error), out);
        }
        self.stop_timeout(partition, id);
        let after = next.complete(now.wall_ms);
        self.apply(now, partition, id, next);
        // Decided is as good as done: the rest cannot fail, only take its time.
        answer(asked, Ok((after.producer_id, after.producer_epoch)), out);
        self.begin_marking(now, partition, id, out);
    }
}

/// By transaction version 1: the epoch is the producer's, and what is there already decides.
fn find_without_epochs(
    metadata: &Metadata,
    pending: bool,
    (producer_id, producer_epoch): (i64, i16),
    outcome: Outcome,
) -> Result<Found, ErrorCode> {
    if metadata.producer_id != producer_id {
        return Err(ErrorCode::InvalidProducerIdMapping);
    }
    if metadata.producer_epoch != producer_epoch {
        return Err(ErrorCode::ProducerFenced);
    }
    if pending {
        return Err(ErrorCode::ConcurrentTransactions);
    }
    match (metadata.state, outcome) {
        (State::Ongoing, _) => Ok(Found::Decide { client_version: 0 }),
        (State::CompleteCommit, Outcome::Commit) | (State::CompleteAbort, Outcome::Abort) => {
            Ok(Found::Done { producer_id: NO_PRODUCER_ID, producer_epoch: NO_PRODUCER_EPOCH })
        }
        (State::PrepareCommit, Outcome::Commit) | (State::PrepareAbort, Outcome::Abort) => {
            Err(ErrorCode::ConcurrentTransactions)
        }
        _ => Err(ErrorCode::InvalidTxnState),
    }
}

/// By transaction version 2: the epoch tells a repetition from the next end.
fn find_with_epochs(
    metadata: &Metadata,
    pending: bool,
    (producer_id, producer_epoch): (i64, i16),
    outcome: Outcome,
) -> Result<Found, ErrorCode> {
    let same = metadata.producer_epoch == producer_epoch;
    // An end by version 1 takes no epoch: whoever has the one before was fenced by it.
    let repeated = metadata.client_version >= TRANSACTION_VERSION
        && i32::from(metadata.producer_epoch) == i32::from(producer_epoch) + 1;
    // Its epochs were used up by the end it repeats, and the producer has another id now.
    let repeated_in_last_epoch = metadata.previous_producer_id == producer_id
        && producer_epoch == i16::MAX - 1
        && metadata.producer_epoch == 0;
    if pending {
        return Err(ErrorCode::ConcurrentTransactions);
    }
    if metadata.producer_id != producer_id && !repeated_in_last_epoch {
        return Err(ErrorCode::InvalidProducerIdMapping);
    }
    let valid = match metadata.state {
        State::Ongoing | State::Empty | State::Dead => same,
        State::PrepareCommit | State::PrepareAbort => repeated,
        State::CompleteCommit | State::CompleteAbort => repeated || repeated_in_last_epoch || same,
    };
    if !valid {
        return Err(ErrorCode::ProducerFenced);
    }
    let is_repetition = repeated || repeated_in_last_epoch;
    let decide = Ok(Found::Decide { client_version: TRANSACTION_VERSION });
    match (metadata.state, outcome, is_repetition) {
        (State::Ongoing, ..) => decide,
        (State::CompleteCommit, Outcome::Commit, true) | (State::CompleteAbort, Outcome::Abort, true) => {
            let (producer_id, producer_epoch) = (metadata.producer_id, metadata.producer_epoch);
            Ok(Found::Done { producer_id, producer_epoch })
        }
        (State::PrepareCommit, Outcome::Commit, _) | (State::PrepareAbort, Outcome::Abort, _) => {
            Err(ErrorCode::ConcurrentTransactions)
        }
        (State::CompleteCommit | State::CompleteAbort, Outcome::Abort, false) => decide,
        (State::Empty, Outcome::Abort, _) => decide,
        _ => Err(ErrorCode::InvalidTxnState),
    }
}

/// Tells who asked for an end what became of it.
pub(super) fn answer(asked: Asked, result: Result<(i64, i16), ErrorCode>, out: &mut Vec<Effect>) {
    let (producer_id, producer_epoch) = result.unwrap_or((NO_PRODUCER_ID, NO_PRODUCER_EPOCH));
    let error = result.err().unwrap_or(ErrorCode::None);
    match asked {
        Asked::Producer(waiting) => {
            let error = match error {
                ErrorCode::ProducerFenced if waiting.version < PRODUCER_FENCED_VERSION => {
                    ErrorCode::InvalidProducerEpoch
                }
                error => error,
            };
            let response = EndTxnResponse {
                error_code: error.code(),
                producer_id,
                producer_epoch,
                ..EndTxnResponse::default()
            };
            reply(out, waiting, &response);
        }
        Asked::Successor(waiting) => {
            let error = if error.is_error() { error } else { ErrorCode::ConcurrentTransactions };
            super::init_producer_id::refuse(waiting, error, out);
        }
        Asked::Nobody => {}
    }
}
