//! CreatePartitions, versions 0 to 3: more partitions for a topic, never fewer.

use std::borrow::Cow;

use crate::broker::Broker;
use crate::broker::controller::AdminError;
use crate::broker::request::{Forwarded, Response};
use crate::io::Io;
use crate::metadata::Change;
use crate::protocol::ErrorCode;
use crate::protocol::messages::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use crate::protocol::messages::create_partitions_response::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let head = request.head;
    let Ok(message) = super::decode::<CreatePartitionsRequest>(&request.body, head.version) else {
        return broker.respond(request.shard, head.id, None);
    };
    let names: Vec<String> = message.topics.iter().map(|topic| topic.name.into_owned()).collect();
    let mut changes: Vec<Result<Change, AdminError>> =
        message.topics.iter().map(|topic| change(broker, &topic)).collect();
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            changes[index] = Err(AdminError::new(ErrorCode::InvalidRequest, "Duplicate topic name."));
        }
    }
    let validate_only = message.validate_only;
    let finish = move |_: &mut Broker, results: Vec<Result<(), AdminError>>| {
        let results = names.into_iter().zip(results).map(|(name, result)| {
            let error = result.err();
            CreatePartitionsTopicResult {
                name: Cow::Owned(name),
                error_code: error.as_ref().map_or(0, |error| error.code.code()),
                error_message: error.map(|error| Cow::Owned(error.message)),
            }
        });
        let response = CreatePartitionsResponse { results: results.collect(), ..Default::default() };
        Some(Response::of(&head, &response))
    };
    if validate_only {
        let results = changes.into_iter().map(|change| change.map(|_| ())).collect();
        let response = finish(broker, results);
        return broker.respond(request.shard, head.id, response);
    }
    broker.change(io, (request.shard, head), changes, Box::new(finish));
}

fn change(broker: &Broker, topic: &CreatePartitionsTopic<'_>) -> Result<Change, AdminError> {
    let assignments: Option<Vec<Vec<i32>>> = topic
        .assignments
        .as_ref()
        .map(|list| list.iter().map(|assignment| assignment.broker_ids.to_vec()).collect());
    Ok(broker.planner().add_partitions(&topic.name, topic.count, assignments.as_deref())?)
}
