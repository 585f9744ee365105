//! What the cluster knows: topics, their partitions and configuration, brokers, producer ids.
//!
//! [`ClusterImage`] is one state of it, immutable behind an `Arc` and shared by all shards. [`Change`] is the only way from
//! one image to the next: [`ClusterImage::apply`] is pure, so an engine may keep changes, replay them, or compare and swap
//! them. [`Planner`] turns what a client asks for into changes, checked as Kafka checks it.
//!
//! [`Embedded`] is the engine of a single node: a journal and snapshots on the first log directory. It runs on shard 0;
//! handlers propose changes there and answer when the change is committed, that is: on stable media.

pub mod change; // what can change
pub mod directories; // log directories and their identity
pub mod embedded; // the engine of a single node
pub mod error;
mod files; // whole files, at start
pub mod image; // one state of the cluster
mod import; // a data directory of Apache Kafka
mod journal; // changes and images on disk
pub mod nodes; // the brokers that clients see
mod open; // recovery and first start
pub mod placement; // partition to shard
pub mod plan; // from a client's wish to a change

pub use change::{Change, NewPartition, NewTopic};
pub use directories::LogDirectory;
pub use embedded::{Embedded, Event, OpenError, OpenOptions, Opened, ProposalId};
pub use error::MetadataError;
pub use image::{Broker, BrokerEndpoint, ClusterImage, Partition, QuotaEntity, ResourceKind, Topic};
pub use nodes::Nodes;
pub use plan::{Planner, TopicRequest};

/// The top byte of this module's tokens.
pub const TOKEN_OWNER: u8 = 3;

/// Topics that belong to the broker; clients see them marked as internal.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
pub const TRANSACTION_TOPIC: &str = "__transaction_state";
pub const SHARE_TOPIC: &str = "__share_group_state";

pub fn is_internal(topic: &str) -> bool {
    matches!(topic, OFFSETS_TOPIC | TRANSACTION_TOPIC | SHARE_TOPIC)
}
