//! What the simulated clients have in common: the world around them, and how the harness steps them.

use std::net::SocketAddr;

use ringlog::record::batch::batches;
use ringlog::record::records::Records;

use super::history::History;
use super::log_model::Verdict;
use super::sim_io::SimWorld;
use super::sim_io::rng::Rng;
use super::sim_io::sim_net::SocketId;

pub const MILLISECOND_NS: u64 = 1_000_000;

/// What a client acts on.
pub struct Context {
    pub world: SimWorld,
    pub rng: Rng,
    pub history: History,
    pub address: SocketAddr,
    /// No new work: finish what is begun.
    pub finishing: bool,
    /// Disk faults are or were on in this life of the broker.
    pub troubled: bool,
    /// The broker's lives so far.
    pub life: u32,
    pub verbose: bool,
}

impl Context {
    pub fn now_ns(&self) -> u64 {
        self.world.now()
    }

    pub fn in_ms(&mut self, low: u64, high: u64) -> u64 {
        self.now_ns() + self.rng.range(low * MILLISECOND_NS, high * MILLISECOND_NS)
    }
}

pub trait Client {
    /// Does what is to be done now.
    fn step(&mut self, context: &mut Context) -> Verdict;

    /// When it wants to act although nothing happened on its sockets.
    fn wake_ns(&self) -> u64;

    fn sockets(&self) -> Vec<SocketId>;

    /// Whether it has done all that [`Context::finishing`] asks of it.
    fn is_done(&self, context: &Context) -> bool;

    /// What it is waiting for, for the report of a run that hangs.
    fn describe(&self) -> String;
}

/// The records of fetched bytes as (offset, value) pairs; a batch that is cut off at the end is left out.
pub fn records_of(bytes: &[u8]) -> Result<Vec<(i64, u64)>, String> {
    let mut found = Vec::new();
    for batch in batches(bytes) {
        let batch = batch.map_err(|error| format!("what was fetched is no batch: {error}"))?;
        batch.check_crc().map_err(|error| format!("a fetched batch is damaged: {error}"))?;
        let header = batch.header();
        let records = Records::new(batch.payload(), header.records_count);
        for record in records.map_err(|error| format!("a fetched batch has no records: {error}"))? {
            let record = record.map_err(|error| format!("a fetched record cannot be read: {error}"))?;
            let value =
                record.value.and_then(|value| value.first_chunk()).ok_or("a record without our value")?;
            found.push((record.offset(header), u64::from_be_bytes(*value)));
        }
    }
    Ok(found)
}
