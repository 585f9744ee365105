//! FindCoordinator, versions 0 to 6: this broker, once the offsets topic exists. Coordinators of transactions and share groups
//! are not available.

use std::borrow::Cow;

use crate::broker::group::OFFSETS_TOPIC;
use crate::broker::request::{Forwarded, Head, Reply, Request, Response};
use crate::broker::{Broker, CONTROL_SHARD};
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use crate::protocol::messages::find_coordinator_response::{Coordinator, FindCoordinatorResponse};

const GROUP: i8 = 0;
/// From this version on several keys are asked for at once.
const BATCHED: i16 = 4;

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Request<'_>) -> Reply {
    let message = match super::decode::<FindCoordinatorRequest>(request.body, request.head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    if message.key_type == GROUP && broker.image.topic(OFFSETS_TOPIC).is_none() {
        return broker.forward(io, &request, CONTROL_SHARD);
    }
    Reply::Now(respond(broker, &request.head, request.peer.listener, &message, ErrorCode::None))
}

/// On shard 0: makes the offsets topic first.
pub fn create_topic(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let missing = broker.image.topic(OFFSETS_TOPIC).is_none();
    let changes = if missing { vec![broker.auto_create(io, OFFSETS_TOPIC)] } else { Vec::new() };
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
        GROUP => error,
        1 | 2 => ErrorCode::CoordinatorNotAvailable,
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
