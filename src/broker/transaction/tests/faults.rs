//! Appends and markers that fail, and restarts in every phase.

use super::*;

const FULL: Result<(), ErrorCode> = Err(ErrorCode::CoordinatorNotAvailable);

#[test]
fn an_append_that_fails_changes_nothing() {
    let mut world = World::new();
    world.prompt = false;
    let request = InitProducerIdRequest {
        transactional_id: Some("id".into()),
        transaction_timeout_ms: TIMEOUT_MS,
        ..Default::default()
    };
    let to = world.send(5, &request);
    world.report_append(FULL);
    let answer = world.answer::<InitProducerIdRequest<'_>>(5, to);
    assert_eq!((ok(answer.error_code), answer.producer_id), (FULL, -1));
    assert_eq!(world.coordinator.stats(), TransactionStats::default(), "it is forgotten");

    world.prompt = true;
    let producer = world.init("id");
    world.prompt = false;
    let to = world.ask_admission("id", producer, ("a", 0), true);
    world.report_append(Err(ErrorCode::KafkaStorageError));
    assert_eq!(world.admitted.remove(&to), Some(Err(ErrorCode::NotCoordinator)));
    assert_eq!(world.state("id"), "Empty");

    world.prompt = true;
    world.admit("id", producer, ("a", 0), true).unwrap();
    world.prompt = false;
    let to = world.send(5, &World::end_request("id", producer, true));
    world.report_append(FULL);
    assert_eq!(ok(world.answer::<EndTxnRequest<'_>>(5, to).error_code), FULL);
    assert_eq!(world.state("id"), "Ongoing");
    world.prompt = true;
    // It still has its timeout, and its producer may try again.
    assert_eq!(world.end(5, "id", producer, true).map(|next| next.epoch), Ok(1));
    assert_eq!(world.known(), world.replayed());
}

#[test]
fn markers_are_written_in_the_end() {
    let mut world = World::new();
    let producer = world.init("id");
    world.add("id", producer, &[("a", 0), ("a", 1), ("b", 0), ("b", 1)]).unwrap();
    world.prompt = false;
    world.send(5, &World::end_request("id", producer, true));
    world.report_append(Ok(()));
    let results = |at: &TopicPartition| match (&*at.0, at.1) {
        ("a", 0) => Ok(()),
        ("a", 1) => Err(ErrorCode::KafkaStorageError),
        // Its topic is gone; and one that has seen a later epoch.
        ("b", 0) => Err(ErrorCode::UnknownTopicOrPartition),
        _ => Err(ErrorCode::InvalidProducerEpoch),
    };
    assert!(world.report_marks(results));
    assert!(world.marks.is_empty());
    let ids = [std::borrow::Cow::Borrowed("id")];
    let answer = world.ask(0, &DescribeTransactionsRequest { transactional_ids: ids.into() });
    let left = answer.transaction_states.first().unwrap().topics.first().unwrap();
    assert_eq!((&*left.topic, left.partitions.to_vec()), ("a", vec![1]), "those without a marker");
    for _ in 0..3 {
        world.pass(100);
        assert!(world.report_marks(results), "tried again");
    }
    world.pass(100);
    assert!(world.report_marks(|_| Ok(())));
    assert!(world.report_append(FULL), "the completion");
    world.pass(100);
    assert!(world.report_append(Ok(())));
    assert_eq!(world.state("id"), "CompleteCommit");
    assert_eq!(world.known(), world.replayed());
}

#[test]
fn a_restart_in_every_phase() {
    // Steps of a transaction after which the coordinator is gone.
    for steps in 0..=4 {
        let mut world = World::new();
        let producer = world.init("id");
        world.admit("id", producer, ("a", 0), true).unwrap();
        world.admit("id", producer, ("b", 1), true).unwrap();
        world.prompt = false;
        world.send(5, &World::end_request("id", producer, true));
        for _ in 0..steps {
            world.step(Ok(()));
        }
        world.prompt = true;
        world.restart();
        let next = Producer { epoch: 1, ..producer };
        if steps == 0 {
            // Undecided: the producer asks again.
            assert_eq!(world.state("id"), "Ongoing");
            assert_eq!(world.end(5, "id", producer, true), Ok(next));
        }
        assert_eq!(world.end(5, "id", producer, true), Ok(next), "{steps} steps");
        assert_eq!(world.state("id"), "CompleteCommit");
        assert!(world.written.iter().all(|(_, marker)| marker.commit && marker.producer_epoch == 1));
        for at in [("a", 0), ("b", 1)] {
            assert!(world.written.iter().any(|((topic, partition), _)| (&**topic, *partition) == at));
        }
        assert_eq!(world.known(), world.replayed());
    }
}

#[test]
fn a_partition_that_goes_away() {
    let mut world = World::new();
    let producer = world.init("id");
    world.prompt = false;
    let added = world.ask_admission("id", producer, ("a", 0), true);
    let waiting = world.ask_admission("id", producer, ("a", 1), true);
    let mut effects = Vec::new();
    (0..PARTITIONS).for_each(|partition| world.coordinator.unload(partition, &mut effects));
    world.carry_out(effects);
    for to in [added, waiting] {
        assert_eq!(world.admitted.remove(&to), Some(Err(ErrorCode::NotCoordinator)));
    }
    assert_eq!(world.coordinator.stats(), TransactionStats::default());
    assert_eq!(world.init_as("id", None), Err(ErrorCode::NotCoordinator));
    world.coordinator.load_begin(partition_for("id", PARTITIONS), 6);
    assert_eq!(world.init_as("id", None), Err(ErrorCode::CoordinatorLoadInProgress));
}

#[test]
fn records_that_cannot_be_read_are_left_alone() {
    let mut world = World::new();
    world.init("id");
    let partition = partition_for("id", PARTITIONS);
    let mut builder = record::BatchBuilder::new(record::BatchOptions::default());
    for (key, value) in [
        (None, Some(&b"x"[..])),
        (Some(&b""[..]), None),
        (Some(&[0, 0, 0, 9, 1]), Some(&[0, 1])),
        (Some(&[0, 5, 0, 0]), Some(&[0, 1])),
        (Some(b"\0\0\0\x02id"), Some(&[0, 9, 1, 2])),
        (Some(b"\0\0\0\x02id"), Some(&[0, 1, 1, 2])),
        (Some(b"\0\0\0\x02id"), Some(b"")),
    ] {
        builder.append(1, key, value, &[]);
    }
    let mut bytes = Vec::new();
    builder.finish(&mut record::Compressor::default(), &mut bytes).unwrap();
    world.log.entry(partition).or_default().push(bytes);
    world.log.entry(partition).or_default().push(vec![0xff; 100]);
    world.restart();
    assert_eq!(world.init("id"), Producer { id: 1000, epoch: 1 });
}
