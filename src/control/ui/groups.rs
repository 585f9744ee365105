//! Groups for the page: the list with its lag, one group with members and partitions, resetting and deleting.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::{answer, parse};
use crate::control::Site;
use crate::control::cluster::groups;
use crate::control::cluster::records::Failed;
use crate::control::cluster::topics::{self, EARLIEST, LATEST};
use crate::control::cluster::{Call, Caller, Cluster, WAIT};
use crate::control::error::ApiError;
use crate::control::rest::commit_for_nobody;
use crate::protocol::ErrorCode;
use crate::protocol::messages::delete_groups_request::DeleteGroupsRequest;

const AGE: Duration = Duration::from_secs(1);
/// Groups whose members and lag a list shows.
const GROUPS_MAX: usize = 1000;

pub async fn list(State(site): State<Arc<Site>>) -> Result<Response, ApiError> {
    let running = site.running()?;
    let cluster = &running.cluster;
    let caller = Caller::own();
    let all = groups::list(cluster, &caller).await?;
    let ids: Vec<String> = all.iter().take(GROUPS_MAX).map(|group| group.id.clone()).collect();
    let described = groups::describe(cluster, &caller, &ids).await?;
    let offsets: BTreeMap<String, groups::Offsets> =
        groups::committed(cluster, &caller, &ids).await?.into_iter().collect();
    let snapshot = running.observer.snapshot(AGE).await?;
    let shown: Vec<Value> = all
        .iter()
        .take(GROUPS_MAX)
        .map(|group| {
            let members = described.iter().find(|one| one.id == group.id).map_or(0, |one| one.members.len());
            let committed = offsets.get(&group.id);
            let lag: i64 = committed
                .into_iter()
                .flatten()
                .filter_map(|((topic, partition), at)| groups::lag(&snapshot, topic, *partition, at.offset))
                .sum();
            let mut topics: Vec<&str> =
                committed.into_iter().flatten().map(|((topic, _), _)| topic.as_str()).collect();
            topics.dedup();
            json!({
                "id": group.id, "state": group.state, "type": group.group_type,
                "protocol_type": group.protocol_type, "members": members, "topics": topics, "lag": lag,
            })
        })
        .collect();
    Ok(answer(&json!({ "total": all.len(), "groups": shown })))
}

pub async fn one(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let running = site.running()?;
    let cluster = &running.cluster;
    let caller = Caller::own();
    let ids = [id.clone()];
    let group = groups::describe(cluster, &caller, &ids).await?.into_iter().next();
    let group = group.filter(|group| group.state != "Dead").ok_or_else(ApiError::not_found)?;
    let offsets = groups::committed(cluster, &caller, &ids).await?;
    let snapshot = running.observer.snapshot(Duration::from_millis(200)).await?;
    let mut partitions = Vec::new();
    for ((topic, partition), committed) in offsets.into_iter().flat_map(|(_, offsets)| offsets) {
        let end = snapshot.partition(&topic, partition).map(|state| state.log.high_watermark);
        let place = (topic, partition);
        let member = group.members.iter().find(|member| member.assignment.contains(&place));
        partitions.push(json!({
            "topic": place.0, "partition": partition, "offset": committed.offset, "end": end,
            "lag": end.map(|end| (end - committed.offset).max(0)),
            "metadata": committed.metadata, "member": member.map(|member| &member.id),
        }));
    }
    let members: Vec<Value> = group
        .members
        .iter()
        .map(|member| {
            let assignment: Vec<Value> =
                member.assignment.iter().map(|(topic, number)| json!([topic, number])).collect();
            json!({
                "id": member.id, "instance_id": member.instance_id, "client_id": member.client_id,
                "host": member.host, "assignment": assignment,
            })
        })
        .collect();
    Ok(answer(&json!({
        "id": group.id, "state": group.state, "protocol": group.protocol, "members": members,
        "partitions": partitions,
    })))
}

pub async fn delete(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let cluster = &site.running()?.cluster;
    let request = DeleteGroupsRequest { groups_names: [Cow::Borrowed(id.as_str())].into() };
    let told = cluster.ask(&Caller::own(), Call::of(i16::MAX, &request), WAIT).await?;
    let response = told.read::<DeleteGroupsRequest<'_>>()?;
    let code = response.results.iter().next().map_or(0, |result| result.error_code);
    check(ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError))?;
    Ok(answer(&json!({})))
}

fn check(error: ErrorCode) -> Result<(), ApiError> {
    if !error.is_error() {
        return Ok(());
    }
    let message = match error {
        ErrorCode::NonEmptyGroup | ErrorCode::UnknownMemberId | ErrorCode::RebalanceInProgress => {
            "The group has members: stop them first."
        }
        error => error.message(),
    };
    let error = if message.starts_with("The group") { ErrorCode::NonEmptyGroup } else { error };
    Err(ApiError::of_kafka(&Failed { error, message: message.to_owned() }))
}

/// `{"to": "earliest" | "latest" | "offset" | "time" | "shift", "value": …, "topic": …, "partition": …, "dry_run": …}`: of all
/// partitions with a committed offset, or of a topic's.
pub async fn reset(site: State<Arc<Site>>, Path(id): Path<String>, body: Body) -> Result<Response, ApiError> {
    let request = parse(&site, body).await?;
    let cluster = &site.running()?.cluster;
    let committed = groups::committed(cluster, &Caller::own(), std::slice::from_ref(&id)).await?;
    let committed = committed.into_iter().next().map(|(_, offsets)| offsets).unwrap_or_default();
    let mut before: BTreeMap<(String, i32), Option<i64>> =
        committed.iter().map(|(place, at)| (place.clone(), Some(at.offset))).collect();
    if let Some(topic) = request["topic"].as_str().filter(|topic| !topic.is_empty()) {
        before.retain(|(known, _), _| known == topic);
        let image = cluster.fresh_image().await?;
        let found = image.topic(topic).ok_or_else(ApiError::topic_not_found)?;
        for partition in 0..found.partitions.len() as i32 {
            before.entry((topic.to_owned(), partition)).or_insert(None);
        }
    }
    if let Some(partition) = request["partition"].as_i64() {
        before.retain(|(_, known), _| i64::from(*known) == partition);
    }
    let after = targets(cluster, &request, &before).await?;
    if request["dry_run"] != true && !after.is_empty() {
        check(commit_for_nobody(cluster, &Caller::own(), &id, &after).await?)?;
    }
    let changes: Vec<Value> = after
        .iter()
        .map(|((topic, partition), at)| {
            let was = before.get(&(topic.clone(), *partition)).copied().flatten();
            json!({ "topic": topic, "partition": partition, "from": was, "to": at })
        })
        .collect();
    Ok(answer(&json!({ "changes": changes })))
}

/// The new offsets, within what there is.
async fn targets(
    cluster: &Cluster,
    request: &Value,
    before: &BTreeMap<(String, i32), Option<i64>>,
) -> Result<BTreeMap<(String, i32), i64>, ApiError> {
    let at = async |time: i64| {
        let wanted = before.keys().map(|place| (place.clone(), time)).collect();
        topics::offsets(cluster, &Caller::own(), &wanted).await
    };
    let (starts, ends) = (at(EARLIEST).await?, at(LATEST).await?);
    let value = request["value"].as_i64().unwrap_or(0);
    let times = if request["to"] == "time" { at(value.max(0)).await? } else { BTreeMap::new() };
    let mut after = BTreeMap::new();
    for (place, was) in before {
        let (Some(&start), Some(&end)) = (starts.get(place), ends.get(place)) else { continue };
        let wanted = match request["to"].as_str() {
            Some("earliest") => start,
            Some("latest") => end,
            Some("offset") => value,
            Some("shift") => was.unwrap_or(start).saturating_add(value),
            Some("time") => times.get(place).copied().filter(|offset| *offset >= 0).unwrap_or(end),
            _ => return Err(ApiError::new(400, "to must be earliest, latest, offset, shift or time.")),
        };
        after.insert(place.clone(), wanted.clamp(start, end));
    }
    Ok(after)
}
