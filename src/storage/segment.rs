//! A segment of a log: its numbers, and the index entries that are still to be written.
//!
//! A segment exists here from the first batch assigned to it, on disk from its first flush on. `size` counts all
//! batches assigned, `flushed` those in the file, `synced` those on stable media. Only the last segment grows, and a
//! file is only ever written behind `flushed` (and again from the start of the block that holds it).

use super::names::FileKind;
use super::transaction_index::{self, AbortedTxn};
use super::types::LogConfig;

pub const OFFSET_ENTRY_BYTES: u32 = 8;
pub const TIME_ENTRY_BYTES: u32 = 12;
pub const ABORTED_ENTRY_BYTES: u32 = transaction_index::ENTRY_BYTES as u32;

/// The largest timestamp of a segment and the last offset of the batch that brought it; -1 before any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Largest {
    pub timestamp: i64,
    pub offset: i64,
}

impl Largest {
    pub const NONE: Largest = Largest { timestamp: -1, offset: -1 };
}

/// Index entries in the form of the files, those not written yet.
#[derive(Clone, Debug, Default)]
pub struct PendingIndex {
    pub offsets: Vec<u8>,
    pub times: Vec<u8>,
    /// Aborted transactions stay here until they are known to be in the file: readers need all of them.
    pub aborted: Vec<u8>,
}

/// How many entries there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexEntries {
    pub offsets: u32,
    pub times: u32,
    pub aborted: u32,
}

impl IndexEntries {
    fn total(self) -> u32 {
        self.offsets + self.times + self.aborted
    }

    /// What they take in the file of that kind.
    pub fn bytes(self, kind: FileKind) -> u32 {
        match kind {
            FileKind::OffsetIndex => self.offsets * OFFSET_ENTRY_BYTES,
            FileKind::TimeIndex => self.times * TIME_ENTRY_BYTES,
            FileKind::TransactionIndex => self.aborted * ABORTED_ENTRY_BYTES,
            FileKind::Log | FileKind::ProducerSnapshot => 0,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Segment {
    pub base_offset: i64,
    pub size: u32,
    pub flushed: u32,
    pub synced: u32,
    /// The file goes on behind `flushed`, to the end of the block.
    pub padded: bool,
    /// `None` for a segment of before the start whose time index has not been looked at yet.
    pub largest: Option<Largest>,
    /// The timestamp of the first batch, which the age is counted from; -1 when none is known.
    pub first_timestamp: i64,
    pub created_ms: i64,
    pub jitter_ms: i64,
    /// No more batches come.
    pub closed: bool,
    /// Index entries made so far, and those of them in the files.
    pub entries: IndexEntries,
    pub flushed_entries: IndexEntries,
    pub indexes_synced: bool,
    /// The file exists.
    pub on_disk: bool,
    bytes_since_entry: u32,
    last_time_entry: i64,
    pub pending: PendingIndex,
    /// The length of an index of aborted transactions that was found too short.
    pub short_index: Option<usize>,
}

impl Segment {
    pub fn new(base_offset: i64, created_ms: i64, jitter_ms: i64) -> Segment {
        Segment {
            base_offset,
            size: 0,
            flushed: 0,
            synced: 0,
            padded: false,
            largest: Some(Largest::NONE),
            first_timestamp: -1,
            created_ms,
            jitter_ms,
            closed: false,
            entries: IndexEntries::default(),
            flushed_entries: IndexEntries::default(),
            indexes_synced: true,
            on_disk: false,
            bytes_since_entry: 0,
            last_time_entry: -1,
            pending: PendingIndex::default(),
            short_index: None,
        }
    }

    /// A segment found on disk with everything in it written and synced.
    pub fn loaded(base_offset: i64, size: u32, created_ms: i64, entries: IndexEntries) -> Segment {
        Segment {
            size,
            flushed: size,
            synced: size,
            largest: None,
            entries,
            flushed_entries: entries,
            on_disk: true,
            closed: true,
            ..Segment::new(base_offset, created_ms, 0)
        }
    }

    /// Opens a loaded segment for appends, with what its files say.
    pub fn resume(
        &mut self,
        largest: Largest,
        last_time_entry: i64,
        bytes_since_entry: u32,
        first_timestamp: i64,
    ) {
        self.largest = Some(largest);
        self.last_time_entry = last_time_entry;
        self.bytes_since_entry = bytes_since_entry;
        self.first_timestamp = first_timestamp;
        self.closed = false;
    }

    /// Whether a batch must go to a new segment, by Kafka's rules.
    pub fn must_roll(&self, batch: &NewBatch, config: &LogConfig) -> bool {
        let relative = batch.last_offset - self.base_offset;
        self.closed
            || u64::from(self.size) + u64::from(batch.size) > u64::from(config.segment_bytes)
            || (self.size > 0 && self.waited_ms(batch) > config.roll_ms().saturating_sub(self.jitter_ms))
            || self.entries.offsets >= config.segment_index_bytes / OFFSET_ENTRY_BYTES
            || self.entries.times + 1 >= config.segment_index_bytes / TIME_ENTRY_BYTES
            || !(0..=i64::from(i32::MAX)).contains(&relative)
    }

    fn waited_ms(&self, batch: &NewBatch) -> i64 {
        if self.first_timestamp >= 0 {
            batch.max_timestamp.saturating_sub(self.first_timestamp)
        } else {
            batch.wall_ms.saturating_sub(self.created_ms)
        }
    }

    /// Counts a batch in and makes the index entries that are due. Returns its position.
    pub fn add(&mut self, batch: &NewBatch, index_interval_bytes: u32) -> u32 {
        let position = self.size;
        let mut largest = self.largest.unwrap_or(Largest::NONE);
        if batch.max_timestamp > largest.timestamp {
            largest = Largest { timestamp: batch.max_timestamp, offset: batch.last_offset };
            self.largest = Some(largest);
        }
        if self.size == 0 {
            self.first_timestamp = batch.max_timestamp;
        }
        if self.bytes_since_entry > index_interval_bytes {
            self.add_offset_entry(batch.last_offset, position);
            self.add_time_entry(largest);
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry = self.bytes_since_entry.saturating_add(batch.size);
        self.size += batch.size;
        position
    }

    fn add_offset_entry(&mut self, offset: i64, position: u32) {
        let relative = (offset - self.base_offset) as u32;
        self.pending.offsets.extend_from_slice(&relative.to_be_bytes());
        self.pending.offsets.extend_from_slice(&position.to_be_bytes());
        self.entries.offsets += 1;
    }

    fn add_time_entry(&mut self, largest: Largest) {
        if largest.timestamp <= self.last_time_entry {
            return;
        }
        let relative = (largest.offset - self.base_offset) as u32;
        self.pending.times.extend_from_slice(&largest.timestamp.to_be_bytes());
        self.pending.times.extend_from_slice(&relative.to_be_bytes());
        self.last_time_entry = largest.timestamp;
        self.entries.times += 1;
    }

    /// A transaction was aborted whose marker is the last batch.
    pub fn add_aborted(&mut self, txn: &AbortedTxn) {
        txn.write(&mut self.pending.aborted);
        self.entries.aborted += 1;
    }

    /// Index entries are in the files.
    pub fn entries_written(&mut self, entries: IndexEntries) {
        let written = entries.aborted.saturating_sub(self.flushed_entries.aborted) * ABORTED_ENTRY_BYTES;
        let written = (written as usize).min(self.pending.aborted.len());
        take_front(&mut self.pending.aborted, written);
        self.flushed_entries = entries;
    }

    /// No more batches come; the last time entry names the largest timestamp.
    pub fn close(&mut self) {
        self.closed = true;
        self.add_closing_entry();
    }

    /// The entry that lets a reader know the largest timestamp without the log; it may be repeated after a restart.
    pub fn add_closing_entry(&mut self) {
        self.add_time_entry(self.largest.unwrap_or(Largest::NONE));
    }

    /// Takes the entries for what lies below `position` and `offset`; the aborted transactions among them stay until
    /// [`Segment::entries_written`].
    pub fn take_pending(&mut self, position: u32, offset: i64) -> PendingIndex {
        let relative = (offset - self.base_offset).clamp(0, i64::from(u32::MAX)) as u32;
        let (offsets, _) = self.pending.offsets.as_chunks::<{ OFFSET_ENTRY_BYTES as usize }>();
        let ready = offsets.iter().take_while(|entry| entry_u32(&entry[4..]) < position).count();
        let offsets = take_front(&mut self.pending.offsets, ready * OFFSET_ENTRY_BYTES as usize);
        let (times, _) = self.pending.times.as_chunks::<{ TIME_ENTRY_BYTES as usize }>();
        let ready = times.iter().take_while(|entry| entry_u32(&entry[8..]) < relative).count();
        let times = take_front(&mut self.pending.times, ready * TIME_ENTRY_BYTES as usize);
        let aborted = transaction_index::truncated_len(&self.pending.aborted, offset);
        let aborted = self.pending.aborted[..aborted].to_vec();
        PendingIndex { offsets, times, aborted }
    }

    /// Whether the segment is complete on disk but for index entries.
    pub fn lacks_entries(&self) -> bool {
        self.closed && self.is_flushed() && self.size > 0 && self.has_pending_entries()
    }

    pub fn has_pending_entries(&self) -> bool {
        self.entries.total() > self.flushed_entries.total()
    }

    pub fn is_flushed(&self) -> bool {
        self.flushed == self.size
    }
}

fn take_front(bytes: &mut Vec<u8>, len: usize) -> Vec<u8> {
    if len == bytes.len() { std::mem::take(bytes) } else { bytes.drain(..len).collect() }
}

fn entry_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// What a segment needs to know of a batch.
#[derive(Clone, Copy, Debug)]
pub struct NewBatch {
    pub size: u32,
    pub last_offset: i64,
    pub max_timestamp: i64,
    pub wall_ms: i64,
}
