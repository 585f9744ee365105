//! InitProducerId with a transactional id, versions 0 to 6: a producer begins, and whoever had the id before is fenced by
//! a higher epoch. What that one left open is aborted first; the client comes again for its epoch.
//!
//! Version 6 (KIP-939): a transaction that takes part in a two-phase commit has no timeout, where the broker allows it;
//! keeping a prepared one is refused, as Kafka 4.3 does.

use std::sync::Arc;

use super::appends::{Asked, Then, Waiting};
use super::coordinator::{TransactionCoordinator, reply};
use super::metadata::{Metadata, Outcome, State, is_epoch_exhausted};
use super::*;
use crate::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use crate::protocol::messages::init_producer_id_response::InitProducerIdResponse;
use crate::protocol::{DecodeError, ErrorCode, Message, Reader};
use crate::record::batch::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID};

/// From this version on a fenced producer is told so.
const PRODUCER_FENCED_VERSION: i16 = 4;

/// Who the client says it was.
#[derive(Clone, Copy, Debug)]
struct Expected {
    producer_id: i64,
    producer_epoch: i16,
}

/// What a request leads to.
enum Step {
    /// The producer's new id and epoch.
    Begin(Metadata),
    /// An open transaction has to end first.
    Fence,
}

impl TransactionCoordinator {
    pub(super) fn init_producer_id(
        &mut self,
        now: Now,
        request: &TransactionRequest<'_>,
        surroundings: &mut dyn Surroundings,
        out: &mut Vec<Effect>,
    ) -> Result<(), DecodeError> {
        let version = request.version;
        let message = InitProducerIdRequest::decode_prefix(&mut Reader::new(request.body), version)?;
        let waiting = request.waiting();
        match self.prepare_init(now, &message, surroundings) {
            Err(error) => refuse(waiting, error, out),
            Ok((partition, id, Step::Begin(next))) => {
                let then = |id, next| Then::Started { id, next, waiting };
                self.append(now, partition, &id, next, then, out);
            }
            Ok((partition, id, Step::Fence)) => {
                let asked = Asked::Successor(waiting);
                let fenced = self.fence(now, partition, &id, asked, surroundings, out);
                if let Err(error) = fenced {
                    refuse(waiting, error, out);
                }
            }
        }
        Ok(())
    }

    fn prepare_init(
        &mut self,
        now: Now,
        message: &InitProducerIdRequest<'_>,
        surroundings: &mut dyn Surroundings,
    ) -> Result<(i32, Arc<str>, Step), ErrorCode> {
        let expected = match (message.producer_id, message.producer_epoch) {
            (NO_PRODUCER_ID, NO_PRODUCER_EPOCH) => None,
            (NO_PRODUCER_ID, _) | (_, NO_PRODUCER_EPOCH) => return Err(ErrorCode::InvalidRequest),
            (producer_id, producer_epoch) => Some(Expected { producer_id, producer_epoch }),
        };
        let id = message.transactional_id.as_deref().unwrap_or_default();
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        if message.enable_2pc && !self.config.two_phase_commit {
            return Err(ErrorCode::TransactionalIdAuthorizationFailed);
        }
        if message.keep_prepared_txn {
            return Err(ErrorCode::UnsupportedVersion);
        }
        let timeout_ms = if message.enable_2pc { i32::MAX } else { message.transaction_timeout_ms };
        if !message.enable_2pc && !(1..=self.config.max_timeout_ms).contains(&timeout_ms) {
            return Err(ErrorCode::InvalidTransactionTimeout);
        }
        let (partition, known) = self.active(id)?;
        let id = match known.transactions.get_key_value(id) {
            Some((id, _)) => id.clone(),
            None => {
                let producer_id =
                    surroundings.next_producer_id().ok_or(ErrorCode::CoordinatorLoadInProgress)?;
                let metadata = Metadata::new(producer_id, timeout_ms, now.wall_ms);
                self.create(now, partition, id, metadata).ok_or(ErrorCode::CoordinatorNotAvailable)?
            }
        };
        let transaction = self.transaction(partition, &id).ok_or(ErrorCode::UnknownServerError)?;
        if transaction.pending.is_some() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let step = next_step(&transaction.metadata, timeout_ms, expected, now, surroundings)?;
        Ok((partition, id, step))
    }

    /// The record of a producer's beginning is in the log, or not.
    #[expect(clippy::too_many_arguments, reason = "the parts of one append")]
    pub(super) fn started(
        &mut self,
        now: Now,
        partition: i32,
        id: &Arc<str>,
        next: Metadata,
        waiting: Waiting,
        result: Result<(), ErrorCode>,
        out: &mut Vec<Effect>,
    ) {
        match result {
            Ok(()) => {
                let response = InitProducerIdResponse {
                    producer_id: next.producer_id,
                    producer_epoch: next.producer_epoch,
                    ..InitProducerIdResponse::default()
                };
                self.apply(now, partition, id, next);
                reply(out, waiting, &response);
            }
            Err(error) => {
                self.abandon(partition, id);
                // Nobody has heard of it, and no record of it is in the log.
                let is_new = |transaction: &mut super::coordinator::Transaction| {
                    transaction.metadata.producer_epoch == NO_PRODUCER_EPOCH
                };
                if self.transaction(partition, id).is_some_and(is_new) {
                    self.remove(partition, id);
                }
                refuse(waiting, error, out);
            }
        }
    }
}

fn next_step(
    metadata: &Metadata,
    timeout_ms: i32,
    expected: Option<Expected>,
    now: Now,
    surroundings: &mut dyn Surroundings,
) -> Result<Step, ErrorCode> {
    if expected.is_some_and(|expected| !may_be(metadata, expected)) {
        return Err(ErrorCode::ProducerFenced);
    }
    match metadata.state {
        State::Ongoing => Ok(Step::Fence),
        State::PrepareCommit | State::PrepareAbort => Err(ErrorCode::ConcurrentTransactions),
        State::Dead => Err(ErrorCode::UnknownServerError),
        State::Empty | State::CompleteCommit | State::CompleteAbort => {
            let same_epoch = |expected: Expected| expected.producer_epoch == metadata.producer_epoch;
            let wall_ms = now.wall_ms;
            if metadata.is_epoch_exhausted() && expected.is_none_or(same_epoch) {
                let producer_id =
                    surroundings.next_producer_id().ok_or(ErrorCode::CoordinatorLoadInProgress)?;
                let keep = expected.is_some();
                return Ok(Step::Begin(metadata.rotate_producer_id(producer_id, timeout_ms, keep, wall_ms)));
            }
            let expected = expected.map(|expected| expected.producer_epoch);
            Ok(Step::Begin(metadata.increment_epoch(timeout_ms, expected, wall_ms)?))
        }
    }
}

/// Whether a client may have been this producer: it has its id, or had the one before and used up its epochs, or the id
/// is new here. Its epoch is looked at later.
fn may_be(metadata: &Metadata, expected: Expected) -> bool {
    metadata.producer_epoch == NO_PRODUCER_EPOCH
        || expected.producer_id == metadata.producer_id
        || (expected.producer_id == metadata.previous_producer_id
            && is_epoch_exhausted(expected.producer_epoch))
}

pub(super) fn refuse(waiting: Waiting, error: ErrorCode, out: &mut Vec<Effect>) {
    let error = match error {
        ErrorCode::ProducerFenced if waiting.version < PRODUCER_FENCED_VERSION => {
            ErrorCode::InvalidProducerEpoch
        }
        error => error,
    };
    let response = InitProducerIdResponse {
        error_code: error.code(),
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        ..InitProducerIdResponse::default()
    };
    reply(out, waiting, &response);
}

/// An open transaction is aborted so that its producer cannot go on.
pub(super) const FENCE: Outcome = Outcome::Abort;
