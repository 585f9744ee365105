//! What goes away: segments by age, size and log start offset, records on request, whole logs.
//!
//! Segments leave the log at once; their files get the suffix `.deleted` and are removed after `file.delete.delay.ms`, a few
//! at a time. A log always keeps a segment file, if only an empty one, so that its offsets outlive its records. A
//! deleted log's directory is renamed first, when its last job has ended: until then a new log of the same name waits
//! with its files.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::jobs::{FileKey, Step, sync_dir};
use super::journal::Touch;
use super::leader_epoch::LEADER_EPOCH_FILE;
use super::log::Log;
use super::names::{DirectoryState, FileKind, FileName, FileState};
use super::store::{End, Storage};
use super::types::*;
use crate::io::Io;

/// Logs looked at in one call.
const LOGS_A_TICK: usize = 64;
/// A log whose time index had to be read is looked at again after this.
const AGAIN_NS: u64 = 1_000_000_000;
/// Removals under way at once; each is one operation at a time.
const REMOVALS_MAX: usize = 2;

/// Where the round over the logs stands.
#[derive(Debug, Default)]
pub(super) struct Retention {
    pub next_ns: u64,
    slot: usize,
    /// Logs that could not be judged yet.
    again: Vec<LogId>,
}

/// A deleted log whose directory is still there.
#[derive(Debug)]
pub(super) struct Dead {
    pub id: LogId,
    pub dir: usize,
    pub path: PathBuf,
    pub has_dir: bool,
    topic_id: crate::protocol::Uuid,
    files: Vec<String>,
    renaming: bool,
}

/// Paths to remove when their time has come; the last is a directory or not.
#[derive(Debug)]
pub(super) struct Removal {
    due_ns: u64,
    dir: usize,
    log: Option<LogId>,
    steps: VecDeque<Step>,
}

impl Storage {
    /// Moves the log start offset to `before` (at most the high watermark); journaled, safe with
    /// [`Event::StartAdvanced`]. An offset at or below the log start changes nothing. Answers the log start offset.
    /// [`ReadError::NoMemory`]: worth another try, as when the log is held ([`Storage::is_held`]) or has to be synced first
    /// ([`Storage::delete_waits`]).
    pub fn delete_records(&mut self, io: &mut impl Io, log: LogId, before: i64) -> Result<i64, ReadError> {
        let id = log;
        if self.is_held(id) || self.delete_waits(id, before) {
            return Err(ReadError::NoMemory);
        }
        let (dir, high_watermark, start, safe) = {
            let log = self.readable(id)?;
            (log.dir, log.high_watermark, log.log_start_offset, log.safe_start_offset)
        };
        if before > high_watermark {
            return Err(ReadError::OutOfRange);
        }
        if before <= start {
            // Where the present start is on its way to the disk still, its event is to come.
            if before <= safe {
                self.events.push_back(Event::StartAdvanced { log, log_start_offset: safe });
            }
            return Ok(start);
        }
        self.make_room(dir, 0).map_err(|error| match error {
            AppendError::Busy => ReadError::NoMemory,
            AppendError::Offline => ReadError::Offline,
            _ => ReadError::Storage,
        })?;
        let Some(log) = self.logs.get_mut(id) else { return Err(ReadError::UnknownLog) };
        log.log_start_offset = before;
        log.epochs_dirty |= log.epochs.truncate_from_start(before);
        let journal = &mut self.dirs[dir].journal;
        journal.append_log_start(log.tp.topic_id, log.tp.partition, before);
        let touch = Touch { log: id, end_offset: log.placed_end(), start_offset: Some(before) };
        journal.touch(touch, &mut log.touched, true);
        self.retire_segments(io, id, 0);
        Ok(before)
    }

    /// Whether [`Storage::delete_records`] has to wait until a sync has covered what it deletes: the new start must not outlive the end of
    /// the log. Asks for it; [`Event::ReadReady`] tells.
    pub fn delete_waits(&mut self, log: LogId, before: i64) -> bool {
        let Some(found) = self.logs.get(log) else { return false };
        let waits =
            found.has_unsynced_large() && (found.synced_offset + 1..=found.high_watermark).contains(&before);
        if waits {
            self.ask(log, -1, before);
        }
        waits
    }

    /// Forgets the log at once; its files go away in small steps.
    pub fn delete_log(&mut self, io: &mut impl Io, log: LogId) {
        let Some(mut log) = self.logs.remove(log) else { return };
        self.hurry_move(log.id);
        let home = &mut self.dirs[log.dir];
        for run in log.tail.drain(..) {
            home.journal.release(run.chunk, run.slice.len());
        }
        home.large_bytes -= log.large.waiting_bytes();
        self.cache.forget(log.id, None);
        self.jobs.doom_files(io, log.id, |_| true);
        let mut files = segment_files(&log);
        files.extend(self.take_removals(log.id));
        files.extend(self.cleaner.files_of(log.id));
        let (id, dir, topic_id, has_dir) = (log.id, log.dir, log.tp.topic_id, log.has_dir);
        self.graveyard.push(Dead {
            id,
            dir,
            path: log.path.to_path_buf(),
            has_dir,
            topic_id,
            files,
            renaming: false,
        });
        self.bury(io);
    }

    /// The names of a log's files that wait to be removed: they go with its directory instead.
    pub(super) fn take_removals(&mut self, log: LogId) -> Vec<String> {
        let mut files = Vec::new();
        for removal in self.removals.iter().filter(|removal| removal.log == Some(log)) {
            let names = removal.steps.iter().filter_map(|step| match step {
                Step::Unlink { path } => path.file_name(),
                _ => None,
            });
            files.extend(names.map(|name| name.to_string_lossy().into_owned()));
        }
        self.removals.retain(|removal| removal.log != Some(log));
        files
    }

    /// Renames the directories of deleted logs whose jobs have all ended.
    pub(super) fn bury(&mut self, io: &mut impl Io) {
        // What never had a directory leaves none, and must not rename the one of another log.
        let jobs = &self.jobs;
        self.graveyard.retain(|dead| dead.has_dir || jobs.runs_for(dead.id));
        for index in 0..self.graveyard.len() {
            let dead = &mut self.graveyard[index];
            if dead.renaming || self.jobs.runs_for(dead.id) {
                continue;
            }
            dead.renaming = true;
            let steps = VecDeque::from([Step::Rename { from: dead.path.clone(), to: dead.grave() }]);
            self.jobs.start(io, dead.dir, Some(dead.id), steps, End::Buried(dead.id));
        }
    }

    pub(super) fn buried(&mut self, id: LogId) {
        let Some(index) = self.graveyard.iter().position(|dead| dead.id == id) else { return };
        let dead = self.graveyard.swap_remove(index);
        let removal = Removal::of_dir(dead.dir, dead.grave(), &dead.files);
        self.removals.push_back(Removal { log: Some(id), ..removal });
        self.ask_haunted();
    }

    /// Lets the logs try again whose directories were not free.
    pub(super) fn ask_haunted(&mut self) {
        for id in std::mem::take(&mut self.haunted) {
            self.ask(id, -1, -1);
        }
    }

    /// Starts the removals that are due.
    pub(super) fn run_removals(&mut self, io: &mut impl Io, now: u64) {
        while self.removals_running < REMOVALS_MAX
            && let Some(index) = self.removals.iter().position(|removal| removal.due_ns <= now)
            && let Some(removal) = self.removals.remove(index)
        {
            if self.dirs[removal.dir].online {
                self.removals_running += 1;
                self.jobs.start(io, removal.dir, removal.log, removal.steps, End::Removed);
            }
        }
    }

    /// Looks at some logs, when a round is due or under way.
    pub(super) fn run_retention(&mut self, io: &mut impl Io, now: u64, wall_ms: i64) {
        if now < self.retention.next_ns || self.stopping {
            return;
        }
        for id in std::mem::take(&mut self.retention.again) {
            self.apply_retention(io, id, wall_ms);
        }
        for _ in 0..LOGS_A_TICK {
            let slot = self.retention.slot;
            if slot >= self.logs.slots() {
                self.retention.slot = 0;
                let interval_ns = self.options.retention_check_interval_ms.max(1) as u64 * 1_000_000;
                self.retention.next_ns = now + interval_ns;
                break;
            }
            self.retention.slot += 1;
            if let Some(id) = self.logs.at(slot).map(|log| log.id) {
                self.apply_retention(io, id, wall_ms);
            }
        }
        if !self.retention.again.is_empty() {
            self.retention.next_ns = self.retention.next_ns.min(now + AGAIN_NS);
        }
    }

    fn apply_retention(&mut self, io: &mut impl Io, id: LogId, wall_ms: i64) {
        let Some(log) = self.logs.get_mut(id) else { return };
        log.producers.remove_expired(wall_ms, self.options.producer_id_expiration_ms);
        if !self.dirs[log.dir].online {
            return;
        }
        if !log.config.delete {
            return self.retire_segments(io, id, 0);
        }
        let by_size = log.surplus_segments();
        let (retention_ms, segments) = (log.config.retention_ms, log.segments.len());
        let bases: Vec<i64> = log.segments.iter().map(|segment| segment.base_offset).collect();
        let mut expired = by_size;
        while retention_ms >= 0 && expired < segments {
            match self.largest(io, id, bases[expired]) {
                Ok(Some(largest)) if self.is_expired(id, expired, largest.timestamp, wall_ms) => expired += 1,
                Ok(None) => {
                    self.retention.again.push(id);
                    break;
                }
                _ => break,
            }
        }
        self.retire_segments(io, id, expired);
    }

    fn is_expired(&self, id: LogId, index: usize, largest: i64, wall_ms: i64) -> bool {
        let Some(log) = self.logs.get(id) else { return false };
        let segment = &log.segments[index];
        // A segment without a timestamp, or one that could not be told, counts from its file's age.
        let newest = if (0..i64::MAX).contains(&largest) { largest } else { segment.created_ms };
        segment.size > 0 && wall_ms.saturating_sub(newest) > log.config.retention_ms
    }

    /// Takes away the first `expired` segments and those below the log start offset, as far as they are complete on
    /// disk; after the flush or sync that is under way, which may want their files.
    fn retire_segments(&mut self, io: &mut impl Io, id: LogId, expired: usize) {
        let Some(log) = self.logs.get_mut(id) else { return };
        // Later on the last one may hold what has not expired.
        let last = expired.min(log.segments.len().saturating_sub(1));
        if let Some(first) = log.segments.get(last).filter(|_| expired > 0) {
            log.expired_to = first.base_offset;
        }
        if !log.flags.busy {
            let all = expired > 0 && expired == log.segments.len();
            self.retire_wanted(io, id, all);
        }
    }

    /// As [`Storage::retire_segments`], for what has been asked for, or for all there is; no flush or sync of the log may
    /// be under way.
    pub(super) fn retire_wanted(&mut self, io: &mut impl Io, id: LogId, all: bool) {
        let Some(log) = self.logs.get_mut(id) else { return };
        if log.swapping.is_some() || log.flags.retiring || log.flags.held {
            return;
        }
        let below = log.segments.partition_point(|segment| segment.base_offset <= log.log_start_offset);
        let expired = log.segments.partition_point(|segment| all || segment.base_offset < log.expired_to);
        let wanted = expired.max(below.saturating_sub(1));
        let is_ready = |index: &usize| {
            log.segments[*index].is_flushed() && log.segment_end_offset(*index) <= log.high_watermark
        };
        let mut ready = (0..wanted).take_while(is_ready).count();
        if ready == log.segments.len() {
            if log.flags.busy || !log.tail.is_empty() {
                ready -= 1;
            } else {
                // All of it goes: an empty segment keeps the offsets.
                log.roll(log.log_end_offset, log.segments.back().map_or(0, |last| last.created_ms), 0);
            }
        }
        // The first segment that stays must have its file: it says where the log begins. The empty one gets it below.
        while ready > 0 && log.segments.get(ready).is_some_and(|next| !next.on_disk && next.size > 0) {
            ready -= 1;
        }
        if ready > 0 {
            self.remove_segments(io, id, ready);
        }
    }

    fn remove_segments(&mut self, io: &mut impl Io, id: LogId, count: usize) {
        let Some(log) = self.logs.get_mut(id) else { return };
        let mut steps = VecDeque::new();
        let mut removals = VecDeque::new();
        let empty = log.segments.back_mut().filter(|last| last.size == 0 && !last.on_disk);
        if let Some(empty) = empty {
            empty.on_disk = true;
            let base_offset = empty.base_offset;
            let dir = Arc::clone(&log.path);
            let key = FileKey { log: id, base_offset, kind: FileKind::Log };
            steps.push_back(Step::Use { key, dir, create: true });
            sync_dir(&mut steps, &log.path);
        }
        let retired: Vec<i64> = log.segments.drain(..count).map(|segment| segment.base_offset).collect();
        for base_offset in &retired {
            for kind in FileKind::ALL {
                let name = FileName::new(*base_offset, kind);
                let deleted = log.path.join(name.with_state(FileState::Deleted).to_string());
                steps.push_back(Step::Rename { from: log.path.join(name.to_string()), to: deleted.clone() });
                removals.push_back(Step::Unlink { path: deleted });
            }
        }
        log.forget_cursors();
        // One removal at a time: were a later segment gone before an earlier one, a crash would leave a hole.
        log.flags.retiring = true;
        let mut moved = None;
        let first = log.segments.front().map_or(log.log_end_offset, |segment| segment.base_offset);
        if first > log.log_start_offset {
            log.log_start_offset = first;
            log.epochs_dirty |= log.epochs.truncate_from_start(first);
            moved = Some(first);
        }
        sync_dir(&mut steps, &log.path);
        let delay_ns = log.config.file_delete_delay_ms.max(0) as u64 * 1_000_000;
        let (dir, tp) = (log.dir, log.tp.to_string());
        // Those of before lack what has gone. Beside the removal, which must not wait for the space that it makes.
        let known = log.snapshot_offset >= 0 || !log.producers.is_empty();
        let wants_snapshot = known && log.snapshot_offset < first;
        tracing::info!(log = %tp, segments = retired.len(), log_start_offset = first, "segments removed");
        for base_offset in retired {
            self.cache.forget(id, Some(base_offset));
            self.jobs.doom_files(io, id, |key| key.base_offset == base_offset);
        }
        self.jobs.start(io, dir, Some(id), steps, End::Retired { log: id, log_start_offset: moved });
        self.removals.push_back(Removal { due_ns: io.now() + delay_ns, dir, log: Some(id), steps: removals });
        if wants_snapshot {
            self.write_snapshot(io, id, End::Nothing);
        }
    }

    /// A removal of segments has ended; with the log start offset that it made safe.
    pub(super) fn retired(&mut self, io: &mut impl Io, id: LogId, log_start_offset: Option<i64>) {
        let Some(log) = self.logs.get_mut(id) else { return };
        log.flags.retiring = false;
        if let Some(log_start_offset) = log_start_offset {
            log.safe_start_offset = log.safe_start_offset.max(log_start_offset);
            let log_start_offset = log.safe_start_offset;
            self.events.push_back(Event::StartAdvanced { log: id, log_start_offset });
        }
        let dir = log.dir;
        if self.dirs[dir].online {
            self.retire_segments(io, id, 0);
        }
    }
}

impl Removal {
    /// The removal of files of a log.
    pub fn new(due_ns: u64, dir: usize, log: LogId, paths: impl Iterator<Item = PathBuf>) -> Removal {
        Removal { due_ns, dir, log: Some(log), steps: paths.map(|path| Step::Unlink { path }).collect() }
    }

    /// The removal of a directory with these files. What else is in it goes with the next start.
    pub fn of_dir(dir: usize, path: PathBuf, files: &[String]) -> Removal {
        let mut steps: VecDeque<Step> =
            files.iter().map(|name| Step::Unlink { path: path.join(name) }).collect();
        steps.push_back(Step::RemoveDir { path });
        Removal { due_ns: 0, dir, log: None, steps }
    }
}

/// The names of the files that a log has in its directory.
pub(super) fn segment_files(log: &Log) -> Vec<String> {
    let mut files = vec!["partition.metadata".to_string(), LEADER_EPOCH_FILE.to_string()];
    for segment in &log.segments {
        files.extend(FileKind::ALL.map(|kind| FileName::new(segment.base_offset, kind).to_string()));
    }
    let snapshots = [log.stray_snapshot, Some(log.snapshot_offset)].into_iter().flatten();
    files.extend(snapshots.map(|offset| FileName::new(offset, FileKind::ProducerSnapshot).to_string()));
    files
}

impl Dead {
    fn grave(&self) -> PathBuf {
        super::suffixed_path(&self.path, self.topic_id, DirectoryState::Delete)
    }
}

impl Log {
    /// How many segments at the front lie beyond `retention.bytes`.
    fn surplus_segments(&self) -> usize {
        if self.config.retention_bytes < 0 {
            return 0;
        }
        let mut surplus = self.size_bytes() as i64 - self.config.retention_bytes;
        let beyond = self.segments.iter().take_while(|segment| {
            surplus -= i64::from(segment.size);
            segment.size > 0 && surplus >= 0
        });
        beyond.count()
    }
}
