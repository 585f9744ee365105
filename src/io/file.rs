//! File calls that are not ring ops: directory listing and locks (start-up only), and the fall-back of truncation.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use super::{DirEntry, DiskSpace, OpenMode};

impl OpenMode {
    pub(super) fn flags(self) -> i32 {
        let mut flags = libc::O_CLOEXEC;
        flags |= if self.write && !self.directory { libc::O_RDWR } else { libc::O_RDONLY };
        for (on, flag) in [
            (self.create, libc::O_CREAT),
            (self.truncate, libc::O_TRUNC),
            (self.direct, libc::O_DIRECT),
            (self.directory, libc::O_DIRECTORY),
        ] {
            if on {
                flags |= flag;
            }
        }
        flags
    }
}

/// The entries of a directory, sorted by name. Names that are not UTF-8 are left out: none of ours is.
pub fn list_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Follows symbolic links: an operator may have moved a partition and linked it.
        let metadata = match std::fs::metadata(entry.path()) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let is_dir = metadata.is_dir();
        entries.push(DirEntry { name, is_dir, len: if is_dir { 0 } else { metadata.len() } });
    }
    entries.sort_unstable();
    Ok(entries)
}

/// What is free, and what there is, under `path`.
pub fn disk_space(path: &Path) -> Option<DiskSpace> {
    let space = rustix::fs::statvfs(path).ok()?;
    Some(DiskSpace {
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        usable_bytes: space.f_bavail.saturating_mul(space.f_frsize),
    })
}

/// Locks `path` exclusively, created where missing; `None` when another holds it. An open-file-description lock: it
/// conflicts with the lock of a running Apache Kafka (a POSIX one) and with another driver of this process, and ends with
/// the file.
pub fn lock_file(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    // SAFETY: `flock` is a plain structure of integers, for which zero is valid (the pid must be zero here).
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    // SAFETY: needed for this kind of lock, which std does not offer. The call only reads `lock`; `file` is open.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    if result == 0 {
        return Ok(Some(file));
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(None),
        error => Err(error),
    }
}

/// Sets a file's length, blocking.
pub(super) fn truncate(fd: RawFd, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: needed where the ring has no such op. No memory is passed; the caller owns `fd`.
    match unsafe { libc::ftruncate(fd, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_and_ends_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let first = lock_file(&path).unwrap();
        assert!(first.is_some());
        assert!(lock_file(&path).unwrap().is_none());
        drop(first);
        assert!(lock_file(&path).unwrap().is_some());
    }

    #[test]
    fn a_directory_is_listed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b"), [0; 10]).unwrap();
        std::fs::create_dir(dir.path().join("c")).unwrap();
        std::fs::write(dir.path().join("a"), []).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("d")).unwrap();
        let entry = |name: &str, is_dir, len| DirEntry { name: name.into(), is_dir, len };
        assert_eq!(
            list_dir(dir.path()).unwrap(),
            [entry("a", false, 0), entry("b", false, 10), entry("c", true, 0)]
        );
        assert_eq!(list_dir(&dir.path().join("e")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
