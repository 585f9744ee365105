//! The compaction of one log: what it knows, and what it does with a batch.

use super::filter::{Filter, FilterOptions, decide, keep_record};
use super::offset_map::{Full, OffsetMap, SLOT_BYTES};
use super::output::Output;
use super::pick::Candidate;
use super::transactions::Transactions;
use crate::record::compression::{DECOMPRESSED_BYTES_MAX_DEFAULT, Decompressor};
use crate::record::control::EndTxnMarker;
use crate::record::records::Record;
use crate::record::{BATCH_OVERHEAD, BatchHeader, RecordBatch};
use crate::storage::producer_state::ProducerState;
use crate::storage::types::*;

/// The part of the offset map that may fill: `log.cleaner.io.buffer.load.factor`.
const LOAD_FACTOR: f64 = 0.9;

/// The compaction of one log.
pub(super) struct Task {
    pub log: LogId,
    pub dir: usize,
    /// The wall clock of the beginning, against which delete horizons are held.
    pub now_ms: i64,
    pub first_dirty: i64,
    pub bound: i64,
    /// The directory's checkpoints, when they have been written this many times, have the recovery point behind the bound:
    /// recovery takes gaps behind it for damage.
    pub checkpoint: u64,
    pub map: OffsetMap,
    pub phase: Phase,
    pub place: Place,
    pub transactions: Transactions,
    /// The segment whose aborted transactions are known.
    pub asked: Option<i64>,
    /// Behind the last marker that something was dropped for.
    pub markers_end: i64,
    pub output: Option<Output>,
    filter: Filter,
    unpack: Unpack,
    pub stats: Stats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The dirty segments are read into the offset map.
    Map,
    /// The segments from this base offset on are still to be written.
    Rewrite(i64),
}

/// Where the task reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub segment: i64,
    pub position: u32,
    pub next_offset: i64,
    /// The next batch has this many bytes, if that is known.
    pub need: usize,
    /// Where the read under way begins.
    pub window: u32,
}

impl Place {
    pub fn start_of(segment: i64) -> Place {
        Place { segment, position: 0, next_offset: segment, need: BATCH_OVERHEAD, window: 0 }
    }
}

#[derive(Default)]
struct Unpack {
    decompressor: Decompressor,
    scratch: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stats {
    pub bytes_before: u64,
    pub bytes_after: u64,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("log", &self.log).field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Task {
    pub fn new(candidate: &Candidate, now_ms: i64, map_bytes_max: usize, secret: [u64; 2]) -> Task {
        // No more memory than there can be keys.
        let offsets = usize::try_from(candidate.bound - candidate.first_dirty).unwrap_or(usize::MAX);
        let slots = offsets.saturating_add(offsets / 8).saturating_add(2);
        let map_bytes = slots.saturating_mul(SLOT_BYTES).min(map_bytes_max);
        Task {
            log: candidate.log,
            dir: candidate.dir,
            now_ms,
            first_dirty: candidate.first_dirty,
            bound: candidate.bound,
            checkpoint: 0,
            map: OffsetMap::new(map_bytes, LOAD_FACTOR, secret),
            phase: Phase::Map,
            place: Place::start_of(-1),
            transactions: Transactions::default(),
            asked: None,
            markers_end: 0,
            output: None,
            filter: Filter::new(),
            unpack: Unpack::default(),
            stats: Stats::default(),
        }
    }

    /// Notes the keys of a batch. False when the map is full.
    pub fn map_batch(&mut self, batch: &RecordBatch<'_>) -> Result<bool, &'static str> {
        let header = batch.header();
        if header.last_offset() < self.first_dirty {
            return Ok(true);
        }
        if header.is_control() {
            self.transactions.on_marker(header, marker_of(batch)?);
        } else if !self.transactions.on_batch(header) {
            let Unpack { decompressor, scratch } = &mut self.unpack;
            let records = batch.records(decompressor, scratch, DECOMPRESSED_BYTES_MAX_DEFAULT);
            for record in records.map_err(|_| "a batch cannot be unpacked")? {
                let record = record.map_err(|_| "a record is malformed")?;
                let offset = record.offset(header);
                if let Some(key) = record.key.filter(|_| offset >= self.first_dirty)
                    && let Err(Full) = self.map.put(key, offset)
                {
                    return Ok(false);
                }
            }
        }
        self.map.set_latest_offset(header.last_offset());
        Ok(true)
    }

    /// Adds what is left of a batch to the output.
    pub fn rewrite_batch(
        &mut self,
        batch: &RecordBatch<'_>,
        producers: &ProducerState,
        config: &LogConfig,
    ) -> Result<(), &'static str> {
        let Some(output) = &mut self.output else { return Err("there is no output") };
        let header = batch.header();
        let (discardable, aborted) = if header.is_control() {
            let of = self.transactions.on_marker(header, marker_of(batch)?);
            (of.discardable, of.aborted)
        } else {
            (self.transactions.on_batch(header), None)
        };
        let decision = decide(header, discardable, producers.entry(header.producer_id), self.now_ms);
        let options = FilterOptions {
            now_ms: self.now_ms,
            delete_retention_ms: config.delete_retention_ms,
            decision,
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX_DEFAULT,
        };
        let (map, now_ms) = (&self.map, self.now_ms);
        let keep = |header: &BatchHeader, record: &Record<'_>| keep_record(map, header, record, now_ms);
        let before = output.pending.len();
        let filtered = self.filter.filter_batch(batch, &options, keep, &mut output.pending);
        let filtered = filtered.map_err(|_| "a batch cannot be rewritten")?;
        let written = &output.pending[before..];
        output.unchanged &= written == batch.bytes();
        match filtered.header {
            Some(header) if header.size() != written.len() => Err("a batch was written with a wrong size"),
            Some(header) if !output.add(&header, config.index_interval_bytes) => {
                Err("the compacted segment becomes too large")
            }
            _ => {
                if let Some(aborted) = aborted {
                    output.segment.add_aborted(&aborted);
                }
                Ok(())
            }
        }
    }

    /// Forgets what was seen of transactions: the log is read from another place.
    pub fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        self.transactions = Transactions::default();
        self.asked = None;
        self.place = Place::start_of(-1);
    }
}

fn marker_of(batch: &RecordBatch<'_>) -> Result<Option<EndTxnMarker>, &'static str> {
    let marker = EndTxnMarker::of_batch(batch).map_err(|_| "a marker is malformed")?;
    Ok(marker.map(|(marker, _)| marker))
}
