//! JSON answers.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// What v2 answers.
pub const V2: &str = "application/vnd.kafka.v2+json";
pub const JSON: &str = "application/json";

pub fn json(status: u16, media: &'static str, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    (status, [(CONTENT_TYPE, media), (CACHE_CONTROL, "no-store")], body.to_string()).into_response()
}

pub fn nothing() -> Response {
    (StatusCode::NO_CONTENT, [(CACHE_CONTROL, "no-store")]).into_response()
}
