//! Metadata, versions 0 to 13. A topic that does not exist is created where both client and broker allow it; the request then
//! waits on shard 0 until every shard knows the topic, so that the client's next request finds it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::broker::controller::AdminError;
use crate::broker::request::{Forwarded, Head, Reply, Request, Response};
use crate::broker::{Broker, CONTROL_SHARD};
use crate::io::Io;
use crate::metadata::{ClusterImage, Nodes, Topic, is_internal};
use crate::protocol::messages::metadata_request::MetadataRequest;
use crate::protocol::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::protocol::{ErrorCode, Uuid};

/// All that a client without an authorizer may do with a topic, as the bits of Kafka's AclOperation.
pub const TOPIC_OPERATIONS: i32 = 0x0df8;
const CLUSTER_OPERATIONS: i32 = 0x1fa0;
/// Topics created by one request, so that one client cannot fill the cluster with one frame.
const CREATED_MAX: usize = 1000;

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let head = request.head;
    let message = match super::decode::<MetadataRequest>(request.body, head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    if !missing(broker, &message).is_empty() {
        return broker.forward(io, &request, CONTROL_SHARD);
    }
    Reply::Now(respond(broker, &head, request.peer.listener, &message, &BTreeMap::new()))
}

/// The names of topics to create.
fn missing(broker: &Broker, message: &MetadataRequest<'_>) -> Vec<String> {
    if !broker.config.auto_create_topics || !message.allow_auto_topic_creation {
        return Vec::new();
    }
    let Some(topics) = &message.topics else { return Vec::new() };
    let names = topics.iter().filter_map(|topic| topic.name);
    let mut names: Vec<String> =
        names.filter(|name| broker.image.topic(name).is_none()).map(Cow::into_owned).collect();
    names.sort();
    names.dedup();
    names.truncate(CREATED_MAX);
    names
}

pub fn create_missing(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let Ok(message) = super::decode::<MetadataRequest>(&request.body, request.head.version) else {
        return broker.respond(request.shard, request.head.id, None);
    };
    let names = missing(broker, &message);
    let changes = names.iter().map(|name| broker.auto_create(io, name)).collect();
    let origin = (request.shard, request.head);
    broker.change(
        io,
        origin,
        changes,
        Box::new(move |broker, results| {
            let errors: BTreeMap<String, AdminError> = names
                .into_iter()
                .zip(results)
                .filter_map(|(name, result)| result.err().map(|error| (name, error)))
                .filter(|(_, error)| error.code != ErrorCode::TopicAlreadyExists)
                .collect();
            let message = super::decode::<MetadataRequest>(&request.body, request.head.version).ok()?;
            Some(respond(broker, &request.head, request.listener, &message, &errors))
        }),
    );
}

fn respond(
    broker: &Broker,
    head: &Head,
    listener: usize,
    message: &MetadataRequest<'_>,
    errors: &BTreeMap<String, AdminError>,
) -> Response {
    let image = &broker.image;
    let nodes = broker.nodes();
    let mut topics: Vec<MetadataResponseTopic<'_>> = match &message.topics {
        // No list means all; in version 0 an empty one does.
        None => image.topics().map(|topic| described(topic, nodes)).collect(),
        Some(list) if list.is_empty() && head.version == 0 => {
            image.topics().map(|topic| described(topic, nodes)).collect()
        }
        Some(list) => {
            list.iter().map(|wanted| named(image, nodes, wanted.name, wanted.topic_id, errors)).collect()
        }
    };
    if message.include_topic_authorized_operations {
        topics.iter_mut().for_each(|topic| topic.topic_authorized_operations = TOPIC_OPERATIONS);
    }
    let brokers = broker.endpoints(listener).map(|(node_id, host, port)| MetadataResponseBroker {
        node_id,
        host: Cow::Owned(host),
        port,
        rack: broker.config.rack.as_deref().map(Cow::Borrowed),
    });
    let mut response = MetadataResponse {
        brokers: brokers.collect(),
        cluster_id: Some(Cow::Borrowed(&image.cluster_id)),
        controller_id: nodes.node_id(),
        topics: topics.into(),
        ..Default::default()
    };
    if message.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    Response::of(head, &response)
}

fn named<'a>(
    image: &ClusterImage,
    nodes: Nodes,
    name: Option<Cow<'a, str>>,
    topic_id: Uuid,
    errors: &BTreeMap<String, AdminError>,
) -> MetadataResponseTopic<'a> {
    let Some(name) = name else {
        return match image.topic_by_id(topic_id) {
            Some(topic) => described(topic, nodes),
            None => failed(None, topic_id, ErrorCode::UnknownTopicId),
        };
    };
    match (image.topic(&name), errors.get(&*name)) {
        (Some(topic), _) => described(topic, nodes),
        (None, Some(error)) => failed(Some(name), topic_id, error.code),
        (None, None) if crate::storage::names::check_topic_name(&name).is_err() => {
            failed(Some(name), topic_id, ErrorCode::InvalidTopicException)
        }
        (None, None) => failed(Some(name), topic_id, ErrorCode::UnknownTopicOrPartition),
    }
}

fn failed(name: Option<Cow<'_, str>>, topic_id: Uuid, error: ErrorCode) -> MetadataResponseTopic<'_> {
    MetadataResponseTopic { error_code: error.code(), name, topic_id, ..Default::default() }
}

fn described(topic: &Topic, nodes: Nodes) -> MetadataResponseTopic<'static> {
    let partitions = topic.partitions.iter().zip(0..).map(|(placed, partition_index)| {
        let leader_id = nodes.leader(topic, partition_index);
        MetadataResponsePartition {
            partition_index,
            leader_id,
            leader_epoch: placed.leader_epoch,
            replica_nodes: vec![leader_id].into(),
            isr_nodes: vec![leader_id].into(),
            ..Default::default()
        }
    });
    MetadataResponseTopic {
        name: Some(Cow::Owned(topic.name.to_string())),
        topic_id: topic.id,
        is_internal: is_internal(&topic.name),
        partitions: partitions.collect(),
        ..Default::default()
    }
}
