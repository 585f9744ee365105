//! ConsumerGroupHeartbeat, versions 0 and 1: a pattern may be subscribed to from 1 on, which also has members draw their ids.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::protocol::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use crate::protocol::messages::consumer_group_heartbeat_response::{
    Assignment, ConsumerGroupHeartbeatResponse, TopicPartitions,
};
use crate::protocol::{DecodeError, ErrorCode, Message};

use crate::broker::group::appends::Response;
use crate::broker::group::consumer::draft::Refusal;
use crate::broker::group::consumer::heartbeat::{Beat, BeatAnswer};
use crate::broker::group::consumer::member::{LEAVE_EPOCH, LEAVE_STATIC_EPOCH};
use crate::broker::group::coordinator::GroupCoordinator;
use crate::broker::group::{Effect, GroupConfig, GroupRequest, Now, TopicLookup};

/// From this version on a member has to come with an id.
const MEMBER_ID_VERSION: i16 = 1;

type Request<'a> = ConsumerGroupHeartbeatRequest<'a>;

pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    topics: &dyn TopicLookup,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = Request::decode_exact(request.body, request.version)?;
    let result = match validate(&message, request.version, coordinator.config()) {
        Ok(()) => match coordinator.serve(now, &message.group_id, out) {
            Ok((mut turn, partition)) => {
                let beat = beat(&message, request);
                let answered = match beat.epoch {
                    LEAVE_EPOCH | LEAVE_STATIC_EPOCH => turn.leave_consumer_group(partition, &beat, topics),
                    _ => turn.beat(partition, &beat, topics),
                };
                // Nothing new to write: what is said rests on what others have written.
                answered.map(|(answer, append)| (answer, append.or(turn.appends.last_of(turn.partition))))
            }
            Err(error) => Err(error.into()),
        },
        Err(refusal) => Err(refusal),
    };
    match result {
        Ok((answer, append)) => {
            let response = Response::ConsumerGroupHeartbeat(response(answer));
            coordinator.appends().answer_after(append.as_slice(), request.waiting(), response, out);
        }
        Err(Refusal { error, message }) => {
            let response = ConsumerGroupHeartbeatResponse {
                error_code: error.code(),
                error_message: message.map(Cow::Owned),
                ..ConsumerGroupHeartbeatResponse::default()
            };
            out.push(Effect::Reply { to: request.to, body: response.to_bytes(request.version) });
        }
    }
    Ok(())
}

/// What is wrong with a request whatever the group.
fn validate(message: &Request<'_>, version: i16, config: &GroupConfig) -> Result<(), Refusal> {
    if !config.consumer.is_served {
        return Err(ErrorCode::UnsupportedVersion.into());
    }
    let refuse = |what: &str| Err(Refusal::new(ErrorCode::InvalidRequest, what));
    let is_blank = |text: Option<&str>| text.is_some_and(|text| text.trim().is_empty());
    let epoch = message.member_epoch;
    let needs_id = version >= MEMBER_ID_VERSION || epoch > 0 || epoch == LEAVE_EPOCH;
    if needs_id && is_blank(Some(&message.member_id)) {
        return refuse("MemberId can't be empty.");
    }
    if is_blank(Some(&message.group_id)) {
        return refuse("GroupId can't be empty.");
    }
    if is_blank(message.instance_id.as_deref()) {
        return refuse("InstanceId can't be empty.");
    }
    if is_blank(message.rack_id.as_deref()) {
        return refuse("RackId can't be empty.");
    }
    match epoch {
        0 if message.rebalance_timeout_ms == -1 => {
            return refuse("RebalanceTimeoutMs must be provided in first request.");
        }
        0 if message.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) => {
            return refuse("TopicPartitions must be empty when (re-)joining.");
        }
        0 if message.subscribed_topic_names.is_none() && message.subscribed_topic_regex.is_none() => {
            return refuse(
                "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
            );
        }
        LEAVE_STATIC_EPOCH if message.instance_id.is_none() => return refuse("InstanceId can't be null."),
        epoch if epoch < LEAVE_STATIC_EPOCH => return refuse("MemberEpoch is invalid."),
        _ => {}
    }
    let assignors = &config.consumer.assignors;
    match message.server_assignor.as_deref() {
        Some(assignor) if !assignors.contains(&assignor) => {
            let supported = assignors.join(", ");
            let message =
                format!("ServerAssignor {assignor} is not supported. Supported assignors: {supported}.");
            Err(Refusal::new(ErrorCode::UnsupportedAssignor, message))
        }
        _ => Ok(()),
    }
}

fn beat<'a>(message: &'a Request<'_>, request: &GroupRequest<'a>) -> Beat<'a> {
    let topics = message.subscribed_topic_names.as_ref();
    let topics = topics.map(|names| names.iter().map(|name| Arc::from(&*name)).collect::<BTreeSet<_>>());
    let owned = message.topic_partitions.as_ref().map(|owned| {
        let topics = owned.iter().map(|topic| (topic.topic_id, topic.partitions.iter().collect()));
        topics.collect()
    });
    Beat {
        group_id: &message.group_id,
        member_id: &message.member_id,
        epoch: message.member_epoch,
        instance_id: message.instance_id.as_deref(),
        rack_id: message.rack_id.as_deref(),
        rebalance_timeout_ms: Some(message.rebalance_timeout_ms).filter(|timeout_ms| *timeout_ms != -1),
        topics,
        regex: message.subscribed_topic_regex.as_deref(),
        assignor: message.server_assignor.as_deref(),
        owned,
        client_id: request.client_id,
        client_host: request.client_host,
    }
}

fn response(answer: BeatAnswer) -> ConsumerGroupHeartbeatResponse<'static> {
    let assignment = answer.assignment.map(|partitions| Assignment {
        topic_partitions: partitions
            .into_iter()
            .map(|(topic_id, indexes)| TopicPartitions {
                topic_id,
                partitions: indexes.into_iter().collect(),
            })
            .collect(),
    });
    ConsumerGroupHeartbeatResponse {
        member_id: Some(Cow::Owned(answer.member_id)),
        member_epoch: answer.epoch,
        heartbeat_interval_ms: answer.heartbeat_interval_ms,
        assignment,
        ..ConsumerGroupHeartbeatResponse::default()
    }
}
