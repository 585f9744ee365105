//! The socket ops: tried when submitted, waiting for their event where they would block, continued when it comes.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use rustix::event::epoll::{self, EventData, EventFlags};
use socket2::{SockAddr, Socket};

use super::start::errno_of;
use super::{EVENT, Entry, Flight, PollIo};
use crate::io::flights::Key;
use crate::io::{Completion, Errno, Handle, Part, Payload, Token};

/// Parts of a send that go in one call.
const SEND_PARTS_MAX: usize = 64;
/// Connections taken of one listener before others have their turn.
const ACCEPTS_A_TURN: usize = 64;
/// How long accepts rest after one found no file free.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;

pub(super) struct Sock {
    pub socket: Socket,
    /// The accept or the receive that waits.
    reader: Option<Key>,
    /// The send or the connect that waits.
    writer: Option<Key>,
    /// The reader waits for something else than its event.
    resting: bool,
    /// What epoll is told of it; nothing: it is not registered.
    interest: EventFlags,
}

/// A send under way.
pub(super) struct Sending {
    pub parts: Vec<Part>,
    total: usize,
    done: usize,
    /// The part to go on with, and the bytes of it that are sent.
    part: usize,
    part_done: usize,
}

impl Sock {
    pub fn new(socket: Socket) -> io::Result<Sock> {
        socket.set_nonblocking(true)?;
        Ok(Sock { socket, reader: None, writer: None, resting: false, interest: EventFlags::empty() })
    }

    /// Nobody waits for it, and epoll does not know it.
    pub fn is_idle(&self) -> bool {
        self.reader.is_none() && self.writer.is_none() && self.interest.is_empty()
    }
}

impl PollIo {
    /// An accept or a receive waits for its event; what is there already is an event too.
    pub(super) fn start_reader(
        &mut self,
        token: Token,
        handle: Handle,
        flight: Flight,
    ) -> Result<(), (Errno, Payload)> {
        let rests = matches!(flight, Flight::Accept { .. }) && self.clock.now_ns < self.accept_from_ns;
        let sock = match self.sock(handle) {
            Ok(sock) if sock.reader.is_none() => sock,
            Ok(_) => return Err((Errno(libc::EBUSY), flight.into_payload())),
            Err(errno) => return Err((errno, flight.into_payload())),
        };
        sock.resting = rests;
        let key = self.flights.insert(token, flight);
        self.sock(handle).expect("found above").reader = Some(key);
        if rests {
            self.paused.push(handle);
        }
        self.register(handle);
        Ok(())
    }

    pub(super) fn start_send(
        &mut self,
        token: Token,
        sending: Sending,
        handle: Handle,
    ) -> Result<(), (Errno, Payload)> {
        match self.sock(handle) {
            Ok(sock) if sock.writer.is_none() => {}
            Ok(_) => return Err((Errno(libc::EBUSY), Payload::Parts(sending.parts))),
            Err(errno) => return Err((errno, Payload::Parts(sending.parts))),
        }
        let key = self.flights.insert(token, Flight::Send { socket: handle, sending });
        self.sock(handle).expect("found above").writer = Some(key);
        self.write(handle, key);
        self.register(handle);
        Ok(())
    }

    pub(super) fn start_connect(
        &mut self,
        token: Token,
        address: SocketAddr,
    ) -> Result<(), (Errno, Payload)> {
        let plain = |error: io::Error| (errno_of(&error), Payload::None);
        let sock = Sock::new(self.options.socket.open(address).map_err(plain)?).map_err(plain)?;
        let begun = sock.socket.connect(&SockAddr::from(address));
        let handle = self.handles.insert(Entry::Socket(sock));
        let handle = handle.map_err(|_| (Errno(libc::EMFILE), Payload::None))?;
        let key = self.flights.insert(token, Flight::Connect { socket: handle });
        self.sock(handle).expect("just inserted").writer = Some(key);
        match begun {
            Ok(()) => self.end_connect(handle, Ok(0)),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => self.register(handle),
            Err(error) => self.end_connect(handle, Err(errno_of(&error))),
        }
        Ok(())
    }

    pub(super) fn handle_event(&mut self, name: u64, events: EventFlags) {
        if name == EVENT {
            return self.waker.take_signals();
        }
        // Of a handle that was closed since: nobody waits for it.
        let handle = Handle(name as u32);
        let Ok(sock) = self.sock(handle) else { return };
        // An error or a hang-up is for whoever waits; the call it tries then says what it is.
        let broken = events.intersects(EventFlags::ERR | EventFlags::HUP);
        let reader =
            sock.reader.filter(|_| broken || events.contains(EventFlags::IN)).filter(|_| !sock.resting);
        let writer = sock.writer.filter(|_| broken || events.contains(EventFlags::OUT));
        if let Some(key) = reader {
            match self.flights.get(key) {
                Some(Flight::Accept { .. }) => self.accept(handle, key),
                Some(Flight::ReceiveExact { .. }) => self.fill(handle, key),
                _ => self.read(handle, key),
            }
        }
        if let Some(key) = writer {
            match self.flights.get(key) {
                Some(Flight::Connect { .. }) => self.connected(handle),
                _ => self.write(handle, key),
            }
        }
        self.register(handle);
    }

    fn accept(&mut self, handle: Handle, key: Key) {
        for _ in 0..ACCEPTS_A_TURN {
            let Ok(sock) = self.sock(handle) else { return };
            let accepted = sock.socket.accept().and_then(|(socket, peer)| Ok((Sock::new(socket)?, peer)));
            match accepted {
                Ok((sock, peer)) => {
                    // With no place left the connection is dropped; the number of places exceeds any limit of files.
                    if let Ok(socket) = self.handles.insert(Entry::Socket(sock)) {
                        let payload = Payload::Accepted { socket, peer: peer.as_socket() };
                        self.more(key, 0, payload);
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return,
                    // The connection was gone before it was taken; the listener is well.
                    Some(libc::ECONNABORTED | libc::EPROTO | libc::EINTR) => {}
                    _ => {
                        self.accept_from_ns = self.clock.now_ns.saturating_add(ACCEPT_PAUSE_NS);
                        return self.end_reader(handle, Err(errno_of(&error)));
                    }
                },
            }
        }
    }

    /// One piece a turn, so that a fast sender does not keep the others waiting.
    fn read(&mut self, handle: Handle, key: Key) {
        let room = self.receive.has_room();
        let Some(Entry::Socket(sock)) = self.handles.get_mut(handle).map(|open| &mut open.file) else {
            return;
        };
        if !room {
            sock.resting = true;
            return self.starved.push(handle);
        }
        match self.receive.read(&mut sock.socket) {
            Ok(piece) if piece.is_empty() => self.end_reader(handle, Ok(0)),
            Ok(piece) => self.more(key, piece.len(), Payload::Received(piece)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => {}
                _ => self.end_reader(handle, Err(errno_of(&error))),
            },
        }
    }

    fn fill(&mut self, handle: Handle, key: Key) {
        let Some(Entry::Socket(sock)) = self.handles.get_mut(handle).map(|open| &mut open.file) else {
            return;
        };
        let Some(Flight::ReceiveExact { buf, start, end, .. }) = self.flights.get_mut(key) else { return };
        let left = *end - buf.len();
        let result = match sock.socket.recv(&mut buf.spare_capacity_mut()[..left]) {
            Ok(moved) => {
                // SAFETY: needed to take what the kernel has written behind the vector's end: `moved` bytes from there,
                // no more than `left`, which are within the capacity.
                unsafe { buf.set_len(buf.len() + moved.min(left)) };
                if moved > 0 && buf.len() < *end {
                    return;
                }
                Ok(buf.len() - *start)
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => return,
                _ => Err(errno_of(&error)),
            },
        };
        self.end_reader(handle, result);
    }

    fn write(&mut self, handle: Handle, key: Key) {
        let Some(Entry::Socket(sock)) = self.handles.get_mut(handle).map(|open| &mut open.file) else {
            return;
        };
        let Some(Flight::Send { sending, .. }) = self.flights.get_mut(key) else { return };
        let end = loop {
            if sending.is_done() {
                break Ok(sending.total);
            }
            match sending.step(&sock.socket) {
                Ok(0) => break Err(Errno::IO),
                Ok(sent) => sending.advance(sent),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return,
                    _ => break Err(errno_of(&error)),
                },
            }
        };
        self.end_writer(handle, end);
    }

    fn connected(&mut self, handle: Handle) {
        let Ok(sock) = self.sock(handle) else { return };
        let result = match sock.socket.take_error() {
            Ok(None) => Ok(0),
            Ok(Some(error)) | Err(error) => Err(errno_of(&error)),
        };
        self.end_connect(handle, result);
    }

    /// The last completion of a connect, whose socket has no handle for the caller before it is connected.
    pub(super) fn end_connect(&mut self, handle: Handle, result: Result<usize, Errno>) {
        let Some(key) = self.sock(handle).ok().and_then(|sock| sock.writer.take()) else { return };
        let Some((token, _)) = self.flights.remove(key) else { return };
        match result {
            Ok(_) => {
                self.register(handle);
                self.complete(token, result, Payload::Connected { socket: handle });
            }
            Err(_) => {
                self.handles.remove(handle);
                self.complete(token, result, Payload::None);
            }
        }
    }

    pub(super) fn end_reader(&mut self, handle: Handle, result: Result<usize, Errno>) {
        let Ok(sock) = self.sock(handle) else { return };
        sock.resting = false;
        if let Some(key) = sock.reader.take() {
            self.finish(key, result);
            self.register(handle);
        }
    }

    pub(super) fn end_writer(&mut self, handle: Handle, result: Result<usize, Errno>) {
        let Ok(sock) = self.sock(handle) else { return };
        if let Some(key) = sock.writer.take() {
            self.finish(key, result);
            self.register(handle);
        }
    }

    /// A completion of a multishot op that is not its last.
    fn more(&mut self, key: Key, len: usize, payload: Payload) {
        let token = self.flights.token(key);
        self.ready.push(Completion { token, result: Ok(len), more: true, payload });
    }

    /// Tells epoll what is waited for on a socket, where that has changed.
    fn register(&mut self, handle: Handle) {
        let epoll = &self.epoll;
        let Some(Entry::Socket(sock)) = self.handles.get_mut(handle).map(|open| &mut open.file) else {
            return;
        };
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, sock.reader.is_some() && !sock.resting);
        wanted.set(EventFlags::OUT, sock.writer.is_some());
        if wanted == sock.interest {
            return;
        }
        let name = EventData::new_u64(u64::from(handle.0));
        let told = match (sock.interest.is_empty(), wanted.is_empty()) {
            (true, _) => epoll::add(epoll, &sock.socket, name, wanted),
            (false, true) => epoll::delete(epoll, &sock.socket),
            (false, false) => epoll::modify(epoll, &sock.socket, name, wanted),
        };
        match told {
            Ok(()) => sock.interest = wanted,
            // Out of memory, or of `fs.epoll.max_user_watches`: without events the ops would wait for ever.
            Err(error) => self.give_up(handle, Errno(error.raw_os_error())),
        }
    }

    /// Ends what waits on a socket that epoll does not take.
    fn give_up(&mut self, handle: Handle, errno: Errno) {
        let Ok(sock) = self.sock(handle) else { return };
        sock.resting = false;
        let (reader, writer) = (sock.reader.take(), sock.writer.take());
        if let Some(key) = reader {
            self.finish(key, Err(errno));
        }
        let Some(key) = writer else { return };
        let connecting = matches!(self.flights.get(key), Some(Flight::Connect { .. }));
        self.finish(key, Err(errno));
        if connecting {
            self.handles.remove(handle);
        }
    }

    /// Receives that found no memory go on once there is some.
    pub(super) fn feed_starved(&mut self) {
        if !self.starved.is_empty() && self.receive.has_room() {
            let starved = std::mem::take(&mut self.starved);
            self.wake_readers(starved);
        }
    }

    /// Accepts go on after the pause. When to look again.
    pub(super) fn feed_paused(&mut self) -> u64 {
        if self.paused.is_empty() {
            return u64::MAX;
        }
        if self.clock.now_ns < self.accept_from_ns {
            return self.accept_from_ns;
        }
        let paused = std::mem::take(&mut self.paused);
        self.wake_readers(paused);
        u64::MAX
    }

    fn wake_readers(&mut self, handles: Vec<Handle>) {
        for handle in handles {
            if let Ok(sock) = self.sock(handle) {
                sock.resting = false;
                self.register(handle);
            }
        }
    }
}

impl Sending {
    pub fn new(parts: Vec<Part>) -> Sending {
        let total = parts.iter().map(Part::len).sum();
        let mut sending = Sending { parts, total, done: 0, part: 0, part_done: 0 };
        sending.advance(0);
        sending
    }

    fn is_done(&self) -> bool {
        self.done == self.total
    }

    /// Sends what the socket takes of the next parts.
    fn step(&self, socket: &Socket) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SEND_PARTS_MAX];
        let mut skip = self.part_done;
        let mut count = 0;
        let left = self.parts[self.part..].iter().filter(|part| part.len() > 0);
        for (slice, part) in slices.iter_mut().zip(left) {
            *slice = IoSlice::new(&part.bytes()[std::mem::take(&mut skip)..]);
            count += 1;
        }
        socket.send_vectored_with_flags(&slices[..count], libc::MSG_NOSIGNAL)
    }

    /// Counts `sent` bytes more, and goes past the parts that are sent.
    fn advance(&mut self, mut sent: usize) {
        self.done += sent;
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
}
