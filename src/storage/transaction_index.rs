//! `.txnindex`: the aborted transactions of a segment, by which a consumer that reads committed data skips their records.
//!
//! A run of 34-byte entries: version 0 (2), producer id (8), first offset (8), offset of the marker (8), last stable offset
//! when the marker was appended (8), in order of the markers. Segments without aborted transactions have no such file.
//! Called by reads with isolation level `read_committed`, by appends of markers and by recovery.

use thiserror::Error;

use super::producer_state::CompletedTxn;

/// The size of an entry.
pub const ENTRY_BYTES: usize = 34;

const VERSION: i16 = 0;

/// An aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    pub producer_id: i64,
    pub first_offset: i64,
    /// The marker's offset.
    pub last_offset: i64,
    pub last_stable_offset: i64,
}

impl AbortedTxn {
    /// `None` for a committed transaction. `last_stable_offset` is what the producer state answers before the transaction is
    /// taken off its open ones.
    pub fn new(completed: &CompletedTxn, last_stable_offset: i64) -> Option<AbortedTxn> {
        completed.aborted.then_some(AbortedTxn {
            producer_id: completed.producer_id,
            first_offset: completed.first_offset,
            last_offset: completed.last_offset,
            last_stable_offset,
        })
    }

    /// Appends the entry to the contents of an index.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&VERSION.to_be_bytes());
        for value in [self.producer_id, self.first_offset, self.last_offset, self.last_stable_offset] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }

    fn read(entry: &[u8; ENTRY_BYTES]) -> Option<AbortedTxn> {
        let [v0, v1, values @ ..] = entry;
        let (values, _) = values.as_chunks::<8>();
        let &[producer_id, first_offset, last_offset, last_stable_offset] = values else { return None };
        (i16::from_be_bytes([*v0, *v1]) >= VERSION).then(|| AbortedTxn {
            producer_id: i64::from_be_bytes(producer_id),
            first_offset: i64::from_be_bytes(first_offset),
            last_offset: i64::from_be_bytes(last_offset),
            last_stable_offset: i64::from_be_bytes(last_stable_offset),
        })
    }
}

/// An index file that is not what it should be: it is rebuilt from the log.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CorruptTransactionIndex {
    #[error("{0} bytes are no whole number of entries")]
    Length(usize),
    #[error("entry {0} is invalid")]
    Entry(usize),
}

/// The entries of an index file; those behind an entry of an unknown version are not returned.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = AbortedTxn> + '_ {
    bytes.as_chunks::<ENTRY_BYTES>().0.iter().map_while(AbortedTxn::read)
}

/// Checks every entry. `base_offset` is the segment's.
pub fn check(bytes: &[u8], base_offset: i64) -> Result<(), CorruptTransactionIndex> {
    let (chunks, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err(CorruptTransactionIndex::Length(bytes.len()));
    }
    let mut previous = i64::MIN;
    for (slot, chunk) in chunks.iter().enumerate() {
        let valid = AbortedTxn::read(chunk)
            .filter(|txn| txn.last_offset >= base_offset && txn.last_offset > previous)
            // A marker lies behind what it ends; zeros, which a power cut leaves where data never came, do not.
            .filter(|txn| (0..txn.last_offset).contains(&txn.first_offset));
        previous = valid.ok_or(CorruptTransactionIndex::Entry(slot))?.last_offset;
    }
    Ok(())
}

/// Adds to `found` the aborted transactions that touch offsets from `fetch_offset` to before `upper_bound`. True when a
/// later segment cannot hold more of them; else the search goes on there.
pub fn collect(bytes: &[u8], fetch_offset: i64, upper_bound: i64, found: &mut Vec<AbortedTxn>) -> bool {
    for txn in entries(bytes) {
        if txn.last_offset >= fetch_offset && txn.first_offset < upper_bound {
            found.push(txn);
        }
        if txn.last_stable_offset >= upper_bound {
            return true;
        }
    }
    false
}

/// How much of an index stays when the log is cut so that `offset` is its next one.
pub fn truncated_len(bytes: &[u8], offset: i64) -> usize {
    entries(bytes).take_while(|txn| txn.last_offset < offset).count() * ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn txn(first_offset: i64, last_offset: i64, last_stable_offset: i64) -> AbortedTxn {
        AbortedTxn { producer_id: 5, first_offset, last_offset, last_stable_offset }
    }

    fn index(txns: &[AbortedTxn]) -> Vec<u8> {
        let mut out = Vec::new();
        txns.iter().for_each(|txn| txn.write(&mut out));
        out
    }

    #[test]
    fn transactions_in_a_range() {
        let txns = [txn(0, 10, 11), txn(5, 15, 12), txn(20, 30, 31), txn(40, 41, 42)];
        let bytes = index(&txns);
        assert_eq!(bytes.len(), 4 * ENTRY_BYTES);
        assert_eq!(check(&bytes, 0), Ok(()));
        assert!(entries(&bytes).eq(txns));
        let find = |from, to| {
            let mut found = Vec::new();
            let complete = collect(&bytes, from, to, &mut found);
            (found.iter().map(|txn| txn.last_offset).collect::<Vec<_>>(), complete)
        };
        assert_eq!(find(0, 100), (vec![10, 15, 30, 41], false));
        assert_eq!(find(0, 5), (vec![10], true));
        assert_eq!(find(11, 12), (vec![15], true));
        assert_eq!(find(16, 20), (vec![], true));
        assert_eq!(find(42, 50), (vec![], false));
        assert_eq!(truncated_len(&bytes, 30), 2 * ENTRY_BYTES);
    }

    #[test]
    fn damage_shows() {
        assert_eq!(check(&[0; ENTRY_BYTES], 0), Err(CorruptTransactionIndex::Entry(0)));
        let bytes = index(&[txn(0, 10, 11), txn(5, 15, 12)]);
        assert_eq!(check(&bytes[..40], 0), Err(CorruptTransactionIndex::Length(40)));
        assert_eq!(check(&bytes, 12), Err(CorruptTransactionIndex::Entry(0)), "before the segment");
        assert_eq!(
            check(&index(&[txn(0, 10, 11), txn(5, 10, 12)]), 0),
            Err(CorruptTransactionIndex::Entry(1))
        );
        assert_eq!(check(&[0xff; ENTRY_BYTES], 0), Err(CorruptTransactionIndex::Entry(0)));
        assert_eq!(
            AbortedTxn::new(
                &CompletedTxn { producer_id: 1, first_offset: 2, last_offset: 3, aborted: false },
                4
            ),
            None
        );
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<i64>()) {
            let _ = (check(&bytes, at), collect(&bytes, at, at, &mut Vec::new()), truncated_len(&bytes, at));
        }
    }
}
