//! Appends under way: what each becomes once it is in the log, or not, and the answers that wait for it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::protocol::messages::consumer_group_describe_response::ConsumerGroupDescribeResponse;
use crate::protocol::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;
use crate::protocol::messages::delete_groups_response::DeleteGroupsResponse;
use crate::protocol::messages::join_group_response::JoinGroupResponse;
use crate::protocol::messages::leave_group_response::LeaveGroupResponse;
use crate::protocol::messages::offset_delete_response::OffsetDeleteResponse;
use crate::protocol::messages::sync_group_response::SyncGroupResponse;
use crate::protocol::{ErrorCode, Message};

use super::consumer::draft::Undo;
use super::handlers::consumer_group_describe::failed_description;
use super::handlers::{OffsetCommitAnswer, OffsetFetchAnswer, TxnOffsetCommitAnswer};
use super::member::{MemberProtocol, Waiting};
use super::rebalance::no_generation;
use super::transactions::OfTransaction;
use super::{AppendId, Effect};

/// One append, from the effect to its report.
#[derive(Debug)]
pub struct Pending {
    pub partition: i32,
    /// Offsets set or deleted, with the record's place in the batch.
    pub offsets: Vec<OffsetChange>,
    /// Groups whose deletion ends the batch's records about them.
    pub deleted_groups: Vec<Arc<str>>,
    pub then: Then,
    /// The offsets are of a transaction, or it ends one.
    pub transaction: Option<OfTransaction>,
    answers: Vec<AnswerId>,
}

impl Pending {
    pub fn new(partition: i32, then: Then) -> Self {
        Pending {
            partition,
            offsets: Vec::new(),
            deleted_groups: Vec::new(),
            then,
            transaction: None,
            answers: Vec::new(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct OffsetChange {
    pub group: Arc<str>,
    pub topic: Arc<str>,
    pub partition: i32,
    /// The record's place in the batch.
    pub index: i32,
}

/// What a group goes on with.
#[derive(Debug)]
pub enum Then {
    Nothing,
    /// The record of a group just created; a member may be waiting in it.
    NewGroup {
        group: Arc<str>,
    },
    /// The leader's assignment, member by member.
    Assignment {
        group: Arc<str>,
        generation: i32,
        assignments: BTreeMap<Arc<str>, Box<[u8]>>,
    },
    /// A static member came back under another id while the group stays as it is.
    StaticMember {
        group: Arc<str>,
        undo: Box<StaticMemberUndo>,
    },
    /// A consumer group has changed already, unless this fails.
    Consumer {
        group: Arc<str>,
        undo: Vec<Undo>,
    },
}

/// The member as it was, in case its new id cannot be written.
#[derive(Debug)]
pub struct StaticMemberUndo {
    pub instance_id: Arc<str>,
    pub old_id: Arc<str>,
    pub new_id: Arc<str>,
    pub old_protocols: Vec<MemberProtocol>,
    pub old_rebalance_timeout_ms: i32,
    pub old_session_timeout_ms: i32,
    pub leader_before: Option<Arc<str>>,
    pub generation: i32,
}

/// An answer that waits for one or more appends.
#[derive(Debug)]
struct Answer {
    waiting: Waiting,
    response: Response,
    appends_left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnswerId(u64);

/// What is answered if all goes well; `fail` makes the other answer of it.
#[derive(Debug)]
pub enum Response {
    OffsetCommit(OffsetCommitAnswer),
    TxnOffsetCommit(TxnOffsetCommitAnswer),
    OffsetFetch(OffsetFetchAnswer),
    LeaveGroup(LeaveGroupResponse<'static>),
    DeleteGroups(DeleteGroupsResponse<'static>),
    OffsetDelete(OffsetDeleteResponse<'static>),
    JoinGroup(JoinGroupResponse<'static>),
    SyncGroup(SyncGroupResponse<'static>),
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse<'static>),
    ConsumerGroupDescribe(ConsumerGroupDescribeResponse<'static>),
}

impl Response {
    fn fail(&mut self, deleted_groups: &[Arc<str>], append_error: ErrorCode) {
        let error = coordinator_error(append_error).code();
        match self {
            Response::OffsetCommit(answer) => answer.fail(error),
            Response::TxnOffsetCommit(answer) => answer.fail(coordinator_error(append_error)),
            Response::OffsetFetch(answer) => answer.fail(fetch_error(append_error).code()),
            Response::LeaveGroup(response) => {
                *response = LeaveGroupResponse { error_code: error, ..LeaveGroupResponse::default() };
            }
            Response::DeleteGroups(response) => {
                let results = response.results.iter().map(|mut result| {
                    if result.error_code == 0 && deleted_groups.iter().any(|id| **id == *result.group_id) {
                        result.error_code = error;
                    }
                    result
                });
                response.results = results.collect();
            }
            Response::OffsetDelete(response) => {
                *response = OffsetDeleteResponse { error_code: error, ..OffsetDeleteResponse::default() };
            }
            Response::JoinGroup(response) => {
                *response = JoinGroupResponse { error_code: error, ..no_generation() };
            }
            Response::SyncGroup(response) => {
                *response = SyncGroupResponse { error_code: error, ..SyncGroupResponse::default() };
            }
            Response::ConsumerGroupHeartbeat(response) => {
                *response = ConsumerGroupHeartbeatResponse {
                    error_code: error,
                    ..ConsumerGroupHeartbeatResponse::default()
                };
            }
            Response::ConsumerGroupDescribe(response) => {
                let failed = response.groups.iter().map(|group| match group.error_code {
                    0 => failed_description(group.group_id, error),
                    _ => group,
                });
                response.groups = failed.collect();
            }
        }
    }

    fn to_bytes(&self, version: i16) -> Vec<u8> {
        match self {
            Response::OffsetCommit(answer) => answer.to_bytes(version),
            Response::TxnOffsetCommit(answer) => answer.to_bytes(version),
            Response::OffsetFetch(answer) => answer.to_bytes(version),
            Response::LeaveGroup(response) => response.to_bytes(version),
            Response::DeleteGroups(response) => response.to_bytes(version),
            Response::OffsetDelete(response) => response.to_bytes(version),
            Response::JoinGroup(response) => response.to_bytes(version),
            Response::SyncGroup(response) => response.to_bytes(version),
            Response::ConsumerGroupHeartbeat(response) => response.to_bytes(version),
            Response::ConsumerGroupDescribe(response) => response.to_bytes(version),
        }
    }
}

#[derive(Debug, Default)]
pub struct Appends {
    pending: BTreeMap<AppendId, Pending>,
    /// The last one of each partition, under way or not.
    last: BTreeMap<i32, AppendId>,
    answers: BTreeMap<AnswerId, Answer>,
    next_append: u64,
    next_answer: u64,
}

impl Appends {
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// The id the next append gets.
    pub fn next_id(&self) -> AppendId {
        AppendId(self.next_append)
    }

    pub fn begin(&mut self, pending: Pending) -> AppendId {
        let id = self.next_id();
        self.next_append += 1;
        self.last.insert(pending.partition, id);
        self.pending.insert(id, pending);
        id
    }

    pub fn take(&mut self, id: AppendId) -> Option<Pending> {
        self.pending.remove(&id)
    }

    /// Whether an append under way deletes the group.
    pub fn is_deleting(&self, group: &str) -> bool {
        let mut deleted = self.pending.values().flat_map(|pending| &pending.deleted_groups);
        deleted.any(|id| **id == *group)
    }

    /// The last append under way for a partition.
    pub fn last_of(&self, partition: i32) -> Option<AppendId> {
        self.last.get(&partition).copied().filter(|id| self.pending.contains_key(id))
    }

    /// The changes of a consumer group that are under way since this append, oldest first.
    pub fn later_drafts(&mut self, append: AppendId, group: &str) -> Vec<&mut Vec<Undo>> {
        let later = self.pending.range_mut((Bound::Excluded(append), Bound::Unbounded));
        let drafts = later.filter_map(|(_, pending)| match &mut pending.then {
            Then::Consumer { group: id, undo } if **id == *group => Some(undo),
            _ => None,
        });
        drafts.collect()
    }

    /// Takes what is under way for a partition.
    pub fn take_partition(&mut self, partition: i32) -> Vec<Pending> {
        let of_partition =
            |(id, pending): (&AppendId, &Pending)| (pending.partition == partition).then_some(*id);
        let ids: Vec<_> = self.pending.iter().filter_map(of_partition).collect();
        ids.into_iter().filter_map(|id| self.pending.remove(&id)).collect()
    }

    /// Answers once these appends are done; at once if there are none.
    pub fn answer_after(
        &mut self,
        appends: &[AppendId],
        waiting: Waiting,
        response: Response,
        out: &mut Vec<Effect>,
    ) {
        let id = AnswerId(self.next_answer);
        self.next_answer += 1;
        let mut answer = Answer { waiting, response, appends_left: 0 };
        for append in appends {
            if let Some(pending) = self.pending.get_mut(append) {
                pending.answers.push(id);
                answer.appends_left += 1;
            }
        }
        if answer.appends_left == 0 {
            send(&answer, out);
        } else {
            self.answers.insert(id, answer);
        }
    }

    /// An append is over: answers that wait for nothing else go out.
    pub fn settle(&mut self, done: &Pending, error: Option<ErrorCode>, out: &mut Vec<Effect>) {
        for id in &done.answers {
            let Some(answer) = self.answers.get_mut(id) else { continue };
            if let Some(error) = error {
                answer.response.fail(&done.deleted_groups, error);
            }
            answer.appends_left -= 1;
            if answer.appends_left == 0
                && let Some(answer) = self.answers.remove(id)
            {
                send(&answer, out);
            }
        }
    }
}

fn send(answer: &Answer, out: &mut Vec<Effect>) {
    let body = answer.response.to_bytes(answer.waiting.version);
    out.push(Effect::Reply { to: answer.waiting.to, body });
}

/// How a failed append looks to a client of the coordinator.
pub fn coordinator_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::NotEnoughReplicas | ErrorCode::RequestTimedOut => {
            ErrorCode::CoordinatorNotAvailable
        }
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::UnknownServerError
        }
        other => other,
    }
}

/// Consumers know fewer errors in the answer to OffsetFetch.
fn fetch_error(error: ErrorCode) -> ErrorCode {
    match coordinator_error(error) {
        ErrorCode::CoordinatorNotAvailable => ErrorCode::NotCoordinator,
        other => other,
    }
}
