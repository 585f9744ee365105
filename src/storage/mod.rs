//! A shard's disk: the journal, the logs and their segments, reads, retention, recovery.
//!
//! [`recover`] runs once before any [`Storage`] opens; then each shard opens one [`Storage`] on the same directories
//! and its logs in it. All methods that start I/O take the driver as an argument and never block, save those that say
//! so. The order of calls in a turn of the shard: [`Storage::handle_completion`] for each completion whose token's top
//! byte is [`TOKEN_OWNER`], then appends and reads, then [`Storage::tick`] when [`Storage::next_deadline`] has come,
//! then [`Storage::end_turn`], then [`Storage::poll_event`] until it answers `None`.
//!
//! Invariants:
//! - The high watermark never passes what the kernel has completed writing to the journal.
//! - A segment receives only what the journal has completed, and the journal forgets only what segments have on
//!   stable media.

pub mod types; // the values that pass in and out

// Formats and state of Kafka's, pure: bytes and text in and out, no file is touched.
pub mod checkpoint; // the small text files: offset checkpoints, partition.metadata, meta.properties
pub mod cleaner; // compaction: the offset map, what is left of a batch
pub mod leader_epoch; // leader-epoch-checkpoint and its questions
pub mod names; // files, directories, legal topic names
pub mod offset_index; // .index
pub mod producer_state; // sequences, duplicates, open transactions; .snapshot
pub mod time_index; // .timeindex
pub mod transaction_index; // .txnindex

mod recovery; // start-up: journals back into segments
mod store; // `Storage`

pub use recovery::{lock_dirs, recover};
pub use store::Storage;
pub use types::*;
