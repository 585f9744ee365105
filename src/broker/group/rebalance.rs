//! The rebalance of a classic group: from a reason to rebalance to the answers of the join phase, and the deadlines
//! around it. Every move of a group between its states is made here or in the handler of SyncGroup.
//!
//! Functions that may end in an append of the group's record hand its id back, for an answer that has to wait for it.

use std::borrow::Cow;
use std::sync::Arc;

use tracing::{debug, info};

use crate::protocol::ErrorCode;
use crate::protocol::messages::join_group_response::{JoinGroupResponse, JoinGroupResponseMember};
use crate::protocol::messages::sync_group_response::SyncGroupResponse;

use super::AppendId;
use super::appends::{Pending, Then};
use super::classic::{ClassicGroup, State};
use super::entry::Group;
use super::member::{Member, Waiting};
use super::records::BatchWriter;
use super::timers::{Payload, TimerKey};
use super::turn::Turn;

/// A new member, which cannot send heartbeats yet, is dropped after this time.
pub const NEW_MEMBER_JOIN_TIMEOUT_MS: i32 = 5 * 60 * 1_000;

impl Turn<'_> {
    /// Something that matters for the assignment has changed.
    pub fn rebalance(&mut self, group: &mut Group, reason: &str) -> Option<AppendId> {
        if group.classic.can_rebalance() {
            self.prepare_rebalance(group, reason)
        } else {
            self.maybe_complete_join(group)
        }
    }

    pub fn prepare_rebalance(&mut self, group: &mut Group, reason: &str) -> Option<AppendId> {
        if group.classic.is(State::CompletingRebalance) {
            self.reset_assignment(group, ErrorCode::RebalanceInProgress);
        }
        group.classic.pending_sync.clear();
        self.timers.cancel(&self.sync_key(group));
        let is_initial = group.classic.is(State::Empty);
        group.classic.transition_to(State::PreparingRebalance, self.now.wall_ms);
        info!(group = &*group.id, generation = group.classic.generation, reason, "preparing to rebalance");
        if is_initial {
            // Give the other members of a group that is just starting time to come.
            let delay_ms = self.config.initial_rebalance_delay_ms.max(0);
            let remaining_ms = (group.classic.rebalance_timeout_ms() - delay_ms).max(0);
            self.schedule_join(group, delay_ms, Payload::InitialJoin { delay_ms, remaining_ms });
            return None;
        }
        if group.classic.all_members_joined() {
            return self.complete_join(group);
        }
        self.schedule_join(group, group.classic.rebalance_timeout_ms(), Payload::None);
        None
    }

    pub fn maybe_complete_join(&mut self, group: &mut Group) -> Option<AppendId> {
        let classic = &group.classic;
        let is_initial = classic.previous_state() == State::Empty;
        if !classic.is(State::PreparingRebalance) || is_initial || !classic.all_members_joined() {
            return None;
        }
        self.complete_join(group)
    }

    /// The deadline of the join phase.
    pub fn join_expired(&mut self, group: &mut Group, payload: &Payload) -> Option<AppendId> {
        if !group.classic.is(State::PreparingRebalance) {
            return None;
        }
        match *payload {
            Payload::InitialJoin { delay_ms, remaining_ms }
                if group.classic.new_member_added && remaining_ms != 0 =>
            {
                group.classic.new_member_added = false;
                let next = Payload::InitialJoin {
                    delay_ms: self.config.initial_rebalance_delay_ms.max(0).min(remaining_ms),
                    remaining_ms: (remaining_ms - delay_ms).max(0),
                };
                let delay_ms = self.config.initial_rebalance_delay_ms.min(remaining_ms);
                self.schedule_join(group, delay_ms, next);
                None
            }
            _ => self.complete_join(group),
        }
    }

    /// Who has not joined by now is out; the others get the new generation.
    pub fn complete_join(&mut self, group: &mut Group) -> Option<AppendId> {
        self.timers.cancel(&self.join_key(group));
        let late = |member: &&Member| member.awaiting_join.is_none() && !member.is_static();
        let late: Vec<_> = group.classic.members().filter(late).map(|member| member.id.clone()).collect();
        for id in late {
            debug!(group = &*group.id, member = &*id, "has not rejoined in time");
            self.remove_member(group, &id);
        }
        if !group.classic.elect_joined_leader() && group.classic.members().len() > 0 {
            // Only static members, none of them back: their sessions decide.
            let timeout_ms = group.classic.rebalance_timeout_ms().max(1);
            self.schedule_join(group, timeout_ms, Payload::None);
            return None;
        }
        group.classic.init_next_generation(self.now.wall_ms);
        let (generation, members) = (group.classic.generation, group.classic.members().len());
        if group.classic.is(State::Empty) {
            info!(group = &*group.id, generation, "the group is empty");
            return self.append_group(group);
        }
        info!(group = &*group.id, generation, members, "the members have joined");
        for id in group.classic.member_ids() {
            if let Some(waiting) = group.classic.take_awaiting_join(&id) {
                let members = group.classic.is_leader(&id);
                self.answer_join(group, waiting, &id, members, false);
            }
            let timeout_ms = group.classic.update(&id, |member| {
                member.is_new = false;
                member.session_timeout_ms
            });
            self.schedule_heartbeat(group, &id, timeout_ms.unwrap_or_default());
            group.classic.pending_sync.insert(id);
        }
        let deadline = self.deadline(group.classic.rebalance_timeout_ms());
        self.timers.schedule(self.sync_key(group), deadline, Payload::Generation(generation));
        None
    }

    /// The group's record as the group is now.
    fn append_group(&mut self, group: &Group) -> Option<AppendId> {
        let mut batch = BatchWriter::new(self.now.wall_ms);
        batch.group(group, |member| &member.assignment);
        self.append(batch, Pending::new(self.partition, Then::Nothing)).ok()
    }

    /// The current generation, to one member.
    pub fn answer_join(
        &mut self,
        group: &Group,
        waiting: Waiting,
        member_id: &str,
        with_members: bool,
        skip_assignment: bool,
    ) {
        let classic = &group.classic;
        let leader = Cow::Borrowed(classic.leader.as_deref().unwrap_or_default());
        let mut response = current_generation(classic, member_id, leader);
        response.skip_assignment = skip_assignment;
        if with_members {
            response.members = classic.members().map(|member| join_member(classic, member)).collect();
        }
        self.reply(waiting, &response);
    }

    pub fn fail_join(&mut self, waiting: Waiting, member_id: &str, error: ErrorCode) {
        let member_id = Cow::Borrowed(member_id);
        let response = JoinGroupResponse { error_code: error.code(), member_id, ..no_generation() };
        self.reply(waiting, &response);
    }

    pub fn fail_sync(&mut self, waiting: Waiting, error: ErrorCode) {
        self.reply(waiting, &SyncGroupResponse { error_code: error.code(), ..SyncGroupResponse::default() });
    }

    // Members that go

    /// Takes a member (or a pending id) out of the group, and answers what it waits for.
    pub fn remove_member(&mut self, group: &mut Group, id: &Arc<str>) {
        self.timers.cancel(&self.heartbeat_key(group, id));
        let Some(member) = group.classic.remove(id) else { return };
        if let Some(waiting) = member.awaiting_join {
            self.fail_join(waiting, "", ErrorCode::UnknownMemberId);
        }
        if let Some(waiting) = member.awaiting_sync {
            self.fail_sync(waiting, ErrorCode::UnknownMemberId);
        }
    }

    /// No sign of life in the session timeout.
    pub fn heartbeat_expired(&mut self, group: &mut Group, id: &Arc<str>) -> Option<AppendId> {
        if group.classic.is_pending_join(id) {
            self.remove_member(group, id);
        } else {
            let member = group.classic.member(id)?;
            if member.has_satisfied_heartbeat() {
                return None;
            }
            info!(group = &*group.id, member = &**id, "the member has failed");
            self.remove_member(group, id);
            if matches!(group.classic.state(), State::Stable | State::CompletingRebalance) {
                return self.rebalance(group, "a member's session has expired");
            }
        }
        if group.classic.is(State::PreparingRebalance) && group.classic.all_members_joined() {
            return self.complete_join(group);
        }
        None
    }

    /// Members had to fetch their assignments by now.
    pub fn sync_expired(&mut self, group: &mut Group, generation: i32) -> Option<AppendId> {
        let classic = &group.classic;
        let is_due = matches!(classic.state(), State::CompletingRebalance | State::Stable);
        if !is_due || classic.generation != generation || classic.pending_sync.is_empty() {
            return None;
        }
        for id in std::mem::take(&mut group.classic.pending_sync) {
            self.remove_member(group, &id);
        }
        self.prepare_rebalance(group, "members have not fetched their assignment in time")
    }

    // Assignments

    /// Those who wait for an assignment get this error, and nobody has an assignment any more.
    pub fn reset_assignment(&mut self, group: &mut Group, error: ErrorCode) {
        for id in group.classic.member_ids() {
            group.classic.update(&id, |member| member.assignment = Box::default());
        }
        self.propagate_assignment(group, error);
    }

    /// Answers all who wait in SyncGroup.
    pub fn propagate_assignment(&mut self, group: &mut Group, error: ErrorCode) {
        for id in group.classic.member_ids() {
            let Some(waiting) = group.classic.take_awaiting_sync(&id) else { continue };
            let Some(member) = group.classic.member(&id) else { continue };
            let timeout_ms = member.session_timeout_ms;
            if error.is_error() {
                self.fail_sync(waiting, error);
            } else {
                self.answer_sync(group, waiting, &member.assignment);
            }
            self.schedule_heartbeat(group, &id, timeout_ms);
        }
    }

    pub fn answer_sync(&mut self, group: &Group, waiting: Waiting, assignment: &[u8]) {
        let response = SyncGroupResponse {
            protocol_type: group.classic.protocol_type.as_deref().map(Cow::Borrowed),
            protocol_name: group.classic.protocol.as_deref().map(Cow::Borrowed),
            assignment: Cow::Borrowed(assignment),
            ..SyncGroupResponse::default()
        };
        self.reply(waiting, &response);
    }

    // Deadlines

    pub fn heartbeat_key(&self, group: &Group, member: &Arc<str>) -> TimerKey {
        TimerKey::Heartbeat { partition: self.partition, group: group.id.clone(), member: member.clone() }
    }

    pub fn join_key(&self, group: &Group) -> TimerKey {
        TimerKey::Join { partition: self.partition, group: group.id.clone() }
    }

    pub fn sync_key(&self, group: &Group) -> TimerKey {
        TimerKey::Sync { partition: self.partition, group: group.id.clone() }
    }

    fn schedule_join(&mut self, group: &Group, delay_ms: i32, payload: Payload) {
        self.timers.schedule(self.join_key(group), self.deadline(delay_ms), payload);
    }

    pub fn schedule_heartbeat(&mut self, group: &Group, member: &Arc<str>, timeout_ms: i32) {
        self.timers.schedule(self.heartbeat_key(group, member), self.deadline(timeout_ms), Payload::None);
    }

    /// A member has shown that it lives.
    pub fn renew_session(&mut self, group: &Group, member_id: &str) {
        if let Some(member) = group.classic.member(member_id) {
            self.schedule_heartbeat(group, &member.id, member.session_timeout_ms);
        }
    }
}

/// The answer that names the generation a member is in.
pub fn current_generation<'g>(
    classic: &'g ClassicGroup,
    member_id: &'g str,
    leader: Cow<'g, str>,
) -> JoinGroupResponse<'g> {
    JoinGroupResponse {
        generation_id: classic.generation,
        protocol_type: classic.protocol_type.as_deref().map(Cow::Borrowed),
        protocol_name: classic.protocol.as_deref().map(Cow::Borrowed),
        leader,
        member_id: Cow::Borrowed(member_id),
        ..JoinGroupResponse::default()
    }
}

/// The answer to a join that failed.
pub fn no_generation<'a>() -> JoinGroupResponse<'a> {
    JoinGroupResponse {
        generation_id: -1,
        protocol_type: None,
        protocol_name: None,
        ..JoinGroupResponse::default()
    }
}

fn join_member<'g>(classic: &'g ClassicGroup, member: &'g Member) -> JoinGroupResponseMember<'g> {
    let metadata = classic.protocol.as_deref().and_then(|name| member.metadata(name));
    JoinGroupResponseMember {
        member_id: Cow::Borrowed(&member.id),
        group_instance_id: member.instance_id.as_deref().map(Cow::Borrowed),
        metadata: Cow::Borrowed(metadata.unwrap_or_default()),
    }
}
