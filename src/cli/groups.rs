//! What consumers and `group` ask of a group's coordinator: where it is, the committed offsets, a commit.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::client::{Client, To};
use super::cluster::{self, TopicPartition, named};
use super::failure::Failure;
use crate::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use crate::protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestGroup};

/// The last version in which topics go by name.
const VERSION_MAX: i16 = 9;
/// The first version that asks for several groups.
const FETCH_GROUPS_VERSION: i16 = 8;
const COORDINATOR_KEYS_VERSION: i16 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    pub metadata: String,
}

/// The broker that coordinates the group; asked each time, since it costs little and may move.
pub fn coordinator(client: &mut Client, group: &str) -> Result<i32, Failure> {
    let request = FindCoordinatorRequest {
        key: group.into(),
        key_type: 0,
        coordinator_keys: [Cow::Borrowed(group)].into(),
    };
    client.retry(|client| {
        let answer = client.call(To::Any, i16::MAX, &request)?;
        let response = answer.read::<FindCoordinatorRequest<'_>>()?;
        let what = format!("group {group}");
        if answer.version < COORDINATOR_KEYS_VERSION {
            Failure::check(what, response.error_code, response.error_message.as_deref())?;
            client.learn(response.node_id, &response.host, response.port);
            return Ok(response.node_id);
        }
        let found = response.coordinators.first().ok_or_else(|| Failure::answer("no coordinator"))?;
        Failure::check(what, found.error_code, found.error_message.as_deref())?;
        client.learn(found.node_id, &found.host, found.port);
        Ok(found.node_id)
    })
}

/// All that the group has committed; nothing where it does not exist.
pub fn committed(client: &mut Client, group: &str) -> Result<BTreeMap<TopicPartition, Committed>, Failure> {
    client.retry(|client| {
        let coordinator = coordinator(client, group)?;
        let asked = OffsetFetchRequestGroup {
            group_id: group.into(),
            topics: None,
            ..OffsetFetchRequestGroup::default()
        };
        let request = OffsetFetchRequest {
            group_id: group.into(),
            topics: None,
            groups: [asked].into(),
            require_stable: false,
        };
        let answer = client.call(To::Broker(coordinator), VERSION_MAX, &request)?;
        let response = answer.read::<OffsetFetchRequest<'_>>()?;
        let mut found = BTreeMap::new();
        let mut add = |place: TopicPartition, code, offset: i64, metadata: Option<&str>| {
            Failure::check(named(&place), code, None)?;
            if offset >= 0 {
                let metadata = metadata.unwrap_or_default().to_owned();
                found.insert(place, Committed { offset, metadata });
            }
            Ok::<(), Failure>(())
        };
        if answer.version < FETCH_GROUPS_VERSION {
            Failure::check(format!("group {group}"), response.error_code, None)?;
            for topic in &response.topics {
                for p in &topic.partitions {
                    let place = (topic.name.to_string(), p.partition_index);
                    add(place, p.error_code, p.committed_offset, p.metadata.as_deref())?;
                }
            }
            return Ok(found);
        }
        let one = response.groups.first().ok_or_else(|| Failure::answer("no group in it"))?;
        Failure::check(format!("group {group}"), one.error_code, None)?;
        for topic in &one.topics {
            for p in &topic.partitions {
                let place = (topic.name.to_string(), p.partition_index);
                add(place, p.error_code, p.committed_offset, p.metadata.as_deref())?;
            }
        }
        Ok(found)
    })
}

/// Commits for a member, or with generation -1 and no member for a group that has none.
pub fn commit(
    client: &mut Client,
    group: &str,
    generation: i32,
    member: &str,
    offsets: &BTreeMap<TopicPartition, i64>,
) -> Result<(), Failure> {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition<'_>>> = BTreeMap::new();
    for ((topic, partition), &offset) in offsets {
        topics.entry(topic).or_default().push(OffsetCommitRequestPartition {
            partition_index: *partition,
            committed_offset: offset,
            committed_metadata: Some("".into()),
            ..OffsetCommitRequestPartition::default()
        });
    }
    let topics = topics.into_iter().map(|(name, partitions)| OffsetCommitRequestTopic {
        name: name.into(),
        partitions: partitions.into(),
        ..OffsetCommitRequestTopic::default()
    });
    let request = OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: generation,
        member_id: member.into(),
        topics: topics.collect(),
        ..OffsetCommitRequest::default()
    };
    client.retry(|client| {
        let coordinator = coordinator(client, group)?;
        let answer = client.call(To::Broker(coordinator), VERSION_MAX, &request)?;
        let response = answer.read::<OffsetCommitRequest<'_>>()?;
        for topic in &response.topics {
            for partition in &topic.partitions {
                let place: TopicPartition = (topic.name.to_string(), partition.partition_index);
                Failure::check(cluster::named(&place), partition.error_code, None)?;
            }
        }
        Ok(())
    })
}
