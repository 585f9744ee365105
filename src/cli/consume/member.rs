//! A member of a group by the classic protocol, with the range assignor: join, sync, heartbeat, commit, leave.
//!
//! The leader of the group assigns for all; others may be any client that knows `range`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cli::client::{Client, To};
use crate::cli::cluster::{self, Isolation, TopicPartition};
use crate::cli::failure::{FAILED, Failure};
use crate::cli::groups;
use crate::cli::start::{self, Start};
use crate::protocol::ErrorCode;
use crate::protocol::messages::Message;
use crate::protocol::messages::consumer_protocol_assignment::{
    ConsumerProtocolAssignment, TopicPartition as Assigned,
};
use crate::protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use crate::protocol::messages::heartbeat_request::HeartbeatRequest;
use crate::protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use crate::protocol::messages::join_group_response::JoinGroupResponse;
use crate::protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use crate::protocol::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use crate::protocol::{Array, Reader};

const SESSION_TIMEOUT_MS: i32 = 10_000;
const REBALANCE_TIMEOUT_MS: i32 = 60_000;
const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// The version of subscriptions and assignments in which nothing is said of owned partitions.
const CONSUMER_PROTOCOL_VERSION: i16 = 0;
const ASSIGNOR: &str = "range";

pub struct Member {
    group: String,
    topics: Vec<String>,
    from: Start,
    isolation: Isolation,
    /// Empty before the first join and once the group has forgotten us.
    id: String,
    generation: i32,
    must_join: bool,
    assigned: bool,
    last_heartbeat: Instant,
    last_commit: Instant,
    committed: BTreeMap<TopicPartition, i64>,
}

impl Member {
    pub fn new(group: &str, topics: &[String], from: Start, isolation: Isolation) -> Member {
        let mut topics = topics.to_vec();
        topics.sort();
        topics.dedup();
        Member {
            group: group.to_owned(),
            topics,
            from,
            isolation,
            id: String::new(),
            generation: -1,
            must_join: true,
            assigned: false,
            last_heartbeat: Instant::now(),
            last_commit: Instant::now(),
            committed: BTreeMap::new(),
        }
    }

    pub fn must_join(&self) -> bool {
        self.must_join
    }

    /// Whether any partition is ours.
    pub fn is_assigned(&self) -> bool {
        self.assigned
    }

    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Joins, waits for the others, and answers where to begin in each partition that is ours now.
    pub fn join(&mut self, client: &mut Client) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
        let assigned = loop {
            if let Some(assigned) = client.retry(|client| self.try_join(client))? {
                break assigned;
            }
        };
        self.must_join = false;
        self.assigned = !assigned.is_empty();
        self.last_heartbeat = Instant::now();
        self.last_commit = Instant::now();
        let committed = groups::committed(client, &self.group)?;
        let mut positions = BTreeMap::new();
        let mut fresh = Vec::new();
        for place in assigned {
            match committed.get(&place) {
                Some(commit) => {
                    positions.insert(place, commit.offset);
                }
                None => fresh.push(place),
            }
        }
        self.committed = positions.clone();
        if !fresh.is_empty() {
            positions.extend(start::resolve(client, &fresh, self.from, self.isolation)?);
        }
        Ok(positions)
    }

    /// `None`: once more, the group has changed meanwhile.
    fn try_join(&mut self, client: &mut Client) -> Result<Option<Vec<TopicPartition>>, Failure> {
        let coordinator = groups::coordinator(client, &self.group)?;
        let metadata = subscription(&self.topics);
        let protocol =
            JoinGroupRequestProtocol { name: ASSIGNOR.into(), metadata: metadata.as_slice().into() };
        let request = JoinGroupRequest {
            group_id: self.group.as_str().into(),
            session_timeout_ms: SESSION_TIMEOUT_MS,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            member_id: self.id.as_str().into(),
            protocol_type: "consumer".into(),
            protocols: [protocol].into(),
            ..JoinGroupRequest::default()
        };
        let patience = Duration::from_millis(REBALANCE_TIMEOUT_MS as u64 * 2);
        let answer = client.call_within(To::Broker(coordinator), i16::MAX, &request, patience)?;
        let response = answer.read::<JoinGroupRequest<'_>>()?;
        match ErrorCode::from_code(response.error_code) {
            Some(ErrorCode::None) => {}
            Some(ErrorCode::MemberIdRequired) => {
                self.id = response.member_id.to_string();
                return Ok(None);
            }
            Some(code) if self.forgotten(code) => return Ok(None),
            _ => Failure::check(format!("group {}", self.group), response.error_code, None)?,
        }
        self.id = response.member_id.to_string();
        self.generation = response.generation_id;
        let assignments =
            if response.leader == response.member_id { assign(client, &response)? } else { Vec::new() };
        self.sync(client, coordinator, &assignments)
    }

    fn sync(
        &mut self,
        client: &mut Client,
        coordinator: i32,
        assignments: &[(String, Vec<u8>)],
    ) -> Result<Option<Vec<TopicPartition>>, Failure> {
        let shares = assignments.iter().map(|(member, bytes)| SyncGroupRequestAssignment {
            member_id: member.as_str().into(),
            assignment: bytes.as_slice().into(),
        });
        let request = SyncGroupRequest {
            group_id: self.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.id.as_str().into(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some(ASSIGNOR.into()),
            assignments: shares.collect(),
            ..SyncGroupRequest::default()
        };
        let patience = Duration::from_millis(REBALANCE_TIMEOUT_MS as u64);
        let answer = client.call_within(To::Broker(coordinator), i16::MAX, &request, patience)?;
        let response = answer.read::<SyncGroupRequest<'_>>()?;
        match ErrorCode::from_code(response.error_code) {
            Some(ErrorCode::None) => parse_assignment(&response.assignment).map(Some),
            Some(code) if self.forgotten(code) => Ok(None),
            _ => {
                Failure::check(format!("group {}", self.group), response.error_code, None)?;
                Ok(None)
            }
        }
    }

    /// Whether the error only means that we have to join again.
    fn forgotten(&mut self, code: ErrorCode) -> bool {
        match code {
            ErrorCode::RebalanceInProgress => {}
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => {
                self.id.clear();
                self.generation = -1;
            }
            _ => return false,
        }
        self.must_join = true;
        true
    }

    /// Tells the coordinator that we live; learns when the group changes.
    pub fn heartbeat(&mut self, client: &mut Client) -> Result<(), Failure> {
        if self.last_heartbeat.elapsed() < HEARTBEAT_EVERY || self.must_join {
            return Ok(());
        }
        self.last_heartbeat = Instant::now();
        client.retry(|client| {
            let coordinator = groups::coordinator(client, &self.group)?;
            let request = HeartbeatRequest {
                group_id: self.group.as_str().into(),
                generation_id: self.generation,
                member_id: self.id.as_str().into(),
                group_instance_id: None,
            };
            let answer = client.call(To::Broker(coordinator), i16::MAX, &request)?;
            let code = answer.read::<HeartbeatRequest<'_>>()?.error_code;
            match ErrorCode::from_code(code) {
                Some(known) if self.forgotten(known) => Ok(()),
                _ => Failure::check(format!("group {}", self.group), code, None),
            }
        })
    }

    pub fn commit_in_time(
        &mut self,
        client: &mut Client,
        positions: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), Failure> {
        if self.last_commit.elapsed() < COMMIT_EVERY { Ok(()) } else { self.commit(client, positions) }
    }

    /// Commits what has moved. A group that has forgotten us has no use for it: somebody else reads there.
    pub fn commit(
        &mut self,
        client: &mut Client,
        positions: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), Failure> {
        self.last_commit = Instant::now();
        if self.id.is_empty() || self.generation < 0 {
            return Ok(());
        }
        let moved = positions.iter().filter(|(place, offset)| self.committed.get(place) != Some(offset));
        let moved: BTreeMap<_, _> = moved.map(|(place, offset)| (place.clone(), *offset)).collect();
        if moved.is_empty() {
            return Ok(());
        }
        match groups::commit(client, &self.group, self.generation, &self.id, &moved) {
            Ok(()) => {
                self.committed.extend(moved);
                Ok(())
            }
            Err(failure) if failure.code.is_some_and(|code| self.forgotten(code)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// So that the others need not wait for the end of our session.
    pub fn leave(&mut self, client: &mut Client) -> Result<(), Failure> {
        if self.id.is_empty() {
            return Ok(());
        }
        let coordinator = groups::coordinator(client, &self.group)?;
        let identity = MemberIdentity { member_id: self.id.as_str().into(), ..MemberIdentity::default() };
        let request = LeaveGroupRequest {
            group_id: self.group.as_str().into(),
            member_id: self.id.as_str().into(),
            members: [identity].into(),
        };
        let answer = client.call(To::Broker(coordinator), i16::MAX, &request)?;
        let code = answer.read::<LeaveGroupRequest<'_>>()?.error_code;
        match ErrorCode::from_code(code) {
            Some(ErrorCode::UnknownMemberId) => Ok(()),
            _ => Failure::check(format!("group {}", self.group), code, None),
        }
    }
}

fn subscription(topics: &[String]) -> Vec<u8> {
    let message = ConsumerProtocolSubscription {
        topics: topics.iter().map(|topic| topic.as_str().into()).collect(),
        ..ConsumerProtocolSubscription::default()
    };
    let mut bytes = CONSUMER_PROTOCOL_VERSION.to_be_bytes().to_vec();
    bytes.extend(message.to_bytes(CONSUMER_PROTOCOL_VERSION));
    bytes
}

/// The message behind its version. A newer version than ours begins as ours does.
fn read_versioned<'a, M: Message<'a>>(bytes: &'a [u8]) -> Result<M, Failure> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16("version").map_err(Failure::answer)?.min(M::MAX_VERSION);
    M::decode_prefix(&mut reader, version).map_err(Failure::answer)
}

/// No assignment at all is an empty one.
pub fn parse_assignment(bytes: &[u8]) -> Result<Vec<TopicPartition>, Failure> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let message: ConsumerProtocolAssignment<'_> = read_versioned(bytes)?;
    let topics = message.assigned_partitions.iter();
    let places = topics.flat_map(|topic| {
        let name = topic.topic.to_string();
        topic.partitions.iter().map(move |partition| (name.clone(), partition)).collect::<Vec<_>>()
    });
    Ok(places.collect())
}

/// The leader's work: every member's share as bytes.
fn assign(client: &mut Client, response: &JoinGroupResponse<'_>) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    if response.protocol_name.as_deref().is_some_and(|name| name != ASSIGNOR) {
        return Err(Failure::new(FAILED, "the group has chosen an assignor that is not `range`"));
    }
    let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for member in &response.members {
        let subscription: ConsumerProtocolSubscription<'_> = read_versioned(&member.metadata)?;
        let topics = subscription.topics.iter().map(|topic| topic.to_string()).collect();
        members.insert(member.member_id.to_string(), topics);
    }
    let mut names: Vec<String> = members.values().flatten().cloned().collect();
    names.sort();
    names.dedup();
    // A member may wait for a topic that is not there yet; the others are not to suffer from it.
    let mut counts = BTreeMap::new();
    for name in names {
        match cluster::topic(client, &name) {
            Ok(topic) => {
                counts.insert(name, topic.partitions.len() as i32);
            }
            Err(failure) if failure.code == Some(ErrorCode::UnknownTopicOrPartition) => {}
            Err(failure) => return Err(failure),
        }
    }
    let shares = range(&members, &counts);
    Ok(shares.into_iter().map(|(member, share)| (member, assignment(&share))).collect())
}

/// Topic by topic, neighbouring partitions to each member in the order of their ids; the first ones take the rest.
fn range(
    members: &BTreeMap<String, Vec<String>>,
    counts: &BTreeMap<String, i32>,
) -> BTreeMap<String, BTreeMap<String, Vec<i32>>> {
    let mut shares: BTreeMap<_, BTreeMap<String, Vec<i32>>> =
        members.keys().map(|member| (member.clone(), BTreeMap::new())).collect();
    for (topic, &count) in counts {
        let takers: Vec<_> =
            members.iter().filter(|(_, topics)| topics.contains(topic)).map(|(member, _)| member).collect();
        let each = count / takers.len().max(1) as i32;
        let rest = count % takers.len().max(1) as i32;
        let mut next = 0;
        for (at, member) in takers.into_iter().enumerate() {
            let share = each + i32::from((at as i32) < rest);
            if share > 0
                && let Some(topics) = shares.get_mut(member)
            {
                topics.insert(topic.clone(), (next..next + share).collect());
            }
            next += share;
        }
    }
    shares
}

fn assignment(share: &BTreeMap<String, Vec<i32>>) -> Vec<u8> {
    let topics = share.iter().map(|(topic, partitions)| Assigned {
        topic: topic.as_str().into(),
        partitions: Array::from(partitions.clone()),
    });
    let message = ConsumerProtocolAssignment { assigned_partitions: topics.collect(), user_data: None };
    let mut bytes = CONSUMER_PROTOCOL_VERSION.to_be_bytes().to_vec();
    bytes.extend(message.to_bytes(CONSUMER_PROTOCOL_VERSION));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_even_as_can_be() {
        let both = vec!["a".to_owned(), "b".to_owned()];
        let members = BTreeMap::from([
            ("m1".to_owned(), both.clone()),
            ("m2".to_owned(), both),
            ("m3".to_owned(), vec!["a".to_owned()]),
        ]);
        let counts = BTreeMap::from([("a".to_owned(), 7), ("b".to_owned(), 1)]);
        let shares = range(&members, &counts);
        let of = |member: &str, topic: &str| shares[member].get(topic).cloned().unwrap_or_default();
        assert_eq!((of("m1", "a"), of("m2", "a"), of("m3", "a")), (vec![0, 1, 2], vec![3, 4], vec![5, 6]));
        assert_eq!((of("m1", "b"), of("m2", "b"), of("m3", "b")), (vec![0], vec![], vec![]));
    }

    #[test]
    fn an_assignment_goes_out_and_in() {
        let share = BTreeMap::from([("t".to_owned(), vec![0, 2]), ("u".to_owned(), vec![1])]);
        let places = parse_assignment(&assignment(&share)).unwrap();
        assert_eq!(places, [("t".to_owned(), 0), ("t".to_owned(), 2), ("u".to_owned(), 1)]);
        assert_eq!(parse_assignment(&[]).unwrap(), []);
        for end in 1..assignment(&share).len() {
            // The user data at the end is not read where it is missing; all else is.
            let cut = assignment(&share);
            assert!(parse_assignment(&cut[..end]).is_err(), "{end}");
        }
    }
}
