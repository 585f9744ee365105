//! What the kernel posted, turned into completions or next steps.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use io_uring::cqueue;

use super::flight::{self, Pending, Progress};
use super::ring::Cqe;
use super::{ACCEPT_PAUSE_NS, CANCEL_BY_DRIVER, EVENT, OWN, UringIo, WAKE, WOKEN};
use crate::io::flights::Key;
use crate::io::socket::peer_of;
use crate::io::{Completion, Errno, Payload};

impl UringIo {
    pub(super) fn handle_cqe(&mut self, cqe: Cqe) {
        if cqe.user_data & OWN == 0 {
            return self.land(Key(cqe.user_data), cqe);
        }
        match cqe.user_data {
            EVENT if !self.closing => self.listen_for_event(),
            EVENT => self.event_armed = false,
            WOKEN | CANCEL_BY_DRIVER => {}
            failed => {
                // The peer's ring did not take the message (out of memory, or it is going): the other way.
                if let Some(peer) = self.peers.get((failed & !WAKE) as usize) {
                    peer.signal();
                }
            }
        }
    }

    /// A completion of a flight.
    fn land(&mut self, key: Key, cqe: Cqe) {
        let Some(flight) = self.flights.get_mut(key) else {
            debug_assert!(false, "a completion without its flight");
            return;
        };
        let result = usize::try_from(cqe.result).map_err(|_| Errno(-cqe.result));
        match &mut flight.op {
            Pending::Accept { .. } => self.land_accept(key, cqe),
            Pending::Receive { .. } => self.land_receive(key, cqe),
            Pending::ReceiveExact { .. } => self.land_exact(key, result),
            Pending::Connect { .. } | Pending::Open { .. } => self.land_opened(key, result),
            Pending::Send(sending) => match result {
                Ok(sent) => {
                    sending.advance(sent);
                    match sending.is_done() {
                        true => {
                            let total = sending.total;
                            self.finish(key, Ok(total));
                        }
                        false if sent == 0 => self.finish(key, Err(Errno::IO)),
                        false => self.relaunch(key),
                    }
                }
                Err(errno) => self.retry_or_finish(key, errno),
            },
            Pending::Read { transfer, .. } => match result {
                Ok(moved) => match transfer.advance(moved) {
                    Progress::Continue => self.relaunch(key),
                    Progress::End => {
                        let done = transfer.done;
                        self.finish(key, Ok(done));
                    }
                },
                Err(errno) => self.retry_or_finish(key, errno),
            },
            Pending::Write { transfer, .. } => match result {
                Ok(moved) => match transfer.advance(moved) {
                    Progress::Continue => self.relaunch(key),
                    Progress::End => {
                        let whole = (transfer.done == transfer.len).then_some(transfer.len);
                        self.finish(key, whole.ok_or(Errno::IO));
                    }
                },
                Err(errno) => self.retry_or_finish(key, errno),
            },
            Pending::Close { fd } => {
                if cqe.result != -libc::ECANCELED {
                    // The kernel has closed it, whatever else it says.
                    let _ = fd.take().map(OwnedFd::into_raw_fd);
                }
                self.finish(key, result);
            }
            // It was there when it was asked for; its own completion tells what became of it.
            Pending::Cancel { .. } => self.finish(key, Ok(0)),
            // The peer was faster: both directions are closed.
            Pending::Shutdown { .. } if result == Err(Errno(libc::ENOTCONN)) => self.finish(key, Ok(0)),
            _ => self.finish(key, result),
        }
    }

    /// An interrupted step is taken again, all other errors are final.
    fn retry_or_finish(&mut self, key: Key, errno: Errno) {
        match errno.0 {
            libc::EINTR | libc::EAGAIN => self.relaunch(key),
            _ => self.finish(key, Err(errno)),
        }
    }

    fn land_accept(&mut self, key: Key, cqe: Cqe) {
        if let Some(fd) = flight::fd_of(cqe.result) {
            let peer = peer_of(fd);
            // SAFETY: the kernel has just given us this descriptor; nothing else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // With no place left the connection is dropped; the number of places exceeds any limit of files.
            if let Ok(socket) = self.handles.insert(fd) {
                let token = self.flights.token(key);
                let payload = Payload::Accepted { socket, peer };
                self.ready.push(Completion { token, result: Ok(0), more: true, payload });
            }
            if !cqueue::more(cqe.flags) {
                self.relaunch(key);
            }
            return;
        }
        if cqueue::more(cqe.flags) {
            return;
        }
        match -cqe.result {
            // The connection was gone before it was taken; the listener is well.
            libc::ECONNABORTED | libc::EPROTO | libc::EINTR | libc::EAGAIN => self.relaunch(key),
            errno => {
                self.accept_from_ns = self.clock.now_ns.saturating_add(ACCEPT_PAUSE_NS);
                self.finish(key, Err(Errno(errno)));
            }
        }
    }

    /// A step of a receive that ends with its length, or with the stream.
    fn land_exact(&mut self, key: Key, result: Result<usize, Errno>) {
        let Some(Pending::ReceiveExact { buf, start, end, .. }) =
            self.flights.get_mut(key).map(|flight| &mut flight.op)
        else {
            return;
        };
        match result {
            Ok(moved) => {
                // SAFETY: needed to take what the kernel has written behind the vector's end. The entry named
                // `end - len` bytes at most from there, within the capacity, and it wrote the first `moved` of them.
                unsafe { buf.set_len(buf.len() + moved.min(*end - buf.len())) };
                match moved > 0 && buf.len() < *end {
                    true => self.relaunch(key),
                    false => {
                        let got = buf.len() - *start;
                        self.finish(key, Ok(got));
                    }
                }
            }
            Err(errno) => self.retry_or_finish(key, errno),
        }
    }

    fn land_receive(&mut self, key: Key, cqe: Cqe) {
        let more = cqueue::more(cqe.flags);
        let piece = cqueue::buffer_select(cqe.flags).and_then(|id| {
            let len = usize::try_from(cqe.result).unwrap_or(0);
            self.receive.take(id, len, cqueue::buffer_more(cqe.flags))
        });
        match (cqe.result, piece) {
            (1.., Some(piece)) => {
                let token = self.flights.token(key);
                let payload = Payload::Received(piece);
                self.ready.push(Completion { token, result: Ok(cqe.result as usize), more: true, payload });
                if !more {
                    self.relaunch(key);
                }
            }
            // Bytes without a buffer are lost to us: the stream is broken.
            (1.., None) => self.finish_unless(more, key, Err(Errno::IO)),
            (0, _) => self.finish_unless(more, key, Ok(0)),
            (errno, _) => match -errno {
                libc::ENOBUFS if !more => self.starved.push(key),
                libc::EINTR | libc::EAGAIN if !more => self.relaunch(key),
                errno => self.finish_unless(more, key, Err(Errno(errno))),
            },
        }
    }

    /// An end that the kernel does not call the last waits for the one that it does.
    fn finish_unless(&mut self, more: bool, key: Key, result: Result<usize, Errno>) {
        if !more {
            self.finish(key, result);
        }
    }

    /// The end of an op that opens: the file or socket gets its handle.
    fn land_opened(&mut self, key: Key, result: Result<usize, Errno>) {
        let Some((token, flight)) = self.flights.remove(key) else { return };
        let outcome = match (flight.op, result) {
            (Pending::Connect { socket, .. }, Ok(_)) => {
                self.handles.insert(socket.into()).map(|socket| Payload::Connected { socket }).ok()
            }
            (Pending::Open { mode, .. }, Ok(fd)) => {
                // SAFETY: the kernel has just given us this descriptor; nothing else owns it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                self.insert_file(fd, mode).map(|file| Payload::Opened { file })
            }
            (_, result) => {
                self.ready.push(Completion { token, result, more: false, payload: Payload::None });
                return;
            }
        };
        let (result, payload) = match outcome {
            Some(payload) => (Ok(0), payload),
            None => (Err(Errno(libc::EMFILE)), Payload::None),
        };
        self.ready.push(Completion { token, result, more: false, payload });
    }
}
