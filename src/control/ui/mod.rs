//! The web page: one page of plain modules, embedded, that loads nothing from elsewhere, and what it asks under `/api`.
//!
//! What the REST interface answers the page takes from there; `/api` is the page's own and may change with it. Text of
//! records is handed over as base64 and only ever shown as text.

mod groups;
mod live;
mod load;
mod messages;
mod topics;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::Site;
use super::error::ApiError;
pub use load::Loads;

/// Name, media type and contents.
const ASSETS: &[(&str, &str, &str)] = &[
    ("style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("app.js", SCRIPT, include_str!("assets/app.js")),
    ("avro.js", SCRIPT, include_str!("assets/avro.js")),
    ("chart.js", SCRIPT, include_str!("assets/chart.js")),
    ("decode.js", SCRIPT, include_str!("assets/decode.js")),
    ("groups.js", SCRIPT, include_str!("assets/groups.js")),
    ("kit.js", SCRIPT, include_str!("assets/kit.js")),
    ("live.js", SCRIPT, include_str!("assets/live.js")),
    ("load.js", SCRIPT, include_str!("assets/load.js")),
    ("messages.js", SCRIPT, include_str!("assets/messages.js")),
    ("overview.js", SCRIPT, include_str!("assets/overview.js")),
    ("settings.js", SCRIPT, include_str!("assets/settings.js")),
    ("topics.js", SCRIPT, include_str!("assets/topics.js")),
    ("tuning.js", SCRIPT, include_str!("assets/tuning.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PAGE: &str = include_str!("assets/index.html");

pub fn routes() -> Router<Arc<Site>> {
    Router::new()
        .route("/", get(page))
        .route("/ui/{file}", get(asset))
        .route("/api/overview", get(live::overview))
        .route("/api/live", get(live::live))
        .route("/api/tuning", get(live::tuning))
        .route("/api/topics", get(topics::list))
        .route("/api/topics/{topic}", get(topics::one))
        .route("/api/topics/{topic}/messages", get(messages::browse))
        .route("/api/topics/{topic}/truncate", post(topics::truncate))
        .route("/api/settings/{kind}/{name}", get(topics::settings))
        .route("/api/groups", get(groups::list))
        .route("/api/groups/{group}", get(groups::one).delete(groups::delete))
        .route("/api/groups/{group}/reset", post(groups::reset))
        .route("/api/load", get(load::list).post(load::start).delete(load::stop))
}

/// The page for browsers; for others what Confluent's interface has here, an empty object.
async fn page(headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("text/html") {
        ([(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-cache")], PAGE).into_response()
    } else {
        ([(CONTENT_TYPE, "application/vnd.kafka.v2+json")], "{}").into_response()
    }
}

/// By a table: no path of a request ever names a file.
async fn asset(Path(file): Path<String>) -> Response {
    match ASSETS.iter().find(|(name, ..)| *name == file) {
        Some((_, media, contents)) => {
            ([(CONTENT_TYPE, *media), (CACHE_CONTROL, "no-cache")], *contents).into_response()
        }
        None => ApiError::not_found().into_response(),
    }
}

fn answer(body: &Value) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (StatusCode::OK, headers, body.to_string()).into_response()
}

/// A small body of JSON.
async fn parse(site: &State<Arc<Site>>, body: axum::body::Body) -> Result<Value, ApiError> {
    let content = site.budget.read(body).await?;
    if content.bytes.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(&content.bytes)
        .map_err(|error| ApiError::new(400, format!("The body is no JSON: {error}.")))
}
