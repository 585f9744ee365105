//! Transactions in a log on the simulated disk: what readers of committed data see, after restarts of every kind too. And how
//! the time of a transaction runs in a broker.

#![allow(clippy::unwrap_used)]

#[path = "transactions/bench.rs"]
mod bench;
#[path = "transactions/shard.rs"]
mod shard;
#[path = "simulation/sim_io.rs"]
mod sim_io;

use bench::Bench;
use ringlog::protocol::ErrorCode;
use ringlog::protocol::frame::decode_response;
use ringlog::protocol::messages::add_offsets_to_txn_request::AddOffsetsToTxnRequest;
use ringlog::protocol::messages::end_txn_request::EndTxnRequest;
use ringlog::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use ringlog::protocol::messages::init_producer_id_request::InitProducerIdRequest;
use ringlog::storage::{AppendError, LogConfig};
use shard::OneShard;
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
fn an_index_whose_data_never_came_is_made_anew() {
    // A power cut may leave a file its length and nothing but zeros in it: as an entry, a transaction of producer 0.
    let mut bench = Bench::new(203, small_segments(), 1);
    bench.put(Some(0), 2, 50);
    bench.end(0, false, 2);
    bench.settle();
    bench.restart(None);
    let index = bench.names().into_iter().find(|name| name.ends_with(".txnindex")).unwrap();
    assert_eq!(index, "00000000000000000000.txnindex");
    let path = format!("/disk/logs/t-0/{index}");
    bench.stop();
    let before = bench.world.with_disk("/disk".as_ref(), |disk| {
        let bytes = disk.contents(path.as_ref()).unwrap();
        (0u64..).zip(&bytes).for_each(|(at, byte)| disk.corrupt(path.as_ref(), at, *byte).unwrap());
        bytes
    });
    bench.start();
    bench.check();
    let after = bench.world.with_disk("/disk".as_ref(), |disk| disk.contents(path.as_ref()).unwrap());
    assert_eq!(after, before);
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

fn compacted() -> LogConfig {
    LogConfig {
        compact: true,
        delete: false,
        min_cleanable_dirty_ratio: 0.01,
        file_delete_delay_ms: 100,
        ..small_segments()
    }
}

#[test]
fn compaction_drops_what_was_aborted_and_later_its_markers() {
    let retention_ms = 60_000;
    let mut bench = Bench::new(300, LogConfig { delete_retention_ms: retention_ms, ..compacted() }, 3);
    // Of a transaction that is committed, of one that is aborted, and of an empty one.
    for at in 0..2 {
        bench.put(Some(at), 3, 1_000_000);
    }
    bench.end(0, true, 1);
    bench.end(1, false, 1);
    bench.end(2, false, 1);
    let aborted: Vec<i64> = bench.puts.range(3..6).map(|(offset, _)| *offset).collect();
    // The producers go on, so that nothing of this is the last of anybody.
    let roll = |bench: &mut Bench| {
        for at in 0..3 {
            bench.put(Some(at), 1, 1_000_000);
            bench.end(at, true, 1);
        }
        for _ in 0..80 {
            bench.put(None, 3, 20);
        }
        bench.settle();
        bench.pass_ms(5_000);
        bench.check();
    };
    let markers = |bench: &mut Bench| {
        let batches = bench.batches();
        let first = batches.iter().take_while(|batch| batch.base_offset < 9);
        let mut markers = first.filter(|batch| batch.is_control());
        let has_aborted = batches.iter().any(|batch| aborted.contains(&batch.base_offset));
        (markers.next().is_some(), markers.count() + 1, has_aborted)
    };
    let indexes = |bench: &mut Bench| bench.names().iter().filter(|name| name.contains(".txnindex")).count();
    roll(&mut bench);
    assert_eq!(markers(&mut bench), (true, 3, false), "the data goes at once");
    roll(&mut bench);
    assert_eq!((markers(&mut bench), indexes(&mut bench)), ((true, 3, false), 0));
    bench.restart(Some(Crash::Power));
    bench.check();
    bench.deletes_may_be_gone = true;
    bench.pass_ms(2 * retention_ms as u64);
    roll(&mut bench);
    assert_eq!(markers(&mut bench), (true, 1, false), "what was committed keeps its marker");
    bench.restart(None);
    bench.check();
}

#[test]
fn compaction_of_any_transactions() {
    let seeds = std::env::var("TRANSACTIONS_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12);
    for seed in 400..400 + seeds {
        let mut rng = sim_io::rng::Rng::new(seed);
        let delete_retention_ms = *rng.pick(&[0, 1_000, 100_000]);
        let mut bench = Bench::new(seed, LogConfig { delete_retention_ms, ..compacted() }, 4);
        bench.deletes_may_be_gone = true;
        for _ in 0..rng.range(3, 8) {
            let (steps, keys) = (rng.range(1, 200) as usize, *rng.pick(&[5, 50, 1000]));
            fill(&mut bench, steps, keys);
            bench.check();
            let hangs = rng.chance(0.2);
            if hangs {
                bench.world.hang_after_ops(Some(rng.below(80)));
                bench.pass_ms(1_000);
            } else {
                bench.pass_ms(*rng.pick(&[0, 300, 1_000, 5_000]));
                bench.check();
            }
            match *rng.pick(&[None, Some(Crash::Kill), Some(Crash::Power)]) {
                None if hangs => bench.restart(Some(Crash::Kill)),
                crash => bench.restart(crash),
            }
            bench.check();
        }
        for at in 0..bench.producers.len() {
            bench.end(at, rng.chance(0.5), 2);
        }
        bench.settle();
        bench.pass_ms(5_000);
        bench.check();
    }
}

#[test]
fn the_time_of_a_transaction_runs_from_its_first_request() {
    let mut broker = OneShard::new(1);
    let id = "tx";
    let find = FindCoordinatorRequest {
        key_type: 1,
        coordinator_keys: vec![id.into()].into(),
        ..Default::default()
    };
    let init = InitProducerIdRequest {
        transactional_id: Some(id.into()),
        transaction_timeout_ms: 60_000,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    let (producer_id, producer_epoch) = loop {
        broker.ask(4, &find);
        let frame = broker.ask(4, &init);
        let (_, answer) = decode_response::<InitProducerIdRequest<'_>>(&frame, 4).unwrap();
        if answer.error_code == 0 {
            break (answer.producer_id, answer.producer_epoch);
        }
        broker.rest(1);
    };
    // Nothing happens, and meanwhile the wall clock is set.
    broker.rest(30);
    broker.world.jump_wall_ms(3_600_000);
    let add = AddOffsetsToTxnRequest {
        transactional_id: id.into(),
        producer_id,
        producer_epoch,
        group_id: "g".into(),
    };
    let frame = broker.ask(3, &add);
    let (_, answer) = decode_response::<AddOffsetsToTxnRequest<'_>>(&frame, 3).unwrap();
    assert_eq!(answer.error_code, 0);
    // For longer than the coordinator goes without looking for transactions that are over.
    broker.rest(30);
    let end = EndTxnRequest { transactional_id: id.into(), producer_id, producer_epoch, committed: true };
    let ended = |broker: &mut OneShard| {
        let frame = broker.ask(3, &end);
        decode_response::<EndTxnRequest<'_>>(&frame, 3).unwrap().1.error_code
    };
    assert_eq!(ended(&mut broker), 0, "the minute is not over");
    // And no longer than it may.
    broker.rest(1);
    broker.ask(3, &add);
    broker.rest(75);
    assert_eq!(ended(&mut broker), ErrorCode::ProducerFenced.code());
}
