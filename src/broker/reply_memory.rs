//! The memory that answers to fetches hold until their clients have taken them.
//!
//! An answer pins pieces of the tail, the cache or of what was read. A client that reads slowly, or never, would pin them
//! all: so their sum is limited. The nearer the limit, the less an answer brings; at the limit it brings nothing but a
//! wish to wait, and the shard is told so that it can end connections that take nothing. Fetch asks here, `server::Shard`
//! gives back.

/// Answers that bring less are not worth their round trip.
const ANSWER_BYTES_MIN: usize = 512 << 10;
/// One answer takes this part of what is left at most.
const ANSWER_PART: usize = 4;
/// What a client is asked to wait when there is no memory for its answer.
pub const THROTTLE_MS: i32 = 100;

#[derive(Debug)]
pub struct ReplyMemory {
    limit_bytes: usize,
    held_bytes: usize,
    refused: bool,
}

impl ReplyMemory {
    pub fn new(limit_bytes: usize) -> ReplyMemory {
        ReplyMemory { limit_bytes, held_bytes: 0, refused: false }
    }

    /// How many bytes an answer may bring now; 0: none at all, not even one batch.
    pub fn allowance_bytes(&mut self) -> usize {
        let left = self.limit_bytes.saturating_sub(self.held_bytes);
        if left == 0 {
            self.refused = true;
            return 0;
        }
        (left / ANSWER_PART).max(ANSWER_BYTES_MIN)
    }

    /// An answer of so many bytes goes out.
    pub fn hold(&mut self, bytes: usize) {
        self.held_bytes += bytes;
    }

    /// It has gone, or nobody waits for it.
    pub fn release(&mut self, bytes: usize) {
        self.held_bytes -= bytes;
    }

    /// Whether an answer was refused since the last call.
    pub fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_shrink_towards_the_limit_and_grow_again() {
        let mut memory = ReplyMemory::new(8 << 20);
        assert_eq!(memory.allowance_bytes(), 2 << 20);
        memory.hold(7 << 20);
        assert_eq!(memory.allowance_bytes(), ANSWER_BYTES_MIN);
        assert!(!memory.take_refused());
        memory.hold(1 << 20);
        assert_eq!(memory.allowance_bytes(), 0);
        assert!(memory.take_refused() && !memory.take_refused());
        memory.release(8 << 20);
        assert_eq!(memory.allowance_bytes(), 2 << 20);
    }
}
