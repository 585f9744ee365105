//! Blocking file work, for start-up alone.

use std::ops::Range;
use std::path::Path;

use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::{BLOCK_BYTES, Errno, Handle, Io, Op, OpenMode, Payload};

/// One read of a file that is taken whole.
const READ_BYTES_MAX: usize = 1 << 20;

const READ_MODE: OpenMode =
    OpenMode { write: false, create: false, truncate: false, direct: false, directory: false };

pub(super) fn open_blocking(
    io: &mut impl Io,
    path: impl AsRef<Path>,
    mode: OpenMode,
) -> Result<Handle, Errno> {
    let completion = io.block_on(Op::Open { path: path.as_ref().to_owned(), mode });
    completion.result?;
    match completion.payload {
        Payload::Opened { file } => Ok(file),
        _ => Err(Errno::IO),
    }
}

pub(super) fn close_blocking(io: &mut impl Io, handle: Handle) {
    // What a close can still complain of was synced before.
    let _ = io.block_on(Op::Close { handle });
}

pub(super) fn sync_blocking(io: &mut impl Io, file: Handle) -> Result<(), Errno> {
    io.block_on(Op::Sync { file, data_only: false }).result.map(|_| ())
}

/// Puts a file on stable media.
pub(super) fn sync_file(io: &mut impl Io, path: &Path) -> Result<(), Errno> {
    let file = open_blocking(io, path, OpenMode { write: true, ..OpenMode::default() })?;
    let result = sync_blocking(io, file);
    close_blocking(io, file);
    result
}

/// Writes a part of a file anew, as it is read, and syncs the file. A sync alone says nothing where an earlier one, of another
/// process perhaps, has failed: the kernel calls its pages clean then, and they are on no media.
pub(super) fn rewrite_blocking(io: &mut impl Io, path: &Path, part: Range<u64>) -> Result<(), Errno> {
    let file = open_blocking(io, path, OpenMode { write: true, ..OpenMode::default() })?;
    let mut result = Ok(());
    let mut offset = part.start;
    while offset < part.end && result.is_ok() {
        let len = (part.end - offset).min(READ_BYTES_MAX as u64) as usize;
        result = read_blocking(io, file, offset, len).and_then(|(buf, read)| {
            let data = Slice::copy_of(&buf[..read]);
            offset += read as u64;
            let written = io.block_on(Op::Write { file, offset: offset - read as u64, data, sync: false });
            if read == 0 { Err(Errno::IO) } else { written.result.map(|_| ()) }
        });
    }
    let result = result.and_then(|()| sync_blocking(io, file));
    close_blocking(io, file);
    result
}

pub(super) fn sync_dir_blocking(io: &mut impl Io, path: &Path) -> Result<(), Errno> {
    let handle = open_blocking(io, path, OpenMode { directory: true, ..OpenMode::default() })?;
    let result = sync_blocking(io, handle);
    close_blocking(io, handle);
    result
}

/// Up to `len` bytes of an open file from `offset` on; the buffer and how many came.
pub(super) fn read_blocking(
    io: &mut impl Io,
    file: Handle,
    offset: u64,
    len: usize,
) -> Result<(AlignedBuf, usize), Errno> {
    let buf = AlignedBuf::unbudgeted(len);
    let completion = io.block_on(Op::Read { file, offset, buf, len });
    let read = completion.result?;
    match completion.payload {
        Payload::Buffer(buf) => Ok((buf, read)),
        _ => Err(Errno::IO),
    }
}

/// A small file, whole; `None` when it is not there.
pub(super) fn read_file(io: &mut impl Io, path: &Path, max_bytes: usize) -> Result<Option<Vec<u8>>, Errno> {
    let file = match open_blocking(io, path, READ_MODE) {
        Ok(file) => file,
        Err(Errno::NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    // Most files are far smaller than a block, and fresh memory costs more than a second read.
    let mut wanted = BLOCK_BYTES;
    let result = loop {
        match read_blocking(io, file, bytes.len() as u64, wanted) {
            Ok((buf, len)) => {
                bytes.extend_from_slice(&buf[..len]);
                // A read is short only at the end.
                if len < wanted {
                    break Ok(Some(bytes));
                }
            }
            Err(error) => break Err(error),
        }
        wanted = (4 * wanted).min(READ_BYTES_MAX);
        if bytes.len() > max_bytes {
            break Err(Errno(libc::EFBIG));
        }
    };
    close_blocking(io, file);
    result
}

/// Writes a file of exactly `bytes` and syncs it.
pub(super) fn write_file(io: &mut impl Io, path: &Path, bytes: &[u8]) -> Result<(), Errno> {
    let mode = OpenMode { write: true, create: true, truncate: true, ..OpenMode::default() };
    let file = open_blocking(io, path, mode)?;
    let mut result = Ok(0);
    if !bytes.is_empty() {
        result = io.block_on(Op::Write { file, offset: 0, data: Slice::copy_of(bytes), sync: false }).result;
    }
    let synced = result.and_then(|_| sync_blocking(io, file).map(|()| 0));
    close_blocking(io, file);
    synced.map(|_| ())
}

/// As [`write_file`], so that a crash leaves the old file or the new one. It stays the new one once its directory has been synced.
pub(super) fn exchange_file_blocking(io: &mut impl Io, path: &Path, bytes: &[u8]) -> Result<(), Errno> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    write_file(io, temporary.as_ref(), bytes)?;
    io.block_on(Op::Rename { from: temporary.into(), to: path.to_owned() }).result.map(|_| ())
}

/// As [`exchange_file_blocking`], and it stays the new one.
pub(super) fn replace_file_blocking(io: &mut impl Io, path: &Path, bytes: &[u8]) -> Result<(), Errno> {
    exchange_file_blocking(io, path, bytes)?;
    match path.parent() {
        Some(parent) => sync_dir_blocking(io, parent),
        None => Ok(()),
    }
}

/// Removes a file; no error when it is not there.
pub(super) fn remove_blocking(io: &mut impl Io, path: &Path) -> Result<(), Errno> {
    match io.block_on(Op::Unlink { path: path.to_owned() }).result {
        Ok(_) | Err(Errno::NOT_FOUND) => Ok(()),
        Err(error) => Err(error),
    }
}
