//! The wire: Kafka's messages in both directions, every version from what Kafka 4.3 serves down to a few older floors.
//!
//! Requests decode to views that borrow from the received bytes, with no allocation; responses are written into a
//! [`Writer`] that leaves record bytes out and notes where they belong. Whatever a peer sends, reading it ends in a value or
//! a [`DecodeError`]: no panic, no allocation that the bytes do not justify. Depends on nothing else in the crate.

pub mod api_key; // the APIs and their versions
pub mod array; // lazily decoded, or owned
mod element; // numbers, strings, UUIDs as elements
pub mod error; // why bytes could not be read
pub mod error_code; // Kafka's error codes
pub mod frame; // length, headers, whole frames
pub mod messages; // generated from schema/
pub mod reader;
pub mod records;
pub mod uuid;
pub mod writer;

pub use api_key::{ApiKey, ApiVersions};
pub use array::{Array, Element};
pub use error::{DecodeError, DecodeErrorKind};
pub use error_code::ErrorCode;
pub use frame::RequestHeader;
pub use messages::{Message, Request};
pub use reader::Reader;
pub use records::Records;
pub use uuid::Uuid;
pub use writer::{Splice, Writer};
