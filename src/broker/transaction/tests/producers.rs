//! Who may begin, and who is fenced.

use super::*;

#[test]
fn every_start_is_one_epoch_up() {
    let mut world = World::new();
    assert_eq!(world.init("id"), Producer { id: 1000, epoch: 0 });
    assert_eq!(world.init("id"), Producer { id: 1000, epoch: 1 });
    assert_eq!(world.init("other"), Producer { id: 1001, epoch: 0 });
    world.restart();
    assert_eq!(world.init("id"), Producer { id: 1000, epoch: 2 });
}

#[test]
fn what_is_refused_at_once() {
    let mut world = World::new();
    let mut refused = |change: &dyn Fn(&mut InitProducerIdRequest<'_>)| {
        let mut request = InitProducerIdRequest {
            transactional_id: Some("id".into()),
            transaction_timeout_ms: TIMEOUT_MS,
            ..Default::default()
        };
        change(&mut request);
        ok(world.ask(6, &request).error_code).unwrap_err()
    };
    assert_eq!(refused(&|request| request.transactional_id = Some("".into())), ErrorCode::InvalidRequest);
    assert_eq!(refused(&|request| request.transaction_timeout_ms = 0), ErrorCode::InvalidTransactionTimeout);
    assert_eq!(
        refused(&|request| request.transaction_timeout_ms = 900_001),
        ErrorCode::InvalidTransactionTimeout
    );
    assert_eq!(refused(&|request| request.producer_id = 5), ErrorCode::InvalidRequest);
    assert_eq!(refused(&|request| request.producer_epoch = 5), ErrorCode::InvalidRequest);
    assert_eq!(refused(&|request| request.enable_2pc = true), ErrorCode::TransactionalIdAuthorizationFailed);
    assert_eq!(refused(&|request| request.keep_prepared_txn = true), ErrorCode::UnsupportedVersion);
    assert_eq!(world.coordinator.stats().ids, 0);
    world.outside.has_ids = false;
    assert_eq!(world.init_as("id", None), Err(ErrorCode::CoordinatorLoadInProgress));
    assert_eq!(world.coordinator.stats().ids, 0);
}

#[test]
fn two_phase_commit_where_it_is_allowed() {
    let mut world = World::with(TransactionConfig { two_phase_commit: true, ..Default::default() });
    let request = InitProducerIdRequest {
        transactional_id: Some("id".into()),
        transaction_timeout_ms: 5,
        enable_2pc: true,
        ..Default::default()
    };
    let answer = world.ask(6, &request);
    assert_eq!((answer.error_code, answer.producer_id, answer.ongoing_txn_producer_id), (0, 1000, -1));
    let producer = Producer { id: 1000, epoch: 0 };
    world.admit("id", producer, ("a", 0), true).unwrap();
    world.pass(i64::from(i32::MAX) * 2);
    assert_eq!(world.state("id"), "Ongoing", "such a transaction has no timeout");
}

#[test]
fn a_producer_that_comes_back() {
    let mut world = World::new();
    let first = world.init("id");
    // It asks for the next epoch, does not hear the answer, and asks again.
    let second = world.init_as("id", Some(first)).unwrap();
    assert_eq!(second, Producer { id: 1000, epoch: 1 });
    assert_eq!(world.init_as("id", Some(first)), Ok(second));
    // Somebody else has taken over: neither epoch counts any more.
    let third = world.init("id");
    assert_eq!(third.epoch, 2);
    for zombie in [first, second, Producer { id: 7, epoch: 0 }] {
        assert_eq!(world.init_as("id", Some(zombie)), Err(ErrorCode::ProducerFenced), "{zombie:?}");
    }
    // An old client is told so in other words.
    let request = InitProducerIdRequest {
        transactional_id: Some("id".into()),
        transaction_timeout_ms: 1,
        producer_id: first.id,
        producer_epoch: first.epoch,
        ..Default::default()
    };
    assert_eq!(ok(world.ask(3, &request).error_code), Err(ErrorCode::InvalidProducerEpoch));
}

#[test]
fn who_takes_over_aborts_what_is_open() {
    let mut world = World::new();
    let zombie = world.init("id");
    world.admit("id", zombie, ("a", 0), true).unwrap();
    world.admit("id", zombie, ("b", 3), true).unwrap();
    assert_eq!(world.init_as("id", None), Err(ErrorCode::ConcurrentTransactions));
    let marker = Marker {
        producer_id: 1000,
        producer_epoch: 1,
        commit: false,
        coordinator_epoch: 5,
        transaction_version: 2,
    };
    assert_eq!(world.written, [(("a".into(), 0), marker), (("b".into(), 3), marker)]);
    assert_eq!(world.state("id"), "CompleteAbort");
    assert_eq!(world.init("id"), Producer { id: 1000, epoch: 2 });
    assert_eq!(world.admit("id", zombie, ("a", 0), true), Err(ErrorCode::ProducerFenced));
    assert_eq!(world.end(5, "id", zombie, true), Err(ErrorCode::ProducerFenced));
    assert_eq!(world.end(1, "id", zombie, true), Err(ErrorCode::InvalidProducerEpoch));
}

#[test]
fn epochs_run_out() {
    let mut world = World::new();
    let mut producer = world.init("id");
    while producer.epoch < i16::MAX - 1 {
        producer = world.init("id");
    }
    assert_eq!(producer, Producer { id: 1000, epoch: i16::MAX - 1 });
    // The last epoch can be used for a transaction, whose end takes another producer id.
    world.admit("id", producer, ("a", 0), true).unwrap();
    let next = world.end(5, "id", producer, true).unwrap();
    assert_eq!(next, Producer { id: 1001, epoch: 0 });
    assert_eq!(world.written.last().unwrap().1.producer_epoch, i16::MAX);
    // It did not hear the answer.
    assert_eq!(world.end(5, "id", producer, true), Ok(next));
    assert_eq!(world.end(5, "id", producer, false), Err(ErrorCode::InvalidTxnState));
    // And one that begins anew in the last epoch gets another id, too.
    let mut producer = world.init("second");
    while producer.epoch < i16::MAX - 1 {
        producer = world.init("second");
    }
    let next = Producer { id: producer.id + 1, epoch: 0 };
    assert_eq!(world.init_as("second", Some(producer)), Ok(next));
    // With the epoch it had it is still known.
    assert_eq!(world.init_as("second", Some(producer)), Ok(next));
}

#[test]
fn an_id_is_as_full_as_it_may_be() {
    let mut world = World::with(TransactionConfig {
        limits: TransactionLimits { ids_max: 2, partitions_max: 2, ..Default::default() },
        ..Default::default()
    });
    let producer = world.init("one");
    world.init("two");
    assert_eq!(world.init_as("three", None), Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.add("one", producer, &[("a", 0), ("a", 1)]), Ok(()));
    assert_eq!(world.add("one", producer, &[("a", 2)]), Err(ErrorCode::InvalidRequest));
    assert_eq!(world.coordinator.stats().ids, 2);
}
