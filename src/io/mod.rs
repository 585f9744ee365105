//! The kernel, behind one trait. Everything above it is a state machine: an [`Op`] goes in with a [`Token`], a
//! [`Completion`] with the same token comes out of a later [`Io::turn`].
//!
//! Drivers: [`uring`] (the product), [`poll`] (where io_uring is refused) and the seeded simulation (`tests/simulation`). One
//! conformance suite (`tests/conformance.rs`) runs on all.
//!
//! Contract, for every driver:
//! - [`Io::submit`] only queues. The next `turn` submits once (a full queue is submitted before).
//! - Each op yields exactly one completion with `more == false`; multishot ops ([`Op::Accept`], [`Op::Receive`]) yield any
//!   number with `more == true` before it. After an error or a cancel the last one still comes.
//! - Buffers move into the op and come back in its last completion: they belong to the driver in between, so a
//!   cancelled op can never leave the kernel writing into freed memory.
//! - Completions of different ops come in any order. Ops on one socket are the caller's to order: at most one
//!   [`Op::Send`] and one [`Op::Receive`] or [`Op::ReceiveExact`] a socket are in flight.
//! - `Send` and `Write` complete when all bytes are taken or with an error; the driver continues short transfers.
//!   `Read` returns the bytes read, short only at the end of the file.
//! - A [`Handle`] is closed by [`Op::Close`] alone, which also ends what is pending on it (ECANCELED, or as it would have
//!   ended). It is dead once the `Close` is submitted: ops submitted later end with EBADF, those before still run first.
//! - A socket changes drivers by [`Io::detach`] and [`Io::attach`]; its old handle is dead.
//! - What is refused at once (EBADF, EINVAL) is told by a completion too.

pub mod affinity;
mod arena;
pub mod buffer;
pub mod cgroup;
pub mod clock;
pub mod driver;
mod file;
mod file_task;
mod flights;
pub mod grower;
mod handles;
mod mapping;
pub mod poll;
pub mod preflight;
pub mod socket;
pub mod uring;
pub mod usage;
pub mod wake;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use buffer::{AlignedBuf, Received, Slice};

/// Memory, file offset and length of direct I/O are multiples of this (the file system's block).
pub const BLOCK_BYTES: usize = 4096;

/// The caller's name for an op, handed back untouched. Ops in flight need different ones only where one is to be
/// cancelled. `u64::MAX` is the driver's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// An open socket or file of one driver. Valid until its [`Op::Close`]; never shared between drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u32);

/// A part of a gathered send.
#[derive(Debug)]
pub enum Part {
    Bytes(Vec<u8>),
    Shared(Slice),
}

/// How a file is opened. Files are always opened close-on-exec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    pub write: bool,
    pub create: bool,
    pub truncate: bool,
    /// O_DIRECT: offsets, lengths and memory of reads and writes are multiples of [`BLOCK_BYTES`].
    pub direct: bool,
    /// A directory, to be synced.
    pub directory: bool,
}

/// One request to the kernel.
#[derive(Debug)]
pub enum Op {
    /// Multishot: a completion with [`Payload::Accepted`] a connection. Out of files or memory (EMFILE, ENFILE, ENOBUFS,
    /// ENOMEM) it ends; submit it again, the driver pauses.
    Accept {
        listener: Handle,
    },
    Connect {
        address: SocketAddr,
    },
    /// Multishot: a completion with [`Payload::Received`] a piece; the peer's end of stream is a last one with `Ok(0)`.
    Receive {
        socket: Handle,
    },
    /// Receives `len` bytes behind what `buf` holds, into capacity it has (EINVAL otherwise): for a sender of large frames,
    /// whose bytes then lie where they are used. Fewer than `len`: the stream ended, or the op with an error.
    ReceiveExact {
        socket: Handle,
        buf: Vec<u8>,
        len: usize,
    },
    Send {
        socket: Handle,
        parts: Vec<Part>,
    },
    /// Ends both directions; a pending receive completes with the end of the stream. No error on a dead connection.
    Shutdown {
        socket: Handle,
    },
    Open {
        path: PathBuf,
        mode: OpenMode,
    },
    /// Reads `len` bytes at `offset` into the start of `buf`.
    Read {
        file: Handle,
        offset: u64,
        buf: AlignedBuf,
        len: usize,
    },
    /// Writes all of `data` at `offset`; with `sync` it completes when the data is on stable media (RWF_DSYNC).
    Write {
        file: Handle,
        offset: u64,
        data: Slice,
        sync: bool,
    },
    /// fdatasync when `data_only`, else fsync. Never retry a failed sync: the state of the pages is unknown.
    Sync {
        file: Handle,
        data_only: bool,
    },
    Truncate {
        file: Handle,
        len: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    RemoveDir {
        path: PathBuf,
    },
    CreateDir {
        path: PathBuf,
    },
    Close {
        handle: Handle,
    },
    /// Asks that the op submitted with `target` end early; it then completes with ECANCELED, or as it would have. The
    /// cancel itself completes with 0, or ENOENT when no such op is in flight.
    Cancel {
        target: Token,
    },
}

/// What an op brought back beside its result.
#[derive(Debug, Default)]
pub enum Payload {
    #[default]
    None,
    Accepted {
        socket: Handle,
        peer: Option<SocketAddr>,
    },
    /// The connected socket.
    Connected {
        socket: Handle,
    },
    Opened {
        file: Handle,
    },
    Received(Received),
    /// The buffer of a [`Op::ReceiveExact`], longer by what arrived, whatever the result.
    Filled(Vec<u8>),
    /// The buffer of a read, in its last completion whatever the result.
    Buffer(AlignedBuf),
    /// The parts of a send, for reuse of their memory.
    Parts(Vec<Part>),
}

/// The kernel's answer to an [`Op`].
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    /// Bytes moved, or 0 for ops that move none; else the error number.
    pub result: Result<usize, Errno>,
    /// Whether further completions of this (multishot) op follow.
    pub more: bool,
    pub payload: Payload,
}

/// A positive error number of the operating system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const CANCELED: Errno = Errno(libc::ECANCELED);
    pub const IO: Errno = Errno(libc::EIO);
    pub const NO_SPACE: Errno = Errno(libc::ENOSPC);
    pub const NOT_FOUND: Errno = Errno(libc::ENOENT);
    pub const NOT_EMPTY: Errno = Errno(libc::ENOTEMPTY);
    pub const EXISTS: Errno = Errno(libc::EEXIST);
    pub const NO_BUFFERS: Errno = Errno(libc::ENOBUFS);
    pub const RESET: Errno = Errno(libc::ECONNRESET);
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}

/// What [`Io::list_dir`] finds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
    /// Length in bytes of a file, 0 of a directory.
    pub len: u64,
}

/// What a driver has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Time in turns that waited for something to do.
    pub waited_ns: u64,
    /// Ops handed to the kernel, and the system calls of the turns.
    pub submissions: u64,
    pub system_calls: u64,
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    pub total_bytes: u64,
    /// What unprivileged writers may still take.
    pub usable_bytes: u64,
}

/// A driver. One a shard, used by its thread alone.
pub trait Io {
    /// Wakes a sleeping [`Io::turn`] from another thread.
    type Waker: Clone + Send + 'static;

    /// Monotonic nanoseconds, read once a turn.
    fn now(&self) -> u64;

    /// Wall clock in milliseconds since 1970, read once a turn. It may jump either way.
    fn wall_ms(&self) -> i64;

    /// Queues `op`; its completions carry `token`.
    fn submit(&mut self, op: Op, token: Token);

    /// Submits what is queued, then appends the completions that are there to `out`. Waits until there is one, or a
    /// wake-up, or `now()` reaches `wait_until_ns` (0: does not wait). Every `now()` after it tells the new time.
    fn turn(&mut self, wait_until_ns: u64, out: &mut Vec<Completion>);

    /// A waker of this driver.
    fn waker(&self) -> Self::Waker;

    /// Wakes the driver that `peer` belongs to, with this turn's submission.
    fn wake(&mut self, peer: &Self::Waker);

    /// See [`Stats`]; zero where nobody counts.
    fn stats(&self) -> Stats {
        Stats::default()
    }

    /// A listening socket on `address`; with `shared`, one of several on the same address (SO_REUSEPORT).
    fn listen(&mut self, address: SocketAddr, shared: bool) -> io::Result<(Handle, SocketAddr)>;

    /// Takes a socket without ops in flight out of this driver, to be given to another; `None`, and it stays, where that
    /// cannot be.
    fn detach(&mut self, socket: Handle) -> Option<OwnedFd> {
        let _ = socket;
        None
    }

    /// Takes over a connected socket that another driver has given up.
    fn attach(&mut self, socket: OwnedFd) -> io::Result<Handle> {
        let _ = socket;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Random bytes (ids, tokens; never for logic that a seed must repeat outside the driver).
    fn random(&mut self) -> u64;

    /// Bytes of the file system under `path`, from one call that local file systems answer from memory; for what
    /// administrators ask now and then. `None` where it is not known.
    fn disk_space(&self, path: &Path) -> Option<DiskSpace> {
        let _ = path;
        None
    }

    // ---- blocking, for start-up, recovery and tools only: no other op may be in flight ----

    /// Runs one op to its last completion. Completions of others and wake-ups meanwhile are the next turn's.
    fn block_on(&mut self, op: Op) -> Completion;

    /// The entries of a directory, sorted by name.
    fn list_dir(&mut self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// Takes an exclusive lock on `path`, created where missing, held until the driver ends; `false` when another holds it.
    fn lock_file(&mut self, path: &Path) -> io::Result<bool>;
}
