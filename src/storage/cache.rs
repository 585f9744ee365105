//! Pieces of segments in memory: what was flushed a while ago and what was read from disk, logs and indexes.
//!
//! Bounded by the pool: whoever finds it empty evicts pieces here one by one ([`ReadCache::evict_one`], a clock). A
//! piece begins at a block of its segment. Pieces may overlap where a flush went on in the block that the flush before
//! had ended in; the bytes are the same, and a look-up prefers the later piece.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::names::FileKind;
use super::types::LogId;
use crate::io::buffer::Slice;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceKey {
    pub log: LogId,
    pub segment: i64,
    pub kind: FileKind,
    pub start: u32,
}

#[derive(Debug)]
struct Piece {
    bytes: Slice,
    /// Used since the clock's hand passed.
    used: bool,
    /// The batches that begin in this part of the segment are as they were written.
    sound: Range<u32>,
}

/// What a look-up finds.
#[derive(Debug)]
pub struct Found {
    /// From the position asked for to the end of the piece.
    pub bytes: Slice,
    pub sound: Range<u32>,
}

#[derive(Debug, Default)]
pub struct ReadCache {
    pieces: BTreeMap<PieceKey, Piece>,
    clock: VecDeque<PieceKey>,
}

impl ReadCache {
    /// Adds a piece; it replaces the one at its place. `fresh` pieces survive the clock's first pass. `sound`: where its
    /// batches need no check.
    pub fn insert(&mut self, key: PieceKey, bytes: Slice, fresh: bool, sound: Range<u32>) {
        // A key may stand twice on the clock after a removal; that does no harm.
        if self.pieces.insert(key, Piece { bytes, used: fresh, sound }).is_none() {
            self.clock.push_back(key);
        }
    }

    /// The bytes from `position` of a segment's log to the end of the piece that holds it.
    pub fn get(&mut self, log: LogId, segment: i64, position: u32) -> Option<Found> {
        let (start, piece) = self.piece(log, segment, position)?;
        let at = (position - start) as usize;
        piece.used = true;
        Some(Found { bytes: piece.bytes.slice(at, piece.bytes.len() - at), sound: piece.sound.clone() })
    }

    /// Notes that the batch at `batch` was checked, and answers where none needs it any more.
    pub fn mark_sound(&mut self, log: LogId, segment: i64, batch: Range<u32>) -> Range<u32> {
        let Some((_, piece)) = self.piece(log, segment, batch.start) else { return batch };
        // Readers go forward: what they have checked grows at its end, or begins anew elsewhere.
        piece.sound = if piece.sound.end == batch.start { piece.sound.start..batch.end } else { batch };
        piece.sound.clone()
    }

    /// The piece that holds `position`, and where it starts.
    fn piece(&mut self, log: LogId, segment: i64, position: u32) -> Option<(u32, &mut Piece)> {
        let last = PieceKey { log, segment, kind: FileKind::Log, start: position };
        let first = PieceKey { start: 0, ..last };
        let (key, piece) = self.pieces.range_mut(first..=last).next_back()?;
        ((position - key.start) as usize).lt(&piece.bytes.len()).then_some((key.start, piece))
    }

    /// The whole of an index, as far as it was written when it was read.
    pub fn index(&mut self, log: LogId, segment: i64, kind: FileKind) -> Option<Slice> {
        let piece = self.pieces.get_mut(&PieceKey { log, segment, kind, start: 0 })?;
        piece.used = true;
        Some(piece.bytes.clone())
    }

    /// Drops a piece that has become stale.
    pub fn remove(&mut self, key: PieceKey) {
        // The clock notices when it comes by.
        self.pieces.remove(&key);
    }

    /// Where the first piece behind `position` begins.
    pub fn next_start(&self, log: LogId, segment: i64, position: u32) -> Option<u32> {
        let first = PieceKey { log, segment, kind: FileKind::Log, start: position };
        let last = PieceKey { start: u32::MAX, ..first };
        self.pieces.range(first..=last).find(|(key, _)| key.start > position).map(|(key, _)| key.start)
    }

    /// Drops a piece that has not been used for a while; false when there is none.
    pub fn evict_one(&mut self) -> bool {
        // Two rounds at most: the first one may only take the marks away.
        for _ in 0..2 * self.clock.len() {
            let Some(key) = self.clock.pop_front() else { return false };
            match self.pieces.get_mut(&key) {
                None => {}
                Some(piece) if piece.used => {
                    piece.used = false;
                    self.clock.push_back(key);
                }
                Some(_) => {
                    self.pieces.remove(&key);
                    return true;
                }
            }
        }
        false
    }

    /// Drops the pieces of a log, or of one of its segments.
    pub fn forget(&mut self, log: LogId, segment: Option<i64>) {
        let (kind, start) = (FileKind::Log, 0);
        let first = PieceKey { log, segment: segment.unwrap_or(i64::MIN), kind, start };
        let (kind, start) = (FileKind::ProducerSnapshot, u32::MAX);
        let last = PieceKey { log, segment: segment.unwrap_or(i64::MAX), kind, start };
        let keys: Vec<PieceKey> = self.pieces.range(first..=last).map(|(key, _)| *key).collect();
        for key in &keys {
            self.pieces.remove(key);
        }
        if !keys.is_empty() {
            self.clock.retain(|key| self.pieces.contains_key(key));
        }
    }
}
