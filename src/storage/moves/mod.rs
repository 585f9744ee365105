//! A log on its way to another directory of the same shard, while it serves.
//!
//! The copy grows in `<topic>-<partition>.<id>-future`, a piece at a time ([`copy`]): the segments with their indexes and
//! snapshots. When little is missing, appends are held for a moment, everything is flushed and copied, the copy is put on stable media and
//! gets the log's name ([`switch`]). What decides then is the cluster's metadata alone: the storage asks for it
//! ([`Event::MoveReady`]) and goes on from the new directory once it is told ([`Storage::log_placed`]); recovery believes the
//! directory that the metadata names, and removes the other. The old directory gets the suffix `-delete` and goes away.
//!
//! Invariants:
//! - Until the metadata has decided nothing of the log changes; a move that cannot go on leaves it as it is.
//! - When it decides, the new directory has all of the log on stable media, the directory's checkpoints name it, and no append, delete
//!   or retention has touched the log since: the old directory's journal holds nothing that the new one lacks.
//! - Compaction leaves the log alone meanwhile; retention and deletes of records do not, and the copy follows them.
//!
//! One log at a time moves, one operation at a time; others wait. The tick and the end of each turn drive it.

mod copy; // segments, piece by piece
mod switch; // from the last piece to the new directory

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use super::jobs::{JobError, Step};
use super::names::{DirectoryState, suffixed_directory_name};
use super::store::{End, Storage};
use super::types::*;
use crate::io::buffer::AlignedBuf;
use crate::io::{Errno, Io};
use crate::protocol::Uuid;

/// What the move waits for is looked at again after this.
const WAIT_NS: u64 = 2_000_000;
/// After a switch that did not come about in its time the copy goes on for this long before the next try.
const PAUSE_NS: u64 = 1_000_000_000;
/// What the rate allows and was not used counts for this long.
const BURST_NS: u64 = 100_000_000;

/// The moves of a shard.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Logs that are to move, and where.
    wanted: VecDeque<(LogId, usize)>,
    active: Option<Box<Move>>,
    /// An operation is under way.
    busy: bool,
    /// No step before these: the rate's, and that of a wait.
    pace_ns: u64,
    wait_ns: u64,
}

/// One log's move.
#[derive(Debug)]
struct Move {
    log: LogId,
    tp: TopicPartition,
    from: usize,
    to: usize,
    /// The copy's directory, under its present name and under the log's.
    path: PathBuf,
    live: PathBuf,
    unique: Uuid,
    phase: Phase,
    cancelled: bool,
    /// The copies of the segments; those before `next` are complete.
    segments: BTreeMap<i64, copy::Copied>,
    next: i64,
    bytes: u64,
    /// What a read is to be written as.
    pending: Option<copy::Pending>,
    /// Names of files in the copy's directory.
    files: BTreeSet<String>,
    /// When the hold of appends is given up.
    hold_until_ns: u64,
    /// The copy is complete and on stable media: the checkpoints of its directory name it.
    sealed: bool,
    checkpoint: u64,
    snapshot: Option<i64>,
    /// The log has no files yet.
    bare: bool,
    grave: Option<switch::Grave>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Prepare,
    Copy,
    /// Appends are held, what is left is flushed and copied.
    Hold,
    Seal,
    Checkpoint,
    Rename,
    /// The metadata decides.
    Commit,
    /// The metadata cannot say how it has decided: the next start will know.
    Unknown,
    /// It has: reads of the old files end.
    Switch,
    /// A directory that is not the log's gets another name.
    Bury,
    Done,
}

/// What an operation of the move was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveEnd {
    Made,
    Read,
    /// A snapshot need not be there.
    ReadSnapshot,
    Written,
    /// The files of a segment are all there, or those of a retired one are gone.
    Arranged,
    Sealed,
    Renamed,
    Buried,
}

impl MoveEnd {
    /// Whether the log directory stays in service after such an error.
    pub fn forgives(self, error: Errno) -> bool {
        match self {
            MoveEnd::Read | MoveEnd::ReadSnapshot => true,
            MoveEnd::Renamed => {
                matches!(error, Errno::NO_SPACE | Errno::EXISTS | Errno::NOT_EMPTY | Errno::NOT_FOUND)
            }
            MoveEnd::Buried => false,
            _ => matches!(error, Errno::NO_SPACE | Errno::NOT_FOUND),
        }
    }
}

/// What a move does next.
enum Next {
    Again,
    Run {
        dir: usize,
        log: Option<LogId>,
        steps: VecDeque<Step>,
        end: MoveEnd,
        bytes: usize,
    },
    Wait(u64),
    /// The metadata is being asked.
    Idle,
    /// The checkpoints of this directory are to be written.
    Checkpoint(usize),
    /// The log's files that are open are not its files any more.
    DoomFiles(LogId),
    Done,
    GiveUp(String),
}

/// A log's copy on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FutureLog {
    pub dir: usize,
    pub size_bytes: u64,
    /// How far its end is behind the log's.
    pub offset_lag: i64,
}

impl Storage {
    /// Has the log move to another directory, in place of where it was to move before. To the one it is in: a move under way
    /// ends, and the log stays.
    pub fn move_log(&mut self, io: &mut impl Io, log: LogId, to: usize) -> Result<(), StorageError> {
        let home = self.logs.get(log).ok_or(StorageError::UnknownLog)?.dir;
        if !self.is_online(to) {
            return Err(StorageError::Offline(to));
        }
        self.moves.wanted.retain(|wanted| wanted.0 != log);
        let mut stays = home == to;
        if let Some(active) = self.moves.active.as_mut().filter(|active| active.log == log) {
            if active.phase >= Phase::Commit {
                // It can't be taken back; a wish for another place comes after it.
                stays = if active.phase >= Phase::Bury { home == to } else { active.to == to };
            } else if active.to == to && !active.cancelled {
                stays = true;
            } else {
                active.cancelled = true;
            }
        }
        if !stays {
            self.moves.wanted.push_back((log, to));
        }
        (self.moves.pace_ns, self.moves.wait_ns) = (0, 0);
        self.run_moves(io);
        Ok(())
    }

    /// The copy of a log that moves or is to move.
    pub fn future_log(&self, log: LogId) -> Option<FutureLog> {
        let end = self.logs.get(log)?.log_end_offset;
        let active = self.moves.active.as_ref().filter(|active| active.log == log);
        if let Some(active) = active.filter(|active| !active.cancelled && active.phase < Phase::Bury) {
            let offset_lag = (end - active.end_offset()).max(0);
            return Some(FutureLog { dir: active.to, size_bytes: active.bytes, offset_lag });
        }
        let (_, dir) = self.moves.wanted.iter().find(|wanted| wanted.0 == log)?;
        Some(FutureLog { dir: *dir, size_bytes: 0, offset_lag: end })
    }

    /// Whether appends to the log and deletes of its records are held for a moment. [`Event::ReadReady`] tells of the end.
    pub fn is_held(&self, log: LogId) -> bool {
        self.logs.get(log).is_some_and(|log| log.flags.held)
    }

    /// The rate of all moves of the shard together, in bytes copied.
    pub fn set_move_rate(&mut self, bytes_per_second: f64) {
        if self.options.move_bytes_per_second != bytes_per_second {
            self.options.move_bytes_per_second = bytes_per_second;
            self.moves.pace_ns = 0;
        }
    }

    /// The log's move, if there is one, looks at once at what has become of it.
    pub(super) fn hurry_move(&mut self, log: LogId) {
        if self.moves.active.as_ref().is_some_and(|active| active.log == log) {
            (self.moves.pace_ns, self.moves.wait_ns) = (0, 0);
        }
    }

    pub(super) fn moves_deadline(&self) -> u64 {
        let moves = &self.moves;
        match &moves.active {
            _ if moves.busy || self.stopping => u64::MAX,
            Some(active) if matches!(active.phase, Phase::Commit | Phase::Unknown) => u64::MAX,
            Some(active) if active.phase == Phase::Copy => moves.wait_ns.max(moves.pace_ns),
            Some(_) => moves.wait_ns,
            None if moves.wanted.is_empty() => u64::MAX,
            None => moves.wait_ns,
        }
    }

    /// Whether the log moves, so that compaction has to leave it alone.
    pub(super) fn is_moving(&self, log: LogId) -> bool {
        self.moves.active.as_ref().is_some_and(|active| active.log == log && active.phase < Phase::Bury)
    }

    /// The log whose copy in `dir` is complete: its offsets belong into the directory's checkpoints.
    pub(super) fn sealed_in(&self, dir: usize) -> Option<LogId> {
        let active = self.moves.active.as_deref()?;
        (active.sealed && active.to == dir && active.phase < Phase::Bury).then_some(active.log)
    }

    /// Goes on with the move under way, or begins the next.
    pub(super) fn run_moves(&mut self, io: &mut impl Io) {
        loop {
            let now = io.now();
            let moves = &mut self.moves;
            if self.stopping || moves.busy || now < moves.wait_ns {
                return;
            }
            let Some(mut active) = moves.active.take() else {
                let Some((log, to)) = moves.wanted.pop_front() else { return };
                self.begin_move(io, log, to);
                continue;
            };
            if active.phase == Phase::Copy && now < moves.pace_ns && !active.cancelled {
                moves.active = Some(active);
                return;
            }
            let next = self.next_of_move(io, &mut active);
            match next {
                Next::Again => self.moves.active = Some(active),
                Next::Wait(rest_ns) => {
                    self.moves.wait_ns = now.saturating_add(rest_ns);
                    self.moves.active = Some(active);
                }
                Next::Idle => {
                    self.moves.active = Some(active);
                    return;
                }
                Next::Run { dir, log, steps, end, bytes } => {
                    let pause_ns = bytes as f64 / self.options.move_bytes_per_second.max(1.0) * 1e9;
                    let from_ns = self.moves.pace_ns.max(now.saturating_sub(BURST_NS));
                    self.moves.pace_ns = from_ns.saturating_add(pause_ns as u64);
                    self.moves.busy = true;
                    self.moves.active = Some(active);
                    return self.jobs.start_impatient(io, dir, log, steps, End::Move(end));
                }
                Next::Checkpoint(dir) => {
                    self.moves.active = Some(active);
                    self.write_checkpoints(io, dir);
                }
                Next::DoomFiles(log) => {
                    self.moves.active = Some(active);
                    self.jobs.doom_files(io, log, |_| true);
                }
                Next::Done => {}
                Next::GiveUp(why) => {
                    tracing::error!(
                        log = %active.tp, from = %self.dirs[active.from].path.display(),
                        to = %self.dirs[active.to].path.display(), why, "a log does not move: it stays where it is"
                    );
                    active.cancelled = true;
                    self.moves.active = Some(active);
                }
            }
        }
    }

    fn begin_move(&mut self, io: &mut impl Io, id: LogId, to: usize) {
        let Some(log) = self.logs.get(id).filter(|log| log.dir != to) else { return };
        let mut unique = [0; 16];
        unique[..8].copy_from_slice(&io.random().to_be_bytes());
        unique[8..].copy_from_slice(&io.random().to_be_bytes());
        let live = self.dirs[to].path.join(log.tp.dir_name());
        tracing::info!(log = %log.tp, from = %log.path.display(), to = %live.display(), "a log begins to move");
        self.moves.active = Some(Box::new(Move {
            log: id,
            tp: log.tp.clone(),
            from: log.dir,
            to,
            path: named(&live, &log.tp, Uuid(unique), DirectoryState::Future),
            live,
            unique: Uuid(unique),
            phase: Phase::Prepare,
            cancelled: false,
            segments: BTreeMap::new(),
            next: i64::MIN,
            bytes: 0,
            pending: None,
            files: BTreeSet::new(),
            hold_until_ns: 0,
            sealed: false,
            checkpoint: 0,
            snapshot: None,
            bare: false,
            grave: None,
        }));
    }

    fn next_of_move(&mut self, io: &mut impl Io, active: &mut Move) -> Next {
        match active.phase {
            Phase::Bury => return self.bury_copy(active),
            Phase::Done => return Next::Done,
            _ => {}
        }
        if active.cancelled || self.logs.get(active.log).is_none() {
            return self.leave(active);
        }
        if active.phase < Phase::Commit {
            for dir in [active.from, active.to] {
                if !self.dirs[dir].online {
                    return Next::GiveUp(format!("{} is offline", self.dirs[dir].path.display()));
                }
            }
        }
        match active.phase {
            Phase::Prepare => self.prepare(active),
            Phase::Copy | Phase::Hold => self.next_of_copy(io, active),
            Phase::Seal => self.seal(active),
            Phase::Checkpoint => self.checkpoint_copy(io, active),
            Phase::Rename => self.rename_copy(active),
            Phase::Switch => self.switch(active),
            Phase::Commit | Phase::Unknown | Phase::Bury | Phase::Done => Next::Idle,
        }
    }

    /// The operation under way has ended.
    pub(super) fn move_ended(
        &mut self,
        io: &mut impl Io,
        end: MoveEnd,
        buf: Option<(AlignedBuf, usize)>,
        error: Option<JobError>,
    ) {
        self.moves.busy = false;
        let Some(mut active) = self.moves.active.take() else { return };
        if let Some(why) = self.take_step(io, &mut active, end, buf, error) {
            let known = self.logs.get(active.log).is_some();
            if known && !active.cancelled {
                tracing::error!(log = %active.tp, to = %active.path.display(), why, "a log does not move: it stays where it is");
            }
            active.cancelled = true;
        }
        self.moves.active = Some(active);
        self.run_moves(io);
    }

    /// Notes what an operation has done; why the move cannot go on, if so.
    fn take_step(
        &mut self,
        io: &mut impl Io,
        active: &mut Move,
        end: MoveEnd,
        buf: Option<(AlignedBuf, usize)>,
        error: Option<JobError>,
    ) -> Option<String> {
        if let Some(error) = error {
            let retry = end == MoveEnd::Renamed && matches!(error.errno, Errno::EXISTS | Errno::NOT_EMPTY);
            return match end {
                MoveEnd::ReadSnapshot if error.errno == Errno::NOT_FOUND => {
                    active.skip_file();
                    None
                }
                // A deleted log of the name has the directory still.
                _ if retry => {
                    self.release_hold(active);
                    self.moves.wait_ns = io.now().saturating_add(PAUSE_NS);
                    None
                }
                MoveEnd::Buried => {
                    self.buried_copy(active);
                    None
                }
                _ => Some(error.to_string()),
            };
        }
        match end {
            MoveEnd::Made => active.phase = Phase::Copy,
            MoveEnd::Read | MoveEnd::ReadSnapshot => return active.take_read(buf).err(),
            MoveEnd::Written => active.written(),
            MoveEnd::Arranged => {}
            MoveEnd::Sealed => {
                active.sealed = true;
                active.phase = Phase::Checkpoint;
                active.checkpoint = 0;
            }
            MoveEnd::Renamed => {
                active.path = active.live.clone();
                active.phase = Phase::Commit;
                self.events.push_back(Event::MoveReady { log: active.log, dir: active.to });
            }
            MoveEnd::Buried => self.buried_copy(active),
        }
        None
    }
}

/// A directory beside the log's, under a name of its own.
fn named(live: &std::path::Path, tp: &TopicPartition, unique: Uuid, state: DirectoryState) -> PathBuf {
    let unique = u128::from_be_bytes(unique.0);
    live.with_file_name(suffixed_directory_name(&tp.topic, tp.partition, unique, state))
}
