//! What a partition knows of the producers that number their batches: the ground of idempotent and transactional writes.
//!
//! Per producer id: its epoch, its last five batches, the transaction it has open. A batch of a client is [`check`]ed
//! before it gets an offset (a duplicate is answered with the first one's offsets, a gap is refused), and [`append`]ed when it
//! has one; both in log order, at the moment of the append. After a restart the latest `.snapshot` is [`load`]ed and the log
//! behind it replayed.
//!
//! What Kafka 4.3 does and others may not expect: a producer id that is unknown may start at any sequence number (its
//! records may have been deleted); a new epoch starts at 0; an older epoch is INVALID_PRODUCER_EPOCH; UNKNOWN_PRODUCER_ID is
//! never answered. Unlike Kafka the number of producers is bounded: past it, the longest idle are forgotten.
//!
//! [`check`]: ProducerState::check
//! [`append`]: ProducerState::append
//! [`load`]: ProducerState::load

use std::collections::BTreeMap;

use thiserror::Error;

use crate::record::batch::{NO_PRODUCER_EPOCH, NO_SEQUENCE, NO_TIMESTAMP, increment_sequence};
use crate::record::control::EndTxnMarker;
use crate::record::{BatchHeader, crc32c};

/// The batches remembered of each producer: as many as a client may have in flight.
pub const BATCHES_KEPT: usize = 5;

const SNAPSHOT_VERSION: i16 = 1;
const SNAPSHOT_HEADER_BYTES: usize = 10;
const SNAPSHOT_CRC_AT: usize = 2;
const SNAPSHOT_ENTRIES_AT: usize = 6;
const SNAPSHOT_ENTRY_BYTES: usize = 46;

/// Where an append comes from, which says how much of it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A produce request: epoch, sequence, duplicates.
    Client,
    /// A group or transaction coordinator: it writes no sequence numbers, so the epoch only.
    Coordinator,
    /// Replication or recovery: checked when it was first appended.
    Replication,
}

/// A batch as the producer state sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerAppend {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub first_sequence: i32,
    pub last_sequence: i32,
    pub first_offset: i64,
    pub last_offset: i64,
    /// The batch's max timestamp as stored.
    pub timestamp: i64,
    pub transactional: bool,
}

impl ProducerAppend {
    /// `None` for a batch without a producer id. `base_offset` and `max_timestamp` are what the stored batch has.
    pub fn new(header: &BatchHeader, base_offset: i64, max_timestamp: i64) -> Option<ProducerAppend> {
        header.has_producer_id().then(|| ProducerAppend {
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            first_offset: base_offset,
            last_offset: base_offset.saturating_add(i64::from(header.last_offset_delta)),
            timestamp: max_timestamp,
            transactional: header.is_transactional(),
        })
    }
}

impl ProducerAppend {
    fn metadata(&self) -> BatchMetadata {
        BatchMetadata {
            last_sequence: self.last_sequence,
            offset_delta: self.last_offset.saturating_sub(self.first_offset) as i32,
            last_offset: self.last_offset,
            timestamp: self.timestamp,
        }
    }
}

/// A batch that was appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchMetadata {
    pub last_sequence: i32,
    pub offset_delta: i32,
    pub last_offset: i64,
    pub timestamp: i64,
}

impl BatchMetadata {
    pub fn first_sequence(&self) -> i32 {
        let sequence = i64::from(self.last_sequence) - i64::from(self.offset_delta);
        if sequence < 0 { (sequence + i64::from(i32::MAX) + 1) as i32 } else { sequence as i32 }
    }

    pub fn first_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }
}

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerStateEntry {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
    pub last_timestamp: i64,
    pub current_txn_first_offset: Option<i64>,
    batches: [BatchMetadata; BATCHES_KEPT],
    batches_count: u8,
}

impl ProducerStateEntry {
    /// A producer of which nothing is known.
    pub fn new(producer_id: i64) -> ProducerStateEntry {
        ProducerStateEntry {
            producer_id,
            producer_epoch: NO_PRODUCER_EPOCH,
            coordinator_epoch: -1,
            last_timestamp: NO_TIMESTAMP,
            current_txn_first_offset: None,
            batches: [BatchMetadata::default(); BATCHES_KEPT],
            batches_count: 0,
        }
    }

    /// The batches remembered, oldest first.
    pub fn batches(&self) -> &[BatchMetadata] {
        &self.batches[..usize::from(self.batches_count)]
    }

    pub fn last_batch(&self) -> Option<&BatchMetadata> {
        self.batches().last()
    }

    /// -1 when no batch of this epoch is remembered.
    pub fn last_sequence(&self) -> i32 {
        self.last_batch().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    fn set_epoch(&mut self, epoch: i16) {
        if self.producer_epoch != epoch {
            self.producer_epoch = epoch;
            self.batches_count = 0;
        }
    }

    fn push(&mut self, batch: BatchMetadata) {
        let count = usize::from(self.batches_count);
        if count == BATCHES_KEPT {
            self.batches.rotate_left(1);
            self.batches[BATCHES_KEPT - 1] = batch;
        } else {
            self.batches[count] = batch;
            self.batches_count += 1;
        }
    }

    fn find_duplicate(&self, append: &ProducerAppend) -> Option<BatchMetadata> {
        let same = |batch: &&BatchMetadata| {
            batch.first_sequence() == append.first_sequence && batch.last_sequence == append.last_sequence
        };
        (append.producer_epoch == self.producer_epoch).then(|| self.batches().iter().find(same).copied())?
    }
}

/// What to do with a batch that is in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    Append,
    /// It was appended before: answer with that batch's offsets, append nothing.
    Duplicate(BatchMetadata),
}

/// Why a batch or a marker is refused, with Kafka's name.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProducerStateError {
    #[error(
        "Out of order sequence number for producer {producer_id}: {sequence} (incoming seq. number), \
         {last_sequence} (current end sequence number)"
    )]
    OutOfOrderSequence { producer_id: i64, sequence: i32, last_sequence: i32 },
    #[error(
        "Epoch of producer {producer_id} is {epoch}, which is smaller than the last seen epoch {current}"
    )]
    InvalidProducerEpoch { producer_id: i64, epoch: i16, current: i16 },
    #[error("Expected transactional write from producer {producer_id}")]
    InvalidTxnState { producer_id: i64 },
    #[error("Invalid coordinator epoch for producerId {producer_id}: {epoch} (zombie), {current} (current)")]
    TransactionCoordinatorFenced { producer_id: i64, epoch: i32, current: i32 },
}

impl ProducerStateError {
    /// Kafka's error code.
    pub fn code(&self) -> i16 {
        match self {
            ProducerStateError::OutOfOrderSequence { .. } => 45,
            ProducerStateError::InvalidProducerEpoch { .. } => 47,
            ProducerStateError::InvalidTxnState { .. } => 48,
            ProducerStateError::TransactionCoordinatorFenced { .. } => 52,
        }
    }
}

/// A transaction that a marker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedTxn {
    pub producer_id: i64,
    pub first_offset: i64,
    /// The marker's offset.
    pub last_offset: i64,
    pub aborted: bool,
}

/// A marker about to be appended at `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkerAppend {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub marker: EndTxnMarker,
    pub offset: i64,
    pub timestamp: i64,
    /// From version 2 on every transaction has an epoch of its own, and its marker a greater one than its records.
    pub transaction_version: i16,
}

/// Limits of the state of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStateConfig {
    /// The producers remembered, at least 8. Past it the longest idle eighth is forgotten.
    pub producers_max: usize,
}

impl Default for ProducerStateConfig {
    fn default() -> ProducerStateConfig {
        ProducerStateConfig { producers_max: 100_000 }
    }
}

/// The producers of one partition. See the module.
#[derive(Clone, Debug, Default)]
pub struct ProducerState {
    config: ProducerStateConfig,
    // Boxed so that the map of a partition with one producer stays small.
    producers: BTreeMap<i64, Box<ProducerStateEntry>>,
    /// Open transactions: producer by first offset.
    ongoing_txns: BTreeMap<i64, i64>,
    /// Ended transactions whose marker is not below the high watermark: marker's offset by first offset.
    unreplicated_txns: BTreeMap<i64, i64>,
    end_offset: i64,
}

impl ProducerState {
    pub fn new(config: ProducerStateConfig) -> ProducerState {
        ProducerState { config, ..ProducerState::default() }
    }

    /// Starts over from a snapshot taken at `end_offset`. Producers that have expired by now go with the next
    /// [`ProducerState::remove_expired`].
    pub fn load(&mut self, entries: Vec<ProducerStateEntry>, end_offset: i64) {
        self.clear(end_offset);
        for entry in entries {
            if let Some(first_offset) = entry.current_txn_first_offset {
                self.ongoing_txns.insert(first_offset, entry.producer_id);
            }
            self.producers.insert(entry.producer_id, Box::new(entry));
        }
    }

    /// Forgets everything; the log starts at `end_offset`.
    pub fn clear(&mut self, end_offset: i64) {
        self.producers.clear();
        self.ongoing_txns.clear();
        self.unreplicated_txns.clear();
        self.end_offset = end_offset;
    }

    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    pub fn entry(&self, producer_id: i64) -> Option<&ProducerStateEntry> {
        self.producers.get(&producer_id).map(|entry| &**entry)
    }

    /// The producers in order of their ids, for DescribeProducers.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &ProducerStateEntry> {
        self.producers.values().map(|entry| &**entry)
    }

    /// The offset up to which the log is reflected here. Moves with every append, numbered or not.
    pub fn end_offset(&self) -> i64 {
        self.end_offset
    }

    pub fn set_end_offset(&mut self, end_offset: i64) {
        self.end_offset = end_offset;
    }

    /// Whether the batch may be appended; changes nothing.
    pub fn check(
        &self,
        append: &ProducerAppend,
        origin: AppendOrigin,
    ) -> Result<SequenceCheck, ProducerStateError> {
        let Some(entry) = self.entry(append.producer_id) else { return Ok(SequenceCheck::Append) };
        if origin == AppendOrigin::Client
            && let Some(duplicate) = entry.find_duplicate(append)
        {
            return Ok(SequenceCheck::Duplicate(duplicate));
        }
        if origin != AppendOrigin::Replication {
            check_epoch(entry, append.producer_epoch)?;
        }
        if origin == AppendOrigin::Client {
            check_sequence(entry, append)?;
        }
        if entry.current_txn_first_offset.is_some() && !append.transactional {
            return Err(ProducerStateError::InvalidTxnState { producer_id: append.producer_id });
        }
        Ok(SequenceCheck::Append)
    }

    /// Notes a batch that has been given its offsets.
    pub fn append(&mut self, append: &ProducerAppend) {
        self.make_room(append.producer_id);
        let entry = self.producers.entry(append.producer_id);
        let entry = entry.or_insert_with(|| Box::new(ProducerStateEntry::new(append.producer_id)));
        entry.set_epoch(append.producer_epoch);
        entry.push(append.metadata());
        entry.last_timestamp = append.timestamp;
        if append.transactional && entry.current_txn_first_offset.is_none() {
            entry.current_txn_first_offset = Some(append.first_offset);
            self.ongoing_txns.insert(append.first_offset, append.producer_id);
        }
        self.end_offset = append.last_offset + 1;
    }

    /// Gives the producers of a snapshot back the batches before their last, which it leaves out. `appends` are batches in
    /// the order of the log, from some place up to where the snapshot was taken.
    pub fn restore_batches(&mut self, appends: &[ProducerAppend]) {
        let mut by_producer: BTreeMap<i64, Vec<&ProducerAppend>> = BTreeMap::new();
        for append in appends {
            by_producer.entry(append.producer_id).or_default().push(append);
        }
        for (producer_id, appends) in by_producer {
            let Some(entry) = self.producers.get_mut(&producer_id) else { continue };
            let (Some(last), Some(known)) = (appends.last(), entry.last_batch()) else { continue };
            if last.producer_epoch != entry.producer_epoch || last.last_offset != known.last_offset {
                continue;
            }
            let epoch = entry.producer_epoch;
            let kept = appends.iter().rev().take_while(|append| append.producer_epoch == epoch).count();
            entry.batches_count = 0;
            for append in &appends[appends.len() - kept.min(BATCHES_KEPT)..] {
                entry.push(append.metadata());
            }
        }
    }

    /// Whether the marker may be appended; changes nothing.
    pub fn check_marker(
        &self,
        append: &MarkerAppend,
        origin: AppendOrigin,
    ) -> Result<(), ProducerStateError> {
        let Some(entry) = self.entry(append.producer_id) else { return Ok(()) };
        if origin == AppendOrigin::Replication {
            return Ok(());
        }
        let (epoch, current) = (append.producer_epoch, entry.producer_epoch);
        // A marker of the same epoch is a retry once its transaction has ended; and the last epoch has none above it.
        let retry = entry.current_txn_first_offset.is_none() || epoch == i16::MAX;
        if append.transaction_version >= 2 && epoch == current && !retry {
            let producer_id = append.producer_id;
            return Err(ProducerStateError::InvalidProducerEpoch { producer_id, epoch, current });
        }
        check_epoch(entry, epoch)?;
        let (epoch, current) = (append.marker.coordinator_epoch, entry.coordinator_epoch);
        if epoch < current {
            let producer_id = append.producer_id;
            return Err(ProducerStateError::TransactionCoordinatorFenced { producer_id, epoch, current });
        }
        Ok(())
    }

    /// Notes a marker that has been given its offset. Answers the transaction it ended, if the producer had written anything
    /// here; the caller puts an aborted one into the transaction index, with [`ProducerState::last_stable_offset`] as it is
    /// before [`ProducerState::complete_txn`].
    pub fn append_marker(&mut self, append: &MarkerAppend) -> Option<CompletedTxn> {
        self.make_room(append.producer_id);
        let entry = self.producers.entry(append.producer_id);
        let entry = entry.or_insert_with(|| Box::new(ProducerStateEntry::new(append.producer_id)));
        entry.set_epoch(append.producer_epoch);
        entry.coordinator_epoch = append.marker.coordinator_epoch;
        entry.last_timestamp = append.timestamp;
        self.end_offset = append.offset + 1;
        let first_offset = entry.current_txn_first_offset.take()?;
        Some(CompletedTxn {
            producer_id: append.producer_id,
            first_offset,
            last_offset: append.offset,
            aborted: !append.marker.commit,
        })
    }

    /// The last stable offset once `completed` counts: the first offset of the next open transaction, or what follows.
    pub fn last_stable_offset(&self, completed: &CompletedTxn) -> i64 {
        let other = self.ongoing_txns.iter().find(|(_, producer_id)| **producer_id != completed.producer_id);
        other.map_or(completed.last_offset + 1, |(first_offset, _)| *first_offset)
    }

    /// Takes an ended transaction off the open ones. It stays unstable until its marker is below the high watermark.
    pub fn complete_txn(&mut self, completed: &CompletedTxn) {
        if self.ongoing_txns.remove(&completed.first_offset).is_some() {
            self.unreplicated_txns.insert(completed.first_offset, completed.last_offset);
        }
    }

    /// Where the first transaction begins that is open, or ended above the high watermark: the last stable offset is no
    /// higher.
    pub fn first_unstable_offset(&self) -> Option<i64> {
        let first = |txns: &BTreeMap<i64, i64>| txns.first_key_value().map(|(first_offset, _)| *first_offset);
        match (first(&self.ongoing_txns), first(&self.unreplicated_txns)) {
            (Some(ongoing), Some(unreplicated)) => Some(ongoing.min(unreplicated)),
            (ongoing, unreplicated) => ongoing.or(unreplicated),
        }
    }

    /// The high watermark has moved, or the log now starts there.
    pub fn on_high_watermark(&mut self, high_watermark: i64) {
        self.unreplicated_txns.retain(|_, last_offset| *last_offset >= high_watermark);
    }

    /// The first offset of the oldest open transaction and its producer's last timestamp: a hanging one shows here.
    pub fn oldest_ongoing_txn(&self) -> Option<(i64, i64)> {
        let (first_offset, producer_id) = self.ongoing_txns.first_key_value()?;
        Some((*first_offset, self.entry(*producer_id)?.last_timestamp))
    }

    /// Forgets producers idle for `expiration_ms` (`producer.id.expiration.ms`, which may change at any time); never one with an
    /// open transaction. True when any went.
    pub fn remove_expired(&mut self, now_ms: i64, expiration_ms: i64) -> bool {
        let before = self.producers.len();
        self.producers.retain(|_, entry| !expired(entry, now_ms, expiration_ms));
        self.producers.len() != before
    }

    /// The contents of a `.snapshot` file, named by [`ProducerState::end_offset`].
    pub fn snapshot(&self) -> Vec<u8> {
        write_snapshot(self.entries())
    }

    /// Before a producer is added to a full map, forgets the eighth that has been idle longest: many at once, so that a
    /// client that invents producer ids does not make every append a search.
    fn make_room(&mut self, producer_id: i64) {
        let limit = self.config.producers_max.max(8);
        if self.producers.len() < limit || self.producers.contains_key(&producer_id) {
            return;
        }
        let idle = self.producers.values().filter(|entry| entry.current_txn_first_offset.is_none());
        let mut idle: Vec<(i64, i64)> = idle.map(|entry| (entry.last_timestamp, entry.producer_id)).collect();
        let count = (limit / 8).min(idle.len());
        if count == 0 {
            return; // all in transactions: these end or time out
        }
        idle.select_nth_unstable(count - 1);
        for (_, producer_id) in &idle[..count] {
            self.producers.remove(producer_id);
        }
    }
}

fn expired(entry: &ProducerStateEntry, now_ms: i64, expiration_ms: i64) -> bool {
    entry.current_txn_first_offset.is_none() && now_ms.saturating_sub(entry.last_timestamp) >= expiration_ms
}

fn check_epoch(entry: &ProducerStateEntry, epoch: i16) -> Result<(), ProducerStateError> {
    let current = entry.producer_epoch;
    if epoch >= current {
        return Ok(());
    }
    Err(ProducerStateError::InvalidProducerEpoch { producer_id: entry.producer_id, epoch, current })
}

fn check_sequence(entry: &ProducerStateEntry, append: &ProducerAppend) -> Result<(), ProducerStateError> {
    let sequence = append.first_sequence;
    let last_sequence = entry.last_sequence();
    let in_order = if entry.producer_epoch == NO_PRODUCER_EPOCH {
        true // nothing is known of it: its records may be gone
    } else if append.producer_epoch != entry.producer_epoch {
        sequence == 0
    } else {
        // After a marker no batch of the epoch is remembered, and -1 makes 0 the next.
        i64::from(sequence) == i64::from(last_sequence) + 1 || (sequence == 0 && last_sequence == i32::MAX)
    };
    if in_order {
        return Ok(());
    }
    Err(ProducerStateError::OutOfOrderSequence { producer_id: entry.producer_id, sequence, last_sequence })
}

/// A `.snapshot` file that cannot be used: an older one, or the log, is read instead.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CorruptSnapshot {
    #[error("version {0} is not supported")]
    Version(i16),
    #[error("the file has {0} bytes, not as many as its entries take")]
    Length(usize),
    #[error("checksum {stored:#010x} stored, {computed:#010x} computed")]
    Crc { stored: u32, computed: u32 },
    #[error("entry {0} is invalid")]
    Entry(usize),
}

/// The contents of a `.snapshot` file: version (2), CRC-32C of what follows it (4), number of entries (4), the entries.
/// Of each producer's batches only the last is kept.
pub fn write_snapshot<'a>(entries: impl ExactSizeIterator<Item = &'a ProducerStateEntry>) -> Vec<u8> {
    let mut out = Vec::with_capacity(SNAPSHOT_HEADER_BYTES + entries.len() * SNAPSHOT_ENTRY_BYTES);
    out.extend_from_slice(&SNAPSHOT_VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(entries.len() as i32).to_be_bytes());
    for entry in entries {
        let last = entry.last_batch();
        out.extend_from_slice(&entry.producer_id.to_be_bytes());
        out.extend_from_slice(&entry.producer_epoch.to_be_bytes());
        out.extend_from_slice(&entry.last_sequence().to_be_bytes());
        out.extend_from_slice(&last.map_or(-1, |batch| batch.last_offset).to_be_bytes());
        out.extend_from_slice(&last.map_or(0, |batch| batch.offset_delta).to_be_bytes());
        out.extend_from_slice(&entry.last_timestamp.to_be_bytes());
        out.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
        out.extend_from_slice(&entry.current_txn_first_offset.unwrap_or(-1).to_be_bytes());
    }
    let crc = crc32c::checksum(&out[SNAPSHOT_ENTRIES_AT..]);
    out[SNAPSHOT_CRC_AT..SNAPSHOT_ENTRIES_AT].copy_from_slice(&crc.to_be_bytes());
    out
}

/// Reads a `.snapshot` file.
pub fn read_snapshot(bytes: &[u8]) -> Result<Vec<ProducerStateEntry>, CorruptSnapshot> {
    let Some((header, body)) = bytes.split_first_chunk::<SNAPSHOT_HEADER_BYTES>() else {
        return Err(CorruptSnapshot::Length(bytes.len()));
    };
    let [v0, v1, c0, c1, c2, c3, n0, n1, n2, n3] = *header;
    let version = i16::from_be_bytes([v0, v1]);
    if version != SNAPSHOT_VERSION {
        return Err(CorruptSnapshot::Version(version));
    }
    let stored = u32::from_be_bytes([c0, c1, c2, c3]);
    let computed = crc32c::checksum(&bytes[SNAPSHOT_ENTRIES_AT..]);
    if stored != computed {
        return Err(CorruptSnapshot::Crc { stored, computed });
    }
    let (entries, rest) = body.as_chunks::<SNAPSHOT_ENTRY_BYTES>();
    if !rest.is_empty() || usize::try_from(i32::from_be_bytes([n0, n1, n2, n3])) != Ok(entries.len()) {
        return Err(CorruptSnapshot::Length(bytes.len()));
    }
    let read = |(index, bytes)| read_entry(bytes).ok_or(CorruptSnapshot::Entry(index));
    entries.iter().enumerate().map(read).collect()
}

fn read_entry(bytes: &[u8; SNAPSHOT_ENTRY_BYTES]) -> Option<ProducerStateEntry> {
    let long = |at: usize| bytes[at..].first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
    let int = |at: usize| bytes[at..].first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
    let mut entry = ProducerStateEntry::new(long(0)?);
    entry.producer_epoch = i16::from_be_bytes([bytes[8], bytes[9]]);
    let (last_sequence, last_offset, offset_delta) = (int(10)?, long(14)?, int(22)?);
    entry.last_timestamp = long(26)?;
    entry.coordinator_epoch = int(34)?;
    entry.current_txn_first_offset = Some(long(38)?).filter(|offset| *offset >= 0);
    if last_offset >= 0 {
        if offset_delta < 0 || last_sequence < NO_SEQUENCE {
            return None;
        }
        entry.push(BatchMetadata {
            last_sequence,
            offset_delta,
            last_offset,
            timestamp: entry.last_timestamp,
        });
    }
    Some(entry)
}

/// The sequence number after `sequence`.
pub fn next_sequence(sequence: i32) -> i32 {
    increment_sequence(sequence, 1)
}

#[cfg(test)]
mod tests;
