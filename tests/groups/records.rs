//! The records of a coordinator's log as text, to compare ours with Kafka's.

use std::collections::BTreeMap;

use ringlog::protocol::messages::{
    consumer_group_current_member_assignment_value::ConsumerGroupCurrentMemberAssignmentValue,
    consumer_group_member_metadata_value::ConsumerGroupMemberMetadataValue,
    consumer_group_metadata_value::ConsumerGroupMetadataValue,
    consumer_group_regular_expression_value::ConsumerGroupRegularExpressionValue,
    consumer_group_target_assignment_member_value::ConsumerGroupTargetAssignmentMemberValue,
    consumer_group_target_assignment_metadata_value::ConsumerGroupTargetAssignmentMetadataValue,
    group_metadata_value::GroupMetadataValue, offset_commit_value::OffsetCommitValue,
};
use ringlog::protocol::{Message, Reader};
use ringlog::record::{self, Decompressor};

/// By group, in the order of the log; times and positions left out, lists in order.
pub fn of_groups(log: &BTreeMap<i32, Vec<u8>>) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for bytes in log.values() {
        for batch in record::batches(bytes).map(Result::unwrap) {
            let mut scratch = Vec::new();
            let mut decompressor = Decompressor::default();
            for record in batch.records(&mut decompressor, &mut scratch, 1 << 20).unwrap() {
                let record = record.unwrap();
                let mut key = Reader::new(record.key.unwrap());
                let record_type = key.i16("type").unwrap();
                let group = key.string("group", false).unwrap().into_owned();
                let rest = &record.key.unwrap()[4 + group.len()..];
                let text =
                    format!("{record_type} {} {}", rest.escape_ascii(), value(record_type, record.value));
                groups.entry(group).or_default().push(text);
            }
        }
    }
    groups
}

fn value(record_type: i16, bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "deleted".into() };
    match record_type {
        1 => show::<OffsetCommitValue<'_>>(bytes, |value| value.commit_timestamp = 0),
        2 => show::<GroupMetadataValue<'_>>(bytes, |value| value.current_state_timestamp = 0),
        3 => show::<ConsumerGroupMetadataValue>(bytes, |_| {}),
        5 => show::<ConsumerGroupMemberMetadataValue<'_>>(bytes, |_| {}),
        6 => show::<ConsumerGroupTargetAssignmentMetadataValue>(bytes, |value| {
            assert!(value.assignment_timestamp > 0);
            value.assignment_timestamp = 0;
        }),
        7 => show::<ConsumerGroupTargetAssignmentMemberValue<'_>>(bytes, |value| {
            let mut topics = value.topic_partitions.to_vec();
            topics.sort_by_key(|topic| topic.topic_id);
            for topic in &mut topics {
                let mut indexes = topic.partitions.to_vec();
                indexes.sort_unstable();
                topic.partitions = indexes.into();
            }
            value.topic_partitions = topics.into();
        }),
        8 => show::<ConsumerGroupCurrentMemberAssignmentValue<'_>>(bytes, |value| {
            for all in [&mut value.assigned_partitions, &mut value.partitions_pending_revocation] {
                let mut topics = all.to_vec();
                topics.sort_by_key(|topic| topic.topic_id);
                *all = topics.into();
            }
        }),
        16 => show::<ConsumerGroupRegularExpressionValue<'_>>(bytes, |value| {
            assert!(value.version > 0 && value.timestamp > 0);
            (value.version, value.timestamp) = (0, 0);
        }),
        other => panic!("a record of type {other}"),
    }
}

fn show<'m, M: Message<'m>>(bytes: &'m [u8], mask: impl FnOnce(&mut M)) -> String {
    let mut reader = Reader::new(bytes);
    let version = reader.i16("version").unwrap();
    let mut value = M::read(&mut reader, version).unwrap();
    reader.finish("value").unwrap();
    mask(&mut value);
    format!("v{version} {value:?}")
}
