//! Errors over HTTP, as JSON with Confluent's codes: the status, or the status and two digits more.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::cluster::CallError;

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
