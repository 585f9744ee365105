//! What a shard shows of itself to the control thread: its state, and its partitions a piece at a time, so that ten
//! thousand of them cost no turn much. Plain values: nothing here is shared, the shard copies them when it is asked.

use std::sync::Arc;

use super::Broker;
use super::telemetry::TelemetryState;
use crate::metadata::ClusterImage;
use crate::protocol::Uuid;
use crate::storage::{DirState, LogState};

/// Partitions told in one piece at most.
pub const PARTITIONS_A_PIECE: usize = 512;

/// What has gone through a partition since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub records_in: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub produces: u64,
    pub failed_produces: u64,
    pub fetches: u64,
    pub failed_fetches: u64,
}

impl Traffic {
    pub fn add(&mut self, other: &Traffic) {
        self.records_in += other.records_in;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.produces += other.produces;
        self.failed_produces += other.failed_produces;
        self.fetches += other.fetches;
        self.failed_fetches += other.failed_fetches;
    }
}

/// A partition as its shard sees it.
#[derive(Clone, Debug)]
pub struct PartitionState {
    pub topic: Arc<str>,
    pub topic_id: Uuid,
    pub partition: i32,
    pub leader_epoch: i32,
    pub log: LogState,
    pub traffic: Traffic,
}

/// A shard's part of the broker.
#[derive(Clone, Debug)]
pub struct BrokerState {
    pub image: Arc<ClusterImage>,
    pub dirs: Vec<DirState>,
    pub memory_used_bytes: usize,
    pub memory_max_bytes: usize,
    pub partitions: usize,
    /// Requests whose parts are out, parked fetches among them.
    pub gathers: usize,
    /// Appends that wait for room in the journal.
    pub stalled_bytes: usize,
    pub stopping: bool,
}

impl Broker {
    pub fn state(&self) -> BrokerState {
        BrokerState {
            image: self.image.clone(),
            dirs: self.storage.dir_states(),
            memory_used_bytes: self.storage.memory_used_bytes(),
            memory_max_bytes: self.storage.memory_bytes(),
            partitions: self.partitions.len(),
            gathers: self.gathers.len(),
            stalled_bytes: self.stalled_bytes,
            stopping: self.stopping,
        }
    }

    /// The metrics that clients have sent; nothing but on the control shard.
    pub fn telemetry_state(&self) -> TelemetryState {
        let now_ms = self.now_ns / 1_000_000;
        self.telemetry.as_ref().map_or_else(TelemetryState::default, |telemetry| telemetry.state(now_ms))
    }

    /// The partitions from `cursor` on (0 at first), and the cursor of the next piece, if there is one.
    pub fn partition_states(&self, cursor: usize) -> (Vec<PartitionState>, Option<usize>) {
        let (partitions, next) = self.partitions.piece(cursor, PARTITIONS_A_PIECE);
        let states = partitions.filter_map(|partition| {
            Some(PartitionState {
                topic: partition.topic.clone(),
                topic_id: partition.topic_id,
                partition: partition.partition,
                leader_epoch: partition.leader_epoch,
                log: self.storage.log_state(partition.log)?,
                traffic: partition.traffic,
            })
        });
        (states.collect(), next)
    }
}
