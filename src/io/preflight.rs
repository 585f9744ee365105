//! Before the first ring: does this host let the broker run, and if not, what is missing and how is it put right? Asked by
//! `main` at start, which prints the answer and exits with [`EXIT_CODE`].
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
use super::uring::{UringIo, UringOptions};
use super::{BLOCK_BYTES, Errno};

/// Of a start that the host refuses.
pub const EXIT_CODE: u8 = 3;

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
    /// Each directory, and whether a block was written to it directly.
    pub directories: Vec<(PathBuf, Result<(), Errno>)>,
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

/// Looks and judges; what was looked at comes back for the log, with what to be careful of.
pub fn check(needs: &Needs) -> Result<(Host, Vec<Caution>), Refusal> {
    let host = Host::inspect(&needs.directories);
    let cautions = host.verdict(needs)?;
    Ok((host, cautions))
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
            directories: directories.iter().map(|dir| (dir.clone(), try_direct(dir))).collect(),
        }
    }

    pub fn verdict(&self, needs: &Needs) -> Result<Vec<Caution>, Refusal> {
        let mut problems = Vec::new();
        problems.extend(self.ring_problem());
        for (directory, result) in &self.directories {
            problems.extend(result.as_ref().err().map(|&errno| directory_problem(directory, errno)));
        }
        if self.open_files_max < FILES_MIN {
            problems.push(Problem::OpenFiles { limit: self.open_files_max });
        }
        match problems.is_empty() {
            true => Ok(self.cautions(needs)),
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

    fn cautions(&self, needs: &Needs) -> Vec<Caution> {
        let mut cautions = Vec::new();
        let wanted_bytes = needs.registered_bytes;
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

fn directory_problem(directory: &Path, errno: Errno) -> Problem {
    let directory = directory.to_path_buf();
    match errno.0 {
        // What open says to O_DIRECT, or the write to a block that is not the device's.
        libc::EINVAL | libc::EOPNOTSUPP => Problem::DirectRefused { directory, errno },
        _ => Problem::NotWritable { directory, errno },
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

/// Writes a block directly to a file of its own and removes that.
fn try_direct(directory: &Path) -> Result<(), Errno> {
    let path =
        directory.join(format!(".preflight-{}-{:x}", std::process::id(), super::clock::monotonic_ns()));
    let result = write_block(&path);
    let removed = std::fs::remove_file(&path);
    let failed = result.and(match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    failed.map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))
}

fn write_block(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).custom_flags(libc::O_DIRECT);
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
