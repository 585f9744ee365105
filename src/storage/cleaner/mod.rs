//! The pure parts of log compaction: which offset is a key's latest, and what is left of a batch.

pub mod filter; // a batch without the records that are not kept
pub mod offset_map; // key to latest offset, in fixed memory
