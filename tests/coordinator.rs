//! Transactions against the built binary, one request at a time over a socket of the test's own.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "coordinator/answers.rs"]
mod answers;
#[path = "coordinator/broker.rs"]
mod broker;
#[path = "coordinator/client.rs"]
mod client;
#[path = "coordinator/journal.rs"]
mod journal;
#[path = "coordinator/kills.rs"]
mod kills;
#[path = "coordinator/load.rs"]
mod load;
#[path = "coordinator/producer.rs"]
mod producer;
