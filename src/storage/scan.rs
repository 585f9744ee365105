//! Walks over the batches of a segment file at start-up, blocking.

use std::ops::Not;
use std::path::{Path, PathBuf};

use super::start::{close_blocking, open_blocking, read_blocking};
use super::types::StorageError;
use crate::io::buffer::AlignedBuf;
use crate::io::{Errno, Handle, Io, OpenMode};
use crate::record::{BATCH_OVERHEAD, BatchHeader, RecordBatch};

/// What is read at once: less where large batches are only hopped over.
const WINDOW_BYTES: usize = 1 << 20;
const HEADERS_WINDOW_BYTES: usize = 64 << 10;

pub(super) fn io_error(path: &Path, error: Errno) -> StorageError {
    StorageError::Io { path: path.to_owned(), error: std::io::Error::from_raw_os_error(error.0) }
}

/// How much of a batch a walk looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Its header; control batches come whole.
    Headers,
    /// All of it, against its checksum.
    Checksums,
}

/// Where a walk ended: behind the last good batch, and what was wrong with the next where there was one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScanEnd {
    pub position: u64,
    pub next_offset: i64,
    pub damage: Option<String>,
}

/// What is walked over.
#[derive(Clone, Debug)]
pub(super) struct ScanRange {
    pub path: PathBuf,
    pub position: u64,
    pub len: u64,
    /// No batch begins below this.
    pub next_offset: i64,
    /// No batch reaches this: where the next segment begins.
    pub end_offset: i64,
    /// From here on offsets have no gaps; compaction may have made some before.
    pub dense_from: i64,
    /// Where a clean stop left the end of the log, if known: no gap leads beyond it.
    pub known_end: Option<i64>,
    pub depth: Depth,
}

/// Calls `visit` with the position, the header and the bytes at hand of each batch, until the end or the first that is
/// not right.
pub(super) fn scan(
    io: &mut impl Io,
    range: &ScanRange,
    mut visit: impl FnMut(u64, &BatchHeader, &[u8]),
) -> Result<ScanEnd, StorageError> {
    let mut end = ScanEnd { position: range.position, next_offset: range.next_offset, damage: None };
    if range.position >= range.len {
        return Ok(end);
    }
    let file =
        open_blocking(io, &range.path, OpenMode::default()).map_err(|error| io_error(&range.path, error))?;
    let mut window = Window::new(file, range);
    let result = loop {
        if end.position >= range.len {
            break Ok(());
        }
        match step(io, range, &end, &mut window) {
            Ok(Ok((header, bytes))) => {
                visit(end.position, &header, bytes);
                end.position += header.size() as u64;
                end.next_offset = header.next_offset();
            }
            Ok(Err(damage)) => {
                end.damage = Some(damage);
                break Ok(());
            }
            Err(error) => break Err(io_error(&range.path, error)),
        }
    };
    close_blocking(io, file);
    result.map(|()| end)
}

struct Window {
    file: Handle,
    start: u64,
    buf: AlignedBuf,
    len: usize,
    read_bytes: usize,
    /// The end of what is scanned.
    end: u64,
}

impl Window {
    fn new(file: Handle, range: &ScanRange) -> Window {
        let read_bytes = if range.depth == Depth::Headers { HEADERS_WINDOW_BYTES } else { WINDOW_BYTES };
        Window { file, start: 0, buf: AlignedBuf::unbudgeted(1), len: 0, read_bytes, end: range.len }
    }

    /// The bytes from `position` on, at least `need` of them unless the file ends before.
    fn get(&mut self, io: &mut impl Io, position: u64, need: usize) -> Result<&[u8], Errno> {
        let held = position >= self.start && position + need as u64 <= self.start + self.len as u64;
        if !held {
            let left = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX);
            let wanted = need.max(self.read_bytes.min(left));
            let (buf, len) = read_blocking(io, self.file, position, wanted)?;
            self.start = position;
            self.buf = buf;
            self.len = len;
        }
        let at = (position - self.start) as usize;
        Ok(&self.buf[at..self.len])
    }
}

type Batch<'a> = Result<(BatchHeader, &'a [u8]), String>;

fn step<'w>(
    io: &mut impl Io,
    range: &ScanRange,
    end: &ScanEnd,
    window: &'w mut Window,
) -> Result<Batch<'w>, Errno> {
    let bytes = window.get(io, end.position, BATCH_OVERHEAD)?;
    let header = match BatchHeader::parse(bytes) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let whole = range.depth == Depth::Checksums || header.is_control();
    let left = range.len - end.position;
    if header.size() as u64 > left {
        return Ok(Err(format!("a batch of {} bytes where {left} are left", header.size())));
    }
    let gap = header.base_offset > end.next_offset && header.base_offset > range.dense_from;
    let in_place = header.base_offset >= end.next_offset
        && !gap
        && header.last_offset_delta >= 0
        && header.next_offset() <= range.end_offset;
    let leap = header.base_offset > end.next_offset && !lands(io, range, end, &header, window)?;
    if !in_place || leap {
        return Ok(Err(format!("offset {} where {} is next", header.base_offset, end.next_offset)));
    }
    let need = if whole { header.size() } else { BATCH_OVERHEAD };
    let bytes = window.get(io, end.position, need)?;
    if bytes.len() < need {
        return Ok(Err("the file ends inside a batch".to_string()));
    }
    if range.depth == Depth::Checksums {
        let checked = RecordBatch::parse(bytes).and_then(|batch| batch.check_crc());
        if let Err(error) = checked {
            return Ok(Err(error.to_string()));
        }
    }
    Ok(Ok((header, bytes)))
}

/// Whether a batch that leaves a gap may be where it says. Nothing sums up its base offset, but what follows must agree.
fn lands(
    io: &mut impl Io,
    range: &ScanRange,
    end: &ScanEnd,
    header: &BatchHeader,
    window: &mut Window,
) -> Result<bool, Errno> {
    if range.known_end.is_some_and(|known| header.next_offset() > known) {
        return Ok(false);
    }
    let behind = end.position + header.size() as u64;
    if behind >= range.len {
        return Ok(true);
    }
    let next = BatchHeader::parse(window.get(io, behind, BATCH_OVERHEAD)?);
    Ok(next.is_ok_and(|next| next.base_offset < header.next_offset()).not())
}
