//! ElectLeaders, versions 0 to 2: a partition with one replica is led by it, so no election is ever needed.

use std::borrow::Cow;

use crate::broker::Broker;
use crate::broker::request::{Reply, Request, Response};
use crate::protocol::ErrorCode;
use crate::protocol::messages::elect_leaders_request::ElectLeadersRequest;
use crate::protocol::messages::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};

/// The preferred replica, and any replica.
const ELECTION_TYPES: [i8; 2] = [0, 1];

pub fn handle(broker: &Broker, request: Request<'_>) -> Reply {
    let message = match super::decode::<ElectLeadersRequest>(request.body, request.head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let image = &broker.image;
    let election_type = message.election_type;
    let is_known = ELECTION_TYPES.contains(&election_type);
    let mut response = ElectLeadersResponse::default();
    if !is_known {
        response.error_code = ErrorCode::InvalidRequest.code();
    }
    let Some(wanted) = &message.topic_partitions else {
        // All partitions: those that need an election are told, and none does.
        let nothing = |topic| ReplicaElectionResult { topic, ..Default::default() };
        let topics = image.topics().filter(|_| is_known).map(|topic| Cow::Borrowed(&*topic.name));
        response.replica_election_results = topics.map(nothing).collect();
        return Reply::Now(Response::of(&request.head, &response));
    };
    let results = wanted.iter().map(|wanted| {
        let name = &wanted.topic;
        let elect = |partition_id: i32| {
            let (error, reason) = if !is_known {
                (ErrorCode::InvalidRequest, format!("Unknown election type {election_type}"))
            } else if image.topic(name).is_none() {
                (ErrorCode::UnknownTopicOrPartition, format!("No such topic as {name}"))
            } else if image.partition(name, partition_id).is_none() {
                (ErrorCode::UnknownTopicOrPartition, format!("No such partition as {name}-{partition_id}"))
            } else {
                let reason = "Leader election not needed for topic partition.";
                (ErrorCode::ElectionNotNeeded, reason.to_owned())
            };
            PartitionResult {
                partition_id,
                error_code: error.code(),
                error_message: Some(Cow::Owned(reason)),
            }
        };
        let partition_result = wanted.partitions.iter().map(elect).collect();
        ReplicaElectionResult { topic: wanted.topic, partition_result }
    });
    response.replica_election_results = results.collect();
    Reply::Now(Response::of(&request.head, &response))
}
