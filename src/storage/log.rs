//! One partition's log in memory: its offsets, its segments, and its tail, the batches that no segment file has yet.
//!
//! The tail is a queue of runs: neighbouring batches of one journal block, as slices of the journal's own memory. Runs
//! go when a flush has written them to their segment. `flushed_offset` is where the tail begins.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::journal::Touched;
use super::large::Large;
use super::leader_epoch::LeaderEpochs;
use super::producer_state::ProducerState;
use super::segment::Segment;
use super::types::{LogConfig, LogId, TopicPartition};
use crate::io::buffer::Slice;
use crate::record::{BATCH_OVERHEAD, BatchHeader};

/// Batches join a run up to this, so that finding an offset in it stays short.
const RUN_BYTES_MAX: usize = 16 << 10;

/// Batches that follow one another in offset, in their segment and in memory.
#[derive(Clone, Debug)]
pub struct TailRun {
    pub base_offset: i64,
    pub next_offset: i64,
    pub segment: i64,
    pub position: u32,
    pub chunk: u64,
    pub slice: Slice,
}

/// A place in a segment where a batch begins, remembered so that the next read finds it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub offset: i64,
    pub segment: i64,
    pub position: u32,
}

const CURSORS: usize = 4;

/// Where a log lives.
#[derive(Clone, Debug)]
pub struct Place {
    pub dir: usize,
    pub path: PathBuf,
}

#[derive(Debug)]
pub struct Log {
    pub id: LogId,
    pub dir: usize,
    pub tp: TopicPartition,
    pub config: Arc<LogConfig>,
    pub path: Arc<Path>,

    pub log_start_offset: i64,
    /// The log start offset that a crash cannot take back.
    pub safe_start_offset: i64,
    pub high_watermark: i64,
    pub log_end_offset: i64,
    pub flushed_offset: i64,
    pub synced_offset: i64,
    /// Flushes and syncs are wanted up to these.
    pub flush_to: i64,
    pub sync_to: i64,

    pub segments: VecDeque<Segment>,
    pub tail: VecDeque<TailRun>,
    pub tail_bytes: usize,
    /// What follows the tail and is not to go through the journal.
    pub large: Large,
    pub epochs: LeaderEpochs,
    /// The epochs have changed since their file was written.
    pub epochs_dirty: bool,
    pub producers: ProducerState,
    /// Where the last snapshot of the producers was taken, the bytes appended since, and the last one that stands where
    /// no segment begins.
    pub snapshot_offset: i64,
    pub bytes_since_snapshot: u64,
    pub stray_snapshot: Option<i64>,

    /// The directory is this log's; a flush has been to it; its entries (and its own) are known to stay.
    pub has_dir: bool,
    pub on_disk: bool,
    pub names_synced: bool,

    /// Compacted up to here; and the segments that are being replaced by their compacted form, by first and last base
    /// offset: no disk read of them begins and none of them is retired.
    pub cleaned_offset: i64,
    pub swapping: Option<(i64, i64)>,

    /// The log's place among the journal's touches.
    pub touched: Touched,
    /// Retention is done with the segments that begin below this.
    pub expired_to: i64,
    pub flags: Flags,
    pub cursors: [Cursor; CURSORS],
    pub next_cursor: u8,
}

/// What is under way for a log, so that it is not begun twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// In the queue of logs with a tail.
    pub dirty: bool,
    /// In the queue of flushes, or being flushed or synced.
    pub busy: bool,
    pub advanced: bool,
    /// A removal of segments is under way.
    pub retiring: bool,
    /// The last read from disk failed; the next call says so.
    pub read_failed: bool,
    /// It is about to go on in another directory: no appends, no deletes.
    pub held: bool,
}

impl Log {
    pub fn new(
        id: LogId,
        place: Place,
        tp: TopicPartition,
        config: LogConfig,
        producers: ProducerState,
    ) -> Log {
        let Place { dir, path } = place;
        let nowhere = Cursor { offset: -1, segment: 0, position: 0 };
        Log {
            id,
            dir,
            tp,
            config: Arc::new(config),
            path: path.into(),
            log_start_offset: 0,
            safe_start_offset: 0,
            high_watermark: 0,
            log_end_offset: 0,
            flushed_offset: 0,
            synced_offset: 0,
            flush_to: -1,
            sync_to: -1,
            segments: VecDeque::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            large: Large::default(),
            epochs: LeaderEpochs::default(),
            epochs_dirty: false,
            producers,
            snapshot_offset: -1,
            bytes_since_snapshot: 0,
            stray_snapshot: None,
            has_dir: false,
            on_disk: false,
            names_synced: false,
            cleaned_offset: 0,
            swapping: None,
            touched: Touched::default(),
            expired_to: i64::MIN,
            flags: Flags::default(),
            cursors: [nowhere; CURSORS],
            next_cursor: 0,
        }
    }

    /// Starts the log at `offset`, empty.
    pub fn start_at(&mut self, offset: i64) {
        self.log_start_offset = offset;
        self.safe_start_offset = offset;
        self.high_watermark = offset;
        self.log_end_offset = offset;
        self.flushed_offset = offset;
        self.synced_offset = offset;
    }

    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.size)).sum()
    }

    /// Adds a batch that lies in the journal to the tail.
    pub fn push_tail(&mut self, run: TailRun) {
        self.tail_bytes += run.slice.len();
        if let Some(last) = self.tail.back_mut()
            && last.segment == run.segment
            && last.slice.len() + run.slice.len() <= RUN_BYTES_MAX
            && last.slice.adjoins(&run.slice)
        {
            last.slice = last.slice.join(&run.slice);
            last.next_offset = run.next_offset;
            return;
        }
        self.tail.push_back(run);
    }

    /// The index of the tail run that holds `offset`; `None` when a segment has it.
    pub fn find_run(&self, offset: i64) -> Option<usize> {
        self.tail.front().filter(|first| first.base_offset <= offset)?;
        Some(self.tail.partition_point(|run| run.next_offset <= offset))
    }

    /// The index of the segment that holds `offset`.
    pub fn find_segment(&self, offset: i64) -> Option<usize> {
        self.segments.partition_point(|segment| segment.base_offset <= offset).checked_sub(1)
    }

    pub fn segment_index(&self, base_offset: i64) -> Option<usize> {
        self.segments.binary_search_by_key(&base_offset, |segment| segment.base_offset).ok()
    }

    pub fn segment_mut(&mut self, base_offset: i64) -> Option<&mut Segment> {
        let index = self.segment_index(base_offset)?;
        self.segments.get_mut(index)
    }

    /// The offset behind the last one of segment `index` that its file holds.
    pub fn segment_end_offset(&self, index: usize) -> i64 {
        self.segments.get(index + 1).map_or(self.log_end_offset, |next| next.base_offset)
    }

    pub fn find_cursor(&self, offset: i64) -> Option<Cursor> {
        self.cursors.iter().find(|cursor| cursor.offset == offset).copied()
    }

    /// Remembers where a reader that stopped at `cursor.offset` goes on.
    pub fn add_cursor(&mut self, cursor: Cursor) {
        if self.find_cursor(cursor.offset).is_none() {
            self.cursors[usize::from(self.next_cursor)] = cursor;
            self.next_cursor = (self.next_cursor + 1) % CURSORS as u8;
        }
    }

    pub fn forget_cursors(&mut self) {
        self.cursors.iter_mut().for_each(|cursor| cursor.offset = -1);
    }
}

/// What is left of a read's budget, and where it ends.
#[derive(Clone, Copy, Debug)]
pub struct Take {
    pub end_offset: i64,
    pub bytes_left: usize,
    /// The next batch is taken whole.
    pub whole: bool,
}

/// Reads from the tail: from the batch that holds `offset` (which the tail has) until `take` is used up. Returns the bytes,
/// and an offset that what was read does not reach.
pub fn read_tail(log: &Log, offset: i64, take: &mut Take, out: &mut Vec<Slice>) -> (usize, i64) {
    let Some(first) = log.find_run(offset) else { return (0, offset) };
    let mut bytes = 0;
    let mut next_offset = offset;
    for (index, run) in log.tail.range(first..).enumerate() {
        let start = if index == 0 { batch_position(&run.slice, offset) } else { 0 };
        if run.base_offset >= take.end_offset || (take.bytes_left == 0 && !take.whole) {
            break;
        }
        let mut end = run.slice.len();
        if run.next_offset > take.end_offset {
            end = position_of(&run.slice, start, |header| header.base_offset >= take.end_offset);
        }
        let len = whole_batches(&run.slice[start..end], take);
        take.bytes_left = take.bytes_left.saturating_sub(len);
        bytes += len;
        if len > 0 {
            take.whole = false;
            next_offset = run.next_offset.min(take.end_offset.max(offset));
            push_slice(out, run.slice.slice(start, len));
        }
        if start + len < run.slice.len() {
            break;
        }
    }
    (bytes, next_offset)
}

/// How many bytes of a run's batches may be taken: a reader can make nothing of a part of one.
fn whole_batches(run: &[u8], take: &Take) -> usize {
    if run.len() <= take.bytes_left {
        return run.len();
    }
    let first = BatchHeader::parse(run).map_or(run.len(), |header| header.size());
    let most = if take.whole { take.bytes_left.max(first) } else { take.bytes_left };
    let mut len = 0;
    while let Ok(header) = BatchHeader::parse(&run[len..])
        && len + header.size() <= most
    {
        len += header.size();
    }
    len
}

/// Adds a slice, joined to the last where they adjoin.
pub fn push_slice(out: &mut Vec<Slice>, slice: Slice) {
    if slice.is_empty() {
        return;
    }
    match out.last_mut() {
        Some(last) if last.adjoins(&slice) => *last = last.join(&slice),
        _ => out.push(slice),
    }
}

/// Where in a run of whole batches the one that holds `offset` begins.
fn batch_position(run: &[u8], offset: i64) -> usize {
    position_of(run, 0, |header| header.next_offset() > offset)
}

/// The position of the first batch from `start` on that matches; the end when none does.
fn position_of(run: &[u8], start: usize, matches: impl Fn(&BatchHeader) -> bool) -> usize {
    let mut position = start;
    while run.len() - position >= BATCH_OVERHEAD {
        // Runs hold what `append` has parsed.
        let Ok(header) = BatchHeader::parse(&run[position..]) else { break };
        if matches(&header) {
            return position;
        }
        position += header.size();
    }
    run.len()
}
