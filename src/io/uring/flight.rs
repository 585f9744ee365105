//! One op in flight: what it keeps alive for the kernel, the ring entry for its next step, its progress.
//!
//! Invariant: every pointer in an entry made by [`Flight::entry`] leads to heap memory, a mapping or a descriptor owned by
//! the flight itself, so moving the flight about does not move it, and the driver drops a flight only after the last
//! completion of its entries.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use io_uring::{opcode, squeue, types};
use socket2::{SockAddr, Socket};

use super::receive;
use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::flights::Key;
use crate::io::handles::Handles;
use crate::io::{BLOCK_BYTES, Errno, Handle, OpenMode, Part, Payload};

/// The kernel moves at most 2 GiB in a call; a round number below.
const TRANSFER_BYTES_MAX: usize = 1 << 30;
/// `UIO_MAXIOV`.
const SEND_PARTS_MAX: usize = 1024;

pub(super) struct Flight {
    pub op: Pending,
    /// Somebody asked for its end: it is not continued.
    pub cancelled: bool,
}

pub(super) enum Pending {
    Accept {
        listener: Handle,
    },
    Connect {
        socket: Socket,
        address: Box<SockAddr>,
    },
    Receive {
        socket: Handle,
    },
    /// `buf` grows from `start` to `end`, within its capacity.
    ReceiveExact {
        socket: Handle,
        buf: Vec<u8>,
        start: usize,
        end: usize,
    },
    Send(Sending),
    Shutdown {
        socket: Handle,
    },
    Open {
        path: CString,
        mode: OpenMode,
    },
    Read {
        transfer: Transfer,
        buf: AlignedBuf,
    },
    Write {
        transfer: Transfer,
        data: Slice,
        sync: bool,
    },
    Sync {
        file: Handle,
        data_only: bool,
    },
    Truncate {
        file: Handle,
        len: u64,
    },
    Rename {
        from: CString,
        to: CString,
    },
    Unlink {
        path: CString,
        flags: i32,
    },
    CreateDir {
        path: CString,
    },
    Close {
        fd: Option<OwnedFd>,
    },
    Cancel {
        target: Key,
    },
}

pub(super) struct Sending {
    pub socket: Handle,
    pub parts: Vec<Part>,
    /// Bytes in all parts, and those sent.
    pub total: usize,
    pub done: usize,
    /// The part to go on with, and the bytes of it that are sent.
    part: usize,
    part_done: usize,
    gathered: Option<Gathered>,
}

/// The kernel's view of several parts. Reused.
pub(super) struct Gathered(Box<Message>);

/// Boxed, for a fixed address.
struct Message {
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl Flight {
    pub fn new(op: Pending) -> Flight {
        Flight { op, cancelled: false }
    }

    /// The file or socket it works on.
    pub fn handle(&self) -> Option<Handle> {
        match &self.op {
            Pending::Accept { listener: handle }
            | Pending::Receive { socket: handle }
            | Pending::ReceiveExact { socket: handle, .. }
            | Pending::Send(Sending { socket: handle, .. })
            | Pending::Shutdown { socket: handle }
            | Pending::Read { transfer: Transfer { file: handle, .. }, .. }
            | Pending::Write { transfer: Transfer { file: handle, .. }, .. }
            | Pending::Sync { file: handle, .. }
            | Pending::Truncate { file: handle, .. } => Some(*handle),
            _ => None,
        }
    }

    /// The entry of its next step, without `user_data`.
    pub fn entry(&mut self, handles: &Handles, spare: &mut Vec<Gathered>) -> Result<squeue::Entry, Errno> {
        let fd = match self.handle() {
            None => types::Fd(-1),
            Some(handle) => types::Fd(handles.get(handle).ok_or(Errno(libc::EBADF))?.fd()),
        };
        let here = types::Fd(libc::AT_FDCWD);
        Ok(match &mut self.op {
            Pending::Accept { .. } => opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build(),
            Pending::Connect { socket, address } => {
                opcode::Connect::new(types::Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len())
                    .build()
            }
            Pending::Receive { .. } => opcode::RecvMulti::new(fd, receive::GROUP).build(),
            Pending::ReceiveExact { buf, end, .. } => {
                let len = (*end - buf.len()).min(TRANSFER_BYTES_MAX);
                let memory = buf.spare_capacity_mut()[..len].as_mut_ptr().cast();
                opcode::Recv::new(fd, memory, len as u32).flags(libc::MSG_WAITALL).build()
            }
            Pending::Send(sending) => sending.entry(fd, spare),
            Pending::Shutdown { .. } => opcode::Shutdown::new(fd, libc::SHUT_RDWR).build(),
            Pending::Open { path, mode } => {
                opcode::OpenAt::new(here, path.as_ptr()).flags(mode.flags()).mode(0o644).build()
            }
            Pending::Read { transfer, buf } => {
                let Step { start, offset, len } = transfer.step();
                let memory = buf[start..].as_mut_ptr();
                match transfer.place {
                    Some(place) => opcode::ReadFixed::new(fd, memory, len, place).offset(offset).build(),
                    None => opcode::Read::new(fd, memory, len).offset(offset).build(),
                }
            }
            Pending::Write { transfer, data, sync } => {
                let Step { start, offset, len } = transfer.step();
                let flags = if *sync { libc::RWF_DSYNC } else { 0 };
                let memory = data[start..].as_ptr();
                match transfer.place {
                    Some(place) => {
                        opcode::WriteFixed::new(fd, memory, len, place).offset(offset).rw_flags(flags).build()
                    }
                    None => opcode::Write::new(fd, memory, len).offset(offset).rw_flags(flags).build(),
                }
            }
            Pending::Sync { data_only, .. } => {
                let flags = if *data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
                opcode::Fsync::new(fd).flags(flags).build()
            }
            Pending::Truncate { len, .. } => opcode::Ftruncate::new(fd, *len).build(),
            Pending::Rename { from, to } => {
                opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build()
            }
            Pending::Unlink { path, flags } => {
                opcode::UnlinkAt::new(here, path.as_ptr()).flags(*flags).build()
            }
            Pending::CreateDir { path } => opcode::MkDirAt::new(here, path.as_ptr()).mode(0o755).build(),
            Pending::Close { fd } => {
                let fd = fd.as_ref().ok_or(Errno(libc::EBADF))?;
                opcode::Close::new(types::Fd(fd.as_raw_fd())).build()
            }
            Pending::Cancel { target } => opcode::AsyncCancel::new(target.0).build(),
        })
    }

    /// What goes back to the caller with the last completion.
    pub fn into_payload(self, spare: &mut Vec<Gathered>) -> Payload {
        match self.op {
            Pending::Read { buf, .. } => Payload::Buffer(buf),
            Pending::ReceiveExact { buf, .. } => Payload::Filled(buf),
            Pending::Send(mut sending) => {
                sending.put_back(spare);
                Payload::Parts(sending.parts)
            }
            _ => Payload::None,
        }
    }
}

/// A read or write under way.
#[derive(Debug)]
pub(super) struct Transfer {
    pub file: Handle,
    pub offset: u64,
    pub len: usize,
    pub done: usize,
    /// Where the buffer's memory is registered.
    pub place: Option<u16>,
}

/// The next piece of a transfer.
struct Step {
    start: usize,
    offset: u64,
    len: u32,
}

/// What became of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// `done` grew and is not all yet.
    Continue,
    /// Nothing is left, or it gets no further (reading: the file ends here).
    End,
}

impl Transfer {
    /// It starts at a block again, as direct I/O must, so a step after a short one may move a part of a block twice.
    fn step(&self) -> Step {
        let start = self.block();
        Step {
            start,
            offset: self.offset.saturating_add(start as u64),
            len: (self.len - start).min(TRANSFER_BYTES_MAX) as u32,
        }
    }

    /// Counts the `moved` bytes of a step.
    pub fn advance(&mut self, moved: usize) -> Progress {
        let reached = self.block().saturating_add(moved).min(self.len);
        if reached <= self.done {
            return Progress::End;
        }
        self.done = reached;
        if reached == self.len { Progress::End } else { Progress::Continue }
    }

    fn block(&self) -> usize {
        self.done / BLOCK_BYTES * BLOCK_BYTES
    }
}

impl Sending {
    pub fn new(socket: Handle, parts: Vec<Part>) -> Sending {
        let total = parts.iter().map(|part| part.len()).sum();
        let mut sending = Sending { socket, parts, total, done: 0, part: 0, part_done: 0, gathered: None };
        sending.skip_sent(0);
        sending
    }

    pub fn is_done(&self) -> bool {
        self.done == self.total
    }

    /// Counts `sent` bytes more.
    pub fn advance(&mut self, sent: usize) {
        let sent = sent.min(self.total - self.done);
        self.done += sent;
        self.skip_sent(sent);
    }

    fn skip_sent(&mut self, mut sent: usize) {
        while let Some(part) = self.parts.get(self.part) {
            let left = part.len() - self.part_done;
            if sent < left {
                self.part_done += sent;
                return;
            }
            sent -= left;
            self.part += 1;
            self.part_done = 0;
        }
    }

    fn entry(&mut self, fd: types::Fd, spare: &mut Vec<Gathered>) -> squeue::Entry {
        // The whole or an error: saves the turns in which a slow reader takes a little.
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let left = &self.parts[self.part..];
        if let [only] = left {
            let bytes = &only.bytes()[self.part_done..];
            let len = bytes.len().min(TRANSFER_BYTES_MAX) as u32;
            return opcode::Send::new(fd, bytes.as_ptr(), len).flags(flags).build();
        }
        let gathered = self.gathered.get_or_insert_with(|| spare.pop().unwrap_or_else(Gathered::new));
        gathered.fill(left, self.part_done);
        opcode::SendMsg::new(fd, &raw const gathered.0.header).flags(flags as u32).build()
    }

    fn put_back(&mut self, spare: &mut Vec<Gathered>) {
        if let Some(gathered) = self.gathered.take().filter(|_| spare.len() < 256) {
            spare.push(gathered);
        }
    }
}

impl Gathered {
    fn new() -> Gathered {
        // SAFETY: `msghdr` is a plain structure of integers and pointers, for which zero is valid: no name, no parts.
        let header = unsafe { std::mem::zeroed() };
        Gathered(Box::new(Message { vectors: Vec::new(), header }))
    }

    fn fill(&mut self, parts: &[Part], first_done: usize) {
        let message = &mut *self.0;
        message.vectors.clear();
        let mut skip = first_done;
        let mut total = 0;
        for part in parts.iter().filter(|part| part.len() > 0) {
            if message.vectors.len() == SEND_PARTS_MAX || total >= TRANSFER_BYTES_MAX {
                break;
            }
            let bytes = &part.bytes()[std::mem::take(&mut skip)..];
            let len = bytes.len().min(TRANSFER_BYTES_MAX - total);
            message.vectors.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: len });
            total += len;
        }
        message.header.msg_iov = message.vectors.as_mut_ptr();
        message.header.msg_iovlen = message.vectors.len();
        message.header.msg_name = ptr::null_mut();
    }
}

impl Part {
    pub(in crate::io) fn bytes(&self) -> &[u8] {
        match self {
            Part::Bytes(bytes) => bytes,
            Part::Shared(slice) => slice,
        }
    }

    #[allow(clippy::len_without_is_empty)]
    pub(in crate::io) fn len(&self) -> usize {
        self.bytes().len()
    }
}

/// The number of an accepted or opened file in a completion.
pub(super) fn fd_of(result: i32) -> Option<RawFd> {
    (result >= 0).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(lens: &[usize]) -> Vec<Part> {
        lens.iter().map(|&len| Part::Bytes(vec![7; len])).collect()
    }

    fn vectors(sending: &mut Sending) -> Vec<usize> {
        let mut gathered = Gathered::new();
        gathered.fill(&sending.parts[sending.part..], sending.part_done);
        gathered.0.vectors.iter().map(|vector| vector.iov_len).collect()
    }

    #[test]
    fn a_short_send_goes_on_where_it_stopped() {
        let mut sending = Sending::new(Handle(0), parts(&[0, 10, 0, 20, 5]));
        assert_eq!(vectors(&mut sending), [10, 20, 5]);
        sending.advance(4);
        assert_eq!(vectors(&mut sending), [6, 20, 5]);
        sending.advance(6);
        assert_eq!(vectors(&mut sending), [20, 5]);
        sending.advance(21);
        assert_eq!(vectors(&mut sending), [4]);
        assert!(!sending.is_done());
        sending.advance(4);
        assert!(sending.is_done() && sending.done == 35);
    }

    #[test]
    fn a_send_of_nothing_is_done() {
        assert!(Sending::new(Handle(0), parts(&[])).is_done());
        assert!(Sending::new(Handle(0), parts(&[0, 0])).is_done());
    }

    #[test]
    fn more_parts_than_a_call_takes_go_in_several() {
        let mut sending = Sending::new(Handle(0), parts(&[1; 3000]));
        assert_eq!(vectors(&mut sending).len(), SEND_PARTS_MAX);
        sending.advance(1024);
        sending.advance(1024);
        assert_eq!(vectors(&mut sending).len(), 3000 - 2048);
    }

    fn transfer(len: usize) -> Transfer {
        Transfer { file: Handle(0), offset: 1 << 20, len, done: 0, place: None }
    }

    #[test]
    fn a_short_transfer_goes_on_at_its_block() {
        let mut transfer = transfer(20_000);
        assert_eq!(transfer.advance(9_000), Progress::Continue);
        assert_eq!(transfer.done, 9_000);
        let step = transfer.step();
        assert_eq!((step.start, step.offset, step.len), (8192, (1 << 20) + 8192, 20_000 - 8192));
        assert_eq!(transfer.advance(20_000 - 8192), Progress::End);
        assert_eq!(transfer.done, 20_000);
    }

    #[test]
    fn a_transfer_that_gets_no_further_ends() {
        let mut transfer = transfer(20_000);
        assert_eq!(transfer.advance(9_000), Progress::Continue);
        assert_eq!(transfer.advance(9_000 - 8192), Progress::End, "the same bytes of the block again");
        assert_eq!(transfer.advance(0), Progress::End);
        assert_eq!(transfer.done, 9_000);
    }
}
