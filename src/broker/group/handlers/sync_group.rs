//! SyncGroup, versions 0 to 5.
//!
//! A member's second request while its first still waits answers the first with REBALANCE_IN_PROGRESS, where Kafka never
//! answers it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::info;

use crate::protocol::messages::sync_group_request::SyncGroupRequest;
use crate::protocol::messages::sync_group_response::SyncGroupResponse;
use crate::protocol::{DecodeError, ErrorCode, Message};

use crate::broker::group::appends::{Pending, Response, Then, coordinator_error};
use crate::broker::group::classic::State;
use crate::broker::group::coordinator::{GroupCoordinator, Partition};
use crate::broker::group::entry::Group;
use crate::broker::group::member::Waiting;
use crate::broker::group::records::BatchWriter;
use crate::broker::group::turn::Turn;
use crate::broker::group::{Effect, GroupRequest, Now, TopicLookup};

/// From this version on a member has to say what it thinks the group's protocol is.
const PROTOCOL_REQUIRED_VERSION: i16 = 5;

pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    topics: &dyn TopicLookup,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = SyncGroupRequest::decode_exact(request.body, request.version)?;
    let waiting = request.waiting();
    let names_protocol = message.protocol_type.is_some() && message.protocol_name.is_some();
    let error = if request.version >= PROTOCOL_REQUIRED_VERSION && !names_protocol {
        ErrorCode::InconsistentGroupProtocol
    } else if message.group_id.is_empty() {
        ErrorCode::InvalidGroupId
    } else {
        match coordinator.serve(now, &message.group_id, out) {
            Ok((mut turn, partition)) => {
                turn.sync(partition, &message, waiting, topics);
                return Ok(());
            }
            Err(error) => error,
        }
    };
    let response = SyncGroupResponse { error_code: error.code(), ..SyncGroupResponse::default() };
    out.push(Effect::Reply { to: waiting.to, body: response.to_bytes(waiting.version) });
    Ok(())
}

/// Whether the request fits the group as it is.
fn validate(group: &Group, message: &SyncGroupRequest<'_>) -> Result<(), ErrorCode> {
    let classic = &group.classic;
    match classic.state() {
        State::Empty => return Err(ErrorCode::UnknownMemberId),
        State::Dead => return Err(ErrorCode::CoordinatorNotAvailable),
        _ => {}
    }
    classic.validate_member(&message.member_id, message.group_instance_id.as_deref())?;
    if message.generation_id != classic.generation {
        return Err(ErrorCode::IllegalGeneration);
    }
    let differs = |said: Option<&str>, known: Option<&str>| {
        said.is_some_and(|said| known.is_some_and(|known| said != known))
    };
    if differs(message.protocol_type.as_deref(), classic.protocol_type.as_deref())
        || differs(message.protocol_name.as_deref(), classic.protocol.as_deref())
    {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    match classic.state() {
        State::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
        _ => Ok(()),
    }
}

impl Turn<'_> {
    fn sync(
        &mut self,
        partition: &mut Partition,
        message: &SyncGroupRequest<'_>,
        waiting: Waiting,
        topics: &dyn TopicLookup,
    ) {
        let Some(group) = partition.groups.get_mut(&*message.group_id) else {
            return self.fail_sync(waiting, ErrorCode::UnknownMemberId);
        };
        if group.consumer.is_some() {
            return self.sync_classic_member(group, message, waiting, topics);
        }
        if let Err(error) = validate(group, message) {
            return self.fail_sync(waiting, error);
        }
        let member_id = &*message.member_id;
        group.classic.pending_sync.remove(member_id);
        if group.classic.pending_sync.is_empty() {
            self.timers.cancel(&self.sync_key(group));
        }
        if group.classic.is(State::Stable) {
            if let Some(member) = group.classic.member(member_id) {
                self.answer_sync(group, waiting, &member.assignment);
            }
            return;
        }
        let before = group.classic.update(member_id, |member| member.awaiting_sync.replace(waiting));
        if let Some(Some(before)) = before {
            self.fail_sync(before, ErrorCode::RebalanceInProgress);
        }
        if group.classic.is_leader(member_id) && group.classic.assigning != Some(group.classic.generation) {
            self.append_assignment(group, message);
        }
        self.account(group);
    }

    /// In a consumer group the assignment is there already.
    fn sync_classic_member(
        &mut self,
        group: &Group,
        message: &SyncGroupRequest<'_>,
        waiting: Waiting,
        topics: &dyn TopicLookup,
    ) {
        let (member_id, instance_id) = (&*message.member_id, message.group_instance_id.as_deref());
        let protocol = (message.protocol_type.as_deref(), message.protocol_name.as_deref());
        let synced =
            self.sync_consumer_group(group, member_id, instance_id, message.generation_id, protocol, topics);
        match synced {
            Ok(assignment) => {
                let text = |text: Option<&str>| text.map(|text| Cow::Owned(text.to_string()));
                let response = SyncGroupResponse {
                    protocol_type: text(protocol.0),
                    protocol_name: text(protocol.1),
                    assignment: assignment.into(),
                    ..SyncGroupResponse::default()
                };
                let append = self.appends.last_of(self.partition);
                let response = Response::SyncGroup(response);
                self.appends.answer_after(append.as_slice(), waiting, response, self.out);
            }
            Err(refusal) => self.fail_sync(waiting, refusal.error),
        }
    }

    /// The leader has decided: the group is written down with it before anybody hears of it.
    fn append_assignment(&mut self, group: &mut Group, message: &SyncGroupRequest<'_>) {
        let mut assignments: BTreeMap<Arc<str>, Box<[u8]>> = BTreeMap::new();
        let mut bytes = 0;
        for assigned in &message.assignments {
            if let Some(member) = group.classic.member(&assigned.member_id) {
                bytes += assigned.assignment.len();
                assignments.insert(member.id.clone(), assigned.assignment.as_ref().into());
            }
        }
        info!(
            group = &*group.id,
            generation = group.classic.generation,
            "assignment received from the leader"
        );
        if !self.has_room(bytes) {
            return self.assignment_failed(group, ErrorCode::CoordinatorNotAvailable);
        }
        let mut batch = BatchWriter::new(self.now.wall_ms);
        batch.group(group, |member| assignments.get(&member.id).map_or(&[], |assignment| assignment));
        let (generation, id) = (group.classic.generation, group.id.clone());
        let then = Then::Assignment { group: id, generation, assignments };
        group.classic.assigning = Some(generation);
        if let Err((error, _)) = self.append(batch, Pending::new(self.partition, then)) {
            self.assignment_failed(group, error);
        }
    }

    /// The assignment is in the log.
    pub fn assignment_written(
        &mut self,
        group: &mut Group,
        generation: i32,
        mut assignments: BTreeMap<Arc<str>, Box<[u8]>>,
    ) {
        if !group.classic.is(State::CompletingRebalance) || group.classic.generation != generation {
            return; // Another rebalance has begun since.
        }
        for id in group.classic.member_ids() {
            let assignment = assignments.remove(&id).unwrap_or_default();
            group.classic.update(&id, |member| member.assignment = assignment);
        }
        self.propagate_assignment(group, ErrorCode::None);
        group.classic.transition_to(State::Stable, self.now.wall_ms);
    }

    pub fn assignment_failed(&mut self, group: &mut Group, error: ErrorCode) {
        group.classic.assigning = None;
        self.reset_assignment(group, coordinator_error(error));
        self.rebalance(group, "the assignment could not be stored");
    }
}
