//! What compaction leaves of a batch.
//!
//! [`filter_batch`] drops the records that are not kept and leaves all else as it was: offsets, timestamps, producer, codec, and
//! the last offset even when its record is gone, because the producer's last sequence number is read off it. A batch that
//! loses nothing is copied byte for byte. Where tombstones (or a marker whose transaction is gone) are kept for the first
//! time, the batch is stamped with the time from which they may go, `delete.retention.ms` from now.
//!
//! Called by the cleaner, which decides by [`decide`] and [`keep_record`].

use thiserror::Error;

use super::offset_map::OffsetMap;
use crate::record::batch::{
    Attributes, BATCH_OVERHEAD, BatchHeader, Codec, LOG_OVERHEAD, NO_TIMESTAMP, RecordBatch, TimestampType,
    update_crc,
};
use crate::record::builder::{BatchBuilder, BatchOptions};
use crate::record::compression::{CompressionLevel, Compressor, Decompressor, RecompressError};
use crate::record::records::{Record, RecordError};
use crate::storage::producer_state::ProducerStateEntry;

/// What to do with a batch as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Drop it unread: of an aborted transaction, or a marker whose time is over.
    Delete,
    /// Drop it if no record is kept.
    DeleteEmpty,
    /// Keep its header even without records: it has the last sequence number of an active producer.
    RetainEmpty,
}

/// Which records of a batch are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    None,
    /// Those the cleaner's question is answered yes for.
    Asked,
    All,
}

/// What is to be done with a batch, decided by its header: see [`decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub retention: Retention,
    pub keep: Keep,
    /// A marker with nothing left of its transaction: it gets a delete horizon as a tombstone does.
    pub marker_of_empty_txn: bool,
}

/// Decides about a batch as a whole. `discardable`: it belongs to an aborted transaction, or is a marker of which no record
/// is left. `producer` is what the partition knows of its producer, if that is still active.
pub fn decide(
    header: &BatchHeader,
    discardable: bool,
    producer: Option<&ProducerStateEntry>,
    now_ms: i64,
) -> Decision {
    // A marker stays readable for as long as a tombstone does, so that a slow consumer sees how its transaction ended.
    let over = || header.delete_horizon_ms().is_some_and(|horizon| horizon <= now_ms);
    let discard = discardable && (!header.is_control() || over());
    let holds_last_sequence = header.has_producer_id()
        && producer.is_some_and(|producer| match producer.last_batch() {
            Some(batch) => batch.last_offset == header.last_offset(),
            None => header.is_control() && header.producer_epoch == producer.producer_epoch,
        });
    Decision {
        retention: match (holds_last_sequence, discard) {
            (true, _) => Retention::RetainEmpty,
            (false, true) => Retention::Delete,
            (false, false) => Retention::DeleteEmpty,
        },
        keep: match (discard, header.is_control()) {
            (true, _) => Keep::None,
            (false, true) => Keep::All,
            (false, false) => Keep::Asked,
        },
        marker_of_empty_txn: discardable && header.is_control(),
    }
}

/// How to filter one batch.
#[derive(Clone, Copy, Debug)]
pub struct FilterOptions {
    pub now_ms: i64,
    pub delete_retention_ms: i64,
    pub decision: Decision,
    pub decompressed_bytes_max: usize,
}

/// The buffers, kept between batches.
#[derive(Default)]
pub struct Filter {
    compressor: Compressor,
    decompressor: Decompressor,
    builder: BatchBuilder,
    scratch: Vec<u8>,
    kept: Vec<bool>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Dropped,
    Unchanged,
    Rewritten,
    /// The header only.
    Emptied,
}

/// What became of a batch, and how many of its records were kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filtered {
    pub outcome: Outcome,
    pub records_read: usize,
    pub records_kept: usize,
    /// Of what was written: what an index needs. `None` when nothing was.
    pub header: Option<BatchHeader>,
}

/// Why a batch cannot be filtered: it is damaged, and the cleaner leaves the log alone.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FilterError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Write(#[from] RecompressError),
}

impl Filter {
    pub fn new() -> Filter {
        Filter::default()
    }

    /// Appends to `out` what is left of `batch` when `keep` has been asked about each of its records.
    pub fn filter_batch(
        &mut self,
        batch: &RecordBatch<'_>,
        options: &FilterOptions,
        mut keep: impl FnMut(&BatchHeader, &Record<'_>) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<Filtered, FilterError> {
        let header = batch.header();
        let decision = options.decision;
        if decision.retention == Retention::Delete {
            return Ok(Filtered {
                outcome: Outcome::Dropped,
                records_read: 0,
                records_kept: 0,
                header: None,
            });
        }
        let Filter { compressor, decompressor, builder, scratch, kept } = self;
        let records = batch.records(decompressor, scratch, options.decompressed_bytes_max)?;
        kept.clear();
        let mut tombstones = false;
        for record in records.clone() {
            let record = record?;
            let keep = match decision.keep {
                Keep::None => false,
                Keep::Asked => keep(header, &record),
                Keep::All => true,
            };
            tombstones |= keep && record.value.is_none();
            kept.push(keep);
        }
        let records_read = kept.len();
        let records_kept = kept.iter().filter(|kept| **kept).count();
        let done = |outcome, header| Ok(Filtered { outcome, records_read, records_kept, header });
        if records_kept == 0 {
            if decision.retention != Retention::RetainEmpty {
                return done(Outcome::Dropped, None);
            }
            return done(Outcome::Emptied, Some(write_empty(header, out)));
        }
        let stamp = (tombstones || decision.marker_of_empty_txn) && header.delete_horizon_ms().is_none();
        if records_kept == records_read && !stamp {
            out.extend_from_slice(batch.bytes());
            return done(Outcome::Unchanged, Some(*header));
        }
        let horizon = stamp.then(|| options.now_ms.saturating_add(options.delete_retention_ms));
        builder.reset(rebuilt_options(header, horizon.or(header.delete_horizon_ms())));
        for (record, _) in records.zip(kept.iter()).filter(|(_, kept)| **kept) {
            let record = record?;
            let (offset, timestamp) = (record.offset(header), record.timestamp(header));
            builder.append_with_offset(offset, timestamp, record.key, record.value, record.headers.iter());
        }
        let written = builder.finish_with_last_offset(header.last_offset(), compressor, out)?;
        done(Outcome::Rewritten, Some(written))
    }
}

fn rebuilt_options(header: &BatchHeader, delete_horizon_ms: Option<i64>) -> BatchOptions {
    BatchOptions {
        codec: header.codec().unwrap_or(Codec::None),
        level: CompressionLevel::default(),
        base_offset: header.base_offset,
        partition_leader_epoch: header.partition_leader_epoch,
        timestamp_type: header.timestamp_type(),
        log_append_time_ms: match header.timestamp_type() {
            TimestampType::LogAppendTime => header.max_timestamp,
            TimestampType::CreateTime => NO_TIMESTAMP,
        },
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        transactional: header.is_transactional(),
        control: header.is_control(),
        delete_horizon_ms,
    }
}

/// The batch without records: uncompressed, no delete horizon, the rest as it was.
fn write_empty(header: &BatchHeader, out: &mut Vec<u8>) -> BatchHeader {
    let start = out.len();
    let empty = BatchHeader {
        batch_length: (BATCH_OVERHEAD - LOG_OVERHEAD) as i32,
        attributes: Attributes::default()
            .with_timestamp_type(header.timestamp_type())
            .with_transactional(header.is_transactional())
            .with_control(header.is_control()),
        base_timestamp: NO_TIMESTAMP,
        records_count: 0,
        ..*header
    };
    out.resize(start + BATCH_OVERHEAD, 0);
    empty.write(&mut out[start..]);
    update_crc(&mut out[start..]);
    BatchHeader::parse(&out[start..]).unwrap_or(empty)
}

/// Whether compaction keeps a record of an ordinary batch: what lies behind the map, the latest of its key, and a tombstone
/// only until its batch's delete horizon. Records without a key go; a compacted topic takes none.
pub fn keep_record(map: &OffsetMap, header: &BatchHeader, record: &Record<'_>, now_ms: i64) -> bool {
    let offset = record.offset(header);
    if offset > map.latest_offset() {
        return true;
    }
    let Some(key) = record.key else { return false };
    let latest = map.get(key).is_none_or(|latest| offset >= latest);
    let tombstone_over = || header.delete_horizon_ms().is_some_and(|horizon| now_ms >= horizon);
    latest && (record.value.is_some() || !tombstone_over())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::batches;
    use crate::record::compression::DECOMPRESSED_BYTES_MAX_DEFAULT;
    use crate::storage::producer_state::{ProducerAppend, ProducerState, ProducerStateConfig};

    const DELETE_EMPTY: Decision =
        Decision { retention: Retention::DeleteEmpty, keep: Keep::Asked, marker_of_empty_txn: false };

    fn options(decision: Decision) -> FilterOptions {
        FilterOptions {
            now_ms: 10_000,
            delete_retention_ms: 500,
            decision,
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX_DEFAULT,
        }
    }

    /// Ten records, keys 0 to 9, the last a tombstone.
    fn build(codec: Codec, timestamp_type: TimestampType) -> Vec<u8> {
        let mut builder = BatchBuilder::new(BatchOptions {
            codec,
            base_offset: 100,
            partition_leader_epoch: 3,
            timestamp_type,
            log_append_time_ms: 7777,
            producer_id: 5,
            producer_epoch: 1,
            base_sequence: 40,
            ..BatchOptions::default()
        });
        for index in 0..10u8 {
            let value = [index; 20];
            builder.append(1000 - i64::from(index), Some(&[index]), (index != 9).then_some(&value), &[]);
        }
        let mut out = Vec::new();
        builder.finish(&mut Compressor::new(), &mut out).expect("a small batch");
        out
    }

    fn records(bytes: &[u8]) -> Vec<(i64, i64, u8)> {
        let batch = RecordBatch::parse(bytes).unwrap();
        batch.check_crc().unwrap();
        let (mut decompressor, mut scratch) = (Decompressor::new(), Vec::new());
        let records = batch.records(&mut decompressor, &mut scratch, 1 << 20).unwrap();
        let header = batch.header();
        let shown =
            |record: Record<'_>| (record.offset(header), record.timestamp(header), record.key.unwrap()[0]);
        records.map(|record| shown(record.unwrap())).collect()
    }

    #[test]
    fn what_is_kept_keeps_its_offset_and_time() {
        let mut filter = Filter::new();
        for codec in Codec::ALL {
            for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
                let bytes = build(codec, timestamp_type);
                let batch = RecordBatch::parse(&bytes).unwrap();
                let mut out = Vec::new();
                let keep = |_: &BatchHeader, record: &Record<'_>| [2, 3].contains(&record.key.unwrap()[0]);
                let filtered = filter.filter_batch(&batch, &options(DELETE_EMPTY), keep, &mut out).unwrap();
                assert_eq!((filtered.outcome, filtered.records_kept), (Outcome::Rewritten, 2));
                let time = |time| if timestamp_type == TimestampType::CreateTime { time } else { 7777 };
                assert_eq!(records(&out), [(102, time(998), 2), (103, time(997), 3)]);
                let (old, new) = (batch.header(), filtered.header.unwrap());
                assert_eq!((new.base_offset, new.last_offset(), new.last_sequence()), (100, 109, 49));
                assert_eq!((new.codec(), new.timestamp_type()), (Some(codec), timestamp_type));
                assert_eq!(new.max_timestamp, time(998));
                assert_eq!((new.producer_id, new.producer_epoch, new.partition_leader_epoch), (5, 1, 3));
                assert!(old.delete_horizon_ms().is_none() && new.delete_horizon_ms().is_none());
            }
        }
    }

    #[test]
    fn kept_tombstones_get_a_horizon_once() {
        let bytes = build(Codec::Lz4, TimestampType::CreateTime);
        let batch = RecordBatch::parse(&bytes).unwrap();
        let (mut filter, mut out) = (Filter::new(), Vec::new());
        let filtered = filter.filter_batch(&batch, &options(DELETE_EMPTY), |_, _| true, &mut out).unwrap();
        assert_eq!(filtered.outcome, Outcome::Rewritten);
        assert_eq!(filtered.header.unwrap().delete_horizon_ms(), Some(10_500));
        assert_eq!(records(&out), records(&bytes));
        let stamped = RecordBatch::parse(&out).unwrap();
        let mut again = Vec::new();
        let filtered =
            filter.filter_batch(&stamped, &options(DELETE_EMPTY), |_, _| true, &mut again).unwrap();
        assert_eq!((filtered.outcome, &again), (Outcome::Unchanged, &out));
        again.clear();
        let keep = |_: &BatchHeader, record: &Record<'_>| record.value.is_none();
        let filtered = filter.filter_batch(&stamped, &options(DELETE_EMPTY), keep, &mut again).unwrap();
        assert_eq!(filtered.header.unwrap().delete_horizon_ms(), Some(10_500), "not moved");
        assert_eq!(records(&again), [(109, 991, 9)]);
    }

    #[test]
    fn emptied_batches() {
        let bytes = build(Codec::Zstd, TimestampType::CreateTime);
        let batch = RecordBatch::parse(&bytes).unwrap();
        let (mut filter, mut out) = (Filter::new(), Vec::new());
        let filtered = filter.filter_batch(&batch, &options(DELETE_EMPTY), |_, _| false, &mut out).unwrap();
        assert_eq!((filtered.outcome, out.len()), (Outcome::Dropped, 0));
        let retain = Decision { retention: Retention::RetainEmpty, ..DELETE_EMPTY };
        let filtered = filter.filter_batch(&batch, &options(retain), |_, _| false, &mut out).unwrap();
        assert_eq!((filtered.outcome, out.len()), (Outcome::Emptied, BATCH_OVERHEAD));
        assert_eq!(records(&out), []);
        let header = filtered.header.unwrap();
        assert_eq!((header.base_offset, header.last_offset(), header.last_sequence()), (100, 109, 49));
        assert_eq!(
            (header.max_timestamp, header.base_timestamp, header.codec()),
            (1000, -1, Some(Codec::None))
        );
        // An emptied batch stays as long as it is asked for, and goes then.
        let empty = out.clone();
        let batch = RecordBatch::parse(&empty).unwrap();
        out.clear();
        filter.filter_batch(&batch, &options(retain), |_, _| true, &mut out).unwrap();
        assert_eq!(out, empty);
        out.clear();
        filter.filter_batch(&batch, &options(DELETE_EMPTY), |_, _| true, &mut out).unwrap();
        assert!(out.is_empty());
    }

    #[test]
    fn decisions() {
        let bytes = build(Codec::None, TimestampType::CreateTime);
        let data = *RecordBatch::parse(&bytes).unwrap().header();
        let mut state = ProducerState::new(ProducerStateConfig::default());
        assert_eq!(decide(&data, false, state.entry(5), 0), DELETE_EMPTY);
        state.append(&ProducerAppend::new(&data, 100, 1000).unwrap());
        assert_eq!(decide(&data, false, state.entry(5), 0).retention, Retention::RetainEmpty);
        let aborted = decide(&data, true, state.entry(5), 0);
        assert_eq!((aborted.retention, aborted.keep), (Retention::RetainEmpty, Keep::None));
        state.append(&ProducerAppend { last_offset: 120, ..ProducerAppend::new(&data, 110, 1000).unwrap() });
        assert_eq!(decide(&data, true, state.entry(5), 0).retention, Retention::Delete);
        let marker = BatchHeader { attributes: data.attributes.with_control(true), ..data };
        let decision = decide(&marker, true, None, 0);
        assert_eq!((decision.retention, decision.keep), (Retention::DeleteEmpty, Keep::All));
        assert!(decision.marker_of_empty_txn);
        let stamped = BatchHeader { attributes: marker.attributes.with_delete_horizon(true), ..marker };
        assert_eq!(decide(&stamped, true, None, 999).retention, Retention::DeleteEmpty);
        assert_eq!(decide(&stamped, true, None, 1000).retention, Retention::Delete);
    }

    #[test]
    fn the_latest_of_each_key_is_kept() {
        let bytes = build(Codec::None, TimestampType::CreateTime);
        let batch = RecordBatch::parse(&bytes).unwrap();
        let mut map = OffsetMap::new(1 << 12, 0.9, [1, 2]);
        for (key, offset) in [(0u8, 100), (1, 101), (9, 109), (0, 110)] {
            map.put(&[key], offset).unwrap();
        }
        map.set_latest_offset(105);
        let (mut filter, mut out) = (Filter::new(), Vec::new());
        let keep = |header: &BatchHeader, record: &Record<'_>| keep_record(&map, header, record, 10_000);
        filter.filter_batch(&batch, &options(DELETE_EMPTY), keep, &mut out).unwrap();
        let kept: Vec<_> = records(&out).into_iter().map(|(offset, ..)| offset).collect();
        assert_eq!(kept, (101..110).collect::<Vec<_>>(), "unknown keys and what lies behind the map stay");
        map.set_latest_offset(110);
        let stamped = batches(&out).next().unwrap().unwrap();
        let mut again = Vec::new();
        let keep = |header: &BatchHeader, record: &Record<'_>| keep_record(&map, header, record, 10_500);
        filter.filter_batch(&stamped, &options(DELETE_EMPTY), keep, &mut again).unwrap();
        assert_eq!(records(&again).last().unwrap().0, 108, "the tombstone's time is over");
    }
}
