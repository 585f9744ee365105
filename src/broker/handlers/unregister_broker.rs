//! UnregisterBroker, version 0: the one broker there is cannot be taken out of its own cluster. (Apache Kafka does it when
//! asked, and the broker is out until it is started anew.)

use std::borrow::Cow;

use crate::broker::Broker;
use crate::broker::request::{Reply, Request, Response};
use crate::protocol::ErrorCode;
use crate::protocol::messages::unregister_broker_request::UnregisterBrokerRequest;
use crate::protocol::messages::unregister_broker_response::UnregisterBrokerResponse;

pub fn handle(broker: &Broker, request: Request<'_>) -> Reply {
    let message = match super::decode::<UnregisterBrokerRequest>(request.body, request.head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let id = message.broker_id;
    let (error, reason) = match broker.nodes().shard_of(id).is_some() {
        true => (ErrorCode::InvalidRequest, format!("Broker ID {id} is the only broker, and it is running")),
        false => (ErrorCode::BrokerIdNotRegistered, format!("Broker ID {id} is not currently registered")),
    };
    let response = UnregisterBrokerResponse {
        error_code: error.code(),
        error_message: Some(Cow::Owned(reason)),
        ..Default::default()
    };
    Reply::Now(Response::of(&request.head, &response))
}
