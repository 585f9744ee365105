//! A log that moves between two disks, of which one fails.

use std::path::{Path, PathBuf};

use ringlog::io::buffer::{BufferPool, Slice};
use ringlog::io::{Completion, Errno, Io};
use ringlog::record::batch::batches;
use ringlog::storage::{
    self, Event, LogConfig, LogId, ReadOutcome, ReadRange, RecoveryReport, Storage, StorageOptions,
};

use super::sim_io::sim_disk::{Action, FaultRule};
use super::sim_io::{Crash, SimIo, SimOptions, SimWorld};
use super::{PATIENCE_NS, Shard, TopicPartition, config, topic};

const DIRS: [&str; 2] = ["/one/logs", "/two/logs"];
const RECORDS: i64 = 400;

/// One log on one shard, begun in the first directory; and what the metadata says of it.
struct Scene {
    world: SimWorld,
    shard: Shard,
    of: TopicPartition,
    config: LogConfig,
    log: LogId,
    home: usize,
    failed: Vec<usize>,
    report: RecoveryReport,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let world = SimWorld::new(seed, SimOptions::default());
        for dir in DIRS {
            world.add_disk(Path::new(dir).parent().unwrap());
            world.create_dir_all(Path::new(dir));
        }
        let of = topic("t", 1);
        let config = LogConfig { segment_bytes: 20_000, index_interval_bytes: 1, ..config() };
        let (mut shard, report) = open(&world, &of, &config, 0);
        let log = shard.storage.create_log(0, of.clone(), config.clone()).unwrap();
        for _ in 0..RECORDS {
            super::append_one(&mut shard, log, 200);
        }
        let failed = Vec::new();
        let mut scene = Scene { world, shard, of, config, log, home: 0, failed, report };
        let later = scene.world.now() + 1_000_000_000;
        scene.run_until("on disk", |scene| {
            scene.world.now() > later && scene.shard.storage.high_watermark(scene.log) == Some(RECORDS)
        });
        scene
    }

    fn restart(&mut self, crash: Crash) {
        self.world.crash(&[self.shard.io.id()], crash);
        let (shard, report) = open(&self.world, &self.of, &self.config, self.home);
        (self.shard, self.report) = (shard, report);
        let Shard { io, storage } = &mut self.shard;
        self.log = storage.open_log(io, self.home, self.of.clone(), self.config.clone()).unwrap();
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Scene) -> bool) {
        let patience = self.world.now() + PATIENCE_NS;
        while !done(self) {
            self.turn();
            assert!(self.world.now() < patience, "never: {what}");
        }
    }

    fn turn(&mut self) {
        let Shard { io, storage } = &mut self.shard;
        let mut completions: Vec<Completion> = Vec::new();
        storage.end_turn(io);
        io.turn((io.now() + 1_000_000).min(storage.next_deadline()), &mut completions);
        for completion in completions {
            storage.handle_completion(io, completion);
        }
        if io.now() >= storage.next_deadline() {
            let wall_ms = io.wall_ms();
            storage.tick(io, wall_ms);
        }
        storage.end_turn(io);
        while let Some(event) = storage.poll_event() {
            match event {
                Event::MoveReady { log, dir } => {
                    self.home = dir;
                    storage.log_placed(io, log, dir);
                }
                Event::DirFailed { dir, .. } => self.failed.push(dir),
                _ => {}
            }
        }
    }

    fn begin(&mut self, to: usize) {
        let Shard { io, storage } = &mut self.shard;
        storage.move_log(io, self.log, to).unwrap();
        assert_eq!(storage.future_log(self.log).map(|future| future.dir), Some(to));
    }

    fn end(&mut self) {
        self.run_until("the end of the move", |scene| {
            let storage = &scene.shard.storage;
            storage.future_log(scene.log).is_none() && !storage.is_held(scene.log)
        });
    }

    fn check(&mut self) {
        let mut offset = 0;
        while offset < RECORDS {
            let range = ReadRange { offset, end_offset: RECORDS, max_bytes: 50_000, at_least_one: true };
            let mut out: Vec<Slice> = Vec::new();
            let Shard { io, storage } = &mut self.shard;
            let ReadOutcome::Done { .. } = storage.read(io, self.log, range, &mut out).unwrap() else {
                self.turn();
                continue;
            };
            let got: Vec<u8> = out.iter().flat_map(|slice| slice.iter().copied()).collect();
            for batch in batches(&got).map_while(Result::ok) {
                assert_eq!(batch.header().base_offset, offset);
                batch.check_crc().unwrap();
                offset += 1;
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let mut io = self.world.driver();
        let list = |dir: &&str| io.list_dir(Path::new(dir)).unwrap();
        let names = DIRS.iter().flat_map(list).map(|entry| entry.name);
        names.filter(|name| name.starts_with("t-")).collect()
    }
}

fn open(world: &SimWorld, of: &TopicPartition, config: &LogConfig, home: usize) -> (Shard, RecoveryReport) {
    let dirs = DIRS.map(PathBuf::from);
    let mut io: SimIo = world.driver();
    storage::lock_dirs(&mut io, &dirs).unwrap();
    let find = |id| (id == of.topic_id).then(|| (of.topic.clone(), config.clone()));
    let report = storage::recover(&mut io, &dirs, &find, &|_, _| Some(home)).unwrap();
    assert!(report.failed_dirs.is_empty() && report.dropped.is_empty(), "{report:?}");
    let mut options = StorageOptions::new(0, dirs.to_vec(), BufferPool::new(32 << 20));
    options.journal_file_bytes = 64 << 10;
    options.flush_interval_ms = 50;
    let storage = Storage::open(&mut io, options).unwrap();
    (Shard { io, storage }, report)
}

#[test]
fn a_log_moves_there_and_back() {
    let mut scene = Scene::new(1);
    for to in [1, 0, 1] {
        scene.begin(to);
        scene.end();
        assert_eq!((scene.home, scene.shard.storage.dir(scene.log)), (to, Some(to)));
        scene.check();
        scene.run_until("one directory", |scene| scene.names() == ["t-0"]);
        scene.restart(Crash::Power);
        assert_eq!(scene.shard.storage.log_end_offset(scene.log), Some(RECORDS));
        scene.check();
    }
}

#[test]
fn a_full_destination_leaves_the_log_where_it_is() {
    let mut scene = Scene::new(2);
    scene.world.with_disk(Path::new(DIRS[1]), |disk| disk.capacity_bytes = disk.used_bytes() + 30_000);
    scene.begin(1);
    scene.end();
    assert_eq!((scene.home, scene.failed.len()), (0, 0));
    scene.check();
    scene.run_until("the copy goes away", |scene| scene.names() == ["t-0"]);
}

#[test]
fn a_destination_that_fails_leaves_the_log_where_it_is() {
    for action in [Action::Open, Action::Write, Action::Sync] {
        for skip in 0..30_u32 {
            let mut scene = Scene::new(skip.into());
            let path = DIRS[1].to_owned() + "/t-0.";
            let rule = FaultRule { action, path, skip, times: 1, error: Errno::IO };
            scene.world.with_disk(Path::new(DIRS[1]), |disk| disk.rules.push(rule));
            scene.begin(1);
            scene.end();
            if scene.home == 0 {
                assert_eq!(scene.failed, [1]);
            }
            scene.check();
            scene.restart(Crash::Kill);
            assert_eq!(scene.names(), ["t-0"]);
            scene.check();
            // What was cut off is known, once its copy said whose it was; and can be begun anew.
            assert!(scene.report.moves.iter().all(|found| *found == (scene.of.topic_id, 0, 1)));
            assert!(scene.report.moves.len() <= usize::from(scene.home == 0));
            if scene.home == 0 {
                scene.begin(1);
                scene.end();
                assert_eq!(scene.home, 1);
                scene.check();
            }
        }
    }
}

#[test]
fn a_source_that_cannot_be_read_ends_the_move() {
    let mut scene = Scene::new(3);
    let path = DIRS[0].to_owned() + "/t-0/00000000000000000000.log";
    let rule = FaultRule { action: Action::Read, path, skip: 0, times: 1, error: Errno::IO };
    scene.world.with_disk(Path::new(DIRS[0]), |disk| disk.rules.push(rule));
    scene.begin(1);
    scene.end();
    assert_eq!((scene.home, scene.failed.len()), (0, 0));
    scene.check();
    scene.run_until("the copy goes away", |scene| scene.names() == ["t-0"]);
}

#[test]
fn a_power_cut_at_any_time_leaves_one_of_the_two() {
    let mut homes = [0, 0];
    for turns in (0..1200).step_by(3) {
        let mut scene = Scene::new(turns);
        scene.begin(1);
        (0..turns).for_each(|_| scene.turn());
        scene.restart(if turns % 2 == 0 { Crash::Power } else { Crash::Kill });
        assert_eq!(scene.names(), ["t-0"], "after {turns} turns");
        assert_eq!(scene.shard.storage.log_end_offset(scene.log), Some(RECORDS), "after {turns} turns");
        scene.check();
        homes[scene.home] += 1;
    }
    assert!(homes.iter().all(|count| *count > 20), "{homes:?}");
}
