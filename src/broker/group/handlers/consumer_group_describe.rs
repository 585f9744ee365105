//! ConsumerGroupDescribe, versions 0 and 1: the kind of each member from 1 on. Answers in the order of the request and of
//! names, where Kafka's order is accidental.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::protocol::messages::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use crate::protocol::messages::consumer_group_describe_response::{
    Assignment, ConsumerGroupDescribeResponse, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use crate::protocol::{DecodeError, ErrorCode, Message, Uuid};

use super::describe_groups::ALL_OPERATIONS;
use crate::broker::group::appends::Response;
use crate::broker::group::consumer::ConsumerGroup;
use crate::broker::group::consumer::member::Member;
use crate::broker::group::coordinator::GroupCoordinator;
use crate::broker::group::{Effect, GroupRequest, Now, TopicLookup};

const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;

pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    topics: &dyn TopicLookup,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = ConsumerGroupDescribeRequest::decode_exact(request.body, request.version)?;
    let default_assignor = coordinator.config().consumer.default_assignor();
    let mut response = ConsumerGroupDescribeResponse::default();
    let mut appends = Vec::new();
    for group_id in message.group_ids.iter() {
        let mut described = match coordinator.serve(now, &group_id, out) {
            Ok((turn, partition)) => {
                appends.extend(turn.appends.last_of(turn.partition));
                let group = partition.groups.get(&*group_id).filter(|group| !group.is_dead());
                match group.map(|group| (group, &group.consumer)) {
                    Some((_, Some(consumer))) => describe(&group_id, consumer, default_assignor, topics),
                    Some((_, None)) => {
                        not_found(&group_id, format!("Group {group_id} is not a consumer group."))
                    }
                    None => not_found(&group_id, format!("Group {group_id} not found.")),
                }
            }
            Err(error) => failed_description(Cow::Owned(group_id.into_owned()), error.code()),
        };
        if message.include_authorized_operations && described.error_code == 0 {
            described.authorized_operations = ALL_OPERATIONS;
        }
        response.groups.push(described);
    }
    appends.sort_unstable();
    appends.dedup();
    let response = Response::ConsumerGroupDescribe(response);
    coordinator.appends().answer_after(&appends, request.waiting(), response, out);
    Ok(())
}

pub fn failed_description(group_id: Cow<'static, str>, error_code: i16) -> DescribedGroup<'static> {
    DescribedGroup { group_id, error_code, ..DescribedGroup::default() }
}

fn not_found(group_id: &str, message: String) -> DescribedGroup<'static> {
    DescribedGroup {
        error_message: Some(message.into()),
        ..failed_description(Cow::Owned(group_id.to_string()), ErrorCode::GroupIdNotFound.code())
    }
}

fn describe(
    group_id: &str,
    consumer: &ConsumerGroup,
    default_assignor: &'static str,
    topics: &dyn TopicLookup,
) -> DescribedGroup<'static> {
    DescribedGroup {
        group_id: Cow::Owned(group_id.to_string()),
        group_state: Cow::Borrowed(consumer.state().name()),
        group_epoch: consumer.epoch(),
        assignment_epoch: consumer.target_epoch().epoch,
        assignor_name: Cow::Borrowed(consumer.preferred_assignor(default_assignor)),
        members: consumer.members().map(|member| describe_member(consumer, member, topics)).collect(),
        ..DescribedGroup::default()
    }
}

fn describe_member(
    consumer: &ConsumerGroup,
    member: &Member,
    topics: &dyn TopicLookup,
) -> DescribedMember<'static> {
    let metadata = &*member.metadata;
    let text = |text: &Option<std::sync::Arc<str>>| text.as_ref().map(|text| Cow::Owned(text.to_string()));
    // What it still has to give up is its own until it has.
    let mut owned: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (topic, epochs) in member.current.assigned.iter().chain(&member.current.revoking) {
        owned.entry(*topic).or_default().extend(epochs.keys());
    }
    let target = consumer.target(&member.id).into_iter().flat_map(|target| target.iter());
    let target = target.map(|(topic, indexes)| (*topic, indexes.iter().copied().collect()));
    DescribedMember {
        member_id: Cow::Owned(member.id.to_string()),
        instance_id: text(&metadata.instance_id),
        rack_id: text(&metadata.rack_id),
        member_epoch: member.current.epoch,
        client_id: Cow::Owned(metadata.client_id.to_string()),
        client_host: Cow::Owned(metadata.client_host.to_string()),
        subscribed_topic_names: metadata.topics.iter().map(|topic| Cow::Owned(topic.to_string())).collect(),
        subscribed_topic_regex: text(&metadata.regex),
        assignment: assignment(owned, topics),
        target_assignment: assignment(target.collect(), topics),
        member_type: if member.uses_classic_protocol() { CLASSIC_MEMBER } else { CONSUMER_MEMBER },
    }
}

/// Without topics that are gone.
fn assignment(partitions: BTreeMap<Uuid, Vec<i32>>, topics: &dyn TopicLookup) -> Assignment<'static> {
    let topics = partitions.into_iter().filter_map(|(topic_id, partitions)| {
        let topic_name = Cow::Owned(topics.topic_name(topic_id)?.to_string());
        Some(TopicPartitions { topic_id, topic_name, partitions: partitions.into() })
    });
    Assignment { topic_partitions: topics.collect() }
}
