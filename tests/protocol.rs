//! The wire: every message in every version against the schema, against the `kafka-protocol` crate, and against bytes
//! that nobody should send.
//!
//! The messages are made from the schema by `protocol/sample.rs`, which shares the notation's parser with the build script
//! but none of the generated code.

#[path = "protocol/codec.rs"]
mod codec;
#[path = "protocol/counting.rs"]
mod counting;
#[path = "protocol/floors.rs"]
mod floors;
#[path = "protocol/hostile.rs"]
mod hostile;
#[path = "protocol/round_trip.rs"]
mod round_trip;
#[path = "protocol/sample.rs"]
mod sample;
#[allow(dead_code)] // some of it is for the build script alone
#[path = "../src/protocol/generate/schema.rs"]
mod schema;
#[path = "protocol/tables.rs"]
mod tables;
