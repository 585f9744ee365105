//! Large batches, straight to their segments.
//!
//! The journal makes one write of many batches. One that is large by itself gains nothing there, and would be written and
//! copied twice. So a batch of `large_batch_bytes` that need not be durable is copied once, into an image of the blocks
//! that it takes in its segment, and acknowledged when these have been written with direct I/O: like what the journal
//! leaves to the page cache, it then outlives the process. One image of a log is written at a time; what comes meanwhile
//! gathers in the next.
//!
//! Invariants:
//! - What follows in a log whose images are not all written and acknowledged goes the same way, so that its file grows, and its high
//!   watermark moves, in the order of offsets.
//! - A durable batch goes this way only behind large ones that no sync has covered, as it must not survive a power cut alone; the high
//!   watermark then waits for a sync.
//! - Nobody reads an image before it is written: the high watermark lies below it.
//!
//! The file ends with a padded block until the next segment or the next sync, which cuts it to its length and writes the index
//! entries; the flush timer asks for one. After a crash recovery finds these batches in the segments alone, behind the recovery point.

use std::collections::VecDeque;
use std::sync::Arc;

use super::flush::{FLUSH_BYTES, FlushEnd};
use super::jobs::{FileKey, Step};
use super::log::Log;
use super::names::FileKind;
use super::segment::NewBatch;
use super::store::{End, Storage};
use super::types::{AckLevel, AppendError, LogId};
use crate::io::buffer::AlignedBuf;
use crate::io::{BLOCK_BYTES, Io};

/// A log's large batches that are not in its segments yet.
#[derive(Debug, Default)]
pub(super) struct Large {
    images: VecDeque<Image>,
    /// Behind the last batch that went this way, and behind the last of them that is durable.
    end_offset: i64,
    durable_end: i64,
}

/// The blocks of a segment that batches which follow one another are to fill.
#[derive(Debug)]
struct Image {
    base_offset: i64,
    next_offset: i64,
    segment: i64,
    /// Where in the segment the first batch begins; in the memory it begins at the same place of a block.
    position: u32,
    bytes: usize,
    /// `None` while it is being written.
    buf: Option<AlignedBuf>,
}

/// A batch on its way into an image.
pub(super) struct LargeBatch {
    pub base_offset: i64,
    pub next_offset: i64,
    pub segment: i64,
    pub position: u32,
    pub len: usize,
    pub level: AckLevel,
}

impl Image {
    /// What its first block holds already.
    fn head_bytes(&self) -> usize {
        self.position as usize % BLOCK_BYTES
    }

    fn room_bytes(&self) -> usize {
        self.buf.as_ref().map_or(0, |buf| buf.len() - self.head_bytes() - self.bytes)
    }
}

impl Large {
    /// Whether there is an image that could be written now.
    pub fn is_waiting(&self) -> bool {
        self.images.front().is_some_and(|image| image.buf.is_some())
    }

    /// The memory of images that no write holds; for a log that is deleted.
    pub fn waiting_bytes(&self) -> usize {
        self.images.iter().filter_map(|image| image.buf.as_ref()).map(|buf| buf.len()).sum()
    }
}

impl Log {
    /// Where the offsets end that readers can be given and the journal may speak of.
    pub(super) fn placed_end(&self) -> i64 {
        match self.large.images.front() {
            _ if self.waits_for_sync() => self.high_watermark,
            Some(image) => image.base_offset,
            None => self.log_end_offset,
        }
    }

    /// Whether something durable is among the large batches that no sync has covered.
    fn waits_for_sync(&self) -> bool {
        self.large.durable_end > self.synced_offset
    }

    /// Whether large batches have been written that no sync has covered.
    pub(super) fn has_unsynced_large(&self) -> bool {
        self.large.end_offset > self.synced_offset
    }

    fn image_takes(&self, new: &NewBatch) -> bool {
        let rolls = self.segments.back().is_none_or(|segment| segment.must_roll(new, &self.config));
        !rolls && self.large.images.back().is_some_and(|image| image.room_bytes() >= new.size as usize)
    }
}

impl Storage {
    /// Whether a batch does without the journal.
    pub(super) fn is_large(&self, id: LogId, len: usize, level: AckLevel) -> bool {
        let Some(log) = self.logs.get(id) else { return false };
        let by_itself = match level {
            AckLevel::Durable => log.has_unsynced_large(),
            AckLevel::Memory | AckLevel::Written => len >= self.options.large_batch_bytes,
        };
        by_itself || !log.large.images.is_empty() || log.waits_for_sync()
    }

    /// Makes sure that there is an image for a large batch.
    pub(super) fn make_large_room(&mut self, id: LogId, new: &NewBatch) -> Result<(), AppendError> {
        let Some(log) = self.logs.get(id) else { return Err(AppendError::UnknownLog) };
        self.check_dir(log.dir)?;
        if log.image_takes(new) {
            return Ok(());
        }
        // Behind an image that is being written others will gather, as long as there is memory for that in many logs.
        let roomy = self.pinned_bytes() * 2 < self.options.tail_max_bytes;
        let min_bytes = if roomy && !log.large.images.is_empty() { FLUSH_BYTES } else { 0 };
        let need_bytes = (BLOCK_BYTES - 1 + new.size as usize).next_multiple_of(BLOCK_BYTES);
        let bytes = need_bytes.max(min_bytes);
        if need_bytes > self.options.tail_max_bytes.min(self.options.pool.largest_bytes()) {
            return Err(AppendError::TooLarge);
        }
        if self.pinned_bytes() + bytes > self.options.tail_max_bytes {
            return Err(AppendError::Busy);
        }
        self.large_room = Some(self.allocate(bytes).ok_or(AppendError::Busy)?);
        Ok(())
    }

    /// Puts a batch, written by `fill`, into the log's last image or into the room that was made for it.
    pub(super) fn place_large(&mut self, id: LogId, batch: &LargeBatch, fill: impl FnOnce(&mut [u8])) {
        let room = self.large_room.take();
        let Some(log) = self.logs.get_mut(id) else { return };
        let LargeBatch { base_offset, next_offset, segment, position, len, level } = *batch;
        if let Some(buf) = room {
            self.dirs[log.dir].large_bytes += buf.len();
            let image = Image { base_offset, next_offset, segment, position, bytes: 0, buf: Some(buf) };
            log.large.images.push_back(image);
        }
        let image = log.large.images.back_mut().expect("the caller has made room");
        let start = image.head_bytes() + image.bytes;
        let buf = image.buf.as_mut().expect("an image with room is not being written");
        fill(&mut buf[start..start + len]);
        image.bytes += len;
        image.next_offset = next_offset;
        log.large.end_offset = next_offset;
        if level == AckLevel::Durable {
            log.large.durable_end = next_offset;
        }
        self.ask(id, next_offset, -1);
    }

    /// Writes a log's first image, which waits; its tail is empty.
    pub(super) fn start_large_flush(&mut self, io: &mut impl Io, id: LogId) {
        let Some(image) = self.logs.get(id).and_then(|log| log.large.images.front()) else { return };
        let (segment_base, head_bytes) = (image.segment, image.head_bytes());
        debug_assert!(self.logs.get(id).is_some_and(|log| {
            let segment = log.segment_index(segment_base).map(|index| &log.segments[index]);
            segment.is_some_and(|segment| segment.flushed == image.position)
        }));
        let image_start = image.position - head_bytes as u32;
        let head = match self.flush_head(io, id, segment_base, image_start, head_bytes) {
            Some(head) => head,
            None => return,
        };
        let Some(log) = self.logs.get_mut(id) else { return };
        let mut steps = VecDeque::new();
        log.push_cut_steps(&mut steps, segment_base);
        let path = Arc::clone(&log.path);
        let entries = log.segment_mut(segment_base).map(|segment| segment.flushed_entries);
        let Some(image) = log.large.images.front_mut() else { return };
        let Some(mut buf) = image.buf.take() else { return };
        if let Some(head) = head {
            buf[..head_bytes].copy_from_slice(&head[..head_bytes]);
        }
        let end = head_bytes + image.bytes;
        let whole = end.next_multiple_of(BLOCK_BYTES);
        buf[end..whole].fill(0);
        let (dir, spare_bytes) = (log.dir, buf.len() - whole);
        buf.shrink(whole);
        self.dirs[dir].large_bytes -= spare_bytes;
        let data = buf.freeze();
        let flushed = image_start + end as u32;
        let key = FileKey { log: id, base_offset: segment_base, kind: FileKind::Log };
        steps.push_back(Step::Use { key, dir: path, create: true });
        steps.push_back(Step::Write { offset: u64::from(image_start), data: data.clone() });
        let end = FlushEnd {
            log: id,
            segment: segment_base,
            flushed,
            next_offset: image.next_offset,
            entries: entries.unwrap_or_default(),
            image_start,
            image: data.slice(0, end),
            sound: image_start + head_bytes as u32..flushed,
            large_bytes: Some(whole),
        };
        self.work_running += 1;
        self.jobs.start(io, dir, Some(id), steps, End::Flush(end));
    }

    /// A log's first image has been written.
    pub(super) fn large_flushed(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(id) else { return };
        log.large.images.pop_front();
        self.acknowledge_large(id);
    }

    /// Moves the high watermark over what the segments hold, or where something durable is among it, have on stable media.
    pub(super) fn acknowledge_large(&mut self, id: LogId) {
        let Some(log) = self.logs.get(id) else { return };
        let (flushed, synced) = (log.flushed_offset, log.synced_offset);
        if log.waits_for_sync() {
            self.ask(id, -1, flushed);
            self.advance(id, synced);
        } else {
            self.advance(id, flushed);
        }
    }
}
