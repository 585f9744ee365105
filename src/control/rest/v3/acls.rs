//! ACLs: there are none while the broker knows no security, and none can be made.

use axum::response::Response;

use super::{Target, ok};
use crate::control::error::ApiError;

pub async fn list(target: Target) -> Result<Response, ApiError> {
    Ok(ok(&target.links.list("KafkaAclList", "acls", Vec::new())))
}

/// What Kafka says without an authorizer.
pub async fn refuse(_: Target) -> ApiError {
    ApiError::new(50002, "No Authorizer is configured on the broker.")
}
