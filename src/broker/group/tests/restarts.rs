use super::*;

#[test]
fn a_stable_group_goes_on_where_it_was() {
    let mut w = World::new();
    let mut members = [Member::new("g"), Member::fixed("g", "one")];
    w.stable(&mut members);
    let ticket = w.commit_as(&members[0], &[("orders", 0, 7)]);
    w.committed(ticket);
    let generation = w.generation("g");
    w.pass(5_000);
    w.restart();
    assert_eq!((w.state("g"), w.generation("g")), ("Stable", generation));
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 7)]);
    // A session starts anew; the assignments are there.
    w.pass(9_999);
    assert_eq!(w.heartbeat(&members[0]), ErrorCode::None);
    assert_eq!(w.heartbeat(&members[1]), ErrorCode::None);
    for (member, expected) in members.iter().zip(["0", "1"]) {
        let ticket = w.sync(member, &[]);
        assert_eq!(w.synced(ticket), expected);
    }
    w.pass(20_000);
    assert_eq!((w.state("g"), w.coordinator.stats().members), ("Empty", 0));
}

#[test]
fn a_rebalance_under_way_is_forgotten() {
    let mut w = World::new();
    let mut members = [Member::new("g"), Member::new("g")];
    w.stable(&mut members);
    let generation = w.generation("g");
    let mut c = Member::new("g");
    w.join_anew(&mut c);
    assert_eq!(w.state("g"), "PreparingRebalance");
    w.restart();
    assert_eq!((w.state("g"), w.generation("g")), ("Stable", generation));
    assert_eq!(w.heartbeat(&members[0]), ErrorCode::None);
    let ticket = w.join(&c);
    let response: JoinGroupResponse<'_> = w.answer(ticket);
    assert_eq!(response.error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn offsets_never_go_back() {
    let mut w = World::new();
    w.prompt = false;
    let mut tickets = Vec::new();
    for offset in 0..20 {
        tickets.push(w.commit_as(&Member::new("g"), &[("orders", 0, offset)]));
    }
    for _ in 0..12 {
        w.report();
    }
    let answered = tickets.iter().filter(|ticket| !w.is_waiting(**ticket)).count();
    assert_eq!(answered, 12);
    w.prompt = true;
    w.restart();
    let found = w.fetch("g")[0].2;
    assert!(found >= 11, "{found} after 11 was answered");
}

#[test]
fn while_loading_clients_are_told_to_wait() {
    let mut w = World::new();
    let mut members = [Member::new("g")];
    w.stable(&mut members);
    let partition = partition_for("g", PARTITIONS);
    let mut out = Vec::new();
    w.coordinator.unload(partition, &mut out);
    let commit = |w: &mut World| {
        let ticket = w.commit_as(&members[0], &[("orders", 0, 7)]);
        ErrorCode::from_code(w.committed(ticket)[0]).unwrap()
    };
    assert_eq!(commit(&mut w), ErrorCode::NotCoordinator);
    assert_eq!(w.heartbeat(&members[0]), ErrorCode::NotCoordinator);
    assert_eq!(w.coordinator.stats().groups, 0);
    assert_eq!(w.coordinator.stats().bytes, 0);
    w.coordinator.load_begin(partition);
    assert_eq!(commit(&mut w), ErrorCode::CoordinatorLoadInProgress);
    assert_eq!(w.heartbeat(&members[0]), ErrorCode::None);
    for batch in &w.log[&partition] {
        w.coordinator.load_batch(w.now, partition, batch);
    }
    w.coordinator.load_end(w.now, partition, &mut out);
    assert_eq!(commit(&mut w), ErrorCode::None);
}

#[test]
fn who_waits_when_the_partition_goes_is_told() {
    let mut w = World::new();
    let mut members = [Member::new("g"), Member::new("g")];
    w.stable(&mut members);
    let join = w.join(&members[0]);
    w.prompt = false;
    let commit = w.commit_as(&members[0], &[("orders", 0, 7)]);
    let mut out = Vec::new();
    w.coordinator.unload(partition_for("g", PARTITIONS), &mut out);
    w.carry_out(out);
    let response: JoinGroupResponse<'_> = w.answer(join);
    assert_eq!(response.error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(w.committed(commit), vec![ErrorCode::NotCoordinator.code()]);
    // Its append is reported all the same.
    w.report();
    assert_eq!(w.coordinator.next_deadline_ms().map(|_| w.coordinator.stats().appends_pending), Some(0));
}

#[test]
fn a_damaged_record_is_left_alone() {
    let mut w = World::new();
    w.commit("g", &[("orders", 0, 1)]);
    let partition = partition_for("g", PARTITIONS);
    let mut builder =
        record::BatchBuilder::new(record::BatchOptions { base_offset: 100, ..Default::default() });
    builder.append(0, None, Some(b"no key"), &[]);
    builder.append(0, Some(&[0]), None, &[]);
    builder.append(0, Some(&[0, 1, 0, 1, b'g']), Some(&[0, 3]), &[]);
    builder.append(0, Some(&[0, 2, 0, 1, b'g']), Some(&[0, 99]), &[]);
    builder.append(0, Some(&[0, 3, 0, 1, b'g']), Some(&[0, 0]), &[]);
    let mut batch = Vec::new();
    builder.finish(&mut record::Compressor::default(), &mut batch).unwrap();
    w.log.entry(partition).or_default().push(batch);
    w.log.entry(partition).or_default().push(vec![7; 100]);
    w.restart();
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 1)]);
}

#[test]
fn commits_in_transactions_count_when_they_are_committed() {
    use super::super::offsets::CommittedOffset;
    use super::super::records::BatchWriter;
    let mut w = World::new();
    let partition = partition_for("g", PARTITIONS);
    let in_transaction = |offset: i64, producer_id: i64, base_offset: i64| {
        let mut writer = BatchWriter::new(0);
        let value = CommittedOffset {
            record_offset: -1,
            offset,
            leader_epoch: -1,
            metadata: "".into(),
            commit_timestamp_ms: 1_700_000_000_000,
            expire_timestamp_ms: None,
            topic_id: Uuid::ZERO,
        };
        writer.offset("g", "orders", producer_id as i32, &value);
        let plain = writer.finish().unwrap();
        let options =
            record::BatchOptions { base_offset, producer_id, transactional: true, ..Default::default() };
        let mut builder = record::BatchBuilder::new(options);
        let parsed = record::RecordBatch::parse(&plain).unwrap();
        for record in parsed.records(&mut record::Decompressor::default(), &mut Vec::new(), 1_000).unwrap() {
            let record = record.unwrap();
            builder.append(0, record.key, record.value, &[]);
        }
        let mut batch = Vec::new();
        builder.finish(&mut record::Compressor::default(), &mut batch).unwrap();
        batch
    };
    let marker = |producer_id: i64, base_offset: i64, kind: u8| {
        let options = record::BatchOptions {
            base_offset,
            producer_id,
            transactional: true,
            control: true,
            ..Default::default()
        };
        let mut builder = record::BatchBuilder::new(options);
        builder.append(0, Some(&[0, 0, 0, kind]), Some(&[0, 0, 0, 0, 0, 0]), &[]);
        let mut batch = Vec::new();
        builder.finish(&mut record::Compressor::default(), &mut batch).unwrap();
        batch
    };
    let log = w.log.entry(partition).or_default();
    log.push(in_transaction(10, 1, 0));
    log.push(in_transaction(20, 2, 1));
    log.push(in_transaction(30, 3, 2));
    log.push(marker(1, 3, 1)); // commit
    log.push(marker(2, 4, 0)); // abort
    w.restart();
    assert_eq!(w.fetch("g"), vec![("orders".into(), 1, 10)]);
}
