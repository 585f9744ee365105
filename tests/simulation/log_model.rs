//! What a log must hold: the checker of the storage simulation. It hears what was appended and what storage said, and
//! judges what storage shows. It knows nothing of how the workload chooses.

use ringlog::storage::{AckLevel, LogConfig, Lookup, ReadRange, TopicPartition};

use super::sim_io::Crash;

/// One batch as the log must hold it.
pub struct BatchModel {
    pub base: i64,
    pub last: i64,
    pub bytes: Vec<u8>,
    pub level: AckLevel,
    pub timestamps: Vec<i64>,
    pub producer: Option<Sequence>,
    /// The process that appended it, counted from the first.
    pub life: u64,
}

/// Where a batch stands in the stream of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub producer_id: i64,
    pub first: i32,
    pub last: i32,
}

pub struct LogModel {
    pub tp: TopicPartition,
    pub dir: usize,
    pub config: LogConfig,
    /// Dense, oldest first. Batches below the log start stay known.
    pub batches: Vec<BatchModel>,
    /// The end of a log without batches.
    empty_end: i64,
    /// The highest high watermark told: what kill -9 must leave.
    pub told: i64,
    /// What a power cut must leave.
    pub durable: i64,
    /// The highest log start told to be safe, and the highest that anyone may cause.
    pub start_safe: i64,
    pub start_asked: i64,
    /// Retention may have moved the start anywhere up to the high watermark.
    pub retention: bool,
}

/// A broken promise.
pub type Verdict = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(format!($($message)*));
        }
    };
}
pub(crate) use ensure;

impl LogModel {
    pub fn new(tp: TopicPartition, dir: usize, config: LogConfig) -> LogModel {
        let retention = has_retention(&config);
        LogModel {
            tp,
            dir,
            config,
            batches: Vec::new(),
            empty_end: 0,
            told: 0,
            durable: 0,
            start_safe: 0,
            start_asked: 0,
            retention,
        }
    }

    pub fn end(&self) -> i64 {
        self.batches.last().map_or(self.empty_end, |batch| batch.last + 1)
    }

    pub fn set_config(&mut self, config: LogConfig) {
        self.retention |= has_retention(&config);
        self.config = config;
    }

    /// The last surviving batch of a producer.
    pub fn last_of(&self, producer_id: i64) -> Option<&BatchModel> {
        self.batches.iter().rev().find(|b| b.producer.is_some_and(|p| p.producer_id == producer_id))
    }

    pub fn appended(&mut self, batch: BatchModel) -> Verdict {
        ensure!(batch.base == self.end(), "{}: appended at {}, not {}", self.tp, batch.base, self.end());
        self.batches.push(batch);
        Ok(())
    }

    /// A high watermark was told.
    pub fn advanced(&mut self, high_watermark: i64) -> Verdict {
        let (tp, told) = (&self.tp, self.told);
        ensure!(high_watermark >= told, "{tp}: the high watermark went back from {told} to {high_watermark}");
        let end = self.end();
        ensure!(high_watermark <= end, "{tp}: the high watermark {high_watermark} is beyond the end {end}");
        for batch in self.batches.iter().rev() {
            if batch.last < high_watermark && batch.level == AckLevel::Durable {
                self.durable = self.durable.max(batch.last + 1);
                break;
            }
        }
        self.told = high_watermark;
        Ok(())
    }

    /// A clean stop has left everything on stable media.
    pub fn stopped(&mut self) {
        self.durable = self.end();
    }

    pub fn start_advanced(&mut self, start: i64) -> Verdict {
        ensure!(start >= self.start_safe, "{}: the log start went back to {start}", self.tp);
        self.check_start(start, self.told)?;
        self.start_safe = start;
        Ok(())
    }

    /// Whether a log start may be what it is, given the high watermark.
    pub fn check_start(&self, start: i64, high_watermark: i64) -> Verdict {
        let (tp, safe, asked) = (&self.tp, self.start_safe, self.start_asked);
        ensure!(start >= safe, "{tp}: log start {start} went back behind {safe}");
        let most = if self.retention { high_watermark.max(asked) } else { asked };
        ensure!(start <= most, "{tp}: log start {start} passes {most}, nobody asked for it");
        Ok(())
    }

    /// What a read of `range` gave, at log start `start`.
    pub fn read(&self, range: ReadRange, start: i64, got: &[u8]) -> Verdict {
        let tp = &self.tp;
        ensure!(range.offset >= start, "{tp}: a read at {} below the start {start}", range.offset);
        let from = self.batches.partition_point(|batch| batch.last < range.offset);
        let (mut at, mut next) = (0, from);
        while at < got.len() {
            let Some(batch) = self.batches.get(next).filter(|batch| batch.base < range.end_offset) else {
                let more = got.len() - at;
                return Err(format!("{tp}: {range:?} gave {more} bytes beyond what it may see"));
            };
            let len = batch.bytes.len().min(got.len() - at);
            ensure!(
                len == batch.bytes.len(),
                "{tp}: {range:?} gave {len} bytes of the batch at {}",
                batch.base
            );
            let same = batch.bytes[..len] == got[at..at + len];
            ensure!(
                same,
                "{tp}: {range:?} differs from what was appended at {}..={}, {at} of {} bytes in: {:x?} for {:x?}",
                batch.base,
                batch.last,
                got.len(),
                &got[at..at + len.min(61)],
                &batch.bytes[..len.min(61)]
            );
            at += len;
            next += 1;
        }
        let there = self.batches.get(from).is_some_and(|batch| batch.base < range.end_offset);
        let first = self.batches.get(from).map_or(0, |batch| batch.bytes.len());
        let least = if there && range.at_least_one { first } else { 0 };
        ensure!(got.len() >= least, "{tp}: {range:?} gave {} of {least} bytes", got.len());
        ensure!(got.len() <= range.max_bytes.max(first), "{tp}: {range:?} gave {} bytes", got.len());
        Ok(())
    }

    /// The first record of a timestamp, from `start` to below `end`.
    pub fn looked_up(&self, timestamp: i64, start: i64, end: i64, found: Lookup) -> Verdict {
        let records = self.batches.iter().flat_map(|b| b.timestamps.iter().zip(b.base..));
        let mut wanted = records.filter(|(at, offset)| (start..end).contains(offset) && **at >= timestamp);
        let wanted = wanted.next().map(|(&at, offset)| (offset, at));
        let got = match found {
            Lookup::Found { offset, timestamp, .. } => Some((offset, timestamp)),
            _ => None,
        };
        let tp = &self.tp;
        ensure!(got == wanted, "{tp}: timestamp {timestamp} in {start}..{end} is {wanted:?}, not {got:?}");
        Ok(())
    }

    /// The process came back after `crash` (`None`: a clean stop) and recovery was done.
    pub fn recovered(&mut self, crash: Option<Crash>, start: i64, end: i64, high_watermark: i64) -> Verdict {
        let least = match crash {
            None => self.end(),
            Some(Crash::Kill) => self.told,
            Some(Crash::Power) => self.durable,
        };
        let (tp, appended) = (self.tp.clone(), self.end());
        ensure!(
            end >= least,
            "{tp}: lost {end}..{least} by {crash:?}, {start}..{end} is left of ..{appended}"
        );
        ensure!(end <= appended, "{tp}: {end} is the end after {crash:?}, only {appended} was appended");
        ensure!(high_watermark == end, "{tp}: high watermark {high_watermark}, end {end} after {crash:?}");
        let aligned = end == 0 || self.batches.iter().any(|batch| batch.last + 1 == end) || end == start;
        ensure!(
            aligned,
            "{tp}: half a batch survived {crash:?}, the log is {start}..{end}, it was ..{appended}"
        );
        self.check_start(start, end)?;
        ensure!(start <= end, "{tp}: start {start} beyond the end {end}");
        self.batches.retain(|batch| batch.last < end);
        if self.end() != end {
            // Everything up to the log start was deleted and then lost: it goes on empty from there.
            self.batches.clear();
            self.empty_end = end;
        }
        (self.told, self.durable) = (end, end);
        (self.start_safe, self.start_asked) = (start, start);
        Ok(())
    }
}

fn has_retention(config: &LogConfig) -> bool {
    config.delete && (config.retention_ms >= 0 || config.retention_bytes >= 0)
}
