//! OffsetCommit, versions 2 to 10: topics by name up to 9, by id from 10 on.

use std::borrow::Cow;
use std::sync::Arc;

use crate::protocol::messages::offset_commit_request::{OffsetCommitRequest, OffsetCommitRequestPartition};
use crate::protocol::messages::offset_commit_response::{
    OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use crate::protocol::{DecodeError, ErrorCode, Message, Uuid};

use crate::broker::group::appends::{OffsetChange, Pending, Response, Then, coordinator_error};
use crate::broker::group::classic::{ClassicGroup, State};
use crate::broker::group::coordinator::{GroupCoordinator, Partition};
use crate::broker::group::entry::Group;
use crate::broker::group::offsets::{CommittedOffset, OFFSET_OVERHEAD};
use crate::broker::group::records::BatchWriter;
use crate::broker::group::turn::Turn;
use crate::broker::group::{AppendId, Effect, GroupConfig, GroupRequest, Now, TopicLookup};

const TOPIC_ID_VERSION: i16 = 10;
/// From this version on an unknown group is called unknown.
const GROUP_ID_NOT_FOUND_VERSION: i16 = 9;

type Partitions = Vec<OffsetCommitResponsePartition>;

/// An answer in the making: what was refused before the group was asked, then what the group says.
#[derive(Debug, Default)]
pub struct OffsetCommitAnswer {
    by_id: bool,
    refused: Vec<(Arc<str>, Uuid, Partitions)>,
    handled: Vec<(Arc<str>, Uuid, Partitions)>,
}

/// The part of a request that names partitions that exist.
struct Topic<'a> {
    name: Arc<str>,
    id: Uuid,
    partitions: Vec<OffsetCommitRequestPartition<'a>>,
}

pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    topics: &dyn TopicLookup,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = OffsetCommitRequest::decode_exact(request.body, request.version)?;
    let by_id = request.version >= TOPIC_ID_VERSION;
    let mut answer = OffsetCommitAnswer { by_id, ..OffsetCommitAnswer::default() };
    let known = answer.known_topics(&message, topics);
    answer.handle_topics(&known, coordinator.config());
    let mut append = None;
    if !known.is_empty() {
        let result = match coordinator.serve(now, &message.group_id, out) {
            Ok((mut turn, partition)) => turn.commit(partition, &message, request.version, &known),
            Err(error) => Err(error),
        };
        match result {
            Ok(id) => append = id,
            Err(error) => answer.fail(error.code()),
        }
    }
    let response = Response::OffsetCommit(answer);
    coordinator.appends().answer_after(append.as_slice(), request.waiting(), response, out);
    Ok(())
}

impl OffsetCommitAnswer {
    /// Sorts out what does not exist.
    fn known_topics<'a>(
        &mut self,
        message: &OffsetCommitRequest<'a>,
        lookup: &dyn TopicLookup,
    ) -> Vec<Topic<'a>> {
        let mut known = Vec::new();
        for topic in &message.topics {
            let (name, id) = if self.by_id {
                (lookup.topic_name(topic.topic_id), Some(topic.topic_id))
            } else {
                (Some(Arc::from(&*topic.name)), lookup.topic_id(&topic.name))
            };
            let count = name.as_ref().and_then(|name| lookup.partition_count(name)).unwrap_or(0);
            let (name, id, error) = match (name, id) {
                (None, id) => ("".into(), id.unwrap_or_default(), ErrorCode::UnknownTopicId),
                (Some(name), id) => (name, id.unwrap_or_default(), ErrorCode::UnknownTopicOrPartition),
            };
            let (valid, unknown): (Vec<_>, Vec<_>) =
                topic.partitions.iter().partition(|p| (0..count).contains(&p.partition_index));
            if !unknown.is_empty() || valid.is_empty() && count == 0 {
                let unknown = unknown.iter().map(|p| partition_response(p.partition_index, error)).collect();
                add(&mut self.refused, self.by_id, (name.clone(), id, unknown));
            }
            if !valid.is_empty() {
                known.push(Topic { name, id, partitions: valid });
            }
        }
        known
    }

    fn handle_topics(&mut self, known: &[Topic<'_>], config: &GroupConfig) {
        for topic in known {
            let partitions = topic.partitions.iter().map(|partition| {
                let error = match is_metadata_too_large(partition, config) {
                    true => ErrorCode::OffsetMetadataTooLarge,
                    false => ErrorCode::None,
                };
                partition_response(partition.partition_index, error)
            });
            self.handled.push((topic.name.clone(), topic.id, partitions.collect()));
        }
    }

    /// The group refuses all of it.
    pub fn fail(&mut self, error_code: i16) {
        for (_, _, partitions) in &mut self.handled {
            for partition in partitions {
                partition.error_code = error_code;
            }
        }
    }

    pub fn to_bytes(&self, version: i16) -> Vec<u8> {
        let mut topics = self.refused.clone();
        if topics.is_empty() {
            topics.clone_from(&self.handled);
        } else {
            for topic in &self.handled {
                add(&mut topics, self.by_id, topic.clone());
            }
        }
        let topics = topics.iter().map(|(name, topic_id, partitions)| OffsetCommitResponseTopic {
            name: Cow::Borrowed(name),
            topic_id: *topic_id,
            partitions: partitions.clone().into(),
        });
        OffsetCommitResponse { topics: topics.collect(), ..OffsetCommitResponse::default() }.to_bytes(version)
    }
}

/// To the topic if it is there, else as a new one.
fn add(topics: &mut Vec<(Arc<str>, Uuid, Partitions)>, by_id: bool, new: (Arc<str>, Uuid, Partitions)) {
    let same = |(name, id, _): &&mut (Arc<str>, Uuid, Partitions)| match by_id {
        true => *id == new.1,
        false => *name == new.0,
    };
    match topics.iter_mut().find(same) {
        Some((_, _, partitions)) => partitions.extend(new.2),
        None => topics.push(new),
    }
}

fn partition_response(partition_index: i32, error: ErrorCode) -> OffsetCommitResponsePartition {
    OffsetCommitResponsePartition { partition_index, error_code: error.code() }
}

/// Kafka counts a Java string's units.
fn is_metadata_too_large(partition: &OffsetCommitRequestPartition<'_>, config: &GroupConfig) -> bool {
    let units_max = usize::try_from(config.offset_metadata_max_bytes).unwrap_or(0);
    let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
    metadata.len() > units_max && metadata.encode_utf16().count() > units_max
}

/// Whether who commits may: a member of this generation, or anybody while the group has no members.
fn validate(
    classic: &ClassicGroup,
    member_id: &str,
    instance_id: Option<&str>,
    generation: i32,
) -> Result<(), ErrorCode> {
    if classic.is(State::Dead) {
        return Err(ErrorCode::CoordinatorNotAvailable);
    }
    if generation < 0 && classic.is(State::Empty) {
        return Ok(());
    }
    if generation >= 0 || !member_id.is_empty() || instance_id.is_some() {
        classic.validate_member(member_id, instance_id)?;
        if generation != classic.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
    } else if !classic.is(State::Empty) {
        return Err(ErrorCode::UnknownMemberId);
    }
    if classic.is(State::CompletingRebalance) {
        return Err(ErrorCode::RebalanceInProgress);
    }
    Ok(())
}

impl Turn<'_> {
    fn commit(
        &mut self,
        partition: &mut Partition,
        message: &OffsetCommitRequest<'_>,
        version: i16,
        topics: &[Topic<'_>],
    ) -> Result<Option<AppendId>, ErrorCode> {
        let (member_id, epoch) = (&*message.member_id, message.generation_id_or_member_epoch);
        let instance_id = message.group_instance_id.as_deref();
        let group = match partition.groups.get_mut(&*message.group_id) {
            Some(_) => partition.groups.get_mut(&*message.group_id),
            // Somebody who keeps offsets here and needs no group otherwise.
            None if epoch < 0 => partition.get_or_create(self, &message.group_id),
            None if version >= GROUP_ID_NOT_FOUND_VERSION => return Err(ErrorCode::GroupIdNotFound),
            None => return Err(ErrorCode::IllegalGeneration),
        };
        let group = group.ok_or(ErrorCode::CoordinatorNotAvailable)?;
        if let Some(consumer) = group.consumer.as_ref().filter(|_| !group.is_dead()) {
            let check = consumer.validate_commit(member_id, epoch, Some(version))?;
            let config = self.config;
            for topic in topics {
                let taken = topic.partitions.iter().filter(|p| !is_metadata_too_large(p, config));
                taken.map(|p| p.partition_index).try_for_each(|index| check.allows(topic.id, index))?;
            }
        } else {
            validate(&group.classic, member_id, instance_id, epoch)?;
        }
        if matches!(group.classic.state(), State::Stable | State::PreparingRebalance) {
            self.renew_session(group, &message.member_id);
        }
        let append = self.append_offsets(group, message.retention_time_ms, topics);
        self.account(group);
        append
    }

    fn append_offsets(
        &mut self,
        group: &mut Group,
        retention_time_ms: i64,
        topics: &[Topic<'_>],
    ) -> Result<Option<AppendId>, ErrorCode> {
        let wall_ms = self.now.wall_ms;
        let expire_timestamp_ms =
            (retention_time_ms != -1).then(|| wall_ms.saturating_add(retention_time_ms));
        let mut batch = BatchWriter::new(wall_ms);
        let mut values = Vec::new();
        let mut pending = Pending::new(self.partition, Then::Nothing);
        let mut bytes = 0;
        for topic in topics {
            let name = group.offsets.topic_name(&topic.name);
            for partition in &topic.partitions {
                if is_metadata_too_large(partition, self.config) {
                    continue;
                }
                let topic_id = if self.config.offset_topic_ids { topic.id } else { Uuid::ZERO };
                let value = committed(partition, topic_id, wall_ms, expire_timestamp_ms);
                bytes += OFFSET_OVERHEAD + value.metadata.len();
                batch.offset(&group.id, &name, partition.partition_index, &value);
                let index = pending.offsets.len() as i32;
                let (group, topic) = (group.id.clone(), name.clone());
                pending.offsets.push(OffsetChange {
                    group,
                    topic,
                    partition: partition.partition_index,
                    index,
                });
                values.push(value);
            }
        }
        if batch.is_empty() {
            return Ok(None);
        }
        if !self.has_room(bytes) {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        let changes = pending.offsets.clone();
        let append = self.append(batch, pending).map_err(|(error, _)| coordinator_error(error))?;
        for (change, value) in changes.iter().zip(values) {
            group.offsets.begin(&change.topic, change.partition, append, Some(value));
        }
        Ok(Some(append))
    }
}

fn committed(
    partition: &OffsetCommitRequestPartition<'_>,
    topic_id: Uuid,
    wall_ms: i64,
    expire_timestamp_ms: Option<i64>,
) -> CommittedOffset {
    CommittedOffset {
        record_offset: -1,
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: partition.committed_metadata.as_deref().unwrap_or_default().into(),
        commit_timestamp_ms: wall_ms,
        expire_timestamp_ms,
        // Version 1 of the value, the one with an expiry, has no place for it.
        topic_id: if expire_timestamp_ms.is_some() { Uuid::ZERO } else { topic_id },
    }
}
