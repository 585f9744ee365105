//! New segments for old, so that a crash leaves the one or the other.
//!
//! The order, with the directory synced after each line:
//! 1. `.cleaned` files become `.swap` files. From here on the new segment counts.
//! 2. The files of the old segments get the suffix `.deleted`; they are removed after `file.delete.delay.ms`.
//! 3. `.swap` files lose their suffix, the log first.
//!
//! At start [`finish_swap`] does what is missing, by Kafka's rules, so that either broker can finish what the other began:
//! `.cleaned` files, and `.swap` files at or behind one, are worthless. Else a `.swap` log replaces the segments that begin in its range
//! of offsets. A segment of the group behind that range (all its records were dropped) may stay as it was; what it holds is old
//! then, not wrong, and the next compaction drops it again.

use std::collections::VecDeque;
use std::path::Path;

use super::output::{KINDS, file_path};
use super::task::Task;
use crate::io::{DirEntry, Io, Op};
use crate::storage::jobs::{Step, sync_dir};
use crate::storage::log::Log;
use crate::storage::names::{FileKind, FileName, FileState};
use crate::storage::retention::Removal;
use crate::storage::scan::{Depth, ScanRange, io_error, scan};
use crate::storage::start::{remove_blocking, sync_dir_blocking};
use crate::storage::store::Storage;
use crate::storage::types::*;

/// The steps of a swap.
pub(super) fn push_swap(steps: &mut VecDeque<Step>, log: &Log, first: i64, last: i64) {
    let dir = &log.path;
    let mut rename = |base, kind, from, to| {
        steps.push_back(Step::Rename {
            from: file_path(dir, base, kind, from),
            to: file_path(dir, base, kind, to),
        });
    };
    for kind in KINDS {
        rename(first, kind, FileState::Cleaned, FileState::Swap);
    }
    sync_dir(steps, dir);
    for (base_offset, kind) in old_files(log, first, last) {
        let from = file_path(dir, base_offset, kind, FileState::Live);
        let to = file_path(dir, base_offset, kind, FileState::Deleted);
        steps.push_back(Step::Rename { from, to });
    }
    sync_dir(steps, dir);
    for kind in KINDS {
        let from = file_path(dir, first, kind, FileState::Swap);
        steps.push_back(Step::Rename { from, to: file_path(dir, first, kind, FileState::Live) });
    }
    sync_dir(steps, dir);
}

/// The files that go. The producers as of the beginning of a segment stay as long as a segment begins there, and the newest in
/// any case.
fn old_files(log: &Log, first: i64, last: i64) -> Vec<(i64, FileKind)> {
    let bases = log.segments.iter().map(|segment| segment.base_offset);
    let bases = bases.filter(|base| (first..=last).contains(base));
    let files = bases.flat_map(|base| FileKind::ALL.map(|kind| (base, kind)));
    let stays = |base: i64| base == first || base == log.snapshot_offset;
    files.filter(|(base, kind)| *kind != FileKind::ProducerSnapshot || !stays(*base)).collect()
}

impl Storage {
    /// The files have been swapped: so are the segments.
    pub(super) fn swapped(&mut self, io: &mut impl Io, task: &mut Task) {
        let (Some(output), Some(log)) = (task.output.take(), self.logs.get_mut(task.log)) else { return };
        let (first, last) = (output.first, output.last);
        log.swapping = None;
        let (Some(from), Some(to)) = (log.segment_index(first), log.segment_index(last)) else { return };
        let old = old_files(log, first, last);
        let segment = output.into_segment();
        let old_bytes: u64 = log.segments.range(from..=to).map(|old| u64::from(old.size)).sum();
        task.stats.bytes_before += old_bytes;
        task.stats.bytes_after += u64::from(segment.size);
        let bases: Vec<i64> = log.segments.drain(from..=to).map(|old| old.base_offset).collect();
        log.segments.insert(from, segment);
        log.forget_cursors();
        if log.snapshot_offset > first && bases.contains(&log.snapshot_offset) {
            log.stray_snapshot = Some(log.snapshot_offset);
        }
        let delay_ns = log.config.file_delete_delay_ms.max(0) as u64 * 1_000_000;
        let (dir, path) = (log.dir, log.path.clone());
        let deleted = old.iter().map(|(base, kind)| file_path(&path, *base, *kind, FileState::Deleted));
        self.removals.push_back(Removal::new(io.now() + delay_ns, dir, task.log, deleted));
        for base_offset in bases {
            self.cache.forget(task.log, Some(base_offset));
            self.jobs.doom_files(io, task.log, |key| key.base_offset == base_offset);
        }
        self.events.push_back(Event::ReadReady { log: task.log });
    }
}

/// Start-up, blocking: finishes or takes back a swap that was cut off. True when the directory has changed.
pub(in crate::storage) fn finish_swap(
    io: &mut impl Io,
    path: &Path,
    entries: &[DirEntry],
) -> Result<bool, StorageError> {
    let files: Vec<(FileName, u64)> =
        entries.iter().filter_map(|entry| Some((FileName::parse(&entry.name)?, entry.len))).collect();
    let of = |state: FileState| files.iter().filter(move |(name, _)| name.state == state);
    let cleaned = of(FileState::Cleaned).map(|(name, _)| name.base_offset).min().unwrap_or(i64::MAX);
    let (valid, worthless): (Vec<_>, Vec<_>) =
        of(FileState::Swap).copied().partition(|(name, _)| name.base_offset < cleaned);
    // The `.swap` files go first: without the `.cleaned` ones they would count.
    let worthless = worthless.iter().chain(of(FileState::Cleaned));
    let mut changed = false;
    let mut synced = true;
    for (name, _) in worthless {
        if name.state == FileState::Cleaned && !synced {
            sync_dir_blocking(io, path).map_err(|error| io_error(path, error))?;
        }
        synced = name.state == FileState::Cleaned;
        let file = path.join(name.to_string());
        remove_blocking(io, &file).map_err(|error| io_error(&file, error))?;
        changed = true;
    }
    if valid.is_empty() {
        return Ok(changed);
    }
    for (name, len) in valid.iter().filter(|(name, _)| name.kind == FileKind::Log) {
        let end = swap_end(io, path, *name, *len)?;
        tracing::info!(path = %path.display(), from = name.base_offset, to = end, "a compacted segment takes its place");
        remove_replaced(io, path, &files, name.base_offset, end)?;
    }
    sync_dir_blocking(io, path).map_err(|error| io_error(path, error))?;
    let mut valid = valid;
    valid.sort_unstable_by_key(|(name, _)| (name.base_offset, name.kind));
    for (name, _) in &valid {
        let from = path.join(name.to_string());
        let to = path.join(name.with_state(FileState::Live).to_string());
        io.block_on(Op::Rename { from, to }).result.map_err(|error| io_error(path, error))?;
    }
    sync_dir_blocking(io, path).map_err(|error| io_error(path, error))?;
    Ok(true)
}

/// The offset behind the last batch of a segment that waits to be swapped in.
fn swap_end(io: &mut impl Io, path: &Path, name: FileName, len: u64) -> Result<i64, StorageError> {
    let range = ScanRange {
        path: path.join(name.to_string()),
        position: 0,
        len,
        next_offset: name.base_offset,
        end_offset: i64::MAX,
        dense_from: i64::MAX,
        known_end: None,
        depth: Depth::Headers,
    };
    // Where it is damaged, the log ends there once it is loaded.
    Ok(scan(io, &range, |_, _, _| {})?.next_offset)
}

/// Removes the live files of the segments that begin in `first..end`, and at `first` in any case.
fn remove_replaced(
    io: &mut impl Io,
    path: &Path,
    files: &[(FileName, u64)],
    first: i64,
    end: i64,
) -> Result<(), StorageError> {
    let live = files.iter().map(|(name, _)| *name).filter(|name| name.state == FileState::Live);
    let snapshots = live.clone().filter(|name| name.kind == FileKind::ProducerSnapshot);
    let newest = snapshots.map(|name| name.base_offset).max();
    let replaced =
        live.filter(|name| (first..end.max(first + 1)).contains(&name.base_offset)).filter(|name| {
            let stays = name.base_offset == first || Some(name.base_offset) == newest;
            name.kind != FileKind::ProducerSnapshot || !stays
        });
    for name in replaced {
        let file = path.join(name.to_string());
        remove_blocking(io, &file).map_err(|error| io_error(&file, error))?;
    }
    Ok(())
}
