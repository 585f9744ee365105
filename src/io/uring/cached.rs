//! Writes to the system's cache, as plain calls. Such a write is a copy of some us; but ext4 cannot promise a ring that it will
//! not wait, so that each goes to a kernel worker, which costs more than the copy and gets a busy core when that is free: for single
//! small records half of a broker's CPU, and the tail of their latency. A call that did wait (the file system commits, too much is dirty)
//! has held up the whole shard: after one, writes go through the ring for a while.

use std::os::fd::{AsFd, OwnedFd};

use super::UringIo;
use crate::io::buffer::Slice;
use crate::io::clock::monotonic_ns;
use crate::io::file_task::Task;
use crate::io::{Completion, Handle, OpenMode, Payload, Token};

/// Larger ones are worth a worker: it copies while the shard goes on.
pub(super) const BYTES_MAX: usize = 256 << 10;
/// A call that took longer has waited.
const WAITED_NS: u64 = 2_000_000;
/// How long writes go through the ring after one has waited.
const REST_NS: u64 = 100_000_000;

impl UringIo {
    /// A handle for a file that was opened so.
    pub(super) fn insert_file(&mut self, fd: OwnedFd, mode: OpenMode) -> Option<Handle> {
        let file = self.handles.insert(fd).ok()?;
        self.handles.get_mut(file)?.cached = !mode.direct;
        Some(file)
    }

    /// Writes at once what is small and goes to the system's cache. Gives back what is for the ring.
    pub(super) fn write_cached(
        &mut self,
        file: Handle,
        offset: u64,
        data: Slice,
        token: Token,
    ) -> Result<(), Slice> {
        if self.options.old_kernel || data.len() > BYTES_MAX || self.clock.now_ns < self.cached_from_ns {
            return Err(data);
        }
        let Some(open) = self.handles.get(file).filter(|open| open.cached) else { return Err(data) };
        let began_ns = monotonic_ns();
        let task = Task::Write { file: open.file.as_fd(), offset, data, sync: false };
        let (result, _) = task.run();
        let ended_ns = monotonic_ns();
        if ended_ns - began_ns > WAITED_NS {
            self.cached_from_ns = ended_ns + REST_NS;
        }
        self.ready.push(Completion { token, result, more: false, payload: Payload::None });
        Ok(())
    }
}
