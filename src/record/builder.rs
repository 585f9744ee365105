//! Builds record batches: for internal topics, the command line, the load generator, recompression and tests.
//!
//! [`BatchBuilder`] keeps its buffers: `reset`, `append` per record, `finish`, and again; no allocation a record once
//! they have grown.

use super::batch::{
    Attributes, BATCH_OVERHEAD, BatchHeader, Codec, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, TimestampType,
};
use super::compression::{CompressionLevel, Compressor, RecompressError, write_batch};
use super::records::Header;
use super::varint::{varint_size, varlong_size, write_varint, write_varlong};

/// What the header of a built batch says beside what its records make it say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    pub codec: Codec,
    pub level: CompressionLevel,
    pub base_offset: i64,
    pub partition_leader_epoch: i32,
    pub timestamp_type: TimestampType,
    /// The broker's time, the max timestamp of a batch with `LogAppendTime`; unused else.
    pub log_append_time_ms: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub transactional: bool,
    pub control: bool,
    /// Set by compaction: replaces the base timestamp.
    pub delete_horizon_ms: Option<i64>,
}

impl Default for BatchOptions {
    fn default() -> BatchOptions {
        BatchOptions {
            codec: Codec::None,
            level: CompressionLevel::default(),
            base_offset: 0,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            timestamp_type: TimestampType::CreateTime,
            log_append_time_ms: NO_TIMESTAMP,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            base_sequence: NO_SEQUENCE,
            transactional: false,
            control: false,
            delete_horizon_ms: None,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    options: BatchOptions,
    records: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    max_timestamp_offset: i64,
    last_offset: i64,
}

impl BatchBuilder {
    pub fn new(options: BatchOptions) -> BatchBuilder {
        let mut builder = BatchBuilder::default();
        builder.reset(options);
        builder
    }

    /// Empties the builder for the next batch.
    pub fn reset(&mut self, options: BatchOptions) {
        self.options = options;
        self.records.clear();
        self.count = 0;
        self.base_timestamp = options.delete_horizon_ms.unwrap_or(NO_TIMESTAMP);
        self.max_timestamp = NO_TIMESTAMP;
        self.max_timestamp_offset = -1;
        self.last_offset = options.base_offset.wrapping_sub(1);
    }

    /// Adds a record at the next offset.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) {
        let offset = self.last_offset.wrapping_add(1);
        self.append_with_offset(offset, timestamp, key, value, headers.iter().copied());
    }

    /// Adds a record at `offset`, which is past the last one and within 2^31 of the base offset.
    pub fn append_with_offset<'h>(
        &mut self,
        offset: i64,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = Header<'h>> + Clone,
    ) {
        if self.count == 0 && self.options.delete_horizon_ms.is_none() {
            self.base_timestamp = timestamp;
        }
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let offset_delta = offset.wrapping_sub(self.options.base_offset) as i32;
        let length = body_size(timestamp_delta, offset_delta, key, value, headers.clone());
        write_varint(&mut self.records, length as i32);
        self.records.push(0); // attributes: none are defined
        write_varlong(&mut self.records, timestamp_delta);
        write_varint(&mut self.records, offset_delta);
        write_nullable(&mut self.records, key);
        write_nullable(&mut self.records, value);
        write_varint(&mut self.records, headers.len() as i32);
        for header in headers {
            write_nullable(&mut self.records, Some(header.key));
            write_nullable(&mut self.records, header.value);
        }
        self.count += 1;
        self.last_offset = offset;
        if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
            self.max_timestamp_offset = offset;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn records_count(&self) -> i32 {
        self.count
    }

    /// The size of the batch so far, before compression.
    pub fn uncompressed_size(&self) -> usize {
        BATCH_OVERHEAD + self.records.len()
    }

    /// Writes the batch behind what is in `out`. The builder stays as it is until [`BatchBuilder::reset`].
    pub fn finish(
        &self,
        compressor: &mut Compressor,
        out: &mut Vec<u8>,
    ) -> Result<BatchHeader, RecompressError> {
        self.finish_with_last_offset(self.last_offset, compressor, out)
    }

    /// As [`BatchBuilder::finish`] for a batch whose last records are gone: compaction keeps the original last offset,
    /// so that the producer's last sequence number stays readable.
    pub fn finish_with_last_offset(
        &self,
        last_offset: i64,
        compressor: &mut Compressor,
        out: &mut Vec<u8>,
    ) -> Result<BatchHeader, RecompressError> {
        let start = out.len();
        let options = &self.options;
        write_batch(
            self.header(last_offset),
            &self.records,
            (options.codec, options.level),
            compressor,
            out,
        )?;
        Ok(BatchHeader::parse(&out[start..])?)
    }

    fn header(&self, last_offset: i64) -> BatchHeader {
        let options = &self.options;
        BatchHeader {
            base_offset: options.base_offset,
            batch_length: 0,
            partition_leader_epoch: options.partition_leader_epoch,
            crc: 0,
            attributes: Attributes::default()
                .with_timestamp_type(options.timestamp_type)
                .with_transactional(options.transactional)
                .with_control(options.control)
                .with_delete_horizon(options.delete_horizon_ms.is_some()),
            last_offset_delta: last_offset.wrapping_sub(options.base_offset) as i32,
            base_timestamp: self.base_timestamp,
            max_timestamp: match options.timestamp_type {
                TimestampType::CreateTime => self.max_timestamp,
                TimestampType::LogAppendTime => options.log_append_time_ms,
            },
            producer_id: options.producer_id,
            producer_epoch: options.producer_epoch,
            base_sequence: options.base_sequence,
            records_count: self.count,
        }
    }

    /// The first offset with the largest timestamp, -1 while empty.
    pub fn max_timestamp_offset(&self) -> i64 {
        self.max_timestamp_offset
    }
}

/// The bytes of a record behind its length.
fn body_size<'h>(
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl ExactSizeIterator<Item = Header<'h>>,
) -> usize {
    let count = varint_size(headers.len() as i32);
    let headers: usize =
        headers.map(|header| nullable_size(Some(header.key)) + nullable_size(header.value)).sum();
    1 + varlong_size(timestamp_delta)
        + varint_size(offset_delta)
        + nullable_size(key)
        + nullable_size(value)
        + count
        + headers
}

fn nullable_size(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint_size(bytes.len() as i32) + bytes.len())
}

fn write_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => write_varint(out, -1),
        Some(bytes) => {
            write_varint(out, bytes.len() as i32);
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::batch::{RecordBatch, batches};
    use crate::record::compression::{DECOMPRESSED_BYTES_MAX_DEFAULT, Decompressor};

    #[test]
    fn every_codec_gives_back_what_was_appended() {
        let (mut compressor, mut decompressor) = (Compressor::new(), Decompressor::new());
        let mut builder = BatchBuilder::default();
        let mut out = Vec::new();
        let headers = [Header { key: b"h", value: Some(b"v") }, Header { key: b"none", value: None }];
        for codec in Codec::ALL {
            builder.reset(BatchOptions { codec, base_offset: 100, ..BatchOptions::default() });
            for index in 0..50i64 {
                let value = vec![index as u8; 3000];
                builder.append(1000 - index, (index % 2 == 0).then_some(b"key"), Some(&value), &headers);
            }
            builder.append(5, None, None, &[]);
            let header = builder.finish(&mut compressor, &mut out).expect("a small batch");
            assert_eq!((header.base_offset, header.last_offset(), header.records_count), (100, 150, 51));
            assert_eq!((header.base_timestamp, header.max_timestamp), (1000, 1000));
        }
        let mut scratch = Vec::new();
        let mut seen = Vec::new();
        for batch in batches(&out) {
            let batch = batch.expect("a batch");
            batch.check_crc().expect("the checksum");
            seen.push(batch.header().codec());
            let records: Vec<_> = batch
                .records(&mut decompressor, &mut scratch, DECOMPRESSED_BYTES_MAX_DEFAULT)
                .expect("payload")
                .collect::<Result<_, _>>()
                .expect("records");
            assert_eq!(records.len(), 51);
            for (index, record) in records[..50].iter().enumerate() {
                assert_eq!(record.offset(batch.header()), 100 + index as i64);
                assert_eq!(record.timestamp(batch.header()), 1000 - index as i64);
                assert_eq!(record.key, (index % 2 == 0).then_some(&b"key"[..]));
                assert_eq!(record.value, Some(&vec![index as u8; 3000][..]));
                assert!(record.headers.iter().eq(headers));
            }
            assert_eq!((records[50].key, records[50].value), (None, None));
        }
        assert_eq!(seen, Codec::ALL.map(Some));
        let last = batches(&out).last().expect("five").expect("a batch");
        let mut find = |timestamp, from| {
            last.find_timestamp(
                timestamp,
                from,
                &mut decompressor,
                &mut scratch,
                DECOMPRESSED_BYTES_MAX_DEFAULT,
            )
        };
        assert_eq!(find(1000, 0), Ok(Some((100, 1000))));
        assert_eq!(find(990, 105), Ok(Some((105, 995))));
        assert_eq!(find(990, 111), Ok(None), "earlier than asked");
        assert_eq!((find(1001, 0), find(5, 150), find(5, 151)), (Ok(None), Ok(Some((150, 5))), Ok(None)));
        assert!(RecordBatch::parse(&out).is_ok());
    }
}
