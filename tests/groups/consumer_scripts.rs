//! The scripts of consumer groups (KIP-848). Members draw their own ids, so that what hangs on their order is the same every
//! time; the answers' partitions are brought into order.

use ringlog::protocol::messages::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use ringlog::protocol::messages::consumer_group_describe_response::{
    Assignment as Described, ConsumerGroupDescribeResponse,
};
use ringlog::protocol::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions,
};
use ringlog::protocol::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;
use ringlog::protocol::messages::consumer_protocol_assignment::ConsumerProtocolAssignment;
use ringlog::protocol::messages::consumer_protocol_subscription::{
    ConsumerProtocolSubscription, TopicPartition as OwnedPartition,
};
use ringlog::protocol::messages::heartbeat_request::HeartbeatRequest;
use ringlog::protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ringlog::protocol::messages::join_group_response::JoinGroupResponse;
use ringlog::protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use ringlog::protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ringlog::protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use ringlog::protocol::messages::sync_group_request::SyncGroupRequest;
use ringlog::protocol::messages::sync_group_response::SyncGroupResponse;
use ringlog::protocol::{Array, Message, Uuid, Writer};

use super::play::{Play, TOPICS};
use super::scripts::{delete, describe, list, sort};

/// Longer than the interval between two assignments.
const INTERVAL_MS: u64 = 1_900;

/// A member of the newer protocol, as its client sees it.
#[derive(Clone)]
pub struct Consumer {
    client: String,
    group: String,
    id: String,
    instance_id: Option<String>,
    epoch: i32,
    topics: Vec<String>,
    regex: Option<String>,
    assignor: Option<String>,
    /// By topic name.
    owned: Vec<(Uuid, Vec<i32>)>,
    assigned: Vec<(Uuid, Vec<i32>)>,
    rebalance_ms: i32,
}

impl Consumer {
    fn new(play: &Play, client: &str, group: &str, topics: &[&str]) -> Self {
        Consumer {
            client: client.into(),
            group: play.group(group),
            id: format!("{}-{client}", play.group("")),
            instance_id: None,
            epoch: 0,
            topics: topics.iter().map(|topic| topic.to_string()).collect(),
            regex: None,
            assignor: None,
            owned: Vec::new(),
            assigned: Vec::new(),
            rebalance_ms: 20_000,
        }
    }

    fn fixed(play: &Play, client: &str, group: &str, topics: &[&str], instance_id: &str) -> Self {
        Consumer { instance_id: Some(instance_id.into()), ..Consumer::new(play, client, group, topics) }
    }

    fn full(&self) -> ConsumerGroupHeartbeatRequest<'static> {
        ConsumerGroupHeartbeatRequest {
            rebalance_timeout_ms: self.rebalance_ms,
            subscribed_topic_names: Some(self.topics.iter().map(|topic| topic.clone().into()).collect()),
            subscribed_topic_regex: self.regex.clone().map(Into::into),
            server_assignor: self.assignor.clone().map(Into::into),
            topic_partitions: Some(partitions(&self.owned)),
            ..self.brief()
        }
    }

    fn brief(&self) -> ConsumerGroupHeartbeatRequest<'static> {
        ConsumerGroupHeartbeatRequest {
            group_id: self.group.clone().into(),
            member_id: self.id.clone().into(),
            member_epoch: self.epoch,
            instance_id: self.instance_id.clone().map(Into::into),
            ..ConsumerGroupHeartbeatRequest::default()
        }
    }

    fn ask(&mut self, play: &mut Play, version: i16, request: &ConsumerGroupHeartbeatRequest<'static>) {
        play.send(&self.client, version, request);
        let order = |answer: &mut ConsumerGroupHeartbeatResponse<'static>| {
            if let Some(assignment) = &mut answer.assignment {
                sort(&mut assignment.topic_partitions, |topic| topic.topic_id);
                let sorted = assignment.topic_partitions.iter().map(|mut topic| {
                    sort(&mut topic.partitions, |index| *index);
                    topic
                });
                assignment.topic_partitions = sorted.collect();
            }
        };
        let answer: ConsumerGroupHeartbeatResponse<'_> = play.receive(&self.client, version, order);
        if answer.error_code == 0 {
            self.id = answer.member_id.unwrap().into_owned();
            self.epoch = answer.member_epoch;
            if let Some(assignment) = answer.assignment {
                let topics = assignment.topic_partitions.iter();
                self.assigned = topics.map(|topic| (topic.topic_id, topic.partitions.to_vec())).collect();
            }
        }
    }

    fn join(&mut self, play: &mut Play) {
        self.epoch = 0;
        self.owned.clear();
        self.ask(play, 1, &self.full());
    }

    fn beat(&mut self, play: &mut Play) {
        self.ask(play, 1, &self.brief());
    }

    /// Says that it has what it was given, and only that.
    fn acknowledge(&mut self, play: &mut Play) {
        self.owned.clone_from(&self.assigned);
        let request =
            ConsumerGroupHeartbeatRequest { topic_partitions: Some(partitions(&self.owned)), ..self.brief() };
        self.ask(play, 1, &request);
    }

    fn say(&mut self, play: &mut Play) {
        self.ask(play, 1, &self.full());
    }

    fn leave(&mut self, play: &mut Play, epoch: i32) {
        let request = ConsumerGroupHeartbeatRequest { member_epoch: epoch, ..self.brief() };
        self.ask(play, 1, &request);
    }

    fn commit(&self, play: &mut Play, version: i16, epoch: i32, offsets: &[(&str, i32, i64)]) {
        let topics = offsets.iter().map(|(topic, partition_index, committed_offset)| {
            let partition = OffsetCommitRequestPartition {
                partition_index: *partition_index,
                committed_offset: *committed_offset,
                committed_leader_epoch: 3,
                committed_metadata: None,
            };
            OffsetCommitRequestTopic {
                name: topic.to_string().into(),
                topic_id: play.topic_ids[topic],
                partitions: [partition].into(),
            }
        });
        let request = OffsetCommitRequest {
            group_id: self.group.clone().into(),
            generation_id_or_member_epoch: epoch,
            member_id: self.id.clone().into(),
            topics: topics.collect(),
            ..OffsetCommitRequest::default()
        };
        play.ask(&self.client, version, &request);
    }

    fn fetch(&self, play: &mut Play, version: i16, member_id: Option<&str>, epoch: i32) {
        let topics = TOPICS.iter().map(|topic| OffsetFetchRequestTopics {
            name: topic.to_string().into(),
            topic_id: play.topic_ids[topic],
            partition_indexes: [0, 1].into(),
        });
        let group = OffsetFetchRequestGroup {
            group_id: self.group.clone().into(),
            member_id: member_id.map(|id| id.to_string().into()),
            member_epoch: epoch,
            topics: Some(topics.collect()),
        };
        let request =
            OffsetFetchRequest { groups: [group].into(), require_stable: true, ..Default::default() };
        play.ask(&self.client, version, &request);
    }
}

fn partitions(owned: &[(Uuid, Vec<i32>)]) -> Array<'static, TopicPartitions<'static>> {
    let topics = owned.iter().map(|(topic_id, indexes)| TopicPartitions {
        topic_id: *topic_id,
        partitions: indexes.clone().into(),
    });
    topics.collect()
}

fn describe_consumers(play: &mut Play, version: i16, groups: &[&str], operations: bool) {
    let request = ConsumerGroupDescribeRequest {
        group_ids: groups.iter().map(|group| group.to_string().into()).collect(),
        include_authorized_operations: operations,
    };
    let order = |assignment: &mut Described<'static>| {
        sort(&mut assignment.topic_partitions, |topic| topic.topic_name.to_string());
        let sorted = assignment.topic_partitions.iter().map(|mut topic| {
            sort(&mut topic.partitions, |index| *index);
            topic
        });
        assignment.topic_partitions = sorted.collect();
    };
    play.send("admin", version, &request);
    play.receive("admin", version, |answer: &mut ConsumerGroupDescribeResponse<'static>| {
        let mut groups = answer.groups.to_vec();
        for group in &mut groups {
            let mut members = group.members.to_vec();
            for member in &mut members {
                order(&mut member.assignment);
                order(&mut member.target_assignment);
                sort(&mut member.subscribed_topic_names, |topic| topic.to_string());
            }
            members.sort_by_key(|member| member.member_id.to_string());
            group.members = members.into();
        }
        groups.sort_by_key(|group| group.group_id.to_string());
        answer.groups = groups.into();
    });
}

/// Partitions by topic.
type Topics<'t> = Vec<(&'t str, Vec<i32>)>;

/// A member of the classic protocol, whose metadata is what a Java consumer sends.
struct Classic {
    client: String,
    group: String,
    id: String,
    instance_id: Option<String>,
    generation: i32,
    topics: Vec<String>,
    owned: Vec<(String, Vec<i32>)>,
    session_ms: i32,
    leads: bool,
}

impl Classic {
    fn new(play: &Play, client: &str, group: &str, topics: &[&str]) -> Self {
        Classic {
            client: client.into(),
            group: play.group(group),
            id: String::new(),
            instance_id: None,
            generation: -1,
            topics: topics.iter().map(|topic| topic.to_string()).collect(),
            owned: Vec::new(),
            session_ms: 20_000,
            leads: false,
        }
    }

    fn request(&self) -> JoinGroupRequest<'static> {
        let owned = self.owned.iter().map(|(topic, indexes)| OwnedPartition {
            topic: topic.clone().into(),
            partitions: indexes.clone().into(),
        });
        let subscription = ConsumerProtocolSubscription {
            topics: self.topics.iter().map(|topic| topic.clone().into()).collect(),
            owned_partitions: owned.collect(),
            generation_id: self.generation,
            ..Default::default()
        };
        let protocol =
            JoinGroupRequestProtocol { name: "range".into(), metadata: embedded(3, &subscription).into() };
        JoinGroupRequest {
            group_id: self.group.clone().into(),
            session_timeout_ms: self.session_ms,
            rebalance_timeout_ms: 20_000,
            member_id: self.id.clone().into(),
            group_instance_id: self.instance_id.clone().map(Into::into),
            protocol_type: "consumer".into(),
            protocols: [protocol].into(),
            reason: None,
        }
    }

    fn send_join(&self, play: &mut Play) {
        play.send(&self.client, 9, &self.request());
    }

    fn joined(&mut self, play: &mut Play) {
        let order = |answer: &mut JoinGroupResponse<'static>| {
            sort(&mut answer.members, |m| m.metadata.to_vec());
            // Kafka's own text of a UUID.
            if answer.member_id.parse::<Uuid>().is_ok() {
                answer.member_id = "drawn".into();
            }
        };
        let answer: JoinGroupResponse<'_> = play.receive(&self.client, 9, order);
        if !answer.member_id.is_empty() {
            self.id = answer.member_id.into_owned();
        }
        if answer.error_code == 0 {
            self.generation = answer.generation_id;
            self.leads = *answer.leader == self.id;
        }
    }

    fn join(&mut self, play: &mut Play) {
        self.send_join(play);
        self.joined(play);
        if self.generation < 0 && self.instance_id.is_none() {
            self.send_join(play);
            self.joined(play);
        }
    }

    /// What it is assigned it then owns.
    fn sync(&mut self, play: &mut Play, assignments: &[(&str, Topics)]) {
        let assignments = assignments.iter().map(|(member_id, topics)| {
            let topics = topics.iter().map(|(topic, indexes)| {
                ringlog::protocol::messages::consumer_protocol_assignment::TopicPartition {
                    topic: topic.to_string().into(),
                    partitions: indexes.clone().into(),
                }
            });
            let assignment =
                ConsumerProtocolAssignment { assigned_partitions: topics.collect(), user_data: None };
            ringlog::protocol::messages::sync_group_request::SyncGroupRequestAssignment {
                member_id: member_id.to_string().into(),
                assignment: embedded(3, &assignment).into(),
            }
        });
        let request = SyncGroupRequest {
            group_id: self.group.clone().into(),
            generation_id: self.generation,
            member_id: self.id.clone().into(),
            group_instance_id: self.instance_id.clone().map(Into::into),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: assignments.collect(),
        };
        play.send(&self.client, 5, &request);
        let answer: SyncGroupResponse<'_> = play.receive(&self.client, 5, |_| {});
        if answer.error_code == 0 && !answer.assignment.is_empty() {
            let assignment = ConsumerProtocolAssignment::decode_exact(&answer.assignment[2..], 3).unwrap();
            let topics = assignment.assigned_partitions.iter();
            self.owned = topics.map(|t| (t.topic.to_string(), t.partitions.to_vec())).collect();
        }
    }

    fn heartbeat(&self, play: &mut Play) {
        let request = HeartbeatRequest {
            group_id: self.group.clone().into(),
            generation_id: self.generation,
            member_id: self.id.clone().into(),
            group_instance_id: self.instance_id.clone().map(Into::into),
        };
        play.ask(&self.client, 4, &request);
    }

    fn leave(&self, play: &mut Play) {
        let identity = MemberIdentity {
            member_id: self.id.clone().into(),
            group_instance_id: self.instance_id.clone().map(Into::into),
            reason: None,
        };
        let request = LeaveGroupRequest {
            group_id: self.group.clone().into(),
            members: [identity].into(),
            ..LeaveGroupRequest::default()
        };
        play.ask(&self.client, 5, &request);
    }
}

fn embedded<'m>(version: i16, message: &impl Message<'m>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.put_i16(version);
    message.write(&mut writer, version);
    writer.buf
}

pub fn consumer_refusals(play: &mut Play) {
    let good = Consumer::new(play, "a", "g", &["orders"]);
    let mut ask = |note: &str, version: i16, change: fn(&mut ConsumerGroupHeartbeatRequest<'static>)| {
        play.note(note);
        let mut request = good.full();
        change(&mut request);
        good.clone().ask(play, version, &request);
    };
    ask("no member id", 1, |r| r.member_id = "".into());
    ask("no member id, in an epoch, in the first version", 0, |r| {
        (r.member_id, r.member_epoch) = ("".into(), 5)
    });
    ask("no group", 1, |r| r.group_id = "".into());
    ask("blank group", 1, |r| r.group_id = "  ".into());
    ask("blank instance", 1, |r| r.instance_id = Some(" ".into()));
    ask("blank rack", 1, |r| r.rack_id = Some("".into()));
    ask("no rebalance timeout", 1, |r| r.rebalance_timeout_ms = -1);
    ask("no partitions", 1, |r| r.topic_partitions = None);
    ask("partitions", 1, |r| r.topic_partitions = Some(partitions(&[(Uuid([1; 16]), vec![0])])));
    ask("no subscription", 1, |r| r.subscribed_topic_names = None);
    ask("static leave without instance", 1, |r| r.member_epoch = -2);
    ask("no such epoch", 1, |r| r.member_epoch = -3);
    ask("unknown assignor", 1, |r| r.server_assignor = Some("sticky".into()));
    ask("bad pattern", 1, |r| r.subscribed_topic_regex = Some("(a".into()));
    ask("unknown group", 1, |r| r.member_epoch = 3);
    ask("leaves an unknown group", 1, |r| r.member_epoch = -1);
    list(play, 5, &[], &[]);
    let mut member = Consumer::new(play, "b", "h", &["orders"]);
    member.join(play);
    let epoch = member.epoch;
    play.note("unknown member, higher and lower epoch, unknown and wrong instance");
    let mut other = member.clone();
    other.id = "nobody".into();
    other.clone().beat(play);
    other.leave(play, -1);
    for wrong in [epoch + 1, epoch - 1] {
        let mut other = Consumer { epoch: wrong, ..member.clone() };
        other.beat(play);
    }
    let mut other = Consumer { instance_id: Some("i".into()), ..member.clone() };
    other.clone().beat(play);
    other.leave(play, -2);
    describe_consumers(play, 1, &[&play.group("none"), &member.group], false);
}

pub fn consumer_life(play: &mut Play) {
    let mut a = Consumer::new(play, "a", "g", &["orders"]);
    a.join(play);
    a.beat(play);
    a.acknowledge(play);
    describe_consumers(play, 1, &[&a.group], true);
    describe_consumers(play, 0, &[&a.group], false);
    play.note("seen as a group of the other kind");
    describe(play, 6, &[&a.group], false);
    describe(play, 5, &[&a.group], false);
    for types in [&["consumer"][..], &["Consumer", "classic"], &["classic"], &["odd"]] {
        list(play, 5, &[], types);
    }
    list(play, 4, &["stable"], &[]);
    list(play, 5, &["Assigning", "empty"], &[]);
    play.note("a second member, within the interval between assignments");
    let mut b = Consumer::new(play, "b", "g", &["orders"]);
    b.join(play);
    describe_consumers(play, 1, &[&a.group], false);
    a.beat(play);
    play.pass(INTERVAL_MS);
    play.note("and after it");
    b.beat(play);
    describe_consumers(play, 1, &[&a.group], false);
    a.beat(play);
    describe_consumers(play, 1, &[&a.group], false);
    b.beat(play);
    play.note("the first gives up what it was asked to");
    a.acknowledge(play);
    b.beat(play);
    b.acknowledge(play);
    describe_consumers(play, 1, &[&a.group], false);
    play.note("an answer was lost: the epoch before counts");
    let mut late = Consumer { epoch: a.epoch - 1, ..a.clone() };
    late.say(play);
    play.note("everything told anew");
    a.say(play);
    play.note("another subscription");
    b.topics = vec!["orders".into(), "payments".into()];
    play.pass(INTERVAL_MS);
    b.say(play);
    a.beat(play);
    a.acknowledge(play);
    b.acknowledge(play);
    describe_consumers(play, 1, &[&a.group], false);
    play.note("a topic that does not exist, and none");
    play.pass(INTERVAL_MS);
    a.topics = vec!["missing".into()];
    a.say(play);
    a.owned.clear();
    a.say(play);
    play.pass(INTERVAL_MS);
    b.beat(play);
    a.topics.clear();
    a.say(play);
    describe_consumers(play, 1, &[&a.group], false);
    play.note("rejoins");
    a.topics = vec!["payments".into()];
    play.pass(INTERVAL_MS);
    a.join(play);
    b.beat(play);
    b.acknowledge(play);
    a.beat(play);
    play.note("one leaves, then the other");
    delete(play, 2, &[&a.group]);
    b.leave(play, -1);
    b.beat(play);
    a.beat(play);
    play.pass(INTERVAL_MS);
    a.beat(play);
    a.leave(play, -1);
    describe_consumers(play, 1, &[&a.group], false);
    list(play, 5, &[], &[]);
    delete(play, 2, &[&a.group]);
    describe_consumers(play, 1, &[&a.group], false);
    list(play, 5, &[], &[]);
}

pub fn consumer_assignors(play: &mut Play) {
    for assignor in ["uniform", "range"] {
        play.note(assignor);
        let topics = ["orders", "payments"];
        let mut members: Vec<Consumer> = ["m1", "m2", "m3", "m4"]
            .iter()
            .map(|client| Consumer::new(play, client, assignor, &topics))
            .collect();
        for member in &mut members {
            member.assignor = Some(assignor.into());
            member.join(play);
            play.pass(INTERVAL_MS);
        }
        settle(play, &mut members);
        describe_consumers(play, 1, &[&play.group(assignor)], false);
        let mut gone = members.remove(1);
        gone.leave(play, -1);
        play.pass(INTERVAL_MS);
        settle(play, &mut members);
        members[0].topics.truncate(1);
        members[0].say(play);
        play.pass(INTERVAL_MS);
        settle(play, &mut members);
        describe_consumers(play, 1, &[&play.group(assignor)], false);
        members[2].assignor = Some("uniform".into());
        members[1].assignor = Some("uniform".into());
        members.iter_mut().for_each(|member| member.say(play));
        describe_consumers(play, 1, &[&play.group(assignor)], false);
    }
}

/// Until everybody has what it is to have.
fn settle(play: &mut Play, members: &mut [Consumer]) {
    for _ in 0..3 {
        members.iter_mut().for_each(|member| member.acknowledge(play));
    }
}

pub fn consumer_static(play: &mut Play) {
    let mut a = Consumer::fixed(play, "a", "g", &["orders"], "one");
    a.join(play);
    a.acknowledge(play);
    play.note("the same instance while the first is there");
    let mut b = Consumer::fixed(play, "b", "g", &["orders"], "one");
    b.join(play);
    b.epoch = a.epoch;
    b.beat(play);
    b.leave(play, -2);
    play.note("the first leaves for a while, the second takes its place");
    a.leave(play, -2);
    describe_consumers(play, 1, &[&a.group], false);
    a.beat(play);
    b.join(play);
    b.acknowledge(play);
    describe_consumers(play, 1, &[&a.group], false);
    a.beat(play);
    a.leave(play, -1);
    play.note("with another subscription");
    b.leave(play, -2);
    a.topics = vec!["payments".into()];
    play.pass(INTERVAL_MS);
    a.join(play);
    a.acknowledge(play);
    describe_consumers(play, 1, &[&a.group], false);
    play.note("a dynamic member beside it; the static one leaves for good");
    let mut c = Consumer::new(play, "c", "g", &["payments"]);
    c.join(play);
    play.pass(INTERVAL_MS);
    a.acknowledge(play);
    a.acknowledge(play);
    c.beat(play);
    a.leave(play, -1);
    describe_consumers(play, 1, &[&a.group], false);
    c.beat(play);
    c.leave(play, -1);
}

pub fn consumer_patterns(play: &mut Play) {
    let mut a = Consumer { regex: Some("ord.*|paym.*".into()), ..Consumer::new(play, "a", "g", &[]) };
    a.join(play);
    play.pass(200);
    describe_consumers(play, 1, &[&a.group], false);
    a.beat(play);
    a.acknowledge(play);
    describe_consumers(play, 1, &[&a.group], false);
    play.note("a second member with the same pattern");
    let mut b = Consumer { regex: a.regex.clone(), ..Consumer::new(play, "b", "g", &[]) };
    b.topics.clear();
    play.pass(INTERVAL_MS);
    b.join(play);
    a.beat(play);
    a.acknowledge(play);
    b.beat(play);
    b.acknowledge(play);
    play.note("one by name");
    b.regex = Some("".into());
    b.topics = vec!["payments".into()];
    play.pass(INTERVAL_MS);
    b.say(play);
    b.acknowledge(play);
    a.acknowledge(play);
    b.acknowledge(play);
    describe_consumers(play, 1, &[&a.group], false);
    play.note("a pattern that is not one");
    let mut bad = a.clone();
    bad.regex = Some("a**".into());
    bad.say(play);
    describe_consumers(play, 1, &[&a.group], false);
    a.leave(play, -1);
    play.pass(INTERVAL_MS);
    b.beat(play);
    b.leave(play, -1);
}

pub fn consumer_offsets(play: &mut Play) {
    let mut a = Consumer::new(play, "a", "g", &["orders"]);
    play.note("without a group");
    a.commit(play, 9, 5, &[("orders", 0, 1)]);
    a.commit(play, 8, 5, &[("orders", 0, 1)]);
    a.fetch(play, 9, Some("nobody"), 5);
    a.commit(play, 9, -1, &[("orders", 0, 1)]);
    list(play, 5, &[], &[]);
    play.note("the group of the offsets becomes a consumer group");
    a.join(play);
    a.acknowledge(play);
    list(play, 5, &[], &[]);
    let epoch = a.epoch;
    for version in [8, 9, 10] {
        a.commit(play, version, epoch, &[("orders", 0, 10 + i64::from(version)), ("payments", 1, 7)]);
    }
    a.commit(play, 9, epoch + 1, &[("orders", 0, 99)]);
    a.commit(play, 9, -1, &[("orders", 0, 99)]);
    let nobody = Consumer { id: "nobody".into(), ..a.clone() };
    nobody.commit(play, 9, epoch, &[("orders", 0, 99)]);
    for version in [9, 10] {
        a.fetch(play, version, Some(&a.id), epoch);
        a.fetch(play, version, Some(&a.id), epoch - 1);
        a.fetch(play, version, Some("nobody"), epoch);
        a.fetch(play, version, Some(""), -1);
        a.fetch(play, version, None, -1);
        a.fetch(play, version, None, epoch);
    }
    play.note("an older epoch may commit what it has had since");
    let mut b = Consumer::new(play, "b", "g", &["orders"]);
    play.pass(INTERVAL_MS);
    b.join(play);
    a.beat(play);
    a.commit(play, 9, epoch, &[("orders", 0, 20)]);
    a.acknowledge(play);
    b.beat(play);
    b.acknowledge(play);
    a.commit(play, 9, epoch, &[("orders", 0, 21)]);
    a.commit(play, 9, epoch, &[("orders", 1, 21)]);
    for partition in 0..10 {
        b.commit(play, 9, epoch, &[("orders", partition, 22)]);
        a.commit(play, 10, epoch, &[("orders", partition, 23)]);
    }
    a.fetch(play, 9, None, -1);
    a.leave(play, -1);
    b.leave(play, -1);
    a.commit(play, 9, -1, &[("orders", 0, 30)]);
    a.commit(play, 9, 0, &[("orders", 0, 31)]);
    a.fetch(play, 9, Some(&a.id), -1);
    a.fetch(play, 9, None, -1);
    delete(play, 2, &[&a.group]);
    a.fetch(play, 9, None, -1);
}

pub fn consumer_silence(play: &mut Play) {
    let mut a = Consumer::new(play, "a", "g", &["orders"]);
    a.join(play);
    a.acknowledge(play);
    play.pass(INTERVAL_MS);
    let mut b = Consumer::new(play, "b", "g", &["orders"]);
    b.join(play);
    play.note("both are heard of, then only one is");
    for _ in 0..3 {
        play.pass(2_000);
        a.acknowledge(play);
        b.acknowledge(play);
    }
    for _ in 0..4 {
        play.pass(2_000);
        b.acknowledge(play);
    }
    describe_consumers(play, 1, &[&a.group], false);
    a.beat(play);
    play.note("it does not give up what it has to, but is heard of");
    let mut c = Consumer::new(play, "c", "g2", &["orders"]);
    c.rebalance_ms = 3_000;
    c.join(play);
    c.acknowledge(play);
    play.pass(INTERVAL_MS);
    let mut d = Consumer::new(play, "d", "g2", &["orders"]);
    d.join(play);
    for _ in 0..3 {
        c.beat(play);
        d.acknowledge(play);
        play.pass(1_700);
    }
    describe_consumers(play, 1, &[&c.group], false);
    c.beat(play);
    play.pass(INTERVAL_MS);
    d.acknowledge(play);
    play.note("everybody falls silent");
    play.pass(7_000);
    describe_consumers(play, 1, &[&a.group, &c.group], false);
}

pub fn consumer_full(play: &mut Play) {
    for client in ["a", "b", "c", "d", "e", "f"] {
        Consumer::new(play, client, "g", &["orders"]).join(play);
    }
    let mut known = Consumer::new(play, "a", "g", &["orders"]);
    known.join(play);
}

pub fn consumer_upgrade(play: &mut Play) {
    play.note("an empty classic group");
    let mut old = Classic::new(play, "old", "empty", &["orders"]);
    old.join(play);
    let all: Vec<i32> = (0..10).collect();
    old.sync(play, &[(&old.id.clone(), vec![("orders", all.clone())])]);
    old.leave(play);
    let mut a = Consumer::new(play, "a", "empty", &["orders"]);
    a.join(play);
    describe_consumers(play, 1, &[&a.group], false);
    a.leave(play, -1);
    play.note("and back");
    let mut old = Classic::new(play, "old", "empty", &["orders"]);
    old.join(play);
    list(play, 5, &[], &[]);
    old.leave(play);

    play.note("a group at work");
    let mut one = Classic::new(play, "one", "g", &["orders"]);
    one.join(play);
    one.sync(play, &[(&one.id.clone(), vec![("orders", all)])]);
    play.note("a member of the newer protocol joins");
    let mut new = Consumer::new(play, "new", "g", &["orders"]);
    new.join(play);
    list(play, 5, &[], &[]);
    one.heartbeat(play);
    new.beat(play);
    one.join(play);
    one.sync(play, &[]);
    describe_consumers(play, 1, &[&new.group], false);
    one.heartbeat(play);
    one.join(play);
    one.sync(play, &[]);
    one.heartbeat(play);
    new.beat(play);
    new.acknowledge(play);
    one.heartbeat(play);
    describe_consumers(play, 1, &[&new.group], false);
    play.note("wrong generation, wrong protocol, wrong member");
    let wrong = Classic { generation: 99, ..Classic::new(play, "one", "g", &["orders"]) };
    let wrong = Classic { id: one.id.clone(), ..wrong };
    wrong.heartbeat(play);
    let nobody = Classic { id: "nobody".into(), ..Classic::new(play, "one", "g", &["orders"]) };
    nobody.heartbeat(play);
    nobody.leave(play);
    let of_new = Classic { id: new.id.clone(), generation: new.epoch, ..Classic::new(play, "x", "g", &[]) };
    of_new.heartbeat(play);
    play.note("another classic member is told its id first");
    let mut two = Classic::new(play, "two", "g", &["orders"]);
    two.send_join(play);
    two.joined(play);
    play.note("one with a protocol the others do not have");
    let mut odd = two.request();
    odd.protocols =
        [JoinGroupRequestProtocol { name: "odd".into(), metadata: odd.protocols.first().unwrap().metadata }]
            .into();
    play.send("two", 9, &odd);
    two.joined(play);
    play.note("the last of the newer protocol leaves");
    new.leave(play, -1);
    list(play, 5, &[], &[]);
    describe(play, 5, &[&new.group], false);
    one.heartbeat(play);
    one.leave(play);
    list(play, 5, &[], &[]);
}

pub fn consumer_static_downgrade(play: &mut Play) {
    let mut a = Consumer::fixed(play, "a", "g", &["orders"], "one");
    a.join(play);
    a.acknowledge(play);
    let mut classic =
        Classic { instance_id: Some("one".into()), ..Classic::new(play, "old", "g", &["orders"]) };
    play.note("a static member comes back with the classic protocol");
    classic.send_join(play);
    classic.joined(play);
    list(play, 5, &[], &[]);
    classic.sync(play, &[]);
    classic.heartbeat(play);
    play.note("and again with the newer one");
    let mut b = Consumer::fixed(play, "b", "g", &["orders"], "one");
    b.join(play);
    list(play, 5, &[], &[]);
    b.acknowledge(play);
    b.leave(play, -1);
}

/// What a restart keeps.
pub fn consumer_before_restart(play: &mut Play) {
    let mut a = Consumer::new(play, "a", "g", &["orders", "payments"]);
    let mut b = Consumer::fixed(play, "b", "g", &["orders"], "fixed");
    let mut c = Consumer { regex: Some("pay.*".into()), ..Consumer::new(play, "c", "g", &[]) };
    a.join(play);
    a.acknowledge(play);
    play.pass(INTERVAL_MS);
    b.join(play);
    a.acknowledge(play);
    b.acknowledge(play);
    play.pass(INTERVAL_MS);
    c.join(play);
    play.pass(300);
    c.beat(play);
    a.beat(play);
    describe_consumers(play, 1, &[&a.group], false);
    a.commit(play, 9, a.epoch, &[("orders", 0, 5)]);
    let mut gone = Consumer::new(play, "gone", "gone", &["orders"]);
    gone.join(play);
    gone.leave(play, -1);
    let mut empty = Consumer::new(play, "empty", "empty", &["orders"]);
    empty.join(play);
    empty.leave(play, -1);
    delete(play, 2, &[&gone.group]);
}

pub fn consumer_after_restart(play: &mut Play) {
    let group = "consumer_before_restart-g";
    describe_consumers(
        play,
        1,
        &[group, "consumer_before_restart-gone", "consumer_before_restart-empty"],
        false,
    );
}
