//! One log on a simulated disk, with everything that was ever put into it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringlog::io::buffer::{BufferPool, Slice};
use ringlog::io::{Completion, Io, Op, OpenMode, Payload};
use ringlog::protocol::Uuid;
use ringlog::record::batch::{BatchHeader, batches};
use ringlog::record::{BatchBuilder, BatchOptions, Codec, Compressor, Decompressor};
use ringlog::storage::checkpoint::parse_offsets;
use ringlog::storage::{
    self, AckLevel, AppendOptions, LogConfig, LogId, ReadOutcome, ReadRange, Storage, StorageOptions,
    TopicPartition,
};

use crate::sim_io::rng::Rng;
use crate::sim_io::{Crash, SimIo, SimOptions, SimWorld};

const DIR: &str = "/disk/logs";
const POOL_BYTES: usize = 16 << 20;
const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
pub struct Setup {
    pub config: LogConfig,
    pub dedupe_buffer_bytes: usize,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { config: LogConfig::default(), dedupe_buffer_bytes: 1 << 20 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub offset: i64,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
    pub timestamp: i64,
}

/// A record to append: key and length of its value.
#[derive(Clone, Copy, Debug)]
pub struct Put {
    key: u64,
    value: Option<usize>,
}

pub fn put(key: u64, value: Option<usize>) -> Put {
    Put { key, value }
}

pub struct Bench {
    pub world: SimWorld,
    pub rng: Rng,
    setup: Setup,
    io: Option<SimIo>,
    storage: Option<Storage>,
    log: LogId,
    /// What was acknowledged, by offset.
    model: BTreeMap<i64, Found>,
    pub deletes_may_be_gone: bool,
}

fn topic() -> TopicPartition {
    TopicPartition { topic: Arc::from("t"), topic_id: Uuid([9; 16]), partition: 0 }
}

impl Bench {
    pub fn new(seed: u64, setup: Setup) -> Bench {
        let world = SimWorld::new(seed, SimOptions::default());
        world.add_disk(Path::new("/disk"));
        world.create_dir_all(Path::new(DIR));
        let (io, storage, log) = open(&world, &setup, true);
        let (io, storage, rng) = (Some(io), Some(storage), Rng::new(seed));
        Bench { world, rng, setup, io, storage, log, model: BTreeMap::new(), deletes_may_be_gone: false }
    }

    fn parts(&mut self) -> (&mut SimIo, &mut Storage, LogId) {
        (self.io.as_mut().expect("open"), self.storage.as_mut().expect("open"), self.log)
    }

    pub fn config(&mut self, config: LogConfig) {
        self.setup.config = config.clone();
        let (_, storage, log) = self.parts();
        storage.set_config(log, config);
    }

    pub fn random_put(&mut self, keys: u64) -> Put {
        let value = (!self.rng.chance(0.1)).then(|| self.rng.below(100) as usize);
        Put { key: self.rng.below(keys), value }
    }

    pub fn append(&mut self, puts: &[Put], codec: Codec, producer: Option<(i64, i32)>) {
        let timestamp = self.world.wall_ms();
        let (producer_id, base_sequence) = producer.unwrap_or((-1, -1));
        let producer_epoch = if producer.is_some() { 0 } else { -1 };
        let options =
            BatchOptions { codec, producer_id, base_sequence, producer_epoch, ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        let mut found = Vec::new();
        for put in puts {
            let key = format!("key-{}", put.key).into_bytes();
            let value = put.value.map(|len| {
                let mut value = vec![0; len];
                self.rng.fill(&mut value);
                value
            });
            builder.append(timestamp, Some(&key), value.as_deref(), &[]);
            found.push(Found { offset: 0, key, value, timestamp });
        }
        let mut bytes = Vec::new();
        builder.finish(&mut Compressor::default(), &mut bytes).expect("a batch");
        let options = AppendOptions {
            leader_epoch: 0,
            level: AckLevel::Durable,
            log_append_time_ms: None,
            wall_ms: timestamp,
            coordinator: false,
            transaction_version: 0,
        };
        let (io, storage, log) = self.parts();
        let appended = storage.append(io, log, &bytes, options).expect("an append");
        assert!(!appended.duplicate);
        for (at, record) in found.into_iter().enumerate() {
            let offset = appended.base_offset + at as i64;
            self.model.insert(offset, Found { offset, ..record });
        }
        self.turn();
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
        while self.world.now() < end {
            self.turn();
        }
    }

    /// Until flushes are done and the cleaner has nothing to do for a while.
    pub fn clean(&mut self) {
        self.pass_ms(3_000);
    }

    pub fn clean_or_hang(&mut self) {
        let end = self.world.now() + 3 * SECOND_NS;
        while self.world.now() < end && !self.world.hangs() {
            self.turn();
        }
    }

    /// Stops, without the mark of it.
    pub fn stop(&mut self) {
        let (io, storage, _) = self.parts();
        storage.begin_stop(io);
        let end = self.world.now() + 100 * SECOND_NS;
        while !self.parts().1.is_stopped() {
            self.turn();
            assert!(self.world.now() < end, "a clean stop hangs");
        }
    }

    pub fn restart(&mut self, crash: Option<Crash>) {
        match crash {
            Some(crash) => {
                let driver = self.io.as_ref().expect("open").id();
                self.world.crash(&[driver], crash);
            }
            None => {
                self.stop();
                storage::mark_clean(self.parts().0, &[PathBuf::from(DIR)]).expect("the mark of a clean stop");
            }
        }
        self.world.hang_after_ops(None);
        self.storage = None;
        self.io = None;
        let (io, storage, log) = open(&self.world, &self.setup, false);
        (self.io, self.storage, self.log) = (Some(io), Some(storage), log);
    }

    // ---- what is there ----

    fn read_bytes(&mut self) -> Vec<u8> {
        let (mut offset, mut bytes) = (0, Vec::new());
        let patience = self.world.now() + 100 * SECOND_NS;
        loop {
            let (io, storage, log) = self.parts();
            let end_offset = storage.high_watermark(log).expect("the log");
            let range = ReadRange { offset, end_offset, max_bytes: 10_000, at_least_one: true };
            let mut out: Vec<Slice> = Vec::new();
            match storage.read(io, log, range, &mut out).expect("a read") {
                ReadOutcome::Done { bytes: 0, .. } => return bytes,
                ReadOutcome::Done { .. } => {
                    let got: Vec<u8> = out.iter().flat_map(|slice| slice.iter().copied()).collect();
                    let whole = batches(&got).map_while(Result::ok);
                    let (len, last) = whole.fold((0, offset), |(len, _), batch| {
                        (len + batch.bytes().len(), batch.header().last_offset())
                    });
                    assert!(len > 0 && last >= offset, "a read at {offset} gives no batch");
                    bytes.extend_from_slice(&got[..len]);
                    offset = last + 1;
                }
                ReadOutcome::Pending => self.turn(),
            }
            assert!(self.world.now() < patience, "a read hangs");
        }
    }

    pub fn batches(&mut self) -> Vec<BatchHeader> {
        batches(&self.read_bytes()).map(|batch| *batch.expect("a batch").header()).collect()
    }

    pub fn read_all(&mut self) -> Vec<Found> {
        let bytes = self.read_bytes();
        let (mut found, mut scratch) = (Vec::new(), Vec::new());
        for batch in batches(&bytes) {
            let batch = batch.expect("a batch");
            batch.check_crc().expect("a checksum");
            let header = batch.header();
            let mut decompressor = Decompressor::default();
            for record in batch.records(&mut decompressor, &mut scratch, 1 << 20).expect("records") {
                let record = record.expect("a record");
                found.push(Found {
                    offset: record.offset(header),
                    key: record.key.expect("a key").to_vec(),
                    value: record.value.map(<[u8]>::to_vec),
                    timestamp: record.timestamp(header),
                });
            }
        }
        found
    }

    /// Holds what can be read against what was put in.
    pub fn check(&mut self) {
        let found = self.read_all();
        let offsets: Vec<i64> = found.iter().map(|found| found.offset).collect();
        assert!(offsets.is_sorted_by(|one, next| one < next), "out of order or twice: {offsets:?}");
        for record in &found {
            assert_eq!(Some(record), self.model.get(&record.offset), "a record that was never put in");
        }
        let mut last: BTreeMap<&[u8], &Found> = BTreeMap::new();
        for record in self.model.values() {
            last.insert(&record.key, record);
        }
        for record in last.values() {
            let gone = self.deletes_may_be_gone && record.value.is_none();
            assert!(gone || offsets.contains(&record.offset), "the last of its key is missing: {record:?}");
        }
        let end = self.model.last_key_value().map_or(0, |(offset, _)| offset + 1);
        let (_, storage, log) = self.parts();
        assert_eq!((storage.log_start_offset(log), storage.log_end_offset(log)), (Some(0), Some(end)));
    }

    fn names(&mut self) -> Vec<String> {
        let entries = self.parts().0.list_dir(&Path::new(DIR).join("t-0")).unwrap_or_default();
        entries.into_iter().map(|entry| entry.name).collect()
    }

    pub fn size_bytes(&mut self) -> u64 {
        let (_, storage, log) = self.parts();
        storage.size_bytes(log).expect("the log")
    }

    pub fn segments(&mut self) -> usize {
        self.names().iter().filter(|name| name.ends_with(".log")).count()
    }

    pub fn no_leftovers(&mut self) {
        let names = self.names();
        let left = names.iter().find(|name| name.ends_with(".cleaned") || name.ends_with(".swap"));
        assert_eq!(left, None);
    }

    /// What the checkpoints on disk say.
    pub fn cleaned_offset(&mut self) -> i64 {
        let own = PathBuf::from(DIR).join(".ringlog");
        let names = self.parts().0.list_dir(&own).expect("our directory");
        let names = names.iter().filter(|entry| entry.name.starts_with("cleaner-offset"));
        let texts: Vec<String> = names
            .map(|entry| own.join(&entry.name))
            .collect::<Vec<_>>()
            .iter()
            .map(|path| self.read_file(path))
            .collect();
        let offsets =
            texts.iter().filter_map(|text| parse_offsets(text).ok()).flat_map(BTreeMap::into_values);
        offsets.max().unwrap_or(0)
    }

    pub fn read_file(&mut self, path: impl AsRef<Path>) -> String {
        let path = path.as_ref().to_owned();
        // A process of its own, as no other operation may be under way.
        let mut io = self.world.driver();
        let opened = io.block_on(Op::Open { path, mode: OpenMode::default() });
        let Payload::Opened { file } = opened.payload else { return String::new() };
        let buf = ringlog::io::buffer::AlignedBuf::unbudgeted(1 << 16);
        let read = io.block_on(Op::Read { file, offset: 0, buf, len: 1 << 16 });
        let Payload::Buffer(buf) = read.payload else { panic!("no buffer") };
        String::from_utf8_lossy(&buf[..read.result.expect("a read")]).into_owned()
    }
}

fn open(world: &SimWorld, setup: &Setup, first: bool) -> (SimIo, Storage, LogId) {
    let dirs = [PathBuf::from(DIR)];
    let mut io = world.driver();
    let config = setup.config.clone();
    let topics = |id| (id == topic().topic_id).then(|| ("t".into(), config.clone()));
    let report = storage::recover(&mut io, &dirs, &topics, &|_, _| None);
    let report = report.expect("a recovery");
    assert!(report.failed_dirs.is_empty(), "{report:?}");
    let mut options = StorageOptions::new(0, dirs.to_vec(), BufferPool::new(POOL_BYTES));
    options.flush_interval_ms = 50;
    options.journal_file_bytes = 64 << 10;
    options.cleaner.backoff_ms = 300;
    options.cleaner.dedupe_buffer_bytes = setup.dedupe_buffer_bytes;
    let mut storage = Storage::open(&mut io, options).expect("storage");
    let log = if first {
        storage.create_log(0, topic(), setup.config.clone())
    } else {
        storage.open_log(&mut io, 0, topic(), setup.config.clone())
    };
    (io, storage, log.expect("the log"))
}
