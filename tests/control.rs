//! The control thread as its users see it: the built binary, a real broker, plain HTTP.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "control/broker.rs"]
mod broker;
#[path = "control/health.rs"]
mod health;
#[path = "control/hostile.rs"]
mod hostile;
#[path = "control/metrics.rs"]
mod metrics;
#[path = "control/rest.rs"]
mod rest;
