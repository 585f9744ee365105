//! Why a command did not do what it was asked to, and the exit code that says so.

use std::fmt;

use crate::protocol::ErrorCode;

/// The exit codes of the table in `cli`.
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const DATA: u8 = 4;
pub const UNREACHABLE: u8 = 5;
pub const NOT_FOUND: u8 = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: u8,
    /// What the broker said, if it was a broker.
    pub code: Option<ErrorCode>,
    text: String,
}

impl Failure {
    pub fn new(exit: u8, text: impl Into<String>) -> Failure {
        Failure { exit, code: None, text: text.into() }
    }

    pub fn usage(text: impl Into<String>) -> Failure {
        Failure::new(USAGE, text)
    }

    pub fn not_found(text: impl Into<String>) -> Failure {
        Failure::new(NOT_FOUND, text)
    }

    pub fn unreachable(text: impl Into<String>) -> Failure {
        Failure::new(UNREACHABLE, text)
    }

    /// Bytes that are no answer to what was asked.
    pub fn answer(text: impl fmt::Display) -> Failure {
        Failure::new(FAILED, format!("the broker's answer cannot be read: {text}"))
    }

    pub fn file(name: &std::path::Path, error: &std::io::Error) -> Failure {
        Failure::new(DATA, format!("{}: {error}", name.display()))
    }

    /// `Ok` for no error; else what the broker refused, with its message where it sent one.
    pub fn check(what: impl fmt::Display, code: i16, message: Option<&str>) -> Result<(), Failure> {
        let Some(known) = ErrorCode::from_code(code) else {
            return Err(Failure::new(FAILED, format!("{what}: unknown error {code}")));
        };
        let exit = match known {
            ErrorCode::None => return Ok(()),
            ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::GroupIdNotFound
            | ErrorCode::ResourceNotFound => NOT_FOUND,
            ErrorCode::TopicAlreadyExists => 8,
            _ => FAILED,
        };
        let message = message.filter(|message| !message.is_empty()).unwrap_or(known.message());
        Err(Failure { exit, code: Some(known), text: format!("{what}: {} ({message})", known.name()) })
    }

    /// Whether the same request may be answered otherwise in a moment.
    pub fn is_retriable(&self) -> bool {
        // A topic that does not exist is known at once: a person has mistyped its name.
        self.code.is_some_and(|code| code.is_retriable() && code != ErrorCode::UnknownTopicOrPartition)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}
