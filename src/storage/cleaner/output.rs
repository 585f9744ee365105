//! The segment that takes the place of a group of segments, while it is written.
//!
//! It is written in whole blocks with direct I/O, as segments are; the part of a block at its end waits for the next batch. Its
//! indexes are kept in memory and written when it is complete.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::{BLOCK_BYTES, OpenMode};
use crate::record::BatchHeader;
use crate::storage::jobs::Step;
use crate::storage::log::Log;
use crate::storage::names::{FileKind, FileName, FileState};
use crate::storage::segment::{NewBatch, OFFSET_ENTRY_BYTES, Segment, TIME_ENTRY_BYTES};

/// Segments that become one, at most: the swap renames the files of all of them.
const GROUP_MAX: usize = 64;
/// The largest segment there may be.
const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// The kinds of files that are written anew; an index of aborted transactions only where there are any.
pub(super) const KINDS: [FileKind; 4] =
    [FileKind::Log, FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TransactionIndex];

#[derive(Debug)]
pub(super) struct Output {
    /// The base offsets of the group's first and last segment; the first is that of the new one.
    pub first: i64,
    pub last: i64,
    pub segment: Segment,
    /// Filtered and not written yet, and where in the file it belongs.
    pub pending: Vec<u8>,
    pub written: u64,
    created: bool,
    /// All files are complete and on stable media.
    pub complete: bool,
    /// Nothing was changed so far, and the group is one segment.
    pub unchanged: bool,
}

impl Output {
    /// For the segments from `index` on that fit into one, all below `end`.
    pub fn new(log: &Log, index: usize, end: i64) -> Output {
        let first = &log.segments[index];
        let mut last = index;
        let (mut bytes, mut offsets, mut times) = (0u64, 0u64, 0u64);
        for (at, segment) in log.segments.iter().enumerate().skip(index).take(GROUP_MAX) {
            bytes += u64::from(segment.size);
            offsets += u64::from(segment.entries.offsets);
            times += u64::from(segment.entries.times);
            let index_bytes =
                (offsets * u64::from(OFFSET_ENTRY_BYTES)).max(times * u64::from(TIME_ENTRY_BYTES));
            let fits = bytes <= u64::from(log.config.segment_bytes)
                && index_bytes <= u64::from(log.config.segment_index_bytes)
                && log.segment_end_offset(at) - first.base_offset <= i64::from(i32::MAX);
            if at > index && !(fits && segment.base_offset < end) {
                break;
            }
            last = at;
        }
        let created_ms = log.segments[last].created_ms;
        Output {
            first: first.base_offset,
            last: log.segments[last].base_offset,
            segment: Segment::new(first.base_offset, created_ms, 0),
            pending: Vec::new(),
            written: 0,
            created: false,
            complete: false,
            unchanged: last == index,
        }
    }

    /// Counts a batch in that was added to `pending`. False when the segment becomes too large.
    pub fn add(&mut self, header: &BatchHeader, index_interval_bytes: u32) -> bool {
        if u64::from(self.segment.size) + header.size() as u64 > SEGMENT_BYTES_MAX {
            return false;
        }
        let batch = NewBatch {
            size: header.size() as u32,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp,
            wall_ms: self.segment.created_ms,
        };
        self.segment.add(&batch, index_interval_bytes);
        true
    }

    /// The whole blocks that wait to be written.
    pub fn ready_bytes(&self) -> usize {
        self.pending.len() / BLOCK_BYTES * BLOCK_BYTES
    }

    /// Steps that write what `buf` has room for: whole blocks.
    pub fn push_write(&mut self, steps: &mut VecDeque<Step>, path: &Path, mut buf: AlignedBuf) {
        let len = buf.len().min(self.ready_bytes());
        buf[..len].copy_from_slice(&self.pending[..len]);
        self.pending.drain(..len);
        steps.push_back(self.open(path));
        steps.push_back(Step::Write { offset: self.written, data: buf.freeze().slice(0, len) });
        self.written += len as u64;
    }

    /// Steps that write the rest, and the indexes, and put all on stable media.
    pub fn push_completion(&mut self, steps: &mut VecDeque<Step>, path: &Path) {
        self.segment.close();
        steps.push_back(self.open(path));
        if !self.pending.is_empty() {
            let len = self.pending.len();
            let mut buf = AlignedBuf::unbudgeted(len.next_multiple_of(BLOCK_BYTES));
            buf[..len].copy_from_slice(&self.pending);
            buf[len..].fill(0);
            let whole = buf.len();
            steps.push_back(Step::Write { offset: self.written, data: buf.freeze().slice(0, whole) });
            self.written += len as u64;
            self.pending.clear();
            steps.push_back(Step::Truncate { len: self.written });
        }
        steps.push_back(Step::Sync { data_only: false });
        let indexes = std::mem::take(&mut self.segment.pending);
        let bytes = [indexes.offsets, indexes.times, indexes.aborted];
        for (kind, bytes) in KINDS.into_iter().skip(1).zip(bytes) {
            if kind == FileKind::TransactionIndex && bytes.is_empty() {
                continue;
            }
            let mode = OpenMode { write: true, create: true, truncate: true, ..OpenMode::default() };
            steps.push_back(Step::Open { path: self.path(path, kind, FileState::Cleaned), mode });
            if !bytes.is_empty() {
                steps.push_back(Step::Write { offset: 0, data: Slice::copy_of(&bytes) });
            }
            steps.push_back(Step::Sync { data_only: false });
        }
    }

    fn open(&mut self, path: &Path) -> Step {
        let truncate = !std::mem::replace(&mut self.created, true);
        let mode = OpenMode { write: true, create: true, truncate, direct: true, directory: false };
        Step::Open { path: self.path(path, FileKind::Log, FileState::Cleaned), mode }
    }

    /// Whether there may be files of it.
    pub fn has_files(&self) -> bool {
        self.created
    }

    /// Where a file of the new segment lies in the log's directory.
    pub fn path(&self, dir: &Path, kind: FileKind, state: FileState) -> PathBuf {
        file_path(dir, self.first, kind, state)
    }

    /// The new segment, complete and in its place.
    pub fn into_segment(mut self) -> Segment {
        let segment = &mut self.segment;
        segment.flushed = segment.size;
        segment.synced = segment.size;
        segment.entries_written(segment.entries);
        segment.on_disk = true;
        self.segment
    }
}

pub(super) fn file_path(dir: &Path, base_offset: i64, kind: FileKind, state: FileState) -> PathBuf {
    dir.join(FileName::new(base_offset, kind).with_state(state).to_string())
}
