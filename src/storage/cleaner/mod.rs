//! Log compaction: of each key the last value stays, at its offset.
//!
//! The cleaner is a part of [`Storage`](super::Storage) that works on one log at a time, one file operation at a time, a
//! window of about [`engine::WINDOW_BYTES`] between two of them, so that it never holds up its shard for long. For the dirtiest
//! log ([`pick`]) it reads the dirty segments into the offset map, then writes the segments, in groups that make one
//! segment each, through the filter into `.cleaned` files ([`output`]), and puts these in their place ([`swap`]).
//!
//! Invariants:
//! - The active segment, what is not yet safe in its segment, and what lies at or behind the high watermark or the first open
//!   transaction is not touched.
//! - At most one `.cleaned` file of a shard is being written; no other is left behind when a swap begins.
//! - The old segments are gone from their names only after the new one is on stable media under the suffix `.swap`, and the new one
//!   gets its name only after they are gone for good. [`finish_swap`] completes at start what a crash has cut off.

mod engine; // the steps of a task
pub mod filter; // a batch without the records that are not kept
pub mod offset_map; // key to latest offset, in fixed memory
mod output; // the segment being written
mod pick; // which log is next
mod swap; // new segments for old, whatever happens
mod task; // what a compaction knows, and what it does with a batch
mod transactions; // what was aborted, and which markers are still needed

pub(super) use engine::{CleanEnd, Cleaner};
pub(super) use swap::finish_swap;
