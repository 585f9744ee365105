//! Transactions in a log on the simulated disk: what readers of committed data see, after restarts of every kind too.

#![allow(clippy::unwrap_used)]

#[path = "transactions/bench.rs"]
mod bench;
#[path = "simulation/sim_io.rs"]
mod sim_io;

use bench::Bench;
use ringlog::storage::{AppendError, LogConfig};
use sim_io::Crash;

fn small_segments() -> LogConfig {
    LogConfig { segment_bytes: 3000, index_interval_bytes: 200, ..LogConfig::default() }
}

/// Some transactions of several producers, one into the other.
fn fill(bench: &mut Bench, steps: usize, keys: u64) {
    for _ in 0..steps {
        let at = bench.rng.below(bench.producers.len() as u64) as usize;
        let count = bench.rng.range(1, 4) as usize;
        match bench.rng.below(10) {
            0..5 => bench.put(Some(at), count, keys),
            5..7 => bench.put(None, count, keys),
            _ => {
                let (commit, version) = (bench.rng.chance(0.5), bench.rng.range(1, 3) as i16);
                bench.end(at, commit, version);
            }
        }
    }
    bench.settle();
}

#[test]
fn an_open_transaction_holds_what_is_behind_it() {
    let mut bench = Bench::new(1, small_segments(), 2);
    bench.put(None, 3, 10);
    bench.put(Some(0), 2, 10);
    bench.put(None, 3, 10);
    bench.put(Some(1), 2, 10);
    bench.settle();
    assert_eq!(bench.committed(0, 1 << 20).len(), 3);
    bench.check();
    bench.end(1, true, 2);
    bench.settle();
    assert_eq!(bench.committed(0, 1 << 20).len(), 3, "the first is still open");
    bench.end(0, false, 2);
    bench.settle();
    assert_eq!(bench.committed(0, 1 << 20).len(), 8);
    for crash in [None, Some(Crash::Kill), Some(Crash::Power)] {
        bench.restart(crash);
        bench.check();
        assert_eq!(bench.committed(0, 1 << 20).len(), 8);
    }
}

#[test]
fn any_restart_keeps_open_transactions_and_what_was_aborted() {
    for seed in 0..12 {
        let mut bench = Bench::new(seed, small_segments(), 4);
        for _ in 0..bench.rng.range(2, 6) {
            let steps = bench.rng.range(1, 120) as usize;
            fill(&mut bench, steps, 50);
            bench.check();
            let ms = *bench.rng.pick(&[0, 30, 200, 2000]);
            bench.pass_ms(ms);
            bench.check();
            let crash = *bench.rng.pick(&[None, Some(Crash::Kill), Some(Crash::Power)]);
            bench.restart(crash);
            bench.check();
        }
        // All that is open ends, and everything can be read.
        for at in 0..bench.producers.len() {
            bench.end(at, true, 2);
        }
        bench.settle();
        bench.check();
    }
}

#[test]
fn a_crash_while_the_disk_hangs() {
    for seed in 100..112 {
        let mut bench = Bench::new(seed, small_segments(), 3);
        fill(&mut bench, 80, 50);
        let ops = bench.rng.below(60);
        bench.world.hang_after_ops(Some(ops));
        bench.pass_ms(500);
        bench.restart(Some(if seed % 2 == 0 { Crash::Kill } else { Crash::Power }));
        bench.check();
        fill(&mut bench, 40, 50);
        bench.check();
    }
}

#[test]
fn a_damaged_index_is_made_anew() {
    for (seed, at) in [(200, 0), (201, 10), (202, 18)] {
        let mut bench = Bench::new(seed, small_segments(), 3);
        fill(&mut bench, 300, 50);
        for producer in 0..3 {
            bench.put(Some(producer), 1, 50);
            bench.end(producer, false, 2);
        }
        bench.settle();
        for clean in [true, false] {
            bench.restart(None);
            let index = bench.names().into_iter().filter(|name| name.ends_with(".txnindex")).nth(1).unwrap();
            bench.stop();
            bench.world.with_disk("/disk".as_ref(), |disk| {
                disk.corrupt(format!("/disk/logs/t-0/{index}").as_ref(), at, 0x80).unwrap();
            });
            bench.start();
            bench.check();
            bench.restart((!clean).then_some(Crash::Kill));
            bench.check();
        }
    }
}

#[test]
fn markers_that_come_again() {
    let mut bench = Bench::new(2, small_segments(), 1);
    bench.put(Some(0), 1, 5);
    bench.end(0, true, 2);
    let producer = bench.producers[0];
    // Once more while nothing is open: fine. In the midst of the next transaction: that one would end by it.
    assert_eq!(bench.append_marker(&producer, 2, 0), Ok(()));
    bench.put(Some(0), 1, 5);
    let producer = bench.producers[0];
    assert_eq!(bench.append_marker(&producer, 2, 0), Err(AppendError::InvalidProducerEpoch));
    let old = bench::Producer { epoch: producer.epoch - 1, ..producer };
    assert_eq!(bench.append_marker(&old, 1, 0), Err(AppendError::InvalidProducerEpoch));
    bench.end(0, true, 1);
    let producer = bench.producers[0];
    assert_eq!(bench.append_marker(&producer, 1, 7), Ok(()));
    assert_eq!(bench.append_marker(&producer, 1, 6), Err(AppendError::CoordinatorFenced));
    bench.settle();
    bench.check();
}
