//! The append server that two runtimes share all of but the waiting: what a request is ([`wire`]), how requests become
//! aligned blocks of a segment ([`log`]), how bytes become requests ([`inbox`]), and the options. `bin/append-ring.rs` and
//! `bin/append-glommio.rs` add the loop; `bin/raw.rs` is the client.

pub mod client;
pub mod inbox;
pub mod log;
pub mod memory;
pub mod options;
pub mod segment;
pub mod wire;
