//! DescribeGroups, versions 0 to 6. Answers in the order of the request, where Kafka's order is accidental.

use std::borrow::Cow;

use crate::protocol::messages::describe_groups_request::DescribeGroupsRequest;
use crate::protocol::messages::describe_groups_response::{
    DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use crate::protocol::{DecodeError, ErrorCode, Message};

use crate::broker::group::classic::State;
use crate::broker::group::coordinator::{GroupCoordinator, Partition};
use crate::broker::group::entry::Group;
use crate::broker::group::member::Member;
use crate::broker::group::{Effect, GroupRequest};

/// From this version on a group that does not exist is an error.
const NOT_FOUND_VERSION: i16 = 6;
/// Everything there is to do to a group, as no authorizer forbids it: READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS,
/// ALTER_CONFIGS.
pub const ALL_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

pub fn handle(
    coordinator: &mut GroupCoordinator,
    request: &GroupRequest<'_>,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = DescribeGroupsRequest::decode_exact(request.body, request.version)?;
    let mut response = DescribeGroupsResponse::default();
    for group_id in message.groups.iter() {
        let described =
            coordinator.active(&group_id).map(|partition| describe(partition, &group_id, request.version));
        let mut described = described.unwrap_or_else(|error| DescribedGroup {
            error_code: error.code(),
            group_id: group_id.clone(),
            ..DescribedGroup::default()
        });
        if message.include_authorized_operations && described.error_code == 0 {
            described.authorized_operations = ALL_OPERATIONS;
        }
        response.groups.push(described);
    }
    out.push(Effect::Reply { to: request.to, body: response.to_bytes(request.version) });
    Ok(())
}

fn describe<'g>(partition: &'g Partition, group_id: &Cow<'g, str>, version: i16) -> DescribedGroup<'g> {
    let mut described = DescribedGroup { group_id: group_id.clone(), ..DescribedGroup::default() };
    let group = partition.groups.get(&**group_id);
    let Some(group) = group.filter(|group| group.consumer.is_none()) else {
        described.group_state = Cow::Borrowed(State::Dead.name());
        if version >= NOT_FOUND_VERSION {
            let reason = if group.is_some() { "is not a classic group" } else { "not found" };
            described.error_code = ErrorCode::GroupIdNotFound.code();
            described.error_message = Some(format!("Group {group_id} {reason}.").into());
        }
        return described;
    };
    let classic = &group.classic;
    described.group_state = Cow::Borrowed(classic.state().name());
    described.protocol_type = Cow::Borrowed(classic.protocol_type.as_deref().unwrap_or_default());
    if classic.is(State::Stable) {
        described.protocol_data = Cow::Borrowed(classic.protocol.as_deref().unwrap_or_default());
    }
    described.members = classic.members().map(|member| describe_member(group, member)).collect();
    described
}

/// What a member said counts only while it is what the group has agreed on.
fn describe_member<'g>(group: &'g Group, member: &'g Member) -> DescribedGroupMember<'g> {
    let protocol = group.classic.protocol.as_deref().filter(|_| group.classic.is(State::Stable));
    let metadata = protocol.and_then(|protocol| member.metadata(protocol));
    DescribedGroupMember {
        member_id: Cow::Borrowed(&member.id),
        group_instance_id: member.instance_id.as_deref().map(Cow::Borrowed),
        client_id: Cow::Borrowed(&member.client_id),
        client_host: Cow::Borrowed(&member.client_host),
        member_metadata: Cow::Borrowed(metadata.unwrap_or_default()),
        member_assignment: Cow::Borrowed(&member.assignment),
    }
}
