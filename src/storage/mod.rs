//! A shard's disk: the journal, the logs and their segments, reads, retention, recovery.
//!
//! [`recover`] runs once before any [`Storage`] opens; then each shard opens one [`Storage`] on the same directories
//! and its logs in it. All methods that start I/O take the driver as an argument and never block, save those that say
//! so. The order of calls in a turn of the shard: [`Storage::handle_completion`] for each completion whose token's top
//! byte is [`TOKEN_OWNER`], then appends and reads, then [`Storage::tick`] when [`Storage::next_deadline`] has come,
//! then [`Storage::end_turn`], then [`Storage::poll_event`] until it answers `None`.
//!
//! Invariants:
//! - The high watermark never passes what the kernel has completed writing, to the journal or, of large batches, to their segment.
//! - What went through the journal reaches its segment only when the journal has completed it, and the journal forgets only
//!   what segments have on stable media.

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

mod aborted; // the transactions that readers of committed data skip
mod append; // a batch gets its offset and its place
mod cache; // pieces of segments in memory
mod commit; // the journal's writes and syncs, and what they acknowledge
mod flush; // from the tail to the segments; reuse of journal files
mod jobs; // file work as scripts of operations
pub mod journal; // what small and durable appends go through; its format
mod large; // large batches, straight to their segments
mod load; // a log from its files
mod log; // one log's offsets, segments and tail
mod logs; // all logs, by id
mod lookup; // by timestamp
mod memory; // from the pool, or at the cost of the read cache
mod moves; // a log on its way to another directory
mod observe; // what metrics and health show
mod producers; // what a batch changes in the producer state
mod read; // tail, memory, disk
mod recovery; // start-up: a clean state, whatever came before
mod replay; // journals back into segments
mod retention; // what goes away
mod scan; // walks over a segment file
mod segment; // a segment's numbers and index entries
mod start; // blocking file work at start-up
mod stop; // the clean stop
mod store; // `Storage`: completions, the turn
mod upkeep; // checkpoints, producer snapshots

/// What is ours alone in a log directory.
const OWN_DIR: &str = ".ringlog";

/// The directory of a shard's journal files.
fn journal_dir_name(shard: u32) -> String {
    format!("journal-{shard}")
}

/// Where the directory of an earlier topic goes when its name is needed.
fn stray_path(path: &std::path::Path, topic_id: crate::protocol::Uuid) -> std::path::PathBuf {
    suffixed_path(path, topic_id, names::DirectoryState::Stray)
}

/// The path of a log's directory that is not to be the log's any more.
fn suffixed_path(
    path: &std::path::Path,
    topic_id: crate::protocol::Uuid,
    state: names::DirectoryState,
) -> std::path::PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unique = u128::from_be_bytes(topic_id.0);
    match names::parse_directory_name(&name) {
        Some(parsed) => {
            path.with_file_name(names::suffixed_directory_name(parsed.topic, parsed.partition, unique, state))
        }
        None => path.with_extension(format!("{unique:032x}")),
    }
}

pub use moves::FutureLog;
pub use observe::{DirState, LogState};
pub use recovery::{Homes, Topics, lock_dirs, mark_clean, recover};
pub use store::Storage;
pub use types::*;
