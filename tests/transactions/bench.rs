//! One log with transactions on a simulated disk, everything that was ever put into it, and a reader of committed data
//! that filters as Kafka's consumers do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringlog::io::buffer::{BufferPool, Slice};
use ringlog::io::{Completion, Io};
use ringlog::protocol::Uuid;
use ringlog::record::batch::{BatchHeader, batches};
use ringlog::record::control::EndTxnMarker;
use ringlog::record::{BatchBuilder, BatchOptions, Codec, Compressor, Decompressor};
use ringlog::storage::transaction_index::AbortedTxn;
use ringlog::storage::{
    self, AckLevel, AppendError, AppendOptions, LogConfig, LogId, ReadOutcome, ReadRange, Storage,
    StorageOptions, TopicPartition,
};

use crate::sim_io::rng::Rng;
use crate::sim_io::{Crash, SimIo, SimOptions, SimWorld};

const DIR: &str = "/disk/logs";
const POOL_BYTES: usize = 16 << 20;
const SECOND_NS: u64 = 1_000_000_000;

/// What became of a record's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Plain,
    Open,
    Committed,
    Aborted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    pub key: u64,
    pub value: Option<Vec<u8>>,
    pub producer: i64,
    pub fate: Fate,
}

/// A producer as it knows itself.
#[derive(Clone, Copy, Debug)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
    pub sequence: i32,
    /// Where its transaction begins.
    pub open: Option<i64>,
}

pub struct Bench {
    pub world: SimWorld,
    pub rng: Rng,
    config: LogConfig,
    io: Option<SimIo>,
    storage: Option<Storage>,
    log: LogId,
    /// What was acknowledged, by offset.
    pub puts: BTreeMap<i64, Put>,
    pub producers: Vec<Producer>,
    pub deletes_may_be_gone: bool,
}

/// What a reader of committed data got: offset, key and value of each record.
pub type Seen = Vec<(i64, u64, Option<Vec<u8>>)>;

fn topic() -> TopicPartition {
    TopicPartition { topic: Arc::from("t"), topic_id: Uuid([9; 16]), partition: 0 }
}

impl Bench {
    pub fn new(seed: u64, config: LogConfig, producers: i64) -> Bench {
        let world = SimWorld::new(seed, SimOptions::default());
        world.add_disk(Path::new("/disk"));
        world.create_dir_all(Path::new(DIR));
        let (io, storage, log) = open(&world, &config, true);
        let producer = |id| Producer { id, epoch: 0, sequence: 0, open: None };
        Bench {
            world,
            rng: Rng::new(seed),
            config,
            io: Some(io),
            storage: Some(storage),
            log,
            puts: BTreeMap::new(),
            producers: (0..producers).map(producer).collect(),
            deletes_may_be_gone: false,
        }
    }

    pub fn parts(&mut self) -> (&mut SimIo, &mut Storage, LogId) {
        (self.io.as_mut().expect("open"), self.storage.as_mut().expect("open"), self.log)
    }

    fn options(&self, coordinator: bool, transaction_version: i16) -> AppendOptions {
        AppendOptions {
            leader_epoch: 0,
            level: AckLevel::Durable,
            log_append_time_ms: None,
            wall_ms: self.world.wall_ms(),
            coordinator,
            transaction_version,
        }
    }

    /// A few records, of a producer's transaction or of nobody's.
    pub fn put(&mut self, producer: Option<usize>, count: usize, keys: u64) {
        let timestamp = self.world.wall_ms();
        let of = producer.map(|at| self.producers[at]);
        let codec = *self.rng.pick(&Codec::ALL);
        let mut builder = BatchBuilder::new(BatchOptions {
            codec,
            producer_id: of.map_or(-1, |of| of.id),
            producer_epoch: of.map_or(-1, |of| of.epoch),
            base_sequence: of.map_or(-1, |of| of.sequence),
            transactional: of.is_some(),
            ..BatchOptions::default()
        });
        let mut puts = Vec::new();
        for _ in 0..count {
            let key = self.rng.below(keys);
            let value = (!self.rng.chance(0.1)).then(|| {
                let mut value = vec![0; self.rng.below(60) as usize];
                self.rng.fill(&mut value);
                value
            });
            builder.append(timestamp, Some(format!("{key}").as_bytes()), value.as_deref(), &[]);
            let (producer, fate) = of.map_or((-1, Fate::Plain), |of| (of.id, Fate::Open));
            puts.push(Put { key, value, producer, fate });
        }
        let mut bytes = Vec::new();
        builder.finish(&mut Compressor::default(), &mut bytes).expect("a batch");
        let options = self.options(false, 0);
        let (io, storage, log) = self.parts();
        let appended = storage.append(io, log, &bytes, options).expect("an append");
        assert!(!appended.duplicate);
        if let Some(at) = producer {
            let of = &mut self.producers[at];
            of.sequence += count as i32;
            of.open.get_or_insert(appended.base_offset);
        }
        self.puts.extend((appended.base_offset..).zip(puts));
        self.turn();
    }

    fn marker(&self, of: &Producer, commit: bool) -> Vec<u8> {
        let (mut builder, mut compressor, mut bytes) =
            (BatchBuilder::default(), Compressor::new(), Vec::new());
        let marker = EndTxnMarker { commit, coordinator_epoch: 0 };
        let timestamp = self.world.wall_ms();
        marker
            .write(of.id, of.epoch, timestamp, &mut builder, &mut compressor, &mut bytes)
            .expect("a marker");
        bytes
    }

    /// Ends a producer's transaction by version 1 or 2; it need not have written anything.
    pub fn end(&mut self, at: usize, commit: bool, version: i16) {
        let mut of = self.producers[at];
        if version >= 2 {
            (of.epoch, of.sequence) = (of.epoch + 1, 0);
        }
        let bytes = self.marker(&of, commit);
        let options = self.options(true, version);
        let (io, storage, log) = self.parts();
        storage.append(io, log, &bytes, options).expect("a marker");
        if let Some(first) = of.open.take() {
            let fate = if commit { Fate::Committed } else { Fate::Aborted };
            let open = self.puts.range_mut(first..).filter(|(_, put)| put.producer == of.id);
            open.filter(|(_, put)| put.fate == Fate::Open).for_each(|(_, put)| put.fate = fate);
        }
        self.producers[at] = of;
        self.turn();
    }

    /// A marker that comes once more, or from a coordinator that is none any more.
    pub fn append_marker(
        &mut self,
        of: &Producer,
        version: i16,
        coordinator_epoch: i32,
    ) -> Result<(), AppendError> {
        let (mut builder, mut compressor, mut bytes) =
            (BatchBuilder::default(), Compressor::new(), Vec::new());
        let marker = EndTxnMarker { commit: false, coordinator_epoch };
        marker.write(of.id, of.epoch, 0, &mut builder, &mut compressor, &mut bytes).expect("a marker");
        let options = self.options(true, version);
        let (io, storage, log) = self.parts();
        storage.append(io, log, &bytes, options).map(|_| ())
    }

    fn turn(&mut self) {
        let (io, storage, _) = self.parts();
        let mut completions: Vec<Completion> = Vec::new();
        storage.end_turn(io);
        let soon = io.now() + 20_000_000;
        io.turn(soon.min(storage.next_deadline()), &mut completions);
        for completion in completions {
            storage.handle_completion(io, completion);
        }
        if io.now() >= storage.next_deadline() {
            let wall_ms = io.wall_ms();
            storage.tick(io, wall_ms);
        }
        storage.end_turn(io);
        while storage.poll_event().is_some() {}
    }

    /// Until everything is acknowledged.
    pub fn settle(&mut self) {
        let end = self.world.now() + 100 * SECOND_NS;
        loop {
            self.turn();
            let (_, storage, log) = self.parts();
            if storage.high_watermark(log) == storage.log_end_offset(log) {
                return;
            }
            assert!(self.world.now() < end, "never acknowledged");
        }
    }

    pub fn pass_ms(&mut self, ms: u64) {
        let end = self.world.now() + ms * 1_000_000;
        while self.world.now() < end && !self.world.hangs() {
            self.turn();
        }
    }

    pub fn restart(&mut self, crash: Option<Crash>) {
        match crash {
            Some(crash) => {
                let driver = self.io.as_ref().expect("open").id();
                self.world.crash(&[driver], crash);
            }
            None => self.stop(),
        }
        self.start();
    }

    pub fn stop(&mut self) {
        let (io, storage, _) = self.parts();
        storage.begin_stop(io);
        let end = self.world.now() + 100 * SECOND_NS;
        while !self.parts().1.is_stopped() {
            self.turn();
            assert!(self.world.now() < end, "a clean stop hangs");
        }
        storage::mark_clean(self.parts().0, &[PathBuf::from(DIR)]).expect("the mark of a clean stop");
    }

    pub fn start(&mut self) {
        self.world.hang_after_ops(None);
        self.storage = None;
        self.io = None;
        let (io, storage, log) = open(&self.world, &self.config, false);
        (self.io, self.storage, self.log) = (Some(io), Some(storage), log);
    }

    pub fn names(&mut self) -> Vec<String> {
        let entries = self.parts().0.list_dir(&Path::new(DIR).join("t-0")).unwrap_or_default();
        entries.into_iter().map(|entry| entry.name).collect()
    }

    // ---- what is there ----

    /// Where the first transaction that is open begins, or the log ends.
    pub fn stable_offset(&mut self) -> i64 {
        let (_, storage, log) = self.parts();
        let end = storage.high_watermark(log).expect("the log");
        let open = self.producers.iter().filter_map(|producer| producer.open);
        open.min().map_or(end, |first| first.min(end))
    }

    /// One read of committed data: the batches and the transactions to skip.
    fn fetch(&mut self, offset: i64, max_bytes: usize) -> (Vec<u8>, Vec<AbortedTxn>, i64) {
        let patience = self.world.now() + 100 * SECOND_NS;
        loop {
            let (io, storage, log) = self.parts();
            let end_offset = storage.last_stable_offset(log).expect("the log");
            let range = ReadRange { offset, end_offset, max_bytes, at_least_one: true };
            let (mut out, mut aborted): (Vec<Slice>, _) = (Vec::new(), Vec::new());
            if let ReadOutcome::Done { next_offset, .. } =
                storage.read(io, log, range, &mut out).expect("a read")
                && storage.aborted_transactions(io, log, offset, next_offset, &mut aborted).expect("an index")
            {
                let bytes = out.iter().flat_map(|slice| slice.iter().copied()).collect();
                return (bytes, aborted, next_offset);
            }
            self.turn();
            assert!(self.world.now() < patience, "a read hangs");
        }
    }

    /// What a consumer of committed data sees from `offset` on, in fetches of about `max_bytes`.
    pub fn committed(&mut self, mut offset: i64, max_bytes: usize) -> Seen {
        let mut seen = Seen::new();
        loop {
            let (bytes, aborted, next_offset) = self.fetch(offset, max_bytes);
            let (records, end) = filter(&bytes, &aborted, offset);
            seen.extend(records);
            match end {
                None => return seen,
                Some(end) => {
                    assert!(end <= next_offset, "read to {end}, told {next_offset}");
                    offset = end;
                }
            }
        }
    }

    pub fn batches(&mut self) -> Vec<BatchHeader> {
        let (_, storage, log) = self.parts();
        let end_offset = storage.high_watermark(log).expect("the log");
        let (mut offset, mut found) = (0, Vec::new());
        loop {
            let (io, storage, log) = self.parts();
            let range = ReadRange { offset, end_offset, max_bytes: 1 << 20, at_least_one: true };
            let mut out: Vec<Slice> = Vec::new();
            match storage.read(io, log, range, &mut out).expect("a read") {
                ReadOutcome::Pending => self.turn(),
                ReadOutcome::Done { .. } => {
                    let bytes: Vec<u8> = out.iter().flat_map(|slice| slice.iter().copied()).collect();
                    let before = found.len();
                    found.extend(batches(&bytes).map_while(Result::ok).map(|batch| *batch.header()));
                    match found.last().filter(|_| found.len() > before) {
                        Some(last) => offset = last.next_offset(),
                        None => return found,
                    }
                }
            }
        }
    }

    /// Holds what can be read against what was put in, from several places.
    pub fn check(&mut self) {
        let stable = self.stable_offset();
        let (_, storage, log) = self.parts();
        assert_eq!(storage.last_stable_offset(log), Some(stable), "the last stable offset");
        let visible: BTreeMap<i64, &Put> = self
            .puts
            .range(..stable)
            .filter(|(_, put)| matches!(put.fate, Fate::Plain | Fate::Committed))
            .map(|(offset, put)| (*offset, put))
            .collect();
        let visible: BTreeMap<i64, Put> = visible.into_iter().map(|(at, put)| (at, put.clone())).collect();
        for _ in 0..6 {
            let from = self.rng.below(stable.max(0) as u64 + 1) as i64;
            let from = if self.rng.chance(0.3) { 0 } else { from };
            let max_bytes = *self.rng.pick(&[1usize, 300, 2000, 100_000]);
            let seen = self.committed(from, max_bytes);
            let offsets: Vec<i64> = seen.iter().map(|(offset, ..)| *offset).collect();
            assert!(offsets.is_sorted_by(|one, next| one < next), "out of order or twice: {offsets:?}");
            for (offset, key, value) in &seen {
                let put = visible.get(offset).unwrap_or_else(|| {
                    panic!("offset {offset}, {:?}, is not to be seen", self.puts.get(offset))
                });
                assert_eq!((put.key, &put.value), (*key, value));
            }
            let seen: BTreeSet<i64> = offsets.into_iter().collect();
            if self.config.compact {
                let mut last: BTreeMap<u64, (i64, &Put)> = BTreeMap::new();
                for (offset, put) in visible.range(from..) {
                    last.insert(put.key, (*offset, put));
                }
                for (offset, put) in last.values() {
                    let gone = self.deletes_may_be_gone && put.value.is_none();
                    assert!(gone || seen.contains(offset), "the last of its key is missing at {offset}");
                }
            } else {
                assert!(
                    visible.range(from..).all(|(offset, _)| seen.contains(offset)),
                    "records are missing"
                );
            }
        }
    }
}

/// The records of a fetch as a consumer of committed data takes them, and where it goes on; `None` when there was no whole batch.
fn filter(bytes: &[u8], aborted: &[AbortedTxn], offset: i64) -> (Seen, Option<i64>) {
    let mut waiting: Vec<&AbortedTxn> = aborted.iter().collect();
    waiting.sort_by_key(|txn| std::cmp::Reverse(txn.first_offset));
    let (mut skipped, mut seen, mut end) = (BTreeSet::new(), Seen::new(), None);
    let mut scratch = Vec::new();
    for batch in batches(bytes).map_while(Result::ok) {
        let header = batch.header();
        batch.check_crc().expect("a checksum");
        end = Some(header.next_offset().max(offset));
        while waiting.last().is_some_and(|txn| txn.first_offset <= header.last_offset()) {
            skipped.insert(waiting.pop().expect("one").producer_id);
        }
        if header.is_control() {
            // Compaction may have emptied it: then nothing of its transaction is left.
            let marker = EndTxnMarker::of_batch(&batch).expect("a marker");
            if marker.is_some_and(|(marker, _)| !marker.commit) {
                skipped.remove(&header.producer_id);
            }
            continue;
        }
        if header.is_transactional() && skipped.contains(&header.producer_id) {
            continue;
        }
        let mut decompressor = Decompressor::default();
        for record in batch.records(&mut decompressor, &mut scratch, 1 << 20).expect("records") {
            let record = record.expect("a record");
            let key = String::from_utf8_lossy(record.key.expect("a key")).parse().expect("a number");
            if record.offset(header) >= offset {
                seen.push((record.offset(header), key, record.value.map(<[u8]>::to_vec)));
            }
        }
    }
    (seen, end)
}

fn open(world: &SimWorld, config: &LogConfig, first: bool) -> (SimIo, Storage, LogId) {
    let dirs = [PathBuf::from(DIR)];
    let mut io = world.driver();
    let topics = |id| (id == topic().topic_id).then(|| ("t".into(), config.clone()));
    let report = storage::recover(&mut io, &dirs, &topics, &|_, _| None);
    let report = report.expect("a recovery");
    assert!(report.failed_dirs.is_empty(), "{report:?}");
    let mut options = StorageOptions::new(0, dirs.to_vec(), BufferPool::new(POOL_BYTES));
    options.flush_interval_ms = 50;
    options.journal_file_bytes = 64 << 10;
    options.cleaner.backoff_ms = 300;
    options.cleaner.dedupe_buffer_bytes = 1 << 20;
    let mut storage = Storage::open(&mut io, options).expect("storage");
    let log = if first {
        storage.create_log(0, topic(), config.clone())
    } else {
        storage.open_log(&mut io, 0, topic(), config.clone())
    };
    (io, storage, log.expect("the log"))
}
