//! `.timeindex`: which offset of a segment a timestamp is near.
//!
//! A run of 12-byte entries: timestamp (8) and an offset relative to the segment's base (4), both growing. An entry says that
//! no record up to its offset is later than its timestamp. Called with `offset_index`, by segments and recovery.

use super::offset_index::{CorruptIndex, relative_offset};

/// The size of an entry.
pub const ENTRY_BYTES: usize = 12;

/// A timestamp and the offset it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    pub timestamp: i64,
    pub offset: i64,
}

impl TimestampOffset {
    /// No timestamp seen yet.
    pub const NONE: TimestampOffset = TimestampOffset { timestamp: -1, offset: -1 };
}

/// The entries of an index file.
pub fn entries(bytes: &[u8], base_offset: i64) -> impl ExactSizeIterator<Item = TimestampOffset> + '_ {
    bytes.as_chunks::<ENTRY_BYTES>().0.iter().map(move |entry| decode(entry, base_offset))
}

/// The last entry that is not later than `target`, or the beginning of the segment: the first record at or after `target`
/// is not before that offset's batch.
pub fn lookup(bytes: &[u8], base_offset: i64, target: i64) -> TimestampOffset {
    let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
    let later = entries.partition_point(|entry| decode(entry, base_offset).timestamp <= target);
    match later.checked_sub(1) {
        Some(slot) => decode(&entries[slot], base_offset),
        None => TimestampOffset { timestamp: -1, offset: base_offset },
    }
}

/// How much of an index stays when the log is cut so that `offset` is its next one.
pub fn truncated_len(bytes: &[u8], base_offset: i64, offset: i64) -> usize {
    let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
    entries.partition_point(|entry| decode(entry, base_offset).offset < offset) * ENTRY_BYTES
}

/// Checks every entry against its neighbour.
pub fn check(bytes: &[u8]) -> Result<(), CorruptIndex> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err(CorruptIndex::Length(bytes.len()));
    }
    let mut previous: Option<TimestampOffset> = None;
    for (slot, entry) in entries.iter().enumerate() {
        let entry = decode(entry, 0);
        let follows = |last: TimestampOffset| entry.timestamp > last.timestamp && entry.offset >= last.offset;
        if entry.offset < 0 || !previous.is_none_or(follows) {
            return Err(CorruptIndex::Order(slot));
        }
        previous = Some(entry);
    }
    Ok(())
}

fn decode(entry: &[u8; ENTRY_BYTES], base_offset: i64) -> TimestampOffset {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *entry;
    let relative = i32::from_be_bytes([i, j, k, l]);
    TimestampOffset {
        timestamp: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        offset: base_offset.saturating_add(i64::from(relative)),
    }
}

/// The index of a segment that is being written.
#[derive(Clone, Debug, Default)]
pub struct TimeIndex {
    base_offset: i64,
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl TimeIndex {
    /// `bytes_max` is `segment.index.bytes`. Room for one entry is kept for the one made when the segment closes.
    pub fn new(base_offset: i64, bytes_max: usize) -> TimeIndex {
        TimeIndex { base_offset, bytes: Vec::new(), bytes_max }
    }

    /// Goes on with a file that was [`check`]ed.
    pub fn from_bytes(base_offset: i64, bytes: Vec<u8>, bytes_max: usize) -> TimeIndex {
        TimeIndex { base_offset, bytes, bytes_max }
    }

    /// Only the closing entry fits: the segment has to be rolled.
    pub fn is_full(&self) -> bool {
        self.bytes.len() + 2 * ENTRY_BYTES > self.bytes_max
    }

    /// Adds an entry if it is later than the last; false when it was not added.
    pub fn append(&mut self, entry: TimestampOffset) -> bool {
        !self.is_full() && self.append_last(entry)
    }

    /// As [`TimeIndex::append`], into the room kept for the closing entry.
    pub fn append_last(&mut self, entry: TimestampOffset) -> bool {
        let last = self.last().unwrap_or(TimestampOffset { timestamp: -1, offset: self.base_offset });
        let Some(relative) = relative_offset(self.base_offset, entry.offset) else { return false };
        if entry.timestamp <= last.timestamp || entry.offset < last.offset {
            return false;
        }
        self.bytes.extend_from_slice(&entry.timestamp.to_be_bytes());
        self.bytes.extend_from_slice(&relative.to_be_bytes());
        true
    }

    pub fn lookup(&self, target: i64) -> TimestampOffset {
        lookup(&self.bytes, self.base_offset, target)
    }

    pub fn last(&self) -> Option<TimestampOffset> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_grow_in_time_and_offset() {
        let at = |timestamp, offset| TimestampOffset { timestamp, offset };
        let mut index = TimeIndex::new(10, 60);
        assert_eq!(index.lookup(1000), at(-1, 10));
        assert!(!index.append(TimestampOffset::NONE));
        assert!(index.append(at(100, 12)));
        assert!(!index.append(at(100, 20)), "no later");
        assert!(!index.append(at(101, 11)), "below the last offset");
        assert!(index.append(at(200, 12)), "the same offset may get a later time");
        assert!(index.append(at(300, 30)));
        assert!(index.append(at(400, 40)));
        assert!(index.is_full() && !index.append(at(500, 50)));
        assert!(index.append_last(at(500, 50)));
        assert_eq!(check(index.bytes()), Ok(()));
        assert_eq!(check(&index.bytes()[1..]), Err(CorruptIndex::Length(59)));
        assert_eq!(
            (index.lookup(99), index.lookup(200), index.lookup(299)),
            (at(-1, 10), at(200, 12), at(200, 12))
        );
        index.truncate_to(40);
        assert_eq!(index.last(), Some(at(300, 30)));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200), target in any::<i64>()) {
            let _ = (lookup(&bytes, target, target), check(&bytes), truncated_len(&bytes, target, target));
            prop_assert_eq!(entries(&bytes, 0).len(), bytes.len() / ENTRY_BYTES);
        }
    }
}
