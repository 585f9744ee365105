//! ListConfigResources, versions 0 and 1: what has a configuration. Version 0 knows subscriptions to clients' metrics only.

use std::borrow::Cow;

use super::configs::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use crate::broker::Broker;
use crate::broker::request::{Reply, Request, Response};
use crate::metadata::ResourceKind;
use crate::protocol::ErrorCode;
use crate::protocol::messages::list_config_resources_request::ListConfigResourcesRequest;
use crate::protocol::messages::list_config_resources_response::{
    ConfigResource, ListConfigResourcesResponse,
};

/// In the order in which they are listed.
const TYPES: [i8; 5] = [GROUP, CLIENT_METRICS, BROKER_LOGGER, BROKER, TOPIC];

pub fn handle(broker: &Broker, request: Request<'_>) -> Reply {
    let version = request.head.version;
    let message = match super::decode::<ListConfigResourcesRequest>(request.body, version) {
        Ok(message) => message,
        Err(error) => return Reply::Close(error.to_string()),
    };
    let wanted: Vec<i8> = match message.resource_types.is_empty() {
        _ if version == 0 => vec![CLIENT_METRICS],
        true => TYPES.to_vec(),
        false => message.resource_types.iter().collect(),
    };
    let mut response = ListConfigResourcesResponse::default();
    if wanted.iter().all(|kind| TYPES.contains(kind)) {
        let listed = TYPES.into_iter().filter(|kind| wanted.contains(kind));
        let resources = listed.flat_map(|kind| {
            let resource = move |name| ConfigResource { resource_name: name, resource_type: kind };
            names(broker, kind).into_iter().map(resource)
        });
        response.config_resources = resources.collect();
    } else {
        response.error_code = ErrorCode::UnsupportedVersion.code();
    }
    Reply::Now(Response::of(&request.head, &response))
}

fn names(broker: &Broker, kind: i8) -> Vec<Cow<'_, str>> {
    let configured =
        |kind| broker.image.configured(kind).map(|(name, _)| Cow::Borrowed(name.as_str())).collect();
    match kind {
        GROUP => configured(ResourceKind::Group),
        CLIENT_METRICS => configured(ResourceKind::ClientMetrics),
        TOPIC => broker.image.topics().map(|topic| Cow::Borrowed(&*topic.name)).collect(),
        _ => broker.nodes().ids().map(|id| Cow::Owned(id.to_string())).collect(),
    }
}
