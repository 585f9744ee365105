//! [`Storage`]: the logs of one shard on its directories. The turn and the routing of completions; the
//! rest of its methods stands in the modules named after what they do.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::cache::ReadCache;
use super::checkpoint::{CLEANER_OFFSET_FILE, LOG_START_OFFSET_FILE, RECOVERY_POINT_FILE};
use super::cleaner::{CleanEnd, Cleaner};
use super::commit::journal_mode;
use super::jobs::{Finished, Jobs};
use super::journal::{Journal, Way};
use super::load::{LoadOptions, LoadedLog, load};
use super::log::{Log, Place};
use super::logs::Logs;
use super::moves::{MoveEnd, Moves};
use super::observe::JournalClock;
use super::producer_state::{ProducerState, ProducerStateConfig};
use super::read::Reads;
use super::recovery::{Offsets, read_offsets, read_topic_id};
use super::retention::{Dead, Removal, Retention};
use super::segment::Segment;
use super::start::{open_blocking, sync_dir_blocking};
use super::stop::StopPhase;
use super::types::*;
use crate::io::buffer::AlignedBuf;
use crate::io::{Completion, Errno, Io, Op, Token};

/// What the lower bytes of storage's tokens say: kind, directory, number.
const KIND_JOB: u64 = 1;
const KIND_CLOSE: u64 = 2;
pub(super) const KIND_JOURNAL_WRITE: u64 = 3;
pub(super) const KIND_JOURNAL_SYNC: u64 = 4;

/// A directory without space is tried again this often.
pub(super) const RETRY_NS: u64 = 1_000_000_000;
/// An open file nobody uses is closed after this.
const FILE_IDLE_NS: u64 = 30_000_000_000;
const HOUSEKEEPING_NS: u64 = 100_000_000;

pub(super) fn token(kind: u64, dir: usize, number: u64) -> Token {
    Token(u64::from(TOKEN_OWNER) << 56 | kind << 48 | (dir as u64) << 32 | number & 0xffff_ffff)
}

pub(super) fn close_token() -> Token {
    token(KIND_CLOSE, 0, 0)
}

/// What a finished job was for.
#[derive(Debug)]
pub(super) enum End {
    Nothing,
    JournalFile,
    /// A log's directory has been made, or another log has it still.
    Claimed(LogId),
    Flush(super::flush::FlushEnd),
    Sync(super::flush::SyncEnd),
    Read(super::cache::PieceKey),
    Checkpoint,
    /// The last snapshot of a log at the stop.
    Snapshot(LogId),
    /// A deleted log's directory has its other name.
    Buried(LogId),
    Clean(CleanEnd),
    Move(MoveEnd),
    /// Files of a segment, or of a deleted log, are gone.
    Removed,
    /// A log's first segments have left it for good.
    Retired {
        log: LogId,
        log_start_offset: Option<i64>,
    },
}

/// One log directory as this shard sees it.
#[derive(Debug)]
pub(super) struct Dir {
    pub path: PathBuf,
    pub online: bool,
    pub journal: Journal,
    pub journal_path: PathBuf,
    /// The memory of images of large batches.
    pub large_bytes: usize,
    /// What has been synced of large batches since the recovery points were written for it.
    pub large_synced_bytes: u64,
    pub clock: JournalClock,
    /// The last journal file being freed, and the logs that must be synced first.
    pub reclaim: Option<super::flush::Reclaim>,
    /// Where logs began and ended, and where compaction had come to, as of the start.
    pub start_offsets: Offsets,
    pub end_offsets: Offsets,
    pub cleaned_offsets: Offsets,
    /// The checkpoints are being written, and must be once more.
    pub checkpoint_running: bool,
    pub checkpoint_again: bool,
    /// How many times they have been.
    pub checkpoints_written: u64,
}

impl Dir {
    /// The memory that holds what no segment has yet.
    pub fn pinned_bytes(&self) -> usize {
        self.journal.pinned_bytes() + self.large_bytes
    }
}

/// One shard's disk. See the module for the order of calls.
pub struct Storage {
    pub(super) options: StorageOptions,
    pub(super) dirs: Vec<Dir>,
    pub(super) logs: Logs,
    pub(super) jobs: Jobs<End>,
    pub(super) cache: ReadCache,
    pub(super) reads: Reads,
    pub(super) events: VecDeque<Event>,
    /// Logs whose high watermark has moved, each once.
    pub(super) advanced: VecDeque<LogId>,
    /// Logs with a tail, and since when; longest first.
    pub(super) dirty: VecDeque<(u64, LogId)>,
    /// Logs that wait for a flush or a sync.
    pub(super) work: VecDeque<LogId>,
    pub(super) work_running: usize,
    /// Memory for the large batch that is about to be placed, where it needs an image of its own.
    pub(super) large_room: Option<AlignedBuf>,
    pub(super) next_flush_ns: u64,
    pub(super) retry_ns: u64,
    housekeeping_ns: u64,
    /// Deleted logs whose directory still has its name, and logs that wait for a directory of theirs to be free.
    pub(super) graveyard: Vec<Dead>,
    pub(super) haunted: Vec<LogId>,
    /// Files to remove, each list when its time has come.
    pub(super) removals: VecDeque<Removal>,
    pub(super) removals_running: usize,
    pub(super) retention: Retention,
    pub(super) cleaner: Cleaner,
    pub(super) moves: Moves,
    pub(super) stopping: bool,
    pub(super) stop: StopPhase,
    pub(super) stop_wait_ns: u64,
}

impl Storage {
    /// Start-up, blocking, after [`recover`](super::recover). A directory that cannot be used is offline from the start.
    pub fn open(io: &mut impl Io, options: StorageOptions) -> Result<Storage, StorageError> {
        let jobs = Jobs::new(token(KIND_JOB, 0, 0).0, token(KIND_CLOSE, 0, 0));
        let mut storage = Storage {
            dirs: Vec::new(),
            logs: Logs::default(),
            jobs,
            cache: ReadCache::default(),
            reads: Reads::default(),
            events: VecDeque::new(),
            advanced: VecDeque::new(),
            dirty: VecDeque::new(),
            work: VecDeque::new(),
            work_running: 0,
            large_room: None,
            next_flush_ns: 0,
            retry_ns: 0,
            housekeeping_ns: 0,
            graveyard: Vec::new(),
            haunted: Vec::new(),
            removals: VecDeque::new(),
            removals_running: 0,
            retention: Retention::default(),
            cleaner: Cleaner::default(),
            moves: Moves::default(),
            stopping: false,
            stop: StopPhase::Running,
            stop_wait_ns: 0,
            options,
        };
        for (index, path) in storage.options.dirs.clone().into_iter().enumerate() {
            let dir = storage.open_dir(io, index, path);
            storage.dirs.push(dir);
        }
        Ok(storage)
    }

    fn open_dir(&mut self, io: &mut impl Io, index: usize, path: PathBuf) -> Dir {
        let own = path.join(super::OWN_DIR);
        let journal_path = own.join(super::journal_dir_name(self.options.shard));
        let plain_way = if self.options.journal_cached { Way::Cached } else { Way::Direct };
        let fill = self.options.journal_filled;
        let mut journal = Journal::new(io.random(), self.options.journal_file_bytes, plain_way, fill);
        let mut online = true;
        let mut errors = Vec::new();
        for path in [&path, &own, &journal_path] {
            let result = io.block_on(Op::CreateDir { path: path.clone() }).result;
            errors.extend(result.err().filter(|error| *error != Errno::EXISTS));
        }
        // What recovery could not replay must not be written to.
        let left_over = io.list_dir(&journal_path).is_ok_and(|entries| !entries.is_empty());
        let unusable = left_over || self.options.offline_dirs.contains(&index);
        for way in Way::ALL.into_iter().filter(|way| [Way::Direct, plain_way].contains(way)) {
            match open_blocking(io, journal_path.join(journal.files_mut().request(way)), journal_mode(way)) {
                Ok(handle) => journal.files_mut().add(handle, false),
                Err(error) => errors.push(error),
            }
        }
        for path in [&journal_path, &own, &path] {
            errors.extend(sync_dir_blocking(io, path).err());
        }
        let mut errors: Vec<String> = errors.iter().map(Errno::to_string).collect();
        if unusable {
            errors.insert(0, "it was not recovered".to_string());
        }
        let mut offsets = [Offsets::new(), Offsets::new(), Offsets::new()];
        let names = [LOG_START_OFFSET_FILE, RECOVERY_POINT_FILE, CLEANER_OFFSET_FILE];
        for (name, offsets) in names.iter().zip(&mut offsets) {
            match read_offsets(io, &path, name, &Default::default()) {
                Ok(found) => *offsets = found,
                Err(error) => errors.push(error.to_string()),
            }
        }
        let [start_offsets, end_offsets, cleaned_offsets] = offsets;
        if let Some(error) = errors.first() {
            online = false;
            tracing::error!(dir = %path.display(), %error, "log directory is offline");
            self.events.push_back(Event::DirFailed { dir: self.dirs.len(), error: error.to_string() });
        }
        Dir {
            path,
            online,
            journal,
            journal_path,
            large_bytes: 0,
            large_synced_bytes: 0,
            clock: JournalClock::default(),
            reclaim: None,
            start_offsets,
            end_offsets,
            cleaned_offsets,
            checkpoint_running: false,
            checkpoint_again: false,
            checkpoints_written: 0,
        }
    }

    /// A new, empty log, in memory only: its directory appears with the first flush, and recovery recreates it from the
    /// journal.
    pub fn create_log(
        &mut self,
        dir: usize,
        tp: TopicPartition,
        config: LogConfig,
    ) -> Result<LogId, StorageError> {
        let home = self.dirs.get(dir).filter(|home| home.online).ok_or(StorageError::Offline(dir))?;
        let path = home.path.join(tp.dir_name());
        let producers = ProducerState::new(self.producer_config());
        Ok(self.logs.insert(|id| Log::new(id, Place { dir, path }, tp, config, producers)))
    }

    /// Start-up, blocking: the log in `dir` from its files, or an empty one.
    pub fn open_log(
        &mut self,
        io: &mut impl Io,
        dir: usize,
        tp: TopicPartition,
        config: LogConfig,
    ) -> Result<LogId, StorageError> {
        let home = self.dirs.get(dir).filter(|home| home.online).ok_or(StorageError::Offline(dir))?;
        let path = home.path.join(tp.dir_name());
        let id = read_topic_id(io, &path)?;
        if let Some(id) = id.filter(|id| *id != tp.topic_id) {
            // Left behind by an earlier topic of this name.
            let to = super::stray_path(&path, id);
            tracing::warn!(path = %path.display(), to = %to.display(), "the directory of another topic moves aside");
            let renamed = io.block_on(Op::Rename { from: path.clone(), to }).result;
            renamed.map_err(|error| super::scan::io_error(&path, error))?;
        }
        let options = LoadOptions {
            path,
            index_interval_bytes: config.index_interval_bytes,
            recovery_point: None,
            dense: false,
            known_end: home.end_offsets.get(&(tp.topic_id, tp.partition)).copied(),
            log_start_offset: home.start_offsets.get(&(tp.topic_id, tp.partition)).copied().unwrap_or(0),
            producers: self.producer_config(),
            wall_ms: io.wall_ms(),
        };
        let cleaned_offset = home.cleaned_offsets.get(&(tp.topic_id, tp.partition)).copied().unwrap_or(0);
        let loaded = load(io, &options)?;
        let log = self.create_log(dir, tp, config)?;
        if let (Some(log), Some(loaded)) = (self.logs.get_mut(log), loaded) {
            log.take_loaded(loaded, id.is_some());
            log.cleaned_offset = cleaned_offset;
        }
        Ok(log)
    }

    pub(super) fn producer_config(&self) -> ProducerStateConfig {
        ProducerStateConfig { producers_max: self.options.producer_ids_max }
    }

    pub fn set_config(&mut self, log: LogId, config: LogConfig) {
        if let Some(log) = self.logs.get_mut(log) {
            log.config = Arc::new(config);
        }
    }

    /// The largest epoch not above `epoch` and the offset where it ends, as OffsetForLeaderEpoch answers; (-1, -1)
    /// when there is none.
    pub fn end_offset_for_epoch(&self, log: LogId, epoch: i32) -> (i32, i64) {
        let Some(log) = self.logs.get(log) else { return (-1, -1) };
        log.epochs.end_offset_for(epoch, log.log_end_offset).unwrap_or((-1, -1))
    }

    /// The epoch of the last batch; -1 when there is none.
    pub fn latest_epoch(&self, log: LogId) -> i32 {
        self.logs.get(log).and_then(|log| log.epochs.latest()).map_or(-1, |latest| latest.epoch)
    }

    /// The state of a log; `None` when it is unknown.
    pub fn log_start_offset(&self, log: LogId) -> Option<i64> {
        self.logs.get(log).map(|log| log.log_start_offset)
    }

    pub fn high_watermark(&self, log: LogId) -> Option<i64> {
        self.logs.get(log).map(|log| log.high_watermark)
    }

    pub fn log_end_offset(&self, log: LogId) -> Option<i64> {
        self.logs.get(log).map(|log| log.log_end_offset)
    }

    pub fn size_bytes(&self, log: LogId) -> Option<u64> {
        self.logs.get(log).map(Log::size_bytes)
    }

    pub fn dir(&self, log: LogId) -> Option<usize> {
        self.logs.get(log).map(|log| log.dir)
    }

    /// Whether the directory takes part.
    pub fn is_online(&self, dir: usize) -> bool {
        self.dirs.get(dir).is_some_and(|dir| dir.online)
    }

    // ---- the turn ----

    /// Once a turn, last: seals and submits the journal block if a write may start.
    pub fn end_turn(&mut self, io: &mut impl Io) {
        for dir in 0..self.dirs.len() {
            if self.dirs[dir].online {
                self.write_journal(io, dir);
            }
        }
        self.forget_failed_reads();
        self.run_work(io);
        self.run_moves(io);
        self.finish_jobs(io);
        if self.stopping {
            self.advance_stop(io);
        }
    }

    pub fn handle_completion(&mut self, io: &mut impl Io, completion: Completion) {
        let token = completion.token.0;
        let (kind, dir, number) = (token >> 48 & 0xff, (token >> 32 & 0xffff) as usize, token & 0xffff_ffff);
        match kind {
            KIND_JOB => {
                self.count_job(&completion);
                self.jobs.complete(io, number as usize, completion);
            }
            KIND_JOURNAL_WRITE => self.journal_written(io, dir, number, completion.result),
            KIND_JOURNAL_SYNC => self.journal_synced(io, dir, completion.result),
            _ => {}
        }
        if let Some(home) = self.dirs.get(dir)
            && home.online
        {
            self.acknowledge(dir);
        }
        self.finish_jobs(io);
    }

    fn finish_jobs(&mut self, io: &mut impl Io) {
        while let Some(finished) = self.jobs.poll() {
            self.finish_job(io, finished);
        }
        if self.jobs.is_stalled() && self.retry_ns == 0 {
            self.retry_ns = io.now() + RETRY_NS;
        }
    }

    fn finish_job(&mut self, io: &mut impl Io, finished: Finished<End>) {
        let Finished { dir, log, end, error, buf, file } = finished;
        let kept = matches!(end, End::JournalFile) && error.is_none() && self.dirs[dir].online;
        if let Some(handle) = file {
            if kept {
                self.dirs[dir].journal.files_mut().add(handle, true);
            } else {
                io.submit(Op::Close { handle }, token(KIND_CLOSE, 0, 0));
            }
        }
        // A deleted log takes its files from under its last jobs; a failed read fails alone.
        let forgiven = match (&end, &error) {
            (End::Read(_), _) => true,
            (End::Claimed(_), Some(error)) => error.errno == Errno::EXISTS,
            (End::Clean(end), Some(error)) => end.forgives(error.errno),
            (End::Move(end), Some(error)) => end.forgives(error.errno),
            _ => false,
        };
        // Only the burial: were the directory still there, the next log of the name would write into it.
        let deleted = log.is_some_and(|log| self.logs.get(log).is_none());
        let harmless = forgiven || (deleted && !matches!(end, End::Buried(_)));
        if let Some(error) = &error
            && !harmless
        {
            self.fail_dir(io, dir, error.to_string());
        }
        match end {
            End::Nothing | End::JournalFile => {}
            End::Checkpoint => self.checkpoint_ended(io, dir),
            End::Snapshot(log) => {
                self.work_running -= 1;
                self.work.push_back(log);
            }
            End::Claimed(log) => self.claim_ended(io, log, error),
            End::Buried(log) => self.buried(log),
            End::Removed => self.removals_running -= 1,
            End::Retired { log, log_start_offset } => {
                self.retired(io, log, log_start_offset.filter(|_| error.is_none()));
            }
            End::Flush(end) => self.flush_ended(io, dir, end, error.is_none()),
            End::Sync(end) => self.sync_ended(io, dir, end, error.is_none()),
            End::Read(key) => self.read_ended(key, buf, error),
            End::Clean(end) => self.clean_ended(io, end, buf, error),
            End::Move(end) => self.move_ended(io, end, buf, error),
        }
    }

    /// Takes a directory out of service, for good.
    pub(super) fn fail_dir(&mut self, io: &mut impl Io, dir: usize, error: String) {
        let home = &mut self.dirs[dir];
        if !std::mem::replace(&mut home.online, false) {
            return;
        }
        tracing::error!(dir = %home.path.display(), %error, "log directory is offline");
        home.reclaim = None;
        self.events.push_back(Event::DirFailed { dir, error });
        self.jobs.abandon(io, dir);
    }

    /// Timers; bounded work a call.
    pub fn tick(&mut self, io: &mut impl Io, wall_ms: i64) {
        let now = io.now();
        if self.retry_ns != 0 && now >= self.retry_ns {
            self.retry_ns = 0;
            self.dirs.iter_mut().filter(|home| home.online).for_each(|home| home.journal.retry());
            self.jobs.retry(io);
        }
        if now >= self.next_flush_ns {
            self.flush_due(now);
        }
        if now >= self.housekeeping_ns {
            self.housekeeping_ns = now + HOUSEKEEPING_NS;
            self.jobs.close_idle(io, now.saturating_sub(FILE_IDLE_NS), self.options.open_files_max);
            self.run_removals(io, now);
            self.bury(io);
            self.ask_haunted();
            // A log that was waited for may be gone.
            (0..self.dirs.len()).for_each(|dir| self.check_reclaim(io, dir));
        }
        self.run_retention(io, now, wall_ms);
        self.run_cleaner(io, now, wall_ms);
        self.run_work(io);
        self.finish_jobs(io);
    }

    /// When [`Storage::tick`] is due next, on [`Io::now`]'s clock.
    pub fn next_deadline(&self) -> u64 {
        let mut deadline = self.next_flush_ns.min(self.housekeeping_ns).min(self.retention.next_ns);
        deadline = deadline.min(self.cleaner.next_deadline()).min(self.moves_deadline());
        if self.retry_ns != 0 {
            deadline = deadline.min(self.retry_ns);
        }
        deadline
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        while let Some(id) = self.advanced.pop_front() {
            if let Some(log) = self.logs.get_mut(id) {
                log.flags.advanced = false;
                return Some(Event::Advanced { log: id, high_watermark: log.high_watermark });
            }
        }
        None
    }
}

impl Log {
    /// Becomes what was found on disk; `known`: the directory says whose it is.
    fn take_loaded(&mut self, loaded: LoadedLog, known: bool) {
        self.start_at(loaded.log_end_offset);
        self.log_start_offset = loaded.log_start_offset;
        self.safe_start_offset = loaded.log_start_offset;
        self.segments = loaded.segments;
        self.epochs = loaded.epochs;
        self.producers = loaded.producers;
        self.snapshot_offset = loaded.snapshot_offset;
        self.stray_snapshot = loaded.stray_snapshot;
        self.has_dir = known;
        self.on_disk = known;
        self.names_synced = known;
        for line in loaded.dropped {
            tracing::error!("{line}");
        }
    }

    /// Closes the last segment and begins another at `base_offset`.
    pub(super) fn roll(&mut self, base_offset: i64, wall_ms: i64, jitter_ms: i64) {
        if let Some(last) = self.segments.back_mut() {
            last.close();
        }
        self.segments.push_back(Segment::new(base_offset, wall_ms, jitter_ms));
    }
}
