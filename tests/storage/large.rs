//! Large batches, which do without the journal.

use super::*;

const LARGE: usize = 200 << 10;

fn append_at(scene: &mut Scene, log: LogId, bytes: usize, level: AckLevel) -> Result<i64, AppendError> {
    let Shard { io, storage } = &mut scene.shards[0];
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let timestamp = EPOCH_MS + storage.log_end_offset(log).unwrap();
    builder.append(timestamp, None, Some(&vec![b'x'; bytes]), &[]);
    let mut batch = Vec::new();
    builder.finish(&mut Compressor::default(), &mut batch).unwrap();
    let options = AppendOptions { level, ..durable(io.wall_ms()) };
    let appended = storage.append(io, log, &batch, options)?;
    storage.end_turn(io);
    Ok(appended.base_offset)
}

fn append(scene: &mut Scene, log: LogId, bytes: usize, level: AckLevel) {
    append_at(scene, log, bytes, level).unwrap();
}

fn scene(flush_interval_ms: i64) -> (Scene, TopicPartition, LogId) {
    let mut scene = Scene::new(1, 1);
    scene.stop();
    scene.flush_interval_ms = flush_interval_ms;
    scene.start(1, &[]);
    let of = topic("t", 1);
    let log = scene.create(0, &of);
    (scene, of, log)
}

fn again(scene: &mut Scene, of: &TopicPartition, crash: Crash) -> LogId {
    scene.crash(crash);
    scene.start(1, std::slice::from_ref(of));
    scene.open(0, of)
}

fn journal_bytes(scene: &Scene) -> u64 {
    scene.shards[0].storage.dir_states()[0].journal_bytes
}

/// All of the log. A read ends where memory does.
fn read_all(scene: &mut Scene, log: LogId) -> Vec<u8> {
    let mut all = Vec::new();
    let mut offset = 0;
    while offset < scene.end(0, log) {
        let got = scene.try_read(0, log, offset, 16 << 20).unwrap();
        offset = batches(&got).last().unwrap().unwrap().header().next_offset();
        all.extend_from_slice(&got);
    }
    all
}

fn offsets(scene: &mut Scene, log: LogId) -> Vec<i64> {
    scene.acknowledged(0, log);
    let all = read_all(scene, log);
    batches(&all).map(|batch| batch.unwrap().header().base_offset).collect()
}

#[test]
fn a_large_batch_is_not_in_the_journal_and_survives_a_kill() {
    let (mut scene, of, log) = scene(3_600_000);
    for count in 1..=12 {
        append(&mut scene, log, LARGE, AckLevel::Written);
        if count % 3 == 0 {
            scene.acknowledged(0, log);
        }
    }
    assert_eq!(journal_bytes(&scene), 0);
    assert_eq!(scene.shards[0].storage.dir_states()[0].tail_bytes, 0, "its memory is free again");
    let got = read_all(&mut scene, log);
    let log = again(&mut scene, &of, Crash::Kill);
    assert!(read_all(&mut scene, log) == got);
    assert_eq!(scene.end(0, log), 12);
    assert_eq!(scene.report.dropped, Vec::<String>::new());
    assert_eq!(scene.look_up(0, log, EPOCH_MS + 7), Some(7));
}

#[test]
fn what_follows_a_large_batch_stays_behind_it() {
    let (mut scene, of, log) = scene(3_600_000);
    for round in 0..6 {
        for bytes in [100, LARGE, 100, 5000, LARGE, LARGE, 100] {
            append(&mut scene, log, bytes, AckLevel::Written);
        }
        if round % 2 == 1 {
            scene.acknowledged(0, log);
        }
    }
    let all: Vec<i64> = (0..42).collect();
    assert_eq!(offsets(&mut scene, log), all);
    let log = again(&mut scene, &of, Crash::Kill);
    assert_eq!(offsets(&mut scene, log), all);
    scene.stop();
    scene.start(1, std::slice::from_ref(&of));
    let log = scene.open(0, &of);
    assert_eq!(offsets(&mut scene, log), all);
}

/// It would be behind a gap.
#[test]
fn a_durable_batch_takes_the_large_ones_before_it_to_stable_media() {
    for bytes in [100, LARGE] {
        let (mut scene, of, log) = scene(3_600_000);
        append(&mut scene, log, LARGE, AckLevel::Written);
        scene.acknowledged(0, log);
        append(&mut scene, log, 100, AckLevel::Written);
        append(&mut scene, log, bytes, AckLevel::Durable);
        append(&mut scene, log, 100, AckLevel::Written);
        scene.run_until("acknowledged", |scene| scene.shards[0].storage.high_watermark(log) >= Some(3));
        let log = again(&mut scene, &of, Crash::Power);
        assert!(scene.end(0, log) >= 3, "{}", scene.end(0, log));
        assert_eq!(offsets(&mut scene, log)[..3], [0, 1, 2]);
        // With all of it synced the journal is the faster way again.
        let before = journal_bytes(&scene);
        append(&mut scene, log, LARGE, AckLevel::Durable);
        scene.acknowledged(0, log);
        assert!(journal_bytes(&scene) > before);
    }
}

#[test]
fn the_flush_timer_syncs_large_batches() {
    let (mut scene, of, log) = scene(50);
    append(&mut scene, log, LARGE, AckLevel::Written);
    scene.pass_ms(200);
    let log = again(&mut scene, &of, Crash::Power);
    assert_eq!(scene.end(0, log), 1);
    assert_eq!(scene.report.cut, Vec::<String>::new(), "the file has its exact length");
}

#[test]
fn records_are_deleted_once_the_end_of_the_log_is_safe() {
    let (mut scene, of, log) = scene(3_600_000);
    (0..3).for_each(|_| append(&mut scene, log, LARGE, AckLevel::Written));
    scene.acknowledged(0, log);
    let delete = |scene: &mut Scene| {
        let Shard { io, storage } = &mut scene.shards[0];
        storage.delete_records(io, log, 2)
    };
    assert_eq!(delete(&mut scene), Err(ReadError::NoMemory));
    scene.run_until("synced", |scene| !scene.shards[0].storage.delete_waits(log, 2));
    assert_eq!(delete(&mut scene), Ok(2));
    scene.pass_ms(100);
    let log = again(&mut scene, &of, Crash::Power);
    assert_eq!(scene.shards[0].storage.log_start_offset(log), Some(2));
    assert_eq!(scene.end(0, log), 3);
}

/// A log is not in the journal before its first large batch is in its segment.
#[test]
fn a_directory_from_before_a_kill_survives_a_power_cut() {
    for turns in 0..12 {
        let (mut scene, of, log) = scene(3_600_000);
        append(&mut scene, log, LARGE, AckLevel::Written);
        (0..turns).for_each(|_| scene.turn(0));
        let log = again(&mut scene, &of, Crash::Kill);
        let end = scene.end(0, log);
        append(&mut scene, log, 100, AckLevel::Durable);
        scene.acknowledged(0, log);
        let log = again(&mut scene, &of, Crash::Power);
        assert_eq!(scene.end(0, log), end + 1, "after {turns} turns");
    }
}

#[test]
fn without_memory_large_batches_wait() {
    let (mut scene, _, log) = scene(3_600_000);
    let mut appended = 0;
    let refused = loop {
        match append_at(&mut scene, log, LARGE, AckLevel::Memory) {
            Ok(offset) => appended = offset + 1,
            Err(error) => break error,
        }
        assert!(appended < 1000, "it never is full");
    };
    assert_eq!(refused, AppendError::Busy);
    assert!(!scene.shards[0].storage.has_room(log));
    scene.acknowledged(0, log);
    assert!(scene.shards[0].storage.has_room(log));
    append(&mut scene, log, LARGE, AckLevel::Memory);
    scene.acknowledged(0, log);
    assert_eq!(offsets(&mut scene, log), (0..=appended).collect::<Vec<_>>());
}

#[test]
fn a_log_is_deleted_with_its_images() {
    let (mut scene, _, log) = scene(3_600_000);
    (0..4).for_each(|_| append(&mut scene, log, LARGE, AckLevel::Written));
    scene.delete(0, log);
    scene.pass_ms(100);
    assert_eq!(scene.shards[0].storage.dir_states()[0].tail_bytes, 0);
    scene.run_until("removed", |scene| scene.names().is_empty());
}
