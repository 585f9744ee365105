//! What runs out: open transactions, ids nobody uses.

use super::*;

#[test]
fn an_open_transaction_is_aborted() {
    let mut world = World::new();
    let producer = world.init("id");
    world.admit("id", producer, ("a", 0), true).unwrap();
    world.pass(59_000);
    assert_eq!(world.state("id"), "Ongoing");
    world.admit("id", producer, ("a", 1), true).unwrap();
    world.pass(11_000);
    assert_eq!(world.state("id"), "CompleteAbort", "a new partition gives it no more time");
    assert!(world.written.iter().all(|(_, marker)| !marker.commit && marker.producer_epoch == 1));
    assert_eq!(world.end(5, "id", producer, true), Err(ErrorCode::InvalidTxnState));
    assert_eq!(world.admit("id", producer, ("a", 0), true), Err(ErrorCode::ProducerFenced));
    // The producer itself may come back with the epoch it had.
    assert_eq!(world.init_as("id", Some(producer)).map(|next| next.epoch), Ok(1));
}

#[test]
fn a_wall_clock_that_jumps() {
    for jump in [-10_000_000_000i64, 10_000_000_000] {
        let mut world = World::new();
        let producer = world.init("id");
        world.admit("id", producer, ("a", 0), true).unwrap();
        world.now.wall_ms += jump;
        world.pass(30_000);
        assert_eq!(world.state("id"), "Ongoing", "not early, by {jump}");
        world.pass(41_000);
        assert_eq!(world.state("id"), "CompleteAbort", "nor never, by {jump}");
        // Nor does it take an id away.
        world.now.wall_ms += jump;
        world.pass(3_600_000);
        assert_eq!(world.coordinator.stats().ids, 1);
    }
}

#[test]
fn a_restart_gives_no_more_time() {
    let mut world = World::new();
    let producer = world.init("id");
    world.admit("id", producer, ("a", 0), true).unwrap();
    world.pass(40_000);
    world.restart();
    world.pass(10_000);
    assert_eq!(world.state("id"), "Ongoing");
    world.pass(20_000);
    assert_eq!(world.state("id"), "CompleteAbort");
    // The clock jumped back while nobody looked: a whole timeout, and no longer.
    let producer = world.init("id");
    world.admit("id", producer, ("a", 0), true).unwrap();
    world.now.wall_ms -= 100_000_000;
    world.restart();
    world.pass(59_000);
    assert_eq!(world.state("id"), "Ongoing");
    world.pass(12_000);
    assert_eq!(world.state("id"), "CompleteAbort");
}

#[test]
fn what_cannot_be_aborted_now_is_later() {
    let mut world = World::new();
    let producer = world.init("id");
    world.admit("id", producer, ("a", 0), true).unwrap();
    world.prompt = false;
    world.pass(70_000);
    world.report_append(Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.state("id"), "Ongoing");
    world.prompt = true;
    world.pass(10_000);
    assert_eq!(world.state("id"), "CompleteAbort");
}

#[test]
fn ids_nobody_uses_are_forgotten() {
    let config = TransactionConfig { id_expiration_ms: 10_000_000, ..Default::default() };
    let mut world = World::with(config);
    let (open, used) = (world.init("open"), world.init("used"));
    world.init("idle");
    for number in 0..1200 {
        world.init(&format!("crowd-{number}"));
    }
    world.add("open", open, &[("a", 0)]).unwrap();
    world.pass(70_000);
    world.pass(8_930_000);
    world.add("used", used, &[("a", 0)]).unwrap();
    world.end(4, "used", used, true).unwrap();
    world.admit("open", open, ("a", 0), true).unwrap_err();
    world.pass(3_600_000);
    for _ in 0..10 {
        world.pass(1);
    }
    let left: Vec<_> = world.known().into_keys().collect();
    assert_eq!(left, ["used"], "the other was aborted long ago");
    assert_eq!(world.known(), world.replayed());
    assert_eq!(world.init_as("idle", Some(Producer { id: 5, epoch: 5 })).map(|next| next.epoch), Ok(0));
}
