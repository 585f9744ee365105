//! LeaveGroup, versions 0 to 5: one member up to version 2, several from 3 on, by member id or by instance id.

use std::borrow::Cow;
use std::sync::Arc;

use crate::protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use crate::protocol::messages::leave_group_response::{LeaveGroupResponse, MemberResponse};
use crate::protocol::{DecodeError, ErrorCode, Message};

use crate::broker::group::appends::Response;
use crate::broker::group::classic::State;
use crate::broker::group::coordinator::{GroupCoordinator, Partition};
use crate::broker::group::entry::Group;
use crate::broker::group::turn::Turn;
use crate::broker::group::{AppendId, Effect, GroupRequest, Now, TopicLookup};

/// From this version on several members can leave at once.
const MEMBERS_VERSION: i16 = 3;

pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    topics: &dyn TopicLookup,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let mut message = LeaveGroupRequest::decode_exact(request.body, request.version)?;
    if request.version < MEMBERS_VERSION {
        let member_id = message.member_id.clone();
        message.members = [MemberIdentity { member_id, ..MemberIdentity::default() }].into();
    }
    let waiting = request.waiting();
    let served = if message.group_id.is_empty() {
        Err(ErrorCode::InvalidGroupId)
    } else {
        coordinator.serve(now, &message.group_id, out)
    };
    let response = match served {
        Ok((mut turn, partition)) => match turn.leave(partition, &message, topics) {
            Ok((members, append)) => {
                let response = Response::LeaveGroup(answer(members, request.version));
                turn.appends.answer_after(append.as_slice(), waiting, response, turn.out);
                return Ok(());
            }
            Err(error) => LeaveGroupResponse { error_code: error.code(), ..LeaveGroupResponse::default() },
        },
        Err(error) => LeaveGroupResponse { error_code: error.code(), ..LeaveGroupResponse::default() },
    };
    out.push(Effect::Reply { to: request.to, body: response.to_bytes(request.version) });
    Ok(())
}

/// Up to version 2 the error of the one member is that of the answer.
fn answer(members: Vec<MemberResponse<'static>>, version: i16) -> LeaveGroupResponse<'static> {
    let mut response = LeaveGroupResponse::default();
    if version < MEMBERS_VERSION {
        response.error_code = members.first().map_or(0, |member| member.error_code);
    } else {
        response.members = members.into();
    }
    response
}

impl Turn<'_> {
    fn leave(
        &mut self,
        partition: &mut Partition,
        message: &LeaveGroupRequest<'_>,
        topics: &dyn TopicLookup,
    ) -> Result<(Vec<MemberResponse<'static>>, Option<AppendId>), ErrorCode> {
        let Some(group) = partition.groups.get_mut(&*message.group_id) else {
            let unknown = |identity| member_response(identity, ErrorCode::UnknownMemberId);
            return Ok((message.members.iter().map(unknown).collect(), None));
        };
        if group.is_dead() {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        if group.consumer.is_some() {
            return self.leave_from_consumer_group(group, message, topics);
        }
        let mut members = Vec::new();
        let mut has_left = false;
        for identity in &message.members {
            let result = self.leave_member(group, &identity);
            has_left |= result.is_ok();
            members.push(member_response(identity, result.err().unwrap_or(ErrorCode::None)));
        }
        let append = match group.classic.state() {
            _ if !has_left => None,
            State::Stable | State::CompletingRebalance => self.rebalance(group, "members have left"),
            State::PreparingRebalance => self.maybe_complete_join(group),
            State::Empty | State::Dead => None,
        };
        self.account(group);
        Ok((members, append))
    }

    fn leave_from_consumer_group(
        &mut self,
        group: &mut Group,
        message: &LeaveGroupRequest<'_>,
        topics: &dyn TopicLookup,
    ) -> Result<(Vec<MemberResponse<'static>>, Option<AppendId>), ErrorCode> {
        let members = message.members.to_vec();
        let identities: Vec<_> = members
            .iter()
            .map(|identity| (&*identity.member_id, identity.group_instance_id.as_deref()))
            .collect();
        let left = self.leave_as_classic(group, &identities, topics);
        self.account(group);
        let (errors, append) = left?;
        let responses = members.into_iter().zip(errors);
        Ok((responses.map(|(identity, error)| member_response(identity, error)).collect(), append))
    }

    fn leave_member(&mut self, group: &mut Group, identity: &MemberIdentity<'_>) -> Result<(), ErrorCode> {
        let id = if identity.member_id.is_empty() {
            // An administrator names static members by their instance id only.
            let instance_id = identity.group_instance_id.as_deref();
            let id = instance_id.and_then(|instance_id| group.classic.static_member_id(instance_id));
            id.cloned().ok_or(ErrorCode::UnknownMemberId)?
        } else if group.classic.is_pending_join(&identity.member_id) {
            Arc::from(&*identity.member_id)
        } else {
            group.classic.validate_member(&identity.member_id, identity.group_instance_id.as_deref())?;
            Arc::from(&*identity.member_id)
        };
        self.remove_member(group, &id);
        Ok(())
    }
}

fn member_response(identity: MemberIdentity<'_>, error: ErrorCode) -> MemberResponse<'static> {
    MemberResponse {
        member_id: Cow::Owned(identity.member_id.into_owned()),
        group_instance_id: identity.group_instance_id.map(|id| Cow::Owned(id.into_owned())),
        error_code: error.code(),
    }
}
