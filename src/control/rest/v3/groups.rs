//! Consumer groups: members, assignments, and how far they are behind.

use std::time::Duration;

use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::encode;
use super::{Links, Target, ok};
use crate::control::cluster::groups::{self, Group, Member};
use crate::control::error::ApiError;

/// How old the ends of logs may be that lag is counted to.
const AGE: Duration = Duration::from_millis(500);

fn not_found() -> ApiError {
    ApiError::new(40403, "The consumer group was not found.")
}

/// Kafka's names for the states of a group, as v3 writes them.
fn state(name: &str) -> &'static str {
    match name {
        "PreparingRebalance" => "PREPARING_REBALANCE",
        "CompletingRebalance" => "COMPLETING_REBALANCE",
        "Stable" => "STABLE",
        "Dead" => "DEAD",
        "Empty" => "EMPTY",
        "Assigning" => "ASSIGNING",
        "Reconciling" => "RECONCILING",
        _ => "UNKNOWN",
    }
}

async fn find(target: &Target, id: &str) -> Result<Group, ApiError> {
    let found = groups::describe(&target.cluster, &target.caller, &[id.to_owned()]).await?;
    let found = found.into_iter().next().filter(|group| !group.error.is_error() && group.state != "Dead");
    found.ok_or_else(not_found)
}

fn group_value(links: &Links, node: i32, group: &Group) -> Value {
    let path = format!("consumer-groups/{}", encode(&group.id));
    links.resource(
        "KafkaConsumerGroup",
        &path,
        &format!("consumer-group={}", group.id),
        json!({
            "consumer_group_id": group.id,
            "is_simple": group.protocol_type.is_empty(),
            "partition_assignor": group.protocol,
            "state": state(&group.state),
            "type": if group.newer { "CONSUMER" } else { "CLASSIC" },
            "coordinator": links.related(&format!("brokers/{node}")),
            "consumer": links.related(&format!("{path}/consumers")),
            "lag_summary": links.related(&format!("{path}/lag-summary")),
        }),
    )
}

pub async fn list(target: Target) -> Result<Response, ApiError> {
    let all = groups::list(&target.cluster, &target.caller).await?;
    let ids: Vec<String> = all.into_iter().map(|group| group.id).collect();
    let node = target.cluster.image().await?.node_id;
    let found = groups::describe(&target.cluster, &target.caller, &ids).await?;
    let data = found.iter().map(|group| group_value(&target.links, node, group)).collect();
    Ok(ok(&target.links.list("KafkaConsumerGroupList", "consumer-groups", data)))
}

pub async fn one(target: Target, Path((_, group)): Path<(String, String)>) -> Result<Response, ApiError> {
    let group = find(&target, &group).await?;
    let node = target.cluster.image().await?.node_id;
    Ok(ok(&group_value(&target.links, node, &group)))
}

fn consumer_value(links: &Links, group: &str, member: &Member) -> Value {
    let path = format!("consumer-groups/{}/consumers/{}", encode(group), encode(&member.id));
    links.resource(
        "KafkaConsumer",
        &path,
        &format!("consumer-group={group}/consumer={}", member.id),
        json!({
            "consumer_group_id": group,
            "consumer_id": member.id,
            "instance_id": member.instance_id,
            "client_id": member.client_id,
            "assignments": links.related(&format!("{path}/assignments")),
        }),
    )
}

pub async fn consumers(
    target: Target,
    Path((_, group)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let group = find(&target, &group).await?;
    let of = |member: &Member| consumer_value(&target.links, &group.id, member);
    let data = group.members.iter().map(of).collect();
    let path = format!("consumer-groups/{}/consumers", encode(&group.id));
    Ok(ok(&target.links.list("KafkaConsumerList", &path, data)))
}

type OfConsumer = Path<(String, String, String)>;

pub async fn consumer(target: Target, Path((_, group, id)): OfConsumer) -> Result<Response, ApiError> {
    let group = find(&target, &group).await?;
    let member = group.members.iter().find(|member| member.id == id).ok_or_else(ApiError::not_found)?;
    Ok(ok(&consumer_value(&target.links, &group.id, member)))
}

fn assignment_value(links: &Links, group: &str, member: &str, topic: &str, partition: i32) -> Value {
    let (in_group, of) =
        (format!("consumer-groups/{}", encode(group)), format!("{topic}/partitions/{partition}"));
    links.resource(
        "KafkaConsumerAssignment",
        &format!("{in_group}/consumers/{}/assignments/{of}", encode(member)),
        &format!("consumer-group={group}/consumer={member}/assignment={topic}-{partition}"),
        json!({
            "consumer_group_id": group,
            "consumer_id": member,
            "topic_name": topic,
            "partition_id": partition,
            "partition": links.related(&format!("topics/{of}")),
            "lag": links.related(&format!("{in_group}/lags/{of}")),
        }),
    )
}

pub async fn assignments(target: Target, Path((_, group, id)): OfConsumer) -> Result<Response, ApiError> {
    let group = find(&target, &group).await?;
    let member = group.members.iter().find(|member| member.id == id).ok_or_else(ApiError::not_found)?;
    let path = format!("consumer-groups/{}/consumers/{}/assignments", encode(&group.id), encode(&id));
    let of = |(topic, partition): &(String, i32)| {
        assignment_value(&target.links, &group.id, &id, topic, *partition)
    };
    let data = member.assignment.iter().map(of).collect();
    Ok(ok(&target.links.list("KafkaConsumerAssignmentList", &path, data)))
}

pub async fn assignment(
    target: Target,
    Path((_, group, id, topic, partition)): Path<(String, String, String, String, String)>,
) -> Result<Response, ApiError> {
    let group = find(&target, &group).await?;
    let member = group.members.iter().find(|member| member.id == id).ok_or_else(ApiError::not_found)?;
    let held = |place: &&(String, i32)| place.0 == topic && place.1.to_string() == partition;
    let (topic, partition) = member.assignment.iter().find(held).ok_or_else(ApiError::not_found)?;
    Ok(ok(&assignment_value(&target.links, &group.id, &id, topic, *partition)))
}

/// How far a group is behind in one partition.
struct Lag<'a> {
    topic: String,
    partition: i32,
    current: i64,
    end: i64,
    member: Option<&'a Member>,
}

impl Lag<'_> {
    fn lag(&self) -> i64 {
        (self.end - self.current).max(0)
    }

    fn value(&self, links: &Links, group: &str) -> Value {
        let Lag { topic, partition, .. } = self;
        let member = self.member;
        links.resource(
            "KafkaConsumerLag",
            &format!("consumer-groups/{}/lags/{topic}/partitions/{partition}", encode(group)),
            &format!("consumer-group={group}/lag={topic}-{partition}"),
            json!({
                "consumer_group_id": group,
                "topic_name": topic,
                "partition_id": partition,
                "current_offset": self.current,
                "log_end_offset": self.end,
                "lag": self.lag(),
                "consumer_id": member.map_or("", |member| &member.id),
                "instance_id": member.and_then(|member| member.instance_id.as_deref()),
                "client_id": member.map_or("", |member| &member.client_id),
            }),
        )
    }
}

async fn all_lags<'g>(target: &Target, group: &'g Group) -> Result<Vec<Lag<'g>>, ApiError> {
    let found = groups::committed(&target.cluster, &target.caller, std::slice::from_ref(&group.id)).await?;
    let snapshot = target.site.running()?.observer.snapshot(AGE).await?;
    let mut lags = Vec::new();
    for ((topic, partition), committed) in found.into_iter().flat_map(|(_, offsets)| offsets) {
        let Some(state) = snapshot.partition(&topic, partition) else { continue };
        let place = (topic, partition);
        let member = group.members.iter().find(|member| member.assignment.contains(&place));
        let (topic, partition) = place;
        let end = state.log.high_watermark;
        lags.push(Lag { topic, partition, current: committed.offset, end, member });
    }
    Ok(lags)
}

pub async fn lags(target: Target, Path((_, group)): Path<(String, String)>) -> Result<Response, ApiError> {
    let group = find(&target, &group).await?;
    let lags = all_lags(&target, &group).await?;
    let data = lags.iter().map(|lag| lag.value(&target.links, &group.id)).collect();
    let path = format!("consumer-groups/{}/lags", encode(&group.id));
    Ok(ok(&target.links.list("KafkaConsumerLagList", &path, data)))
}

pub async fn lag(
    target: Target,
    Path((_, group, topic, partition)): Path<(String, String, String, String)>,
) -> Result<Response, ApiError> {
    let group = find(&target, &group).await?;
    let lags = all_lags(&target, &group).await?;
    let found = lags.iter().find(|lag| lag.topic == topic && lag.partition.to_string() == partition);
    found.map(|lag| ok(&lag.value(&target.links, &group.id))).ok_or_else(ApiError::not_found)
}

pub async fn lag_summary(
    target: Target,
    Path((_, group)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let group = find(&target, &group).await?;
    let lags = all_lags(&target, &group).await?;
    let path = format!("consumer-groups/{}/lag-summary", encode(&group.id));
    let worst = lags.iter().max_by_key(|lag| lag.lag());
    let member = worst.and_then(|lag| lag.member);
    let facts = json!({
        "consumer_group_id": group.id,
        "max_lag": worst.map_or(0, Lag::lag),
        "total_lag": lags.iter().map(Lag::lag).sum::<i64>(),
        "max_lag_topic_name": worst.map_or("", |lag| &lag.topic),
        "max_lag_partition_id": worst.map_or(0, |lag| lag.partition),
        "max_lag_consumer_id": member.map_or("", |member| &member.id),
        "max_lag_instance_id": member.and_then(|member| member.instance_id.as_deref()),
        "max_lag_client_id": member.map_or("", |member| &member.client_id),
        "max_lag_consumer": member.map(|member| {
            target.links.related(&format!("consumer-groups/{}/consumers/{}", encode(&group.id), encode(&member.id)))
        }),
        "max_lag_partition": worst.map(|lag| {
            target.links.related(&format!("topics/{}/partitions/{}", lag.topic, lag.partition))
        }),
    });
    let name = format!("consumer-group={}/lag-summary", group.id);
    Ok(ok(&target.links.resource("KafkaConsumerGroupLagSummary", &path, &name, facts)))
}
