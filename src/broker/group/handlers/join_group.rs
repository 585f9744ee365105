//! JoinGroup, versions 0 to 9.
//!
//! Differs from Kafka where a member sends a second join while the first still waits: the first is answered with
//! REBALANCE_IN_PROGRESS, where Kafka never answers it. Beyond the first 100 protocols of a member none is looked at.

use std::borrow::Cow;
use std::sync::Arc;

use tracing::{debug, info};

use crate::protocol::messages::join_group_request::JoinGroupRequest;
use crate::protocol::messages::join_group_response::JoinGroupResponse;
use crate::protocol::{DecodeError, ErrorCode, Message};

use crate::broker::group::appends::{Pending, Response, StaticMemberUndo, Then, coordinator_error};
use crate::broker::group::classic::{CONSUMER_PROTOCOL, ClassicGroup, State};
use crate::broker::group::consumer::draft::Draft;
use crate::broker::group::consumer::{ClassicJoin, ClassicJoined};
use crate::broker::group::coordinator::{GroupCoordinator, Partition};
use crate::broker::group::entry::Group;
use crate::broker::group::member::{Member, MemberProtocol, Waiting};
use crate::broker::group::rebalance::{NEW_MEMBER_JOIN_TIMEOUT_MS, current_generation, no_generation};
use crate::broker::group::records::BatchWriter;
use crate::broker::group::turn::Turn;
use crate::broker::group::{Effect, GroupRequest, Now, TopicLookup};

/// From this version on a new member is told its id first and joins with it.
const MEMBER_ID_REQUIRED_VERSION: i16 = 4;
/// From this version on a returning leader can be told that no assignment is needed.
const SKIP_ASSIGNMENT_VERSION: i16 = 9;
const PROTOCOLS_MAX: usize = 100;

/// A request as the group needs it.
struct Joining<'a> {
    waiting: Waiting,
    client_id: &'a str,
    client_host: &'a str,
    group_id: &'a str,
    /// Empty for a new member.
    member_id: &'a str,
    instance_id: Option<&'a str>,
    session_timeout_ms: i32,
    rebalance_timeout_ms: i32,
    protocol_type: &'a str,
    protocols: Vec<MemberProtocol>,
}

pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    topics: &dyn TopicLookup,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = JoinGroupRequest::decode_exact(request.body, request.version)?;
    let joining = Joining::new(request, &message);
    let config = coordinator.config();
    let session_timeouts = config.min_session_timeout_ms..=config.max_session_timeout_ms;
    let error = if joining.group_id.is_empty() {
        ErrorCode::InvalidGroupId
    } else if !session_timeouts.contains(&joining.session_timeout_ms) {
        ErrorCode::InvalidSessionTimeout
    } else {
        match coordinator.serve(now, joining.group_id, out) {
            Ok((mut turn, partition)) => {
                turn.join(partition, &joining, topics);
                return Ok(());
            }
            // Kafka names the member only where it refuses the request before it looks for the group.
            Err(error) => return fail(&joining, "", error, out),
        }
    };
    fail(&joining, joining.member_id, error, out)
}

fn fail(
    joining: &Joining<'_>,
    member_id: &str,
    error: ErrorCode,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let mut response = no_generation();
    response.error_code = error.code();
    response.member_id = Cow::Borrowed(member_id);
    out.push(Effect::Reply { to: joining.waiting.to, body: response.to_bytes(joining.waiting.version) });
    Ok(())
}

impl<'a> Joining<'a> {
    fn new(request: &GroupRequest<'a>, message: &'a JoinGroupRequest<'a>) -> Self {
        let mut protocols: Vec<MemberProtocol> = Vec::new();
        for protocol in message.protocols.iter().take(PROTOCOLS_MAX) {
            if !protocols.iter().any(|known| *known.name == *protocol.name) {
                let (name, metadata) = (protocol.name.as_ref().into(), protocol.metadata.as_ref().into());
                protocols.push(MemberProtocol { name, metadata });
            }
        }
        // Version 0 knows one timeout only.
        let rebalance_timeout_ms =
            if request.version == 0 { message.session_timeout_ms } else { message.rebalance_timeout_ms };
        Joining {
            waiting: request.waiting(),
            client_id: request.client_id,
            client_host: request.client_host,
            group_id: &message.group_id,
            member_id: &message.member_id,
            instance_id: message.group_instance_id.as_deref(),
            session_timeout_ms: message.session_timeout_ms,
            rebalance_timeout_ms,
            protocol_type: &message.protocol_type,
            protocols,
        }
    }

    fn is_new(&self) -> bool {
        self.member_id.is_empty()
    }

    fn bytes(&self) -> usize {
        self.member(&self.client_id.into()).bytes()
    }

    fn member(&self, id: &Arc<str>) -> Member {
        Member {
            id: id.clone(),
            instance_id: self.instance_id.map(Arc::from),
            client_id: self.client_id.into(),
            client_host: self.client_host.into(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            protocol_type: self.protocol_type.into(),
            protocols: self.protocols.clone(),
            assignment: Box::default(),
            awaiting_join: Some(self.waiting),
            awaiting_sync: None,
            is_new: true,
        }
    }
}

impl Turn<'_> {
    fn join(&mut self, partition: &mut Partition, joining: &Joining<'_>, topics: &dyn TopicLookup) {
        let known = partition.groups.get_mut(joining.group_id).filter(|group| !group.is_dead());
        if let Some(group) = known
            && let Some(consumer) = &group.consumer
        {
            match consumer.is_empty() {
                true => self.join_empty_consumer_group(group, joining),
                false => self.join_as_classic(group, joining, topics),
            }
            return self.account(group);
        }
        let is_new_group = !partition.groups.contains_key(joining.group_id);
        if is_new_group && !joining.is_new() {
            return self.fail_join(joining.waiting, joining.member_id, ErrorCode::UnknownMemberId);
        }
        let Some(group) = partition.get_or_create(self, joining.group_id) else {
            return self.fail_join(joining.waiting, joining.member_id, ErrorCode::CoordinatorNotAvailable);
        };
        if group.is_dead() {
            self.fail_join(joining.waiting, joining.member_id, ErrorCode::CoordinatorNotAvailable);
        } else if !self.accepts(group, joining) {
            if let Some(id) = group.classic.member(joining.member_id).map(|member| member.id.clone()) {
                self.remove_member(group, &id);
            }
            self.fail_join(joining.waiting, "", ErrorCode::GroupMaxSizeReached);
        } else if !group.classic.supports(joining.protocol_type, &joining.protocols) {
            self.fail_join(joining.waiting, joining.member_id, ErrorCode::InconsistentGroupProtocol);
        } else if joining.is_new() {
            self.join_new(group, joining);
        } else {
            self.join_existing(group, joining);
        }
        if is_new_group {
            self.append_new_group(group);
        }
        self.account(group);
    }

    /// A consumer group without members gives way to a classic one.
    fn join_empty_consumer_group(&mut self, group: &mut Group, joining: &Joining<'_>) {
        if !joining.is_new() {
            return self.fail_join(joining.waiting, joining.member_id, ErrorCode::UnknownMemberId);
        }
        let mut draft = Draft::new(self.now);
        let deletion = group.consumer.iter().flat_map(|consumer| consumer.deletion());
        deletion.for_each(|change| draft.batch.change(&group.id, &change));
        draft.make_classic(group, ClassicGroup::new(self.now.wall_ms));
        if !group.classic.supports(joining.protocol_type, &joining.protocols) {
            draft.roll_back(group);
            return self.fail_join(joining.waiting, joining.member_id, ErrorCode::InconsistentGroupProtocol);
        }
        draft.batch.new_group(group);
        // Nobody waits for it: who joins waits for the others, and that takes longer.
        match self.append_draft(group, draft) {
            Ok(_) => self.join_new(group, joining),
            Err(error) => self.fail_join(joining.waiting, "", error),
        }
    }

    fn join_as_classic(&mut self, group: &mut Group, joining: &Joining<'_>, topics: &dyn TopicLookup) {
        let join = ClassicJoin {
            member_id: joining.member_id,
            instance_id: joining.instance_id,
            needs_known_id: joining.waiting.version >= MEMBER_ID_REQUIRED_VERSION,
            client_id: joining.client_id,
            client_host: joining.client_host,
            session_timeout_ms: joining.session_timeout_ms,
            rebalance_timeout_ms: joining.rebalance_timeout_ms,
            protocol_type: joining.protocol_type,
            protocols: &joining.protocols,
        };
        match self.join_consumer_group(group, &join, topics) {
            Ok((ClassicJoined::IdRequired(id), _)) => {
                self.fail_join(joining.waiting, &id, ErrorCode::MemberIdRequired);
            }
            Ok((ClassicJoined::Joined { member_id, generation, protocol }, append)) => {
                let response = JoinGroupResponse {
                    generation_id: generation,
                    protocol_type: Some(Cow::Borrowed(CONSUMER_PROTOCOL)),
                    protocol_name: Some(Cow::Owned(protocol.to_string())),
                    member_id: Cow::Owned(member_id.to_string()),
                    ..JoinGroupResponse::default()
                };
                let append = append.or(self.appends.last_of(self.partition));
                let response = Response::JoinGroup(response);
                self.appends.answer_after(append.as_slice(), joining.waiting, response, self.out);
            }
            Err(refusal) => self.fail_join(joining.waiting, "", refusal.error),
        }
    }

    /// Whether the group is not full.
    fn accepts(&self, group: &Group, joining: &Joining<'_>) -> bool {
        let classic = &group.classic;
        let members_max =
            usize::try_from(self.config.max_size).unwrap_or(0).min(self.config.limits.members_max);
        let member = classic.member(joining.member_id);
        let has_place = match classic.state() {
            State::Empty | State::Dead => true,
            // The awaiting are counted, so that a group above a limit that was lowered loses whoever comes last.
            State::PreparingRebalance => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || classic.awaiting_join() < members_max
            }
            State::CompletingRebalance | State::Stable => {
                member.is_some() || classic.members().len() < members_max
            }
        };
        let held = member.map_or(0, Member::bytes);
        has_place && self.has_room(joining.bytes().saturating_sub(held))
    }

    /// The empty group is written down, so that it is there for all who ask once its first answer is out.
    fn append_new_group(&mut self, group: &mut Group) {
        let mut batch = BatchWriter::new(self.now.wall_ms);
        batch.new_group(group);
        let then = Then::NewGroup { group: group.id.clone() };
        if let Err((error, _)) = self.append(batch, Pending::new(self.partition, then)) {
            self.new_group_failed(group, error);
        }
    }

    pub fn new_group_failed(&mut self, group: &mut Group, error: ErrorCode) {
        for id in group.classic.member_ids() {
            if let Some(waiting) = group.classic.take_awaiting_join(&id) {
                self.fail_join(waiting, "", coordinator_error(error));
                self.remove_member(group, &id);
            }
        }
    }

    // A member without an id

    fn join_new(&mut self, group: &mut Group, joining: &Joining<'_>) {
        let id: Arc<str> = self.member_ids.draw(joining.instance_id.unwrap_or(joining.client_id)).into();
        match joining.instance_id.map(|instance_id| group.classic.static_member_id(instance_id).cloned()) {
            Some(Some(old_id)) => self.replace_static(group, joining, &old_id, &id),
            Some(None) => self.add_member(group, joining, &id),
            None if joining.waiting.version < MEMBER_ID_REQUIRED_VERSION => {
                self.add_member(group, joining, &id)
            }
            None if group.classic.pending_join().len() >= self.config.limits.pending_members_max => {
                self.fail_join(joining.waiting, "", ErrorCode::CoordinatorNotAvailable);
            }
            None => {
                self.schedule_heartbeat(group, &id, joining.session_timeout_ms);
                self.fail_join(joining.waiting, &id, ErrorCode::MemberIdRequired);
                group.classic.add_pending_join(id);
            }
        }
    }

    fn add_member(&mut self, group: &mut Group, joining: &Joining<'_>, id: &Arc<str>) {
        debug!(group = &*group.id, member = &**id, "a member joins");
        let classic = &mut group.classic;
        if classic.is(State::PreparingRebalance) && classic.previous_state() == State::Empty {
            classic.new_member_added = true;
        }
        classic.add(joining.member(id));
        self.schedule_heartbeat(group, id, NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.rebalance(group, "a new member");
    }

    // A static member that comes back without its id

    fn replace_static(&mut self, group: &mut Group, joining: &Joining<'_>, old_id: &Arc<str>, id: &Arc<str>) {
        let leader_before = group.classic.leader.clone();
        let instance_id: Arc<str> = joining.instance_id.unwrap_or_default().into();
        let Some(old) = group.classic.replace_static(&instance_id, old_id, id) else { return };
        info!(
            group = &*group.id,
            instance_id = &*instance_id,
            old = &**old_id,
            new = &**id,
            "static member replaced"
        );
        self.timers.cancel(&self.heartbeat_key(group, old_id));
        if let Some(waiting) = old.awaiting_join {
            self.fail_join(waiting, old_id, ErrorCode::FencedInstanceId);
        }
        if let Some(waiting) = old.awaiting_sync {
            self.fail_sync(waiting, ErrorCode::FencedInstanceId);
        }
        self.schedule_heartbeat(group, id, old.session_timeout_ms);
        self.update_member(group, joining, id);
        match group.classic.state() {
            State::Stable if group.classic.select_protocol() != group.classic.protocol => {
                self.rebalance(group, "a static member came back and changes the protocol");
            }
            State::Stable => {
                let undo = StaticMemberUndo {
                    instance_id,
                    old_id: old_id.clone(),
                    new_id: id.clone(),
                    old_protocols: old.protocols,
                    old_rebalance_timeout_ms: old.rebalance_timeout_ms,
                    old_session_timeout_ms: old.session_timeout_ms,
                    leader_before,
                    generation: group.classic.generation,
                };
                self.append_static_member(group, undo);
            }
            // The old id may be with the leader already, who would assign to nobody.
            State::CompletingRebalance => {
                self.prepare_rebalance(group, "a static member came back");
            }
            _ => {
                self.maybe_complete_join(group);
            }
        }
    }

    fn append_static_member(&mut self, group: &mut Group, undo: StaticMemberUndo) {
        let mut batch = BatchWriter::new(self.now.wall_ms);
        batch.group(group, |member| &member.assignment);
        let then = Then::StaticMember { group: group.id.clone(), undo: Box::new(undo) };
        if let Err((error, then)) = self.append(batch, Pending::new(self.partition, then))
            && let Then::StaticMember { undo, .. } = then
        {
            self.static_member_failed(group, *undo, error);
        }
    }

    /// The new id is in the log: the member goes on with the generation as it is.
    pub fn static_member_written(&mut self, group: &mut Group, undo: &StaticMemberUndo) {
        let id = &undo.new_id;
        if !group.classic.is(State::Stable) || group.classic.generation != undo.generation {
            return; // The rebalance that has begun since answers it.
        }
        let Some(waiting) = group.classic.take_awaiting_join(id) else { return };
        self.renew_session(group, id);
        if waiting.version >= SKIP_ASSIGNMENT_VERSION {
            let is_leader = group.classic.is_leader(id);
            self.answer_join(group, waiting, id, is_leader, is_leader);
        } else {
            // Named as leader, it would assign: so the one it no longer is stays leader in its eyes.
            let leader = Cow::Borrowed(undo.leader_before.as_deref().unwrap_or_default());
            self.reply(waiting, &current_generation(&group.classic, id, leader));
        }
    }

    pub fn static_member_failed(&mut self, group: &mut Group, undo: StaticMemberUndo, error: ErrorCode) {
        let waiting = group.classic.take_awaiting_join(&undo.new_id);
        group.classic.update(&undo.new_id, |member| {
            member.protocols = undo.old_protocols;
            member.rebalance_timeout_ms = undo.old_rebalance_timeout_ms;
            member.session_timeout_ms = undo.old_session_timeout_ms;
        });
        if group.classic.replace_static(&undo.instance_id, &undo.new_id, &undo.old_id).is_some() {
            self.timers.cancel(&self.heartbeat_key(group, &undo.new_id));
            self.schedule_heartbeat(group, &undo.old_id, undo.old_session_timeout_ms);
        }
        if let Some(waiting) = waiting {
            let leader = Cow::Borrowed(undo.leader_before.as_deref().unwrap_or_default());
            let mut response = current_generation(&group.classic, "", leader);
            response.error_code = coordinator_error(error).code();
            self.reply(waiting, &response);
        }
    }

    // A member with an id

    fn join_existing(&mut self, group: &mut Group, joining: &Joining<'_>) {
        let classic = &group.classic;
        if classic.is_pending_join(joining.member_id) {
            if joining.instance_id.is_some() {
                return self.fail_join(joining.waiting, joining.member_id, ErrorCode::UnknownServerError);
            }
            return self.add_member(group, joining, &joining.member_id.into());
        }
        if let Err(error) = classic.validate_member(joining.member_id, joining.instance_id) {
            return self.fail_join(joining.waiting, joining.member_id, error);
        }
        let Some(member) = classic.member(joining.member_id) else { return };
        let is_same = member.protocols == joining.protocols;
        let is_leader = classic.is_leader(joining.member_id);
        let id = member.id.clone();
        let reason = match classic.state() {
            State::PreparingRebalance => "a member rejoins",
            // It has missed the answer to its last join.
            State::CompletingRebalance if is_same => {
                return self.answer_join(group, joining.waiting, &id, is_leader, false);
            }
            State::Stable if is_leader => "the leader rejoins",
            State::Stable if is_same => return self.answer_join(group, joining.waiting, &id, false, false),
            State::CompletingRebalance | State::Stable => "a member's metadata has changed",
            State::Empty | State::Dead => {
                return self.fail_join(joining.waiting, &id, ErrorCode::UnknownMemberId);
            }
        };
        self.update_member(group, joining, &id);
        self.rebalance(group, reason);
    }

    fn update_member(&mut self, group: &mut Group, joining: &Joining<'_>, id: &Arc<str>) {
        let before = group.classic.update(id, |member| {
            member.protocols.clone_from(&joining.protocols);
            member.rebalance_timeout_ms = joining.rebalance_timeout_ms;
            member.session_timeout_ms = joining.session_timeout_ms;
            member.awaiting_join.replace(joining.waiting)
        });
        if let Some(Some(before)) = before {
            self.fail_join(before, id, ErrorCode::RebalanceInProgress);
        }
    }
}
