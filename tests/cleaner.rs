//! Compaction on the simulated disk: what survives it, what it drops, and crashes at every step of it.

#[path = "cleaner/bench.rs"]
mod bench;
#[path = "simulation/sim_io.rs"]
mod sim_io;

use bench::{Bench, Put, Setup, put};
use ringlog::io::Errno;
use ringlog::record::Codec;
use ringlog::storage::LogConfig;
use sim_io::Crash;
use sim_io::sim_disk::{Action, FaultRule};

fn small_segments() -> LogConfig {
    LogConfig {
        segment_bytes: 4096,
        index_interval_bytes: 200,
        delete: false,
        compact: true,
        min_cleanable_dirty_ratio: 0.01,
        ..LogConfig::default()
    }
}

fn setup() -> Setup {
    Setup { config: small_segments(), ..Setup::default() }
}

/// `count` batches of a few records over `keys` keys.
fn fill(bench: &mut Bench, count: usize, keys: u64) {
    for _ in 0..count {
        let puts: Vec<Put> = (0..bench.rng.range(1, 4)).map(|_| bench.random_put(keys)).collect();
        let codec = *bench.rng.pick(&Codec::ALL);
        bench.append(&puts, codec, None);
    }
    bench.settle();
}

#[test]
fn the_last_value_of_each_key_stays_at_its_offset() {
    let mut bench = Bench::new(1, setup());
    fill(&mut bench, 300, 20);
    let before = bench.size_bytes();
    bench.clean();
    bench.check();
    assert!(bench.size_bytes() < before / 2, "{} bytes of {before} are left", bench.size_bytes());
    // The segments, small now, become few with the next round.
    fill(&mut bench, 30, 20);
    bench.clean();
    bench.check();
    assert!(bench.segments() <= 4, "{} segments are left", bench.segments());
    let (records, cleaned) = (bench.read_all(), bench.cleaned_offset());
    assert!(cleaned > 0);
    let mut keys: Vec<_> =
        records.iter().filter(|found| found.offset < cleaned).map(|found| &found.key).collect();
    let total = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), total, "a key twice in the clean part");
}

#[test]
fn a_restart_goes_on_where_the_last_run_ended() {
    let mut bench = Bench::new(2, setup());
    fill(&mut bench, 200, 20);
    bench.clean();
    let cleaned = bench.cleaned_offset();
    for crash in [None, Some(Crash::Kill), Some(Crash::Power)] {
        bench.restart(crash);
        bench.check();
        assert_eq!(bench.cleaned_offset(), cleaned, "after {crash:?}");
    }
    bench.restart(None);
    let text = bench.read_file("/disk/logs/cleaner-offset-checkpoint");
    assert!(text.ends_with(&format!("\n1\nt 0 {cleaned}\n")), "{text:?}");
}

/// From a recovery point that is too low the gaps of compaction are taken for damage, and what is behind them is cut off.
#[test]
fn a_stop_without_its_mark_keeps_the_recovery_points() {
    let mut bench = Bench::new(3, setup());
    fill(&mut bench, 200, 20);
    bench.clean();
    bench.stop();
    bench.restart(Some(Crash::Kill));
    bench.check();
    fill(&mut bench, 1, 20);
    bench.restart(Some(Crash::Kill));
    bench.check();
}

#[test]
fn tombstones_go_when_their_time_is_over() {
    let mut bench = Bench::new(3, setup());
    for key in 100..140 {
        bench.append(&[put(key, Some(30))], Codec::None, None);
    }
    for key in 100..120 {
        bench.append(&[put(key, None)], Codec::None, None);
    }
    let tombstones = |bench: &mut Bench| {
        bench.read_all().iter().filter(|found| found.value.is_none() && found.offset < 60).count()
    };
    fill(&mut bench, 60, 1);
    bench.clean();
    bench.check();
    assert_eq!(tombstones(&mut bench), 20, "kept for delete.retention.ms");
    bench.world.jump_wall_ms(23 * 3_600_000);
    fill(&mut bench, 60, 1);
    bench.clean();
    assert_eq!(tombstones(&mut bench), 20, "kept for delete.retention.ms");
    bench.world.jump_wall_ms(2 * 3_600_000);
    fill(&mut bench, 60, 1);
    bench.clean();
    bench.deletes_may_be_gone = true;
    bench.check();
    assert_eq!(tombstones(&mut bench), 0);
}

#[test]
fn a_small_map_takes_several_rounds() {
    let mut bench = Bench::new(4, Setup { dedupe_buffer_bytes: 24 * 40, ..setup() });
    fill(&mut bench, 200, 300);
    bench.clean();
    bench.check();
}

#[test]
fn producers_keep_their_last_sequence_numbers() {
    let mut bench = Bench::new(5, setup());
    for sequence in 0..60 {
        bench.append(&[put(1, Some(40))], Codec::None, Some((7, sequence)));
        bench.append(&[put(1, Some(40))], Codec::None, Some((100 + i64::from(sequence), 0)));
    }
    fill(&mut bench, 100, 2);
    bench.clean();
    bench.check();
    let kept = bench.batches();
    for producer in (100..160).chain([7]) {
        let last = kept.iter().rev().find(|batch| batch.producer_id == producer);
        assert!(last.is_some(), "producer {producer} has no batch left");
    }
    bench.restart(Some(Crash::Kill));
    bench.append(&[put(1, Some(40))], Codec::None, Some((7, 60)));
    bench.append(&[put(1, Some(40))], Codec::None, Some((100, 1)));
}

#[test]
fn the_lag_keeps_young_records() {
    let mut bench = Bench::new(6, setup());
    bench.config(LogConfig { min_compaction_lag_ms: 1_000_000, ..small_segments() });
    fill(&mut bench, 200, 5);
    let before = bench.read_all().len();
    bench.clean();
    assert_eq!(bench.read_all().len(), before);
    bench.world.jump_wall_ms(1_100_000);
    bench.clean();
    bench.check();
    assert!(bench.read_all().len() < before / 2);
    // Too clean for the ratio, but overdue.
    let lag =
        LogConfig { min_cleanable_dirty_ratio: 1.0, max_compaction_lag_ms: 10_000_000, ..small_segments() };
    bench.config(lag);
    fill(&mut bench, 100, 5);
    let before = bench.read_all().len();
    bench.clean();
    assert_eq!(bench.read_all().len(), before);
    bench.world.jump_wall_ms(11_000_000);
    bench.clean();
    bench.check();
    assert!(bench.read_all().len() < before / 2);
}

/// The disk operations of one compaction, and a crash after each number of them.
#[test]
fn a_crash_at_any_step_leaves_old_or_new() {
    let mut steps = 0;
    loop {
        let mut bench = Bench::new(7 + steps, setup());
        fill(&mut bench, 40, 6);
        bench.restart(None);
        bench.world.hang_after_ops(Some(steps));
        bench.clean_or_hang();
        let done = !bench.world.hangs();
        bench.restart(Some(if steps % 2 == 0 { Crash::Kill } else { Crash::Power }));
        bench.no_leftovers();
        bench.check();
        bench.clean();
        bench.check();
        if done {
            break;
        }
        steps += 1;
    }
    assert!(steps > 20, "only {steps} steps");
}

#[test]
fn a_full_disk_ends_a_compaction_and_nothing_else() {
    let mut bench = Bench::new(9, setup());
    fill(&mut bench, 200, 6);
    let rule = FaultRule {
        action: Action::Write,
        path: ".cleaned".into(),
        skip: 1,
        times: 1,
        error: Errno::NO_SPACE,
    };
    bench.world.script("/disk".as_ref(), rule);
    bench.clean();
    assert_eq!(bench.cleaned_offset(), 0);
    bench.no_leftovers();
    fill(&mut bench, 10, 6);
    bench.check();
    bench.pass_ms(70_000);
    bench.clean();
    bench.check();
    assert!(bench.cleaned_offset() > 0);
}

#[test]
fn what_cannot_be_read_is_left_alone() {
    let mut bench = Bench::new(10, setup());
    fill(&mut bench, 200, 6);
    let before = bench.read_all();
    bench.restart(None);
    bench.world.with_disk("/disk".as_ref(), |disk| {
        disk.corrupt("/disk/logs/t-0/00000000000000000000.log".as_ref(), 100, 0x10).unwrap();
    });
    bench.clean();
    assert_eq!(bench.cleaned_offset(), 0);
    bench.no_leftovers();
    bench.world.with_disk("/disk".as_ref(), |disk| {
        disk.corrupt("/disk/logs/t-0/00000000000000000000.log".as_ref(), 100, 0x10).unwrap();
    });
    bench.restart(None);
    assert_eq!(bench.read_all(), before);
}

#[test]
fn random_lives() {
    for seed in 100..115 {
        let mut bench = Bench::new(seed, setup());
        for _ in 0..bench.rng.range(2, 6) {
            let keys = *bench.rng.pick(&[1, 5, 50, 1000]);
            let count = bench.rng.range(1, 120) as usize;
            fill(&mut bench, count, keys);
            let ratio = *bench.rng.pick(&[0.01, 0.5, 0.9]);
            let segment_bytes = *bench.rng.pick(&[2000, 4096, 20_000]);
            bench.config(LogConfig { min_cleanable_dirty_ratio: ratio, segment_bytes, ..small_segments() });
            if bench.rng.chance(0.5) {
                let ops = bench.rng.below(150);
                bench.world.hang_after_ops(Some(ops));
            }
            bench.clean_or_hang();
            let hung = bench.world.hangs();
            bench.world.hang_after_ops(None);
            if !hung {
                bench.check();
            }
            let crash = match bench.rng.below(3) {
                0 if !hung => None,
                1 => Some(Crash::Power),
                _ => Some(Crash::Kill),
            };
            bench.restart(crash);
            bench.no_leftovers();
            bench.check();
        }
    }
}
