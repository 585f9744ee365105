//! Health for those who start and stop brokers. `live`: the process does its work, else start it again. `ready`: it serves
//! clients; a broker that recovers or stops is not ready, and neither is one without a directory to write to.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{Running, Site};

/// A shard that has not answered for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);
/// How long a shard may take to say that it serves.
const WAIT: Duration = Duration::from_secs(2);

pub async fn live(State(site): State<Arc<Site>>) -> Response {
    let Some(running) = site.running.get() else { return answer(true, json!({ "status": "starting" })) };
    let silent = running.observer.silent_for();
    let stuck: Vec<usize> = (0..silent.len()).filter(|&shard| silent[shard] > STUCK).collect();
    let status = if stuck.is_empty() { "up" } else { "stuck" };
    answer(stuck.is_empty(), json!({ "status": status, "stuck_shards": stuck }))
}

pub async fn ready(State(site): State<Arc<Site>>) -> Response {
    let Some(running) = site.running.get() else { return answer(false, json!({ "status": "starting" })) };
    let (ready, body) = readiness(running).await;
    answer(ready, body)
}

async fn readiness(running: &Running) -> (bool, Value) {
    let mut dirs = Vec::new();
    for shard in 0..running.cluster.shards.len() {
        let Ok(state) = running.cluster.survey(shard, None, false, WAIT).await else {
            return (false, json!({ "status": "busy", "shard": shard }));
        };
        if state.broker.stopping {
            return (false, json!({ "status": "stopping" }));
        }
        if shard == 0 {
            dirs = state.broker.dirs;
        }
    }
    let online = dirs.iter().filter(|dir| dir.online).count();
    let dirs: Vec<Value> = dirs.iter().map(|dir| json!({ "path": dir.path, "online": dir.online })).collect();
    let status = match online {
        0 => "no log directory is online",
        _ if online < dirs.len() => "degraded",
        _ => "up",
    };
    (online > 0, json!({ "status": status, "log_dirs": dirs }))
}

fn answer(well: bool, body: Value) -> Response {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, body.to_string()).into_response()
}
