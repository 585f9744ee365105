//! From an [`Op`] to its first step: what is refused at once, what is done at once, what becomes a job; and cancels.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::sockets::{Sending, Sock};
use super::workers::Job;
use super::{Entry, Flight, PollIo};
use crate::io::file_task::Task;
use crate::io::{Errno, Handle, Op, Payload, Token};

/// What an op that could not begin ends with.
type Refused = (Errno, Payload);

const BAD_HANDLE: Errno = Errno(libc::EBADF);

impl PollIo {
    pub(super) fn start(&mut self, op: Op, token: Token) -> Result<(), Refused> {
        let plain = |errno| (errno, Payload::None);
        match op {
            Op::Accept { listener } => self.start_reader(token, listener, Flight::Accept { listener }),
            Op::Receive { socket } => self.start_reader(token, socket, Flight::Receive { socket }),
            Op::ReceiveExact { buf, len, .. } if len > buf.capacity() - buf.len() => {
                Err((Errno(libc::EINVAL), Payload::Filled(buf)))
            }
            Op::ReceiveExact { socket, buf, len } => {
                let (start, end) = (buf.len(), buf.len() + len);
                if len == 0 {
                    self.complete(token, Ok(0), Payload::Filled(buf));
                    return Ok(());
                }
                self.start_reader(token, socket, Flight::ReceiveExact { socket, buf, start, end })
            }
            Op::Connect { address } => self.start_connect(token, address),
            Op::Send { socket, parts } => self.start_send(token, Sending::new(parts), socket),
            Op::Shutdown { socket } => {
                let sock = self.sock(socket).map_err(plain)?;
                match sock.socket.shutdown(std::net::Shutdown::Both) {
                    // The peer was faster: both directions are closed.
                    Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                        return Err(plain(errno_of(&error)));
                    }
                    _ => self.complete(token, Ok(0), Payload::None),
                }
                Ok(())
            }
            Op::Cancel { target } => {
                self.cancel(target).map_err(plain)?;
                self.complete(token, Ok(0), Payload::None);
                Ok(())
            }
            Op::Close { handle } => self.close(token, handle).map_err(plain),
            Op::Read { buf, len, .. } if len > buf.len() => Err((Errno(libc::EINVAL), Payload::Buffer(buf))),
            Op::Read { file, offset, buf, len } => match self.file(file) {
                Ok(file) => self.queue(token, Task::Read { file, offset, buf, len }),
                Err(errno) => Err((errno, Payload::Buffer(buf))),
            },
            op => {
                let task = self.task(op).map_err(plain)?;
                self.queue(token, task)
            }
        }
    }

    /// The job that an op without a buffer to return is.
    fn task(&self, op: Op) -> Result<Task<Arc<OwnedFd>>, Errno> {
        Ok(match op {
            Op::Open { path, mode } => Task::Open { path, mode },
            Op::Write { file, offset, data, sync } => {
                Task::Write { file: self.file(file)?, offset, data, sync }
            }
            Op::Sync { file, data_only } => Task::Sync { file: self.file(file)?, data_only },
            Op::Truncate { file, len } => Task::Truncate { file: self.file(file)?, len },
            Op::Rename { from, to } => Task::Rename { from, to },
            Op::Unlink { path } => Task::Unlink { path },
            Op::RemoveDir { path } => Task::RemoveDir { path },
            Op::CreateDir { path } => Task::CreateDir { path },
            _ => return Err(Errno(libc::EINVAL)),
        })
    }

    fn queue(&mut self, token: Token, task: Task<Arc<OwnedFd>>) -> Result<(), Refused> {
        let key = self.flights.insert(token, Flight::Job);
        self.jobs.push(Job { key, task });
        Ok(())
    }

    fn file(&self, handle: Handle) -> Result<Arc<OwnedFd>, Errno> {
        match &self.handles.get(handle).ok_or(BAD_HANDLE)?.file {
            Entry::File(file) => Ok(file.clone()),
            Entry::Socket(_) => Err(Errno(libc::EINVAL)),
        }
    }

    pub(super) fn sock(&mut self, handle: Handle) -> Result<&mut Sock, Errno> {
        match &mut self.handles.get_mut(handle).ok_or(BAD_HANDLE)?.file {
            Entry::Socket(sock) => Ok(sock),
            Entry::File(_) => Err(Errno(libc::ENOTSOCK)),
        }
    }

    /// Ends the op with this token early, if it waits for a socket; a job ends as it would have.
    fn cancel(&mut self, token: Token) -> Result<(), Errno> {
        let key = self.flights.find(token, |_| true).ok_or(Errno::NOT_FOUND)?;
        match self.flights.get(key) {
            Some(&Flight::Connect { socket }) => self.end_connect(socket, Err(Errno::CANCELED)),
            Some(&(Flight::Accept { listener: socket } | Flight::Receive { socket })) => {
                self.end_reader(socket, Err(Errno::CANCELED));
            }
            Some(&Flight::ReceiveExact { socket, .. }) => self.end_reader(socket, Err(Errno::CANCELED)),
            Some(&Flight::Send { socket, .. }) => self.end_writer(socket, Err(Errno::CANCELED)),
            Some(Flight::Job) | None => {}
        }
        Ok(())
    }

    fn close(&mut self, token: Token, handle: Handle) -> Result<(), Errno> {
        match self.sock(handle) {
            Ok(_) => {
                self.end_reader(handle, Err(Errno::CANCELED));
                self.end_writer(handle, Err(Errno::CANCELED));
                self.handles.remove(handle);
                self.complete(token, Ok(0), Payload::None);
                Ok(())
            }
            Err(BAD_HANDLE) => Err(BAD_HANDLE),
            Err(_) => match self.handles.remove(handle) {
                // The last close of an unlinked file frees its blocks, which takes its time.
                Some((Entry::File(file), _)) => {
                    let _ = self.queue(token, Task::Close { file });
                    Ok(())
                }
                _ => Err(BAD_HANDLE),
            },
        }
    }
}

pub(super) fn errno_of(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}
