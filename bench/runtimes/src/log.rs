//! From requests to aligned blocks: each request is copied once, into the block that gathers while others are being
//! written (group commit without a timer), and answered when its block and all before it are written.
//!
//! A block starts with its head (magic, bytes of requests, sequence) and ends with zeros up to the alignment. Call `append`
//! for each request, `take` once a turn until it gives nothing, `complete` for each write that ended, then `answered`.

use std::collections::VecDeque;

/// The largest request with its length; it fits a block.
pub const FRAME_MAX: usize = BLOCK - HEAD;
pub const BLOCK: usize = 1 << 20;
pub const ALIGN: usize = 4096;
pub const HEAD: usize = 16;
pub const MAGIC: u32 = 0x726e_6c67;

/// `B` is the runtime's memory of `BLOCK` bytes, fit for direct writes.
pub struct Log<B> {
    free: Vec<B>,
    current: Option<Gathering<B>>,
    /// Blocks being written, in the order of the segment.
    flying: VecDeque<Flying>,
    sequence: u64,
    position: u64,
    segment_bytes: u64,
    spare: Vec<Answers>,
}

struct Gathering<B> {
    buffer: B,
    len: usize,
    answers: Answers,
}

struct Flying {
    sequence: u64,
    done: bool,
    answers: Answers,
}

/// The answers that wait for a block: their bytes one behind the other, and whose they are.
#[derive(Default)]
pub struct Answers {
    pub bytes: Vec<u8>,
    /// (connection, end in `bytes`).
    pub ends: Vec<(usize, usize)>,
}

impl Answers {
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|&(_, end)| end));
        starts.zip(&self.ends).map(|(start, &(connection, end))| (connection, &self.bytes[start..end]))
    }
}

/// A block to be written: `len` bytes of the buffer at `position`.
pub struct Write<B> {
    pub sequence: u64,
    pub buffer: B,
    pub len: usize,
    pub position: u64,
}

impl<B: AsMut<[u8]>> Log<B> {
    /// One buffer more than there may be writes under way.
    pub fn new(buffers: Vec<B>, segment_bytes: u64) -> Log<B> {
        assert!(segment_bytes >= BLOCK as u64, "a segment holds a block");
        let (flying, spare) = (VecDeque::new(), Vec::new());
        Log { free: buffers, current: None, flying, sequence: 0, position: 0, segment_bytes, spare }
    }

    /// Takes a request, whose answer `write_answer` writes; false when there is no room before a write completes.
    pub fn append(
        &mut self,
        connection: usize,
        frame: &[u8],
        write_answer: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        if self.current.is_none() {
            let Some(buffer) = self.free.pop() else { return false };
            self.current =
                Some(Gathering { buffer, len: HEAD, answers: self.spare.pop().unwrap_or_default() });
        }
        let current = self.current.as_mut().expect("made above");
        let Some(place) = current.buffer.as_mut().get_mut(current.len..current.len + frame.len()) else {
            return false;
        };
        place.copy_from_slice(frame);
        current.len += frame.len();
        write_answer(&mut current.answers.bytes);
        current.answers.ends.push((connection, current.answers.bytes.len()));
        true
    }

    /// Whether `take` would give a block.
    pub fn has_block(&self, depth: usize) -> bool {
        self.current.is_some() && self.flying.len() < depth
    }

    /// The next block, while fewer than `depth` are under way. The file is overwritten from its start once it is full.
    pub fn take(&mut self, depth: usize) -> Option<Write<B>> {
        if !self.has_block(depth) {
            return None;
        }
        let Gathering { mut buffer, len, answers } = self.current.take()?;
        let aligned = len.next_multiple_of(ALIGN);
        let bytes = buffer.as_mut();
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[8..HEAD].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[len..aligned].fill(0);
        if self.position + aligned as u64 > self.segment_bytes {
            self.position = 0;
        }
        let write = Write { sequence: self.sequence, buffer, len: aligned, position: self.position };
        self.flying.push_back(Flying { sequence: self.sequence, done: false, answers });
        self.sequence += 1;
        self.position += aligned as u64;
        Some(write)
    }

    /// A write has ended; its buffer, or another, comes back.
    pub fn complete(&mut self, sequence: u64, buffer: B) {
        let first = self.flying.front().expect("a block is being written").sequence;
        self.flying[(sequence - first) as usize].done = true;
        self.free.push(buffer);
    }

    /// The answers of the oldest block, once it is written and none before it is missing. Give them back to `reuse`.
    pub fn answered(&mut self) -> Option<Answers> {
        self.flying.front().filter(|flying| flying.done)?;
        self.flying.pop_front().map(|flying| flying.answers)
    }

    pub fn reuse(&mut self, mut answers: Answers) {
        answers.bytes.clear();
        answers.ends.clear();
        self.spare.push(answers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(buffers: usize) -> Log<Vec<u8>> {
        Log::new(vec![vec![0xff; BLOCK]; buffers], 3 * BLOCK as u64)
    }

    fn append(log: &mut Log<Vec<u8>>, connection: usize, len: usize) -> bool {
        log.append(connection, &vec![1; len], |out| out.push(connection as u8))
    }

    #[test]
    fn answers_wait_for_every_block_before_theirs() {
        let mut log = log(3);
        assert!(append(&mut log, 1, 10) && append(&mut log, 2, 10));
        let first = log.take(2).expect("a block");
        assert!(append(&mut log, 3, 10));
        let second = log.take(2).expect("a block");
        assert!(append(&mut log, 4, 10) && !log.has_block(2) && log.take(2).is_none());
        log.complete(second.sequence, second.buffer);
        assert!(log.answered().is_none());
        log.complete(first.sequence, first.buffer);
        let told: Vec<_> = std::iter::from_fn(|| log.answered())
            .flat_map(|a| a.iter().map(|(c, bytes)| (c, bytes.to_vec())).collect::<Vec<_>>())
            .collect();
        assert_eq!(told, [(1, vec![1]), (2, vec![2]), (3, vec![3])]);
    }

    #[test]
    fn a_block_is_aligned_headed_and_zero_behind_its_requests() {
        let mut log = log(1);
        assert!(append(&mut log, 0, 5000));
        let block = log.take(1).expect("a block");
        assert_eq!((block.len, block.position, &block.buffer[..4]), (8192, 0, &MAGIC.to_le_bytes()[..]));
        assert_eq!(block.buffer[4..8], 5016u32.to_le_bytes());
        assert!(
            block.buffer[HEAD..5016].iter().all(|&b| b == 1)
                && block.buffer[5016..8192].iter().all(|&b| b == 0)
        );
    }

    #[test]
    fn a_full_block_and_no_other_takes_nothing() {
        let mut log = log(1);
        assert!(append(&mut log, 0, FRAME_MAX) && !append(&mut log, 0, 1));
        let block = log.take(1).expect("a block");
        assert!(!append(&mut log, 0, 1));
        log.complete(block.sequence, block.buffer);
        assert!(append(&mut log, 0, 1));
    }

    #[test]
    fn the_segment_starts_again_when_it_is_full() {
        let mut log = log(1);
        let mut positions = Vec::new();
        for _ in 0..4 {
            assert!(append(&mut log, 0, FRAME_MAX));
            let block = log.take(1).expect("a block");
            positions.push(block.position);
            log.complete(block.sequence, block.buffer);
            let answers = log.answered().expect("written");
            log.reuse(answers);
        }
        assert_eq!(positions, [0, BLOCK as u64, 2 * BLOCK as u64, 0]);
    }
}
