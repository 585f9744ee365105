use proptest::prelude::*;

use super::*;

fn batch(epoch: i16, first_sequence: i32, count: i32, first_offset: i64) -> ProducerAppend {
    ProducerAppend {
        producer_id: 7,
        producer_epoch: epoch,
        first_sequence,
        last_sequence: increment_sequence(first_sequence, count - 1),
        first_offset,
        last_offset: first_offset + i64::from(count) - 1,
        timestamp: 1000,
        transactional: false,
    }
}

fn transactional(append: ProducerAppend) -> ProducerAppend {
    ProducerAppend { transactional: true, ..append }
}

fn marker(epoch: i16, offset: i64, transaction_version: i16) -> MarkerAppend {
    let marker = EndTxnMarker { commit: false, coordinator_epoch: 3 };
    MarkerAppend {
        producer_id: 7,
        producer_epoch: epoch,
        marker,
        offset,
        timestamp: 1500,
        transaction_version,
    }
}

fn after(appends: &[ProducerAppend]) -> ProducerState {
    let mut state = ProducerState::new(ProducerStateConfig::default());
    for append in appends {
        assert_eq!(state.check(append, AppendOrigin::Client), Ok(SequenceCheck::Append), "{append:?}");
        state.append(append);
    }
    state
}

fn code(state: &ProducerState, append: ProducerAppend) -> i16 {
    match state.check(&append, AppendOrigin::Client) {
        Ok(SequenceCheck::Append) => 0,
        Ok(SequenceCheck::Duplicate(_)) => 1,
        Err(error) => error.code(),
    }
}

#[test]
fn the_last_five_batches_are_known_again() {
    let appends: Vec<_> = (0..6).map(|index| batch(0, index * 10, 10, i64::from(index) * 10 + 100)).collect();
    let state = after(&appends);
    assert_eq!(code(&state, appends[0]), 45, "six back");
    for append in &appends[1..] {
        let Ok(SequenceCheck::Duplicate(found)) = state.check(append, AppendOrigin::Client) else {
            panic!("{append:?}")
        };
        assert_eq!((found.first_offset(), found.last_offset), (append.first_offset, append.last_offset));
    }
    assert_eq!(code(&state, batch(0, 50, 9, 0)), 45, "part of a batch is no duplicate");
    assert_eq!(code(&state, batch(0, 60, 1, 0)), 0);
    assert_eq!(code(&state, batch(0, 61, 1, 0)), 45);
    assert_eq!(state.end_offset(), 160);
}

#[test]
fn epochs() {
    let state = after(&[batch(4, 0, 3, 0)]);
    assert_eq!(code(&state, batch(3, 3, 1, 3)), 47, "fenced");
    assert_eq!(code(&state, batch(5, 3, 1, 3)), 45, "a new epoch starts at 0");
    assert_eq!(code(&state, batch(5, 0, 3, 3)), 0, "and is not confused with the old one's batches");
    assert_eq!(state.check(&batch(3, 3, 1, 3), AppendOrigin::Replication), Ok(SequenceCheck::Append));
    assert!(state.check(&batch(3, 3, 1, 3), AppendOrigin::Coordinator).is_err());
    assert!(state.check(&batch(4, -1, 1, 3), AppendOrigin::Coordinator).is_ok(), "no sequence asked of it");
}

#[test]
fn an_unknown_producer_may_start_anywhere() {
    let state = after(&[batch(9, 1234, 2, 0)]);
    assert_eq!(code(&state, batch(9, 1236, 1, 2)), 0);
    assert_eq!(code(&state, batch(9, 0, 1, 2)), 45);
}

#[test]
fn sequences_wrap() {
    let state = after(&[batch(0, i32::MAX - 1, 4, 0)]);
    assert_eq!(state.entry(7).unwrap().last_sequence(), 1);
    assert_eq!(state.entry(7).unwrap().last_batch().unwrap().first_sequence(), i32::MAX - 1);
    assert_eq!(code(&state, batch(0, i32::MAX - 1, 4, 4)), 1);
    assert_eq!(code(&state, batch(0, 2, 1, 4)), 0);
    let state = after(&[batch(0, i32::MAX, 1, 0)]);
    assert_eq!((code(&state, batch(0, 0, 1, 1)), code(&state, batch(0, 1, 1, 1))), (0, 45));
    assert_eq!((next_sequence(i32::MAX), next_sequence(4)), (0, 5));
}

#[test]
fn idle_producers_expire_unless_in_a_transaction() {
    let mut state = ProducerState::new(ProducerStateConfig::default());
    state.append(&batch(0, 0, 1, 0));
    state.append(&ProducerAppend { producer_id: 8, ..transactional(batch(0, 0, 1, 1)) });
    assert!(!state.remove_expired(1099, 100));
    assert!(state.remove_expired(1100, 100));
    assert_eq!(state.entries().map(|entry| entry.producer_id).collect::<Vec<_>>(), [8]);
    assert_eq!(code(&state, batch(0, 55, 1, 2)), 0, "forgotten: any sequence");
}

#[test]
fn the_number_of_producers_is_bounded() {
    let config = ProducerStateConfig { producers_max: 64 };
    let mut state = ProducerState::new(config);
    for producer_id in 0..1000 {
        let append = ProducerAppend { producer_id, timestamp: producer_id, ..batch(0, 0, 1, producer_id) };
        let append = if producer_id == 3 { transactional(append) } else { append };
        state.append(&append);
        assert!(state.len() <= 64);
        assert!(state.entry(producer_id).is_some());
    }
    assert!(state.entry(3).is_some(), "an open transaction keeps its producer");
    assert!((960..1000).all(|producer_id| state.entry(producer_id).is_some()));
}

#[test]
fn transactions_hold_the_last_stable_offset_back() {
    let mut state =
        after(&[batch(0, 0, 5, 0), transactional(batch(0, 5, 5, 5)), transactional(batch(0, 10, 5, 10))]);
    assert_eq!(code(&state, batch(0, 15, 1, 15)), 48, "not transactional inside a transaction");
    let other = ProducerAppend { producer_id: 8, ..transactional(batch(0, 0, 1, 15)) };
    state.append(&other);
    assert_eq!((state.first_unstable_offset(), state.oldest_ongoing_txn()), (Some(5), Some((5, 1000))));
    assert!(
        state.check_marker(&marker(0, 16, 2), AppendOrigin::Coordinator).is_err(),
        "version 2 bumps the epoch"
    );
    assert_eq!(state.check_marker(&marker(1, 16, 2), AppendOrigin::Coordinator), Ok(()));
    assert_eq!(state.check_marker(&marker(0, 16, 1), AppendOrigin::Coordinator), Ok(()));
    let completed = state.append_marker(&marker(1, 16, 2)).unwrap();
    let expected = CompletedTxn { producer_id: 7, first_offset: 5, last_offset: 16, aborted: true };
    assert_eq!(completed, expected);
    assert_eq!(state.last_stable_offset(&completed), 15);
    state.complete_txn(&completed);
    assert_eq!(state.first_unstable_offset(), Some(5), "until the marker is replicated");
    state.on_high_watermark(16);
    assert_eq!(state.first_unstable_offset(), Some(5));
    state.on_high_watermark(17);
    assert_eq!(state.first_unstable_offset(), Some(15));
    assert_eq!(
        state.check_marker(&marker(1, 17, 2), AppendOrigin::Coordinator),
        Ok(()),
        "a retry of the marker"
    );
    assert_eq!(state.append_marker(&marker(1, 17, 2)), None, "ends nothing");
    assert_eq!(code(&state, transactional(batch(1, 1, 1, 18))), 45, "the new epoch starts at 0");
    assert_eq!(code(&state, transactional(batch(1, 0, 1, 18))), 0);
    let zombie =
        MarkerAppend { marker: EndTxnMarker { commit: true, coordinator_epoch: 2 }, ..marker(1, 18, 1) };
    assert_eq!(state.check_marker(&zombie, AppendOrigin::Coordinator).unwrap_err().code(), 52);
}

/// Taken from a broker that was stopped after an idempotent and a transactional producer.
const KAFKA_SNAPSHOT: [u8; 56] = [
    0x00, 0x01, 0xa6, 0xfa, 0x3a, 0x12, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x06, 0x00, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x01, 0xa1, 0xfe, 0x86, 0x73, 0x1c, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff,
];

#[test]
fn kafkas_snapshot_reads_and_writes_the_same() {
    let entries = read_snapshot(&KAFKA_SNAPSHOT).unwrap();
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((entry.producer_id, entry.producer_epoch, entry.coordinator_epoch), (6, 2, 0));
    assert_eq!((entry.last_sequence(), entry.last_timestamp), (-1, 0x1a1_fe86_731c));
    assert_eq!(entry.current_txn_first_offset, None);
    assert_eq!(write_snapshot(entries.iter()), KAFKA_SNAPSHOT);
}

#[test]
fn a_snapshot_keeps_the_last_batch_and_the_open_transaction() {
    let mut state = after(&[batch(2, 0, 5, 10), transactional(batch(2, 5, 5, 15))]);
    state.append(&ProducerAppend { producer_id: 9, ..batch(0, 0, 1, 20) });
    let mut again = ProducerState::new(ProducerStateConfig::default());
    again.load(read_snapshot(&state.snapshot()).unwrap(), state.end_offset());
    assert_eq!((again.len(), again.end_offset(), again.first_unstable_offset()), (2, 21, Some(15)));
    assert_eq!(code(&again, transactional(batch(2, 5, 5, 0))), 1);
    assert_eq!(code(&again, transactional(batch(2, 10, 1, 0))), 0);
    assert_eq!(code(&again, transactional(batch(2, 0, 5, 0))), 45, "only the last batch survives");
    assert!(again.remove_expired(1000 + 86_400_000, 86_400_000));
    assert_eq!(again.len(), 1, "the idle one has expired, the one in a transaction stays");
}

#[test]
fn a_damaged_snapshot_is_refused_at_every_byte() {
    for cut in 0..KAFKA_SNAPSHOT.len() {
        assert!(read_snapshot(&KAFKA_SNAPSHOT[..cut]).is_err(), "cut at {cut}");
        let mut flipped = KAFKA_SNAPSHOT;
        flipped[cut] ^= 0x10;
        assert!(read_snapshot(&flipped).is_err(), "flipped at {cut}");
    }
    let mut longer = KAFKA_SNAPSHOT.to_vec();
    longer.push(0);
    assert!(read_snapshot(&longer).is_err());
}

proptest! {
    /// A client that retries at random is never answered wrongly: each batch is in the log once, at the offsets answered.
    #[test]
    fn retries_never_duplicate(steps in prop::collection::vec((0usize..7, 1i32..4), 1..60), start in 0i32..) {
        let mut state = ProducerState::new(ProducerStateConfig::default());
        let mut log: Vec<ProducerAppend> = Vec::new();
        let mut sequence = start;
        for (back, count) in steps {
            let end = log.last().map_or(0, |last| last.last_offset + 1);
            let retried = back.checked_sub(1).and_then(|back| log.len().checked_sub(back + 1)).map(|index| log[index]);
            let append = match retried {
                Some(append) => ProducerAppend { first_offset: end, last_offset: end, ..append },
                None => batch(0, sequence, count, end),
            };
            match (state.check(&append, AppendOrigin::Client), retried) {
                (Ok(SequenceCheck::Append), None) => {
                    state.append(&append);
                    log.push(append);
                    sequence = next_sequence(append.last_sequence);
                }
                (Ok(SequenceCheck::Duplicate(found)), Some(original)) => {
                    prop_assert!(back <= BATCHES_KEPT);
                    prop_assert_eq!((found.first_offset(), found.last_offset), (original.first_offset, original.last_offset));
                }
                (Err(ProducerStateError::OutOfOrderSequence { .. }), Some(_)) => prop_assert!(back > BATCHES_KEPT),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        let mut again = ProducerState::new(ProducerStateConfig::default());
        again.load(read_snapshot(&state.snapshot()).unwrap(), state.end_offset());
        prop_assert_eq!(again.snapshot(), state.snapshot());
    }

    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_snapshot(&bytes);
    }
}
