//! DescribeTopicPartitions, version 0: topics in name order from a cursor on, up to a number of partitions.

use std::borrow::Cow;

use crate::broker::Broker;
use crate::broker::request::{Reply, Request, Response};
use crate::metadata::{Nodes, Topic};
use crate::protocol::ErrorCode;
use crate::protocol::messages::describe_topic_partitions_request::DescribeTopicPartitionsRequest;
use crate::protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};

pub fn handle(broker: &mut Broker, request: Request<'_>) -> Reply {
    let message = match super::decode::<DescribeTopicPartitionsRequest>(request.body, request.head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let image = broker.image.clone();
    let cursor = message.cursor.as_ref();
    let all = message.topics.is_empty();
    let mut names: Vec<Cow<'_, str>> = if all {
        image.topics().map(|topic| Cow::Owned(topic.name.to_string())).collect()
    } else {
        message.topics.iter().map(|topic| topic.name).collect()
    };
    names.sort();
    names.dedup();
    if let Some(cursor) = cursor {
        names.retain(|name| *name >= cursor.topic_name);
    }
    let mut left =
        (message.response_partition_limit.max(1) as usize).min(broker.config.max_request_partitions);
    let mut topics = Vec::new();
    let mut next_cursor = None;
    for name in names {
        let first = match cursor {
            Some(cursor) if cursor.topic_name == name => cursor.partition_index.max(0) as usize,
            _ => 0,
        };
        if left == 0 {
            next_cursor = Some(Cursor { topic_name: name, partition_index: 0 });
            break;
        }
        let Some(topic) = image.topic(&name) else {
            topics.push(missing(name));
            continue;
        };
        let end = topic.partitions.len().min(first.saturating_add(left));
        left -= end.saturating_sub(first);
        topics.push(described(topic, first..end, broker.nodes()));
        if end < topic.partitions.len() {
            next_cursor = Some(Cursor { topic_name: name, partition_index: end as i32 });
            break;
        }
    }
    let response =
        DescribeTopicPartitionsResponse { topics: topics.into(), next_cursor, ..Default::default() };
    Reply::Now(Response::of(&request.head, &response))
}

fn missing(name: Cow<'_, str>) -> DescribeTopicPartitionsResponseTopic<'_> {
    DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode::UnknownTopicOrPartition.code(),
        name: Some(name),
        ..Default::default()
    }
}

fn described(
    topic: &Topic,
    range: std::ops::Range<usize>,
    nodes: Nodes,
) -> DescribeTopicPartitionsResponseTopic<'static> {
    let partitions = range.filter_map(|index| {
        let placed = topic.partitions.get(index)?;
        let leader_id = nodes.leader(topic, index as i32);
        Some(DescribeTopicPartitionsResponsePartition {
            partition_index: index as i32,
            leader_id,
            leader_epoch: placed.leader_epoch,
            replica_nodes: vec![leader_id].into(),
            isr_nodes: vec![leader_id].into(),
            eligible_leader_replicas: Some(Vec::new().into()),
            last_known_elr: Some(Vec::new().into()),
            ..Default::default()
        })
    });
    DescribeTopicPartitionsResponseTopic {
        name: Some(Cow::Owned(topic.name.to_string())),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions: partitions.collect(),
        topic_authorized_operations: super::metadata::TOPIC_OPERATIONS,
        ..Default::default()
    }
}
