//! Which log is compacted next: the one with the largest part of it dirty, by Kafka's rules.

use super::task::Task;
use crate::io::Io;
use crate::storage::log::Log;
use crate::storage::read::Stop;
use crate::storage::segment::Segment;
use crate::storage::store::Storage;
use crate::storage::types::*;

/// Logs looked at in one call.
const LOGS_A_STEP: usize = 256;
/// Logs of which an index had to be read are looked at again after this.
const AGAIN_NS: u64 = 1_000_000_000;

/// Where the round over the logs stands.
#[derive(Debug, Default)]
pub(super) struct Round {
    slot: usize,
    best: Option<Candidate>,
    /// Some log could not be judged yet.
    again: bool,
}

/// A log worth compacting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub log: LogId,
    pub dir: usize,
    /// Where its dirty part begins.
    pub first_dirty: i64,
    /// Where the first segment begins that is not to be touched.
    pub bound: i64,
    ratio: f64,
}

impl Storage {
    /// Settings that may change while it runs. A rest of the cleaner that was worked out from the old ones ends.
    pub fn configure(&mut self, cleaner: CleanerOptions, producer_id_expiration_ms: i64) {
        self.options.producer_id_expiration_ms = producer_id_expiration_ms;
        if std::mem::replace(&mut self.options.cleaner, cleaner.clone()) != cleaner {
            self.cleaner.next_ns = 0;
        }
    }

    /// Goes on with the round over the logs; a task at its end, if there is one.
    pub(super) fn pick_log(&mut self, io: &mut impl Io, now: u64, wall_ms: i64) -> Option<Task> {
        for _ in 0..LOGS_A_STEP {
            let slot = self.cleaner.round.slot;
            if slot >= self.logs.slots() {
                return self.end_round(io, now, wall_ms);
            }
            self.cleaner.round.slot += 1;
            let Some(id) = self.logs.at(slot).filter(|log| log.config.compact).map(|log| log.id) else {
                continue;
            };
            if self.cleaner.is_blocked(id, now) || self.is_moving(id) {
                continue;
            }
            let judged = self.judge(io, id, wall_ms);
            let round = &mut self.cleaner.round;
            match judged {
                Ok(Some(found)) if round.best.is_none_or(|best| found.ratio > best.ratio) => {
                    round.best = Some(found);
                }
                Ok(_) => {}
                Err(NotYet) => round.again = true,
            }
        }
        // The rest in the next call.
        self.cleaner.next_ns = now;
        None
    }

    fn end_round(&mut self, io: &mut impl Io, now: u64, wall_ms: i64) -> Option<Task> {
        let Round { best, again, .. } = std::mem::take(&mut self.cleaner.round);
        let backoff_ns = self.options.cleaner.backoff_ms.max(1) as u64 * 1_000_000;
        let Some(best) = best else {
            let rest_ns = if again { backoff_ns.min(AGAIN_NS) } else { backoff_ns };
            self.cleaner.next_ns = now.saturating_add(rest_ns);
            return None;
        };
        let secret = [io.random(), io.random()];
        Some(Task::new(&best, wall_ms, self.options.cleaner.dedupe_buffer_bytes, secret))
    }

    fn judge(&mut self, io: &mut impl Io, id: LogId, wall_ms: i64) -> Result<Option<Candidate>, NotYet> {
        let Some(log) = self.logs.get(id).filter(|log| self.dirs[log.dir].online) else { return Ok(None) };
        let first_dirty = log.first_dirty();
        if let Some(offset) = log.wants_anchor(first_dirty) {
            self.ask(id, offset, offset);
        }
        let Some(log) = self.logs.get(id) else { return Ok(None) };
        let mut bound = log.compaction_bound();
        let (lag_ms, max_lag_ms) = (log.config.min_compaction_lag_ms, log.config.max_compaction_lag_ms);
        let dirty = |log: &Log, bound: i64| -> Vec<i64> {
            let bases = log.segments.iter().enumerate();
            let dirty = bases.filter(|(index, _)| log.segment_end_offset(*index) > first_dirty);
            dirty.map(|(_, segment)| segment.base_offset).take_while(|base| *base < bound).collect()
        };
        if bound <= first_dirty {
            return Ok(None);
        }
        if lag_ms > 0 {
            for base_offset in dirty(log, bound) {
                if self.newest_ms(io, id, base_offset)? > wall_ms.saturating_sub(lag_ms) {
                    bound = base_offset;
                    break;
                }
            }
        }
        let mut overdue = false;
        if max_lag_ms < i64::MAX {
            let Some(log) = self.logs.get(id) else { return Ok(None) };
            for base_offset in dirty(log, bound) {
                let first_ms = self.oldest_ms(io, id, base_offset)?;
                overdue |= first_ms > 0 && first_ms < wall_ms.saturating_sub(max_lag_ms.max(0));
            }
        }
        let Some(log) = self.logs.get(id) else { return Ok(None) };
        let size = |segment: &Segment| u64::from(segment.size);
        let below = log.segments.iter().take_while(|segment| segment.base_offset < bound);
        let total: u64 = below.map(size).sum();
        let dirty_bytes: u64 = dirty(log, bound)
            .iter()
            .filter_map(|base| log.segment_index(*base))
            .map(|at| size(&log.segments[at]))
            .sum();
        let ratio = dirty_bytes as f64 / total.max(1) as f64;
        let wanted = dirty_bytes > 0 && (overdue || ratio > log.config.min_cleanable_dirty_ratio);
        let dir = log.dir;
        Ok((wanted && bound > first_dirty).then_some(Candidate { log: id, dir, first_dirty, bound, ratio }))
    }

    fn newest_ms(&mut self, io: &mut impl Io, id: LogId, base_offset: i64) -> Result<i64, NotYet> {
        match self.largest(io, id, base_offset) {
            Ok(Some(largest)) if largest.timestamp < i64::MAX => Ok(largest.timestamp),
            Ok(None) => Err(NotYet),
            // What cannot be told counts from the segment's file.
            _ => Ok(self.created_ms(id, base_offset)),
        }
    }

    /// The timestamp of a segment's first batch.
    fn oldest_ms(&mut self, io: &mut impl Io, id: LogId, base_offset: i64) -> Result<i64, NotYet> {
        let log = self.logs.get_mut(id).ok_or(NotYet)?;
        let segment = log.segment_mut(base_offset).ok_or(NotYet)?;
        if segment.first_timestamp >= 0 || segment.size == 0 {
            return Ok(segment.first_timestamp);
        }
        let mut walk = self.walk_from_start(id, base_offset).ok_or(NotYet)?;
        match self.walk_header(&mut walk) {
            Ok(header) => {
                if let Some(segment) = self.logs.get_mut(id).and_then(|log| log.segment_mut(base_offset)) {
                    segment.first_timestamp = header.max_timestamp;
                }
                Ok(header.max_timestamp)
            }
            Err(Stop::Corrupt) => Ok(self.created_ms(id, base_offset)),
            Err(Stop::Missing(position)) => {
                // Another try comes whether it could begin or not.
                let _ = self.read_chunk(io, &walk, position, 1);
                Err(NotYet)
            }
        }
    }

    fn created_ms(&self, id: LogId, base_offset: i64) -> i64 {
        let segment = self.logs.get(id).and_then(|log| Some(&log.segments[log.segment_index(base_offset)?]));
        segment.map_or(0, |segment| segment.created_ms)
    }
}

/// An index or a header must be read first.
#[derive(Clone, Copy, Debug)]
struct NotYet;

impl Log {
    /// Where the part begins that compaction has not seen.
    fn first_dirty(&self) -> i64 {
        let active = self.segments.back().map_or(self.log_start_offset, |active| active.base_offset);
        // A checkpoint that cannot be right counts for nothing.
        if self.cleaned_offset > active {
            self.log_start_offset
        } else {
            self.cleaned_offset.max(self.log_start_offset)
        }
    }

    /// Where the first segment begins that compaction must leave alone.
    fn compaction_bound(&self) -> i64 {
        let first = self.segments.front().map_or(0, |first| first.base_offset);
        let stable = self.producers.first_unstable_offset().unwrap_or(i64::MAX).min(self.high_watermark);
        let pairs = self.segments.iter().zip(self.segments.iter().skip(1));
        // What follows must be there after a crash: it tells where the log ends when the last records before it are dropped.
        let ready = pairs.take_while(|(segment, next)| {
            segment.is_settled() && next.is_anchored() && next.base_offset <= stable
        });
        ready.map(|(_, next)| next.base_offset).last().unwrap_or(first)
    }
}

impl Log {
    /// Up to where the log must be synced so that the segment before the active one may be compacted.
    fn wants_anchor(&self, first_dirty: i64) -> Option<i64> {
        let active = self.segments.back()?;
        let waits = first_dirty < active.base_offset && active.base_offset < self.high_watermark;
        (waits && !active.is_anchored()).then_some(self.high_watermark)
    }
}

impl Segment {
    /// Whether a crash leaves the segment's file, and a batch in it unless it has none.
    fn is_anchored(&self) -> bool {
        self.on_disk && (self.synced > 0 || self.size == 0)
    }

    /// Whether nothing more will be written to the segment's files.
    pub(in crate::storage) fn is_settled(&self) -> bool {
        let complete = self.is_flushed() && self.synced == self.size && self.on_disk;
        self.closed && (complete || self.size == 0) && !self.has_pending_entries()
    }
}
