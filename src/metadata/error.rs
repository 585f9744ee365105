//! Why a change was refused or could not be kept.

use std::fmt;

use crate::config::AlterError;
use crate::protocol::ErrorCode;

/// A code for the client, and the words that go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataError {
    pub code: ErrorCode,
    pub message: String,
}

impl MetadataError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> MetadataError {
        MetadataError { code, message: message.into() }
    }

    pub(super) fn unknown_topic() -> MetadataError {
        let message = "This server does not host this topic-partition.";
        MetadataError::new(ErrorCode::UnknownTopicOrPartition, message)
    }

    pub(super) fn unknown_topic_id() -> MetadataError {
        MetadataError::new(ErrorCode::UnknownTopicId, "This server does not host this topic ID.")
    }
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for MetadataError {}

impl From<AlterError> for MetadataError {
    fn from(error: AlterError) -> MetadataError {
        match error {
            AlterError::InvalidConfig(message) => MetadataError::new(ErrorCode::InvalidConfig, message),
            AlterError::InvalidRequest(message) => MetadataError::new(ErrorCode::InvalidRequest, message),
        }
    }
}
