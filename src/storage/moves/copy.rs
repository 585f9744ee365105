//! The copy of a log's segments: each by pieces of its file, as far as flushes have written it; and when it is complete, its indexes
//! and its snapshot. Nothing of the copy is believed before the switch, so pieces are not synced one by one.
//!
//! A piece is copied as it is, but its batches are counted, so that it can be told how far the copy is behind.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Event, Move, MoveEnd, Next, Phase, WAIT_NS};
use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::{BLOCK_BYTES, Io, OpenMode};
use crate::record::{BATCH_OVERHEAD, BatchHeader};
use crate::storage::checkpoint::{PARTITION_METADATA_FILE, format_partition_metadata};
use crate::storage::jobs::{FileKey, Step, sync_dir};
use crate::storage::names::{FileKind, FileName};
use crate::storage::segment::{IndexEntries, Segment};
use crate::storage::store::Storage;

/// What is read and written at once, and what a low rate makes of it.
const PIECE_BYTES: u32 = 1 << 20;
const PIECE_BYTES_MIN: u32 = 64 << 10;
/// Appends are held when no more than this is missing.
const HOLD_BYTES: u64 = 8 << 20;
const HOLD_NS: u64 = 3_000_000_000;

/// What goes with a segment, in this order.
const SMALL_KINDS: [FileKind; 4] =
    [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TransactionIndex, FileKind::ProducerSnapshot];

/// A segment's copy.
#[derive(Debug)]
pub(super) struct Copied {
    /// Whole batches, where they can be told apart.
    bytes: u32,
    /// Where the next batch begins, and its offset.
    walk: u32,
    next_offset: i64,
    /// Which of the small files is next, and from where on.
    small: usize,
    small_bytes: u64,
    /// What it had when it was complete.
    complete: Option<(u32, IndexEntries)>,
}

/// What the operations under way copy.
#[derive(Debug)]
pub(super) struct Pending {
    base_offset: i64,
    kind: FileKind,
    start: u64,
    /// Of the source; a snapshot's end is not known before it is read.
    end: Option<u64>,
    data: Option<(Slice, u64)>,
}

impl Storage {
    /// The copy's directory, once compaction has left the log alone.
    pub(super) fn prepare(&mut self, active: &mut Move) -> Next {
        let Some(log) = self.logs.get_mut(active.log) else { return Next::Again };
        if self.cleaner.works_on(active.log) || log.swapping.is_some() {
            return Next::Wait(WAIT_NS);
        }
        let nothing = !log.segments.iter().any(|segment| segment.size > 0 || segment.on_disk);
        if log.log_end_offset == 0 && !log.has_dir && !log.flags.busy && nothing {
            // There is nothing to copy, and no directory: at most the segment that the first batch will begin.
            active.bare = true;
            log.flags.held = true;
            active.phase = Phase::Commit;
            self.events.push_back(Event::MoveReady { log: active.log, dir: active.to });
            return Next::Idle;
        }
        if !log.has_dir {
            let end = log.high_watermark;
            self.ask(active.log, end, -1);
            return Next::Wait(WAIT_NS);
        }
        let mut steps = VecDeque::from([Step::CreateDir { path: active.path.clone() }]);
        let metadata = format_partition_metadata(active.tp.topic_id);
        let mode = OpenMode { write: true, create: true, truncate: true, ..OpenMode::default() };
        steps.push_back(Step::Open { path: active.path.join(PARTITION_METADATA_FILE), mode });
        steps.push_back(Step::Write { offset: 0, data: Slice::copy_of(metadata.as_bytes()) });
        steps.push_back(Step::Sync { data_only: false });
        sync_dir(&mut steps, &active.path);
        sync_dir(&mut steps, &self.dirs[active.to].path);
        active.files.insert(PARTITION_METADATA_FILE.to_string());
        Next::Run { dir: active.to, log: None, steps, end: MoveEnd::Made, bytes: 0 }
    }

    pub(super) fn next_of_copy(&mut self, io: &mut impl Io, active: &mut Move) -> Next {
        if active.pending.is_some() {
            return write_pending(active);
        }
        let Some(log) = self.logs.get(active.log) else { return Next::Again };
        let first = log.segments.front().map_or(i64::MAX, |first| first.base_offset);
        if let Some(entry) = active.segments.first_entry().filter(|entry| *entry.key() < first) {
            // Retention was here.
            let (base_offset, copied) = entry.remove_entry();
            active.bytes -= u64::from(copied.bytes);
            return drop_copy(active, base_offset);
        }
        let holding = active.phase == Phase::Hold;
        let from = log.segments.partition_point(|segment| segment.base_offset < active.next);
        let mut in_order = true;
        for segment in log.segments.range(from..) {
            let base_offset = segment.base_offset;
            let copied = active.segments.entry(base_offset).or_insert_with(|| Copied::new(base_offset));
            if copied.bytes < segment.flushed {
                return self.read_piece(active, base_offset);
            }
            let at_rest = holding && segment.is_flushed() && !segment.has_pending_entries();
            let there = segment.on_disk && (segment.is_settled() || at_rest);
            if there && copied.complete != Some(mark(segment)) {
                if copied.complete.take().is_some() {
                    (copied.small, copied.small_bytes) = (0, 0);
                }
                return next_small(active, log, segment);
            }
            in_order &= segment.is_settled() && there;
            if in_order {
                active.next = base_offset + 1;
            }
        }
        self.end_of_copy(io, active)
    }

    /// All that is on disk is copied.
    fn end_of_copy(&mut self, io: &mut impl Io, active: &mut Move) -> Next {
        let now = io.now();
        let Some(log) = self.logs.get_mut(active.log) else { return Next::Again };
        if active.phase == Phase::Copy {
            if log.size_bytes().saturating_sub(active.bytes) > HOLD_BYTES {
                let end = log.high_watermark;
                self.ask(active.log, end, -1);
                return Next::Wait(WAIT_NS);
            }
            log.flags.held = true;
            active.hold_until_ns = now.saturating_add(HOLD_NS);
            active.phase = Phase::Hold;
            return Next::Again;
        }
        if now >= active.hold_until_ns {
            return self.hold_failed(active);
        }
        let end = log.log_end_offset;
        let at_rest = log.synced_offset >= end
            && log.high_watermark >= end
            && log.safe_start_offset == log.log_start_offset
            && !log.flags.busy
            && !log.flags.retiring
            && !log.segments.iter().any(Segment::has_pending_entries);
        if !at_rest {
            if log.high_watermark >= end {
                self.ask(active.log, end, end);
            }
            return Next::Wait(WAIT_NS);
        }
        active.phase = Phase::Seal;
        Next::Again
    }

    fn read_piece(&mut self, active: &mut Move, base_offset: i64) -> Next {
        let (Some(log), Some(copied)) = (self.logs.get(active.log), active.segments.get(&base_offset)) else {
            return Next::Again;
        };
        let Some(index) = log.segment_index(base_offset) else { return Next::Again };
        let flushed = log.segments[index].flushed;
        let path = Arc::clone(&log.path);
        let of_rate = (self.options.move_bytes_per_second / 10.0) as u32;
        let piece = of_rate.clamp(PIECE_BYTES_MIN, PIECE_BYTES) / BLOCK_BYTES as u32 * BLOCK_BYTES as u32;
        let start = copied.bytes - copied.bytes % BLOCK_BYTES as u32;
        let end = start.saturating_add(piece).min(flushed);
        let len = ((end - start) as usize).next_multiple_of(BLOCK_BYTES);
        let Some(buf) = self.allocate(len) else { return Next::Wait(WAIT_NS) };
        let key = FileKey { log: active.log, base_offset, kind: FileKind::Log };
        let steps = VecDeque::from([
            Step::Use { key, dir: path, create: false },
            Step::Read { offset: u64::from(start), len, buf: Some(buf) },
        ]);
        let (start, end) = (u64::from(start), Some(u64::from(end)));
        active.pending = Some(Pending { base_offset, kind: FileKind::Log, start, end, data: None });
        let (dir, log) = (active.from, Some(active.log));
        Next::Run { dir, log, steps, end: MoveEnd::Read, bytes: len }
    }
}

/// What of a segment a complete copy has.
fn mark(segment: &Segment) -> (u32, IndexEntries) {
    (segment.size, segment.flushed_entries)
}

/// The next of the small files of a segment whose log is copied; then its end.
fn next_small(active: &mut Move, log: &crate::storage::log::Log, segment: &Segment) -> Next {
    let base_offset = segment.base_offset;
    let Some(copied) = active.segments.get_mut(&base_offset) else { return Next::Again };
    while let Some(kind) = SMALL_KINDS.get(copied.small).copied() {
        let len = u64::from(segment.flushed_entries.bytes(kind));
        let snapshot = kind == FileKind::ProducerSnapshot;
        if !snapshot && copied.small_bytes >= len {
            (copied.small, copied.small_bytes) = (copied.small + 1, 0);
            continue;
        }
        let start = copied.small_bytes;
        let end = if snapshot { None } else { Some(len.min(start + u64::from(PIECE_BYTES_MIN))) };
        let bytes = end.map_or(PIECE_BYTES_MIN as usize, |end| (end - start) as usize);
        let steps = VecDeque::from([
            Step::Open { path: log.file_path(base_offset, kind), mode: OpenMode::default() },
            Step::Read { offset: start, len: bytes.next_multiple_of(BLOCK_BYTES), buf: None },
        ]);
        active.pending = Some(Pending { base_offset, kind, start, end, data: None });
        let end = if snapshot { MoveEnd::ReadSnapshot } else { MoveEnd::Read };
        return Next::Run { dir: active.from, log: Some(active.log), steps, end, bytes };
    }
    let mut steps = VecDeque::new();
    let mode = OpenMode { write: true, create: true, ..OpenMode::default() };
    // As Kafka's tools expect them, the first two are there even when they are empty.
    for kind in [FileKind::Log, FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TransactionIndex] {
        if kind == FileKind::TransactionIndex && segment.flushed_entries.bytes(kind) == 0 {
            continue;
        }
        let name = FileName::new(base_offset, kind).to_string();
        steps.push_back(Step::Open { path: active.path.join(&name), mode });
        steps.push_back(Step::Sync { data_only: false });
        active.files.insert(name);
    }
    copied.complete = Some(mark(segment));
    active.pending = None;
    Next::Run { dir: active.to, log: None, steps, end: MoveEnd::Arranged, bytes: 0 }
}

/// Writes what was read, which the rate has counted by then.
fn write_pending(active: &mut Move) -> Next {
    let Some(pending) = &active.pending else { return Next::Again };
    let Some((data, len)) = &pending.data else {
        active.pending = None;
        return Next::Again;
    };
    let name = FileName::new(pending.base_offset, pending.kind).to_string();
    let direct = pending.kind == FileKind::Log;
    let mode = OpenMode { write: true, create: true, truncate: pending.start == 0, direct, directory: false };
    let mut steps = VecDeque::from([Step::Open { path: active.path.join(&name), mode }]);
    if !data.is_empty() {
        steps.push_back(Step::Write { offset: pending.start, data: data.clone() });
    }
    let end = pending.start + len;
    if direct && !end.is_multiple_of(BLOCK_BYTES as u64) {
        steps.push_back(Step::Truncate { len: end });
    }
    if pending.kind == FileKind::ProducerSnapshot {
        steps.push_back(Step::Sync { data_only: false });
    }
    active.files.insert(name);
    Next::Run { dir: active.to, log: None, steps, end: MoveEnd::Written, bytes: 0 }
}

fn drop_copy(active: &mut Move, base_offset: i64) -> Next {
    let mut steps = VecDeque::new();
    for kind in FileKind::ALL {
        let name = FileName::new(base_offset, kind).to_string();
        if active.files.remove(&name) {
            steps.push_back(Step::Unlink { path: active.path.join(name) });
        }
    }
    Next::Run { dir: active.to, log: None, steps, end: MoveEnd::Arranged, bytes: 0 }
}

impl Copied {
    fn new(base_offset: i64) -> Copied {
        let (bytes, walk, small, small_bytes) = (0, 0, 0, 0);
        Copied { bytes, walk, next_offset: base_offset, small, small_bytes, complete: None }
    }

    /// Counts the batches of a piece. Up to where it holds whole ones.
    fn count(&mut self, start: u32, bytes: &[u8]) -> u32 {
        let end = start + bytes.len() as u32;
        while self.walk < end && (end - self.walk) as usize >= BATCH_OVERHEAD {
            let Ok(header) = BatchHeader::parse(&bytes[(self.walk - start) as usize..]) else {
                // What it is does not matter here: it is copied as it is.
                self.walk = u32::MAX;
                break;
            };
            self.next_offset = header.next_offset();
            self.walk = self.walk.saturating_add(header.size() as u32);
        }
        if self.walk >= end || self.walk <= self.bytes { end } else { self.walk }
    }
}

impl Move {
    /// Behind the last batch that is copied.
    pub(super) fn end_offset(&self) -> i64 {
        self.segments.last_key_value().map_or(0, |(_, copied)| copied.next_offset)
    }

    /// Takes what a read has brought.
    pub(super) fn take_read(&mut self, buf: Option<(AlignedBuf, usize)>) -> Result<(), String> {
        let (Some((mut buf, read)), Some(pending)) = (buf, &mut self.pending) else { return Ok(()) };
        let wanted = pending.end.map_or(read, |end| (end - pending.start) as usize);
        if read < wanted {
            let name = FileName::new(pending.base_offset, pending.kind);
            return Err(format!("{name} is shorter than its data"));
        }
        let whole = if pending.kind == FileKind::Log { wanted.next_multiple_of(BLOCK_BYTES) } else { wanted };
        buf[wanted..whole].fill(0);
        pending.data = Some((buf.freeze().slice(0, whole), wanted as u64));
        Ok(())
    }

    /// What was read is written.
    pub(super) fn written(&mut self) {
        let Some(Pending { base_offset, kind, start, end, data: Some((data, len)) }) = self.pending.take()
        else {
            return;
        };
        let Some(copied) = self.segments.get_mut(&base_offset) else { return };
        if kind == FileKind::Log {
            let before = copied.bytes;
            copied.bytes = copied.count(start as u32, &data[..len as usize]);
            self.bytes += u64::from(copied.bytes.saturating_sub(before));
            // Its indexes have grown with it.
            (copied.small, copied.small_bytes) = (0, 0);
            return;
        }
        copied.small_bytes = start + len;
        let last = end.is_none() && len < u64::from(PIECE_BYTES_MIN);
        if last {
            (copied.small, copied.small_bytes) = (copied.small + 1, 0);
        }
    }

    /// There is no such file.
    pub(super) fn skip_file(&mut self) {
        if let Some(pending) = self.pending.take()
            && let Some(copied) = self.segments.get_mut(&pending.base_offset)
        {
            (copied.small, copied.small_bytes) = (copied.small + 1, 0);
        }
    }
}
