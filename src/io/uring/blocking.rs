//! Ops that are waited for at once, at start-up: file ops as plain calls. Through the ring each would wake a kernel worker
//! and wait for it, some 100 us against 5, and a start opens and reads a handful of files for every partition.

use std::os::fd::{AsFd, BorrowedFd};

use super::UringIo;
use crate::io::file_task::{Brought, Task};
use crate::io::{Completion, Errno, Handle, Op, OpenMode, Payload, Token};

impl UringIo {
    /// Does a file op. Gives back what is for the ring: sockets, files with ops in flight, registered memory.
    pub(super) fn call(&mut self, op: Op, token: Token) -> Result<Completion, Op> {
        if self.options.old_kernel || self.is_for_ring(&op) {
            return Err(op);
        }
        let (result, payload) = match op {
            Op::Close { handle } => {
                drop(self.handles.remove(handle));
                (Ok(0), Payload::None)
            }
            op => match self.task(op) {
                Ok(Task::Open { path, mode }) => {
                    let (result, brought) = Task::<BorrowedFd<'_>>::Open { path, mode }.run();
                    self.take(result, brought, mode)
                }
                Ok(task) => {
                    let (result, brought) = task.run();
                    self.take(result, brought, OpenMode::default())
                }
                Err((errno, payload)) => (Err(errno), payload),
            },
        };
        Ok(Completion { token, result, more: false, payload })
    }

    fn is_for_ring(&self, op: &Op) -> bool {
        match op {
            Op::Read { buf, len, .. } => buf.arena().is_some() || *len > buf.len(),
            Op::Write { data, .. } => data.arena().is_some(),
            Op::Close { handle } => self.handles.get(*handle).is_none_or(|open| open.ops > 0),
            Op::Open { .. } | Op::Sync { .. } | Op::Truncate { .. } => false,
            Op::Rename { .. } | Op::Unlink { .. } | Op::RemoveDir { .. } | Op::CreateDir { .. } => false,
            _ => true,
        }
    }

    fn task(&self, op: Op) -> Result<Task<BorrowedFd<'_>>, (Errno, Payload)> {
        let file = |handle: Handle| match self.handles.get(handle) {
            Some(open) => Ok(open.file.as_fd()),
            None => Err((Errno(libc::EBADF), Payload::None)),
        };
        Ok(match op {
            Op::Open { path, mode } => Task::Open { path, mode },
            Op::Read { file: handle, offset, buf, len } => match file(handle) {
                Ok(file) => Task::Read { file, offset, buf, len },
                Err((errno, _)) => return Err((errno, Payload::Buffer(buf))),
            },
            Op::Write { file: handle, offset, data, sync } => {
                Task::Write { file: file(handle)?, offset, data, sync }
            }
            Op::Sync { file: handle, data_only } => Task::Sync { file: file(handle)?, data_only },
            Op::Truncate { file: handle, len } => Task::Truncate { file: file(handle)?, len },
            Op::Rename { from, to } => Task::Rename { from, to },
            Op::Unlink { path } => Task::Unlink { path },
            Op::RemoveDir { path } => Task::RemoveDir { path },
            Op::CreateDir { path } => Task::CreateDir { path },
            _ => return Err((Errno(libc::EINVAL), Payload::None)),
        })
    }

    fn take(
        &mut self,
        result: Result<usize, Errno>,
        brought: Brought,
        mode: OpenMode,
    ) -> (Result<usize, Errno>, Payload) {
        match brought {
            Brought::Nothing => (result, Payload::None),
            Brought::Buffer(buf) => (result, Payload::Buffer(buf)),
            Brought::File(fd) => match self.insert_file(fd, mode) {
                Some(file) => (result, Payload::Opened { file }),
                None => (Err(Errno(libc::EMFILE)), Payload::None),
            },
        }
    }
}
