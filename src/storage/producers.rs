//! What a batch changes in a log's producer state: a numbered batch, the marker that ends a transaction, or nothing.

use super::producer_state::{
    AppendOrigin, BatchMetadata, MarkerAppend, ProducerAppend, ProducerState, ProducerStateError,
    SequenceCheck,
};
use super::transaction_index::AbortedTxn;
use super::types::AppendError;
use crate::record::control::EndTxnMarker;
use crate::record::{BatchHeader, RecordBatch};

#[derive(Clone, Copy, Debug)]
pub enum Change {
    None,
    Batch(ProducerAppend),
    Marker(MarkerAppend),
}

impl Change {
    /// `base_offset` and `max_timestamp` are those the stored batch has; `transaction_version` says what a marker ends.
    pub fn of(
        bytes: &[u8],
        header: &BatchHeader,
        base_offset: i64,
        max_timestamp: i64,
        transaction_version: i16,
    ) -> Result<Change, AppendError> {
        if !header.is_control() {
            return Ok(
                ProducerAppend::new(header, base_offset, max_timestamp).map_or(Change::None, Change::Batch)
            );
        }
        let batch = RecordBatch::parse(bytes).map_err(|_| AppendError::Invalid)?;
        let Some((marker, timestamp)) = EndTxnMarker::of_batch(&batch).map_err(|_| AppendError::Invalid)?
        else {
            return Ok(Change::None);
        };
        Ok(Change::Marker(MarkerAppend {
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            marker,
            offset: base_offset,
            timestamp,
            transaction_version,
        }))
    }

    /// Whether the batch may be appended; the one it repeats where it is a duplicate.
    pub fn check(
        &self,
        state: &ProducerState,
        origin: AppendOrigin,
    ) -> Result<Option<BatchMetadata>, ProducerStateError> {
        match self {
            Change::None => Ok(None),
            Change::Batch(append) => match state.check(append, origin)? {
                SequenceCheck::Append => Ok(None),
                SequenceCheck::Duplicate(batch) => Ok(Some(batch)),
            },
            Change::Marker(append) => state.check_marker(append, origin).map(|()| None),
        }
    }

    /// Notes the batch, which has its offsets. Answers the transaction that it aborts, for the index of the marker's segment.
    pub fn apply(&self, state: &mut ProducerState) -> Option<AbortedTxn> {
        match self {
            Change::None => None,
            Change::Batch(append) => {
                state.append(append);
                None
            }
            Change::Marker(append) => {
                let completed = state.append_marker(append)?;
                let last_stable_offset = state.last_stable_offset(&completed);
                state.complete_txn(&completed);
                AbortedTxn::new(&completed, last_stable_offset)
            }
        }
    }
}

impl From<ProducerStateError> for AppendError {
    fn from(error: ProducerStateError) -> AppendError {
        match error {
            ProducerStateError::OutOfOrderSequence { .. } => AppendError::OutOfOrderSequence,
            ProducerStateError::InvalidProducerEpoch { .. } => AppendError::InvalidProducerEpoch,
            ProducerStateError::InvalidTxnState { .. } => AppendError::InvalidTxnState,
            ProducerStateError::TransactionCoordinatorFenced { .. } => AppendError::CoordinatorFenced,
        }
    }
}
