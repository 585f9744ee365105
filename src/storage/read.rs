//! Reads: the tail first, then the pieces of segments in memory, then the disk, an aligned chunk at a time.
//!
//! A read that misses starts the disk read and answers "pending"; it begins anew when it is called again, and finds the
//! chunk in the cache. Chunks are shared by all readers of the place. A reader that goes on where one stopped
//! ([`Cursor`]) needs no index and gets the next chunks read ahead. Every batch header that is served from a segment is
//! looked at: one that cannot stand where it does is an error, and nothing behind it is served. A batch that came from
//! the disk is checked against its checksum once, before the first reader gets it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::aborted;
use super::cache::PieceKey;
use super::jobs::{FileKey, JobError, Step};
use super::log::{Cursor, Take, push_slice, read_tail};
use super::names::FileKind;
use super::offset_index;
use super::store::{End, Storage};
use super::time_index;
use super::types::*;
use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::{BLOCK_BYTES, Io};
use crate::record::batch::CHECKED_FROM;
use crate::record::{BATCH_OVERHEAD, BatchHeader, crc32c};

/// What a miss reads: little for a reader out of nowhere, more for one that goes on.
const READ_BYTES: u32 = 128 << 10;
const READ_SEQUENTIAL_BYTES: u32 = 512 << 10;
/// Chunks asked for ahead of a sequential reader.
const READ_AHEAD: u32 = 2;
/// Disk reads under way at once, reads ahead not counted beyond half of it.
const READS_MAX: usize = 64;
/// A segment smaller than this is scanned from its start instead of using its index.
const INDEX_FROM_BYTES: u32 = 64 << 10;

/// The disk reads under way; whether a flush waits for one.
#[derive(Debug, Default)]
pub(super) struct Reads {
    under_way: BTreeMap<PieceKey, bool>,
    /// Logs with a read that failed in the turn before, and in this one.
    failed: [Vec<LogId>; 2],
}

impl Reads {
    /// Whether a read of one of these segments is under way.
    pub fn touch(&self, log: LogId, segments: std::ops::RangeInclusive<i64>) -> bool {
        self.under_way.keys().any(|key| key.log == log && segments.contains(&key.segment))
    }
}

/// Why a walk over a segment stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The bytes at this position are not in memory.
    Missing(u32),
    Corrupt,
}

/// A walk over the batches of one segment.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub log: LogId,
    pub segment: i64,
    pub position: u32,
    /// Where the segment's file ends, and the offset behind its last batch.
    pub flushed: u32,
    pub end_offset: i64,
    /// The next batch begins here or later.
    pub next_offset: i64,
    /// All batches before the position lie below `next_offset`: not so when an index gave the position.
    exact: bool,
    /// Behind the last batch that was taken, be it in part.
    taken_end: i64,
    window: Option<(u32, Slice)>,
    /// Where the batches that begin in the window need no check.
    sound: Range<u32>,
}

impl Storage {
    /// Adds the bytes of `range` to `out`, in slices that are joined where they adjoin.
    pub fn read(
        &mut self,
        io: &mut impl Io,
        log: LogId,
        range: ReadRange,
        out: &mut Vec<Slice>,
    ) -> Result<ReadOutcome, ReadError> {
        let id = log;
        let log = self.readable(id)?;
        if range.offset < log.log_start_offset || range.offset > log.log_end_offset {
            return Err(ReadError::OutOfRange);
        }
        let end_offset = range.end_offset.min(log.log_end_offset);
        if range.offset >= end_offset {
            return Ok(ReadOutcome::Done { bytes: 0, next_offset: range.offset });
        }
        let mut take = Take { end_offset, bytes_left: range.max_bytes, whole: range.at_least_one };
        if log.find_run(range.offset).is_some() {
            let (bytes, next_offset) = read_tail(log, range.offset, &mut take, out);
            return Ok(ReadOutcome::Done { bytes, next_offset });
        }
        self.read_segments(io, id, range.offset, &mut take, out)
    }

    /// The log, if it can be read; an error of its last disk read is told once.
    pub(super) fn readable(&mut self, id: LogId) -> Result<&super::log::Log, ReadError> {
        let log = self.logs.get_mut(id).ok_or(ReadError::UnknownLog)?;
        if !self.dirs[log.dir].online {
            return Err(ReadError::Offline);
        }
        if std::mem::take(&mut log.flags.read_failed) {
            return Err(ReadError::Storage);
        }
        Ok(log)
    }

    /// Once a turn: who waited for a read that failed has come again by now. A later reader is not told of it: the disk is
    /// asked anew.
    pub(super) fn forget_failed_reads(&mut self) {
        let [old, new] = &mut self.reads.failed;
        for id in old.drain(..) {
            if let Some(log) = self.logs.get_mut(id) {
                log.flags.read_failed = false;
            }
        }
        std::mem::swap(old, new);
    }

    fn read_segments(
        &mut self,
        io: &mut impl Io,
        id: LogId,
        offset: i64,
        take: &mut Take,
        out: &mut Vec<Slice>,
    ) -> Result<ReadOutcome, ReadError> {
        let first = out.len();
        let mut walk = match self.start_walk(io, id, offset)? {
            Some(walk) => walk,
            None => return Ok(ReadOutcome::Pending),
        };
        let sequential = self.logs.get(id).is_some_and(|log| log.find_cursor(offset).is_some());
        let mut bytes = 0;
        let mut tail_end = None;
        loop {
            match self.take_batches(&mut walk, offset, take, &mut bytes, out) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Stop::Corrupt) if bytes == 0 => return Err(self.corrupt(&walk)),
                Err(Stop::Corrupt) => break,
                Err(Stop::Missing(position)) => {
                    let chunk = if sequential { READ_SEQUENTIAL_BYTES } else { READ_BYTES };
                    self.read_chunk(io, &walk, position, chunk)?;
                    if bytes == 0 {
                        out.truncate(first);
                        return Ok(ReadOutcome::Pending);
                    }
                    break;
                }
            }
            // The segment is used up: its successor, or the tail.
            let Some(log) = self.logs.get(id) else { break };
            if walk.end_offset >= take.end_offset || (take.bytes_left == 0 && !take.whole) {
                break;
            }
            if log.find_run(walk.end_offset).is_some() {
                let (tail_bytes, next_offset) = read_tail(log, walk.end_offset, take, out);
                bytes += tail_bytes;
                tail_end = Some(next_offset);
                break;
            }
            match self.walk_from_start(id, walk.end_offset) {
                Some(next) => walk = next,
                None => break,
            }
        }
        let gaps = self.logs.get(id).is_none_or(|log| log.config.compact || offset < log.cleaned_offset);
        if bytes == 0 && !gaps && (take.bytes_left > 0 || take.whole) {
            // There are batches to read, and the segments do not have them.
            return Err(self.corrupt(&walk));
        }
        self.leave_cursor(io, &walk, sequential);
        let next_offset = tail_end.unwrap_or(walk.taken_end.max(walk.next_offset));
        Ok(ReadOutcome::Done { bytes, next_offset })
    }

    /// Remembers where the reader stopped and, where it goes through the log, reads ahead of it.
    fn leave_cursor(&mut self, io: &mut impl Io, walk: &Walk, sequential: bool) {
        let Some(log) = self.logs.get_mut(walk.log) else { return };
        if walk.exact && walk.position < walk.flushed {
            let offset = walk.next_offset;
            log.add_cursor(Cursor { offset, segment: walk.segment, position: walk.position });
        }
        if !sequential {
            return;
        }
        for ahead in 0..READ_AHEAD {
            let position = u64::from(walk.position) + u64::from(ahead * READ_SEQUENTIAL_BYTES);
            let Ok(position) = u32::try_from(position) else { return };
            if position >= walk.flushed || self.reads.under_way.len() >= READS_MAX / 2 {
                return;
            }
            if self.cache.get(walk.log, walk.segment, position).is_none() {
                // A read ahead that finds no memory is one that is not needed.
                let _ = self.read_chunk(io, walk, position, READ_SEQUENTIAL_BYTES);
            }
        }
    }

    /// Adds the batches of the walk to `out`: true when the segment is used up, false when `take` is.
    fn take_batches(
        &mut self,
        walk: &mut Walk,
        offset: i64,
        take: &mut Take,
        bytes: &mut usize,
        out: &mut Vec<Slice>,
    ) -> Result<bool, Stop> {
        while walk.position < walk.flushed {
            if take.bytes_left == 0 && !take.whole {
                return Ok(false);
            }
            let header = self.walk_header(walk)?;
            if header.base_offset >= take.end_offset {
                return Ok(false);
            }
            if header.next_offset() <= offset {
                walk.skip(&header);
                continue;
            }
            let size = header.size();
            let len = if take.whole { size } else { size.min(take.bytes_left) };
            // A reader can make nothing of a part of a batch: no need to check it.
            if len == size && self.is_sound(walk, &header) == Ok(false) {
                return Err(Stop::Corrupt);
            }
            let before = out.len();
            let taken = self.push_bytes(walk, len as u32, out);
            if taken < len as u32 && *bytes == 0 && take.whole {
                out.truncate(before);
                return Err(Stop::Missing(walk.position + taken));
            }
            take.bytes_left = take.bytes_left.saturating_sub(taken as usize);
            take.whole = false;
            walk.taken_end = header.next_offset();
            *bytes += taken as usize;
            if (taken as usize) < len {
                return Err(Stop::Missing(walk.position + taken));
            }
            if len < size {
                return Ok(false);
            }
            walk.skip(&header);
        }
        Ok(true)
    }

    /// Whether the batch at the walk's position, whose header is this, is what was written.
    fn is_sound(&mut self, walk: &mut Walk, header: &BatchHeader) -> Result<bool, Stop> {
        let batch = walk.position..walk.position + header.size() as u32;
        let in_window = |(start, bytes): &(u32, Slice)| batch.end <= start + bytes.len() as u32;
        let in_one_piece = walk.window.as_ref().is_some_and(in_window);
        if in_one_piece && walk.sound.contains(&batch.start) {
            return Ok(true);
        }
        let mut behind = walk.clone();
        let mut crc = 0;
        let mut at = batch.start + CHECKED_FROM as u32;
        while at < batch.end {
            let (start, window) = self.window(&mut behind, at).ok_or(Stop::Missing(at))?;
            let have = (window.len() as u32 - start).min(batch.end - at);
            crc = crc32c::append(crc, &window[start as usize..(start + have) as usize]);
            at += have;
        }
        if crc != header.crc {
            return Ok(false);
        }
        // The checksum leaves out the base offset. Where it leaves a gap, as compaction does, the next one must agree.
        if walk.exact && header.base_offset > walk.next_offset {
            behind.skip(header);
            if !behind.is_done() && self.walk_header(&mut behind) == Err(Stop::Corrupt) {
                return Ok(false);
            }
        }
        let sound = self.cache.mark_sound(walk.log, walk.segment, batch);
        if in_one_piece {
            walk.sound = sound;
        }
        Ok(true)
    }

    /// Adds `len` bytes from the walk's position as far as memory has them. Returns how many.
    fn push_bytes(&mut self, walk: &mut Walk, len: u32, out: &mut Vec<Slice>) -> u32 {
        let mut taken = 0;
        while taken < len {
            let Some((at, window)) = self.window(walk, walk.position + taken) else { break };
            let have = (window.len() as u32 - at).min(len - taken);
            push_slice(out, window.slice(at as usize, have as usize));
            taken += have;
        }
        taken
    }

    /// The piece of memory that holds `position`, and where in it.
    fn window(&mut self, walk: &mut Walk, position: u32) -> Option<(u32, Slice)> {
        if let Some((start, window)) = &walk.window
            && (*start..*start + window.len() as u32).contains(&position)
        {
            return Some((position - start, window.clone()));
        }
        let found = self.cache.get(walk.log, walk.segment, position)?;
        let len = found.bytes.len().min((walk.flushed - position) as usize);
        let piece = found.bytes.slice(0, len);
        walk.window = Some((position, piece.clone()));
        walk.sound = found.sound;
        Some((0, piece))
    }

    /// The header of the batch at the walk's position, checked against where it stands.
    pub(super) fn walk_header(&mut self, walk: &mut Walk) -> Result<BatchHeader, Stop> {
        let left = (walk.flushed - walk.position) as usize;
        if left < BATCH_OVERHEAD {
            return Err(Stop::Corrupt);
        }
        let mut copy = [0; BATCH_OVERHEAD];
        let parsed = match self.window(walk, walk.position) {
            None => return Err(Stop::Missing(walk.position)),
            Some((at, window)) if window.len() - at as usize >= BATCH_OVERHEAD => {
                BatchHeader::parse(&window[at as usize..])
            }
            Some(_) => {
                self.copy_bytes(walk, walk.position, &mut copy)?;
                BatchHeader::parse(&copy)
            }
        };
        match parsed {
            Ok(header) if walk.fits(&header) => Ok(header),
            _ => Err(Stop::Corrupt),
        }
    }

    /// Copies bytes of the segment from `position` on.
    pub(super) fn copy_bytes(&mut self, walk: &mut Walk, position: u32, out: &mut [u8]) -> Result<(), Stop> {
        let mut done = 0;
        while done < out.len() {
            let at = position + done as u32;
            let (start, window) = self.window(walk, at).ok_or(Stop::Missing(at))?;
            let have = (window.len() - start as usize).min(out.len() - done);
            out[done..done + have].copy_from_slice(&window[start as usize..start as usize + have]);
            done += have;
        }
        Ok(())
    }

    /// Says that a segment holds what it cannot hold.
    pub(super) fn corrupt(&mut self, walk: &Walk) -> ReadError {
        if let Some(log) = self.logs.get(walk.log) {
            tracing::error!(
                log = %log.tp, segment = walk.segment, position = walk.position, next_offset = walk.next_offset,
                "a segment is damaged: what it holds here is no batch of this place"
            );
        }
        ReadError::Storage
    }

    /// A walk that begins at or before the batch that holds `offset`, which a segment file has; `None` when an index must
    /// be read first.
    pub(super) fn start_walk(
        &mut self,
        io: &mut impl Io,
        id: LogId,
        offset: i64,
    ) -> Result<Option<Walk>, ReadError> {
        let log = self.logs.get(id).ok_or(ReadError::UnknownLog)?;
        let index = log.find_segment(offset).ok_or(ReadError::OutOfRange)?;
        let (base_offset, indexed) = {
            let segment = &log.segments[index];
            (segment.base_offset, segment.flushed >= INDEX_FROM_BYTES && segment.flushed_entries.offsets > 0)
        };
        let cursor = log.find_cursor(offset).filter(|cursor| cursor.segment == base_offset);
        let mut walk = self.walk_from_start(id, base_offset).ok_or(ReadError::OutOfRange)?;
        if let Some(cursor) = cursor {
            walk.position = cursor.position;
            walk.next_offset = cursor.offset;
        } else if indexed {
            let Some(bytes) = self.index(io, id, base_offset, FileKind::OffsetIndex)? else {
                return Ok(None);
            };
            let floor = offset_index::lookup(&bytes, base_offset, offset);
            if floor.position < walk.flushed {
                walk.position = floor.position;
                walk.exact = floor.position == 0;
            }
        }
        Ok(Some(walk))
    }

    /// A walk over the segment that begins at `base_offset`.
    pub(super) fn walk_from_start(&self, id: LogId, base_offset: i64) -> Option<Walk> {
        let log = self.logs.get(id)?;
        let index = log.segment_index(base_offset)?;
        let segment = &log.segments[index];
        Some(Walk {
            log: id,
            segment: base_offset,
            position: 0,
            flushed: segment.flushed,
            end_offset: log.segment_end_offset(index).min(log.flushed_offset),
            next_offset: base_offset,
            exact: true,
            taken_end: base_offset,
            window: None,
            sound: 0..0,
        })
    }

    /// An index of a segment in memory, checked; `None` while it is being read. A damaged one counts as empty.
    pub(super) fn index(
        &mut self,
        io: &mut impl Io,
        id: LogId,
        segment: i64,
        kind: FileKind,
    ) -> Result<Option<Slice>, ReadError> {
        if let Some(bytes) = self.cache.index(id, segment, kind) {
            return Ok(Some(bytes));
        }
        let log = self.logs.get(id).ok_or(ReadError::UnknownLog)?;
        let index = log.segment_index(segment).ok_or(ReadError::OutOfRange)?;
        let len = log.segments[index].flushed_entries.bytes(kind);
        let key = PieceKey { log: id, segment, kind, start: 0 };
        self.start_read(io, key, len.max(1), false)?;
        Ok(None)
    }

    /// Reads the chunk of the walk's segment that holds `position`.
    pub(super) fn read_chunk(
        &mut self,
        io: &mut impl Io,
        walk: &Walk,
        position: u32,
        chunk: u32,
    ) -> Result<(), ReadError> {
        let start = position - position % BLOCK_BYTES as u32;
        let mut end = u64::from(start) + u64::from(chunk);
        if let Some(next) = self.cache.next_start(walk.log, walk.segment, position) {
            end = end.min(u64::from(next));
        }
        let end = end.min(u64::from(walk.flushed)) as u32;
        let key = PieceKey { log: walk.log, segment: walk.segment, kind: FileKind::Log, start };
        self.start_read(io, key, end - start, false)
    }

    /// Reads the block that a segment ends in, for the flush that goes on in it.
    pub(super) fn read_for_flush(&mut self, io: &mut impl Io, log: LogId, segment: i64, start: u32) {
        let key = PieceKey { log, segment, kind: FileKind::Log, start };
        // It takes no memory from the pool, so it cannot fail to start.
        let _ = self.start_read(io, key, BLOCK_BYTES as u32, true);
    }

    fn start_read(
        &mut self,
        io: &mut impl Io,
        key: PieceKey,
        len: u32,
        for_flush: bool,
    ) -> Result<(), ReadError> {
        if let Some(waiting) = self.reads.under_way.get_mut(&key) {
            *waiting |= for_flush;
            return Ok(());
        }
        let swapping = self.logs.get(key.log).and_then(|log| log.swapping);
        if swapping.is_some_and(|(first, last)| (first..=last).contains(&key.segment)) {
            // The end of the swap tells all readers of the log.
            return Ok(());
        }
        if !for_flush && self.reads.under_way.len() >= READS_MAX {
            return Err(ReadError::NoMemory);
        }
        let len = (len as usize).next_multiple_of(BLOCK_BYTES);
        let buf = if for_flush {
            AlignedBuf::unbudgeted(len)
        } else {
            self.allocate(len).ok_or(ReadError::NoMemory)?
        };
        let Some(log) = self.logs.get(key.log) else { return Err(ReadError::UnknownLog) };
        let place = Arc::clone(&log.path);
        let file = FileKey { log: key.log, base_offset: key.segment, kind: key.kind };
        let steps = VecDeque::from([
            Step::Use { key: file, dir: place, create: false },
            Step::Read { offset: u64::from(key.start), len, buf: Some(buf) },
        ]);
        let dir = log.dir;
        self.reads.under_way.insert(key, for_flush);
        self.jobs.start(io, dir, Some(key.log), steps, End::Read(key));
        Ok(())
    }

    pub(super) fn read_ended(
        &mut self,
        key: PieceKey,
        buf: Option<(AlignedBuf, usize)>,
        error: Option<JobError>,
    ) {
        let for_flush = self.reads.under_way.remove(&key).unwrap_or(false);
        if for_flush {
            self.work_running -= 1;
        }
        let Some(log) = self.logs.get_mut(key.log) else { return };
        if for_flush {
            self.work.push_back(key.log);
        }
        self.events.push_back(Event::ReadReady { log: key.log });
        let Some(segment) = log.segment_mut(key.segment) else { return };
        let bytes = match (error, buf) {
            (None, Some((buf, len))) => Ok(buf.freeze().slice(0, len)),
            (error, _) => Err(error.map_or_else(String::new, |error| error.to_string())),
        };
        let bytes = match (key.kind, bytes) {
            (FileKind::Log, Ok(bytes)) => {
                let len = bytes.len().min(segment.flushed.saturating_sub(key.start) as usize);
                if len > 0 {
                    Ok(bytes.slice(0, len))
                } else {
                    Err("the file is shorter than its data".to_string())
                }
            }
            (FileKind::TransactionIndex, Ok(bytes)) => aborted::usable(bytes, segment),
            (kind, Ok(bytes)) => Ok(usable_index(bytes, kind, segment.flushed)),
            (FileKind::Log | FileKind::TransactionIndex, error) => error,
            // Without its index a segment is read from its start.
            (_, Err(_)) => Ok(Slice::copy_of(&[])),
        };
        match bytes {
            Ok(bytes) => self.cache.insert(key, bytes, for_flush, 0..0),
            Err(error) => {
                tracing::error!(log = %log.tp, segment = key.segment, %error, "a segment could not be read");
                log.flags.read_failed = true;
                self.reads.failed[1].push(key.log);
            }
        }
    }
}

/// The entries of an index that make sense.
fn usable_index(bytes: Slice, kind: FileKind, flushed: u32) -> Slice {
    let sane = match kind {
        FileKind::OffsetIndex => offset_index::check(&bytes, u64::from(flushed)).is_ok(),
        _ => time_index::check(&bytes).is_ok(),
    };
    if sane { bytes } else { bytes.slice(0, 0) }
}

impl Walk {
    /// Whether a batch may stand at the walk's position.
    fn fits(&self, header: &BatchHeader) -> bool {
        header.size() <= (self.flushed - self.position) as usize
            && header.last_offset_delta >= 0
            && header.base_offset >= self.next_offset
            && header.next_offset() <= self.end_offset
    }

    pub(super) fn skip(&mut self, header: &BatchHeader) {
        self.position += header.size() as u32;
        self.next_offset = header.next_offset();
        self.exact = true;
    }

    pub(super) fn is_done(&self) -> bool {
        self.position >= self.flushed
    }
}
