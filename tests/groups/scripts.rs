//! The scripts. Every group is the script's own, so that they can share a broker; waits are short, but long enough for a
//! busy machine to keep their order.

use ringlog::protocol::messages::delete_groups_request::DeleteGroupsRequest;
use ringlog::protocol::messages::delete_groups_response::DeleteGroupsResponse;
use ringlog::protocol::messages::describe_groups_request::DescribeGroupsRequest;
use ringlog::protocol::messages::describe_groups_response::DescribeGroupsResponse;
use ringlog::protocol::messages::heartbeat_request::HeartbeatRequest;
use ringlog::protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ringlog::protocol::messages::join_group_response::JoinGroupResponse;
use ringlog::protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use ringlog::protocol::messages::list_groups_request::ListGroupsRequest;
use ringlog::protocol::messages::list_groups_response::ListGroupsResponse;
use ringlog::protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ringlog::protocol::messages::offset_delete_request::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use ringlog::protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use ringlog::protocol::messages::offset_fetch_response::OffsetFetchResponse;
use ringlog::protocol::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use ringlog::protocol::messages::sync_group_response::SyncGroupResponse;
use ringlog::protocol::{Array, Element, Uuid};

use super::play::Play;

/// A client that takes part in a group.
#[derive(Clone)]
struct Member {
    client: String,
    group: String,
    id: String,
    instance_id: Option<String>,
    generation: i32,
    session_ms: i32,
    rebalance_ms: i32,
    protocols: Vec<(String, Vec<u8>)>,
    /// Of the group, as the last join told.
    protocol: String,
    leader: String,
}

impl Member {
    fn new(play: &Play, client: &str, group: &str) -> Self {
        Member {
            client: client.into(),
            group: play.group(group),
            id: String::new(),
            instance_id: None,
            generation: -1,
            session_ms: 20_000,
            rebalance_ms: 20_000,
            protocols: vec![("range".into(), subscription(&["orders"], client))],
            protocol: "range".into(),
            leader: String::new(),
        }
    }

    fn fixed(play: &Play, client: &str, group: &str, instance_id: &str) -> Self {
        Member { instance_id: Some(instance_id.into()), ..Member::new(play, client, group) }
    }

    fn request(&self) -> JoinGroupRequest<'static> {
        let protocols = self.protocols.iter().map(|(name, metadata)| JoinGroupRequestProtocol {
            name: name.clone().into(),
            metadata: metadata.clone().into(),
        });
        JoinGroupRequest {
            group_id: self.group.clone().into(),
            session_timeout_ms: self.session_ms,
            rebalance_timeout_ms: self.rebalance_ms,
            member_id: self.id.clone().into(),
            group_instance_id: self.instance_id.clone().map(Into::into),
            protocol_type: "consumer".into(),
            protocols: protocols.collect(),
            reason: None,
        }
    }

    fn join(&mut self, play: &mut Play, version: i16) {
        play.send(&self.client, version, &self.request());
    }

    fn joined(&mut self, play: &mut Play, version: i16) {
        let order =
            |answer: &mut JoinGroupResponse<'static>| sort(&mut answer.members, |m| m.metadata.to_vec());
        let answer: JoinGroupResponse<'_> = play.receive(&self.client, version, order);
        if !answer.member_id.is_empty() {
            self.id = answer.member_id.into_owned();
        }
        if answer.error_code == 0 {
            self.generation = answer.generation_id;
            self.protocol = answer.protocol_name.unwrap().into_owned();
            self.leader = answer.leader.into_owned();
        }
    }

    /// Until the join that waits for others.
    fn start(&mut self, play: &mut Play, version: i16) {
        self.join(play, version);
        if version >= 4 && self.id.is_empty() && self.instance_id.is_none() {
            self.joined(play, version);
            self.join(play, version);
        }
    }

    fn sync(&self, play: &mut Play, version: i16, assignments: &[(&Member, &str)]) {
        let assignments = assignments.iter().map(|(member, assignment)| SyncGroupRequestAssignment {
            member_id: member.id.clone().into(),
            assignment: assignment.as_bytes().to_vec().into(),
        });
        let request = SyncGroupRequest {
            group_id: self.group.clone().into(),
            generation_id: self.generation,
            member_id: self.id.clone().into(),
            group_instance_id: self.instance_id.clone().map(Into::into),
            protocol_type: Some("consumer".into()),
            protocol_name: Some(self.protocol.clone().into()),
            assignments: assignments.collect(),
        };
        play.send(&self.client, version, &request);
    }

    fn synced(&self, play: &mut Play, version: i16) {
        play.receive::<SyncGroupResponse<'_>>(&self.client, version, |_| {});
    }

    fn heartbeat(&self, play: &mut Play, version: i16) {
        let request = HeartbeatRequest {
            group_id: self.group.clone().into(),
            generation_id: self.generation,
            member_id: self.id.clone().into(),
            group_instance_id: self.instance_id.clone().map(Into::into),
        };
        play.ask(&self.client, version, &request);
    }

    fn leave(&self, play: &mut Play, version: i16) {
        let identity = MemberIdentity {
            member_id: self.id.clone().into(),
            group_instance_id: self.instance_id.clone().map(Into::into),
            reason: Some("done".into()),
        };
        let request = LeaveGroupRequest {
            group_id: self.group.clone().into(),
            member_id: self.id.clone().into(),
            members: [identity].into(),
        };
        play.ask(&self.client, version, &request);
    }

    fn commit(&self, play: &mut Play, version: i16, offsets: &[(&str, i32, i64, Option<&str>)]) {
        let topics = offsets.iter().map(|(topic, partition_index, committed_offset, metadata)| {
            let partition = OffsetCommitRequestPartition {
                partition_index: *partition_index,
                committed_offset: *committed_offset,
                committed_leader_epoch: 5,
                committed_metadata: metadata.map(|text| text.to_string().into()),
            };
            let topic_id = play.topic_ids.get(topic).copied().unwrap_or(Uuid([9; 16]));
            OffsetCommitRequestTopic {
                name: topic.to_string().into(),
                topic_id,
                partitions: [partition].into(),
            }
        });
        let request = OffsetCommitRequest {
            group_id: self.group.clone().into(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.id.clone().into(),
            group_instance_id: self.instance_id.clone().map(Into::into),
            topics: topics.collect(),
            ..Default::default()
        };
        play.ask(&self.client, version, &request);
    }
}

/// A consumer's metadata, told apart by its user data.
fn subscription(topics: &[&str], user_data: &str) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((user_data.len() as i32).to_be_bytes());
    bytes.extend(user_data.as_bytes());
    bytes
}

pub fn sort<T: Element<'static>, K: Ord>(array: &mut Array<'static, T>, key: impl Fn(&T) -> K) {
    let mut elements = array.to_vec();
    elements.sort_by_key(key);
    *array = elements.into();
}

/// All join, the first leads; then all are given their client's name.
fn stabilize(play: &mut Play, members: &mut [&mut Member]) {
    for member in members.iter_mut() {
        member.start(play, 9);
        play.pass(100);
    }
    for member in members.iter_mut() {
        member.joined(play, 9);
    }
    assign(play, members);
}

fn assign(play: &mut Play, members: &mut [&mut Member]) {
    let all: Vec<Member> = members.iter().map(|member| (*member).clone()).collect();
    let assignments: Vec<(&Member, &str)> =
        all.iter().map(|member| (member, member.client.as_str())).collect();
    for member in &all {
        member.sync(play, 5, if member.id == member.leader { &assignments } else { &[] });
    }
    for member in &all {
        member.synced(play, 5);
    }
}

pub fn describe(play: &mut Play, version: i16, groups: &[&str], operations: bool) {
    let request = DescribeGroupsRequest {
        groups: groups.iter().map(|group| group.to_string().into()).collect(),
        include_authorized_operations: operations,
    };
    play.send("admin", version, &request);
    play.receive("admin", version, |answer: &mut DescribeGroupsResponse<'static>| {
        let mut groups = answer.groups.to_vec();
        groups.iter_mut().for_each(|group| sort(&mut group.members, |member| member.client_id.to_string()));
        groups.sort_by_key(|group| group.group_id.to_string());
        answer.groups = groups.into();
    });
}

pub fn list(play: &mut Play, version: i16, states: &[&str], types: &[&str]) {
    let request = ListGroupsRequest {
        states_filter: states.iter().map(|state| state.to_string().into()).collect(),
        types_filter: types.iter().map(|name| name.to_string().into()).collect(),
    };
    let prefix = play.group("");
    play.send("admin", version, &request);
    play.receive("admin", version, |answer: &mut ListGroupsResponse<'static>| {
        answer.groups = answer.groups.iter().filter(|group| group.group_id.starts_with(&prefix)).collect();
        sort(&mut answer.groups, |group| group.group_id.to_string());
    });
}

pub fn delete(play: &mut Play, version: i16, groups: &[&str]) {
    let groups_names = groups.iter().map(|group| group.to_string().into()).collect();
    play.send("admin", version, &DeleteGroupsRequest { groups_names });
    play.receive("admin", version, |answer: &mut DeleteGroupsResponse<'static>| {
        sort(&mut answer.results, |result| result.group_id.to_string());
    });
}

fn fetch_all(play: &mut Play, version: i16, group: &str, require_stable: bool) {
    let wanted =
        OffsetFetchRequestGroup { group_id: group.to_string().into(), topics: None, ..Default::default() };
    let request = OffsetFetchRequest {
        group_id: group.to_string().into(),
        topics: None,
        groups: [wanted].into(),
        require_stable,
    };
    play.send("admin", version, &request);
    fetched(play, version);
}

fn fetched(play: &mut Play, version: i16) {
    play.receive("admin", version, |answer: &mut OffsetFetchResponse<'static>| {
        let mut topics = answer.topics.to_vec();
        topics.iter_mut().for_each(|topic| sort(&mut topic.partitions, |p| p.partition_index));
        topics.sort_by_key(|topic| topic.name.to_string());
        answer.topics = topics.into();
        let mut groups = answer.groups.to_vec();
        for group in &mut groups {
            let mut topics = group.topics.to_vec();
            topics.iter_mut().for_each(|topic| sort(&mut topic.partitions, |p| p.partition_index));
            topics.sort_by_key(|topic| (topic.name.to_string(), format!("{:?}", topic.partitions)));
            group.topics = topics.into();
        }
        answer.groups = groups.into();
    });
}

fn fetch(play: &mut Play, version: i16, group: &str, wanted: &[(&str, &[i32])]) {
    let by_name = wanted.iter().map(|(topic, indexes)| OffsetFetchRequestTopic {
        name: topic.to_string().into(),
        partition_indexes: indexes.to_vec().into(),
    });
    let topics = wanted.iter().map(|(topic, indexes)| OffsetFetchRequestTopics {
        name: topic.to_string().into(),
        topic_id: play.topic_ids.get(topic).copied().unwrap_or(Uuid([9; 16])),
        partition_indexes: indexes.to_vec().into(),
    });
    let group_wanted = OffsetFetchRequestGroup {
        group_id: group.to_string().into(),
        topics: Some(topics.collect()),
        ..Default::default()
    };
    let request = OffsetFetchRequest {
        group_id: group.to_string().into(),
        topics: Some(by_name.collect()),
        groups: [group_wanted].into(),
        require_stable: false,
    };
    play.send("admin", version, &request);
    fetched(play, version);
}

pub fn every_version(play: &mut Play) {
    for version in 0..=9 {
        let mut a = Member::new(play, "a", &format!("v{version}"));
        play.note(&format!("JoinGroup {version}"));
        a.start(play, version);
        a.joined(play, version);
        let sync = version.min(5);
        a.sync(play, sync, &[(&a, "all")]);
        a.synced(play, sync);
        a.heartbeat(play, version.min(4));
        let describe_version = version.min(6);
        let group = a.group.clone();
        describe(play, describe_version, &[&group], true);
        a.leave(play, version.min(5));
        a.heartbeat(play, version.min(4));
        describe(play, describe_version, &[&group], false);
    }
}

pub fn refused_at_once(play: &mut Play) {
    let ok = Member::new(play, "a", "refused");
    let tries = [
        ("no group id", Member { group: String::new(), ..ok.clone() }),
        ("a session too short", Member { session_ms: 99, ..ok.clone() }),
        ("a session too long", Member { session_ms: 1_800_001, ..ok.clone() }),
        ("no protocols", Member { protocols: Vec::new(), ..ok.clone() }),
        ("an unknown member", Member { id: "a-stranger".into(), group: play.group("none"), ..ok.clone() }),
    ];
    for (what, mut member) in tries {
        play.note(what);
        for version in [1, 3, 5, 7, 9] {
            let before = member.id.clone();
            member.join(play, version);
            member.joined(play, version);
            member.id = before;
        }
    }
    play.note("no protocol type");
    let request = JoinGroupRequest { protocol_type: "".into(), ..ok.request() };
    play.ask("a", 9, &request);
    play.note("requests to no group");
    let none = Member { group: play.group("none"), id: "x".into(), generation: 1, ..ok.clone() };
    for version in 0..=5 {
        none.sync(play, version, &[]);
        none.synced(play, version);
        none.heartbeat(play, version.min(4));
        none.leave(play, version);
    }
    let unnamed = Member { group: String::new(), ..none.clone() };
    for version in [0, 5] {
        unnamed.sync(play, version, &[]);
        unnamed.synced(play, version);
        unnamed.heartbeat(play, version.min(4));
        unnamed.leave(play, version);
    }
    play.note("SyncGroup without a protocol");
    let request = SyncGroupRequest { group_id: none.group.clone().into(), ..Default::default() };
    play.ask("a", 5, &request);
}

pub fn two_members(play: &mut Play) {
    let (mut a, mut b) = (Member::new(play, "a", "g"), Member::new(play, "b", "g"));
    let group = a.group.clone();
    stabilize(play, &mut [&mut a, &mut b]);
    describe(play, 5, &[&group], false);
    play.note("wrong generation, wrong member, wrong protocol");
    Member { generation: 7, ..a.clone() }.heartbeat(play, 4);
    Member { id: "x".into(), ..a.clone() }.heartbeat(play, 4);
    let wrong = Member { protocol: "sticky".into(), ..a.clone() };
    wrong.sync(play, 5, &[]);
    wrong.synced(play, 5);
    Member { generation: 7, ..a.clone() }.sync(play, 5, &[]);
    a.synced(play, 5);
    play.note("the follower asks again, with nothing new");
    b.join(play, 9);
    b.joined(play, 9);
    b.sync(play, 5, &[]);
    b.synced(play, 5);
    play.note("a third comes with a protocol of its own only");
    let mut c = Member::new(play, "c", "g");
    c.protocols[0].0 = "other".into();
    c.join(play, 9);
    c.joined(play, 9);
    play.note("and with a known one");
    c.protocols[0].0 = "range".into();
    c.id.clear();
    c.start(play, 9);
    play.pass(50);
    describe(play, 5, &[&group], false);
    a.heartbeat(play, 4);
    a.sync(play, 5, &[]);
    a.synced(play, 5);
    a.join(play, 9);
    b.join(play, 9);
    a.joined(play, 9);
    b.joined(play, 9);
    c.joined(play, 9);
    describe(play, 5, &[&group], false);
    play.note("asked again while the assignment is open");
    a.join(play, 9);
    a.joined(play, 9);
    b.join(play, 9);
    b.joined(play, 9);
    assign(play, &mut [&mut a, &mut b, &mut c]);
    play.note("the leader leaves");
    a.leave(play, 5);
    a.heartbeat(play, 4);
    b.heartbeat(play, 4);
    b.join(play, 9);
    play.pass(100);
    c.leave(play, 5);
    b.joined(play, 9);
    b.leave(play, 5);
    describe(play, 5, &[&group], false);
    list(play, 5, &[], &[]);
}

pub fn static_members(play: &mut Play) {
    let (mut a, mut b) = (Member::fixed(play, "a", "g", "one"), Member::fixed(play, "b", "g", "two"));
    let group = a.group.clone();
    stabilize(play, &mut [&mut a, &mut b]);
    play.note("the follower restarts");
    let old = b.clone();
    b.id.clear();
    b.join(play, 9);
    b.joined(play, 9);
    b.sync(play, 5, &[]);
    b.synced(play, 5);
    old.heartbeat(play, 4);
    old.commit(play, 9, &[("orders", 0, 1, None)]);
    old.leave(play, 5);
    let mut again = old.clone();
    again.join(play, 9);
    again.joined(play, 9);
    play.note("the leader restarts");
    for version in [9, 8, 5] {
        a.id.clear();
        a.join(play, version);
        a.joined(play, version);
    }
    describe(play, 5, &[&group], false);
    a.heartbeat(play, 4);
    play.note("one restarts with another protocol in front");
    a.protocols.insert(0, ("sticky".into(), subscription(&["orders"], "a")));
    a.id.clear();
    a.join(play, 9);
    a.joined(play, 9);
    play.note("an unknown instance, and one with somebody else's id");
    Member { instance_id: Some("three".into()), ..b.clone() }.heartbeat(play, 4);
    Member { instance_id: Some("one".into()), ..b.clone() }.heartbeat(play, 4);
    play.note("an administrator removes");
    let identity = |instance_id: Option<&str>, member_id: &str| MemberIdentity {
        member_id: member_id.to_string().into(),
        group_instance_id: instance_id.map(|id| id.to_string().into()),
        reason: None,
    };
    let members = vec![
        identity(Some("two"), ""),
        identity(Some("nobody"), ""),
        identity(None, ""),
        identity(Some("one"), "wrong"),
        identity(None, "unknown"),
    ];
    for version in [3, 5] {
        let request = LeaveGroupRequest {
            group_id: group.clone().into(),
            members: members.clone().into(),
            ..Default::default()
        };
        play.ask("admin", version, &request);
    }
    b.heartbeat(play, 4);
}

pub fn silence(play: &mut Play) {
    play.note("a session ends");
    let mut a = Member { session_ms: 1_500, ..Member::new(play, "a", "session") };
    let mut b = Member { session_ms: 20_000, ..Member::new(play, "b", "session") };
    stabilize(play, &mut [&mut b, &mut a]);
    play.pass(2_500);
    a.heartbeat(play, 4);
    b.heartbeat(play, 4);
    let group = b.group.clone();
    describe(play, 5, &[&group], false);
    b.join(play, 9);
    b.joined(play, 9);
    play.note("one does not rejoin");
    let mut c = Member { rebalance_ms: 1_500, ..Member::new(play, "c", "rejoin") };
    let mut d = Member { rebalance_ms: 1_500, ..Member::new(play, "d", "rejoin") };
    stabilize(play, &mut [&mut c, &mut d]);
    c.join(play, 9);
    play.pass(500);
    d.heartbeat(play, 4);
    c.joined(play, 9);
    d.heartbeat(play, 4);
    play.note("one does not fetch its assignment");
    let mut e = Member { rebalance_ms: 1_500, ..Member::new(play, "e", "sync") };
    let mut f = Member { rebalance_ms: 1_500, ..Member::new(play, "f", "sync") };
    e.start(play, 9);
    play.pass(100);
    f.start(play, 9);
    e.joined(play, 9);
    f.joined(play, 9);
    e.sync(play, 5, &[(&e, "e")]);
    e.synced(play, 5);
    play.pass(2_500);
    f.heartbeat(play, 4);
    e.heartbeat(play, 4);
    play.note("the leader does not assign");
    let mut g = Member { rebalance_ms: 1_500, ..Member::new(play, "g", "assign") };
    let mut h = Member { rebalance_ms: 1_500, ..Member::new(play, "h", "assign") };
    g.start(play, 9);
    play.pass(100);
    h.start(play, 9);
    g.joined(play, 9);
    h.joined(play, 9);
    h.sync(play, 5, &[]);
    h.synced(play, 5);
    g.heartbeat(play, 4);
    play.note("a member id is never used");
    let mut i = Member { session_ms: 1_000, ..Member::new(play, "i", "unused") };
    i.join(play, 9);
    i.joined(play, 9);
    let group = i.group.clone();
    describe(play, 5, &[&group], false);
    list(play, 5, &["empty"], &["Classic"]);
    play.pass(2_000);
    i.join(play, 9);
    i.joined(play, 9);
}

pub fn full_group(play: &mut Play) {
    let mut members: Vec<Member> =
        ["a", "b", "c", "d"].iter().map(|client| Member::new(play, client, "g")).collect();
    let mut all: Vec<&mut Member> = members.iter_mut().collect();
    stabilize(play, &mut all);
    let mut late = Member::new(play, "late", "g");
    play.note("a fifth");
    for version in [3, 9] {
        late.join(play, version);
        late.joined(play, version);
    }
    members[0].join(play, 9);
    play.pass(50);
    late.join(play, 9);
    late.joined(play, 9);
    members[1].join(play, 9);
    members[2].join(play, 9);
    members[3].join(play, 9);
    for member in &mut members {
        member.joined(play, 9);
    }
}

pub fn protocol_vote(play: &mut Play) {
    let orders: [(&str, &[&[&str]]); 4] = [
        ("tie", &[&["range", "roundrobin"], &["roundrobin", "range"]]),
        (
            "tie-of-four",
            &[
                &["sticky", "range", "roundrobin", "cooperative-sticky"],
                &["cooperative-sticky", "roundrobin", "range", "sticky"],
            ],
        ),
        ("most", &[&["range", "sticky"], &["sticky", "range"], &["sticky", "range"]]),
        ("common", &[&["a", "b", "c"], &["c", "b"]]),
    ];
    for (group, members) in orders {
        play.note(group);
        let mut joined: Vec<Member> = Vec::new();
        for (client, names) in ["a", "b", "c"].iter().zip(members) {
            let protocols = names.iter().map(|name| (name.to_string(), subscription(&["orders"], client)));
            let mut member = Member { protocols: protocols.collect(), ..Member::new(play, client, group) };
            member.start(play, 9);
            play.pass(100);
            joined.push(member);
        }
        for member in &mut joined {
            member.joined(play, 9);
        }
    }
}

pub fn offsets(play: &mut Play) {
    let simple = Member::new(play, "admin", "simple");
    let group = simple.group.clone();
    for version in 2..=9 {
        play.note(&format!("OffsetCommit {version}"));
        let partition = i32::from(version);
        simple.commit(
            play,
            version,
            &[
                ("orders", partition, 100 + i64::from(version), Some("why")),
                ("orders", 10, 1, None),
                ("orders", -1, 1, None),
                ("payments", 0, i64::from(version), None),
                ("payments", 1, 1, Some("seventeen letters")),
                ("payments", 2, 1, Some("sixteen letters!")),
                ("none", 0, 1, None),
            ],
        );
    }
    for version in 1..=9 {
        play.note(&format!("OffsetFetch {version}"));
        fetch(play, version, &group, &[("payments", &[0, 1, 2, 77]), ("orders", &[2, 9, 3]), ("none", &[0])]);
        fetch(play, version, &play.group("none"), &[("payments", &[0])]);
        if version >= 2 {
            fetch_all(play, version, &group, false);
            fetch_all(play, version, &play.group("none"), true);
        }
    }
    fetch_all(play, 9, &group, true);
    play.note("several groups");
    let wanted = |id: &str| OffsetFetchRequestGroup {
        group_id: id.to_string().into(),
        topics: None,
        ..Default::default()
    };
    let groups = vec![wanted(&play.group("none")), wanted("")];
    let request = OffsetFetchRequest { groups: groups.into(), ..Default::default() };
    play.ask("admin", 8, &request);
    play.note("negative offsets, the same partition twice");
    simple.commit(
        play,
        9,
        &[("orders", 0, -1, None), ("orders", 1, -5, None), ("orders", 2, 1, None), ("orders", 2, 2, None)],
    );
    fetch(play, 9, &group, &[("orders", &[0, 1, 2])]);
    describe(play, 6, &[&group], false);
    list(play, 5, &[], &[]);
}

pub fn offsets_by_id(play: &mut Play) {
    let simple = Member::new(play, "admin", "simple");
    let group = simple.group.clone();
    simple.commit(
        play,
        10,
        &[("orders", 0, 1, None), ("none", 0, 1, None), ("orders", 10, 1, None), ("payments", 3, 4, None)],
    );
    fetch(play, 10, &group, &[("none", &[0, 1]), ("orders", &[0, 1]), ("payments", &[3])]);
    fetch_all(play, 10, &group, false);
    fetch_all(play, 10, &play.group("none"), false);
    fetch(play, 10, &play.group("none"), &[("orders", &[0])]);
}

pub fn offsets_of_members(play: &mut Play) {
    let mut a = Member::new(play, "a", "g");
    a.start(play, 9);
    a.joined(play, 9);
    play.note("while the assignment is open");
    let offsets = [("orders", 0, 1, None)];
    a.commit(play, 9, &offsets);
    assign(play, &mut [&mut a]);
    for version in [2, 8, 9, 10] {
        play.note(&format!("OffsetCommit {version}"));
        a.commit(play, version, &offsets);
        Member { generation: 9, ..a.clone() }.commit(play, version, &offsets);
        Member { id: "x".into(), ..a.clone() }.commit(play, version, &offsets);
        Member { id: String::new(), generation: -1, ..a.clone() }.commit(play, version, &offsets);
        Member { group: play.group("none"), ..a.clone() }.commit(play, version, &offsets);
        if version >= 7 {
            Member { instance_id: Some("i".into()), ..a.clone() }.commit(play, version, &offsets);
        }
    }
    a.leave(play, 5);
    play.note("after it has left");
    a.commit(play, 9, &offsets);
    Member { id: String::new(), generation: -1, ..a.clone() }.commit(play, 9, &offsets);
    let group = a.group.clone();
    fetch_all(play, 9, &group, false);
}

pub fn deletion(play: &mut Play) {
    let simple = Member::new(play, "admin", "simple");
    simple.commit(play, 9, &[("orders", 0, 1, None), ("orders", 1, 1, None), ("payments", 0, 1, None)]);
    let mut a = Member::new(play, "a", "busy");
    let (group, busy, none) = (simple.group.clone(), a.group.clone(), play.group("none"));
    stabilize(play, &mut [&mut a]);
    a.commit(play, 9, &[("orders", 0, 1, None), ("payments", 0, 1, None)]);
    let offsets = |play: &mut Play, group: &str, wanted: &[(&str, &[i32])]| {
        let topics = wanted.iter().map(|(name, indexes)| OffsetDeleteRequestTopic {
            name: name.to_string().into(),
            partitions: indexes
                .iter()
                .map(|index| OffsetDeleteRequestPartition { partition_index: *index })
                .collect(),
        });
        let request = OffsetDeleteRequest { group_id: group.to_string().into(), topics: topics.collect() };
        play.ask("admin", 0, &request);
    };
    play.note("OffsetDelete");
    offsets(play, &group, &[("orders", &[1, 5, 77]), ("none", &[0])]);
    offsets(play, &busy, &[("orders", &[0]), ("payments", &[0])]);
    offsets(play, &none, &[("orders", &[0])]);
    offsets(play, "", &[("orders", &[0])]);
    fetch_all(play, 9, &group, false);
    fetch_all(play, 9, &busy, false);
    for version in 0..=2 {
        play.note(&format!("DeleteGroups {version}"));
        delete(play, version, &[&none, &busy, ""]);
    }
    delete(play, 2, &[&group, &group]);
    fetch_all(play, 9, &group, false);
    describe(play, 6, &[&group, ""], true);
    describe(play, 5, &[&group, ""], true);
    list(play, 5, &[], &[]);
    a.leave(play, 5);
    delete(play, 2, &[&busy]);
    list(play, 5, &[], &[]);
}

pub fn descriptions(play: &mut Play) {
    let mut a = Member::new(play, "a", "g");
    let other =
        Member { protocols: vec![("default".into(), vec![1, 2, 3])], ..Member::new(play, "b", "other") };
    let (group, other_group, none) = (a.group.clone(), other.group.clone(), play.group("none"));
    stabilize(play, &mut [&mut a]);
    let request = JoinGroupRequest { protocol_type: "connect".into(), ..other.request() };
    play.send("b", 3, &request);
    play.receive::<JoinGroupResponse<'_>>("b", 3, |_| {});
    for version in 0..=6 {
        describe(play, version, &[&none, &group, &other_group], version % 2 == 0);
    }
    for version in 0..=5 {
        list(play, version, &[], &[]);
    }
    list(play, 4, &["Stable"], &[]);
    list(play, 4, &[" stable ", "CompletingREBALANCE"], &[]);
    list(play, 5, &["Empty", "Dead"], &[]);
    list(play, 5, &[], &["classic"]);
    list(play, 5, &[], &["CLASSIC", "consumer"]);
    list(play, 5, &[], &["share"]);
    list(play, 5, &["nonsense"], &[]);
    list(play, 5, &[], &["nonsense"]);
}

pub fn before_restart(play: &mut Play) {
    let (mut a, mut b, mut c) = (
        Member { session_ms: 300_000, ..Member::new(play, "a", "stable") },
        Member { session_ms: 300_000, ..Member::fixed(play, "b", "stable", "one") },
        Member::new(play, "c", "stable"),
    );
    stabilize(play, &mut [&mut a, &mut b, &mut c]);
    a.commit(play, 9, &[("orders", 0, 1, Some("first")), ("orders", 1, 2, None)]);
    a.commit(play, 9, &[("orders", 0, 10, Some("second"))]);
    b.id.clear();
    b.join(play, 9);
    b.joined(play, 9);
    b.sync(play, 5, &[]);
    b.synced(play, 5);
    play.note("members that come and go");
    let mut d = Member::new(play, "d", "empty");
    stabilize(play, &mut [&mut d]);
    d.commit(play, 10, &[("payments", 5, 7, Some("kept"))]);
    d.leave(play, 5);
    play.note("no members at all, and an old client's retention");
    let simple = Member::new(play, "admin", "simple");
    simple.commit(play, 9, &[("orders", 3, 3, None)]);
    let partition =
        OffsetCommitRequestPartition { partition_index: 4, committed_offset: 4, ..Default::default() };
    let topic = OffsetCommitRequestTopic {
        name: "orders".into(),
        partitions: [partition].into(),
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: simple.group.clone().into(),
        retention_time_ms: 1 << 40,
        topics: [topic].into(),
        ..Default::default()
    };
    play.ask("admin", 4, &request);
    play.note("deleted, and an offset deleted");
    let gone = Member::new(play, "admin", "gone");
    gone.commit(play, 9, &[("orders", 3, 3, None)]);
    let group = gone.group.clone();
    delete(play, 2, &[&group]);
    simple.commit(play, 9, &[("orders", 9, 9, None)]);
    let topic = OffsetDeleteRequestTopic {
        name: "orders".into(),
        partitions: [OffsetDeleteRequestPartition { partition_index: 9 }].into(),
    };
    let request = OffsetDeleteRequest { group_id: simple.group.clone().into(), topics: [topic].into() };
    play.ask("admin", 0, &request);
    play.note("in the middle of a rebalance, with an id nobody has used yet");
    let mut e = Member { session_ms: 300_000, ..Member::new(play, "e", "moving") };
    stabilize(play, &mut [&mut e]);
    let mut f = Member::new(play, "f", "moving");
    f.start(play, 9);
    let mut g = Member::new(play, "g", "new");
    g.join(play, 9);
    g.joined(play, 9);
}

pub fn after_restart(play: &mut Play) {
    let groups =
        ["stable", "empty", "simple", "gone", "moving", "new"].map(|name| format!("before_restart-{name}"));
    for group in &groups {
        describe(play, 6, &[group], false);
        fetch_all(play, 9, group, false);
        fetch_all(play, 10, group, true);
    }
    play.send("admin", 5, &ListGroupsRequest::default());
    play.receive("admin", 5, |answer: &mut ListGroupsResponse<'static>| {
        answer.groups =
            answer.groups.iter().filter(|group| group.group_id.starts_with("before_restart")).collect();
        sort(&mut answer.groups, |group| group.group_id.to_string());
    });
}
