//! File operations as blocking calls: what the threads of the epoll driver do, and what the ring's driver does at start-up,
//! where one call is a twentieth of the way through the kernel's worker threads.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::{Errno as SystemError, ReadWriteFlags};

use super::buffer::{AlignedBuf, Slice};
use super::{BLOCK_BYTES, Errno, OpenMode};

/// The kernel moves at most 2 GiB in a call; a round number below.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// An op on files; `F` is how its driver holds one that is open.
pub(super) enum Task<F> {
    Open { path: PathBuf, mode: OpenMode },
    Read { file: F, offset: u64, buf: AlignedBuf, len: usize },
    Write { file: F, offset: u64, data: Slice, sync: bool },
    Sync { file: F, data_only: bool },
    Truncate { file: F, len: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Unlink { path: PathBuf },
    RemoveDir { path: PathBuf },
    CreateDir { path: PathBuf },
    Close { file: F },
}

/// What came of a task beside its result.
pub(super) enum Brought {
    Nothing,
    File(OwnedFd),
    Buffer(AlignedBuf),
}

impl<F: AsFd> Task<F> {
    pub fn run(self) -> (Result<usize, Errno>, Brought) {
        let nothing = |result: Result<(), SystemError>| (result.map(|()| 0), Brought::Nothing);
        let (result, brought) = match self {
            Task::Open { path, mode } => match open(&path, mode) {
                Ok(file) => (Ok(0), Brought::File(file)),
                Err(errno) => (Err(errno), Brought::Nothing),
            },
            Task::Read { file, offset, mut buf, len } => {
                (read(&file, offset, &mut buf[..len]), Brought::Buffer(buf))
            }
            Task::Write { file, offset, data, sync } => (write(&file, offset, &data, sync), Brought::Nothing),
            Task::Sync { file, data_only: true } => nothing(rustix::fs::fdatasync(file)),
            Task::Sync { file, data_only: false } => nothing(rustix::fs::fsync(file)),
            Task::Truncate { file, len } => nothing(rustix::fs::ftruncate(file, len)),
            Task::Rename { from, to } => nothing(rustix::fs::rename(from, to)),
            Task::Unlink { path } => nothing(rustix::fs::unlinkat(CWD, path, AtFlags::empty())),
            Task::RemoveDir { path } => nothing(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)),
            Task::CreateDir { path } => nothing(rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755))),
            Task::Close { file } => {
                // The last reference closes it, here or where a task on it ends.
                drop(file);
                (Ok(0), Brought::Nothing)
            }
        };
        (result.map_err(|error| Errno(error.raw_os_error())), brought)
    }
}

/// Opens a file. Where the file system takes no direct I/O, every write is a synced one instead: a `durable` write
/// promises that what was written before it is on stable media too, which for direct writes the flush of the device's
/// cache does, but nothing would for pages of the system's cache. (The pre-flight check refuses file systems in memory.)
fn open(path: &PathBuf, mode: OpenMode) -> Result<OwnedFd, SystemError> {
    let flags = OFlags::from_bits_retain(mode.flags() as u32);
    let permissions = Mode::from_raw_mode(0o644);
    match retry(|| rustix::fs::open(path, flags, permissions)) {
        Err(SystemError::INVAL) if mode.direct => {
            let synced = flags.difference(OFlags::DIRECT).union(OFlags::DSYNC);
            retry(|| rustix::fs::open(path, synced, permissions))
        }
        other => other,
    }
}

/// Reads until `into` is full or the file ends. A step after a short one starts at a block again, as direct I/O must.
fn read(file: &impl AsFd, offset: u64, into: &mut [u8]) -> Result<usize, SystemError> {
    let mut done = 0;
    while done < into.len() {
        let start = done / BLOCK_BYTES * BLOCK_BYTES;
        let end = into.len().min(start + TRANSFER_BYTES_MAX);
        let at = offset.saturating_add(start as u64);
        let moved = retry(|| rustix::io::pread(file, &mut into[start..end], at))?;
        if start + moved <= done {
            break;
        }
        done = start + moved;
    }
    Ok(done)
}

/// Writes all of `data`.
fn write(file: &impl AsFd, offset: u64, data: &[u8], sync: bool) -> Result<usize, SystemError> {
    let mut done = 0;
    while done < data.len() {
        let start = done / BLOCK_BYTES * BLOCK_BYTES;
        let end = data.len().min(start + TRANSFER_BYTES_MAX);
        let at = offset.saturating_add(start as u64);
        let moved = retry(|| write_step(file, at, &data[start..end], sync))?;
        if start + moved <= done {
            return Err(SystemError::IO);
        }
        done = start + moved;
    }
    Ok(done)
}

fn write_step(file: &impl AsFd, at: u64, data: &[u8], sync: bool) -> Result<usize, SystemError> {
    if !sync {
        return rustix::io::pwrite(file, data, at);
    }
    match rustix::io::pwritev2(file, &[io::IoSlice::new(data)], at, ReadWriteFlags::DSYNC) {
        // A kernel in user space (gVisor) or a profile that does not know the call or its flag.
        Err(SystemError::OPNOTSUPP | SystemError::NOSYS | SystemError::PERM) => {
            let moved = rustix::io::pwrite(file, data, at)?;
            rustix::fs::fdatasync(file).map(|()| moved)
        }
        other => other,
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, SystemError>) -> Result<T, SystemError> {
    loop {
        match call() {
            Err(SystemError::INTR) => {}
            other => return other,
        }
    }
}
