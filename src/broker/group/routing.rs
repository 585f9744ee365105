//! Which shard answers a group request. Most name one group; those that name several are split by shard and their answers
//! put together, and ListGroups asks every shard. Called by whoever holds the connection; keeps nothing.

use std::borrow::Cow;

use crate::protocol::messages::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use crate::protocol::messages::consumer_group_describe_response::ConsumerGroupDescribeResponse;
use crate::protocol::messages::delete_groups_request::DeleteGroupsRequest;
use crate::protocol::messages::delete_groups_response::DeleteGroupsResponse;
use crate::protocol::messages::describe_groups_request::DescribeGroupsRequest;
use crate::protocol::messages::describe_groups_response::DescribeGroupsResponse;
use crate::protocol::messages::list_groups_response::{ListGroupsResponse, ListedGroup};
use crate::protocol::messages::offset_fetch_request::OffsetFetchRequest;
use crate::protocol::messages::offset_fetch_response::OffsetFetchResponse;
use crate::protocol::{ApiKey, DecodeError, DecodeErrorKind, Element, Message, Reader};

use super::partition_for;

/// From this version on OffsetFetch names several groups.
const OFFSET_FETCH_GROUPS_VERSION: i16 = 8;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// As it is, to one shard.
    One(usize),
    /// As it is, to every shard; the answers are merged.
    Every,
    /// A body for each of these shards; the answers are merged in this order.
    Split(Vec<(usize, Vec<u8>)>),
}

/// `shard_of` tells who owns a partition of the offsets topic.
pub fn route(
    api_key: ApiKey,
    version: i16,
    body: &[u8],
    offsets_partitions: i32,
    shard_of: &dyn Fn(i32) -> usize,
) -> Result<Route, DecodeError> {
    let shard = |group_id: &str| shard_of(partition_for(group_id, offsets_partitions));
    match api_key {
        ApiKey::ListGroups => Ok(Route::Every),
        ApiKey::DescribeGroups => {
            let message = DescribeGroupsRequest::decode_exact(body, version)?;
            let groups = by_shard(message.groups.iter(), |group_id| shard(group_id));
            Ok(split(groups, shard(""), |groups| {
                let groups = groups.into();
                DescribeGroupsRequest { groups, ..message.clone() }.to_bytes(version)
            }))
        }
        ApiKey::ConsumerGroupDescribe => {
            let message = ConsumerGroupDescribeRequest::decode_exact(body, version)?;
            let groups = by_shard(message.group_ids.iter(), |group_id| shard(group_id));
            Ok(split(groups, shard(""), |groups| {
                let group_ids = groups.into();
                ConsumerGroupDescribeRequest { group_ids, ..message.clone() }.to_bytes(version)
            }))
        }
        ApiKey::DeleteGroups => {
            let message = DeleteGroupsRequest::decode_exact(body, version)?;
            let groups = by_shard(message.groups_names.iter(), |group_id| shard(group_id));
            Ok(split(groups, shard(""), |groups| {
                DeleteGroupsRequest { groups_names: groups.into() }.to_bytes(version)
            }))
        }
        ApiKey::OffsetFetch if version >= OFFSET_FETCH_GROUPS_VERSION => {
            let message = OffsetFetchRequest::decode_exact(body, version)?;
            let groups = by_shard(message.groups.iter(), |group| shard(&group.group_id));
            Ok(split(groups, shard(""), |groups| {
                OffsetFetchRequest { groups: groups.into(), ..message.clone() }.to_bytes(version)
            }))
        }
        _ => Ok(Route::One(shard(&group_id(api_key, version, body)?))),
    }
}

/// The answers of the shards as one; in the order of the route, or of the shards.
pub fn merge(api_key: ApiKey, version: i16, bodies: &[Vec<u8>]) -> Result<Vec<u8>, DecodeError> {
    match api_key {
        ApiKey::ListGroups => merge_lists(version, bodies),
        ApiKey::DescribeGroups => {
            let mut merged = DescribeGroupsResponse::default();
            for body in bodies {
                let response = DescribeGroupsResponse::decode_exact(body, version)?;
                response.groups.iter().for_each(|group| merged.groups.push(group));
            }
            Ok(merged.to_bytes(version))
        }
        ApiKey::ConsumerGroupDescribe => {
            let mut merged = ConsumerGroupDescribeResponse::default();
            for body in bodies {
                let response = ConsumerGroupDescribeResponse::decode_exact(body, version)?;
                response.groups.iter().for_each(|group| merged.groups.push(group));
            }
            Ok(merged.to_bytes(version))
        }
        ApiKey::DeleteGroups => {
            let mut merged = DeleteGroupsResponse::default();
            for body in bodies {
                let response = DeleteGroupsResponse::decode_exact(body, version)?;
                response.results.iter().for_each(|result| merged.results.push(result));
            }
            Ok(merged.to_bytes(version))
        }
        ApiKey::OffsetFetch => {
            let mut merged = OffsetFetchResponse::default();
            for body in bodies {
                let response = OffsetFetchResponse::decode_exact(body, version)?;
                response.groups.iter().for_each(|group| merged.groups.push(group));
            }
            Ok(merged.to_bytes(version))
        }
        _ => Ok(bodies.first().cloned().unwrap_or_default()),
    }
}

/// By id; the error of any shard is the error of all, as clients know no half a list.
fn merge_lists(version: i16, bodies: &[Vec<u8>]) -> Result<Vec<u8>, DecodeError> {
    let mut merged = ListGroupsResponse::default();
    let mut groups: Vec<ListedGroup<'_>> = Vec::new();
    for body in bodies {
        let response = ListGroupsResponse::decode_exact(body, version)?;
        if merged.error_code == 0 {
            merged.error_code = response.error_code;
        }
        groups.extend(response.groups);
    }
    if merged.error_code == 0 {
        groups.sort_unstable_by(|a, b| a.group_id.cmp(&b.group_id));
        merged.groups = groups.into();
    }
    Ok(merged.to_bytes(version))
}

/// The one group a request names. In all these APIs its id is the first field.
fn group_id<'a>(api_key: ApiKey, version: i16, body: &'a [u8]) -> Result<Cow<'a, str>, DecodeError> {
    match api_key {
        ApiKey::JoinGroup
        | ApiKey::SyncGroup
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup
        | ApiKey::ConsumerGroupHeartbeat
        | ApiKey::OffsetCommit
        | ApiKey::OffsetFetch
        | ApiKey::OffsetDelete => Reader::new(body).string("group_id", api_key.is_flexible(version)),
        other => {
            let kind = DecodeErrorKind::UnknownApiKey(other.code());
            Err(DecodeError { field: "group request", kind })
        }
    }
}

/// In the order in which the shards come up.
fn by_shard<T>(groups: impl Iterator<Item = T>, shard: impl Fn(&T) -> usize) -> Vec<(usize, Vec<T>)> {
    let mut shards: Vec<(usize, Vec<T>)> = Vec::new();
    for group in groups {
        let at = shard(&group);
        match shards.iter_mut().find(|(known, _)| *known == at) {
            Some((_, groups)) => groups.push(group),
            None => shards.push((at, vec![group])),
        }
    }
    shards
}

fn split<'a, T: Element<'a>>(
    shards: Vec<(usize, Vec<T>)>,
    shard_of_none: usize,
    body: impl Fn(Vec<T>) -> Vec<u8>,
) -> Route {
    match shards.as_slice() {
        [] => Route::One(shard_of_none),
        [(shard, _)] => Route::One(*shard),
        _ => Route::Split(shards.into_iter().map(|(shard, groups)| (shard, body(groups))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::heartbeat_request::HeartbeatRequest;
    use crate::protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;

    fn shard_of(partition: i32) -> usize {
        partition as usize % 2
    }

    #[test]
    fn one_group_goes_to_its_shard() {
        for version in [0, 4] {
            let body = HeartbeatRequest { group_id: "range".into(), ..Default::default() }.to_bytes(version);
            let route = route(ApiKey::Heartbeat, version, &body, 50, &shard_of);
            assert_eq!(route, Ok(Route::One(1)));
        }
        assert!(route(ApiKey::Heartbeat, 4, &[], 50, &shard_of).is_err());
    }

    #[test]
    fn several_groups_are_split_and_merged() {
        let group = |id: &'static str| OffsetFetchRequestGroup { group_id: id.into(), ..Default::default() };
        // Partitions 25, 44 and 23.
        let groups = ["range", "roundrobin", "grüße"].map(group);
        let request =
            OffsetFetchRequest { groups: groups.into(), require_stable: true, ..Default::default() };
        let Ok(Route::Split(parts)) = route(ApiKey::OffsetFetch, 9, &request.to_bytes(9), 50, &shard_of)
        else {
            panic!("not split")
        };
        let ids = |body: &[u8]| {
            let message = OffsetFetchRequest::decode_exact(body, 9).unwrap();
            assert!(message.require_stable);
            message.groups.iter().map(|group| group.group_id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!((parts[0].0, ids(&parts[0].1)), (1, vec!["range".to_string(), "grüße".to_string()]));
        assert_eq!((parts[1].0, ids(&parts[1].1)), (0, vec!["roundrobin".to_string()]));
        let one = OffsetFetchRequest { groups: [group("range")].into(), ..Default::default() };
        assert_eq!(route(ApiKey::OffsetFetch, 9, &one.to_bytes(9), 50, &shard_of), Ok(Route::One(1)));
    }

    #[test]
    fn lists_are_one() {
        let list = |ids: &[&'static str], error_code| {
            let groups = ids.iter().map(|id| ListedGroup { group_id: (*id).into(), ..Default::default() });
            ListGroupsResponse { groups: groups.collect(), error_code, ..Default::default() }.to_bytes(4)
        };
        let merged = merge(ApiKey::ListGroups, 4, &[list(&["b", "d"], 0), list(&["a", "c"], 0)]).unwrap();
        assert_eq!(merged, list(&["a", "b", "c", "d"], 0));
        assert_eq!(merge(ApiKey::ListGroups, 4, &[list(&["b"], 0), list(&[], 14)]).unwrap(), list(&[], 14));
    }
}
