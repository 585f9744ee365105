//! Consumer groups (KIP-848): the coordinator works out who gets what, and each member reconciles itself with it through its
//! heartbeats, on its own and without a pause for the others.
//!
//! A group has an epoch, which moves with every change of subscriptions or topics; a target assignment, worked out for an
//! epoch; and of each member the assignment it has come to, in an epoch of its own. Invariants: a partition has at most one
//! owner at every moment, counting those who still have to give it up; all state but deadlines is a fold of the group's
//! records ([`group::Change`]); an answer is sent once the records behind it are in the log.
//!
//! Called by the handlers, by the deadlines in `coordinator`, and by `loading`.

pub mod assignment; // sets of partitions
mod assignor; // who gets what
mod classic_member; // members of the classic protocol
mod commit; // who may commit and fetch offsets
mod config;
mod convert; // from one protocol to the other
pub mod draft; // changes on their way into the log
pub mod group; // the state and its changes
pub mod heartbeat;
mod java_order; // how Kafka's maps are ordered
mod leave; // members that go
pub mod member;
mod patterns; // subscriptions by pattern
mod reconcile; // from what a member has to what it is to have
pub mod records; // changes as records
mod subscription; // epoch and target
mod topic_hash;
mod topic_regex; // RE2's syntax

pub use assignor::ASSIGNORS;
pub use classic_member::{ClassicJoin, ClassicJoined};
pub use config::{ConsumerConfig, ConsumerOverrides, MigrationPolicy};
pub use group::ConsumerGroup;
