//! v2: what there is. Topics, their partitions, the ends of their logs, brokers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::answer::{V2, json as answer};
use crate::control::Site;
use crate::control::cluster::topics::{self, EARLIEST, LATEST, Resource};
use crate::control::cluster::{Caller, Cluster};
use crate::control::error::ApiError;
use crate::metadata::{Partition, Topic};

pub async fn list(State(site): State<Arc<Site>>) -> Result<Response, ApiError> {
    let image = site.running()?.cluster.image().await?;
    let names: Vec<&str> =
        image.topics().filter(|topic| !topic.is_internal()).map(|topic| &*topic.name).collect();
    Ok(answer(200, V2, &json!(names)))
}

/// A topic that is there, in an image that is young enough to say that it is not.
pub async fn find(cluster: &Cluster, topic: &str) -> Result<Arc<Topic>, ApiError> {
    if let Some(found) = cluster.image().await?.topic(topic) {
        return Ok(found.clone());
    }
    cluster.fresh_image().await?.topic(topic).cloned().ok_or_else(ApiError::topic_not_found)
}

pub async fn one(State(site): State<Arc<Site>>, Path(topic): Path<String>) -> Result<Response, ApiError> {
    let cluster = &site.running()?.cluster;
    let topic = find(cluster, &topic).await?;
    let settings = topics::settings(cluster, &Caller::own(), Resource::Topic, &topic.name, false).await?;
    let settings = settings.map_err(|failed| ApiError::of_kafka(&failed))?;
    let configs: Map<String, Value> =
        settings.into_iter().map(|setting| (setting.name, setting.value.into())).collect();
    let partitions = shown(&topic);
    let body = json!({ "name": &*topic.name, "configs": configs, "partitions": partitions });
    Ok(answer(200, V2, &body))
}

pub async fn partitions(
    State(site): State<Arc<Site>>,
    Path(topic): Path<String>,
) -> Result<Response, ApiError> {
    let topic = find(&site.running()?.cluster, &topic).await?;
    Ok(answer(200, V2, &shown(&topic)))
}

pub async fn partition(
    State(site): State<Arc<Site>>,
    Path((topic, partition)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let number = partition_number(&partition)?;
    let topic = find(&site.running()?.cluster, &topic).await?;
    let found = topic.partition(number).ok_or_else(ApiError::partition_not_found)?;
    Ok(answer(200, V2, &one_partition(number, found)))
}

pub async fn offsets(
    State(site): State<Arc<Site>>,
    Path((topic, partition)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let number = partition_number(&partition)?;
    let cluster = &site.running()?.cluster;
    let topic = find(cluster, &topic).await?;
    topic.partition(number).ok_or_else(ApiError::partition_not_found)?;
    let place = (topic.name.to_string(), number);
    let mut ends = Vec::new();
    for time in [EARLIEST, LATEST] {
        let found =
            topics::offsets(cluster, &Caller::own(), &BTreeMap::from([(place.clone(), time)])).await?;
        ends.push(*found.get(&place).ok_or_else(ApiError::partition_not_found)?);
    }
    Ok(answer(200, V2, &json!({ "beginning_offset": ends[0], "end_offset": ends[1] })))
}

pub async fn brokers(State(site): State<Arc<Site>>) -> Result<Response, ApiError> {
    let image = site.running()?.cluster.image().await?;
    let mut ids: Vec<i32> = image.brokers.keys().copied().collect();
    if ids.is_empty() {
        ids.push(image.node_id);
    }
    Ok(answer(200, V2, &json!({ "brokers": ids })))
}

/// A partition in a path; what is no number names none.
pub fn partition_number(text: &str) -> Result<i32, ApiError> {
    text.parse().ok().filter(|number| *number >= 0).ok_or_else(ApiError::partition_not_found)
}

fn shown(topic: &Topic) -> Value {
    (0i32..).zip(&topic.partitions).map(|(number, partition)| one_partition(number, partition)).collect()
}

fn one_partition(number: i32, partition: &Partition) -> Value {
    let replica = |broker: &i32| {
        let in_sync = partition.isr.contains(broker);
        json!({ "broker": broker, "leader": *broker == partition.leader, "in_sync": in_sync })
    };
    let replicas: Vec<Value> = partition.replicas.iter().map(replica).collect();
    json!({ "partition": number, "leader": partition.leader, "replicas": replicas })
}
