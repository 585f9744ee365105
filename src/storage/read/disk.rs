//! The reads that the disk is asked for: chunks of segments, indexes, and the block that a flush goes on in.
//!
//! What is asked for twice is read once. What arrives goes to the cache, and who waits for the log is told. Called by the
//! walks of [`super`], look-ups, the cleaner and flushes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Walk;
use crate::io::buffer::{AlignedBuf, Slice};
use crate::io::{BLOCK_BYTES, Io};
use crate::storage::aborted;
use crate::storage::cache::{PieceKey, Source};
use crate::storage::jobs::{FileKey, JobError, Step};
use crate::storage::names::FileKind;
use crate::storage::offset_index;
use crate::storage::store::{End, Storage};
use crate::storage::time_index;
use crate::storage::types::*;

/// Disk reads under way at once, reads ahead not counted beyond half of it.
const READS_MAX: usize = 64;

/// The disk reads under way; whether a flush waits for one.
#[derive(Debug, Default)]
pub(in crate::storage) struct Reads {
    under_way: BTreeMap<PieceKey, UnderWay>,
    /// Logs with a read that failed in the turn before, and in this one.
    pub(super) failed: [Vec<LogId>; 2],
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    end: u32,
    for_flush: bool,
}

impl Reads {
    /// Whether there is room for a read that nobody waits for yet.
    pub(super) fn may_read_ahead(&self) -> bool {
        self.under_way.len() < READS_MAX / 2
    }

    /// Where the read under way ends that brings the piece which begins here.
    fn end_of(&self, key: PieceKey) -> Option<u32> {
        let (found, read) = self.under_way.range(..=key).next_back()?;
        let same = (found.log, found.segment, found.kind) == (key.log, key.segment, key.kind);
        (same && key.start < read.end).then_some(read.end)
    }

    /// Whether a read of one of these segments is under way.
    pub fn touch(&self, log: LogId, segments: std::ops::RangeInclusive<i64>) -> bool {
        self.under_way.keys().any(|key| key.log == log && segments.contains(&key.segment))
    }
}

impl Storage {
    /// Reads the chunk of the walk's segment that holds `position`, unless that is under way. Returns where it ends.
    pub(in crate::storage) fn read_chunk(
        &mut self,
        io: &mut impl Io,
        walk: &Walk,
        position: u32,
        chunk: u32,
    ) -> Result<u32, ReadError> {
        let start = position - position % BLOCK_BYTES as u32;
        let key = PieceKey { log: walk.log, segment: walk.segment, kind: FileKind::Log, start };
        if let Some(end) = self.reads.end_of(key) {
            return Ok(end);
        }
        let mut end = u64::from(start) + u64::from(chunk);
        if let Some(next) = self.cache.next_start(walk.log, walk.segment, position) {
            end = end.min(u64::from(next));
        }
        let end = end.min(u64::from(walk.flushed)) as u32;
        self.start_read(io, key, end - start, false)?;
        Ok(end)
    }

    /// Reads the block that a segment ends in, for the flush that goes on in it.
    pub(in crate::storage) fn read_for_flush(
        &mut self,
        io: &mut impl Io,
        log: LogId,
        segment: i64,
        start: u32,
    ) {
        let key = PieceKey { log, segment, kind: FileKind::Log, start };
        // It takes no memory from the pool, so it cannot fail to start.
        let _ = self.start_read(io, key, BLOCK_BYTES as u32, true);
    }

    pub(super) fn start_read(
        &mut self,
        io: &mut impl Io,
        key: PieceKey,
        len: u32,
        for_flush: bool,
    ) -> Result<(), ReadError> {
        if let Some(read) = self.reads.under_way.get_mut(&key) {
            read.for_flush |= for_flush;
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
            self.allocate_to_read(len).ok_or(ReadError::NoMemory)?
        };
        let Some(log) = self.logs.get(key.log) else { return Err(ReadError::UnknownLog) };
        let place = Arc::clone(&log.path);
        let file = FileKey { log: key.log, base_offset: key.segment, kind: key.kind };
        let steps = VecDeque::from([
            Step::Use { key: file, dir: place, create: false },
            Step::Read { offset: u64::from(key.start), len, buf: Some(buf) },
        ]);
        let dir = log.dir;
        self.reads.under_way.insert(key, UnderWay { end: key.start + len as u32, for_flush });
        self.jobs.start(io, dir, Some(key.log), steps, End::Read(key));
        Ok(())
    }

    pub(in crate::storage) fn read_ended(
        &mut self,
        key: PieceKey,
        buf: Option<(AlignedBuf, usize)>,
        error: Option<JobError>,
    ) {
        let for_flush = self.reads.under_way.remove(&key).is_some_and(|read| read.for_flush);
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
            Ok(bytes) => {
                let source = if for_flush { Source::Written } else { Source::Disk };
                self.cache.insert(key, bytes, source, 0..0);
            }
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
