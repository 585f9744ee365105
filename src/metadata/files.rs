//! Whole files through [`Io`], blocking: for start-up alone.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::{Completion, DirEntry, Errno, Handle, Io, Op, OpenMode, Payload};

/// An operation on a file that failed.
#[derive(Debug)]
pub struct FileError {
    pub path: PathBuf,
    pub what: &'static str,
    pub error: io::Error,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.what, self.path.display(), self.error)
    }
}

impl std::error::Error for FileError {}

fn failed(what: &'static str, path: &Path) -> impl Fn(Errno) -> FileError {
    let path = path.to_owned();
    move |errno| FileError { path: path.clone(), what, error: io::Error::from_raw_os_error(errno.0) }
}

/// The entries of a directory; none when it does not exist.
pub fn list(io: &mut impl Io, path: &Path) -> Result<Vec<DirEntry>, FileError> {
    match io.list_dir(path) {
        Ok(entries) => Ok(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(FileError { path: path.to_owned(), what: "list", error }),
    }
}

/// The contents of a file; `None` when it does not exist.
pub fn read(io: &mut impl Io, path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    const CHUNK_BYTES: usize = 1 << 20;
    let file = match open(io, path, OpenMode::default()) {
        Ok(file) => file,
        Err(Errno::NOT_FOUND) => return Ok(None),
        Err(errno) => return Err(failed("open", path)(errno)),
    };
    let mut bytes = Vec::new();
    let mut buf = AlignedBuf::unbudgeted(CHUNK_BYTES);
    let result = loop {
        let offset = bytes.len() as u64;
        let completion = io.block_on(Op::Read { file, offset, buf, len: CHUNK_BYTES });
        let Payload::Buffer(back) = completion.payload else { unreachable!("a read brings its buffer back") };
        match completion.result {
            Ok(0) => break Ok(()),
            Ok(count) => bytes.extend_from_slice(&back[..count]),
            Err(errno) => break Err(failed("read", path)(errno)),
        }
        buf = back;
    };
    close(io, file);
    result.map(|()| Some(bytes))
}

/// Makes `path` hold `bytes`, on stable media, whole or not at all: by way of `<path>.tmp`.
pub fn replace(io: &mut impl Io, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = temporary(path);
    create(io, &temporary, bytes)?;
    run(io, Op::Rename { from: temporary, to: path.to_owned() }).map_err(failed("rename", path))?;
    sync_parent(io, path)
}

/// Writes a file anew, on stable media but for its name.
pub fn create(io: &mut impl Io, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mode = OpenMode { write: true, create: true, truncate: true, ..OpenMode::default() };
    let file = open(io, path, mode).map_err(failed("create", path))?;
    let write = Op::Write { file, offset: 0, data: Slice::copy_of(bytes), sync: false };
    let written = run(io, write).and_then(|()| run(io, Op::Sync { file, data_only: false }));
    close(io, file);
    written.map_err(failed("write", path))
}

/// Where a file is written before it takes its name.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// A directory and those above it, where they are missing.
pub fn create_dirs(io: &mut impl Io, path: &Path) -> Result<(), FileError> {
    let missing = |errno| matches!(errno, Errno::NOT_FOUND);
    match run(io, Op::CreateDir { path: path.to_owned() }) {
        Ok(()) => sync_parent(io, path),
        Err(Errno::EXISTS) => Ok(()),
        Err(errno) if missing(errno) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.ok_or_else(|| failed("create", path)(errno))?;
            create_dirs(io, parent)?;
            run(io, Op::CreateDir { path: path.to_owned() }).map_err(failed("create", path))?;
            sync_parent(io, path)
        }
        Err(errno) => Err(failed("create", path)(errno)),
    }
}

/// Takes a file away; it may be missing.
pub fn remove(io: &mut impl Io, path: &Path) -> Result<(), FileError> {
    match run(io, Op::Unlink { path: path.to_owned() }) {
        Ok(()) | Err(Errno::NOT_FOUND) => Ok(()),
        Err(errno) => Err(failed("remove", path)(errno)),
    }
}

/// Makes the names in the directory of `path` durable.
pub fn sync_parent(io: &mut impl Io, path: &Path) -> Result<(), FileError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = OpenMode { directory: true, ..OpenMode::default() };
    let directory = open(io, parent, mode).map_err(failed("open", parent))?;
    let synced = run(io, Op::Sync { file: directory, data_only: false });
    close(io, directory);
    synced.map_err(failed("sync", parent))
}

/// Opens a file for the ops of the engine.
pub fn open_for_append(io: &mut impl Io, path: &Path) -> Result<Handle, FileError> {
    let mode = OpenMode { write: true, ..OpenMode::default() };
    open(io, path, mode).map_err(failed("open", path))
}

fn open(io: &mut impl Io, path: &Path, mode: OpenMode) -> Result<Handle, Errno> {
    match io.block_on(Op::Open { path: path.to_owned(), mode }) {
        Completion { result: Err(errno), .. } => Err(errno),
        Completion { payload: Payload::Opened { file }, .. } => Ok(file),
        other => unreachable!("an open brings a file: {other:?}"),
    }
}

fn close(io: &mut impl Io, handle: Handle) {
    // Everything that matters was synced, and a failed close leaves nothing to do.
    let _ = io.block_on(Op::Close { handle });
}

fn run(io: &mut impl Io, op: Op) -> Result<(), Errno> {
    io.block_on(op).result.map(|_| ())
}
