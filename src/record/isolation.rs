//! What a reader of committed data leaves out: the markers, and the records of transactions that were aborted.
//!
//! A fetch with `read_committed` ends at the last stable offset and names the aborted transactions that have a part in it;
//! the bytes are those of the log all the same, and it is the reader that skips. One [`Aborted`] an answer and partition,
//! shown every batch in order. Called by the command line and the load generator.

use std::collections::BTreeSet;

use super::batch::RecordBatch;
use super::control::EndTxnMarker;
use super::records::RecordError;

#[derive(Debug, Default)]
pub struct Aborted {
    /// First offset and producer of those not reached yet, the next one last.
    ahead: Vec<(i64, i64)>,
    /// Producers in the middle of one.
    open: BTreeSet<i64>,
}

impl Aborted {
    /// Of producer ids and first offsets, in any order.
    pub fn new(transactions: impl IntoIterator<Item = (i64, i64)>) -> Aborted {
        let mut ahead: Vec<_> =
            transactions.into_iter().map(|(producer_id, first_offset)| (first_offset, producer_id)).collect();
        ahead.sort_unstable_by(|one, other| other.cmp(one));
        Aborted { ahead, open: BTreeSet::new() }
    }

    /// Whether the batch, the next one of the log, is not for the reader.
    pub fn skips(&mut self, batch: &RecordBatch<'_>) -> Result<bool, RecordError> {
        let header = batch.header();
        while let Some((_, producer_id)) = self.ahead.pop_if(|(first, _)| *first <= header.last_offset()) {
            self.open.insert(producer_id);
        }
        if header.is_control() {
            let marker = EndTxnMarker::of_batch(batch)?;
            if marker.is_some_and(|(marker, _)| !marker.commit) {
                self.open.remove(&header.producer_id);
            }
            return Ok(true);
        }
        Ok(header.is_transactional() && self.open.contains(&header.producer_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions, Compressor};

    fn data(producer_id: i64, base_offset: i64, transactional: bool) -> Vec<u8> {
        let options = BatchOptions { producer_id, base_offset, transactional, ..BatchOptions::default() };
        let (mut builder, mut out) = (BatchBuilder::new(options), Vec::new());
        builder.append(0, None, Some(b"value"), &[]);
        builder.append(0, None, Some(b"value"), &[]);
        builder.finish(&mut Compressor::new(), &mut out).unwrap();
        out
    }

    fn marker(producer_id: i64, commit: bool) -> Vec<u8> {
        let (mut builder, mut out) = (BatchBuilder::default(), Vec::new());
        let marker = EndTxnMarker { commit, coordinator_epoch: 0 };
        marker.write(producer_id, 0, 0, &mut builder, &mut Compressor::new(), &mut out).unwrap();
        out
    }

    #[test]
    fn what_was_aborted_is_left_out() {
        // Two aborted transactions of producer 1, one of 2 that begins in the middle of a batch that compaction has left.
        let mut aborted = Aborted::new([(1, 8), (2, 5), (1, 0)]);
        let mut skips = |bytes: Vec<u8>| aborted.skips(&RecordBatch::parse(&bytes).unwrap()).unwrap();
        assert!(skips(data(1, 0, true)));
        assert!(!skips(data(3, 2, true)), "of somebody who commits");
        assert!(skips(data(2, 4, true)));
        assert!(skips(marker(1, false)));
        assert!(!skips(data(1, 6, true)), "its next transaction is committed");
        assert!(skips(marker(1, true)));
        assert!(skips(data(2, 7, true)));
        assert!(!skips(data(2, 7, false)), "outside of any transaction");
        assert!(skips(data(1, 8, true)));
        assert!(skips(marker(2, false)) && !skips(data(2, 11, true)));
    }
}
