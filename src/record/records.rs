//! The records inside a batch, borrowed from its (decompressed) bytes.
//!
//! A record: length, attributes 1, timestamp delta, offset delta, key, value, header count, headers; all numbers but the
//! attributes are zigzag variable-length integers, a length of -1 means null. Every record is checked as a whole before it
//! is handed out: its parts lie inside it and fill it. Called by the tools, internal topics, compaction and
//! timestamp look-ups; a produce is validated without decoding that much (`skim`).

use thiserror::Error;

use super::batch::{BatchHeader, RecordBatch, TimestampType};
use super::compression::{CompressionError, Decompressor};
use super::varint::{read_varint, read_varlong};

/// The smallest record: length, attributes, two deltas, two lengths, header count.
pub const RECORD_BYTES_MIN: usize = 7;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub attributes: i8,
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
    /// The encoded size, its length prefix included.
    pub size: usize,
}

impl<'a> Record<'a> {
    /// Decodes the record at the front of `bytes`; `size` says where the next begins.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let (length, prefix) = read_varint(bytes).ok_or(RecordError::Malformed("length"))?;
        let length = usize::try_from(length).map_err(|_| RecordError::Malformed("length"))?;
        let size = prefix + length;
        let mut body = Cursor { bytes: bytes.get(prefix..size).ok_or(RecordError::Truncated)? };
        let attributes = body.byte("attributes")?;
        let timestamp_delta = body.varlong("timestamp delta")?;
        let offset_delta = body.varint("offset delta")?;
        let key = body.nullable("key")?;
        let value = body.nullable("value")?;
        let headers = body.headers()?;
        if !body.bytes.is_empty() {
            return Err(RecordError::Malformed("length: bytes behind the headers"));
        }
        Ok(Record { attributes, timestamp_delta, offset_delta, key, value, headers, size })
    }

    pub fn offset(&self, batch: &BatchHeader) -> i64 {
        batch.base_offset.wrapping_add(i64::from(self.offset_delta))
    }

    /// The record's own timestamp, or the batch's where the broker stamps.
    pub fn timestamp(&self, batch: &BatchHeader) -> i64 {
        match batch.timestamp_type() {
            TimestampType::CreateTime => batch.base_timestamp.wrapping_add(self.timestamp_delta),
            TimestampType::LogAppendTime => batch.max_timestamp,
        }
    }
}

/// The headers of a record, already checked.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Headers<'a> {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter { left: self.count, cursor: Cursor { bytes: self.bytes } }
    }
}

impl std::fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// One header. Keys should be UTF-8; Kafka does not check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// See [`Headers::iter`].
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.header().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for HeaderIter<'_> {}

/// Why the bytes of a batch hold no such records.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("the bytes end inside a record")]
    Truncated,
    #[error("invalid record: {0}")]
    Malformed(&'static str),
    #[error("record count {0} is negative")]
    NegativeCount(i32),
    #[error("bytes remain after the declared number of records")]
    TrailingBytes,
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// The records in uncompressed bytes, as many as the batch declares; ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    left: usize,
    failed: bool,
}

impl<'a> Records<'a> {
    /// `bytes` are the records and nothing else, `count` is the header's `records_count`.
    pub fn new(bytes: &'a [u8], count: i32) -> Result<Records<'a>, RecordError> {
        let left = usize::try_from(count).map_err(|_| RecordError::NegativeCount(count))?;
        Ok(Records { bytes, left, failed: false })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.left == 0 {
            self.failed = !self.bytes.is_empty();
            return self.failed.then_some(Err(RecordError::TrailingBytes));
        }
        match Record::parse(self.bytes) {
            Ok(record) => {
                self.bytes = &self.bytes[record.size..];
                self.left -= 1;
                Some(Ok(record))
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

impl<'a> RecordBatch<'a> {
    /// The records of the batch. Compressed ones are unpacked into `scratch`, which never grows past `bytes_max`.
    pub fn records<'s>(
        &self,
        decompressor: &mut Decompressor,
        scratch: &'s mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<Records<'s>, RecordError>
    where
        'a: 's,
    {
        let bytes = decompressor.payload(self, scratch, bytes_max)?;
        Records::new(bytes, self.header().records_count)
    }

    /// The first record at or behind `start_offset` that is not earlier than `timestamp`: its offset and timestamp. With the
    /// batch's max timestamp it finds the first record that has it.
    pub fn find_timestamp(
        &self,
        timestamp: i64,
        start_offset: i64,
        decompressor: &mut Decompressor,
        scratch: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<Option<(i64, i64)>, RecordError> {
        let header = self.header();
        if header.max_timestamp < timestamp || header.last_offset() < start_offset {
            return Ok(None);
        }
        for record in self.records(decompressor, scratch, bytes_max)? {
            let record = record?;
            let found = (record.offset(header), record.timestamp(header));
            if found.0 >= start_offset && found.1 >= timestamp {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Reads the parts of a record off the front of its bytes.
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    fn byte(&mut self, what: &'static str) -> Result<i8, RecordError> {
        let (&first, rest) = self.bytes.split_first().ok_or(RecordError::Malformed(what))?;
        self.bytes = rest;
        Ok(first as i8)
    }

    #[inline]
    fn varint(&mut self, what: &'static str) -> Result<i32, RecordError> {
        let (value, size) = read_varint(self.bytes).ok_or(RecordError::Malformed(what))?;
        self.bytes = &self.bytes[size..];
        Ok(value)
    }

    #[inline]
    fn varlong(&mut self, what: &'static str) -> Result<i64, RecordError> {
        let (value, size) = read_varlong(self.bytes).ok_or(RecordError::Malformed(what))?;
        self.bytes = &self.bytes[size..];
        Ok(value)
    }

    /// Any negative length is null, as in Kafka.
    #[inline]
    fn nullable(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, RecordError> {
        let length = self.varint(what)?;
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        let (value, rest) = self.bytes.split_at_checked(length).ok_or(RecordError::Malformed(what))?;
        self.bytes = rest;
        Ok(Some(value))
    }

    fn header(&mut self) -> Result<Header<'a>, RecordError> {
        let key = self.nullable("header key")?.ok_or(RecordError::Malformed("header key"))?;
        let value = self.nullable("header value")?;
        Ok(Header { key, value })
    }

    #[inline]
    fn headers(&mut self) -> Result<Headers<'a>, RecordError> {
        let count = self.varint("header count")?;
        let count = usize::try_from(count).map_err(|_| RecordError::Malformed("header count"))?;
        let bytes = self.bytes;
        // A header takes two bytes at least, so a false count ends with the bytes.
        for _ in 0..count {
            self.header()?;
        }
        Ok(Headers { count, bytes: &bytes[..bytes.len() - self.bytes.len()] })
    }
}
