//! CreateTopics, versions 0 to 7. Replicas on other nodes cannot be had: a manual assignment has to name this one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::broker::Broker;
use crate::broker::controller::AdminError;
use crate::broker::request::{Forwarded, Head, Response};
use crate::config::describe_topic;
use crate::io::Io;
use crate::metadata::{Change, TopicRequest};
use crate::protocol::ErrorCode;
use crate::protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use crate::protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let head = request.head;
    let Ok(message) = super::decode::<CreateTopicsRequest>(&request.body, head.version) else {
        return broker.respond(request.shard, head.id, None);
    };
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<String> = message
        .topics
        .iter()
        .filter_map(|topic| (!seen.insert(topic.name.clone())).then(|| topic.name.into_owned()))
        .collect();
    let names: Vec<String> = message.topics.iter().map(|topic| topic.name.into_owned()).collect();
    let changes: Vec<_> = message
        .topics
        .iter()
        .map(|topic| {
            if twice.contains(&*topic.name) {
                return Err(AdminError::new(ErrorCode::InvalidRequest, "Duplicate topic name."));
            }
            wanted(broker, io, &topic)
        })
        .collect();
    if message.validate_only {
        let response = validated(broker, &head, &names, changes);
        return broker.respond(request.shard, head.id, Some(response));
    }
    let origin = (request.shard, head);
    let finish = move |broker: &mut Broker, results: Vec<Result<(), AdminError>>| {
        let topics = names.iter().zip(results).map(|(name, result)| match result {
            Ok(()) => created(broker, name),
            Err(error) => refused(name, error),
        });
        let response = CreateTopicsResponse { topics: topics.collect(), ..Default::default() };
        Some(Response::of(&head, &response))
    };
    broker.change(io, origin, changes, Box::new(finish));
}

fn wanted(broker: &Broker, io: &mut impl Io, topic: &CreatableTopic<'_>) -> Result<Change, AdminError> {
    let configs: Vec<_> = topic.configs.to_vec();
    let request = TopicRequest {
        name: &topic.name,
        num_partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|assignment| (assignment.partition_index, assignment.broker_ids.to_vec()))
            .collect(),
        configs: configs.iter().map(|config| (&*config.name, config.value.as_deref())).collect(),
    };
    let topic_id = broker.random_id(io);
    Ok(broker.planner().create_topic(&request, topic_id)?)
}

fn created(broker: &Broker, name: &str) -> CreatableTopicResult<'static> {
    let Some(topic) = broker.image.topic(name) else {
        return refused(name, AdminError::of(ErrorCode::UnknownTopicOrPartition));
    };
    CreatableTopicResult {
        name: Cow::Owned(name.to_owned()),
        topic_id: topic.id,
        error_message: None,
        num_partitions: topic.partitions.len() as i32,
        replication_factor: 1,
        configs: Some(configs(broker, &topic.configs)),
        ..Default::default()
    }
}

fn configs(
    broker: &Broker,
    overrides: &BTreeMap<String, String>,
) -> crate::protocol::Array<'static, CreatableTopicConfigs<'static>> {
    describe_topic(&broker.config, overrides)
        .into_iter()
        .map(|entry| CreatableTopicConfigs {
            name: Cow::Owned(entry.name),
            value: entry.value.map(Cow::Owned),
            read_only: entry.read_only,
            config_source: entry.source.code(),
            is_sensitive: entry.sensitive,
        })
        .collect()
}

fn validated(
    broker: &Broker,
    head: &Head,
    names: &[String],
    planned: Vec<Result<Change, AdminError>>,
) -> Response {
    let topics = names.iter().zip(planned).map(|(name, planned)| match planned {
        Ok(Change::CreateTopic(topic)) => CreatableTopicResult {
            name: Cow::Owned(name.clone()),
            error_message: None,
            num_partitions: topic.partitions.len() as i32,
            replication_factor: 1,
            configs: Some(configs(broker, &topic.configs)),
            ..Default::default()
        },
        Ok(_) => refused(name, AdminError::of(ErrorCode::UnknownServerError)),
        Err(error) => refused(name, error),
    });
    Response::of(head, &CreateTopicsResponse { topics: topics.collect(), ..Default::default() })
}

fn refused(name: &str, error: AdminError) -> CreatableTopicResult<'static> {
    CreatableTopicResult {
        name: Cow::Owned(name.to_owned()),
        error_code: error.code.code(),
        error_message: Some(Cow::Owned(error.message)),
        ..Default::default()
    }
}
