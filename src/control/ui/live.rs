//! What is going on: the broker in short, each shard's totals for the page to take differences of, and what tuning says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::{answer, topics};
use crate::control::Site;
use crate::control::cluster::records::now_ms;
use crate::control::error::ApiError;
use crate::metrics::{Histogram, HistogramValues, bucket_end_ns};
use crate::protocol::ApiKey;
use crate::tune::effect::Effects;
use crate::tune::measure::Measured;
use crate::tune::{self, Host, Target};

const WAIT: Duration = Duration::from_secs(5);
/// How long a look at the host's settings may take.
const TUNING_WAIT: Duration = Duration::from_secs(20);

pub async fn overview(State(site): State<Arc<Site>>) -> Result<Response, ApiError> {
    let running = site.running()?;
    let cluster = &running.cluster;
    let snapshot = running.observer.snapshot(Duration::from_secs(2)).await?;
    let image = cluster.image().await?;
    let config = &cluster.config;
    let first = snapshot.shards.first();
    let dirs: Vec<Value> = first
        .map(|shard| {
            let show = |(index, dir): (usize, &crate::storage::DirState)| {
                let of_dir = snapshot.partitions.iter().filter(|state| state.log.dir == index);
                let (count, bytes) =
                    of_dir.fold((0, 0), |(count, bytes), state| (count + 1, bytes + state.log.size_bytes));
                json!({ "path": dir.path, "online": dir.online, "partitions": count, "size_bytes": bytes,
                    "measured": Measured::load(Path::new(&dir.path)) })
            };
            shard.broker.dirs.iter().enumerate().map(show).collect()
        })
        .unwrap_or_default();
    let sum = |of: &dyn Fn(&crate::server::local::ShardState) -> usize| -> usize {
        snapshot.shards.iter().map(of).sum()
    };
    let listeners: Vec<String> = config.listeners.iter().map(|one| one.advertised.to_string()).collect();
    Ok(answer(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cluster_id": &*image.cluster_id,
        "node_id": image.node_id,
        "driver": running.driver,
        "uptime_seconds": running.began.elapsed().as_secs(),
        "read_only": site.config.read_only,
        "secured": false,
        "topics": image.topic_count(),
        "partitions": image.partition_count(),
        "shards": cluster.shards.len(),
        "connections": sum(&|shard| shard.connections),
        "memory_used_bytes": sum(&|shard| shard.broker.memory_used_bytes),
        "memory_limit_bytes": sum(&|shard| shard.broker.memory_max_bytes),
        "size_bytes": snapshot.partitions.iter().map(|state| state.log.size_bytes).sum::<u64>(),
        "dirs": dirs,
        "listeners": listeners,
        "largest": topics::largest(&snapshot, 10),
        "ack_levels": {
            "acks=0": format!("{:?}", config.ack_levels.acks0).to_lowercase(),
            "acks=1": format!("{:?}", config.ack_levels.acks1).to_lowercase(),
            "acks=all": format!("{:?}", config.ack_levels.all).to_lowercase(),
        },
    })))
}

/// Totals since the start, and the state of now, of each shard.
pub async fn live(State(site): State<Arc<Site>>) -> Result<Response, ApiError> {
    let running = site.running()?;
    let cluster = &running.cluster;
    let mut shards = Vec::new();
    for (shard, link) in cluster.shards.iter().enumerate() {
        let state = cluster.survey(shard, None, false, WAIT).await?;
        let counters: Map<String, Value> =
            link.metrics.values().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let journal_bytes: u64 = state.broker.dirs.iter().map(|dir| dir.journal_bytes).sum();
        let tail_bytes: usize = state.broker.dirs.iter().map(|dir| dir.tail_bytes).sum();
        shards.push(json!({
            "counters": counters,
            "connections": state.connections,
            "mail_waiting": state.mail_waiting,
            "mail_unsent": state.mail_unsent,
            "gathers": state.broker.gathers,
            "stalled_bytes": state.broker.stalled_bytes,
            "memory_used_bytes": state.broker.memory_used_bytes,
            "memory_limit_bytes": state.broker.memory_max_bytes,
            "journal_used_bytes": journal_bytes,
            "tail_bytes": tail_bytes,
            "turn": buckets(&link.metrics.turn_time),
            "journal_write": buckets(&link.metrics.journal_write_time),
            "journal_durable": buckets(&link.metrics.journal_durable_write_time),
            "journal_sync": buckets(&link.metrics.journal_sync_time),
        }));
    }
    let mut apis = Map::new();
    for (key, _) in running.observer.window().apis {
        let Ok(api) = ApiKey::try_from(key) else { continue };
        let mut all = HistogramValues::default();
        cluster.shards.iter().for_each(|link| all.add(&link.metrics.api(key).time.values()));
        apis.insert(api.name().to_owned(), pairs(&all));
    }
    Ok(answer(&json!({ "at_ms": now_ms(), "shards": shards, "apis": apis })))
}

fn buckets(histogram: &Histogram) -> Value {
    pairs(&histogram.values())
}

/// Where a bucket ends, in microseconds, and how many are in it; those that hold something.
fn pairs(values: &HistogramValues) -> Value {
    let used = values.counts.iter().enumerate().filter(|(_, count)| **count > 0);
    used.map(|(bucket, count)| {
        let end_us = (bucket_end_ns(bucket) / 1000).min(100_000_000);
        json!([end_us, count])
    })
    .collect()
}

/// What `ringlog tune check --json` says of the broker's directories, as it says it; the limits are this process's own.
pub async fn tuning(State(site): State<Arc<Site>>) -> Result<Response, ApiError> {
    let dirs = site.running()?.cluster.config.log_dirs.clone();
    // Files of /proc and /sys may take their time.
    let look = tokio::task::spawn_blocking(|| {
        let dirs = dirs.into_iter().map(|dir| std::path::absolute(&dir).unwrap_or(dir)).collect();
        let mut reports = tune::check(&Host::new(Path::new("/")), &Target::broker(dirs));
        // Without what was measured there is still what was found.
        if let Ok(effects) = Effects::beside(Path::new(tune::change::RECORD)) {
            effects.attach(&mut reports);
        }
        reports
    });
    let found = tokio::time::timeout(TUNING_WAIT, look).await;
    let found = found.map_err(|_| ApiError::new(408, "The check took too long."))?;
    let found = found.map_err(|error| ApiError::new(500, error.to_string()))?;
    Ok(answer(&json!(found)))
}
