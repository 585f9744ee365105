//! A log from its files, at start-up, blocking.
//!
//! After a clean stop the files are believed: each segment's size, the index of the last one up to its end, the newest
//! producer snapshot. After any other stop everything behind the recovery point is checked batch by batch; the log ends
//! at the first that is not right, and what follows is cut off and reported. Indexes that are missing or cannot be right
//! are made anew. Directories of Apache Kafka are read all the same.

mod producers; // what the log says of its producers

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::cleaner::finish_swap;
use super::leader_epoch::{LEADER_EPOCH_FILE, LeaderEpochs};
use super::names::{FileKind, FileName, FileState};
use super::offset_index::{self, OffsetPosition};
use super::producer_state::{ProducerState, ProducerStateConfig};
use super::scan::{Depth, ScanRange, io_error, scan};
use super::segment::{IndexEntries, Largest, NewBatch, OFFSET_ENTRY_BYTES, Segment, TIME_ENTRY_BYTES};
use super::start::{
    close_blocking, exchange_file_blocking, open_blocking, read_file, remove_blocking, replace_file_blocking,
    rewrite_blocking, sync_blocking, sync_dir_blocking,
};
use super::time_index;
use super::types::*;
use crate::io::{DirEntry, Errno, Io, Op, OpenMode};
use crate::record::BatchHeader;

/// The largest index and checkpoint files that are read.
const SMALL_FILE_BYTES_MAX: usize = 256 << 20;

/// What a log is loaded with.
#[derive(Clone, Debug)]
pub(super) struct LoadOptions {
    pub path: PathBuf,
    pub index_interval_bytes: u32,
    /// After an unclean stop: what lies behind this offset is checked.
    pub recovery_point: Option<i64>,
    /// What lies behind the recovery point has no gaps: all of it was written by us.
    pub dense: bool,
    /// After a clean stop: where it left the log's end, if that is known.
    pub known_end: Option<i64>,
    pub log_start_offset: i64,
    pub producers: ProducerStateConfig,
    pub wall_ms: i64,
}

/// A log as its files have it.
#[derive(Debug)]
pub(super) struct LoadedLog {
    pub path: PathBuf,
    pub segments: VecDeque<Segment>,
    pub log_start_offset: i64,
    pub log_end_offset: i64,
    pub epochs: LeaderEpochs,
    pub producers: ProducerState,
    pub snapshot_offset: i64,
    pub stray_snapshot: Option<i64>,
    pub bytes_checked: u64,
    /// Something here need not be on stable media: behind the recovery point, or renamed or removed a while ago.
    pub unsynced: bool,
    /// What was cut off and why.
    pub dropped: Vec<String>,
}

/// Loads the log in a directory; `None` when there is no such directory.
pub(super) fn load(io: &mut impl Io, options: &LoadOptions) -> Result<Option<LoadedLog>, StorageError> {
    let wrap = |error| StorageError::Io { path: options.path.clone(), error };
    let mut entries = match io.list_dir(&options.path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrap(error)),
    };
    if finish_swap(io, &options.path, &entries)? {
        entries = io.list_dir(&options.path).map_err(wrap)?;
    }
    let mut loader = Loader {
        options,
        log: LoadedLog::empty(options),
        files: Files::default(),
        kept_aborted: BTreeMap::new(),
    };
    loader.sort_files(io, &entries)?;
    loader.load_segments(io)?;
    loader.load_start(io)?;
    loader.miss_end();
    loader.load_epochs(io)?;
    let rebuild_from = loader.load_aborted(io)?;
    loader.load_producers(io, rebuild_from)?;
    loader.log.unsynced |= options.recovery_point != Some(loader.log.log_end_offset);
    Ok(Some(loader.log))
}

impl LoadedLog {
    pub fn empty(options: &LoadOptions) -> LoadedLog {
        LoadedLog {
            path: options.path.clone(),
            segments: VecDeque::new(),
            log_start_offset: options.log_start_offset,
            log_end_offset: options.log_start_offset,
            epochs: LeaderEpochs::default(),
            producers: ProducerState::new(options.producers),
            snapshot_offset: -1,
            stray_snapshot: None,
            bytes_checked: 0,
            unsynced: false,
            dropped: Vec::new(),
        }
    }

    pub fn file_path(&self, base_offset: i64, kind: FileKind) -> PathBuf {
        self.path.join(FileName::new(base_offset, kind).to_string())
    }
}

/// What the directory holds.
#[derive(Debug, Default)]
struct Files {
    logs: Vec<(i64, u64)>,
    snapshots: Vec<i64>,
    indexes: Vec<(FileName, u64)>,
}

struct Loader<'a> {
    options: &'a LoadOptions,
    log: LoadedLog,
    files: Files,
    /// What stays of the transaction indexes that change, by segment. They are written when what has to follow is found: were
    /// they cut before, a crash in between would take that for all there is.
    kept_aborted: BTreeMap<i64, Vec<u8>>,
}

impl Loader<'_> {
    fn sort_files(&mut self, io: &mut impl Io, entries: &[DirEntry]) -> Result<(), StorageError> {
        for entry in entries {
            let Some(name) = FileName::parse(&entry.name) else { continue };
            match (name.state, name.kind) {
                (FileState::Deleted | FileState::Cleaned, _) => {
                    self.log.unsynced = true;
                    let path = self.options.path.join(&entry.name);
                    remove_blocking(io, &path).map_err(|error| io_error(&path, error))?;
                }
                (FileState::Swap, _) => {}
                (FileState::Live, FileKind::Log) => self.files.logs.push((name.base_offset, entry.len)),
                (FileState::Live, FileKind::ProducerSnapshot) => self.files.snapshots.push(name.base_offset),
                (FileState::Live, _) => self.files.indexes.push((name, entry.len)),
            }
        }
        self.files.logs.sort_unstable();
        self.files.snapshots.sort_unstable();
        Ok(())
    }

    fn index_entries(&self, base_offset: i64, kind: FileKind, entry_bytes: u32) -> Option<u32> {
        let name = FileName::new(base_offset, kind);
        let (_, len) = self.files.indexes.iter().find(|(found, _)| *found == name)?;
        let entry_bytes = u64::from(entry_bytes);
        len.is_multiple_of(entry_bytes).then(|| u32::try_from(len / entry_bytes).ok())?
    }

    fn load_segments(&mut self, io: &mut impl Io) -> Result<(), StorageError> {
        let logs = std::mem::take(&mut self.files.logs);
        // Recovery begins in the segment that ends at the recovery point or holds it: the one that ends there may have
        // been closed after the point was written, and lack its last index entry.
        let unclean_from = self.options.recovery_point.map(|point| {
            let behind = logs.partition_point(|(base_offset, _)| *base_offset < point);
            behind.saturating_sub(1)
        });
        for (index, &(base_offset, len)) in logs.iter().enumerate() {
            let next_base = logs.get(index + 1).map(|next| next.0);
            let check = unclean_from.is_some_and(|from| index >= from);
            let whole = self.load_segment(io, base_offset, len, next_base, check)?;
            if !whole {
                for &(base_offset, len) in &logs[index + 1..] {
                    self.drop_segment(io, base_offset, len)?;
                }
                break;
            }
        }
        Ok(())
    }

    /// Adds a segment. False when it had to be cut, so that nothing can follow it.
    fn load_segment(
        &mut self,
        io: &mut impl Io,
        base_offset: i64,
        len: u64,
        next_base: Option<i64>,
        check: bool,
    ) -> Result<bool, StorageError> {
        let size = u32::try_from(len).map_err(|_| StorageError::Corrupt {
            path: self.log.file_path(base_offset, FileKind::Log),
            what: format!("{len} bytes are more than a segment may have"),
        })?;
        let offsets = self.index_entries(base_offset, FileKind::OffsetIndex, OFFSET_ENTRY_BYTES);
        let times = self.index_entries(base_offset, FileKind::TimeIndex, TIME_ENTRY_BYTES);
        if let (false, Some(next), Some(offsets), Some(times)) = (check, next_base, offsets, times) {
            let entries = IndexEntries { offsets, times, aborted: 0 };
            self.log.segments.push_back(Segment::loaded(base_offset, size, self.options.wall_ms, entries));
            self.log.log_end_offset = next;
            return Ok(true);
        }
        let from = self.scan_start(io, base_offset, len, check)?;
        let depth = if check { Depth::Checksums } else { Depth::Headers };
        let end_offset = next_base.unwrap_or(i64::MAX);
        let mut rebuilt = Rebuilt::resume(base_offset, &from, self.options);
        let epochs = &mut self.log.epochs;
        let dense_from = self.options.recovery_point.filter(|_| self.options.dense).unwrap_or(i64::MAX);
        let range = ScanRange {
            path: self.log.path.join(FileName::new(base_offset, FileKind::Log).to_string()),
            position: from.position,
            len,
            next_offset: from.offset,
            end_offset,
            dense_from,
            known_end: self.options.known_end.filter(|_| next_base.is_none()),
            depth,
        };
        let mut end = scan(io, &range, |_, header, _| {
            rebuilt.add(header);
            if check {
                epochs.assign(header.partition_leader_epoch, header.base_offset);
            }
        })?;
        if end.damage.is_some() && depth == Depth::Headers {
            // What a clean stop left should be right; where it is not, nothing is believed.
            let range =
                ScanRange { position: 0, next_offset: base_offset, depth: Depth::Checksums, ..range.clone() };
            rebuilt = Rebuilt::resume(base_offset, &ScanStart::at(base_offset), self.options);
            end = scan(io, &range, |_, header, _| rebuilt.add(header))?;
        }
        if let Some(next) = next_base.filter(|next| *next > dense_from && end.next_offset < *next)
            && end.damage.is_none()
        {
            end.damage = Some(format!("it ends at offset {} and the next begins at {next}", end.next_offset));
        }
        self.log.bytes_checked += end.position - from.position.min(end.position);
        if check && end.next_offset > self.options.recovery_point.unwrap_or(0) {
            // What is found need not be on stable media yet, and the journal that has it is about to go.
            rewrite(io, &range.path, from.position..end.position)?;
        }
        if let Some(damage) = &end.damage {
            self.cut(io, base_offset, end.position, len, damage)?;
        }
        let segment = rebuilt.finish(io, &self.log, next_base.is_some() && end.damage.is_none())?;
        self.log.segments.push_back(segment);
        self.log.log_end_offset = match next_base {
            Some(next) if end.damage.is_none() => next,
            _ => end.next_offset,
        };
        Ok(end.damage.is_none())
    }

    /// From where a segment must be walked over: its last index entry that can be believed, below the recovery point.
    fn scan_start(
        &self,
        io: &mut impl Io,
        base_offset: i64,
        len: u64,
        check: bool,
    ) -> Result<ScanStart, StorageError> {
        let from_start = ScanStart::at(base_offset);
        let point = if check { self.options.recovery_point.unwrap_or(0) } else { i64::MAX };
        if len == 0 || point <= base_offset {
            return Ok(from_start);
        }
        let mut read = |kind| {
            let path = self.log.file_path(base_offset, kind);
            read_file(io, &path, SMALL_FILE_BYTES_MAX).map_err(|error| io_error(&path, error))
        };
        let (Some(offsets), Some(times)) = (read(FileKind::OffsetIndex)?, read(FileKind::TimeIndex)?) else {
            return Ok(from_start);
        };
        if offset_index::check(&offsets, len).is_err() || time_index::check(&times).is_err() {
            return Ok(from_start);
        }
        let floor = offset_index::lookup(&offsets, base_offset, point - 1);
        let (position, offset) = self.batch_of_entry(io, base_offset, Some(floor))?;
        if position == 0 {
            return Ok(from_start);
        }
        let kept = offsets.chunks_exact(OFFSET_ENTRY_BYTES as usize);
        let kept = kept.take_while(|entry| entry[4..] < floor.position.to_be_bytes()[..]).count();
        let mut offsets = offsets;
        offsets.truncate(kept * OFFSET_ENTRY_BYTES as usize);
        let mut times = times;
        times.truncate(time_index::truncated_len(&times, base_offset, offset));
        Ok(ScanStart { position, offset, offsets, times })
    }

    /// Cuts a segment behind its last good batch.
    fn cut(
        &mut self,
        io: &mut impl Io,
        base_offset: i64,
        position: u64,
        len: u64,
        damage: &str,
    ) -> Result<(), StorageError> {
        let path = self.log.file_path(base_offset, FileKind::Log);
        self.log.dropped.push(format!(
            "{}: {} bytes from {position} on: {damage}",
            path.display(),
            len - position
        ));
        let truncate = |io: &mut _| truncate_blocking(io, &path, position);
        truncate(io).map_err(|error| io_error(&path, error))
    }

    fn drop_segment(&mut self, io: &mut impl Io, base_offset: i64, len: u64) -> Result<(), StorageError> {
        let path = self.log.file_path(base_offset, FileKind::Log);
        self.log.dropped.push(format!("{}: all {len} bytes: the segment before it was cut", path.display()));
        self.log.unsynced = true;
        for kind in FileKind::ALL {
            let path = self.log.file_path(base_offset, kind);
            remove_blocking(io, &path).map_err(|error| io_error(&path, error))?;
        }
        Ok(())
    }

    /// The log start offset, by the checkpoint and the first segment; a log that ends below its start begins anew there.
    fn load_start(&mut self, io: &mut impl Io) -> Result<(), StorageError> {
        let first = self.log.segments.front().map(|segment| segment.base_offset);
        let start = self.options.log_start_offset.max(first.unwrap_or(0));
        self.log.log_start_offset = start;
        if self.log.log_end_offset >= start {
            return Ok(());
        }
        for segment in std::mem::take(&mut self.log.segments) {
            self.drop_segment(io, segment.base_offset, u64::from(segment.size))?;
        }
        self.log.log_end_offset = start;
        Ok(())
    }

    /// Says so where a log is shorter than a clean stop left it.
    fn miss_end(&mut self) {
        let end = self.log.log_end_offset;
        if let Some(known) = self.options.known_end.filter(|known| end < *known) {
            let path = self.log.path.display();
            self.log
                .dropped
                .push(format!("{path}: it ends at offset {end}, a clean stop left it at {known}"));
        }
    }

    fn load_epochs(&mut self, io: &mut impl Io) -> Result<(), StorageError> {
        let path = self.log.path.join(LEADER_EPOCH_FILE);
        let bytes = read_file(io, &path, SMALL_FILE_BYTES_MAX).map_err(|error| io_error(&path, error))?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let mut epochs = text.and_then(|text| LeaderEpochs::parse(&text).ok()).unwrap_or_default();
        for entry in self.log.epochs.entries() {
            epochs.assign(entry.epoch, entry.start_offset);
        }
        epochs.truncate_from_end(self.log.log_end_offset);
        epochs.truncate_from_start(self.log.log_start_offset);
        self.log.epochs = epochs;
        Ok(())
    }

    fn headers(&self, index: usize, start: (u64, i64), end_offset: i64) -> ScanRange {
        let segment = &self.log.segments[index];
        ScanRange {
            path: self.log.file_path(segment.base_offset, FileKind::Log),
            position: start.0,
            len: u64::from(segment.size),
            next_offset: start.1,
            end_offset,
            dense_from: i64::MAX,
            known_end: None,
            depth: Depth::Headers,
        }
    }

    /// A place in a segment where a batch begins that is not behind `offset`, and that batch's offset.
    fn position_below(
        &self,
        io: &mut impl Io,
        index: usize,
        offset: i64,
    ) -> Result<(u64, i64), StorageError> {
        let segment = &self.log.segments[index];
        let (base_offset, size) = (segment.base_offset, u64::from(segment.size));
        if offset <= base_offset {
            return Ok((0, base_offset));
        }
        let Some(offsets) = self.sane_index(io, base_offset, size)? else { return Ok((0, base_offset)) };
        let floor = offset_index::lookup(&offsets, base_offset, offset - 1);
        self.batch_of_entry(io, base_offset, Some(floor))
    }

    fn sane_index(
        &self,
        io: &mut impl Io,
        base_offset: i64,
        size: u64,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let path = self.log.file_path(base_offset, FileKind::OffsetIndex);
        let bytes = read_file(io, &path, SMALL_FILE_BYTES_MAX).map_err(|error| io_error(&path, error))?;
        Ok(bytes.filter(|bytes| offset_index::check(bytes, size).is_ok()))
    }

    /// The place and the offset of the batch that an index entry names; the segment's start where it names none.
    fn batch_of_entry(
        &self,
        io: &mut impl Io,
        base_offset: i64,
        entry: Option<OffsetPosition>,
    ) -> Result<(u64, i64), StorageError> {
        let Some(entry) = entry.filter(|entry| entry.position > 0) else { return Ok((0, base_offset)) };
        let path = self.log.file_path(base_offset, FileKind::Log);
        let position = u64::from(entry.position);
        let header = header_at(io, &path, position)?;
        let header =
            header.filter(|header| header.last_offset() == entry.offset && header.base_offset >= base_offset);
        Ok(header.map_or((0, base_offset), |header| (position, header.base_offset)))
    }
}

/// Where a walk over a segment begins, and the index entries below it.
#[derive(Debug)]
struct ScanStart {
    position: u64,
    offset: i64,
    offsets: Vec<u8>,
    times: Vec<u8>,
}

impl ScanStart {
    fn at(base_offset: i64) -> ScanStart {
        ScanStart { position: 0, offset: base_offset, offsets: Vec::new(), times: Vec::new() }
    }
}

/// A segment being put together from its batches.
struct Rebuilt {
    segment: Segment,
    offsets: Vec<u8>,
    times: Vec<u8>,
    index_interval_bytes: u32,
    wall_ms: i64,
    first_seen: bool,
    unclean: bool,
}

impl Rebuilt {
    fn resume(base_offset: i64, from: &ScanStart, options: &LoadOptions) -> Rebuilt {
        let entries = IndexEntries {
            offsets: from.offsets.len() as u32 / OFFSET_ENTRY_BYTES,
            times: from.times.len() as u32 / TIME_ENTRY_BYTES,
            aborted: 0,
        };
        let position = from.position as u32;
        let mut segment = Segment::loaded(base_offset, position, options.wall_ms, entries);
        let last = time_index::entries(&from.times, base_offset).last();
        let largest =
            last.map_or(Largest::NONE, |last| Largest { timestamp: last.timestamp, offset: last.offset });
        segment.resume(largest, largest.timestamp, if position > 0 { u32::MAX } else { 0 }, -1);
        Rebuilt {
            segment,
            offsets: from.offsets.clone(),
            times: from.times.clone(),
            index_interval_bytes: options.index_interval_bytes,
            wall_ms: options.wall_ms,
            first_seen: position == 0,
            unclean: options.recovery_point.is_some(),
        }
    }

    fn add(&mut self, header: &BatchHeader) {
        let new = NewBatch {
            size: header.size() as u32,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp,
            wall_ms: self.wall_ms,
        };
        self.segment.add(&new, self.index_interval_bytes);
    }

    /// Writes the indexes and gives the segment, everything in it flushed.
    fn finish(mut self, io: &mut impl Io, log: &LoadedLog, closed: bool) -> Result<Segment, StorageError> {
        if closed {
            self.segment.close();
        }
        let base_offset = self.segment.base_offset;
        if !self.first_seen {
            let path = log.file_path(base_offset, FileKind::Log);
            self.segment.first_timestamp = header_at(io, &path, 0)?.map_or(-1, |header| header.max_timestamp);
        }
        let pending = std::mem::take(&mut self.segment.pending);
        self.offsets.extend_from_slice(&pending.offsets);
        self.times.extend_from_slice(&pending.times);
        let read = |io: &mut _, kind| {
            let path = log.file_path(base_offset, kind);
            read_file(io, &path, SMALL_FILE_BYTES_MAX).map_err(|error| io_error(&path, error))
        };
        let (offsets, times) = (read(io, FileKind::OffsetIndex)?, read(io, FileKind::TimeIndex)?);
        if times.as_ref().is_some_and(|times| times.len() > self.times.len()) {
            // A clean stop adds an entry for the last records.
            self.segment.add_closing_entry();
            self.times.append(&mut self.segment.pending.times);
        }
        let indexes =
            [(FileKind::OffsetIndex, offsets, &self.offsets), (FileKind::TimeIndex, times, &self.times)];
        for (kind, known, bytes) in indexes {
            let path = log.file_path(base_offset, kind);
            // What a crash left readable the next could take, and by then it is believed.
            if self.unclean || known.as_ref() != Some(bytes) {
                // Were the start cut off in here, the next would believe an index that lacks what the other one has.
                exchange_file_blocking(io, &path, bytes).map_err(|error| io_error(&path, error))?;
            }
        }
        let segment = &mut self.segment;
        segment.flushed = segment.size;
        segment.synced = segment.size;
        segment.entries_written(segment.entries);
        Ok(self.segment)
    }
}

/// The batch header at a position of a file; `None` where none is.
fn header_at(io: &mut impl Io, path: &Path, position: u64) -> Result<Option<BatchHeader>, StorageError> {
    let wrap = |error| io_error(path, error);
    let file = open_blocking(io, path, OpenMode::default()).map_err(wrap)?;
    let read = super::start::read_blocking(io, file, position, 4096);
    close_blocking(io, file);
    let (buf, len) = read.map_err(wrap)?;
    Ok(BatchHeader::parse(&buf[..len]).ok())
}

fn rewrite(io: &mut impl Io, path: &Path, part: Range<u64>) -> Result<(), StorageError> {
    rewrite_blocking(io, path, part).map_err(|error| io_error(path, error))
}

fn truncate_blocking(io: &mut impl Io, path: &Path, len: u64) -> Result<(), Errno> {
    let file = open_blocking(io, path, OpenMode { write: true, ..OpenMode::default() })?;
    let result =
        io.block_on(Op::Truncate { file, len }).result.and_then(|_| sync_blocking(io, file).map(|()| 0));
    close_blocking(io, file);
    result.map(|_| ())
}

/// Makes the names in a log's directory stay.
pub(super) fn sync_names(io: &mut impl Io, path: &Path) -> Result<(), StorageError> {
    sync_dir_blocking(io, path).map_err(|error| io_error(path, error))
}
