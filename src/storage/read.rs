//! Reads: the tail first, then the pieces of segments in memory, then the disk, an aligned chunk at a time.
//!
//! A read that misses starts the disk read and answers "pending"; it begins anew when it is called again, and finds the
//! chunk in the cache. Chunks are shared by all readers of the place. A reader that goes on where one stopped
//! ([`Cursor`]) needs no index and gets the next chunks read ahead. Every batch header that is served from a segment is
//! looked at: one that cannot stand where it does is an error, and nothing behind it is served. A batch that came from
//! the disk is checked against its checksum once, before the first reader gets it.

mod disk;

use std::ops::Range;

pub(super) use self::disk::Reads;
use super::cache::PieceKey;
use super::log::{Cursor, Take, push_slice, read_tail};
use super::names::FileKind;
use super::offset_index;
use super::store::Storage;
use super::types::*;
use crate::io::Io;
use crate::io::buffer::Slice;
use crate::record::batch::CHECKED_FROM;
use crate::record::{BATCH_OVERHEAD, BatchHeader, crc32c};

/// What a miss reads: little for a reader out of nowhere, more for one that goes on.
const READ_BYTES: u32 = 128 << 10;
const READ_SEQUENTIAL_BYTES: u32 = 512 << 10;
/// What memory is to hold ahead of a sequential reader.
const READ_AHEAD_BYTES: u32 = 1 << 20;
/// A segment smaller than this is scanned from its start instead of using its index.
const INDEX_FROM_BYTES: u32 = 64 << 10;

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
    /// Behind the last batch that was taken.
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
        let end_offset = range.end_offset.min(log.placed_end());
        if range.offset >= end_offset {
            return Ok(ReadOutcome::Done { bytes: 0, next_offset: range.offset });
        }
        let mut take = Take { end_offset, bytes_left: range.max_bytes, whole: range.at_least_one };
        if log.find_run(range.offset).is_some() {
            let (bytes, next_offset) = read_tail(log, range.offset, &mut take, out);
            return Ok(ReadOutcome::Done { bytes, next_offset });
        }
        self.cache.begin_read();
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
        // Who begins where a log does is about to go through it, too.
        let goes_on = self.logs.get(id).is_some_and(|log| log.find_cursor(offset).is_some());
        let sequential = goes_on || walk.position == 0;
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
        let end = walk.position.saturating_add(READ_AHEAD_BYTES).min(walk.flushed);
        let mut position = walk.position;
        while position < end && self.reads.may_read_ahead() {
            if let Some(end) = self.cache.end_of(walk.log, walk.segment, position) {
                position = end;
                continue;
            }
            // A read ahead that finds no memory is one that is not needed.
            let Ok(end) = self.read_chunk(io, walk, position, READ_SEQUENTIAL_BYTES) else { return };
            position = end;
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
            if size > take.bytes_left && !take.whole {
                // A reader can make nothing of a part of a batch.
                take.bytes_left = 0;
                return Ok(false);
            }
            if !self.is_sound(walk, &header)? {
                return Err(Stop::Corrupt);
            }
            self.push_bytes(walk, size as u32, out)?;
            take.bytes_left = take.bytes_left.saturating_sub(size);
            take.whole = false;
            walk.taken_end = header.next_offset();
            *bytes += size;
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
        if !in_one_piece && self.is_known_sound(&mut behind, batch.clone())? {
            return Ok(true);
        }
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

    /// Whether all pieces that a batch lies in were there when it was checked.
    fn is_known_sound(&mut self, walk: &mut Walk, batch: Range<u32>) -> Result<bool, Stop> {
        let mut at = batch.start;
        while at < batch.end {
            let (start, window) = self.window(walk, at).ok_or(Stop::Missing(at))?;
            let end = (at + window.len() as u32 - start).min(batch.end);
            if at < walk.sound.start || end > walk.sound.end {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// Adds the `len` bytes from the walk's position on, all of which memory has.
    fn push_bytes(&mut self, walk: &mut Walk, len: u32, out: &mut Vec<Slice>) -> Result<(), Stop> {
        let mut taken = 0;
        while taken < len {
            let at = walk.position + taken;
            let (start, window) = self.window(walk, at).ok_or(Stop::Missing(at))?;
            let have = (window.len() as u32 - start).min(len - taken);
            push_slice(out, window.slice(start as usize, have as usize));
            taken += have;
        }
        Ok(())
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
