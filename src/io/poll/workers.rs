//! The threads that do file operations with blocking calls. They inherit the affinity of the shard that first needs them,
//! so a shard's work stays on its core. Reads and writes go before everything else, and everything else (syncs, unlinks,
//! opens, which may take long) never takes all threads: an append does not wait behind the removal of a large file.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags};
use rustix::io::{Errno as SystemError, ReadWriteFlags};

use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::flights::Key;
use crate::io::wake::Waker;
use crate::io::{BLOCK_BYTES, Errno, OpenMode};

/// The kernel moves at most 2 GiB in a call; a round number below.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

pub(super) struct Job {
    pub key: Key,
    pub task: Task,
}

pub(super) enum Task {
    Open { path: PathBuf, mode: OpenMode },
    Read { file: Arc<OwnedFd>, offset: u64, buf: AlignedBuf, len: usize },
    Write { file: Arc<OwnedFd>, offset: u64, data: Slice, sync: bool },
    Sync { file: Arc<OwnedFd>, data_only: bool },
    Truncate { file: Arc<OwnedFd>, len: u64 },
    Allocate { file: Arc<OwnedFd>, offset: u64, len: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Unlink { path: PathBuf },
    RemoveDir { path: PathBuf },
    CreateDir { path: PathBuf },
    Close { file: Arc<OwnedFd> },
}

/// What became of a job.
pub(super) struct Done {
    pub key: Key,
    pub result: Result<usize, Errno>,
    pub brought: Brought,
}

pub(super) enum Brought {
    Nothing,
    File(OwnedFd),
    Buffer(AlignedBuf),
}

pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    threads_max: usize,
}

struct Shared {
    queues: Mutex<Queues>,
    work: Condvar,
    done: Mutex<Vec<Done>>,
    /// Whether `done` holds something; read without its lock.
    has_done: AtomicBool,
    waker: Waker,
}

#[derive(Default)]
struct Queues {
    /// Reads and writes.
    transfers: VecDeque<Job>,
    others: VecDeque<Job>,
    others_running: usize,
    others_running_max: usize,
    idle: usize,
    stopped: bool,
}

impl Workers {
    /// At most `threads_max` threads, two at least; their ends wake `waker`'s driver.
    pub fn new(threads_max: usize, waker: Waker) -> io::Result<Workers> {
        let queues = Queues { others_running_max: (threads_max / 2).max(1), ..Queues::default() };
        let shared = Shared {
            queues: Mutex::new(queues),
            work: Condvar::new(),
            done: Mutex::default(),
            has_done: AtomicBool::new(false),
            waker,
        };
        let mut workers = Workers { shared: Arc::new(shared), threads: Vec::new(), threads_max };
        workers.grow()?;
        Ok(workers)
    }

    pub fn give(&mut self, jobs: &mut Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut queues = lock(&self.shared.queues);
        for job in jobs.drain(..) {
            match job.task {
                Task::Read { .. } | Task::Write { .. } => queues.transfers.push_back(job),
                _ => queues.others.push_back(job),
            }
        }
        let (waiting, idle) = (queues.transfers.len() + queues.others.len(), queues.idle);
        drop(queues);
        for _ in 0..waiting.min(idle) {
            self.shared.work.notify_one();
        }
        if waiting > idle
            && self.threads.len() < self.threads_max
            && let Err(error) = self.grow()
        {
            // Those that there are do the work.
            tracing::warn!(%error, threads = self.threads.len(), "no more threads for file operations");
            self.threads_max = self.threads.len();
        }
    }

    /// Appends what has been done since.
    pub fn take(&self, into: &mut Vec<Done>) {
        if self.has_done() {
            let mut done = lock(&self.shared.done);
            self.shared.has_done.store(false, Ordering::SeqCst);
            into.append(&mut done);
        }
    }

    pub fn has_done(&self) -> bool {
        self.shared.has_done.load(Ordering::SeqCst)
    }

    /// Gives up the jobs that wait and awaits those that run.
    pub fn stop(&mut self) {
        let mut queues = lock(&self.shared.queues);
        queues.stopped = true;
        let given_up = (std::mem::take(&mut queues.transfers), std::mem::take(&mut queues.others));
        drop(queues);
        drop(given_up);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of it has been printed; there is nobody else to tell.
            let _ = thread.join();
        }
    }

    fn grow(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let name = format!("{}-io", std::thread::current().name().unwrap_or("driver"));
        self.threads.push(std::thread::Builder::new().name(name).spawn(move || shared.run())?);
        Ok(())
    }
}

impl Shared {
    fn run(&self) {
        let mut queues = lock(&self.queues);
        loop {
            if queues.stopped {
                return;
            }
            let Some((job, other)) = queues.next() else {
                queues.idle += 1;
                queues = self.work.wait(queues).unwrap_or_else(PoisonError::into_inner);
                queues.idle -= 1;
                continue;
            };
            drop(queues);
            let done = job.run();
            lock(&self.done).push(done);
            self.has_done.store(true, Ordering::SeqCst);
            self.waker.nudge();
            queues = lock(&self.queues);
            queues.others_running -= usize::from(other);
        }
    }
}

impl Queues {
    /// The job to do next, and whether it is none of the transfers.
    fn next(&mut self) -> Option<(Job, bool)> {
        if let Some(job) = self.transfers.pop_front() {
            return Some((job, false));
        }
        if self.others_running == self.others_running_max {
            return None;
        }
        let job = self.others.pop_front()?;
        self.others_running += 1;
        Some((job, true))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    fn run(self) -> Done {
        let nothing = |result: Result<(), SystemError>| (result.map(|()| 0), Brought::Nothing);
        let (result, brought) = match self.task {
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
            Task::Allocate { file, offset, len } => {
                nothing(rustix::fs::fallocate(file, FallocateFlags::empty(), offset, len))
            }
            Task::Rename { from, to } => nothing(rustix::fs::rename(from, to)),
            Task::Unlink { path } => nothing(rustix::fs::unlinkat(CWD, path, AtFlags::empty())),
            Task::RemoveDir { path } => nothing(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)),
            Task::CreateDir { path } => nothing(rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755))),
            Task::Close { file } => {
                // The last reference closes it, here or where a job on it ends.
                drop(file);
                (Ok(0), Brought::Nothing)
            }
        };
        Done { key: self.key, result: result.map_err(|error| Errno(error.raw_os_error())), brought }
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
fn read(file: &OwnedFd, offset: u64, into: &mut [u8]) -> Result<usize, SystemError> {
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
fn write(file: &OwnedFd, offset: u64, data: &[u8], sync: bool) -> Result<usize, SystemError> {
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

fn write_step(file: &OwnedFd, at: u64, data: &[u8], sync: bool) -> Result<usize, SystemError> {
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
