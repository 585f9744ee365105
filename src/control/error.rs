//! Errors over HTTP, as JSON with Confluent's codes: the status, or the status and two digits more.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::cluster::CallError;
use super::cluster::records::Failed;
use crate::protocol::ErrorCode;

/// What a request is refused with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: u32,
    pub message: String,
}

impl ApiError {
    /// A code of five digits begins with its status.
    pub fn new(code: u32, message: impl Into<String>) -> ApiError {
        let status = if code > 999 { code / 100 } else { code };
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        ApiError {
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code,
            message: message.into(),
        }
    }

    pub fn not_found() -> ApiError {
        ApiError::new(404, "HTTP 404 Not Found")
    }

    pub fn method_not_allowed() -> ApiError {
        ApiError::new(405, "HTTP 405 Method Not Allowed")
    }

    pub fn topic_not_found() -> ApiError {
        ApiError::new(40401, "Topic not found.")
    }

    pub fn partition_not_found() -> ApiError {
        ApiError::new(40402, "Partition not found.")
    }

    pub fn exclusive() -> ApiError {
        let text = "Subscription to topics, partitions and pattern are mutually exclusive";
        ApiError::new(40903, format!("Illegal state: {text}"))
    }

    /// What the broker refused, as v3 says it.
    pub fn of_kafka(failed: &Failed) -> ApiError {
        use ErrorCode as E;
        let message = failed.message.as_str();
        match failed.error {
            E::UnknownTopicOrPartition | E::UnknownTopicId => {
                ApiError::new(40403, "This server does not host this topic-partition.")
            }
            E::GroupIdNotFound => ApiError::new(40403, message),
            E::TopicAuthorizationFailed | E::GroupAuthorizationFailed | E::ClusterAuthorizationFailed => {
                ApiError::new(40301, message)
            }
            E::SaslAuthenticationFailed => ApiError::new(40101, message),
            E::MessageTooLarge | E::RecordListTooLarge => ApiError::new(413, message),
            E::TopicAlreadyExists
            | E::InvalidTopicException
            | E::InvalidPartitions
            | E::InvalidReplicationFactor
            | E::InvalidReplicaAssignment
            | E::InvalidConfig
            | E::InvalidRequest
            | E::PolicyViolation
            | E::InvalidRecord
            | E::InvalidTimestamp
            | E::CorruptMessage
            | E::NonEmptyGroup
            | E::OffsetOutOfRange
            | E::UnknownMemberId => ApiError::new(40002, message),
            error if error.is_retriable() => ApiError::new(50003, message),
            _ => ApiError::new(50002, message),
        }
    }

    pub fn starting() -> ApiError {
        ApiError::new(503, "The broker is starting.")
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> ApiError {
        let code = match error {
            CallError::Busy => 429,
            CallError::Refused => 503,
            CallError::TimedOut => 408,
            CallError::Malformed(_) => 500,
        };
        ApiError::new(code, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error_code": self.code, "message": self.message }).to_string();
        let mut response =
            (self.status, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body)
                .into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response
                .headers_mut()
                .insert(axum::http::header::RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
        }
        response
    }
}
