//! AlterPartitionReassignments (0 and 1) and ListPartitionReassignments (0). There is one broker to have replicas on, and every
//! partition is there: to ask for that is fine and changes nothing, to ask for more is refused, and nothing is ever under way.

use std::borrow::Cow;

use crate::broker::Broker;
use crate::broker::controller::AdminError;
use crate::broker::request::{Reply, Request, Response};
use crate::protocol::ErrorCode;
use crate::protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition,
};
use crate::protocol::messages::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use crate::protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use crate::protocol::messages::list_partition_reassignments_response::ListPartitionReassignmentsResponse;

pub fn alter(broker: &Broker, request: Request<'_>) -> Reply {
    let message =
        match super::decode::<AlterPartitionReassignmentsRequest>(request.body, request.head.version) {
            Ok(message) => message,
            Err(error) => return Reply::Close(error.to_string()),
        };
    let topics = message.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let error = reassign(broker, &topic.name, &partition).err();
            ReassignablePartitionResponse {
                partition_index: partition.partition_index,
                error_code: error.as_ref().map_or(0, |error| error.code.code()),
                error_message: error
                    .filter(|error| error.code != ErrorCode::NoReassignmentInProgress)
                    .map(|error| Cow::Owned(error.message)),
            }
        });
        ReassignableTopicResponse { partitions: partitions.collect(), name: topic.name }
    });
    let response = AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: message.allow_replication_factor_change,
        error_message: message.topics.is_empty().then_some(Cow::Borrowed("")),
        responses: topics.collect(),
        ..Default::default()
    };
    Reply::Now(Response::of(&request.head, &response))
}

fn reassign(broker: &Broker, topic: &str, partition: &ReassignablePartition<'_>) -> Result<(), AdminError> {
    let index = partition.partition_index;
    let unknown = |what: String| Err(AdminError::new(ErrorCode::UnknownTopicOrPartition, what));
    if broker.image.topic(topic).is_none() {
        return unknown(format!("Unable to find a topic named {topic}."));
    }
    let Some((known, current)) = broker.image.partition(topic, index) else {
        return unknown(format!("Unable to find partition {topic}:{index}."));
    };
    let Some(replicas) = &partition.replicas else {
        return Err(AdminError::of(ErrorCode::NoReassignmentInProgress));
    };
    let replicas: Vec<i32> = replicas.iter().collect();
    broker.planner().check_assignment(&replicas, current.replicas.len())?;
    if replicas != [broker.nodes().leader(known, index)] {
        let why =
            "The brokers are shards of one node; a partition does not move between them while it is served.";
        return Err(AdminError::new(ErrorCode::InvalidReplicaAssignment, why));
    }
    Ok(())
}

pub fn list(request: Request<'_>) -> Reply {
    if let Err(error) = super::decode::<ListPartitionReassignmentsRequest>(request.body, request.head.version)
    {
        return Reply::Close(error.to_string());
    }
    let response = ListPartitionReassignmentsResponse { error_message: None, ..Default::default() };
    Reply::Now(Response::of(&request.head, &response))
}
