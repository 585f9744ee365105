//! [`Storage`]: the logs of one shard on its directories.

use std::collections::VecDeque;

use super::types::*;
use crate::io::buffer::Slice;
use crate::io::{Completion, Io};

/// One shard's disk. See the module for the order of calls.
pub struct Storage {
    options: StorageOptions,
    events: VecDeque<Event>,
}

impl Storage {
    /// Start-up, blocking, after [`recover`](super::recover).
    pub fn open(io: &mut impl Io, options: StorageOptions) -> Result<Storage, StorageError> {
        let _ = io;
        Ok(Storage { options, events: VecDeque::new() })
    }

    /// Start-up, blocking: the log in `dir` from its files, or an empty one.
    pub fn open_log(
        &mut self,
        io: &mut impl Io,
        dir: usize,
        tp: TopicPartition,
        config: LogConfig,
    ) -> Result<LogId, StorageError> {
        let _ = io;
        self.create_log(dir, tp, config)
    }

    /// A new, empty log, in memory only: its directory appears with the first flush, and recovery recreates it from the
    /// journal.
    pub fn create_log(
        &mut self,
        dir: usize,
        tp: TopicPartition,
        config: LogConfig,
    ) -> Result<LogId, StorageError> {
        let _ = (tp, config);
        Err(StorageError::Offline(dir))
    }

    /// Forgets the log at once; its files go away in small steps.
    pub fn delete_log(&mut self, io: &mut impl Io, log: LogId) {
        let _ = (io, log);
    }

    pub fn set_config(&mut self, log: LogId, config: LogConfig) {
        let _ = (log, config);
    }

    /// Appends one validated record batch: checks its producer, assigns offset and leader epoch while it copies it into
    /// the journal block. On disk some turns after; [`Event::Advanced`] tells.
    pub fn append(
        &mut self,
        io: &mut impl Io,
        log: LogId,
        batch: &[u8],
        options: AppendOptions,
    ) -> Result<Appended, AppendError> {
        let _ = (io, log, batch, options);
        Err(AppendError::UnknownLog)
    }

    /// Whether memory and journal of the log's directory take more appends now.
    pub fn has_room(&self, log: LogId) -> bool {
        let _ = log;
        false
    }

    /// Adds the bytes of `range` to `out`, in slices that are joined where they adjoin.
    pub fn read(
        &mut self,
        io: &mut impl Io,
        log: LogId,
        range: ReadRange,
        out: &mut Vec<Slice>,
    ) -> Result<ReadOutcome, ReadError> {
        let _ = (io, log, range, out);
        Err(ReadError::UnknownLog)
    }

    /// The first record below `end_offset` whose timestamp is at least `timestamp`.
    pub fn offset_for_timestamp(
        &mut self,
        io: &mut impl Io,
        log: LogId,
        timestamp: i64,
        end_offset: i64,
    ) -> Result<Lookup, ReadError> {
        let _ = (io, log, timestamp, end_offset);
        Err(ReadError::UnknownLog)
    }

    /// The first record that carries the largest timestamp below `end_offset`.
    pub fn max_timestamp_offset(
        &mut self,
        io: &mut impl Io,
        log: LogId,
        end_offset: i64,
    ) -> Result<Lookup, ReadError> {
        let _ = (io, log, end_offset);
        Err(ReadError::UnknownLog)
    }

    /// The largest epoch not above `epoch` and the offset where it ends, as OffsetForLeaderEpoch answers; (-1, -1)
    /// when there is none.
    pub fn end_offset_for_epoch(&self, log: LogId, epoch: i32) -> (i32, i64) {
        let _ = (log, epoch);
        (-1, -1)
    }

    /// The epoch of the last batch, -1 when there is none.
    pub fn latest_epoch(&self, log: LogId) -> i32 {
        let _ = log;
        -1
    }

    /// Moves the log start offset to `before` (at most the high watermark); journaled, safe with
    /// [`Event::StartAdvanced`]. An offset below the log start is no error and changes nothing.
    pub fn delete_records(&mut self, io: &mut impl Io, log: LogId, before: i64) -> Result<i64, ReadError> {
        let _ = (io, log, before);
        Err(ReadError::UnknownLog)
    }

    /// The state of a log; `None` when it is unknown.
    pub fn log_start_offset(&self, log: LogId) -> Option<i64> {
        let _ = log;
        None
    }

    pub fn high_watermark(&self, log: LogId) -> Option<i64> {
        let _ = log;
        None
    }

    pub fn log_end_offset(&self, log: LogId) -> Option<i64> {
        let _ = log;
        None
    }

    pub fn size_bytes(&self, log: LogId) -> Option<u64> {
        let _ = log;
        None
    }

    pub fn dir(&self, log: LogId) -> Option<usize> {
        let _ = log;
        None
    }

    /// Whether the directory takes part.
    pub fn is_online(&self, dir: usize) -> bool {
        dir < self.options.dirs.len()
    }

    /// Once a turn, last: seals and submits the journal block if a write may start.
    pub fn end_turn(&mut self, io: &mut impl Io) {
        let _ = io;
    }

    pub fn handle_completion(&mut self, io: &mut impl Io, completion: Completion) {
        let _ = (io, completion);
    }

    /// Timers; bounded work a call.
    pub fn tick(&mut self, io: &mut impl Io, wall_ms: i64) {
        let _ = (io, wall_ms);
    }

    /// When [`Storage::tick`] is due next, on [`Io::now`]'s clock.
    pub fn next_deadline(&self) -> u64 {
        u64::MAX
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Begins the clean stop: no appends from here on; everything is flushed and synced, snapshots are written.
    pub fn begin_stop(&mut self, io: &mut impl Io) {
        let _ = io;
    }

    pub fn is_stopped(&self) -> bool {
        true
    }
}
