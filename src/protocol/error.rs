//! Why bytes from a peer could not be read. Names the field, never carries its content.

use std::fmt;

/// What was wrong, and in which field (or message) it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    pub field: &'static str,
    pub kind: DecodeErrorKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeErrorKind {
    /// The bytes end before the field does.
    Truncated {
        needed: usize,
        left: usize,
    },
    /// A length below -1, or -1 where null is not allowed by the type's encoding.
    NegativeLength(i64),
    /// Null in a field or version that knows no null.
    UnexpectedNull,
    /// A string longer than Kafka's 32,767 bytes.
    StringTooLong(usize),
    InvalidUtf8,
    /// A variable-length number that does not end in time.
    InvalidVarint,
    /// More elements than the bytes left could hold, or than the protocol allows.
    TooManyElements {
        count: usize,
        limit: usize,
    },
    TooManyTags(usize),
    /// A tagged field whose declared size is not the size of its value.
    TagSize {
        declared: usize,
        used: usize,
    },
    /// Bytes are left behind the end of the message.
    TrailingBytes(usize),
    UnknownApiKey(i16),
    UnsupportedVersion(i16),
    /// A frame that announces a negative length, or one above the limit.
    FrameLength {
        length: i64,
        limit: usize,
    },
}

impl DecodeError {
    pub(crate) const fn new(field: &'static str, kind: DecodeErrorKind) -> Self {
        DecodeError { field, kind }
    }
}

impl std::error::Error for DecodeError {}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.field)?;
        match self.kind {
            DecodeErrorKind::Truncated { needed, left } => write!(f, "needs {needed} bytes, {left} are left"),
            DecodeErrorKind::NegativeLength(length) => write!(f, "a length of {length}"),
            DecodeErrorKind::UnexpectedNull => write!(f, "null is not allowed here"),
            DecodeErrorKind::StringTooLong(length) => write!(f, "a string of {length} bytes"),
            DecodeErrorKind::InvalidUtf8 => write!(f, "not UTF-8"),
            DecodeErrorKind::InvalidVarint => write!(f, "a variable-length number without an end"),
            DecodeErrorKind::TooManyElements { count, limit } => {
                write!(f, "{count} elements, at most {limit}")
            }
            DecodeErrorKind::TooManyTags(count) => write!(f, "{count} tagged fields"),
            DecodeErrorKind::TagSize { declared, used } => {
                write!(f, "{declared} bytes announced, {used} used")
            }
            DecodeErrorKind::TrailingBytes(left) => write!(f, "{left} bytes left behind the end"),
            DecodeErrorKind::UnknownApiKey(key) => write!(f, "unknown API key {key}"),
            DecodeErrorKind::UnsupportedVersion(version) => write!(f, "unsupported version {version}"),
            DecodeErrorKind::FrameLength { length, limit } => {
                write!(f, "a frame of {length} bytes, at most {limit}")
            }
        }
    }
}
