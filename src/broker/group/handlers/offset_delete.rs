//! OffsetDelete, version 0.

use std::borrow::Cow;
use std::sync::Arc;

use crate::protocol::messages::offset_delete_request::{OffsetDeleteRequest, OffsetDeleteRequestTopic};
use crate::protocol::messages::offset_delete_response::{
    OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use crate::protocol::{DecodeError, ErrorCode, Message};

use crate::broker::group::appends::Response;
use crate::broker::group::classic::State;
use crate::broker::group::coordinator::{GroupCoordinator, Partition};
use crate::broker::group::entry::Group;
use crate::broker::group::offsets::View;
use crate::broker::group::turn::Turn;
use crate::broker::group::{AppendId, Effect, GroupRequest, Now, TopicLookup};

type Topics = Vec<(String, Vec<OffsetDeleteResponsePartition>)>;

pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    topics: &dyn TopicLookup,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = OffsetDeleteRequest::decode_exact(request.body, request.version)?;
    let mut answer = Topics::new();
    let known = known_topics(&message, topics, &mut answer);
    let result = if message.group_id.is_empty() {
        Err(ErrorCode::InvalidGroupId)
    } else {
        match coordinator.serve(now, &message.group_id, out) {
            Ok((mut turn, partition)) => {
                turn.delete_offsets(partition, &message.group_id, &known, &mut answer)
            }
            Err(error) => Err(error),
        }
    };
    let (response, appends) = match result {
        Ok(appends) => (respond(answer), appends),
        Err(error) => {
            (OffsetDeleteResponse { error_code: error.code(), ..OffsetDeleteResponse::default() }, Vec::new())
        }
    };
    let response = Response::OffsetDelete(response);
    coordinator.appends().answer_after(&appends, request.waiting(), response, out);
    Ok(())
}

/// The partitions that exist; the others go into the answer.
fn known_topics(
    message: &OffsetDeleteRequest<'_>,
    lookup: &dyn TopicLookup,
    answer: &mut Topics,
) -> Vec<(String, Vec<i32>)> {
    let mut known = Vec::new();
    for OffsetDeleteRequestTopic { name, partitions } in &message.topics {
        let count = lookup.partition_count(&name).unwrap_or(0);
        let indexes = partitions.iter().map(|partition| partition.partition_index);
        let (valid, unknown): (Vec<_>, Vec<_>) = indexes.partition(|index| (0..count).contains(index));
        if !unknown.is_empty() || count == 0 {
            add(answer, &name, &unknown, ErrorCode::UnknownTopicOrPartition);
        }
        if !valid.is_empty() {
            known.push((name.into_owned(), valid));
        }
    }
    known
}

fn add(answer: &mut Topics, name: &str, indexes: &[i32], error: ErrorCode) {
    let partitions = indexes
        .iter()
        .map(|&partition_index| OffsetDeleteResponsePartition { partition_index, error_code: error.code() });
    match answer.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => known.extend(partitions),
        None => answer.push((name.to_string(), partitions.collect())),
    }
}

fn respond(answer: Topics) -> OffsetDeleteResponse<'static> {
    let topics = answer.into_iter().map(|(name, partitions)| OffsetDeleteResponseTopic {
        name: Cow::Owned(name),
        partitions: partitions.into(),
    });
    OffsetDeleteResponse { topics: topics.collect(), ..OffsetDeleteResponse::default() }
}

fn validate(group: &Group) -> Result<(), ErrorCode> {
    match group.classic.state() {
        State::Dead => Err(ErrorCode::GroupIdNotFound),
        State::Empty => Ok(()), // a consumer group, too
        _ if group.classic.uses_consumer_protocol() => Ok(()),
        _ => Err(ErrorCode::NonEmptyGroup),
    }
}

impl Turn<'_> {
    fn delete_offsets(
        &mut self,
        partition: &mut Partition,
        group_id: &str,
        topics: &[(String, Vec<i32>)],
        answer: &mut Topics,
    ) -> Result<Vec<AppendId>, ErrorCode> {
        let group = partition.groups.get_mut(group_id).ok_or(ErrorCode::GroupIdNotFound)?;
        validate(group)?;
        let mut offsets: Vec<(Arc<str>, i32)> = Vec::new();
        for (topic, indexes) in topics {
            if group.is_subscribed_to(topic) {
                add(answer, topic, indexes, ErrorCode::GroupSubscribedToTopic);
                continue;
            }
            add(answer, topic, indexes, ErrorCode::None);
            let name = group.offsets.topic_name(topic);
            let has_offset = |index: &&i32| {
                group.offsets.get(topic, **index, View::Latest).is_some()
                    || group.offsets.is_unstable(topic, **index)
            };
            offsets.extend(indexes.iter().filter(has_offset).map(|&index| (name.clone(), index)));
        }
        offsets.sort_unstable();
        offsets.dedup();
        let appends = self.append_tombstones(group, &offsets, false);
        self.account(group);
        appends
    }
}
