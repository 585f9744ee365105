//! What compaction knows of the transactions in what it reads: which batches were aborted, and which markers nobody needs any more.
//!
//! Batches are shown in the order of the log. A marker is needed as long as a batch of its transaction was seen before it. The
//! aborted transactions come from the indexes of the segments; those that still have a batch are answered with their
//! markers, for the index of the new segment.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::BatchHeader;
use crate::record::control::EndTxnMarker;
use crate::storage::transaction_index::AbortedTxn;

#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// Aborted ones that begin behind what was read, by their first offset and producer.
    ahead: BTreeMap<(i64, i64), AbortedTxn>,
    /// By producer, and whether a batch of it was seen.
    aborted: BTreeMap<i64, (AbortedTxn, bool)>,
    /// Producers of whose transaction a batch was seen that is not an aborted one.
    committed: BTreeSet<i64>,
}

/// What is known of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OfMarker {
    /// Nothing of its transaction was seen.
    pub discardable: bool,
    /// It ends this aborted transaction, of which there is something.
    pub aborted: Option<AbortedTxn>,
}

impl Transactions {
    /// Aborted transactions with a part in what is read next. Some may be known already.
    pub fn add(&mut self, found: &[AbortedTxn]) {
        self.ahead.extend(found.iter().map(|txn| ((txn.first_offset, txn.producer_id), *txn)));
    }

    /// Whether a batch belongs to an aborted transaction.
    pub fn on_batch(&mut self, header: &BatchHeader) -> bool {
        self.reach(header.last_offset());
        if !header.is_transactional() {
            return false;
        }
        match self.aborted.get_mut(&header.producer_id) {
            Some((_, seen)) => {
                *seen = true;
                true
            }
            None => {
                self.committed.insert(header.producer_id);
                false
            }
        }
    }

    /// `marker`: what the control batch says, if it says anything.
    pub fn on_marker(&mut self, header: &BatchHeader, marker: Option<EndTxnMarker>) -> OfMarker {
        self.reach(header.last_offset());
        match marker {
            None => OfMarker { discardable: header.records_count == 0, aborted: None },
            Some(EndTxnMarker { commit: true, .. }) => {
                OfMarker { discardable: !self.committed.remove(&header.producer_id), aborted: None }
            }
            Some(_) => {
                let ended = self.aborted.remove(&header.producer_id);
                let aborted = ended.filter(|(_, seen)| *seen).map(|(txn, _)| txn);
                OfMarker { discardable: aborted.is_none(), aborted }
            }
        }
    }

    /// Transactions that begin up to `offset` have begun.
    fn reach(&mut self, offset: i64) {
        while let Some(first) = self.ahead.first_entry().filter(|first| first.key().0 <= offset) {
            let txn = first.remove();
            self.aborted.entry(txn.producer_id).or_insert((txn, false));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::batch::Attributes;

    fn header(producer_id: i64, offset: i64) -> BatchHeader {
        BatchHeader {
            base_offset: offset,
            batch_length: 49,
            partition_leader_epoch: 0,
            crc: 0,
            attributes: Attributes::default().with_transactional(true),
            last_offset_delta: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id,
            producer_epoch: 0,
            base_sequence: 0,
            records_count: 1,
        }
    }

    fn aborted(producer_id: i64, first_offset: i64, last_offset: i64) -> AbortedTxn {
        AbortedTxn { producer_id, first_offset, last_offset, last_stable_offset: first_offset }
    }

    #[test]
    fn markers_are_needed_as_long_as_there_is_something() {
        let (commit, abort) = (
            Some(EndTxnMarker { commit: true, coordinator_epoch: 0 }),
            Some(EndTxnMarker { commit: false, coordinator_epoch: 0 }),
        );
        let needed = OfMarker { discardable: false, aborted: None };
        let done = OfMarker { discardable: true, aborted: None };
        let mut known = Transactions::default();
        known.add(&[aborted(1, 0, 5), aborted(2, 8, 9)]);
        assert!(known.on_batch(&header(1, 0)) && !known.on_batch(&header(2, 1)));
        assert_eq!(known.on_marker(&header(2, 2), commit), needed);
        assert_eq!(known.on_marker(&header(2, 3), commit), done);
        known.add(&[aborted(1, 0, 5)]);
        assert!(known.on_batch(&header(1, 4)));
        let ended = OfMarker { discardable: false, aborted: Some(aborted(1, 0, 5)) };
        assert_eq!(known.on_marker(&header(1, 5), abort), ended);
        assert!(!known.on_batch(&header(1, 6)), "its next transaction");
        assert_eq!(known.on_marker(&header(2, 9), abort), done, "its batch is gone");
        assert_eq!(known.on_marker(&header(1, 10), commit), needed);
        let empty = BatchHeader { records_count: 0, ..header(3, 11) };
        assert_eq!(known.on_marker(&empty, None), done);
        assert_eq!(known.on_marker(&header(3, 12), None), needed, "nobody knows what it is");
    }
}
