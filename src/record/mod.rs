//! Record batches in Kafka's format v2: what producers send, the log stores and consumers read.
//!
//! Everything here works on byte slices: no I/O, no clock, and nothing else of the crate. The broker validates a
//! batch where it was received ([`validate`]), assigns its offset in place ([`batch`]) and never looks inside again;
//! tools, internal topics, compaction and recompression read and build records ([`records`], [`builder`]).
//! No input may panic here or make an allocation that a stated limit does not cover.

pub mod batch; // the header, batches in a byte slice, in-place assignment
pub mod builder; // records to batch bytes
pub mod compression; // the four codecs as Kafka frames them, bounded
pub mod control; // the markers that end transactions
pub mod crc32c; // the checksum of a batch
pub mod isolation; // what a reader of committed data leaves out
pub mod partitioner; // the partition of a key
pub mod records; // the records inside a batch
pub mod rfc3339; // timestamps as people write them
pub mod skim; // what validation needs of a record
pub mod validate; // what a leader checks before it appends
pub mod varint; // zigzag variable-length integers

pub use batch::{
    Attributes, BATCH_OVERHEAD, BatchError, BatchHeader, Batches, Codec, LOG_OVERHEAD,
    NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, RecordBatch,
    TimestampType, assign, batches, set_log_append_time,
};
pub use builder::{BatchBuilder, BatchOptions};
pub use compression::{CompressionError, CompressionLevel, Compressor, Decompressor};
pub use records::{Record, RecordError, Records};
