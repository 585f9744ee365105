//! One file an API. Each decodes its request, finds the group, and answers now or leaves somebody waiting.
//!
//! A request that cannot be decoded is an error to the caller; everything else is an answer.

pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod delete_groups;
pub mod describe_groups;
pub mod heartbeat;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod sync_group;
pub mod txn_offset_commit;

pub use offset_commit::OffsetCommitAnswer;
pub use offset_fetch::OffsetFetchAnswer;
pub use txn_offset_commit::TxnOffsetCommitAnswer;
