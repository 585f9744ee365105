//! Appends: a validated batch gets its offset and goes into the journal's open block, or past it where it is large.
//!
//! Nothing is written here: the block goes out at the end of the turn, an image when its log has no other under way.

use super::journal::{Journal, Touch};
use super::large::LargeBatch;
use super::log::TailRun;
use super::producer_state::AppendOrigin;
use super::producers;
use super::segment::NewBatch;
use super::store::Storage;
use super::types::*;
use crate::io::Io;
use crate::record::{BatchHeader, assign, set_log_append_time};

/// A batch on its way into the journal, or past it.
struct Placing {
    base_offset: i64,
    new: NewBatch,
    options: AppendOptions,
    large: bool,
}

impl Storage {
    /// Appends one validated record batch: checks its producer, assigns offset and leader epoch while it copies it into
    /// the journal block. On disk some turns after; [`Event::Advanced`] tells.
    pub fn append(
        &mut self,
        io: &mut impl Io,
        log: LogId,
        batch: &[u8],
        options: AppendOptions,
    ) -> Result<Appended, AppendError> {
        if self.stopping {
            return Err(AppendError::Stopping);
        }
        let header = BatchHeader::parse(batch).map_err(|_| AppendError::Invalid)?;
        if header.size() != batch.len() || header.last_offset_delta < 0 || header.codec().is_none() {
            return Err(AppendError::Invalid);
        }
        let (dir, log_start_offset, base_offset) = {
            let id = log;
            let log = self.logs.get(id).ok_or(AppendError::UnknownLog)?;
            if log.flags.held {
                return Err(if self.is_unplaced(id) { AppendError::Offline } else { AppendError::Busy });
            }
            (log.dir, log.log_start_offset, log.log_end_offset)
        };
        // Before a duplicate is known: the first of it may be what the directory failed over.
        if !self.dirs[dir].online {
            return Err(AppendError::Offline);
        }
        let last_offset = base_offset
            .checked_add(i64::from(header.last_offset_delta))
            .filter(|last| *last < i64::MAX)
            .ok_or(AppendError::Invalid)?;
        let max_timestamp = options.log_append_time_ms.unwrap_or(header.max_timestamp);
        let producer =
            producers::Change::of(batch, &header, base_offset, max_timestamp, options.transaction_version)?;
        if let Some(duplicate) = self.check_producer(log, &producer, options.coordinator)? {
            return Ok(Appended { log_start_offset, ..duplicate });
        }
        if self.logs.get(log).is_some_and(|log| batch.len() > log.config.segment_bytes as usize) {
            return Err(AppendError::TooLarge);
        }
        let size = batch.len() as u32;
        let new = NewBatch { size, last_offset, max_timestamp, wall_ms: options.wall_ms };
        let large = self.is_large(log, batch.len(), options.level);
        if large {
            self.make_large_room(log, &new)?;
        } else {
            self.make_room(dir, batch.len())?;
        }
        self.place(io, log, batch, &Placing { base_offset, new, options, large });
        if let Some(log) = self.logs.get_mut(log) {
            let aborted = producer.apply(&mut log.producers);
            if let (Some(aborted), Some(segment)) = (aborted, log.segments.back_mut()) {
                segment.add_aborted(&aborted);
            }
            log.producers.set_end_offset(last_offset + 1);
        }
        Ok(Appended {
            base_offset,
            last_offset,
            log_start_offset,
            duplicate: false,
            log_append_time_ms: options.log_append_time_ms.unwrap_or(-1),
        })
    }

    /// Makes sure that the journal takes a batch of `len` bytes.
    pub(super) fn make_room(&mut self, dir: usize, len: usize) -> Result<(), AppendError> {
        self.check_dir(dir)?;
        if self.dirs[dir].journal.fits(len) {
            self.make_tail_room(dir, len);
            return Ok(());
        }
        let chunk_bytes = Journal::chunk_bytes(len);
        if chunk_bytes > self.options.tail_max_bytes.min(self.options.pool.largest_bytes()) {
            return Err(AppendError::TooLarge);
        }
        if self.pinned_bytes() + chunk_bytes > self.options.tail_max_bytes
            || self.dirs[dir].journal.files().used_bytes() >= self.options.journal_max_bytes
        {
            return Err(AppendError::Busy);
        }
        let buf = self.allocate(chunk_bytes).ok_or(AppendError::Busy)?;
        self.dirs[dir].journal.add_chunk(buf);
        self.make_tail_room(dir, len);
        Ok(())
    }

    /// Whether the directory takes appends.
    pub(super) fn check_dir(&self, dir: usize) -> Result<(), AppendError> {
        let home = &self.dirs[dir];
        if !home.online {
            return Err(AppendError::Offline);
        }
        if home.journal.is_stalled() || (self.jobs.is_stalled() && self.jobs.is_dir_stalled(dir)) {
            return Err(AppendError::NoSpace);
        }
        Ok(())
    }

    fn place(&mut self, io: &mut impl Io, id: LogId, batch: &[u8], placing: &Placing) {
        let Placing { base_offset, new, options, large } = *placing;
        let next_offset = new.last_offset + 1;
        let log = self.logs.get_mut(id).expect("the caller has found the log");
        let rolls = log.segments.back().is_none_or(|segment| segment.must_roll(&new, &log.config));
        if rolls {
            let jitter_ms = jitter(io, &log.config);
            log.roll(base_offset, options.wall_ms, jitter_ms);
        }
        let interval = log.config.index_interval_bytes;
        let last = log.segments.back_mut().expect("a segment was just added where there was none");
        let position = last.add(&new, interval);
        let segment = last.base_offset;
        log.log_end_offset = next_offset;
        log.bytes_since_snapshot += batch.len() as u64;
        log.epochs_dirty |= log.epochs.assign(options.leader_epoch, base_offset);
        if !std::mem::replace(&mut log.flags.dirty, true) {
            self.dirty.push_back((io.now(), id));
        }
        let fill = |space: &mut [u8]| {
            space.copy_from_slice(batch);
            assign(space, base_offset, options.leader_epoch);
            if let Some(now_ms) = options.log_append_time_ms {
                set_log_append_time(space, now_ms);
            }
        };
        if large {
            let (len, level) = (batch.len(), options.level);
            let batch = LargeBatch { base_offset, next_offset, segment, position, len, level };
            self.place_large(id, &batch, fill);
        } else {
            let journal = &mut self.dirs[log.dir].journal;
            let placed = journal.append(log.tp.topic_id, log.tp.partition, base_offset, batch.len(), fill);
            let (chunk, slice) = (placed.chunk, placed.slice);
            log.push_tail(TailRun { base_offset, next_offset, segment, position, chunk, slice });
            let touch = Touch { log: id, end_offset: next_offset, start_offset: None };
            journal.touch(touch, &mut log.touched, options.level == AckLevel::Durable);
        }
        if rolls && base_offset > 0 {
            self.segment_rolled(io, id, base_offset);
        }
    }

    fn check_producer(
        &self,
        log: LogId,
        producer: &producers::Change,
        coordinator: bool,
    ) -> Result<Option<Appended>, AppendError> {
        let Some(log) = self.logs.get(log) else { return Err(AppendError::UnknownLog) };
        let origin = if coordinator { AppendOrigin::Coordinator } else { AppendOrigin::Client };
        let duplicate = producer.check(&log.producers, origin)?;
        Ok(duplicate.map(|batch| Appended {
            base_offset: batch.first_offset(),
            last_offset: batch.last_offset,
            log_start_offset: log.log_start_offset,
            duplicate: true,
            log_append_time_ms: -1,
        }))
    }
}

/// Spreads the rolls of segments that began together.
fn jitter(io: &mut impl Io, config: &LogConfig) -> i64 {
    let max = config.segment_jitter_ms.min(config.segment_ms).max(0) as u64;
    if max == 0 { 0 } else { (io.random() % max) as i64 }
}
