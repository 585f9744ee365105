//! A member of a consumer group: what it said of itself, and how far it has come with its assignment.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::assignment::{
    OWNED_PARTITION_BYTES, PARTITION_BYTES, PartitionEpochs, TOPIC_BYTES, TopicPartitions,
};

/// A member that leaves for good sends this epoch.
pub const LEAVE_EPOCH: i32 = -1;
/// A static member that will be back sends this one.
pub const LEAVE_STATIC_EPOCH: i32 = -2;

/// About what a member costs beside its strings and partitions.
const MEMBER_OVERHEAD: usize = 768;

#[derive(Clone, Debug)]
pub struct Member {
    pub id: Arc<str>,
    pub metadata: Arc<Metadata>,
    pub current: Arc<Current>,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub instance_id: Option<Arc<str>>,
    pub rack_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub topics: BTreeSet<Arc<str>>,
    /// As Kafka has it: empty for none, null only in records of others.
    pub regex: Option<Arc<str>>,
    pub rebalance_timeout_ms: i32,
    pub assignor: Option<Arc<str>>,
    /// Of a member that speaks the classic protocol.
    pub classic: Option<ClassicMetadata>,
}

/// What a member of the classic protocol said when it joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMetadata {
    pub session_timeout_ms: i32,
    /// Name and metadata; the most wanted first, never empty.
    pub protocols: Vec<(Arc<str>, Box<[u8]>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Has all it is to have.
    Stable,
    /// Has to give up partitions before it may go on.
    UnrevokedPartitions,
    /// Waits for partitions that others have not given up.
    UnreleasedPartitions,
    /// Of a version of Kafka to come.
    Unknown,
}

/// How far a member has come with its assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    pub epoch: i32,
    /// The epoch before, in case the answer that told of the new one was lost.
    pub previous_epoch: i32,
    pub state: MemberState,
    pub assigned: PartitionEpochs,
    /// Asked back, and still the member's until it says that it does not own them any more.
    pub revoking: PartitionEpochs,
}

impl Member {
    pub fn new(id: Arc<str>) -> Self {
        Member { id, metadata: Arc::default(), current: Arc::default() }
    }

    pub fn uses_classic_protocol(&self) -> bool {
        self.metadata.classic.is_some()
    }

    pub fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.current.state == MemberState::Stable && self.current.epoch == epoch
    }

    /// About what it holds in memory.
    pub fn bytes(&self) -> usize {
        MEMBER_OVERHEAD + 2 * self.id.len() + self.metadata.bytes() + self.current.bytes()
    }
}

impl Default for Metadata {
    fn default() -> Self {
        Metadata {
            instance_id: None,
            rack_id: None,
            client_id: "".into(),
            client_host: "".into(),
            topics: BTreeSet::new(),
            regex: Some("".into()),
            rebalance_timeout_ms: -1,
            assignor: None,
            classic: None,
        }
    }
}

impl Metadata {
    /// The pattern it is subscribed to, if it is.
    pub fn pattern(&self) -> Option<&Arc<str>> {
        self.regex.as_ref().filter(|regex| !regex.is_empty())
    }

    /// The first of the protocols of a classic member: the one it takes part with.
    pub fn protocol(&self) -> Option<&(Arc<str>, Box<[u8]>)> {
        self.classic.as_ref().and_then(|classic| classic.protocols.first())
    }

    fn bytes(&self) -> usize {
        let texts = [&self.instance_id, &self.rack_id, &self.regex, &self.assignor];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        let topics: usize = self.topics.iter().map(|topic| 48 + topic.len()).sum();
        let classic = self.classic.as_ref().map_or(0, |classic| {
            classic.protocols.iter().map(|(name, metadata)| 64 + name.len() + metadata.len()).sum()
        });
        texts + topics + classic + self.client_id.len() + self.client_host.len()
    }
}

impl Default for Current {
    fn default() -> Self {
        Current {
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            assigned: PartitionEpochs::new(),
            revoking: PartitionEpochs::new(),
        }
    }
}

impl Current {
    fn bytes(&self) -> usize {
        let bytes = |all: &PartitionEpochs| {
            all.values().map(|epochs| TOPIC_BYTES + OWNED_PARTITION_BYTES * epochs.len()).sum::<usize>()
        };
        bytes(&self.assigned) + bytes(&self.revoking)
    }
}

pub fn target_bytes(target: &TopicPartitions) -> usize {
    target.values().map(|indexes| TOPIC_BYTES + PARTITION_BYTES * indexes.len()).sum()
}

impl MemberState {
    pub fn code(self) -> i8 {
        match self {
            MemberState::Stable => 0,
            MemberState::UnrevokedPartitions => 1,
            MemberState::UnreleasedPartitions => 2,
            MemberState::Unknown => 127,
        }
    }

    pub fn from_code(code: i8) -> Self {
        match code {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Unknown,
        }
    }
}
