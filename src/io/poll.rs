//! The driver for where io_uring is refused (a container's seccomp profile, `kernel.io_uring_disabled`): epoll for sockets, a
//! small pool of threads for files. Same contract, same promises, more system calls.
//!
//! A socket op is tried as it is submitted and otherwise waits for its event; a file op becomes a job, which a thread of
//! the pool ([`workers`]) runs with plain blocking calls. Jobs of a turn go to the pool together.
//!
//! Invariants:
//! - A socket is registered with epoll exactly while an op waits on it: one that nobody waits for cannot keep a turn awake,
//!   whatever its peer does.
//! - A job owns its buffer and a reference to its file: neither a close nor the driver's end takes them from under it.
//! - Dropping the driver awaits the jobs that run; those that wait are given up.

mod receive;
mod sockets;
mod start;
#[cfg(test)]
mod tests;
mod workers;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, epoll};

use super::clock::{Clock, monotonic_ns};
use super::file_task::Brought;
use super::flights::{Flights, Key};
use super::handles::Handles;
use super::socket::SocketOptions;
use super::wake::Waker;
use super::{Completion, DirEntry, Errno, Handle, Io, Op, Payload, Stats, Token, file};
use receive::ReceiveBuffers;
use sockets::{Sending, Sock};
use workers::{Done, Job, Workers};

/// The event's name in epoll; no handle has it.
const EVENT: u64 = u64::MAX;
/// The token of `block_on`'s op.
const BLOCKING: Token = Token(u64::MAX);
/// Events taken in one go.
const EVENTS: usize = 256;
/// Longer sleeps are taken in pieces.
const WAIT_NS_MAX: u64 = 3_600_000_000_000;

#[derive(Clone, Debug)]
pub struct PollOptions {
    /// Memory of all received pieces that are held at once.
    pub receive_bytes: usize,
    /// Threads for file operations, started when first needed.
    pub workers: usize,
    /// How long to look for work before sleeping. For cores that the shard has to itself.
    pub spin_ns: u64,
    pub socket: SocketOptions,
}

impl Default for PollOptions {
    fn default() -> PollOptions {
        PollOptions { receive_bytes: 2 << 20, workers: 4, spin_ns: 0, socket: SocketOptions::default() }
    }
}

/// What an op in flight waits for.
enum Flight {
    Accept {
        listener: Handle,
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
    Send {
        socket: Handle,
        sending: Sending,
    },
    Connect {
        socket: Handle,
    },
    Job,
}

impl Flight {
    /// What goes back to the caller with the last completion.
    fn into_payload(self) -> Payload {
        match self {
            Flight::ReceiveExact { buf, .. } => Payload::Filled(buf),
            Flight::Send { sending, .. } => Payload::Parts(sending.parts),
            _ => Payload::None,
        }
    }
}

/// What a handle stands for.
enum Entry {
    Socket(Sock),
    File(Arc<OwnedFd>),
}

pub struct PollIo {
    epoll: OwnedFd,
    flights: Flights<Flight>,
    handles: Handles<Entry>,
    receive: ReceiveBuffers,
    /// Sockets with a receive that found no memory.
    starved: Vec<Handle>,
    /// Listeners whose accept rests until `accept_from_ns`, which is set when one finds no file free: else a peer that opens
    /// connections beyond the limit keeps the shard busy with refusals.
    paused: Vec<Handle>,
    accept_from_ns: u64,
    /// Completions for the caller, until the end of the turn.
    ready: Vec<Completion>,
    /// For the pool, with this turn's submission.
    jobs: Vec<Job>,
    done: Vec<Done>,
    events: Vec<epoll::Event>,
    workers: Workers,
    waker: Waker,
    locks: Vec<File>,
    clock: Clock,
    stats: Stats,
    options: PollOptions,
}

impl PollIo {
    /// A driver for the calling thread.
    pub fn new(options: PollOptions) -> io::Result<PollIo> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = Waker::new(None)?;
        epoll::add(&epoll, waker.event(), epoll::EventData::new_u64(EVENT), epoll::EventFlags::IN)?;
        Ok(PollIo {
            epoll,
            flights: Flights::default(),
            handles: Handles::default(),
            receive: ReceiveBuffers::new(options.receive_bytes),
            starved: Vec::new(),
            paused: Vec::new(),
            accept_from_ns: 0,
            ready: Vec::new(),
            jobs: Vec::new(),
            done: Vec::new(),
            events: Vec::with_capacity(EVENTS),
            workers: Workers::new(options.workers.max(2), waker.clone())?,
            waker,
            locks: Vec::new(),
            clock: Clock::read(),
            stats: Stats::default(),
            options,
        })
    }

    /// Memory that received pieces may hold.
    pub fn receive_bytes(&self) -> usize {
        self.receive.max_bytes()
    }

    /// Open files and sockets.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    fn complete(&mut self, token: Token, result: Result<usize, Errno>, payload: Payload) {
        self.ready.push(Completion { token, result, more: false, payload });
    }

    /// The last completion of a flight.
    fn finish(&mut self, key: Key, result: Result<usize, Errno>) {
        let Some((token, flight)) = self.flights.remove(key) else { return };
        self.complete(token, result, flight.into_payload());
    }

    /// Hands the turn's jobs to the pool and takes what it has done.
    fn trade(&mut self) {
        self.workers.give(&mut self.jobs);
        let mut done = std::mem::take(&mut self.done);
        self.workers.take(&mut done);
        for job in done.drain(..) {
            self.land(job);
        }
        self.done = done;
    }

    fn land(&mut self, done: Done) {
        let Done { key, mut result, brought } = done;
        let Some((token, _)) = self.flights.remove(key) else {
            debug_assert!(false, "a job without its flight");
            return;
        };
        let payload = match brought {
            Brought::Nothing => Payload::None,
            Brought::Buffer(buf) => Payload::Buffer(buf),
            Brought::File(fd) => match self.handles.insert(Entry::File(Arc::new(fd))) {
                Ok(file) => Payload::Opened { file },
                Err(_) => {
                    result = Err(Errno(libc::EMFILE));
                    Payload::None
                }
            },
        };
        self.complete(token, result, payload);
    }

    /// Sleeps until an event, a job's end, a wake-up or the time given, and takes the events. Whether there was a wake-up.
    fn enter(&mut self, wait_until_ns: u64) -> bool {
        self.take_events();
        if wait_until_ns == 0 {
            return false;
        }
        let until = wait_until_ns.min(monotonic_ns().saturating_add(self.options.spin_ns));
        while self.options.spin_ns > 0 && !self.has_news() && monotonic_ns() < until {
            std::hint::spin_loop();
            self.take_events();
        }
        let now = monotonic_ns();
        // Parked first, then looked once more: a job that ends in between sees that somebody sleeps.
        if !self.has_news() && now < wait_until_ns && self.waker.park() && !self.workers.has_done() {
            self.sleep(wait_until_ns - now);
            self.stats.waited_ns += monotonic_ns().saturating_sub(now);
            self.stats.system_calls += 1;
            self.take_events();
        }
        self.waker.unpark()
    }

    fn has_news(&self) -> bool {
        !self.events.is_empty() || self.waker.is_notified() || self.workers.has_done()
    }

    /// `ppoll` on the epoll descriptor: to the nanosecond, and no profile refuses it, as some do `epoll_pwait2`.
    fn sleep(&self, wait_ns: u64) {
        let wait_ns = wait_ns.min(WAIT_NS_MAX);
        let time =
            Timespec { tv_sec: (wait_ns / 1_000_000_000) as i64, tv_nsec: (wait_ns % 1_000_000_000) as i64 };
        // Interrupted or failed: the turn looks again.
        let _ = rustix::event::poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&time));
    }

    fn take_events(&mut self) {
        if !self.events.is_empty() {
            return;
        }
        let no_time = Timespec { tv_sec: 0, tv_nsec: 0 };
        // It fails only when interrupted.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&no_time));
    }

    /// A turn up to its completions, which it leaves in `ready`. Whether there was a wake-up.
    fn run_turn(&mut self, wait_until_ns: u64) -> bool {
        loop {
            self.trade();
            self.feed_starved();
            let wait = wait_until_ns.min(self.feed_paused());
            let woken = self.enter(if self.ready.is_empty() { wait } else { 0 });
            self.clock = Clock::read();
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                self.handle_event(event.data.u64(), event.flags);
            }
            self.events = events;
            self.trade();
            if woken || !self.ready.is_empty() || self.clock.now_ns >= wait_until_ns {
                return woken;
            }
        }
    }
}

impl Io for PollIo {
    type Waker = Waker;

    fn now(&self) -> u64 {
        self.clock.now_ns
    }

    fn wall_ms(&self) -> i64 {
        self.clock.wall_ms
    }

    fn submit(&mut self, op: Op, token: Token) {
        self.stats.submissions += 1;
        if let Err((errno, payload)) = self.start(op, token) {
            self.complete(token, Err(errno), payload);
        }
    }

    fn stats(&self) -> Stats {
        self.stats
    }

    fn turn(&mut self, wait_until_ns: u64, out: &mut Vec<Completion>) {
        self.run_turn(wait_until_ns);
        out.append(&mut self.ready);
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn wake(&mut self, peer: &Waker) {
        peer.wake();
    }

    fn listen(&mut self, address: SocketAddr, shared: bool) -> io::Result<(Handle, SocketAddr)> {
        let (listener, bound) = self.options.socket.listen(address, shared)?;
        let listener = Sock::new(listener.into())?;
        let handle = self.handles.insert(Entry::Socket(listener));
        Ok((handle.map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?, bound))
    }

    fn detach(&mut self, socket: Handle) -> Option<OwnedFd> {
        self.sock(socket).ok().filter(|sock| sock.is_idle())?;
        match self.handles.remove(socket)? {
            (Entry::Socket(sock), _) => Some(sock.socket.into()),
            _ => None,
        }
    }

    fn attach(&mut self, socket: OwnedFd) -> io::Result<Handle> {
        let sock = Sock::new(socket.into())?;
        let handle = self.handles.insert(Entry::Socket(sock));
        handle.map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))
    }

    fn random(&mut self) -> u64 {
        getrandom::u64().expect("the kernel has random bytes")
    }

    fn block_on(&mut self, op: Op) -> Completion {
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

impl Drop for PollIo {
    /// Before the locks are let go, nothing writes any more.
    fn drop(&mut self) {
        self.waker.close();
        self.workers.stop();
    }
}

impl AsRawFd for Entry {
    fn as_raw_fd(&self) -> i32 {
        match self {
            Entry::Socket(sock) => sock.socket.as_raw_fd(),
            Entry::File(fd) => fd.as_raw_fd(),
        }
    }
}
