//! A member of a consumer group: joins, fetches, commits. By the classic protocol, in which one of them shares the partitions
//! out; what is different by the newer one is in `subscriber.rs`.

use std::collections::{BTreeMap, VecDeque};

use ringlog::protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ringlog::protocol::messages::fetch_response::{FetchResponse, PartitionData};
use ringlog::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use ringlog::protocol::messages::find_coordinator_response::FindCoordinatorResponse;
use ringlog::protocol::messages::heartbeat_request::HeartbeatRequest;
use ringlog::protocol::messages::heartbeat_response::HeartbeatResponse;
use ringlog::protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ringlog::protocol::messages::join_group_response::JoinGroupResponse;
use ringlog::protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use ringlog::protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ringlog::protocol::messages::offset_commit_response::OffsetCommitResponse;
use ringlog::protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use ringlog::protocol::messages::offset_fetch_response::OffsetFetchResponse;
use ringlog::protocol::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use ringlog::protocol::messages::sync_group_response::SyncGroupResponse;
use ringlog::protocol::{ApiKey, Uuid};

use super::clients::{Client, Context, Entry, MILLISECOND_NS, aborted_of, entries_of};
use super::history::{Cursor, Floor, Place, Role, Topic};
use super::log_model::{Verdict, ensure};
use super::sim_io::sim_net::SocketId;
use super::subscriber::Subscriber;
use super::wire::{Answer, Wire};

/// With so many records in hand it fetches no more.
const POLLED_MAX: usize = 100;
/// Of a member of the classic protocol.
const SESSION_MS: i32 = 10_000;

pub struct Consumer {
    pub(super) name: String,
    pub(super) group: String,
    /// It reads what is committed, and nothing else.
    committed_only: bool,
    /// It reads the inputs for somebody who commits its offsets in transactions.
    pub(super) processing: bool,
    /// Such a transaction is under way: before it has ended, what is committed says nothing of where to go on.
    pub held: bool,
    pub(super) polled: VecDeque<Polled>,
    pub(super) coordinator: Wire,
    data: Wire,
    pub(super) member: String,
    pub(super) generation: i32,
    /// The life of the broker that gave it.
    pub(super) life: u32,
    pub(super) phase: Phase,
    /// The request of this phase is out.
    pub(super) asked: bool,
    retry_ns: u64,
    assignments: Vec<(String, Vec<u8>)>,
    pub(super) owned: BTreeMap<Place, Owned>,
    /// What commits were acknowledged when the offsets were asked for.
    floors: BTreeMap<Place, Floor>,
    /// When the request of this phase was sent, the last heartbeat, the last commit.
    asked_ns: u64,
    beat_ns: u64,
    commit_ns: u64,
    /// The life of the broker that has shown that it knows the member.
    known_life: u32,
    fetching: bool,
    /// Counts the assignments: what an earlier one has asked for says nothing of the positions of this one. The
    /// generation may be the same, as a member that joins a settled group again gets the present one.
    pub(super) round: u64,
    next_fetch_ns: u64,
    pub(super) next_heartbeat_ns: u64,
    pub(super) heartbeat_asked: bool,
    pub(super) next_commit_ns: u64,
    committing: Option<Vec<(Place, i64)>>,
    pub(super) leave_ns: u64,
    /// Of the newer protocol.
    pub(super) subscriber: Option<Subscriber>,
    pub(super) paused_until_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Find,
    Join,
    Sync,
    Offsets,
    Run,
}

/// A record that was read, for whoever makes something of it.
pub struct Polled {
    pub place: Place,
    pub topic: String,
    pub offset: i64,
}

pub struct Owned {
    pub topic: String,
    /// Before 0: not known yet.
    pub cursor: Cursor,
    /// The end that was known when the last fetch was sent: a power cut may have taken it since, and others filled it again.
    pub end_asked: i64,
    pub committed: i64,
}

impl Consumer {
    pub fn new(group: &str, number: u64, committed_only: bool) -> Consumer {
        let name = format!("{group}-{number}");
        Consumer {
            coordinator: Wire::new(format!("{name}-c"), 64 << 10),
            data: Wire::new(format!("{name}-d"), 64 << 10),
            name,
            group: group.to_string(),
            committed_only,
            processing: false,
            held: false,
            polled: VecDeque::new(),
            member: String::new(),
            generation: -1,
            life: 0,
            phase: Phase::Find,
            asked: false,
            retry_ns: 0,
            assignments: Vec::new(),
            owned: BTreeMap::new(),
            floors: BTreeMap::new(),
            asked_ns: 0,
            beat_ns: 0,
            commit_ns: 0,
            known_life: 0,
            fetching: false,
            round: 0,
            next_fetch_ns: 0,
            next_heartbeat_ns: 0,
            heartbeat_asked: false,
            next_commit_ns: 0,
            committing: None,
            leave_ns: u64::MAX,
            subscriber: None,
            paused_until_ns: 0,
        }
    }

    /// The same by the newer protocol.
    pub fn newer(self) -> Consumer {
        Consumer { subscriber: Some(Subscriber::default()), ..self }
    }

    /// A member that reads the inputs for a processor.
    pub fn processing(group: &str, number: u64) -> Consumer {
        Consumer { processing: true, ..Consumer::new(group, number, true) }
    }

    /// What it has read and nobody took yet.
    pub fn has_polled(&self) -> bool {
        self.phase == Phase::Run && !self.polled.is_empty()
    }

    pub fn take(&mut self, most: usize) -> Vec<Polled> {
        let count = most.min(self.polled.len());
        self.polled.drain(..count).collect()
    }

    /// As whom it reads: member and generation.
    pub fn membership(&self) -> (String, i32) {
        (self.member.clone(), self.generation)
    }

    /// What was taken came to nothing: it reads again from what is committed.
    pub fn rewind(&mut self, context: &mut Context) {
        // Before these it forgets all anyway.
        if matches!(self.phase, Phase::Offsets | Phase::Run) && !self.owned.is_empty() {
            self.forget_polled();
            self.owned.values_mut().for_each(|owned| owned.cursor = Cursor::at(-1));
            self.again(context, Phase::Offsets);
        }
    }

    /// What was read, and what is being fetched, is of no use any more.
    pub(super) fn forget_polled(&mut self) {
        self.polled.clear();
        self.round += 1;
    }

    /// The process is gone.
    pub fn die(&mut self, context: &mut Context) {
        self.coordinator.drop_connection(context, true);
        self.data.drop_connection(context, true);
    }

    pub(super) fn go(&mut self, phase: Phase) {
        self.phase = phase;
        self.asked = false;
        if phase != Phase::Run {
            self.committing = None;
        }
    }

    /// Begins again a little later.
    fn again(&mut self, context: &mut Context, phase: Phase) {
        self.go(phase);
        self.retry_ns = context.in_ms(10, 300);
    }

    /// What an error of the coordinator asks for.
    pub(super) fn failed(&mut self, context: &mut Context, error: i16) -> Verdict {
        if context.verbose {
            eprintln!("{} in {:?}: error {error}", self.name, self.phase);
        }
        match error {
            // Loading, not available, not coordinator; timed out and storage errors of the offsets topic.
            14 | 7 | 56 => self.again(context, self.phase),
            15 | 16 => self.again(context, Phase::Find),
            27 => self.again(context, Phase::Join), // rebalance in progress
            22 => self.again(context, Phase::Join), // illegal generation
            25 => {
                context.history.presence.leaves(&self.group, &self.member, context.world.now());
                self.member.clear();
                self.generation = -1;
                self.again(context, Phase::Join);
            }
            // Fenced, or the group is not known: it comes as somebody new.
            110 | 69 if self.subscriber.is_some() => {
                context.history.presence.leaves(&self.group, &self.member, context.world.now());
                self.again(context, Phase::Join);
            }
            // Of an epoch that is over: the next heartbeat tells the new one.
            113 if self.phase == Phase::Run && self.subscriber.is_some() => {
                self.next_heartbeat_ns = context.in_ms(0, 300);
            }
            113 if self.subscriber.is_some() => self.again(context, Phase::Join),
            error => return Err(format!("{}: error {error} in {:?}", self.name, self.phase)),
        }
        Ok(())
    }

    // ---- the group ----

    fn ask(&mut self, context: &mut Context) {
        self.asked = true;
        self.asked_ns = context.now_ns();
        match self.phase {
            Phase::Find => {
                let request = FindCoordinatorRequest {
                    key_type: 0,
                    coordinator_keys: vec![self.group.as_str().into()].into(),
                    ..Default::default()
                };
                self.coordinator.request(context, 4, 0, false, &request);
            }
            Phase::Join if self.subscriber.is_some() => self.join_by_heartbeat(context),
            Phase::Join => self.ask_join(context),
            Phase::Sync => self.ask_sync(context),
            Phase::Offsets => self.ask_offsets(context),
            Phase::Run => {}
        }
    }

    fn ask_join(&mut self, context: &mut Context) {
        let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: b"all".as_slice().into() };
        let request = JoinGroupRequest {
            group_id: self.group.as_str().into(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: 20_000,
            member_id: self.member.as_str().into(),
            protocol_type: "sim".into(),
            protocols: vec![protocol].into(),
            ..Default::default()
        };
        self.coordinator.request(context, 9, 0, false, &request);
    }

    fn ask_sync(&mut self, context: &mut Context) {
        let assignments = self.assignments.iter().map(|(member, assignment)| SyncGroupRequestAssignment {
            member_id: member.as_str().into(),
            assignment: assignment.as_slice().into(),
        });
        let request = SyncGroupRequest {
            group_id: self.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.member.as_str().into(),
            protocol_type: Some("sim".into()),
            protocol_name: Some("range".into()),
            assignments: assignments.collect::<Vec<_>>().into(),
            ..Default::default()
        };
        self.coordinator.request(context, 5, 0, false, &request);
    }

    fn ask_offsets(&mut self, context: &mut Context) {
        let floor = |place: &Place| (*place, context.history.commit_floor(&self.group, *place));
        self.floors = self.owned.keys().map(floor).collect();
        let topics = self.by_topic().into_iter().map(|(topic, places)| OffsetFetchRequestTopics {
            name: topic.into(),
            partition_indexes: places.iter().map(|place| place.1).collect::<Vec<_>>().into(),
            ..Default::default()
        });
        let newer = self.subscriber.is_some();
        let group = OffsetFetchRequestGroup {
            group_id: self.group.as_str().into(),
            member_id: newer.then(|| self.member.as_str().into()),
            member_epoch: if newer { self.generation } else { -1 },
            topics: Some(topics.collect::<Vec<_>>().into()),
        };
        let request = OffsetFetchRequest {
            groups: vec![group].into(),
            require_stable: self.processing,
            ..Default::default()
        };
        let version = if newer { 9 } else { 8 };
        self.coordinator.request(context, version, self.round, false, &request);
    }

    /// The partitions that are its own.
    pub fn owned(&self) -> Vec<Place> {
        self.owned.keys().copied().collect()
    }

    pub(super) fn by_topic(&self) -> BTreeMap<String, Vec<Place>> {
        let mut topics: BTreeMap<String, Vec<Place>> = BTreeMap::new();
        for (place, owned) in &self.owned {
            topics.entry(owned.topic.clone()).or_default().push(*place);
        }
        topics
    }

    fn coordinator_answer(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        if context.verbose {
            let (now, api) = (context.now_ns(), answer.api);
            eprintln!("{now:>14} {} {:?} {} gets {api:?}", self.name, self.phase, self.generation);
        }
        match answer.api {
            ApiKey::FindCoordinator => {
                let response: FindCoordinatorResponse = answer.read()?;
                let coordinator = response.coordinators.first().ok_or("no coordinator in the answer")?;
                match coordinator.error_code {
                    0 => self.go(Phase::Join),
                    error => return self.failed(context, error),
                }
                Ok(())
            }
            ApiKey::ConsumerGroupHeartbeat => self.beaten(context, answer),
            ApiKey::JoinGroup => self.joined(context, answer),
            ApiKey::SyncGroup => self.synced(context, answer),
            ApiKey::OffsetFetch => self.got_offsets(context, answer),
            ApiKey::OffsetCommit => self.committed(context, answer),
            ApiKey::Heartbeat => {
                self.heartbeat_asked = false;
                let response: HeartbeatResponse = answer.read()?;
                match response.error_code {
                    _ if self.phase != Phase::Run => Ok(()),
                    // A coordinator that is still loading says so, too, whoever asks.
                    0 if self.known_life != self.coordinator.life() => Ok(()),
                    0 => {
                        self.is_member(context, self.beat_ns);
                        Ok(())
                    }
                    error => self.failed(context, error),
                }
            }
            _ => Ok(()),
        }
    }

    /// The broker has said so, in the answer to what was asked then.
    fn is_member(&mut self, context: &mut Context, asked_ns: u64) {
        self.known_life = self.coordinator.life();
        let now_ns = context.now_ns();
        let session_ms = SESSION_MS as u64;
        context.history.presence.shows(&self.group, &self.member, asked_ns, now_ns, session_ms);
    }

    fn joined(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        let response: JoinGroupResponse = answer.read()?;
        if context.verbose {
            let (error, generation) = (response.error_code, response.generation_id);
            eprintln!("{} as {}: error {error}, generation {generation}", self.name, self.member);
        }
        match response.error_code {
            0 => {}
            79 => {
                self.member = response.member_id.to_string();
                self.go(Phase::Join);
                return Ok(());
            }
            error => return self.failed(context, error),
        }
        self.member = response.member_id.to_string();
        // A generation is on disk only when its assignments are: a broker that comes back may count from an earlier one.
        let life = self.coordinator.life();
        let back = response.generation_id < self.generation && self.life == life && !context.troubled;
        self.life = life;
        ensure!(!back, "{}: generation {} after {}", self.name, response.generation_id, self.generation);
        self.generation = response.generation_id;
        self.assignments.clear();
        if response.leader == response.member_id {
            let members: Vec<String> = response.members.iter().map(|m| m.member_id.to_string()).collect();
            ensure!(!members.is_empty(), "{}: the leader of nobody", self.name);
            self.assignments = members.iter().map(|member| (member.clone(), Vec::new())).collect();
            let mut next = context.rng.index(members.len());
            let read = |topic: &&Topic| !self.processing || topic.role == Role::Input;
            for topic in context.history.live().filter(read) {
                for partition in 0..topic.partitions {
                    let assignment = &mut self.assignments[next % members.len()].1;
                    assignment.extend_from_slice(&topic.id.0);
                    assignment.extend_from_slice(&partition.to_be_bytes());
                    next += 1;
                }
            }
        }
        self.go(Phase::Sync);
        Ok(())
    }

    fn synced(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        let response: SyncGroupResponse = answer.read()?;
        if response.error_code != 0 {
            return self.failed(context, response.error_code);
        }
        self.is_member(context, self.asked_ns);
        self.owned.clear();
        self.forget_polled();
        for part in response.assignment.chunks_exact(20) {
            let mut id = [0; 16];
            id.copy_from_slice(&part[..16]);
            let partition = part[16..].first_chunk().map_or(-1, |bytes| i32::from_be_bytes(*bytes));
            if let Some(topic) = context.history.topic(Uuid(id)).filter(|topic| !topic.deleted) {
                let topic = topic.name.clone();
                let owned = Owned { topic, cursor: Cursor::at(-1), end_asked: 0, committed: -1 };
                self.owned.insert((id, partition), owned);
            }
        }
        self.go(if self.owned.is_empty() { Phase::Run } else { Phase::Offsets });
        self.next_heartbeat_ns = context.in_ms(1_000, 3_000);
        self.leave_ns = if context.rng.chance(0.5) { context.in_ms(2_000, 60_000) } else { u64::MAX };
        Ok(())
    }

    fn got_offsets(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        if answer.tag != self.round {
            return Ok(()); // it has asked again
        }
        let response: OffsetFetchResponse = answer.read()?;
        let group = response.groups.first().ok_or("no group in the answer")?;
        if group.error_code != 0 {
            return self.failed(context, group.error_code);
        }
        let mut found = BTreeMap::new();
        for topic in group.topics.iter() {
            for partition in topic.partitions.iter() {
                // A transaction with offsets of it is still open.
                if partition.error_code == 88 && self.processing {
                    self.again(context, Phase::Offsets);
                    return Ok(());
                }
                ensure!(
                    partition.error_code == 0,
                    "{}: offset of {}: {}",
                    self.name,
                    topic.name,
                    partition.error_code
                );
                found.insert((topic.name.to_string(), partition.partition_index), partition.committed_offset);
            }
        }
        for (place, owned) in &mut self.owned {
            let committed = found.get(&(owned.topic.clone(), place.1)).copied();
            let committed =
                committed.ok_or_else(|| format!("{}: no offset of {}", self.name, owned.topic))?;
            let floor = self.floors.get(place).copied().unwrap_or((-1, 0));
            if context.verbose {
                eprintln!("{} is told {committed} of {place:?}, {floor:?} or more", self.name);
            }
            if context.history.is_live(Uuid(place.0)) {
                let group = (self.group.as_str(), self.subscriber.is_some());
                let told = context.history.told_offset(group, *place, committed, floor, self.asked_ns);
                told.map_err(|error| format!("{}: {error}", self.name))?;
            }
            if self.processing {
                context.history.got_offset(&self.group, *place, committed)?;
            }
            owned.committed = committed;
            if owned.cursor.next < 0 {
                owned.cursor = Cursor::at(committed.max(0));
            }
        }
        self.go(Phase::Run);
        self.next_commit_ns = context.in_ms(100, 3_000);
        Ok(())
    }

    // ---- commits and heartbeats ----

    fn commit(&mut self, context: &mut Context) {
        self.next_commit_ns = context.in_ms(100, 3_000);
        let moved = self.owned.iter().filter(|(_, owned)| owned.cursor.next > owned.committed.max(0));
        let offsets: Vec<(Place, i64)> = moved.map(|(place, owned)| (*place, owned.cursor.next)).collect();
        if offsets.is_empty() || self.committing.is_some() || self.processing {
            return;
        }
        let topics = self.by_topic().into_iter().filter_map(|(topic, places)| {
            let partitions: Vec<_> = (offsets.iter().filter(|(place, _)| places.contains(place)))
                .map(|&(place, offset)| OffsetCommitRequestPartition {
                    partition_index: place.1,
                    committed_offset: offset,
                    committed_leader_epoch: -1,
                    ..Default::default()
                })
                .collect();
            (!partitions.is_empty()).then(|| OffsetCommitRequestTopic {
                name: topic.into(),
                partitions: partitions.into(),
                ..Default::default()
            })
        });
        let request = OffsetCommitRequest {
            group_id: self.group.as_str().into(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.member.as_str().into(),
            topics: topics.collect::<Vec<_>>().into(),
            ..Default::default()
        };
        self.coordinator.request(context, 9, 0, false, &request);
        self.committing = Some(offsets);
        self.commit_ns = context.now_ns();
    }

    fn committed(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        let response: OffsetCommitResponse = answer.read()?;
        let Some(offsets) = self.committing.take() else { return Ok(()) };
        let (mut failed, mut taken) = (None, false);
        for topic in response.topics.iter() {
            for partition in topic.partitions.iter() {
                let named = |(place, _): &&(Place, i64)| {
                    place.1 == partition.partition_index
                        && context.history.topic(Uuid(place.0)).is_some_and(|known| known.name == topic.name)
                };
                let Some(&(place, offset)) = offsets.iter().find(named) else {
                    return Err(format!("{}: a commit of what was not asked", self.name));
                };
                match partition.error_code {
                    0 => {
                        taken = true;
                        context.history.committed(&self.group, place, offset, self.commit_ns);
                        if let Some(owned) = self.owned.get_mut(&place) {
                            owned.committed = offset;
                        }
                    }
                    _ if !context.history.is_live(Uuid(place.0)) => {
                        self.owned.remove(&place);
                    }
                    3 => {} // the topic is not known yet everywhere
                    error => failed = Some(error),
                }
            }
        }
        if taken && self.subscriber.is_none() {
            self.is_member(context, self.commit_ns);
        }
        failed.map_or(Ok(()), |error| self.failed(context, error))
    }

    fn heartbeat(&mut self, context: &mut Context) {
        self.next_heartbeat_ns = context.in_ms(1_000, 3_000);
        if std::mem::replace(&mut self.heartbeat_asked, true) {
            return;
        }
        self.beat_ns = context.now_ns();
        if self.subscriber.is_some() {
            self.follow_target(context);
            let epoch = self.generation;
            return self.beat(context, epoch);
        }
        let request = HeartbeatRequest {
            group_id: self.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.member.as_str().into(),
            ..Default::default()
        };
        self.coordinator.request(context, 4, 0, false, &request);
    }

    fn leave(&mut self, context: &mut Context) {
        let member = MemberIdentity { member_id: self.member.as_str().into(), ..Default::default() };
        let request = LeaveGroupRequest {
            group_id: self.group.as_str().into(),
            members: vec![member].into(),
            ..Default::default()
        };
        if self.subscriber.is_some() {
            self.leave_by_heartbeat(context);
        } else {
            self.coordinator.request(context, 5, 0, false, &request);
        }
        context.history.presence.leaves(&self.group, &self.member, context.world.now());
        self.member.clear();
        self.generation = -1;
        self.leave_ns = u64::MAX;
        self.again(context, Phase::Join);
    }

    // ---- fetches ----

    fn may_ask(&self) -> bool {
        let waits = self.held && self.phase == Phase::Offsets;
        !self.asked && !waits
    }

    fn may_fetch(&self) -> bool {
        !self.fetching && !self.owned.is_empty() && self.polled.len() < POLLED_MAX
    }

    fn fetch(&mut self, context: &mut Context) {
        for (place, owned) in &mut self.owned {
            owned.end_asked = context.history.known_end(*place);
        }
        let topics = self.by_topic().into_iter().map(|(topic, places)| FetchTopic {
            topic: topic.into(),
            topic_id: Uuid(places[0].0),
            partitions: (places.iter())
                .map(|place| FetchPartition {
                    partition: place.1,
                    current_leader_epoch: -1,
                    fetch_offset: self.owned[place].cursor.next,
                    last_fetched_epoch: -1,
                    log_start_offset: -1,
                    partition_max_bytes: 100_000,
                    ..Default::default()
                })
                .collect::<Vec<_>>()
                .into(),
        });
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: *context.rng.pick(&[0, 50, 500]),
            min_bytes: *context.rng.pick(&[0, 1, 10_000]),
            max_bytes: *context.rng.pick(&[1, 5_000, 50 << 20]),
            isolation_level: i8::from(self.committed_only),
            session_id: 0,
            session_epoch: -1,
            topics: topics.collect::<Vec<_>>().into(),
            ..Default::default()
        };
        let version = *context.rng.pick(&[11, 12, 13, 16, 17]);
        self.data.request(context, version, self.round, false, &request);
        self.fetching = true;
    }

    fn fetched(&mut self, context: &mut Context, answer: &Answer) -> Verdict {
        self.fetching = false;
        let most_ms = if context.finishing { 300 } else { 30 };
        self.next_fetch_ns = context.in_ms(0, most_ms);
        if self.phase != Phase::Run || answer.tag != self.round {
            return Ok(());
        }
        let response: FetchResponse = answer.read()?;
        ensure!(response.error_code == 0, "{}: a fetch answers {}", self.name, response.error_code);
        for topic in response.responses.iter() {
            for partition in topic.partitions.iter() {
                let named = |place: &&Place| {
                    place.1 == partition.partition_index
                        && (topic.topic_id.0 == place.0 || topic.topic == self.owned[*place].topic)
                };
                let Some(&place) = self.owned.keys().find(named) else { continue };
                match partition.error_code {
                    0 => self.records(context, place, &partition)?,
                    error => self.fetch_failed(context, place, error, partition.log_start_offset)?,
                }
            }
        }
        Ok(())
    }

    fn records(&mut self, context: &mut Context, place: Place, data: &PartitionData<'_>) -> Verdict {
        let Some(owned) = self.owned.get_mut(&place) else { return Ok(()) };
        let bytes = data.records.and_then(|records| records.bytes()).unwrap_or_default();
        let end = if self.committed_only { data.last_stable_offset } else { data.high_watermark };
        let found = entries_of(bytes, &aborted_of(data))?;
        if context.verbose {
            let (name, aborted) = (&self.name, aborted_of(data));
            eprintln!("{name} reads {place:?} from {}: {found:x?}, aborted {aborted:?}", owned.cursor.next);
        }
        let (before, compacted) = (owned.cursor, context.history.is_compacted(place));
        let new = owned.cursor.read(found, data.log_start_offset, end, compacted);
        let new = new.map_err(|error| format!("{}: {place:?}: {error}", self.name))?;
        if compacted && !before.reset {
            context.history.skipped(place, before.next.max(data.log_start_offset), &new);
        }
        for Entry { offset, value, aborted } in new {
            let Some(value) = value else { continue };
            match (self.committed_only, aborted) {
                (false, _) => context.history.saw(place, offset, value)?,
                (true, false) => context.history.saw_committed(place, offset, value)?,
                (true, true) => context.history.left_out(place, offset, value)?,
            }
            context.history.polled(&self.group, place, offset);
            if self.processing && !aborted {
                self.polled.push_back(Polled { place, topic: owned.topic.clone(), offset });
            }
        }
        Ok(())
    }

    fn fetch_failed(&mut self, context: &mut Context, place: Place, error: i16, log_start: i64) -> Verdict {
        let live = context.history.is_live(Uuid(place.0));
        let Some(owned) = self.owned.get_mut(&place) else { return Ok(()) };
        match error {
            _ if !live => {
                self.owned.remove(&place);
            }
            1 => {
                let end = context.history.known_end(place);
                let known = owned.cursor.next <= end.min(owned.end_asked);
                ensure!(
                    !known,
                    "{}: {place:?} {} is out of range, the log reaches {end}",
                    self.name,
                    owned.cursor.next
                );
                owned.cursor = Cursor { next: log_start.max(0), reset: true };
            }
            3 | 5 | 6 | 7 | 56 | 100 => self.next_fetch_ns = context.in_ms(10, 200),
            error => return Err(format!("{}: a fetch of {place:?} answers {error}", self.name)),
        }
        Ok(())
    }

    fn poll_data(&mut self, context: &mut Context) -> Verdict {
        let polled = self.data.poll(context)?;
        polled.answers.iter().try_for_each(|answer| self.fetched(context, answer))?;
        if polled.lost {
            self.fetching = false;
        }
        Ok(())
    }

    fn poll_coordinator(&mut self, context: &mut Context) -> Verdict {
        let polled = self.coordinator.poll(context)?;
        polled.answers.iter().try_for_each(|answer| self.coordinator_answer(context, answer))?;
        if polled.lost {
            self.heartbeat_asked = false;
            self.subscriber.iter_mut().for_each(Subscriber::tell_all);
            self.committing = None;
            // Whatever was asked is asked again: a member is known by its id, not by its connection.
            let phase = if self.phase == Phase::Run { Phase::Run } else { Phase::Find };
            self.again(context, phase);
        }
        Ok(())
    }
}

impl Client for Consumer {
    fn step(&mut self, context: &mut Context) -> Verdict {
        if context.now_ns() < self.paused_until_ns {
            return Ok(());
        }
        self.poll_coordinator(context)?;
        self.poll_data(context)?;
        if !self.coordinator.is_open(context) {
            return Ok(());
        }
        let now = context.now_ns();
        if self.phase != Phase::Run {
            if self.may_ask() && now >= self.retry_ns {
                self.ask(context);
            }
            return Ok(());
        }
        if now >= self.next_heartbeat_ns {
            self.heartbeat(context);
            if self.subscriber.is_some() && !context.finishing && context.rng.chance(0.05) {
                self.pause(context);
            }
        }
        if now >= self.next_commit_ns {
            self.commit(context);
        }
        if self.data.is_open(context) && now >= self.next_fetch_ns && self.may_fetch() {
            self.fetch(context);
        }
        if now >= self.leave_ns && self.committing.is_none() && !context.finishing {
            self.leave(context);
        }
        Ok(())
    }

    fn wake_ns(&self) -> u64 {
        let wires = self.coordinator.wake_ns().min(self.data.wake_ns());
        let own = match self.phase {
            Phase::Run => {
                let fetch = if self.may_fetch() { self.next_fetch_ns } else { u64::MAX };
                fetch.min(self.next_heartbeat_ns).min(self.next_commit_ns)
            }
            _ if !self.may_ask() => u64::MAX,
            _ => self.retry_ns,
        };
        let up = self.coordinator.socket().is_some();
        let wake = if up { wires.min(own.max(MILLISECOND_NS)) } else { wires };
        wake.max(self.paused_until_ns)
    }

    fn sockets(&self) -> Vec<SocketId> {
        [self.coordinator.socket(), self.data.socket()].into_iter().flatten().collect()
    }

    /// It has seen and committed all that is known of its partitions.
    fn is_done(&self, context: &Context) -> bool {
        let seen = |(place, owned): (&Place, &Owned)| {
            !context.history.is_live(Uuid(place.0))
                || (owned.cursor.next >= context.history.known_end(*place)
                    && (self.processing || owned.committed.max(0) >= owned.cursor.next.min(1)))
        };
        self.phase == Phase::Run && self.owned.iter().all(seen)
    }

    fn shares(&self) -> Option<(&str, Vec<Place>)> {
        self.subscriber.as_ref().map(|_| (self.group.as_str(), self.owned()))
    }

    fn describe(&self) -> String {
        let at: Vec<_> =
            self.owned.iter().map(|(p, o)| (o.topic.as_str(), p.1, o.cursor.next, o.committed)).collect();
        let out = (self.coordinator.unanswered(), self.data.unanswered());
        format!("{} in {:?}, asked {}, unanswered {out:?}, at {at:?}", self.name, self.phase, self.asked)
    }
}
