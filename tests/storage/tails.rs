//! What lies in the journal alone: how much memory it takes, and for how long it does.

use super::*;

const LOGS: i32 = 64;

fn partition(partition: i32) -> TopicPartition {
    TopicPartition { partition, ..topic("t", 1) }
}

/// A scene whose flush timer is set to this, and empty logs `t-0` and up.
fn scene(flush_interval_ms: i64) -> (Scene, Vec<LogId>) {
    let mut scene = Scene::new(1, 1);
    scene.stop();
    scene.flush_interval_ms = flush_interval_ms;
    scene.start(1, &[]);
    let logs = (0..LOGS).map(|number| scene.create(0, &partition(number))).collect();
    (scene, logs)
}

#[test]
fn tails_of_small_batches_do_not_keep_their_padded_blocks() {
    let (mut scene, logs) = scene(3_600_000);
    let appends = 20 * LOGS as usize;
    for number in 0..appends {
        let log = logs[number % logs.len()];
        scene.append(0, log, 1, 100);
        scene.acknowledged(0, log);
    }
    let state = &scene.shards[0].storage.dir_states()[0];
    assert!(state.journal_bytes >= 4096 * appends as u64, "a block each: {state:?}");
    assert!(state.tail_bytes <= 2 << 20, "{state:?}");
    assert_eq!(scene.names(), Vec::<String>::new(), "nothing was flushed for room");
    for log in logs {
        let (first, bytes) = scene.read(0, log, 0, 1 << 20);
        assert_eq!((first, bytes / 20), (Some(0), scene.read(0, log, 19, 1 << 20).1));
    }
}

#[test]
fn small_and_large_batches_are_read_in_their_order() {
    let (mut scene, logs) = scene(3_600_000);
    for bytes in [100, 5000, 100, 900, 1100, 100] {
        scene.append(0, logs[0], 1, bytes);
        scene.acknowledged(0, logs[0]);
    }
    let got = scene.try_read(0, logs[0], 0, 1 << 20).unwrap();
    let offsets: Vec<i64> = batches(&got).map(|batch| batch.unwrap().header().base_offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4, 5]);
    scene.stop();
    scene.start(1, &[partition(0)]);
    let log = scene.open(0, &partition(0));
    assert_eq!(scene.try_read(0, log, 0, 1 << 20).unwrap(), got, "the segment holds the same bytes");
}

#[test]
fn the_timers_flushes_are_spread_over_half_of_its_interval() {
    let (mut scene, logs) = scene(4000);
    let began_ns = scene.world.now();
    for &log in &logs {
        scene.append(0, log, 1, 100);
    }
    let mut flushed_at = |ms: u64| {
        let passed_ms = (scene.world.now() - began_ns) / 1_000_000;
        scene.pass_ms(ms - passed_ms);
        scene.names().len() as i32
    };
    assert_eq!(flushed_at(1900), 0);
    let half = flushed_at(3000);
    assert!((LOGS / 4..LOGS * 3 / 4).contains(&half), "{half} of {LOGS}");
    assert_eq!(flushed_at(4200), LOGS);
}

#[test]
fn journal_files_are_freed_under_many_logs() {
    let (mut scene, logs) = scene(3_600_000);
    scene.stop();
    scene.journal_bytes = (1 << 20, 4 << 20);
    scene.start(1, &(0..LOGS).map(partition).collect::<Vec<_>>());
    let logs: Vec<LogId> = (0..logs.len() as i32).map(|number| scene.open(0, &partition(number))).collect();
    // Six times what the journal may hold.
    for round in 0..96 {
        for &log in &logs {
            scene.append(0, log, 1, 100);
            scene.acknowledged(0, log);
        }
        let used = scene.shards[0].storage.dir_states()[0].journal_bytes;
        assert!(used <= 4 << 20, "{used} bytes in round {round}");
    }
    scene.crash(Crash::Power);
    scene.start(1, &(0..LOGS).map(partition).collect::<Vec<_>>());
    for number in 0..LOGS {
        let log = scene.open(0, &partition(number));
        assert_eq!(scene.end(0, log), 96);
    }
}

/// A log that is written to all the time has another flush to make whenever one ends: its sync must not wait for a rest, or the
/// journal fills, and appends wait.
#[test]
fn a_log_that_never_rests_is_synced() {
    let journal_max_bytes = 32 << 20;
    let slow = SimOptions { write_ns: (4_000_000, 5_000_000), ..SimOptions::default() };
    let mut scene = Scene::of(SimWorld::new(1, slow), 1, config(), (1 << 20, journal_max_bytes), true);
    let log = scene.create(0, &topic("t", 1));
    let (mut appended_bytes, mut most_bytes) = (0, 0);
    while appended_bytes < 3 * journal_max_bytes {
        let storage = &scene.shards[0].storage;
        let state = &storage.dir_states()[0];
        most_bytes = most_bytes.max(state.journal_bytes);
        if state.tail_bytes < 4 << 20 && storage.has_room(log) {
            scene.append(0, log, 1, 200 << 10);
            appended_bytes += 200 << 10;
        } else {
            scene.turn(0);
        }
    }
    assert!(most_bytes < journal_max_bytes * 3 / 4, "{most_bytes}");
}

#[test]
fn what_is_written_leaves_memory_to_what_is_read() {
    const SETTLED: usize = 12 << 20;
    let mut scene = Scene::new(1, 1);
    scene.stop();
    scene.settled_bytes = SETTLED;
    scene.start(1, &[]);
    let log = scene.create(0, &topic("t", 1));
    let used = |scene: &Scene| scene.shards[0].storage.memory_used_bytes();
    for _ in 0..32 {
        scene.append(0, log, 4, 250_000);
        scene.acknowledged(0, log);
        assert!(used(&scene) <= SETTLED, "{} bytes", used(&scene));
    }
    let mut offset = 0;
    while offset < scene.end(0, log) {
        let got = scene.try_read(0, log, offset, 1 << 20).unwrap();
        offset = batches(&got).last().unwrap().unwrap().header().next_offset();
    }
    assert!(used(&scene) > 20 << 20, "{} bytes", used(&scene));
}
