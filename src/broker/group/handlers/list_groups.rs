//! ListGroups, versions 0 to 5. Answers in the order of the groups' ids, where Kafka's order is accidental.

use std::borrow::Cow;

use crate::protocol::messages::list_groups_request::ListGroupsRequest;
use crate::protocol::messages::list_groups_response::{ListGroupsResponse, ListedGroup};
use crate::protocol::{DecodeError, ErrorCode, Message};

use crate::broker::group::classic::CONSUMER_PROTOCOL;
use crate::broker::group::coordinator::GroupCoordinator;
use crate::broker::group::entry::Group;
use crate::broker::group::{Effect, GroupRequest};

pub fn handle(
    coordinator: &mut GroupCoordinator,
    request: &GroupRequest<'_>,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = ListGroupsRequest::decode_exact(request.body, request.version)?;
    let states: Vec<_> = message.states_filter.iter().map(|state| state.trim().to_lowercase()).collect();
    let is_wanted = |state: &str| states.is_empty() || states.iter().any(|s| s.eq_ignore_ascii_case(state));
    let types: Vec<_> = message.types_filter.iter().collect();
    let is_of_type = |group: &Group| {
        types.is_empty() || types.iter().any(|name| name.eq_ignore_ascii_case(group_type(group)))
    };
    let mut response = ListGroupsResponse::default();
    let partitions = coordinator.partitions();
    if partitions.clone().any(|partition| partition.loading) {
        response.error_code = ErrorCode::CoordinatorLoadInProgress.code();
    } else {
        let groups = partitions.flat_map(|partition| partition.groups.values());
        let mut groups: Vec<_> = groups.filter(|group| !group.is_dead()).collect();
        groups.retain(|group| is_wanted(state(group)) && is_of_type(group));
        groups.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let listed = groups.into_iter().map(|group| ListedGroup {
            group_id: Cow::Borrowed(&group.id),
            protocol_type: Cow::Borrowed(match &group.consumer {
                Some(_) => CONSUMER_PROTOCOL,
                None => group.classic.protocol_type.as_deref().unwrap_or_default(),
            }),
            group_state: Cow::Borrowed(state(group)),
            group_type: Cow::Borrowed(group_type(group)),
        });
        response.groups = listed.collect();
    }
    out.push(Effect::Reply { to: request.to, body: response.to_bytes(request.version) });
    Ok(())
}

fn state(group: &Group) -> &'static str {
    match &group.consumer {
        Some(consumer) => consumer.state().name(),
        None => group.classic.state().name(),
    }
}

fn group_type(group: &Group) -> &'static str {
    if group.consumer.is_some() { "consumer" } else { "classic" }
}
