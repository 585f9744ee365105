//! Topics, partitions and replicas.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::answer::{JSON, json as answer, nothing};
use super::{Links, Target, ok, parse, wrong};
use crate::control::cluster::records::Failed;
use crate::control::cluster::topics::{self, EARLIEST, LATEST, NewTopic};
use crate::control::error::ApiError;
use crate::metadata::{Partition, Topic};
use crate::protocol::ErrorCode;

/// As the broker would say it of a topic or partition that is not there.
fn unknown() -> ApiError {
    let error = ErrorCode::UnknownTopicOrPartition;
    ApiError::of_kafka(&Failed { error, message: error.message().to_owned() })
}

pub async fn find(target: &Target, topic: &str) -> Result<std::sync::Arc<Topic>, ApiError> {
    super::super::topics::find(&target.cluster, topic).await.map_err(|_| unknown())
}

fn number(text: &str) -> Result<i32, ApiError> {
    text.parse().map_err(|_| ApiError::not_found())
}

fn topic_value(links: &Links, topic: &Topic) -> Value {
    let name = &*topic.name;
    let path = format!("topics/{name}");
    links.resource(
        "KafkaTopic",
        &path,
        &format!("topic={name}"),
        json!({
            "topic_name": name,
            "is_internal": topic.is_internal(),
            "replication_factor": topic.partitions.first().map_or(0, |partition| partition.replicas.len()),
            "partitions_count": topic.partitions.len(),
            "partitions": links.related(&format!("{path}/partitions")),
            "configs": links.related(&format!("{path}/configs")),
            "partition_reassignments": links.related(&format!("{path}/partitions/-/reassignment")),
            "authorized_operations": [],
        }),
    )
}

pub async fn list(target: Target) -> Result<Response, ApiError> {
    let image = target.cluster.image().await?;
    let data = image.topics().map(|topic| topic_value(&target.links, topic)).collect();
    Ok(ok(&target.links.list("KafkaTopicList", "topics", data)))
}

pub async fn one(target: Target, Path((_, topic)): Path<(String, String)>) -> Result<Response, ApiError> {
    let topic = find(&target, &topic).await?;
    Ok(ok(&topic_value(&target.links, &topic)))
}

pub async fn create(target: Target, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let request = parse(&target, &headers, body).await?;
    let new = new_topic(&request)?;
    let done = topics::create(&target.cluster, &target.caller, &new).await?;
    if let Err(failed) = done {
        let failed = match failed.error {
            ErrorCode::TopicAlreadyExists => {
                Failed { message: format!("Topic '{}' already exists.", new.name), ..failed }
            }
            _ => failed,
        };
        return Err(ApiError::of_kafka(&failed));
    }
    if new.validate_only {
        let path = format!("topics/{}", new.name);
        let facts = json!({ "topic_name": new.name, "partitions_count": new.partitions.max(0) });
        let name = format!("topic={}", new.name);
        return Ok(ok(&target.links.resource("KafkaTopic", &path, &name, facts)));
    }
    let topic = find(&target, &new.name).await?;
    Ok(answer(201, JSON, &topic_value(&target.links, &topic)))
}

fn new_topic(request: &Value) -> Result<NewTopic, ApiError> {
    let name = request.get("topic_name").and_then(Value::as_str);
    let name = name.ok_or_else(|| wrong("topic_name is missing."))?.to_owned();
    let count = |key: &str| match request.get(key) {
        None | Some(Value::Null) => Ok(-1),
        Some(value) => {
            let value = value.as_i64().and_then(|value| i32::try_from(value).ok());
            value.ok_or_else(|| wrong(format!("{key} must be a number.")))
        }
    };
    let replication_factor = i16::try_from(count("replication_factor")?)
        .map_err(|_| wrong("replication_factor is out of range."))?;
    let mut configs = Vec::new();
    for config in request.get("configs").and_then(Value::as_array).into_iter().flatten() {
        let name =
            config.get("name").and_then(Value::as_str).ok_or_else(|| wrong("A config has no name."))?;
        configs.push((name.to_owned(), text(config.get("value"))));
    }
    let mut assignments = Vec::new();
    for (partition, brokers) in
        request.get("replicas_assignments").and_then(Value::as_object).into_iter().flatten()
    {
        let brokers = brokers.as_array().into_iter().flatten().filter_map(Value::as_i64);
        let brokers = brokers.filter_map(|broker| i32::try_from(broker).ok()).collect();
        assignments.push((number(partition)?, brokers));
    }
    Ok(NewTopic {
        name,
        partitions: count("partitions_count")?,
        replication_factor,
        assignments,
        configs,
        validate_only: request.get("validate_only").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// A value as a setting holds it.
pub fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

pub async fn delete(target: Target, Path((_, topic)): Path<(String, String)>) -> Result<Response, ApiError> {
    let done = topics::delete(&target.cluster, &target.caller, &topic).await?;
    done.map(|()| nothing()).map_err(|failed| ApiError::of_kafka(&failed))
}

pub async fn grow(
    target: Target,
    Path((_, topic)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request = parse(&target, &headers, body).await?;
    let count = request.get("partitions_count").and_then(Value::as_i64);
    let count = count.and_then(|count| i32::try_from(count).ok());
    let count = count.ok_or_else(|| wrong("partitions_count must be a number."))?;
    let done = topics::add_partitions(&target.cluster, &target.caller, &topic, count).await?;
    done.map_err(|failed| ApiError::of_kafka(&failed))?;
    let topic = find(&target, &topic).await?;
    Ok(ok(&topic_value(&target.links, &topic)))
}

fn partition_value(links: &Links, topic: &str, number: i32, partition: &Partition) -> Value {
    let path = format!("topics/{topic}/partitions/{number}");
    let leader = partition.leader;
    let leader = (leader >= 0).then(|| links.related(&format!("{path}/replicas/{leader}")));
    links.resource(
        "KafkaPartition",
        &path,
        &format!("topic={topic}/partition={number}"),
        json!({
            "topic_name": topic,
            "partition_id": number,
            "leader": leader,
            "replicas": links.related(&format!("{path}/replicas")),
            "reassignment": links.related(&format!("{path}/reassignment")),
        }),
    )
}

pub async fn partitions(
    target: Target,
    Path((_, topic)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let topic = find(&target, &topic).await?;
    let data = (0i32..).zip(&topic.partitions);
    let data = data.map(|(number, partition)| partition_value(&target.links, &topic.name, number, partition));
    let path = format!("topics/{}/partitions", topic.name);
    Ok(ok(&target.links.list("KafkaPartitionList", &path, data.collect())))
}

type InPartition = Path<(String, String, String)>;

pub async fn partition(
    target: Target,
    Path((_, topic, partition)): InPartition,
) -> Result<Response, ApiError> {
    let (topic, number) = (find(&target, &topic).await?, number(&partition)?);
    let found = topic.partition(number).ok_or_else(unknown)?;
    Ok(ok(&partition_value(&target.links, &topic.name, number, found)))
}

#[derive(serde::Deserialize)]
pub struct OffsetQuery {
    timestamp: Option<i64>,
    from_beginning: Option<bool>,
}

/// The ends of a log, or the offset at a time.
pub async fn offset(
    target: Target,
    Path((_, topic, partition)): InPartition,
    Query(query): Query<OffsetQuery>,
) -> Result<Response, ApiError> {
    let (topic, number) = (find(&target, &topic).await?, number(&partition)?);
    topic.partition(number).ok_or_else(unknown)?;
    let place = (topic.name.to_string(), number);
    let at = async |time: i64| {
        let wanted = BTreeMap::from([(place.clone(), time)]);
        let found = topics::offsets(&target.cluster, &target.caller, &wanted).await?;
        found.get(&place).copied().ok_or_else(unknown)
    };
    let (beginning, end) = (at(EARLIEST).await?, at(LATEST).await?);
    let next = match (query.timestamp, query.from_beginning) {
        (Some(time), _) if time >= 0 => Some(at(time).await?).filter(|offset| *offset >= 0).or(Some(end)),
        (_, Some(true)) => Some(beginning),
        _ => Some(end),
    };
    let path = format!("topics/{}/partitions/{number}/offset", topic.name);
    let name = format!("topic={}/partition={number}", topic.name);
    let facts = json!({
        "topic_name": &*topic.name, "partition_id": number, "next_offset": next,
        "beginning_offset": beginning, "end_offset": end,
    });
    Ok(ok(&target.links.resource("KafkaPartitionOffset", &path, &name, facts)))
}

fn replica_value(links: &Links, topic: &str, number: i32, partition: &Partition, broker: i32) -> Value {
    links.resource(
        "KafkaReplica",
        &format!("topics/{topic}/partitions/{number}/replicas/{broker}"),
        &format!("topic={topic}/partition={number}/replica={broker}"),
        json!({
            "topic_name": topic,
            "partition_id": number,
            "broker_id": broker,
            "is_leader": broker == partition.leader,
            "is_in_sync": partition.isr.contains(&broker),
            "broker": links.related(&format!("brokers/{broker}")),
        }),
    )
}

pub async fn replicas(
    target: Target,
    Path((_, topic, partition)): InPartition,
) -> Result<Response, ApiError> {
    let (topic, number) = (find(&target, &topic).await?, number(&partition)?);
    let found = topic.partition(number).ok_or_else(unknown)?;
    let of = |broker: &i32| replica_value(&target.links, &topic.name, number, found, *broker);
    let data = found.replicas.iter().map(of).collect();
    let path = format!("topics/{}/partitions/{number}/replicas", topic.name);
    Ok(ok(&target.links.list("KafkaReplicaList", &path, data)))
}

pub async fn replica(
    target: Target,
    Path((_, topic, partition, broker)): Path<(String, String, String, String)>,
) -> Result<Response, ApiError> {
    let (topic, index, broker) = (find(&target, &topic).await?, number(&partition)?, number(&broker)?);
    let found = topic.partition(index).filter(|partition| partition.replicas.contains(&broker));
    let found = found.ok_or_else(unknown)?;
    Ok(ok(&replica_value(&target.links, &topic.name, index, found, broker)))
}

pub async fn replicas_of_broker(
    target: Target,
    Path((_, broker)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let id = number(&broker)?;
    let image = target.cluster.image().await?;
    let mut data = Vec::new();
    for topic in image.topics() {
        for (index, partition) in (0i32..).zip(&topic.partitions) {
            if partition.replicas.contains(&id) {
                data.push(replica_value(&target.links, &topic.name, index, partition, id));
            }
        }
    }
    Ok(ok(&target.links.list("KafkaReplicaList", &format!("brokers/{id}/partition-replicas"), data)))
}

/// Nothing moves on one node.
pub async fn reassignment(
    target: Target,
    Path((_, topic, partition)): InPartition,
) -> Result<Response, ApiError> {
    let (topic, number) = (find(&target, &topic).await?, number(&partition)?);
    topic.partition(number).ok_or_else(unknown)?;
    Err(ApiError::new(404, format!("Partition {}-{number} is not being reassigned.", topic.name)))
}

pub async fn reassignments(
    target: Target,
    Path((_, topic)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let topic = find(&target, &topic).await?;
    let path = format!("topics/{}/partitions/-/reassignment", topic.name);
    Ok(ok(&target.links.list("KafkaReassignmentList", &path, Vec::new())))
}

pub async fn all_reassignments(target: Target) -> Result<Response, ApiError> {
    Ok(ok(&target.links.list("KafkaReassignmentList", "topics/-/partitions/-/reassignment", Vec::new())))
}
