//! DescribeQuorum, versions 0 to 2. There is no Raft quorum: the metadata is this node's own, so it is shown as the one
//! voter and leader, its offsets are those of the changes, and clients reach it where they reach the broker.

use std::borrow::Cow;

use crate::broker::Broker;
use crate::broker::request::{Reply, Request, Response};
use crate::protocol::ErrorCode;
use crate::protocol::messages::describe_quorum_request::DescribeQuorumRequest;
use crate::protocol::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};

const METADATA_TOPIC: &str = "__cluster_metadata";

pub fn handle(broker: &Broker, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<DescribeQuorumRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let is_known = is_metadata(&message);
    let topics = message.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| match is_known {
            true => metadata_partition(broker),
            false => PartitionData {
                partition_index: partition.partition_index,
                error_code: ErrorCode::UnknownTopicOrPartition.code(),
                error_message: Some(Cow::Borrowed("This server does not host this topic-partition.")),
                ..Default::default()
            },
        });
        TopicData { partitions: partitions.collect(), topic_name: topic.topic_name }
    });
    let response = DescribeQuorumResponse {
        error_message: Some(Cow::Borrowed("")),
        topics: topics.collect(),
        nodes: is_known.then(|| node(broker, request.peer.listener)).into_iter().collect(),
        ..Default::default()
    };
    Reply::Now(Response::of(&head, &response))
}

/// Whether it asks for the one partition there is, and for nothing else: Kafka answers for all of it or for none.
fn is_metadata(message: &DescribeQuorumRequest<'_>) -> bool {
    let mut topics = message.topics.iter();
    let (Some(topic), None) = (topics.next(), topics.next()) else { return false };
    let mut partitions = topic.partitions.iter().map(|partition| partition.partition_index);
    topic.topic_name == METADATA_TOPIC && partitions.next() == Some(0) && partitions.next().is_none()
}

fn metadata_partition(broker: &Broker) -> PartitionData<'static> {
    let end_offset = i64::try_from(broker.image.revision).unwrap_or(i64::MAX);
    let this = ReplicaState {
        replica_id: broker.node_id(),
        replica_directory_id: broker.dir_ids.first().copied().unwrap_or_default(),
        log_end_offset: end_offset,
        last_fetch_timestamp: broker.wall_ms,
        last_caught_up_timestamp: broker.wall_ms,
    };
    PartitionData {
        error_message: Some(Cow::Borrowed("")),
        leader_id: broker.node_id(),
        high_watermark: end_offset,
        current_voters: vec![this].into(),
        ..Default::default()
    }
}

fn node(broker: &Broker, listener: usize) -> Node<'static> {
    let (host, port) = broker.endpoint(listener);
    let listener = Listener {
        name: Cow::Borrowed("CONTROLLER"),
        host: Cow::Owned(host),
        port: u16::try_from(port).unwrap_or(0),
    };
    Node { node_id: broker.node_id(), listeners: vec![listener].into() }
}
