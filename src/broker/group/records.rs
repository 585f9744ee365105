//! Groups and offsets as records of `__consumer_offsets`, in Kafka's format.
//!
//! A key is its type (2 bytes) and the message in version 0; a value is its version (2 bytes) and the message; a record
//! without a value deletes. Written as Kafka 4.3 writes them: groups in version 3, offsets in version 4 where they name a
//! topic id and 1 where a client names a retention of its own. All others lose nothing in version 3, which the lag monitors
//! that read this topic themselves know as well. Read in every version.

use std::borrow::Cow;
use std::sync::Arc;

use crate::protocol::messages::{
    group_metadata_key, group_metadata_value, offset_commit_key, offset_commit_value,
};
use crate::protocol::{Message, Reader, Writer};
use crate::record::{BatchBuilder, BatchOptions, Compressor};

use group_metadata_key::GroupMetadataKey;
use group_metadata_value::{GroupMetadataValue, MemberMetadata};
use offset_commit_key::OffsetCommitKey;
use offset_commit_value::OffsetCommitValue;

use super::classic::ClassicGroup;
use super::consumer::records::ConsumerRecord;
use super::entry::Group;
use super::member::{Member, MemberProtocol};
use super::offsets::CommittedOffset;

/// Offsets were written under this type once, with the same key.
const LEGACY_OFFSET_COMMIT_KEY: i16 = 0;
pub(super) const OFFSET_VALUE_VERSION: i16 = 3;
const OFFSET_VALUE_VERSION_WITH_TOPIC_ID: i16 = 4;
const OFFSET_VALUE_VERSION_WITH_EXPIRY: i16 = 1;
const GROUP_VALUE_VERSION: i16 = 3;

/// The records of one append.
pub struct BatchWriter {
    builder: BatchBuilder,
    timestamp_ms: i64,
    scratch: (Writer, Writer),
}

impl BatchWriter {
    pub fn new(wall_ms: i64) -> Self {
        let builder = BatchBuilder::new(BatchOptions::default());
        BatchWriter { builder, timestamp_ms: wall_ms, scratch: (Writer::new(), Writer::new()) }
    }

    /// As part of a producer's transaction; coordinators number no batches.
    pub fn of_transaction(wall_ms: i64, producer_id: i64, producer_epoch: i16) -> Self {
        let mut writer = BatchWriter::new(wall_ms);
        let options = BatchOptions { producer_id, producer_epoch, transactional: true, ..Default::default() };
        writer.builder.reset(options);
        writer
    }

    pub fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// The bytes of the batch so far.
    pub fn size(&self) -> usize {
        self.builder.uncompressed_size()
    }

    pub fn offset(&mut self, group: &str, topic: &str, partition: i32, value: &CommittedOffset) {
        let version = match value.expire_timestamp_ms {
            Some(_) => OFFSET_VALUE_VERSION_WITH_EXPIRY,
            None if value.topic_id.is_zero() => OFFSET_VALUE_VERSION,
            None => OFFSET_VALUE_VERSION_WITH_TOPIC_ID,
        };
        let message = OffsetCommitValue {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: Cow::Borrowed(&value.metadata),
            commit_timestamp: value.commit_timestamp_ms,
            expire_timestamp: value.expire_timestamp_ms.unwrap_or(-1),
            topic_id: value.topic_id,
        };
        self.put_offset_key(group, topic, partition);
        self.put_value(version, &message);
        self.append(true);
    }

    pub fn offset_tombstone(&mut self, group: &str, topic: &str, partition: i32) {
        self.put_offset_key(group, topic, partition);
        self.append(false);
    }

    /// The group as it is, with these assignments in place of the members' own.
    pub fn group<'g>(&mut self, group: &'g Group, assignment: impl Fn(&'g Member) -> &'g [u8]) {
        let classic = &group.classic;
        let protocol = classic.protocol.as_deref();
        let members = classic.members().map(|member| MemberMetadata {
            member_id: Cow::Borrowed(&member.id),
            group_instance_id: member.instance_id.as_deref().map(Cow::Borrowed),
            client_id: Cow::Borrowed(&member.client_id),
            client_host: Cow::Borrowed(&member.client_host),
            rebalance_timeout: member.rebalance_timeout_ms,
            session_timeout: member.session_timeout_ms,
            subscription: Cow::Borrowed(protocol.and_then(|name| member.metadata(name)).unwrap_or_default()),
            assignment: Cow::Borrowed(assignment(member)),
        });
        let value = GroupMetadataValue {
            protocol_type: Cow::Borrowed(classic.protocol_type.as_deref().unwrap_or_default()),
            generation: classic.generation,
            protocol: protocol.map(Cow::Borrowed),
            leader: classic.leader.as_deref().map(Cow::Borrowed),
            current_state_timestamp: classic.state_timestamp_ms.unwrap_or(-1),
            members: members.collect(),
        };
        self.put_group(&group.id, &value);
    }

    /// A group nobody has joined yet.
    pub fn new_group(&mut self, group: &Group) {
        let value = GroupMetadataValue {
            protocol: None,
            leader: None,
            current_state_timestamp: group.classic.state_timestamp_ms.unwrap_or(-1),
            ..GroupMetadataValue::default()
        };
        self.put_group(&group.id, &value);
    }

    pub fn group_tombstone(&mut self, group: &str) {
        self.put_group_key(group);
        self.append(false);
    }

    /// The batch; none if it cannot be made.
    pub fn finish(self) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.size());
        self.builder.finish(&mut Compressor::default(), &mut bytes).ok()?;
        Some(bytes)
    }

    fn put_group(&mut self, group: &str, value: &GroupMetadataValue<'_>) {
        self.put_group_key(group);
        self.put_value(GROUP_VALUE_VERSION, value);
        self.append(true);
    }

    fn put_offset_key(&mut self, group: &str, topic: &str, partition: i32) {
        let key = OffsetCommitKey { group: Cow::Borrowed(group), topic: Cow::Borrowed(topic), partition };
        self.put_key(offset_commit_key::RECORD_TYPE, &key);
    }

    fn put_group_key(&mut self, group: &str) {
        self.put_key(group_metadata_key::RECORD_TYPE, &GroupMetadataKey { group: Cow::Borrowed(group) });
    }

    pub(super) fn put_key<'m>(&mut self, record_type: i16, key: &impl Message<'m>) {
        self.scratch.0.clear();
        self.scratch.0.put_i16(record_type);
        key.write(&mut self.scratch.0, 0);
    }

    pub(super) fn put_value<'m>(&mut self, version: i16, value: &impl Message<'m>) {
        self.scratch.1.clear();
        self.scratch.1.put_i16(version);
        value.write(&mut self.scratch.1, version);
    }

    pub(super) fn append(&mut self, has_value: bool) {
        let (key, value) = &self.scratch;
        let value = has_value.then_some(value.buf.as_slice());
        self.builder.append(self.timestamp_ms, Some(&key.buf), value, &[]);
    }
}

/// What a record of the topic says; borrowed from it.
#[derive(Clone, Debug)]
pub enum GroupRecord<'a> {
    Offset {
        key: OffsetCommitKey<'a>,
        value: Option<OffsetCommitValue<'a>>,
    },
    Group {
        key: GroupMetadataKey<'a>,
        value: Option<GroupMetadataValue<'a>>,
    },
    Consumer(ConsumerRecord),
    /// Of a type that is not known here: share groups, streams groups.
    Other,
}

impl<'a> GroupRecord<'a> {
    /// None if the bytes are not what they should be.
    pub fn parse(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Option<GroupRecord<'a>> {
        let mut reader = Reader::new(key?);
        Some(match reader.i16("type").ok()? {
            LEGACY_OFFSET_COMMIT_KEY | offset_commit_key::RECORD_TYPE => {
                let key = OffsetCommitKey::read(&mut reader, 0).ok()?;
                GroupRecord::Offset { key, value: parse_value(value)? }
            }
            group_metadata_key::RECORD_TYPE => {
                let key = GroupMetadataKey::read(&mut reader, 0).ok()?;
                GroupRecord::Group { key, value: parse_value(value)? }
            }
            other => match ConsumerRecord::parse(other, &mut reader, value) {
                Some(record) => GroupRecord::Consumer(record?),
                None => GroupRecord::Other,
            },
        })
    }
}

/// None for a value that cannot be read; none within for a deletion.
pub(super) fn parse_value<'a, M: Message<'a>>(value: Option<&'a [u8]>) -> Option<Option<M>> {
    let Some(value) = value else { return Some(None) };
    let mut reader = Reader::new(value);
    let version = reader.i16("version").ok()?;
    if !(M::MIN_VERSION..=M::MAX_VERSION).contains(&version) {
        return None;
    }
    M::read(&mut reader, version).ok().map(Some)
}

/// The offset a record at `record_offset` holds.
pub fn committed_offset(record_offset: i64, value: &OffsetCommitValue<'_>) -> CommittedOffset {
    CommittedOffset {
        record_offset,
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: value.metadata.as_ref().into(),
        commit_timestamp_ms: value.commit_timestamp,
        expire_timestamp_ms: (value.expire_timestamp != -1).then_some(value.expire_timestamp),
        topic_id: value.topic_id,
    }
}

/// The group a record holds.
pub fn classic_group(value: &GroupMetadataValue<'_>) -> ClassicGroup {
    let shared = |text: &str| -> Arc<str> { text.into() };
    let protocol_type = Some(&*value.protocol_type).filter(|text| !text.is_empty()).map(shared);
    let protocol = value.protocol.as_deref().map(shared);
    let mut group = ClassicGroup::loaded(
        value.generation,
        protocol_type,
        protocol.clone(),
        value.leader.as_deref().map(shared),
        (value.current_state_timestamp != -1).then_some(value.current_state_timestamp),
    );
    for member in &value.members {
        if group.has_member(&member.member_id) {
            continue;
        }
        let timeout = member.rebalance_timeout;
        let supported = protocol
            .as_ref()
            .map(|name| MemberProtocol { name: name.clone(), metadata: member.subscription.as_ref().into() });
        group.add(Member {
            id: shared(&member.member_id),
            instance_id: member.group_instance_id.as_deref().map(shared),
            client_id: shared(&member.client_id),
            client_host: shared(&member.client_host),
            rebalance_timeout_ms: if timeout == -1 { member.session_timeout } else { timeout },
            session_timeout_ms: member.session_timeout,
            protocol_type: shared(&value.protocol_type),
            protocols: supported.into_iter().collect(),
            assignment: member.assignment.as_ref().into(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
        });
    }
    group.finish_loading();
    group
}
