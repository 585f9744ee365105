//! InitProducerId, versions 0 to 6 (announced to 5, as by Kafka): an id for an idempotent producer, from a block that the
//! cluster has set aside on stable media, so that no id is given out twice. With a transactional id the transaction
//! coordinator answers; it waits here for the block, should it need one.

use crate::broker::Broker;
use crate::broker::request::{Forwarded, Head, Response};
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use crate::protocol::messages::init_producer_id_response::InitProducerIdResponse;

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    let head = request.head;
    match super::decode::<InitProducerIdRequest>(&request.body, head.version) {
        Ok(message) if (message.producer_id == -1) == (message.producer_epoch == -1) => {
            broker.ask_producer_id(io, request);
        }
        _ => {
            let refused = response(&head, Err(ErrorCode::InvalidRequest));
            broker.respond(request.shard, head.id, Some(refused));
        }
    }
}

pub fn is_transactional(request: &Forwarded) -> bool {
    let message = super::decode::<InitProducerIdRequest>(&request.body, request.head.version);
    message.is_ok_and(|message| message.transactional_id.is_some())
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
