//! Pieces of segments in memory: what was flushed a while ago and what was read from disk, logs and indexes.
//!
//! Bounded by the pool: whoever finds it empty evicts pieces here one by one ([`ReadCache::evict_one`], a clock). A
//! piece begins at a block of its segment. Pieces may overlap where a flush went on in the block that the flush before
//! had ended in; the bytes are the same, and a look-up prefers the later piece.

use std::collections::{BTreeMap, VecDeque};

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
}

#[derive(Debug, Default)]
pub struct ReadCache {
    pieces: BTreeMap<PieceKey, Piece>,
    clock: VecDeque<PieceKey>,
}

impl ReadCache {
    /// Adds a piece; it replaces the one at its place. `fresh` pieces survive the clock's first pass.
    pub fn insert(&mut self, key: PieceKey, bytes: Slice, fresh: bool) {
        // A key may stand twice on the clock after a removal; that does no harm.
        if self.pieces.insert(key, Piece { bytes, used: fresh }).is_none() {
            self.clock.push_back(key);
        }
    }

    /// The bytes from `position` of a segment's log to the end of the piece that holds it.
    pub fn get(&mut self, log: LogId, segment: i64, position: u32) -> Option<Slice> {
        let last = PieceKey { log, segment, kind: FileKind::Log, start: position };
        let first = PieceKey { start: 0, ..last };
        let (key, piece) = self.pieces.range_mut(first..=last).next_back()?;
        let at = (position - key.start) as usize;
        if at >= piece.bytes.len() {
            return None;
        }
        piece.used = true;
        Some(piece.bytes.slice(at, piece.bytes.len() - at))
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
