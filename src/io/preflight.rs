//! Before the first driver: does this host let the broker run, on which driver, and if not, what is missing and how is it put
//! right? Asked by the server at start; a refusal ends the process with [`EXIT_CODE`]. Where io_uring is refused the epoll
//! driver stands in, unless the configuration insists on the ring.
//!
//! [`Host::inspect`] looks, [`Host::verdict`] judges: the judgement is a function of plain values, so that every refusal
//! can be tested on a host that has none.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::buffer::AlignedBuf;
use super::driver::DriverKind;
use super::uring::{UringIo, UringOptions};
use super::{BLOCK_BYTES, Errno};

/// Of a start that the host refuses.
pub const EXIT_CODE: u8 = 3;

/// `TMPFS_MAGIC`, `RAMFS_MAGIC`.
const MEMORY_FILE_SYSTEMS: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Fewer open files serve nobody.
const FILES_MIN: u64 = 256;

/// What the broker is about to use.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Existing directories, to be written with direct I/O.
    pub directories: Vec<PathBuf>,
    /// Memory that rings would like to register (shards times their buffer budget).
    pub registered_bytes: u64,
    /// Connections and files.
    pub open_files: u64,
    /// The driver that must be used; `None`: the ring where it is to be had.
    pub driver: Option<DriverKind>,
}

/// What the host says.
#[derive(Clone, Debug)]
pub struct Host {
    /// The kernel's release, as `uname -r` shows it.
    pub release: String,
    /// `kernel.io_uring_disabled`, where the kernel has it.
    pub io_uring_disabled: Option<u32>,
    /// Whether a seccomp filter watches this thread.
    pub seccomp: bool,
    /// A ring was made, with this missing; or not.
    pub ring: Result<Vec<&'static str>, Errno>,
    /// RLIMIT_MEMLOCK in bytes; `None` when nothing limits this process.
    pub locked_bytes_max: Option<u64>,
    /// RLIMIT_NOFILE, after it was raised as far as it goes.
    pub open_files_max: u64,
    pub directories: Vec<Directory>,
}

/// A directory that the broker is to write to.
#[derive(Clone, Debug)]
pub struct Directory {
    pub path: PathBuf,
    /// Whether a block was written to it directly.
    pub direct: Result<(), Errno>,
    /// Whether one was written with O_DSYNC; asked only where direct I/O is refused.
    pub synced: Result<(), Errno>,
    /// Its file system keeps everything in memory (tmpfs, ramfs).
    pub in_memory: bool,
}

/// What the broker runs on, and with what to be careful.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub driver: DriverKind,
    pub cautions: Vec<Caution>,
}

/// Why the broker cannot run here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    #[error(
        "io_uring is switched off (kernel.io_uring_disabled = {value})\n  \
         fix: sysctl -w kernel.io_uring_disabled=0 (and in /etc/sysctl.d to keep it){}",
        if *value == 1 { "; or run as a member of the group in kernel.io_uring_group" } else { "" }
    )]
    SwitchedOff { value: u32 },
    #[error(
        "io_uring is refused by the seccomp profile of this container or service ({errno})\n  \
         fix: allow io_uring_setup, io_uring_enter and io_uring_register: \
         docker run --security-opt seccomp=PROFILE.json (or seccomp=unconfined); \
         Kubernetes securityContext.seccompProfile; systemd SystemCallFilter="
    )]
    Filtered { errno: Errno },
    #[error(
        "io_uring is refused ({errno})\n  \
         fix: look for a security module (SELinux, AppArmor) that denies it; the kernel log names the rule"
    )]
    Refused { errno: Errno },
    #[error(
        "Linux {release} is too old: it lacks {missing}\n  fix: run Linux 6.1 or newer (6.12 or newer is best)"
    )]
    KernelTooOld { release: String, missing: String },
    #[error(
        "too little memory may be locked for a ring (RLIMIT_MEMLOCK is {} KiB)\n  \
         fix: ulimit -l unlimited; systemd LimitMEMLOCK=infinity; docker run --ulimit memlock=-1",
        limit_bytes / 1024
    )]
    LockedMemory { limit_bytes: u64 },
    #[error(
        "{}: the file system takes no direct I/O ({errno})\n  \
         fix: put log.dirs on ext4 or XFS on a disk (not tmpfs, not a container's own layer)",
        directory.display()
    )]
    DirectRefused { directory: PathBuf, errno: Errno },
    #[error(
        "{}: cannot be written ({errno})\n  fix: create it, give it to the user the broker runs as, mount it writable",
        directory.display()
    )]
    NotWritable { directory: PathBuf, errno: Errno },
    #[error(
        "only {limit} files may be open (RLIMIT_NOFILE)\n  \
         fix: ulimit -n 1048576; systemd LimitNOFILE=1048576; docker run --ulimit nofile=1048576:1048576"
    )]
    OpenFiles { limit: u64 },
}

/// What costs speed or room, but not the start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Caution {
    #[error("the epoll driver stands in for io_uring, with more system calls and helper threads: {0}")]
    NoRing(Box<Problem>),
    #[error(
        "{}: the file system takes no direct I/O ({errno}): every write to it is a synced one, by the epoll driver; \
         ext4 or XFS on a disk takes it",
        directory.display()
    )]
    SyncedWrites { directory: PathBuf, errno: Errno },
    #[error("{}: a file system in memory: nothing in it survives a power cut, whatever the ack level", directory.display())]
    InMemory { directory: PathBuf },
    #[error(
        "RLIMIT_MEMLOCK is {} MiB, {} MiB would be registered for disk writes: the rest costs more CPU; \
         ulimit -l unlimited, LimitMEMLOCK=infinity or --ulimit memlock=-1",
        limit_bytes >> 20, wanted_bytes >> 20
    )]
    LockedMemory { limit_bytes: u64, wanted_bytes: u64 },
    #[error(
        "RLIMIT_NOFILE is {limit}, the limits set here may need {wanted}: raise it with ulimit -n or LimitNOFILE="
    )]
    OpenFiles { limit: u64, wanted: u64 },
}

/// All that stands in the way, in one error.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Refusal {
    pub problems: Vec<Problem>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this host does not let the broker run:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n- {problem}"))
    }
}

/// Looks and judges; what was looked at comes back for the log.
pub fn check(needs: &Needs) -> Result<(Host, Verdict), Refusal> {
    let host = Host::inspect(&needs.directories);
    let verdict = host.verdict(needs)?;
    Ok((host, verdict))
}

/// The driver for a tool that writes to no log directory.
pub fn best_driver() -> DriverKind {
    match try_ring() {
        Ok(missing) if missing.is_empty() => DriverKind::Uring,
        _ => DriverKind::Poll,
    }
}

impl Host {
    /// Tries what the broker will do: makes a ring, writes a block to each directory. Raises the limit of open files.
    pub fn inspect(directories: &[PathBuf]) -> Host {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        Host {
            release: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".into(), |release| release.trim().into()),
            io_uring_disabled: std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
                .ok()
                .and_then(|value| value.trim().parse().ok()),
            seccomp: field("Seccomp").is_some_and(|mode| mode != "0"),
            ring: try_ring(),
            locked_bytes_max: locked_bytes_max(field("CapEff")),
            open_files_max: raise_open_files(),
            directories: directories.iter().map(|path| Directory::inspect(path)).collect(),
        }
    }

    pub fn verdict(&self, needs: &Needs) -> Result<Verdict, Refusal> {
        let mut problems = Vec::new();
        let mut cautions = Vec::new();
        let ring = self.ring_problem();
        let needs_synced_writes = self.directories.iter().any(|dir| dir.synced_instead().is_some());
        let driver = needs.driver.unwrap_or(match &ring {
            None if !needs_synced_writes => DriverKind::Uring,
            _ => DriverKind::Poll,
        });
        match (driver, ring) {
            (DriverKind::Uring, ring) => problems.extend(ring),
            (DriverKind::Poll, Some(problem)) if needs.driver.is_none() => {
                cautions.push(Caution::NoRing(Box::new(problem)));
            }
            (DriverKind::Poll, _) => {}
        }
        for directory in &self.directories {
            match directory.synced_instead().filter(|_| driver == DriverKind::Poll) {
                Some(caution) => cautions.push(caution),
                None => problems.extend(directory.problem()),
            }
            if directory.in_memory {
                cautions.push(Caution::InMemory { directory: directory.path.clone() });
            }
        }
        if self.open_files_max < FILES_MIN {
            problems.push(Problem::OpenFiles { limit: self.open_files_max });
        }
        cautions.extend(self.limit_cautions(needs, driver));
        match problems.is_empty() {
            true => Ok(Verdict { driver, cautions }),
            false => Err(Refusal { problems }),
        }
    }

    fn ring_problem(&self) -> Option<Problem> {
        let errno = match &self.ring {
            Ok(missing) if missing.is_empty() => return None,
            Ok(missing) => {
                let missing = missing.join(", ");
                return Some(Problem::KernelTooOld { release: self.release.clone(), missing });
            }
            Err(errno) => *errno,
        };
        let too_old =
            |missing: &str| Problem::KernelTooOld { release: self.release.clone(), missing: missing.into() };
        Some(match (errno.0, self.io_uring_disabled) {
            (libc::EPERM, Some(value @ 1..)) => Problem::SwitchedOff { value },
            (libc::EPERM | libc::ENOSYS | libc::EACCES, _) if self.seccomp => Problem::Filtered { errno },
            (libc::ENOSYS, _) => too_old("io_uring"),
            (libc::EINVAL, _) => too_old("rings as the broker sets them up"),
            (libc::ENOMEM, _) => {
                Problem::LockedMemory { limit_bytes: self.locked_bytes_max.unwrap_or(u64::MAX) }
            }
            _ => Problem::Refused { errno },
        })
    }

    fn limit_cautions(&self, needs: &Needs, driver: DriverKind) -> Vec<Caution> {
        let mut cautions = Vec::new();
        let wanted_bytes = match driver {
            DriverKind::Uring => needs.registered_bytes,
            DriverKind::Poll => 0,
        };
        if let Some(limit_bytes) = self.locked_bytes_max.filter(|&limit| limit < wanted_bytes) {
            cautions.push(Caution::LockedMemory { limit_bytes, wanted_bytes });
        }
        let (limit, wanted) = (self.open_files_max, needs.open_files);
        if limit < wanted {
            cautions.push(Caution::OpenFiles { limit, wanted });
        }
        cautions
    }
}

impl Directory {
    fn inspect(path: &Path) -> Directory {
        let direct = try_block(path, libc::O_DIRECT);
        Directory {
            path: path.to_path_buf(),
            direct,
            synced: direct.or_else(|_| try_block(path, libc::O_DSYNC)),
            in_memory: rustix::fs::statfs(path)
                .is_ok_and(|system| MEMORY_FILE_SYSTEMS.contains(&(system.f_type as u32))),
        }
    }

    fn problem(&self) -> Option<Problem> {
        let errno = self.direct.err()?;
        let directory = self.path.clone();
        Some(match errno.0 {
            // What open says to O_DIRECT, or the write to a block that is not the device's.
            libc::EINVAL | libc::EOPNOTSUPP => Problem::DirectRefused { directory, errno },
            _ => Problem::NotWritable { directory, errno },
        })
    }

    /// Direct I/O is refused, and synced writes keep every promise in its place: not so in memory, where a `durable` record
    /// would be lost with the power though the file system says that it is synced.
    fn synced_instead(&self) -> Option<Caution> {
        match self.problem()? {
            Problem::DirectRefused { directory, errno } if !self.in_memory && self.synced.is_ok() => {
                Some(Caution::SyncedWrites { directory, errno })
            }
            _ => None,
        }
    }
}

/// Makes a driver like a shard's; what the kernel lacks for it.
fn try_ring() -> Result<Vec<&'static str>, Errno> {
    let driver = UringIo::new(UringOptions { receive_bytes: 512 << 10, ..UringOptions::default() });
    match driver {
        Ok(driver) => Ok(driver.missing()),
        Err(error) => Err(Errno(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

/// Writes a block to a file of its own, opened with `flags`, and removes that.
fn try_block(directory: &Path, flags: i32) -> Result<(), Errno> {
    let path =
        directory.join(format!(".preflight-{}-{:x}", std::process::id(), super::clock::monotonic_ns()));
    let result = write_block(&path, flags);
    let removed = std::fs::remove_file(&path);
    let failed = result.and(match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    failed.map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))
}

fn write_block(path: &Path, flags: i32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).custom_flags(flags);
    options.open(path)?.write_all(&AlignedBuf::unbudgeted(BLOCK_BYTES))
}

/// The soft limit, unless the process may lock what it likes (CAP_IPC_LOCK).
fn locked_bytes_max(effective_capabilities: Option<&str>) -> Option<u64> {
    const CAP_IPC_LOCK: u32 = 14;
    let capabilities = effective_capabilities.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    if capabilities >> CAP_IPC_LOCK & 1 == 1 {
        return None;
    }
    let limit = limit(libc::RLIMIT_MEMLOCK).rlim_cur;
    (limit != libc::RLIM_INFINITY).then_some(limit)
}

fn raise_open_files() -> u64 {
    let before = limit(libc::RLIMIT_NOFILE);
    let raised = libc::rlimit { rlim_cur: before.rlim_max, ..before };
    // SAFETY: needed as std has no such call. It reads one structure; refusal leaves the limit as it is.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) };
    limit(libc::RLIMIT_NOFILE).rlim_cur
}

fn limit(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: needed as std has no such call. It writes one structure; on failure the zeros stay.
    unsafe { libc::getrlimit(resource, &mut limit) };
    limit
}

#[cfg(test)]
mod tests;
