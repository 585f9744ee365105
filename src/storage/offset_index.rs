//! `.index`: which byte of a segment an offset is near.
//!
//! A run of 8-byte entries: offset relative to the segment's base (4), position in the `.log` (4), both growing. An entry is
//! made for about every `index.interval.bytes` of log and names the *last* offset of the batch at its position, so a look-up
//! takes the greatest entry not above the target and scans forward from there.
//!
//! The slice functions serve files read into memory; [`OffsetIndex`] is the growing index of an active segment. Called by
//! segments, recovery and the dump tool.

use thiserror::Error;

use super::time_index::{TimeIndex, TimestampOffset};

/// The size of an entry.
pub const ENTRY_BYTES: usize = 8;

/// Where to start looking for an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetPosition {
    pub offset: i64,
    pub position: u32,
}

/// An index file that is not what it should be: it is rebuilt from the log.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CorruptIndex {
    #[error("{0} bytes are no whole number of entries")]
    Length(usize),
    #[error("entry {0} does not follow the one before it")]
    Order(usize),
    #[error("entry {0} points past the end of the log")]
    Position(usize),
}

/// The entries of an index file.
pub fn entries(bytes: &[u8], base_offset: i64) -> impl ExactSizeIterator<Item = OffsetPosition> + '_ {
    bytes.as_chunks::<ENTRY_BYTES>().0.iter().map(move |entry| decode(entry, base_offset))
}

/// The greatest entry not above `target`, or the beginning of the segment.
pub fn lookup(bytes: &[u8], base_offset: i64, target: i64) -> OffsetPosition {
    let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
    let above = entries.partition_point(|entry| decode(entry, base_offset).offset <= target);
    match above.checked_sub(1) {
        Some(slot) => decode(&entries[slot], base_offset),
        None => OffsetPosition { offset: base_offset, position: 0 },
    }
}

/// How much of an index stays when the log is cut so that `offset` is its next one.
pub fn truncated_len(bytes: &[u8], base_offset: i64, offset: i64) -> usize {
    let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
    entries.partition_point(|entry| decode(entry, base_offset).offset < offset) * ENTRY_BYTES
}

/// Checks every entry against its neighbour and the size of the log.
pub fn check(bytes: &[u8], log_size: u64) -> Result<(), CorruptIndex> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err(CorruptIndex::Length(bytes.len()));
    }
    let mut previous: Option<OffsetPosition> = None;
    for (slot, entry) in entries.iter().enumerate() {
        let entry = decode(entry, 0);
        let follows = |last: OffsetPosition| entry.offset > last.offset && entry.position > last.position;
        if entry.offset < 0 || !previous.is_none_or(follows) {
            return Err(CorruptIndex::Order(slot));
        }
        if u64::from(entry.position) >= log_size {
            return Err(CorruptIndex::Position(slot));
        }
        previous = Some(entry);
    }
    Ok(())
}

fn decode(entry: &[u8; ENTRY_BYTES], base_offset: i64) -> OffsetPosition {
    let [a, b, c, d, e, f, g, h] = *entry;
    let relative = i32::from_be_bytes([a, b, c, d]);
    OffsetPosition {
        offset: base_offset.saturating_add(i64::from(relative)),
        position: u32::from_be_bytes([e, f, g, h]),
    }
}

/// The index of a segment that is being written.
#[derive(Clone, Debug, Default)]
pub struct OffsetIndex {
    base_offset: i64,
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl OffsetIndex {
    /// `bytes_max` is `segment.index.bytes`; a segment with a full index is rolled.
    pub fn new(base_offset: i64, bytes_max: usize) -> OffsetIndex {
        OffsetIndex { base_offset, bytes: Vec::new(), bytes_max }
    }

    /// Goes on with a file that was [`check`]ed.
    pub fn from_bytes(base_offset: i64, bytes: Vec<u8>, bytes_max: usize) -> OffsetIndex {
        OffsetIndex { base_offset, bytes, bytes_max }
    }

    /// No entry fits any more.
    pub fn is_full(&self) -> bool {
        self.bytes.len() + ENTRY_BYTES > self.bytes_max
    }

    /// Adds an entry above the last; false when it is not above, does not fit, or is too far from the base.
    pub fn append(&mut self, offset: i64, position: u32) -> bool {
        let Some(relative) = relative_offset(self.base_offset, offset) else { return false };
        if self.is_full() || self.last().is_some_and(|last| last.offset >= offset) {
            return false;
        }
        self.bytes.extend_from_slice(&relative.to_be_bytes());
        self.bytes.extend_from_slice(&position.to_be_bytes());
        true
    }

    pub fn lookup(&self, target: i64) -> OffsetPosition {
        lookup(&self.bytes, self.base_offset, target)
    }

    pub fn last(&self) -> Option<OffsetPosition> {
        self.bytes.last_chunk::<ENTRY_BYTES>().map(|entry| decode(entry, self.base_offset))
    }

    /// Drops the entries at or above `offset`.
    pub fn truncate_to(&mut self, offset: i64) {
        self.bytes.truncate(truncated_len(&self.bytes, self.base_offset, offset));
    }

    /// The file's contents.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// An offset as an index stores it, if it lies within 2^31 of the base.
pub fn relative_offset(base_offset: i64, offset: i64) -> Option<i32> {
    i32::try_from(offset.checked_sub(base_offset)?).ok().filter(|relative| *relative >= 0)
}

/// Feeds both indexes of a segment from the batches appended to it, as Kafka does.
#[derive(Clone, Copy, Debug)]
pub struct Indexer {
    interval_bytes: usize,
    bytes_since_entry: usize,
    largest: TimestampOffset,
}

impl Indexer {
    /// For an empty segment. `interval_bytes` is `index.interval.bytes`.
    pub fn new(interval_bytes: usize) -> Indexer {
        Indexer { interval_bytes, bytes_since_entry: 0, largest: TimestampOffset::NONE }
    }

    /// For a segment that already holds records: the bytes behind its last index entry and its largest timestamp.
    pub fn resume(interval_bytes: usize, bytes_since_entry: usize, largest: TimestampOffset) -> Indexer {
        Indexer { interval_bytes, bytes_since_entry, largest }
    }

    /// Notes a batch of `size` bytes at `position`; adds entries when one is due. `last_offset` and `max_timestamp` are the
    /// batch's.
    pub fn on_batch(
        &mut self,
        last_offset: i64,
        max_timestamp: i64,
        position: u32,
        size: usize,
        offset_index: &mut OffsetIndex,
        time_index: &mut TimeIndex,
    ) {
        if max_timestamp > self.largest.timestamp {
            self.largest = TimestampOffset { timestamp: max_timestamp, offset: last_offset };
        }
        if self.bytes_since_entry > self.interval_bytes {
            offset_index.append(last_offset, position);
            time_index.append(self.largest);
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += size;
    }

    /// The segment is closed: its last time entry names its largest timestamp.
    pub fn on_close(&self, time_index: &mut TimeIndex) {
        time_index.append_last(self.largest);
    }

    /// The segment's largest timestamp and the last offset of the first batch that has it.
    pub fn largest(&self) -> TimestampOffset {
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn look_up_takes_the_entry_below() {
        let mut index = OffsetIndex::new(100, 24);
        assert_eq!(index.lookup(5000), OffsetPosition { offset: 100, position: 0 });
        assert!(index.append(111, 578));
        assert!(index.append(119, 1156));
        assert!(!index.append(119, 2000), "not above the last");
        assert!(!index.append(99, 2000), "below the base");
        assert!(!index.append(100 + (1 << 31), 2000), "too far from the base");
        assert!(index.append(150, 2000));
        assert!(index.is_full() && !index.append(151, 2001));
        for (target, position) in [(100, 0), (110, 0), (111, 578), (118, 578), (119, 1156), (i64::MAX, 2000)]
        {
            assert_eq!(index.lookup(target).position, position, "{target}");
        }
        assert_eq!(index.bytes()[..8], [0, 0, 0, 11, 0, 0, 2, 0x42]);
        assert_eq!(check(index.bytes(), 2001), Ok(()));
        assert_eq!(check(index.bytes(), 2000), Err(CorruptIndex::Position(2)));
        assert_eq!(check(&index.bytes()[..23], 9999), Err(CorruptIndex::Length(23)));
        index.truncate_to(119);
        assert_eq!(index.last(), Some(OffsetPosition { offset: 111, position: 578 }));
    }

    #[test]
    fn a_file_left_at_its_allocated_length_is_corrupt() {
        let mut bytes = vec![0, 0, 0, 11, 0, 0, 2, 0x42];
        bytes.resize(64, 0);
        assert_eq!(check(&bytes, 1 << 20), Err(CorruptIndex::Order(1)));
    }

    proptest! {
        #[test]
        fn look_up_agrees_with_a_scan(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            mut offsets in prop::collection::btree_set(0i64..10_000, 0..50),
            target in -5i64..10_005,
        ) {
            // Anything may be looked up in without a panic.
            let _ = (lookup(&bytes, target, target), check(&bytes, 1000), truncated_len(&bytes, 0, target));
            let mut index = OffsetIndex::new(0, 10_000);
            for offset in &offsets {
                prop_assert!(index.append(*offset, *offset as u32 * 3 + 1));
            }
            let expected = offsets.iter().rev().find(|offset| **offset <= target);
            let found = index.lookup(target);
            prop_assert_eq!(found.position, expected.map_or(0, |offset| *offset as u32 * 3 + 1));
            index.truncate_to(target);
            offsets.retain(|offset| *offset < target);
            let left: Vec<i64> = entries(index.bytes(), 0).map(|entry| entry.offset).collect();
            prop_assert!(left.iter().eq(offsets.iter()));
        }
    }
}
