//! Kafka's messages, generated from `schema/` by `generate.rs`: one module a message, under its Kafka name.
//!
//! A message is one struct for both directions. Decoded, it borrows from the received bytes; fields that the version does
//! not have hold their default. Encoded, such fields are left out whatever they hold, and null in a version that knows no
//! null is written as empty.

use super::api_key::ApiKey;
use super::error::{DecodeError, DecodeErrorKind};
use super::reader::Reader;
use super::writer::Writer;

/// A whole message.
pub trait Message<'a>: Clone + std::fmt::Debug + Default + PartialEq {
    const NAME: &'static str;
    const MIN_VERSION: i16;
    const MAX_VERSION: i16;

    /// Whether this version has compact lengths and tagged fields.
    fn is_flexible(version: i16) -> bool;

    /// Reads the message and leaves what follows it. The version has to be between the two above.
    fn read(reader: &mut Reader<'a>, version: i16) -> Result<Self, DecodeError>;

    fn write(&self, writer: &mut Writer, version: i16);

    /// Reads a message in a version that may come from a peer, and leaves what follows it. Kafka's brokers read requests
    /// like this: bytes behind the end are ignored.
    fn decode_prefix(reader: &mut Reader<'a>, version: i16) -> Result<Self, DecodeError> {
        if !(Self::MIN_VERSION..=Self::MAX_VERSION).contains(&version) {
            return Err(DecodeError::new(Self::NAME, DecodeErrorKind::UnsupportedVersion(version)));
        }
        Self::read(reader, version)
    }

    /// The same for a message that has to be all there is.
    fn decode_exact(bytes: &'a [u8], version: i16) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let message = Self::decode_prefix(&mut reader, version)?;
        reader.finish(Self::NAME)?;
        Ok(message)
    }

    fn to_bytes(&self, version: i16) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer, version);
        writer.buf
    }
}

/// A message that is answered by another.
pub trait Request<'a>: Message<'a> {
    const API_KEY: ApiKey;
    /// The answer borrows from other bytes than the request.
    type Response<'r>: Message<'r>;
}

// Every struct can be an element; `$life` is there if it borrows.
macro_rules! generated_struct {
    ($name:ident $(<$life:lifetime>)?) => {
        impl<'a> crate::protocol::array::Element<'a> for $name $(<$life>)? {
            #[inline]
            fn read(
                reader: &mut crate::protocol::reader::Reader<'a>,
                _: &'static str,
                version: i16,
                _: bool,
            ) -> crate::protocol::reader::Result<Self> {
                Self::decode(reader, version)
            }

            #[inline]
            fn write(&self, writer: &mut crate::protocol::writer::Writer, version: i16, _: bool) {
                self.encode(writer, version);
            }
        }
    };
}

// `$flexible` is the first flexible version, `i16::MAX` for none.
macro_rules! generated_message {
    ($name:ident $(<$life:lifetime>)?, $min:literal, $max:literal, $flexible:expr) => {
        impl<'a> crate::protocol::messages::Message<'a> for $name $(<$life>)? {
            const NAME: &'static str = stringify!($name);
            const MIN_VERSION: i16 = $min;
            const MAX_VERSION: i16 = $max;

            fn is_flexible(version: i16) -> bool {
                version >= $flexible
            }

            fn read(
                reader: &mut crate::protocol::reader::Reader<'a>,
                version: i16,
            ) -> crate::protocol::reader::Result<Self> {
                Self::decode(reader, version)
            }

            fn write(&self, writer: &mut crate::protocol::writer::Writer, version: i16) {
                self.encode(writer, version);
            }
        }
    };
}

macro_rules! generated_request {
    ($name:ident $(<$life:lifetime>)?, $key:ident, $response:ident $(<$other:lifetime>)?) => {
        impl<'a> crate::protocol::messages::Request<'a> for $name $(<$life>)? {
            const API_KEY: crate::protocol::api_key::ApiKey = crate::protocol::api_key::ApiKey::$key;
            type Response<'r> = $response $(<$other>)?;
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/messages.rs"));
