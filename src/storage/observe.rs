//! What storage shows of itself: how long the journal's writes take, and the state of logs and directories. Read by the
//! broker for metrics and health; changes nothing.

use std::sync::Arc;

use super::store::{Dir, Storage};
use super::types::LogId;
use crate::io::{Completion, Payload};
use crate::metrics::ShardMetrics;

/// When the journal's operations under way began.
#[derive(Debug, Default)]
pub(super) struct JournalClock {
    /// By the number in their token; a few at most.
    writes: Vec<(u64, u64, bool)>,
    sync_began_ns: u64,
}

impl JournalClock {
    pub fn write_began(&mut self, number: u64, now_ns: u64, durable: bool) {
        self.writes.push((number & 0xffff_ffff, now_ns, durable));
    }

    pub fn write_ended(&mut self, number: u64, now_ns: u64, metrics: &ShardMetrics) {
        let Some(at) = self.writes.iter().position(|write| write.0 == number) else { return };
        let (_, began_ns, durable) = self.writes.swap_remove(at);
        let histogram =
            if durable { &metrics.journal_durable_write_time } else { &metrics.journal_write_time };
        histogram.record(now_ns.saturating_sub(began_ns));
    }

    /// Of a round of syncs, the first one counts.
    pub fn sync_began(&mut self, now_ns: u64) {
        self.sync_began_ns = now_ns;
    }

    pub fn sync_ended(&mut self, now_ns: u64, metrics: &ShardMetrics) {
        metrics.journal_sync_time.record(now_ns.saturating_sub(self.sync_began_ns));
    }
}

/// A log as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    pub dir: usize,
    pub log_start_offset: i64,
    pub high_watermark: i64,
    pub log_end_offset: i64,
    pub size_bytes: u64,
    pub segments: usize,
}

/// A directory as this shard sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirState {
    pub path: String,
    pub online: bool,
    /// Of the journal's files, the part in use.
    pub journal_bytes: u64,
    /// Memory that holds what no segment has yet.
    pub tail_bytes: usize,
}

impl Storage {
    /// Counts the bytes that a job's step has moved.
    pub(super) fn count_job(&self, completion: &Completion) {
        let metrics = &self.options.metrics;
        match (&completion.payload, completion.result) {
            (Payload::Buffer(_), Ok(bytes)) => metrics.segment_bytes_read.add(bytes as u64),
            (Payload::None, Ok(bytes)) => metrics.segment_bytes_written.add(bytes as u64),
            _ => {}
        }
    }

    pub fn metrics(&self) -> &Arc<ShardMetrics> {
        &self.options.metrics
    }

    pub fn log_state(&self, log: LogId) -> Option<LogState> {
        let log = self.logs.get(log)?;
        Some(LogState {
            dir: log.dir,
            log_start_offset: log.log_start_offset,
            high_watermark: log.high_watermark,
            log_end_offset: log.log_end_offset,
            size_bytes: log.size_bytes(),
            segments: log.segments.len(),
        })
    }

    pub fn dir_states(&self) -> Vec<DirState> {
        let state = |dir: &Dir| DirState {
            path: dir.path.display().to_string(),
            online: dir.online,
            journal_bytes: dir.journal.files().used_bytes(),
            tail_bytes: dir.pinned_bytes(),
        };
        self.dirs.iter().map(state).collect()
    }

    /// The budget of its buffers.
    pub fn memory_bytes(&self) -> usize {
        self.options.pool.max_bytes()
    }

    /// Memory for data in use.
    pub fn memory_used_bytes(&self) -> usize {
        self.options.pool.used_bytes()
    }
}
