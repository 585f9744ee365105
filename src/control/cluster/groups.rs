//! Groups as an administrator sees them: which there are, who is in them, what they have committed and how far they are behind.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::observer::Snapshot;
use super::{Call, CallError, Caller, Cluster, WAIT};
use crate::protocol::ErrorCode;
use crate::protocol::messages::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use crate::protocol::messages::consumer_group_describe_response::Member as NewerMember;
use crate::protocol::messages::consumer_protocol_assignment::ConsumerProtocolAssignment;
use crate::protocol::messages::describe_groups_request::DescribeGroupsRequest;
use crate::protocol::messages::list_groups_request::ListGroupsRequest;
use crate::protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestGroup};
use crate::protocol::{Message, Reader};

/// Groups asked for in one request.
const GROUPS_A_REQUEST: usize = 50;
/// The last version in which topics go by name.
const OFFSETS_VERSION_MAX: i16 = 9;

#[derive(Clone, Debug)]
pub struct GroupSummary {
    pub id: String,
    pub protocol_type: String,
    pub state: String,
    pub group_type: String,
}

#[derive(Clone, Debug)]
pub struct Group {
    pub id: String,
    pub error: ErrorCode,
    pub state: String,
    pub protocol_type: String,
    /// The assignor of a consumer group.
    pub protocol: String,
    /// Of the newer protocol (KIP-848).
    pub newer: bool,
    pub members: Vec<Member>,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub host: String,
    /// Topic and partition.
    pub assignment: Vec<(String, i32)>,
}

#[derive(Clone, Debug)]
pub struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
}

/// By topic and partition.
pub type Offsets = BTreeMap<(String, i32), Committed>;

pub async fn list(cluster: &Cluster, caller: &Caller) -> Result<Vec<GroupSummary>, CallError> {
    let request = ListGroupsRequest::default();
    let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT).await?;
    let response = answer.read::<ListGroupsRequest<'_>>()?;
    let mut groups: Vec<GroupSummary> = response
        .groups
        .iter()
        .map(|group| GroupSummary {
            id: group.group_id.to_string(),
            protocol_type: group.protocol_type.to_string(),
            state: group.group_state.to_string(),
            group_type: group.group_type.to_string(),
        })
        .collect();
    groups.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(groups)
}

pub async fn describe(cluster: &Cluster, caller: &Caller, ids: &[String]) -> Result<Vec<Group>, CallError> {
    let mut groups = Vec::with_capacity(ids.len());
    for some in ids.chunks(GROUPS_A_REQUEST) {
        let request = DescribeGroupsRequest {
            groups: some.iter().map(|id| Cow::Borrowed(id.as_str())).collect(),
            include_authorized_operations: false,
        };
        let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT).await?;
        let response = answer.read::<DescribeGroupsRequest<'_>>()?;
        for group in &response.groups {
            groups.push(Group {
                id: group.group_id.to_string(),
                error: ErrorCode::from_code(group.error_code).unwrap_or(ErrorCode::UnknownServerError),
                state: group.group_state.to_string(),
                protocol_type: group.protocol_type.to_string(),
                protocol: group.protocol_data.to_string(),
                newer: false,
                members: group
                    .members
                    .iter()
                    .map(|member| Member {
                        id: member.member_id.to_string(),
                        instance_id: member.group_instance_id.map(|id| id.to_string()),
                        client_id: member.client_id.to_string(),
                        host: member.client_host.to_string(),
                        assignment: assignment(&member.member_assignment),
                    })
                    .collect(),
            });
        }
    }
    describe_newer(cluster, caller, &mut groups).await?;
    Ok(groups)
}

/// Groups of the newer protocol (KIP-848) are dead to the older request: they are asked for again.
async fn describe_newer(cluster: &Cluster, caller: &Caller, groups: &mut [Group]) -> Result<(), CallError> {
    let unknown: Vec<usize> = (0..groups.len()).filter(|index| groups[*index].state == "Dead").collect();
    for some in unknown.chunks(GROUPS_A_REQUEST) {
        let ids: Vec<String> = some.iter().map(|index| groups[*index].id.clone()).collect();
        let request = ConsumerGroupDescribeRequest {
            group_ids: ids.iter().map(|id| Cow::Borrowed(id.as_str())).collect(),
            include_authorized_operations: false,
        };
        let answer = cluster.ask(caller, Call::of(i16::MAX, &request), WAIT).await?;
        let response = answer.read::<ConsumerGroupDescribeRequest<'_>>()?;
        for found in response.groups.iter().filter(|found| found.error_code == 0) {
            let Some(group) = groups.iter_mut().find(|group| group.id == *found.group_id) else { continue };
            group.error = ErrorCode::None;
            group.state = found.group_state.to_string();
            group.protocol_type = "consumer".to_owned();
            group.newer = true;
            group.protocol = found.assignor_name.to_string();
            group.members = found.members.iter().map(|member| newer_member(&member)).collect();
        }
    }
    Ok(())
}

fn newer_member(member: &NewerMember<'_>) -> Member {
    let mut assignment = Vec::new();
    for topic in &member.assignment.topic_partitions {
        assignment.extend(topic.partitions.iter().map(|partition| (topic.topic_name.to_string(), partition)));
    }
    Member {
        id: member.member_id.to_string(),
        instance_id: member.instance_id.as_deref().map(str::to_owned),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        assignment,
    }
}

/// The members' bytes are their own: what is no consumer's assignment is shown as none.
pub fn assignment(bytes: &[u8]) -> Vec<(String, i32)> {
    let mut reader = Reader::new(bytes);
    let Ok(version) = reader.i16("version") else { return Vec::new() };
    let version = version.clamp(0, ConsumerProtocolAssignment::MAX_VERSION);
    let Ok(message) = ConsumerProtocolAssignment::decode_prefix(&mut reader, version) else {
        return Vec::new();
    };
    let mut partitions = Vec::new();
    for topic in &message.assigned_partitions {
        partitions.extend(topic.partitions.iter().map(|partition| (topic.topic.to_string(), partition)));
    }
    partitions
}

/// All committed offsets of each group, in the order of `ids`.
pub async fn committed(
    cluster: &Cluster,
    caller: &Caller,
    ids: &[String],
) -> Result<Vec<(String, Offsets)>, CallError> {
    let mut all = Vec::with_capacity(ids.len());
    for some in ids.chunks(GROUPS_A_REQUEST) {
        let asked = some.iter().map(|id| OffsetFetchRequestGroup {
            group_id: Cow::Borrowed(id.as_str()),
            topics: None,
            ..OffsetFetchRequestGroup::default()
        });
        let request = OffsetFetchRequest { groups: asked.collect(), ..OffsetFetchRequest::default() };
        let answer = cluster.ask(caller, Call::of(OFFSETS_VERSION_MAX, &request), WAIT).await?;
        let response = answer.read::<OffsetFetchRequest<'_>>()?;
        for group in &response.groups {
            let mut offsets = Offsets::new();
            for topic in &group.topics {
                for partition in &topic.partitions {
                    if partition.error_code != 0 || partition.committed_offset < 0 {
                        continue;
                    }
                    let committed = Committed {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: partition.metadata.as_deref().unwrap_or_default().to_owned(),
                    };
                    offsets.insert((topic.name.to_string(), partition.partition_index), committed);
                }
            }
            all.push((group.group_id.to_string(), offsets));
        }
    }
    Ok(all)
}

/// How far a committed offset is behind what can be read; `None` where there is no such partition any more.
pub fn lag(snapshot: &Snapshot, topic: &str, partition: i32, offset: i64) -> Option<i64> {
    let state = snapshot.partition(topic, partition)?;
    Some((state.log.high_watermark - offset).max(0))
}
