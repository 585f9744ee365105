//! InitProducerId, versions 0 to 5: an id for an idempotent producer, from a block that the cluster has set aside on stable
//! media, so that no id is given out twice. Transactional ids are refused until transactions are served.

use crate::broker::Broker;
use crate::broker::request::{Forwarded, Head, Response};
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use crate::protocol::messages::init_producer_id_response::InitProducerIdResponse;

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let head = request.head;
    let error = match super::decode::<InitProducerIdRequest>(&request.body, head.version) {
        Err(_) => ErrorCode::InvalidRequest,
        Ok(message) => match &message.transactional_id {
            None => return broker.ask_producer_id(io, request),
            Some(id) if id.is_empty() => ErrorCode::InvalidRequest,
            Some(_) => ErrorCode::TransactionalIdAuthorizationFailed,
        },
    };
    broker.respond(request.shard, head.id, Some(response(&head, Err(error))));
}

pub fn response(head: &Head, id: Result<i64, ErrorCode>) -> Response {
    let response = match id {
        Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
        Err(error) => InitProducerIdResponse {
            error_code: error.code(),
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        },
    };
    Response::of(head, &response)
}
