//! FindCoordinator, versions 0 to 6: this broker, once the coordinator's topic exists. Coordinators of share groups are not
//! available.

use std::borrow::Cow;

use crate::broker::group::OFFSETS_TOPIC;
use crate::broker::request::{Forwarded, Head, Reply, Request, Response};
use crate::broker::transaction::TRANSACTION_TOPIC;
use crate::broker::{Broker, CONTROL_SHARD};
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use crate::protocol::messages::find_coordinator_response::{Coordinator, FindCoordinatorResponse};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;
/// From this version on several keys are asked for at once.
const BATCHED: i16 = 4;

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let message = match super::decode::<FindCoordinatorRequest>(request.body, request.head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    if topic_of(message.key_type).is_some_and(|topic| broker.image.topic(topic).is_none()) {
        return broker.forward(io, &request, CONTROL_SHARD);
    }
    Reply::Now(respond(broker, &request.head, request.peer.listener, &message, ErrorCode::None))
}

/// The topic that a kind of coordinators keeps its state in.
fn topic_of(key_type: i8) -> Option<&'static str> {
    match key_type {
        GROUP => Some(OFFSETS_TOPIC),
        TRANSACTION => Some(TRANSACTION_TOPIC),
        _ => None,
    }
}

/// On shard 0: makes the coordinator's topic first.
pub fn create_topic(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let message = super::decode::<FindCoordinatorRequest>(&request.body, request.head.version);
    let topic = message.ok().and_then(|message| topic_of(message.key_type));
    let missing = topic.filter(|topic| broker.image.topic(topic).is_none());
    let changes = missing.map(|topic| broker.auto_create(io, topic)).into_iter().collect();
    let origin = (request.shard, request.head);
    broker.change(
        io,
        origin,
        changes,
        Box::new(move |broker, results| {
            let error = match results.into_iter().find_map(Result::err) {
                Some(error) if error.code != ErrorCode::TopicAlreadyExists => {
                    ErrorCode::CoordinatorNotAvailable
                }
                _ => ErrorCode::None,
            };
            let message =
                super::decode::<FindCoordinatorRequest>(&request.body, request.head.version).ok()?;
            Some(respond(broker, &request.head, request.listener, &message, error))
        }),
    );
}

fn respond(
    broker: &Broker,
    head: &Head,
    listener: usize,
    message: &FindCoordinatorRequest<'_>,
    error: ErrorCode,
) -> Response {
    let error = match message.key_type {
        GROUP | TRANSACTION => error,
        SHARE => ErrorCode::CoordinatorNotAvailable,
        _ => ErrorCode::InvalidRequest,
    };
    let (host, port) = if error.is_error() { (String::new(), -1) } else { broker.endpoint(listener) };
    let node_id = if error.is_error() { -1 } else { broker.node_id() };
    let error_message = error.is_error().then(|| Cow::Borrowed(error.message()));
    let response = if head.version >= BATCHED {
        let coordinators = message.coordinator_keys.iter().map(|key| Coordinator {
            key,
            node_id,
            host: Cow::Borrowed(&*host),
            port,
            error_code: error.code(),
            error_message: error_message.clone(),
        });
        return Response::of(
            head,
            &FindCoordinatorResponse { coordinators: coordinators.collect(), ..Default::default() },
        );
    } else {
        FindCoordinatorResponse {
            error_code: error.code(),
            error_message,
            node_id,
            host: Cow::Owned(host),
            port,
            ..Default::default()
        }
    };
    Response::of(head, &response)
}
