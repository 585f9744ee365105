//! Memory of large frames, used again once nobody holds it.
//!
//! A large frame is received into memory of its own, which the broker may share between shards until its records are
//! appended. The shard that received it remembers some of these, and takes the next frame's memory from among those
//! that nobody else holds any more.

use std::sync::Arc;

/// Frames that are remembered.
const KEPT_MAX: usize = 32;
/// What one of them and all between them may hold.
const FRAME_BYTES_MAX: usize = 2 << 20;
const KEPT_BYTES_MAX: usize = 8 << 20;
/// A frame takes no memory of more than so many times its size.
const SLACK_MAX: usize = 4;
/// How long no frame comes until the memory goes back.
const REST_NS: u64 = 1_000_000_000;

#[derive(Default)]
pub struct Frames {
    /// Those whose memory is in use again are empty here, and nobody's.
    kept: Vec<Arc<Vec<u8>>>,
    bytes: usize,
    /// Whether one has come since the last look, and when the next is.
    busy: bool,
    look_at_ns: u64,
}

impl Frames {
    /// Empty memory for `bytes`: that of an earlier frame where one is free and fits.
    pub fn memory(&mut self, bytes: usize) -> Vec<u8> {
        let fits = bytes..=bytes.saturating_mul(SLACK_MAX);
        let free = self.kept.iter_mut().filter_map(Arc::get_mut);
        let fitting = free.filter(|frame| fits.contains(&frame.capacity()));
        let Some(frame) = fitting.min_by_key(|frame| frame.capacity()) else {
            return Vec::with_capacity(bytes);
        };
        self.bytes -= frame.capacity();
        frame.clear();
        std::mem::take(frame)
    }

    /// Makes a whole frame one that can be shared, and remembers it if there is room.
    pub fn share(&mut self, frame: Vec<u8>) -> Arc<Vec<u8>> {
        self.busy = true;
        let bytes = frame.capacity();
        if bytes == 0 || bytes > FRAME_BYTES_MAX {
            return Arc::new(frame);
        }
        let free = self.kept.iter_mut().filter_map(Arc::get_mut);
        for old in free {
            if self.bytes + bytes <= KEPT_BYTES_MAX {
                break;
            }
            self.bytes -= old.capacity();
            *old = Vec::new();
        }
        if self.bytes + bytes > KEPT_BYTES_MAX {
            return Arc::new(frame);
        }
        let full = self.kept.len() == KEPT_MAX;
        let free = self.kept.iter_mut().filter(|kept| Arc::strong_count(kept) == 1);
        if let Some(place) = free.min_by_key(|kept| kept.capacity())
            && (full || place.capacity() == 0)
            && let Some(memory) = Arc::get_mut(place)
        {
            self.bytes = self.bytes - memory.capacity() + bytes;
            *memory = frame;
            return Arc::clone(place);
        }
        let frame = Arc::new(frame);
        if !full {
            self.kept.push(Arc::clone(&frame));
            self.bytes += bytes;
        }
        frame
    }

    /// Lets free memory go when no frame has come for a while.
    pub fn rest(&mut self, now_ns: u64) {
        if now_ns < self.look_at_ns {
            return;
        }
        self.look_at_ns = now_ns.saturating_add(REST_NS);
        if !std::mem::take(&mut self.busy) {
            self.kept.retain(|frame| Arc::strong_count(frame) > 1);
            self.bytes = self.kept.iter().map(|frame| frame.capacity()).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(frame: &[u8]) -> usize {
        frame.as_ptr().addr()
    }

    #[test]
    fn memory_is_used_again_once_nobody_holds_it() {
        let mut frames = Frames::default();
        let shared = frames.share(vec![1; 1000]);
        let first = place(&shared);
        assert_ne!(place(&frames.memory(1000)), first, "it is held");
        drop(shared);
        assert!(frames.memory(100).capacity() < 1000, "too much for so little");
        assert!(frames.memory(1001).capacity() >= 1001);
        let again = frames.memory(900);
        assert_eq!((place(&again), again.len(), again.capacity(), frames.bytes), (first, 0, 1000, 0));
        let shared = frames.share(again);
        assert_eq!((place(&shared), frames.kept.len(), frames.bytes), (first, 1, 1000));
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let mut frames = Frames::default();
        drop(frames.share(vec![0; FRAME_BYTES_MAX + 1]));
        assert!(frames.kept.is_empty());
        let held: Vec<_> = (0..2 * KEPT_MAX).map(|_| frames.share(vec![0; 1 << 10])).collect();
        assert_eq!((frames.kept.len(), frames.bytes), (KEPT_MAX, KEPT_MAX << 10));
        drop(held);
        for _ in 0..100 {
            frames.share(vec![0; 1 << 20]);
            assert!(frames.bytes <= KEPT_BYTES_MAX && frames.kept.len() <= KEPT_MAX);
        }
        assert!(frames.bytes + (1 << 20) > KEPT_BYTES_MAX, "the newer are kept: {}", frames.bytes);
    }

    #[test]
    fn idle_memory_goes() {
        let mut frames = Frames::default();
        let held = frames.share(vec![0; 1000]);
        drop(frames.share(vec![0; 1000]));
        for (now_ns, bytes) in [(0, 2000), (REST_NS - 1, 2000), (REST_NS, 1000)] {
            frames.rest(now_ns);
            assert_eq!(frames.bytes, bytes);
        }
        drop(held);
        frames.rest(2 * REST_NS);
        assert_eq!((frames.bytes, frames.kept.len()), (0, 0));
    }
}
