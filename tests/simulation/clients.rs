//! What the simulated clients have in common: the world around them, and how the harness steps them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ringlog::protocol::messages::fetch_response::PartitionData;
use ringlog::record::batch::batches;
use ringlog::record::records::Records;

use super::history::{History, Place};
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
    /// How often the wall clock has jumped.
    pub jumps: u32,
    /// InitProducerId requests sent with a transactional id, and when the last one lost its answer.
    pub inits: BTreeMap<String, u64>,
    pub lost_inits: BTreeMap<String, u64>,
    /// The InitProducerId that are out: transactional id and who asks.
    pub initing: BTreeSet<(String, u64)>,
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

    /// A processing group, and what of the inputs it has as its member.
    fn processes(&self) -> Option<(&str, Vec<Place>)> {
        None
    }

    /// A group of the newer protocol, and what it has as its member.
    fn shares(&self) -> Option<(&str, Vec<Place>)> {
        None
    }

    /// What it is waiting for, for the report of a run that hangs.
    fn describe(&self) -> String;
}

/// What lies at an offset of a log, as a reader finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub offset: i64,
    /// `None`: the marker that ends a transaction, or the end of a batch whose last record compaction has taken.
    pub value: Option<u64>,
    /// By the broker's list its transaction was aborted: a reader of committed data leaves it out.
    pub aborted: bool,
}

/// The entries of fetched bytes; a batch that is cut off at the end is left out. `aborted` is what the broker told beside
/// them: producers, and the first offset of what they aborted.
pub fn entries_of(bytes: &[u8], aborted: &[(i64, i64)]) -> Result<Vec<Entry>, String> {
    let mut left: Vec<(i64, i64)> = aborted.iter().map(|&(producer, first)| (first, producer)).collect();
    left.sort_unstable();
    let mut left = left.into_iter().peekable();
    let mut aborting = BTreeSet::new();
    let mut found = Vec::new();
    for batch in batches(bytes) {
        let batch = batch.map_err(|error| format!("what was fetched is no batch: {error}"))?;
        batch.check_crc().map_err(|error| format!("a fetched batch is damaged: {error}"))?;
        let header = batch.header();
        while let Some((_, producer)) = left.next_if(|(first, _)| *first <= header.last_offset()) {
            aborting.insert(producer);
        }
        let records = Records::new(batch.payload(), header.records_count);
        for record in records.map_err(|error| format!("a fetched batch has no records: {error}"))? {
            let record = record.map_err(|error| format!("a fetched record cannot be read: {error}"))?;
            let offset = record.offset(header);
            if header.is_control() {
                if record.key.and_then(|key| key.get(2..4)) == Some(&[0, 0]) {
                    aborting.remove(&header.producer_id);
                }
                found.push(Entry { offset, value: None, aborted: false });
                continue;
            }
            let value =
                record.value.and_then(|value| value.first_chunk()).ok_or("a record without our value")?;
            let aborted = header.is_transactional() && aborting.contains(&header.producer_id);
            found.push(Entry { offset, value: Some(u64::from_be_bytes(*value)), aborted });
        }
        let offset = header.last_offset();
        if found.last().is_none_or(|last| last.offset < offset) {
            found.push(Entry { offset, value: None, aborted: false });
        }
    }
    Ok(found)
}

/// The aborted transactions of a fetched partition.
pub fn aborted_of(data: &PartitionData<'_>) -> Vec<(i64, i64)> {
    let told = data.aborted_transactions.iter().flat_map(|told| told.iter());
    told.map(|aborted| (aborted.producer_id, aborted.first_offset)).collect()
}
