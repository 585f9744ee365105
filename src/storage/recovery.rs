//! Start-up: the directories brought to a clean state, whatever ended the run before.
//!
//! After a clean stop (its mark, and no journal files) nothing is done. Else every log is loaded with its recovery point
//! ([`super::load`]), then the journals of all shards are replayed in the order of their blocks: what a log has already
//! is passed over, what follows its end is appended, what does not connect is dropped and reported. Everything is synced
//! before the journal files go, so that a crash in here only means doing it again.
//!
//! A log belongs into the directory that the metadata names. One that a move between directories has left elsewhere, before the
//! metadata's decision or after it, goes away, and its entries in that directory's journal count for nothing. Of a copy that was not
//! complete the report tells where it was to go.
//!
//! Offsets are kept by topic id in `.ringlog`, so that those of a deleted topic cannot be taken for its successor's;
//! Kafka's own checkpoints, by name, are read where ours are missing and written by [`mark_clean`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::*;
use super::load::{LoadOptions, LoadedLog, load};
use super::names::{DirectoryState, parse_directory_name};
use super::producer_state::ProducerStateConfig;
use super::replay::{JournalFile, Replay, find_journals, replay_journals};
use super::scan::io_error;
use super::start::*;
use super::types::*;
use crate::io::{Errno, Io, Op};
use crate::protocol::Uuid;

/// What a topic id stands for now; `None` when the topic is gone.
pub type Topics<'a> = dyn Fn(Uuid) -> Option<(Arc<str>, LogConfig)> + 'a;

/// In which of the directories, by index, a partition belongs; `None` when it may be in any.
pub type Homes<'a> = dyn Fn(Uuid, i32) -> Option<usize> + 'a;

const CHECKPOINT_BYTES_MAX: usize = 64 << 20;
/// The checkpoints that are kept by topic id.
const OFFSET_FILES: [&str; 3] = [RECOVERY_POINT_FILE, LOG_START_OFFSET_FILE, CLEANER_OFFSET_FILE];
/// A Kafka controller keeps its own log beside the others.
const KAFKA_METADATA_TOPIC: &str = "__cluster_metadata";
const LOCK_FILE: &str = ".lock";
const LOCK_WAIT_NS: u64 = 3_000_000_000;
const LOCK_RETRY_NS: u64 = 20_000_000;

/// Offsets by topic id and partition.
pub(super) type Offsets = BTreeMap<(Uuid, i32), i64>;

/// Locks the directories for the life of `io`'s driver, so that no other broker uses them. Blocking, before anything else.
/// Waits a little for a holder: the kernel ends the ring of a killed process, and with it the lock, some time after the
/// process itself is gone.
pub fn lock_dirs(io: &mut impl Io, dirs: &[PathBuf]) -> Result<(), StorageError> {
    let deadline_ns = io.now().saturating_add(LOCK_WAIT_NS);
    for dir in dirs {
        let path = dir.join(LOCK_FILE);
        loop {
            match io.lock_file(&path) {
                Ok(true) => break,
                Ok(false) if io.now() < deadline_ns => {
                    let until_ns = io.now().saturating_add(LOCK_RETRY_NS);
                    while io.now() < until_ns {
                        io.turn(until_ns, &mut Vec::new());
                    }
                }
                Ok(false) => return Err(StorageError::Locked { path }),
                Err(error) => return Err(StorageError::Io { path, error }),
            }
        }
    }
    Ok(())
}

/// Brings the directories to a clean state. Blocking; once for all shards, after [`lock_dirs`] and before
/// any [`Storage`](super::Storage) opens. The number of shards may differ from that of the run before. A directory that
/// fails is named in the report, and is offline when it is opened.
pub fn recover(
    io: &mut impl Io,
    dirs: &[PathBuf],
    topics: &Topics<'_>,
    homes: &Homes<'_>,
) -> Result<RecoveryReport, StorageError> {
    let mut report = RecoveryReport { clean: true, ..RecoveryReport::default() };
    for (index, dir) in dirs.iter().enumerate() {
        let (dense, report, logs) = (false, &mut report, BTreeMap::new());
        let mut recovery = Recovery { topics, homes, dirs, index, dir, dense, report, logs };
        if let Err(error) = recovery.run(io) {
            tracing::error!(dir = %dir.display(), %error, "log directory could not be recovered");
            recovery.report.failed_dirs.push((index, error.to_string()));
        }
    }
    for line in &report.cut {
        tracing::info!("recovery: {line}");
    }
    for line in &report.dropped {
        tracing::warn!("recovery: {line}");
    }
    Ok(report)
}

/// After all shards have stopped cleanly: writes Kafka's checkpoints and its mark of a clean stop. Without it the next
/// start looks a little longer.
pub fn mark_clean(io: &mut impl Io, dirs: &[PathBuf]) -> Result<(), StorageError> {
    for dir in dirs {
        if !find_journals(io, dir)?.is_empty() {
            continue;
        }
        merge_checkpoints(io, dir)?;
        let path = dir.join(CLEAN_SHUTDOWN_FILE);
        replace_file_blocking(io, &path, format_clean_shutdown(-1).as_bytes())
            .map_err(|error| io_error(&path, error))?;
    }
    Ok(())
}

struct Recovery<'a> {
    topics: &'a Topics<'a>,
    homes: &'a Homes<'a>,
    dirs: &'a [PathBuf],
    index: usize,
    dir: &'a Path,
    /// The recovery points are ours.
    dense: bool,
    report: &'a mut RecoveryReport,
    logs: BTreeMap<(Uuid, i32), Replay>,
}

impl Recovery<'_> {
    fn run(&mut self, io: &mut impl Io) -> Result<(), StorageError> {
        let own = self.dir.join(super::OWN_DIR);
        create_dir_blocking(io, &own).map_err(|error| io_error(&own, error))?;
        let journals = find_journals(io, self.dir)?;
        let mark = self.dir.join(CLEAN_SHUTDOWN_FILE);
        let marked = read_file(io, &mark, 4096).map_err(|error| io_error(&mark, error))?.is_some();
        // Nothing of ours changes a segment without a journal file being there.
        let ours = read_file(io, &own.join(RECOVERY_POINT_FILE), CHECKPOINT_BYTES_MAX);
        let ours = ours.map_err(|error| io_error(&own, error))?.is_some();
        self.dense = ours && !journals.is_empty();
        let partitions = self.partitions(io)?;
        let clean = journals.is_empty() && (marked || ours || partitions.is_empty());
        let mut starts = read_offsets(io, self.dir, LOG_START_OFFSET_FILE, &partitions)?;
        let points = read_offsets(io, self.dir, RECOVERY_POINT_FILE, &partitions)?;
        if !clean {
            self.report.clean = false;
            self.load_all(io, &partitions, &points, &starts)?;
            replay_journals(io, &journals, self)?;
            let mut ends = points;
            for (key, replay) in &mut self.logs {
                replay.finish(io)?;
                let end = replay.log.log_end_offset;
                if let Some(point) = ends.insert(*key, end).filter(|point| end < *point) {
                    let path = replay.log.path.display();
                    self.report
                        .dropped
                        .push(format!("{path}: offsets {end} to {point}, once on stable media"));
                }
                if replay.log.log_start_offset > 0 {
                    starts.insert(*key, replay.log.log_start_offset);
                }
            }
            sync_dir_blocking(io, self.dir).map_err(|error| io_error(self.dir, error))?;
            write_offsets(io, self.dir, RECOVERY_POINT_FILE, &ends)?;
        } else {
            // Also those of the shards, whose files go: from too low a point on the gaps of compaction are damage.
            write_offsets(io, self.dir, RECOVERY_POINT_FILE, &points)?;
        }
        write_offsets(io, self.dir, LOG_START_OFFSET_FILE, &starts)?;
        let cleaned = read_offsets(io, self.dir, CLEANER_OFFSET_FILE, &partitions)?;
        write_offsets(io, self.dir, CLEANER_OFFSET_FILE, &cleaned)?;
        self.remove_leftovers(io, &journals, &mark)
    }

    /// The logs in the directory, by the topic ids they carry. Deleted ones are removed on the way.
    fn partitions(&mut self, io: &mut impl Io) -> Result<Partitions, StorageError> {
        let mut partitions = Partitions::new();
        let wrap = |error| StorageError::Io { path: self.dir.to_owned(), error };
        for entry in io.list_dir(self.dir).map_err(wrap)? {
            let Some(name) = parse_directory_name(&entry.name).filter(|_| entry.is_dir) else { continue };
            let path = self.dir.join(&entry.name);
            match name.state {
                DirectoryState::Delete => {
                    remove_dir_blocking(io, &path).map_err(|error| io_error(&path, error))?
                }
                DirectoryState::Live => {
                    let id = read_topic_id(io, &path)?;
                    match id.filter(|id| (self.topics)(*id).is_some()) {
                        Some(id) if self.is_elsewhere(id, name.partition) => {
                            self.remove_left(io, &path, id, name.partition)?;
                        }
                        Some(id) => {
                            partitions.insert((id, name.partition), (name.topic.to_string(), path));
                        }
                        None if name.topic == KAFKA_METADATA_TOPIC => {}
                        // Its name must be free for a topic that comes later.
                        None => set_aside(io, &path, id.unwrap_or(Uuid::ZERO))?,
                    }
                }
                DirectoryState::Future => {
                    if let Some(id) = read_topic_id(io, &path)? {
                        self.report.moves.push((id, name.partition, self.index));
                    }
                    remove_dir_blocking(io, &path).map_err(|error| io_error(&path, error))?;
                }
                DirectoryState::Stray => {}
            }
        }
        Ok(partitions)
    }

    fn is_elsewhere(&self, topic_id: Uuid, partition: i32) -> bool {
        (self.homes)(topic_id, partition).is_some_and(|home| home != self.index)
    }

    /// Removes a log that belongs into another directory, if it is there.
    fn remove_left(
        &mut self,
        io: &mut impl Io,
        path: &Path,
        id: Uuid,
        partition: i32,
    ) -> Result<(), StorageError> {
        let home = (self.homes)(id, partition).and_then(|home| self.dirs.get(home));
        let (Some(home), Some(name)) = (home, path.file_name()) else { return Ok(()) };
        let home = home.join(name);
        if read_topic_id(io, &home).ok().flatten() != Some(id) {
            tracing::warn!(path = %path.display(), home = %home.display(), "a log that belongs elsewhere, and is not there: it is left alone");
            return Ok(());
        }
        tracing::info!(path = %path.display(), home = %home.display(), "what a move between directories has left goes away");
        let grave = super::suffixed_path(path, id, DirectoryState::Delete);
        let rename =
            |io: &mut _| Io::block_on(io, Op::Rename { from: path.to_owned(), to: grave.clone() }).result;
        if matches!(rename(io), Err(Errno::EXISTS | Errno::NOT_EMPTY)) {
            // An earlier one that was not removed to its end.
            remove_dir_blocking(io, &grave).map_err(|error| io_error(&grave, error))?;
            rename(io).map_err(|error| io_error(path, error))?;
        }
        remove_dir_blocking(io, &grave).map_err(|error| io_error(&grave, error))
    }

    fn load_all(
        &mut self,
        io: &mut impl Io,
        partitions: &Partitions,
        points: &Offsets,
        starts: &Offsets,
    ) -> Result<(), StorageError> {
        for (key, (topic, path)) in partitions {
            let Some((_, config)) = (self.topics)(key.0) else { continue };
            let recovery_point = points.get(key).copied().unwrap_or(0);
            let start = starts.get(key).copied().unwrap_or(0);
            let options = self.load_options(path.clone(), &config, Some(recovery_point), start, io.wall_ms());
            let Some(mut log) = load(io, &options)? else { continue };
            // A crash may have come between its directory and its first batch.
            log.unsynced |= !points.contains_key(key);
            self.report.logs_checked += 1;
            self.report.bytes_checked += log.bytes_checked;
            self.report.cut.append(&mut log.dropped);
            let tp = TopicPartition { topic: topic.as_str().into(), topic_id: key.0, partition: key.1 };
            self.logs.insert(*key, Replay::new(log, tp, config, true));
        }
        Ok(())
    }

    fn load_options(
        &self,
        path: PathBuf,
        config: &LogConfig,
        recovery_point: Option<i64>,
        log_start_offset: i64,
        wall_ms: i64,
    ) -> LoadOptions {
        let producers = ProducerStateConfig::default();
        let index_interval_bytes = config.index_interval_bytes;
        let dense = self.dense;
        LoadOptions {
            path,
            index_interval_bytes,
            recovery_point,
            dense,
            known_end: None,
            log_start_offset,
            producers,
            wall_ms,
        }
    }

    /// The log of a journal entry, made where it has no directory yet; `None` when its topic is gone.
    fn log_of(&mut self, io: &mut impl Io, topic_id: Uuid, partition: i32) -> Option<&mut Replay> {
        let key = (topic_id, partition);
        if self.is_elsewhere(topic_id, partition) {
            return None;
        }
        if !self.logs.contains_key(&key) {
            let (topic, config) = (self.topics)(topic_id)?;
            let tp = TopicPartition { topic, topic_id, partition };
            let options = self.load_options(self.dir.join(tp.dir_name()), &config, None, 0, io.wall_ms());
            self.logs.insert(key, Replay::new(LoadedLog::empty(&options), tp, config, false));
        }
        self.logs.get_mut(&key)
    }

    fn remove_leftovers(
        &mut self,
        io: &mut impl Io,
        journals: &[JournalFile],
        mark: &Path,
    ) -> Result<(), StorageError> {
        let own = self.dir.join(super::OWN_DIR);
        let wrap = |error| StorageError::Io { path: own.clone(), error };
        let entries = io.list_dir(&own).map_err(wrap)?;
        let of_shards = entries.iter().filter(|entry| is_shard_checkpoint(&entry.name));
        let of_shards = of_shards.map(|entry| own.join(&entry.name));
        let journals = journals.iter().map(|file| file.path.clone());
        for path in journals.chain(of_shards).chain([mark.to_owned()]) {
            remove_blocking(io, &path).map_err(|error| io_error(&path, error))?;
        }
        for path in [&own, self.dir] {
            sync_dir_blocking(io, path).map_err(|error| io_error(path, error))?;
        }
        Ok(())
    }
}

impl super::replay::Target for Recovery<'_> {
    fn log(&mut self, io: &mut impl Io, topic_id: Uuid, partition: i32) -> Option<&mut Replay> {
        self.log_of(io, topic_id, partition)
    }

    fn logs(&mut self) -> &mut BTreeMap<(Uuid, i32), Replay> {
        &mut self.logs
    }

    fn report(&mut self) -> &mut RecoveryReport {
        self.report
    }
}

/// Gives the directory of a log that belongs to no known topic another name, as Kafka does.
fn set_aside(io: &mut impl Io, path: &Path, topic_id: Uuid) -> Result<(), StorageError> {
    let mut unique = topic_id;
    loop {
        let to = super::stray_path(path, unique);
        match io.block_on(Op::Rename { from: path.to_owned(), to: to.clone() }).result {
            Ok(_) => {
                tracing::warn!(path = %path.display(), to = %to.display(), "the log of a topic that is not known moves aside");
                return Ok(());
            }
            Err(Errno::EXISTS | Errno::NOT_EMPTY) => {
                unique = Uuid(u128::from_be_bytes(unique.0).wrapping_add(1).to_be_bytes());
            }
            Err(error) => return Err(io_error(path, error)),
        }
    }
}

/// The logs of a directory: topic and path.
type Partitions = BTreeMap<(Uuid, i32), (String, PathBuf)>;

/// The topic id in a log's directory; `None` where there is none that can be read.
pub(super) fn read_topic_id(io: &mut impl Io, path: &Path) -> Result<Option<Uuid>, StorageError> {
    let path = path.join(PARTITION_METADATA_FILE);
    let bytes = read_file(io, &path, 4096).map_err(|error| io_error(&path, error))?;
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let id = text.map(|text| parse_partition_metadata(&text));
    if let Some(Err(error)) = &id {
        tracing::warn!(path = %path.display(), %error, "a log without a topic id");
    }
    Ok(id.and_then(Result::ok))
}

fn is_shard_checkpoint(name: &str) -> bool {
    OFFSET_FILES
        .iter()
        .any(|file| name.strip_prefix(file).is_some_and(|rest| rest.starts_with('-') || rest == ".tmp"))
}

/// The offsets of a checkpoint as last written by recovery and by any shard since; Kafka's where there is none of ours.
pub(super) fn read_offsets(
    io: &mut impl Io,
    dir: &Path,
    name: &str,
    partitions: &Partitions,
) -> Result<Offsets, StorageError> {
    let own = dir.join(super::OWN_DIR);
    let entries = io.list_dir(&own).map_err(|error| StorageError::Io { path: own.clone(), error })?;
    let ours = |found: &str| found == name || (found.starts_with(name) && is_shard_checkpoint(found));
    let mut offsets = Offsets::new();
    let mut any = false;
    for entry in entries.iter().filter(|entry| ours(&entry.name) && !entry.name.ends_with(".tmp")) {
        any = true;
        for ((id, partition), offset) in read_checkpoint(io, &own.join(&entry.name))? {
            let Ok(id) = id.parse::<Uuid>() else { continue };
            let known = offsets.entry((id, partition)).or_insert(offset);
            *known = offset.max(*known);
        }
    }
    if !any {
        let of_kafka = read_checkpoint(io, &dir.join(name))?;
        for (key, (topic, _)) in partitions {
            if let Some(offset) = of_kafka.get(&(topic.clone(), key.1)) {
                offsets.insert(*key, *offset);
            }
        }
    }
    Ok(offsets)
}

fn read_checkpoint(io: &mut impl Io, path: &Path) -> Result<OffsetCheckpoint, StorageError> {
    let bytes = read_file(io, path, CHECKPOINT_BYTES_MAX).map_err(|error| io_error(path, error))?;
    let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return Ok(OffsetCheckpoint::new());
    };
    Ok(parse_offsets(&text).unwrap_or_else(|error| {
        // Without it more is checked, and deleted records may come back; nothing is lost.
        tracing::warn!(path = %path.display(), %error, "a damaged checkpoint is ignored");
        OffsetCheckpoint::new()
    }))
}

fn write_offsets(io: &mut impl Io, dir: &Path, name: &str, offsets: &Offsets) -> Result<(), StorageError> {
    let ids: Vec<(String, i32, i64)> =
        offsets.iter().map(|((id, partition), offset)| (id.to_string(), *partition, *offset)).collect();
    let text = format_offsets(ids.iter().map(|(id, partition, offset)| (id.as_str(), *partition, *offset)));
    let path = dir.join(super::OWN_DIR).join(name);
    replace_file_blocking(io, &path, text.as_bytes()).map_err(|error| io_error(&path, error))
}

/// Puts the shards' checkpoints together, into ours and into Kafka's.
fn merge_checkpoints(io: &mut impl Io, dir: &Path) -> Result<(), StorageError> {
    let mut partitions = Partitions::new();
    let wrap = |error| StorageError::Io { path: dir.to_owned(), error };
    for entry in io.list_dir(dir).map_err(wrap)? {
        let Some(name) = parse_directory_name(&entry.name).filter(|_| entry.is_dir) else { continue };
        let path = dir.join(&entry.name);
        if name.state == DirectoryState::Live
            && let Some(id) = read_topic_id(io, &path)?
        {
            partitions.insert((id, name.partition), (name.topic.to_string(), path));
        }
    }
    for name in OFFSET_FILES {
        let mut offsets = read_offsets(io, dir, name, &partitions)?;
        offsets.retain(|key, _| partitions.contains_key(key));
        write_offsets(io, dir, name, &offsets)?;
        let lines: Vec<(&str, i32, i64)> =
            offsets.iter().map(|(key, offset)| (partitions[key].0.as_str(), key.1, *offset)).collect();
        write_kafka(io, &dir.join(name), &lines)?;
        if name == RECOVERY_POINT_FILE {
            write_kafka(io, &dir.join(HIGH_WATERMARK_FILE), &lines)?;
        }
    }
    Ok(())
}

fn write_kafka(io: &mut impl Io, path: &Path, lines: &[(&str, i32, i64)]) -> Result<(), StorageError> {
    let text = format_offsets(lines.iter().copied());
    replace_file_blocking(io, path, text.as_bytes()).map_err(|error| io_error(path, error))
}

fn create_dir_blocking(io: &mut impl Io, path: &Path) -> Result<(), Errno> {
    match io.block_on(Op::CreateDir { path: path.to_owned() }).result {
        Ok(_) | Err(Errno::EXISTS) => Ok(()),
        Err(error) => Err(error),
    }
}

fn remove_dir_blocking(io: &mut impl Io, path: &Path) -> Result<(), Errno> {
    let entries = io.list_dir(path).map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))?;
    for entry in entries {
        remove_blocking(io, &path.join(entry.name))?;
    }
    io.block_on(Op::RemoveDir { path: path.to_owned() }).result.map(|_| ())
}
