//! DeleteTopics, versions 0 to 6: by name, from 6 on also by id.

use std::borrow::Cow;

use crate::broker::Broker;
use crate::broker::controller::AdminError;
use crate::broker::request::{Forwarded, Response};
use crate::io::Io;
use crate::metadata::Change;
use crate::protocol::Uuid;
use crate::protocol::messages::delete_topics_request::DeleteTopicsRequest;
use crate::protocol::messages::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let head = request.head;
    let Ok(message) = super::decode::<DeleteTopicsRequest>(&request.body, head.version) else {
        return broker.respond(request.shard, head.id, None);
    };
    let mut wanted: Vec<(Option<String>, Uuid)> =
        message.topic_names.iter().map(|name| (Some(name.into_owned()), Uuid::ZERO)).collect();
    wanted.extend(message.topics.iter().map(|topic| (topic.name.map(Cow::into_owned), topic.topic_id)));
    for (name, topic_id) in &mut wanted {
        let found = match name {
            Some(name) => broker.image.topic(name),
            None => broker.image.topic_by_id(*topic_id),
        };
        if let Some(topic) = found {
            *topic_id = topic.id;
            *name = Some(topic.name.to_string());
        }
    }
    let changes = wanted.iter().map(|(name, topic_id)| change(broker, name.as_deref(), *topic_id)).collect();
    let finish = move |_: &mut Broker, results: Vec<Result<(), AdminError>>| {
        let responses = wanted.into_iter().zip(results).map(|((name, topic_id), result)| {
            let error = result.err();
            DeletableTopicResult {
                name: name.map(Cow::Owned),
                topic_id,
                error_code: error.as_ref().map_or(0, |error| error.code.code()),
                error_message: error.map(|error| Cow::Owned(error.message)),
            }
        });
        let response = DeleteTopicsResponse { responses: responses.collect(), ..Default::default() };
        Some(Response::of(&head, &response))
    };
    broker.change(io, (request.shard, head), changes, Box::new(finish));
}

fn change(broker: &Broker, name: Option<&str>, topic_id: Uuid) -> Result<Change, AdminError> {
    let planner = broker.planner();
    Ok(match name {
        Some(name) => planner.delete_topic_by_name(name)?,
        None => planner.delete_topic_by_id(topic_id)?,
    })
}
