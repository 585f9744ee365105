//! From the tail to the segments: flushes, syncs, and the reuse of journal files that follows.
//!
//! A flush takes what the journal has completed of one log and one segment, up to about a megabyte, copies it behind
//! what the segment's last block already holds, and writes it with direct I/O; then the file is cut to its exact length
//! and the index entries follow. The image stays as read cache. A sync puts a log's files, and on a new log their names,
//! on stable media, without the padding that large batches leave behind ([`super::large`]). Journal files are reused when
//! all their logs have been synced behind what they hold.
//!
//! Who asks: a log with a megabyte of tail; the flush timer; memory; the journal's size; the stop. A flush costs about the same
//! however little it writes, so with many small tails the timer's are spread out, and none is made for its own sake.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::cache::{PieceKey, Source};
use super::checkpoint::{PARTITION_METADATA_FILE, format_partition_metadata};
use super::jobs::{FileKey, JobError, Step, exchange_file, sync_dir};
use super::leader_epoch::LEADER_EPOCH_FILE;
use super::log::Log;
use super::names::{FileKind, FileName};
use super::segment::{ABORTED_ENTRY_BYTES, IndexEntries, OFFSET_ENTRY_BYTES, Segment, TIME_ENTRY_BYTES};
use super::stop::StopPhase;
use super::store::{End, Storage};
use super::types::{Event, LogId};
use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::{BLOCK_BYTES, Errno, Io, Op};

/// A log with this much tail is flushed; a flush writes about as much, and no more unless one batch is larger: images of one
/// size keep the memory in long runs.
pub(super) const FLUSH_BYTES: usize = 1 << 20;
/// Flushes and syncs under way at once.
const WORK_MAX: usize = 16;
/// The logs begin to be flushed when their tails pin this part of the memory they may.
const PINNED_FLUSH_PERCENT: usize = 60;
/// The journal's files begin to be freed when they hold this part of what they may.
const JOURNAL_RECLAIM_PERCENT: u64 = 50;

/// After so much of large batches has been synced the recovery points are written, so that recovery need not check it again.
const CHECKPOINT_BYTES: u64 = 256 << 20;

/// The timer's flushes begin at half of their interval and are spread over the other half: in so many steps, not closer than this.
const FLUSH_STEPS: u64 = 128;
const FLUSH_STEP_NS_MIN: u64 = 100_000_000;

/// The indexes of a segment, in the order of their pending entries.
const INDEX_KINDS: [FileKind; 3] = [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TransactionIndex];

/// What a flush has written.
#[derive(Debug)]
pub(super) struct FlushEnd {
    pub(super) log: LogId,
    pub(super) segment: i64,
    pub(super) flushed: u32,
    pub(super) next_offset: i64,
    pub(super) entries: IndexEntries,
    pub(super) image_start: u32,
    pub(super) image: Slice,
    /// The part of the segment that comes from the tail, not from what the file held before.
    pub(super) sound: std::ops::Range<u32>,
    /// Of an image of large batches: its memory.
    pub(super) large_bytes: Option<usize>,
}

/// What a sync has made safe.
#[derive(Debug)]
pub(super) struct SyncEnd {
    log: LogId,
    offset: i64,
    segments: Vec<SyncedSegment>,
}

#[derive(Debug)]
struct SyncedSegment {
    base_offset: i64,
    size: u32,
    entries: IndexEntries,
}

/// Journal files on their way to be reused.
#[derive(Debug)]
pub(super) struct Reclaim {
    last_file: u64,
    /// The logs and the offsets they must be synced to; from the end on, those that are go.
    logs: Vec<(LogId, i64)>,
    /// So many of them are flushed up to there. The first sync waits for the last flush: a file system puts the metadata of all
    /// files on stable media at once, so that the syncs after the first find little left to do.
    flushed: usize,
    syncing: bool,
    /// They are, and the checkpoints that replace what the files say are being written.
    checkpointing: bool,
}

impl Storage {
    /// Asks for the flush of up to `count` logs, those with the oldest tails first.
    fn flush_dirty(&mut self, count: usize) {
        for _ in 0..count.min(self.dirty.len()) {
            let Some((_, id)) = self.dirty.pop_front() else { break };
            if let Some(log) = self.logs.get_mut(id) {
                log.flags.dirty = false;
                let end = log.high_watermark;
                let sync_to = if log.has_unsynced_large() { log.flushed_offset } else { -1 };
                self.ask(id, end, sync_to);
            }
        }
    }

    /// The flush timer: asks for a share of the flushes that are due, so many that the oldest tail is flushed in time.
    pub(super) fn flush_due(&mut self, now: u64) {
        let half_ns = (self.options.flush_interval_ms.max(1) as u64 * 1_000_000).div_ceil(2);
        let step_ns = (half_ns / FLUSH_STEPS).max(FLUSH_STEP_NS_MIN.min(half_ns));
        self.next_flush_ns = now + step_ns;
        let Some(&(oldest_ns, _)) = self.dirty.front() else { return };
        let due = self.dirty.partition_point(|(since_ns, _)| since_ns.saturating_add(half_ns) <= now);
        let left_ns = oldest_ns.saturating_add(2 * half_ns).saturating_sub(now).max(step_ns);
        self.flush_dirty((due as u64 * step_ns).div_ceil(left_ns) as usize);
    }

    /// Asks that a log be flushed and synced up to these offsets.
    pub(super) fn ask(&mut self, id: LogId, flush_to: i64, sync_to: i64) {
        let Some(log) = self.logs.get_mut(id) else { return };
        log.flush_to = log.flush_to.max(flush_to);
        log.sync_to = log.sync_to.max(sync_to);
        if !std::mem::replace(&mut log.flags.busy, true) {
            self.work.push_back(id);
        }
    }

    /// Starts what waits, as far as the limits allow.
    pub(super) fn run_work(&mut self, io: &mut impl Io) {
        self.relieve(io);
        while self.work_running < WORK_MAX
            && let Some(id) = self.work.pop_front()
        {
            self.work_on(io, id);
        }
    }

    /// Flushes by memory, frees journal files by their size.
    fn relieve(&mut self, io: &mut impl Io) {
        let pinned: usize = self.dirs.iter().map(|home| home.journal.pinned_bytes()).sum();
        if pinned * 100 > self.options.tail_max_bytes * PINNED_FLUSH_PERCENT && self.work.len() < WORK_MAX {
            self.flush_dirty(WORK_MAX);
        }
        for dir in 0..self.dirs.len() {
            let home = &self.dirs[dir];
            let full = home.journal.files().used_bytes() * 100
                > self.options.journal_max_bytes * JOURNAL_RECLAIM_PERCENT;
            if full && home.online && home.reclaim.is_none() {
                self.begin_reclaim(io, dir);
            }
        }
    }

    fn begin_reclaim(&mut self, io: &mut impl Io, dir: usize) {
        let (Some(last_file), logs) = self.dirs[dir].journal.files_mut().checkpoint() else { return };
        for &(id, end_offset) in &logs {
            self.ask(id, end_offset, -1);
        }
        self.dirs[dir].reclaim =
            Some(Reclaim { last_file, logs, flushed: 0, syncing: false, checkpointing: false });
        // They may all be safe already: no flush ends then that would tell.
        self.check_reclaim(io, dir);
    }

    /// Takes a reclaim on: syncs the logs once all are flushed, and writes the checkpoints once all are safe; the files are freed
    /// after that, as log start offsets may stand nowhere else.
    pub(super) fn check_reclaim(&mut self, io: &mut impl Io, dir: usize) {
        let Some(reclaim) = &mut self.dirs[dir].reclaim else { return };
        let logs = &self.logs;
        // Each log is passed once, however often this is called.
        let flushed = |id, offset| logs.get(id).is_none_or(|log| log.flushed_offset >= offset);
        while reclaim.logs.get(reclaim.flushed).is_some_and(|&(id, offset)| flushed(id, offset)) {
            reclaim.flushed += 1;
        }
        if reclaim.flushed < reclaim.logs.len() {
            return;
        }
        let safe = |id, offset| logs.get(id).is_none_or(|log| log.synced_offset >= offset);
        while reclaim.logs.pop_if(|(id, offset)| safe(*id, *offset)).is_some() {}
        reclaim.flushed = reclaim.logs.len();
        if reclaim.logs.is_empty() {
            if !std::mem::replace(&mut reclaim.checkpointing, true) {
                self.write_checkpoints(io, dir);
            }
        } else if !std::mem::replace(&mut reclaim.syncing, true) {
            for (id, offset) in reclaim.logs.clone() {
                self.ask(id, -1, offset);
            }
        }
    }

    /// Frees the journal files whose logs and checkpoints are safe.
    pub(super) fn finish_reclaim(&mut self, io: &mut impl Io, dir: usize) {
        let home = &mut self.dirs[dir];
        let Some(reclaim) = home.reclaim.take_if(|reclaim| reclaim.checkpointing) else { return };
        // Of both ways together, as much as is written before the next files are free.
        let keep = (self.options.journal_max_bytes / self.options.journal_file_bytes.max(1) / 2) as usize;
        for (name, handle) in home.journal.files_mut().free(reclaim.last_file, keep) {
            io.submit(Op::Close { handle }, super::store::close_token());
            let steps = VecDeque::from([Step::Unlink { path: home.journal_path.join(name) }]);
            self.jobs.start(io, dir, None, steps, End::Nothing);
        }
    }

    /// The next step for a log: a flush, a sync, or nothing any more.
    fn work_on(&mut self, io: &mut impl Io, id: LogId) {
        let Some(log) = self.logs.get_mut(id) else { return };
        if !self.dirs[log.dir].online {
            return;
        }
        if log.wants_retirement() {
            self.retire_wanted(io, id, false);
        }
        let Some(log) = self.logs.get_mut(id) else { return };
        // Before the next flush: a log that is written to all the time always has one to make, and journal files wait for the sync.
        if log.synced_offset < log.sync_to && log.sync_to <= log.flushed_offset {
            return self.start_sync(io, id);
        }
        let flushable = log.tail.front().is_some_and(|run| run.next_offset <= log.high_watermark);
        let wanted = log.flushed_offset < log.flush_to || log.tail_bytes >= FLUSH_BYTES;
        if flushable && wanted {
            return if log.has_dir { self.start_flush(io, id) } else { self.claim_dir(io, id) };
        }
        if log.tail.is_empty() && log.large.is_waiting() {
            return if log.has_dir { self.start_large_flush(io, id) } else { self.claim_dir(io, id) };
        }
        let unsynced = log.synced_offset < log.sync_to.min(log.flushed_offset);
        let last_flushes = self.stop == StopPhase::Flushing;
        if unsynced || !last_flushes && log.segments.iter().any(Segment::lacks_entries) {
            return self.start_sync(io, id);
        }
        if self.stopping && !last_flushes && log.wants_last_snapshot() {
            self.work_running += 1;
            return self.write_snapshot(io, id, End::Snapshot(id));
        }
        log.flags.busy = false;
        if log.wants_retirement() {
            self.retire_wanted(io, id, false);
        }
        let Some(log) = self.logs.get_mut(id) else { return };
        // What is not acknowledged yet will come round with the next acknowledgement or timer.
        let left = !log.tail.is_empty() || log.has_unsynced_large();
        if left && !std::mem::replace(&mut log.flags.dirty, true) {
            self.dirty.push_back((io.now(), id));
        }
    }

    /// Makes the log's directory, once: a deleted log of the name, of any shard, may have it still.
    fn claim_dir(&mut self, io: &mut impl Io, id: LogId) {
        let Some(log) = self.logs.get(id) else { return };
        let mut steps = VecDeque::from([Step::CreateDir { path: log.path.to_path_buf() }]);
        let metadata = format_partition_metadata(log.tp.topic_id);
        write_file(&mut steps, &log.path.join(PARTITION_METADATA_FILE), metadata.as_bytes());
        let dir = log.dir;
        self.work_running += 1;
        self.jobs.start(io, dir, Some(id), steps, End::Claimed(id));
    }

    pub(super) fn claim_ended(&mut self, io: &mut impl Io, id: LogId, error: Option<JobError>) {
        self.work_running -= 1;
        let made = error.is_none_or(|error| error.errno != Errno::EXISTS);
        if let Some(dead) = self.graveyard.iter_mut().find(|dead| dead.id == id) {
            dead.has_dir |= made;
        }
        let Some(log) = self.logs.get_mut(id) else { return };
        log.has_dir = made;
        if made {
            self.work.push_back(id);
            self.run_work(io);
        } else {
            log.flags.busy = false;
            self.haunted.push(id);
        }
    }

    fn start_flush(&mut self, io: &mut impl Io, id: LogId) {
        let Some(log) = self.logs.get(id) else { return };
        let Some(run) = log.tail.front() else { return };
        let segment_base = run.segment;
        let flushed = run.position;
        let image_start = flushed - flushed % BLOCK_BYTES as u32;
        let head_bytes = (flushed - image_start) as usize;
        let head = match self.flush_head(io, id, segment_base, image_start, head_bytes) {
            Some(head) => head,
            None => return,
        };
        let Some(log) = self.logs.get(id) else { return };
        let (runs, data_bytes) = flushable_runs(log, segment_base, FLUSH_BYTES - head_bytes);
        let image_bytes = (head_bytes + data_bytes).next_multiple_of(BLOCK_BYTES);
        // A flush must never wait for memory, as it is what frees it; the number of flushes bounds this.
        let mut buf = self.allocate(image_bytes).unwrap_or_else(|| AlignedBuf::unbudgeted(image_bytes));
        let Some(log) = self.logs.get_mut(id) else { return };
        if let Some(head) = head {
            buf[..head_bytes].copy_from_slice(&head[..head_bytes]);
        }
        let mut at = head_bytes;
        let mut next_offset = log.flushed_offset;
        for run in log.tail.iter().take(runs) {
            buf[at..at + run.slice.len()].copy_from_slice(&run.slice);
            at += run.slice.len();
            next_offset = run.next_offset;
        }
        buf[at..].fill(0);
        let image = buf.freeze();
        let flushed = image_start + at as u32;
        let mut steps = VecDeque::new();
        log.push_cut_steps(&mut steps, segment_base);
        let path = Arc::clone(&log.path);
        let key = FileKey { log: id, base_offset: segment_base, kind: FileKind::Log };
        steps.push_back(Step::Use { key, dir: path, create: true });
        steps.push_back(Step::Write { offset: u64::from(image_start), data: image.slice(0, image_bytes) });
        if !at.is_multiple_of(BLOCK_BYTES) {
            steps.push_back(Step::Truncate { len: u64::from(flushed) });
        }
        let entries = log.push_index_steps(&mut steps, segment_base, flushed, next_offset);
        let image = image.slice(0, at);
        let sound = image_start + head_bytes as u32..flushed;
        let end = FlushEnd {
            log: id,
            segment: segment_base,
            flushed,
            next_offset,
            entries,
            image_start,
            image,
            sound,
            large_bytes: None,
        };
        let dir = log.dir;
        self.work_running += 1;
        self.jobs.start(io, dir, Some(id), steps, End::Flush(end));
    }

    /// What a flush begins with: the block that the segment ends in, if that is begun. `None`: it is read back first, and the flush
    /// comes again when it is there.
    pub(super) fn flush_head(
        &mut self,
        io: &mut impl Io,
        id: LogId,
        segment: i64,
        start: u32,
        len: usize,
    ) -> Option<Option<Slice>> {
        if len == 0 {
            return Some(None);
        }
        let found = self.cache.get(id, segment, start).map(|found| found.bytes);
        let head = found.filter(|head| head.len() >= len);
        if head.is_none() {
            self.work_running += 1;
            self.read_for_flush(io, id, segment, start);
            return None;
        }
        Some(head)
    }

    pub(super) fn flush_ended(&mut self, io: &mut impl Io, dir: usize, end: FlushEnd, ok: bool) {
        self.work_running -= 1;
        self.dirs[dir].large_bytes -= end.large_bytes.unwrap_or(0);
        let Some(log) = self.logs.get_mut(end.log) else { return };
        if !ok {
            return;
        }
        log.on_disk = true;
        log.flushed_offset = end.next_offset;
        while let Some(run) = log.tail.front()
            && run.next_offset <= end.next_offset
        {
            let bytes = run.slice.len();
            let chunk = run.chunk;
            log.tail_bytes -= bytes;
            log.tail.pop_front();
            self.dirs[dir].journal.release(chunk, bytes);
        }
        if let Some(segment) = log.segment_mut(end.segment) {
            segment.flushed = end.flushed;
            segment.padded = end.large_bytes.is_some() && !end.flushed.is_multiple_of(BLOCK_BYTES as u32);
            segment.on_disk = true;
            segment.entries_written(end.entries);
            segment.indexes_synced = false;
        }
        let key =
            PieceKey { log: end.log, segment: end.segment, kind: FileKind::Log, start: end.image_start };
        self.cache.insert(key, end.image, Source::Written, end.sound);
        for kind in INDEX_KINDS {
            self.cache.remove(PieceKey { kind, start: 0, ..key });
        }
        if end.large_bytes.is_some() {
            self.large_flushed(end.log);
        }
        self.work.push_back(end.log);
        self.check_reclaim(io, dir);
        self.run_work(io);
    }

    fn start_sync(&mut self, io: &mut impl Io, id: LogId) {
        let Some(log) = self.logs.get_mut(id) else { return };
        let mut steps = VecDeque::new();
        let mut segments = Vec::new();
        let wanted = |segment: &Segment| segment.synced < segment.flushed || segment.lacks_entries();
        let bases: Vec<i64> =
            log.segments.iter().filter(|segment| wanted(segment)).map(|s| s.base_offset).collect();
        for base_offset in bases {
            segments.push(log.push_sync_steps(&mut steps, base_offset));
        }
        let new_epochs = std::mem::take(&mut log.epochs_dirty);
        if new_epochs {
            exchange_file(&mut steps, &log.path.join(LEADER_EPOCH_FILE), log.epochs.format().as_bytes());
        }
        let new_files = segments.len() > 1 || log.segments.iter().any(|segment| segment.synced == 0);
        if !log.names_synced || new_files || new_epochs {
            sync_dir(&mut steps, &log.path);
        }
        if !log.names_synced {
            log.names_synced = true;
            sync_dir(&mut steps, &self.dirs[log.dir].path);
        }
        let end = SyncEnd { log: id, offset: log.flushed_offset, segments };
        let dir = log.dir;
        self.work_running += 1;
        self.jobs.start(io, dir, Some(id), steps, End::Sync(end));
    }

    pub(super) fn sync_ended(&mut self, io: &mut impl Io, dir: usize, end: SyncEnd, ok: bool) {
        self.work_running -= 1;
        let Some(log) = self.logs.get_mut(end.log) else { return };
        if !ok {
            return;
        }
        let unsynced_large = log.has_unsynced_large();
        log.synced_offset = log.synced_offset.max(end.offset);
        for synced in end.segments {
            if unsynced_large && let Some(segment) = log.segment_mut(synced.base_offset) {
                self.dirs[dir].large_synced_bytes += u64::from(synced.size.saturating_sub(segment.synced));
            }
            if let Some(segment) = log.segment_mut(synced.base_offset) {
                segment.synced = segment.synced.max(synced.size);
                segment.entries_written(synced.entries);
                segment.indexes_synced = true;
            }
        }
        if unsynced_large {
            self.acknowledge_large(end.log);
            self.events.push_back(Event::ReadReady { log: end.log });
            if self.dirs[dir].large_synced_bytes >= CHECKPOINT_BYTES {
                self.dirs[dir].large_synced_bytes = 0;
                self.write_checkpoints(io, dir);
            }
        }
        self.work.push_back(end.log);
        self.snapshot_if_due(io, end.log);
        self.check_reclaim(io, dir);
        self.run_work(io);
    }
}

/// How many runs at the front of the tail make the next flush of up to `max_bytes` (but one run at least), and their bytes.
fn flushable_runs(log: &Log, segment: i64, max_bytes: usize) -> (usize, usize) {
    let mut bytes = 0;
    let ready = log.tail.iter().take_while(|run| {
        let fits = bytes == 0 || bytes + run.slice.len() <= max_bytes;
        let take = fits && run.segment == segment && run.next_offset <= log.high_watermark;
        if take {
            bytes += run.slice.len();
        }
        take
    });
    let count = ready.count();
    (count, bytes)
}

/// Steps that write a file which nobody reads before the next sync of its directory.
fn write_file(steps: &mut VecDeque<Step>, path: &Path, contents: &[u8]) {
    let mode = crate::io::OpenMode { write: true, create: true, truncate: true, ..Default::default() };
    steps.push_back(Step::Open { path: path.to_owned(), mode });
    steps.push_back(Step::Write { offset: 0, data: Slice::copy_of(contents) });
    steps.push_back(Step::Sync { data_only: false });
}

impl Log {
    /// Whether retention has asked for segments to go that are there still.
    fn wants_retirement(&self) -> bool {
        let first = self.segments.front().is_some_and(|segment| segment.base_offset < self.expired_to);
        first || self.segments.get(1).is_some_and(|next| next.base_offset <= self.log_start_offset)
    }

    pub(super) fn file_path(&self, base_offset: i64, kind: FileKind) -> std::path::PathBuf {
        self.path.join(FileName::new(base_offset, kind).to_string())
    }

    /// Adds the steps that cut what was written before the segment to its length: recovery takes padding for the end of the log.
    pub(super) fn push_cut_steps(&mut self, steps: &mut VecDeque<Step>, segment_base: i64) {
        let Some(index) = self.segment_index(segment_base) else { return };
        let Some(before) = index.checked_sub(1).and_then(|before| self.segments.get_mut(before)) else {
            return;
        };
        if std::mem::take(&mut before.padded) {
            let key = FileKey { log: self.id, base_offset: before.base_offset, kind: FileKind::Log };
            steps.push_back(Step::Use { key, dir: Arc::clone(&self.path), create: false });
            steps.push_back(Step::Truncate { len: u64::from(before.flushed) });
        }
    }

    /// Adds the steps that put a segment's files on stable media, with the entries its indexes lack.
    fn push_sync_steps(&mut self, steps: &mut VecDeque<Step>, base_offset: i64) -> SyncedSegment {
        let flushed_offset = self.flushed_offset;
        let Some(segment) = self.segment_mut(base_offset) else {
            return SyncedSegment { base_offset, size: 0, entries: IndexEntries::default() };
        };
        let (size, indexes_synced) = (segment.flushed, segment.indexes_synced && !segment.lacks_entries());
        let first = segment.synced == 0;
        let padded = std::mem::take(&mut segment.padded);
        let entries = self.push_index_steps(steps, base_offset, size, flushed_offset);
        let indexes = INDEX_KINDS.into_iter().filter(|kind| !indexes_synced && entries.bytes(*kind) > 0);
        for kind in std::iter::once(FileKind::Log).chain(indexes) {
            let key = FileKey { log: self.id, base_offset, kind };
            steps.push_back(Step::Use { key, dir: Arc::clone(&self.path), create: false });
            if kind == FileKind::Log && padded {
                steps.push_back(Step::Truncate { len: u64::from(size) });
            }
            steps.push_back(Step::Sync { data_only: true });
        }
        // An index without entries is an empty file, as in Kafka: its tools look for one beside every segment. Not so
        // the one of aborted transactions.
        let empty = [FileKind::OffsetIndex, FileKind::TimeIndex];
        for kind in empty.into_iter().filter(|kind| first && entries.bytes(*kind) == 0) {
            let key = FileKey { log: self.id, base_offset, kind };
            steps.push_back(Step::Use { key, dir: Arc::clone(&self.path), create: true });
        }
        SyncedSegment { base_offset, size, entries }
    }

    /// Adds the steps that write a segment's new index entries. Returns the numbers of entries in the files then.
    pub(super) fn push_index_steps(
        &mut self,
        steps: &mut VecDeque<Step>,
        base_offset: i64,
        flushed: u32,
        next_offset: i64,
    ) -> IndexEntries {
        let (id, dir) = (self.id, Arc::clone(&self.path));
        let Some(segment) = self.segment_mut(base_offset) else { return IndexEntries::default() };
        let pending = segment.take_pending(flushed, next_offset);
        let written = segment.flushed_entries;
        let files = INDEX_KINDS.into_iter().zip([&pending.offsets, &pending.times, &pending.aborted]);
        for (kind, bytes) in files.filter(|(_, bytes)| !bytes.is_empty()) {
            let key = FileKey { log: id, base_offset, kind };
            steps.push_back(Step::Use { key, dir: Arc::clone(&dir), create: true });
            let offset = u64::from(written.bytes(kind));
            steps.push_back(Step::Write { offset, data: Slice::copy_of(bytes) });
        }
        IndexEntries {
            offsets: written.offsets + pending.offsets.len() as u32 / OFFSET_ENTRY_BYTES,
            times: written.times + pending.times.len() as u32 / TIME_ENTRY_BYTES,
            aborted: written.aborted + pending.aborted.len() as u32 / ABORTED_ENTRY_BYTES,
        }
    }
}
