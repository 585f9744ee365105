//! The ring itself: made with the best flags the kernel takes, filled, entered, drained. It knows entries and
//! `user_data`, not ops.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue, types};

use super::UringOptions;

/// Which of the optional features this ring has. Shown at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    pub submission_entries: u32,
    pub completion_entries: u32,
    pub single_issuer: bool,
    pub defer_taskrun: bool,
    pub coop_taskrun: bool,
    pub submit_all: bool,
    pub taskrun_flag: bool,
    /// Idle shards do not count as waiting for I/O (Linux 6.15).
    pub no_iowait: bool,
    /// Receive buffers are filled piece by piece (Linux 6.12).
    pub incremental_buffers: bool,
    /// Truncation goes through the ring (Linux 6.9); else it blocks.
    pub truncate: bool,
    /// A table for registered memory exists; whether memory can be registered is seen at the first write.
    pub registered_buffers: bool,
}

impl fmt::Display for RingFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sq={} cq={}", self.submission_entries, self.completion_entries)?;
        for (name, on) in [
            ("single_issuer", self.single_issuer),
            ("defer_taskrun", self.defer_taskrun),
            ("coop_taskrun", self.coop_taskrun),
            ("submit_all", self.submit_all),
            ("taskrun_flag", self.taskrun_flag),
            ("no_iowait", self.no_iowait),
            ("incremental_buffers", self.incremental_buffers),
            ("truncate", self.truncate),
            ("registered_buffers", self.registered_buffers),
        ] {
            write!(f, " {}{name}", if on { '+' } else { '-' })?;
        }
        Ok(())
    }
}

/// Kernel threads for ops that block and belong to no file.
const WORKERS_MAX: u32 = 16;

/// Longer sleeps are taken in pieces: the kernel adds the time to its clock without a check.
const WAIT_NS_MAX: u64 = 3_600_000_000_000;

/// A completion as the kernel posts it.
#[derive(Clone, Copy)]
pub(super) struct Cqe {
    pub user_data: u64,
    pub result: i32,
    pub flags: u32,
}

pub(super) struct Ring {
    uring: IoUring,
    features: RingFeatures,
    missing: Vec<&'static str>,
    /// Entries that found the queue full even after a submission; in order, before all later ones.
    backlog: VecDeque<squeue::Entry>,
    submissions: u64,
    system_calls: u64,
}

/// Set-up flags, best first; an old kernel answers EINVAL to what it does not know.
const SETUPS: [RingFeatures; 4] = [
    RingFeatures { single_issuer: true, defer_taskrun: true, coop_taskrun: true, ..COOPERATIVE },
    RingFeatures { single_issuer: true, ..COOPERATIVE },
    COOPERATIVE,
    NOTHING,
];
const COOPERATIVE: RingFeatures =
    RingFeatures { coop_taskrun: true, submit_all: true, taskrun_flag: true, ..NOTHING };
const NOTHING: RingFeatures = RingFeatures {
    submission_entries: 0,
    completion_entries: 0,
    single_issuer: false,
    defer_taskrun: false,
    coop_taskrun: false,
    submit_all: false,
    taskrun_flag: false,
    no_iowait: false,
    incremental_buffers: false,
    truncate: false,
    registered_buffers: false,
};

const REQUIRED: [(u8, &str); 16] = [
    (opcode::AcceptMulti::CODE, "IORING_OP_ACCEPT"),
    (opcode::Connect::CODE, "IORING_OP_CONNECT"),
    (opcode::RecvMulti::CODE, "IORING_OP_RECV"),
    (opcode::Send::CODE, "IORING_OP_SEND"),
    (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
    (opcode::Shutdown::CODE, "IORING_OP_SHUTDOWN"),
    (opcode::OpenAt::CODE, "IORING_OP_OPENAT"),
    (opcode::Close::CODE, "IORING_OP_CLOSE"),
    (opcode::Read::CODE, "IORING_OP_READ"),
    (opcode::Write::CODE, "IORING_OP_WRITE"),
    (opcode::Fsync::CODE, "IORING_OP_FSYNC"),
    (opcode::RenameAt::CODE, "IORING_OP_RENAMEAT"),
    (opcode::UnlinkAt::CODE, "IORING_OP_UNLINKAT"),
    (opcode::MkDirAt::CODE, "IORING_OP_MKDIRAT"),
    (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
    (opcode::MsgRingData::CODE, "IORING_OP_MSG_RING"),
];

impl Ring {
    pub fn new(options: &UringOptions) -> io::Result<Ring> {
        let setups = if options.old_kernel { &SETUPS[3..] } else { &SETUPS[..] };
        let mut last = io::Error::from_raw_os_error(libc::EINVAL);
        for setup in setups {
            match build(options, setup) {
                Ok(uring) => return Ring::probed(uring, *setup, options),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn probed(uring: IoUring, setup: RingFeatures, options: &UringOptions) -> io::Result<Ring> {
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        // Opens, renames and unlinks run on kernel threads, without a limit unless one is set: a start with thousands of
        // partitions would make thousands. Kernels before 5.15 have no such limit; nor do they run us.
        let _ = uring.submitter().register_iowq_max_workers(&mut [0, WORKERS_MAX]);
        let params = uring.params();
        let features = RingFeatures {
            submission_entries: params.sq_entries(),
            completion_entries: params.cq_entries(),
            no_iowait: params.is_feature_no_iowait() && !options.old_kernel,
            truncate: probe.is_supported(opcode::Ftruncate::CODE) && !options.old_kernel,
            ..setup
        };
        let mut missing: Vec<_> = REQUIRED
            .into_iter()
            .filter(|&(code, _)| !probe.is_supported(code))
            .map(|(_, name)| name)
            .collect();
        if !features.single_issuer && !options.old_kernel {
            // Of the same release (6.0), and not to be probed by itself.
            missing.push("multishot receive");
        }
        Ok(Ring { uring, features, missing, backlog: VecDeque::new(), submissions: 0, system_calls: 0 })
    }

    /// The ops that nothing can stand in for.
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing.clone()
    }

    /// Entries queued and system calls made so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.submissions, self.system_calls)
    }

    pub fn uring(&self) -> &IoUring {
        &self.uring
    }

    pub fn features(&self) -> &RingFeatures {
        &self.features
    }

    pub fn features_mut(&mut self) -> &mut RingFeatures {
        &mut self.features
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: needed to duplicate it. The ring owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) }
    }

    /// Queues an entry. With a full queue it submits first.
    ///
    /// # Safety
    /// The memory that `entry` names stays valid, and unused by others where the kernel writes it, until the last
    /// completion of its `user_data` has been drained.
    pub unsafe fn push(&mut self, entry: squeue::Entry) {
        self.submissions += 1;
        if self.backlog.is_empty() {
            if self.try_push(&entry) {
                return;
            }
            self.enter(None);
            if self.try_push(&entry) {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller of `Ring::push` has promised what `push` asks for, for entries of the backlog too.
        unsafe { self.uring.submission().push(entry).is_ok() }
    }

    /// Moves what the backlog holds into the queue as far as there is room.
    fn refill(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Whether anything is to be submitted, or the kernel has completions that only an `enter` brings.
    pub fn wants_enter(&mut self) -> bool {
        // Without the flag there is no telling whether the kernel has work to run for us.
        let telling = self.features.taskrun_flag;
        let submission = self.uring.submission();
        !telling || !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Whether drained completions left others behind in the kernel's overflow list.
    pub fn has_overflow(&mut self) -> bool {
        self.uring.submission().cq_overflow()
    }

    pub fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Submits everything; with `wait_ns`, then waits so long at most for a completion.
    pub fn enter(&mut self, wait_ns: Option<u64>) {
        self.refill();
        let queued = self.uring.submission().len() as u32;
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        let time;
        let mut args = types::SubmitArgs::new();
        // With a backlog there is more to submit than fits: no sleep before it has gone.
        let wait_ns = wait_ns.filter(|_| self.backlog.is_empty());
        if let Some(wait_ns) = wait_ns.map(|wait_ns| wait_ns.min(WAIT_NS_MAX)) {
            time = types::Timespec::new().sec(wait_ns / 1_000_000_000).nsec((wait_ns % 1_000_000_000) as u32);
            args = args.timespec(&time);
            if self.features.no_iowait {
                flags |= EnterFlags::NO_IOWAIT;
            }
        }
        let wanted = u32::from(wait_ns.is_some());
        self.system_calls += 1;
        // SAFETY: needed to choose the flags: the safe call leaves GETEVENTS out when nothing is wanted, without which
        // deferred work does not run. EXT_ARG announces a `getevents` structure, which `args` is, with its size; it and
        // the time it points to live until the call returns.
        let result = unsafe { self.uring.submitter().enter(queued, wanted, flags.bits(), Some(&args)) };
        let Err(error) = result else { return };
        match error.raw_os_error() {
            // Time is up; a signal; completions must be taken, or memory freed, before more goes in (the entries stay
            // queued for the next turn).
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM) => {}
            _ => panic!("the ring refuses to be entered: {error}"),
        }
    }

    /// Takes up to 64 completions.
    pub fn drain(&mut self, into: &mut Vec<Cqe>) {
        let mut batch = [const { MaybeUninit::<cqueue::Entry>::uninit() }; 64];
        for cqe in self.uring.completion().fill(&mut batch) {
            into.push(Cqe { user_data: cqe.user_data(), result: cqe.result(), flags: cqe.flags() });
        }
    }
}

fn build(options: &UringOptions, setup: &RingFeatures) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    let completions = options.completion_entries.max(options.submission_entries.saturating_mul(8));
    builder.dontfork().setup_clamp().setup_cqsize(completions);
    if setup.single_issuer {
        builder.setup_single_issuer();
    }
    if setup.defer_taskrun {
        builder.setup_defer_taskrun();
    }
    if setup.coop_taskrun {
        builder.setup_coop_taskrun();
    }
    if setup.taskrun_flag {
        builder.setup_taskrun_flag();
    }
    if setup.submit_all {
        builder.setup_submit_all();
    }
    builder.build(options.submission_entries)
}
