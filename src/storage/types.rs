//! The values that pass between storage and its callers.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::io::buffer::BufferPool;
use crate::metrics::ShardMetrics;
use crate::protocol::Uuid;

/// The top byte of the tokens of storage's operations; the server routes completions by it.
pub const TOKEN_OWNER: u8 = 2;

/// A log of one [`Storage`](super::Storage). Stale once the log is deleted: calls with it then answer "unknown log".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// Whose log it is. The id tells a topic from an earlier one of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub topic_id: Uuid,
    pub partition: i32,
}

impl TopicPartition {
    /// The name of the log's directory.
    pub fn dir_name(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// The settings of a topic that its logs obey, under Kafka's names. -1 means unlimited where Kafka says so.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    pub segment_bytes: u32,
    pub segment_ms: i64,
    pub segment_jitter_ms: i64,
    pub segment_index_bytes: u32,
    pub index_interval_bytes: u32,
    pub retention_ms: i64,
    pub retention_bytes: i64,
    /// `cleanup.policy` holds `delete`.
    pub delete: bool,
    /// `cleanup.policy` holds `compact`.
    pub compact: bool,
    pub delete_retention_ms: i64,
    pub min_compaction_lag_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub min_cleanable_dirty_ratio: f64,
    pub file_delete_delay_ms: i64,
    pub max_message_bytes: u32,
}

impl Default for LogConfig {
    /// Kafka's defaults.
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: 7 * 24 * 3600 * 1000,
            retention_bytes: -1,
            delete: true,
            compact: false,
            delete_retention_ms: 24 * 3600 * 1000,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            min_cleanable_dirty_ratio: 0.5,
            file_delete_delay_ms: 60_000,
            max_message_bytes: (1 << 20) + 12,
        }
    }
}

impl LogConfig {
    /// A segment is closed at this age: what waits for compaction must not wait in the active one.
    pub fn roll_ms(&self) -> i64 {
        if self.compact && self.max_compaction_lag_ms > 0 {
            self.segment_ms.min(self.max_compaction_lag_ms)
        } else {
            self.segment_ms
        }
    }
}

/// What an acknowledgement promises; the higher level wins within a journal block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AckLevel {
    /// In our memory: lost by kill -9.
    Memory,
    /// The kernel has completed the write: survives kill -9, not a power cut.
    Written,
    /// On stable media.
    Durable,
}

/// From here on a batch is written as fast by itself as together with others.
const LARGE_BATCH_BYTES_DEFAULT: usize = 128 << 10;

/// How a shard's storage is set up.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    pub shard: u32,
    /// `log.dirs`: the same list, in the same order, for every shard.
    pub dirs: Vec<PathBuf>,
    /// Directories (by index) that recovery could not use: they stay offline.
    pub offline_dirs: Vec<usize>,
    /// The memory of journal blocks, flush images and the read cache; its budget bounds them together.
    pub pool: BufferPool,
    /// A journal file is left for the next one when it has grown to this.
    pub journal_file_bytes: u64,
    /// Journal blocks that hold nothing durable are written into the page cache.
    pub journal_cached: bool,
    /// Whether files for durable records are filled before their use.
    pub journal_filled: bool,
    /// The journal files of a directory together; appends are refused ([`AppendError::Busy`]) beyond it.
    pub journal_max_bytes: u64,
    /// Memory that holds data not flushed to its segment; appends are refused beyond it.
    pub tail_max_bytes: usize,
    /// A batch of at least this goes straight to its segment, unless it is to be durable.
    pub large_batch_bytes: usize,
    /// A log's data stays at most about this long in the journal alone.
    pub flush_interval_ms: i64,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval_ms: i64,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: i64,
    /// Producers remembered by a log; the longest silent ones are forgotten first.
    pub producer_ids_max: usize,
    /// Open segment and index files.
    pub open_files_max: usize,
    pub cleaner: CleanerOptions,
    /// What moves between directories may copy together, this shard's share.
    pub move_bytes_per_second: f64,
    /// The shard's, which storage adds to.
    pub metrics: Arc<ShardMetrics>,
}

/// How logs are compacted; `log.cleaner.*`.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanerOptions {
    pub enable: bool,
    /// The rest when there is nothing to compact.
    pub backoff_ms: i64,
    /// The memory for keys, this shard's share.
    pub dedupe_buffer_bytes: usize,
    /// Reads and writes together.
    pub io_max_bytes_per_second: f64,
}

impl Default for CleanerOptions {
    fn default() -> CleanerOptions {
        CleanerOptions {
            enable: true,
            backoff_ms: 15_000,
            dedupe_buffer_bytes: 128 << 20,
            io_max_bytes_per_second: f64::MAX,
        }
    }
}

impl StorageOptions {
    pub fn new(shard: u32, dirs: Vec<PathBuf>, pool: BufferPool) -> StorageOptions {
        let tail_max_bytes = pool.settled_bytes() / 2;
        StorageOptions {
            shard,
            dirs,
            offline_dirs: Vec::new(),
            pool,
            journal_file_bytes: 64 << 20,
            journal_cached: true,
            journal_filled: true,
            journal_max_bytes: 1 << 30,
            tail_max_bytes,
            large_batch_bytes: LARGE_BATCH_BYTES_DEFAULT,
            flush_interval_ms: 5_000,
            retention_check_interval_ms: 300_000,
            producer_id_expiration_ms: 86_400_000,
            producer_ids_max: 100_000,
            open_files_max: 1024,
            cleaner: CleanerOptions::default(),
            move_bytes_per_second: f64::MAX,
            metrics: Arc::default(),
        }
    }
}

/// How one batch is appended.
#[derive(Clone, Copy, Debug)]
pub struct AppendOptions {
    pub leader_epoch: i32,
    pub level: AckLevel,
    /// With `message.timestamp.type=LogAppendTime`: the time to stamp the batch with.
    pub log_append_time_ms: Option<i64>,
    /// The wall clock, for segment ages and producer expiry.
    pub wall_ms: i64,
    /// The broker's own coordinators write it, not a client.
    pub coordinator: bool,
    /// Of a marker: the transaction version of what it ends.
    pub transaction_version: i16,
}

/// Where a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: i64,
    pub last_offset: i64,
    pub log_start_offset: i64,
    /// The batch had been appended before; the offsets are those of then. The caller waits for the high watermark all the same.
    pub duplicate: bool,
    /// With LogAppendTime: the time the batch of that offset carries, else -1.
    pub log_append_time_ms: i64,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AppendError {
    #[error("unknown log")]
    UnknownLog,
    /// KAFKA_STORAGE_ERROR.
    #[error("the log directory is offline")]
    Offline,
    /// KAFKA_STORAGE_ERROR, until space comes back.
    #[error("no space left in the log directory")]
    NoSpace,
    /// Memory or journal are full; they drain by themselves. See [`Storage::has_room`](super::Storage::has_room).
    #[error("the journal is full")]
    Busy,
    #[error("the batch is larger than a segment or the memory allows")]
    TooLarge,
    #[error("not one valid record batch")]
    Invalid,
    #[error("out of order sequence number")]
    OutOfOrderSequence,
    /// Older than the five batches remembered.
    #[error("duplicate sequence number")]
    DuplicateSequence,
    #[error("invalid producer epoch")]
    InvalidProducerEpoch,
    #[error("invalid transaction state")]
    InvalidTxnState,
    #[error("a marker of an earlier coordinator")]
    CoordinatorFenced,
    #[error("storage is stopping")]
    Stopping,
}

/// What a read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRange {
    /// The read starts at the batch that holds this offset.
    pub offset: i64,
    /// It takes no batch that begins here or later: normally the high watermark.
    pub end_offset: i64,
    /// It takes no batch that ends behind so many bytes.
    pub max_bytes: usize,
    /// The first batch is whole, however large.
    pub at_least_one: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// This many bytes were added, 0 at the end; what was read lies below `next_offset`.
    Done { bytes: usize, next_offset: i64 },
    /// The disk was asked; [`Event::ReadReady`] tells when to call again.
    Pending,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    #[error("unknown log")]
    UnknownLog,
    #[error("offset out of range")]
    OutOfRange,
    #[error("the log directory is offline")]
    Offline,
    /// KAFKA_STORAGE_ERROR: the disk could not be read, or what it holds cannot be right.
    #[error("the log could not be read")]
    Storage,
    /// All memory is in use by replies that wait for slow readers; worth another try.
    #[error("no memory for the read")]
    NoMemory,
}

/// The answer to a look-up by timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    Found {
        offset: i64,
        timestamp: i64,
        leader_epoch: i32,
    },
    None,
    /// As [`ReadOutcome::Pending`].
    Pending,
}

/// What the owner of a [`Storage`](super::Storage) must hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything below `high_watermark` has reached the level that was asked for.
    Advanced { log: LogId, high_watermark: i64 },
    /// A read of this log that answered "pending" is worth repeating.
    ReadReady { log: LogId },
    /// A new log start offset is safe.
    StartAdvanced { log: LogId, log_start_offset: i64 },
    /// The directory is offline, for as long as this process runs.
    DirFailed { dir: usize, error: String },
    /// The log can go on in `dir`: the metadata is to say so. [`Storage::log_placed`](super::Storage::log_placed) or
    /// [`Storage::move_refused`](super::Storage::move_refused) follows; appends to the log are held until then.
    MoveReady { log: LogId, dir: usize },
}

#[derive(Debug, Error)]
pub enum StorageError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{}: in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("{}: {what}", path.display())]
    Corrupt { path: PathBuf, what: String },
    #[error("log directory {0} is offline")]
    Offline(usize),
    #[error("unknown log")]
    UnknownLog,
}

/// What start-up found and did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Whether every directory had been left by a clean stop.
    pub clean: bool,
    pub logs_checked: usize,
    pub bytes_checked: u64,
    pub journal_blocks: u64,
    pub batches_replayed: u64,
    pub bytes_replayed: u64,
    /// Segments that were cut back, as a crash leaves them; the journal follows with what was acknowledged.
    pub cut: Vec<String>,
    /// What was lost or left out, and why, one line each.
    pub dropped: Vec<String>,
    /// Directories that could not be used: index and reason.
    pub failed_dirs: Vec<(usize, String)>,
    /// Moves that the end of the run before cut off: topic id, partition and where it was to move.
    pub moves: Vec<(Uuid, i32, usize)>,
}
