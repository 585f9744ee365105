//! Storage on the simulated disk, in scenes: what a random run of the simulation once found, told step by step.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "simulation/sim_io.rs"]
mod sim_io;

#[path = "storage/damage.rs"]
mod damage;
#[path = "storage/large.rs"]
mod large;
#[path = "storage/moves.rs"]
mod moves;
#[path = "storage/tails.rs"]
mod tails;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringlog::io::buffer::{BufferPool, Slice};
use ringlog::io::{Completion, Errno, Io};
use ringlog::protocol::Uuid;
use ringlog::record::batch::batches;
use ringlog::record::builder::{BatchBuilder, BatchOptions};
use ringlog::record::compression::Compressor;
use ringlog::storage::{
    self, AckLevel, AppendError, AppendOptions, Appended, CleanerOptions, Event, LogConfig, LogId, Lookup,
    ReadError, ReadOutcome, ReadRange, RecoveryReport, Storage, StorageOptions, TopicPartition,
};
use sim_io::sim_disk::{Action, FaultRule};
use sim_io::{Crash, SimIo, SimOptions, SimWorld};

const DIR: &str = "/disk/logs";
const SECOND_NS: u64 = 1_000_000_000;
const EPOCH_MS: i64 = 1_600_000_000_000;
const PATIENCE_NS: u64 = 100 * SECOND_NS;

/// Shards on one directory.
struct Scene {
    world: SimWorld,
    /// Of all logs.
    config: LogConfig,
    shards: Vec<Shard>,
    failures: Vec<String>,
    /// Of the last start.
    report: RecoveryReport,
    /// The size of a journal file, and of all together.
    journal_bytes: (u64, u64),
    journal_filled: bool,
    flush_interval_ms: i64,
    /// The part of each shard's 32 MiB that what is written takes.
    settled_bytes: usize,
}

struct Shard {
    io: SimIo,
    storage: Storage,
}

fn topic(name: &str, id: u8) -> TopicPartition {
    TopicPartition { topic: Arc::from(name), topic_id: Uuid([id; 16]), partition: 0 }
}

fn config() -> LogConfig {
    LogConfig { retention_ms: -1, ..LogConfig::default() }
}

/// Appends a batch of one record with `bytes` bytes.
fn append_one(shard: &mut Shard, log: LogId, bytes: usize) {
    let timestamp = EPOCH_MS + shard.storage.log_end_offset(log).unwrap();
    append_as(shard, log, bytes, timestamp, BatchOptions::default()).unwrap();
}

fn append_as(
    shard: &mut Shard,
    log: LogId,
    bytes: usize,
    timestamp: i64,
    batch: BatchOptions,
) -> Result<Appended, AppendError> {
    let Shard { io, storage } = shard;
    let mut builder = BatchBuilder::new(batch);
    builder.append(timestamp, None, Some(&vec![b'x'; bytes]), &[]);
    let mut batch = Vec::new();
    builder.finish(&mut Compressor::default(), &mut batch).unwrap();
    let options = durable(io.wall_ms());
    storage.append(io, log, &batch, options)
}

fn durable(wall_ms: i64) -> AppendOptions {
    AppendOptions {
        leader_epoch: 0,
        level: AckLevel::Durable,
        log_append_time_ms: None,
        wall_ms,
        coordinator: false,
        transaction_version: 0,
    }
}

impl Scene {
    fn new(seed: u64, shards: u32) -> Scene {
        Scene::with(seed, shards, config(), (64 << 10, 1 << 30))
    }

    fn with_journal(seed: u64, shards: u32, journal_bytes: (u64, u64)) -> Scene {
        Scene::with(seed, shards, config(), journal_bytes)
    }

    fn with_config(seed: u64, shards: u32, config: LogConfig) -> Scene {
        Scene::with(seed, shards, config, (64 << 10, 1 << 30))
    }

    fn with(seed: u64, shards: u32, config: LogConfig, journal_bytes: (u64, u64)) -> Scene {
        Scene::of(SimWorld::new(seed, SimOptions::default()), shards, config, journal_bytes, true)
    }

    /// The journal stays in its first file.
    fn unfilled(seed: u64) -> Scene {
        Scene::of(SimWorld::new(seed, SimOptions::default()), 1, config(), (64 << 20, 1 << 30), false)
    }

    fn of(
        world: SimWorld,
        shards: u32,
        config: LogConfig,
        journal_bytes: (u64, u64),
        journal_filled: bool,
    ) -> Scene {
        world.add_disk(Path::new("/disk"));
        world.create_dir_all(Path::new(DIR));
        let (shards_open, failures, report) = Default::default();
        let mut scene = Scene {
            world,
            config,
            shards: shards_open,
            failures,
            report,
            journal_bytes,
            journal_filled,
            flush_interval_ms: 50,
            settled_bytes: 32 << 20,
        };
        scene.start(shards, &[]);
        scene
    }

    /// Recovers with these topics and opens the shards, without any log.
    fn start(&mut self, shards: u32, topics: &[TopicPartition]) {
        let dirs = [PathBuf::from(DIR)];
        let mut ios: Vec<SimIo> = (0..shards).map(|_| self.world.driver()).collect();
        storage::lock_dirs(&mut ios[0], &dirs).unwrap();
        let find = |id| {
            let found = topics.iter().find(|topic| topic.topic_id == id)?;
            Some((found.topic.clone(), self.config.clone()))
        };
        let report = storage::recover(&mut ios[0], &dirs, &find, &|_, _| None).unwrap();
        assert!(report.failed_dirs.is_empty(), "{report:?}");
        self.report = report;
        for (shard, mut io) in ios.into_iter().enumerate() {
            let mut options = StorageOptions::new(
                shard as u32,
                dirs.to_vec(),
                BufferPool::settling(32 << 20, self.settled_bytes),
            );
            options.flush_interval_ms = self.flush_interval_ms;
            options.retention_check_interval_ms = 100;
            (options.journal_file_bytes, options.journal_max_bytes) = self.journal_bytes;
            options.journal_filled = self.journal_filled;
            let storage = Storage::open(&mut io, options).unwrap();
            self.shards.push(Shard { io, storage });
        }
    }

    fn open(&mut self, shard: usize, of: &TopicPartition) -> LogId {
        let Shard { io, storage } = &mut self.shards[shard];
        storage.open_log(io, 0, of.clone(), self.config.clone()).unwrap()
    }

    fn create(&mut self, shard: usize, of: &TopicPartition) -> LogId {
        self.shards[shard].storage.create_log(0, of.clone(), self.config.clone()).unwrap()
    }

    /// A log of the first shard with `count` batches that have been acknowledged.
    fn create_filled(&mut self, of: &TopicPartition, count: usize, bytes: usize) -> LogId {
        let log = self.create(0, of);
        self.append(0, log, count, bytes);
        self.acknowledged(0, log);
        log
    }

    fn delete(&mut self, shard: usize, log: LogId) {
        let Shard { io, storage } = &mut self.shards[shard];
        storage.delete_log(io, log);
    }

    /// Appends `count` batches of one record with `bytes` bytes. A record's timestamp is its offset and [`EPOCH_MS`].
    fn append(&mut self, shard: usize, log: LogId, count: usize, bytes: usize) {
        (0..count).for_each(|_| append_one(&mut self.shards[shard], log, bytes));
        let Shard { io, storage } = &mut self.shards[shard];
        storage.end_turn(io);
    }

    fn turn(&mut self, shard: usize) {
        let Shard { io, storage } = &mut self.shards[shard];
        let mut completions: Vec<Completion> = Vec::new();
        storage.end_turn(io);
        let soon = io.now() + 5_000_000;
        io.turn(soon.min(storage.next_deadline()), &mut completions);
        for completion in completions {
            storage.handle_completion(io, completion);
        }
        if io.now() >= storage.next_deadline() {
            let wall_ms = io.wall_ms();
            storage.tick(io, wall_ms);
        }
        storage.end_turn(io);
        while let Some(event) = storage.poll_event() {
            if let Event::DirFailed { error, .. } = event {
                self.failures.push(error);
            }
        }
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Scene) -> bool) {
        let patience = self.world.now() + PATIENCE_NS;
        while !done(self) {
            (0..self.shards.len()).for_each(|shard| self.turn(shard));
            assert!(self.world.now() < patience, "never: {what}");
        }
        assert_eq!(self.failures, Vec::<String>::new());
    }

    fn pass_ms(&mut self, ms: u64) {
        let end = self.world.now() + ms * 1_000_000;
        self.run_until("time", |scene| scene.world.now() >= end);
    }

    fn acknowledged(&mut self, shard: usize, log: LogId) {
        self.run_until("acknowledged", |scene| {
            let storage = &scene.shards[shard].storage;
            storage.high_watermark(log) == storage.log_end_offset(log)
        });
    }

    fn stop(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.storage.begin_stop(&mut shard.io));
        self.run_until("stopped", |scene| scene.shards.iter().all(|shard| shard.storage.is_stopped()));
        storage::mark_clean(&mut self.shards[0].io, &[PathBuf::from(DIR)]).unwrap();
        self.shards.clear();
    }

    fn crash(&mut self, crash: Crash) {
        let drivers: Vec<usize> = self.shards.iter().map(|shard| shard.io.id()).collect();
        self.world.crash(&drivers, crash);
        self.shards.clear();
    }

    /// The next op of this kind on a file whose path contains this fails.
    fn fail(&mut self, action: Action, path: &str) {
        let rule = FaultRule { action, path: path.to_owned(), skip: 0, times: 1, error: Errno::IO };
        self.world.with_disk(Path::new(DIR), |disk| disk.rules.push(rule));
    }

    fn end(&self, shard: usize, log: LogId) -> i64 {
        self.shards[shard].storage.log_end_offset(log).unwrap()
    }

    /// The first offset that a read at `offset` gives, and how many bytes.
    fn read(&mut self, shard: usize, log: LogId, offset: i64, max_bytes: usize) -> (Option<i64>, usize) {
        let got = self.try_read(shard, log, offset, max_bytes).unwrap();
        let first = batches(&got).next().and_then(Result::ok);
        (first.map(|batch| batch.header().base_offset), got.len())
    }

    fn try_read(
        &mut self,
        shard: usize,
        log: LogId,
        offset: i64,
        max_bytes: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let patience = self.world.now() + PATIENCE_NS;
        loop {
            let Shard { io, storage } = &mut self.shards[shard];
            let end_offset = storage.high_watermark(log).unwrap();
            let range = ReadRange { offset, end_offset, max_bytes, at_least_one: false };
            let mut out: Vec<Slice> = Vec::new();
            if let ReadOutcome::Done { bytes, .. } = storage.read(io, log, range, &mut out)? {
                let got: Vec<u8> = out.iter().flat_map(|slice| slice.iter().copied()).collect();
                assert_eq!(got.len(), bytes);
                return Ok(got);
            }
            self.turn(shard);
            assert!(self.world.now() < patience, "a read hangs");
        }
    }

    fn look_up(&mut self, shard: usize, log: LogId, timestamp: i64) -> Option<i64> {
        let patience = self.world.now() + PATIENCE_NS;
        loop {
            let Shard { io, storage } = &mut self.shards[shard];
            let end_offset = storage.high_watermark(log).unwrap();
            match storage.offset_for_timestamp(io, log, timestamp, end_offset).unwrap() {
                Lookup::Found { offset, .. } => return Some(offset),
                Lookup::None => return None,
                Lookup::Pending => self.turn(shard),
            }
            assert!(self.world.now() < patience, "a look-up hangs");
        }
    }

    fn names(&mut self) -> Vec<String> {
        let mut io = self.world.driver();
        let entries = io.list_dir(Path::new(DIR)).unwrap();
        entries.into_iter().map(|entry| entry.name).filter(|name| name.starts_with("t-")).collect()
    }
}

#[test]
fn a_read_cut_off_behind_an_index_entry_leaves_the_start_where_it_is() {
    let of = topic("t", 1);
    let mut scene = Scene::new(1, 1);
    scene.create_filled(&of, 100, 2_000);
    scene.stop();
    scene.start(1, std::slice::from_ref(&of));
    let log = scene.open(0, &of);
    assert_eq!(scene.read(0, log, 0, 10_000).0, Some(0));
    // The batch does not fit: nothing of it has been passed.
    for offset in 1..100 {
        assert_eq!(scene.read(0, log, offset, 100), (None, 0), "at {offset}");
        assert_eq!(scene.read(0, log, 0, 10_000).0, Some(0), "after a read at {offset}");
    }
}

#[test]
fn a_read_ends_with_the_last_batch_that_fits() {
    let of = topic("t", 1);
    let mut scene = Scene::new(1, 1);
    let log = scene.create_filled(&of, 100, 2_000);
    let batch = scene.read(0, log, 0, 1 << 20).1 / 100;
    // From the tail, from the segment, and from the segment on the disk: across what one read of it brings, too.
    for place in ["tail", "memory", "disk"] {
        for offset in [0, 7, 61, 62, 63] {
            let (first, bytes) = scene.read(0, log, offset, 5 * batch + batch / 2);
            assert_eq!(first, Some(offset), "{place}");
            assert!(
                bytes > 0 && bytes % batch == 0 && bytes <= 5 * batch,
                "{place}: {bytes} of {batch} each"
            );
        }
        match place {
            "tail" => scene.pass_ms(20_000),
            _ => {
                scene.stop();
                scene.start(1, std::slice::from_ref(&of));
                assert_eq!(scene.open(0, &of), log);
            }
        }
    }
}

#[test]
fn a_topic_of_a_deleted_ones_name_survives_the_stop_that_follows_at_once() {
    for shard in 0..2 {
        for turns in 0..30 {
            let (old, new) = (topic("t", 1), topic("t", 2));
            let mut scene = Scene::new(2, 2);
            let log = scene.create_filled(&old, 50, 100);
            scene.pass_ms(60);
            (0..turns).for_each(|_| scene.turn(0));
            scene.delete(0, log);
            let log = scene.create(shard, &new);
            scene.append(shard, log, 20, 100);
            scene.acknowledged(shard, log);
            scene.stop();
            scene.start(1, std::slice::from_ref(&new));
            let log = scene.open(0, &new);
            assert_eq!(scene.end(0, log), 20, "on shard {shard}, deleted after {turns} turns");
            assert_eq!(scene.read(0, log, 0, 1000).0, Some(0));
        }
    }
}

#[test]
fn a_topic_of_a_deleted_ones_name_survives_a_crash() {
    for crash in [Crash::Kill, Crash::Power] {
        for turns in 0..40 {
            let (old, new) = (topic("t", 1), topic("t", 2));
            let mut scene = Scene::new(turns, 2);
            let log = scene.create_filled(&old, 50, 100);
            scene.pass_ms(turns);
            scene.delete(0, log);
            let log = scene.create(1, &new);
            scene.append(1, log, 20, 100);
            scene.acknowledged(1, log);
            scene.pass_ms(2 * turns);
            scene.crash(crash);
            scene.start(1, std::slice::from_ref(&new));
            let log = scene.open(0, &new);
            assert_eq!(scene.end(0, log), 20, "after {crash:?}");
            assert_eq!(scene.read(0, log, 0, 1000).0, Some(0));
        }
    }
}

#[test]
fn the_directory_of_an_unknown_topic_moves_aside() {
    let (old, new) = (topic("t", 1), topic("t", 2));
    let mut scene = Scene::new(3, 1);
    scene.create_filled(&old, 10, 100);
    scene.stop();
    scene.start(1, &[]);
    assert_eq!(scene.names(), [format!("t-0.{}-stray", "01".repeat(16))]);
    // Its name is free.
    scene.create_filled(&new, 20, 100);
    scene.pass_ms(500);
    assert!(scene.names().contains(&"t-0".to_string()));
    scene.stop();
    scene.start(1, std::slice::from_ref(&new));
    let log = scene.open(0, &new);
    assert_eq!(scene.end(0, log), 20);
}

#[test]
fn records_may_be_deleted_while_their_segments_are_synced() {
    for turns in 0..60 {
        let of = topic("t", 1);
        let small = LogConfig { segment_bytes: 2_000, index_interval_bytes: 1, ..config() };
        let mut scene = Scene::with_config(turns, 1, small);
        let log = scene.create_filled(&of, 60, 100);
        // Rolls ask for flushes and syncs: some are under way now.
        (0..turns).for_each(|_| scene.turn(0));
        let Shard { io, storage } = &mut scene.shards[0];
        storage.delete_records(io, log, 55).unwrap();
        scene.pass_ms(1_000);
        assert_eq!(scene.shards[0].storage.log_start_offset(log), Some(55));
        scene.crash(Crash::Power);
        scene.start(1, std::slice::from_ref(&of));
        let log = scene.open(0, &of);
        assert_eq!(scene.shards[0].storage.log_start_offset(log), Some(55));
        assert_eq!(scene.end(0, log), 60);
    }
}

/// The journal's files were freed when a sync ended: where all that they held had been synced already, or its log was
/// deleted, none did, and appends waited for ever.
#[test]
fn a_journal_that_is_safe_already_is_freed() {
    for batches in 10..40 {
        for deleted in [false, true] {
            let mut scene = Scene::with_journal(1, 1, (1 << 20, 4 << 20));
            // Each batch of the one log closes the segment of the one before, which is synced then; the other never syncs.
            scene.config.segment_bytes = 150 << 10;
            let rolling = scene.create(0, &topic("rolling", 1));
            scene.config = config();
            let growing = scene.create(0, &topic("growing", 2));
            for _ in 0..batches {
                scene.append(0, rolling, 1, 100 << 10);
                scene.acknowledged(0, rolling);
            }
            scene.pass_ms(200);
            if deleted {
                scene.delete(0, rolling);
            }
            for _ in 0..3 {
                // As much as fits, then nothing until there is room for more.
                while scene.shards[0].storage.has_room(growing) {
                    scene.append(0, growing, 1, 200 << 10);
                }
                let what = format!("room behind {batches} batches, deleted: {deleted}");
                scene.run_until(&what, |scene| scene.shards[0].storage.has_room(growing));
            }
        }
    }
}

/// A journal file is filled before its use, save the first: what finds no space there gives back what it took, and the file is
/// used as it is; recovery finds the records in both.
#[test]
fn a_journal_file_is_used_whether_it_could_be_filled_or_not() {
    for full in [false, true] {
        let mut scene = Scene::with_journal(1, 1, (3 << 20, 12 << 20));
        let next = "-00000002.journal";
        if full {
            let path = next.to_owned();
            let rule = FaultRule { action: Action::Write, path, skip: 1, times: 1, error: Errno::NO_SPACE };
            scene.world.with_disk(Path::new(DIR), |disk| disk.rules.push(rule));
        }
        let of = topic("t", 1);
        let log = scene.create_filled(&of, 1, 100);
        scene.pass_ms(1000);
        scene.append(0, log, 1, 100);
        scene.acknowledged(0, log);
        let dir = Path::new(DIR).join(".ringlog/journal-0");
        let entries = scene.world.driver().list_dir(&dir).unwrap();
        let entry = entries.iter().find(|entry| entry.name.ends_with(next)).expect("another was asked for");
        assert_eq!(entry.len, if full { 4096 } else { 3 << 20 });
        scene.crash(Crash::Power);
        scene.start(1, std::slice::from_ref(&of));
        assert!(scene.report.cut.is_empty(), "{:?}", scene.report);
        let log = scene.open(0, &of);
        assert_eq!(scene.end(0, log), 2);
    }
}

#[test]
fn timestamps_are_found_whenever_a_segment_was_closed() {
    for round in 0..40 {
        let of = topic("t", 1);
        let small = LogConfig { segment_bytes: 2_000, index_interval_bytes: 600, ..config() };
        let mut scene = Scene::with_config(round, 1, small);
        let mut log = scene.create(0, &of);
        for crash in [Crash::Kill, Crash::Power, Crash::Kill, Crash::Power] {
            // Ends at all places of a segment, and soon after it was begun.
            scene.append(0, log, 3 + round as usize % 11, 100);
            scene.acknowledged(0, log);
            scene.pass_ms(round);
            scene.crash(crash);
            scene.start(1, std::slice::from_ref(&of));
            log = scene.open(0, &of);
            for offset in 0..scene.end(0, log) {
                assert_eq!(scene.look_up(0, log, EPOCH_MS + offset), Some(offset), "{round}, {crash:?}");
            }
        }
    }
}

/// A sync that fails leaves pages that the kernel calls clean and that are not on the media: syncing them again after a kill
/// said that the log's identity was safe, and the power cut after that took it, and the log went aside as unknown.
#[test]
fn whose_a_log_is_survives_a_failed_sync_a_kill_and_a_power_cut() {
    let of = topic("t", 1);
    let mut scene = Scene::new(5, 1);
    scene.create_filled(&of, 10, 100);
    scene.fail(Action::Sync, "/partition.metadata");
    let patience = scene.world.now() + PATIENCE_NS;
    while scene.failures.is_empty() {
        scene.turn(0);
        assert!(scene.world.now() < patience, "the directory never failed");
    }
    scene.failures.clear();
    for crash in [Crash::Kill, Crash::Power] {
        scene.crash(crash);
        scene.start(1, std::slice::from_ref(&of));
        let log = scene.open(0, &of);
        assert_eq!(scene.end(0, log), 10);
    }
    assert_eq!(scene.names(), ["t-0"]);
}

/// Retention had taken the newest batches of a producer, and the producers were kept as of before them: after a crash its next
/// batch was out of order.
#[test]
fn a_producer_goes_on_when_its_newest_batches_have_expired() {
    for (seed, crash) in [Crash::Kill, Crash::Power].into_iter().cycle().enumerate().take(20) {
        // A crash soon after the removal comes before the producers are kept anew.
        for after_ms in [0, 2, 5, 2_000] {
            expired(seed as u64, crash, after_ms);
        }
    }
}

/// How long producers are remembered counted for logs opened after it was set, and at a start not even for these.
#[test]
fn how_long_producers_are_remembered_may_change_at_any_time() {
    const DAY_MS: i64 = 86_400_000;
    let mut scene = Scene::new(1, 1);
    let made_ms = scene.world.wall_ms();
    let first = |scene: &mut Scene, log| {
        let numbered =
            BatchOptions { producer_id: 7, producer_epoch: 0, base_sequence: 0, ..Default::default() };
        append_as(&mut scene.shards[0], log, 100, made_ms, numbered).unwrap()
    };
    let of = topic("t", 1);
    let log = scene.create(0, &of);
    assert!(!first(&mut scene, log).duplicate);
    scene.acknowledged(0, log);
    scene.stop();
    scene.world.jump_wall_ms(2 * DAY_MS);
    scene.start(1, std::slice::from_ref(&of));
    let log = scene.open(0, &of);
    let cleaner = CleanerOptions::default();
    scene.shards[0].storage.configure(cleaner.clone(), 3 * DAY_MS);
    retention_round(&mut scene);
    assert!(first(&mut scene, log).duplicate);
    scene.shards[0].storage.configure(cleaner, DAY_MS);
    retention_round(&mut scene);
    assert!(!first(&mut scene, log).duplicate);
}

/// Logs are looked at every five minutes.
fn retention_round(scene: &mut Scene) {
    (0..4).for_each(|_| scene.pass_ms(90_000));
}

fn expired(seed: u64, crash: Crash, after_ms: u64) {
    let append = |scene: &mut Scene, log, base_sequence| {
        let numbered =
            BatchOptions { producer_id: 7, producer_epoch: 3, base_sequence, ..Default::default() };
        let now_ms = scene.world.wall_ms();
        append_as(&mut scene.shards[0], log, 100, now_ms, numbered)
    };
    let of = topic("t", 1);
    let mut scene = Scene::new(seed, 1);
    let log = scene.create(0, &of);
    for sequence in 0..5 {
        append(&mut scene, log, sequence).unwrap();
    }
    scene.acknowledged(0, log);
    // The producers are kept as they are in the middle of a segment.
    scene.stop();
    scene.start(1, std::slice::from_ref(&of));
    let log = scene.open(0, &of);
    for sequence in 5..8 {
        append(&mut scene, log, sequence).unwrap();
    }
    scene.acknowledged(0, log);
    scene.pass_ms(500);
    let short = LogConfig { retention_ms: 1, ..config() };
    scene.shards[0].storage.set_config(log, short);
    scene.run_until("expired", |scene| scene.shards[0].storage.log_start_offset(log) == Some(8));
    scene.pass_ms(after_ms);
    scene.crash(crash);
    scene.start(1, std::slice::from_ref(&of));
    let log = scene.open(0, &of);
    assert_eq!(scene.end(0, log), 8);
    if after_ms > 1_000 {
        // Nothing of it is forgotten: a batch that comes again is known.
        let again = append(&mut scene, log, 7).unwrap();
        assert!(again.duplicate, "{again:?}");
    }
    let next = append(&mut scene, log, 8);
    assert_eq!(next.map(|appended| appended.base_offset), Ok(8), "{seed}, {crash:?}, {after_ms}");
}

/// The same of what was flushed: recovery found it readable, synced it in vain, and gave up the journal that had it.
#[test]
fn what_was_flushed_survives_a_failed_sync_a_kill_and_a_power_cut() {
    for file in [".log", ".index", ".timeindex"] {
        let of = topic("t", 1);
        let small = LogConfig { segment_bytes: 2_000, index_interval_bytes: 500, ..config() };
        let mut scene = Scene::with_config(5, 1, small);
        let log = scene.create(0, &of);
        scene.fail(Action::Sync, file);
        scene.append(0, log, 30, 100);
        scene.acknowledged(0, log);
        let patience = scene.world.now() + PATIENCE_NS;
        while scene.failures.is_empty() {
            scene.turn(0);
            assert!(scene.world.now() < patience, "the directory never failed");
        }
        scene.failures.clear();
        for crash in [Crash::Kill, Crash::Power] {
            scene.crash(crash);
            scene.start(1, std::slice::from_ref(&of));
            let log = scene.open(0, &of);
            assert_eq!(scene.end(0, log), 30, "{file}");
            for offset in 0..30 {
                assert_eq!(scene.read(0, log, offset, 1_000).0, Some(offset), "{file}");
                assert_eq!(scene.look_up(0, log, EPOCH_MS + offset), Some(offset), "{file}");
            }
        }
    }
}

/// An index without the entries of its sibling was believed: a look-up passed over the segment.
#[test]
fn timestamps_are_found_after_a_start_that_was_cut_off() {
    let of = topic("t", 1);
    let small = LogConfig { index_interval_bytes: 1, ..config() };
    for ops in 0.. {
        let mut scene = Scene::with_config(7, 1, small.clone());
        let log = scene.create(0, &of);
        // The first is the latest.
        for timestamp in [10, 1, 2] {
            append_as(&mut scene.shards[0], log, 100, EPOCH_MS + timestamp, BatchOptions::default()).unwrap();
        }
        scene.acknowledged(0, log);
        scene.stop();
        scene.start(1, std::slice::from_ref(&of));
        // As after a crash, with all of it below the recovery point.
        scene.crash(Crash::Kill);
        let mut io = scene.world.driver();
        scene.world.hang_after_ops(Some(ops));
        let find = |_| Some((of.topic.clone(), small.clone()));
        let _ = storage::recover(&mut io, &[PathBuf::from(DIR)], &find, &|_, _| None);
        let whole = !scene.world.hangs();
        scene.world.hang_after_ops(None);
        scene.world.crash(&[io.id()], Crash::Kill);
        drop(io);
        scene.start(1, std::slice::from_ref(&of));
        let log = scene.open(0, &of);
        assert_eq!(scene.look_up(0, log, EPOCH_MS + 10), Some(0), "cut off after {ops} ops");
        if whole {
            return;
        }
    }
}

/// The error of a read was kept for whoever read the log next, however much later.
#[test]
fn a_reader_is_told_of_its_own_failed_read_only() {
    let of = topic("t", 1);
    let mut scene = Scene::new(6, 1);
    scene.create_filled(&of, 10, 1000);
    scene.stop();
    scene.start(1, std::slice::from_ref(&of));
    let log = scene.open(0, &of);
    let path = "/00000000000000000000.log";
    scene.fail(Action::Read, path);
    assert_eq!(scene.try_read(0, log, 0, 100_000), Err(ReadError::Storage));
    assert_eq!(scene.try_read(0, log, 0, 100_000).map(|got| got.len() > 10_000), Ok(true));

    // One that asks and does not come again.
    scene.stop();
    scene.start(1, std::slice::from_ref(&of));
    let log = scene.open(0, &of);
    scene.fail(Action::Read, path);
    let Shard { io, storage } = &mut scene.shards[0];
    let range = ReadRange { offset: 0, end_offset: 10, max_bytes: 100_000, at_least_one: false };
    assert_eq!(storage.read(io, log, range, &mut Vec::new()), Ok(ReadOutcome::Pending));
    scene.pass_ms(1_000);
    assert_eq!(scene.try_read(0, log, 0, 100_000).map(|got| got.len() > 10_000), Ok(true));
}
