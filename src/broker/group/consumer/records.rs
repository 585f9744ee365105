//! The changes of a consumer group as records of `__consumer_offsets`, types 3 to 8 and 16 in Kafka's format.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::assignment::{PartitionEpochs, TopicPartitions};
use super::group::{Change, GroupEpoch, Resolved, TargetEpoch};
use super::member::{ClassicMetadata, Current, MemberState, Metadata};
use crate::broker::group::records::{BatchWriter, parse_value};
use crate::protocol::messages::{
    consumer_group_current_member_assignment_key as current_key,
    consumer_group_current_member_assignment_value as current_value,
    consumer_group_member_metadata_key as member_key, consumer_group_member_metadata_value as member_value,
    consumer_group_metadata_key as group_key, consumer_group_metadata_value as group_value,
    consumer_group_partition_metadata_key as partition_key,
    consumer_group_partition_metadata_value as partition_value,
    consumer_group_regular_expression_key as pattern_key,
    consumer_group_regular_expression_value as pattern_value,
    consumer_group_target_assignment_member_key as target_key,
    consumer_group_target_assignment_member_value as target_value,
    consumer_group_target_assignment_metadata_key as target_epoch_key,
    consumer_group_target_assignment_metadata_value as target_epoch_value,
};
use crate::protocol::{Message, Reader};

use current_key::ConsumerGroupCurrentMemberAssignmentKey;
use current_value::ConsumerGroupCurrentMemberAssignmentValue;
use group_key::ConsumerGroupMetadataKey;
use group_value::ConsumerGroupMetadataValue;
use member_key::ConsumerGroupMemberMetadataKey;
use member_value::{ClassicMemberMetadata, ClassicProtocol, ConsumerGroupMemberMetadataValue};
use partition_key::ConsumerGroupPartitionMetadataKey;
use partition_value::ConsumerGroupPartitionMetadataValue;
use pattern_key::ConsumerGroupRegularExpressionKey;
use pattern_value::ConsumerGroupRegularExpressionValue;
use target_epoch_key::ConsumerGroupTargetAssignmentMetadataKey;
use target_epoch_value::ConsumerGroupTargetAssignmentMetadataValue;
use target_key::ConsumerGroupTargetAssignmentMemberKey;
use target_value::ConsumerGroupTargetAssignmentMemberValue;

/// Of every value here.
const VERSION: i16 = 0;

impl BatchWriter {
    /// The record of a change.
    pub fn change(&mut self, group: &str, change: &Change) {
        let group_id = Cow::Borrowed(group);
        match change {
            Change::Epoch(value) => {
                self.put_key(group_key::RECORD_TYPE, &ConsumerGroupMetadataKey { group_id });
                self.value(value.map(|GroupEpoch { epoch, metadata_hash }| ConsumerGroupMetadataValue {
                    epoch,
                    metadata_hash,
                }));
            }
            Change::PartitionMetadata(exists) => {
                self.put_key(partition_key::RECORD_TYPE, &ConsumerGroupPartitionMetadataKey { group_id });
                self.value(exists.then(ConsumerGroupPartitionMetadataValue::default));
            }
            Change::TargetEpoch(value) => {
                let key = ConsumerGroupTargetAssignmentMetadataKey { group_id };
                self.put_key(target_epoch_key::RECORD_TYPE, &key);
                self.value(value.map(|target| ConsumerGroupTargetAssignmentMetadataValue {
                    assignment_epoch: target.epoch,
                    assignment_timestamp: target.timestamp_ms,
                }));
            }
            Change::Member(id, value) => {
                let key = ConsumerGroupMemberMetadataKey { group_id, member_id: Cow::Borrowed(id) };
                self.put_key(member_key::RECORD_TYPE, &key);
                self.value(value.as_deref().map(member));
            }
            Change::Target(id, value) => {
                let key = ConsumerGroupTargetAssignmentMemberKey { group_id, member_id: Cow::Borrowed(id) };
                self.put_key(target_key::RECORD_TYPE, &key);
                self.value(value.as_deref().map(target));
            }
            Change::Current(id, value) => {
                let key = ConsumerGroupCurrentMemberAssignmentKey { group_id, member_id: Cow::Borrowed(id) };
                self.put_key(current_key::RECORD_TYPE, &key);
                self.value(value.as_deref().map(current));
            }
            Change::Pattern(pattern, value) => {
                let regular_expression = Cow::Borrowed(&**pattern);
                let key = ConsumerGroupRegularExpressionKey { group_id, regular_expression };
                self.put_key(pattern_key::RECORD_TYPE, &key);
                self.value(value.as_deref().map(resolved));
            }
        }
    }

    fn value<'m>(&mut self, value: Option<impl Message<'m>>) {
        if let Some(value) = &value {
            self.put_value(VERSION, value);
        }
        self.append(value.is_some());
    }
}

fn member(metadata: &Metadata) -> ConsumerGroupMemberMetadataValue<'_> {
    let text = |text: &'_ Option<Arc<str>>| text.as_ref().map(|text| Cow::Owned(text.to_string()));
    let classic = metadata.classic.as_ref().map(|classic| ClassicMemberMetadata {
        session_timeout_ms: classic.session_timeout_ms,
        supported_protocols: classic
            .protocols
            .iter()
            .map(|(name, metadata)| ClassicProtocol {
                name: Cow::Borrowed(name),
                metadata: Cow::Borrowed(metadata),
            })
            .collect(),
    });
    ConsumerGroupMemberMetadataValue {
        instance_id: text(&metadata.instance_id),
        rack_id: text(&metadata.rack_id),
        client_id: Cow::Borrowed(&metadata.client_id),
        client_host: Cow::Borrowed(&metadata.client_host),
        subscribed_topic_names: metadata.topics.iter().map(|topic| Cow::Borrowed(&**topic)).collect(),
        subscribed_topic_regex: text(&metadata.regex),
        rebalance_timeout_ms: metadata.rebalance_timeout_ms,
        server_assignor: text(&metadata.assignor),
        classic_member_metadata: classic,
    }
}

fn target(partitions: &TopicPartitions) -> ConsumerGroupTargetAssignmentMemberValue<'_> {
    let topic_partitions = partitions.iter().map(|(topic_id, indexes)| target_value::TopicPartition {
        topic_id: *topic_id,
        partitions: indexes.iter().copied().collect(),
    });
    ConsumerGroupTargetAssignmentMemberValue { topic_partitions: topic_partitions.collect() }
}

fn current(current: &Current) -> ConsumerGroupCurrentMemberAssignmentValue<'_> {
    let partitions = |partitions: &PartitionEpochs| {
        let of_topic = |(topic_id, epochs): (&_, &BTreeMap<i32, i32>)| current_value::TopicPartitions {
            topic_id: *topic_id,
            partitions: epochs.keys().copied().collect(),
            assignment_epochs: Some(epochs.values().copied().collect()),
        };
        partitions.iter().map(of_topic).collect()
    };
    ConsumerGroupCurrentMemberAssignmentValue {
        member_epoch: current.epoch,
        previous_member_epoch: current.previous_epoch,
        state: current.state.code(),
        assigned_partitions: partitions(&current.assigned),
        partitions_pending_revocation: partitions(&current.revoking),
    }
}

fn resolved(resolved: &Resolved) -> ConsumerGroupRegularExpressionValue<'_> {
    ConsumerGroupRegularExpressionValue {
        topics: resolved.topics.iter().map(|topic| Cow::Borrowed(&**topic)).collect(),
        version: resolved.version,
        timestamp: resolved.timestamp_ms,
    }
}

/// A change read from the log, and whose it is.
#[derive(Clone, Debug)]
pub struct ConsumerRecord {
    pub group: Arc<str>,
    pub change: Change,
}

impl ConsumerRecord {
    /// The record with a key of this type; none for a type of others, none within if it cannot be read.
    pub fn parse(
        record_type: i16,
        key: &mut Reader<'_>,
        value: Option<&[u8]>,
    ) -> Option<Option<ConsumerRecord>> {
        let known = [
            group_key::RECORD_TYPE,
            partition_key::RECORD_TYPE,
            member_key::RECORD_TYPE,
            target_epoch_key::RECORD_TYPE,
            target_key::RECORD_TYPE,
            current_key::RECORD_TYPE,
            pattern_key::RECORD_TYPE,
        ];
        known.contains(&record_type).then(|| parse(record_type, key, value))
    }
}

fn parse(record_type: i16, key: &mut Reader<'_>, value: Option<&[u8]>) -> Option<ConsumerRecord> {
    // All keys are the group's id, and the member's or the pattern where there is one.
    let group: Arc<str> = key.string("group_id", false).ok()?.as_ref().into();
    let mut second = || Some(Arc::<str>::from(key.string("member_id", false).ok()?.as_ref()));
    let change = match record_type {
        group_key::RECORD_TYPE => {
            let value: Option<ConsumerGroupMetadataValue> = parse_value(value)?;
            Change::Epoch(
                value.map(|value| GroupEpoch { epoch: value.epoch, metadata_hash: value.metadata_hash }),
            )
        }
        partition_key::RECORD_TYPE => Change::PartitionMetadata(value.is_some()),
        target_epoch_key::RECORD_TYPE => {
            let value: Option<ConsumerGroupTargetAssignmentMetadataValue> = parse_value(value)?;
            Change::TargetEpoch(value.map(|value| TargetEpoch {
                epoch: value.assignment_epoch,
                timestamp_ms: value.assignment_timestamp,
            }))
        }
        member_key::RECORD_TYPE => {
            let id = second()?;
            let value: Option<ConsumerGroupMemberMetadataValue<'_>> = parse_value(value)?;
            Change::Member(id, value.map(|value| Arc::new(member_of(&value))))
        }
        target_key::RECORD_TYPE => {
            let id = second()?;
            let value: Option<ConsumerGroupTargetAssignmentMemberValue<'_>> = parse_value(value)?;
            Change::Target(id, value.map(|value| Arc::new(target_of(&value))))
        }
        current_key::RECORD_TYPE => {
            let id = second()?;
            let value: Option<ConsumerGroupCurrentMemberAssignmentValue<'_>> = parse_value(value)?;
            Change::Current(id, value.map(|value| Arc::new(current_of(&value))))
        }
        _ => {
            let pattern = second()?;
            let value: Option<ConsumerGroupRegularExpressionValue<'_>> = parse_value(value)?;
            Change::Pattern(pattern, value.map(|value| Arc::new(resolved_of(&value))))
        }
    };
    Some(ConsumerRecord { group, change })
}

fn member_of(value: &ConsumerGroupMemberMetadataValue<'_>) -> Metadata {
    let text = |text: &Option<Cow<'_, str>>| text.as_deref().map(Arc::from);
    // One without protocols stands for none: records of older versions have no such field.
    let classic = value.classic_member_metadata.as_ref();
    let classic = classic.filter(|classic| !classic.supported_protocols.is_empty());
    let classic = classic.map(|classic| ClassicMetadata {
        session_timeout_ms: classic.session_timeout_ms,
        protocols: classic
            .supported_protocols
            .iter()
            .map(|protocol| (Arc::from(&*protocol.name), Box::from(&*protocol.metadata)))
            .collect(),
    });
    Metadata {
        instance_id: text(&value.instance_id),
        rack_id: text(&value.rack_id),
        client_id: value.client_id.as_ref().into(),
        client_host: value.client_host.as_ref().into(),
        topics: value.subscribed_topic_names.iter().map(|topic| Arc::from(&*topic)).collect(),
        regex: text(&value.subscribed_topic_regex),
        rebalance_timeout_ms: value.rebalance_timeout_ms,
        assignor: text(&value.server_assignor),
        classic,
    }
}

fn target_of(value: &ConsumerGroupTargetAssignmentMemberValue<'_>) -> TopicPartitions {
    let topics = value.topic_partitions.iter().filter(|topic| !topic.partitions.is_empty());
    topics.map(|topic| (topic.topic_id, topic.partitions.iter().collect())).collect()
}

fn current_of(value: &ConsumerGroupCurrentMemberAssignmentValue<'_>) -> Current {
    // Records of older versions do not tell when each partition was given; a static member that has left has none.
    let oldest = value.member_epoch.max(0);
    let of_topic = |topic: current_value::TopicPartitions<'_>| {
        let epochs = topic.assignment_epochs.as_ref().filter(|epochs| epochs.len() == topic.partitions.len());
        let epochs = epochs.map_or_else(|| vec![oldest; topic.partitions.len()], |epochs| epochs.to_vec());
        (topic.topic_id, topic.partitions.iter().zip(epochs).collect())
    };
    let partitions = |topics: &crate::protocol::Array<'_, current_value::TopicPartitions<'_>>| {
        topics.iter().filter(|topic| !topic.partitions.is_empty()).map(of_topic).collect()
    };
    Current {
        epoch: value.member_epoch,
        previous_epoch: value.previous_member_epoch,
        state: MemberState::from_code(value.state),
        assigned: partitions(&value.assigned_partitions),
        revoking: partitions(&value.partitions_pending_revocation),
    }
}

fn resolved_of(value: &ConsumerGroupRegularExpressionValue<'_>) -> Resolved {
    let mut topics: Vec<Arc<str>> = value.topics.iter().map(|topic| Arc::from(&*topic)).collect();
    topics.sort_unstable();
    topics.dedup();
    Resolved { topics, version: value.version, timestamp_ms: value.timestamp }
}
