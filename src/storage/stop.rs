//! The clean stop: everything acknowledged, flushed and synced, indexes closed, producers and checkpoints written, the
//! journal's files removed. What is left needs no recovery.
//!
//! Where the disk has no space, or a directory is offline, the stop does what it can: the journal stays and recovery
//! does the rest.

use std::collections::VecDeque;

use super::jobs::{Step, sync_dir};
use super::segment::Segment;
use super::store::{End, Storage, close_token};
use super::types::LogId;
use crate::io::{Io, Op};

/// How long the stop waits for what other shards are to do.
const WAIT_NS: u64 = 3_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopPhase {
    Running,
    /// The journal's last blocks are being written.
    Draining,
    Flushing,
    /// After the last flush, for the reason that the reclaim of journal files has.
    Syncing,
    Checkpointing,
    /// The journal's files are being removed.
    Cleaning,
    Stopped,
}

impl Storage {
    /// Begins the clean stop: no appends from here on; everything is flushed and synced, snapshots are written.
    pub fn begin_stop(&mut self, io: &mut impl Io) {
        if !self.stopping {
            self.stopping = true;
            self.stop = StopPhase::Draining;
            self.stop_wait_ns = io.now().saturating_add(WAIT_NS);
            self.end_turn(io);
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stop == StopPhase::Stopped
    }

    pub(super) fn advance_stop(&mut self, io: &mut impl Io) {
        let stalled =
            self.jobs.is_stalled() || self.dirs.iter().any(|home| home.online && home.journal.is_stalled());
        if stalled && self.stop != StopPhase::Stopped {
            tracing::warn!("no space left for a clean stop: the next start recovers from the journal");
            self.stop = StopPhase::Stopped;
            return;
        }
        match self.stop {
            StopPhase::Draining if self.journals_idle() => {
                self.ask_all(|end| (end, -1));
                self.stop = StopPhase::Flushing;
                self.run_work(io);
            }
            StopPhase::Flushing if self.nothing_runs() => {
                self.ask_all(|end| (end, end));
                self.stop = StopPhase::Syncing;
                self.run_work(io);
            }
            StopPhase::Syncing if self.nothing_runs() => self.end_syncing(io),
            StopPhase::Checkpointing if self.nothing_runs() => {
                self.remove_journals(io);
                self.jobs.close_idle(io, u64::MAX, 0);
                self.stop = StopPhase::Cleaning;
            }
            StopPhase::Cleaning if self.nothing_runs() => self.stop = StopPhase::Stopped,
            _ => {}
        }
    }

    fn end_syncing(&mut self, io: &mut impl Io) {
        // A log of another shard may wait for the directory of one deleted here, and the other way round.
        if !self.graveyard.is_empty() {
            return self.bury(io);
        }
        if !self.haunted.is_empty() {
            if io.now() >= self.stop_wait_ns {
                tracing::warn!("a directory is not free: the next start recovers from the journal");
                self.stop = StopPhase::Stopped;
            }
            return;
        }
        for dir in 0..self.dirs.len() {
            if self.dirs[dir].online {
                self.write_checkpoints(io, dir);
            }
        }
        self.stop = StopPhase::Checkpointing;
    }

    fn journals_idle(&self) -> bool {
        self.dirs.iter().all(|home| !home.online || home.journal.is_idle())
    }

    fn nothing_runs(&self) -> bool {
        self.jobs.is_empty() && self.work.is_empty()
    }

    /// Asks every log that has something left, with how far `upto` says to flush and to sync it, given its end.
    fn ask_all(&mut self, upto: impl Fn(i64) -> (i64, i64)) {
        let mut ids: Vec<LogId> = Vec::new();
        for slot in 0..self.logs.slots() {
            let Some(id) = self.logs.at(slot).map(|log| log.id) else { continue };
            let Some(log) = self.logs.get_mut(id) else { continue };
            let end = log.log_end_offset;
            if let Some(last) = log.segments.back_mut() {
                last.close();
            }
            let entries = log.segments.iter().any(Segment::has_pending_entries);
            if log.synced_offset < end || entries || log.epochs_dirty || log.wants_last_snapshot() {
                ids.push(id);
            }
        }
        for id in ids {
            let end = self.logs.get(id).map_or(0, |log| log.log_end_offset);
            let (flush_to, sync_to) = upto(end);
            self.ask(id, flush_to, sync_to);
        }
    }

    fn remove_journals(&mut self, io: &mut impl Io) {
        for dir in 0..self.dirs.len() {
            let home = &mut self.dirs[dir];
            if !home.online {
                continue;
            }
            let mut steps = VecDeque::new();
            for (name, handle) in home.journal.files_mut().take() {
                io.submit(Op::Close { handle }, close_token());
                steps.push_back(Step::Unlink { path: home.journal_path.join(name) });
            }
            sync_dir(&mut steps, &home.journal_path);
            self.jobs.start(io, dir, None, steps, End::Nothing);
        }
    }
}
