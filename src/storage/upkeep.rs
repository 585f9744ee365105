//! The small files beside the segments: offset checkpoints of a directory, producer snapshots of a log.
//!
//! The checkpoints are this shard's own, in Kafka's format but by topic id; recovery puts those of all shards together. They
//! are written whenever journal files have been freed, so that recovery checks about as much of the segments as the journal
//! may hold.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::checkpoint::{CLEANER_OFFSET_FILE, LOG_START_OFFSET_FILE, RECOVERY_POINT_FILE, format_offsets};
use super::jobs::{Step, replace_file};
use super::log::Log;
use super::names::FileKind;
use super::store::{End, Storage};
use super::types::LogId;
use crate::io::Io;

/// After this many bytes without a roll a sync takes a snapshot, so that recovery need not walk the whole segment.
const SNAPSHOT_BYTES: u64 = 64 << 20;

/// What a checkpoint says of a log, if anything.
type Offset = fn(&Log) -> Option<i64>;

fn recovery_point(log: &Log) -> Option<i64> {
    log.on_disk.then_some(log.synced_offset)
}

/// The log start offset, where the first segment does not tell it. Only a safe one: the records below another may still
/// be the only ones that a power cut leaves. And only as far as the segments are on stable media: were they shorter than the start, the
/// log would begin anew there, in the middle of what the journal has of it.
fn moved_start(log: &Log) -> Option<i64> {
    let first = log.segments.front().map_or(0, |segment| segment.base_offset);
    let start = log.safe_start_offset.min(log.synced_offset);
    (start > first).then_some(start)
}

fn cleaned(log: &Log) -> Option<i64> {
    (log.cleaned_offset > 0).then_some(log.cleaned_offset)
}

/// The path of this shard's part of a checkpoint.
pub(super) fn checkpoint_path(dir: &Path, name: &str, shard: u32) -> PathBuf {
    dir.join(super::OWN_DIR).join(format!("{name}-{shard}"))
}

impl Storage {
    /// Writes the recovery points, the log start offsets and the ends of compaction of a directory.
    pub(super) fn write_checkpoints(&mut self, io: &mut impl Io, dir: usize) {
        if std::mem::replace(&mut self.dirs[dir].checkpoint_running, true) {
            self.dirs[dir].checkpoint_again = true;
            return;
        }
        let sealed = self.sealed_in(dir);
        let mut steps = VecDeque::new();
        let files = [
            (RECOVERY_POINT_FILE, recovery_point as Offset),
            (LOG_START_OFFSET_FILE, moved_start),
            (CLEANER_OFFSET_FILE, cleaned),
        ];
        for (name, value) in files {
            let logs = self.logs.iter().filter(|log| log.dir == dir || sealed == Some(log.id));
            let lines: Vec<(String, i32, i64)> = logs
                .filter_map(|log| Some((log.tp.topic_id.to_string(), log.tp.partition, value(log)?)))
                .collect();
            let text =
                format_offsets(lines.iter().map(|(id, partition, offset)| (&**id, *partition, *offset)));
            let path = checkpoint_path(&self.dirs[dir].path, name, self.options.shard);
            replace_file(&mut steps, &path, text.as_bytes());
        }
        self.jobs.start(io, dir, None, steps, End::Checkpoint);
    }

    pub(super) fn checkpoint_ended(&mut self, io: &mut impl Io, dir: usize) {
        self.dirs[dir].checkpoint_running = false;
        self.dirs[dir].checkpoints_written += 1;
        if std::mem::take(&mut self.dirs[dir].checkpoint_again) {
            self.write_checkpoints(io, dir);
        } else {
            self.finish_reclaim(io, dir);
        }
    }

    /// A log has begun a new segment at `base_offset`: its producers as of there are kept, and the old one completed.
    pub(super) fn segment_rolled(&mut self, io: &mut impl Io, id: LogId, base_offset: i64) {
        debug_assert_eq!(self.logs.get(id).map(|log| log.producers.end_offset()), Some(base_offset));
        // Before its first flush a log has no directory, or an earlier log of its name has it still.
        if self.logs.get(id).is_some_and(|log| log.on_disk) {
            self.write_snapshot(io, id, End::Nothing);
        }
        self.ask(id, base_offset, base_offset);
    }

    /// Keeps the producers of a log, which is on disk, as they are.
    pub(super) fn write_snapshot(&mut self, io: &mut impl Io, id: LogId, end: End) {
        let Some(log) = self.logs.get_mut(id) else { return };
        let offset = log.producers.end_offset();
        log.snapshot_offset = offset;
        log.bytes_since_snapshot = 0;
        let mut steps = VecDeque::new();
        let path = log.file_path(offset, FileKind::ProducerSnapshot);
        replace_file(&mut steps, &path, &log.producers.snapshot());
        // The one before, if no segment begins there, is of no more use.
        let stray = log.stray_snapshot.take().filter(|stray| log.segment_index(*stray).is_none());
        steps.extend(
            stray.map(|stray| Step::Unlink { path: log.file_path(stray, FileKind::ProducerSnapshot) }),
        );
        log.stray_snapshot = log.segment_index(offset).is_none().then_some(offset);
        let dir = log.dir;
        self.jobs.start(io, dir, Some(id), steps, end);
    }

    /// Takes a snapshot when much was appended since the last.
    pub(super) fn snapshot_if_due(&mut self, io: &mut impl Io, id: LogId) {
        if let Some(log) = self.logs.get(id)
            && log.bytes_since_snapshot >= SNAPSHOT_BYTES
        {
            self.write_snapshot(io, id, End::Nothing);
        }
    }
}

impl Log {
    /// Whether the last snapshot is not what a clean start needs.
    pub(super) fn wants_last_snapshot(&self) -> bool {
        self.on_disk
            && self.snapshot_offset != self.producers.end_offset()
            && (self.snapshot_offset >= 0 || !self.producers.is_empty())
    }
}
