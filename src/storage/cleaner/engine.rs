//! The steps of a compaction: which file operation comes next, and what is done with what a read has brought.
//!
//! [`Storage::run_cleaner`] is called by the tick, [`Storage::clean_ended`] at the end of each operation; at most one is
//! under way. A task ends early, with its `.cleaned` files removed, when its log is deleted or no longer compacted, when retention
//! took what it was working on, when the disk is full, or when what it reads is damaged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::output::{KINDS, Output};
use super::pick::Round;
use super::swap::push_swap;
use super::task::{Phase, Place, Task};
use crate::io::buffer::AlignedBuf;
use crate::io::{BLOCK_BYTES, Errno, Io};
use crate::record::{BATCH_OVERHEAD, BatchHeader, RecordBatch};
use crate::storage::jobs::{FileKey, JobError, Step};
use crate::storage::names::{FileKind, FileName, FileState};
use crate::storage::store::{End, Storage};
use crate::storage::types::*;

/// What a step reads and works through, but for a batch that is larger.
pub(super) const WINDOW_BYTES: usize = 128 << 10;
/// What is written at once.
const WRITE_BYTES: usize = 256 << 10;
/// Memory that was not there, or readers that were, are asked for again after this.
const WAIT_NS: u64 = 2_000_000;
/// A log that could not be compacted for a reason that may pass is left alone for this long.
const PAUSE_NS: u64 = 60_000_000_000;

/// The shard's cleaner.
#[derive(Debug, Default)]
pub(in crate::storage) struct Cleaner {
    pub(super) next_ns: u64,
    pub(super) round: Round,
    task: Option<Box<Task>>,
    /// An operation is under way.
    busy: bool,
    /// Logs that are left alone, and until when.
    blocked: BTreeMap<LogId, u64>,
}

/// What an operation of the cleaner was.
#[derive(Debug)]
pub(in crate::storage) enum CleanEnd {
    Read,
    Written,
    Completed,
    Swapped,
    Discarded,
}

impl CleanEnd {
    /// Whether the log directory stays in service after such an error.
    pub fn forgives(&self, error: Errno) -> bool {
        match self {
            CleanEnd::Read => true,
            CleanEnd::Written | CleanEnd::Completed => error == Errno::NO_SPACE,
            CleanEnd::Swapped | CleanEnd::Discarded => false,
        }
    }
}

/// What a task does next.
enum Next {
    Again,
    Run {
        steps: VecDeque<Step>,
        end: CleanEnd,
        bytes: usize,
    },
    Wait,
    Done,
    /// Its log or directory is gone.
    Gone,
    GiveUp {
        why: &'static str,
        pause_ns: u64,
    },
}

impl Cleaner {
    pub fn next_deadline(&self) -> u64 {
        if self.busy { u64::MAX } else { self.next_ns }
    }

    /// Names of files in a log's directory that are there for the cleaner.
    pub fn files_of(&self, log: LogId) -> Vec<String> {
        let task = self.task.as_ref().filter(|task| task.log == log);
        let Some(output) = task.and_then(|task| task.output.as_ref()) else { return Vec::new() };
        let states = [FileState::Cleaned, FileState::Swap, FileState::Deleted];
        let names = states.into_iter().flat_map(|state| {
            FileKind::ALL.map(|kind| FileName::new(output.first, kind).with_state(state).to_string())
        });
        names.collect()
    }

    pub fn works_on(&self, log: LogId) -> bool {
        self.task.as_ref().is_some_and(|task| task.log == log)
    }

    pub(super) fn is_blocked(&mut self, log: LogId, now: u64) -> bool {
        self.blocked.get(&log).is_some_and(|until| *until > now)
    }
}

impl Storage {
    /// Looks for a log to compact, or goes on with one that had to wait.
    pub(in crate::storage) fn run_cleaner(&mut self, io: &mut impl Io, now: u64, wall_ms: i64) {
        if self.cleaner.busy || now < self.cleaner.next_ns {
            return;
        }
        if !self.options.cleaner.enable || (self.stopping && self.cleaner.task.is_none()) {
            self.cleaner.next_ns = u64::MAX;
            return;
        }
        if self.cleaner.task.is_none() {
            let logs = &self.logs;
            self.cleaner.blocked.retain(|log, until| *until > now && logs.get(*log).is_some());
            self.cleaner.task = self.pick_log(io, now, wall_ms).map(Box::new);
            self.ask_checkpoint(io);
        }
        self.clean_on(io);
    }

    fn ask_checkpoint(&mut self, io: &mut impl Io) {
        let Some(task) = &mut self.cleaner.task else { return };
        let home = &self.dirs[task.dir];
        // One that is being written may have been begun too early.
        task.checkpoint = home.checkpoints_written + if home.checkpoint_running { 2 } else { 1 };
        let dir = task.dir;
        self.write_checkpoints(io, dir);
    }

    /// The operation under way has ended.
    pub(in crate::storage) fn clean_ended(
        &mut self,
        io: &mut impl Io,
        end: CleanEnd,
        buf: Option<(AlignedBuf, usize)>,
        error: Option<JobError>,
    ) {
        self.cleaner.busy = false;
        let Some(mut task) = self.cleaner.task.take() else { return };
        if let Some(error) = error {
            let why = error.to_string();
            let pause_ns = if error.errno == Errno::NO_SPACE { PAUSE_NS } else { u64::MAX };
            return self.give_up(io, *task, &why, pause_ns);
        }
        match (end, buf) {
            (CleanEnd::Read, Some((buf, len))) => {
                if let Err(why) = self.absorb(&mut task, &buf[..len]) {
                    return self.give_up(io, *task, why, u64::MAX);
                }
            }
            (CleanEnd::Completed, _) => {
                if let Some(output) = &mut task.output {
                    output.complete = true;
                }
            }
            (CleanEnd::Swapped, _) => self.swapped(io, &mut task),
            _ => {}
        }
        self.cleaner.task = Some(task);
        self.clean_on(io);
    }

    /// Starts the next operation of the task, if there is one and it is time.
    fn clean_on(&mut self, io: &mut impl Io) {
        let now = io.now();
        while now >= self.cleaner.next_ns
            && let Some(mut task) = self.cleaner.task.take()
        {
            match self.next_step(io, &mut task) {
                Next::Again => self.cleaner.task = Some(task),
                Next::Wait => {
                    self.cleaner.next_ns = now + WAIT_NS;
                    self.cleaner.task = Some(task);
                }
                Next::Run { steps, end, bytes } => {
                    let pause_ns = bytes as f64 / self.options.cleaner.io_max_bytes_per_second.max(1.0) * 1e9;
                    self.cleaner.next_ns = now.saturating_add(pause_ns as u64);
                    self.cleaner.busy = true;
                    let (dir, log) = (task.dir, Some(task.log));
                    self.cleaner.task = Some(task);
                    if matches!(end, CleanEnd::Written | CleanEnd::Completed) {
                        self.jobs.start_impatient(io, dir, log, steps, End::Clean(end));
                    } else {
                        self.jobs.start(io, dir, log, steps, End::Clean(end));
                    }
                    return;
                }
                Next::Done => return self.cleaned(io, *task),
                Next::Gone => {
                    self.cleaner.next_ns = now;
                    return;
                }
                Next::GiveUp { why, pause_ns } => return self.give_up(io, *task, why, pause_ns),
            }
        }
    }

    fn next_step(&mut self, io: &mut impl Io, task: &mut Task) -> Next {
        let Some(log) = self.logs.get(task.log).filter(|log| self.dirs[log.dir].online) else {
            return Next::Gone;
        };
        if self.stopping || !log.config.compact || self.is_moving(task.log) {
            return Next::GiveUp { why: "it is not wanted any more", pause_ns: 0 };
        }
        if task.place.segment >= 0 && task.asked != Some(task.place.segment) {
            return self.ask_aborted(io, task);
        }
        match task.phase {
            Phase::Map => self.next_of_map(task),
            Phase::Rewrite(_) if task.output.is_some() => self.next_of_output(task),
            Phase::Rewrite(from) => {
                let index = log.segments.partition_point(|segment| segment.base_offset < from);
                let end = task.map.latest_offset() + 1;
                let Some(segment) = log.segments.get(index).filter(|segment| segment.base_offset < end)
                else {
                    return Next::Done;
                };
                if segment.base_offset >= task.bound {
                    return Next::Done;
                }
                task.place = Place::start_of(segment.base_offset);
                task.output = Some(Output::new(log, index, end.min(task.bound)));
                Next::Again
            }
        }
    }

    /// Learns which transactions with a part in the segment were aborted, before it is read.
    fn ask_aborted(&mut self, io: &mut impl Io, task: &mut Task) -> Next {
        let Some(log) = self.logs.get(task.log) else { return Next::Gone };
        let from = task.place.segment;
        let Some(index) = log.segment_index(from) else { return RETIRED };
        let to = log.segment_end_offset(index);
        // What came before has been compacted, or is no longer there.
        let from_dirty = if task.phase == Phase::Map { from.max(task.first_dirty) } else { from };
        let mut found = Vec::new();
        match self.aborted_transactions(io, task.log, from_dirty, to, &mut found) {
            Ok(true) => {
                let last = found.iter().map(|txn| txn.last_offset + 1).max();
                task.markers_end = task.markers_end.max(last.unwrap_or(0));
                task.transactions.add(&found);
                task.asked = Some(from);
                Next::Again
            }
            Ok(false) | Err(ReadError::NoMemory) => Next::Wait,
            Err(_) => Next::GiveUp { why: "its aborted transactions are not known", pause_ns: PAUSE_NS },
        }
    }

    fn next_of_map(&mut self, task: &mut Task) -> Next {
        let Some(log) = self.logs.get(task.log) else { return Next::Gone };
        if task.place.segment < 0 {
            let index = log.find_segment(task.first_dirty).unwrap_or(0);
            let Some(segment) = log.segments.get(index) else { return Next::Done };
            task.place = Place::start_of(segment.base_offset);
            return Next::Again;
        }
        let Some(index) = log.segment_index(task.place.segment) else { return RETIRED };
        if task.place.position < log.segments[index].flushed {
            return self.read_window(task, index);
        }
        match log.segments.get(index + 1).filter(|next| next.base_offset < task.bound) {
            Some(next) => task.place = Place::start_of(next.base_offset),
            None => {
                task.map.set_latest_offset(task.bound - 1);
                task.begin(Phase::Rewrite(i64::MIN));
            }
        }
        Next::Again
    }

    fn next_of_output(&mut self, task: &mut Task) -> Next {
        let (Some(log), Some(output)) = (self.logs.get(task.log), &mut task.output) else {
            return Next::Gone;
        };
        if log.segment_index(output.first).is_none() || log.segment_index(output.last).is_none() {
            return RETIRED;
        }
        if output.complete {
            return self.next_of_swap(task);
        }
        let path = log.path.clone();
        let mut steps = VecDeque::new();
        if output.pending.len() >= WRITE_BYTES {
            let len = output.ready_bytes().min(2 * WRITE_BYTES);
            let Some(buf) = self.allocate(len) else { return Next::Wait };
            output.push_write(&mut steps, &path, buf);
            return Next::Run { steps, end: CleanEnd::Written, bytes: len };
        }
        let Some(index) = log.segment_index(task.place.segment) else { return RETIRED };
        if task.place.position < log.segments[index].flushed {
            return self.read_window(task, index);
        }
        if task.place.segment < output.last {
            task.place = Place::start_of(log.segments[index + 1].base_offset);
            return Next::Again;
        }
        let bytes = output.pending.len();
        output.push_completion(&mut steps, &path);
        Next::Run { steps, end: CleanEnd::Completed, bytes }
    }

    /// The output is complete: it takes its place, unless it is what is there already.
    fn next_of_swap(&mut self, task: &mut Task) -> Next {
        let (Some(log), Some(output)) = (self.logs.get_mut(task.log), &task.output) else {
            return Next::Gone;
        };
        let (first, last) = (output.first, output.last);
        let mut steps = VecDeque::new();
        if output.unchanged {
            push_discard(&mut steps, log, output);
            task.phase = Phase::Rewrite(last + 1);
            task.stats.bytes_before += u64::from(output.segment.size);
            task.stats.bytes_after += u64::from(output.segment.size);
            task.output = None;
            return Next::Run { steps, end: CleanEnd::Discarded, bytes: 0 };
        }
        if self.dirs[task.dir].checkpoints_written < task.checkpoint {
            return Next::Wait;
        }
        // What was dropped as aborted must stay aborted.
        if log.synced_offset < task.markers_end {
            let end = task.markers_end;
            self.ask(task.log, end, end);
            return Next::Wait;
        }
        log.swapping = Some((first, last));
        if self.reads.touch(task.log, first..=last) {
            return Next::Wait;
        }
        push_swap(&mut steps, log, first, last);
        task.phase = Phase::Rewrite(last + 1);
        Next::Run { steps, end: CleanEnd::Swapped, bytes: 0 }
    }

    fn read_window(&mut self, task: &mut Task, index: usize) -> Next {
        let place = task.place;
        let window = place.position - place.position % BLOCK_BYTES as u32;
        let lead = (place.position - window) as usize;
        if place.need > self.options.pool.max_bytes() / 4 {
            return Next::GiveUp { why: "a batch is larger than the memory allows", pause_ns: u64::MAX };
        }
        let Some(log) = self.logs.get(task.log) else { return Next::Gone };
        let left = (log.segments[index].flushed - window) as usize;
        let len = (lead + place.need.max(WINDOW_BYTES)).min(left).next_multiple_of(BLOCK_BYTES);
        let dir = Arc::clone(&log.path);
        let Some(buf) = self.allocate(len) else { return Next::Wait };
        task.place.window = window;
        let key = FileKey { log: task.log, base_offset: place.segment, kind: FileKind::Log };
        let steps = VecDeque::from([
            Step::Use { key, dir, create: false },
            Step::Read { offset: u64::from(window), len, buf: Some(buf) },
        ]);
        Next::Run { steps, end: CleanEnd::Read, bytes: len }
    }

    /// Works through the whole batches of a window.
    fn absorb(&mut self, task: &mut Task, bytes: &[u8]) -> Result<(), &'static str> {
        // What is gone is noticed by the next step.
        let Some(log) = self.logs.get(task.log) else { return Ok(()) };
        let Some(index) = log.segment_index(task.place.segment) else { return Ok(()) };
        let (flushed, end_offset) = (log.segments[index].flushed, log.segment_end_offset(index));
        let config = Arc::clone(&log.config);
        let start = task.place.position;
        let needed = task.place.need;
        task.place.need = BATCH_OVERHEAD;
        while task.place.position < flushed {
            let at = (task.place.position - task.place.window) as usize;
            let left = (flushed - task.place.position) as usize;
            let rest = bytes.get(at..).unwrap_or_default();
            let rest = &rest[..rest.len().min(left)];
            if rest.len() < BATCH_OVERHEAD {
                break;
            }
            let header = BatchHeader::parse(rest).map_err(|_| "a batch header is damaged")?;
            let fits = header.size() <= left
                && header.last_offset_delta >= 0
                && header.base_offset >= task.place.next_offset
                && header.next_offset() <= end_offset;
            if !fits {
                return Err("a batch does not belong where it stands");
            }
            if header.size() > rest.len() {
                task.place.need = header.size();
                break;
            }
            let batch = RecordBatch::parse(rest).map_err(|_| "a batch is damaged")?;
            batch.check_crc().map_err(|_| "the checksum of a batch is wrong")?;
            if task.phase == Phase::Map {
                if !task.map_batch(&batch)? {
                    task.begin(Phase::Rewrite(i64::MIN));
                    return Ok(());
                }
            } else {
                task.rewrite_batch(&batch, &log.producers, &config)?;
            }
            task.place.position += header.size() as u32;
            task.place.next_offset = header.next_offset();
        }
        if task.place.position == start && task.place.need <= needed && start < flushed {
            return Err("the file is shorter than its data");
        }
        Ok(())
    }

    /// The log is compacted as far as the map went.
    fn cleaned(&mut self, io: &mut impl Io, task: Task) {
        let end = task.map.latest_offset() + 1;
        self.cleaner.next_ns = io.now();
        let Some(log) = self.logs.get_mut(task.log) else { return };
        tracing::info!(
            log = %log.tp, from = task.first_dirty, to = end, keys = task.map.len(),
            bytes_before = task.stats.bytes_before, bytes_after = task.stats.bytes_after, "compacted"
        );
        if end <= task.first_dirty {
            self.cleaner.blocked.insert(task.log, io.now().saturating_add(PAUSE_NS));
            return;
        }
        log.cleaned_offset = end;
        self.write_checkpoints(io, task.dir);
    }

    /// Ends a task without its result.
    fn give_up(&mut self, io: &mut impl Io, task: Task, why: &str, pause_ns: u64) {
        let now = io.now();
        self.cleaner.next_ns = now;
        let Some(log) = self.logs.get_mut(task.log) else { return };
        tracing::warn!(log = %log.tp, why, "a compaction was given up");
        if pause_ns > 0 {
            self.cleaner.blocked.insert(task.log, now.saturating_add(pause_ns));
        }
        if log.swapping.take().is_some() {
            self.events.push_back(Event::ReadReady { log: task.log });
        }
        let output = task.output.filter(Output::has_files);
        if let (Some(output), true) = (output, self.dirs[task.dir].online) {
            let mut steps = VecDeque::new();
            push_discard(&mut steps, log, &output);
            self.cleaner.busy = true;
            self.jobs.start(io, task.dir, Some(task.log), steps, End::Clean(CleanEnd::Discarded));
        }
    }
}

const RETIRED: Next = Next::GiveUp { why: "its segments were retired", pause_ns: 0 };

fn push_discard(steps: &mut VecDeque<Step>, log: &crate::storage::log::Log, output: &Output) {
    let paths = KINDS.map(|kind| output.path(&log.path, kind, FileState::Cleaned));
    steps.extend(paths.map(|path| Step::Unlink { path }));
}
