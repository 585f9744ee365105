//! The receive buffers: a few large ones that the kernel fills for whichever connection has data (a provided-buffer
//! ring), so that idle connections hold none. With incremental consumption (Linux 6.12) pieces of several
//! connections lie one behind the other in a buffer; without it each piece takes a whole, smaller buffer.
//!
//! Invariant: a buffer is offered to the kernel only while no piece of it is held. The [`Ledger`] keeps that in safe code.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{IoUring, types::BufRingEntry};

use crate::io::buffer::{Lender, Loan, Received};
use crate::io::mapping::Mapping;

pub(super) const GROUP: u16 = 0;

const INCREMENTAL_BUFFER_BYTES: usize = 256 << 10;
const PLAIN_BUFFER_BYTES: usize = 32 << 10;
/// `IOU_PBUF_RING_INC`, which the crate does not export.
const FLAG_INCREMENTAL: u16 = 2;

pub(super) struct ReceiveRing {
    entries: Mapping,
    buffers: Rc<Buffers>,
    count: u16,
    tail: u16,
    incremental: bool,
}

/// Shared with the pieces, which keep the memory alive.
struct Buffers {
    memory: Mapping,
    buffer_bytes: usize,
    ledger: RefCell<Ledger>,
}

impl ReceiveRing {
    /// Registers about `total_bytes` of buffers.
    pub fn register(ring: &IoUring, total_bytes: usize, incremental: bool) -> io::Result<ReceiveRing> {
        let buffer_bytes = if incremental { INCREMENTAL_BUFFER_BYTES } else { PLAIN_BUFFER_BYTES };
        let count = (total_bytes / buffer_bytes).clamp(2, 1 << 14).next_power_of_two() as u16;
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let flags = if incremental { FLAG_INCREMENTAL } else { 0 };
        // SAFETY: needed to hand the kernel the ring of free buffers. The mapping is page-aligned, holds `count` entries
        // and lives as long as `ReceiveRing`, which the driver drops after all ops have ended.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count, GROUP, flags)?;
        }
        let memory = Mapping::new(usize::from(count) * buffer_bytes)?;
        let ledger = RefCell::new(Ledger::new(count));
        let buffers = Rc::new(Buffers { memory, buffer_bytes, ledger });
        let mut receive = ReceiveRing { entries, buffers, count, tail: 0, incremental };
        receive.recycle();
        Ok(receive)
    }

    pub fn is_incremental(&self) -> bool {
        self.incremental
    }

    pub fn total_bytes(&self) -> usize {
        self.buffers.memory.len()
    }

    /// Offers the buffers that nobody holds any more to the kernel. Whether the kernel has any.
    pub fn recycle(&mut self) -> bool {
        let mut ledger = self.buffers.ledger.borrow_mut();
        if ledger.free.is_empty() {
            return ledger.offered > 0;
        }
        while let Some(id) = ledger.offer() {
            let place = usize::from(self.tail & (self.count - 1));
            // SAFETY: needed to write the kernel's ring. `place` is below `count`, so the entry lies in the mapping,
            // aligned; the kernel reads only entries before the tail published below, and only from our thread.
            let entry = unsafe { &mut *self.entries.as_ptr().cast::<BufRingEntry>().add(place) };
            entry.set_addr(
                self.buffers.memory.as_ptr() as u64 + u64::from(id) * self.buffers.buffer_bytes as u64,
            );
            entry.set_len(self.buffers.buffer_bytes as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
        }
        // SAFETY: needed to publish the entries. The tail lies in the first entry of the live mapping, aligned for two
        // bytes; the kernel only reads it.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
        true
    }

    /// The `len` bytes the kernel has put into buffer `id`; `None` when that cannot be.
    pub fn take(&mut self, id: u16, len: usize, kernel_keeps_it: bool) -> Option<Received> {
        let limit = self.buffers.buffer_bytes;
        let start = self.buffers.ledger.borrow_mut().fill(id, len, kernel_keeps_it, limit)?;
        let loan = Loan { buffer: id, start, len };
        Some(Received::lent(self.buffers.clone(), loan))
    }
}

impl Lender for Buffers {
    fn bytes(&self, loan: Loan) -> &[u8] {
        let start = usize::from(loan.buffer) * self.buffer_bytes + loan.start;
        // SAFETY: needed to read what the kernel wrote without a copy. `start..start + len` lies in the mapping (the
        // ledger checked it against the buffer; only `take` makes loans); the kernel has written it and writes it again
        // only after the buffer is offered anew, which the ledger does not do while this loan is counted.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(start), loan.len) }
    }

    fn take_back(&self, loan: Loan) {
        self.ledger.borrow_mut().release(loan.buffer);
    }
}

/// Who holds which buffer.
struct Ledger {
    buffers: Vec<Buffer>,
    /// Held by nobody, to be offered.
    free: Vec<u16>,
    /// How many the kernel may fill.
    offered: usize,
}

#[derive(Clone, Default)]
struct Buffer {
    /// The kernel may still fill it behind `filled`.
    offered: bool,
    filled: usize,
    pieces: u32,
}

impl Ledger {
    fn new(count: u16) -> Ledger {
        let buffers = vec![Buffer::default(); usize::from(count)];
        Ledger { buffers, free: (0..count).rev().collect(), offered: 0 }
    }

    fn offer(&mut self) -> Option<u16> {
        let id = self.free.pop()?;
        self.buffers[usize::from(id)] = Buffer { offered: true, filled: 0, pieces: 0 };
        self.offered += 1;
        Some(id)
    }

    /// Notes `len` bytes more in a buffer and a piece that holds them; where they start.
    fn fill(&mut self, id: u16, len: usize, kernel_keeps_it: bool, limit: usize) -> Option<usize> {
        let buffer = self.buffers.get_mut(usize::from(id)).filter(|buffer| buffer.offered)?;
        let start = buffer.filled;
        if len > limit - start {
            return None;
        }
        buffer.filled += len;
        buffer.pieces += 1;
        if !kernel_keeps_it {
            buffer.offered = false;
            self.offered -= 1;
        }
        Some(start)
    }

    fn release(&mut self, id: u16) {
        let buffer = &mut self.buffers[usize::from(id)];
        buffer.pieces -= 1;
        if buffer.pieces == 0 && !buffer.offered {
            self.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_offered_again_only_when_full_and_let_go() {
        let mut ledger = Ledger::new(2);
        assert_eq!((ledger.offer(), ledger.offer(), ledger.offer()), (Some(0), Some(1), None));
        assert_eq!(ledger.fill(0, 60, true, 100), Some(0));
        assert_eq!(ledger.fill(0, 40, false, 100), Some(60));
        assert_eq!(ledger.offered, 1);
        ledger.release(0);
        assert_eq!(ledger.offer(), None, "a piece is held");
        ledger.release(0);
        assert_eq!(ledger.offer(), Some(0));
        assert_eq!(ledger.fill(0, 1, true, 100), Some(0), "filled from the front again");
        ledger.release(0);
        assert_eq!(ledger.offer(), None, "the kernel is not done with it");
    }

    #[test]
    fn what_the_kernel_cannot_have_done_is_refused() {
        let mut ledger = Ledger::new(2);
        assert_eq!(ledger.fill(0, 1, true, 100), None, "never offered");
        ledger.offer();
        assert_eq!(ledger.fill(0, 101, false, 100), None, "beyond the buffer");
        assert_eq!(ledger.fill(9, 1, false, 100), None, "no such buffer");
        assert_eq!(ledger.fill(0, 100, false, 100), Some(0));
        assert_eq!(ledger.fill(0, 0, false, 100), None, "the kernel had given it back");
    }
}
