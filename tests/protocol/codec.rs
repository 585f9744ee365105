//! All generated messages, and the oracle's, behind functions over bytes.

use std::path::Path;
use std::sync::LazyLock;

use kafka_protocol::messages as oracle;
use kafka_protocol::protocol::{Decodable, Encodable, VersionRange};
use ringlog::protocol::{DecodeError, Message as _, messages};

use crate::schema::{self, Message};

pub struct Codec {
    pub name: &'static str,
    pub decode: fn(&[u8], i16) -> Result<(), DecodeError>,
    /// Decodes and encodes again.
    pub round_trip: fn(&[u8], i16) -> Result<Vec<u8>, DecodeError>,
    /// The same by the other crate, and the versions it knows.
    pub oracle: Option<(VersionRange, OracleRoundTrip)>,
}

pub type OracleRoundTrip = fn(&[u8], i16) -> Result<Vec<u8>, String>;

/// Every message of the schema with its codec.
pub static ALL: LazyLock<Vec<(Message, Codec)>> = LazyLock::new(|| {
    let schema = schema::load(Path::new("src/protocol/schema")).expect("the schema is readable");
    let mut codecs = codecs();
    assert_eq!(schema.len(), codecs.len());
    let find = |message: Message| {
        let at =
            codecs.iter().position(|codec| codec.name == message.name).expect("the message is generated");
        (message, codecs.swap_remove(at))
    };
    schema.into_iter().map(find).collect()
});

/// Calls `check` for every message in every version.
pub fn each(mut check: impl FnMut(&Message, &Codec, i16)) {
    for (message, codec) in ALL.iter() {
        for version in message.versions.min..=message.versions.max {
            check(message, codec, version);
        }
    }
}

fn oracle_round_trip<M: Decodable + Encodable>(mut bytes: &[u8], version: i16) -> Result<Vec<u8>, String> {
    let message = M::decode(&mut bytes, version).map_err(|e| format!("decode: {e}"))?;
    if !bytes.is_empty() {
        return Err(format!("{} bytes left", bytes.len()));
    }
    let mut out = Vec::new();
    message.encode(&mut out, version).map_err(|e| format!("encode: {e}"))?;
    Ok(out)
}

// Of the records it knows some; its VotersRecord and LeaderChangeMessage refuse their own voters.
macro_rules! oracle {
    (request $name:ident) => {
        oracle!(@ $name)
    };
    (response $name:ident) => {
        oracle!(@ $name)
    };
    (data ConsumerProtocolSubscription) => {
        oracle!(@ ConsumerProtocolSubscription)
    };
    (data ConsumerProtocolAssignment) => {
        oracle!(@ ConsumerProtocolAssignment)
    };
    (data EndTxnMarker) => {
        oracle!(@ EndTxnMarker)
    };
    (data SnapshotHeaderRecord) => {
        oracle!(@ SnapshotHeaderRecord)
    };
    (data SnapshotFooterRecord) => {
        oracle!(@ SnapshotFooterRecord)
    };
    (data KRaftVersionRecord) => {
        oracle!(@ KRaftVersionRecord)
    };
    (data $name:ident) => {
        None
    };
    (@ $name:ident) => {
        Some((
            <oracle::$name as kafka_protocol::protocol::Message>::VERSIONS,
            oracle_round_trip::<oracle::$name> as OracleRoundTrip,
        ))
    };
}

macro_rules! codecs {
    ($($kind:ident $module:ident $name:ident,)*) => {
        fn codecs() -> Vec<Codec> {
            vec![$(Codec {
                name: stringify!($name),
                decode: |bytes, version| {
                    messages::$module::$name::decode_exact(bytes, version).map(|_| ())
                },
                round_trip: |bytes, version| {
                    let message = messages::$module::$name::decode_exact(bytes, version)?;
                    Ok(message.to_bytes(version))
                },
                oracle: oracle!($kind $name),
            },)*]
        }
    };
}

ringlog::each_message!(codecs);
