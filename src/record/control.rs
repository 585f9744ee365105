//! Control records: the markers that end transactions.
//!
//! The key is version (2) and type (2), the value of an end marker version (2) and coordinator epoch (4). A control
//! batch holds exactly one, uncompressed. Called by the producer state on append and recovery, and by transactions.

use super::batch::{BatchHeader, Codec, RecordBatch, TimestampType};
use super::builder::{BatchBuilder, BatchOptions};
use super::compression::{Compressor, RecompressError};
use super::records::{Record, RecordError};

/// What a control record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlType {
    Abort,
    Commit,
    /// Of the controller's log, or of a later Kafka.
    Other(i16),
}

impl ControlType {
    pub fn parse(key: &[u8]) -> Option<ControlType> {
        let &[v0, v1, t0, t1, ..] = key else { return None };
        if i16::from_be_bytes([v0, v1]) < 0 {
            return None;
        }
        Some(match i16::from_be_bytes([t0, t1]) {
            0 => ControlType::Abort,
            1 => ControlType::Commit,
            other => ControlType::Other(other),
        })
    }
}

/// The end of a producer's transaction on a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTxnMarker {
    pub commit: bool,
    pub coordinator_epoch: i32,
}

impl EndTxnMarker {
    /// Decodes the record of a control batch; `None` when it is no end marker.
    pub fn parse(record: &Record<'_>) -> Option<EndTxnMarker> {
        let commit = match ControlType::parse(record.key?)? {
            ControlType::Commit => true,
            ControlType::Abort => false,
            ControlType::Other(_) => return None,
        };
        let &[v0, v1, e0, e1, e2, e3, ..] = record.value? else { return None };
        if i16::from_be_bytes([v0, v1]) < 0 {
            return None;
        }
        Some(EndTxnMarker { commit, coordinator_epoch: i32::from_be_bytes([e0, e1, e2, e3]) })
    }

    /// The marker of a control batch and its timestamp. `None` for any other batch and for one that compaction has emptied.
    pub fn of_batch(batch: &RecordBatch<'_>) -> Result<Option<(EndTxnMarker, i64)>, RecordError> {
        let header = batch.header();
        if !header.is_control() || header.records_count == 0 || header.codec() != Some(Codec::None) {
            return Ok(None);
        }
        let record = Record::parse(batch.payload())?;
        Ok(EndTxnMarker::parse(&record).map(|marker| (marker, record.timestamp(header))))
    }

    /// Writes the marker's batch behind what is in `out`; offset and leader epoch are still to be assigned.
    pub fn write(
        &self,
        producer_id: i64,
        producer_epoch: i16,
        timestamp: i64,
        builder: &mut BatchBuilder,
        compressor: &mut Compressor,
        out: &mut Vec<u8>,
    ) -> Result<BatchHeader, RecompressError> {
        builder.reset(BatchOptions {
            timestamp_type: TimestampType::CreateTime,
            producer_id,
            producer_epoch,
            transactional: true,
            control: true,
            ..BatchOptions::default()
        });
        let key = [0, 0, 0, u8::from(self.commit)];
        let [a, b, c, d] = self.coordinator_epoch.to_be_bytes();
        builder.append(timestamp, Some(&key), Some(&[0, 0, a, b, c, d]), &[]);
        builder.finish(compressor, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_comes_back() {
        let (mut builder, mut compressor) = (BatchBuilder::default(), Compressor::new());
        for commit in [true, false] {
            let marker = EndTxnMarker { commit, coordinator_epoch: 7 };
            let mut out = Vec::new();
            let header = marker.write(5, 2, 99, &mut builder, &mut compressor, &mut out).unwrap();
            assert!(header.is_control() && header.is_transactional());
            let batch = RecordBatch::parse(&out).unwrap();
            assert_eq!(EndTxnMarker::of_batch(&batch), Ok(Some((marker, 99))));
        }
    }

    #[test]
    fn other_records_are_no_markers() {
        let record = |key, value| Record {
            attributes: 0,
            timestamp_delta: 0,
            offset_delta: 0,
            key,
            value,
            headers: Default::default(),
            size: 0,
        };
        for (key, value) in [
            (None, None),
            (Some(&[0u8, 0, 0, 1][..]), None),
            (Some(&[0, 0, 0, 1]), Some(&[0u8, 0, 0, 0, 0][..])),
            (Some(&[0, 0, 0]), Some(&[0; 6])),
            (Some(&[0, 0, 0, 2]), Some(&[0; 6])),
            (Some(&[0xff, 0, 0, 1]), Some(&[0; 6])),
        ] {
            assert_eq!(EndTxnMarker::parse(&record(key, value)), None);
        }
    }
}
