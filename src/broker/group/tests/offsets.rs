use super::*;

use crate::protocol::messages::delete_groups_request::DeleteGroupsRequest;
use crate::protocol::messages::offset_delete_request::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use crate::protocol::messages::offset_fetch_request::{OffsetFetchRequestTopic, OffsetFetchRequestTopics};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn delete_groups(w: &mut World, groups: &[&str]) -> Ticket {
    let groups_names = groups.iter().map(|group| group.to_string().into()).collect();
    w.send(&DeleteGroupsRequest { groups_names }, 2)
}

#[track_caller]
fn deleted(w: &mut World, ticket: Ticket) -> Vec<ErrorCode> {
    use crate::protocol::messages::delete_groups_response::DeleteGroupsResponse;
    let response: DeleteGroupsResponse<'_> = w.answer(ticket);
    response.results.iter().map(|result| ErrorCode::from_code(result.error_code).unwrap()).collect()
}

#[test]
fn without_a_group_anybody_may_commit() {
    let mut w = World::new();
    assert_eq!(w.commit("g", &[("orders", 1, 10), ("payments", 2, 20)]), vec![0, 0]);
    assert_eq!(w.fetch("g"), vec![("orders".into(), 1, 10), ("payments".into(), 2, 20)]);
    assert_eq!(w.state("g"), "Empty");
    // Backwards, too.
    assert_eq!(w.commit("g", &[("orders", 1, 5)]), vec![0]);
    assert_eq!(w.fetch("g")[0], ("orders".into(), 1, 5));
    assert_eq!(w.fetch("unknown"), vec![]);
}

#[test]
fn what_does_not_exist_is_refused_alone() {
    let mut w = World::new();
    let codes = w.commit("g", &[("orders", 1, 10), ("orders", 10, 1), ("orders", -1, 1), ("nothing", 0, 1)]);
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    // The refused come first.
    assert_eq!(codes, vec![unknown, unknown, 0, unknown]);
    assert_eq!(w.fetch("g"), vec![("orders".into(), 1, 10)]);
}

#[test]
fn only_members_of_the_generation_commit() {
    let mut w = World::new();
    let mut members = [Member::new("g")];
    w.stable(&mut members);
    let [member] = members;
    let mut commit = |member: &Member| {
        let ticket = w.commit_as(member, &[("orders", 0, 1)]);
        ErrorCode::from_code(w.committed(ticket)[0]).unwrap()
    };
    assert_eq!(commit(&member), ErrorCode::None);
    assert_eq!(commit(&Member { generation: 0, ..member.clone() }), ErrorCode::IllegalGeneration);
    assert_eq!(commit(&Member { id: "other".into(), ..member.clone() }), ErrorCode::UnknownMemberId);
    assert_eq!(commit(&Member::new("g")), ErrorCode::UnknownMemberId);
    assert_eq!(commit(&Member { group: "none", ..member.clone() }), ErrorCode::GroupIdNotFound);
}

#[test]
fn no_commit_while_the_assignment_is_open() {
    let mut w = World::new();
    let mut member = Member::new("g");
    let ticket = w.join_anew(&mut member);
    w.pass(0);
    w.joined(&mut member, ticket);
    let ticket = w.commit_as(&member, &[("orders", 0, 1)]);
    assert_eq!(w.committed(ticket), vec![ErrorCode::RebalanceInProgress.code()]);
}

#[test]
fn metadata_has_a_limit() {
    let mut w = World::with(GroupConfig { offset_metadata_max_bytes: 4, ..GroupConfig::default() });
    let partition = |partition_index, metadata: &'static str| OffsetCommitRequestPartition {
        partition_index,
        committed_metadata: Some(metadata.into()),
        ..OffsetCommitRequestPartition::default()
    };
    // Kafka counts UTF-16 units: four of them fit.
    let partitions =
        [partition(0, "four"), partition(1, "fives"), partition(2, "äöüß"), partition(3, "")].into();
    let topic = OffsetCommitRequestTopic { name: "orders".into(), partitions, ..Default::default() };
    let request = OffsetCommitRequest { group_id: "g".into(), topics: [topic].into(), ..Default::default() };
    let ticket = w.send(&request, 9);
    assert_eq!(w.committed(ticket), vec![0, ErrorCode::OffsetMetadataTooLarge.code(), 0, 0]);
}

#[test]
fn older_readers_of_the_log_can_be_served() {
    use super::super::records::OFFSET_VALUE_VERSION;
    for (offset_topic_ids, expected) in [(true, 4), (false, OFFSET_VALUE_VERSION)] {
        let mut w = World::with(GroupConfig { offset_topic_ids, ..GroupConfig::default() });
        w.commit("g", &[("orders", 0, 7)]);
        let log = &w.log[&partition_for("g", PARTITIONS)];
        let batch = record::RecordBatch::parse(log.last().unwrap()).unwrap();
        let mut unpacked = Vec::new();
        let mut records = batch.records(&mut record::Decompressor::default(), &mut unpacked, 1_000).unwrap();
        let value = records.next().unwrap().unwrap().value.unwrap();
        assert_eq!(i16::from_be_bytes([value[0], value[1]]), expected);
        w.restart();
        assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 7)]);
    }
}

#[test]
fn a_commit_is_answered_and_seen_once_it_is_in_the_log() {
    let mut w = World::new();
    w.commit("g", &[("orders", 0, 1)]);
    w.prompt = false;
    let commit = w.commit_as(&Member::new("g"), &[("orders", 0, 2)]);
    let stable = w.fetch_later("g", true);
    assert!(w.is_waiting(commit) && w.is_waiting(stable));
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 1)]);
    w.report();
    assert_eq!(w.committed(commit), vec![0]);
    assert_eq!(w.fetched(stable), vec![("orders".into(), 0, 2)]);
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 2)]);
}

#[test]
fn a_failed_commit_never_was() {
    let mut w = World::new();
    w.commit("g", &[("orders", 0, 1)]);
    w.prompt = false;
    let commit = w.commit_as(&Member::new("g"), &[("orders", 0, 2), ("orders", 1, 2)]);
    let stable = w.fetch_later("g", true);
    w.fail(ErrorCode::KafkaStorageError);
    let moved = ErrorCode::NotCoordinator.code();
    assert_eq!(w.committed(commit), vec![moved, moved]);
    let response: OffsetFetchResponse<'_> = w.answer(stable);
    assert_eq!(response.groups.first().unwrap().error_code, moved);
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 1)]);
    w.restart();
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 1)]);
}

#[test]
fn by_topic_id() {
    let mut w = World::new();
    let partition = OffsetCommitRequestPartition { committed_offset: 7, ..Default::default() };
    let topic = |id| OffsetCommitRequestTopic {
        topic_id: Uuid([id; 16]),
        partitions: [partition.clone()].into(),
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        topics: [topic(1), topic(9)].into(),
        ..Default::default()
    };
    let response = w.ask(&request, 10);
    let answered: Vec<_> = response
        .topics
        .iter()
        .map(|topic| (topic.topic_id.0[0], topic.partitions.first().unwrap().error_code))
        .collect();
    assert_eq!(answered, vec![(9, ErrorCode::UnknownTopicId.code()), (1, 0)]);

    let wanted = |id| OffsetFetchRequestTopics {
        topic_id: Uuid([id; 16]),
        partition_indexes: [0, 1].into(),
        ..Default::default()
    };
    let fetch = |w: &mut World, topics| {
        let group = OffsetFetchRequestGroup { group_id: "g".into(), topics, ..Default::default() };
        let request = OffsetFetchRequest { groups: [group].into(), ..Default::default() };
        let response = w.ask(&request, 10);
        let topics = response.groups.first().unwrap().topics.to_vec();
        let flat = topics.into_iter().flat_map(|topic| {
            topic
                .partitions
                .to_vec()
                .into_iter()
                .map(move |p| (topic.topic_id.0[0], p.committed_offset, p.error_code))
        });
        flat.collect::<Vec<_>>()
    };
    let unknown = ErrorCode::UnknownTopicId.code();
    let some = Some([wanted(9), wanted(1)].into());
    assert_eq!(fetch(&mut w, some), vec![(1, 7, 0), (1, -1, 0), (9, -1, unknown), (9, -1, unknown)]);
    assert_eq!(fetch(&mut w, None), vec![(1, 7, 0)]);
    // The topic is deleted and made anew: the old offset is not its own.
    w.topics.0[0].1 = Uuid([4; 16]);
    assert_eq!(fetch(&mut w, Some([wanted(4)].into())), vec![(4, -1, 0), (4, -1, 0)]);
}

#[test]
fn old_versions_of_fetch() {
    let mut w = World::new();
    w.commit("g", &[("orders", 1, 10)]);
    let topic = OffsetFetchRequestTopic { name: "orders".into(), partition_indexes: [1, 2].into() };
    for version in 1..=7 {
        let request = OffsetFetchRequest {
            group_id: "g".into(),
            topics: Some([topic.clone()].into()),
            ..Default::default()
        };
        let response = w.ask(&request, version);
        let partitions = response.topics.first().unwrap().partitions.to_vec();
        let offsets: Vec<_> = partitions.iter().map(|p| (p.partition_index, p.committed_offset)).collect();
        assert_eq!((response.error_code, offsets), (0, vec![(1, 10), (2, -1)]));
        assert_eq!(partitions[0].metadata.as_deref(), Some("note"));
        assert_eq!(partitions[0].committed_leader_epoch, if version >= 5 { 3 } else { -1 });
    }
    let mut out = Vec::new();
    w.coordinator.unload(partition_for("g", PARTITIONS), &mut out);
    for version in 1..=7 {
        let request = OffsetFetchRequest {
            group_id: "g".into(),
            topics: Some([topic.clone()].into()),
            ..Default::default()
        };
        let response = w.ask(&request, version);
        let error = match version {
            1 => response.topics.first().unwrap().partitions.first().unwrap().error_code,
            _ => response.error_code,
        };
        assert_eq!(
            (error, response.topics.len()),
            (ErrorCode::NotCoordinator.code(), usize::from(version == 1))
        );
    }
}

#[test]
fn offsets_of_an_empty_group_expire_a_week_after_it_became_empty() {
    let mut w = World::new();
    let mut members = [Member::new("g")];
    w.stable(&mut members);
    let ticket = w.commit_as(&members[0], &[("orders", 0, 1), ("payments", 0, 2)]);
    w.committed(ticket);
    // While it is stable, what it is subscribed to stays; what it is not goes after its last commit.
    for _ in 0..8 * 24 * 360 {
        w.pass(10_000 - 1);
        assert_eq!(w.heartbeat(&members[0]), ErrorCode::None);
    }
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 1)]);
    w.leave(&members[0]);
    w.pass(7 * DAY_MS - 1);
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 1)]);
    w.pass(600_001);
    assert_eq!((w.fetch("g"), w.state("g")), (vec![], "none"));
    assert_eq!(w.coordinator.stats(), GroupStats::default());
    w.restart();
    assert_eq!(w.coordinator.stats(), GroupStats::default());
}

#[test]
fn offsets_without_a_group_expire_after_their_commit() {
    let mut w = World::new();
    w.commit("g", &[("orders", 0, 1), ("orders", 1, 1)]);
    w.pass(4 * DAY_MS);
    w.commit("g", &[("orders", 1, 2)]);
    w.pass(4 * DAY_MS);
    assert_eq!(w.fetch("g"), vec![("orders".into(), 1, 2)]);
    w.pass(4 * DAY_MS);
    assert_eq!(w.state("g"), "none");
}

#[test]
fn old_clients_name_a_retention() {
    let mut w = World::new();
    let partition = OffsetCommitRequestPartition { committed_offset: 7, ..Default::default() };
    let topic = OffsetCommitRequestTopic {
        name: "orders".into(),
        partitions: [partition].into(),
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        retention_time_ms: DAY_MS,
        topics: [topic].into(),
        ..Default::default()
    };
    let ticket = w.send(&request, 4);
    assert_eq!(w.committed(ticket), vec![0]);
    w.pass(DAY_MS - 1);
    w.restart();
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 7)]);
    w.pass(600_001);
    assert_eq!(w.fetch("g"), vec![]);
}

#[test]
fn groups_are_deleted_when_empty() {
    let mut w = World::new();
    let mut members = [Member::new("busy")];
    w.stable(&mut members);
    w.commit("idle", &[("orders", 0, 1), ("orders", 1, 2)]);
    w.prompt = false;
    let ticket = delete_groups(&mut w, &["idle", "busy", "none", "idle"]);
    assert!(w.is_waiting(ticket));
    // Until it is written the group is in between.
    assert_eq!(w.state("idle"), "Dead");
    let again = delete_groups(&mut w, &["idle"]);
    assert_eq!(deleted(&mut w, again), vec![ErrorCode::GroupIdNotFound]);
    let commit = w.commit_as(&Member::new("idle"), &[("orders", 0, 5)]);
    assert_eq!(w.committed(commit), vec![ErrorCode::CoordinatorNotAvailable.code()]);
    w.report();
    use ErrorCode::{GroupIdNotFound, NonEmptyGroup};
    assert_eq!(deleted(&mut w, ticket), vec![ErrorCode::None, NonEmptyGroup, GroupIdNotFound]);
    assert_eq!(w.state("idle"), "none");
    w.prompt = true;
    w.restart();
    assert_eq!((w.state("idle"), w.state("busy")), ("none", "Stable"));
}

#[test]
fn a_deletion_that_fails_leaves_the_group() {
    let mut w = World::new();
    w.commit("g", &[("orders", 0, 1)]);
    w.prompt = false;
    let commit = w.commit_as(&Member::new("g"), &[("orders", 1, 2)]);
    let ticket = delete_groups(&mut w, &["g"]);
    w.report();
    assert_eq!(w.committed(commit), vec![0]);
    w.fail(ErrorCode::NotEnoughReplicas);
    assert_eq!(deleted(&mut w, ticket), vec![ErrorCode::CoordinatorNotAvailable]);
    assert_eq!(w.state("g"), "Empty");
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 1), ("orders".into(), 1, 2)]);
    // Commits under way when it is deleted go with it.
    let commit = w.commit_as(&Member::new("g"), &[("orders", 2, 3)]);
    let ticket = delete_groups(&mut w, &["g"]);
    w.report();
    w.report();
    assert_eq!((w.committed(commit), deleted(&mut w, ticket)), (vec![0], vec![ErrorCode::None]));
    assert_eq!(w.coordinator.stats(), GroupStats::default());
}

/// Such a group was neither there nor gone until the next start.
#[test]
fn an_offset_whose_deletion_failed_keeps_its_group() {
    let mut w = World::new();
    w.commit("g", &[("payments", 0, 1)]);
    w.prompt = false;
    let gone = DeletedTopic { name: "payments".into(), id: Uuid([2; 16]) };
    let mut out = Vec::new();
    w.coordinator.topics_deleted(w.now, &[gone], &mut out);
    w.carry_out(out);
    let _ = delete_groups(&mut w, &["g"]);
    w.fail(ErrorCode::NotEnoughReplicas);
    w.report();
    assert_eq!((w.state("g"), w.fetch("g")), ("Empty", vec![("payments".into(), 0, 1)]));
    w.prompt = true;
    let ticket = delete_groups(&mut w, &["g"]);
    assert_eq!(deleted(&mut w, ticket), vec![ErrorCode::None]);
    assert_eq!(w.coordinator.stats(), GroupStats::default());
}

#[test]
fn a_deletion_larger_than_a_batch() {
    let mut w = World::with(GroupConfig { batch_bytes_max: 600, ..GroupConfig::default() });
    for partition in 0..10 {
        w.commit("g", &[("orders", partition, 1), ("payments", partition, 1)]);
    }
    let batches = w.log.values().flatten().count();
    let ticket = delete_groups(&mut w, &["g"]);
    assert_eq!(deleted(&mut w, ticket), vec![ErrorCode::None]);
    assert!(w.log.values().flatten().count() > batches + 1);
    assert_eq!(w.coordinator.stats(), GroupStats::default());
    w.restart();
    assert_eq!(w.coordinator.stats(), GroupStats::default());
}

fn delete_offsets(
    w: &mut World,
    group: &str,
    wanted: &[(&str, i32)],
) -> (ErrorCode, Vec<(String, i32, i16)>) {
    let topics = wanted.iter().map(|(topic, partition_index)| OffsetDeleteRequestTopic {
        name: topic.to_string().into(),
        partitions: [OffsetDeleteRequestPartition { partition_index: *partition_index }].into(),
    });
    let request = OffsetDeleteRequest { group_id: group.to_string().into(), topics: topics.collect() };
    let response = w.ask(&request, 0);
    let mut partitions = Vec::new();
    for topic in &response.topics {
        for partition in &topic.partitions {
            partitions.push((topic.name.to_string(), partition.partition_index, partition.error_code));
        }
    }
    (ErrorCode::from_code(response.error_code).unwrap(), partitions)
}

#[test]
fn offsets_are_deleted_unless_subscribed() {
    let mut w = World::new();
    assert_eq!(delete_offsets(&mut w, "g", &[("orders", 0)]), (ErrorCode::GroupIdNotFound, vec![]));
    assert_eq!(delete_offsets(&mut w, "", &[("orders", 0)]), (ErrorCode::InvalidGroupId, vec![]));
    let mut members = [Member::new("g")];
    w.stable(&mut members);
    let ticket = w.commit_as(&members[0], &[("orders", 0, 1), ("payments", 0, 2), ("payments", 1, 3)]);
    w.committed(ticket);
    let (error, partitions) = delete_offsets(&mut w, "g", &[("orders", 0), ("payments", 0), ("nothing", 0)]);
    assert_eq!(error, ErrorCode::None);
    assert_eq!(
        partitions,
        vec![
            ("nothing".into(), 0, ErrorCode::UnknownTopicOrPartition.code()),
            ("orders".into(), 0, ErrorCode::GroupSubscribedToTopic.code()),
            ("payments".into(), 0, 0),
        ]
    );
    assert_eq!(w.fetch("g"), vec![("orders".into(), 0, 1), ("payments".into(), 1, 3)]);
}

#[test]
fn offsets_go_with_their_topic() {
    let mut w = World::new();
    w.commit("g", &[("orders", 0, 1), ("payments", 0, 2)]);
    w.commit("h", &[("payments", 0, 2)]);
    let mut out = Vec::new();
    let gone = |id| DeletedTopic { name: "payments".into(), id: Uuid([id; 16]) };
    // An older topic of the same name.
    w.coordinator.topics_deleted(w.now, &[gone(7)], &mut out);
    assert_eq!(out, vec![]);
    w.coordinator.topics_deleted(w.now, &[gone(2)], &mut out);
    w.carry_out(out);
    assert_eq!((w.fetch("g"), w.fetch("h")), (vec![("orders".into(), 0, 1)], vec![]));
}

#[test]
fn memory_has_a_limit() {
    let limits = GroupLimits { groups_max: 2, bytes_max: 1_000_000, ..GroupLimits::default() };
    let mut w = World::with(GroupConfig { limits, ..GroupConfig::default() });
    let full = vec![ErrorCode::CoordinatorNotAvailable.code()];
    assert_eq!(w.commit("a", &[("orders", 0, 1)]), vec![0]);
    assert_eq!(w.commit("b", &[("orders", 0, 1)]), vec![0]);
    assert_eq!(w.commit("c", &[("orders", 0, 1)]), full);
    let ticket = delete_groups(&mut w, &["a"]);
    assert_eq!(deleted(&mut w, ticket), vec![ErrorCode::None]);
    assert_eq!(w.commit("c", &[("orders", 0, 1)]), vec![0]);

    let mut big = Member::new("c");
    big.protocols.push(("big", vec![0; 1_000_000]));
    let ticket = w.join(&big);
    let response: JoinGroupResponse<'_> = w.answer(ticket);
    assert_eq!(response.error_code, ErrorCode::GroupMaxSizeReached.code());
    // A commit of known size is held twice while it is under way, then once.
    let bytes = w.coordinator.stats().bytes;
    w.commit("c", &[("orders", 0, 1)]);
    assert_eq!(w.coordinator.stats().bytes, bytes);
}
