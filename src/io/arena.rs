//! Large pieces of memory that [`super::buffer::BufferPool`] cuts into buffers, so that a buffer costs neither an allocation
//! nor zeroing, and so that the ring can register a few big regions once instead of every buffer.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::BLOCK_BYTES;
use super::mapping::Mapping;

/// A piece of memory with a name of its own in this process. Pages appear on first touch, zeroed.
#[derive(Debug)]
pub(super) struct Arena {
    pub id: u64,
    memory: Mapping,
}

impl Arena {
    pub fn new(bytes: usize) -> io::Result<Arena> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let memory = Mapping::new(bytes)?;
        memory.prefer_huge_pages();
        Ok(Arena { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), memory })
    }

    /// Makes every page appear now.
    pub fn touch(&self) {
        self.memory.touch();
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.as_ptr()
    }

    pub fn len(&self) -> usize {
        self.memory.len()
    }
}

/// Which blocks of an arena are taken: one bit a block.
#[derive(Debug)]
pub(super) struct BlockMap {
    taken: Vec<u64>,
    blocks: usize,
    free: usize,
}

impl BlockMap {
    pub fn new(bytes: usize) -> BlockMap {
        let blocks = bytes / BLOCK_BYTES;
        BlockMap { taken: vec![0; blocks.div_ceil(64)], blocks, free: blocks }
    }

    /// Takes `count` neighbouring blocks, the first that fit; their start.
    pub fn take(&mut self, count: usize) -> Option<usize> {
        if count > self.free {
            return None;
        }
        let mut start = 0;
        while start + count <= self.blocks {
            let free = self.run(start, count, false);
            if free >= count {
                self.mark(start, count, true);
                self.free -= count;
                return Some(start);
            }
            start += free;
            start += self.run(start, self.blocks - start, true);
        }
        None
    }

    pub fn give_back(&mut self, start: usize, count: usize) {
        assert!(self.run(start, count, true) == count, "only taken blocks are given back");
        self.mark(start, count, false);
        self.free += count;
    }

    /// How many blocks from `start` on are (not) taken, `limit` at most.
    fn run(&self, start: usize, limit: usize, taken: bool) -> usize {
        let limit = limit.min(self.blocks - start);
        let mut run = 0;
        while run < limit {
            let at = start + run;
            let word = if taken { self.taken[at / 64] } else { !self.taken[at / 64] };
            let here = ((word >> (at % 64)).trailing_ones() as usize).min(64 - at % 64);
            run += here;
            if here < 64 - at % 64 {
                break;
            }
        }
        run.min(limit)
    }

    fn mark(&mut self, start: usize, count: usize, taken: bool) {
        let mut at = start;
        let end = start + count;
        while at < end {
            let len = (64 - at % 64).min(end - at);
            let mask = (u64::MAX >> (64 - len)) << (at % 64);
            match taken {
                true => self.taken[at / 64] |= mask,
                false => self.taken[at / 64] &= !mask,
            }
            at += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_cross_words() {
        let mut map = BlockMap::new(200 * BLOCK_BYTES);
        assert_eq!(map.take(100), Some(0));
        assert_eq!(map.take(101), None);
        assert_eq!(map.take(100), Some(100));
        assert_eq!(map.take(1), None);
        map.give_back(60, 10);
        assert_eq!(map.take(11), None);
        assert_eq!(map.take(10), Some(60));
    }

    #[test]
    #[should_panic(expected = "only taken blocks")]
    fn a_block_is_given_back_once() {
        let mut map = BlockMap::new(8 * BLOCK_BYTES);
        let start = map.take(4).unwrap();
        map.give_back(start, 4);
        map.give_back(start, 1);
    }

    proptest! {
        #[test]
        fn takes_never_overlap_and_fail_only_without_a_run(steps in prop::collection::vec((1usize..90, 0usize..8), 1..200)) {
            const BLOCKS: usize = 300;
            let mut map = BlockMap::new(BLOCKS * BLOCK_BYTES);
            let mut model = [false; BLOCKS];
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (count, choice) in steps {
                if choice < 3 && !held.is_empty() {
                    let (start, count) = held.swap_remove(count % held.len());
                    map.give_back(start, count);
                    model[start..start + count].fill(false);
                    continue;
                }
                let expected = (0..=BLOCKS - count).find(|&at| model[at..at + count].iter().all(|taken| !taken));
                prop_assert_eq!(map.take(count), expected);
                if let Some(start) = expected {
                    model[start..start + count].fill(true);
                    held.push((start, count));
                }
                prop_assert_eq!(map.free, model.iter().filter(|taken| !**taken).count());
            }
        }
    }
}
