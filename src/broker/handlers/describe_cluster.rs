//! DescribeCluster, versions 0 to 2. The controller's endpoint is not served: brokers answer for the cluster.

use std::borrow::Cow;

use crate::broker::Broker;
use crate::broker::request::{Reply, Request, Response};
use crate::protocol::ErrorCode;
use crate::protocol::messages::describe_cluster_request::DescribeClusterRequest;
use crate::protocol::messages::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponse};

const BROKERS: i8 = 1;
/// All that an administrator without an authorizer may do with a cluster, as the bits of Kafka's AclOperation.
const CLUSTER_OPERATIONS: i32 = 0x1fa0;

pub fn handle(broker: &mut Broker, request: Request<'_>) -> Reply {
    let message = match super::decode::<DescribeClusterRequest>(request.body, request.head.version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    if message.endpoint_type != BROKERS {
        let (error_code, text) = match message.endpoint_type {
            2 => (
                ErrorCode::MismatchedEndpointType,
                "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER",
            ),
            _ => (ErrorCode::UnsupportedEndpointType, "Unsupported endpoint type"),
        };
        let response = DescribeClusterResponse {
            error_code: error_code.code(),
            error_message: Some(Cow::Borrowed(text)),
            ..Default::default()
        };
        return Reply::Now(Response::of(&request.head, &response));
    }
    let image = broker.image.clone();
    let brokers =
        broker.endpoints(request.peer.listener).map(|(broker_id, host, port)| DescribeClusterBroker {
            broker_id,
            host: Cow::Owned(host),
            port,
            rack: broker.config.rack.clone().map(Cow::Owned),
            is_fenced: false,
        });
    let mut response = DescribeClusterResponse {
        cluster_id: Cow::Borrowed(&image.cluster_id),
        controller_id: broker.node_id(),
        brokers: brokers.collect(),
        ..Default::default()
    };
    if message.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    Reply::Now(Response::of(&request.head, &response))
}
