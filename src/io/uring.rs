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

mod blocking;
mod cached;
mod fixed;
mod flight;
mod land;
mod receive;
mod ring;
mod start;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use io_uring::{opcode, squeue, types};

use super::buffer::BufferPool;
use super::clock::{Clock, monotonic_ns};
use super::flights::{Flights, Key};
use super::handles::Handles;
use super::socket::SocketOptions;
use super::wake::Waker;
use super::{Completion, DirEntry, Errno, Handle, Io, Op, Stats, Token, file};
use fixed::FixedBuffers;
use flight::{Flight, Gathered, Pending};
use receive::ReceiveRing;
use ring::{Cqe, Ring};

pub use ring::RingFeatures;

/// `user_data` of the ring's own entries, which belong to no flight.
const OWN: u64 = 1 << 63;
const EVENT: u64 = OWN;
const WOKEN: u64 = OWN | 1;
const CANCEL_BY_DRIVER: u64 = OWN | 2;
/// A failed wake of a peer; the peer's number is below.
const WAKE: u64 = OWN | 1 << 32;
/// The token of `block_on`'s op.
const BLOCKING: Token = Token(u64::MAX);
/// How long accepts rest after one found no file free.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;
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
    fixed: FixedBuffers,
    /// Receives that found no buffer.
    starved: Vec<Key>,
    /// Accepts that wait for `accept_from_ns`, which is set when one finds no file free: else a peer that opens
    /// connections beyond the limit keeps the shard busy with refusals.
    paused: Vec<Key>,
    accept_from_ns: u64,
    /// When writes to the system's cache may be plain calls again.
    cached_from_ns: u64,
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
    /// When the turn went to sleep, if it did.
    parked_ns: u64,
    waited_ns: u64,
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
        let fixed = match options.old_kernel {
            true => FixedBuffers::default(),
            false => FixedBuffers::new(ring.uring()),
        };
        ring.features_mut().registered_buffers = fixed.has_table();
        let waker = Waker::new(Some(ring.fd().try_clone_to_owned()?))?;
        let mut driver = UringIo {
            ring,
            flights: ManuallyDrop::default(),
            handles: Handles::default(),
            receive: ManuallyDrop::new(receive),
            fixed,
            starved: Vec::new(),
            paused: Vec::new(),
            accept_from_ns: 0,
            cached_from_ns: 0,
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
            parked_ns: 0,
            waited_ns: 0,
            options,
            _one_thread: std::marker::PhantomData,
        };
        driver.listen_for_event();
        Ok(driver)
    }

    pub fn features(&self) -> &RingFeatures {
        self.ring.features()
    }

    /// What the product needs and this kernel has not; empty on Linux 6.0 and newer.
    pub fn missing(&self) -> Vec<&'static str> {
        self.ring.missing()
    }

    /// Memory of the receive buffers.
    pub fn receive_bytes(&self) -> usize {
        self.receive.total_bytes()
    }

    /// Registers the arenas that `pool` has so far (see [`BufferPool::reserve`]), which else happens when they are first
    /// met, and costs a millisecond each then. Memory registered by this driver.
    pub fn register(&mut self, pool: &BufferPool) -> usize {
        for arena in pool.arenas() {
            self.fixed.place(self.ring.uring(), &arena);
        }
        self.fixed.bytes()
    }

    /// Open files and sockets.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    fn listen_for_event(&mut self) {
        let event = types::Fd(self.waker.event().as_raw_fd());
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

    /// Receives that found no buffer try again once there is one; those that somebody ended, end.
    fn feed_starved(&mut self) {
        let fed = self.receive.recycle();
        let starved = std::mem::take(&mut self.starved);
        self.starved = self.resume(starved, fed);
    }

    /// Accepts go on after the pause; those that somebody ended, end. When to look again.
    fn feed_paused(&mut self) -> u64 {
        if self.paused.is_empty() {
            return u64::MAX;
        }
        let paused = std::mem::take(&mut self.paused);
        self.paused = self.resume(paused, self.clock.now_ns >= self.accept_from_ns);
        if self.paused.is_empty() { u64::MAX } else { self.accept_from_ns }
    }

    /// Goes on with flights that wait for something, if it is `there` or they are to end. Those that still wait.
    fn resume(&mut self, waiting: Vec<Key>, there: bool) -> Vec<Key> {
        let mut left = Vec::new();
        for key in waiting {
            let Some(flight) = self.flights.get(key) else { continue };
            let closed = flight.handle().is_some_and(|handle| self.handles.get(handle).is_none());
            if there || flight.cancelled || closed {
                self.relaunch(key);
            } else {
                left.push(key);
            }
        }
        left
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
        if self.parked_ns == 0 {
            self.parked_ns = now;
        }
        self.ring.enter(Some(wait_until_ns - now));
        self.waker.unpark()
    }

    /// Looks for work for a while before sleeping; whether there is some.
    fn spin(&mut self, wait_until_ns: u64) -> bool {
        if self.ring.wants_enter() {
            self.ring.enter(None);
        }
        self.parked_ns = monotonic_ns();
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

    /// A turn up to its completions, which it leaves in `ready`. Whether there was a wake-up.
    fn run_turn(&mut self, wait_until_ns: u64) -> bool {
        loop {
            self.feed_starved();
            let wait = wait_until_ns.min(self.feed_paused());
            let woken = self.enter(if self.ready.is_empty() { wait } else { 0 });
            self.drain();
            self.clock = Clock::read();
            if self.parked_ns != 0 {
                self.waited_ns += self.clock.now_ns.saturating_sub(self.parked_ns);
                self.parked_ns = 0;
            }
            if woken || !self.ready.is_empty() || self.clock.now_ns >= wait_until_ns {
                return woken;
            }
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
        self.run_turn(wait_until_ns);
        self.deliver(out);
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake(&mut self, peer: &Waker) {
        if !peer.notify() {
            return;
        }
        let Some(ring) = peer.ring_fd() else { return peer.signal() };
        let known = self.peers.iter().position(|known| known.same_driver(peer));
        let number = known.unwrap_or_else(|| {
            self.peers.push(peer.clone());
            self.peers.len() - 1
        });
        let entry = opcode::MsgRingData::new(types::Fd(ring), 0, WOKEN, None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(WAKE | number as u64);
        // SAFETY: the entry names no memory, and a descriptor that `peers` keeps open.
        unsafe { self.ring.push(entry) };
    }

    fn stats(&self) -> Stats {
        let (submissions, system_calls) = self.ring.counts();
        Stats { waited_ns: self.waited_ns, submissions, system_calls }
    }

    fn listen(&mut self, address: SocketAddr, shared: bool) -> io::Result<(Handle, SocketAddr)> {
        let (listener, bound) = self.options.socket.listen(address, shared)?;
        let handle = self.handles.insert(listener).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
        Ok((handle, bound))
    }

    fn detach(&mut self, socket: Handle) -> Option<OwnedFd> {
        self.handles.get(socket).filter(|open| open.ops == 0)?;
        self.handles.remove(socket).map(|(socket, _)| socket)
    }

    fn attach(&mut self, socket: OwnedFd) -> io::Result<Handle> {
        self.handles.insert(socket).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))
    }

    fn random(&mut self) -> u64 {
        getrandom::u64().expect("the kernel has random bytes")
    }

    fn block_on(&mut self, op: Op) -> Completion {
        let op = match self.call(op, BLOCKING) {
            Ok(completion) => return completion,
            Err(op) => op,
        };
        self.submit(op, BLOCKING);
        let mut others = Vec::new();
        let mut woken = false;
        loop {
            woken |= self.run_turn(u64::MAX);
            let mut answer = None;
            for completion in self.ready.drain(..) {
                match completion.token {
                    BLOCKING if !completion.more => answer = Some(completion),
                    BLOCKING => {}
                    _ => others.push(completion),
                }
            }
            if let Some(answer) = answer {
                self.ready = others;
                if woken {
                    // It was meant for the next turn, before which the caller looks at its mail.
                    self.waker.notify();
                }
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
        self.feed_paused();
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
        self.fixed.unregister(self.ring.uring());
        // SAFETY: dropped once, here. No op is in flight, so the kernel writes none of this any more.
        unsafe {
            ManuallyDrop::drop(&mut self.flights);
            ManuallyDrop::drop(&mut self.receive);
            ManuallyDrop::drop(&mut self.event_count);
        }
    }
}
