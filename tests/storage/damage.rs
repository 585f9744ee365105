//! Files damaged at rest, at every byte: what lies before the damage is kept, what is lost is said, and no batch that is
//! not as it was written is ever served.

use ringlog::record::batch::BATCH_OVERHEAD;
use ringlog::record::control::EndTxnMarker;
use ringlog::storage::journal::format::{FOOTER_BYTES, FoundBlock, find_blocks};
use ringlog::storage::journal::parse_file_name;

use super::*;

const BLOCK: u64 = 4096;
const JOURNAL: &str = ".ringlog/journal-0";

/// A byte that is wrong, or an end that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Flip(u64),
    Cut(u64),
}

impl Damage {
    /// Both kinds at each of these places.
    fn at_each(places: impl Iterator<Item = u64>) -> impl Iterator<Item = Damage> {
        places.flat_map(|at| [Damage::Flip(at), Damage::Cut(at)])
    }

    fn at(self) -> u64 {
        match self {
            Damage::Flip(at) | Damage::Cut(at) => at,
        }
    }

    /// Kafka's format has no checksum over a batch's leader epoch.
    fn is_to_epoch(self, batch_bytes: u64) -> bool {
        matches!(self, Damage::Flip(at) if (12..16).contains(&(at % batch_bytes)))
    }

    fn apply(self, world: &SimWorld, path: &Path) {
        let damaged = world.with_disk(path, |disk| match self {
            Damage::Flip(at) => disk.corrupt(path, at, 1 << (at % 8)),
            Damage::Cut(len) => disk.cut(path, len),
        });
        damaged.unwrap();
    }
}

/// The values that [`Scene::append`] makes are told apart by their timestamps, so that a batch in a wrong place shows.
fn check_batches(bytes: &[u8], damage: Damage) -> Vec<i64> {
    let mut offsets = Vec::new();
    for batch in batches(bytes) {
        let Ok(batch) = batch else { break };
        batch.check_crc().unwrap_or_else(|error| panic!("{damage:?}: a batch with {error} is served"));
        let header = batch.header();
        assert_eq!(header.base_timestamp, EPOCH_MS + header.base_offset, "{damage:?}: a batch moved");
        offsets.push(header.base_offset);
    }
    offsets
}

impl Scene {
    /// The largest file of a directory whose name ends so.
    fn file(&mut self, dir: &str, end: &str) -> (PathBuf, Vec<u8>) {
        let dir = Path::new(DIR).join(dir);
        let entries = self.world.driver().list_dir(&dir).unwrap();
        let file = entries.iter().filter(|entry| entry.name.ends_with(end)).max_by_key(|entry| entry.len);
        let path = dir.join(&file.unwrap().name);
        let bytes = self.world.with_disk(&path, |disk| disk.contents(&path).unwrap());
        (path, bytes)
    }

    /// Starts with these topics and opens their logs.
    fn restart(&mut self, of: &[TopicPartition]) -> Vec<LogId> {
        self.start(1, of);
        of.iter().map(|of| self.open(0, of)).collect()
    }

    /// Everything a log serves, until its end or the first error.
    fn served(&mut self, log: LogId, damage: Damage) -> Vec<i64> {
        let mut offsets = Vec::new();
        let end = self.end(0, log);
        let mut next = 0;
        while next < end {
            let Ok(bytes) = self.try_read(0, log, next, 500) else { break };
            let got = check_batches(&bytes, damage);
            let Some(&last) = got.last() else { break };
            offsets.extend(got);
            next = last + 1;
        }
        offsets
    }

    /// Producer, first offset and marker of each aborted transaction.
    fn aborted(&mut self, log: LogId) -> Vec<(i64, i64, i64)> {
        let mut found = Vec::new();
        self.run_until("the index", |scene| {
            let Shard { io, storage } = &mut scene.shards[0];
            found.clear();
            storage.aborted_transactions(io, log, 0, i64::MAX, &mut found).unwrap()
        });
        found.iter().map(|txn| (txn.producer_id, txn.first_offset, txn.last_offset)).collect()
    }

    fn said(&self) -> bool {
        !self.report.dropped.is_empty() || !self.report.cut.is_empty()
    }
}

/// Each of these appends in a block of its own, then the process dies before anything but the journal has it.
fn journalled(of: &[TopicPartition], appends: &[(usize, usize)]) -> Scene {
    let mut scene = Scene::unfilled(9);
    let logs: Vec<LogId> = of.iter().map(|of| scene.create(0, of)).collect();
    for &(log, batches) in appends {
        scene.append(0, logs[log], batches, 100);
        scene.acknowledged(0, logs[log]);
    }
    scene.crash(Crash::Kill);
    scene
}

fn blocks(path: &Path, bytes: &[u8]) -> Vec<FoundBlock> {
    let name = path.file_name().unwrap().to_string_lossy();
    find_blocks(bytes, parse_file_name(&name).unwrap().0)
}

/// Whether nothing is written at a byte of a block: it lies behind the batches and before the directory.
fn is_padding(blocks: &[FoundBlock], at: u64) -> bool {
    blocks.iter().any(|block| {
        let end = block.start as u64 + u64::from(block.seal.block_bytes);
        let directory = 40 * block.entries.len() + FOOTER_BYTES;
        (block.start as u64 + u64::from(block.seal.data_bytes)..end - directory as u64).contains(&at)
    })
}

#[test]
fn a_journal_damaged_at_any_byte_keeps_what_lies_before() {
    let of = [topic("t", 1)];
    let appends = [(0, 1), (0, 2), (0, 1)];
    let (path, bytes) = journalled(&of, &appends).file(JOURNAL, ".journal");
    let blocks = blocks(&path, &bytes);
    assert_eq!((blocks.len(), bytes.len() as u64), (3, 3 * BLOCK));
    // Of the padding, some.
    let places = (0..bytes.len() as u64).filter(|&at| !is_padding(&blocks, at) || at % 61 == 0);
    for damage in Damage::at_each(places) {
        let mut scene = journalled(&of, &appends);
        damage.apply(&scene.world, &path);
        let log = scene.restart(&of)[0];
        let harmless = matches!(damage, Damage::Flip(at) if is_padding(&blocks, at));
        let kept = if harmless { 4 } else { [0, 1, 3][(damage.at() / BLOCK) as usize] };
        assert_eq!(scene.end(0, log), kept, "{damage:?}");
        assert_eq!(scene.served(log, damage), (0..kept).collect::<Vec<_>>(), "{damage:?}");
        // A cut between two blocks leaves no trace.
        let traceless = matches!(damage, Damage::Cut(len) if len.is_multiple_of(BLOCK));
        assert_eq!(scene.said(), kept < 4 && !traceless, "{damage:?}: {:?}", scene.report);
        scene.append(0, log, 1, 100);
        scene.acknowledged(0, log);
        assert_eq!(scene.end(0, log), kept + 1, "{damage:?}");
    }
}

#[test]
fn damage_to_a_block_of_a_journal_harms_the_logs_in_it_alone() {
    let of = [topic("a", 1), topic("b", 2)];
    let appends = [(0, 1), (1, 1), (0, 1), (1, 1), (0, 1), (1, 1)];
    let (path, bytes) = journalled(&of, &appends).file(JOURNAL, ".journal");
    let blocks = blocks(&path, &bytes);
    for damage in (0..bytes.len() as u64).filter(|&at| !is_padding(&blocks, at)).step_by(7).map(Damage::Flip)
    {
        let mut scene = journalled(&of, &appends);
        damage.apply(&scene.world, &path);
        let logs = scene.restart(&of);
        let hit = damage.at() / BLOCK;
        for (index, log) in logs.into_iter().enumerate() {
            let kept = if hit % 2 == index as u64 { hit as i64 / 2 } else { 3 };
            assert_eq!(scene.served(log, damage), (0..kept).collect::<Vec<_>>(), "{damage:?}");
        }
        assert!(scene.said(), "{damage:?}");
    }
}

/// Three batches in a segment and in the journal, after the process died.
fn flushed() -> (Scene, [TopicPartition; 1]) {
    let of = [topic("t", 1)];
    let mut scene = Scene::new(9, 1);
    let log = scene.create(0, &of[0]);
    scene.append(0, log, 3, 100);
    scene.acknowledged(0, log);
    scene.pass_ms(500);
    scene.crash(Crash::Kill);
    (scene, of)
}

#[test]
fn a_segment_damaged_at_any_byte_is_made_whole_from_the_journal() {
    let (path, bytes) = flushed().0.file("t-0", ".log");
    let size = bytes.len() as u64 / 3;
    for damage in Damage::at_each(0..bytes.len() as u64).filter(|damage| !damage.is_to_epoch(size)) {
        let (mut scene, of) = flushed();
        damage.apply(&scene.world, &path);
        let log = scene.restart(&of)[0];
        assert_eq!(scene.served(log, damage), [0, 1, 2], "{damage:?}");
        assert!(scene.file("t-0", ".log").1 == bytes, "{damage:?}");
        let traceless = matches!(damage, Damage::Cut(len) if len.is_multiple_of(size));
        assert_eq!(scene.said(), !traceless, "{damage:?}");
    }
}

/// Three batches in a closed segment and three in the last, after a clean stop: no journal has them. Where the next life
/// ends by a crash, they lie below the recovery point.
fn settled(crash: Option<Crash>) -> (Scene, [TopicPartition; 1]) {
    let of = [topic("t", 1)];
    let mut scene = Scene::with_config(9, 1, LogConfig { segment_bytes: 600, ..config() });
    let log = scene.create(0, &of[0]);
    scene.append(0, log, 6, 100);
    scene.acknowledged(0, log);
    scene.stop();
    if let Some(crash) = crash {
        scene.restart(&of);
        let log = scene.create(0, &topic("u", 2));
        scene.append(0, log, 1, 100);
        scene.acknowledged(0, log);
        scene.crash(crash);
    }
    (scene, of)
}

#[test]
fn a_segment_damaged_at_any_byte_at_rest_serves_what_is_as_it_was() {
    for (crash, step) in [(None, 1), (Some(Crash::Kill), 3)] {
        for first in [0, 3] {
            damage_at_rest(crash, first, step);
        }
    }
}

/// Damages the segment that begins at offset `first`.
fn damage_at_rest(crash: Option<Crash>, first: i64, step: usize) {
    let (path, bytes) = settled(crash).0.file("t-0", &format!("{first:020}.log"));
    let size = bytes.len() as u64 / 3;
    assert!(size > BATCH_OVERHEAD as u64 && bytes.len() as u64 == 3 * size);
    let damages = Damage::at_each((0..bytes.len() as u64).step_by(step));
    for damage in damages.filter(|damage| !damage.is_to_epoch(size)) {
        let (mut scene, of) = settled(crash);
        damage.apply(&scene.world, &path);
        let log = scene.restart(&of)[0];
        let before = first + (damage.at() / size) as i64;
        let served = scene.served(log, damage);
        // A closed segment that ends between two batches is taken for one that compaction has thinned out.
        let thin = first == 0 && matches!(damage, Damage::Cut(len) if len.is_multiple_of(size));
        let expected: Vec<i64> = (0..before).chain(if thin { 3..6 } else { 0..0 }).collect();
        assert_eq!(served, expected, "{first} {damage:?} {crash:?}");
        // What is intact behind it is not lost with it.
        if first == 0 {
            let behind = scene.try_read(0, log, 3, 5_000).map(|bytes| check_batches(&bytes, damage));
            assert_eq!(behind, Ok(vec![3, 4, 5]), "{damage:?} {crash:?}");
        }
    }
}

/// Two transactions are aborted: the first before a clean stop, the second since. The index that has both loses its end.
fn aborted() -> (Scene, [TopicPartition; 1]) {
    let of = [topic("t", 1)];
    let mut scene = Scene::new(13, 1);
    let mut log = scene.create(0, &of[0]);
    for producer_id in [7, 8] {
        if producer_id == 8 {
            scene.stop();
            log = scene.restart(&of)[0];
        }
        let batch = BatchOptions {
            producer_id,
            producer_epoch: 0,
            base_sequence: 0,
            transactional: true,
            ..BatchOptions::default()
        };
        let now_ms = scene.world.wall_ms();
        append_as(&mut scene.shards[0], log, 100, now_ms, batch).unwrap();
        let marker = EndTxnMarker { commit: false, coordinator_epoch: 0 };
        let (mut builder, mut bytes) = (BatchBuilder::default(), Vec::new());
        marker.write(producer_id, 0, now_ms, &mut builder, &mut Compressor::default(), &mut bytes).unwrap();
        let Shard { io, storage } = &mut scene.shards[0];
        storage.append(io, log, &bytes, AppendOptions { coordinator: true, ..durable(now_ms) }).unwrap();
        scene.acknowledged(0, log);
    }
    scene.pass_ms(500);
    scene.crash(Crash::Kill);
    let (path, bytes) = scene.file("t-0", ".txnindex");
    assert_eq!(bytes.len(), 68);
    Damage::Cut(44).apply(&scene.world, &path);
    (scene, of)
}

/// The index was cut at once and filled again later: a crash in between took what was missing for all there was, and aborted records
/// were served as committed.
#[test]
fn what_was_aborted_stays_so_whenever_a_recovery_is_cut_off() {
    for ops in 0.. {
        let (mut scene, of) = aborted();
        let mut io = scene.world.driver();
        let find = |id| (id == of[0].topic_id).then(|| (of[0].topic.clone(), config()));
        scene.world.hang_after_ops(Some(ops));
        let report = storage::recover(&mut io, &[PathBuf::from(DIR)], &find, &|_, _| None);
        let whole = !scene.world.hangs();
        assert!(!whole || report.unwrap().failed_dirs.is_empty());
        scene.world.hang_after_ops(None);
        scene.world.crash(&[io.id()], Crash::Kill);
        let log = scene.restart(&of)[0];
        assert_eq!(scene.aborted(log), [(7, 0, 1), (8, 2, 3)], "after {ops} ops");
        if whole {
            return;
        }
    }
}
