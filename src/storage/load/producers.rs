//! The producers of a log and its aborted transactions, at start-up: from snapshots and indexes as far as these are believed,
//! and from the batches behind that.

use super::*;
use crate::storage::producer_state::{ProducerAppend, read_snapshot};
use crate::storage::producers::Change;
use crate::storage::segment::ABORTED_ENTRY_BYTES;
use crate::storage::transaction_index;

/// How much log before a snapshot is looked through for batches that clients may send again.
const RESTORE_BYTES: u64 = 1 << 20;

impl Loader<'_> {
    /// Counts the aborted transactions that the indexes have. Returns the offset from which on they have to be found anew, in the log:
    /// behind the recovery point, and from the segment on whose index is damaged.
    pub(super) fn load_aborted(&mut self, io: &mut impl Io) -> Result<i64, StorageError> {
        let mut rebuild_from = self.options.recovery_point.unwrap_or(i64::MAX);
        let with_index = |segment: &Segment| {
            let name = FileName::new(segment.base_offset, FileKind::TransactionIndex);
            self.files.indexes.iter().any(|(found, _)| *found == name)
        };
        let bases: Vec<i64> =
            self.log.segments.iter().filter(|s| with_index(s)).map(|s| s.base_offset).collect();
        for base_offset in bases {
            let path = self.log.file_path(base_offset, FileKind::TransactionIndex);
            let bytes = read_file(io, &path, SMALL_FILE_BYTES_MAX).map_err(|error| io_error(&path, error))?;
            let bytes = bytes.unwrap_or_default();
            let mut kept = transaction_index::truncated_len(&bytes, rebuild_from);
            if transaction_index::check(&bytes[..kept], base_offset).is_err() {
                kept = 0;
                rebuild_from = rebuild_from.min(base_offset);
            }
            if kept < bytes.len() {
                let behind = transaction_index::entries(&bytes[kept..]).next();
                // What a clean stop left ends with an entry; what cannot be read of it was one, too.
                if behind.is_none() {
                    rebuild_from = rebuild_from.min(base_offset);
                    kept = 0;
                }
                self.kept_aborted.insert(base_offset, bytes[..kept].to_vec());
            }
            if let Some(segment) = self.log.segments.iter_mut().find(|s| s.base_offset == base_offset) {
                let aborted = kept as u32 / ABORTED_ENTRY_BYTES;
                segment.entries.aborted = aborted;
                segment.flushed_entries.aborted = aborted;
            }
        }
        Ok(rebuild_from)
    }

    /// The newest snapshot that can be used, and the batches behind it. It is no newer than `rebuild_from`: what was aborted from
    /// there on goes into the indexes. And it is not older than the first segment: of what has gone in between, nothing is known,
    /// and a producer with a newer batch there would be told that its next is out of order. Unknown, it may go on with any.
    pub(super) fn load_producers(&mut self, io: &mut impl Io, rebuild_from: i64) -> Result<(), StorageError> {
        let end = self.log.log_end_offset;
        let first = self.log.segments.front().map_or(end, |segment| segment.base_offset);
        let mut from = self.log.log_start_offset;
        let numbered = !self.files.snapshots.is_empty();
        while let Some(offset) = self.files.snapshots.pop() {
            let has_segment = self.log.segments.iter().any(|segment| segment.base_offset == offset);
            if offset > rebuild_from && offset <= end && has_segment {
                continue;
            }
            let path = self.log.file_path(offset, FileKind::ProducerSnapshot);
            let bytes = read_file(io, &path, SMALL_FILE_BYTES_MAX).map_err(|error| io_error(&path, error))?;
            let usable = (first..=end).contains(&offset) && offset <= rebuild_from;
            let entries = bytes.filter(|_| usable).and_then(|bytes| read_snapshot(&bytes).ok());
            if let Some(entries) = entries {
                self.log.producers.load(entries, offset);
                self.log.snapshot_offset = offset;
                let is_stray = self.log.segments.iter().all(|segment| segment.base_offset != offset);
                self.log.stray_snapshot = is_stray.then_some(offset);
                from = offset;
                break;
            }
            self.log.unsynced = true;
            remove_blocking(io, &path).map_err(|error| io_error(&path, error))?;
        }
        if !self.log.producers.is_empty() {
            self.restore_batches(io, from)?;
        }
        if numbered || rebuild_from < i64::MAX {
            self.replay_producers(io, from, rebuild_from)?;
            self.write_aborted(io)?;
        }
        self.log.producers.set_end_offset(end);
        // All that is found is acknowledged.
        self.log.producers.on_high_watermark(end);
        Ok(())
    }

    /// Writes what was found aborted into the indexes.
    fn write_aborted(&mut self, io: &mut impl Io) -> Result<(), StorageError> {
        for index in 0..self.log.segments.len() {
            let segment = &self.log.segments[index];
            let kept = self.kept_aborted.remove(&segment.base_offset);
            if segment.pending.aborted.is_empty() && kept.is_none() {
                continue;
            }
            let path = self.log.file_path(segment.base_offset, FileKind::TransactionIndex);
            let known = match kept {
                Some(kept) => Some(kept),
                None => read_file(io, &path, SMALL_FILE_BYTES_MAX).map_err(|error| io_error(&path, error))?,
            };
            let mut bytes = known.unwrap_or_default();
            bytes.truncate(segment.flushed_entries.bytes(FileKind::TransactionIndex) as usize);
            let segment = &mut self.log.segments[index];
            bytes.extend_from_slice(&segment.pending.aborted);
            segment.entries_written(segment.entries);
            // In the place of the old one, never into it: what a failure left half written nothing else knows.
            replace_file_blocking(io, &path, &bytes).map_err(|error| io_error(&path, error))?;
        }
        Ok(())
    }

    /// A snapshot has the last batch of each producer; the ones before it, which a client may send again, are looked for
    /// in the log before `end`.
    fn restore_batches(&mut self, io: &mut impl Io, end: i64) -> Result<(), StorageError> {
        let before = self.log.segments.partition_point(|segment| segment.base_offset < end);
        let Some(last) = before.checked_sub(1) else { return Ok(()) };
        let mut index = last;
        let mut bytes = self.position_below(io, last, end)?.0;
        while bytes < RESTORE_BYTES && index > 0 {
            index -= 1;
            bytes += u64::from(self.log.segments[index].size);
        }
        let segment = &self.log.segments[index];
        let (base_offset, size) = (segment.base_offset, u64::from(segment.size));
        let mut start = (0, base_offset);
        if let Some(offsets) = self.sane_index(io, base_offset, size)? {
            let target = bytes.saturating_sub(RESTORE_BYTES);
            let entries = offset_index::entries(&offsets, base_offset);
            let entry = entries.take_while(|entry| u64::from(entry.position) <= target).last();
            start = self.batch_of_entry(io, base_offset, entry)?;
        }
        let mut appends = Vec::new();
        for index in index..=last {
            let next =
                self.log.segments.get(index + 1).map_or(self.log.log_end_offset, |next| next.base_offset);
            scan(io, &self.headers(index, start, next), |_, header, _| {
                if header.base_offset < end && !header.is_control() {
                    appends.extend(ProducerAppend::new(header, header.base_offset, header.max_timestamp));
                }
            })?;
            start = (0, next);
        }
        self.log.producers.restore_batches(&appends);
        Ok(())
    }

    fn replay_producers(
        &mut self,
        io: &mut impl Io,
        from: i64,
        rebuild_from: i64,
    ) -> Result<(), StorageError> {
        for index in 0..self.log.segments.len() {
            let next =
                self.log.segments.get(index + 1).map_or(self.log.log_end_offset, |next| next.base_offset);
            if next <= from {
                continue;
            }
            let start = self.position_below(io, index, from)?;
            let range = self.headers(index, start, next);
            let producers = &mut self.log.producers;
            let mut found = Vec::new();
            scan(io, &range, |_, header, bytes| {
                if header.base_offset >= from
                    && let Ok(change) = Change::of(bytes, header, header.base_offset, header.max_timestamp, 0)
                {
                    found.extend(change.apply(producers));
                }
            })?;
            found.retain(|txn| txn.last_offset >= rebuild_from);
            found.iter().for_each(|txn| self.log.segments[index].add_aborted(txn));
        }
        Ok(())
    }
}
