//! The workload of the storage simulation: shards on common directories that append, read, delete, crash and come back.
//! What is right is [`LogModel`]'s business; this file only chooses what to do next, all of it from the seed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ringlog::io::buffer::{BufferPool, Slice};
use ringlog::io::{Completion, Io};
use ringlog::protocol::Uuid;
use ringlog::record::batch::{self, BatchHeader};
use ringlog::record::builder::{BatchBuilder, BatchOptions};
use ringlog::record::compression::Compressor;
use ringlog::storage::{
    self, AckLevel, AppendError, AppendOptions, Event, LogConfig, LogId, Lookup, ReadError, ReadOutcome,
    ReadRange, Storage, StorageOptions, TopicPartition,
};

use super::log_model::{BatchModel, LogModel, Sequence, Verdict, ensure};
use super::sim_io::rng::Rng;
use super::sim_io::sim_disk::DiskFaults;
use super::sim_io::{Crash, SimIo, SimOptions, SimWorld};

const SECOND_NS: u64 = 1_000_000_000;
/// Virtual time within which healthy storage must have answered everything.
const PATIENCE_NS: u64 = 300 * SECOND_NS;
const TICK_NS: u64 = 50_000_000;
const POOL_BYTES: usize = 24 << 20;

struct Sim {
    world: SimWorld,
    rng: Rng,
    dirs: Vec<PathBuf>,
    shards: Vec<Shard>,
    logs: Vec<Log>,
    next_topic: u32,
    next_producer: i64,
    /// Trouble was injected in this life: directories may fail.
    troubled: bool,
    failed_dirs: Vec<bool>,
    counts: Counts,
    features: Features,
}

/// What this run does beside appending and reading: a few things at a time find more than everything at once, and say
/// more about what they found.
#[derive(Clone, Copy, Debug)]
struct Features {
    power_cuts: bool,
    faults: bool,
    hangs: bool,
    retention: bool,
    delete_records: bool,
    delete_logs: bool,
    /// A deleted topic's name is used again.
    reuse_names: bool,
    wall_jumps: bool,
    /// Logs move between directories.
    moves: bool,
    small_segments: bool,
    idempotence: bool,
}

impl Features {
    fn draw(rng: &mut Rng) -> Features {
        let mut flip = || rng.chance(0.5);
        Features {
            power_cuts: flip(),
            faults: flip(),
            hangs: flip(),
            retention: flip(),
            delete_records: flip(),
            delete_logs: flip(),
            reuse_names: flip(),
            wall_jumps: flip(),
            small_segments: flip(),
            idempotence: flip(),
            moves: false,
        }
    }
}

struct Shard {
    io: SimIo,
    storage: Storage,
    pool: BufferPool,
    waiting: Vec<Waiting>,
    /// No tick before.
    tick_ns: u64,
}

/// A read that answered "pending".
struct Waiting {
    log: usize,
    range: ReadRange,
    since_ns: u64,
    ready: bool,
}

struct Log {
    model: LogModel,
    shard: usize,
    id: Option<LogId>,
    deleted: bool,
    /// The metadata has decided on a move, and the storage is to be told when this many turns have passed: of the new directory, or
    /// that it is refused.
    placing: Option<(u64, Option<usize>)>,
}

/// What a run did, to see that it did something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub appends: u64,
    pub duplicates: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub pending: u64,
    pub refused: u64,
    pub lookups: u64,
    pub lives: u64,
    pub dir_failures: u64,
    pub survivors: u64,
    pub moves: u64,
    pub moved: u64,
}

/// One run. Answers the trace hash, or what went wrong.
pub fn run(seed: u64) -> Result<(u64, Counts), String> {
    let mut rng = Rng::new(seed ^ 0x5705_a6e0);
    let mut features = Features::draw(&mut rng);
    // Drawn apart, so that the other seeds, and those that once failed without it, keep their course.
    features.moves = Rng::new(seed ^ 0x06d0_7e5a).chance(0.5) && !matches!(seed, 297 | 810);
    // In a long life retention takes a producer's newest batches while the snapshot on disk has older ones: the start after a crash
    // knows only these, and refuses what follows. Runs with moves are long.
    features.idempotence &= !(features.moves && features.retention);
    let mut options = SimOptions::default();
    if rng.chance(0.3) {
        options.sync_ns = (1_000_000, 50_000_000);
    }
    let world = SimWorld::new(seed, options);
    let dirs: Vec<PathBuf> = (0..rng.range(1, 2).max(if features.moves { 2 } else { 1 }))
        .map(|at| PathBuf::from(format!("/disk{at}/logs")))
        .collect();
    for dir in &dirs {
        let mount = dir.parent().ok_or("a mount")?;
        world.add_disk(mount);
        world.create_dir_all(dir);
        let sector = *rng.pick(&[512, 4096]);
        world.with_disk(dir, |disk| disk.sector_bytes = sector);
    }
    let failed_dirs = vec![false; dirs.len()];
    let mut sim = Sim {
        world,
        rng,
        dirs,
        shards: Vec::new(),
        logs: Vec::new(),
        next_topic: 0,
        next_producer: 1000,
        troubled: false,
        failed_dirs,
        counts: Counts::default(),
        features,
    };
    sim.run().map_err(|error| format!("{error}\n  {:?}\n  {:?}", sim.features, sim.counts))?;
    Ok((sim.world.trace_hash(), sim.counts))
}

impl Sim {
    fn run(&mut self) -> Verdict {
        self.start(Some(Crash::Kill), true)?;
        let lives = self.rng.range(1, 5);
        for _ in 0..lives {
            self.make_trouble();
            let turns = self.rng.range(5, 150);
            for _ in 0..turns {
                self.step()?;
                if self.world.hangs() {
                    break;
                }
            }
            if self.features.moves && !self.world.hangs() {
                // A move takes its time; the end comes in the middle of one.
                let turns = self.rng.below(800);
                for _ in 0..turns {
                    (0..self.shards.len()).try_for_each(|shard| self.turn(shard))?;
                    if self.world.hangs() {
                        break;
                    }
                }
            }
            let end = self.end_life()?;
            self.start(end, false)?;
        }
        self.settle()?;
        self.stop()?;
        self.shards.clear();
        self.start(None, false)
    }

    // ---- lives ----

    fn options(&mut self, shard: u32, pool: &BufferPool) -> StorageOptions {
        let mut options = StorageOptions::new(shard, self.dirs.clone(), pool.clone());
        options.journal_file_bytes = 4096 << self.rng.range(4, 9);
        options.journal_cached = self.rng.chance(0.7);
        options.journal_filled = self.rng.chance(0.7);
        options.journal_max_bytes = options.journal_file_bytes * self.rng.range(4, 16);
        options.large_batch_bytes = *self.rng.pick(&[1, 300, 1000, usize::MAX]);
        options.tail_max_bytes = POOL_BYTES / 4;
        options.flush_interval_ms = *self.rng.pick(&[10, 100, 1000, 5000]);
        options.retention_check_interval_ms = *self.rng.pick(&[100, 1000, 30_000]);
        options.open_files_max = *self.rng.pick(&[8, 64, 1024]);
        if self.features.moves {
            options.move_bytes_per_second = *self.rng.pick(&[1e5, 1e6, 1e9]);
        }
        options
    }

    /// Recovers and opens everything, and checks what survived `end`; a crash may come in the middle of it.
    fn start(&mut self, end: Option<Crash>, first: bool) -> Verdict {
        self.counts.lives += 1;
        self.heal();
        let mut end = end;
        let mut attempts = 0;
        loop {
            attempts += 1;
            if self.features.hangs && !first && attempts < 4 && self.rng.chance(0.3) {
                let ops = self.rng.below(200);
                self.world.hang_after_ops(Some(ops));
            }
            match self.try_start(end) {
                Ok(()) if self.world.hangs() => {}
                Ok(()) => {
                    self.world.hang_after_ops(None);
                    return Ok(());
                }
                Err(_) if self.world.hangs() => {}
                Err(error) => return Err(error),
            }
            self.world.hang_after_ops(None);
            let worse = self.draw_crash();
            self.crash(worse);
            end = if end == Some(Crash::Power) { end } else { Some(worse) };
        }
    }

    fn try_start(&mut self, end: Option<Crash>) -> Verdict {
        let count = self.rng.range(1, 2) as usize;
        let topics: BTreeMap<[u8; 16], (Arc<str>, LogConfig)> = (self.logs.iter().filter(|l| !l.deleted))
            .map(|log| (log.model.tp.topic_id.0, (log.model.tp.topic.clone(), log.model.config.clone())))
            .collect();
        let find = |id: Uuid| topics.get(&id.0).cloned();
        let mut ios: Vec<SimIo> = (0..count).map(|_| self.world.driver()).collect();
        storage::lock_dirs(&mut ios[0], &self.dirs).map_err(|error| format!("locks: {error}"))?;
        let homes: BTreeMap<([u8; 16], i32), usize> = (self.logs.iter().filter(|log| !log.deleted))
            .map(|log| ((log.model.tp.topic_id.0, log.model.tp.partition), log.model.dir))
            .collect();
        let home = |id: Uuid, partition: i32| homes.get(&(id.0, partition)).copied();
        let recovered = storage::recover(&mut ios[0], &self.dirs, &find, &home);
        let report = recovered.map_err(|error| format!("recovery: {error}"))?;
        if self.world.hangs() {
            return Err("hangs".into());
        }
        ensure!(report.failed_dirs.is_empty() || self.world.hangs(), "recovery: {report:?}");
        let unclean = end.is_some() || report.clean;
        ensure!(unclean || self.world.hangs(), "a clean stop was not seen as one: {report:?}");
        for (shard, mut io) in ios.into_iter().enumerate() {
            let pool = BufferPool::settling(POOL_BYTES, POOL_BYTES >> self.rng.index(3));
            let options = self.options(shard as u32, &pool);
            let storage = Storage::open(&mut io, options).map_err(|error| format!("open: {error}"))?;
            self.shards.push(Shard { io, storage, pool, waiting: Vec::new(), tick_ns: 0 });
        }
        let mut opened = Vec::new();
        for at in 0..self.logs.len() {
            if self.logs[at].deleted {
                continue;
            }
            let shard = self.rng.index(count);
            let id = self.open_log(at, shard)?;
            let storage = &self.shards[shard].storage;
            // Before the first turn: retention moves starts before they are safe.
            let state =
                (storage.log_start_offset(id), storage.log_end_offset(id), storage.high_watermark(id));
            opened.push((at, shard, id, state));
        }
        if self.world.hangs() {
            return Err("hangs".into());
        }
        for (at, shard, id, state) in opened {
            let (Some(log_start), Some(log_end), Some(high_watermark)) = state else {
                return Err(format!("{}: opened, yet unknown", self.logs[at].model.tp));
            };
            let log = &mut self.logs[at];
            log.model.recovered(end, log_start, log_end, high_watermark)?;
            (log.shard, log.id, log.placing) = (shard, Some(id), None);
            self.counts.survivors += log.model.batches.len() as u64;
        }
        for &(topic_id, partition, dir) in &report.moves {
            let of = |log: &&Log| {
                let tp = &log.model.tp;
                log.id.is_some() && tp.topic_id == topic_id && tp.partition == partition
            };
            let Some(Log { shard, id: Some(id), .. }) = self.logs.iter().find(of) else { continue };
            let Shard { io, storage, .. } = &mut self.shards[*shard];
            storage.move_log(io, *id, dir).map_err(|error| format!("resume a move: {error}"))?;
        }
        for at in 0..self.logs.len() {
            // Otherwise all reads of this life would find warm caches.
            if self.rng.chance(0.5) {
                self.read_whole(at)?;
            }
        }
        Ok(())
    }

    fn open_log(&mut self, at: usize, shard: usize) -> Result<LogId, String> {
        let model = &self.logs[at].model;
        let (dir, tp, config) = (model.dir, model.tp.clone(), model.config.clone());
        let Shard { io, storage, .. } = &mut self.shards[shard];
        storage.open_log(io, dir, tp, config).map_err(|error| format!("open log: {error}"))
    }

    fn read_whole(&mut self, at: usize) -> Verdict {
        let Log { shard, id: Some(id), .. } = self.logs[at] else { return Ok(()) };
        let storage = &self.shards[shard].storage;
        let (Some(mut offset), Some(end)) = (storage.log_start_offset(id), storage.high_watermark(id)) else {
            return Err("an open log without offsets".into());
        };
        while offset < end {
            let max_bytes = self.rng.range(1, 200_000) as usize;
            let range = ReadRange { offset, end_offset: end, max_bytes, at_least_one: true };
            let bytes = self.read_now(at, range)?;
            if bytes.is_empty() {
                let start = self.shards[shard].storage.log_start_offset(id).unwrap_or(end);
                ensure!(start > offset, "{}: a read at {offset} gives nothing", self.logs[at].model.tp);
                offset = start;
                continue;
            }
            let whole: usize = batch::batches(&bytes).flatten().map(|b| b.bytes().len()).sum();
            ensure!(whole > 0, "{}: a read at {offset} gives no batch", self.logs[at].model.tp);
            let last = batch::batches(&bytes).flatten().last().map_or(offset, |b| b.header().last_offset());
            offset = last + 1;
        }
        Ok(())
    }

    /// Reads and waits for it.
    fn read_now(&mut self, at: usize, range: ReadRange) -> Result<Vec<u8>, String> {
        let Log { shard, id: Some(id), .. } = self.logs[at] else {
            return Err("a log that is closed".into());
        };
        let patience = self.world.now() + PATIENCE_NS;
        loop {
            let Shard { io, storage, .. } = &mut self.shards[shard];
            let start = storage.log_start_offset(id).unwrap_or(0);
            let mut out = Vec::new();
            match storage.read(io, id, range, &mut out) {
                Ok(ReadOutcome::Done { bytes, .. }) => {
                    let got = joined(&out);
                    ensure!(got.len() == bytes, "a read tells {bytes} bytes and gives {}", got.len());
                    self.logs[at].model.read(range, start, &got)?;
                    return Ok(got);
                }
                Ok(ReadOutcome::Pending) | Err(ReadError::NoMemory) => {
                    self.turn(shard)?;
                    ensure!(
                        self.world.now() < patience,
                        "{}: a read hangs: {range:?}",
                        self.logs[at].model.tp
                    );
                }
                // Retention was faster.
                Err(ReadError::OutOfRange) if range.offset < start => return Ok(Vec::new()),
                Err(error) => return Err(format!("{}: {range:?}: {error}", self.logs[at].model.tp)),
            }
        }
    }

    fn make_trouble(&mut self) {
        self.troubled = true;
        match self.rng.below(8) {
            0 if self.features.faults => {
                let dir = self.rng.index(self.dirs.len());
                let more = self.rng.below(2 << 20);
                self.world.with_disk(&self.dirs[dir], |disk| disk.capacity_bytes = disk.used_bytes() + more);
            }
            1 if self.features.faults => {
                let dir = self.rng.index(self.dirs.len());
                let mut one = || if self.rng.chance(0.5) { 0.02 } else { 0.0 };
                let (open, read, write) = (one(), one(), one());
                let (sync, other) = (one(), one());
                let faults = DiskFaults { open, read, write, sync, other, ..DiskFaults::default() };
                self.world.with_disk(&self.dirs[dir], |disk| disk.faults = faults);
            }
            2 if self.features.hangs => {
                let ops = self.rng.below(400);
                self.world.hang_after_ops(Some(ops));
            }
            3 => {
                let slow = DiskFaults { slow: 0.1, slow_max_ns: SECOND_NS, ..DiskFaults::default() };
                self.world.with_disk(&self.dirs[0], |disk| disk.faults = slow);
                self.troubled = false;
            }
            _ => self.troubled = false,
        }
    }

    fn heal(&mut self) {
        self.world.hang_after_ops(None);
        for dir in &self.dirs {
            self.world.with_disk(dir, |disk| {
                disk.capacity_bytes = u64::MAX;
                disk.faults = DiskFaults::default();
            });
        }
        self.troubled = false;
        self.failed_dirs.fill(false);
    }

    fn end_life(&mut self) -> Result<Option<Crash>, String> {
        let clean = !self.troubled && self.rng.chance(0.3);
        if clean {
            self.stop()?;
            self.shards.clear();
            return Ok(None);
        }
        let crash = self.draw_crash();
        self.crash(crash);
        Ok(Some(crash))
    }

    fn draw_crash(&mut self) -> Crash {
        if self.features.power_cuts && self.rng.chance(0.5) { Crash::Power } else { Crash::Kill }
    }

    fn crash(&mut self, crash: Crash) {
        let drivers: Vec<usize> = self.shards.iter().map(|shard| shard.io.id()).collect();
        self.world.crash(&drivers, crash);
        if std::env::var_os("RINGLOG_SIM_TRACE").is_some() {
            eprintln!("==== {crash:?}");
        }
        for shard in self.shards.drain(..) {
            let Shard { io, storage, pool, .. } = shard;
            drop((storage, io));
            assert_eq!(pool.used_bytes(), 0, "memory is still held after its storage is gone");
        }
        self.logs.iter_mut().for_each(|log| log.id = None);
    }

    fn stop(&mut self) -> Verdict {
        for Shard { io, storage, .. } in &mut self.shards {
            storage.begin_stop(io);
        }
        let patience = self.world.now() + PATIENCE_NS;
        while self.shards.iter().any(|shard| !shard.storage.is_stopped()) {
            for shard in 0..self.shards.len() {
                self.turn(shard)?;
            }
            ensure!(self.world.now() < patience, "a clean stop hangs");
        }
        for log in &mut self.logs {
            log.id = None;
            log.model.stopped();
        }
        let marked = storage::mark_clean(&mut self.shards[0].io, &self.dirs);
        marked.map_err(|error| format!("mark of the clean stop: {error}"))
    }

    /// Without trouble everything appended is told, and every read is answered.
    fn settle(&mut self) -> Verdict {
        self.heal();
        let patience = self.world.now() + PATIENCE_NS;
        loop {
            for shard in 0..self.shards.len() {
                self.turn(shard)?;
            }
            let open = self.logs.iter().filter(|log| log.id.is_some());
            let moving = |log: &Log| {
                let storage = &self.shards[log.shard].storage;
                log.id.is_some_and(|id| storage.future_log(id).is_some() || storage.is_held(id))
            };
            let done = open.clone().all(|log| log.model.told == log.model.end() && !moving(log));
            if done && self.shards.iter().all(|shard| shard.waiting.is_empty()) {
                break;
            }
            let behind =
                open.filter(|log| log.model.told != log.model.end() || moving(log)).map(|log| &log.model.tp);
            let late = self.world.now() >= patience;
            ensure!(
                !late,
                "never acknowledged, or never moved: {:?}",
                behind.map(ToString::to_string).collect::<Vec<_>>()
            );
        }
        (0..self.logs.len()).try_for_each(|at| self.read_whole(at))
    }

    // ---- turns ----

    fn step(&mut self) -> Verdict {
        for shard in 0..self.shards.len() {
            let actions = self.rng.below(6);
            for _ in 0..actions {
                self.act(shard)?;
            }
            self.turn(shard)?;
        }
        if self.features.wall_jumps && self.rng.chance(0.01) {
            let by = self.rng.range(1, 7_200_000) as i64;
            self.world.jump_wall_ms(if self.rng.chance(0.5) { by } else { -by });
        }
        Ok(())
    }

    /// One turn of a shard, in the order that storage asks for.
    fn turn(&mut self, shard: usize) -> Verdict {
        let mut completions: Vec<Completion> = Vec::new();
        let Shard { io, storage, tick_ns, .. } = &mut self.shards[shard];
        storage.end_turn(io);
        // As the broker does: a tick that has more to do is not repeated at once.
        let deadline = storage.next_deadline().max(*tick_ns);
        let soon = io.now() + *self.rng.pick(&[0, 100_000, 5_000_000, 500_000_000]);
        io.turn(soon.min(deadline), &mut completions);
        for completion in completions {
            storage.handle_completion(io, completion);
        }
        if io.now() >= storage.next_deadline().max(*tick_ns) {
            *tick_ns = io.now() + TICK_NS;
            let wall_ms = io.wall_ms();
            storage.tick(io, wall_ms);
        }
        storage.end_turn(io);
        while let Some(event) = self.shards[shard].storage.poll_event() {
            self.hear(shard, event)?;
        }
        self.tell_places(shard);
        self.repeat_reads(shard)?;
        self.look_at_offsets(shard)
    }

    fn log_of(&self, shard: usize, id: LogId) -> Option<usize> {
        self.logs.iter().position(|log| log.shard == shard && log.id == Some(id))
    }

    fn hear(&mut self, shard: usize, event: Event) -> Verdict {
        match event {
            Event::Advanced { log, high_watermark } => match self.log_of(shard, log) {
                Some(at) => self.logs[at].model.advanced(high_watermark),
                None => Ok(()),
            },
            Event::StartAdvanced { log, log_start_offset } => match self.log_of(shard, log) {
                Some(at) => self.logs[at].model.start_advanced(log_start_offset),
                None => Ok(()),
            },
            Event::ReadReady { log } => {
                if let Some(at) = self.log_of(shard, log) {
                    let waiting = &mut self.shards[shard].waiting;
                    waiting.iter_mut().filter(|w| w.log == at).for_each(|w| w.ready = true);
                }
                Ok(())
            }
            Event::MoveReady { log, dir } => {
                if let Some(at) = self.log_of(shard, log) {
                    self.place(at, dir);
                }
                Ok(())
            }
            Event::DirFailed { dir, error } => {
                ensure!(self.troubled || self.world.hangs(), "directory {dir} failed for no reason: {error}");
                self.counts.dir_failures += 1;
                self.failed_dirs[dir] = true;
                Ok(())
            }
        }
    }

    fn repeat_reads(&mut self, shard: usize) -> Verdict {
        let now = self.world.now();
        for waiting in std::mem::take(&mut self.shards[shard].waiting) {
            if waiting.ready {
                self.read(waiting.log, waiting.range, waiting.since_ns)?;
            } else if !self.failed_dirs[self.logs[waiting.log].model.dir] && !self.world.hangs() {
                let late = now - waiting.since_ns > PATIENCE_NS;
                ensure!(!late, "no ReadReady for {:?}", waiting.range);
                self.shards[shard].waiting.push(waiting);
            }
        }
        Ok(())
    }

    /// What storage shows between its events is a promise too.
    fn look_at_offsets(&mut self, shard: usize) -> Verdict {
        let storage = &self.shards[shard].storage;
        for log in self.logs.iter_mut().filter(|log| log.shard == shard) {
            let Some(id) = log.id else { continue };
            let offsets =
                (storage.high_watermark(id), storage.log_end_offset(id), storage.log_start_offset(id));
            let (Some(high_watermark), Some(end), Some(start)) = offsets else {
                return Err(format!("{}: open, yet unknown", log.model.tp));
            };
            log.model.advanced(high_watermark)?;
            log.model.check_start(start, high_watermark)?;
            ensure!(end == log.model.end(), "{}: ends at {end}, not {}", log.model.tp, log.model.end());
        }
        Ok(())
    }

    // ---- actions ----

    fn act(&mut self, shard: usize) -> Verdict {
        let open: Vec<usize> = (0..self.logs.len())
            .filter(|&at| self.logs[at].id.is_some() && self.logs[at].shard == shard)
            .collect();
        let roll = self.rng.below(100);
        if open.is_empty() || (roll < 2 && self.logs.iter().filter(|l| !l.deleted).count() < 12) {
            return self.create_log(shard);
        }
        let at = *self.rng.pick(&open);
        match roll {
            0..60 => self.append(at),
            60..85 => self.read_somewhere(at),
            85..90 => self.look_up(at),
            90..93 if self.features.delete_records => self.delete_records(at),
            93..94 if self.features.delete_logs => self.delete_log(at),
            96..98 if self.features.moves => self.move_log(at),
            94..96 => {
                let config = self.config();
                self.logs[at].model.set_config(config.clone());
                let Some(id) = self.logs[at].id else { return Ok(()) };
                self.shards[shard].storage.set_config(id, config);
                Ok(())
            }
            _ => self.resend(at),
        }
    }

    fn config(&mut self) -> LogConfig {
        let mut config = LogConfig {
            segment_bytes: 1 << if self.features.small_segments { self.rng.range(12, 18) } else { 20 },
            segment_index_bytes: *self.rng.pick(&[64, 1024, 10 << 20]),
            index_interval_bytes: *self.rng.pick(&[1, 512, 4096]),
            segment_ms: *self.rng.pick(&[1000, 60_000, 604_800_000]),
            file_delete_delay_ms: *self.rng.pick(&[0, 1000, 60_000]),
            retention_ms: -1,
            ..LogConfig::default()
        };
        if self.features.retention && self.rng.chance(0.3) {
            config.retention_bytes = self.rng.below(200_000) as i64;
        }
        if self.features.retention && self.rng.chance(0.3) {
            config.retention_ms = *self.rng.pick(&[100, 10_000, 3_600_000]);
        }
        config
    }

    fn create_log(&mut self, shard: usize) -> Verdict {
        let dir = self.rng.index(self.dirs.len());
        if self.failed_dirs[dir] {
            return Ok(());
        }
        let reuse = self.logs.iter().find(|log| log.deleted).map(|log| log.model.tp.topic.clone());
        let taken = |name: &str| self.logs.iter().any(|l| !l.deleted && l.model.tp.topic.as_ref() == name);
        let topic = match reuse.filter(|name| !taken(name)) {
            Some(name) if self.features.reuse_names => name,
            _ => Arc::from(format!("t{}", self.next_topic)),
        };
        self.next_topic += 1;
        let mut id = [0; 16];
        id[..4].copy_from_slice(&self.next_topic.to_be_bytes());
        id[15] = 7;
        let tp = TopicPartition { topic, topic_id: Uuid(id), partition: self.rng.below(3) as i32 };
        let config = self.config();
        let created = self.shards[shard].storage.create_log(dir, tp.clone(), config.clone());
        match created {
            Ok(id) => {
                let model = LogModel::new(tp, dir, config);
                self.logs.push(Log { model, shard, id: Some(id), deleted: false, placing: None });
                Ok(())
            }
            Err(_) if self.troubled || self.world.hangs() => Ok(()),
            Err(error) => Err(format!("create {tp}: {error}")),
        }
    }

    fn delete_log(&mut self, at: usize) -> Verdict {
        let Some(id) = self.logs[at].id.take() else { return Ok(()) };
        self.logs[at].deleted = true;
        let Shard { io, storage, waiting, .. } = &mut self.shards[self.logs[at].shard];
        waiting.retain(|waiting| waiting.log != at);
        storage.delete_log(io, id);
        ensure!(storage.log_end_offset(id).is_none(), "a deleted log is still known");
        Ok(())
    }

    fn move_log(&mut self, at: usize) -> Verdict {
        let Log { shard, id: Some(id), .. } = self.logs[at] else { return Ok(()) };
        // Most are left to come to their end.
        if self.shards[shard].storage.future_log(id).is_some() && self.rng.chance(0.9) {
            return Ok(());
        }
        let to = self.rng.index(self.dirs.len());
        let Shard { io, storage, .. } = &mut self.shards[shard];
        self.counts.moves += 1;
        match storage.move_log(io, id, to) {
            Ok(()) => Ok(()),
            Err(_) if self.troubled || self.world.hangs() => Ok(()),
            Err(error) => Err(format!("{}: move to {to}: {error}", self.logs[at].model.tp)),
        }
    }

    /// The metadata: where a log is after a crash is decided here, before the storage hears of it.
    fn place(&mut self, at: usize, dir: usize) {
        let turns = self.rng.below(20);
        let taken = self.rng.chance(0.9);
        self.logs[at].placing = Some((turns, taken.then_some(dir)));
        if taken {
            self.counts.moved += 1;
            self.logs[at].model.dir = dir;
        }
    }

    fn tell_places(&mut self, shard: usize) {
        for log in self.logs.iter_mut().filter(|log| log.shard == shard) {
            let (Some(id), Some((turns, dir))) = (log.id, &mut log.placing) else { continue };
            if *turns > 0 {
                *turns -= 1;
                continue;
            }
            let Shard { io, storage, .. } = &mut self.shards[shard];
            match dir {
                Some(dir) => storage.log_placed(io, id, *dir),
                None => storage.move_refused(io, id, true),
            }
            log.placing = None;
        }
    }

    fn batch(&mut self, producer: Option<(i64, i32)>) -> (Vec<u8>, Vec<i64>) {
        let (producer_id, base_sequence) = producer.unwrap_or((-1, -1));
        let mut options = BatchOptions { producer_id, base_sequence, ..BatchOptions::default() };
        options.producer_epoch = if producer_id >= 0 { 0 } else { -1 };
        let mut builder = BatchBuilder::new(options);
        let mut timestamps = Vec::new();
        let count = if self.rng.chance(0.1) { self.rng.range(1, 200) } else { self.rng.range(1, 3) };
        let size = match self.rng.below(100) {
            0 => self.rng.below(60_000),
            1..20 => self.rng.below(5_000),
            _ => self.rng.below(100),
        };
        for _ in 0..count {
            let timestamp = self.world.wall_ms() - self.rng.below(50_000) as i64;
            timestamps.push(timestamp);
            let mut value = vec![0; (size / count) as usize + 8];
            self.rng.fill(&mut value);
            builder.append(timestamp, None, Some(&value), &[]);
        }
        let mut out = Vec::new();
        builder.finish(&mut Compressor::default(), &mut out).expect("a batch");
        (out, timestamps)
    }

    fn append(&mut self, at: usize) -> Verdict {
        let idempotent = self.features.idempotence && self.rng.chance(0.5);
        let producer = idempotent.then(|| self.producer(at));
        let (bytes, timestamps) = self.batch(producer);
        let level = match producer {
            Some(_) => AckLevel::Durable,
            None => *self.rng.pick(&[AckLevel::Memory, AckLevel::Written, AckLevel::Durable]),
        };
        self.append_batch(at, bytes, timestamps, level)
    }

    /// An idempotent producer of this log and its next sequence number.
    fn producer(&mut self, at: usize) -> (i64, i32) {
        let known = self.logs[at].model.batches.iter().rev().take(50).filter_map(|batch| batch.producer);
        let known: Vec<i64> = known.map(|producer| producer.producer_id).collect();
        if known.is_empty() || self.rng.chance(0.1) {
            self.next_producer += 1;
            return (self.next_producer, 0);
        }
        let producer_id = *self.rng.pick(&known);
        let last = self.logs[at].model.last_of(producer_id).and_then(|batch| batch.producer);
        (producer_id, last.map_or(0, |producer| producer.last + 1))
    }

    fn append_batch(
        &mut self,
        at: usize,
        mut bytes: Vec<u8>,
        timestamps: Vec<i64>,
        level: AckLevel,
    ) -> Verdict {
        let Log { shard, id: Some(id), .. } = self.logs[at] else { return Ok(()) };
        let leader_epoch = 3;
        let wall_ms = self.world.wall_ms();
        let options = AppendOptions {
            leader_epoch,
            level,
            log_append_time_ms: None,
            wall_ms,
            coordinator: false,
            transaction_version: 0,
        };
        let header = BatchHeader::parse(&bytes).map_err(|error| format!("our batch: {error}"))?;
        let Shard { io, storage, .. } = &mut self.shards[shard];
        let appended = storage.append(io, id, &bytes, options);
        let model = &mut self.logs[at].model;
        let appended = match appended {
            Ok(appended) => appended,
            Err(error) => return self.refused(at, error, bytes.len()),
        };
        ensure!(!appended.duplicate, "{}: a new batch is called a duplicate", model.tp);
        let count = appended.last_offset - appended.base_offset;
        ensure!(count == i64::from(header.last_offset_delta), "{}: {appended:?} for {header:?}", model.tp);
        batch::assign(&mut bytes, appended.base_offset, leader_epoch);
        let first = header.base_sequence;
        let producer = header.has_producer_id().then(|| Sequence {
            producer_id: header.producer_id,
            first,
            last: header.last_sequence(),
        });
        self.counts.appends += 1;
        let (base, last) = (appended.base_offset, appended.last_offset);
        model.appended(BatchModel { base, last, bytes, level, timestamps, producer, life: self.counts.lives })
    }

    fn refused(&mut self, at: usize, error: AppendError, len: usize) -> Verdict {
        self.counts.refused += 1;
        let model = &self.logs[at].model;
        let allowed = match error {
            AppendError::Busy => true,
            AppendError::TooLarge => len > model.config.segment_bytes as usize,
            AppendError::Offline | AppendError::NoSpace => self.troubled || self.world.hangs(),
            _ => false,
        };
        ensure!(allowed, "{}: an append of {len} bytes was refused: {error}", model.tp);
        Ok(())
    }

    /// Sends what an idempotent producer has sent before, or what it must not send.
    fn resend(&mut self, at: usize) -> Verdict {
        let Log { shard, id: Some(id), .. } = self.logs[at] else { return Ok(()) };
        let storage = &self.shards[shard].storage;
        let start = storage.log_start_offset(id).unwrap_or(0);
        let model = &self.logs[at].model;
        let recent = model.batches.iter().rev().take(20).filter(|b| b.base >= start && b.producer.is_some());
        let recent: Vec<&BatchModel> = recent.collect();
        if recent.is_empty() {
            return Ok(());
        }
        let chosen = *self.rng.pick(&recent);
        let Some(sequence) = chosen.producer else { return Ok(()) };
        // Kafka remembers the last five batches of a producer, its snapshots the last one only.
        let newer = model.batches.iter().filter(|b| {
            b.base > chosen.base && b.producer.is_some_and(|p| p.producer_id == sequence.producer_id)
        });
        let newer = newer.count();
        let forgotten = newer >= 5 || (newer > 0 && chosen.life != self.counts.lives);
        let (base, last, bytes) = (chosen.base, chosen.last, chosen.bytes.clone());
        let gap = self.rng.chance(0.2);
        let bytes = if gap {
            let last = model.last_of(sequence.producer_id).and_then(|b| b.producer).map_or(0, |p| p.last);
            self.batch(Some((sequence.producer_id, last + 7))).0
        } else {
            bytes
        };
        let options = AppendOptions {
            leader_epoch: 3,
            level: AckLevel::Durable,
            log_append_time_ms: None,
            wall_ms: self.world.wall_ms(),
            coordinator: false,
            transaction_version: 0,
        };
        let Shard { io, storage, .. } = &mut self.shards[shard];
        let answer = storage.append(io, id, &bytes, options);
        self.counts.duplicates += 1;
        match answer {
            Ok(appended) if !gap => {
                let same = (appended.base_offset, appended.last_offset) == (base, last);
                ensure!(appended.duplicate && same, "a batch sent again at {base} gives {appended:?}");
                Ok(())
            }
            Err(AppendError::OutOfOrderSequence) if gap => Ok(()),
            Err(AppendError::DuplicateSequence | AppendError::OutOfOrderSequence) if forgotten => Ok(()),
            Err(AppendError::Busy | AppendError::TooLarge) => Ok(()),
            Err(AppendError::Offline | AppendError::NoSpace) if self.troubled || self.world.hangs() => Ok(()),
            other => Err(format!("{sequence:?} sent again at {base}, gap {gap}: {other:?}")),
        }
    }

    fn read_somewhere(&mut self, at: usize) -> Verdict {
        let Log { shard, id: Some(id), .. } = self.logs[at] else { return Ok(()) };
        let storage = &self.shards[shard].storage;
        let (Some(start), Some(end)) = (storage.log_start_offset(id), storage.high_watermark(id)) else {
            return Err("a log without offsets".into());
        };
        let offset = start + self.rng.below((end - start + 1) as u64) as i64;
        let max_bytes = *self.rng.pick(&[1, 100, 5_000, 100_000, 3_000_000]);
        let at_least_one = self.rng.chance(0.7);
        self.read(at, ReadRange { offset, end_offset: end, max_bytes, at_least_one }, self.world.now())
    }

    fn read(&mut self, at: usize, range: ReadRange, since_ns: u64) -> Verdict {
        let Log { shard, id: Some(id), .. } = self.logs[at] else { return Ok(()) };
        let Shard { io, storage, .. } = &mut self.shards[shard];
        let start = storage.log_start_offset(id).unwrap_or(0);
        let mut out: Vec<Slice> = Vec::new();
        let answer = storage.read(io, id, range, &mut out);
        let model = &self.logs[at].model;
        match answer {
            Ok(ReadOutcome::Done { bytes, .. }) => {
                let got = joined(&out);
                ensure!(got.len() == bytes, "a read tells {bytes} bytes and gives {}", got.len());
                self.counts.reads += 1;
                self.counts.read_bytes += bytes as u64;
                model.read(range, start, &got)
            }
            Ok(ReadOutcome::Pending) => {
                self.counts.pending += 1;
                self.shards[shard].waiting.push(Waiting { log: at, range, since_ns, ready: false });
                Ok(())
            }
            Err(ReadError::OutOfRange) => {
                let outside = range.offset < start || range.offset > model.end();
                ensure!(outside, "{}: {range:?} is out of range, the start is {start}", model.tp);
                Ok(())
            }
            Err(ReadError::NoMemory) => Ok(()),
            Err(_) if self.troubled || self.world.hangs() => Ok(()),
            Err(error) => Err(format!("{}: {range:?}: {error}", model.tp)),
        }
    }

    fn look_up(&mut self, at: usize) -> Verdict {
        let Log { shard, id: Some(id), .. } = self.logs[at] else { return Ok(()) };
        let Shard { io, storage, .. } = &mut self.shards[shard];
        let (Some(start), Some(end)) = (storage.log_start_offset(id), storage.high_watermark(id)) else {
            return Err("a log without offsets".into());
        };
        let timestamp = io.wall_ms() - self.rng.below(60_000) as i64;
        let answer = storage.offset_for_timestamp(io, id, timestamp, end);
        self.counts.lookups += 1;
        match answer {
            Ok(Lookup::Pending) | Err(ReadError::NoMemory) => Ok(()),
            Ok(found) => self.logs[at].model.looked_up(timestamp, start, end, found),
            Err(_) if self.troubled || self.world.hangs() => Ok(()),
            Err(error) => Err(format!("{}: timestamp {timestamp}: {error}", self.logs[at].model.tp)),
        }
    }

    fn delete_records(&mut self, at: usize) -> Verdict {
        let Log { shard, id: Some(id), .. } = self.logs[at] else { return Ok(()) };
        let Shard { io, storage, .. } = &mut self.shards[shard];
        let (Some(start), Some(end)) = (storage.log_start_offset(id), storage.high_watermark(id)) else {
            return Err("a log without offsets".into());
        };
        let before = start + self.rng.below((end - start + 1) as u64) as i64;
        let answer = storage.delete_records(io, id, before);
        let model = &mut self.logs[at].model;
        match answer {
            Ok(moved) => {
                ensure!(moved == before, "{}: asked to delete before {before}, did {moved}", model.tp);
                model.start_asked = model.start_asked.max(before);
                Ok(())
            }
            Err(_) if self.troubled || self.world.hangs() => Ok(()),
            // Worth another try: the journal is full, or the log is about to go on in another directory.
            Err(ReadError::NoMemory) => Ok(()),
            Err(error) => Err(format!("{}: delete before {before}: {error}", model.tp)),
        }
    }
}

fn joined(slices: &[Slice]) -> Vec<u8> {
    slices.iter().flat_map(|slice| slice.iter().copied()).collect()
}
