use super::*;
use crate::broker::transaction::Marker;
use crate::protocol::messages::offset_delete_request::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use crate::protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use crate::protocol::messages::txn_offset_commit_response::TxnOffsetCommitResponse;

impl World {
    /// What a producer commits within its transaction; `None` for "no member says so".
    pub fn commit_in(&mut self, producer_id: i64, member: &Member, offsets: &[(&str, i32, i64)]) -> Ticket {
        self.commit_admitted(producer_id, member, offsets, Ok(()))
    }

    fn commit_admitted(
        &mut self,
        producer_id: i64,
        member: &Member,
        offsets: &[(&str, i32, i64)],
        admitted: Result<(), ErrorCode>,
    ) -> Ticket {
        let topics =
            offsets.iter().map(|&(topic, partition_index, committed_offset)| TxnOffsetCommitRequestTopic {
                name: topic.to_string().into(),
                partitions: [TxnOffsetCommitRequestPartition {
                    partition_index,
                    committed_offset,
                    committed_leader_epoch: 3,
                    committed_metadata: Some("note".into()),
                }]
                .into(),
            });
        let request = TxnOffsetCommitRequest {
            transactional_id: "t".into(),
            group_id: member.group.into(),
            producer_id,
            producer_epoch: 0,
            generation_id: member.generation,
            member_id: member.id.clone().into(),
            group_instance_id: member.instance_id.map(Into::into),
            topics: topics.collect(),
        };
        let to = ReplyTo(self.next_to);
        self.next_to += 1;
        let body = request.to_bytes(5);
        let request = GroupRequest {
            api_key: crate::protocol::ApiKey::TxnOffsetCommit,
            version: 5,
            client_id: "app",
            client_host: "/127.0.0.1",
            body: &body,
            to,
        };
        let mut out = Vec::new();
        let (coordinator, topics) = (&mut self.coordinator, &self.topics);
        coordinator.commit_in_transaction(self.now, request, admitted, topics, &mut out).unwrap();
        self.carry_out(out);
        Ticket { to, version: 5 }
    }

    #[track_caller]
    fn told(&mut self, ticket: Ticket) -> Vec<ErrorCode> {
        let response: TxnOffsetCommitResponse<'_> = self.answer(ticket);
        let partitions = response.topics.iter().flat_map(|topic| topic.partitions);
        partitions.map(|partition| ErrorCode::from_code(partition.error_code).unwrap()).collect()
    }

    /// The marker of a producer's transaction, to the partition of a group.
    pub fn end(&mut self, producer_id: i64, group: &str, commit: bool) -> ReplyTo {
        let to = ReplyTo(self.next_to);
        self.next_to += 1;
        let marker =
            Marker { producer_id, producer_epoch: 0, commit, coordinator_epoch: 0, transaction_version: 2 };
        let mut out = Vec::new();
        self.coordinator.end_transaction(self.now, partition_for(group, PARTITIONS), marker, to, &mut out);
        self.carry_out(out);
        to
    }

    fn stable_offsets(&mut self, group: &str) -> Vec<(i32, i64, i16)> {
        let ticket = self.fetch_later(group, true);
        let response: OffsetFetchResponse<'_> = self.answer(ticket);
        let group = response.groups.first().unwrap();
        let partitions = group.topics.iter().flat_map(|topic| topic.partitions);
        partitions.map(|p| (p.partition_index, p.committed_offset, p.error_code)).collect()
    }
}

const UNSTABLE: i16 = 88;

fn orders(partition: i32, offset: i64) -> (String, i32, i64) {
    ("orders".to_string(), partition, offset)
}

#[test]
fn offsets_count_when_their_transaction_is_committed() {
    let mut w = World::new();
    let nobody = Member::new("g");
    w.commit("g", &[("orders", 0, 5), ("orders", 1, 5)]);
    let ticket = w.commit_in(7, &nobody, &[("orders", 0, 10), ("orders", 2, 10)]);
    assert_eq!(w.told(ticket), [ErrorCode::None; 2]);
    assert_eq!(w.fetch("g"), [orders(0, 5), orders(1, 5)]);
    assert_eq!(w.stable_offsets("g"), [(0, -1, UNSTABLE), (1, 5, 0)]);
    let marker = w.end(7, "g", true);
    assert_eq!(w.marked[&marker], Ok(()));
    let committed = [orders(0, 10), orders(1, 5), orders(2, 10)];
    assert_eq!(w.fetch("g"), committed);
    w.commit_in(7, &nobody, &[("orders", 0, 20)]);
    w.end(7, "g", false);
    assert_eq!(w.fetch("g"), committed);
    assert_eq!(w.stable_offsets("g"), [(0, 10, 0), (1, 5, 0), (2, 10, 0)]);
    w.restart();
    assert_eq!(w.fetch("g"), committed);
}

#[test]
fn what_is_open_stays_open_over_a_restart() {
    let mut w = World::new();
    let nobody = Member::new("g");
    w.commit_in(7, &nobody, &[("orders", 0, 10)]);
    w.commit_in(8, &nobody, &[("orders", 0, 20)]);
    w.restart();
    assert_eq!(w.fetch("g"), []);
    w.end(8, "g", true);
    assert_eq!(w.fetch("g"), [orders(0, 20)]);
    assert_eq!(w.stable_offsets("g"), [(0, -1, UNSTABLE)]);
    w.end(7, "g", true);
    assert_eq!(w.fetch("g"), [orders(0, 20)], "the later record wins");
    assert_eq!(w.stable_offsets("g"), [(0, 20, 0)]);
}

#[test]
fn a_plain_commit_behind_an_open_one_stands() {
    let mut w = World::new();
    w.commit_in(7, &Member::new("g"), &[("orders", 0, 10)]);
    w.commit("g", &[("orders", 0, 3)]);
    w.end(7, "g", true);
    assert_eq!(w.fetch("g"), [orders(0, 3)]);
    w.restart();
    assert_eq!(w.fetch("g"), [orders(0, 3)]);
}

#[test]
fn a_marker_waits_for_its_append_and_takes_what_was_before_it() {
    let mut w = World::new();
    let nobody = Member::new("g");
    w.prompt = false;
    let first = w.commit_in(7, &nobody, &[("orders", 0, 10)]);
    let marker = w.end(7, "g", true);
    let second = w.commit_in(7, &nobody, &[("orders", 0, 20)]);
    assert!(w.is_waiting(first) && !w.marked.contains_key(&marker));
    w.report();
    assert!(!w.is_waiting(first) && !w.marked.contains_key(&marker));
    w.report();
    assert_eq!((w.marked[&marker], w.fetch("g")), (Ok(()), vec![orders(0, 10)]));
    assert!(w.is_waiting(second));
    w.fail(ErrorCode::KafkaStorageError);
    assert_eq!(w.told(second).len(), 1);
    w.prompt = true;
    assert_eq!(w.stable_offsets("g"), [(0, 10, 0)]);
    w.prompt = false;
    w.commit_in(7, &nobody, &[("orders", 0, 30)]);
    w.report();
    let marker = w.end(7, "g", true);
    w.fail(ErrorCode::KafkaStorageError);
    assert_eq!(w.marked[&marker], Err(ErrorCode::KafkaStorageError));
    w.prompt = true;
    assert_eq!(w.stable_offsets("g"), [(0, -1, UNSTABLE)]);
}

#[test]
fn who_may_commit() {
    let mut w = World::new();
    let mut members = [Member::new("g")];
    w.stable(&mut members);
    let [member] = members;
    let offsets = [("orders", 0, 1)];
    let ticket = w.commit_in(7, &member, &offsets);
    assert_eq!(w.told(ticket), [ErrorCode::None]);
    let old = Member { generation: member.generation - 1, ..member.clone() };
    let ticket = w.commit_in(7, &old, &offsets);
    assert_eq!(w.told(ticket), [ErrorCode::IllegalGeneration]);
    let other = Member { id: "other".into(), ..member.clone() };
    let ticket = w.commit_in(7, &other, &offsets);
    assert_eq!(w.told(ticket), [ErrorCode::UnknownMemberId]);
    // As old clients do: they name no member.
    let ticket = w.commit_in(7, &Member::new("g"), &offsets);
    assert_eq!(w.told(ticket), [ErrorCode::None]);
    let of_none = Member { generation: 1, ..Member::new("new") };
    let ticket = w.commit_in(7, &of_none, &offsets);
    assert_eq!(w.told(ticket), [ErrorCode::IllegalGeneration]);
    let ticket = w.commit_admitted(7, &member, &offsets, Err(ErrorCode::InvalidTxnState));
    assert_eq!(w.told(ticket), [ErrorCode::InvalidTxnState]);
    let ticket = w.commit_in(7, &member, &[("orders", 0, 2), ("orders", 99, 2), ("nothing", 0, 2)]);
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(w.told(ticket), [ErrorCode::None, unknown, unknown]);
}

#[test]
fn a_deletion_takes_what_is_open() {
    let mut w = World::new();
    w.commit_in(7, &Member::new("g"), &[("orders", 0, 10), ("orders", 1, 10)]);
    let request = OffsetDeleteRequest {
        group_id: "g".into(),
        topics: [OffsetDeleteRequestTopic {
            name: "orders".into(),
            partitions: [OffsetDeleteRequestPartition { partition_index: 0 }].into(),
        }]
        .into(),
    };
    let response = w.ask(&request, 0);
    assert_eq!(response.error_code, 0);
    w.end(7, "g", true);
    assert_eq!(w.fetch("g"), [orders(1, 10)]);
    w.restart();
    assert_eq!(w.fetch("g"), [orders(1, 10)]);
}

#[test]
fn a_group_with_an_open_commit_stays() {
    let mut w = World::new();
    w.commit_in(7, &Member::new("g"), &[("orders", 0, 10)]);
    w.pass(w.config.offsets_retention_ms + 3 * w.config.offsets_retention_check_interval_ms);
    w.end(7, "g", true);
    assert_eq!(w.fetch("g"), [orders(0, 10)]);
    w.pass(w.config.offsets_retention_ms + 3 * w.config.offsets_retention_check_interval_ms);
    assert_eq!(w.fetch("g"), []);
    assert_eq!(w.coordinator.stats().groups, 0);
}

#[test]
fn a_marker_to_a_partition_that_is_not_served_is_refused() {
    let mut w = World::new();
    let partition = partition_for("g", PARTITIONS);
    w.prompt = false;
    w.commit_in(7, &Member::new("g"), &[("orders", 0, 10)]);
    let under_way = w.end(7, "g", true);
    let mut out = Vec::new();
    w.coordinator.unload(partition, &mut out);
    w.carry_out(out);
    assert_eq!(w.marked[&under_way], Err(ErrorCode::NotCoordinator));
    let marker = w.end(7, "g", true);
    assert_eq!(w.marked[&marker], Err(ErrorCode::NotLeaderOrFollower));
    w.coordinator.load_begin(partition);
    let marker = w.end(7, "g", true);
    assert_eq!(w.marked[&marker], Err(ErrorCode::NotLeaderOrFollower));
}
