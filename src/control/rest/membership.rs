//! A member of a consumer group by the classic protocol, with the range assignor: join, sync, heartbeat, leave, commit.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::control::cluster::groups::assignment;
use crate::control::cluster::{Call, CallError, Caller, Cluster, WAIT};
use crate::protocol::messages::consumer_protocol_assignment::{
    ConsumerProtocolAssignment, TopicPartition as Assigned,
};
use crate::protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use crate::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use crate::protocol::messages::heartbeat_request::HeartbeatRequest;
use crate::protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use crate::protocol::messages::join_group_response::JoinGroupResponse;
use crate::protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use crate::protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::protocol::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use crate::protocol::{ErrorCode, Message, Reader};

pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
const SESSION_TIMEOUT_MS: i32 = 30_000;
const REBALANCE_TIMEOUT_MS: i32 = 60_000;
/// A join waits for the other members.
const JOIN_WAIT: Duration = Duration::from_secs(120);
/// Tries of one join, while the group changes or its coordinator loads.
const TRIES_MAX: usize = 50;
const PAUSE: Duration = Duration::from_millis(200);
const ASSIGNOR: &str = "range";
/// The last version of OffsetCommit in which topics go by name.
const COMMIT_VERSION_MAX: i16 = 9;

pub type Place = (String, i32);

/// Who we are in a group; without a generation nobody, which may commit where nobody is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    pub generation: Option<i32>,
}

#[derive(Debug)]
pub struct Joined {
    pub member: Member,
    pub assignment: Vec<Place>,
}

/// Joins with a subscription and waits for the assignment.
pub async fn join(
    cluster: &Cluster,
    caller: &Caller,
    group: &str,
    mut id: String,
    topics: &[String],
) -> Result<Result<Joined, ErrorCode>, CallError> {
    let metadata = subscription(topics);
    for _ in 0..TRIES_MAX {
        let protocol =
            JoinGroupRequestProtocol { name: ASSIGNOR.into(), metadata: metadata.as_slice().into() };
        let request = JoinGroupRequest {
            group_id: group.into(),
            session_timeout_ms: SESSION_TIMEOUT_MS,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            member_id: id.as_str().into(),
            protocol_type: "consumer".into(),
            protocols: [protocol].into(),
            ..JoinGroupRequest::default()
        };
        let answer = cluster.ask(caller, Call::of(i16::MAX, &request), JOIN_WAIT).await?;
        let response = answer.read::<JoinGroupRequest<'_>>()?;
        match code_of(response.error_code) {
            ErrorCode::None => {}
            ErrorCode::MemberIdRequired => {
                id = response.member_id.to_string();
                continue;
            }
            ErrorCode::UnknownMemberId => {
                id.clear();
                continue;
            }
            error if error.is_retriable() => {
                find_coordinator(cluster, caller, group).await?;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            error => return Ok(Err(error)),
        }
        id = response.member_id.to_string();
        let generation = response.generation_id;
        let shares = if response.leader == response.member_id {
            assign(cluster, &response).await?
        } else {
            Vec::new()
        };
        match sync(cluster, caller, group, &id, generation, &shares).await? {
            Ok(assignment) => {
                let member = Member { id, generation: Some(generation) };
                return Ok(Ok(Joined { member, assignment }));
            }
            Err(ErrorCode::UnknownMemberId) => id.clear(),
            Err(error) if error.is_retriable() || error == ErrorCode::IllegalGeneration => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Err(ErrorCode::RebalanceInProgress))
}

/// The first one to look for a coordinator makes the topic that it keeps its groups in.
async fn find_coordinator(cluster: &Cluster, caller: &Caller, group: &str) -> Result<(), CallError> {
    let request = FindCoordinatorRequest {
        key: group.into(),
        key_type: 0,
        coordinator_keys: [Cow::Borrowed(group)].into(),
    };
    cluster.ask(caller, Call::of(i16::MAX, &request), WAIT).await.map(|_| ())
}

async fn sync(
    cluster: &Cluster,
    caller: &Caller,
    group: &str,
    id: &str,
    generation: i32,
    shares: &[(String, Vec<u8>)],
) -> Result<Result<Vec<Place>, ErrorCode>, CallError> {
    let assignments = shares.iter().map(|(member, bytes)| SyncGroupRequestAssignment {
        member_id: member.as_str().into(),
        assignment: bytes.as_slice().into(),
    });
    let request = SyncGroupRequest {
        group_id: group.into(),
        generation_id: generation,
        member_id: id.into(),
        protocol_type: Some("consumer".into()),
        protocol_name: Some(ASSIGNOR.into()),
        assignments: assignments.collect(),
        ..SyncGroupRequest::default()
    };
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), JOIN_WAIT).await?;
    let response = answer.read::<SyncGroupRequest<'_>>()?;
    Ok(match code_of(response.error_code) {
        ErrorCode::None => Ok(assignment(&response.assignment)),
        error => Err(error),
    })
}

/// What the group's members get, by the range assignor: of each topic, neighbouring partitions to neighbouring members.
async fn assign(
    cluster: &Cluster,
    response: &JoinGroupResponse<'_>,
) -> Result<Vec<(String, Vec<u8>)>, CallError> {
    let image = cluster.image().await?;
    let mut wishes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for member in &response.members {
        wishes.insert(member.member_id.to_string(), subscribed(&member.metadata));
    }
    let count = |topic: &str| image.topic(topic).map_or(0, |topic| topic.partitions.len() as i32);
    let shares = range(&wishes, count);
    Ok(shares.into_iter().map(|(member, topics)| (member, assignment_bytes(&topics))).collect())
}

type Shares = BTreeMap<String, BTreeMap<String, Vec<i32>>>;

fn range(wishes: &BTreeMap<String, BTreeSet<String>>, partitions_of: impl Fn(&str) -> i32) -> Shares {
    let mut shares: Shares = wishes.keys().map(|member| (member.clone(), BTreeMap::new())).collect();
    let topics: BTreeSet<&String> = wishes.values().flatten().collect();
    for topic in topics {
        let members: Vec<&String> =
            wishes.iter().filter(|(_, wish)| wish.contains(topic)).map(|(member, _)| member).collect();
        let (partitions, count) = (partitions_of(topic), members.len() as i32);
        let (each, more) = (partitions / count, partitions % count);
        let mut next = 0;
        for (index, member) in (0i32..).zip(members) {
            let end = next + each + i32::from(index < more);
            if let (Some(share), true) = (shares.get_mut(member), end > next) {
                share.insert(topic.clone(), (next..end).collect());
            }
            next = end;
        }
    }
    shares
}

fn subscription(topics: &[String]) -> Vec<u8> {
    let message = ConsumerProtocolSubscription {
        topics: topics.iter().map(|topic| Cow::Borrowed(topic.as_str())).collect(),
        ..ConsumerProtocolSubscription::default()
    };
    versioned(&message)
}

fn subscribed(bytes: &[u8]) -> BTreeSet<String> {
    let mut reader = Reader::new(bytes);
    let Ok(version) = reader.i16("version") else { return BTreeSet::new() };
    let version = version.clamp(0, ConsumerProtocolSubscription::MAX_VERSION);
    let message = ConsumerProtocolSubscription::decode_prefix(&mut reader, version);
    message.map_or_else(|_| BTreeSet::new(), |message| message.topics.iter().map(|t| t.to_string()).collect())
}

fn assignment_bytes(topics: &BTreeMap<String, Vec<i32>>) -> Vec<u8> {
    let assigned = topics.iter().map(|(topic, partitions)| Assigned {
        topic: topic.as_str().into(),
        partitions: partitions.clone().into(),
    });
    let message = ConsumerProtocolAssignment {
        assigned_partitions: assigned.collect(),
        ..ConsumerProtocolAssignment::default()
    };
    versioned(&message)
}

/// Version 0, which says nothing of owned partitions, with its number before it.
fn versioned<'a, M: Message<'a>>(message: &M) -> Vec<u8> {
    let mut bytes = 0i16.to_be_bytes().to_vec();
    bytes.extend(message.to_bytes(0));
    bytes
}

pub async fn heartbeat(
    cluster: &Cluster,
    caller: &Caller,
    group: &str,
    member: &Member,
) -> Result<ErrorCode, CallError> {
    let request = HeartbeatRequest {
        group_id: group.into(),
        generation_id: member.generation.unwrap_or(-1),
        member_id: member.id.as_str().into(),
        ..HeartbeatRequest::default()
    };
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT).await?;
    Ok(code_of(answer.read::<HeartbeatRequest<'_>>()?.error_code))
}

pub async fn leave(cluster: &Cluster, caller: &Caller, group: &str, id: &str) -> Result<(), CallError> {
    let member = MemberIdentity { member_id: id.into(), ..MemberIdentity::default() };
    let request = LeaveGroupRequest {
        group_id: group.into(),
        members: [member].into(),
        ..LeaveGroupRequest::default()
    };
    cluster.ask(caller, Call::of(i16::MAX, &request), WAIT).await.map(|_| ())
}

/// Offset and metadata by place; the first error there is, tried again where that may help.
pub async fn commit(
    cluster: &Cluster,
    caller: &Caller,
    group: &str,
    member: &Member,
    offsets: &BTreeMap<Place, (i64, String)>,
) -> Result<ErrorCode, CallError> {
    for _ in 0..TRIES_MAX {
        match commit_once(cluster, caller, group, member, offsets).await? {
            ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorLoadInProgress => {
                find_coordinator(cluster, caller, group).await?;
                tokio::time::sleep(PAUSE).await;
            }
            code => return Ok(code),
        }
    }
    Ok(ErrorCode::CoordinatorNotAvailable)
}

async fn commit_once(
    cluster: &Cluster,
    caller: &Caller,
    group: &str,
    member: &Member,
    offsets: &BTreeMap<Place, (i64, String)>,
) -> Result<ErrorCode, CallError> {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition<'_>>> = BTreeMap::new();
    for ((topic, partition), (offset, metadata)) in offsets {
        topics.entry(topic).or_default().push(OffsetCommitRequestPartition {
            partition_index: *partition,
            committed_offset: *offset,
            committed_metadata: Some(metadata.as_str().into()),
            ..OffsetCommitRequestPartition::default()
        });
    }
    let topics = topics.into_iter().map(|(name, partitions)| OffsetCommitRequestTopic {
        name: name.into(),
        partitions: partitions.into(),
        ..OffsetCommitRequestTopic::default()
    });
    let request = OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: member.generation.unwrap_or(-1),
        member_id: if member.generation.is_some() { member.id.as_str().into() } else { "".into() },
        topics: topics.collect(),
        ..OffsetCommitRequest::default()
    };
    let answer = cluster.ask(caller, Call::of(COMMIT_VERSION_MAX, &request), WAIT).await?;
    let response = answer.read::<OffsetCommitRequest<'_>>()?;
    let codes = response
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| partition.error_code).collect::<Vec<_>>());
    Ok(codes.map(code_of).find(|code| code.is_error()).unwrap_or(ErrorCode::None))
}

fn code_of(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_every_partition_once() {
        let wish = |topics: &[&str]| topics.iter().map(|topic| (*topic).to_owned()).collect();
        let wishes = BTreeMap::from([
            ("a".to_owned(), wish(&["t", "u"])),
            ("b".to_owned(), wish(&["t"])),
            ("c".to_owned(), wish(&["t", "gone"])),
        ]);
        let shares = range(&wishes, |topic| match topic {
            "t" => 7,
            "u" => 1,
            _ => 0,
        });
        assert_eq!(
            (&shares["a"]["t"], &shares["b"]["t"], &shares["c"]["t"]),
            (&vec![0, 1, 2], &vec![3, 4], &vec![5, 6])
        );
        assert_eq!(shares["a"]["u"], [0]);
        assert!(!shares["c"].contains_key("gone"));
        let bytes = assignment_bytes(&shares["a"]);
        assert_eq!(assignment(&bytes).len(), 4);
        assert_eq!(subscribed(&subscription(&["x".to_owned(), "y".to_owned()])).len(), 2);
        assert!(subscribed(b"\xff\xff\x7f").is_empty());
    }
}
