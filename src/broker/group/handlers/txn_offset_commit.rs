//! TxnOffsetCommit, versions 0 to 5: offsets that count when their transaction is committed.
//!
//! Whether the transaction may have them (from version 5 on: adds the group's partition to it) is known before, and comes as an
//! argument. Nobody's session is renewed by it, and it goes through in the middle of a rebalance, both as in Kafka.

use std::borrow::Cow;
use std::sync::Arc;

use crate::protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition,
};
use crate::protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use crate::protocol::{DecodeError, ErrorCode, Message, Reader, Uuid};

use crate::broker::group::appends::{OffsetChange, Pending, Response, Then, coordinator_error};
use crate::broker::group::classic::State;
use crate::broker::group::consumer::ConsumerGroup;
use crate::broker::group::coordinator::{GroupCoordinator, Partition};
use crate::broker::group::entry::Group;
use crate::broker::group::offsets::{CommittedOffset, OFFSET_OVERHEAD};
use crate::broker::group::records::BatchWriter;
use crate::broker::group::transactions::OfTransaction;
use crate::broker::group::turn::Turn;
use crate::broker::group::{AppendId, Effect, GroupConfig, GroupRequest, Now, TopicLookup};

/// Before this version clients do not know that a coordinator may be loading.
const LOADING_VERSION: i16 = 2;

/// A partition, what is told of it, and whether the group has a say in it.
type Told = (i32, ErrorCode, bool);

/// An answer in the making, by topic.
#[derive(Debug, Default)]
pub struct TxnOffsetCommitAnswer {
    topics: Vec<(Arc<str>, Vec<Told>)>,
}

/// The part of a request that names partitions that exist.
struct Topic<'a> {
    name: Arc<str>,
    id: Uuid,
    partitions: Vec<TxnOffsetCommitRequestPartition<'a>>,
}

/// `admitted` is what the transaction coordinator says.
pub fn handle(
    coordinator: &mut GroupCoordinator,
    now: Now,
    request: &GroupRequest<'_>,
    admitted: Result<(), ErrorCode>,
    topics: &dyn TopicLookup,
    out: &mut Vec<Effect>,
) -> Result<(), DecodeError> {
    let message = TxnOffsetCommitRequest::decode_prefix(&mut Reader::new(request.body), request.version)?;
    let mut answer = TxnOffsetCommitAnswer::default();
    let known = answer.known_topics(&message, topics, coordinator.config());
    let mut append = None;
    if !known.is_empty() {
        match commit(coordinator, now, &message, admitted, &known, out) {
            Ok(id) => append = id,
            Err(error) => answer.fail(error),
        }
    }
    let response = Response::TxnOffsetCommit(answer);
    coordinator.appends().answer_after(append.as_slice(), request.waiting(), response, out);
    Ok(())
}

fn commit(
    coordinator: &mut GroupCoordinator,
    now: Now,
    message: &TxnOffsetCommitRequest<'_>,
    admitted: Result<(), ErrorCode>,
    known: &[Topic<'_>],
    out: &mut Vec<Effect>,
) -> Result<Option<AppendId>, ErrorCode> {
    if message.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    admitted?;
    let (mut turn, partition) = coordinator.serve(now, &message.group_id, out)?;
    turn.commit_in_transaction(partition, message, known)
}

impl TxnOffsetCommitAnswer {
    /// Sorts out what does not exist and what is too large.
    fn known_topics<'a>(
        &mut self,
        message: &TxnOffsetCommitRequest<'a>,
        lookup: &dyn TopicLookup,
        config: &GroupConfig,
    ) -> Vec<Topic<'a>> {
        let mut known = Vec::new();
        for topic in &message.topics {
            let name: Arc<str> = topic.name.as_ref().into();
            let count = lookup.partition_count(&name).unwrap_or(0);
            let (mut told, mut valid) = (Vec::new(), Vec::new());
            for partition in &topic.partitions {
                let index = partition.partition_index;
                if !(0..count).contains(&index) {
                    told.push((index, ErrorCode::UnknownTopicOrPartition, false));
                } else if is_metadata_too_large(&partition, config) {
                    told.push((index, ErrorCode::OffsetMetadataTooLarge, true));
                } else {
                    told.push((index, ErrorCode::None, true));
                    valid.push(partition);
                }
            }
            if told.iter().any(|(.., of_group)| *of_group) {
                let id = lookup.topic_id(&name).unwrap_or_default();
                known.push(Topic { name: name.clone(), id, partitions: valid });
            }
            self.topics.push((name, told));
        }
        known
    }

    /// The group refuses all of it.
    pub fn fail(&mut self, error: ErrorCode) {
        let partitions = self.topics.iter_mut().flat_map(|(_, partitions)| partitions);
        partitions.filter(|(.., of_group)| *of_group).for_each(|(_, place, _)| *place = error);
    }

    pub fn to_bytes(&self, version: i16) -> Vec<u8> {
        let told = |error: ErrorCode| match error {
            ErrorCode::CoordinatorLoadInProgress if version < LOADING_VERSION => {
                ErrorCode::CoordinatorNotAvailable
            }
            error => error,
        };
        let topics = self.topics.iter().map(|(name, partitions)| TxnOffsetCommitResponseTopic {
            name: Cow::Borrowed(name),
            partitions: partitions
                .iter()
                .map(|(partition_index, error, _)| TxnOffsetCommitResponsePartition {
                    partition_index: *partition_index,
                    error_code: told(*error).code(),
                })
                .collect(),
        });
        TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() }.to_bytes(version)
    }
}

/// Kafka counts a Java string's units.
fn is_metadata_too_large(partition: &TxnOffsetCommitRequestPartition<'_>, config: &GroupConfig) -> bool {
    let units_max = usize::try_from(config.offset_metadata_max_bytes).unwrap_or(0);
    let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
    metadata.len() > units_max && metadata.encode_utf16().count() > units_max
}

/// Whether who commits may: a member of this generation, or somebody who does not say, as old clients do.
fn validate(
    group: &Group,
    message: &TxnOffsetCommitRequest<'_>,
    topics: &[Topic<'_>],
) -> Result<(), ErrorCode> {
    let classic = &group.classic;
    let instance_id = message.group_instance_id.as_deref();
    if classic.is(State::Dead) {
        return Err(ErrorCode::CoordinatorNotAvailable);
    }
    if let Some(consumer) = &group.consumer {
        return validate_consumer(consumer, message, topics);
    }
    if message.generation_id < 0 && classic.is(State::Empty) {
        return Ok(());
    }
    if message.generation_id >= 0 || !message.member_id.is_empty() || instance_id.is_some() {
        classic.validate_member(&message.member_id, instance_id)?;
        if message.generation_id != classic.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
    }
    Ok(())
}

fn validate_consumer(
    consumer: &ConsumerGroup,
    message: &TxnOffsetCommitRequest<'_>,
    topics: &[Topic<'_>],
) -> Result<(), ErrorCode> {
    let (member_id, epoch) = (&*message.member_id, message.generation_id);
    if epoch == -1 && member_id.is_empty() && message.group_instance_id.is_none() {
        return Ok(());
    }
    // The producer knows the classic protocol's errors only.
    let known = |error| match error {
        ErrorCode::StaleMemberEpoch => ErrorCode::IllegalGeneration,
        other => other,
    };
    let check = consumer.validate_commit(member_id, epoch, None).map_err(known)?;
    let partitions = topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| (topic.id, p)));
    let mut indexes = partitions.map(|(topic, partition)| (topic, partition.partition_index));
    indexes.try_for_each(|(topic, index)| check.allows(topic, index)).map_err(known)
}

impl Turn<'_> {
    fn commit_in_transaction(
        &mut self,
        partition: &mut Partition,
        message: &TxnOffsetCommitRequest<'_>,
        topics: &[Topic<'_>],
    ) -> Result<Option<AppendId>, ErrorCode> {
        let group = match partition.groups.get_mut(&*message.group_id) {
            Some(_) => partition.groups.get_mut(&*message.group_id),
            None if message.generation_id < 0 => partition.get_or_create(self, &message.group_id),
            None => return Err(ErrorCode::IllegalGeneration),
        };
        let group = group.ok_or(ErrorCode::CoordinatorNotAvailable)?;
        validate(group, message, topics)?;
        let append = self.append_open_offsets(group, message, topics);
        self.account(group);
        append
    }

    fn append_open_offsets(
        &mut self,
        group: &mut Group,
        message: &TxnOffsetCommitRequest<'_>,
        topics: &[Topic<'_>],
    ) -> Result<Option<AppendId>, ErrorCode> {
        let wall_ms = self.now.wall_ms;
        let producer_id = message.producer_id;
        let mut batch = BatchWriter::of_transaction(wall_ms, producer_id, message.producer_epoch);
        let mut pending = Pending::new(self.partition, Then::Nothing);
        pending.transaction = Some(OfTransaction::Offsets { producer_id });
        let (mut values, mut bytes) = (Vec::new(), 0);
        for topic in topics {
            let name = group.offsets.topic_name(&topic.name);
            for partition in &topic.partitions {
                let value = committed(partition, wall_ms);
                bytes += OFFSET_OVERHEAD + value.metadata.len();
                batch.offset(&group.id, &name, partition.partition_index, &value);
                pending.offsets.push(OffsetChange {
                    group: group.id.clone(),
                    topic: name.clone(),
                    partition: partition.partition_index,
                    index: pending.offsets.len() as i32,
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
            group.offsets.begin_open(&change.topic, change.partition, append, producer_id, value);
        }
        Ok(Some(append))
    }
}

/// Without the topic's id, which Kafka leaves out, too.
fn committed(partition: &TxnOffsetCommitRequestPartition<'_>, wall_ms: i64) -> CommittedOffset {
    CommittedOffset {
        record_offset: -1,
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: partition.committed_metadata.as_deref().unwrap_or_default().into(),
        commit_timestamp_ms: wall_ms,
        expire_timestamp_ms: None,
        topic_id: Uuid::ZERO,
    }
}
