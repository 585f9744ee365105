//! What a leader checks before it appends a client's batch, with Kafka's error for each failure.
//!
//! [`validate`] looks at one partition's records of a produce request and changes nothing. The caller then copies the batch
//! where it goes and lets [`ValidatedBatch::finish`] assign it there, or, where [`ValidatedBatch::rewrite`] is set (the
//! topic has a codec of its own, or the producer numbered its records with gaps), has [`rewrite`] write the new batch.
//!
//! Every record is walked, because the count, the timestamps and on compacted topics the keys must be known true;
//! compressed ones chunk by chunk, keys and values skipped. Nothing is allocated but for a rejection.
//!
//! Where it differs from Kafka, as the cases in `tests/record` show one by one:
//! - A failure Kafka did not foresee and answers with UNKNOWN_SERVER_ERROR (data that cannot be unpacked, inner offsets of
//!   a compressed batch with gaps) is INVALID_RECORD, an unknown codec UNSUPPORTED_COMPRESSION_TYPE.
//! - Compressed records must fill the length they declare; Kafka stores them and consumers fail.
//! - Uncompressed records with gaps in their offsets are numbered anew; Kafka stores the wrong offsets.
//! - A batch may unpack to `decompressed_bytes_max` at most; no more than [`RECORD_ERRORS_MAX`] faulty records are named.

use thiserror::Error;

use super::batch::{
    self, BatchError, BatchHeader, Batches, Codec, NO_TIMESTAMP, RecordBatch, TimestampType, batches,
};
use super::builder::{BatchBuilder, BatchOptions};
use super::compression::{
    self, Chunks, CompressionError, CompressionLevel, Compressor, Decompressor, RecompressError,
};
use super::records::RecordError;
use super::skim::{Seen, skim};
use super::varint::{VARINT_BYTES_MAX, VARLONG_BYTES_MAX, read_varint, read_varlong};

/// The faulty records named in one rejection, at most.
pub const RECORD_ERRORS_MAX: usize = 1000;

const PRODUCE_VERSION_ZSTD: i16 = 7;

/// The settings of a topic that decide what it takes.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// `max.message.bytes`: the size of a batch.
    pub message_bytes_max: usize,
    /// `segment.bytes`: a batch must fit a segment.
    pub segment_bytes: usize,
    /// What a compressed batch may unpack to; see [`compression::DECOMPRESSED_BYTES_MAX_DEFAULT`].
    pub decompressed_bytes_max: usize,
    /// `cleanup.policy` has `compact`: every record needs a key.
    pub compacted: bool,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    /// `compression.type` and its level; `None` is `producer`.
    pub compression: Option<(Codec, CompressionLevel)>,
}

/// A batch that may be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidatedBatch {
    /// As it was received.
    pub header: BatchHeader,
    /// The bytes to append: the batch without what may trail it in the request.
    pub size: usize,
    /// What the stored batch will say.
    pub timestamp_type: TimestampType,
    pub max_timestamp: i64,
    /// The first record with that timestamp, counted from the batch's first; the last one where the broker stamps.
    pub max_timestamp_offset_delta: i32,
    /// The bytes cannot be stored as they are: [`rewrite`] them with this codec.
    pub rewrite: Option<(Codec, CompressionLevel)>,
    /// The inner offsets have gaps, so a rewrite has to number the records anew.
    renumber: bool,
}

impl ValidatedBatch {
    /// Assigns offset, leader epoch and timestamps in place, with a new checksum only when timestamps change.
    /// `batch` is exactly the `size` bytes, or exactly what [`rewrite`] made of them.
    pub fn finish(&self, batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
        batch::set_max_timestamp(batch, self.timestamp_type, self.max_timestamp);
        batch::assign(batch, base_offset, leader_epoch);
    }
}

/// The errors of Kafka a batch can be refused with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProduceError {
    CorruptMessage,
    MessageTooLarge,
    RecordListTooLarge,
    InvalidTimestamp,
    UnsupportedCompressionType,
    InvalidRecord,
    UnknownServerError,
}

impl ProduceError {
    /// Kafka's error code.
    pub fn code(self) -> i16 {
        match self {
            ProduceError::UnknownServerError => -1,
            ProduceError::CorruptMessage => 2,
            ProduceError::MessageTooLarge => 10,
            ProduceError::RecordListTooLarge => 18,
            ProduceError::InvalidTimestamp => 32,
            ProduceError::UnsupportedCompressionType => 76,
            ProduceError::InvalidRecord => 87,
        }
    }
}

/// Why a batch was refused: the code, and what to say with it.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct Rejection {
    pub error: ProduceError,
    pub message: String,
    /// The faulty records, in order, where single records are at fault.
    pub records: Vec<RecordRejection>,
}

impl Rejection {
    fn new(error: ProduceError, message: impl Into<String>) -> Rejection {
        Rejection { error, message: message.into(), records: Vec::new() }
    }
}

/// A record that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRejection {
    /// Its index in the batch.
    pub index: i32,
    pub reason: RecordRejectionReason,
}

impl RecordRejection {
    /// What the answer says of the record.
    pub fn message(&self, topic_partition: impl std::fmt::Display) -> String {
        match self.reason {
            RecordRejectionReason::NoKey => format!("{} in topic partition {topic_partition}", self.reason),
            _ => self.reason.to_string(),
        }
    }
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordRejectionReason {
    #[error("Compacted topic cannot accept message without key")]
    NoKey,
    #[error(
        "Timestamp {timestamp} of message with offset {offset} is out of range. \
         The timestamp should be within [{earliest}, {latest}]"
    )]
    TimestampOutOfRange { timestamp: i64, offset: i64, earliest: i64, latest: i64 },
    #[error("Invalid timestamp type: the producer should not set LogAppendTime.")]
    LogAppendTime,
}

/// Checks one partition's records of a Produce request, version 3 or later.
pub fn validate(
    records: &[u8],
    produce_version: i16,
    rules: &Rules,
    now_ms: i64,
    decompressor: &mut Decompressor,
) -> Result<ValidatedBatch, Rejection> {
    let batch = single_batch(records, produce_version)?;
    let codec = check_batch(&batch, rules)?;
    let header = *batch.header();
    let mut walk = Walk::new(&header, rules, now_ms);
    let walked = match codec {
        Codec::None => walk_slice(&batch, &mut walk),
        codec => walk_stream(&batch, codec, rules.decompressed_bytes_max, decompressor, &mut walk),
    };
    walked.map_err(|error| record_rejection(&error))?;
    walk.check()?;

    let (max_timestamp, max_timestamp_offset_delta) = match rules.timestamp_type {
        TimestampType::CreateTime => (walk.max_timestamp, walk.max_timestamp_index),
        TimestampType::LogAppendTime => (now_ms, header.last_offset_delta),
    };
    let target = rules.compression.unwrap_or((codec, CompressionLevel::default()));
    let renumber = walk.gaps;
    if renumber && codec != Codec::None && target.0 == codec {
        return Err(invalid("The offsets of the records in a compressed batch are not consecutive"));
    }
    let rewrite = (target.0 != codec || renumber).then_some(target);
    let size = batch.bytes().len();
    if rewrite.is_none() {
        check_segment(size, rules)?;
    }
    let timestamp_type = rules.timestamp_type;
    Ok(ValidatedBatch {
        header,
        size,
        timestamp_type,
        max_timestamp,
        max_timestamp_offset_delta,
        rewrite,
        renumber,
    })
}

/// The buffers of [`rewrite`], kept between calls.
#[derive(Default)]
pub struct Rewriter {
    pub compressor: Compressor,
    builder: BatchBuilder,
    scratch: Vec<u8>,
}

/// Writes the batch anew as [`ValidatedBatch::rewrite`] asks, behind what is in `out`; it still needs
/// [`ValidatedBatch::finish`]. `batch` is the bytes that were validated.
pub fn rewrite(
    validated: &ValidatedBatch,
    batch: &[u8],
    rules: &Rules,
    rewriter: &mut Rewriter,
    decompressor: &mut Decompressor,
    out: &mut Vec<u8>,
) -> Result<(), Rejection> {
    let Some(target) = validated.rewrite else {
        out.extend_from_slice(&batch[..validated.size]);
        return Ok(());
    };
    let start = out.len();
    let Rewriter { compressor, builder, scratch } = rewriter;
    let limit = rules.decompressed_bytes_max;
    let written = RecordBatch::parse(batch).map_err(RecompressError::from).and_then(|batch| {
        if validated.renumber {
            renumber(&batch, target, builder, compressor, decompressor, scratch, limit, out)
        } else {
            compression::recompress(&batch, target, compressor, decompressor, scratch, limit, out)
        }
    });
    scratch.clear();
    scratch.shrink_to(compression::SCRATCH_BYTES_KEPT);
    written.map_err(|error| Rejection::new(ProduceError::UnknownServerError, error.to_string()))?;
    check_size(out.len() - start, rules)?;
    check_segment(out.len() - start, rules)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the buffers, taken apart so that they can be borrowed together"
)]
fn renumber(
    batch: &RecordBatch<'_>,
    (codec, level): (Codec, CompressionLevel),
    builder: &mut BatchBuilder,
    compressor: &mut Compressor,
    decompressor: &mut Decompressor,
    scratch: &mut Vec<u8>,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<(), RecompressError> {
    let header = batch.header();
    builder.reset(BatchOptions {
        codec,
        level,
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        transactional: header.is_transactional(),
        ..BatchOptions::default()
    });
    for (offset, record) in batch.records(decompressor, scratch, bytes_max)?.enumerate() {
        let record = record?;
        let timestamp = record.timestamp(header);
        builder.append_with_offset(offset as i64, timestamp, record.key, record.value, record.headers.iter());
    }
    builder.finish(compressor, out)?;
    Ok(())
}

/// The only batch in `records`; bytes of a batch that is cut off may follow it, as Kafka has it.
fn single_batch(records: &[u8], produce_version: i16) -> Result<RecordBatch<'_>, Rejection> {
    let mut batches: Batches<'_> = batches(records);
    let batch = match batches.next() {
        None => return Err(invalid("Produce requests must have at least one record batch per partition")),
        Some(Err(error)) => return Err(batch_rejection(&error)),
        Some(Ok(batch)) => batch,
    };
    if produce_version < PRODUCE_VERSION_ZSTD && batch.header().codec() == Some(Codec::Zstd) {
        return Err(Rejection::new(
            ProduceError::UnsupportedCompressionType,
            format!(
                "Produce requests with version {produce_version} are not allowed to use ZStandard compression"
            ),
        ));
    }
    match batches.next() {
        None => Ok(batch),
        Some(Err(error @ BatchError::OldMagic(_))) => Err(invalid(error.to_string())),
        Some(Err(error)) => Err(batch_rejection(&error)),
        Some(Ok(_)) => Err(invalid("Produce requests must have exactly one record batch per partition")),
    }
}

fn batch_rejection(error: &BatchError) -> Rejection {
    match error {
        BatchError::OldMagic(_) => {
            invalid("Produce requests are only allowed to contain record batches with magic version 2")
        }
        _ => Rejection::new(ProduceError::CorruptMessage, error.to_string()),
    }
}

/// The checks that need no record.
fn check_batch(batch: &RecordBatch<'_>, rules: &Rules) -> Result<Codec, Rejection> {
    let header = batch.header();
    if header.base_offset != 0 {
        return Err(invalid(format!(
            "The baseOffset of the record batch should be 0, but it is {}",
            header.base_offset
        )));
    }
    check_size(batch.bytes().len(), rules)?;
    batch.check_crc().map_err(|error| {
        Rejection::new(ProduceError::CorruptMessage, format!("Record is corrupt: {error}"))
    })?;
    let Some(codec) = header.codec() else {
        return Err(Rejection::new(ProduceError::UnsupportedCompressionType, "Unknown compression type id"));
    };
    let count = header.records_count;
    if header.last_offset_delta < 0 {
        return Err(invalid(format!("Batch has an invalid offset range: [0, {}]", header.last_offset_delta)));
    }
    if count <= 0 {
        return Err(invalid(format!("Invalid reported count for record batch: {count}")));
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(count) {
        return Err(invalid(format!(
            "Inconsistent batch offset range [0, {}] and count of records {count}",
            header.last_offset_delta
        )));
    }
    if header.is_control() {
        return Err(invalid("Clients are not allowed to write control records"));
    }
    if header.has_producer_id() && header.base_sequence < 0 {
        return Err(invalid(format!(
            "Invalid sequence number {} in record batch with producerId {}",
            header.base_sequence, header.producer_id
        )));
    }
    Ok(codec)
}

fn check_size(size: usize, rules: &Rules) -> Result<(), Rejection> {
    let limit = rules.message_bytes_max;
    if size <= limit {
        return Ok(());
    }
    let message = format!(
        "The record batch size is {size} bytes which exceeds the maximum configured value of {limit}."
    );
    Err(Rejection::new(ProduceError::MessageTooLarge, message))
}

fn check_segment(size: usize, rules: &Rules) -> Result<(), Rejection> {
    let limit = rules.segment_bytes;
    if size <= limit {
        return Ok(());
    }
    let message = format!(
        "Message batch size is {size} bytes, which exceeds the maximum configured segment size of {limit}."
    );
    Err(Rejection::new(ProduceError::RecordListTooLarge, message))
}

fn invalid(message: impl Into<String>) -> Rejection {
    Rejection::new(ProduceError::InvalidRecord, message)
}

fn record_rejection(error: &RecordError) -> Rejection {
    let code = match error {
        RecordError::Compression(CompressionError::TooLarge { .. }) => ProduceError::MessageTooLarge,
        RecordError::Compression(CompressionError::Failed { .. }) => ProduceError::UnknownServerError,
        _ => ProduceError::InvalidRecord,
    };
    Rejection::new(code, error.to_string())
}

/// What the records have shown so far.
struct Walk<'r> {
    header: &'r BatchHeader,
    rules: &'r Rules,
    now_ms: i64,
    index: i32,
    gaps: bool,
    max_timestamp: i64,
    max_timestamp_index: i32,
    rejected: Vec<RecordRejection>,
}

impl<'r> Walk<'r> {
    fn new(header: &'r BatchHeader, rules: &'r Rules, now_ms: i64) -> Walk<'r> {
        Walk {
            header,
            rules,
            now_ms,
            index: 0,
            gaps: false,
            max_timestamp: NO_TIMESTAMP,
            max_timestamp_index: -1,
            rejected: Vec::new(),
        }
    }

    #[inline]
    fn see(&mut self, seen: Seen) {
        self.gaps |= seen.offset_delta != self.index;
        let timestamp = match self.header.timestamp_type() {
            TimestampType::CreateTime => self.header.base_timestamp.wrapping_add(seen.timestamp_delta),
            TimestampType::LogAppendTime => self.header.max_timestamp,
        };
        if let Some(reason) = self.fault(&seen, timestamp)
            && self.rejected.len() < RECORD_ERRORS_MAX
        {
            self.rejected.push(RecordRejection { index: self.index, reason });
        }
        if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
            self.max_timestamp_index = self.index;
        }
        self.index += 1;
    }

    #[inline]
    fn fault(&self, seen: &Seen, timestamp: i64) -> Option<RecordRejectionReason> {
        let rules = self.rules;
        if rules.compacted && !seen.has_key {
            return Some(RecordRejectionReason::NoKey);
        }
        if rules.timestamp_type == TimestampType::CreateTime && timestamp != NO_TIMESTAMP {
            let age = self.now_ms.wrapping_sub(timestamp);
            if age > rules.timestamp_before_max_ms || age.wrapping_neg() > rules.timestamp_after_max_ms {
                return Some(RecordRejectionReason::TimestampOutOfRange {
                    timestamp,
                    offset: i64::from(seen.offset_delta),
                    earliest: self.now_ms.wrapping_sub(rules.timestamp_before_max_ms),
                    latest: self.now_ms.wrapping_add(rules.timestamp_after_max_ms),
                });
            }
            return None;
        }
        (self.header.timestamp_type() == TimestampType::LogAppendTime)
            .then_some(RecordRejectionReason::LogAppendTime)
    }

    /// Refuses the batch when a record was refused.
    fn check(&mut self) -> Result<(), Rejection> {
        if self.rejected.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.rejected);
        let (error, message) = if records.iter().any(|record| record.reason != RecordRejectionReason::NoKey) {
            let message = "One or more records have been rejected due to invalid timestamp".to_owned();
            (ProduceError::InvalidTimestamp, message)
        } else {
            let message = format!(
                "One or more records have been rejected due to {} record errors in total",
                records.len()
            );
            (ProduceError::InvalidRecord, message)
        };
        Err(Rejection { error, message, records })
    }
}

fn walk_slice(batch: &RecordBatch<'_>, walk: &mut Walk<'_>) -> Result<(), RecordError> {
    let mut left = batch.payload();
    for _ in 0..batch.header().records_count {
        let (seen, size) = skim(left)?;
        left = &left[size..];
        walk.see(seen);
    }
    if left.is_empty() { Ok(()) } else { Err(RecordError::TrailingBytes) }
}

fn walk_stream(
    batch: &RecordBatch<'_>,
    codec: Codec,
    bytes_max: usize,
    decompressor: &mut Decompressor,
    walk: &mut Walk<'_>,
) -> Result<(), RecordError> {
    let mut stream = Stream { chunks: decompressor.chunks(codec, batch.payload(), bytes_max)?, taken: 0 };
    for _ in 0..batch.header().records_count {
        let seen = stream.record()?;
        walk.see(seen);
    }
    if stream.chunks.fill()?.is_empty() { Ok(()) } else { Err(RecordError::TrailingBytes) }
}

/// Reads records off unpacked chunks, skipping keys, values and headers.
struct Stream<'d, 'i> {
    chunks: Chunks<'d, 'i>,
    taken: usize,
}

impl Stream<'_, '_> {
    fn record(&mut self) -> Result<Seen, RecordError> {
        // A record that lies in one chunk, as nearly all do, is read as a slice.
        let chunk = self.chunks.fill()?;
        if let Some((length, prefix)) = read_varint(chunk)
            && let Ok(length) = usize::try_from(length)
            && chunk.len() >= prefix + length
        {
            let (seen, size) = skim(chunk)?;
            self.chunks.consume(size);
            return Ok(seen);
        }
        self.split_record()
    }

    fn split_record(&mut self) -> Result<Seen, RecordError> {
        let length = usize::try_from(self.varint()?).map_err(|_| RecordError::Malformed("length"))?;
        self.taken = 0;
        self.byte()?; // attributes
        let timestamp_delta = self.varlong()?;
        let offset_delta = self.varint()?;
        let has_key = self.skip_nullable(length)?;
        self.skip_nullable(length)?;
        let headers = self.varint()?;
        if headers < 0 {
            return Err(RecordError::Malformed("header count"));
        }
        for _ in 0..headers {
            if !self.skip_nullable(length)? {
                return Err(RecordError::Malformed("header key"));
            }
            self.skip_nullable(length)?;
        }
        if self.taken == length {
            Ok(Seen { timestamp_delta, offset_delta, has_key })
        } else {
            Err(RecordError::Malformed("length: does not match its parts"))
        }
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        let byte = *self.chunks.fill()?.first().ok_or(RecordError::Truncated)?;
        self.chunks.consume(1);
        self.taken += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<i32, RecordError> {
        let mut bytes = [0; VARINT_BYTES_MAX];
        let length = self.varint_bytes(&mut bytes)?;
        read_varint(&bytes[..length]).map(|(value, _)| value).ok_or(RecordError::Malformed("number"))
    }

    fn varlong(&mut self) -> Result<i64, RecordError> {
        let mut bytes = [0; VARLONG_BYTES_MAX];
        let length = self.varint_bytes(&mut bytes)?;
        read_varlong(&bytes[..length]).map(|(value, _)| value).ok_or(RecordError::Malformed("number"))
    }

    fn varint_bytes(&mut self, bytes: &mut [u8]) -> Result<usize, RecordError> {
        for (index, slot) in bytes.iter_mut().enumerate() {
            *slot = self.byte()?;
            if *slot < 0x80 {
                return Ok(index + 1);
            }
        }
        Err(RecordError::Malformed("number"))
    }

    /// Skips a length and as many bytes; false for null. Stops at the record's own length.
    fn skip_nullable(&mut self, length: usize) -> Result<bool, RecordError> {
        let Ok(mut left) = usize::try_from(self.varint()?) else { return Ok(false) };
        if self.taken + left > length {
            return Err(RecordError::Malformed("length: smaller than its parts"));
        }
        self.taken += left;
        while left > 0 {
            let available = self.chunks.fill()?.len().min(left);
            if available == 0 {
                return Err(RecordError::Truncated);
            }
            self.chunks.consume(available);
            left -= available;
        }
        Ok(true)
    }
}
