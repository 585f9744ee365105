//! Scripts of what groups do over time, and random schedules. [`World`] is a shard in miniature: it keeps the log,
//! reports appends back at once or when told, and remembers every answer.

mod answers; // what is refused, and how
mod consumers; // any schedule of the newer protocol keeps its invariants
mod offsets; // commits, fetches, expiry, deletion
mod random; // any schedule keeps the invariants
mod rebalances; // members come, go and fall silent
mod restarts; // the log rebuilds what was live
mod static_members;
mod transactions; // commits that count when their transaction is committed

use std::collections::{BTreeMap, VecDeque};

use crate::broker::handlers::write_txn_markers;
use crate::protocol::messages::heartbeat_request::HeartbeatRequest;
use crate::protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use crate::protocol::messages::join_group_response::JoinGroupResponse;
use crate::protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use crate::protocol::messages::leave_group_response::LeaveGroupResponse;
use crate::protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::protocol::messages::offset_commit_response::OffsetCommitResponse;
use crate::protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestGroup};
use crate::protocol::messages::offset_fetch_response::OffsetFetchResponse;
use crate::protocol::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use crate::protocol::messages::sync_group_response::SyncGroupResponse;
use crate::protocol::{ErrorCode, Message, Request, Uuid};
use crate::record;

use super::*;

pub const PARTITIONS: i32 = 5;
pub const SESSION_MS: i32 = 10_000;
pub const REBALANCE_MS: i32 = 30_000;

/// The topics of every test, each with this many partitions; and the version that created the last.
pub struct Topics(pub Vec<(&'static str, Uuid)>, pub i32, pub u64);

impl Default for Topics {
    fn default() -> Self {
        Topics(vec![("orders", Uuid([1; 16])), ("payments", Uuid([2; 16])), ("audit", Uuid([3; 16]))], 10, 0)
    }
}

impl TopicLookup for Topics {
    fn topic_id(&self, name: &str) -> Option<Uuid> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, id)| *id)
    }

    fn topic_name(&self, id: Uuid) -> Option<Arc<str>> {
        self.0.iter().find(|(_, known)| *known == id).map(|(name, _)| (*name).into())
    }

    fn partition_count(&self, name: &str) -> Option<i32> {
        self.topic_id(name).map(|_| self.1)
    }

    fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = self.0.iter().map(|(name, _)| (*name).into()).collect();
        names.sort_unstable();
        names
    }

    fn version(&self) -> u64 {
        self.2.max(self.1 as u64)
    }

    fn created_version(&self) -> u64 {
        self.2
    }
}

/// A request on its way: what is needed to read its answer.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub to: ReplyTo,
    pub version: i16,
}

pub struct World {
    pub coordinator: GroupCoordinator,
    pub config: GroupConfig,
    pub topics: Topics,
    pub now: Now,
    /// Batches by partition, offsets assigned.
    pub log: BTreeMap<i32, Vec<Vec<u8>>>,
    next_offset: i64,
    /// Appends that have not been reported back.
    pub appends: VecDeque<(AppendId, i64)>,
    /// Report every append at once.
    pub prompt: bool,
    pub answers: BTreeMap<ReplyTo, Vec<u8>>,
    /// What became of markers.
    pub marked: BTreeMap<ReplyTo, Result<(), ErrorCode>>,
    next_to: u64,
}

impl World {
    pub fn new() -> Self {
        World::with(GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() })
    }

    pub fn with(config: GroupConfig) -> Self {
        let mut world = World {
            coordinator: GroupCoordinator::new(config.clone(), PARTITIONS),
            config,
            topics: Topics::default(),
            now: Now { monotonic_ms: 1_000, wall_ms: 1_700_000_000_000 },
            log: BTreeMap::new(),
            next_offset: 0,
            appends: VecDeque::new(),
            prompt: true,
            answers: BTreeMap::new(),
            marked: BTreeMap::new(),
            next_to: 0,
        };
        world.load();
        world
    }

    fn load(&mut self) {
        let mut out = Vec::new();
        for partition in 0..PARTITIONS {
            self.coordinator.load_begin(partition);
            for batch in self.log.get(&partition).into_iter().flatten() {
                self.coordinator.load_batch(self.now, partition, batch);
            }
            self.coordinator.load_end(self.now, partition, &mut out);
        }
        self.carry_out(out);
    }

    /// Everything but the log is gone; who waits stays without an answer.
    pub fn restart(&mut self) {
        self.appends.clear();
        self.config.member_id_seed += 1;
        self.coordinator = GroupCoordinator::new(self.config.clone(), PARTITIONS);
        self.load();
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply { to, body } => {
                    let before = self.answers.insert(to, body);
                    assert!(before.is_none(), "{to:?} is answered twice");
                    assert!(to.0 < self.next_to, "{to:?} was never asked");
                }
                Effect::Append { partition, append, batch, .. } => self.append(partition, append, batch),
                Effect::AppendMarker { partition, append, marker, .. } => {
                    let batch = write_txn_markers::batch(&marker, self.now.wall_ms).unwrap();
                    self.append(partition, append, batch);
                }
                Effect::Marked { to, result } => {
                    let before = self.marked.insert(to, result);
                    assert!(before.is_none(), "{to:?} is told twice");
                }
            }
        }
        while self.prompt && !self.appends.is_empty() {
            self.report();
        }
    }

    fn append(&mut self, partition: i32, append: AppendId, mut batch: Vec<u8>) {
        let header = record::BatchHeader::parse(&batch).unwrap();
        record::assign(&mut batch, self.next_offset, 0);
        self.appends.push_back((append, self.next_offset));
        self.next_offset += i64::from(header.records_count);
        self.log.entry(partition).or_default().push(batch);
    }

    /// The oldest append under way is durable.
    pub fn report(&mut self) {
        let Some((append, offset)) = self.appends.pop_front() else { return };
        let mut out = Vec::new();
        self.coordinator.appended(self.now, append, Ok(offset), &mut out);
        self.carry_out(out);
    }

    /// The oldest append under way failed and is in no log.
    pub fn fail(&mut self, error: ErrorCode) {
        let Some((append, offset)) = self.appends.pop_front() else { return };
        for batches in self.log.values_mut() {
            batches.retain(|batch| record::BatchHeader::parse(batch).unwrap().base_offset != offset);
        }
        let mut out = Vec::new();
        self.coordinator.appended(self.now, append, Err(error), &mut out);
        self.carry_out(out);
    }

    /// The log would not take the newest append.
    pub fn refuse(&mut self, error: ErrorCode) {
        if let Some(newest) = self.appends.pop_back() {
            self.appends.push_front(newest);
            self.fail(error);
        }
    }

    /// Time passes, and what becomes due on the way happens when it is due.
    pub fn pass(&mut self, ms: i64) {
        let end = self.now.monotonic_ms + ms;
        while let Some(deadline) = self.coordinator.next_deadline_ms().filter(|deadline| *deadline <= end) {
            let step = (deadline - self.now.monotonic_ms).max(0);
            self.now.monotonic_ms += step;
            self.now.wall_ms += step;
            let mut out = Vec::new();
            self.coordinator.on_timer(self.now, &self.topics, &mut out);
            self.carry_out(out);
        }
        self.now.wall_ms += end - self.now.monotonic_ms;
        self.now.monotonic_ms = end;
    }

    pub fn send<'m, R: Request<'m>>(&mut self, request: &R, version: i16) -> Ticket {
        self.send_as(request, version, "app")
    }

    pub fn send_as<'m, R: Request<'m>>(&mut self, request: &R, version: i16, client_id: &str) -> Ticket {
        let to = ReplyTo(self.next_to);
        self.next_to += 1;
        let body = request.to_bytes(version);
        let request = GroupRequest {
            api_key: R::API_KEY,
            version,
            client_id,
            client_host: "/127.0.0.1",
            body: &body,
            to,
        };
        let mut out = Vec::new();
        self.coordinator.handle(self.now, request, &self.topics, &mut out).unwrap();
        self.carry_out(out);
        Ticket { to, version }
    }

    pub fn is_waiting(&self, ticket: Ticket) -> bool {
        !self.answers.contains_key(&ticket.to)
    }

    /// The answer, which has to be there.
    #[track_caller]
    pub fn answer<M: Message<'static>>(&mut self, ticket: Ticket) -> M {
        let Some(body) = self.answers.get(&ticket.to) else { panic!("{ticket:?} still waits") };
        M::decode_exact(body.clone().leak(), ticket.version).unwrap()
    }

    pub fn ask<'m, R: Request<'m>>(&mut self, request: &R, version: i16) -> R::Response<'static> {
        let ticket = self.send(request, version);
        self.answer(ticket)
    }

    // The requests of the scripts, in their last version

    pub fn join(&mut self, member: &Member) -> Ticket {
        self.send(&member.join_request(), 9)
    }

    /// Joins, with the id that is given out on the way.
    pub fn join_anew(&mut self, member: &mut Member) -> Ticket {
        let ticket = self.join(member);
        if member.id.is_empty() && member.instance_id.is_none() {
            let required: JoinGroupResponse<'_> = self.answer(ticket);
            assert_eq!(required.error_code, ErrorCode::MemberIdRequired.code());
            member.id = required.member_id.into_owned();
            return self.join(member);
        }
        ticket
    }

    #[track_caller]
    pub fn joined(&mut self, member: &mut Member, ticket: Ticket) -> JoinGroupResponse<'static> {
        let response: JoinGroupResponse<'_> = self.answer(ticket);
        assert_eq!(response.error_code, 0, "{response:?}");
        member.id = response.member_id.to_string();
        member.generation = response.generation_id;
        response
    }

    pub fn sync(&mut self, member: &Member, assignments: &[(&Member, &str)]) -> Ticket {
        let assignments = assignments.iter().map(|(member, assignment)| SyncGroupRequestAssignment {
            member_id: member.id.clone().into(),
            assignment: assignment.as_bytes().to_vec().into(),
        });
        let request = SyncGroupRequest {
            group_id: member.group.into(),
            generation_id: member.generation,
            member_id: member.id.clone().into(),
            group_instance_id: member.instance_id.map(Into::into),
            protocol_type: Some("consumer".into()),
            protocol_name: Some(member.protocols[0].0.into()),
            assignments: assignments.collect(),
        };
        self.send(&request, 5)
    }

    #[track_caller]
    pub fn synced(&mut self, ticket: Ticket) -> String {
        let response: SyncGroupResponse<'_> = self.answer(ticket);
        assert_eq!(response.error_code, 0, "{response:?}");
        String::from_utf8(response.assignment.into_owned()).unwrap()
    }

    pub fn heartbeat(&mut self, member: &Member) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: member.group.into(),
            generation_id: member.generation,
            member_id: member.id.clone().into(),
            group_instance_id: member.instance_id.map(Into::into),
        };
        ErrorCode::from_code(self.ask(&request, 4).error_code).unwrap()
    }

    pub fn leave(&mut self, member: &Member) -> Vec<(String, i16)> {
        let identity = MemberIdentity { member_id: member.id.clone().into(), ..MemberIdentity::default() };
        self.leave_all(member.group, vec![identity])
    }

    pub fn leave_all(&mut self, group: &str, members: Vec<MemberIdentity<'_>>) -> Vec<(String, i16)> {
        let request = LeaveGroupRequest {
            group_id: group.into(),
            members: members.into(),
            ..LeaveGroupRequest::default()
        };
        let response: LeaveGroupResponse<'_> = self.ask(&request, 5);
        assert_eq!(response.error_code, 0);
        response.members.iter().map(|member| (member.member_id.to_string(), member.error_code)).collect()
    }

    /// A group of these members, stable; the assignment of each is its number.
    pub fn stable(&mut self, members: &mut [Member]) {
        let tickets: Vec<_> = members.iter_mut().map(|member| self.join_anew(member)).collect();
        self.pass(0);
        for (member, ticket) in members.iter_mut().zip(tickets) {
            if self.is_waiting(ticket) {
                self.pass(i64::from(self.config.initial_rebalance_delay_ms));
            }
            let response: JoinGroupResponse<'_> = self.answer(ticket);
            member.id = response.member_id.to_string();
        }
        self.settle(members);
    }

    /// Everybody rejoins until nobody is told to, then syncs.
    pub fn settle(&mut self, members: &mut [Member]) {
        let tickets: Vec<_> = members.iter().map(|member| self.join(member)).collect();
        self.pass(i64::from(self.config.initial_rebalance_delay_ms));
        let mut leader = String::new();
        for (member, ticket) in members.iter_mut().zip(tickets) {
            leader = self.joined(member, ticket).leader.into_owned();
        }
        let names: Vec<_> = (0..members.len()).map(|index| index.to_string()).collect();
        let assignments: Vec<_> = members.iter().zip(names.iter().map(String::as_str)).collect();
        let mut tickets = Vec::new();
        for member in members.iter() {
            let assignments = if member.id == leader { assignments.as_slice() } else { &[] };
            tickets.push(self.sync(member, assignments));
        }
        for (ticket, name) in tickets.into_iter().zip(&names) {
            assert_eq!(self.synced(ticket), *name);
        }
    }

    pub fn commit(&mut self, group: &str, offsets: &[(&str, i32, i64)]) -> Vec<i16> {
        let ticket = self.commit_as(&Member::new(group), offsets);
        self.committed(ticket)
    }

    pub fn commit_as(&mut self, member: &Member, offsets: &[(&str, i32, i64)]) -> Ticket {
        let topics =
            offsets.iter().map(|&(topic, partition_index, committed_offset)| OffsetCommitRequestTopic {
                name: topic.to_string().into(),
                topic_id: Uuid::ZERO,
                partitions: [OffsetCommitRequestPartition {
                    partition_index,
                    committed_offset,
                    committed_leader_epoch: 3,
                    committed_metadata: Some("note".into()),
                }]
                .into(),
            });
        let request = OffsetCommitRequest {
            group_id: member.group.into(),
            generation_id_or_member_epoch: member.generation,
            member_id: member.id.clone().into(),
            group_instance_id: member.instance_id.map(Into::into),
            topics: topics.collect(),
            ..OffsetCommitRequest::default()
        };
        self.send(&request, 9)
    }

    /// The error of every partition.
    #[track_caller]
    pub fn committed(&mut self, ticket: Ticket) -> Vec<i16> {
        let response: OffsetCommitResponse<'_> = self.answer(ticket);
        let partitions = response.topics.iter().flat_map(|topic| topic.partitions);
        partitions.map(|partition| partition.error_code).collect()
    }

    /// All offsets of a group: topic, partition, offset.
    pub fn fetch(&mut self, group: &str) -> Vec<(String, i32, i64)> {
        let ticket = self.fetch_later(group, false);
        self.fetched(ticket)
    }

    pub fn fetch_later(&mut self, group: &str, require_stable: bool) -> Ticket {
        let group = OffsetFetchRequestGroup {
            group_id: group.to_string().into(),
            topics: None,
            ..OffsetFetchRequestGroup::default()
        };
        let request =
            OffsetFetchRequest { groups: [group].into(), require_stable, ..OffsetFetchRequest::default() };
        self.send(&request, 9)
    }

    #[track_caller]
    pub fn fetched(&mut self, ticket: Ticket) -> Vec<(String, i32, i64)> {
        let response: OffsetFetchResponse<'_> = self.answer(ticket);
        let group = response.groups.first().unwrap();
        assert_eq!(group.error_code, 0);
        let mut offsets = Vec::new();
        for topic in &group.topics {
            for partition in &topic.partitions {
                offsets.push((topic.name.to_string(), partition.partition_index, partition.committed_offset));
            }
        }
        offsets
    }

    pub fn state(&self, group: &str) -> &'static str {
        let partition = self.coordinator.active(group).unwrap();
        partition.groups.get(group).map_or("none", |group| group.classic.state().name())
    }

    pub fn generation(&self, group: &str) -> i32 {
        self.coordinator.active(group).unwrap().groups[group].classic.generation
    }
}

/// A client's side of a membership.
#[derive(Clone, Debug)]
pub struct Member {
    pub group: &'static str,
    pub id: String,
    pub instance_id: Option<&'static str>,
    pub generation: i32,
    pub protocols: Vec<(&'static str, Vec<u8>)>,
    pub session_ms: i32,
    pub rebalance_ms: i32,
}

impl Member {
    pub fn new(group: &str) -> Self {
        Member {
            group: group.to_string().leak(),
            id: String::new(),
            instance_id: None,
            generation: -1,
            protocols: vec![("range", subscription(&["orders"]))],
            session_ms: SESSION_MS,
            rebalance_ms: REBALANCE_MS,
        }
    }

    pub fn fixed(group: &str, instance_id: &'static str) -> Self {
        Member { instance_id: Some(instance_id), ..Member::new(group) }
    }

    pub fn join_request(&self) -> JoinGroupRequest<'_> {
        let protocols = self.protocols.iter().map(|(name, metadata)| JoinGroupRequestProtocol {
            name: (*name).into(),
            metadata: metadata.as_slice().into(),
        });
        JoinGroupRequest {
            group_id: self.group.into(),
            session_timeout_ms: self.session_ms,
            rebalance_timeout_ms: self.rebalance_ms,
            member_id: self.id.as_str().into(),
            group_instance_id: self.instance_id.map(Into::into),
            protocol_type: "consumer".into(),
            protocols: protocols.collect(),
            reason: None,
        }
    }
}

/// A consumer's metadata, version 0.
pub fn subscription(topics: &[&str]) -> Vec<u8> {
    use crate::protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
    let topics = topics.iter().map(|topic| topic.to_string().into()).collect();
    let subscription = ConsumerProtocolSubscription { topics, ..ConsumerProtocolSubscription::default() };
    [vec![0, 0], subscription.to_bytes(0)].concat()
}
