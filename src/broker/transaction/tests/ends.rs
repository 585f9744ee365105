//! How a transaction ends, by both versions.

use super::*;
use crate::protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTransaction;
use crate::protocol::messages::list_transactions_request::ListTransactionsRequest;

#[test]
fn version_2_takes_an_epoch_a_transaction() {
    let mut world = World::new();
    let first = world.init("id");
    world.admit("id", first, ("a", 0), true).unwrap();
    assert_eq!(world.state("id"), "Ongoing");
    let second = world.end(5, "id", first, true).unwrap();
    assert_eq!(second, Producer { epoch: 1, ..first });
    assert_eq!(
        world.written,
        [(
            ("a".into(), 0),
            Marker {
                producer_id: 1000,
                producer_epoch: 1,
                commit: true,
                coordinator_epoch: 5,
                transaction_version: 2
            }
        )]
    );
    // A repetition is told the same, the opposite is no repetition.
    assert_eq!(world.end(5, "id", first, true), Ok(second));
    assert_eq!(world.end(5, "id", first, false), Err(ErrorCode::InvalidTxnState));
    assert_eq!(world.end(5, "id", second, true), Err(ErrorCode::InvalidTxnState));
    // Nothing to abort is fine, and takes an epoch all the same.
    let third = world.end(5, "id", second, false).unwrap();
    assert_eq!((third.epoch, &*world.state("id")), (2, "CompleteAbort"));
    assert_eq!(world.end(5, "id", second, false), Ok(third));
    assert_eq!(world.end(5, "id", second, true), Err(ErrorCode::InvalidTxnState));
    assert_eq!(world.end(5, "id", first, false), Err(ErrorCode::ProducerFenced));
    assert_eq!(world.written.len(), 1);
    assert_eq!(world.known(), world.replayed());
}

#[test]
fn an_empty_id_by_version_2() {
    let mut world = World::new();
    let first = world.init("id");
    assert_eq!(world.end(5, "id", first, true), Err(ErrorCode::InvalidTxnState));
    assert_eq!(world.end(5, "id", Producer { epoch: 1, ..first }, false), Err(ErrorCode::ProducerFenced));
    assert_eq!(
        world.end(5, "id", Producer { id: 5, ..first }, false),
        Err(ErrorCode::InvalidProducerIdMapping)
    );
    assert_eq!(world.end(5, "none", first, false), Err(ErrorCode::InvalidProducerIdMapping));
    assert_eq!(world.end(5, "", first, false), Err(ErrorCode::InvalidRequest));
    assert_eq!(world.end(5, "id", first, false).map(|next| next.epoch), Ok(1));
}

#[test]
fn what_a_successor_of_version_1_ended_is_no_repetition() {
    let mut world = World::new();
    let zombie = world.init("id");
    let successor = world.init("id");
    assert_eq!(successor.epoch, zombie.epoch + 1);
    for committed in [true, false] {
        world.add("id", successor, &[("a", 0)]).unwrap();
        world.end(4, "id", successor, committed).unwrap();
        assert_eq!(world.end(5, "id", zombie, committed), Err(ErrorCode::ProducerFenced));
        assert_eq!(world.end(5, "id", zombie, !committed), Err(ErrorCode::ProducerFenced));
    }
}

#[test]
fn version_1_keeps_its_epoch() {
    let mut world = World::new();
    let producer = world.init("id");
    assert_eq!(world.end(4, "id", producer, true), Err(ErrorCode::InvalidTxnState));
    assert_eq!(world.end(4, "id", producer, false), Err(ErrorCode::InvalidTxnState));
    for (commit, state) in [(true, "CompleteCommit"), (false, "CompleteAbort")] {
        world.add("id", producer, &[("a", 0), ("b", 1)]).unwrap();
        world.add_offsets("id", producer).unwrap();
        world.end(4, "id", producer, commit).unwrap();
        assert_eq!(world.state("id"), state);
        let ends: Vec<_> = world.written.drain(..).map(|(at, marker)| (at.0, at.1, marker)).collect();
        let marker = Marker {
            producer_id: 1000,
            producer_epoch: 0,
            commit,
            coordinator_epoch: 5,
            transaction_version: 0,
        };
        let partitions = [("__consumer_offsets", 7), ("a", 0), ("b", 1)];
        assert_eq!(ends, partitions.map(|(topic, index)| (topic.into(), index, marker)));
        assert_eq!(world.end(4, "id", producer, commit).map(|_| ()), Ok(()), "again");
        assert_eq!(world.end(4, "id", producer, !commit), Err(ErrorCode::InvalidTxnState));
    }
    assert_eq!(world.known(), world.replayed());
}

#[test]
fn a_client_may_come_back_with_another_version() {
    let mut world = World::new();
    let producer = world.init("id");
    world.add("id", producer, &[("a", 0)]).unwrap();
    let next = world.end(5, "id", producer, true).unwrap();
    assert_eq!(next.epoch, 1);
    world.add("id", next, &[("a", 0)]).unwrap();
    world.end(4, "id", next, true).unwrap();
    assert_eq!(world.init("id").epoch, 2);
    assert_eq!(world.known(), world.replayed());
}

#[test]
fn what_is_under_way_is_concurrent() {
    let mut world = World::new();
    let producer = world.init("id");
    world.admit("id", producer, ("a", 0), true).unwrap();
    world.prompt = false;
    let next = Producer { epoch: 1, ..producer };
    let end = world.send(5, &World::end_request("id", producer, true));
    // The decision is on its way into the log.
    assert_eq!(world.end(5, "id", producer, true), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(world.init_as("id", None), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(world.add("id", producer, &[("a", 1)]), Err(ErrorCode::ConcurrentTransactions));
    assert!(world.report_append(Ok(())));
    assert_eq!(world.answer::<EndTxnRequest<'_>>(5, end).producer_epoch, 1, "decided is answered");
    // It is in the log; the markers are on their way.
    assert_eq!(world.state("id"), "PrepareCommit");
    assert_eq!(world.end(5, "id", producer, true), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(world.add("id", next, &[("a", 1)]), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(world.init_as("id", None), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(world.admit("id", next, ("a", 0), false), Err(ErrorCode::ConcurrentTransactions));
    // The first append of the next transaction waits, with those behind it.
    let waiting = [0, 1, 2].map(|partition| world.ask_admission("id", next, ("a", partition), true));
    let zombie = world.ask_admission("id", producer, ("b", 0), true);
    assert!(world.report_marks(|_| Ok(())) && world.admitted.is_empty());
    assert!(world.report_append(Ok(())));
    assert_eq!(world.admitted.remove(&zombie), Some(Err(ErrorCode::ProducerFenced)));
    assert!(world.admitted.is_empty() && world.appends.len() == 1, "they share a record");
    assert!(world.report_append(Ok(())));
    for to in waiting {
        assert_eq!(world.admitted.remove(&to), Some(Ok(())));
    }
    assert_eq!(world.state("id"), "Ongoing");
    assert_eq!(world.known(), world.replayed());
}

#[test]
fn waiting_has_an_end() {
    let mut world = World::new();
    let producer = world.init("id");
    world.admit("id", producer, ("a", 0), true).unwrap();
    world.prompt = false;
    world.send(5, &World::end_request("id", producer, true));
    let next = Producer { epoch: 1, ..producer };
    let early = world.ask_admission("id", next, ("a", 0), true);
    world.pass(60);
    let late = world.ask_admission("id", next, ("a", 1), true);
    world.pass(40);
    assert_eq!(world.admitted.remove(&early), Some(Err(ErrorCode::ConcurrentTransactions)));
    assert!(world.admitted.is_empty());
    world.pass(60);
    assert_eq!(world.admitted.remove(&late), Some(Err(ErrorCode::ConcurrentTransactions)));
}

#[test]
fn partitions_are_verified() {
    let mut world = World::new();
    let producer = world.init("id");
    assert_eq!(world.admit("id", producer, ("a", 0), false), Err(ErrorCode::TransactionAbortable));
    world.add("id", producer, &[("a", 0)]).unwrap();
    assert_eq!(world.admit("id", producer, ("a", 0), false), Ok(()));
    assert_eq!(world.admit("id", producer, ("a", 1), false), Err(ErrorCode::TransactionAbortable));
    let other = Producer { epoch: 1, ..producer };
    assert_eq!(world.admit("id", other, ("a", 0), false), Err(ErrorCode::ProducerFenced));
    assert_eq!(world.admit("no", other, ("a", 0), false), Err(ErrorCode::InvalidProducerIdMapping));
    assert_eq!(world.admit("", other, ("a", 0), true), Err(ErrorCode::InvalidRequest));
}

#[test]
fn unknown_partitions_refuse_the_whole_request() {
    let mut world = World::new();
    let producer = world.init("id");
    let request = World::add_request("id", producer, &[("a", 0), ("a", 9), ("z", 0)]);
    let answer = world.ask(3, &request);
    let errors: Vec<_> = answer
        .results_by_topic_v3_and_below
        .iter()
        .flat_map(|topic| topic.results_by_partition.to_vec())
        .map(|partition| ok(partition.partition_error_code).unwrap_err())
        .collect();
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(errors, [ErrorCode::OperationNotAttempted, unknown, unknown]);
    assert_eq!(world.state("id"), "Empty");
}

#[test]
fn several_transactions_in_one_request() {
    let mut world = World::new();
    let (one, two) = (world.init("one"), world.init("two"));
    let transaction = |id: &'static str, producer: Producer, verify_only| AddPartitionsToTxnTransaction {
        transactional_id: id.into(),
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        verify_only,
        topics: [AddPartitionsToTxnTopic { name: "a".into(), partitions: vec![0, 1].into() }].into(),
    };
    let request = AddPartitionsToTxnRequest {
        transactions: [
            transaction("one", one, false),
            transaction("two", two, true),
            transaction("none", two, false),
        ]
        .into(),
        ..Default::default()
    };
    world.prompt = false;
    let to = world.send(5, &request);
    assert!(world.answers.is_empty(), "the first waits for its record");
    world.report_append(Ok(()));
    let answer = world.answer::<AddPartitionsToTxnRequest<'_>>(5, to);
    let errors: Vec<_> = answer
        .results_by_transaction
        .iter()
        .map(|result| {
            let topic = result.topic_results.first().unwrap();
            let codes = topic.results_by_partition.iter();
            codes.map(|partition| ok(partition.partition_error_code)).collect::<Vec<_>>()
        })
        .collect();
    let mapping = Err(ErrorCode::InvalidProducerIdMapping);
    let abortable = Err(ErrorCode::TransactionAbortable);
    assert_eq!(errors, [vec![Ok(()); 2], vec![abortable; 2], vec![mapping; 2]]);
}

#[test]
fn lists_and_descriptions() {
    let mut world = World::new();
    let open = world.init("shop-open");
    world.add("shop-open", open, &[("b", 1), ("a", 0), ("b", 0)]).unwrap();
    world.pass(1000);
    let done = world.init("done");
    world.add("done", done, &[("a", 1)]).unwrap();
    world.end(4, "done", done, true).unwrap();
    world.init("shop-new");
    let ids = ["shop-open", "done", "no", ""].map(std::borrow::Cow::Borrowed);
    let answer = world.ask(0, &DescribeTransactionsRequest { transactional_ids: ids.to_vec().into() });
    let described = answer.transaction_states.to_vec();
    let errors: Vec<_> = described.iter().map(|state| ok(state.error_code)).collect();
    assert_eq!(
        errors,
        [Ok(()), Ok(()), Err(ErrorCode::TransactionalIdNotFound), Err(ErrorCode::InvalidRequest)]
    );
    let open = &described[0];
    assert_eq!((&*open.transaction_state, open.transaction_start_time_ms), ("Ongoing", 1_000_000));
    let topics: Vec<_> = open.topics.iter().map(|topic| (topic.topic, topic.partitions.to_vec())).collect();
    assert_eq!(topics, [("a".into(), vec![0]), ("b".into(), vec![0, 1])]);

    let mut list = |change: &dyn Fn(&mut ListTransactionsRequest<'_>)| {
        let mut request = ListTransactionsRequest { duration_filter: -1, ..Default::default() };
        change(&mut request);
        let answer = world.ask(2, &request);
        let listed = answer.transaction_states.iter().map(|state| state.transactional_id.to_string());
        (answer.error_code, listed.collect::<Vec<_>>(), answer.unknown_state_filters.len())
    };
    assert_eq!(list(&|_| ()).1, ["done", "shop-new", "shop-open"]);
    assert_eq!(
        list(&|r| r.state_filters = ["Ongoing".into(), "Odd".into()].into()),
        (0, vec!["shop-open".into()], 1)
    );
    assert_eq!(list(&|r| r.state_filters = ["PrepareEpochFence".into()].into()), (0, vec![], 0));
    assert_eq!(list(&|r| r.producer_id_filters = vec![1001].into()).1, ["done"]);
    assert_eq!(list(&|r| r.duration_filter = 999).1, ["shop-new", "shop-open"]);
    assert_eq!(list(&|r| r.duration_filter = 1000).1, ["shop-new"]);
    assert_eq!(list(&|r| r.transactional_id_pattern = Some("shop-.*".into())).1, ["shop-new", "shop-open"]);
    assert_eq!(list(&|r| r.transactional_id_pattern = Some("shop".into())).1, Vec::<String>::new());
    let invalid = ErrorCode::InvalidRegularExpression.code();
    for pattern in ["(", "a)|(b"] {
        assert_eq!(list(&|r| r.transactional_id_pattern = Some(pattern.into())).0, invalid);
    }
}
