//! Ringlog: a Kafka-wire-compatible log broker, a shard a core over io_uring, and its load generator.
//!
//! The modules below are the layers, lowest first; `tests/layering.rs` fails on an import against this order.

pub mod broker; // what Kafka means: partitions, groups, one handler an API
pub mod cli; // the subcommands
pub mod config; // every key once: type, default, range, doc
pub mod control; // the control thread: HTTP, metrics, health
#[allow(unsafe_code)]
pub mod io; // the kernel: the Io trait, the ring, buffers; the only unsafe
pub mod load; // the load generator
pub mod metadata; // what the cluster knows: topics, configs, brokers
pub mod metrics; // counters and histograms of one shard
pub mod protocol; // the wire: generated messages, reader, writer, frames
pub mod record; // record batches v2: header view, validation, compression
pub mod server; // threads and wiring: the shard's turn, connections, mailboxes
pub mod storage; // a shard's disk: journal, segments, recovery, retention
pub mod tune; // the host's settings: looked at, changed, put back; disks measured
