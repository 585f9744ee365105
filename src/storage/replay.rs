//! Journals back into segments, at start-up, blocking.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::checkpoint::{PARTITION_METADATA_FILE, format_partition_metadata};
use super::journal::format::{Entry, EntryKind, FoundBlock, find_blocks, strange_bytes};
use super::journal::{Way, parse_file_name};
use super::leader_epoch::{LEADER_EPOCH_FILE, LeaderEpochs};
use super::load::{LoadedLog, sync_names};
use super::names::FileKind;
use super::producers::Change;
use super::scan::io_error;
use super::segment::{NewBatch, Segment};
use super::start::*;
use super::types::*;
use crate::io::buffer::Slice;
use crate::io::{Errno, Io, Op, OpenMode};
use crate::protocol::Uuid;
use crate::record::{BatchHeader, batches};

/// All logs together hold at most about this in memory during a replay.
const BUFFERED_BYTES_MAX: u64 = 64 << 20;
/// A journal file is read whole; none is ever much larger than its setting and one request.
const JOURNAL_FILE_BYTES_MAX: usize = 4 << 30;
const CREATE: OpenMode =
    OpenMode { write: true, create: true, truncate: false, direct: false, directory: false };

/// What a replay works on.
pub(super) trait Target {
    /// The log of an entry; `None` when its topic is gone.
    fn log(&mut self, io: &mut impl Io, topic_id: Uuid, partition: i32) -> Option<&mut Replay>;
    fn logs(&mut self) -> &mut BTreeMap<(Uuid, i32), Replay>;
    fn report(&mut self) -> &mut RecoveryReport;
}

/// A journal file, by its name.
#[derive(Clone, Debug)]
pub(super) struct JournalFile {
    pub path: PathBuf,
    incarnation: u64,
    way: Way,
}

/// The journal files of all shards in a directory, those of a shard side by side.
pub(super) fn find_journals(io: &mut impl Io, dir: &Path) -> Result<Vec<JournalFile>, StorageError> {
    let own = dir.join(super::OWN_DIR);
    let mut files = Vec::new();
    let list = |io: &mut _, path: &Path| match Io::list_dir(io, path) {
        Ok(entries) => Ok(entries),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(StorageError::Io { path: path.to_owned(), error }),
    };
    for shard in list(io, &own)? {
        if shard.is_dir && shard.name.starts_with("journal-") {
            let path = own.join(shard.name);
            files.extend(list(io, &path)?.into_iter().filter_map(|entry| {
                let (incarnation, way) = parse_file_name(&entry.name)?;
                Some(JournalFile { path: path.join(entry.name), incarnation, way })
            }));
        }
    }
    Ok(files)
}

/// Replays the journals, each shard's blocks in their order.
pub(super) fn replay_journals(
    io: &mut impl Io,
    files: &[JournalFile],
    target: &mut impl Target,
) -> Result<(), StorageError> {
    let mut shards: BTreeMap<&Path, Vec<&JournalFile>> = BTreeMap::new();
    for file in files {
        shards.entry(file.path.parent().unwrap_or(&file.path)).or_default().push(file);
    }
    for files in shards.values() {
        replay_shard(io, files, target)?;
    }
    Ok(())
}

/// A block's number, its file and its place there.
type Located = (u64, usize, usize);

fn replay_shard(
    io: &mut impl Io,
    files: &[&JournalFile],
    target: &mut impl Target,
) -> Result<(), StorageError> {
    let located = locate_blocks(io, files, target.report())?;
    let mut next = located.first().map_or(0, |block| block.0);
    // Of each way the file that is read.
    let mut open: [Option<OpenJournal>; Way::ALL.len()] = [None, None];
    // What had been replayed when the logs last wrote what they hold.
    let mut written_at = target.report().bytes_replayed;
    for (sequence, index, start) in located {
        if sequence > next {
            let lost = format!(
                "{}: blocks {next} to {} are missing or damaged",
                files[index].path.display(),
                sequence - 1
            );
            target.report().dropped.push(lost);
        }
        next = sequence + 1;
        let open = &mut open[files[index].way as usize];
        if open.as_ref().is_none_or(|open| open.index != index) {
            *open = Some(OpenJournal::read(io, files[index], index)?);
        }
        let Some(OpenJournal { bytes, blocks, .. }) = &open else { continue };
        let Ok(at) = blocks.binary_search_by_key(&start, |block| block.start) else { continue };
        let block = &blocks[at];
        match block.check(bytes) {
            Ok(()) => replay_block(io, bytes, block, target, &mut written_at)?,
            Err(damage) => {
                let lost = format!("{}: block {sequence}: {damage}", files[index].path.display());
                target.report().dropped.push(lost);
            }
        }
    }
    Ok(())
}

/// A file whose blocks are being replayed.
struct OpenJournal {
    index: usize,
    bytes: Vec<u8>,
    /// In their order in the file.
    blocks: Vec<FoundBlock>,
}

impl OpenJournal {
    fn read(io: &mut impl Io, file: &JournalFile, index: usize) -> Result<OpenJournal, StorageError> {
        let bytes = read_journal(io, &file.path)?;
        let blocks = find_blocks(&bytes, file.incarnation);
        Ok(OpenJournal { index, bytes, blocks })
    }
}

/// The live blocks of a shard in their order. What stands behind the last of them is reported: the rest of a write that
/// was under way, or a block that is damaged beyond knowing.
fn locate_blocks(
    io: &mut impl Io,
    files: &[&JournalFile],
    report: &mut RecoveryReport,
) -> Result<Vec<Located>, StorageError> {
    let mut located: Vec<Located> = Vec::new();
    let mut first_live = 0;
    // The newest block of each file, and what is strange behind it.
    let mut ends: Vec<(u64, usize)> = Vec::new();
    let mut newest = [0; Way::ALL.len()];
    for (index, file) in files.iter().enumerate() {
        let bytes = read_journal(io, &file.path)?;
        let blocks = find_blocks(&bytes, file.incarnation);
        let last = blocks.iter().max_by_key(|block| block.seal.sequence);
        let (last, end) =
            last.map_or((0, 0), |block| (block.seal.sequence, block.start + block.seal.block_bytes as usize));
        ends.push((last, strange_bytes(&bytes, end, file.incarnation)));
        let newest = &mut newest[file.way as usize];
        *newest = last.max(*newest);
        for block in blocks {
            first_live = first_live.max(block.seal.first_live);
            located.push((block.seal.sequence, index, block.start));
        }
    }
    located.sort_unstable();
    located.retain(|block| block.0 >= first_live);
    for (file, (last, strange)) in files.iter().zip(ends) {
        // Behind an older block a gap in the numbers tells.
        if strange > 0 && (last == newest[file.way as usize] || last == 0) {
            let path = file.path.display();
            report.cut.push(format!("{path}: {strange} bytes behind block {last}: no block"));
        }
    }
    Ok(located)
}

fn read_journal(io: &mut impl Io, path: &Path) -> Result<Vec<u8>, StorageError> {
    let bytes = read_file(io, path, JOURNAL_FILE_BYTES_MAX).map_err(|error| io_error(path, error))?;
    Ok(bytes.unwrap_or_default())
}

fn replay_block(
    io: &mut impl Io,
    bytes: &[u8],
    block: &FoundBlock,
    target: &mut impl Target,
    written_at: &mut u64,
) -> Result<(), StorageError> {
    target.report().journal_blocks += 1;
    for entry in &block.entries {
        replay_entry(io, block.bytes(bytes, entry), entry, target)?;
    }
    let replayed = target.report().bytes_replayed;
    if replayed - *written_at > BUFFERED_BYTES_MAX {
        *written_at = replayed;
        for log in target.logs().values_mut() {
            log.write_buffer(io)?;
        }
    }
    Ok(())
}

fn replay_entry(
    io: &mut impl Io,
    bytes: &[u8],
    entry: &Entry,
    target: &mut impl Target,
) -> Result<(), StorageError> {
    let wall_ms = io.wall_ms();
    let mut replayed = (0, 0);
    let mut gap = None;
    let Some(log) = target.log(io, entry.topic_id, entry.partition) else { return Ok(()) };
    match entry.kind {
        EntryKind::LogStart => log.set_start(entry.offset),
        EntryKind::Batches => {
            for batch in batches(bytes).map_while(Result::ok) {
                match log.append(io, batch.header(), batch.bytes(), wall_ms)? {
                    Appended::Known => {}
                    Appended::New => replayed = (replayed.0 + 1, replayed.1 + batch.bytes().len() as u64),
                    Appended::Gap => {
                        gap = Some(format!(
                            "{}: a batch at offset {} where {} is next",
                            log.tp,
                            batch.header().base_offset,
                            log.log.log_end_offset
                        ));
                    }
                }
            }
        }
    }
    let report = target.report();
    report.batches_replayed += replayed.0;
    report.bytes_replayed += replayed.1;
    report.dropped.extend(gap);
    Ok(())
}

enum Appended {
    /// The log had it.
    Known,
    New,
    /// It does not connect to the log's end.
    Gap,
}

/// A log being put back together.
#[derive(Debug)]
pub(super) struct Replay {
    pub log: LoadedLog,
    tp: TopicPartition,
    config: LogConfig,
    exists: bool,
    /// What the last segment has and its file has not.
    buffer: Vec<u8>,
    /// Segments with writes that are not synced.
    touched: Vec<i64>,
    changed: bool,
}

impl Replay {
    /// `exists`: the directory does, and is this log's.
    pub fn new(log: LoadedLog, tp: TopicPartition, config: LogConfig, exists: bool) -> Replay {
        let (buffer, touched) = (Vec::new(), Vec::new());
        Replay { log, tp, config, exists, buffer, touched, changed: false }
    }

    fn set_start(&mut self, offset: i64) {
        if offset > self.log.log_start_offset && offset <= self.log.log_end_offset {
            self.log.log_start_offset = offset;
            self.log.epochs.truncate_from_start(offset);
            self.changed = true;
        }
    }

    fn append(
        &mut self,
        io: &mut impl Io,
        header: &BatchHeader,
        bytes: &[u8],
        wall_ms: i64,
    ) -> Result<Appended, StorageError> {
        let end = self.log.log_end_offset;
        if header.next_offset() <= end {
            return Ok(Appended::Known);
        }
        if header.base_offset != end {
            return Ok(Appended::Gap);
        }
        let new = NewBatch {
            size: bytes.len() as u32,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp,
            wall_ms,
        };
        if self.log.segments.back().is_none_or(|last| last.must_roll(&new, &self.config)) {
            self.roll(io, end, wall_ms)?;
        }
        let interval = self.config.index_interval_bytes;
        if let Some(last) = self.log.segments.back_mut() {
            last.add(&new, interval);
            let base_offset = last.base_offset;
            if self.touched.last() != Some(&base_offset) {
                self.touched.push(base_offset);
            }
        }
        self.buffer.extend_from_slice(bytes);
        self.log.epochs.assign(header.partition_leader_epoch, header.base_offset);
        if let Ok(change) = Change::of(bytes, header, header.base_offset, header.max_timestamp, 0) {
            let aborted = change.apply(&mut self.log.producers);
            if let (Some(aborted), Some(last)) = (aborted, self.log.segments.back_mut()) {
                last.add_aborted(&aborted);
            }
        }
        self.log.producers.set_end_offset(header.next_offset());
        self.log.log_end_offset = header.next_offset();
        self.changed = true;
        Ok(Appended::New)
    }

    fn roll(&mut self, io: &mut impl Io, base_offset: i64, wall_ms: i64) -> Result<(), StorageError> {
        self.write_buffer(io)?;
        if let Some(last) = self.log.segments.back_mut() {
            last.close();
            // Its closing index entry is to be written even where nothing else of it is.
            if self.touched.last() != Some(&last.base_offset) {
                self.touched.push(last.base_offset);
            }
        }
        self.log.segments.push_back(Segment::new(base_offset, wall_ms, 0));
        Ok(())
    }

    fn write_buffer(&mut self, io: &mut impl Io) -> Result<(), StorageError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.create_dir(io)?;
        let Some(last) = self.log.segments.back_mut() else { return Ok(()) };
        let offset = u64::from(last.flushed);
        last.flushed = last.size;
        last.on_disk = true;
        let base_offset = last.base_offset;
        let path = self.log.file_path(base_offset, FileKind::Log);
        let bytes = std::mem::take(&mut self.buffer);
        write_at(io, &path, offset, &bytes).map_err(|error| io_error(&path, error))
    }

    /// Makes the directory; one of an earlier topic of the same name moves aside.
    fn create_dir(&mut self, io: &mut impl Io) -> Result<(), StorageError> {
        if self.exists {
            return Ok(());
        }
        let path = self.log.path.clone();
        let wrap = |error| io_error(&path, error);
        match io.block_on(Op::CreateDir { path: path.clone() }).result {
            Ok(_) => {}
            Err(Errno::EXISTS) => {
                let id = super::recovery::read_topic_id(io, &path)?;
                if id.is_some_and(|id| id != self.tp.topic_id) {
                    let aside = super::stray_path(&path, id.unwrap_or(Uuid::ZERO));
                    io.block_on(Op::Rename { from: path.clone(), to: aside }).result.map_err(wrap)?;
                    io.block_on(Op::CreateDir { path: path.clone() }).result.map_err(wrap)?;
                }
            }
            Err(error) => return Err(wrap(error)),
        }
        let metadata = format_partition_metadata(self.tp.topic_id);
        write_file(io, &path.join(PARTITION_METADATA_FILE), metadata.as_bytes()).map_err(wrap)?;
        self.exists = true;
        Ok(())
    }

    /// Writes and syncs all that the log has, and what a clean start wants beside it.
    pub fn finish(&mut self, io: &mut impl Io) -> Result<(), StorageError> {
        self.write_buffer(io)?;
        for base_offset in std::mem::take(&mut self.touched) {
            self.finish_segment(io, base_offset)?;
        }
        if !self.exists {
            return Ok(());
        }
        let path = self.log.path.join(LEADER_EPOCH_FILE);
        let known = read_file(io, &path, 64 << 20).map_err(|error| io_error(&path, error))?;
        let text = self.log.epochs.format();
        let is_new = self.log.epochs != LeaderEpochs::default() || known.is_some();
        if is_new && known.as_deref() != Some(text.as_bytes()) {
            replace_file_blocking(io, &path, text.as_bytes()).map_err(|error| io_error(&path, error))?;
        }
        let end = self.log.log_end_offset;
        let wants_snapshot = !self.log.producers.is_empty() || self.log.snapshot_offset >= 0;
        if wants_snapshot && self.log.snapshot_offset != end {
            let path = self.log.file_path(end, FileKind::ProducerSnapshot);
            replace_file_blocking(io, &path, &self.log.producers.snapshot())
                .map_err(|error| io_error(&path, error))?;
        }
        if self.changed || self.log.unsynced {
            // What a crash left readable, the next could take: whose the log is, its names, its renames. The first is written
            // anew: a sync of it may have failed, and then another sync says nothing (the kernel calls the page clean).
            let path = self.log.path.join(PARTITION_METADATA_FILE);
            let metadata = format_partition_metadata(self.tp.topic_id);
            replace_file_blocking(io, &path, metadata.as_bytes()).map_err(|error| io_error(&path, error))?;
            sync_names(io, &self.log.path)?;
        }
        Ok(())
    }

    fn finish_segment(&mut self, io: &mut impl Io, base_offset: i64) -> Result<(), StorageError> {
        let Some(segment) = self.log.segments.iter_mut().find(|segment| segment.base_offset == base_offset)
        else {
            return Ok(());
        };
        segment.add_closing_entry();
        let pending = std::mem::take(&mut segment.pending);
        let written = segment.flushed_entries;
        segment.entries_written(segment.entries);
        let mut indexes = vec![
            (FileKind::OffsetIndex, &pending.offsets, written.bytes(FileKind::OffsetIndex)),
            (FileKind::TimeIndex, &pending.times, written.bytes(FileKind::TimeIndex)),
        ];
        if !pending.aborted.is_empty() {
            let kind = FileKind::TransactionIndex;
            indexes.push((kind, &pending.aborted, written.bytes(kind)));
        }
        for (kind, bytes, offset) in indexes {
            let path = self.log.file_path(base_offset, kind);
            write_at(io, &path, u64::from(offset), bytes).map_err(|error| io_error(&path, error))?;
            sync_file(io, &path).map_err(|error| io_error(&path, error))?;
        }
        let path = self.log.file_path(base_offset, FileKind::Log);
        sync_file(io, &path).map_err(|error| io_error(&path, error))
    }
}

fn write_at(io: &mut impl Io, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
    let file = open_blocking(io, path, CREATE)?;
    let mut result = Ok(0);
    if !bytes.is_empty() {
        result = io.block_on(Op::Write { file, offset, data: Slice::copy_of(bytes), sync: false }).result;
    }
    // What a file held behind this was not part of the log.
    let cut =
        result.and_then(|_| io.block_on(Op::Truncate { file, len: offset + bytes.len() as u64 }).result);
    close_blocking(io, file);
    cut.map(|_| ())
}
