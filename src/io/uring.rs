//! The product's driver: one io_uring a shard, made and used on the shard's own thread.
//!
//! An [`Op`] becomes a flight ([`flight`]): the memory the kernel works on, kept until the op's last completion. A turn
//! gives free receive buffers back, submits all queued entries with one system call, sleeps in it when nothing is there, and
//! turns what the kernel posted into completions. Short transfers, multishot ops that the kernel ended and receives that
//! found no buffer are continued here; the caller never sees them.
//!
//! Invariants:
//! - A flight leaves the table only after its last completion was drained; dropping the driver cancels and awaits them.
//! - At most one ring entry a flight is with the kernel at a time.
//! - Only the thread that made the driver enters the ring (it is not `Send`).

mod flight;
mod flights;
mod receive;
mod ring;
mod wake;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use io_uring::{cqueue, opcode, squeue, types};
use socket2::SockAddr;

use super::clock::{Clock, monotonic_ns};
use super::handles::Handles;
use super::socket::{SocketOptions, peer_of};
use super::{Completion, DirEntry, Errno, Handle, Io, Op, Payload, Token, file};
use flight::{Flight, Gathered, Pending, Progress, Sending, advance};
use flights::{Flights, Key};
use receive::ReceiveRing;
use ring::{Cqe, Ring};

pub use ring::RingFeatures;
pub use wake::Waker;

/// `user_data` of the ring's own entries, which belong to no flight.
const OWN: u64 = 1 << 63;
const EVENT: u64 = OWN;
const WOKEN: u64 = OWN | 1;
const CANCEL_BY_DRIVER: u64 = OWN | 2;
/// A failed wake of a peer; the peer's number is below.
const WAKE: u64 = OWN | 1 << 32;
/// The token of `block_on`'s op.
const BLOCKING: Token = Token(u64::MAX);
/// How long the driver's end waits for what the kernel still does, a disk write at most.
const CLOSE_NS_MAX: u64 = 10_000_000_000;

#[derive(Clone, Debug)]
pub struct UringOptions {
    pub submission_entries: u32,
    /// At least eight times the submission entries, whatever is said here.
    pub completion_entries: u32,
    /// Memory of all receive buffers together.
    pub receive_bytes: usize,
    /// How long to look for work before sleeping. For cores that the shard has to itself.
    pub spin_ns: u64,
    pub socket: SocketOptions,
    /// Uses no feature that is optional, as on an old kernel: to test the ways around them.
    pub old_kernel: bool,
}

impl Default for UringOptions {
    fn default() -> UringOptions {
        UringOptions {
            submission_entries: 1024,
            completion_entries: 8192,
            receive_bytes: 2 << 20,
            spin_ns: 0,
            socket: SocketOptions::default(),
            old_kernel: false,
        }
    }
}

pub struct UringIo {
    ring: Ring,
    /// This, the receive buffers and the event count are memory the kernel writes: see `drop`.
    flights: ManuallyDrop<Flights<Flight>>,
    handles: Handles,
    receive: ManuallyDrop<ReceiveRing>,
    /// Receives that found no buffer.
    starved: Vec<Key>,
    /// Completions for the caller, until the end of the turn.
    ready: Vec<Completion>,
    cqes: Vec<Cqe>,
    spare: Vec<Gathered>,
    waker: Waker,
    /// Drivers that this one has woken; a failed wake names its place here.
    peers: Vec<Waker>,
    event_count: ManuallyDrop<Box<[u8; 8]>>,
    event_armed: bool,
    closing: bool,
    locks: Vec<File>,
    clock: Clock,
    options: UringOptions,
    _one_thread: std::marker::PhantomData<*const ()>,
}

impl UringIo {
    /// A driver for the calling thread.
    pub fn new(options: UringOptions) -> io::Result<UringIo> {
        let mut ring = Ring::new(&options)?;
        let receive = match ReceiveRing::register(ring.uring(), options.receive_bytes, !options.old_kernel) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !options.old_kernel => {
                ReceiveRing::register(ring.uring(), options.receive_bytes, false)?
            }
            other => other?,
        };
        ring.features_mut().incremental_buffers = receive.is_incremental();
        let waker = Waker::new(ring.fd().try_clone_to_owned()?)?;
        let mut driver = UringIo {
            ring,
            flights: ManuallyDrop::default(),
            handles: Handles::default(),
            receive: ManuallyDrop::new(receive),
            starved: Vec::new(),
            ready: Vec::new(),
            cqes: Vec::new(),
            spare: Vec::new(),
            waker,
            peers: Vec::new(),
            event_count: ManuallyDrop::default(),
            event_armed: true,
            closing: false,
            locks: Vec::new(),
            clock: Clock::read(),
            options,
            _one_thread: std::marker::PhantomData,
        };
        driver.listen_for_event();
        Ok(driver)
    }

    pub fn features(&self) -> &RingFeatures {
        self.ring.features()
    }

    /// Memory of the receive buffers.
    pub fn receive_bytes(&self) -> usize {
        self.receive.total_bytes()
    }

    /// Open files and sockets.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    fn listen_for_event(&mut self) {
        let event = types::Fd(self.waker.event_fd());
        let entry = opcode::Read::new(event, self.event_count.as_mut_ptr(), 8).build().user_data(EVENT);
        // SAFETY: the eight bytes are boxed and the event descriptor is the waker's; both live until the driver is
        // dropped, which awaits this read's end. Nobody else touches the bytes.
        unsafe { self.ring.push(entry) };
    }

    /// Queues the entry of a flight's next step.
    fn launch(&mut self, key: Key) {
        let Some(flight) = self.flights.get_mut(key) else { return };
        match flight.entry(&self.handles, &mut self.spare) {
            // SAFETY: all memory the entry names is owned by the flight (invariant of `flight`), which stays in the table
            // until the last completion of this key is drained.
            Ok(entry) => unsafe { self.ring.push(entry.user_data(key.0)) },
            Err(errno) => self.finish(key, Err(errno)),
        }
    }

    /// Goes on with a flight after a completion, unless somebody wants its end.
    fn relaunch(&mut self, key: Key) {
        let Some(flight) = self.flights.get(key) else { return };
        // A handle that is gone was closed, which ends what runs on it.
        let closed = flight.handle().is_some_and(|handle| self.handles.get(handle).is_none());
        if flight.cancelled || closed {
            self.finish(key, Err(Errno::CANCELED));
        } else {
            self.launch(key);
        }
    }

    /// The last completion of a flight.
    fn finish(&mut self, key: Key, result: Result<usize, Errno>) {
        let Some((token, flight)) = self.flights.remove(key) else { return };
        if let Some(open) = flight.handle().and_then(|handle| self.handles.get_mut(handle)) {
            open.ops -= 1;
        }
        let payload = flight.into_payload(&mut self.spare);
        self.ready.push(Completion { token, result, more: false, payload });
    }

    fn insert(&mut self, token: Token, op: Pending) -> Key {
        let flight = Flight::new(op);
        if let Some(open) = flight.handle().and_then(|handle| self.handles.get_mut(handle)) {
            open.ops += 1;
        }
        self.flights.insert(token, flight)
    }

    fn start(&mut self, op: Op, token: Token) -> Result<(), (Errno, Payload)> {
        let plain = |errno| (errno, Payload::None);
        let pending = match op {
            Op::Accept { listener } => Pending::Accept { listener },
            Op::Connect { address } => {
                let socket = self.options.socket.open(address).map_err(|error| plain(errno_of(&error)))?;
                Pending::Connect { socket, address: Box::new(SockAddr::from(address)) }
            }
            Op::Receive { socket } => Pending::Receive { socket },
            Op::Send { socket, parts } => Pending::Send(Sending::new(socket, parts)),
            Op::Shutdown { socket } => Pending::Shutdown { socket },
            Op::Open { path, mode } => Pending::Open { path: c_path(path).map_err(plain)?, mode },
            Op::Read { buf, len, .. } if len > buf.len() => {
                return Err((Errno(libc::EINVAL), Payload::Buffer(buf)));
            }
            Op::Read { file, offset, buf, len } => Pending::Read { file, offset, buf, len, done: 0 },
            Op::Write { file, offset, data, sync } => Pending::Write { file, offset, data, sync, done: 0 },
            Op::Sync { file, data_only } => Pending::Sync { file, data_only },
            Op::Truncate { file, len } if !self.features().truncate => {
                let open = self.handles.get(file).ok_or(plain(Errno(libc::EBADF)))?;
                file::truncate(open.fd(), len).map_err(|error| plain(errno_of(&error)))?;
                self.ready.push(Completion { token, result: Ok(0), more: false, payload: Payload::None });
                return Ok(());
            }
            Op::Truncate { file, len } => Pending::Truncate { file, len },
            Op::Allocate { file, offset, len } => Pending::Allocate { file, offset, len },
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
        let key = self.insert(token, pending);
        match &self.flights.get(key).expect("just inserted").op {
            Pending::Send(sending) if sending.is_done() => self.finish(key, Ok(0)),
            Pending::Write { data, .. } if data.is_empty() => self.finish(key, Ok(0)),
            Pending::Read { len: 0, .. } => self.finish(key, Ok(0)),
            _ => self.launch(key),
        }
        Ok(())
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
        use std::os::fd::AsRawFd;
        let all = types::CancelBuilder::fd(types::Fd(fd.as_raw_fd())).all();
        let entry = opcode::AsyncCancel2::new(all).build().user_data(CANCEL_BY_DRIVER);
        // SAFETY: the entry names no memory.
        unsafe { self.ring.push(entry) };
    }

    fn handle_cqe(&mut self, cqe: Cqe) {
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
            Pending::Read { len, done, .. } => match result {
                Ok(moved) => match advance(done, *len, moved) {
                    Progress::Continue => self.relaunch(key),
                    Progress::End => {
                        let done = *done;
                        self.finish(key, Ok(done));
                    }
                },
                Err(errno) => self.retry_or_finish(key, errno),
            },
            Pending::Write { data, done, .. } => match result {
                Ok(moved) => {
                    let len = data.len();
                    match advance(done, len, moved) {
                        Progress::Continue => self.relaunch(key),
                        Progress::End if *done == len => self.finish(key, Ok(len)),
                        Progress::End => self.finish(key, Err(Errno::IO)),
                    }
                }
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
            errno => self.finish(key, Err(Errno(errno))),
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
            (Pending::Open { .. }, Ok(fd)) => {
                // SAFETY: the kernel has just given us this descriptor; nothing else owns it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                self.handles.insert(fd).map(|file| Payload::Opened { file }).ok()
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

    /// Receives that found no buffer try again once there is one; those that somebody ended, end.
    fn feed_starved(&mut self) {
        let fed = self.receive.recycle();
        for key in std::mem::take(&mut self.starved) {
            let Some(flight) = self.flights.get(key) else { continue };
            let closed = flight.handle().is_some_and(|handle| self.handles.get(handle).is_none());
            if fed || flight.cancelled || closed {
                self.relaunch(key);
            } else {
                self.starved.push(key);
            }
        }
    }

    /// Submits, and sleeps until a completion, a wake-up or the time given. Whether there was a wake-up.
    fn enter(&mut self, wait_until_ns: u64) -> bool {
        if wait_until_ns == 0 {
            if self.ring.wants_enter() {
                self.ring.enter(None);
            }
            return false;
        }
        if self.options.spin_ns > 0 && self.spin(wait_until_ns) {
            return self.waker.is_notified() && self.waker.unpark();
        }
        let now = monotonic_ns();
        if now >= wait_until_ns || self.ring.has_completions() || !self.waker.park() {
            if self.ring.wants_enter() {
                self.ring.enter(None);
            }
            return self.waker.unpark();
        }
        self.ring.enter(Some(wait_until_ns - now));
        self.waker.unpark()
    }

    /// Looks for work for a while before sleeping; whether there is some.
    fn spin(&mut self, wait_until_ns: u64) -> bool {
        if self.ring.wants_enter() {
            self.ring.enter(None);
        }
        let until = wait_until_ns.min(monotonic_ns().saturating_add(self.options.spin_ns));
        loop {
            if self.ring.has_completions() || self.waker.is_notified() {
                return true;
            }
            if self.ring.features().taskrun_flag && self.ring.wants_enter() {
                self.ring.enter(None);
                return true;
            }
            if monotonic_ns() >= until {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    fn drain(&mut self) {
        loop {
            let mut cqes = std::mem::take(&mut self.cqes);
            self.ring.drain(&mut cqes);
            if cqes.is_empty() {
                self.cqes = cqes;
                if !self.ring.has_overflow() {
                    return;
                }
                // The kernel kept completions that found the queue full; entering moves them there.
                self.ring.enter(None);
                if !self.ring.has_completions() {
                    return;
                }
                continue;
            }
            for cqe in cqes.drain(..) {
                self.handle_cqe(cqe);
            }
            self.cqes = cqes;
        }
    }

    fn deliver(&mut self, out: &mut Vec<Completion>) {
        if out.is_empty() {
            std::mem::swap(out, &mut self.ready);
        } else {
            out.append(&mut self.ready);
        }
    }
}

impl Io for UringIo {
    type Waker = Waker;

    fn now(&self) -> u64 {
        self.clock.now_ns
    }

    fn wall_ms(&self) -> i64 {
        self.clock.wall_ms
    }

    fn submit(&mut self, op: Op, token: Token) {
        if let Err((errno, payload)) = self.start(op, token) {
            self.ready.push(Completion { token, result: Err(errno), more: false, payload });
        }
    }

    fn turn(&mut self, wait_until_ns: u64, out: &mut Vec<Completion>) {
        loop {
            self.feed_starved();
            let woken = self.enter(if self.ready.is_empty() { wait_until_ns } else { 0 });
            self.drain();
            self.clock = Clock::read();
            if woken || !self.ready.is_empty() || self.clock.now_ns >= wait_until_ns {
                break;
            }
        }
        self.deliver(out);
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake(&mut self, peer: &Waker) {
        if !peer.notify() {
            return;
        }
        let known = self.peers.iter().position(|known| known.same_driver(peer));
        let number = known.unwrap_or_else(|| {
            self.peers.push(peer.clone());
            self.peers.len() - 1
        });
        let entry = opcode::MsgRingData::new(types::Fd(peer.ring_fd()), 0, WOKEN, None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(WAKE | number as u64);
        // SAFETY: the entry names no memory, and a descriptor that `peers` keeps open.
        unsafe { self.ring.push(entry) };
    }

    fn listen(&mut self, address: SocketAddr, shared: bool) -> io::Result<(Handle, SocketAddr)> {
        let (listener, bound) = self.options.socket.listen(address, shared)?;
        let handle = self.handles.insert(listener).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
        Ok((handle, bound))
    }

    fn random(&mut self) -> u64 {
        getrandom::u64().expect("the kernel has random bytes")
    }

    fn block_on(&mut self, op: Op) -> Completion {
        self.submit(op, BLOCKING);
        let mut others = Vec::new();
        loop {
            let mut out = Vec::new();
            self.turn(u64::MAX, &mut out);
            let mut answer = None;
            for completion in out {
                match completion.token {
                    BLOCKING if !completion.more => answer = Some(completion),
                    BLOCKING => {}
                    _ => others.push(completion),
                }
            }
            if let Some(answer) = answer {
                self.ready.append(&mut others);
                return answer;
            }
        }
    }

    fn list_dir(&mut self, path: &Path) -> io::Result<Vec<DirEntry>> {
        file::list_dir(path)
    }

    fn lock_file(&mut self, path: &Path) -> io::Result<bool> {
        let lock = file::lock_file(path)?;
        let taken = lock.is_some();
        self.locks.extend(lock);
        Ok(taken)
    }
}

impl Drop for UringIo {
    /// Ends all ops before their memory is freed.
    fn drop(&mut self) {
        self.waker.close();
        self.closing = true;
        self.flights.iter_mut().for_each(|flight| flight.cancelled = true);
        self.feed_starved();
        let everything = opcode::AsyncCancel2::new(types::CancelBuilder::any().all()).build();
        // SAFETY: the entry names no memory.
        unsafe { self.ring.push(everything.user_data(CANCEL_BY_DRIVER)) };
        let deadline = monotonic_ns() + CLOSE_NS_MAX;
        while (self.flights.len() > 0 || self.event_armed) && monotonic_ns() < deadline {
            self.ring.enter(Some(CLOSE_NS_MAX / 100));
            self.drain();
            self.ready.clear();
        }
        if self.flights.len() > 0 || self.event_armed {
            tracing::warn!(
                ops = self.flights.len(),
                "the ring did not end all ops in time; their memory is not freed"
            );
            return;
        }
        // SAFETY: dropped once, here. No op is in flight, so the kernel writes none of this any more.
        unsafe {
            ManuallyDrop::drop(&mut self.flights);
            ManuallyDrop::drop(&mut self.receive);
            ManuallyDrop::drop(&mut self.event_count);
        }
    }
}

fn c_path(path: PathBuf) -> Result<CString, Errno> {
    CString::new(path.into_os_string().into_vec()).map_err(|_| Errno(libc::EINVAL))
}

fn errno_of(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}
