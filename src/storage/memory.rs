//! The memory that appends, flushes and reads take: from the pool, and what the pool lacks from the read cache.

use super::store::{Dir, Storage};
use super::types::LogId;
use crate::io::buffer::{AlignedBuf, BufferPool};

/// Pieces of the read cache given up for room in the arenas, before memory outside of them is taken.
const EVICTIONS_FOR_ARENA: usize = 8;

impl Storage {
    /// Whether memory and journal of the log's directory take more appends now.
    pub fn has_room(&self, log: LogId) -> bool {
        let id = log;
        let Some(log) = self.logs.get(id) else { return false };
        if log.flags.held {
            // Where it takes none any more, who waits is to hear of it.
            return self.is_unplaced(id);
        }
        let journal = &self.dirs[log.dir].journal;
        self.pinned_bytes() + super::journal::CHUNK_BYTES <= self.options.tail_max_bytes
            && journal.files().used_bytes() < self.options.journal_max_bytes
            && !journal.is_stalled()
    }

    /// Gives the journal memory for a small batch of its own, where there is plenty: it does without else.
    pub(super) fn make_tail_room(&mut self, dir: usize, len: usize) {
        if !self.dirs[dir].journal.lacks_tail_memory(len) {
            return;
        }
        if self.pinned_bytes() + 2 * super::journal::CHUNK_BYTES <= self.options.tail_max_bytes
            && let Some(buf) = self.allocate(super::journal::CHUNK_BYTES)
        {
            self.dirs[dir].journal.add_tail_memory(buf);
        }
    }

    /// The memory that holds what no segment has yet.
    pub(super) fn pinned_bytes(&self) -> usize {
        self.dirs.iter().map(Dir::pinned_bytes).sum()
    }

    /// Memory from the pool for what is written, at the cost of the read cache once the pool has settled: memory that was used
    /// before is cheaper than any first touch.
    pub(super) fn allocate(&mut self, len: usize) -> Option<AlignedBuf> {
        let settled = self.take(|pool, anywhere| pool.allocate_settled(len, anywhere));
        // Beyond that only what the cache cannot make up for.
        settled.or_else(|| self.options.pool.allocate_anywhere(len))
    }

    /// Memory from the pool for what is read, at the cost of the read cache where the budget is spent.
    pub(super) fn allocate_to_read(&mut self, len: usize) -> Option<AlignedBuf> {
        self.take(|pool, anywhere| if anywhere { pool.allocate_anywhere(len) } else { pool.allocate(len) })
    }

    /// Takes what `from` gives, in the arenas or anywhere.
    fn take(&mut self, from: impl Fn(&BufferPool, bool) -> Option<AlignedBuf>) -> Option<AlignedBuf> {
        // Pieces of the cache are as large as what takes their place: some few make room, unless the arenas are broken up.
        for _ in 0..EVICTIONS_FOR_ARENA {
            if let Some(buf) = from(&self.options.pool, false) {
                return Some(buf);
            }
            if !self.cache.evict_one() {
                break;
            }
        }
        loop {
            if let Some(buf) = from(&self.options.pool, true) {
                return Some(buf);
            }
            if !self.cache.evict_one() {
                return None;
            }
        }
    }
}
