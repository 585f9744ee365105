//! The memory behind tails and blocks on their way to the disk, chunk by chunk: what of it is still needed.
//!
//! A chunk is filled front to back while it is open, and counts until it has been closed and nothing in it is needed. Small
//! batches are copied here once more, out of the block that they lie in: a block of a few is mostly padding, and while one of them
//! is needed the whole of it is. Side by side a tail of theirs takes a tenth of the memory, so it may grow ten times as long before it
//! has to be written to its segment; with many logs that is what a record costs.
//!
//! Called by [`Journal`](super::Journal) alone.

use std::collections::VecDeque;

use super::Placed;
use crate::io::buffer::{AlignedBuf, AppendBuf, Slice};

/// Batches up to this are small: a block holds several.
pub const SMALL_BATCH_BYTES: usize = 1024;

#[derive(Debug, Default)]
pub struct Chunks {
    uses: VecDeque<Use>,
    /// The number of the first of them.
    first: u64,
    pinned_bytes: usize,
    /// Where small batches go.
    packed: Option<(u64, AppendBuf)>,
}

#[derive(Debug)]
struct Use {
    bytes: usize,
    live_bytes: usize,
    open: bool,
}

impl Chunks {
    /// Counts a chunk that is about to be filled; its number.
    pub fn open(&mut self, bytes: usize) -> u64 {
        self.uses.push_back(Use { bytes, live_bytes: 0, open: true });
        self.pinned_bytes += bytes;
        self.first + self.uses.len() as u64 - 1
    }

    /// Nothing more goes into the chunk.
    pub fn close(&mut self, chunk: u64) {
        self.with(chunk, |chunk| chunk.open = false);
    }

    /// Says that `bytes` of the chunk are needed.
    pub fn hold(&mut self, chunk: u64, bytes: usize) {
        self.with(chunk, |chunk| chunk.live_bytes += bytes);
    }

    /// Says that `bytes` of the chunk are needed no more.
    pub fn release(&mut self, chunk: u64, bytes: usize) {
        self.with(chunk, |chunk| chunk.live_bytes -= bytes);
    }

    /// The memory of the chunks that are open or needed.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// Whether a batch of `len` bytes would be copied, if there were memory for it.
    pub fn lacks_memory(&self, len: usize) -> bool {
        (1..=SMALL_BATCH_BYTES).contains(&len) && !self.has_memory(len)
    }

    fn has_memory(&self, len: usize) -> bool {
        self.packed.as_ref().is_some_and(|(_, buf)| len <= buf.remaining())
    }

    /// Gives memory for copies.
    pub fn add_memory(&mut self, buf: AlignedBuf) {
        if let Some((full, _)) = self.packed.take() {
            self.close(full);
        }
        self.packed = Some((self.open(buf.len()), AppendBuf::new(buf)));
    }

    /// Where the tail finds a batch that lies at `slice` of `chunk`: there, or in a copy.
    pub fn keep(&mut self, chunk: u64, slice: Slice) -> Placed {
        let placed = match &mut self.packed {
            Some((number, buf)) if slice.len() <= SMALL_BATCH_BYTES.min(buf.remaining()) => {
                Placed { slice: buf.append(&slice), chunk: *number }
            }
            _ => Placed { slice, chunk },
        };
        self.hold(placed.chunk, placed.slice.len());
        placed
    }

    fn with(&mut self, chunk: u64, change: impl FnOnce(&mut Use)) {
        let used = &mut self.uses[(chunk - self.first) as usize];
        change(used);
        if !used.open && used.live_bytes == 0 {
            self.pinned_bytes -= std::mem::take(&mut used.bytes);
        }
        while self.uses.front().is_some_and(|used| !used.open && used.live_bytes == 0) {
            self.uses.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 4096;

    fn block(len: usize) -> Slice {
        AlignedBuf::unbudgeted(BYTES).freeze().slice(0, len)
    }

    #[test]
    fn a_chunk_counts_while_it_is_open_or_needed() {
        let mut chunks = Chunks::default();
        let (a, b, c) = (chunks.open(BYTES), chunks.open(BYTES), chunks.open(BYTES));
        chunks.hold(a, 10);
        chunks.hold(b, 10);
        chunks.close(b);
        chunks.release(b, 10);
        assert_eq!(chunks.pinned_bytes(), 2 * BYTES, "one in the middle goes at once");
        chunks.release(a, 10);
        assert_eq!(chunks.pinned_bytes(), 2 * BYTES, "an open one stays");
        chunks.close(a);
        chunks.hold(c, 5);
        chunks.close(c);
        assert_eq!(chunks.pinned_bytes(), BYTES);
        chunks.release(c, 5);
        assert_eq!((chunks.pinned_bytes(), chunks.uses.len(), chunks.first), (0, 0, 3));
    }

    #[test]
    fn small_batches_lie_side_by_side() {
        let mut chunks = Chunks::default();
        let journal = chunks.open(BYTES);
        assert_eq!(chunks.keep(journal, block(100)).chunk, journal, "no memory for copies yet");
        assert!(chunks.lacks_memory(100) && !chunks.lacks_memory(SMALL_BATCH_BYTES + 1));
        chunks.add_memory(AlignedBuf::unbudgeted(BYTES));
        let first = chunks.keep(journal, block(100));
        let second = chunks.keep(journal, block(200));
        assert_ne!(first.chunk, journal);
        assert!(first.slice.adjoins(&second.slice));
        let large = chunks.keep(journal, block(SMALL_BATCH_BYTES + 1));
        assert_eq!(large.chunk, journal);
        for placed in [first, second] {
            chunks.release(placed.chunk, placed.slice.len());
        }
        assert_eq!(chunks.pinned_bytes(), 2 * BYTES, "it is still being filled");
        chunks.add_memory(AlignedBuf::unbudgeted(BYTES));
        assert_eq!(chunks.pinned_bytes(), 2 * BYTES, "the full one was needed no more");
    }
}
