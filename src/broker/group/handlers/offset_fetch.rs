//! OffsetFetch, versions 1 to 10: one group up to 7, several from 8 on; topics by id from 10 on.
//!
//! With `require_stable` the answer holds all commits received before, and waits until they are in the log; what an open
//! transaction has committed makes a partition UNSTABLE_OFFSET_COMMIT.

use std::borrow::Cow;
use std::sync::Arc;

use crate::protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopics};
use crate::protocol::messages::offset_fetch_response::{
    OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use crate::protocol::{DecodeError, ErrorCode, Message, Uuid};

use crate::broker::group::appends::Response;
use crate::broker::group::coordinator::{GroupCoordinator, Partition};
use crate::broker::group::offsets::{CommittedOffset, Offsets, View};
use crate::broker::group::{Effect, GroupRequest, Now, TopicLookup};

const TOP_LEVEL_ERROR_VERSION: i16 = 2;
const GROUPS_VERSION: i16 = 8;
const TOPIC_ID_VERSION: i16 = 10;

/// One group's part of a request, in any version.
struct GroupFetch {
    group_id: String,
    member_id: Option<String>,
    member_epoch: i32,
    /// None for all topics with an offset.
    topics: Option<Vec<TopicFetch>>,
}

struct TopicFetch {
    /// None if no topic has the id.
    name: Option<Arc<str>>,
    id: Uuid,
    partitions: Vec<i32>,
}

/// An answer in the making; an error of a group leaves its topics out, but for the oldest version.
#[derive(Debug)]
pub struct OffsetFetchAnswer {
    groups: Vec<OffsetFetchResponseGroup<'static>>,
}

pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    topics: &dyn TopicLookup,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = OffsetFetchRequest::decode_exact(request.body, request.version)?;
    let view = if message.require_stable { View::Latest } else { View::Committed };
    let by_id = request.version >= TOPIC_ID_VERSION;
    let mut answer = OffsetFetchAnswer { groups: Vec::new() };
    let mut appends = Vec::new();
    for fetch in group_fetches(&message, request.version, topics) {
        let group = match coordinator.serve(now, &fetch.group_id, out) {
            Ok((turn, partition)) => {
                if view == View::Latest {
                    appends.extend(turn.appends.last_of(turn.partition));
                }
                match (find_offsets(partition, &fetch), fetch.topics) {
                    (Err(error), topics) => failed_group(GroupFetch { topics, ..fetch }, error),
                    (Ok(found), Some(wanted)) => {
                        group_response(fetch.group_id, fetch_topics(found, wanted, by_id, view))
                    }
                    (Ok(found), None) => {
                        group_response(fetch.group_id, fetch_all(found, by_id, view, topics))
                    }
                }
            }
            Err(error) => failed_group(fetch, error),
        };
        answer.groups.push(group);
    }
    appends.sort_unstable();
    appends.dedup();
    let response = Response::OffsetFetch(answer);
    coordinator.appends().answer_after(&appends, request.waiting(), response, out);
    Ok(())
}

/// Whoever asks as a member of a consumer group has to be one, in its epoch.
fn find_offsets<'p>(partition: &'p Partition, fetch: &GroupFetch) -> Result<Option<&'p Offsets>, ErrorCode> {
    let group = partition.groups.get(&*fetch.group_id).filter(|group| !group.is_dead());
    if let Some(consumer) = group.and_then(|group| group.consumer.as_ref()) {
        consumer.validate_fetch(fetch.member_id.as_deref(), fetch.member_epoch)?;
    }
    Ok(group.map(|group| &group.offsets))
}

/// The request as the last version would put it, ids looked up.
fn group_fetches(
    message: &OffsetFetchRequest<'_>,
    version: i16,
    lookup: &dyn TopicLookup,
) -> Vec<GroupFetch> {
    let topic = |topic: OffsetFetchRequestTopics<'_>| TopicFetch {
        name: match version >= TOPIC_ID_VERSION {
            true if topic.topic_id.is_zero() => None,
            true => lookup.topic_name(topic.topic_id),
            false => Some(topic.name.as_ref().into()),
        },
        id: topic.topic_id,
        partitions: topic.partition_indexes.to_vec(),
    };
    if version < GROUPS_VERSION {
        let topics = message.topics.as_ref().map(|topics| {
            let by_name = topics.iter().map(|topic| TopicFetch {
                name: Some(topic.name.as_ref().into()),
                id: Uuid::ZERO,
                partitions: topic.partition_indexes.to_vec(),
            });
            by_name.collect()
        });
        let group_id = message.group_id.to_string();
        return vec![GroupFetch { group_id, member_id: None, member_epoch: -1, topics }];
    }
    let groups = message.groups.iter().map(|group| GroupFetch {
        group_id: group.group_id.to_string(),
        member_id: group.member_id.as_ref().map(|id| id.to_string()),
        member_epoch: group.member_epoch,
        topics: group.topics.as_ref().map(|topics| topics.iter().map(topic).collect()),
    });
    groups.collect()
}

/// In the request's order, topics of unknown ids last.
fn fetch_topics(
    offsets: Option<&Offsets>,
    wanted: Vec<TopicFetch>,
    by_id: bool,
    view: View,
) -> Vec<OffsetFetchResponseTopics<'static>> {
    let (known, unknown): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|topic| topic.name.is_some());
    let known = known.into_iter().map(|topic| {
        let name = topic.name.unwrap_or_default();
        let partitions = topic.partitions.iter().map(|&index| {
            if is_unstable(offsets, &name, index, view) {
                return unstable_response(index);
            }
            let value = offsets.and_then(|offsets| offsets.get(&name, index, view));
            // An offset of a topic that has gone since, under the same name.
            let is_other = |value: &&CommittedOffset| {
                value.topic_id.is_zero() || topic.id.is_zero() || value.topic_id == topic.id
            };
            partition_response(index, value.filter(is_other))
        });
        topic_response(&name, topic.id, partitions.collect(), by_id)
    });
    let unknown = unknown.into_iter().map(|topic| {
        let error = |&index: &i32| OffsetFetchResponsePartitions {
            error_code: ErrorCode::UnknownTopicId.code(),
            ..partition_response(index, None)
        };
        topic_response("", topic.id, topic.partitions.iter().map(error).collect(), by_id)
    });
    known.chain(unknown).collect()
}

/// By topic and partition; where ids are asked for, topics without one are left out.
fn fetch_all(
    offsets: Option<&Offsets>,
    by_id: bool,
    view: View,
    lookup: &dyn TopicLookup,
) -> Vec<OffsetFetchResponseTopics<'static>> {
    let mut topics: Vec<(Arc<str>, Vec<OffsetFetchResponsePartitions<'static>>)> = Vec::new();
    for (topic, index, value) in offsets.into_iter().flat_map(|offsets| offsets.iter(view)) {
        let partition = match is_unstable(offsets, topic, index, view) {
            true => unstable_response(index),
            false => partition_response(index, Some(value)),
        };
        match topics.last_mut() {
            Some((name, partitions)) if *name == *topic => partitions.push(partition),
            _ => topics.push((topic.clone(), vec![partition])),
        }
    }
    let topics = topics.into_iter().filter_map(|(name, partitions)| {
        let id = if by_id { lookup.topic_id(&name)? } else { Uuid::ZERO };
        Some(topic_response(&name, id, partitions, by_id))
    });
    topics.collect()
}

/// Whether the offset may be another soon, and that matters.
fn is_unstable(offsets: Option<&Offsets>, topic: &str, index: i32, view: View) -> bool {
    view == View::Latest && offsets.is_some_and(|offsets| offsets.is_unstable(topic, index))
}

fn unstable_response(index: i32) -> OffsetFetchResponsePartitions<'static> {
    let error_code = ErrorCode::UnstableOffsetCommit.code();
    OffsetFetchResponsePartitions { error_code, ..partition_response(index, None) }
}

fn partition_response(
    partition_index: i32,
    value: Option<&CommittedOffset>,
) -> OffsetFetchResponsePartitions<'static> {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: value.map_or(-1, |value| value.offset),
        committed_leader_epoch: value.map_or(-1, |value| value.leader_epoch),
        metadata: Some(Cow::Owned(value.map_or_else(String::new, |value| value.metadata.to_string()))),
        error_code: 0,
    }
}

fn topic_response(
    name: &str,
    topic_id: Uuid,
    partitions: Vec<OffsetFetchResponsePartitions<'static>>,
    by_id: bool,
) -> OffsetFetchResponseTopics<'static> {
    let name = Cow::Owned(if by_id { String::new() } else { name.to_string() });
    OffsetFetchResponseTopics { name, topic_id, partitions: partitions.into() }
}

fn group_response(
    group_id: String,
    topics: Vec<OffsetFetchResponseTopics<'static>>,
) -> OffsetFetchResponseGroup<'static> {
    OffsetFetchResponseGroup { group_id: Cow::Owned(group_id), topics: topics.into(), error_code: 0 }
}

/// The topics stay for the oldest version, which has no other place for the error.
fn failed_group(fetch: GroupFetch, error: ErrorCode) -> OffsetFetchResponseGroup<'static> {
    let topics = fetch_topics(None, fetch.topics.unwrap_or_default(), false, View::Committed);
    OffsetFetchResponseGroup { error_code: error.code(), ..group_response(fetch.group_id, topics) }
}

impl OffsetFetchAnswer {
    pub fn fail(&mut self, error_code: i16) {
        for group in self.groups.iter_mut().filter(|group| group.error_code == 0) {
            group.error_code = error_code;
        }
    }

    pub fn to_bytes(&self, version: i16) -> Vec<u8> {
        let mut response = OffsetFetchResponse::default();
        if version >= GROUPS_VERSION {
            let groups = self.groups.iter().map(|group| match group.error_code {
                0 => group.clone(),
                _ => OffsetFetchResponseGroup { topics: Vec::new().into(), ..group.clone() },
            });
            response.groups = groups.collect();
        } else if let Some(group) = self.groups.first() {
            response.error_code = group.error_code;
            if group.error_code == 0 || version < TOP_LEVEL_ERROR_VERSION {
                response.topics =
                    group.topics.iter().map(|topic| old_topic(topic, group.error_code)).collect();
            }
        }
        response.to_bytes(version)
    }
}

fn old_topic(
    topic: OffsetFetchResponseTopics<'static>,
    error_code: i16,
) -> OffsetFetchResponseTopic<'static> {
    let partitions = topic.partitions.into_iter().map(|partition| match error_code {
        0 => partition,
        _ => OffsetFetchResponsePartitions {
            error_code,
            ..partition_response(partition.partition_index, None)
        },
    });
    let partitions = partitions.map(|partition| OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: partition.error_code,
    });
    OffsetFetchResponseTopic { name: topic.name, partitions: partitions.collect() }
}
