//! From an [`Op`] to its flight: what is refused at once, and cancels.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use io_uring::{opcode, types};
use socket2::SockAddr;

use super::flight::{Flight, Pending, Sending, Transfer};
use super::{CANCEL_BY_DRIVER, UringIo};
use crate::io::arena::Arena;
use crate::io::flights::Key;
use crate::io::{Completion, Errno, Op, Payload, Token, file};

impl UringIo {
    /// Queues an op's first step. An error is the op's last completion.
    pub(super) fn start(&mut self, op: Op, token: Token) -> Result<(), (Errno, Payload)> {
        let plain = |errno| (errno, Payload::None);
        let pending = match op {
            Op::Accept { listener } => Pending::Accept { listener },
            Op::Connect { address } => {
                let socket = self.options.socket.open(address).map_err(|error| plain(errno_of(&error)))?;
                Pending::Connect { socket, address: Box::new(SockAddr::from(address)) }
            }
            Op::Receive { socket } => Pending::Receive { socket },
            Op::ReceiveExact { buf, len, .. } if len > buf.capacity() - buf.len() => {
                return Err((Errno(libc::EINVAL), Payload::Filled(buf)));
            }
            Op::ReceiveExact { socket, buf, len } => {
                let end = buf.len() + len;
                Pending::ReceiveExact { socket, start: buf.len(), end, buf }
            }
            Op::Send { socket, parts } => Pending::Send(Sending::new(socket, parts)),
            Op::Shutdown { socket } => Pending::Shutdown { socket },
            Op::Open { path, mode } => Pending::Open { path: c_path(path).map_err(plain)?, mode },
            Op::Read { buf, len, .. } if len > buf.len() => {
                return Err((Errno(libc::EINVAL), Payload::Buffer(buf)));
            }
            Op::Read { file, offset, buf, len } => {
                let transfer = Transfer { file, offset, len, done: 0, place: self.place(buf.arena()) };
                Pending::Read { transfer, buf }
            }
            Op::Write { file, offset, data, sync } => {
                let data = match sync {
                    true => data,
                    false => match self.write_cached(file, offset, data, token) {
                        Ok(()) => return Ok(()),
                        Err(data) => data,
                    },
                };
                let place = self.place(data.arena());
                let transfer = Transfer { file, offset, len: data.len(), done: 0, place };
                Pending::Write { transfer, data, sync }
            }
            Op::Sync { file, data_only } => Pending::Sync { file, data_only },
            Op::Truncate { file, len } if !self.features().truncate => {
                let open = self.handles.get(file).ok_or(plain(Errno(libc::EBADF)))?;
                file::truncate(open.fd(), len).map_err(|error| plain(errno_of(&error)))?;
                self.ready.push(Completion { token, result: Ok(0), more: false, payload: Payload::None });
                return Ok(());
            }
            Op::Truncate { file, len } => Pending::Truncate { file, len },
            Op::Rename { from, to } => {
                Pending::Rename { from: c_path(from).map_err(plain)?, to: c_path(to).map_err(plain)? }
            }
            Op::Unlink { path } => Pending::Unlink { path: c_path(path).map_err(plain)?, flags: 0 },
            Op::RemoveDir { path } => {
                Pending::Unlink { path: c_path(path).map_err(plain)?, flags: libc::AT_REMOVEDIR }
            }
            Op::CreateDir { path } => Pending::CreateDir { path: c_path(path).map_err(plain)? },
            Op::Close { handle } => {
                let (fd, ops) = self.handles.remove(handle).ok_or(plain(Errno(libc::EBADF)))?;
                if ops > 0 {
                    self.cancel_on(&fd);
                }
                Pending::Close { fd: Some(fd) }
            }
            Op::Cancel { target } => {
                let target = self.cancel(target).ok_or(plain(Errno::NOT_FOUND))?;
                Pending::Cancel { target }
            }
        };
        self.set_off(token, pending);
        Ok(())
    }

    /// The first step, unless there is nothing to move or accepting pauses.
    fn set_off(&mut self, token: Token, pending: Pending) {
        let key = self.insert(token, pending);
        match &self.flights.get(key).expect("just inserted").op {
            Pending::Send(sending) if sending.is_done() => self.finish(key, Ok(0)),
            Pending::ReceiveExact { start, end, .. } if start == end => self.finish(key, Ok(0)),
            Pending::Read { transfer, .. } | Pending::Write { transfer, .. } if transfer.len == 0 => {
                self.finish(key, Ok(0));
            }
            Pending::Accept { .. } if self.clock.now_ns < self.accept_from_ns => self.paused.push(key),
            _ => self.launch(key),
        }
    }

    /// Where the memory is registered, if it is.
    fn place(&mut self, arena: Option<&Arc<Arena>>) -> Option<u16> {
        self.fixed.place(self.ring.uring(), arena?)
    }

    /// Marks the op with this token, so that it is not continued; the caller then cancels what the kernel has of it.
    fn cancel(&mut self, token: Token) -> Option<Key> {
        let is_op = |flight: &Flight| !matches!(flight.op, Pending::Cancel { .. } | Pending::Close { .. });
        let key = self.flights.find(token, is_op)?;
        self.flights.get_mut(key)?.cancelled = true;
        Some(key)
    }

    /// Cancels all ops on a descriptor about to be closed.
    fn cancel_on(&mut self, fd: &OwnedFd) {
        let all = types::CancelBuilder::fd(types::Fd(fd.as_raw_fd())).all();
        let entry = opcode::AsyncCancel2::new(all).build().user_data(CANCEL_BY_DRIVER);
        // SAFETY: the entry names no memory.
        unsafe { self.ring.push(entry) };
    }
}

fn c_path(path: PathBuf) -> Result<CString, Errno> {
    CString::new(path.into_os_string().into_vec()).map_err(|_| Errno(libc::EINVAL))
}

fn errno_of(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}
