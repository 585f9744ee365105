//! Clusters (there is one) and brokers.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::{Links, Target, list as listed, ok};
use crate::control::Site;
use crate::control::error::ApiError;
use crate::metadata::ClusterImage;

pub async fn list(State(site): State<Arc<Site>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let image = site.running()?.cluster.image().await?;
    let base = super::super::base_url(&headers);
    let links = Links { base: base.clone(), cluster_id: image.cluster_id.to_string() };
    let data = vec![cluster(&links, &image)];
    Ok(ok(&listed("KafkaClusterList", &format!("{base}/v3/clusters"), data)))
}

pub async fn one(target: Target) -> Result<Response, ApiError> {
    let image = target.cluster.image().await?;
    Ok(ok(&cluster(&target.links, &image)))
}

fn cluster(links: &Links, image: &ClusterImage) -> Value {
    links.resource(
        "KafkaCluster",
        "",
        "",
        json!({
            "controller": links.related(&format!("brokers/{}", image.node_id)),
            "acls": links.related("acls"),
            "brokers": links.related("brokers"),
            "broker_configs": links.related("broker-configs"),
            "consumer_groups": links.related("consumer-groups"),
            "topics": links.related("topics"),
            "partition_reassignments": links.related("topics/-/partitions/-/reassignment"),
        }),
    )
}

/// Id, host, port and rack of each broker.
async fn all(target: &Target) -> Result<Vec<(i32, Value)>, ApiError> {
    use crate::control::cluster::{Call, WAIT};
    use crate::protocol::messages::metadata_request::MetadataRequest;
    let request = MetadataRequest {
        topics: Some([].into()),
        allow_auto_topic_creation: false,
        ..MetadataRequest::default()
    };
    let answer = target.cluster.ask(&target.caller, Call::of(i16::MAX, &request), WAIT).await?;
    let response = answer.read::<MetadataRequest<'_>>()?;
    let links = &target.links;
    let brokers = response.brokers.iter().map(|broker| {
        let id = broker.node_id;
        let facts = json!({
            "broker_id": id,
            "host": broker.host,
            "port": broker.port,
            "rack": broker.rack,
            "configs": links.related(&format!("brokers/{id}/configs")),
            "partition_replicas": links.related(&format!("brokers/{id}/partition-replicas")),
        });
        (id, links.resource("KafkaBroker", &format!("brokers/{id}"), &format!("broker={id}"), facts))
    });
    Ok(brokers.collect())
}

pub async fn brokers(target: Target) -> Result<Response, ApiError> {
    let data = all(&target).await?.into_iter().map(|(_, broker)| broker).collect();
    Ok(ok(&target.links.list("KafkaBrokerList", "brokers", data)))
}

pub async fn broker(target: Target, Path((_, id)): Path<(String, String)>) -> Result<Response, ApiError> {
    let found = all(&target).await?.into_iter().find(|(known, _)| known.to_string() == id);
    found.map(|(_, broker)| ok(&broker)).ok_or_else(ApiError::not_found)
}
