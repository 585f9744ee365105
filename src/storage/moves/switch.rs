//! From the last piece of a copy to the new directory: the copy is put on stable media, its directory's checkpoints are written, it gets
//! the log's name, the metadata decides, and the log goes on there. Appends are held from before the first of these to behind the last.
//!
//! A crash leaves what the metadata says: before its decision the old directory, after it the new one, which lacks nothing by then.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::{Move, MoveEnd, Next, PAUSE_NS, Phase, WAIT_NS, named};
use crate::io::Io;
use crate::storage::jobs::{Step, replace_file, sync_dir};
use crate::storage::journal::Touched;
use crate::storage::leader_epoch::LEADER_EPOCH_FILE;
use crate::storage::names::{DirectoryState, FileKind, FileName};
use crate::storage::retention::{Removal, segment_files};
use crate::storage::store::Storage;
use crate::storage::types::*;

/// A directory that is to go.
#[derive(Debug)]
pub(super) struct Grave {
    dir: usize,
    from: PathBuf,
    to: PathBuf,
    files: Vec<String>,
}

impl Storage {
    /// The metadata says that the log is in `dir`. What does not wait for that is not changed by it.
    pub fn log_placed(&mut self, io: &mut impl Io, log: LogId, dir: usize) {
        let active = self.moves.active.as_mut();
        let active = active.filter(|active| active.log == log && active.to == dir && !active.cancelled);
        if let Some(active) = active.filter(|active| matches!(active.phase, Phase::Commit | Phase::Unknown)) {
            active.phase = Phase::Switch;
            self.run_moves(io);
        }
    }

    /// The metadata does not take the log's new place. `certain`: nor will it be found there after a crash; else the log takes no
    /// appends any more, as the next start may find either place.
    pub fn move_refused(&mut self, io: &mut impl Io, log: LogId, certain: bool) {
        let active = self.moves.active.as_mut().filter(|active| active.log == log);
        let Some(active) = active.filter(|active| active.phase == Phase::Commit) else { return };
        if certain {
            active.cancelled = true;
            self.run_moves(io);
        } else {
            active.phase = Phase::Unknown;
            tracing::error!(log = %active.tp, "where the log is will be known at the next start: until then it takes no appends");
        }
    }

    /// Whether only the next start can tell where the log is.
    pub(in crate::storage) fn is_unplaced(&self, log: LogId) -> bool {
        self.moves.active.as_ref().is_some_and(|active| active.log == log && active.phase == Phase::Unknown)
    }

    /// What is small and new: epochs, producers; then all names.
    pub(super) fn seal(&mut self, active: &mut Move) -> Next {
        let Some(log) = self.logs.get(active.log) else { return Next::Again };
        let mut steps = VecDeque::new();
        replace_file(&mut steps, &active.path.join(LEADER_EPOCH_FILE), log.epochs.format().as_bytes());
        active.files.extend([LEADER_EPOCH_FILE.to_string(), format!("{LEADER_EPOCH_FILE}.tmp")]);
        let end = log.log_end_offset;
        if let Some(before) = active.snapshot.take().filter(|before| log.segment_index(*before).is_none()) {
            let name = FileName::new(before, FileKind::ProducerSnapshot).to_string();
            steps.push_back(Step::Unlink { path: active.path.join(name) });
        }
        if !log.producers.is_empty() || log.snapshot_offset >= 0 {
            let name = FileName::new(end, FileKind::ProducerSnapshot).to_string();
            replace_file(&mut steps, &active.path.join(&name), &log.producers.snapshot());
            active.files.extend([format!("{name}.tmp"), name]);
            active.snapshot = Some(end);
        }
        sync_dir(&mut steps, &active.path);
        Next::Run { dir: active.to, log: None, steps, end: MoveEnd::Sealed, bytes: 0 }
    }

    /// Has the checkpoints of the new directory written, with the log in them.
    pub(super) fn checkpoint_copy(&mut self, io: &mut impl Io, active: &mut Move) -> Next {
        let home = &self.dirs[active.to];
        if active.checkpoint == 0 {
            // One that is being written may have been begun too early.
            active.checkpoint = home.checkpoints_written + if home.checkpoint_running { 2 } else { 1 };
            return Next::Checkpoint(active.to);
        }
        if home.checkpoints_written >= active.checkpoint {
            active.phase = Phase::Rename;
            return Next::Again;
        }
        if io.now() >= active.hold_until_ns { self.hold_failed(active) } else { Next::Wait(WAIT_NS) }
    }

    pub(super) fn rename_copy(&mut self, active: &mut Move) -> Next {
        let mut steps = VecDeque::new();
        steps.push_back(Step::Rename { from: active.path.clone(), to: active.live.clone() });
        // Not there is an error here.
        sync_dir(&mut steps, &active.live);
        sync_dir(&mut steps, &self.dirs[active.to].path);
        Next::Run { dir: active.to, log: None, steps, end: MoveEnd::Renamed, bytes: 0 }
    }

    /// From here on the log is in its new directory.
    pub(super) fn switch(&mut self, active: &mut Move) -> Next {
        let id = active.log;
        let Some(log) = self.logs.get_mut(id) else { return Next::Again };
        // No read of the old files begins; those under way end.
        log.swapping = Some((i64::MIN, i64::MAX));
        if self.reads.touch(id, i64::MIN..=i64::MAX) || self.jobs.runs_for(id) {
            return Next::Wait(WAIT_NS);
        }
        let mut files = self.take_removals(id);
        let Some(log) = self.logs.get_mut(id) else { return Next::Again };
        files.extend(segment_files(log));
        let old = std::mem::replace(&mut log.path, active.live.as_path().into());
        log.dir = active.to;
        log.swapping = None;
        // Its places in the other journal mean nothing here.
        log.touched = Touched::default();
        if !active.bare {
            (log.has_dir, log.on_disk, log.names_synced, log.epochs_dirty) = (true, true, true, false);
            log.snapshot_offset = active.snapshot.unwrap_or(-1);
            log.stray_snapshot = active.snapshot.filter(|offset| log.segment_index(*offset).is_none());
        }
        tracing::info!(log = %active.tp, from = %old.display(), to = %active.live.display(), "a log has moved");
        let unique = active.unique;
        let to = named(&old, &active.tp, unique, DirectoryState::Delete);
        active.grave = Some(Grave { dir: active.from, from: old.to_path_buf(), to, files });
        active.phase = if active.bare { Phase::Done } else { Phase::Bury };
        self.release(id);
        Next::DoomFiles(id)
    }

    /// Lets appends, deletes and readers go on.
    fn release(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(id) else { return };
        log.flags.held = false;
        self.events.push_back(Event::ReadReady { log: id });
        // Retention may have waited.
        self.ask(id, -1, -1);
    }

    /// Back to copying: the switch will be tried again.
    pub(super) fn release_hold(&mut self, active: &mut Move) {
        active.phase = Phase::Copy;
        active.sealed = false;
        active.checkpoint = 0;
        self.release(active.log);
    }

    pub(super) fn hold_failed(&mut self, active: &mut Move) -> Next {
        tracing::warn!(log = %active.tp, "the disks were too slow for the switch of a moving log: appends go on, it is tried again");
        self.release_hold(active);
        Next::Wait(PAUSE_NS)
    }

    /// Ends a move without its result: the copy goes away.
    pub(super) fn leave(&mut self, active: &mut Move) -> Next {
        self.release(active.log);
        active.sealed = false;
        if active.files.is_empty() || !self.dirs[active.to].online {
            return Next::Done;
        }
        let to = named(&active.live, &active.tp, active.unique, DirectoryState::Delete);
        let files = active.files.iter().cloned().collect();
        active.grave = Some(Grave { dir: active.to, from: active.path.clone(), to, files });
        active.phase = Phase::Bury;
        Next::Again
    }

    pub(super) fn bury_copy(&mut self, active: &mut Move) -> Next {
        let Some(grave) = active.grave.as_ref().filter(|grave| self.dirs[grave.dir].online) else {
            return Next::Done;
        };
        let mut steps = VecDeque::new();
        steps.push_back(Step::Rename { from: grave.from.clone(), to: grave.to.clone() });
        sync_dir(&mut steps, &self.dirs[grave.dir].path);
        Next::Run { dir: grave.dir, log: None, steps, end: MoveEnd::Buried, bytes: 0 }
    }

    /// Its files go in small steps; what else is in it with the next start.
    pub(super) fn buried_copy(&mut self, active: &mut Move) {
        active.phase = Phase::Done;
        if let Some(Grave { dir, to, files, .. }) = active.grave.take() {
            self.removals.push_back(Removal::of_dir(dir, to, &files));
        }
    }
}
