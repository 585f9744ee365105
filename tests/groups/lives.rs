//! What a group knows in the next life of a whole broker on the simulated machine.

use std::collections::BTreeSet;

use ringlog::protocol::frame::decode_response;
use ringlog::protocol::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions,
};
use ringlog::protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use ringlog::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use ringlog::protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ringlog::protocol::{ErrorCode, Uuid};

use crate::shard::OneShard;

const GROUP: &str = "g";

fn create(broker: &mut OneShard, name: &str) {
    let topic =
        CreatableTopic { name: name.into(), num_partitions: 1, replication_factor: 1, ..Default::default() };
    let request = CreateTopicsRequest { topics: [topic].into(), timeout_ms: 10_000, ..Default::default() };
    let frame = broker.ask(7, &request);
    let (_, answer) = decode_response::<CreateTopicsRequest<'_>>(&frame, 7).unwrap();
    assert_eq!(answer.topics.first().unwrap().error_code, 0);
}

/// The only member, by a pattern.
#[derive(Default)]
struct Member {
    epoch: i32,
    owned: BTreeSet<Uuid>,
}

impl Member {
    /// Tells all there is to tell; false while there is no coordinator.
    fn beat(&mut self, broker: &mut OneShard) -> bool {
        let owned = self.owned.iter().map(|id| TopicPartitions { topic_id: *id, partitions: [0].into() });
        let request = ConsumerGroupHeartbeatRequest {
            group_id: GROUP.into(),
            member_id: "m".into(),
            member_epoch: self.epoch,
            rebalance_timeout_ms: 60_000,
            subscribed_topic_names: Some([].into()),
            subscribed_topic_regex: Some("t-.*".into()),
            topic_partitions: Some(owned.collect()),
            ..Default::default()
        };
        let frame = broker.ask(1, &request);
        let (_, answer) = decode_response::<ConsumerGroupHeartbeatRequest<'_>>(&frame, 1).unwrap();
        match ErrorCode::from_code(answer.error_code) {
            Some(ErrorCode::None) => {}
            Some(
                ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::CoordinatorNotAvailable
                | ErrorCode::NotCoordinator,
            ) => {
                return false;
            }
            error => panic!("{error:?}"),
        }
        self.epoch = answer.member_epoch;
        let told = answer.assignment.unwrap();
        self.owned = told.topic_partitions.iter().map(|topic| topic.topic_id).collect();
        true
    }

    fn beat_until_it_has(&mut self, broker: &mut OneShard, topics: usize) {
        for _ in 0..30 {
            self.beat(broker);
            if self.owned.len() == topics {
                return;
            }
            broker.rest(1);
        }
        panic!("it has {:?}", self.owned);
    }
}

fn find_coordinator(broker: &mut OneShard) {
    let find = FindCoordinatorRequest { coordinator_keys: vec![GROUP.into()].into(), ..Default::default() };
    broker.ask(4, &find);
}

/// It waited for the broker's next tick, up to 50 ms.
#[test]
fn a_group_that_need_not_wait_for_members_forms_at_once() {
    let mut broker = OneShard::with(1, &["group.initial.rebalance.delay.ms=0"]);
    find_coordinator(&mut broker);
    broker.rest(1);
    for number in 0..4 {
        let group = format!("{GROUP}-{number}");
        let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: b"".into() };
        let request = JoinGroupRequest {
            group_id: (&*group).into(),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: 30_000,
            protocol_type: "consumer".into(),
            protocols: [protocol].into(),
            ..Default::default()
        };
        let began_ns = broker.world.now();
        let frame = broker.ask(3, &request);
        let (_, answer) = decode_response::<JoinGroupRequest<'_>>(&frame, 3).unwrap();
        assert_eq!(answer.error_code, 0);
        let took_ns = broker.world.now() - began_ns;
        assert!(took_ns < 10_000_000, "{took_ns} ns of virtual time");
    }
}

#[test]
fn a_pattern_finds_a_topic_that_was_created_just_before_a_restart() {
    let mut broker = OneShard::new(1);
    let mut member = Member::default();
    create(&mut broker, "t-1");
    find_coordinator(&mut broker);
    member.beat_until_it_has(&mut broker, 1);
    create(&mut broker, "t-2");
    broker.restart();
    member.beat_until_it_has(&mut broker, 2);
}
