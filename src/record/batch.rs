//! The header of a record batch v2, the batches in a run of bytes, and the few in-place changes a broker makes.
//!
//! Layout (big-endian): base offset 8, length 4, partition leader epoch 4, magic 1, CRC 4, attributes 2, last offset
//! delta 4, base timestamp 8, max timestamp 8, producer id 8, producer epoch 2, base sequence 4, record count 4, then
//! the records. The CRC covers everything from the attributes on, so base offset and leader epoch can be assigned
//! without touching it.
//!
//! Called by `validate` on produce, by storage on every append, recovery and read, and by the tools.

use thiserror::Error;

use super::crc32c;

/// Base offset and length: what precedes the bytes that the length counts.
pub const LOG_OVERHEAD: usize = 12;
/// The whole header: the smallest possible batch.
pub const BATCH_OVERHEAD: usize = 61;
/// The only format version stored and served.
pub const MAGIC_V2: i8 = 2;

/// "None" in the fields of the header, as Kafka writes it.
pub const NO_PRODUCER_ID: i64 = -1;
pub const NO_PRODUCER_EPOCH: i16 = -1;
pub const NO_SEQUENCE: i32 = -1;
pub const NO_TIMESTAMP: i64 = -1;
pub const NO_PARTITION_LEADER_EPOCH: i32 = -1;

/// Where the bytes begin that the checksum covers.
pub const CHECKED_FROM: usize = ATTRIBUTES_AT;

const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const RECORDS_COUNT_AT: usize = 57;

/// Kafka takes no length below this (the header of format v0), whatever the magic says.
const LENGTH_MIN_ANY_MAGIC: i32 = 14;

/// The compression codec of a batch, by its number in the attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    #[default]
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl Codec {
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The codec of that number; 5 to 7 mean nothing.
    pub fn from_id(id: u8) -> Option<Codec> {
        Codec::ALL.get(usize::from(id)).copied()
    }

    /// Kafka's name, as in `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The codec of that name; `uncompressed` is the topic setting's word for none.
    pub fn from_name(name: &str) -> Option<Codec> {
        if name == "uncompressed" {
            return Some(Codec::None);
        }
        Codec::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Who sets a record's timestamp (`message.timestamp.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    #[default]
    CreateTime,
    LogAppendTime,
}

/// The attribute bits of a batch. Kafka looks at the low byte only; the rest is kept as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes(pub i16);

impl Attributes {
    const CODEC: i16 = 0x07;
    const LOG_APPEND_TIME: i16 = 0x08;
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    const DELETE_HORIZON: i16 = 0x40;

    /// `None` for the numbers that mean no codec.
    #[inline]
    pub fn codec(self) -> Option<Codec> {
        Codec::from_id((self.0 & Self::CODEC) as u8)
    }

    #[inline]
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    #[inline]
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    #[inline]
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Set by compaction: the base timestamp then holds the time from which tombstones may go.
    #[inline]
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    #[must_use]
    pub fn with_codec(self, codec: Codec) -> Attributes {
        Attributes((self.0 & !Self::CODEC) | codec as i16)
    }

    #[must_use]
    pub fn with_timestamp_type(self, timestamp_type: TimestampType) -> Attributes {
        self.with_bit(Self::LOG_APPEND_TIME, timestamp_type == TimestampType::LogAppendTime)
    }

    #[must_use]
    pub fn with_transactional(self, on: bool) -> Attributes {
        self.with_bit(Self::TRANSACTIONAL, on)
    }

    #[must_use]
    pub fn with_control(self, on: bool) -> Attributes {
        self.with_bit(Self::CONTROL, on)
    }

    #[must_use]
    pub fn with_delete_horizon(self, on: bool) -> Attributes {
        self.with_bit(Self::DELETE_HORIZON, on)
    }

    fn with_bit(self, bit: i16, on: bool) -> Attributes {
        Attributes(if on { self.0 | bit } else { self.0 & !bit })
    }
}

/// The fields of a batch header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// The bytes after this field; [`BatchHeader::size`] is the whole batch.
    pub batch_length: i32,
    pub partition_leader_epoch: i32,
    pub crc: u32,
    pub attributes: Attributes,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub records_count: i32,
}

impl BatchHeader {
    /// Decodes the header at the front of `bytes`; the records need not be there.
    /// Magic and length are checked, the CRC is not.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let batch_length = match peek(bytes)? {
            Some(length) => length,
            None => return Err(BatchError::Incomplete { needed: BATCH_OVERHEAD }),
        };
        let magic = bytes[MAGIC_AT] as i8;
        if magic != MAGIC_V2 {
            return Err(BatchError::OldMagic(magic));
        }
        if (batch_length as usize) < BATCH_OVERHEAD - LOG_OVERHEAD {
            return Err(BatchError::LengthTooSmall(batch_length));
        }
        if bytes.len() < BATCH_OVERHEAD {
            return Err(BatchError::Incomplete { needed: BATCH_OVERHEAD });
        }
        Ok(Self::decode(bytes, batch_length))
    }

    fn decode(bytes: &[u8], batch_length: i32) -> BatchHeader {
        BatchHeader {
            base_offset: i64::from_be_bytes(array(bytes, 0)),
            batch_length,
            partition_leader_epoch: i32::from_be_bytes(array(bytes, LEADER_EPOCH_AT)),
            crc: u32::from_be_bytes(array(bytes, CRC_AT)),
            attributes: Attributes(i16::from_be_bytes(array(bytes, ATTRIBUTES_AT))),
            last_offset_delta: i32::from_be_bytes(array(bytes, LAST_OFFSET_DELTA_AT)),
            base_timestamp: i64::from_be_bytes(array(bytes, BASE_TIMESTAMP_AT)),
            max_timestamp: i64::from_be_bytes(array(bytes, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(array(bytes, PRODUCER_ID_AT)),
            producer_epoch: i16::from_be_bytes(array(bytes, PRODUCER_EPOCH_AT)),
            base_sequence: i32::from_be_bytes(array(bytes, BASE_SEQUENCE_AT)),
            records_count: i32::from_be_bytes(array(bytes, RECORDS_COUNT_AT)),
        }
    }

    /// Writes the header to the front of `out` with `crc` as it stands.
    ///
    /// # Panics
    /// When `out` is shorter than [`BATCH_OVERHEAD`].
    pub fn write(&self, out: &mut [u8]) {
        put(out, 0, self.base_offset.to_be_bytes());
        put(out, LENGTH_AT, self.batch_length.to_be_bytes());
        put(out, LEADER_EPOCH_AT, self.partition_leader_epoch.to_be_bytes());
        put(out, MAGIC_AT, MAGIC_V2.to_be_bytes());
        put(out, CRC_AT, self.crc.to_be_bytes());
        put(out, ATTRIBUTES_AT, self.attributes.0.to_be_bytes());
        put(out, LAST_OFFSET_DELTA_AT, self.last_offset_delta.to_be_bytes());
        put(out, BASE_TIMESTAMP_AT, self.base_timestamp.to_be_bytes());
        put(out, MAX_TIMESTAMP_AT, self.max_timestamp.to_be_bytes());
        put(out, PRODUCER_ID_AT, self.producer_id.to_be_bytes());
        put(out, PRODUCER_EPOCH_AT, self.producer_epoch.to_be_bytes());
        put(out, BASE_SEQUENCE_AT, self.base_sequence.to_be_bytes());
        put(out, RECORDS_COUNT_AT, self.records_count.to_be_bytes());
    }

    /// The bytes of the whole batch, header and all.
    #[inline]
    pub fn size(&self) -> usize {
        LOG_OVERHEAD + self.batch_length as usize
    }

    /// The offset of the last record. Saturates: a producer may claim any delta until validation refuses it.
    #[inline]
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// The offset after the batch.
    #[inline]
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    #[inline]
    pub fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }

    /// The sequence number of the last record, wrapping from `i32::MAX` to 0.
    #[inline]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence == NO_SEQUENCE {
            NO_SEQUENCE
        } else {
            increment_sequence(self.base_sequence, self.last_offset_delta)
        }
    }

    /// `None` for a number that means no codec.
    #[inline]
    pub fn codec(&self) -> Option<Codec> {
        self.attributes.codec()
    }

    #[inline]
    pub fn timestamp_type(&self) -> TimestampType {
        self.attributes.timestamp_type()
    }

    #[inline]
    pub fn is_transactional(&self) -> bool {
        self.attributes.is_transactional()
    }

    #[inline]
    pub fn is_control(&self) -> bool {
        self.attributes.is_control()
    }

    /// The time from which compaction may drop this batch's tombstones, once it has been set.
    #[inline]
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        self.attributes.has_delete_horizon().then_some(self.base_timestamp)
    }
}

/// Adds to a sequence number as Kafka does: after `i32::MAX` comes 0.
pub fn increment_sequence(sequence: i32, increment: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(increment);
    if sum > i64::from(i32::MAX) { (sum - i64::from(i32::MAX) - 1) as i32 } else { sum as i32 }
}

/// Why bytes are no record batch.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BatchError {
    /// The bytes end inside the batch; not an error at the end of a fetch response or of a torn log.
    #[error("the bytes end inside a record batch, {needed} are needed")]
    Incomplete { needed: usize },
    #[error("batch length {0} is below the smallest possible")]
    LengthTooSmall(i32),
    #[error("invalid magic {0}")]
    InvalidMagic(i8),
    /// A message set of format v0 or v1.
    #[error("magic {0}, only 2 is supported")]
    OldMagic(i8),
    #[error("checksum {stored:#010x} stored, {computed:#010x} computed")]
    CrcMismatch { stored: u32, computed: u32 },
}

/// One whole batch in memory, header decoded.
#[derive(Clone, Copy, Debug)]
pub struct RecordBatch<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

impl<'a> RecordBatch<'a> {
    /// Takes the batch at the front of `bytes`, which may go on behind it. The CRC is not checked.
    pub fn parse(bytes: &'a [u8]) -> Result<RecordBatch<'a>, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        match bytes.get(..header.size()) {
            Some(bytes) => Ok(RecordBatch { header, bytes }),
            None => Err(BatchError::Incomplete { needed: header.size() }),
        }
    }

    #[inline]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What follows the header: the records, compressed if the attributes say so.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[BATCH_OVERHEAD..]
    }

    /// Compares the stored checksum with the bytes.
    pub fn check_crc(&self) -> Result<(), BatchError> {
        let computed = compute_crc(self.bytes);
        if computed == self.header.crc {
            Ok(())
        } else {
            Err(BatchError::CrcMismatch { stored: self.header.crc, computed })
        }
    }
}

/// The consecutive batches in `bytes`. Ends quietly at a batch that is cut off, as the last of a fetch may be; see
/// [`Batches::consumed`]. After an error nothing follows.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { bytes, position: 0, failed: false }
}

/// See [`batches`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    position: usize,
    failed: bool,
}

impl Batches<'_> {
    /// The bytes of the whole batches returned so far.
    pub fn consumed(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<RecordBatch<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.position == self.bytes.len() {
            return None;
        }
        match RecordBatch::parse(&self.bytes[self.position..]) {
            Ok(batch) => {
                self.position += batch.bytes.len();
                Some(Ok(batch))
            }
            Err(BatchError::Incomplete { .. }) => {
                self.failed = true;
                None
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

/// The length field at the front of `bytes`, once it and the magic have been checked as far as any format allows;
/// `None` while the magic is not there yet.
fn peek(bytes: &[u8]) -> Result<Option<i32>, BatchError> {
    if bytes.len() < LOG_OVERHEAD {
        return Ok(None);
    }
    let length = i32::from_be_bytes(array(bytes, LENGTH_AT));
    if length < LENGTH_MIN_ANY_MAGIC {
        return Err(BatchError::LengthTooSmall(length));
    }
    match bytes.get(MAGIC_AT) {
        None => Ok(None),
        Some(&magic) if !(0..=MAGIC_V2).contains(&(magic as i8)) => {
            Err(BatchError::InvalidMagic(magic as i8))
        }
        Some(_) => Ok(Some(length)),
    }
}

/// Assigns what the leader decides; both fields lie outside the checksum.
///
/// # Panics
/// When `batch` is shorter than a header: callers have parsed it.
pub fn assign(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    put(batch, 0, base_offset.to_be_bytes());
    put(batch, LEADER_EPOCH_AT, leader_epoch.to_be_bytes());
}

/// Marks the batch as stamped by the broker at `max_timestamp`: attributes, max timestamp and checksum.
/// `batch` is exactly one batch. See [`assign`] for panics.
pub fn set_log_append_time(batch: &mut [u8], max_timestamp: i64) {
    set_max_timestamp(batch, TimestampType::LogAppendTime, max_timestamp);
}

/// Sets timestamp type and max timestamp; recomputes the checksum only when they change.
/// `batch` is exactly one batch. See [`assign`] for panics.
pub fn set_max_timestamp(batch: &mut [u8], timestamp_type: TimestampType, max_timestamp: i64) {
    let old = Attributes(i16::from_be_bytes(array(batch, ATTRIBUTES_AT)));
    let new = old.with_timestamp_type(timestamp_type);
    if new == old && i64::from_be_bytes(array(batch, MAX_TIMESTAMP_AT)) == max_timestamp {
        return;
    }
    put(batch, ATTRIBUTES_AT, new.0.to_be_bytes());
    put(batch, MAX_TIMESTAMP_AT, max_timestamp.to_be_bytes());
    update_crc(batch);
}

/// Stores the checksum of `batch`, which is exactly one batch. See [`assign`] for panics.
pub fn update_crc(batch: &mut [u8]) {
    let crc = compute_crc(batch);
    put(batch, CRC_AT, crc.to_be_bytes());
}

fn compute_crc(batch: &[u8]) -> u32 {
    crc32c::checksum(&batch[ATTRIBUTES_AT..])
}

#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[inline]
fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}
