//! What a content type says of the records in a body, and what they are as bytes.
//!
//! `application/vnd.kafka.json.v2+json` holds JSON values, `application/vnd.kafka.binary.v2+json` base64. The first version's types
//! (`application/vnd.kafka+json`, `….v1+json`, `….binary.v1+json`) hold base64 too, as they always have, and `application/json` is taken for
//! JSON values. Formats with schemas need a registry, which this broker has not: 415.

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::Value;

use crate::control::error::ApiError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Binary,
    Json,
}

impl Format {
    /// The media type of records in this format.
    pub fn media(self) -> &'static str {
        match self {
            Format::Binary => "application/vnd.kafka.binary.v2+json",
            Format::Json => "application/vnd.kafka.json.v2+json",
        }
    }

    fn of_media(media: &str) -> Option<Format> {
        match media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/vnd.kafka.json.v2+json"
            | "application/vnd.kafka.json.v1+json"
            | "application/json" => Some(Format::Json),
            "application/vnd.kafka.binary.v2+json"
            | "application/vnd.kafka.binary.v1+json"
            | "application/vnd.kafka.v1+json"
            | "application/vnd.kafka+json" => Some(Format::Binary),
            _ => None,
        }
    }

    /// The bytes of a record's key or value.
    pub fn encode(self, value: &Value) -> Result<Option<Vec<u8>>, ApiError> {
        match (self, value) {
            (_, Value::Null) => Ok(None),
            (Format::Json, value) => Ok(Some(value.to_string().into_bytes())),
            (Format::Binary, Value::String(text)) => decode_base64(text).map(Some),
            (Format::Binary, _) => {
                Err(ApiError::new(422, "Keys and values of this content type are base64 in a string."))
            }
        }
    }

    /// What a reader is shown. `None`: bytes that are not in this format.
    pub fn decode(self, bytes: Option<&[u8]>) -> Option<Value> {
        match (self, bytes) {
            (_, None) => Some(Value::Null),
            (Format::Json, Some(bytes)) => serde_json::from_slice(bytes).ok(),
            (Format::Binary, Some(bytes)) => Some(Value::String(STANDARD.encode(bytes))),
        }
    }
}

pub fn decode_base64(text: &str) -> Result<Vec<u8>, ApiError> {
    let decoded = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text));
    decoded.map_err(|error| ApiError::new(422, format!("Not base64: {error}.")))
}

fn header<'h>(headers: &'h HeaderMap, name: &axum::http::HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The format of the records in a request.
pub fn of_request(headers: &HeaderMap) -> Result<Format, ApiError> {
    let media = header(headers, &CONTENT_TYPE).unwrap_or("application/json");
    Format::of_media(media).ok_or_else(unsupported)
}

/// For bodies without records.
pub fn check_plain(headers: &HeaderMap) -> Result<(), ApiError> {
    let media = header(headers, &CONTENT_TYPE).unwrap_or("application/json");
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let known = media == "application/vnd.kafka.v2+json" || media == "application/octet-stream";
    if known || Format::of_media(&media).is_some() { Ok(()) } else { Err(unsupported()) }
}

/// Whether a reader takes records of this format.
pub fn accepts(headers: &HeaderMap, format: Format) -> bool {
    let Some(accepted) = header(headers, &ACCEPT) else { return true };
    accepted.split(',').any(|one| {
        let media = one.split(';').next().unwrap_or_default().trim();
        let plain = ["*/*", "application/*", "application/json", "application/vnd.kafka.v2+json"];
        plain.contains(&media) || media.eq_ignore_ascii_case(format.media())
    })
}

fn unsupported() -> ApiError {
    ApiError::new(415, "HTTP 415 Unsupported Media Type")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats() {
        assert_eq!(Format::of_media("application/vnd.kafka+json"), Some(Format::Binary));
        assert_eq!(Format::of_media("Application/JSON; charset=utf-8"), Some(Format::Json));
        assert_eq!(Format::of_media("application/vnd.kafka.avro.v2+json"), None);
        assert_eq!(Format::Binary.encode(&json!("aGk=")).unwrap(), Some(b"hi".to_vec()));
        assert_eq!(Format::Binary.encode(&json!("aGk")).unwrap(), Some(b"hi".to_vec()));
        assert_eq!(Format::Binary.encode(&json!("?")).unwrap_err().code, 422);
        assert_eq!(Format::Binary.encode(&json!({})).unwrap_err().code, 422);
        assert_eq!(Format::Json.encode(&json!({"a": 1})).unwrap(), Some(b"{\"a\":1}".to_vec()));
        assert_eq!(Format::Json.encode(&json!(null)).unwrap(), None);
        assert_eq!(Format::Json.decode(Some(b"x{")), None);
        assert_eq!(Format::Binary.decode(Some(b"hi")), Some(json!("aGk=")));
    }
}
