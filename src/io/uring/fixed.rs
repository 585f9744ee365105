//! Arenas registered with the ring, so that reads and writes of their buffers need no page pinning each time. An arena is
//! registered when it is first met and stays so until the driver ends. Where the locked-memory limit forbids it, its
//! buffers go the plain way; the log says so once.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use foldhash::fast::FixedState;
use io_uring::IoUring;

use crate::io::arena::Arena;

/// Places in the kernel's table; the pools of a shard have about 128 arenas.
const PLACES: u32 = 1024;

#[derive(Default)]
pub(super) struct FixedBuffers {
    /// By arena: its place in the table, or that it was refused.
    known: HashMap<u64, Option<u16>, FixedState>,
    /// The arenas in the table, which must not be freed while they are there.
    registered: Vec<Arc<Arena>>,
    has_table: bool,
    refused: bool,
}

impl FixedBuffers {
    /// Makes the table; without one (old kernel) nothing is registered.
    pub fn new(uring: &IoUring) -> FixedBuffers {
        let has_table = uring.submitter().register_buffers_sparse(PLACES).is_ok();
        FixedBuffers { has_table, ..FixedBuffers::default() }
    }

    pub fn has_table(&self) -> bool {
        self.has_table
    }

    /// Memory registered so far.
    pub fn bytes(&self) -> usize {
        self.registered.iter().map(|arena| arena.len()).sum()
    }

    /// The place of an arena, which is registered if it is new.
    pub fn place(&mut self, uring: &IoUring, arena: &Arc<Arena>) -> Option<u16> {
        if !self.has_table {
            return None;
        }
        if let Some(&place) = self.known.get(&arena.id) {
            return place;
        }
        let place = match self.register(uring, arena) {
            Ok(place) => place,
            Err(error) => {
                self.complain(arena, &error);
                None
            }
        };
        self.known.insert(arena.id, place);
        place
    }

    fn register(&mut self, uring: &IoUring, arena: &Arc<Arena>) -> io::Result<Option<u16>> {
        let place = self.registered.len() as u32;
        if place == PLACES {
            return Ok(None);
        }
        let memory = libc::iovec { iov_base: arena.as_ptr().cast(), iov_len: arena.len() };
        // SAFETY: needed to let the kernel pin the memory. The arena is mapped and, kept in `registered`, stays so until the
        // driver has unregistered it.
        unsafe { uring.submitter().register_buffers_update(place, &[memory], None)? };
        self.registered.push(arena.clone());
        Ok(Some(place as u16))
    }

    fn complain(&mut self, arena: &Arena, error: &io::Error) {
        if !std::mem::replace(&mut self.refused, true) {
            tracing::warn!(
                registered_bytes = self.bytes(),
                refused_bytes = arena.len(),
                %error,
                "the kernel does not let more memory be locked (RLIMIT_MEMLOCK); disk writes from it cost more: \
                 raise it with `ulimit -l unlimited`, LimitMEMLOCK=infinity or --ulimit memlock=-1"
            );
        }
    }

    /// Lets go of all arenas. Call when no op is in flight.
    pub fn unregister(&mut self, uring: &IoUring) {
        if self.has_table && uring.submitter().unregister_buffers().is_ok() {
            self.has_table = false;
            self.registered.clear();
        }
    }
}
