//! Rebuilds a partition's groups from its records, in the order of the log.
//!
//! Records that cannot be read are counted and left alone. Commits within a transaction count once its commit marker is
//! read, and in the place of their own records.

use crate::record::{Decompressor, RecordBatch, batches};

use super::classic::ClassicGroup;
use super::consumer::group::Change;
use super::consumer::records::ConsumerRecord;
use super::coordinator::Partition;
use super::entry::Group;
use super::records::{GroupRecord, classic_group, committed_offset};

/// The most a compressed batch may unpack to.
const UNPACKED_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Types of the markers that end a transaction: the second number of a control record's key.
const ABORT_MARKER: i16 = 0;
const COMMIT_MARKER: i16 = 1;

/// What loading needs to keep from batch to batch.
#[derive(Default)]
pub struct Loader {
    decompressor: Decompressor,
    scratch: Vec<u8>,
    /// Records and batches that could not be read.
    pub unreadable: u64,
}

impl Loader {
    pub fn load(&mut self, partition: &mut Partition, bytes: &[u8], wall_ms: i64) {
        for batch in batches(bytes) {
            match batch {
                Ok(batch) => self.load_batch(partition, &batch, wall_ms),
                Err(_) => self.unreadable += 1,
            }
        }
    }

    fn load_batch(&mut self, partition: &mut Partition, batch: &RecordBatch<'_>, wall_ms: i64) {
        let header = *batch.header();
        let Ok(records) = batch.records(&mut self.decompressor, &mut self.scratch, UNPACKED_BYTES_MAX) else {
            self.unreadable += 1;
            return;
        };
        for record in records {
            let Ok(record) = record else {
                self.unreadable += 1;
                return;
            };
            let offset = record.offset(&header);
            if header.is_control() {
                end_transaction(partition, header.producer_id, record.key);
            } else if let Some(parsed) = GroupRecord::parse(record.key, record.value) {
                let producer_id = header.is_transactional().then_some(header.producer_id);
                replay(partition, parsed, offset, producer_id, wall_ms);
            } else {
                self.unreadable += 1;
            }
        }
    }
}

/// Applies one record.
fn replay(
    partition: &mut Partition,
    record: GroupRecord<'_>,
    offset: i64,
    producer_id: Option<i64>,
    wall_ms: i64,
) {
    match record {
        GroupRecord::Other => {}
        GroupRecord::Consumer(record) => replay_consumer(partition, record, wall_ms),
        GroupRecord::Offset { key, value } => {
            let value = value.map(|value| committed_offset(offset, &value));
            match (producer_id, value) {
                (Some(producer_id), Some(value)) => {
                    let group = partition.group_or_new(&key.group, wall_ms);
                    let topic = group.offsets.topic_name(&key.topic);
                    group.offsets.replay_open(&topic, key.partition, producer_id, value);
                    let id = group.id.clone();
                    partition.transactions.note(producer_id, (id, topic, key.partition));
                }
                (_, value) => {
                    if value.is_none() && !partition.groups.contains_key(&*key.group) {
                        return;
                    }
                    let group = partition.group_or_new(&key.group, wall_ms);
                    let topic = group.offsets.topic_name(&key.topic);
                    group.offsets.replay(&topic, key.partition, value);
                }
            }
        }
        GroupRecord::Group { key, value: Some(value) } => {
            let classic = classic_group(&value);
            let group = partition.group_or_new(&key.group, wall_ms);
            group.classic = classic;
            group.consumer = None;
        }
        GroupRecord::Group { key, value: None } => {
            if partition.groups.get(&*key.group).is_some_and(|group| group.consumer.is_none()) {
                forget(partition, &key.group, wall_ms);
            }
        }
    }
}

/// Offsets left behind keep their group, or nobody would ever see them expire: they are those of a group that moves to the
/// other protocol, or of one whose deletion was cut off.
fn forget(partition: &mut Partition, id: &str, wall_ms: i64) {
    if let Some(group) = partition.groups.remove(id)
        && !group.offsets.is_empty()
    {
        let offsets = group.offsets;
        let kept = Group { offsets, ..Group::new(group.id.clone(), wall_ms) };
        partition.groups.insert(group.id, kept);
    }
}

fn replay_consumer(partition: &mut Partition, record: ConsumerRecord, wall_ms: i64) {
    let ConsumerRecord { group: id, change } = record;
    let known = partition.groups.get_mut(&*id).filter(|group| group.consumer.is_some());
    match (known, &change) {
        (Some(_), Change::Epoch(None)) => forget(partition, &id, wall_ms),
        (Some(group), _) => {
            if let Some(consumer) = &mut group.consumer {
                consumer.apply(change);
            }
        }
        // A deletion of what is not there, as compaction may leave it.
        (None, change) if change.is_deletion() => {}
        (None, _) => {
            let group = partition.group_or_new(&id, wall_ms);
            group.classic = ClassicGroup::new(wall_ms);
            group.consumer.insert(Box::default()).apply(change);
        }
    }
}

fn end_transaction(partition: &mut Partition, producer_id: i64, key: Option<&[u8]>) {
    let Some(&[_, _, high, low]) = key else { return };
    let marker = i16::from_be_bytes([high, low]);
    if !matches!(marker, ABORT_MARKER | COMMIT_MARKER) {
        return;
    }
    partition.end_transaction(producer_id, marker == COMMIT_MARKER);
}
