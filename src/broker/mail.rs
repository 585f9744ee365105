//! What shards tell each other, and the parts a request is split into.
//!
//! The shard that holds the connection opens a gather, hands each partition's part to the shard that owns the partition
//! as a [`Task`], and collects an [`Answer`] for each. Requests that one shard answers alone travel whole.

use std::sync::Arc;

use super::letter::Letter;
use super::records::ReceivedRecords;
use super::request::{Forwarded, RequestId, Response};
use super::transaction::Marker;
use crate::io::buffer::Slice;
use crate::metadata::ClusterImage;
use crate::protocol::ErrorCode;
use crate::protocol::Uuid;
use crate::storage::FutureLog;
use crate::storage::transaction_index::AbortedTxn;

pub enum Mail {
    /// A turn's tasks and answers.
    Letter(Box<Letter>),
    Forwarded(Box<Forwarded>),
    Response {
        id: RequestId,
        response: Option<Response>,
    },
    /// The cluster as it is from now on; each shard answers with `ImageApplied`.
    Image(Arc<ClusterImage>),
    ImageApplied {
        version: u64,
    },
    /// To the transaction coordinator, and back.
    Admit(Box<Admit>),
    Admitted(Admitted),
    /// Of partitions that move between log directories.
    Move(MoveMail),
    /// The sender stops and asks for nothing more.
    Quiet,
}

pub enum MoveMail {
    /// To shard 0: a partition that moved can go on in its new directory. The image tells that it does.
    Place(Place),
    /// Back to its owner: it does not.
    Refused {
        place: Place,
        /// Nor will it be found there after a crash.
        certain: bool,
    },
    /// To shard 0: where a partition is to be that does not exist yet.
    Prefer(Box<PreferDir>),
}

/// A partition and a log directory, by its index.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub topic_id: Uuid,
    pub partition: i32,
    pub dir: usize,
}

#[derive(Clone, Debug)]
pub struct PreferDir {
    pub topic: String,
    pub partition: i32,
    pub dir: usize,
}

/// A transactional append that has to be part of its transaction first.
#[derive(Clone, Debug)]
pub struct Admit {
    /// Who asks.
    pub shard: usize,
    pub topic_id: Uuid,
    pub partition: i32,
    pub transactional_id: Arc<str>,
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// Add the partition, or only verify that it is there.
    pub add: bool,
}

/// What the transaction coordinator says to it.
#[derive(Clone, Copy, Debug)]
pub struct Admitted {
    pub topic_id: Uuid,
    pub partition: i32,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub result: Result<(), ErrorCode>,
}

/// A gather of a shard. The generation tells apart those that used the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherRef {
    pub shard: u16,
    pub slot: u32,
    pub generation: u32,
}

/// One partition's part of a request, done by the shard that owns it.
pub struct Task<'a> {
    pub gather: GatherRef,
    /// The place of its answer.
    pub index: u32,
    pub topic_id: Uuid,
    pub partition: i32,
    pub query: Query<'a>,
}

pub enum Query<'a> {
    Produce(Produce<'a>),
    Read(Read),
    /// ListOffsets: a timestamp, or one of Kafka's negative marks.
    ListOffset {
        timestamp: i64,
        current_leader_epoch: i32,
        read_committed: bool,
    },
    EpochEnd {
        current_leader_epoch: i32,
        leader_epoch: i32,
    },
    DeleteRecords {
        before: i64,
    },
    /// DescribeLogDirs.
    Size,
    /// AlterReplicaLogDirs: to the log directory with this index.
    Move {
        dir: usize,
    },
    /// The end of a transaction.
    WriteMarker(Marker),
    /// DescribeProducers.
    Producers,
}

pub struct Produce<'a> {
    pub records: ReceivedRecords<'a>,
    pub version: i16,
    pub acks: i16,
    pub transactional_id: Option<Arc<str>>,
}

#[derive(Debug)]
pub struct Read {
    pub offset: i64,
    pub max_bytes: usize,
    pub current_leader_epoch: i32,
    pub last_fetched_epoch: i32,
    pub read_committed: bool,
    /// Tell the gather when the partition moves, should this read find fewer bytes than the fetch wants.
    pub watch: Option<Watch>,
    /// Empty; what is found goes into it, so that the answer brings back memory of the shard that asks.
    pub records: Vec<Slice>,
}

#[derive(Clone, Copy, Debug)]
pub struct Watch {
    pub min_bytes: usize,
    pub until_ns: u64,
}

pub enum Answer {
    Error(ErrorCode),
    /// A refused batch, with what to say about it.
    Rejected(Box<Rejected>),
    Produced {
        base_offset: i64,
        log_append_time_ms: i64,
        log_start_offset: i64,
    },
    Read(ReadAnswer),
    Offset {
        offset: i64,
        timestamp: i64,
        leader_epoch: i32,
    },
    EpochEnd {
        leader_epoch: i32,
        end_offset: i64,
    },
    Deleted {
        low_watermark: i64,
    },
    Size {
        dir: usize,
        bytes: u64,
        /// Its copy on the way to another directory.
        future: Option<FutureLog>,
    },
    /// The marker is in the log.
    Marked,
    Producers(Vec<ActiveProducer>),
}

/// A producer that a partition knows.
#[derive(Clone, Copy, Debug)]
pub struct ActiveProducer {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub last_sequence: i32,
    pub last_timestamp: i64,
    pub coordinator_epoch: i32,
    pub current_txn_start_offset: i64,
}

pub struct Rejected {
    pub error: ErrorCode,
    pub message: String,
    /// Index in the batch and reason of single records.
    pub records: Vec<(i32, String)>,
    pub log_start_offset: i64,
}

pub struct ReadAnswer {
    pub error: ErrorCode,
    pub records: Vec<Slice>,
    pub bytes: usize,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// For readers of committed data: the aborted transactions that have a part in the records.
    pub aborted: Option<Vec<AbortedTxn>>,
    /// Epoch and end offset where the reader's log parts from ours.
    pub diverging: Option<(i32, i64)>,
    pub leader_epoch: i32,
}

impl ReadAnswer {
    pub fn error(error: ErrorCode) -> ReadAnswer {
        ReadAnswer {
            error,
            records: Vec::new(),
            bytes: 0,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted: None,
            diverging: None,
            leader_epoch: -1,
        }
    }
}

impl Task<'_> {
    /// For later.
    pub fn into_owned(self) -> Task<'static> {
        self.into_owned_by(|records| records.share().unwrap_or_else(ReceivedRecords::copy_of))
    }

    /// With its records as `own` keeps them.
    pub fn into_owned_by(
        self,
        own: impl FnOnce(ReceivedRecords<'_>) -> ReceivedRecords<'static>,
    ) -> Task<'static> {
        let query = match self.query {
            Query::Produce(produce) => Query::Produce(Produce {
                records: own(produce.records),
                version: produce.version,
                acks: produce.acks,
                transactional_id: produce.transactional_id,
            }),
            Query::Read(read) => Query::Read(read),
            Query::ListOffset { timestamp, current_leader_epoch, read_committed } => {
                Query::ListOffset { timestamp, current_leader_epoch, read_committed }
            }
            Query::EpochEnd { current_leader_epoch, leader_epoch } => {
                Query::EpochEnd { current_leader_epoch, leader_epoch }
            }
            Query::DeleteRecords { before } => Query::DeleteRecords { before },
            Query::Size => Query::Size,
            Query::Move { dir } => Query::Move { dir },
            Query::WriteMarker(marker) => Query::WriteMarker(marker),
            Query::Producers => Query::Producers,
        };
        Task {
            gather: self.gather,
            index: self.index,
            topic_id: self.topic_id,
            partition: self.partition,
            query,
        }
    }
}
