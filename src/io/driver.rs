//! The driver that a process runs on: the ring, or epoll where the ring is refused. Chosen once, at start (see
//! [`super::preflight`]); the branch a call costs is as nothing beside the op.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::buffer::BufferPool;
use super::poll::{PollIo, PollOptions};
use super::socket::SocketOptions;
use super::uring::{UringIo, UringOptions};
use super::wake::Waker;
use super::{Completion, DirEntry, DiskSpace, Handle, Io, Op, Stats, Token, file};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverKind {
    #[default]
    Uring,
    Poll,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DriverKind::Uring => "io_uring",
            DriverKind::Poll => "epoll",
        })
    }
}

/// What both drivers can be told; the rest is as each has it by default.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// Memory for received bytes.
    pub receive_bytes: usize,
    /// How long to look for work before sleeping.
    pub spin_ns: u64,
    pub socket: SocketOptions,
}

impl Default for DriverOptions {
    fn default() -> DriverOptions {
        DriverOptions { receive_bytes: 2 << 20, spin_ns: 0, socket: SocketOptions::default() }
    }
}

// One a shard, never moved once it runs: the size of the larger does no harm.
#[allow(clippy::large_enum_variant)]
pub enum Driver {
    Uring(UringIo),
    Poll(PollIo),
}

impl Driver {
    /// A driver for the calling thread.
    pub fn new(kind: DriverKind, options: DriverOptions) -> io::Result<Driver> {
        let DriverOptions { receive_bytes, spin_ns, socket } = options;
        match kind {
            DriverKind::Uring => {
                let options = UringOptions { receive_bytes, spin_ns, socket, ..UringOptions::default() };
                UringIo::new(options).map(Driver::Uring)
            }
            DriverKind::Poll => {
                let options = PollOptions { receive_bytes, spin_ns, socket, ..PollOptions::default() };
                PollIo::new(options).map(Driver::Poll)
            }
        }
    }

    pub fn kind(&self) -> DriverKind {
        match self {
            Driver::Uring(_) => DriverKind::Uring,
            Driver::Poll(_) => DriverKind::Poll,
        }
    }

    /// What there is to say of it at start.
    pub fn describe(&self) -> String {
        match self {
            Driver::Uring(io) => format!("io_uring {}", io.features()),
            Driver::Poll(io) => format!("epoll receive_bytes={}", io.receive_bytes()),
        }
    }

    /// Registers the arenas of `pool` where the driver can; see [`UringIo::register`].
    pub fn register(&mut self, pool: &BufferPool) -> usize {
        match self {
            Driver::Uring(io) => io.register(pool),
            Driver::Poll(_) => 0,
        }
    }
}

macro_rules! each {
    ($driver:expr, $io:ident => $call:expr) => {
        match $driver {
            Driver::Uring($io) => $call,
            Driver::Poll($io) => $call,
        }
    };
}

impl Io for Driver {
    type Waker = Waker;

    fn now(&self) -> u64 {
        each!(self, io => io.now())
    }

    fn wall_ms(&self) -> i64 {
        each!(self, io => io.wall_ms())
    }

    fn submit(&mut self, op: Op, token: Token) {
        each!(self, io => io.submit(op, token))
    }

    fn turn(&mut self, wait_until_ns: u64, out: &mut Vec<Completion>) {
        each!(self, io => io.turn(wait_until_ns, out))
    }

    fn waker(&self) -> Waker {
        each!(self, io => io.waker())
    }

    fn wake(&mut self, peer: &Waker) {
        each!(self, io => io.wake(peer))
    }

    fn stats(&self) -> Stats {
        each!(self, io => io.stats())
    }

    fn listen(&mut self, address: SocketAddr, shared: bool) -> io::Result<(Handle, SocketAddr)> {
        each!(self, io => io.listen(address, shared))
    }

    fn detach(&mut self, socket: Handle) -> Option<OwnedFd> {
        each!(self, io => io.detach(socket))
    }

    fn attach(&mut self, socket: OwnedFd) -> io::Result<Handle> {
        each!(self, io => io.attach(socket))
    }

    fn random(&mut self) -> u64 {
        each!(self, io => io.random())
    }

    fn block_on(&mut self, op: Op) -> Completion {
        each!(self, io => io.block_on(op))
    }

    fn disk_space(&self, path: &Path) -> Option<DiskSpace> {
        file::disk_space(path)
    }

    fn list_dir(&mut self, path: &Path) -> io::Result<Vec<DirEntry>> {
        each!(self, io => io.list_dir(path))
    }

    fn lock_file(&mut self, path: &Path) -> io::Result<bool> {
        each!(self, io => io.lock_file(path))
    }
}
