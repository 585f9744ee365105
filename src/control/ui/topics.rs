//! Topics for the page: a list in pages, so that ten thousand are as fast as ten, one topic with its partitions, settings
//! with their meaning.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::{answer, parse};
use crate::control::Site;
use crate::control::cluster::Caller;
use crate::control::cluster::observer::Snapshot;
use crate::control::cluster::topics::{self, Resource};
use crate::control::error::ApiError;
use crate::metadata::Topic;

/// How old the numbers of a list may be.
const AGE: Duration = Duration::from_secs(2);
const PAGE_MAX: usize = 500;

#[derive(serde::Deserialize)]
pub struct Listing {
    #[serde(default)]
    search: String,
    #[serde(default)]
    offset: usize,
    #[serde(default)]
    limit: usize,
    #[serde(default)]
    sort: String,
    #[serde(default)]
    descending: bool,
    #[serde(default)]
    internal: bool,
}

struct Row<'a> {
    topic: &'a Topic,
    records: i64,
    size_bytes: u64,
    records_in: u64,
    bytes_in: u64,
    bytes_out: u64,
}

fn row<'a>(snapshot: &Snapshot, topic: &'a Topic) -> Row<'a> {
    let mut row = Row { topic, records: 0, size_bytes: 0, records_in: 0, bytes_in: 0, bytes_out: 0 };
    for state in snapshot.partitions_of(&topic.name) {
        row.records += (state.log.high_watermark - state.log.log_start_offset).max(0);
        row.size_bytes += state.log.size_bytes;
        row.records_in += state.traffic.records_in;
        row.bytes_in += state.traffic.bytes_in;
        row.bytes_out += state.traffic.bytes_out;
    }
    row
}

pub async fn list(
    State(site): State<Arc<Site>>,
    Query(listing): Query<Listing>,
) -> Result<Response, ApiError> {
    let running = site.running()?;
    let snapshot = running.observer.snapshot(AGE).await?;
    // The names are those of now, the numbers may be a moment old.
    let image = running.cluster.fresh_image().await?;
    let search = listing.search.to_lowercase();
    let mut rows: Vec<Row<'_>> = image
        .topics()
        .filter(|topic| listing.internal || !topic.is_internal())
        .filter(|topic| search.is_empty() || topic.name.to_lowercase().contains(&search))
        .map(|topic| row(&snapshot, topic))
        .collect();
    match listing.sort.as_str() {
        "partitions" => rows.sort_by_key(|row| row.topic.partitions.len()),
        "records" => rows.sort_by_key(|row| row.records),
        "size" => rows.sort_by_key(|row| row.size_bytes),
        "in" => rows.sort_by_key(|row| row.bytes_in),
        "out" => rows.sort_by_key(|row| row.bytes_out),
        _ => {}
    }
    if listing.descending {
        rows.reverse();
    }
    let total = rows.len();
    let limit = if listing.limit == 0 { 100 } else { listing.limit.min(PAGE_MAX) };
    let shown: Vec<Value> = rows
        .iter()
        .skip(listing.offset)
        .take(limit)
        .map(|row| {
            json!({
                "name": &*row.topic.name,
                "internal": row.topic.is_internal(),
                "partitions": row.topic.partitions.len(),
                "records": row.records,
                "size_bytes": row.size_bytes,
                "bytes_in": row.bytes_in,
                "bytes_out": row.bytes_out,
                "records_in": row.records_in,
                "compacted": row.topic.configs.get("cleanup.policy").is_some_and(|it| it.contains("compact")),
            })
        })
        .collect();
    Ok(answer(&json!({ "total": total, "topics": shown })))
}

pub async fn one(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let running = site.running()?;
    let image = running.cluster.fresh_image().await?;
    let topic = image.topic(&name).ok_or_else(ApiError::topic_not_found)?;
    let snapshot = running.observer.snapshot(Duration::from_millis(200)).await?;
    let dirs: Vec<&str> = snapshot
        .shards
        .first()
        .map(|shard| shard.broker.dirs.iter().map(|dir| dir.path.as_str()).collect())
        .unwrap_or_default();
    let partitions: Vec<Value> = (0i32..)
        .zip(&topic.partitions)
        .map(|(number, partition)| {
            let mut shown = json!({
                "partition": number,
                "leader": partition.leader,
                "replicas": partition.replicas,
                "isr": partition.isr,
                "leader_epoch": partition.leader_epoch,
                "shard": crate::metadata::placement::shard_of(topic, number, running.cluster.shards.len()),
            });
            if let Some(state) = snapshot.partition(&name, number) {
                shown["start_offset"] = state.log.log_start_offset.into();
                shown["high_watermark"] = state.log.high_watermark.into();
                shown["end_offset"] = state.log.log_end_offset.into();
                shown["size_bytes"] = state.log.size_bytes.into();
                shown["segments"] = state.log.segments.into();
                shown["dir"] = dirs.get(state.log.dir).copied().into();
                shown["bytes_in"] = state.traffic.bytes_in.into();
                shown["bytes_out"] = state.traffic.bytes_out.into();
            }
            shown
        })
        .collect();
    Ok(answer(&json!({
        "name": name,
        "id": topic.id.to_string(),
        "internal": topic.is_internal(),
        "partitions": partitions,
    })))
}

/// Settings of a `topic` or a `broker`, with what each means; those that were set come first.
pub async fn settings(
    State(site): State<Arc<Site>>,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let cluster = &site.running()?.cluster;
    let resource = match kind.as_str() {
        "topic" => Resource::Topic,
        "broker" => Resource::Broker,
        _ => return Err(ApiError::not_found()),
    };
    let found = topics::settings(cluster, &Caller::own(), resource, &name, true).await?;
    let mut found = found.map_err(|failed| ApiError::of_kafka(&failed))?;
    found.sort_by_key(|setting| (setting.source == 5, setting.name.clone()));
    let shown: Vec<Value> = found
        .into_iter()
        .map(|setting| {
            json!({
                "name": setting.name,
                "value": setting.value,
                "default": setting.source == 5,
                "read_only": setting.read_only,
                "sensitive": setting.sensitive,
                "documentation": setting.documentation,
            })
        })
        .collect();
    Ok(answer(&json!({ "settings": shown })))
}

/// Gives up the records of a partition below an offset.
pub async fn truncate(
    site: State<Arc<Site>>,
    Path(topic): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let request = parse(&site, body).await?;
    let partition = request["partition"].as_i64().and_then(|number| i32::try_from(number).ok());
    let partition = partition.ok_or_else(ApiError::partition_not_found)?;
    let before = request["before"].as_i64().ok_or_else(|| ApiError::new(400, "before is missing."))?;
    let cluster = &site.running()?.cluster;
    let done = topics::delete_records(cluster, &Caller::own(), &topic, partition, before).await?;
    done.map_err(|failed| ApiError::of_kafka(&failed))?;
    Ok(answer(&json!({})))
}

/// The largest first.
pub fn largest(snapshot: &Snapshot, count: usize) -> Vec<Value> {
    let mut rows: Vec<Row<'_>> = snapshot.image.topics().map(|topic| row(snapshot, topic)).collect();
    rows.sort_by_key(|row| Reverse(row.size_bytes));
    let shown = rows.iter().take(count);
    shown.map(|row| json!({ "name": &*row.topic.name, "size_bytes": row.size_bytes })).collect()
}
